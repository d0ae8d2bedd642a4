# SPDX-License-Identifier: Apache-2.0
"""The C core by itself, and the hot calls.

The core compiles clean with every compiler here, and runs plain and under sanitizers. The hot calls
compile clean.
"""

import functools
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "shmpool" / "native"
HOT = ROOT / "shmpool" / "hot"
NET = ROOT / "shmpool" / "net"
SOURCES = sorted(NATIVE.glob("*.c"))
PACE = NATIVE / "alf_pace.c"  # what the ring needs beside its header
TESTS = ROOT / "tests" / "native"
FLAGS = ["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE}", "-pthread"]
SECONDS = 250  # of a program that takes 20 s on an idle machine, at most
SANITIZERS = ["-fsanitize=thread", "-fsanitize=address,undefined"]
CROSS = "aarch64-linux-gnu-gcc"
COMPILERS = ["gcc", "clang", CROSS]
EACH_COMPILER = ["gcc", *(pytest.param(name, marks=pytest.mark.slow) for name in COMPILERS[1:])]
# The command prefix that runs a program of that compiler.
RUNNERS: dict[str, list[str]] = {"gcc": [], "clang": [], CROSS: ["qemu-aarch64-static"]}


@functools.cache
def links(compiler: str, flag: str) -> bool:
    """True if the compiler has what the flag needs."""
    done = subprocess.run(
        [compiler, flag, "-x", "c", "-", "-o", "/dev/null"],
        input=b"int main(void) { return 0; }",
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def need(compiler: str, flags: list[str], *, runs: bool = True) -> None:
    """Skips what the tools here cannot build or run, with the reason. With CI=true it fails."""
    lacks = [
        tool for tool in [compiler, *(RUNNERS[compiler] if runs else [])] if not shutil.which(tool)
    ]
    if not lacks:
        lacks = [f"{compiler} {flag}" for flag in flags if not links(compiler, flag)]
    if lacks:
        how = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        how(f"not here: {', '.join(lacks)}; `make tools` as root installs it")


pytestmark = pytest.mark.timeout(SECONDS + 50)
QUICK = ("gcc", ["-O2"])  # the build that `make check` runs
BUILDS = [
    pytest.param(
        compiler,
        flags,
        id=f"{compiler}{''.join(flags)}",
        marks=[] if (compiler, flags) == QUICK else [pytest.mark.slow],
    )
    for compiler in COMPILERS
    for flags in [["-O2"], ["-O2", "-DSHMPOOL_ATOMIC_RUNS"], *(["-O1", s] for s in SANITIZERS)]
    if compiler != CROSS or flags == ["-O2"]
]


def run_c(
    tmp_path: Path, compiler: str, flags: list[str], sources: list[Path], *arguments: str
) -> str:
    """Compiles and runs a program. Returns its output, or fails with the output of either."""
    need(compiler, flags)
    program = tmp_path / "program"
    if compiler == CROSS:
        flags = [*flags, "-static"]
    command = [compiler, *FLAGS, *flags, *map(str, sources), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    ran = subprocess.run(
        [*RUNNERS[compiler], str(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return ran.stdout


@pytest.mark.parametrize("compiler", EACH_COMPILER)
def test_compiles_clean(compiler: str, tmp_path: Path) -> None:
    """Every file compiles without a warning, as C11."""
    need(compiler, [], runs=False)
    obj = str(tmp_path / "object.o")
    for source in SOURCES:
        done = subprocess.run(
            [compiler, *FLAGS, "-O2", "-c", str(source), "-o", obj],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("compiler", EACH_COMPILER[:-1])
def test_hot_calls_compile_clean(compiler: str, tmp_path: Path) -> None:
    """The same for every file of the hot calls and of net/, with this Python's headers."""
    need(compiler, [], runs=False)
    python = sysconfig.get_path("include")
    for source in [*sorted(HOT.glob("*.c")), *sorted(NET.glob("*.c"))]:
        command = [compiler, *FLAGS, f"-I{HOT}", f"-I{NET}", "-isystem", python, "-O2", "-c"]
        done = subprocess.run(
            [*command, str(source), "-o", str(tmp_path / "object.o")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_alf_queue(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """The ring works as documented in every mode and at every limit."""
    run_c(tmp_path, compiler, flags, [TESTS / "test_alf_queue.c", PACE])


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_pace(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """Pauses last as long as they say whatever the processor's take, and back-off is bounded."""
    run_c(tmp_path, compiler, flags, [TESTS / "test_pace.c", PACE])


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_on_demand(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """Nobody accesses what has no memory yet of a ring that gets it on demand."""
    run_c(tmp_path, compiler, flags, [TESTS / "test_on_demand.c", PACE])


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_runs(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """A bulk is seen as a whole, also if its first two slots are in two cache lines."""
    reads = "20000" if flags[-1] in SANITIZERS or compiler == CROSS else "1000000"
    run_c(tmp_path, compiler, flags, [TESTS / "test_runs.c"], reads)


@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_waits(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """A member that waits sleeps, owns nothing, and is woken by what it waits for.

    A member that does not wait makes no system call to find dead members.
    """
    if compiler == CROSS:
        pytest.skip("membarrier(2) across an emulator's processes is the host's")
    run_c(tmp_path, compiler, flags, [TESTS / "test_waits.c", *SOURCES])


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_survivors(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """A member that waits recovers a process that is killed, whatever it waits for."""
    if compiler == CROSS:
        pytest.skip("membarrier(2) across an emulator's processes is the host's")
    run_c(tmp_path, compiler, flags, [TESTS / "test_survivors.c", *SOURCES])


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_device(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """A socket's member that is left to recovery is recovered once, and nobody waits for it."""
    if compiler == CROSS:
        pytest.skip("membarrier(2) across an emulator's processes is the host's")
    run_c(tmp_path, compiler, flags, [TESTS / "test_device.c", *SOURCES])


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_populate(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """No extent is removed while a process maps the pool in advance, and none is mapped that is
    absent."""
    if compiler == CROSS:
        pytest.skip("membarrier(2) across an emulator's processes is the host's")
    run_c(tmp_path, compiler, flags, [TESTS / "test_populate.c", *SOURCES])


@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_slab(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """Threads of one process find every extent that was removed. Large claims are counted."""
    rounds = "10" if flags[-1] in SANITIZERS or compiler == CROSS else "100"
    run_c(tmp_path, compiler, flags, [TESTS / "test_slab.c", *SOURCES], rounds)


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_sizes(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """Allocations come from the smallest size class that serves. Each class gets back its own."""
    if compiler == CROSS:
        pytest.skip("membarrier(2) across an emulator's processes is the host's")
    run_c(tmp_path, compiler, flags, [TESTS / "test_sizes.c", *SOURCES])


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_slots(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """No queue slot lies over another one, and sixteen neighbours lie in sixteen pages."""
    run_c(tmp_path, compiler, flags, [TESTS / "test_slots.c", *SOURCES])


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_warm(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """Large buffers that were freed last are allocated first, and none is hidden."""
    if compiler == CROSS:
        pytest.skip("membarrier(2) across an emulator's processes is the host's")
    run_c(tmp_path, compiler, flags, [TESTS / "test_warm.c", *SOURCES])


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_side(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """No free buffer is missed in any of several side rings, and pairs settle on one each."""
    if compiler == CROSS:
        pytest.skip("membarrier(2) across an emulator's processes is the host's")
    run_c(tmp_path, compiler, flags, [TESTS / "test_side.c", *SOURCES])


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_lanes(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """Puts and gets choose lanes as documented; a corrupted table of lanes is as no queue."""
    if compiler == CROSS:
        pytest.skip("membarrier(2) across an emulator's processes is the host's")
    run_c(tmp_path, compiler, flags, [TESTS / "test_lanes.c", *SOURCES])


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_stress(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """Threads pass every message once and in order while the pool grows and caches are stolen
    from."""
    printed = run_c(tmp_path, compiler, flags, [TESTS / "stress_pool.c", *SOURCES], "20000")
    assert printed.count("messages") == 6


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_stress_topic(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """Each subscriber of a topic sees the messages in order, and counts what it has missed."""
    printed = run_c(tmp_path, compiler, flags, [TESTS / "stress_topic.c", *SOURCES], "20000")
    assert printed.count("got") == 12


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_stress_waker(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """Event loops of several threads get every message once, and none sleeps while one is there,
    although wants, wakers and subscribers end and begin."""
    printed = run_c(tmp_path, compiler, flags, [TESTS / "stress_waker.c", *SOURCES], "5000")
    assert printed == "5000 messages\n"


@pytest.mark.parametrize(("compiler", "flags"), BUILDS[:1])
def test_waker(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """A descriptor that is shown after a get has emptied the queue is hidden again."""
    printed = run_c(tmp_path, compiler, flags, [TESTS / "test_waker.c", *SOURCES])
    assert printed == "not readable\n"


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_stress_recover(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """Processes are killed, and two threads recover them at once while other threads work."""
    if compiler == CROSS:
        pytest.skip("membarrier(2) and pidfds across an emulator's processes are the host's")
    printed = run_c(tmp_path, compiler, flags, [TESTS / "stress_recover.c", *SOURCES], "200")
    assert printed.startswith("200 kills")


@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_stress_bypass(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """A member that is suspended while it frees buffers blocks no other buffers."""
    printed = run_c(tmp_path, compiler, flags, [TESTS / "stress_bypass.c", *SOURCES], "1000")
    assert printed.startswith("1000 stops")


def rounds(
    bits: int, tmp_path: Path, sources: list[Path], arguments: tuple[int, ...], *flags: str
) -> list[int]:
    """The number of wraps of each position in a program that is built with that many bits for
    them."""
    all_flags = ["-O2", f"-DSHMPOOL_POSITION_BITS={bits}", *flags]
    printed = run_c(tmp_path, COMPILERS[0], all_flags, sources, *map(str, arguments))
    print(printed)
    return list(map(int, re.findall(r"(\d+) (?:wraps|times)", printed)))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 16])
def test_narrow_ring(bits: int, tmp_path: Path) -> None:
    """The ring works as documented while its positions and laps wrap three thousand times."""
    assert sum(rounds(bits, tmp_path, [TESTS / "test_alf_queue.c", PACE], (1000,))) >= 3000


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "each", "least"), [(8, 250, 2000), (16, 500, 4000)])
def test_narrow_ring_with_threads(bits: int, each: int, least: int, tmp_path: Path) -> None:
    """Threads pass every number once and in order, in each mode, while positions wrap."""
    assert sum(rounds(bits, tmp_path, [TESTS / "wrap_ring.c", PACE], (each,))) >= least


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "messages", "least", "flags"),
    [(8, 90_000, 3000, ()), (16, 150_000, 12, ()), (16, 7_200_000, 1000, ("-DCAPACITY=16384",))],
    ids=["8", "16", "16-large"],
)
def test_narrow_pool(
    bits: int, messages: int, least: int, flags: tuple[str, ...], tmp_path: Path
) -> None:
    """The whole pool works while positions wrap: owner words, audit, and every message once."""
    sources = [TESTS / "stress_pool.c", *SOURCES]
    assert sum(rounds(bits, tmp_path, sources, (messages,), *flags)) >= least


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "steps", "turns"), [(8, 1_000_000, 10_000), (16, 65_000_000, 130_000)]
)
def test_narrow_cache(bits: int, steps: int, turns: int, tmp_path: Path) -> None:
    """The buffers of a member stay correct while its cache positions wrap thousands of times."""
    sources = [TESTS / "wrap_cache.c", *SOURCES]
    assert sum(rounds(bits, tmp_path, sources, (steps, turns))) >= 2000


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "stops", "least"), [(8, 20_000, 4000), (16, 2_100_000, 2000)])
def test_narrow_bypass(bits: int, stops: int, least: int, tmp_path: Path) -> None:
    """Buffers are taken from behind a suspended member while the free ring's positions wrap."""
    sources = [TESTS / "stress_bypass.c", *SOURCES]
    assert sum(rounds(bits, tmp_path, sources, (stops,))) >= least


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "messages", "least"), [(8, 520_000, 2000), (16, 6_600_000, 100)])
def test_narrow_topic(bits: int, messages: int, least: int, tmp_path: Path) -> None:
    """Subscribers of every policy get and miss what they should while a topic's positions wrap."""
    sources = [TESTS / "wrap_topic.c", *SOURCES]
    assert sum(rounds(bits, tmp_path, sources, (messages,))) >= least


def test_one_thread_of_a_topic(tmp_path: Path) -> None:
    """The same with the usual positions."""
    printed = run_c(tmp_path, *QUICK, [TESTS / "wrap_topic.c", *SOURCES], "200000")
    assert "came round 0 times" in printed


def test_token(tmp_path: Path) -> None:
    """A file that takes the number of the pool's descriptor during a query makes nobody dead."""
    sources = [TESTS / "test_token.c", *SOURCES]
    printed = run_c(tmp_path, COMPILERS[0], ["-O2"], sources)
    assert printed.endswith(" queries\n")


@pytest.mark.parametrize("compiler", EACH_COMPILER[:-1])
def test_memory(compiler: str, tmp_path: Path) -> None:
    """Whichever call for memory fails: -ENOMEM, nothing is left behind, the next try succeeds."""
    source = TESTS / "test_memory.c"
    wrapped = re.findall(r"^WRAP\([^,]+, (\w+)", source.read_text(), re.MULTILINE)
    flags = ["-O2", "-Wl," + ",".join(f"--wrap={name}" for name in wrapped)]
    printed = run_c(tmp_path, compiler, flags, [source, *SOURCES])
    assert "recover: 8 calls" in printed
