# SPDX-License-Identifier: Apache-2.0
"""clients.pipeline: jobs pass through stages whose workers are killed."""

import re

import pytest

from clients.pipeline import JOB, result
from tests.programs import Program

pytestmark = pytest.mark.timeout(600)  # however busy the machine is


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_workers(workers: int) -> None:
    """Each job comes out once and right, although workers of all stages are killed."""
    options = ("--jobs", 3000, "--kills", 12, "--workers", workers, "--seed", workers)
    code, out, err = Program("pipeline", "--quiet", *options).finish()
    assert (0, "") == (code, err)
    found = re.search(r"([\d,]+) +│ ([\d,]+) +│ (\d+) +│ (\d+) +│ (\d+) +│ ok", out)
    assert found, out
    assert ("3,000", "3,000", "0", "12") == found.groups()[:4]
    assert re.search(r"[\d,]+ jobs/s through 3 stages", out)


def test_interrupted() -> None:
    """Ctrl-C ends the program and its workers, and leaves no pool."""
    program = Program("pipeline", "--quiet", "--jobs", 10_000_000, "--kills", 0)
    program.interrupt()
    code, _, err = program.finish()
    assert 1 == code, err
    assert "\nAborted!\n" == err


def test_refused() -> None:
    """A number that is not allowed is named, with what is."""
    code, _, err = Program("pipeline", "--kills", -1).finish()
    assert 2 == code
    assert "-1 is not in the range 0<=x<=10000" in err


def test_result() -> None:
    """The result of a job is what its three stages must write."""
    number, square, digits, check = result(12)
    assert (12, 144, 9) == (number, square, digits)
    assert JOB.pack(12, 144, 9, check)[:8] == b"\x0c" + bytes(7)
