# SPDX-License-Identifier: Apache-2.0
"""Awaiting queues in event loops: who gets what, and that no cancellation, kill or end of a loop
loses or doubles a message."""

import asyncio
import gc
import os
import random
import select
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop
from conftest import Child, Eventually, MakePool, at_rest, descriptors
from test_seccomp import FILTER, NUMBERS

import shmpool
from shmpool import awaiting

Start = Callable[..., Child]
Run = Callable[..., str]
RunLoop = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run_loop(request: pytest.FixtureRequest) -> RunLoop:
    """Runs a coroutine in a new loop of each kind."""
    return {"asyncio": asyncio.run, "uvloop": uvloop.run}[request.param]


async def begun(*calls: Awaitable[Any]) -> list["asyncio.Task[Any]"]:
    """Tasks of these calls, each of which waits now."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    return tasks


def test_each_call(queue: shmpool.AlfQueue, run_loop: RunLoop) -> None:
    """Each awaited call does what its blocking one does, when it need not wait."""
    pool = queue.pool

    async def main() -> None:
        await queue.asend(b"sent")
        buf = await pool.aalloc()
        buf.write(b"put")
        await queue.aput(buf)
        burst = pool.alloc_many(2)
        await queue.aput_many(burst)
        await queue.aput_many([pool.alloc(), pool.alloc_many(2)])
        assert buf.released
        with pytest.raises(shmpool.BufferReleased):
            len(burst)
        assert b"sent" == await queue.arecv()
        with await queue.aget() as got:
            assert b"put" == bytes(got)
        with await queue.aget_many(3) as some:
            assert 3 == len(some)
        assert [b"", b""] == await queue.arecv_many(5)

    run_loop(main())
    assert at_rest(pool)


def test_wakes_after_each_kind_of_put(make_pool: MakePool, start: Start, run_loop: RunLoop) -> None:
    """A task that waits gets what another process sends later, and its room, and its buffer."""
    pool = make_pool(capacity=4)
    work, back = pool.create_queue("work", capacity=2), pool.create_queue("back", capacity=2)
    child = start(
        """
        import sys
        import shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        work, back = pool.queue("work"), pool.queue("back")
        for line in sys.stdin:
            match line.strip():
                case "send": back.send(b"hello")
                case "recv": work.recv()
                case "hold": held = pool.alloc_many(2)
                case "free": held.free()
            print(flush=True)
        """,
        pool.name,
    )

    def tell(word: str) -> None:
        child.send(word)
        child.line()

    async def main() -> None:
        for call in (back.arecv, back.aget, lambda: back.aget_many(2), lambda: back.arecv_many(2)):
            (task,) = await begun(call())
            tell("send")
            got = await task
            if isinstance(got, shmpool.Buffer | shmpool.Burst):
                got.free()
        work.send_many([b"one", b"two"])
        (task,) = await begun(work.asend(b"three"))
        tell("recv")
        await task
        burst = pool.alloc_many(2)
        (task,) = await begun(work.aput_many(burst))
        tell("recv")
        assert len(burst)
        tell("recv")
        await task
        work.drain()
        tell("hold")
        held = pool.alloc_many(2)
        tasks = await begun(pool.aalloc(), work.asend(b"four"))
        tell("free")
        (await tasks[0]).free()
        await tasks[1]
        assert b"four" == work.recv()
        held.free()

    run_loop(main())
    child.kill()
    assert at_rest(pool)


# What a container may refuse: io_uring, futex_waitv(2) too.
REFUSED: dict[str, tuple[int, ...]] = {
    "nothing": (),
    "io_uring": (425,),
    "futex_waitv": (425, 449),
}
UNDER_FILTER = """
import asyncio
pool = shmpool.Pool.attach(sys.argv[1])
queues = [pool.queue(f"q{i}") for i in range(4)]
calls = tuple(map(int, sys.argv[2].split()))
if calls:
    refuse(errno.EPERM, *calls)

async def main():
    tasks = [asyncio.ensure_future(queue.arecv()) for queue in queues]
    while True:
        print("ready", len(os.listdir("/proc/self/task")), flush=True)
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for i, task in enumerate(tasks):
            if task in done:
                if task.result() == b"end":
                    return
                tasks[i] = asyncio.ensure_future(queues[i].arecv())
                await asyncio.sleep(0)
                print(i, task.result().decode(), flush=True)

asyncio.run(main())
print("over", flush=True)
print([queue.name for queue in shmpool.wait(queues)], flush=True)
"""


@pytest.mark.skipif(os.uname().machine not in NUMBERS, reason="numbers of system calls")
@pytest.mark.parametrize("refused", REFUSED)
def test_where_system_calls_are_refused(pool: shmpool.Pool, start: Start, refused: str) -> None:
    """A process without io_uring, or without futex_waitv(2) too, is woken by each of its queues."""
    queues = [pool.create_queue(f"q{i}", capacity=8) for i in range(4)]
    child = start(FILTER + UNDER_FILTER, pool.name, " ".join(map(str, REFUSED[refused])))
    before = child.line()
    if before == "no seccomp":
        pytest.skip("seccomp filters are not allowed here")
    for i in (0, 3, 1, 2, 2, 0):
        queues[i].send(f"hello {i}".encode())
        assert f"{i} hello {i}" == child.line()
        assert child.line().startswith("ready")
    queues[1].send(b"end")
    assert "over" == child.line()
    queues[2].send(b"waits")
    assert "['q2']" == child.line()
    child.end()


def test_first_waiter_first(queue: shmpool.AlfQueue, run_loop: RunLoop) -> None:
    """The tasks of a loop get messages, and room, in the order in which they asked."""

    async def main() -> None:
        tasks = await begun(*(queue.arecv() for _ in range(20)))
        for i in range(20):
            await queue.asend(b"%d" % i)
        assert [b"%d" % i for i in range(20)] == await asyncio.gather(*tasks)
        queue.send_many([b"full"] * 8)
        tasks = await begun(*(queue.asend(b"%d" % i) for i in range(4)))
        many = await begun(queue.aput_many(queue.pool.alloc_many(4)))
        after = await begun(queue.asend(b"last"))
        queue.drain()
        await asyncio.gather(*tasks, *many)
        assert [b"0", b"1", b"2", b"3"] == [await queue.arecv() for _ in range(4)]
        await asyncio.gather(*after)
        assert [b"", b"", b"", b"", b"last"] == await queue.arecv_many(8)

    run_loop(main())


@pytest.mark.parametrize("limit", ["cancel", "timeout", "wait_for"])
def test_a_cancelled_call_takes_nothing(
    queue: shmpool.AlfQueue, run_loop: RunLoop, limit: str
) -> None:
    """A get that is cancelled, at any time, leaves the message for the next one; a put keeps its
    Buffer."""
    pool = queue.pool

    async def give_up(call: Coroutine[Any, Any, Any], seconds: float) -> None:
        if limit == "cancel":
            task = asyncio.ensure_future(call)
            await asyncio.sleep(seconds)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        elif limit == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(seconds):
                    await call
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call, seconds)

    async def main() -> None:
        await give_up(queue.aget(), 0.01)
        await give_up(queue.aget_many(5), 0.01)
        queue.send(b"hello")
        assert b"hello" == await queue.arecv()
        held = pool.alloc_many(pool.capacity - 8)
        queue.send_many([b"full"] * 8)
        await give_up(pool.aalloc(), 0.01)
        held.free()
        buf, burst = pool.alloc(), pool.alloc_many(3)
        await give_up(queue.aput(buf), 0.01)
        await give_up(queue.aput_many(burst), 0.01)
        await give_up(queue.asend(b"never"), 0.01)
        assert not buf.released
        assert len(burst)
        assert [b"full"] * 8 == await queue.arecv_many(9)
        buf.free()
        burst.free()

    run_loop(main())
    assert at_rest(pool)


def test_a_turn_is_passed_on(queue: shmpool.AlfQueue, run_loop: RunLoop) -> None:
    """A waiter that is cancelled when it has its turn passes it to the next one."""

    async def main() -> None:
        first, second, third = await begun(*(queue.arecv() for _ in range(3)))
        hub = awaiting.hub()
        (line,) = hub._lines.values()
        queue.send(b"hello")
        assert select.select([hub.waker.fd], [], [], 60)[0]
        hub.turns()  # as the loop would call it now
        assert 1 == line.turns
        assert first.cancel()
        assert b"hello" == await second
        assert first.cancelled()
        queue.send(b"again")
        assert b"again" == await third

    run_loop(main())


def test_100000_cancellations(make_pool: MakePool, start: Start, run_loop: RunLoop) -> None:
    """Of 100,000 calls of which most are cancelled, none loses or doubles a message of another
    process."""
    pool = make_pool(capacity=1024)
    queue = pool.create_queue("work", capacity=64)
    child = start(
        """
        import sys
        import shmpool
        queue = shmpool.Pool.attach(sys.argv[1]).queue("work")
        for i in range(5000):
            queue.send(b"%d" % i)
        """,
        pool.name,
    )
    got: list[int] = []

    async def main() -> None:
        chance, calls, tasks = random.Random(1), 0, set[asyncio.Task[bytes]]()
        while calls < 100_000 or len(got) < 5000:
            while len(tasks) < 200:
                tasks.add(asyncio.ensure_future(queue.arecv()))
                calls += 1
            for task in chance.sample(list(tasks), 150):
                task.cancel()
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            got.extend(int(task.result()) for task in done if not task.cancelled())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        got.extend(int(task.result()) for task in tasks if not task.cancelled())

    run_loop(main())
    child.end()
    assert list(range(5000)) == sorted(got)
    assert at_rest(pool)


def test_killed_producers(make_pool: MakePool, start: Start, run_loop: RunLoop) -> None:
    """Producers are killed while tasks of a loop wait, many of which are cancelled.

    Of each producer all messages up to its last one arrive, once.
    """
    pool = make_pool(capacity=256)
    queue = pool.create_queue("work", capacity=16)
    script = """
    import itertools, sys
    import shmpool
    queue = shmpool.Pool.attach(sys.argv[1]).queue("work")
    for i in itertools.count():
        queue.send(f"{sys.argv[2]} {i}".encode())
        if i == 200:
            print("going", flush=True)
    """
    got: dict[str, list[int]] = {}

    async def consumer() -> None:
        while True:
            try:
                async with asyncio.timeout(random.random() / 500):
                    who, number = (await queue.arecv()).decode().split()
            except TimeoutError:
                continue
            got.setdefault(who, []).append(int(number))

    async def main() -> None:
        consumers = [asyncio.ensure_future(consumer()) for _ in range(8)]
        for i in range(6):
            child = start(script, pool.name, i)
            await asyncio.to_thread(child.line)
            os.kill(child.pid, signal.SIGKILL)
            await asyncio.to_thread(child.process.wait)
            pool.recover()
        while len(queue):
            await asyncio.sleep(0.001)
        for task in consumers:
            task.cancel()
        await asyncio.wait(consumers)

    run_loop(main())
    assert 6 == len(got)
    for numbers in got.values():
        assert list(range(len(numbers))) == sorted(numbers)
        assert len(numbers) > 200
    assert at_rest(pool)


def test_10000_waiters(make_pool: MakePool, start: Start, run_loop: RunLoop) -> None:
    """10,000 tasks of one loop wait with one thread more and two descriptors, and use next to no
    processor time; each gets one message of another process, in order."""
    pool = make_pool(capacity=256)
    queue = pool.create_queue("work", capacity=64)
    child = start(
        """
        import sys
        import shmpool
        queue = shmpool.Pool.attach(sys.argv[1]).queue("work")
        input()
        for i in range(10_000):
            queue.send(b"%d" % i)
        """,
        pool.name,
    )

    async def main() -> None:
        threads = len(os.listdir("/proc/self/task"))
        files = descriptors(os.getpid())
        tasks = await begun(*(queue.arecv() for _ in range(10_000)))
        assert len(os.listdir("/proc/self/task")) <= threads + 1
        assert descriptors(os.getpid()) <= files + 3
        before, began = time.process_time(), time.monotonic()
        await asyncio.sleep(1)
        assert time.process_time() - before < 0.05 * (time.monotonic() - began)
        child.send()
        assert [b"%d" % i for i in range(10_000)] == await asyncio.gather(*tasks)

    run_loop(main())
    child.end()


def test_two_loops_and_a_blocking_call(pool: shmpool.Pool, run_loop: RunLoop) -> None:
    """Two loops of a process, in two threads, and a thread that blocks share a queue: each message
    goes to one of them."""
    queue = pool.create_queue("work", capacity=64)
    got: list[list[bytes]] = [[], [], []]

    async def consume(mine: list[bytes]) -> None:
        async for burst in queue.bursts(1):
            with burst:
                mine.extend(bytes(buf) for buf in burst)

    def block() -> None:
        try:
            while True:
                got[2].append(queue.recv())
        except shmpool.ShutDown:
            pass

    threads = [threading.Thread(target=run_loop, args=(consume(got[i]),)) for i in (0, 1)]
    threads.append(threading.Thread(target=block))
    for thread in threads:
        thread.start()
    for i in range(500):
        queue.send(b"%d" % i)
        if i % 50 == 0:
            time.sleep(0.001)
    queue.shutdown()
    for thread in threads:
        thread.join()
    assert sorted(b"%d" % i for i in range(500)) == sorted(got[0] + got[1] + got[2])


def test_the_end_of_a_queue(queue: shmpool.AlfQueue, run_loop: RunLoop) -> None:
    """shutdown() ends calls that await: gets, once the queue is empty, and puts. bursts() ends."""

    async def main() -> None:
        gets = await begun(queue.aget(), queue.arecv(), queue.aget_many(3))
        queue.shutdown()
        for task in gets:
            with pytest.raises(shmpool.ShutDown):
                await task
        async for _ in queue.bursts():
            pytest.fail("a burst of an empty queue")
        with pytest.raises(shmpool.ShutDown):
            await queue.asend(b"late")

    run_loop(main())


def test_the_end_of_a_full_queue(queue: shmpool.AlfQueue, run_loop: RunLoop) -> None:
    """shutdown() of a full queue ends the puts that await room, and the gets take what is there."""

    async def main() -> None:
        queue.send_many([b"full"] * 8)
        buf = queue.pool.alloc()
        puts = await begun(queue.asend(b"x"), queue.aput(buf))
        queue.shutdown()
        for task in puts:
            with pytest.raises(shmpool.ShutDown):
                await task
        buf.free()
        assert [b"full"] * 8 == await queue.arecv_many(8)

    run_loop(main())


def test_a_pool_is_closed(make_pool: MakePool, run_loop: RunLoop) -> None:
    """close() of a pool ends all calls that await it with PoolClosed; other pools go on."""
    pool, other = make_pool(), make_pool()
    queue, stays = pool.create_queue("q", capacity=2), other.create_queue("q", capacity=2)

    async def main() -> None:
        gets = await begun(*(queue.arecv() for _ in range(5)))
        queue_of_other = await begun(stays.arecv())
        pool.close()
        for task in gets:
            with pytest.raises(shmpool.PoolClosed):
                await task
        with pytest.raises(shmpool.PoolClosed):
            await queue.aget()
        stays.send(b"hello")
        assert b"hello" == await queue_of_other[0]

    run_loop(main())


def test_a_pool_is_replaced(pool: shmpool.Pool, run_loop: RunLoop) -> None:
    """Once its name stands for another pool, calls that await it raise PoolReplaced."""
    queue = pool.create_queue("q", capacity=2)

    async def main() -> None:
        gets = await begun(*(queue.arecv() for _ in range(5)))
        shmpool.Pool.create(pool.name, buffer_size=256, capacity=64, replace=True).close()
        for task in gets:
            with pytest.raises(shmpool.PoolReplaced):
                await task

    run_loop(main())


def test_refusals(make_pool: MakePool, run_loop: RunLoop) -> None:
    """What can never succeed raises at once."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=4)
    reader = shmpool.Pool.attach(pool.name, readonly=True)

    async def main() -> None:
        burst = pool.alloc_many(5)
        with pytest.raises(shmpool.Full):
            await queue.aput_many(burst)
        burst.free()
        with pytest.raises(shmpool.BufferReleased):
            await queue.aput_many(burst)
        with pytest.raises(shmpool.InvalidArgument):
            await queue.aget_many(0)
        with pytest.raises(shmpool.PayloadTooLarge):
            await queue.asend(bytes(256 * 65))
        with pytest.raises(shmpool.AccessDenied):
            await reader.queue("q").aget()
        with pytest.raises(shmpool.AccessDenied):
            await reader.aalloc()

    run_loop(main())
    reader.close()
    assert at_rest(pool)


def test_a_killed_workers_message(
    make_pool: MakePool, start: Start, run_loop: RunLoop, eventually: Eventually
) -> None:
    """A task that waits gets what a killed consumer had got, and nobody calls recover()."""
    pool = make_pool()
    queue = pool.create_queue("jobs", capacity=8, on_death="requeue")
    queue.send(b"job")
    child = start(
        """
        import sys
        import shmpool
        job = shmpool.Pool.attach(sys.argv[1]).queue("jobs").get()
        print(flush=True)
        input()
        """,
        pool.name,
    )
    child.line()

    async def main() -> None:
        (task,) = await begun(queue.arecv())
        await asyncio.sleep(0.3)  # the thread sleeps; nobody is dead
        child.kill()
        assert b"job" == await task

    run_loop(main())


def test_1000_loops(queue: shmpool.AlfQueue, run_loop: RunLoop, eventually: Eventually) -> None:
    """Loops that are opened and closed, some with tasks that still wait, leave no descriptor."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.arecv(), 0)
        await begun(queue.arecv(), queue.aget_many(2))

    run_loop(main())
    before = descriptors(os.getpid())
    for _ in range(1000):
        run_loop(main())
    eventually(lambda: descriptors(os.getpid()) <= before)
    queue.send(b"hello")
    assert b"hello" == queue.recv()


def test_a_loop_closed_under_its_tasks(queue: shmpool.AlfQueue) -> None:
    """A loop that is closed while tasks wait loses nothing: other consumers get the messages."""
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(queue.arecv()) for _ in range(3)]
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    tasks.clear()
    del task
    gc.collect()
    queue.send(b"hello")
    assert b"hello" == asyncio.run(queue.arecv())


def test_fork_while_tasks_wait(queue: shmpool.AlfQueue, run_loop: RunLoop) -> None:
    """A child that is forked while tasks wait has a loop and waiters of its own, and takes nothing
    from its parent's."""
    back = queue.pool.create_queue("back", capacity=8)

    async def main() -> None:
        (task,) = await begun(queue.arecv())
        pid = os.fork()
        if pid == 0:
            os._exit(in_child(run_loop, back))
        back.send(b"child's")
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert 0 == os.waitstatus_to_exitcode(status)
        assert not task.done()
        queue.send(b"parent's")
        assert b"parent's" == await task

    run_loop(main())


def in_child(run_loop: RunLoop, back: shmpool.AlfQueue) -> int:
    got: list[bytes] = []

    async def child() -> None:
        got.append(await back.arecv())

    asyncio.events._set_running_loop(None)  # that of the parent
    thread = threading.Thread(target=lambda: run_loop(child()))
    thread.start()
    thread.join()
    return 0 if got == [b"child's"] else 1


@pytest.mark.parametrize("ends", ["return", "raise SystemExit(0)", "os._exit(0)"])
def test_the_interpreter_ends(pool: shmpool.Pool, run: Run, ends: str) -> None:
    """A program ends in spite of tasks that wait, silently, and the pool is as before."""
    pool.create_queue("q", capacity=8)
    run(
        f"""
        import asyncio, os, sys
        import shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        queue = pool.queue("q")
        async def main():
            asyncio.ensure_future(queue.arecv())
            asyncio.ensure_future(pool.queue("q").aget())
            await asyncio.sleep(0.01)
            {ends}
        asyncio.run(main())
        """,
        pool.name,
    )
    assert at_rest(pool)


def test_a_waiter_is_killed(make_pool: MakePool, start: Start) -> None:
    """A process whose tasks wait is killed: other consumers are woken, and after a recovery a put
    makes no system call."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=8)
    script = """
    import asyncio, sys
    import shmpool
    queue = shmpool.Pool.attach(sys.argv[1]).queue("q")
    async def main():
        tasks = [asyncio.ensure_future(queue.arecv()) for _ in range(10)]
        await asyncio.sleep(0)
        print("waits", flush=True)
        print((await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))[0].pop().result())
    asyncio.run(main())
    """
    killed, lives = start(script, pool.name), start(script, pool.name)
    assert ["waits", "waits"] == [killed.line(), lives.line()]
    killed.kill()
    queue.send(b"hello")
    assert "b'hello'" == lives.line()
    lives.end()
    pool.recover()
    assert at_rest(pool)
