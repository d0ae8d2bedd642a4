# SPDX-License-Identifier: Apache-2.0
"""The core compiles with musl's headers, as wheels for Alpine Linux need."""

import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parent.parent / "shmpool" / "native"
# The kernel's headers, which are no part of the C library. Debian's musl-gcc does not see them.
KERNEL = ("/usr/include/linux", "/usr/include/asm-generic", "/usr/include/x86_64-linux-gnu/asm")


def test_the_core_compiles_with_musl(tmp_path: Path) -> None:
    """Every file, without a warning, with the flags of the module."""
    if shutil.which("musl-gcc") is None:
        pytest.skip("musl-gcc is not installed")
    if not all(map(Path.exists, map(Path, KERNEL))):
        pytest.skip("the kernel's headers are elsewhere")
    for folder in KERNEL:
        (tmp_path / Path(folder).name).symlink_to(folder)
    flags = (*(NATIVE / "flags").read_text().split(), "-Wall", "-Wextra", "-Werror")
    files = [*map(str, sorted(NATIVE.glob("*.c")))]
    done = subprocess.run(
        ["musl-gcc", *flags, "-fsyntax-only", "-isystem", str(tmp_path), f"-I{NATIVE}", *files],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (0, "") == (done.returncode, done.stderr)
