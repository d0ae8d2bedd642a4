# SPDX-License-Identifier: Apache-2.0
"""The sources compile with musl's headers, and the core runs with musl, as wheels for Alpine Linux
need."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [ROOT / "shmpool" / name for name in ("native", "hot", "net")]
NATIVE = FOLDERS[0]
TESTS = ROOT / "tests" / "native"
FLAGS = (*(NATIVE / "flags").read_text().split(), "-Wall", "-Wextra", "-Werror")
# The kernel's headers, which are no part of the C library. Debian's musl-gcc does not see them.
KERNEL = ("/usr/include/linux", "/usr/include/asm-generic", "/usr/include/x86_64-linux-gnu/asm")
# Programs of tests/native/ with their arguments.
PROGRAMS = {
    "stress_pool.c": ("5000",),
    "stress_topic.c": ("5000",),
    "stress_waker.c": ("5000",),
    "stress_recover.c": ("100",),
    "test_survivors.c": (),
    "test_waits.c": (),
}


def run(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=280)
    assert (0, "") == (done.returncode, done.stderr), done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the kernel's headers."""
    how = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
    if shutil.which("musl-gcc") is None:
        how("musl-gcc is not installed; `make tools` as root installs it")
    if not all(map(Path.exists, map(Path, KERNEL))):
        how("the kernel's headers are elsewhere")
    folder = tmp_path_factory.mktemp("headers")
    for name in KERNEL:
        (folder / Path(name).name).symlink_to(name)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_sources_compile_with_musl(headers: Path) -> None:
    """Every file of the library, without a warning, with the flags of the module."""
    python = sysconfig.get_path("include")
    includes = [f"-I{folder}" for folder in FOLDERS]
    files = [path for folder in FOLDERS for path in sorted(folder.glob("*.c"))]
    command = ("musl-gcc", *FLAGS, "-fsyntax-only", "-isystem", headers, "-isystem", python)
    run(*command, *includes, *files)


@pytest.fixture(scope="module")
def core(headers: Path) -> Path:
    """The core as an archive, built with musl."""
    folder = headers / "objects"
    folder.mkdir()
    command = ["musl-gcc", *FLAGS, "-isystem", str(headers), f"-I{NATIVE}", "-c"]
    sources = [*map(str, sorted(NATIVE.glob("*.c")))]
    done = subprocess.run([*command, *sources], cwd=folder, capture_output=True, text=True)
    assert (0, "") == (done.returncode, done.stderr)
    archive = headers / "core.a"
    run("ar", "rcs", archive, *sorted(folder.glob("*.o")))
    return archive


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_core_runs_with_musl(name: str, headers: Path, core: Path, tmp_path: Path) -> None:
    """The same tests as with glibc, in programs that hold musl and nothing of glibc."""
    program = tmp_path / "program"
    command = ("musl-gcc", *FLAGS, "-static", "-isystem", headers, f"-I{NATIVE}", "-pthread")
    run(*command, TESTS / name, core, "-o", program)
    assert "INTERP" not in run("readelf", "--wide", "--segments", program)
    run(program, *PROGRAMS[name])
