# SPDX-License-Identifier: Apache-2.0
"""AlfQueue: buffers in and out, one at a time."""

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from conftest import MakePool

import shmpool


def test_a_queue_knows_its_options(pool: shmpool.Pool) -> None:
    """Name, capacity, sides and repr are as it was created, also if it is found by name."""
    made = pool.create_queue("work", capacity=8, producers="single")
    for queue in (made, pool.queue("work"), *pool.queues()):
        assert isinstance(queue, shmpool.AlfQueue)
        assert ("work", 8, "single", "multi", made.number, pool) == (
            queue.name,
            queue.capacity,
            queue.producers,
            queue.consumers,
            queue.number,
            queue.pool,
        )
        assert f"<shmpool.AlfQueue {pool.name}/work of 8>" == repr(queue)


def test_queues_are_found_by_name(pool: shmpool.Pool) -> None:
    """queue() finds it, queues() lists all. A second one of the name, or none, is an exception."""
    assert [] == pool.queues()
    for name in ("a", "b", "c"):
        pool.create_queue(name, capacity=2)
    assert ["a", "b", "c"] == [queue.name for queue in pool.queues()]
    with pytest.raises(shmpool.QueueExists, match="'b'"):
        pool.create_queue("b", capacity=4)
    with pytest.raises(shmpool.QueueNotFound, match="'d'"):
        pool.queue("d")
    assert 2 == pool.queue("b").capacity


def test_as_many_queues_as_allowed(make_pool: MakePool) -> None:
    """The last queue slot can be used. One more queue is LimitReached."""
    pool = make_pool(queues=3)
    for i in range(3):
        pool.create_queue(f"q{i}", capacity=2).send(b"%d" % i)
    with pytest.raises(shmpool.LimitReached, match="'q3'"):
        pool.create_queue("q3", capacity=2)
    assert [b"0", b"1", b"2"] == [queue.recv() for queue in pool.queues()]


def test_put_moves_the_buffer(pool: shmpool.Pool) -> None:
    """After a put the sender's Buffer is released, and get gives the same bytes to the receiver."""
    queue = pool.create_queue("q", capacity=2)
    buf = pool.alloc()
    buf.write(b"hello")
    index = buf.index
    assert queue.put(buf) is None  # type: ignore[func-returns-value]
    assert buf.released
    got = queue.get()
    assert (index, b"hello") == (got.index, bytes(got))
    got.data[:5] = b"jelly"
    queue.put_nowait(got)
    assert b"jelly" == bytes(queue.get_nowait())


def test_put_twice_is_refused(pool: shmpool.Pool) -> None:
    """A second put of the same Buffer is BufferReleased and the queue holds it once."""
    queue = pool.create_queue("q", capacity=4)
    buf = pool.alloc()
    queue.put(buf)
    for put in (queue.put, queue.put_nowait):
        with pytest.raises(shmpool.BufferReleased):
            put(buf)
    assert 1 == len(queue)


@pytest.mark.parametrize("capacity", [2**k for k in range(1, 17)])
def test_every_capacity(make_pool: MakePool, capacity: int) -> None:
    """2 to 65,536: exactly that many fit, and come out in order, also over the end of the ring."""
    pool = make_pool(buffer_size=64, capacity=2 * capacity)
    queue = pool.create_queue("q", capacity=capacity)
    queue.put_many(pool.alloc_many(1))
    queue.get().free()
    burst = pool.alloc_many(capacity)
    burst.set_column(0, range(capacity), "<u4")
    queue.put_many(burst)
    assert (capacity, True, False) == (len(queue), queue.full(), queue.empty())
    buf = pool.alloc()
    with pytest.raises(shmpool.Full, match="'q'"):
        queue.put(buf, timeout=0)
    got = queue.get_many(capacity)
    assert list(range(capacity)) == got.column(0, "<u4").tolist()
    assert (0, False, True) == (len(queue), queue.full(), queue.empty())


def test_full_and_empty_with_every_timeout(pool: shmpool.Pool) -> None:
    """With timeout 0 Full and Empty are raised at once, with more after the timeout. They name the
    queue."""
    queue = pool.create_queue("q", capacity=2)
    for get in (
        queue.get_nowait,
        lambda: queue.get(timeout=0),
        lambda: queue.get(0.05),
        lambda: queue.get_many(2, timeout=0),
        lambda: queue.recv(timeout=0.05),
        lambda: queue.recv_many(2, timeout=0),
    ):
        with pytest.raises(shmpool.Empty, match="'q'"):
            get()
    queue.send_many([b"1", b"2"])
    buf = pool.alloc()
    burst = pool.alloc_many(2)
    for put in (
        lambda: queue.put_nowait(buf),
        lambda: queue.put(buf, timeout=0),
        lambda: queue.put(buf, 0.05),
        lambda: queue.put_many(burst, timeout=0),
        lambda: queue.put_many(burst, 0.05),
        lambda: queue.send(b"x", timeout=0),
        lambda: queue.send(b"x", 0.05),
    ):
        with pytest.raises(shmpool.Full, match="'q'"):
            put()
    assert (False, 2) == (buf.released, len(burst))
    assert [b"1", b"2"] == queue.recv_many(5)
    queue.put(buf)


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("-inf")])
def test_a_negative_timeout(pool: shmpool.Pool, timeout: float) -> None:
    """A negative timeout is InvalidArgument that names it. Nothing is lost."""
    queue = pool.create_queue("q", capacity=2)
    for call in (
        lambda: queue.get(timeout),
        lambda: queue.recv(timeout=timeout),
        lambda: queue.get_many(2, timeout),
        lambda: queue.recv_many(2, timeout),
        lambda: pool.alloc_many(2, timeout),
        lambda: queue.send_many([b"x"], timeout),
    ):
        with pytest.raises(shmpool.InvalidArgument, match=f"timeout is {timeout}"):
            call()
    queue.send_many([b"1", b"2"])
    buf = pool.alloc()
    with pytest.raises(shmpool.InvalidArgument, match=f"timeout is {timeout}"):
        queue.put(buf, timeout)
    assert (False, 2) == (buf.released, len(queue))


def test_a_timeout_of_another_type(pool: shmpool.Pool) -> None:
    """It is TypeError that shows it."""
    queue = pool.create_queue("q", capacity=2)
    with pytest.raises(TypeError, match="'x'"):
        queue.get("x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'x'"):
        queue.get_many(1, timeout="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'x'"):
        pool.alloc_many(1, timeout="x")  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [10**400, 2**70, float("inf"), 1e308])
def test_a_huge_timeout(pool: shmpool.Pool, timeout: float) -> None:
    """It means no limit. A call that can succeed at once does so."""
    queue = pool.create_queue("q", capacity=2)
    queue.put(pool.alloc(timeout=timeout), timeout)
    queue.put_many(pool.alloc_many(1, timeout), timeout)
    queue.get(timeout).free()
    queue.get_many(1, timeout).free()
    queue.send(b"1", timeout)
    queue.send_many([b"2"], timeout)
    assert [b"1", b"2"] == [queue.recv(timeout), *queue.recv_many(1, timeout)]


WRONG_TIMEOUTS: list[tuple[Any, type[Exception], str]] = [
    *(
        (below, shmpool.InvalidArgument, f"timeout is {below} seconds")
        for below in (-(10**400), -(2**70))
    ),
    *(
        (other, TypeError, f"timeout is {other!r}; it must be a number")
        for other in ("1", b"1", bytearray(b"1"), np.str_("1"), [], 1j, np.zeros(2))
    ),
]


@pytest.mark.parametrize(("timeout", "error", "text"), WRONG_TIMEOUTS)
def test_a_wrong_timeout(
    pool: shmpool.Pool, timeout: Any, error: type[Exception], text: str
) -> None:
    """Every call refuses it in the same way, whether or not the call must wait."""
    queue = pool.create_queue("q", capacity=4)
    buf, burst = pool.alloc(), pool.alloc_many(1)
    queue.send_many([b"1", b"2"])
    for call in (
        lambda: pool.alloc(timeout),
        lambda: pool.alloc_many(1, timeout),
        lambda: queue.put(buf, timeout),
        lambda: queue.put_many(burst, timeout),
        lambda: queue.get(timeout),
        lambda: queue.get_many(1, timeout),
        lambda: queue.send(b"x", timeout),
        lambda: queue.send_many([b"x"], timeout),
        lambda: queue.recv(timeout),
        lambda: queue.recv_many(1, timeout),
    ):
        with pytest.raises(error, match=re.escape(text)):
            call()
    assert (2, False, 1) == (len(queue), buf.released, len(burst))
    for find in (
        lambda: pool.queue("q", timeout=timeout),
        lambda: shmpool.Pool.attach(pool.name, timeout=timeout),
    ):
        with pytest.raises(error, match=re.escape(text)):
            find()


class Half(float):
    """A subclass."""


class Seconds:
    """A number only by its __float__."""

    def __float__(self) -> float:
        return 0.5


@pytest.mark.parametrize(
    "timeout",
    [
        True, False, Half(0.5), Seconds(), Fraction(1, 2), Decimal("0.5"), Decimal("1e400"),
        Fraction(10**400), np.float16(0.5), np.float32(0.5), np.float64(0.5), np.longdouble(0.5),
        np.int8(1), np.uint64(2**63), np.bool_(True), np.array(0.5), 0.5, 1, 0, -0.0,
    ],
)  # fmt: skip
def test_a_timeout_is_what_float_accepts(pool: shmpool.Pool, timeout: Any) -> None:
    """Every call that waits accepts it, whether it waits or not."""
    queue = pool.create_queue("q", capacity=4)
    queue.put(pool.alloc(timeout), timeout)
    queue.put_many(pool.alloc_many(1, timeout), timeout)
    queue.send(b"1", timeout)
    queue.send_many([b"2"], timeout)
    queue.get(timeout).nack(timeout)
    queue.get_many(1, timeout).nack(timeout)
    assert 4 == len(queue) == len(pool.queue("q", timeout=timeout))
    assert b"1" == queue.recv(timeout)
    assert [b"2"] == queue.recv_many(1, timeout)
    shmpool.Pool.attach(pool.name, timeout=timeout).close()


@pytest.mark.parametrize("timeout", [np.float32(0.001), Fraction(1, 1000), Decimal("0.001")])
def test_a_timeout_ends_a_wait_whatever_its_type(pool: shmpool.Pool, timeout: Any) -> None:
    """Empty, Full, PoolExhausted, QueueNotFound."""
    queue = pool.create_queue("q", capacity=2)
    rest = pool.alloc_many(pool.capacity - 2)
    for call in (queue.get, queue.recv, lambda t: queue.get_many(1, t)):
        with pytest.raises(shmpool.Empty):
            call(timeout)
    queue.send_many([b"1", b"2"])
    with pytest.raises(shmpool.PoolExhausted):
        pool.alloc(timeout)
    rest[0].free()
    with pytest.raises(shmpool.Full):
        queue.put(pool.alloc(), timeout)
    with pytest.raises(shmpool.QueueNotFound):
        pool.queue("none", timeout=timeout)


def test_what_a_timeout_raises_is_raised(pool: shmpool.Pool) -> None:
    """An exception of __float__ other than TypeError and OverflowError is raised. Nothing is
    taken."""

    class Broken:
        def __float__(self) -> float:
            raise KeyError("broken")

    queue = pool.create_queue("q", capacity=2)
    queue.send(b"1")
    with pytest.raises(KeyError, match="broken"):
        queue.recv(Broken())  # type: ignore[arg-type]
    assert 1 == len(queue)


def test_wrong_calls(pool: shmpool.Pool) -> None:
    """Arguments of a wrong type or number are TypeError."""
    queue = pool.create_queue("q", capacity=2)
    buf = pool.alloc()
    for call in (
        lambda: queue.put(b"bytes"),  # type: ignore[arg-type]
        lambda: queue.put(None),  # type: ignore[arg-type]
        lambda: queue.put(),  # type: ignore[call-arg]
        lambda: queue.put(buf, 1, 2),  # type: ignore[call-arg]
        lambda: queue.put(buf, wait=1),  # type: ignore[call-arg]
        lambda: queue.get(1, 2),  # type: ignore[call-arg]
        lambda: queue.get(time=1),  # type: ignore[call-arg]
        lambda: queue.put_many(buf),  # type: ignore[arg-type]
        lambda: queue.put_many([buf, b"x"]),  # type: ignore[list-item]
        lambda: queue.get_many("x"),  # type: ignore[arg-type]
        lambda: queue.send("text"),  # type: ignore[arg-type]
        lambda: queue.send(None),  # type: ignore[arg-type]
        lambda: queue.send_many(["text"]),  # type: ignore[list-item]
        lambda: queue.send_many(b"abc"),  # type: ignore[arg-type]
        lambda: pool.alloc(1, 2, 3),  # type: ignore[call-arg]
        lambda: pool.alloc_many("x"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            call()
    assert (False, 0) == (buf.released, len(queue))
    assert 1 == pool.stats().held


@pytest.mark.parametrize("n", [0, -1])
def test_counts_start_at_one(pool: shmpool.Pool, n: int) -> None:
    """n below 1 is InvalidArgument that names it."""
    queue = pool.create_queue("q", capacity=2)
    for call in (pool.alloc_many, queue.get_many, queue.recv_many):
        with pytest.raises(shmpool.InvalidArgument, match=f"n is {n}"):
            call(n)


def test_a_buffer_of_another_pool(make_pool: MakePool) -> None:
    """It is ForeignBuffer, and stays its owner's."""
    one, two = make_pool(), make_pool()
    queue = one.create_queue("q", capacity=2)
    buf, burst = two.alloc(), two.alloc_many(2)
    where = f"of pool '{two.name}' cannot go into queue 'q' of pool '{one.name}'$"
    with pytest.raises(shmpool.ForeignBuffer, match=f"^buffer {buf.index} {where}"):
        queue.put(buf)
    with pytest.raises(shmpool.ForeignBuffer, match=f"^a burst of 2 {where}"):
        queue.put_many(burst)
    assert 0 == len(queue)
    buf.free()
    burst.free()
    assert (True, {}) == (two.audit().ok, two.audit().held)


def test_a_buffer_through_another_opening(pool: shmpool.Pool) -> None:
    """A buffer from another opening of the same pool is ForeignBuffer, and the message says so.

    It stays its owner's.
    """
    pool.create_queue("q", capacity=2)
    with shmpool.Pool.attach(pool.name) as again:
        queue = again.queue("q")
        buf, burst = pool.alloc(), pool.alloc_many(2)
        why = f"of pool '{pool.name}' cannot go into queue 'q': it came through another Pool object"
        with pytest.raises(shmpool.ForeignBuffer, match=f"^buffer {buf.index} {why}"):
            queue.put(buf)
        with pytest.raises(shmpool.ForeignBuffer, match=f"^a burst of 2 {why}"):
            queue.put_many(burst)
        queue.close()
        for call in (lambda: queue.put(buf), lambda: queue.put_many(burst)):
            with pytest.raises(shmpool.PoolClosed, match="'q' is closed"):
                call()
        buf.free()
        burst.free()
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_a_closed_queue(pool: shmpool.Pool) -> None:
    """Every call says that the queue is closed, with its name. The pool and other queues
    continue."""
    queue, other = pool.create_queue("a", capacity=4), pool.create_queue("b", capacity=4)
    queue.close()
    buf = pool.alloc()
    for call in (
        lambda: queue.get(timeout=0),
        lambda: queue.put(buf, timeout=0),
        lambda: queue.recv_many(2),
        lambda: queue.send(b"x"),
    ):
        with pytest.raises(shmpool.PoolClosed, match="queue 'a' is closed"):
            call()
    other.put(buf)
    other.get().free()


def test_an_empty_queue_is_true(pool: shmpool.Pool) -> None:
    """A queue is no container: `if queue` tests whether a queue exists."""
    assert pool.create_queue("q", capacity=2)


def test_queues_do_not_mix(pool: shmpool.Pool) -> None:
    """Buffers that are put into one queue come out of that queue only."""
    queues = [pool.create_queue(f"q{i}", capacity=16) for i in range(4)]
    for i in range(40):
        queues[i % 4].send(b"%d" % i)
    for k, queue in enumerate(queues):
        assert [b"%d" % i for i in range(k, 40, 4)] == queue.recv_many(16)


class Acting:
    """A timeout whose __float__ first does something, and counts its calls."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act
        self.read = 0

    def __float__(self) -> float:
        self.read += 1
        self.act()
        return 0.0


def test_a_timeout_is_read_once_and_first(make_pool: MakePool) -> None:
    """It is read before the call checks buffer, queue and pool, so __float__ may change them."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=2)
    buf, burst = pool.alloc(), pool.alloc_many(2)
    freeing: Any = Acting(buf.free)
    with pytest.raises(shmpool.BufferReleased):
        queue.put(buf, freeing)
    freeing_many: Any = Acting(burst.free)
    with pytest.raises(shmpool.BufferReleased):
        queue.put_many(burst, freeing_many)
    assert (1, 1, 0) == (freeing.read, freeing_many.read, len(queue))
    queue.send(b"1")
    got = queue.get()
    filling: Any = Acting(lambda: queue.send_many([b"2", b"3"]))
    with pytest.raises(shmpool.Full):
        got.nack(filling)
    assert (1, b"1") == (filling.read, bytes(got))
    got.free()
    queue.drain()
    for call in (
        queue.get,
        queue.recv,
        lambda t: queue.get_many(1, t),
        lambda t: queue.recv_many(1, t),
    ):
        sending: Any = Acting(lambda: queue.send(b"4"))
        call(sending)
        assert (1, 0) == (sending.read, len(queue))
    assert (True, {}) == (pool.audit().ok, pool.audit().held)
    closing: Any = Acting(pool.close)
    with pytest.raises(shmpool.PoolClosed):
        queue.send(b"5", closing)
    assert 1 == closing.read
