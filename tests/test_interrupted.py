# SPDX-License-Identifier: Apache-2.0
"""An exception at every bytecode, as a signal handler may raise it: nothing is lost.

The interrupted call can be repeated.
"""

import contextlib
import dis
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest
from conftest import MakePool

import shmpool
import shmpool.pool_files
import shmpool.process_exit
import shmpool.segment
from shmpool.options import PoolOptions, QueueOptions
from shmpool.service.handlers import create_pool

PACKAGE = str(Path(shmpool.__file__).parent)
HERE = __file__
# CPython loses a reference here if a trace function raises; it runs no signal handlers here.
NOWHERE = {dis.opmap.get(name) for name in ("PUSH_EXC_INFO", "POP_EXCEPT", "POP_BLOCK")}


class Interrupted(BaseException):
    """The exception that the handler raises: in which function, before which bytecode."""


@contextlib.contextmanager
def interrupted_at(step: int) -> Iterator[list[int]]:
    """Raises before bytecode number `step` of shmpool and of the functions marked here.

    The list has the number of bytecodes that ran.
    """
    ran = [0]
    bytecode: dict[CodeType, bytes] = {}

    def opcode(frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if event == "opcode" and bytecode[code][frame.f_lasti] not in NOWHERE:
            ran[0] += 1
            if ran[0] == step:
                raise Interrupted(code.co_name, dis.opname[bytecode[code][frame.f_lasti]])
        return opcode

    def call(frame: FrameType, event: str, _: object) -> Any:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if not (file.startswith(PACKAGE) or (file == HERE and name == "operation")):
            return None
        bytecode.setdefault(frame.f_code, frame.f_code.co_code)
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return opcode

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield ran
    finally:
        sys.settrace(before)


def every_step(once: Callable[[int], bool], stride: int = 1) -> int:
    """Calls once(1), once(1 + stride), ... until one was not interrupted. Returns the last step."""
    for _ in range(3):
        once(0)  # from CPython 3.12 on a function's bytecodes are traced from a later call on
    step = 1
    while once(step):
        step += stride
    return step - stride


def left(pool: shmpool.Pool) -> tuple[bool, dict[int, int], int]:
    """The result of an audit, and the number of buffers that no object owns."""
    audit = pool.audit()
    return audit.ok, audit.held, audit.free + audit.cached + sum(audit.queued.values())


Operation = Callable[[shmpool.Pool, shmpool.AlfQueue, list[Any]], None]


def owned_by(kept: list[Any]) -> int:
    """The number of buffers that the objects own."""
    held = {}
    for thing in kept:
        if isinstance(thing, shmpool.Burst):
            held |= {} if "released" in repr(thing) else {id(buf): buf for buf in thing}
        elif isinstance(thing, shmpool.Buffer):
            held[id(thing)] = thing
    arrays = sum(thing.size > 0 for thing in kept if isinstance(thing, np.ndarray))
    return sum(not buf.released for buf in held.values()) + arrays  # a put array is empty


def alloc() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(pool.alloc())

    return operation


def alloc_timeout() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        rest = pool.alloc_many(pool.capacity - 8)
        try:
            pool.alloc(timeout=0.001)
        except shmpool.PoolExhausted:
            rest.free()
        kept.append(pool.alloc(timeout=0.5))

    return operation


def alloc_many() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(pool.alloc_many(5))

    return operation


def free() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(buf := pool.alloc())
        buf.free()

    return operation


def with_buffer() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        with pool.alloc() as buf:
            buf.write(b"x")
            buf.mark = 3

    return operation


def get() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(queue.get())
        kept.append(queue.get_nowait())
        kept.append(queue.try_get())

    return operation


def get_nothing() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(queue.get_many(8))
        for call in (queue.get, queue.recv, lambda timeout: queue.get_many(2, timeout)):
            with contextlib.suppress(shmpool.Empty):
                kept.append(call(timeout=0.001))

    return operation


def get_many() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(queue.get_many(3))
        kept.append(queue.get_many(8))

    return operation


def put() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(buf := pool.alloc())
        queue.put(buf)

    return operation


def put_full() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        queue.send_many([b"x"] * 4)
        kept.append(buf := pool.alloc())
        kept.append(burst := pool.alloc_many(2))
        with contextlib.suppress(shmpool.Full):
            queue.put(buf, timeout=0.001)
        with contextlib.suppress(shmpool.Full):
            queue.put_many(burst, timeout=0.001)

    return operation


def put_many() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(burst := pool.alloc_many(3))
        queue.put_many(burst)

    return operation


def put_many_with_elements() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        burst = pool.alloc_many(4)
        burst[1].free()
        kept.append(burst[2])
        queue.put_many(burst)

    return operation


def send() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        queue.send(b"x")
        queue.send_many([b"y", bytearray(b"z")])

    return operation


def recv() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        queue.recv()
        queue.try_recv()
        queue.recv_many(5)

    return operation


def burst_free() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(burst := pool.alloc_many(3))
        burst.free()
        with pool.alloc_many(3) as burst:
            kept.append(burst[1])

    return operation


def iterate() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        for buf in pool.alloc_many(3):
            buf.write(b"x")
        for buf in queue.get_many(3):
            buf.free()

    return operation


def columns() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(burst := pool.alloc_many(3))
        burst.lengths = 8
        burst.lengths = [1, 2, 3]
        burst.set_column(0, range(3), "u1")
        burst.column(0, ">u2")
        assert len(burst.indices) == len(burst.lengths)

    return operation


def divide() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(burst := pool.alloc_many(9))
        kept.append(burst[7])
        burst[0].free()
        kept.append(burst[::2])
        kept.append(burst[[True, False, False, True, False]])
        kept.append(burst[[1, 0]])

    return operation


def build() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(buf := pool.alloc())
        kept.append(burst := pool.alloc_many(3))
        kept.append(burst[2])
        kept.append(pool.burst([buf, burst[:1], burst]))
        with contextlib.suppress(shmpool.BufferReleased):
            kept.append(pool.burst([pool.alloc(), buf]))

    return operation


def put_a_list() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(buf := pool.alloc())
        kept.append(burst := pool.alloc_many(2))
        queue.put_many([burst, buf])
        kept.extend((pool.alloc(), pool.alloc()))
        with contextlib.suppress(shmpool.Full):
            queue.put_many(kept[-2:], timeout=0.001)

    return operation


def spread() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        other = pool.queue("other")
        kept.append(burst := pool.alloc_many(6))
        burst.spread([queue, other], [0, 1, 1, 0, 5, 1])
        kept.append(burst := pool.alloc_many(5))
        kept.append(burst[4])
        with contextlib.suppress(shmpool.Full):
            burst.spread([queue, other], [0] * 5, timeout=0.001)

    return operation


def fields() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(burst := queue.get_many(3))
        burst.marks = 7
        burst.timestamps = [1, 2, 3]
        burst.flow_hashes = burst.marks
        assert [0, 0, 0] == burst.redelivered.tolist()

    return operation


def nack() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(buf := queue.get())
        buf.nack()
        kept.append(burst := queue.get_many(3))
        burst[1].free()
        queue.requeue(burst, timeout=0.5)
        kept.append(buf := queue.get())
        queue.send_many([b"x"] * 6)
        with contextlib.suppress(shmpool.Full):
            buf.nack(timeout=0.001)

    return operation


def letters() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        other = pool.queue("other")
        assert 2 == queue.redrive(2, to=other)
        assert 2 == other.drain()
        assert 2 == len(queue.peek(8))

    return operation


def failures() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(burst := pool.alloc_many(9))
        for call in (
            lambda: pool.alloc_many(pool.capacity + 1),
            lambda: queue.put_many(burst),
            lambda: queue.send(bytes(pool.geometry.room + 1)),
            lambda: queue.send_many([bytes(pool.geometry.room + 1)]),
            lambda: burst.column(300, "u1"),
            lambda: queue.put(burst),  # type: ignore[arg-type]
        ):
            with contextlib.suppress(shmpool.ShmpoolError, TypeError):
                call()

    return operation


def array() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        kept.append(pool.array((2, 3), "u1", "F"))
        kept.append(pool.array((2,), [("a", "<i2"), ("b", "u1")]))

    return operation


def put_array() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        queue.put_array(pool.array(8, "u1"))
        queue.put_array(kept.append(pool.array(8, "u1")) or kept[0])
        queue.put_array(memoryview(b"bytes"))
        with contextlib.suppress(shmpool.Full):
            kept.append(pool.array(8, "u1"))
            queue.send_many([b"x"] * 8, timeout=0)
        for thing in (kept[1], b"bytes"):
            with contextlib.suppress(shmpool.Full):
                queue.put_array(thing, timeout=0.001)

    return operation


def get_array() -> Operation:
    def operation(pool: shmpool.Pool, queue: shmpool.AlfQueue, kept: list[Any]) -> None:
        queue.drain()
        queue.put_array(np.arange(4, dtype="u1"))
        queue.put_array(np.zeros(2, [("a", [("b", "u1")])]))  # worded again each time: in Python
        queue.send(b"no array")
        kept.append(queue.get_array())
        kept.append(queue.get_array())
        with contextlib.suppress(shmpool.NoArray):
            queue.get_array()

    return operation


OPERATIONS = [
    array, put_array, get_array,
    alloc, alloc_timeout, alloc_many, free, with_buffer, get, get_nothing, get_many, put, put_full,
    put_many, put_many_with_elements, send, recv, burst_free, iterate, columns, divide,
    build, put_a_list, spread, fields, nack, letters, failures,
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("make", OPERATIONS)
@pytest.mark.parametrize("cache", [0, 16])
def test_every_buffer_has_an_owner(
    make_pool: MakePool, make: Callable[[], Operation], cache: int
) -> None:
    """Whatever was interrupted, this process owns the buffers of its objects, and no others."""
    pool = make_pool(capacity=64, prealloc=64, cache_size=cache, bulk=16)
    queue = pool.create_queue("q", capacity=8)
    other = pool.create_queue("other", capacity=8)
    operation = make()

    def once(step: int) -> bool:
        queue.send_many([b"1", b"2", b"3", b"4"])
        kept: list[Any] = []
        interrupted = False
        with interrupted_at(step):
            try:
                operation(pool, queue, kept)
            except Interrupted:
                interrupted = True
        held = pool.audit().held
        assert owned_by(kept) == sum(held.values()), (step, held, kept)
        del kept[:]
        assert (True, {}, 64) == left(pool), step
        with contextlib.suppress(shmpool.Empty):
            queue.get_many(8, timeout=0).free()
        with contextlib.suppress(shmpool.Empty):
            other.get_many(8, timeout=0).free()
        return interrupted

    assert every_step(once) >= 3


def resources(name: str) -> tuple[int, int]:
    """Descriptors, and mappings of the pool of that name."""
    with open("/proc/self/maps") as maps:
        mapped = sum(name in line for line in maps)
    return len(os.listdir("/proc/self/fd")), mapped


def opened(pool_name: str) -> Callable[[], shmpool.Pool]:
    def operation() -> shmpool.Pool:
        return shmpool.Pool.attach(pool_name)

    return operation


def test_an_attach_leaves_nothing(make_pool: MakePool) -> None:
    """An interrupted attach leaves no descriptor, mapping, member or number."""
    made = make_pool(members=2, queues=1)
    operation = opened(made.name)
    shmpool.Pool.attach(made.name).close()
    gc.collect()
    before = resources(made.name)

    def once(step: int) -> bool:
        interrupted = False
        with interrupted_at(step):
            try:
                operation()
            except Interrupted:
                interrupted = True
        assert before == resources(made.name), step
        return interrupted

    assert every_step(once) > 30
    pools = [shmpool.Pool.attach(made.name) for _ in range(20)]
    for pool in pools:
        pool.close()


# The bytecodes from the moment in which a new pool has its name to its creator's caller. CPython
# runs no signal handlers at these either.
NAMED = ("LOAD_FAST", "LOAD_FAST_BORROW", "SWAP", "POP_TOP", "RETURN_VALUE")


@pytest.mark.slow
@pytest.mark.parametrize("replace", [False, True])
def test_a_create_leaves_nothing(
    pool_name: str, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    """An interrupted create leaves no descriptor, no mapping, and no name, also no temporary one.

    The pool that it was to replace keeps its name.
    """
    monkeypatch.setattr(shmpool.segment, "TEMPORARY", f"~{pool_name}-")
    # So that each create runs the same bytecodes: it forgets none of the many pools created here.
    monkeypatch.setattr(shmpool.process_exit, "MADE_MAX", sys.maxsize)
    options = {"buffer_size": 64, "capacity": 2, "members": 2, "queues": 1}
    interrupted_in: list[tuple[str, ...]] = []

    def operation() -> shmpool.Pool:
        return shmpool.Pool.create(pool_name, replace=replace, **options)  # type: ignore[arg-type]

    old = shmpool.Pool.create(pool_name, **options)  # type: ignore[arg-type]
    if not replace:
        shmpool.Pool.unlink(pool_name)
    there = shmpool.pool_files.status_of(pool_name)
    gc.collect()
    before = resources(pool_name)

    def once(step: int) -> bool:
        nonlocal there
        interrupted = False
        with interrupted_at(step):
            try:
                operation()
            except Interrupted as error:
                interrupted = True
                place = error.args
        assert before == resources(pool_name), step
        assert [] == list(Path("/dev/shm").glob(f"shmpool.~{pool_name}-*"))
        found = shmpool.pool_files.status_of(pool_name)
        if (found and found.st_ino) != (there and there.st_ino):
            if interrupted:
                interrupted_in.append(place)
            shmpool.Pool.attach(pool_name).close()  # it is complete
            if replace:
                there = found
            else:
                shmpool.Pool.unlink(pool_name)
        return interrupted

    try:
        assert every_step(once) > 30
        in_create = {place for place in interrupted_in if place[0] != "operation"}
        assert {("create", name) for name in NAMED} >= in_create > {("create", "RETURN_VALUE")}
    finally:
        old.close()
        if replace:
            shmpool.Pool.unlink(pool_name)


@pytest.mark.slow
def test_a_pool_with_queues_is_created_whole(pool_name: str) -> None:
    """As the command line and the daemon create it: interrupted, it has its queues or no name."""
    options, queues = PoolOptions(64, 2, members=2, queues=1), {"q": QueueOptions(2)}
    whole = 0

    def operation() -> None:
        create_pool(pool_name, options, queues, {})

    def once(step: int) -> bool:
        nonlocal whole
        interrupted = False
        with interrupted_at(step):
            try:
                operation()
            except Interrupted:
                interrupted = True
        with contextlib.suppress(shmpool.PoolNotFound), shmpool.Pool.attach(pool_name) as pool:
            assert ["q"] == [queue.name for queue in pool.queues()], step
            shmpool.Pool.unlink(pool_name)
            whole += interrupted
        return interrupted

    assert every_step(once, stride=7) > 200
    assert whole < 10


CREATES = """
    import os, random, signal, sys, time
    import shmpool

    class Alarm(TimeoutError):  # an OSError, but not the kernel's
        pass

    def ring(number, frame):
        raise Alarm

    signal.signal(signal.SIGALRM, ring)
    name, path = sys.argv[1], "/dev/shm/shmpool." + sys.argv[1]
    options = dict(buffer_size=64, capacity=2, members=2, queues=1)
    modes = dict(replace=True), dict(unlink_on_close=True), dict(exist_ok=True), {}
    old = shmpool.Pool.create(name, **options)
    began = time.perf_counter()
    for _ in range(20):
        with shmpool.Pool.create(name, replace=True, **options):
            pass
    took = (time.perf_counter() - began) / 20
    alarms = 0
    while alarms < 400:
        for more in modes:
            replaces = "replace" in more
            if replaces:
                keeps = shmpool.Pool.create(name, replace=True, **options)
                there = os.stat(path).st_ino
            elif os.path.exists(path):
                shmpool.Pool.unlink(name)
            pool = None
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + random.random() * took * 1.2)
                pool = shmpool.Pool.create(name, **more, **options)
                while True:
                    pass  # until the alarm comes
            except Alarm as error:
                alarms += 1
                if error.__traceback__.tb_next.tb_frame.f_code is ring.__code__:
                    continue  # create() had returned
            if pool is None:
                if replaces:
                    assert os.stat(path).st_ino == there, (alarms, more)
                else:
                    assert not os.path.exists(path), (alarms, more)
            else:
                pool.close()
    print(len(os.listdir("/proc/self/fd")))
    if os.path.exists(path):
        shmpool.Pool.unlink(name)
"""


def test_alarms_in_create(pool_name: str, run: Callable[..., str]) -> None:
    """The same with real signals: create() returns a pool, or leaves what was there."""
    assert int(run(CREATES, pool_name)) < 16


@pytest.mark.slow
def test_an_anonymous_pool_leaves_nothing() -> None:
    """An interrupted create leaves no descriptor."""

    def operation() -> shmpool.Pool:
        return shmpool.Pool.create(None, buffer_size=64, capacity=2, members=2, queues=1)

    operation().close()
    gc.collect()
    before = resources("")

    def once(step: int) -> bool:
        interrupted = False
        with interrupted_at(step):
            try:
                operation()
            except Interrupted:
                interrupted = True
        assert before == resources(""), step
        return interrupted

    assert every_step(once) > 50


def test_a_close_can_be_repeated(make_pool: MakePool) -> None:
    """A close(), or an end of a with block, that was interrupted is completed by the next
    close()."""
    other = make_pool(members=4, queues=1)
    shmpool.Pool.attach(other.name).close()
    before = resources(other.name)

    def operation(pool: shmpool.Pool) -> None:
        with pool:
            pass

    def once(step: int) -> bool:
        pool = shmpool.Pool.attach(other.name)
        buf, burst = pool.alloc(), pool.alloc_many(2)
        element = burst[0]
        interrupted = False
        with interrupted_at(step):
            try:
                operation(pool)
            except Interrupted:
                interrupted = True
        assert element.released == buf.released == (pool._segment is None)
        pool.close()
        pool.close()
        assert (True, True) == (buf.released, element.released)
        assert (before, (True, {})) == (resources(other.name), left(other)[:2])
        return interrupted

    assert every_step(once) >= 3


def test_a_dropped_pool_after_an_interrupted_close(make_pool: MakePool) -> None:
    """Without another close() the pool's buffers are returned when it is dropped."""
    other = make_pool(members=4, queues=1)
    before = resources(other.name)

    def operation(pool: shmpool.Pool) -> None:
        with pool:
            pass

    def once(step: int) -> bool:
        pool = shmpool.Pool.attach(other.name)
        buf = pool.alloc()
        interrupted = False
        with interrupted_at(step):
            try:
                operation(pool)
            except Interrupted:
                interrupted = True
        del buf, pool
        assert (before, (True, {})) == (resources(other.name), left(other)[:2])
        return interrupted

    assert every_step(once) >= 3


ALARMS = """
    import random, signal, sys, time
    import shmpool

    class Alarm(Exception):
        pass

    def ring(number, frame):
        raise Alarm

    signal.signal(signal.SIGALRM, ring)
    pool = shmpool.Pool.attach(sys.argv[1])
    queue = pool.queue("q")

    def once(n):
        with pool.alloc_many(n) as burst:
            burst.lengths = 3
            queue.put_many(burst)
        for buf in queue.get_many(n):
            buf.free()
        queue.send_many([b"x"] * n)
        queue.recv_many(n)
        queue.put(pool.alloc(timeout=1), timeout=1)
        with queue.get() as buf:
            bytes(buf)
        try:
            queue.get(timeout=0.0001)
        except shmpool.Empty:
            pass

    alarms = 0
    while alarms < 1500:
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + random.random() * 4e-4)
            while True:
                once(8)
        except Alarm:
            alarms += 1
        try:
            while True:
                queue.get_many(64, timeout=0).free()
        except shmpool.Empty:
            pass
        held = pool.audit().held
        assert not held, (alarms, held)
"""


def test_alarms_at_any_moment(make_pool: MakePool, run: Callable[..., str]) -> None:
    """The same with real signals, whose handler raises wherever Python runs it, and in waits."""
    pool = make_pool(capacity=256, prealloc=256)
    pool.create_queue("q", capacity=64)
    assert "" == run(ALARMS, pool.name)
    assert left(pool) == (True, {}, 256)


def test_what_a_handler_raises_while_a_pool_ends(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Python code runs when a dropped pool is released: an exception there would be lost."""
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    name = make_pool(members=2, queues=1).name
    pools = [shmpool.Pool.attach(name)]
    known = len(shmpool.process_exit.open_pools())
    ran = []
    sys.setprofile(lambda frame, event, _: ran.append(event) if event == "call" else None)
    try:
        pools.clear()
    finally:
        sys.setprofile(None)
    assert [] == ran
    assert [] == lost
    assert known - 1 == len(shmpool.process_exit.open_pools()) == len(shmpool.process_exit._open)
