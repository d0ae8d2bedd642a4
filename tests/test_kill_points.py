# SPDX-License-Identifier: Apache-2.0
"""Members killed or suspended at any instruction of any operation, or of two at once.

This is a sample of `make sweep` and `make pairs`.
"""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "shmpool" / "native"
SOURCES = [*sorted((ROOT / "tests" / "native").glob("kill_*.c")), *sorted(NATIVE.glob("*.c"))]
# As shipped, but with debug information; every function's address is known before its first call.
FLAGS = ["-std=gnu11", "-g", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-Wl,-z,now"]
PARTS = 8
NO_PTRACE = 77  # the program's exit status

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="steps x86-64 processors only"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc"),
]


def build(directory: Path, *flags: str) -> Path:
    """Compiles the program."""
    program = directory / "kill_points"
    command = ["gcc", *FLAGS, *flags, f"-I{NATIVE}", *map(str, SOURCES), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return program


@pytest.fixture(scope="module")
def kill_points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled once in each test process."""
    return build(tmp_path_factory.mktemp("kill_points"))


def run(program: Path, *arguments: str) -> str:
    """Returns the output of the program. It kills only its own children, in memory of its own."""
    ran = subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, check=False, timeout=800
    )
    if ran.returncode == NO_PTRACE:
        pytest.skip(ran.stdout.strip())
    print(ran.stdout)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return ran.stdout


@pytest.mark.parametrize("classes", ["1", "2"])
@pytest.mark.parametrize("part", range(PARTS))
def test_every_operation(part: int, classes: str, kill_points: Path) -> None:
    """Wherever a member is killed, nothing is lost. Wherever it is suspended, other members
    continue. With two size classes too: the operations work in the second one."""
    printed = run(kill_points, "--most", "28", "--part", f"{part}/{PARTS}", "--classes", classes)
    assert printed.rstrip().endswith(" 0 failures")


@pytest.mark.parametrize(
    ("slots", "operations"), [(8, ["alloc*", "free*", "trim*"]), (64, ["*bypass*", "recover-r*"])]
)
def test_warm_rings(slots: int, operations: list[str], tmp_path: Path) -> None:
    """With a warm ring in every class, for a few of the free buffers or for all of them."""
    program = build(tmp_path, "-DGEOMETRY_WARM_SIZE=64", f"-DGEOMETRY_WARM_BYTES=64*{slots}")
    for pattern in operations:
        printed = run(program, "--most", "3", "--operation", pattern)
        assert printed.rstrip().endswith(" 0 failures")


def test_side_rings(tmp_path: Path) -> None:
    """With three side rings in every class, each for a part of the free buffers."""
    program = build(tmp_path, "-DSCENE_FREE_RINGS=3", "-DGEOMETRY_SIDE_BULKS=1")
    for pattern in ["alloc*", "free*", "trim*", "*bypass*"]:
        printed = run(program, "--most", "3", "--operation", pattern)
        assert printed.rstrip().endswith(" 0 failures")


@pytest.mark.parametrize("part", range(PARTS))
def test_pairs(part: int, kill_points: Path) -> None:
    """Two members are in an operation, and one or both are killed: live members lose nothing."""
    options = ["--most", "1", "--seed", "1", "--part", f"{part}/{PARTS}"]
    printed = run(kill_points, "--pairs", "*", *options)
    assert printed.rstrip().endswith(" 0 failures")


@pytest.mark.parametrize("classes", ["1", "2"])
@pytest.mark.parametrize("pair", ["put-1-multi-multi put", "alloc-cached-1 refill"])
def test_small_pairs(pair: str, classes: str, kill_points: Path) -> None:
    """More points of two small operations. `make pairs` has every one."""
    operation, companion = pair.split()
    options = ["--most", "30", "--points", "3", "--classes", classes]
    printed = run(kill_points, "--operation", operation, "--pairs", companion, *options)
    assert printed.rstrip().endswith(" 0 failures")


def test_without_vector_instructions(tmp_path: Path) -> None:
    """A bulk survives a kill, too, if the words of a run are single atomics."""
    program = build(tmp_path, "-DSHMPOOL_ATOMIC_RUNS")
    printed = run(program, "--most", "30", "--operation", "[pg]*t-8*")
    assert printed.rstrip().endswith(" 0 failures")
