# SPDX-License-Identifier: Apache-2.0
"""Every argument that is a number: numbers of any type work, others are refused by name."""

import asyncio
import contextlib
import inspect
import os
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from conftest import MakePool

import shmpool
from shmpool.geometry import BY_CLASS
from shmpool.view import View

Call = Callable[[Any], object]
NO_INTS = (1.0, np.float32(1), np.float64(2), np.True_, np.array([1]), np.array(1.0), "1", b"1")
COLUMNS = ("lengths", "marks", "flow_hashes", "timestamps")
INDICES = ("burst index", "slice indices")
NO_SECONDS = ("1", b"1", bytearray(b"1"), [1], 1j, object())


class Integer:
    """What has __index__ and nothing else."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def created(name: str, **options: Any) -> None:
    shmpool.Pool.create(name, **({"buffer_size": 64, "capacity": 64} | options)).close()
    shmpool.Pool.unlink(name)


def counts(pool: shmpool.Pool, name: str) -> dict[str, tuple[Call, int]]:
    """Each argument that must be an integer: a call with it, and a value that is allowed. The
    names of the arguments stand before the brackets."""
    queue, burst, buf = pool.create_queue("q", capacity=64), pool.alloc_many(4), pool.alloc()
    letters, numbers = pool.create_queue("letters", capacity=2), iter(range(10**6))

    def sent(call: Call) -> Call:
        def with_some(value: Any) -> object:
            queue.drain()
            queue.send_many([b"x"] * 2)
            return call(value)

        return with_some

    def create_queue(**options: Any) -> None:
        with contextlib.suppress(shmpool.LimitReached):
            pool.create_queue(f"queue{next(numbers)}", **({"capacity": 2} | options))

    def create_topic(depth: Any) -> None:
        with contextlib.suppress(shmpool.LimitReached):
            pool.create_topic(f"topic{next(numbers)}", depth=depth)

    def awaited(call: Callable[[Any], Awaitable[Any]]) -> Call:
        async def result(value: Any) -> object:
            return await call(value)

        return sent(lambda value: asyncio.run(result(value)))

    def divided(index: slice) -> None:
        burst = pool.alloc_many(10)
        burst[index].free()

    view = View(pool.name)
    return {
        **{
            f"{option} (Pool.create)": (lambda v, o=option: created(name, **{o: v}), value)
            for option, value in {
                "buffer_size": 64, "capacity": 32, "prealloc": 8, "bulk": 16, "cache_size": 64,
                "refill_multiplier": 2, "headroom": 8, "members": 4, "queues": 4, "mode": 0o60,
                "group": os.getegid(), "numa_node": 0,
            }.items()
        },
        "owner (Pool.create)": (
            lambda v: created(name, owner=v, exist_ok=True), os.geteuid()
        ),
        "owner (Pool.attach)": (
            lambda v: shmpool.Pool.attach(pool.name, owner=v).close(), os.geteuid()
        ),
        "capacity (create_queue)": (lambda v: create_queue(capacity=v), 8),
        "max_redeliveries (create_queue)": (
            lambda v: create_queue(on_death="requeue", dead_letter=letters, max_redeliveries=v), 3
        ),
        "lanes (create_queue)": (lambda v: create_queue(capacity=8, lanes=v), 2),
        "n (alloc_many)": (lambda v: pool.alloc_many(v).free(), 3),
        "keep (trim)": (pool.trim, 64),
        "n (get_many)": (sent(lambda v: queue.get_many(v).free()), 2),
        "n (recv_many)": (sent(queue.recv_many), 2),
        "n (aget_many)": (awaited(queue.aget_many), 2),
        "n (arecv_many)": (awaited(queue.arecv_many), 2),
        "n (bursts)": (awaited(lambda v: anext(queue.bursts(v))), 2),
        "size (aalloc)": (awaited(pool.aalloc), 2),
        "n (aalloc_many)": (awaited(pool.aalloc_many), 2),
        "size (aalloc_many)": (awaited(lambda v: pool.aalloc_many(1, v)), 2),
        "depth (create_topic)": (create_topic, 8),
        "n (peek)": (queue.peek, 2),
        "size (alloc)": (lambda v: pool.alloc(0, v).free(), 2),
        "size (alloc_many)": (lambda v: pool.alloc_many(1, 0, v).free(), 2),
        "size (peek)": (lambda v: queue.peek(1, v), 2),
        "n (View.peek)": (lambda v: view.peek("q", v, 8), 2),
        "size (View.peek)": (lambda v: view.peek("q", 1, v), 2),
        "n (redrive)": (sent(lambda v: queue.redrive(v, to=letters)), 1),
        "n (drain)": (sent(queue.drain), 1),
        **{
            f"{field} (Buffer)": (lambda v, f=field: setattr(buf, f, v), 5)
            for field in ("length", "headroom", "mark", "flow_hash", "timestamp")
        },
        **{
            f"{field} (Burst)": (lambda v, f=field: setattr(burst, f, v), 5)
            for field in COLUMNS
        },
        "burst index (Burst)": (lambda v: burst[v], 1),
        "offset (column)": (lambda v: burst.column(v, "u1"), 1),
        "offset (set_column)": (lambda v: burst.set_column(v, 0, "u1"), 1),
        **{
            f"{option} ({call})": (lambda v, o=option, c=call: getattr(burst, c)(**{o: v}), 1)
            for option in ("link", "at")
            for call in ("headers", "checksums", "set_checksums", "decrement_ttl")
        },
        "slice indices (Burst)": (lambda v: divided(slice(v, None)), 1),
        "slice indices (Burst stop)": (lambda v: divided(slice(v)), 1),
        "slice indices (Burst step)": (lambda v: divided(slice(None, None, v)), 1),
    }  # fmt: skip


def seconds(pool: shmpool.Pool) -> dict[str, Call]:
    """Each argument that is a number of seconds: a call with it that ends at once."""
    queue = pool.queue("q")
    pool.create_topic("t", depth=2)

    def got() -> shmpool.Burst:
        queue.send(b"x")
        return queue.get_many(1)

    def received(call: Call) -> Call:
        def with_some(value: Any) -> object:
            queue.send(b"x")
            return call(value)

        return with_some

    return {
        "timeout (alloc)": lambda v: pool.alloc(v).free(),
        "timeout (alloc_many)": lambda v: pool.alloc_many(2, v).free(),
        "timeout (array)": lambda v: pool.array(2, "u1", timeout=v),
        "timeout (put_array)": lambda v: queue.put_array(b"x", v),
        "timeout (get_array)": lambda v: (queue.put_array(b"x"), queue.get_array(v)),
        "timeout (topic)": lambda v: pool.topic("t", timeout=v),
        "timeout (wait)": received(lambda v: shmpool.wait([queue], v)),
        "timeout (queue)": lambda v: pool.queue("q", timeout=v),
        "timeout (pin)": lambda v: pool.pin(v),
        "timeout (wait_producers)": lambda v: queue.wait_producers(v),
        "timeout (attach)": lambda v: shmpool.Pool.attach(pool.name, timeout=v).close(),
        "timeout (put)": lambda v: queue.put(pool.alloc(), v),
        "timeout (put_many)": lambda v: queue.put_many(pool.alloc_many(1), v),
        "timeout (put_many of a list)": lambda v: queue.put_many([pool.alloc()], v),
        "timeout (spread)": lambda v: pool.alloc_many(1).spread([queue], [0], v),
        "timeout (send)": lambda v: queue.send(b"x", v),
        "timeout (send_many)": lambda v: queue.send_many([b"x"], v),
        "timeout (get)": received(lambda v: queue.get(v).free()),
        "timeout (get_many)": received(lambda v: queue.get_many(9, v).free()),
        "timeout (recv)": received(queue.recv),
        "timeout (recv_many)": received(lambda v: queue.recv_many(9, v)),
        "timeout (nack)": lambda v: got()[0].nack(v),
        "timeout (Burst.nack)": lambda v: got().nack(v),
        "timeout (requeue)": lambda v: queue.requeue(got(), v),
        "limit (audit)": pool.audit,
        "limit (holders)": pool.holders,
        "age (prune)": lambda v: shmpool.pruning.survey([], age=v),
        "timeout (Client)": lambda v: shmpool.Client("/nowhere", timeout=v),
        "timeout (AsyncClient)": lambda v: shmpool.AsyncClient("/nowhere", timeout=v),
    }


@pytest.fixture
def roomy(make_pool: MakePool) -> shmpool.Pool:
    return make_pool(capacity=64, queues=40)


def test_integers(roomy: shmpool.Pool, new_name: Callable[[], str]) -> None:
    """Those of numpy, and whatever has __index__, are taken; floats, bools of numpy, arrays and
    text are refused, with the name and the value."""
    for name, (call, value) in counts(roomy, new_name()).items():
        argument = name.split(" (")[0]
        numbers = [value, np.int64(value), np.array(value), np.int32(value)]
        if value < 256:
            numbers.append(np.uint8(value))
        if argument not in COLUMNS:  # in which numpy would take it for an object
            numbers.append(Integer(value))
        for number in numbers:
            call(number)
        for wrong in NO_INTS:
            if isinstance(wrong, str) and argument in ("group", "owner", "numa_node", "lanes"):
                continue
            if isinstance(wrong, np.ndarray) and argument in (*COLUMNS, *INDICES, *BY_CLASS):
                continue  # an array is taken there, or numpy itself says what it is
            with pytest.raises(TypeError) as caught:  # noqa: PT012
                call(wrong)
                pytest.fail(f"{name} took {wrong!r}")
            assert str(caught.value).startswith(argument), (name, wrong, caught.value)
        if argument != "slice indices":  # clamps, as a slice does
            with pytest.raises((shmpool.ShmpoolError, IndexError), match=f"-{2**62}"):
                call(np.int64(-(2**62)))


def test_numbers_of_seconds(roomy: shmpool.Pool) -> None:
    """Whatever float() takes but text; None is no limit. Negative ones are refused."""
    roomy.create_queue("q", capacity=64)
    for name, call in seconds(roomy).items():
        for number in (1, 0.5, np.float32(0.5), np.int64(1), np.uint8(1), np.float16(1), None,
                       Fraction(1, 2), Decimal("0.5"), np.array(0.5), 10**400):  # fmt: skip
            call(number)
        for wrong in NO_SECONDS:
            with pytest.raises(TypeError) as caught:
                call(wrong)
            said = f"{name.split(' (')[0]} is {wrong!r}; it must be a number of seconds, or None"
            assert said == str(caught.value), name
        for below in (-1, np.float32(-0.5), np.int8(-1), float("nan"), -(10**400)):
            with pytest.raises(shmpool.InvalidArgument, match=f"^{name.split(' (')[0]} is "):
                call(below)
        roomy.queue("q").drain()


def test_no_number_is_left_out(roomy: shmpool.Pool, new_name: Callable[[], str]) -> None:
    """Each parameter of a public call that is a number, by its annotation, or by its name where a
    call in C has none, is in one of the tables with that call."""
    tables = [*counts(roomy, new_name()), *seconds(roomy)]
    known = {re.sub(r"\((?:\w+\.)?(\w+).*\)", r"(\1)", name) for name in tables}
    found = set()
    for kind in (shmpool.Pool, shmpool.AlfQueue, shmpool.Burst, shmpool.Buffer, shmpool):
        for name, call in inspect.getmembers(kind, callable):
            if not name.startswith("_") and not isinstance(call, type):
                for parameter in inspect.signature(call).parameters.values():
                    annotation = str(parameter.annotation)
                    if re.search(r"\b(int|float)\b", annotation) or parameter.name in (
                        "n",
                        "timeout",
                    ):
                        found.add(f"{parameter.name} ({name})")
    assert {"n (get_many)", "timeout (get)", "timeout (get_array)", "limit (holders)"} <= found
    assert set() == found - known


def test_the_daemons_client_sends_any_number() -> None:
    """numpy's go over the wire as Python's; what is no number is named."""
    from shmpool.rpc import wire

    sent = wire.pack_call(1, "peek", [np.int64(3), np.float32(0.5), np.uint8(4), Fraction(1, 4)])
    assert sent == wire.pack_call(1, "peek", [3, 0.5, 4, 0.25])
    with pytest.raises(TypeError, match="is neither a number, nor text"):
        wire.pack_call(1, "peek", [object()])
    for number, words in ((2**64, str(2**64)), (-(2**63) - 1, str(-(2**63) - 1))):
        for frame in ([number], [{"a": [1, number]}], [np.int64(1), "x", {"b": number}]):
            with pytest.raises(shmpool.InvalidArgument, match=f"integer is {words}; allowed are"):
                wire.pack_call(1, "peek", frame)
    with pytest.raises(shmpool.InvalidArgument, match="is of 33220 bits"):
        wire.pack_call(1, "peek", [10**10000])
    assert wire.pack_call(1, "peek", [2**64 - 1, -(2**63)])
