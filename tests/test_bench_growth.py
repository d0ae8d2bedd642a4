# SPDX-License-Identifier: Apache-2.0
"""clients.bench.growth: it finds what grows too fast, and one run of each kind."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Eventually

from clients.bench.growth_report import Growth, markdown, plot, stored

COMMAND = [sys.executable, "-m", "clients.bench.growth"]


def grown(call: str, cost: Callable[[int], float], sizes: tuple[int, ...] = (1, 10, 100)) -> Growth:
    growth = Growth("things in a pool")
    for n in sizes:
        growth.add(n, {call: cost(n)})
    return growth


def test_linear_and_less_are_well() -> None:
    """A call that is linear, cheaper, or flat is not reported."""
    assert [] == grown("audit", lambda n: 1e-4 * n).wrong()
    assert [] == grown("audit", lambda n: 1e-3).wrong()
    assert [] == grown("send, recv", lambda n: 1e-7).wrong()
    assert "n^1.00" == grown("audit", lambda n: 1e-4 * n).judge("audit")


def test_more_than_linear_is_found() -> None:
    """A loop in a loop is reported, also if it shows at the last size only."""
    (found,) = grown("audit", lambda n: 1e-3 * n * n).wrong()
    assert "things in a pool: audit: n^2.00: MORE THAN LINEAR" == found
    assert grown("stats", lambda n: 1e-3 + 1e-6 * n**2, (1, 100, 1000)).wrong()


def test_caches_are_not_blamed_on_the_call() -> None:
    """A linear call that outgrows the caches at the last step says what each thing costs."""
    growth = Growth("members")
    for n, each in ((100, 20e-9), (1000, 18e-9), (4000, 80e-9)):
        growth.add(n, {"stats": n * each})
    assert [] == growth.wrong()
    assert "n^2.08, 80 ns each" == growth.judge("stats")


def test_hot_call_that_grows_is_found() -> None:
    """A call that is made once for each message may not grow at all."""
    (found,) = grown("send, recv", lambda n: 1e-7 * (1 + n / 100)).wrong()
    assert "things in a pool: send, recv: 2.0 x: NOT FLAT" == found


def test_page() -> None:
    """The page has a row for each size, what each call does, and the plot."""
    growth = grown("audit", lambda n: 1e-4 * n)
    text = markdown("a processor", [growth])
    assert "Measured on a processor." in text
    assert "| 10 | 1,000 |" in text
    assert "| growth | n^1.00 |" in text
    assert "](growth-things.svg)" in text
    assert plot(growth).startswith("<svg")


def test_page_is_generated() -> None:
    """docs/growth.md and its plots are what is written for docs/growth.json, and nothing in them
    grows too fast."""
    docs = Path(__file__).resolve().parent.parent / "docs"
    machine, found = stored(docs / "growth.json")
    assert markdown(machine, found) == (docs / "growth.md").read_text()
    assert {f"{growth.file_name}.svg" for growth in found} == {
        path.name for path in docs.glob("growth-*.svg")
    }
    assert [] == [text for growth in found for text in growth.wrong()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_small_run(tmp_path: Path) -> None:
    """Every kind is measured, and nothing is left behind. What it says of so small sizes is not
    asked: the exit status is that of its verdict."""
    process = subprocess.Popen(
        [*COMMAND, "--most", "0.005", "--json", str(tmp_path / "all.json"), "--report", tmp_path],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        _, text = process.communicate(timeout=590)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode in (0, 1), text
    assert "Traceback" not in text
    _, found = stored(tmp_path / "all.json")
    assert ["members", "queues", "capacity", "processes on each core"] == [g.what for g in found]
    assert [1, 10] == found[0].sizes
    assert all(figure > 0 for figure in found[0].figures[10].values())
    assert {"growth.md", "growth-members.svg", "growth-processes.svg"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert [] == list(Path("/dev/shm").glob(f"shmpool.growth-{process.pid}-*"))


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(eventually: Eventually) -> None:
    """Ctrl-C while members are attached removes the pool and ends their processes."""
    process = subprocess.Popen(
        [*COMMAND, "--only", "members"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    seen: list[str] = []

    def members_are_attached() -> bool:
        seen[:] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return len(seen) > 3  # of a thousand members or more

    try:
        eventually(members_are_attached)
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert "Aborted" in text
    assert "Traceback" not in text
    assert [] == list(Path("/dev/shm").glob(f"shmpool.growth-{process.pid}-*"))
    assert not any(Path(f"/proc/{pid}").exists() for pid in seen)
