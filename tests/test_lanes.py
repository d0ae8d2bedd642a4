# SPDX-License-Identifier: Apache-2.0
"""Queues with lanes: order, room, waiting, the end, deaths, and what is shown."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import DEADLINE_S, Child, Eventually, MakePool, at_rest, join

import shmpool
from shmpool.cli.main import shmpool as command
from shmpool.options import lanes_of
from shmpool.view import View

Start = Callable[..., Child]

PRODUCER = """
    import sys
    import shmpool

    name, me, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with shmpool.Pool.attach(name) as pool:
        queue = pool.queue("q")
        for i in range(n):
            queue.send(f"{me} {i}".encode())
    print("done", flush=True)
    sys.stdin.readline()
"""

CONSUMER = """
    import json
    import sys
    import shmpool

    with shmpool.Pool.attach(sys.argv[1]) as pool:
        queue, last, taken = pool.queue("q"), {}, []
        print("ready", flush=True)
        try:
            while True:
                for payload in queue.recv_many(int(sys.argv[2])):
                    producer, i = map(int, payload.split())
                    assert last.get(producer, -1) < i, (producer, i, last)
                    last[producer] = i
                    taken.append([producer, i])
        except shmpool.ShutDown:
            print(json.dumps(taken), flush=True)
"""


def with_lanes(make_pool: MakePool, lanes: Any = 4, **options: Any) -> shmpool.AlfQueue:
    pool = make_pool(buffer_size=64, capacity=4096, prealloc=4096, queues=40, cache_size=0)
    return pool.create_queue("q", **{"capacity": 1024, "lanes": lanes, **options})


def shmpool_command(*arguments: str) -> str:
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def in_another_thread(call: Callable[[], object]) -> Any:
    """Returns what call returns in a thread of its own."""
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(call()))
    thread.start()
    join(thread)
    return got[0]


@pytest.mark.parametrize("lanes", [2, 4, "auto"])
@pytest.mark.parametrize(("producers", "consumers"), [(4, 4), (5, 1), (1, 3)])
@pytest.mark.parametrize("bulk", [1, 32])
def test_each_message_once_and_each_producer_in_order(
    make_pool: MakePool, start: Start, lanes: Any, producers: int, consumers: int, bulk: int
) -> None:
    """Whatever the numbers of producers, lanes and consumers."""
    queue = with_lanes(make_pool, lanes)
    n = 2000
    takers = [start(CONSUMER, queue.pool.name, bulk) for _ in range(consumers)]
    for taker in takers:
        assert "ready" == taker.line()
    putters = [start(PRODUCER, queue.pool.name, me, n) for me in range(producers)]
    for putter in putters:
        assert "done" == putter.line()
        putter.send()
    queue.shutdown()
    taken = Counter(tuple(m) for taker in takers for m in json.loads(taker.line()))
    assert Counter({(me, i): 1 for me in range(producers) for i in range(n)}) == taken
    assert (True, {"q": 0}) == (queue.pool.audit().ok, queue.pool.audit().queued)


def test_a_full_lane(make_pool: MakePool) -> None:
    """A thread fills its lane only; another thread still puts. One put moves up to a share."""
    queue = with_lanes(make_pool, capacity=10)
    assert (4, 10) == (queue.lanes, queue.capacity)
    queue.send_many([b"x"] * 2)
    with pytest.raises(shmpool.Full, match="lane of queue") as refused:
        queue.send_many([b"x"] * 2, timeout=0)
    assert 1 == refused.value.sent
    assert queue.full()
    with pytest.raises(shmpool.Full, match=r"lane of queue 'q' is full.* 3 of its 10"):
        queue.send(b"y", timeout=0)
    assert not in_another_thread(queue.full)
    in_another_thread(lambda: queue.send(b"z", timeout=0))
    assert 4 == len(queue)
    with pytest.raises(
        shmpool.Full, match="burst has 4 buffers; queue 'q' takes up to 3 at once, a lane's share"
    ):
        queue.put_many(queue.pool.alloc_many(4))
    assert Counter({b"x": 3, b"z": 1}) == Counter(queue.recv_many(3) + queue.recv_many(3))
    assert queue.empty()
    assert at_rest(queue.pool)


@pytest.mark.parametrize("lanes", [4, "auto"])
@pytest.mark.parametrize("end", ["get", "close", "shutdown"])
def test_an_event_loop_awaits_room_in_a_lane(make_pool: MakePool, lanes: Any, end: str) -> None:
    """aput() goes on when there is room in the thread's lane, and ends with the queue."""
    queue = with_lanes(make_pool, lanes, capacity=8)

    async def put_and_end() -> None:
        while not queue.full():
            await queue.aput(queue.pool.alloc())
        with queue.pool.alloc() as buf:
            task = asyncio.create_task(queue.aput(buf))
            done, _ = await asyncio.wait([task], timeout=0.05)
            assert not done
            if end == "get":
                (await queue.aget()).free()
                await task
                return
            queue.close() if end == "close" else queue.shutdown()
            with pytest.raises(shmpool.PoolClosed if end == "close" else shmpool.ShutDown):
                await task

    asyncio.run(asyncio.wait_for(put_and_end(), DEADLINE_S))


def test_a_waiting_get_finds_every_lane(make_pool: MakePool, eventually: Eventually) -> None:
    """A get that sleeps is woken by a put into any lane."""
    queue = with_lanes(make_pool)
    for sleeps in range(1, 9):
        got: list[bytes] = []
        thread = threading.Thread(target=lambda got=got: got.append(queue.recv()))
        thread.start()
        eventually(lambda n=sleeps: queue.pool.stats().counters["sleep"] >= n)
        in_another_thread(lambda: queue.send(b"x"))  # each thread has the next lane
        join(thread)
        assert [b"x"] == got


def test_no_lane_is_left_behind(make_pool: MakePool) -> None:
    """One consumer takes from every lane, though it never finds its own empty."""
    queue = with_lanes(make_pool, lanes=8, capacity=8 * 128)
    all_have_one = threading.Barrier(8)  # the next thread would get the lane of one that ended

    def fill(n: int) -> None:
        queue.send_many([b"%d" % n] * 64)
        all_have_one.wait()

    queue.send_many([b"0"] * 64)
    threads = [threading.Thread(target=fill, args=(n,)) for n in range(1, 8)]
    for thread in threads:
        thread.start()
    all_have_one.wait()
    for thread in threads:
        join(thread)
    seen: Counter[bytes] = Counter()
    for _ in range(3 * 8 * 2 * 32):
        message = queue.recv(timeout=0)
        seen[message] += 1
        # This thread's lane gets as many as are taken from it.
        if message == b"0":
            queue.send(b"0", timeout=0)
    assert set(seen) == {b"%d" % lane for lane in range(8)}
    assert all(64 == seen[b"%d" % lane] for lane in range(1, 8))


def test_the_end_wakes_all(make_pool: MakePool, eventually: Eventually) -> None:
    """shutdown() ends puts into every lane, those that wait too; gets drain all lanes."""
    queue = with_lanes(make_pool, capacity=8)
    raised: list[str] = []

    def fill() -> None:
        try:
            for i in range(3):
                queue.send(b"%d" % i)
        except shmpool.ShutDown as error:
            raised.append(str(error))

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(queue) == 8 and queue.pool.stats().counters["sleep"] >= 4)
    queue.shutdown()
    for thread in threads:
        join(thread)
    assert 4 == len(raised)
    assert queue.ended
    assert Counter({b"0": 4, b"1": 4}) == Counter(queue.recv() for _ in range(8))
    with pytest.raises(shmpool.ShutDown):
        queue.recv()


KILLED = """
    import sys
    import shmpool

    pool = shmpool.Pool.attach(sys.argv[1])
    queue = pool.queue("q")
    kept = [queue.get() for _ in range(int(sys.argv[2]))]
    print(sorted(bytes(buf) for buf in kept), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("on_death", ["free", "requeue", "dead-letter"])
def test_a_killed_consumer(make_pool: MakePool, start: Start, on_death: Any) -> None:
    """What it had taken goes where on_death says: back into any lane."""
    pool = make_pool(buffer_size=64, capacity=256, prealloc=256, queues=20)
    dead = pool.create_queue("dead", capacity=16, lanes=2)
    queue = pool.create_queue("q", capacity=16, lanes=4, on_death=on_death, dead_letter=dead)
    for i in range(4):
        in_another_thread(lambda n=i: queue.send(b"%d" % n))
    child = start(KILLED, pool.name, 4)
    assert "[b'0', b'1', b'2', b'3']" == child.line()
    child.kill()
    pool.recover()
    where = {"free": None, "requeue": queue, "dead-letter": dead}[on_death]
    if where is None:
        assert at_rest(pool)
        return
    assert (4, 4) == (len(where), sum(len(q) for q in (queue, dead)))
    bufs = [where.get() for _ in range(4)]
    assert [b"0", b"1", b"2", b"3"] == sorted(bytes(buf) for buf in bufs)
    assert {1} == {buf.redelivered for buf in bufs}
    for buf in bufs:
        buf.nack()
    assert (4, True) == (len(where), pool.audit().ok)
    where.drain()
    assert at_rest(pool)


def test_messages_that_come_back(make_pool: MakePool) -> None:
    """nack, requeue, peek, redrive and unfinished messages know the queue, not its lanes."""
    pool = make_pool(buffer_size=64, capacity=256, prealloc=256, queues=20)
    letters = pool.create_queue("letters", capacity=8)
    queue = pool.create_queue(
        "q", capacity=16, lanes=4, on_death="requeue", dead_letter=letters, max_redeliveries=1
    )
    for i in range(4):
        in_another_thread(lambda n=i: queue.send(b"%d" % n))
    assert [b"0", b"1", b"2", b"3"] == sorted(m.payload for m in queue.peek(9))
    assert 4 == queue._unfinished(False, 0)
    for _ in range(2):
        for _ in range(4):
            buf = queue.get()
            assert queue.number == buf.queue_number
            queue.requeue(buf)
    assert (0, 4, 0) == (len(queue), len(letters), queue._unfinished(False, 0))
    assert {"q"} == {m.origin for m in letters.peek(9)}
    assert 4 == letters.redrive()
    assert (4, 0) == (len(queue), len(letters))
    assert 4 == queue.drain()
    assert at_rest(pool)


@pytest.mark.skipif(lanes_of("auto", 1024) == 1, reason="one core: nobody contends")
def test_lanes_are_added_where_producers_contend(make_pool: MakePool, start: Start) -> None:
    """ "auto" begins with one lane, which has all the capacity. If producers lose many
    compare-and-swaps there are more, which share it out."""
    queue = with_lanes(make_pool, "auto")
    with View(queue.pool.name) as view:
        queue.send_many([b"0 0"] * 1024)
        assert [1024] == [lane.capacity for lane in view.queues()[0].lane_stats]
        queue.drain()
        for child in (children := [start(CONTENDER, queue.pool.name) for _ in range(4)]):
            assert "ready" == child.line()
        while len(view.queues()[0].lane_stats) == 1:
            assert all(child.process.poll() is None for child in children)
        lanes = view.queues()[0].lane_stats
        assert {1024 // len(lanes)} == {lane.capacity for lane in lanes}
    queue.shutdown()
    for child in children:
        assert "True" == child.line()


CONTENDER = """
    import sys
    import shmpool

    with shmpool.Pool.attach(sys.argv[1]) as pool:
        queue = pool.queue("q")
        print("ready", flush=True)
        try:
            while True:
                queue.send(b"x")
                queue.recv()
        except shmpool.ShutDown:
            print(queue.ended, flush=True)
"""


def test_what_is_shown(make_pool: MakePool) -> None:
    """One entry in the figures, whose lanes `describe` lists."""
    queue = with_lanes(make_pool, capacity=16)
    queue.send_many([b"x"] * 3)
    assert ["q"] == [q.name for q in queue.pool.queues()]
    with View(queue.pool.name) as view:
        (stats,) = view.queues()
        assert (16, 3, 3, 0) == (stats.capacity, stats.depth, stats.enqueued, stats.dequeued)
        assert [3, 0, 0, 0] == [lane.depth for lane in stats.lane_stats]
        assert [4, 4, 4, 4] == [lane.capacity for lane in stats.lane_stats]
        assert 4 == stats.lanes
        assert [b"x"] * 2 == [m.payload for m in view.peek("q", 2, 9)]
    shown = shmpool_command("describe", queue.pool.name)
    assert ["q", "0", "3", "4", "3", "0", "0"] in [line.split() for line in shown.splitlines()]
    found = json.loads(shmpool_command("describe", queue.pool.name, "--json"))
    assert 4 == len(found["queues"][0]["lane_stats"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lanes": 0}, 'lanes is 0; it must be from 1 to 64, or "auto"'),
        ({"lanes": 65}, "lanes is 65; it must be from 1 to 64"),
        ({"lanes": "many"}, "lanes is 'many'; it must be from 1 to 64"),
        ({"lanes": 2, "producers": "single"}, 'lanes is 2; they need producers="multi"'),
        (
            {"lanes": "auto", "consumers": "single"},
            "lanes is 'auto'; they need consumers=\"multi\"",
        ),
        ({"lanes": 8, "capacity": 4}, "lanes is 8; they share out the capacity, 4"),
    ],
)
def test_refusals(pool: shmpool.Pool, options: dict[str, Any], message: str) -> None:
    with pytest.raises(shmpool.InvalidArgument) as refused:
        pool.create_queue("q", **{"capacity": 64, **options})
    assert message in str(refused.value)
    with pytest.raises(TypeError, match=r'^lanes is 1\.5; it must be an int, or "auto"$'):
        pool.create_queue("q", capacity=64, lanes=1.5)  # type: ignore[arg-type]


def test_each_lane_takes_one_of_the_queues(make_pool: MakePool) -> None:
    """Too few are an error that leaves nothing; "auto" makes do with what is left."""
    pool = make_pool(buffer_size=64, capacity=64, queues=4)
    with pytest.raises(shmpool.LimitReached, match="queue slots"):
        pool.create_queue("q", capacity=64, lanes=4)
    assert [] == pool.queues()
    queue = pool.create_queue("q", capacity=64, lanes=3)
    assert 3 == queue.lanes
    with pytest.raises(shmpool.LimitReached):
        pool.create_queue("r", capacity=64)
    other = make_pool(buffer_size=64, capacity=64, queues=3)
    other.create_queue("p", capacity=64)
    assert 1 == other.create_queue("q", capacity=4096, lanes="auto").lanes
