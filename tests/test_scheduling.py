# SPDX-License-Identifier: Apache-2.0
"""The order of work in the daemon: a pool that takes long delays no other pool."""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from conftest import DEADLINE_S, Child, Eventually, MakePool, StartDaemon

import shmpool
from shmpool import errors
from shmpool.rpc.protocol import AnyRequest, RunAudit
from shmpool.service.scheduling import SHARE, StepRunner, TimeBudgets
from tests.fuzz_words import Segment


class Clock:
    """A clock, and the processor time that a thread has used."""

    now = 100.0
    used = 0.0


def budgets(clock: Clock) -> TimeBudgets:
    return TimeBudgets(lambda: clock.now, lambda: clock.used)


def test_a_slow_pool_waits() -> None:
    """A pool whose inspection took long is inspected later: all pools share SHARE of the time."""
    clock = Clock()
    turns = budgets(clock)
    for pool, took in (("quick", 0.0), ("slow", 0.5)):
        assert turns.pause(pool) <= 0
        with turns.use(pool):
            clock.used += took
    assert turns.pause("quick") <= 0 < turns.pause("slow")
    clock.now += 0.5 * 2 / SHARE - 0.01
    assert turns.pause("slow") > 0
    clock.now += 0.02
    assert turns.pause("slow") <= 0


def test_a_slow_pool_is_reported_once() -> None:
    """slowed() returns a pause that is longer than the period, once until keep() drops the pool."""
    clock = Clock()
    turns = budgets(clock)

    def inspect(took: float) -> float | None:
        with turns.use("slow"):
            clock.used += took
        return turns.slowed("slow", 1.0)

    assert [None, 2 / SHARE, None] == [inspect(0.4 * SHARE), inspect(2.0), inspect(2.0)]
    turns.keep([])
    assert turns.pause("slow") <= 0
    assert 2 / SHARE == inspect(2.0)


def test_an_error_uses_the_turn_too() -> None:
    """A block that ends with an exception is charged to the pool too."""
    clock = Clock()
    turns = budgets(clock)
    with pytest.raises(errors.SegmentInvalid), turns.use("slow"):  # noqa: PT012 - that takes time
        clock.used += 1.0
        raise errors.SegmentInvalid("damaged")
    assert turns.pause("slow") > 0


class Steps:
    """A handler whose requests take a given number of steps. It lists the steps that were made,
    and counts the requests in progress at a time: of one name, and of all."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.running: list[str] = []
        self.most = self.most_at_once = 0

    def steps(self, request: AnyRequest, limit: float | None) -> Generator[None, None, Any]:
        assert isinstance(request, RunAudit)
        name, _, steps = request.pool.partition("-")
        self.running.append(name)
        try:
            for _ in range(int(steps)):
                self.made.append(name)
                self.most = max(self.most, self.running.count(name))
                self.most_at_once = max(self.most_at_once, len(self.running))
                yield
        finally:
            self.running.remove(name)
        if name == "missing":
            raise errors.PoolNotFound("missing")
        return name


def in_a_thread(threads: ThreadPoolExecutor) -> Callable[..., Awaitable[Any]]:
    """Makes calls in a thread. For use in an event loop."""
    return partial(asyncio.get_running_loop().run_in_executor, threads)


def test_requests_take_turns() -> None:
    """A short request is answered while a long one of another pool is in progress."""
    handler = Steps()

    async def ask() -> list[str]:
        with ThreadPoolExecutor(1) as threads:
            turns = StepRunner(handler, in_a_thread(threads), 9)  # type: ignore[arg-type]
            ends = [turns.run(RunAudit(pool)) for pool in ("long-1000", "short-2")]
            first, rest = await asyncio.wait(
                map(asyncio.ensure_future, ends), return_when=asyncio.FIRST_COMPLETED
            )
            assert len(handler.made) < 20
            return [task.result() for task in (*first, *rest) if await task]

    assert ["short", "long"] == asyncio.run(ask())


def test_a_pool_has_one_turn() -> None:
    """A pool has one request in progress, however many are waiting."""
    handler = Steps()

    async def ask() -> None:
        with ThreadPoolExecutor(1) as threads:
            turns = StepRunner(handler, in_a_thread(threads), 9)  # type: ignore[arg-type]
            many = [asyncio.ensure_future(turns.run(RunAudit("long-50"))) for _ in range(20)]
            await turns.run(RunAudit("short-2"))
            assert handler.made.count("long") < 20
            await asyncio.gather(*many)
        assert not turns._locks

    asyncio.run(ask())


def test_callers_that_call_again_wait_too() -> None:
    """A caller that calls again at once does not run beside the one that waited for it."""
    handler = Steps()

    async def ask() -> None:
        with ThreadPoolExecutor(1) as threads:
            turns = StepRunner(handler, in_a_thread(threads), 9)  # type: ignore[arg-type]

            async def caller() -> None:
                for _ in range(5):
                    await turns.run(RunAudit("long-5"))

            await asyncio.gather(*(caller() for _ in range(4)))
        assert not turns._locks

    asyncio.run(ask())
    assert (4 * 5 * 5, 1) == (len(handler.made), handler.most)


def test_failed_requests_leave_no_lock() -> None:
    """Requests that fail take no memory of the daemon afterwards."""

    async def ask() -> StepRunner:
        with ThreadPoolExecutor(1) as threads:
            turns = StepRunner(Steps(), in_a_thread(threads), 9)  # type: ignore[arg-type]
            for steps in range(5):
                with pytest.raises(errors.PoolNotFound):
                    await turns.run(RunAudit(f"missing-{steps}"))
        return turns

    turns = asyncio.run(ask())
    gc.collect()  # the traceback of an error has the lock
    assert not turns._locks


def test_few_requests_are_in_progress() -> None:
    """No more requests than places are in progress, and each of them is answered."""
    handler = Steps()

    async def ask() -> None:
        with ThreadPoolExecutor(2) as threads:
            turns = StepRunner(handler, in_a_thread(threads), 2)  # type: ignore[arg-type]
            many = [f"pool{n}-5" for n in range(8)]
            answers = await asyncio.gather(*(turns.run(RunAudit(pool)) for pool in many))
        assert [pool.partition("-")[0] for pool in many] == answers

    asyncio.run(ask())
    assert 2 == handler.most_at_once


def test_a_cancelled_request_leaves_its_place() -> None:
    """A request whose client has gone ends with the step that it is in, and another one begins."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Steps):
        """The first step of a pool "slow" waits for go_on."""

        def steps(self, request: AnyRequest, limit: float | None) -> Generator[None, None, Any]:
            assert isinstance(request, RunAudit)
            made = super().steps(request, limit)
            if request.pool.startswith("slow"):
                begun.set()
                go_on.wait(DEADLINE_S)
            return (yield from made)

    handler = Slow()

    async def ask() -> None:
        with ThreadPoolExecutor(1) as threads:
            turns = StepRunner(handler, in_a_thread(threads), 1)  # type: ignore[arg-type]
            slow = asyncio.ensure_future(turns.run(RunAudit("slow-1000")))
            await asyncio.to_thread(begun.wait, DEADLINE_S)
            slow.cancel()
            await asyncio.wait([slow])
            next_one = asyncio.ensure_future(turns.run(RunAudit("next-2")))
            await asyncio.sleep(0)
            assert [] == handler.made
            go_on.set()
            assert "next" == await next_one

    asyncio.run(ask())
    assert ["slow", "next", "next"] == handler.made
    assert [] == handler.running


CRAFTED = 1 << 18


def craft(pool: shmpool.Pool) -> None:
    """Corrupts every owner word and puts all members into an operation: the longest walk."""
    segment = Segment(f"/dev/shm/shmpool.{pool.name}")
    for rows, name, value in (
        (segment.buffers, "buffer.owner", 1 << 63 | 5),
        (segment.members, "member.op", 7 << 29 | 3 << 12 | 5 << 2 | 1),
        (segment.members, "member.identity", 1 << 62 | 4194300 << 40 | 1),  # dead
    ):
        (row,) = [row for row in rows if row.name == name]
        for i in range(row.count):
            segment.write(row.word(i), value)
    segment.close()


KILLED = """
    import shmpool, sys
    pool = shmpool.Pool.attach(sys.argv[1])
    held = pool.alloc_many(3)
    print("held", flush=True)
    input()
"""


@pytest.mark.slow
def test_a_crafted_pool_delays_no_other(
    start_daemon: StartDaemon,
    make_pool: MakePool,
    start: Callable[..., Child],
    eventually: Eventually,
) -> None:
    """A healthy pool is audited, inspected and recovered while clients audit a crafted one."""
    crafted = make_pool(buffer_size=64, capacity=CRAFTED, prealloc=CRAFTED, members=4095)
    healthy = make_pool(prealloc=64)
    craft(crafted)
    daemon = start_daemon(options="interval = 0.05")
    with shmpool.Client(daemon.socket, timeout=60) as client:
        eventually(lambda: sum(pool.watched for pool in client.list()) == 2)
        asked = [start(ASK, daemon.socket, crafted.name) for _ in range(4)]
        for asker in asked:
            assert "asking" == asker.line()
        for _ in range(3):
            child = start(KILLED, healthy.name)
            assert "held" == child.line()
            os.kill(child.pid, signal.SIGKILL)
            child.process.wait()
            eventually(lambda: client.stats(healthy.name).buffers.held == 0)
            assert client.audit(healthy.name).ok
            assert [] == client.holders(healthy.name)
        assert 3 == client.stats(healthy.name).recoveries.members
        assert not client.audit(crafted.name).ok
        for asker in asked:
            asker.kill()
    assert "Traceback" not in daemon.output()


ASK = """
    import shmpool, sys
    with shmpool.Client(sys.argv[1], timeout=600) as client:
        print("asking", flush=True)
        while True:
            client.audit(sys.argv[2])
"""
