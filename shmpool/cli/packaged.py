# SPDX-License-Identifier: Apache-2.0
"""The files of packaging/, which are installed as shmpool/packaging/ (setup.py)."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
# In a source tree the folder stands beside the package.
FOLDERS = (PACKAGE / "packaging", PACKAGE.parent / "packaging")


def packaged(name: str) -> str:
    """Returns the text of a file of packaging/."""
    return next(path for path in (folder / name for folder in FOLDERS) if path.exists()).read_text()
