# SPDX-License-Identifier: Apache-2.0
"""The shmpool command. Each subcommand is a module of its own, imported when it is called."""

import sys


def main() -> None:
    """Runs the command. This is the console script."""
    try:
        from .main import shmpool
    except ModuleNotFoundError as error:
        needs_extra(error, "cli")
    shmpool(prog_name="shmpool")


def needs_extra(error: ModuleNotFoundError, extra: str) -> None:
    """Prints which extra of the package to install, and exits with status 1."""
    if error.name is None or error.name.startswith("shmpool"):
        raise error
    print(
        f"shmpool: {error.name} is not installed: pip install 'shmpool[{extra}]'", file=sys.stderr
    )
    sys.exit(1)
