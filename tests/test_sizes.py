# SPDX-License-Identifier: Apache-2.0
"""Pools of several size classes: which class a buffer comes from, and that each keeps its own."""

import itertools
import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import Child, MakePool, StartDaemon

import shmpool
from shmpool.cli.main import shmpool as command
from shmpool.geometry import SizeClass
from shmpool.options import PoolOptions
from shmpool.service.alarms import Policy
from shmpool.service.watched_pool import WatchedPool
from shmpool.view import View

SIZES = [64, 4096, 65536]
CAPACITY = [64, 16, 4]


@pytest.fixture
def sized(make_pool: MakePool) -> shmpool.Pool:
    return make_pool(buffer_size=SIZES, capacity=CAPACITY, prealloc=0, cache_size=0)


def room(buf: shmpool.Buffer) -> int:
    return len(buf.data)


def test_what_was_asked_for(make_pool: MakePool) -> None:
    """The geometry has every class. One value stands for all classes."""
    pool = make_pool(buffer_size=(100, 5000), capacity=256, prealloc=[8, 0], cache_size=[64, 0])
    assert [SizeClass(128, 256, 8, 64), SizeClass(5056, 256, 0, 0)] == pool.geometry.sizes
    assert (5056, 512, 8) == (pool.buffer_size, pool.capacity, pool.geometry.prealloc)
    with shmpool.Pool.attach(pool.name) as other:
        assert pool.geometry == other.geometry


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"buffer_size": []}, "buffer_size is []; it must have from 1 to 8 values"),
        ({"buffer_size": [64] * 9}, "it must have from 1 to 8 values"),
        (
            {"buffer_size": itertools.count(64)},
            "[64, 65, 66, 67, 68, 69, 70, 71, 72]; it must have",
        ),
        ({"capacity": [64, 64]}, "it must be one number, or 3: one for each buffer_size"),
        ({"buffer_size": 64}, "capacity is [64, 16, 4]; it must be one number, as buffer_size is"),
        (
            {"buffer_size": [4096, 64, 65536]},
            "buffer_size[1] is 64; it must be from 4097 to 1073741824, as buffer_size[0] is 4096",
        ),
        ({"buffer_size": [60, 64, 65536]}, "buffer_size[1] is 64; it must be from 65 to"),
        (
            {"buffer_size": [-(2**70), 64, 65536]},
            f"buffer_size[0] is {-(2**70)}; it must be from 1",
        ),
        ({"capacity": [64, 16, 1]}, "capacity[2] is 1; it must be a power of two from 2 to"),
        (
            {"queues": 1021},
            "queues is 1021; it must be from 1 to 1020, as buffer_size has 3 values, 1 of them"
            " large",
        ),
        ({"capacity": [64, 48, 4]}, "capacity[1] is 48; it must be a power of two"),
        ({"prealloc": [0, 0, 5]}, "prealloc[2] is 5; it must be from 0 to 4, as capacity is 4"),
        ({"capacity": [1 << 23, 1 << 23, 4]}, "capacity is 16777220 buffers in all; the most is"),
        ({"headroom": 64}, "headroom is 64; it must be from 0 to 63, as buffer_size is 64"),
    ],
)
def test_refused(pool_name: str, options: dict[str, Any], said: str) -> None:
    """A refusal names the option and the class."""
    given = {"buffer_size": SIZES, "capacity": CAPACITY, **options}
    with pytest.raises(shmpool.InvalidArgument) as caught:
        shmpool.Pool.create(pool_name, **given)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        (None, "buffer_size is None"),
        ([64, None], "buffer_size[1] is None"),
        ([64, 128.0], "buffer_size is 128.0"),
        ([64, [128]], "buffer_size is [128]"),
        ("64", "buffer_size is '64'"),
    ],
)
def test_a_size_that_is_no_number(pool_name: str, sizes: Any, said: str) -> None:
    with pytest.raises(TypeError) as caught:
        shmpool.Pool.create(pool_name, buffer_size=sizes, capacity=64)
    assert f"{said}; it must be an int" == str(caught.value)


def test_arrays_of_sizes(make_pool: MakePool) -> None:
    """Any sequence of integers of any type will do."""
    sizes, capacity = np.array([64, 128], "u2"), (np.int8(4), np.uint64(8))
    pool = make_pool(buffer_size=sizes, capacity=capacity)
    assert [(64, 4), (128, 8)] == [(one.buffer_size, one.capacity) for one in pool.geometry.sizes]
    assert (2, 64) == tuple(getattr(make_pool(buffer_size=np.array(64), capacity=np.array(2)), n)
                            for n in ("capacity", "buffer_size"))  # fmt: skip


def test_the_smallest_that_fits(sized: shmpool.Pool) -> None:
    """alloc() takes the smallest class that fits and, while that has none, a larger one."""
    for size, expected in ((0, 64), (64, 64), (65, 4096), (4096, 4096), (4097, 65536)):
        with sized.alloc(size=size) as buf:
            assert expected == room(buf)
    with sized.alloc() as buf:
        assert 64 == room(buf)
    with pytest.raises(shmpool.PayloadTooLarge, match="65537 bytes; a buffer holds up to 65536"):
        sized.alloc_many(2, size=65537)
    kept = [sized.alloc(timeout=0, size=65) for _ in range(20)]
    assert [4096] * 16 + [65536] * 4 == [room(buf) for buf in kept]
    with pytest.raises(shmpool.PoolExhausted):
        sized.alloc(timeout=0, size=65)
    assert 64 == room(sized.alloc(timeout=0))


def test_size_behind_headroom(make_pool: MakePool) -> None:
    """size is what is free behind the pool's headroom."""
    pool = make_pool(buffer_size=[64, 256], capacity=16, headroom=32)
    assert [32, 224] == [room(pool.alloc(size=size)) for size in (32, 33)]


@pytest.mark.parametrize("size", [-1, 1.5, "64", 2**70])
def test_no_size(sized: shmpool.Pool, size: Any) -> None:
    with pytest.raises((shmpool.InvalidArgument, shmpool.PayloadTooLarge, TypeError), match="size"):
        sized.alloc(size=size)
    with pytest.raises((shmpool.InvalidArgument, shmpool.PayloadTooLarge, TypeError), match="size"):
        sized.alloc_many(2, size=size)


def test_a_numpy_size(sized: shmpool.Pool) -> None:
    assert 4096 == room(sized.alloc(size=np.int64(100)))  # type: ignore[arg-type]


def test_many(sized: shmpool.Pool) -> None:
    """A burst has buffers of one class."""
    with sized.alloc_many(4, size=100) as burst:
        assert [4096] * 4 == [room(buf) for buf in burst]
    held = [sized.alloc_many(n, timeout=0, size=70) for n in (10, 4)]
    with pytest.raises(shmpool.PoolExhausted):
        sized.alloc_many(5, timeout=0, size=70)
    assert [10, 4] == [len(burst) for burst in held]
    held.clear()
    with pytest.raises(shmpool.PoolExhausted, match="never has more than 4 of one size"):
        sized.alloc_many(5, size=5000)


def test_one_queue_for_all(sized: shmpool.Pool) -> None:
    """One queue carries small and large ones, one at a time, as bursts, as payloads and arrays."""
    queue = sized.create_queue("q", capacity=64)
    payloads = [bytes([n % 251]) * n for n in (1, 64, 65, 4096, 4097, 65536, 0, 5000)]
    for payload in payloads[:3]:
        queue.send(payload)
    queue.send_many(payloads[3:5])
    assert payloads[:5] == queue.recv_many(5)
    for payload in payloads[5:]:
        with sized.alloc(size=len(payload)) as buf:
            buf.write(payload)
            queue.put(buf)
    with queue.get_many(64) as burst:
        assert payloads[5:] == [bytes(buf) for buf in burst]
        assert [64, 4096, 65536] == sorted({len(buf.data) for buf in burst} | {4096})
        queue.put_many(burst)
    queue.drain()
    for shape in ((3,), (30, 30), (100, 500)):
        array = np.arange(np.prod(shape), dtype="u1").reshape(shape)
        queue.put_array(array)
        assert np.array_equal(array, queue.get_array())
    audit = sized.audit()
    assert (True, {}) == (audit.ok, audit.held)


def test_columns_of_mixed_sizes(sized: shmpool.Pool) -> None:
    """A column reads as far as each buffer goes, and not into the next one."""
    burst = sized.burst([sized.alloc(size=64), sized.alloc(size=65536)])
    burst.lengths = [64, 65536]
    burst.set_column(60, np.array([1, 2], "u4"))
    assert [1, 2] == burst.column(60, "u4").tolist()
    with pytest.raises(shmpool.InvalidArgument):
        burst.column(61, "u4")
    with pytest.raises(shmpool.PayloadTooLarge):
        burst.lengths = [65, 65]


def test_bytes_of_neighbours(sized: shmpool.Pool) -> None:
    """No byte is two buffers'."""
    held = [sized.alloc(timeout=0, size=size) for size in (64, 4096, 65536) for _ in range(4)]
    for number, buf in enumerate(held):
        buf.write(bytes([number]) * room(buf))
    for number, buf in enumerate(held):
        assert bytes([number]) * room(buf) == bytes(buf)


def test_figures(sized: shmpool.Pool) -> None:
    """Every class has its own figures; the pool's are their sums."""
    held = [sized.alloc(size=size) for size in (1, 100, 100)]
    stats = sized.stats()
    assert SIZES == [size.buffer_size for size in stats.sizes]
    assert CAPACITY == [size.capacity for size in stats.sizes]
    assert [1, 2, 0] == [size.created - size.free - size.cached for size in stats.sizes]
    assert (84, 3) == (stats.capacity, stats.held)
    assert {0: 3} == sized.audit().held
    assert held


def test_trim(make_pool: MakePool) -> None:
    """trim() gives back memory of every class."""
    pool = make_pool(
        buffer_size=[4096, 65536], capacity=[1024, 256], prealloc=0, cache_size=0, bulk=16,
        refill_multiplier=1,
    )  # fmt: skip
    for size in (1, 65536):
        pool.alloc_many(256, size=size).free()
    before = pool.stats()
    freed = pool.trim()
    after = pool.stats()
    assert all(b.created > a.created for b, a in zip(before.sizes, after.sizes, strict=True))
    assert freed > 16 * 65536
    for size in (1, 65536):
        pool.alloc_many(256, size=size).free()
    assert pool.audit().ok


def test_trim_keeps_some_of_each(make_pool: MakePool) -> None:
    """trim(keep) leaves so many free buffers of every class, and a daemon asks for no more."""
    pool = make_pool(
        buffer_size=[64, 4096], capacity=[1024, 256], prealloc=0, bulk=16, refill_multiplier=1
    )
    now = [100.0]
    for size in (1, 4096):
        pool.alloc_many(256, size=size).free()
    with View(pool.name) as view:
        watched = WatchedPool(view, Policy(trim_to=32, trim_after_s=0), clock=lambda: now[0])
        watched.inspect()
        assert watched.should_trim()
        pool.trim(32)
        watched.inspect()
        assert not watched.should_trim()
    assert all(32 <= size.created == size.free + size.cached < 256 for size in pool.stats().sizes)


def test_a_dead_member(sized: shmpool.Pool, start: Callable[..., Child]) -> None:
    """What a killed process had comes back to the classes it came from."""
    queue = sized.create_queue("q", capacity=16, on_death="requeue")
    for size in (10, 1000, 10000):
        queue.send(b"x" * size)
    child = start(
        """
        import shmpool, sys
        pool = shmpool.Pool.attach(sys.argv[1])
        kept = [pool.alloc(size=size) for size in (1, 100, 5000)]
        got = [pool.queue("q").get() for _ in range(2)]
        print("ready", flush=True)
        input()
        """,
        sized.name,
    )
    assert "ready" == child.line()
    os.kill(child.pid, signal.SIGKILL)
    child.process.wait()
    done = sized.recover()
    assert (1, 5, 2) == (done.members, done.buffers, done.requeued)
    assert [10000, 10, 1000] == [len(payload) for payload in queue.recv_many(3)]
    audit = sized.audit()
    assert (True, audit.total) == (audit.ok, audit.free)
    held = [sized.alloc(timeout=0, size=size) for size in SIZES for _ in range(4)]
    assert [64] * 4 + [4096] * 4 + [65536] * 4 == [room(buf) for buf in held]


def test_an_existing_pool(make_pool: MakePool) -> None:
    """exist_ok compares the options of every class."""
    pool = make_pool(buffer_size=SIZES, capacity=CAPACITY)
    options: dict[str, Any] = {"buffer_size": SIZES, "capacity": CAPACITY}
    with shmpool.Pool.create(pool.name, **options, exist_ok=True) as same:
        assert pool.geometry == same.geometry
    for other in ({"capacity": [64, 32, 4]}, {"buffer_size": [64, 4096, 131072]}):
        with pytest.raises(shmpool.PoolExists, match="exists with"):
            shmpool.Pool.create(pool.name, **{**options, **other}, exist_ok=True)


def test_a_buffer_of_another_class_for_the_asking(sized: shmpool.Pool) -> None:
    """A call that waits for a small buffer gets a larger one that comes free."""
    held = [sized.alloc(timeout=0) for _ in range(84)]
    with pytest.raises(shmpool.PoolExhausted):
        sized.alloc(timeout=0)
    largest = max(held, key=room)
    expected = room(largest)
    held.remove(largest)
    largest.free()
    assert expected == room(sized.alloc(timeout=60))


def test_growth_after_the_descriptor_is_gone(
    new_name: Callable[[], str], run: Callable[..., str]
) -> None:
    """Every class opens the file again by its name if the program has closed the descriptor."""
    printed = run(
        """
        import os, sys, shmpool
        pool = shmpool.Pool.create(sys.argv[1], buffer_size=[64, 4096], capacity=[64, 64])
        os.close(pool._segment.fd)
        print(*[len(pool.alloc(size=size).data) for size in (64, 4096)])
        shmpool.Pool.unlink(sys.argv[1])
        """,
        new_name(),
    )
    assert "64 4096\n" == printed


def test_with_a_daemon(start_daemon: StartDaemon, pool_name: str) -> None:
    """A daemon creates such a pool on request, and says what is wrong with the options."""
    daemon = start_daemon()
    options: dict[str, Any] = {"buffer_size": SIZES, "capacity": CAPACITY, "prealloc": [1, 0, 0]}
    with shmpool.Client(daemon.socket) as client:
        made = client.create(pool_name, PoolOptions(**options))
        assert SIZES == [one.buffer_size for one in made.geometry.sizes]
        assert [1, 0, 0] == [one.created for one in client.stats(pool_name).buffers.sizes]
        for wrong, said in (
            ({"capacity": [64, 16]}, "capacity is [64, 16]; it must be one number, or 3"),
            ({"buffer_size": SIZES[::-1]}, "as buffer_size[0] is 65536"),
            ({"prealloc": [0, 17, 0]}, "prealloc[1] is 17"),
        ):
            with pytest.raises(shmpool.InvalidArgument) as caught:
                client.create(f"{pool_name}-x", PoolOptions(**options | wrong))
            assert said in str(caught.value)
        with shmpool.Pool.attach(pool_name) as pool:
            assert 65536 == room(pool.alloc(size=65536))
        client.destroy(pool_name)


def test_the_command_line(pool_name: str) -> None:
    """create takes a value for each class; describe and stats have a table of the classes."""
    sizes, capacity = (",".join(map(str, values)) for values in (SIZES, CAPACITY))
    line = ["create", pool_name, "--buffer-size", sizes, "--capacity", capacity, "--direct"]
    made = CliRunner().invoke(command, line)
    assert 0 == made.exit_code, made.output
    for subcommand in ("describe", "stats"):
        shown = CliRunner().invoke(command, [subcommand, pool_name, "--direct"]).output
        rows = [line.split() for line in shown.splitlines()]
        found = [row[:2] for row in rows if row[:1] in (["64"], ["4,096"], ["65,536"])]
        assert [["64", "64"], ["4,096", "16"], ["65,536", "4"]] == found
        assert "cache_size" not in shown
    for wrong in ("64,", "64,,128", "a,64", "64;128"):
        refused = CliRunner().invoke(command, [*line[:3], wrong, *line[4:]])
        assert (2, True) == (refused.exit_code, "neither a number nor several" in refused.output)
    shmpool.Pool.unlink(pool_name)
