# SPDX-License-Identifier: Apache-2.0
"""Invalid names, sizes and options: each is refused with its value and what is allowed."""

import os
import re
from collections.abc import Callable

import pytest
from conftest import MakePool

import shmpool

BAD_NAMES = [
    "",
    ".",
    "..",
    "a/b",
    "/a",
    "../x",
    "-a",
    ".a",
    "_a",
    "a b",
    "a\n",
    "a\0b",
    "é",
    "名",
    "a" * 64,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_pool_names(name: str) -> None:
    """create, attach and unlink refuse an invalid name, and show it."""
    for call in (
        lambda: shmpool.Pool.create(name, buffer_size=64, capacity=2),
        lambda: shmpool.Pool.attach(name),
        lambda: shmpool.Pool.unlink(name),
    ):
        with pytest.raises(shmpool.InvalidArgument, match=re.escape(f"{name!r}; allowed are")):
            call()


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_queue_names(pool: shmpool.Pool, name: str) -> None:
    """create_queue and queue refuse the same."""
    for call in (lambda: pool.create_queue(name, capacity=2), lambda: pool.queue(name)):
        with pytest.raises(shmpool.InvalidArgument, match=re.escape(f"{name!r}; allowed are")):
            call()
    assert [] == pool.queues()


@pytest.mark.parametrize("name", [5, b"bytes", ["a"], object])
def test_names_of_another_type(pool: shmpool.Pool, name: object) -> None:
    """They are TypeError that shows the value."""
    for call in (
        lambda: shmpool.Pool.create(name, buffer_size=64, capacity=2),  # type: ignore[arg-type]
        lambda: shmpool.Pool.attach(name),  # type: ignore[arg-type]
        lambda: shmpool.Pool.unlink(name),  # type: ignore[arg-type]
        lambda: pool.create_queue(name, capacity=2),  # type: ignore[arg-type]
        lambda: pool.queue(name),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=re.escape(repr(name))):
            call()


def test_the_longest_names(make_pool: MakePool) -> None:
    """63 characters work for a pool and for a queue, with every allowed character."""
    name = f"test-{os.getpid()}-".ljust(63, "x")
    pool = make_pool(name=name)
    queue = pool.create_queue("9A.z_-" + "q" * 57, capacity=2)
    queue.send(b"x")
    try:
        with shmpool.Pool.attach(name) as again:
            assert b"x" == again.queue(queue.name).recv()
    finally:
        shmpool.Pool.unlink(name)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("buffer_size", 0, "1"),
        ("buffer_size", -1, "1"),
        ("buffer_size", 2**30 + 1, "1073741824"),
        ("buffer_size", 2**64, "1073741824"),
        ("capacity", 0, "16777216"),
        ("capacity", 1, "16777216"),
        ("capacity", 3, "power of two"),
        ("capacity", 1000, "power of two"),
        ("capacity", -2, "power of two"),
        ("capacity", 2**25, "16777216"),
        ("capacity", 2**64, "16777216"),
        ("prealloc", 65, "64"),
        ("prealloc", -1, "0"),
        ("prealloc", 2**64, "64"),
        ("cache_size", -1, "0"),
        ("cache_size", 16, "32"),
        ("cache_size", 48, "power of two"),
        ("cache_size", 128, "64"),
        ("cache_size", 8192, "from 32 to 64, as bulk is 32 and capacity is 64"),
        ("cache_size", 2**64, "from 32 to 64, as bulk is 32 and capacity is 64"),
        ("bulk", 0, "1"),
        ("bulk", 15, "16 to 64"),
        ("bulk", 65, "16 to 64"),
        ("bulk", -1, "1"),
        ("bulk", 2**64, "64"),
        ("refill_multiplier", 0, "1"),
        ("refill_multiplier", 65, "1 to 64"),
        ("refill_multiplier", -1, "1"),
        ("headroom", 256, "255"),
        ("headroom", 10**6, "255"),
        ("headroom", -1, "0"),
        ("members", 0, "1"),
        ("members", 4096, "4095"),
        ("members", -1, "1"),
        ("queues", 0, "1"),
        ("queues", 1024, "1023"),
        ("queues", -1, "1"),
    ],
)
def test_options_out_of_range(pool_name: str, option: str, value: int, allowed: str) -> None:
    """The message names the option, its value and what is allowed; no segment is left."""
    options = {"buffer_size": 256, "capacity": 64} | {option: value}
    with pytest.raises(shmpool.InvalidArgument) as caught:
        shmpool.Pool.create(pool_name, **options)  # type: ignore[arg-type]
    assert re.search(rf"{option} is {value}\b.*{re.escape(allowed)}", str(caught.value))
    assert not os.path.exists(f"/dev/shm/shmpool.{pool_name}")


@pytest.mark.parametrize(
    "option",
    [
        "buffer_size",
        "capacity",
        "prealloc",
        "cache_size",
        "bulk",
        "refill_multiplier",
        "headroom",
        "members",
        "queues",
    ],
)
@pytest.mark.parametrize("value", ["64", 64.0, b"64", object()])
def test_options_of_another_type(pool_name: str, option: str, value: object) -> None:
    """They are TypeError that names the option and shows the value."""
    options = {"buffer_size": 256, "capacity": 64} | {option: value}
    with pytest.raises(TypeError, match=re.escape(f"{option} is {value!r}")):
        shmpool.Pool.create(pool_name, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"bulk": 16, "cache_size": 16},
        {"bulk": 64, "cache_size": 64},
        {"cache_size": 0},
        {"cache_size": 4096, "capacity": 4096},
        {"refill_multiplier": 1},
        {"refill_multiplier": 64, "capacity": 8192},
        {"headroom": 255},
        {"prealloc": 64},
        {"buffer_size": 1},
        {"members": 1, "queues": 1},
        {"members": 4095, "queues": 1023},
        {"capacity": 2},
        {"capacity": 2, "prealloc": 2},
    ],
)
def test_the_ends_of_every_range_work(make_pool: MakePool, options: dict[str, int]) -> None:
    """The ends of each range are allowed: the pool gives out all its buffers, twice."""
    pool = make_pool(**options)
    for _ in range(2):
        with pool.alloc_many(pool.capacity, timeout=0) as burst:
            assert pool.capacity == len(set(burst.indices.tolist()))
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_a_capacity_beyond_memory(make_pool: MakePool) -> None:
    """The capacity may exceed the memory. Only the preallocated part must fit."""
    room = os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize
    capacity = 2
    while capacity * 2**16 <= room:
        capacity *= 2
    pool = make_pool(buffer_size=2**16, capacity=capacity, members=4, queues=1)
    pool.alloc().write(b"x" * 2**16)


def test_preallocation_beyond_memory(pool_name: str) -> None:
    """A preallocation that cannot fit is refused with the figures, before it takes memory."""
    with pytest.raises(shmpool.OutOfSharedMemory) as caught:
        shmpool.Pool.create(pool_name, buffer_size=2**30, capacity=65536, prealloc=65536)
    said = f"prealloc 65536 x buffer_size {2**30}"
    assert (True, True) == (said in str(caught.value), pool_name in str(caught.value))
    assert not os.path.exists(f"/dev/shm/shmpool.{pool_name}")


@pytest.mark.parametrize("capacity", [-1, 0, 2**20 + 1, 2**21, 2**40])
def test_queue_capacities_out_of_range(pool: shmpool.Pool, capacity: int) -> None:
    """InvalidArgument names the queue, the value and what is allowed."""
    with pytest.raises(shmpool.InvalidArgument, match=rf"'q': capacity is {capacity}; .* 1048576"):
        pool.create_queue("q", capacity=capacity)
    assert [] == pool.queues()


def test_wrong_queue_options(pool: shmpool.Pool) -> None:
    """Sides other than single and multi, and capacities that are no int, are refused."""
    call: Callable[..., object] = pool.create_queue
    for side in ("producers", "consumers"):
        for value in ("", "Single", "both", None, 1):
            with pytest.raises(shmpool.InvalidArgument, match=re.escape(f"{side} is {value!r}")):
                call("q", capacity=2, **{side: value})
    for capacity in ("2", 2.0, None):
        with pytest.raises(TypeError, match=re.escape(repr(capacity))):
            call("q", capacity=capacity)
    assert [] == pool.queues()


def test_a_dead_letter_of_another_pool(make_pool: MakePool) -> None:
    """It is refused, whatever its number. The message names both pools and both queues."""
    one, two = make_pool(), make_pool()
    one.create_queue("own", capacity=2)
    for foreign in (two.create_queue("first", capacity=2), two.create_queue("second", capacity=2)):
        words = rf"'q' is '{foreign.name}' of pool '{two.name}'; .* pool '{one.name}'"
        with pytest.raises(shmpool.InvalidArgument, match=words):
            one.create_queue("q", capacity=2, on_death="dead-letter", dead_letter=foreign)
    assert ["own"] == [queue.name for queue in one.queues()]


def test_a_dead_letter_through_another_opening(pool: shmpool.Pool) -> None:
    """A queue is the same through every opening of its pool."""
    pool.create_queue("letters", capacity=2)
    with shmpool.Pool.attach(pool.name) as again:
        letters = again.queue("letters")
        queue = pool.create_queue("q", capacity=2, on_death="dead-letter", dead_letter=letters)
    assert queue.dead_letter is not None
    assert "letters" == queue.dead_letter.name


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dead_letter", 5),
        ("dead_letter", b"q"),
        ("dead_letter", object),
        ("max_redeliveries", "x"),
        ("max_redeliveries", 1.5),
        ("max_redeliveries", None),
    ],
)
def test_policies_of_another_type(pool: shmpool.Pool, option: str, value: object) -> None:
    """They are TypeError that names the option and shows the value."""
    call: Callable[..., object] = pool.create_queue
    with pytest.raises(TypeError, match=rf"{option}.* is {re.escape(repr(value))}; it must be an"):
        call("q", capacity=2, on_death="requeue", **{option: value})
    assert [] == pool.queues()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("group", "no-such-group"),
        ("group", "a\0b"),
        ("group", "\ud800"),
        ("group", -1),
        ("group", -5),
        ("group", 2**32 - 1),
        ("group", 2**40),
        ("group", True),
        ("mode", -1),
        ("mode", 0o1000),
        ("mode", 0o10000),
        ("mode", 2**40),
        ("mode", True),
    ],
)
def test_who_may_attach(pool_name: str, option: str, value: object) -> None:
    """Invalid groups and modes are InvalidArgument that shows the value. Nothing is left."""
    call: Callable[..., object] = shmpool.Pool.create
    with pytest.raises(shmpool.InvalidArgument, match=re.escape(f"{option} is {value!r}")):
        call(pool_name, buffer_size=64, capacity=2, **{option: value})
    assert not os.path.exists(f"/dev/shm/shmpool.{pool_name}")


@pytest.mark.parametrize("option", ["group", "mode"])
@pytest.mark.parametrize("value", [1.5, b"root", ["root"]])
def test_who_may_attach_of_another_type(pool_name: str, option: str, value: object) -> None:
    """It is TypeError that names the option and shows the value. Nothing is left."""
    call: Callable[..., object] = shmpool.Pool.create
    with pytest.raises(TypeError, match=re.escape(f"{option} is {value!r}; it must be")):
        call(pool_name, buffer_size=64, capacity=2, **{option: value})
    assert not os.path.exists(f"/dev/shm/shmpool.{pool_name}")
