# SPDX-License-Identifier: Apache-2.0
"""shmpool.bench: its counts are exact, its contestants work, its command does what it documents.

The runs are short: these tests check counts, not measurements. Tests that need another library have
the marker contestants; `make test-bench` runs them.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Eventually

from shmpool.bench import (
    document,
    latency,
    message,
    plots,
    robustness,
    scoreboard,
    summary,
    throughput,
)
from shmpool.bench.compare import judge
from shmpool.bench.contestants import TRANSPORTS, ours, stdlib
from shmpool.bench.latency import Waiting
from shmpool.bench.measure import measure
from shmpool.bench.plan import QUICK, cells
from shmpool.bench.result import CellResult, Result, Row
from shmpool.bench.robustness import Fault, FaultTest
from shmpool.bench.scoreboard import Scoreboard
from shmpool.bench.summary import Spread
from shmpool.bench.tables import tables
from shmpool.bench.throughput import Load
from shmpool.bench.transport import OneByOne, Shape, Transport, UnsupportedError

CORES = sorted(os.sched_getaffinity(0))[:2]
SHORT_S = 0.1
pytestmark = [
    pytest.mark.skipif(len(CORES) < 2, reason="needs two cores"),
    pytest.mark.timeout(600),  # however busy the machine is
]


@pytest.fixture
def run_name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for one run. Fails if the run leaves a file, unless it is iceoryx2's."""
    name = f"{scoreboard.PREFIX}{os.getpid()}-{abs(hash(request.node.name)) % 10**8}"
    yield name
    left = {p.name for p in Path("/dev/shm").glob(f"*{name}*")}
    for path in left:
        Path("/dev/shm", path).unlink()
    if "iceoryx2" not in request.node.name:
        assert set() == left


def words(producer: int, *numbers: int) -> message.Words:
    base = message.base(producer)
    return np.array([base + n * message.STEP for n in numbers], np.uint64)


def test_no_errors() -> None:
    """No error is counted if all messages arrived, whichever consumer received them."""
    sent = {0: int(words(0, 4)[0]), 3: int(words(3, 2)[0])}
    logs = [
        np.concatenate([words(0, 1, 3), words(3, 1)]),
        np.concatenate([words(0, 2, 4), words(3, 2)]),
    ]
    assert not message.check(sent, logs)


def test_errors_are_counted() -> None:
    """Lost, repeated, damaged, reordered and unknown messages are counted separately."""
    sent = {0: int(words(0, 5)[0])}
    log = np.concatenate([words(0, 2, 1, 4, 4, 9), np.array([message.DAMAGED], np.uint64)])
    expected = message.MessageErrors(lost=2, repeated=1, damaged=1, reordered=1, unknown=1)
    assert expected == message.check(sent, [log])


def test_one_message_in_flight() -> None:
    """A killed producer may have sent one message more than it counted, not two."""
    sent = {0: int(words(0, 1)[0])}
    assert not message.check(sent, [words(0, 1, 2)], in_flight=True)
    assert 1 == message.check(sent, [words(0, 1, 2)]).unknown
    assert 1 == message.check(sent, [words(0, 1, 2, 3)], in_flight=True).unknown


@pytest.mark.parametrize("size", [64, 1500])
def test_layout(size: int) -> None:
    """A message has the requested size, and its word and last byte can be read back."""
    word = message.base(7) + 123 * message.STEP
    packet = message.packer(size).pack(word, message.body(size), word & 255)
    assert size == len(packet)
    assert (word, packet[0]) == message.checker(size)(packet)


def test_log_length(run_name: str) -> None:
    """A log has the length of what was written to it, mapped or copied."""
    with Scoreboard.create(run_name) as board:
        log = board.log(5)
        for n in (0, 1, 2, 1000):
            for i in range(n):
                log[i] = message.base(i)
            assert n == scoreboard.length(log) == len(board.logged(5))
        log.release()


LOADS = [Load(1, 1, 64), Load(2, 2, 1500), Load(1, 3, 64, to_all=True)]


def mark_foreign(transport: type[Transport]) -> object:
    """Marks a transport whose library comes neither with Python nor with shmpool."""
    foreign = transport.package not in (None, "shmpool", "posix_ipc")
    marks = [pytest.mark.contestants] if foreign else []
    return pytest.param(transport, marks=marks, id=transport.title())


@pytest.mark.slow
@pytest.mark.parametrize("load", LOADS, ids=["1-1", "2-2", "to-all"])
@pytest.mark.parametrize("transport", [mark_foreign(kind) for kind in TRANSPORTS])
def test_throughput(transport: type[Transport], load: Load, run_name: str) -> None:
    """Every contestant passes messages: none damaged or repeated, none lost except on topics."""
    if transport.version() is None:
        pytest.skip(f"{transport.package} is not installed")
    if load.to_all and not issubclass(transport, OneByOne):
        pytest.skip("one message at a time only")
    try:
        run = throughput.measure(transport, run_name, load, SHORT_S, CORES, pin=False)
    except UnsupportedError as error:
        pytest.skip(str(error))
    assert run["rate"] > 0
    wrong = {name for name in vars(message.MessageErrors()) if run[name]}
    assert wrong <= ({"lost"} if transport.shape is Shape.TOPIC else set())
    assert run["cpu_s_per_million"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("waiting", Waiting)
@pytest.mark.parametrize("transport", [ours.SendRecv, ours.Buffers, stdlib.Queue, stdlib.Pipe])
def test_latency(
    transport: type[OneByOne], waiting: Waiting, run_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers equal what was sent, and percentiles rise."""
    monkeypatch.setattr(latency, "LONGER", 1000)  # a busy machine needs time for 100 round trips
    monkeypatch.setattr(latency, "STOP_S", 100.0)
    run = latency.measure(transport, run_name, waiting, 64, 3 * SHORT_S, CORES)
    assert 0 == run["damaged"]
    assert 0 < run["p50"] <= run["p99"] <= run["p99.9"]


def test_percentiles() -> None:
    """The percentiles are those of the times, to three digits."""
    times = [1000] * 200 + [10_000] * 980 + [2_000_000] * 20
    found = latency.summary([0] * 133 + times)
    assert 10.0 == pytest.approx(found["p50"], rel=1e-3)
    assert 2000.0 == pytest.approx(found["p99.9"], rel=1e-3)


def test_idle(run_name: str) -> None:
    """A blocked receiver of shmpool wakes up about four times a second, no more."""
    run = latency.idle(ours.SendRecv, run_name, 64, 1.0, CORES)
    assert run["wakeups"] <= 10


@pytest.mark.parametrize("fault", Fault)
def test_fault(fault: Fault, run_name: str) -> None:
    """Faults are injected and counted; a transport without locks survives them."""
    test = FaultTest(fault, "producer", 1500, 2, stop_s=0.2)
    run = robustness.measure(stdlib.Ring, run_name, test, CORES)
    assert (2, "", 0, 0) == (run["faults"], run["hung"], run["repeated"], run["damaged"])
    assert run["sent"] > 0


def test_fault_finds_a_hang(run_name: str) -> None:
    """multiprocessing.Queue hangs: a killed consumer never releases its lock."""
    test = FaultTest(Fault.KILL, "consumer", 1500, 20)
    run = robustness.measure(stdlib.Queue, run_name, test, CORES)
    assert run["hung"]
    assert not summary.clean(run)


def test_fault_without_loss(run_name: str) -> None:
    """shmpool's Buffers lose nothing: at most a killed consumer's buffers are delivered again."""
    test = FaultTest(Fault.KILL, "consumer", 1500, 10)
    run = robustness.measure(ours.Buffers, run_name, test, CORES)
    assert summary.lossless(run), run
    assert run["repeated"] <= 10


@pytest.mark.parametrize(
    ("changed", "clean", "lossless"),
    [
        ({}, True, True),
        ({"repeated": 2}, True, True),
        ({"lost": 2}, True, False),
        ({"lost": 2, "repeated": 1}, False, False),
        ({"hung": "after kill 1"}, False, False),
        ({"leaked": 1}, False, False),
    ],
)
def test_clean(changed: dict[str, object], clean: bool, lossless: bool) -> None:
    """Each of two victims may have had one message, which is then lost or repeated."""
    run = {"lost": 0, "repeated": 0, "held": 2, "hung": "", "leaked": 0} | changed
    assert (clean, lossless) == (summary.clean(run), summary.lossless(run))


def test_errors_are_shown_once() -> None:
    """A row of the robustness table shows a lost message once."""
    run = {
        "lost": 2,
        "held": 2,
        "sent": 9,
        "hung": "",
        "stalled": 0,
        "repeated": 0,
        "longest_ms": 0,
    }
    run |= {"leaked": 0, "files_left": 0, "errors": []}
    row = Row("a transport", "a library", "many to many", False, [run])
    cell = CellResult("robustness", "SIGKILL", {"times": 2}, [row])
    (table,) = tables(Result("", {}, {}, {}, {}, [cell]))
    expected = ["clean", "2 lost of 9, victims held at most 2", "longest pause 0 ms"]
    assert expected == list(table.rows[0][1])


def test_judge() -> None:
    """Runs are called better or worse only if their ranges do not overlap."""
    assert "within the range" == judge(Spread(10, 8, 12), Spread(13, 11, 15), True)
    assert "better" == judge(Spread(10, 8, 12), Spread(14, 13, 15), True)
    assert "WORSE" == judge(Spread(10, 8, 12), Spread(14, 13, 15), False)


def bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "shmpool.bench", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=590,
    )


@pytest.mark.slow
def test_command(tmp_path: Path) -> None:
    """A run writes JSON that can be read back and a report with plots. Compared with itself it is
    within the range."""
    path, report = tmp_path / "new.json", tmp_path / "report"
    only = (
        "--only",
        "latency,robustness",
        "--transports",
        "Buffer,multiprocessing.Pipe",
        "--quick",
    )
    done = bench(*only, "--json", str(path), "--report", str(report))
    assert 0 == done.returncode, done.stderr
    result = Result.read(path)
    assert result.complete
    assert "cells, about 1 minutes; Ctrl-C keeps what is done" in done.stderr
    assert {"latency", "robustness"} == {cell.scenario for cell in result.cells}
    assert all(row.runs and row.runs[0] for row in result.of("latency")[0].rows)
    text = (report / "benchmarks.md").read_text()
    assert "benchmarks/latency.svg" in text
    assert "## Robustness" in text
    assert "<svg" in (report / "benchmarks" / "latency.svg").read_text()
    page = (report / "benchmarks.html").read_text()
    assert 1 == page.count("<svg")
    assert "<img" not in page
    assert "multiprocessing.Pipe" in page
    compared = bench("--compare", str(path), str(path))
    assert 0 == compared.returncode, compared.stderr
    assert "within the range" in compared.stdout
    assert "WORSE" not in compared.stdout


def test_interrupt_keeps_results(tmp_path: Path) -> None:
    """Ctrl-C ends the run with status 130, keeps its results, and leaves no process or file."""
    path = tmp_path / "part.json"
    command = [
        sys.executable,
        "-m",
        "shmpool.bench",
        "--transports",
        "Pipe,Buffer",
        "--json",
        str(path),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not list(Path("/dev/shm").glob(f"{scoreboard.PREFIX}{process.pid}-3*")):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(2)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert 130 == process.returncode
    result = json.loads(path.read_text())
    assert not result["complete"]
    assert any(run for row in result["cells"][0]["rows"] for run in row["runs"])
    assert [] == list(Path("/dev/shm").glob(f"*{scoreboard.PREFIX}{process.pid}-*"))


def workers_of(pid: int) -> set[int]:
    """The processes that have a file of that run mapped, except its parent."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if f"{scoreboard.PREFIX}{pid}-".encode() in path.read_bytes():
                found.add(int(path.parent.name))
    return found - {pid}


@pytest.mark.slow
def test_a_killed_run_leaves_no_process(eventually: Eventually) -> None:
    """The processes of a run end when their parent is killed."""
    command = [
        sys.executable,
        "-m",
        "shmpool.bench",
        "--transports",
        "ring by hand",
        "--only",
        "to-all",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: len(workers_of(process.pid)) >= 5)
        process.kill()
        eventually(lambda: not workers_of(process.pid))
    finally:
        process.kill()
        process.communicate()
    scoreboard.sweep()


class Absent(stdlib.Pipe):
    """A contestant whose library does not exist."""

    library = "absent"
    package = "shmpool-has-no-such-peer"


def test_absent_contestant() -> None:
    """A library that is not installed is listed as missing, with the reason, and is not
    measured."""
    found = measure(QUICK, cells(QUICK, (Absent,), ["idle"]), (Absent,))
    assert found.complete
    assert [] == found.cells[0].rows
    assert "is not installed" in found.missing["absent"]


def test_missing_are_listed() -> None:
    """--list names every contestant, installed or missing."""
    listed = bench("--list").stdout
    assert [transport.title() for transport in TRANSPORTS] == [
        line[:42].rstrip() for line in listed.splitlines()
    ]


@pytest.mark.slow
def test_page_is_generated() -> None:
    """docs/benchmarks.md is what the benchmark writes for the results of every machine in
    docs/benchmarks."""
    docs = Path(__file__).resolve().parent.parent / "docs"
    results = document.read_all(docs / "benchmarks")
    assert {f"{result.file_name}.json" for result in results} == {
        path.name for path in docs.glob("benchmarks/*.json")
    }
    drawn = plots.plots(*results)
    assert (docs / "benchmarks.md").read_text() == document.markdown(results, list(drawn))
    assert {f"{name}.svg" for name in drawn} == {p.name for p in docs.glob("benchmarks/*.svg")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("--only", "nothing"),
        ("--transports", "nobody"),
        ("--sizes", "64,8"),
        ("--pairs", "1,x"),
        ("--cores", "0-9999"),
        ("--limit", "0"),
        ("--compare", __file__, __file__),
    ],
)
def test_misuse(arguments: tuple[str, ...]) -> None:
    """A wrong option or file gives an error message, not a traceback."""
    done = bench(*arguments)
    assert done.returncode in (1, 2)
    assert "Error" in done.stderr
    assert "Traceback" not in done.stderr
