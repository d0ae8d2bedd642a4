# SPDX-License-Identifier: Apache-2.0
"""shmpool.bench: reports of several machines side by side, and what they say of losses."""

from pathlib import Path
from typing import Any

import pytest

from shmpool.bench import conclusions, document, plots, summary
from shmpool.bench.contestants import TRANSPORTS
from shmpool.bench.plan import FULL, QUICK, cells
from shmpool.bench.result import CellResult, Result, Row
from shmpool.bench.tables import tables

OPTIONS = {"runs": 1, "window_s": 0.1, "pin": False, "cores": [0, 1], "cores_why": "two"}
NONE = {"lost": 0, "repeated": 0, "damaged": 0, "reordered": 0, "unknown": 0}


def row(transport: str, rate: float, lost: int = 0) -> Row:
    library = transport.split()[0]
    return Row(transport, library, "many to many", False, [{**NONE, "rate": rate, "lost": lost}])


def scaling(pairs: int, **rates: float) -> CellResult:
    rows = [
        row(summary.SINGLE, rates["one"]),
        row(summary.LANES, rates["lanes"]),
        row(summary.QUEUE_EACH, rates["each"]),
        row("peer", rates["peer"]),
        row("sieve", 1e9, lost=17),
    ]
    conditions = {"producers": pairs, "consumers": pairs, "size": 64}
    return CellResult("scaling", f"{pairs}-{pairs}, 64 B", conditions, rows, [40.0, 60.0], [0.25])


def result(name: str, factor: float = 1) -> Result:
    found = [
        scaling(1, one=factor * 1e6, lanes=factor * 1e6, each=factor * 1e6, peer=factor * 5e5),
        scaling(4, one=factor * 1e6, lanes=factor * 3e6, each=factor * 4e6, peer=factor * 2e6),
    ]
    about = {"name": name, "processor": f"{name}'s processor"}
    return Result("today", dict(OPTIONS), about, {"peer": "1.0"}, {}, found, True)


def only(found: list[Any]) -> Any:
    (one,) = found
    return one


def test_scaling_side_by_side() -> None:
    """Each machine has a column for each number of pairs, and losses are in the fields."""
    table = only([t for t in tables(result("A"), result("B", 10)) if t.title == "Scaling"])
    state = "cache line 40 - 60 ns, background load 25%"
    expected = [f"{n}-{n}: {machine}, {state}" for n in (1, 4) for machine in "AB"]
    assert ["", *expected] == table.header
    fields = {line[0][0]: line[1:] for line in table.rows}
    assert [["3,000 k/s", "1.5 x best"], ["30,000 k/s", "1.5 x best"]] == fields[summary.LANES][2:]
    assert all("17 lost" in field for field in fields["sieve"])


def test_sizes_stand_together() -> None:
    """A size that only the second machine has is where it belongs, not behind all of the first."""

    def throughput(size: int) -> CellResult:
        conditions = {"producers": 1, "consumers": 1, "size": size}
        return CellResult("throughput", f"1-1, {size} B", conditions, [row("peer", size)])

    first, second = result("A"), result("B")
    first.cells = [throughput(64), throughput(3000)]
    second.cells = [throughput(64), throughput(1500), throughput(3000)]
    found = [t for t in tables(first, second) if t.title == "Throughput, 1 to 1"]
    expected = ["", "64 B: A", "64 B: B", "1500 B: B", "3000 B: A", "3000 B: B"]
    assert expected == only(found).header


def test_one_machine_is_not_named() -> None:
    """A page of one machine does not repeat its name in every column."""
    table = only([t for t in tables(result("A")) if t.title == "Scaling"])
    assert not any("A" in heading for heading in table.header)


def test_goals_of_lanes() -> None:
    """Lanes are compared with a queue for each pair, and with the best peer that loses nothing."""
    found = {(g.what, g.cell): (g.got, g.met) for g in summary.goals(result("A"))}
    assert (0.75, False) == found["lanes: a queue for each pair", "scaling, 4-4, 64 B"]
    assert (1.5, True) == found["lanes: the best peer", "scaling, 4-4, 64 B"]


def test_scaling_in_a_sentence() -> None:
    """How each of our ways scales, and where the best peer is."""
    text = only([s for s in conclusions.conclusions(result("A")) if s.startswith("Scaling")])
    assert (
        "Scaling, 4 pairs of processes: one queue 1 times one pair and 0.5 times the best peer; "
        "lanes 3 times one pair and 1.5 times the best peer; "
        "a queue each 4 times one pair and 2 times the best peer." == text
    )


def test_page_of_several_machines(tmp_path: Path) -> None:
    """Each report replaces its machine's file; the page is made of all of them."""
    document.write(result("A machine"), tmp_path)
    document.write(result("Other"), tmp_path)
    written = document.write(result("A machine", 2), tmp_path)
    files = {path.name for path in (tmp_path / "benchmarks").iterdir()}
    assert {"a-machine.json", "other.json", "a-machine-scaling.svg", "other-scaling.svg"} == files
    assert tmp_path / "benchmarks" / "a-machine.json" in written
    text = (tmp_path / "benchmarks.md").read_text()
    line = "| A machine | A machine's processor | 2 | 50 ns<br>40 - 60 | 25% | sieve: 34 |"
    assert line in text
    assert "On the Other:" in text
    assert "on cores 0-1 (two); each process has cores of its own while there are enough" in text
    assert "6,000 k/s" in text  # the second report of the machine
    assert 2 == (tmp_path / "benchmarks.html").read_text().count("<svg")


def test_plots_have_one_style(tmp_path: Path) -> None:
    """The plots of two machines differ only by their figures; equal results give equal plots."""
    assert plots.plots(result("A"), result("B")) == plots.plots(result("A"), result("B"))
    assert ["scaling"] == list(plots.plots(result("A")))


@pytest.mark.parametrize(
    ("name", "file"),
    [("2-core Zen 5", "2-core-zen-5"), ("Ärger/../x", "rger-x"), ("..", "machine")],
)
def test_file_names(name: str, file: str) -> None:
    """A machine's name cannot leave the folder."""
    assert file == result(name).file_name


def test_only_scaling_has_the_ways_of_ours() -> None:
    """The contestants with lanes and with a queue each are in the scenario scaling only."""
    for settings in (FULL, QUICK):
        for cell in cells(settings, TRANSPORTS, ["throughput", "scaling", "latency"]):
            titles = {kind.title() for kind in cell.transports}
            ways = {summary.LANES, summary.QUEUE_EACH} & titles
            assert (len(ways) == 2) is (cell.scenario == "scaling"), cell.title
