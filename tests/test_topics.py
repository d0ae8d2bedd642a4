# SPDX-License-Identifier: Apache-2.0
"""Topics: each subscriber sees each message. Policies. What a killed process leaves."""

import gc
import os
import pickle
import signal
import threading
from collections.abc import Callable

import pytest
from conftest import Child, Eventually, MakePool, join

import shmpool
from shmpool import Pool, Topic

DEPTH = 8


@pytest.fixture
def pool(make_pool: MakePool) -> Pool:
    return make_pool(buffer_size=64, capacity=256)


@pytest.fixture
def topic(pool: Pool) -> Topic:
    return pool.create_topic("ticks", depth=DEPTH)


@pytest.fixture
def run(pool: Pool, start: Callable[..., Child]) -> Callable[[str], Child]:
    """run(code): another process that has the topic; it has printed a line when it is ready."""
    before = """
import sys, time, shmpool
pool = shmpool.Pool.attach(sys.argv[1])
topic = pool.topic("ticks")
def ready(): print("ready", flush=True)
"""

    def run(code: str) -> Child:
        child = start(before + code, pool.name)
        assert child.line() == "ready"
        return child

    return run


def say(topic: Topic, *numbers: int) -> None:
    for number in numbers:
        topic.send(b"%d" % number, timeout=10)


def heard(sub: shmpool.Subscriber) -> list[int]:
    got = []
    while (sample := sub.try_get()) is not None:
        got.append(int(bytes(sample)))
    return got


def slept(pool: Pool) -> int:
    """How often threads have gone to sleep in the pool."""
    return pool.stats().counters["sleep"]


def all_home(pool: Pool, kept: int) -> None:
    """Nobody holds anything but the topic, which keeps so many messages."""
    pool.recover()
    audit = pool.audit()
    assert audit.ok
    assert audit.free + audit.cached + kept == audit.total, audit
    assert sum(audit.queued.values()) == kept


# What each subscriber gets.


def test_each_subscriber_gets_each_message_in_place(pool: Pool, topic: Topic) -> None:
    with topic.subscribe() as one, topic.subscribe() as other:
        say(topic, 1)
        first, second = one.get(), other.get()
        assert first.index == second.index
        assert bytes(first) == bytes(second) == b"1"
        assert first.sequence == second.sequence == 0


def test_a_burst_is_published_and_got_as_one(topic: Topic, pool: Pool) -> None:
    with topic.subscribe() as sub:
        burst = pool.alloc_many(5)
        for i, buf in enumerate(burst):
            buf.write(b"%d" % i)
        topic.publish(burst)
        with sub.get_many(64) as got:
            assert [bytes(one) for one in got] == [b"0", b"1", b"2", b"3", b"4"]
            assert got.sequence.tolist() == [0, 1, 2, 3, 4]
        assert all(one.released for one in got)


def test_get_many_gets_what_there_is(topic: Topic) -> None:
    with topic.subscribe() as sub, topic.subscribe(policy="latest") as latest:
        say(topic, 1, 2, 3)
        assert [int(bytes(one)) for one in sub.get_many(2)] == [1, 2]
        assert [int(bytes(one)) for one in sub.get_many(64)] == [3]
        assert [int(bytes(one)) for one in latest.get_many(64)] == [3]
        with pytest.raises(shmpool.Empty):
            sub.get_many(64, timeout=0)


def test_a_burst_that_the_topic_never_holds_is_full(topic: Topic, pool: Pool) -> None:
    burst = pool.alloc_many(DEPTH + 1)
    with pytest.raises(shmpool.Full, match="at most 8: publish it in parts"):
        topic.publish(burst)
    burst.free()


def test_start_newest_or_oldest(topic: Topic) -> None:
    say(topic, *range(DEPTH + 3))
    with topic.subscribe() as newest, topic.subscribe(start="oldest") as oldest:
        say(topic, 99)
        assert heard(newest) == [99]
        assert heard(oldest) == [*range(4, DEPTH + 3), 99]
        assert newest.gaps == 0


def test_drop_oldest_counts_what_it_missed(topic: Topic) -> None:
    with topic.subscribe() as sub:
        say(topic, *range(DEPTH + 5))
        assert sub.lag == DEPTH + 5
        assert heard(sub) == list(range(5, DEPTH + 5))
        assert (sub.gaps, sub.lag) == (5, 0)


def test_drop_newest_keeps_the_oldest(topic: Topic, pool: Pool) -> None:
    with topic.subscribe(policy="drop-newest") as sub, topic.subscribe() as other:
        say(topic, *range(3 * DEPTH))
        assert sub.lag == DEPTH
        assert heard(other) == list(range(2 * DEPTH, 3 * DEPTH))
        samples = [sub.get(timeout=0) for _ in range(DEPTH)]
        assert [one.sequence for one in samples] == list(range(DEPTH))
        assert [int(bytes(one)) for one in samples] == list(range(DEPTH))
        assert (sub.try_get(), sub.gaps, sub.lag) == (None, 2 * DEPTH, 0)
        del samples
        all_home(pool, DEPTH)


def test_drop_newest_accepts_one_for_each_that_is_got(topic: Topic) -> None:
    """A message is missed exactly if the subscriber had a whole depth to get when it came."""
    with topic.subscribe(policy="drop-newest") as sub:
        waiting: list[int] = []
        gaps = number = 0
        for turn in range(200):
            for _ in range(turn % 5 * (turn % 7)):
                say(topic, number)
                if len(waiting) < DEPTH:
                    waiting.append(number)
                else:
                    gaps += 1
                number += 1
            assert sub.lag == len(waiting)
            for sample in sub.get_many(1 + turn % 3, timeout=0) if waiting else ():
                assert (int(bytes(sample)), sample.sequence) == (waiting[0], waiting.pop(0))
            assert sub.gaps == (gaps if number else 0)
        assert gaps
        assert heard(sub) == waiting


def test_drop_newest_from_the_oldest(topic: Topic) -> None:
    say(topic, *range(DEPTH + 2))
    with topic.subscribe(policy="drop-newest", start="oldest") as sub:
        say(topic, 97, 98)
        assert int(bytes(sub.get())) == 2
        say(topic, 99, 100)
        assert heard(sub) == [*range(3, DEPTH + 2), 99]
        assert sub.gaps == 3


def test_drop_newest_leaves_nothing_when_it_is_closed(topic: Topic, pool: Pool) -> None:
    sub = topic.subscribe(policy="drop-newest")
    say(topic, *range(3 * DEPTH))
    sample = sub.get()
    say(topic, *range(3 * DEPTH))
    assert pool.audit().queued["ticks"] == 2 * DEPTH + 1
    sub.close()
    assert (bytes(sample), sub.lag, pool.audit().queued["ticks"]) == (b"0", 0, DEPTH + 1)
    sample.free()
    assert topic.subscribers() == []
    all_home(pool, DEPTH)


def test_latest_is_the_newest_and_a_new_one_has_a_value_at_once(topic: Topic) -> None:
    say(topic, 1, 2, 3)
    with topic.subscribe(policy="latest") as sub:
        first = sub.get(timeout=0)
        assert (int(bytes(first)), first.sequence, sub.gaps) == (3, 2, 0)
        assert sub.try_get() is None
        say(topic, 4, 5)
        assert (int(bytes(sub.get(timeout=0))), sub.gaps) == (5, 1)


def test_block_holds_publishers_up_and_loses_nothing(topic: Topic) -> None:
    with topic.subscribe(policy="block") as sub, topic.subscribe() as other:
        say(topic, *range(DEPTH))
        with pytest.raises(shmpool.Full, match="blocks and is 8 behind"):
            topic.send(b"8", timeout=0)
        assert int(bytes(sub.get())) == 0
        topic.send(b"8", timeout=0)
        assert heard(sub) == list(range(1, DEPTH + 1))
        assert (sub.gaps, other.gaps) == (0, 0)
        assert heard(other) == list(range(1, DEPTH + 1))


def test_a_blocked_publisher_is_woken(topic: Topic) -> None:
    with topic.subscribe(policy="block") as sub:
        say(topic, *range(DEPTH))
        sender = threading.Thread(target=say, args=(topic, *range(DEPTH, 500)))
        sender.start()
        got = [int(bytes(sub.get(timeout=60))) for _ in range(500)]
        join(sender)
        assert got == list(range(500))


def test_threads_of_a_process_share_a_subscriber(topic: Topic) -> None:
    got: list[list[int]] = [[], []]
    with topic.subscribe(policy="block") as sub:

        def work(mine: list[int]) -> None:
            for samples in sub:
                mine.extend(int(bytes(one)) for one in samples)

        threads = [threading.Thread(target=work, args=(mine,)) for mine in got]
        for thread in threads:
            thread.start()
        say(topic, *range(1000))
        topic.shutdown()
        for thread in threads:
            join(thread)
    assert sorted(got[0] + got[1]) == list(range(1000))


def test_a_chain_is_published(topic: Topic, pool: Pool) -> None:
    payload = os.urandom(300)
    with topic.subscribe() as sub:
        topic.send(payload)
        with sub.get() as got:
            assert bytes(got) == payload
            assert len(got) == 300
            assert b"".join(got.segments) == payload
            with pytest.raises(BufferError, match="chain of buffers"):
                memoryview(got)
        say(topic, *range(DEPTH))
        heard(sub)
        all_home(pool, DEPTH)


# Samples.


def test_a_sample_is_read_only_and_outlives_the_ring(topic: Topic, pool: Pool) -> None:
    with topic.subscribe() as sub:
        topic.send(b"kept")
        sample = sub.get()
        view = sample.view
        assert view.readonly
        say(topic, *range(3 * DEPTH))
        assert bytes(view) == b"kept"
        with pytest.raises(shmpool.BufferInUse, match="message 0 cannot be freed"):
            sample.free()
        view.release()
        sample.free()
        with pytest.raises(shmpool.BufferReleased):
            bytes(sample)
        heard(sub)
        all_home(pool, DEPTH)


def test_samples_go_home_without_being_freed(topic: Topic, pool: Pool) -> None:
    sub = topic.subscribe()
    say(topic, *range(DEPTH))
    held = sub.get_many(DEPTH)
    say(topic, *range(DEPTH))
    sub.close()
    assert topic.subscribers()[0].closing
    assert len(held) == DEPTH
    del held, sub
    gc.collect()
    assert topic.subscribers() == []
    all_home(pool, DEPTH)


def test_what_a_published_buffer_is_afterwards(topic: Topic, pool: Pool) -> None:
    buf = pool.alloc()
    topic.publish(buf)
    assert buf.released
    with pytest.raises(shmpool.BufferReleased):
        topic.publish(buf)
    with pytest.raises(TypeError, match=r"takes a shmpool\.Buffer or a shmpool\.Burst, not bytes"):
        topic.publish(b"")  # type: ignore[arg-type]
    viewed = pool.alloc()
    with viewed.view, pytest.raises(shmpool.BufferInUse):
        topic.publish(viewed)
    viewed.free()


def test_closing_the_pool_ends_its_subscriptions(topic: Topic, pool: Pool) -> None:
    with Pool.attach(pool.name) as again:
        sub = again.topic("ticks").subscribe(policy="block", start="oldest")
        say(topic, *range(DEPTH))
        sample = sub.get()
        assert len(topic.subscribers()) == 1
    assert sample.released
    assert topic.subscribers() == []
    say(topic, *range(DEPTH))
    all_home(pool, DEPTH)
    with pytest.raises(shmpool.PoolClosed):
        sub.get()


# The end of a stream, waits, and refusals.


def test_shutdown_ends_the_stream(topic: Topic) -> None:
    with topic.subscribe() as sub:
        say(topic, 1, 2)
        topic.shutdown()
        assert topic.ended
        with pytest.raises(shmpool.ShutDown):
            topic.send(b"3")
        assert heard_until_the_end(sub) == [1, 2]
        with pytest.raises(shmpool.ShutDown):
            sub.get()


def heard_until_the_end(sub: shmpool.Subscriber) -> list[int]:
    return [int(bytes(one)) for samples in sub for one in samples]


def test_close_ends_a_wait_of_another_thread(
    topic: Topic, pool: Pool, eventually: Eventually
) -> None:
    sub = topic.subscribe()
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            sub.get()
        except shmpool.PoolClosed as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    before = slept(pool)
    thread.start()
    eventually(lambda: slept(pool) > before)
    sub.close()
    join(thread)
    assert "is closed" in str(failed[0])


def test_a_wait_ends_at_its_timeout(topic: Topic) -> None:
    with topic.subscribe() as sub, pytest.raises(shmpool.Empty, match="no message that is new"):
        sub.get(timeout=0.01)


def test_a_pool_has_more_buffers_than_its_topics_keep(make_pool: MakePool) -> None:
    """Otherwise the topics end with all of them, and nobody can publish."""
    pool = make_pool(capacity=64)
    with pytest.raises(shmpool.InvalidArgument, match=r"depth is 64; .* the pool has 64: it must"):
        pool.create_topic("all", depth=64)
    pool.create_topic("half", depth=32)
    with pytest.raises(shmpool.InvalidArgument, match="and its other topics keep 32: it must"):
        pool.create_topic("more", depth=32)
    assert ["half"] == [topic.name for topic in pool.topics()]


def test_refusals(topic: Topic, pool: Pool) -> None:
    with pytest.raises(shmpool.InvalidArgument, match="policy is 'best'; it must be"):
        topic.subscribe(policy="best")  # type: ignore[arg-type]
    with pytest.raises(shmpool.InvalidArgument, match="start is 1; it must be"):
        topic.subscribe(start=1)  # type: ignore[arg-type]
    for depth in (0, 1, 100, 65536):
        with pytest.raises(shmpool.InvalidArgument, match="depth is"):
            pool.create_topic("other", depth=depth)
    with pytest.raises(shmpool.QueueExists):
        pool.create_topic("ticks", depth=8)
    with pytest.raises(shmpool.QueueNotFound, match=r"is a topic; Pool\.topic\(\) finds it"):
        pool.queue("ticks")
    pool.create_queue("work", capacity=8)
    with pytest.raises(shmpool.QueueNotFound, match=r"is a queue; Pool\.queue\(\) finds it"):
        pool.topic("work")
    assert [one.name for one in pool.queues()] == ["work"]
    assert [one.name for one in pool.topics()] == ["ticks"]


def test_a_topic_has_24_subscribers(topic: Topic) -> None:
    subs = [topic.subscribe() for _ in range(24)]
    with pytest.raises(shmpool.LimitReached, match="24 subscribers"):
        topic.subscribe()
    subs.pop().close()
    topic.subscribe().close()
    for sub in subs:
        sub.close()


def test_pickling(topic: Topic) -> None:
    same = pickle.loads(pickle.dumps(topic))
    assert (same.name, same.depth, same.pool) == (topic.name, DEPTH, topic.pool)
    with topic.subscribe() as sub:
        with pytest.raises(TypeError, match="subscribe in the other process"):
            pickle.dumps(sub)
        say(topic, 1)
        with pytest.raises(TypeError, match="subscribe in the other process too"):
            pickle.dumps(sub.get())


def test_a_forked_child_has_no_subscription(topic: Topic, pool: Pool) -> None:
    with topic.subscribe() as sub:
        say(topic, 1, 2)
        sample = sub.get()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                sub.get(timeout=0)
            except shmpool.PoolClosed:
                status = 0 if sample.released and sub.closed else 2
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert bytes(sample) == b"1"
        assert heard(sub) == [2]


# Processes, and their deaths.


def test_processes_publish_and_subscribe(
    topic: Topic, pool: Pool, run: Callable[[str], Child]
) -> None:
    count = (
        "sub = topic.subscribe(policy='block')\nready()\nn = 0\n"
        "for samples in sub:\n    n += len(samples)\n"
        "sys.exit(0 if n == 2000 and sub.gaps == 0 else 1)\n"
    )
    children = [run(count) for _ in range(2)]
    say(topic, *range(2000))
    topic.shutdown()
    for child in children:
        child.end()
    assert topic.subscribers() == []
    all_home(pool, DEPTH)


def test_a_killed_subscriber_holds_nothing(
    topic: Topic, pool: Pool, run: Callable[[str], Child]
) -> None:
    say(topic, *range(DEPTH))
    child = run(
        "sub = topic.subscribe(policy='latest')\nall = topic.subscribe(start='oldest')\n"
        "held = all.get_many(8)\none = sub.get()\nready()\ntime.sleep(1000)\n"
    )
    say(topic, *range(DEPTH))
    assert pool.audit().queued["ticks"] == 2 * DEPTH
    child.kill()
    all_home(pool, DEPTH)
    assert topic.subscribers() == []


def test_a_killed_subscriber_that_blocks_holds_nobody_up(
    topic: Topic, run: Callable[[str], Child]
) -> None:
    """Not even one that does not wait: it asks whether the subscriber is alive, and recovers it."""
    child = run("sub = topic.subscribe(policy='block')\nready()\ntime.sleep(1000)\n")
    say(topic, *range(DEPTH))
    with pytest.raises(shmpool.Full):
        topic.send(b"", timeout=0)
    child.kill()
    topic.send(b"at once", timeout=0)
    assert topic.subscribers() == []


def test_a_stopped_subscriber_that_drops_the_newest_has_the_oldest(
    topic: Topic, pool: Pool, run: Callable[[str], Child]
) -> None:
    child = run(
        "sub = topic.subscribe(policy='drop-newest')\nready()\nsys.stdin.readline()\n"
        "got = [int(bytes(sub.get(timeout=60))) for _ in range(8)]\n"
        "sys.exit(0 if got == list(range(8)) and sub.gaps == 992 else 1)\n"
    )
    child.process.send_signal(signal.SIGSTOP)
    say(topic, *range(1000))
    assert topic.subscribers()[0].lag == DEPTH
    child.process.send_signal(signal.SIGCONT)
    child.send()
    child.end()
    assert topic.subscribers() == []
    all_home(pool, DEPTH)


def test_a_killed_subscriber_that_drops_the_newest_holds_nothing(
    topic: Topic, pool: Pool, run: Callable[[str], Child]
) -> None:
    child = run(
        "sub = topic.subscribe(policy='drop-newest', start='oldest')\n"
        "for i in range(30):\n    topic.send(b'')\nheld = sub.get_many(3)\n"
        "for i in range(30):\n    topic.send(b'')\nready()\ntime.sleep(1000)\n"
    )
    assert pool.audit().queued["ticks"] > DEPTH
    child.kill()
    all_home(pool, DEPTH)
    assert topic.subscribers() == []


def test_a_publisher_that_waits_notices_a_death(
    topic: Topic, pool: Pool, run: Callable[[str], Child], eventually: Eventually
) -> None:
    child = run("sub = topic.subscribe(policy='block')\nready()\ntime.sleep(1000)\n")
    say(topic, *range(DEPTH))
    sender = threading.Thread(target=topic.send, args=(b"99",))
    before = slept(pool)
    sender.start()
    eventually(lambda: slept(pool) > before)
    child.kill()
    join(sender)
    assert topic.published == DEPTH + 1


def test_a_killed_publisher_stops_nobody(
    topic: Topic, pool: Pool, run: Callable[[str], Child]
) -> None:
    """Kills publishers in the middle of bursts; what they published comes out, each once."""
    publish = (
        "burst = pool.alloc_many(4)\nready()\n"
        "while True:\n    topic.publish(burst)\n    burst = pool.alloc_many(4)\n"
    )
    with topic.subscribe() as sub:
        for _ in range(10):
            child = run(publish)
            last = -1
            for _ in range(20):
                sample = sub.get(timeout=60)
                assert sample.sequence > last
                last = sample.sequence
            child.kill()
            pool.recover()
            while sub.try_get() is not None:
                pass
            say(topic, 7)
            assert heard(sub) == [7]
        del sample
    audit = pool.audit()
    assert audit.ok
    assert audit.queued["ticks"] <= DEPTH
    assert audit.free + audit.cached + audit.queued["ticks"] == audit.total, audit
