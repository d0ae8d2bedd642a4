# SPDX-License-Identifier: Apache-2.0
"""The storm (storm.py) with 3,500 kills: packets of each size, of one size class and several,
with and without a recovering driver; over queues, and over topics.

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
from tests.storm_log import Kind, Record, Told, stamp_of
from tests.storm_topic_ledger import TopicLedger
from tests.storm_topic_worker import POLICIES

ROOT = Path(__file__).resolve().parent.parent
KILLS = 250
SIZES = (64, 1500, 65536, 1 << 20)
RUNS = [(size, how, 1) for size in SIZES for how in ("driver", "survivors")]
RUNS += [(1500, "driver", 4), (65536, "survivors", 3), (64, "driver", 8)]


TOPIC_RUNS = [(64, "driver", 1), (1500, "survivors", 3), (65536, "survivors", 1)]


def run(size: int, recovers: str, classes: int, *more: str) -> dict[str, int]:
    """Runs the storm. Returns its figures."""
    if size == 1 << 20 and room() < 1 << 28:
        pytest.skip("needs 256 MB in /dev/shm")
    command = [sys.executable, "-W", "error", "-m", "tests.storm", "--json", "--kills", str(KILLS)]
    command += ["--size", str(size), "--seed", str(size), "--workers", "6"]
    command += ["--classes", str(classes), *more]
    command += ["--nobody-recovers"] if recovers == "survivors" else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert 0 == done.returncode, done.stderr
    figures: dict[str, int] = json.loads(done.stdout)
    print(f"{size} bytes, {classes} classes, the {recovers} recover:", json.dumps(figures))
    assert (KILLS, 0) == (figures["kills"], figures["failures"])
    assert figures["packets"] > KILLS
    return figures


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
    for key, value in run(size, recovers, classes).items():
        record_property(key, value)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "recovers", "classes"), TOPIC_RUNS)
def test_topics_lose_nothing(
    size: int, recovers: str, classes: int, record_property: Callable[[str, object], None]
) -> None:
    """Publishers and subscribers of every policy are killed and suspended at random: who blocks
    misses nothing, the others count what they miss, no held message changes, and in the end only
    what the topics keep is not free."""
    figures = run(size, recovers, classes, "--topics")
    for key, value in figures.items():
        record_property(key, value)
    assert all(figures[f"subscribed, {policy}"] for policy in POLICIES)
    assert figures["in order and complete, block"]
    assert figures["gaps checked exactly"]


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


TOPIC_DEPTH = 4


def hears(policy: str, *got: int, published: int = 0, gaps: int = 0) -> list[Record]:
    """Subscribes to topic 0, gets these messages, and leaves when nothing is left to get."""
    records = [
        (Told.SUBSCRIBING, 0, POLICIES.index(policy), published),
        (Told.SUBSCRIBED, 0, 0, published),
    ]
    for at in got:
        records += [(Told.SEQUENCE, 0, 0, at), (Told.MESSAGE, 0, 0, stamp_of(1, at))]
    return [*records, (Told.ENDS, 0, 1, gaps), (Told.LEFT, 0, 0, 8)]


def joined_while(published: int, records: list[Record]) -> list[Record]:
    """The same subscriber, which had subscribed when so many had been published."""
    return [records[0], (Told.SUBSCRIBED, 0, 0, published), *records[2:]]


ALL = range(8)


@pytest.mark.parametrize(
    ("records", "violations"),
    [
        (hears("block", *ALL), 0),
        (hears("block", *ALL[3:], published=3), 0),
        (hears("block", *ALL[3:], published=2), 1),  # began too late
        (hears("block", *ALL[1:], published=2), 1),  # began too early
        (hears("block", *ALL[:3], *ALL[4:]), 1),  # missed one
        (hears("block", *ALL[:7]), 1),  # and the last one
        (hears("block", *ALL[:3], 2, *ALL[3:]), 1),  # got one twice
        (hears("block", *ALL, gaps=1), 1),
        (hears("drop-oldest", 0, 4, 5, 6, 7, gaps=3), 0),
        (hears("drop-oldest", 0, 4, 5, 6, 7, gaps=2), 1),
        (hears("drop-oldest", 0, 4, 5, 6, 7, gaps=4), 1),
        (hears("latest", 5, 7, gaps=6), 0),
        (hears("latest", 5, 7, gaps=5), 1),
        (hears("latest", 5, gaps=7), 1),  # did not get the last one
        (hears("drop-newest", 0, 1, 2, 3, gaps=4), 0),
        (hears("drop-newest", 0, 1, 2, 3, gaps=3), 1),
        (hears("drop-newest", 0, 1, 3, 4, gaps=4), 1),  # missed one that it had accepted
        (joined_while(6, hears("drop-newest", 3, 4, 6, 7, gaps=2)), 0),  # where is not known
    ],
)
def test_the_ledger_of_topics(records: list[Record], violations: int) -> None:
    """A publisher has published eight messages, of which a witness has got all. The ledger finds
    what another subscriber should not have got, missed or counted."""
    ledger = TopicLedger([TOPIC_DEPTH], {0})
    first = [(Told.PUBLISHING, 0, 8, stamp_of(1, 0)), (Told.PUBLISHED, 0, 8, 0)]
    ledger.life(1, first, killed=False)
    ledger.life(0, hears("block", *ALL), killed=False)
    ledger.life(2, records, killed=False)
    ledger.settle([8])
    assert violations == len(ledger.violations), ledger.violations


@pytest.mark.parametrize(
    ("heard", "ends", "violations"),
    [
        ([0, 1, 2], 4, 0),  # the publisher of four was killed in the middle
        ([0, 1, 2, 3], 4, 0),
        ([0, 1], 2, 0),
        ([0, 1, 3], 4, 1),  # not the first ones of them
        ([0], 2, 1),  # one that was published with certainty is missing
        ([0, 1, 2, 3, 4], 5, 1),  # more than there were
    ],
)
def test_the_ledger_of_a_killed_publisher(heard: list[int], ends: int, violations: int) -> None:
    """It had published two messages, and was killed while it published two more."""
    ledger = TopicLedger([TOPIC_DEPTH], {0})
    announced = [(Told.PUBLISHING, 0, 2, stamp_of(1, 0)), (Told.PUBLISHED, 0, 2, 0)]
    ledger.life(1, [*announced, (Told.PUBLISHING, 0, 2, stamp_of(1, 2))], killed=True)
    ledger.life(0, hears("block", *heard), killed=False)
    ledger.settle([ends])
    assert violations == bool(ledger.violations), ledger.violations


def test_two_messages_at_one_position() -> None:
    """Subscribers that got different messages with one sequence number."""
    ledger = TopicLedger([TOPIC_DEPTH], set())
    ledger.life(2, hears("block", 0), killed=False)
    other = [(Told.SEQUENCE, 0, 0, 0), (Told.MESSAGE, 0, 0, stamp_of(1, 1))]
    ledger.life(3, [*hears("block")[:2], *other, *hears("block")[2:]], killed=False)
    assert 1 == len(ledger.violations)
