# SPDX-License-Identifier: Apache-2.0
"""shmpool.bench.cores: which cores the benchmark uses, and which of them each process gets."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shmpool.bench import cores, pingpong
from shmpool.bench.contestants import stdlib
from shmpool.bench.plan import FULL, scaling_pairs
from shmpool.bench.scoreboard import PREFIX
from shmpool.bench.transport import Spec
from shmpool.bench.workers import running

MINE = sorted(os.sched_getaffinity(0))
Allow = Callable[..., None]
needs_two = pytest.mark.skipif(len(MINE) < 2, reason="needs two cores")


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Allow:
    """Sets the affinity mask that the code sees."""

    def allow(*mask: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(mask))

    return allow


def machine(folder: Path, files: dict[str, str]) -> dict[str, Any]:
    """The files of a machine, as arguments of the functions."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"sys": folder / "sys", "proc": folder / "proc"}


def test_all_cores_of_the_mask(allow: Allow, tmp_path: Path) -> None:
    """Without options all cores of the affinity mask are used, and it is said so."""
    allow(1, 2, 5, 7)
    found = cores.choose(None, **machine(tmp_path, {}))
    assert cores.Choice((1, 2, 5, 7), "4 in the affinity mask") == found


def test_first_hardware_threads_first(allow: Allow, tmp_path: Path) -> None:
    """Two processes on two physical cores with two threads each do not share one of them."""
    allow(0, 1, 2, 3)
    name = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    pairs = {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}
    files = {name.format(core): text + "\n" for core, text in pairs.items()}
    assert (0, 2, 1, 3) == cores.choose(None, **machine(tmp_path, files)).cores
    assert (0, 2) == cores.choose("2", **machine(tmp_path, {})).cores


GROUP_2 = {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}
GROUP_1 = {"proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/a\n"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        (GROUP_2, None),
        (GROUP_2 | {"sys/fs/cgroup/a/cpu.max": "350000 100000\n"}, 3.5),
        (GROUP_2 | {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        (GROUP_1, None),
        (
            GROUP_1
            | {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        (
            GROUP_1
            | {
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
    ],
)
def test_quota(files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    """The tightest limit of the control group and those above it, in either version."""
    assert quota == cores.quota(**machine(tmp_path, files))


def test_quota_limits_the_cores(allow: Allow, tmp_path: Path) -> None:
    """More cores than the quota are not used, unless they are asked for; two always are."""
    allow(*range(8))
    limit = GROUP_2 | {"sys/fs/cgroup/a/cpu.max": "350000 100000\n"}
    found = cores.choose(None, **machine(tmp_path, limit))
    assert ((0, 1, 2), "8 in the affinity mask, a CPU quota of 3.5") == (found.cores, found.why)
    assert tuple(range(6)) == cores.choose("6", **machine(tmp_path, {})).cores
    limit["sys/fs/cgroup/a/cpu.max"] = "50000 100000\n"
    assert (0, 1) == cores.choose(None, **machine(tmp_path, limit)).cores


def test_list_of_cores(allow: Allow) -> None:
    """A list is used in its order; what the process may not use is refused by name."""
    allow(*range(8))
    assert (6, 7, 0, 2) == cores.choose("6-7,0,2").cores
    for wanted, text in {
        "0-1,8-9": "may not use the cores 8-9",
        "9": "more than the 8",
        "1": "needs two cores",
        "3,3": "needs two cores",
        "all": "give a number of cores",
    }.items():
        with pytest.raises(ValueError, match=text):
            cores.choose(wanted)


def test_ranges() -> None:
    """A list is written as it is read."""
    assert "0, 2, 4-7" == cores.ranges([7, 5, 4, 6, 0, 2])
    assert [0, 2, 4, 5, 6, 7] == cores.numbers("0, 2, 4-7")


@pytest.mark.parametrize("processes", range(1, 9))
def test_share(processes: int) -> None:
    """While there are enough cores each process has its own, the same number; else all share."""
    mine = list(range(10, 15))
    got = [cores.share(mine, processes, slot) for slot in range(processes)]
    if processes > len(mine):
        assert [set(mine)] * processes == got
    else:
        assert len(mine) == len(set().union(*got)) == sum(map(len, got))
        assert max(map(len, got)) - min(map(len, got)) <= 1


@needs_two
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_of_a_run(processes: int) -> None:
    """Two processes of a run on two cores have one each; three may use both."""
    name = f"{PREFIX}{os.getpid()}-cores-{time.monotonic_ns()}"
    transport = stdlib.Ring(Spec(name, 64))
    with running(transport, MINE[:2], False, processes) as workers:
        made = [workers.add(pingpong.idle, 1.0) for _ in range(processes)]
        for worker in made:
            worker.ready()
        expected = [{MINE[0]}, {MINE[1]}] if processes == 2 else [set(MINE[:2])] * 3
        assert expected == [os.sched_getaffinity(worker.pid) for worker in made]


def test_scaling_pairs() -> None:
    """1, 2, 4, ... pairs, up to a core for each process, and at least 4."""
    assert [1, 2, 4] == scaling_pairs(2) == scaling_pairs(15)
    assert [1, 2, 4, 8] == scaling_pairs(16)
    assert [1, 2, 4, 8, 16, 32] == scaling_pairs(96)
    assert () == FULL.scaling_pairs
