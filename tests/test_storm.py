# SPDX-License-Identifier: Apache-2.0
"""The storm (storm.py) with 2,750 kills: packets of each size, of one size class and several,
with and without a recovering driver.

`make soak` runs more.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import room

from tests.storm_ledger import Ledger
from tests.storm_log import Kind, Record, stamp_of

ROOT = Path(__file__).resolve().parent.parent
KILLS = 250
SIZES = (64, 1500, 65536, 1 << 20)
RUNS = [(size, how, 1) for size in SIZES for how in ("driver", "survivors")]
RUNS += [(1500, "driver", 4), (65536, "survivors", 3), (64, "driver", 8)]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "recovers", "classes"), RUNS)
def test_nothing_is_lost_doubled_or_stuck(
    size: int, recovers: str, classes: int, record_property: Callable[[str, object], None]
) -> None:
    """Workers are killed and suspended at random: nothing is lost, duplicated, reordered or
    blocked.

    Under "free" only buffers of dead members are missing. Contents are intact, audits exact, and
    all buffers free at the end, each in its size class. The driver recovers after each kill, or
    the survivors must notice.
    """
    if size == 1 << 20 and room() < 1 << 28:
        pytest.skip("needs 256 MB in /dev/shm")
    run = [sys.executable, "-W", "error", "-m", "tests.storm", "--json", "--kills", str(KILLS)]
    run += ["--size", str(size), "--seed", str(size), "--workers", "6", "--classes", str(classes)]
    run += ["--nobody-recovers"] if recovers == "survivors" else []
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert 0 == done.returncode, done.stderr
    figures = json.loads(done.stdout)
    print(f"{size} bytes, {classes} classes, the {recovers} recover:", json.dumps(figures))
    for key, value in figures.items():
        record_property(key, value)
    assert (KILLS, 0) == (figures["kills"], figures["failures"])
    assert figures["packets"] > KILLS


FIRST, NEXT = 1, 2  # queues, under "requeue"
PACKET, ON = stamp_of(1, 0), stamp_of(2, 0)


def got(redelivered: int, queue: int = FIRST, stamp: int = PACKET) -> list[Record]:
    """A worker gets the packet after so many redeliveries."""
    return [
        (Kind.TAKING, queue, 1, 0),
        (Kind.TOOK, queue, 1, 0),
        (Kind.GOT, queue, redelivered, stamp),
    ]


FREED = [(Kind.FREEING, 0, 0, 0), (Kind.FREED, 0, 0, 0)]


@pytest.mark.parametrize(
    ("afterwards", "violations"),
    [
        ([got(0, NEXT, ON)], 0),  # it was published on the next queue
        ([got(2)], 0),  # or put back
        ([got(0, NEXT, ON), got(2)], 1),  # but not both
    ],
    ids=["forwarded", "put back", "both"],
)
def test_a_forward_that_was_cut_short(afterwards: list[list[Record]], violations: int) -> None:
    """The ledger of a packet that was returned once, and whose next consumer was killed in the
    middle of forwarding it."""
    ledger = Ledger([True] * 3, [True] * 3)
    publish = [(Kind.PUTTING, FIRST, 1, PACKET), (Kind.PUT, FIRST, 1, 0)]
    ledger.life(1, publish, False, None)
    ledger.life(1, [*got(0), (Kind.NACKING, 0, 0, 0), (Kind.NACKED, 0, 1, 0)], False, None)
    ledger.life(2, [*got(1), (Kind.FORWARDING, NEXT, 1, ON)], True, None)
    for life, records in enumerate(afterwards, 3):
        ledger.life(life, [*records, *FREED], False, None)
    ledger.settle()
    assert violations == len(ledger.violations), ledger.violations


@pytest.mark.parametrize(("dequeued", "allowed"), [(5, 2), (3, 0), (0, 4), (None, 4)])
def test_what_a_recv_that_was_cut_short_may_lose(dequeued: int | None, allowed: int) -> None:
    """A worker had received three packets and was killed in a call that receives up to four: as
    many may be lost as it had counted beyond those three; four if its counters were cleared."""
    ledger = Ledger([True] * 3, [True] * 3)
    three = [(Kind.RECEIVING, FIRST, 3, 0), (Kind.TOOK, FIRST, 3, 0)]
    three += [(Kind.GOT, FIRST, 255, stamp_of(1, i)) for i in range(3)]
    ledger.life(2, [*three, (Kind.RECEIVING, FIRST, 4, 0)], True, dequeued)
    assert {FIRST: allowed} == ledger.may_be_lost
