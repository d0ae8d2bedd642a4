# SPDX-License-Identifier: Apache-2.0
"""Alarms: each is raised once, and lasts as long as its cause."""

import time
from dataclasses import replace

import pytest

from shmpool.rpc.records import Alarm
from shmpool.service.alarms import Alarms, Policy
from shmpool.service.watched_pool import SECONDS, WatchedPool
from shmpool.stats import Holder, Recovery, Stats
from shmpool.topic import Subscription
from shmpool.view import QueueStats, TopicStats, View

STATS = Stats(64, 64, 64, 0, 0, 0, 1, 0, {})
QUEUE = QueueStats("work", 8, 0, 0, 0, "multi", "multi", "free", None, 0)
POLICY = Policy(low_water=10, queue_full_s=5.0, held_s=60.0)


def kinds(alarms: list[Alarm]) -> list[tuple[str, str]]:
    return [(alarm.kind, alarm.subject) for alarm in alarms]


def test_low_water() -> None:
    """It is raised when fewer buffers than the mark are available, and cleared when enough are.

    Buffers that do not exist yet count as available.
    """
    alarms = Alarms("rx", wall=lambda: 1000.0)
    low = replace(STATS, free=5, held=50, queued=5)
    assert ([], []) == alarms.update(0, POLICY, replace(STATS, created=0, free=0), [], [], [])
    assert ([], []) == alarms.update(0, POLICY, replace(low, queued=4), [], [], [])  # 10 are enough
    raised, over = alarms.update(1, POLICY, low, [], [], [])
    assert ([("low-water", "rx")], []) == (kinds(raised), over)
    assert "9 buffers" in raised[0].message
    assert ([], []) == alarms.update(2, POLICY, low, [], [], [])
    assert [1000.0] == [alarm.since for alarm in alarms.active()]
    raised, over = alarms.update(3, POLICY, STATS, [], [], [])
    assert ([], [("low-water", "rx")]) == (raised, kinds(over))
    assert [] == alarms.active()


def test_a_queue_that_stays_full() -> None:
    """It is raised when every update for queue_full_s found the queue full. One update that did not
    starts the period again."""
    alarms, full = Alarms("rx"), replace(QUEUE, depth=8)
    for now, queue, expected in (
        (0, full, 0), (4, full, 0), (5, QUEUE, 0), (6, full, 0), (10, full, 0), (11, full, 1),
    ):  # fmt: skip
        raised, _ = alarms.update(now, POLICY, STATS, [queue], [], [])
        assert expected == len(raised), now
    assert [("queue-full", "work")] == kinds(alarms.active())


def test_a_topic_that_is_held_up() -> None:
    """It is raised for the subscriber that blocks and is furthest behind, of those that are alive.

    Its message is that of the present: another subscriber may be the last one.
    """

    def topic(waiting: int, *subscribers: Subscription) -> TopicStats:
        return TopicStats("ticks", 8, 100, 8, waiting, list(subscribers))

    first = Subscription(0, 10, "one", "block", 8, 0, 0, closing=False, dead=False)
    second = Subscription(1, 20, "two", "block", 3, 0, 0, closing=False, dead=False)
    alarms = Alarms("rx", wall=lambda: 1000.0)
    for free in (
        topic(0),
        topic(1, replace(second, lag=0)),
        topic(0, replace(first, lag=7), replace(second, policy="drop-oldest", lag=99)),
        topic(1, replace(first, dead=True), replace(second, closing=True)),
    ):
        for now in (0, 10):
            assert ([], []) == alarms.update(now, POLICY, STATS, [], [free], [])
    assert ([], []) == alarms.update(20, POLICY, STATS, [], [topic(0, first, second)], [])
    raised, _ = alarms.update(25, POLICY, STATS, [], [topic(0, first, second)], [])
    assert [("topic-blocked", "ticks")] == kinds(raised)
    assert raised[0].message.startswith("subscriber 0 (process 10, one), 8 messages behind, ")
    behind = topic(1, replace(first, lag=2), second)
    assert ([], []) == alarms.update(26, POLICY, STATS, [], [behind], [])
    (alarm,) = alarms.active()
    assert alarm.message.startswith("subscriber 1 (process 20, two), 3 messages behind, ")
    _, over = alarms.update(27, POLICY, STATS, [], [topic(0, second)], [])
    assert [("topic-blocked", "ticks")] == kinds(over)


def test_stopped_in_an_operation() -> None:
    """Raised for each suspended member, and cleared when it continues."""
    alarms = Alarms("rx")
    raised, _ = alarms.update(0, POLICY, STATS, [], [], [(10, 11), (20, 20)])
    assert [("stopped", "10/11"), ("stopped", "20/20")] == kinds(raised)
    raised, over = alarms.update(1, POLICY, STATS, [], [], [(20, 20)])
    assert ([], [("stopped", "10/11")]) == (raised, kinds(over))


def test_held_for_long() -> None:
    """It is raised for a member whose oldest buffer exceeds held_s. update() does not clear it."""
    alarms = Alarms("rx")
    young = Holder(0, 10, 10, "alive", 3, 59.0)
    nothing = Holder(1, 20, 20, "alive", 0, None)
    assert ([], []) == alarms.update_holders(POLICY, [young, nothing])
    raised, _ = alarms.update_holders(POLICY, [replace(young, oldest_s=60.0), nothing])
    assert [("held-long", "10/10")] == kinds(raised)
    assert ([], []) == alarms.update(2, POLICY, STATS, [], [], [])
    _, over = alarms.update_holders(POLICY, [nothing])
    assert [("held-long", "10/10")] == kinds(over)


def test_totals_of_recoveries(pool: object) -> None:
    """Recoveries are added up, and each is counted in the bucket of its duration."""
    with View(pool.name) as view:  # type: ignore[attr-defined]
        held = WatchedPool(view, Policy())
        began = time.time()
        held.recovered(Recovery(1, 5, 2, 1, 0, 0), 0.002)
        event = held.recovered(Recovery(2, 1, 0, 0, 0, 0), 100.0)
        so_far = held.stats().recoveries
        assert (2, 3, 6, 2, 1) == (
            so_far.count, so_far.members, so_far.buffers, so_far.requeued, so_far.dead_lettered,
        )  # fmt: skip
        assert (100.0, 100.0) == (so_far.last_s, so_far.longest_s)
        assert began <= (so_far.last_at or 0.0)
        assert (2, 2) == (event.number, event.members)
        assert 1 == held.recovery_seconds[SECONDS.index(0.0025)]
        assert 1 == held.recovery_seconds[-1]


def test_when_to_trim(make_pool: object) -> None:
    """A trim is due if more buffers than trim_to were free at every inspection for trim_after_s."""
    pool = make_pool(capacity=64)  # type: ignore[operator]
    pool.alloc_many(64).free()
    now = [0.0]
    with View(pool.name) as view:
        held = WatchedPool(view, Policy(trim_to=32, trim_after_s=10), clock=lambda: now[0])
        due = []
        for now[0] in (0.0, 9.0, 10.0):
            held.inspect()
            due.append(held.should_trim())
        assert [False, False, True] == due
        with pool.alloc_many(40):
            held.inspect()
            assert not held.should_trim()
        held.policy = Policy()
        now[0] = 100.0
        held.inspect()
        assert not held.should_trim()


def test_a_clock_that_is_set(make_pool: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting the wall clock changes neither alarms nor trims."""
    pool = make_pool(capacity=64)  # type: ignore[operator]
    queue = pool.create_queue("work", capacity=2)
    pool.alloc_many(64).free()
    queue.send_many([b"a", b"b"])
    with View(pool.name) as view:
        held = WatchedPool(view, Policy(queue_full_s=1000.0, trim_to=1, trim_after_s=1000.0))
        for clock in (2e9, 4e9, 0.0):
            monkeypatch.setattr(time, "time", lambda at=clock: at)
            assert ([], []) == held.inspect()
            assert not held.should_trim()
        held.policy = Policy(queue_full_s=0.0, trim_to=1, trim_after_s=0.0)
        raised, _ = held.inspect()
        assert [("queue-full", "work")] == kinds(raised)
        assert held.should_trim()
