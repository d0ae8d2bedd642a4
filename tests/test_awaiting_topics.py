# SPDX-License-Identifier: Apache-2.0
"""Awaiting topics in event loops, their descriptors, and wait(): who gets what, and that no
cancellation and no killed process loses or doubles a message, or holds a task up."""

import asyncio
import multiprocessing.connection
import os
import random
import select
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from conftest import Child, Eventually, MakePool, at_rest, descriptors
from test_awaiting import RunLoop, begun, run_loop

import shmpool

Start = Callable[..., Child]
__all__ = ["run_loop"]  # the fixture


@pytest.fixture
def topic(make_pool: MakePool) -> shmpool.Topic:
    """A topic that keeps 8 messages, in a pool of 64 buffers."""
    return make_pool().create_topic("ticks", depth=8)


def numbers(samples: shmpool.Samples) -> list[int]:
    """What the messages say, which are let go."""
    with samples:
        return [int(bytes(sample)) for sample in samples]


PUBLISHER = """
    import sys
    import shmpool
    topic = shmpool.Pool.attach(sys.argv[1]).topic("ticks")
    for line in sys.stdin:
        topic.send(line.strip().encode())
"""


def test_each_call(topic: shmpool.Topic, run_loop: RunLoop) -> None:
    """Each awaited call does what its blocking one does, when it need not wait."""
    sub = topic.subscribe("block")

    async def main() -> None:
        await topic.asend(b"1")
        buf = await topic.pool.aalloc()
        buf.write(b"2")
        await topic.apublish(buf)
        assert buf.released
        burst = await topic.pool.aalloc_many(3)
        for i, buf in enumerate(burst):
            buf.write(b"%d" % (3 + i))
        await topic.apublish(burst)
        with await sub.aget() as sample:
            assert (b"1", 0) == (bytes(sample), sample.sequence)
        assert [2, 3] == numbers(await sub.aget_many(2))
        topic.shutdown()
        assert [[4], [5]] == [numbers(samples) async for samples in sub.bursts(1)]
        with pytest.raises(shmpool.ShutDown):
            await sub.aget()
        with pytest.raises(shmpool.ShutDown):
            await topic.asend(b"late")

    run_loop(main())


def test_wakes_after_another_process_publishes(
    topic: shmpool.Topic, start: Start, run_loop: RunLoop
) -> None:
    """Tasks that wait get what another process publishes later: each subscriber each message."""
    subs = [topic.subscribe(policy) for policy in ("block", "drop-oldest", "latest")]
    child = start(PUBLISHER, topic.pool.name)

    async def main() -> None:
        for i in range(20):
            tasks = await begun(*(sub.aget_many(2) for sub in subs))
            child.send(str(i))
            assert [[i]] * 3 == [numbers(samples) for samples in await asyncio.gather(*tasks)]
        got = []

        async def listen() -> None:
            async for samples in subs[0]:
                got.extend(numbers(samples))

        (task,) = await begun(listen())
        for i in range(50):
            child.send(str(i))
        child.send("-1")
        while -1 not in got:
            await asyncio.sleep(0.001)
        topic.shutdown()
        await task
        assert [*range(50), -1] == got

    run_loop(main())


def test_a_latest_value_and_what_was_missed(topic: shmpool.Topic, run_loop: RunLoop) -> None:
    """A task that waits with "latest" gets the newest message; others know what they missed."""
    newest, all_kept = topic.subscribe("latest"), topic.subscribe()

    async def main() -> None:
        first, second = await begun(newest.aget(), all_kept.aget())
        for i in range(20):
            topic.send(b"%d" % i)
        assert 19 == int(bytes(await first))
        assert 12 == int(bytes(await second))
        assert 12 == all_kept.gaps
        (waits,) = await begun(newest.aget())
        topic.send(b"20")
        assert 20 == int(bytes(await waits))

    run_loop(main())


def test_publishers_await_room(topic: shmpool.Topic, start: Start, run_loop: RunLoop) -> None:
    """A task that publishes waits for a subscriber that blocks, of another process too; those that
    asked first go first, also one with many buffers."""
    child = start(
        """
        import sys
        import shmpool
        sub = shmpool.Pool.attach(sys.argv[1]).topic("ticks").subscribe("block")
        print(flush=True)
        for line in sys.stdin:
            with sub.get_many(int(line)) as samples:
                print(*(bytes(sample).decode() for sample in samples), flush=True)
        """,
        topic.pool.name,
    )
    child.line()
    pool = topic.pool

    async def main() -> None:
        for i in range(8):
            await topic.asend(b"%d" % i)
        burst = pool.alloc_many(3)
        for buf in burst:
            buf.write(b"many")
        (many,) = await begun(topic.apublish(burst))
        (last,) = await begun(topic.asend(b"last"))
        child.send("2")
        assert "0 1" == child.line()
        await asyncio.sleep(0.01)
        assert not many.done()
        assert not last.done()
        child.send("1")
        assert "2" == child.line()
        await many
        assert not last.done()
        child.send("8")
        assert "3 4 5 6 7 many many many" == child.line()
        await last
        child.send("1")
        assert "last" == child.line()

    run_loop(main())
    child.kill()


def test_a_cancelled_call_takes_and_gives_nothing(topic: shmpool.Topic, run_loop: RunLoop) -> None:
    """After a time-out the message is there for the next call, and the buffers are the caller's."""
    pool, sub = topic.pool, topic.subscribe("block")

    async def give_up(call: Coroutine[Any, Any, Any]) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.01)

    async def main() -> None:
        await give_up(sub.aget())
        await give_up(sub.aget_many(3))
        for i in range(8):
            topic.send(b"%d" % i)
        buf, burst = pool.alloc(), pool.alloc_many(2)
        await give_up(topic.apublish(buf))
        await give_up(topic.apublish(burst))
        await give_up(topic.asend(b"never"))
        assert not buf.released
        assert 2 == len(burst)
        buf.free()
        burst.free()
        assert list(range(8)) == numbers(await sub.aget_many(9))
        assert 8 == topic.published

    run_loop(main())


def test_a_dead_reader_holds_no_publisher_up(
    topic: shmpool.Topic, start: Start, run_loop: RunLoop
) -> None:
    """A task that waits for a subscriber that blocks goes on when that one's process is killed,
    and nobody calls recover()."""
    child = start(
        """
        import sys
        import shmpool
        sub = shmpool.Pool.attach(sys.argv[1]).topic("ticks").subscribe("block")
        print(flush=True)
        input()
        held = sub.get_many(4)
        print(len(held), flush=True)
        input()
        """,
        topic.pool.name,
    )
    child.line()
    for i in range(8):
        topic.send(b"%d" % i)
    child.send()
    assert "4" == child.line()

    async def main() -> None:
        for i in range(8, 12):
            await topic.asend(b"%d" % i)
        (waits,) = await begun(topic.asend(b"12"))
        await asyncio.sleep(0.1)
        assert not waits.done()
        child.kill()
        await waits
        for i in range(20):
            await topic.asend(b"%d" % i)

    run_loop(main())
    assert [] == topic.subscribers()


def test_killed_publishers(make_pool: MakePool, start: Start, run_loop: RunLoop) -> None:
    """Publishers are killed while tasks of a loop wait, many of which time out. The subscriber
    blocks: of each publisher all messages up to its last one arrive, once and in order."""
    topic = make_pool(capacity=256).create_topic("ticks", depth=16)
    sub = topic.subscribe("block")
    script = """
    import itertools, sys
    import shmpool
    topic = shmpool.Pool.attach(sys.argv[1]).topic("ticks")
    for i in itertools.count():
        topic.send(f"{sys.argv[2]} {i}".encode())
        if i == 200:
            print("going", flush=True)
    """
    got: list[tuple[int, str]] = []

    async def consumer() -> None:
        while True:
            try:
                async with asyncio.timeout(random.random() / 500):
                    with await sub.aget() as sample:
                        got.append((sample.sequence, bytes(sample).decode()))
            except TimeoutError:
                continue

    async def main() -> None:
        consumers = [asyncio.ensure_future(consumer()) for _ in range(8)]
        for i in range(6):
            child = start(script, topic.pool.name, i)
            await asyncio.to_thread(child.line)
            os.kill(child.pid, signal.SIGKILL)
            await asyncio.to_thread(child.process.wait)
        while sub.lag:  # also past a position whose publisher is dead
            await asyncio.sleep(0.001)
        for task in consumers:
            task.cancel()
        await asyncio.wait(consumers)

    run_loop(main())
    assert not sub.gaps
    by_publisher: dict[str, list[int]] = {}
    for _, text in sorted(got):
        who, number = text.split()
        by_publisher.setdefault(who, []).append(int(number))
    assert 6 == len(by_publisher)
    for sent in by_publisher.values():
        assert list(range(len(sent))) == sent
        assert len(sent) > 200


def test_20000_cancellations(make_pool: MakePool, start: Start, run_loop: RunLoop) -> None:
    """Of 20,000 calls of which most are cancelled, none loses or doubles a message of another
    process, which waits for this subscriber."""
    topic = make_pool(capacity=256).create_topic("ticks", depth=64)
    sub = topic.subscribe("block")
    child = start(
        """
        import sys
        import shmpool
        topic = shmpool.Pool.attach(sys.argv[1]).topic("ticks")
        for i in range(2000):
            topic.send(b"%d" % i)
        """,
        topic.pool.name,
    )
    got: list[int] = []

    def take(done: set["asyncio.Task[shmpool.Sample]"]) -> None:
        for task in done:
            if not task.cancelled():
                with task.result() as sample:
                    got.append(int(bytes(sample)))

    async def main() -> None:
        chance, calls, tasks = random.Random(1), 0, set[asyncio.Task[shmpool.Sample]]()
        while calls < 20_000 or len(got) < 2000:
            while len(tasks) < 100:
                tasks.add(asyncio.ensure_future(sub.aget()))
                calls += 1
            for task in chance.sample(list(tasks), 75):
                task.cancel()
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            take(done)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        take(tasks)

    run_loop(main())
    child.end()
    assert list(range(2000)) == sorted(got)
    assert not sub.gaps


def test_2000_waiters(make_pool: MakePool, start: Start, run_loop: RunLoop) -> None:
    """2,000 tasks wait for four subscribers with one thread more and three descriptors; each gets
    one message of another process, and those of one subscriber in the order in which they
    asked."""
    topic = make_pool(capacity=1024).create_topic("ticks", depth=64)
    subs = [topic.subscribe("block") for _ in range(4)]
    child = start(PUBLISHER, topic.pool.name)

    async def main() -> None:
        threads = len(os.listdir("/proc/self/task"))
        files = descriptors(os.getpid())
        tasks = await begun(*(sub.aget() for sub in subs for _ in range(500)))
        assert len(os.listdir("/proc/self/task")) <= threads + 1
        assert descriptors(os.getpid()) <= files + 3
        for i in range(500):
            child.send(str(i))
        for sample, i in zip(await asyncio.gather(*tasks), [*range(500)] * 4, strict=True):
            assert i == int(bytes(sample))
            sample.free()

    run_loop(main())


def test_the_end_of_a_topic(topic: shmpool.Topic, run_loop: RunLoop) -> None:
    """shutdown() ends calls that await: gets, and publishers without room."""
    ends, stays = topic.subscribe(), topic.subscribe("block")

    async def main() -> None:
        gets = await begun(ends.aget(), ends.aget_many(3), stays.aget())
        topic.shutdown()
        for task in gets:
            with pytest.raises(shmpool.ShutDown):
                await task
        other = topic.pool.create_topic("other", depth=2)
        sub = other.subscribe("block")
        for _ in range(2):
            other.send(b"full")
        (waits,) = await begun(other.asend(b"x"))
        other.shutdown()
        with pytest.raises(shmpool.ShutDown):
            await waits
        assert 2 == len(await sub.aget_many(3))

    run_loop(main())


@pytest.mark.parametrize("kind", ["queue", "topic", "subscriber"])
def test_an_object_is_closed(make_pool: MakePool, run_loop: RunLoop, kind: str) -> None:
    """close() of a queue, topic or subscriber, also by another thread, ends the calls that await
    it with PoolClosed; those of other objects of the same go on."""
    pool = make_pool()
    queue, topic = pool.create_queue("q", capacity=8), pool.create_topic("ticks", depth=2)
    same, sub, other = pool.queue("q"), topic.subscribe("block"), topic.subscribe("block")

    async def main() -> None:
        if kind == "queue":
            ends, goes_on = await begun(queue.arecv(), same.arecv())
            thread = threading.Thread(target=queue.close)
        elif kind == "topic":
            for _ in range(2):
                topic.send(b"1")
            ends, goes_on = await begun(topic.asend(b"2"), pool.topic("ticks").asend(b"3"))
            thread = threading.Thread(target=topic.close)
        else:
            ends, goes_on = await begun(sub.aget(), other.aget())
            thread = threading.Thread(target=sub.close)
        thread.start()
        with pytest.raises(shmpool.PoolClosed):
            await ends
        thread.join()
        assert not goes_on.done()
        if kind == "queue":
            same.send(b"hello")
        elif kind == "topic":
            for one in (sub, other):
                one.get_many(2).free()
        else:
            topic.send(b"1")
        await goes_on

    run_loop(main())


def test_another_subscriber_in_its_place(topic: shmpool.Topic, run_loop: RunLoop) -> None:
    """A call that awaits a subscriber ends when that is closed, also if another one takes its place
    in the topic at once; what awaits that one gets its messages."""

    async def main() -> None:
        sub = topic.subscribe()
        for i in range(50):
            (waits,) = await begun(sub.aget())
            sub.close()
            sub = topic.subscribe()
            (next_one,) = await begun(sub.aget())
            with pytest.raises(shmpool.PoolClosed):
                await waits
            topic.send(b"%d" % i)
            with await next_one as sample:
                assert i == int(bytes(sample))

    run_loop(main())


def test_a_pool_is_closed_or_replaced(make_pool: MakePool, run_loop: RunLoop) -> None:
    """Calls that await a topic end with PoolClosed or PoolReplaced."""
    closed, replaced = make_pool(), make_pool()

    async def waiting(pool: shmpool.Pool) -> list["asyncio.Task[Any]"]:
        topic = pool.create_topic("ticks", depth=2)
        sub = topic.subscribe("block")
        for _ in range(2):
            await topic.asend(b"")
        return await begun(topic.asend(b""), topic.subscribe().aget(), held.append(sub) or idle())

    async def idle() -> None:
        await asyncio.Event().wait()

    held: list[shmpool.Subscriber] = []

    async def main() -> None:
        publish, get, rest = await waiting(closed)
        closed.close()
        for task in (publish, get):
            with pytest.raises(shmpool.PoolClosed):
                await task
        others = await waiting(replaced)
        shmpool.Pool.create(replaced.name, buffer_size=256, capacity=64, replace=True).close()
        for task in others[:2]:
            with pytest.raises(shmpool.PoolReplaced):
                await task
        for task in (rest, others[2]):
            task.cancel()

    run_loop(main())


def test_fork(topic: shmpool.Topic, run_loop: RunLoop) -> None:
    """A forked child has none of its parent's subscriptions: it subscribes itself, and its parent
    goes on."""
    sub = topic.subscribe()
    sub.fileno()

    async def in_child() -> None:
        with pytest.raises(shmpool.PoolClosed):
            await sub.aget()
        with pytest.raises(shmpool.PoolClosed):
            sub.fileno()
        with topic.subscribe() as own:
            (task,) = await begun(own.aget())
            await topic.asend(b"child")
            assert b"child" == bytes(await task)

    async def main() -> None:
        (task,) = await begun(sub.aget_many(2))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                asyncio.events._set_running_loop(None)  # that of the parent
                thread = threading.Thread(target=lambda: run_loop(in_child()))
                thread.start()
                thread.join()
                code = 0 if topic.published == 1 else 1
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert 0 == os.waitstatus_to_exitcode(status)
        with await task as samples:
            assert [b"child"] == [bytes(sample) for sample in samples]

    run_loop(main())


def test_a_thread_and_two_loops_share_a_subscriber(topic: shmpool.Topic, run_loop: RunLoop) -> None:
    """Each message goes to one of two loops or to a thread that blocks."""
    sub = topic.subscribe("block")
    got: list[list[int]] = [[], [], []]

    async def consume(mine: list[int]) -> None:
        async for samples in sub.bursts(1):
            mine.extend(numbers(samples))

    def block() -> None:
        try:
            while True:
                with sub.get() as sample:
                    got[2].append(int(bytes(sample)))
        except shmpool.ShutDown:
            pass

    threads = [threading.Thread(target=run_loop, args=(consume(got[i]),)) for i in (0, 1)]
    threads.append(threading.Thread(target=block))
    for thread in threads:
        thread.start()
    for i in range(500):
        topic.send(b"%d" % i)
    topic.shutdown()
    for thread in threads:
        thread.join()
    assert list(range(500)) == sorted(got[0] + got[1] + got[2])


# Descriptors and wait().


def by_select(subs: list[Any], seconds: float) -> list[Any]:
    return select.select(subs, [], [], seconds)[0]


def by_poll(subs: list[Any], seconds: float) -> list[Any]:
    poll = select.poll()
    for sub in subs:
        poll.register(sub, select.POLLIN)
    ready = {fd for fd, _ in poll.poll(seconds * 1000)}
    return [sub for sub in subs if sub.fileno() in ready]


WAYS: dict[str, Callable[[list[Any], float], list[Any]]] = {
    "select": by_select,
    "poll": by_poll,
    "connection.wait": multiprocessing.connection.wait,  # type: ignore[dict-item]
    "shmpool.wait": shmpool.wait,
}


@pytest.mark.parametrize("way", WAYS)
def test_readable_while_something_is_there(
    make_pool: MakePool, start: Start, eventually: Eventually, way: str
) -> None:
    """Of a queue and subscribers of two topics those are ready that can get something, which
    another process puts or publishes, until they have got it."""
    readable, pool = WAYS[way], make_pool()
    queue, ticks = pool.create_queue("q", capacity=8), pool.create_topic("ticks", depth=8)
    other = pool.create_topic("other", depth=8).subscribe()
    one, two = ticks.subscribe(), ticks.subscribe("latest")
    everything = [queue, one, two, other]
    child = start(PUBLISHER, pool.name)
    assert [] == readable(everything, 0)
    for i in range(5):
        child.send(str(i))
        waiting = [one, two]
        while len(readable(waiting, 60)) < 2:  # one of them a moment after the other
            pass
        assert i == int(bytes(one.get()))
        # The thread that showed the message may be a moment late, and show it after this get.
        eventually(lambda: [two] == readable(everything, 0))
        assert i == int(bytes(two.get()))
        eventually(lambda: [] == readable(everything, 0.001))
    queue.send(b"x")
    assert [queue] == readable(everything, 60)
    queue.recv()
    pool.topic("other").shutdown()
    assert [other] == readable(everything, 60)
    with pytest.raises(shmpool.ShutDown):
        other.get(0)


TAKES: dict[str, Callable[[shmpool.Subscriber], object]] = {
    "get": lambda sub: sub.get().free(),
    "try_get": lambda sub: sub.try_get().free(),  # type: ignore[union-attr]
    "get_many": lambda sub: sub.get_many(2).free(),
    "iter": lambda sub: next(iter(sub)).free(),
    "aget": lambda sub: asyncio.run(sub.aget()).free(),
    "aget_many": lambda sub: asyncio.run(sub.aget_many(2)).free(),
}


@pytest.mark.parametrize("take", TAKES)
def test_not_readable_after_the_last_get(
    topic: shmpool.Topic, take: str, eventually: Eventually
) -> None:
    """Right after a get that takes the last message the descriptor is not readable."""
    sub = topic.subscribe()
    with select.epoll() as epoll:
        epoll.register(sub, select.EPOLLIN)
        for _ in range(3):
            topic.send(b"hello")
            assert epoll.poll(60)
            TAKES[take](sub)
            assert not epoll.poll(0)
            assert sub.try_get() is None
    before = descriptors(os.getpid())
    sub.close()
    eventually(lambda: before - 2 == descriptors(os.getpid()))
    with pytest.raises(shmpool.PoolClosed):
        sub.fileno()


def test_add_reader(topic: shmpool.Topic, start: Start, run_loop: RunLoop) -> None:
    """loop.add_reader() calls for each message of a subscriber."""
    sub, child, got = topic.subscribe("block"), start(PUBLISHER, topic.pool.name), []

    async def main() -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def readable() -> None:
            while (sample := sub.try_get()) is not None:
                with sample:
                    got.append(int(bytes(sample)))
            if len(got) == 30:
                done.set()

        loop.add_reader(sub.fileno(), readable)
        for i in range(30):
            child.send(str(i))
        await done.wait()
        loop.remove_reader(sub.fileno())

    run_loop(main())
    assert list(range(30)) == got


def test_nothing_stays(topic: shmpool.Topic, run_loop: RunLoop) -> None:
    """After waits have come and gone only the topic holds buffers."""
    sub = topic.subscribe("block")

    async def main() -> None:
        for _ in range(20):
            (task,) = await begun(sub.aget())
            await topic.asend(b"x")
            (await task).free()

    run_loop(main())
    sub.close()
    assert at_rest(topic.pool)
    assert {"ticks": 8} == topic.pool.audit().queued
