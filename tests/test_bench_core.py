# SPDX-License-Identifier: Apache-2.0
"""clients.bench.core: its figures, and one run of its C program."""

import shutil
import subprocess
from pathlib import Path

import pytest

from clients.bench.core import Program, Result, Sample, table
from clients.bench.core_cells import CELLS, Cell, Place, Work

ROOT = Path(__file__).resolve().parent.parent
OURS, PEER, SLOW = "pool_ours", "pool_original", "pool_malloc"


def result(limit: float, against: str, **samples: list[Sample]) -> Result:
    cell = Cell("pool", (OURS, PEER, SLOW), Work.POOL, Place.ONE_CORE, 1, 0, 1, 1, False, limit)
    return Result(Cell(**{**vars(cell), "against": against}), samples)


def ok(*ns: float) -> list[Sample]:
    return [Sample("ok", figure) for figure in ns]


def test_ratio_is_the_median_of_the_rounds() -> None:
    """Ours is compared round by round with the better baseline."""
    found = result(1, "baselines", pool_ours=ok(1, 2, 9), pool_original=ok(2, 2, 10),
                   pool_malloc=ok(3, 3, 30))  # fmt: skip
    assert PEER == found.baseline()
    assert 0.9 == found.ratio(OURS, PEER)
    assert found.met(OURS)


@pytest.mark.parametrize(("disturbed", "outcome"), [(2, "ok"), (3, "busy")])
def test_disturbed_rounds(disturbed: int, outcome: str) -> None:
    """They do not count; with less than a third of the others there is no figure."""
    samples = ok(5.0) + [Sample("ok", 1.0, True)] * disturbed
    found = result(6, "", pool_ours=samples)
    assert outcome == found.median(OURS).outcome
    assert (True if outcome == "ok" else None) == found.met(OURS)


def test_goals() -> None:
    """A goal in ns, one that is missed, and one whose reference was not compiled in."""
    assert result(3, "", pool_ours=ok(3)).met(OURS)
    missed = result(1, PEER, pool_ours=ok(3), pool_original=ok(2), pool_malloc=ok(9))
    assert missed.met(OURS) is False
    assert result(1, PEER, pool_ours=ok(3), pool_original=[]).met(OURS) is None


def test_table() -> None:
    """A worse outcome shows how long nothing passed; a contestant that is missing is skipped."""
    found = result(1, PEER, pool_ours=[Sample("slower", 2e6)], pool_original=[], pool_malloc=ok(9))
    cells = {str(column.header): list(column.cells) for column in table([found], 2.0).columns}
    assert ["> 2 ms"] == cells["ours"]
    assert ["skipped"] == cells["original"]
    assert ["9.00"] == cells["malloc"]
    assert ["<= 1.00x of qmempool of 2014"] == cells["goal"]


def test_cells_have_names_of_their_own() -> None:
    assert len(CELLS) == len({cell.name for cell in CELLS})


@pytest.mark.slow
def test_sample() -> None:
    """The C program is built, takes a sample, and skips a contestant that it does not have."""
    if not shutil.which("gcc") or not shutil.which("make"):
        pytest.skip("gcc or make is not installed")
    cell = next(cell for cell in CELLS if cell.name == "pool, 256 one by one")
    with Program("gcc") as program:
        assert program.sample(cell, OURS).outcome in ("ok", "slower", "stuck", "failed")
        assert Sample("skipped") == program.sample(cell, "nobody")


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["-O2"], ["-O1", "-fsanitize=thread"]], ids=["plain", "thread"])
def test_bbq(flags: list[str], tmp_path: Path) -> None:
    """The queue of blocks, a baseline of our writing, neither loses, doubles nor reorders."""
    program = tmp_path / "program"
    command = ["gcc", "-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", *flags]
    command += [f"-I{ROOT / 'shmpool' / 'native'}", f"-I{ROOT / 'clients/bench/native'}"]
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    subprocess.run([*command, ROOT / "tests" / "native" / "test_bbq.c", "-o", program], check=True)
    done = subprocess.run([program, "200000"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
