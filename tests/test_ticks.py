# SPDX-License-Identifier: Apache-2.0
"""clients.ticks: a slow subscriber loses what its policy says, and delays nobody else."""

import re

import pytest

from clients.ticks import SUBSCRIBERS
from tests.programs import Program

pytestmark = pytest.mark.timeout(600)  # however busy the machine is


def test_ticks() -> None:
    """What a subscriber received and what it missed are all ticks; who blocks missed none."""
    code, out, err = Program("ticks", "--ticks", 5000).finish()
    assert (0, "") == (code, err), out
    for name, (policy, _) in SUBSCRIBERS.items():
        found = re.search(rf"{name} +│ {policy} +│ +([\d,]+) +│ +([\d,]+) +│ 0 +│", out)
        assert found, out
        received, missed = (int(text.replace(",", "")) for text in found.groups())
        assert 10_000 == received + missed
        assert policy != "block" or 0 == missed


def test_interrupted() -> None:
    """Ctrl-C ends the program and its processes, and leaves no pool."""
    program = Program("ticks", "--ticks", 100_000_000)
    program.interrupt()
    code, _, err = program.finish()
    assert (1, "\nAborted!\n") == (code, err)


def test_refused() -> None:
    """A number that is not allowed is named, with what is."""
    code, _, err = Program("ticks", "--ticks", 0).finish()
    assert 2 == code
    assert "0 is not in the range 1<=x<=100000000" in err
