# SPDX-License-Identifier: Apache-2.0
"""Survivors recover by themselves: a call that sleeps gets what a killed process had.

No daemon runs, and the test's own process only reads. How soon a message comes again is measured by
clients/bench/redelivery.py.
"""

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from conftest import DEADLINE_S, Begin, Child, Eventually, MakePool, join

import shmpool
from tests.suspending import suspend

Start = Callable[..., Child]

HOLDER = """
    import signal, sys
    import shmpool
    pool = shmpool.Pool.attach(sys.argv[1])
    queue = pool.queue("jobs")
    held = {takes}
    print("holds", flush=True)
    signal.pause()
"""
SURVIVOR = """
    import sys
    import shmpool
    pool = shmpool.Pool.attach(sys.argv[1])
    queue = pool.queue("jobs")
    mine = pool.alloc()
    print("begins", flush=True)
    print({call}, flush=True)
    sys.stdin.readline()
"""
JOB, BUFFERS = "queue.get()", "pool.alloc_many(15)"
ROLE = "[role := queue.producer(), role.__enter__()]"
# By call: what the process takes that is killed, and what the survivor prints.
WAITS = {
    "queue.recv()": (JOB, "b'job'"),
    "bytes(queue.get())": (JOB, "b'job'"),
    "bytes(queue.get(timeout=600))": (JOB, "b'job'"),
    "len(queue.get_many(4))": (JOB, "1"),
    "queue.recv_many(4)": (JOB, "[b'job']"),
    "len(pool.alloc())": (BUFFERS, "0"),
    "len(pool.alloc_many(4))": (BUFFERS, "4"),
    "queue.send(b'x')": (BUFFERS, "None"),
    "queue.send_many([b'x', b'y'])": (BUFFERS, "None"),
    "queue.wait_producers()": (ROLE, "True"),
}


def sleeps(pool: shmpool.Pool) -> int:
    return pool.stats().counters["sleep"]


def holder(start: Start, pool: shmpool.Pool, takes: str) -> Child:
    child = start(HOLDER.format(takes=takes), pool.name)
    assert "holds" == child.line()
    return child


def survivor(start: Start, pool: shmpool.Pool, call: str) -> Child:
    child = start(SURVIVOR.format(call=call), pool.name)
    assert "begins" == child.line()
    return child


@pytest.mark.parametrize("call", WAITS)
def test_a_call_that_sleeps(
    make_pool: MakePool, start: Start, eventually: Eventually, call: str
) -> None:
    """It gets what the killed process had, with nobody else to recover that."""
    pool = make_pool(capacity=16, prealloc=16, cache_size=0)
    queue = pool.create_queue("jobs", capacity=4, on_death="requeue")
    takes, printed = WAITS[call]
    if takes == JOB:
        queue.send(b"job")
    killed = holder(start, pool, takes)
    waits = survivor(start, pool, call)
    eventually(lambda: sleeps(pool))
    killed.kill()
    assert printed == waits.line()


def test_dead_letters(make_pool: MakePool, start: Start, eventually: Eventually) -> None:
    """A consumer that sleeps in a dead-letter queue gets the dead letter."""
    pool = make_pool(capacity=16, prealloc=16)
    pool.create_queue("letters", capacity=4)
    queue = pool.create_queue("jobs", capacity=4, on_death="dead-letter", dead_letter="letters")
    queue.send(b"job")
    killed = holder(start, pool, JOB)
    waits = survivor(start, pool, 'pool.queue("letters").recv()')
    eventually(lambda: sleeps(pool))
    killed.kill()
    assert "b'job'" == waits.line()


def test_a_pool_without_a_name(make_pool: MakePool, start: Start, eventually: Eventually) -> None:
    """The pool was unlinked: processes that have it open go on."""
    pool = make_pool(capacity=16, prealloc=16)
    pool.create_queue("jobs", capacity=4, on_death="requeue").send(b"job")
    killed = holder(start, pool, JOB)
    waits = survivor(start, pool, "queue.recv()")
    eventually(lambda: sleeps(pool))
    shmpool.Pool.unlink(pool.name)
    killed.kill()
    assert "b'job'" == waits.line()


@pytest.mark.parametrize("fate", ["killed", "suspended"])
def test_one_of_several_survivors(
    make_pool: MakePool, start: Start, eventually: Eventually, fate: str
) -> None:
    """The others are killed while they recover, or suspended: one that is left is enough."""
    pool = make_pool(capacity=16, prealloc=16)
    pool.create_queue("jobs", capacity=4, on_death="requeue").send(b"job")
    dead = holder(start, pool, JOB)
    *others, last = (survivor(start, pool, "bytes(kept := queue.get())") for _ in range(4))
    eventually(lambda: sleeps(pool) >= 4)
    if fate == "suspended":
        for child in others:
            suspend(child.pid)
    dead.kill()
    if fate == "killed":
        for child in others:
            child.kill()
    assert "b'job'" == last.line()


WORKER = """
    import signal, sys
    import shmpool
    jobs = shmpool.Pool.attach(sys.argv[1]).queue("jobs")
    said = shmpool.Pool.attach(sys.argv[2]).queue("said")
    while True:
        buf = jobs.get()
        job = bytes(buf).decode()
        if job.startswith("deadly") and not buf.redelivered:
            said.send(f"{sys.argv[3]} dies".encode())
            signal.pause()
        said.send(job.encode())
        buf.free()
"""


@pytest.mark.slow
def test_twenty_workers(make_pool: MakePool, start: Start) -> None:
    """Ten of twenty are killed with a job each. The others, which sleep, do all jobs."""
    pool, results = make_pool(capacity=256), make_pool(capacity=256)
    jobs = pool.create_queue("jobs", capacity=64, on_death="requeue")
    said = results.create_queue("said", capacity=64)
    workers = [start(WORKER, pool.name, results.name, i) for i in range(20)]
    expected = {f"deadly {i}" for i in range(10)} | {f"easy {i}" for i in range(20)}
    for job in sorted(expected):
        jobs.send(job.encode())
    done, killed = [], 0
    while len(done) < len(expected):
        text = said.recv(timeout=DEADLINE_S).decode()
        if text.endswith("dies"):
            workers[int(text.split()[0])].kill()
            killed += 1
        else:
            done.append(text)
    assert 10 == killed
    assert expected == set(done)
    assert len(expected) == len(done)


def holds_a_task(tasks: shmpool.JoinableQueue, holds: Any) -> None:
    tasks.get()
    holds.set()
    signal.pause()


@pytest.mark.parametrize("on_death", ["requeue", "free"])
def test_a_joinable_queue(
    context: shmpool.mp.Context,
    begin: Begin,
    eventually: Eventually,
    own_memory: None,
    on_death: shmpool.OnDeath,
) -> None:
    """get() of a JoinableQueue that sleeps gets a killed worker's task. If such a task counts as
    done, join() that sleeps ends."""
    tasks, holds = context.JoinableQueue(on_death=on_death), context.Event()
    tasks.put("task")
    killed = begin(context, holds_a_task, tasks, holds)
    assert holds.wait(DEADLINE_S)
    ended: list[object] = []
    call = tasks.get if on_death == "requeue" else tasks.join
    thread = threading.Thread(target=lambda: ended.append(call()))
    thread.start()
    eventually(lambda: sleeps(tasks._queue.pool))
    killed.kill()
    join(thread)
    if on_death == "requeue":
        tasks.task_done()
    assert ["task" if on_death == "requeue" else True] == ended
    assert 0 == tasks.unfinished
