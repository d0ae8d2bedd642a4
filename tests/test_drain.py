# SPDX-License-Identifier: Apache-2.0
"""What drains packets waits for room: in a socket pair, which is full when nobody reads."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from conftest import MakePool

import shmpool
from shmpool._hot import Sender

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)  # the least: a few packets
    with near, far:
        yield near, far


def burst_of(pool: shmpool.Pool, n: int) -> shmpool.Burst:
    burst = pool.alloc_many(n)
    for i, buffer in enumerate(burst):
        buffer.write(i.to_bytes(4, "big"))
    return burst


def test_it_waits_for_room(make_pool: MakePool, pair: Pair) -> None:
    """All packets arrive, in order, although few fit."""
    pool, (near, far) = make_pool(capacity=256), pair
    sender = Sender(pool, near.fileno(), 0)
    found: list[int] = []
    reader = threading.Thread(
        target=lambda: [found.append(int.from_bytes(far.recv(64), "big")) for _ in range(100)]
    )
    timer = threading.Timer(0.05, reader.start)
    timer.start()
    assert (100, None) == sender.drain(burst_of(pool, 100), 60, None)
    timer.join()
    reader.join()
    assert list(range(100)) == found
    assert 0 == pool.stats().held


def test_its_time_is_up(make_pool: MakePool, pair: Pair) -> None:
    """What was not sent is still the caller's."""
    pool, (near, _) = make_pool(capacity=256), pair
    sender = Sender(pool, near.fileno(), 0)
    with burst_of(pool, 200) as burst:
        sent, late = sender.drain(burst, 0.01, None)
        assert late
        assert 1 <= sent < 200
        assert 200 - sent == len(burst) == pool.stats().held


def test_the_pool_is_closed_while_it_waits(make_pool: MakePool, pair: Pair) -> None:
    pool, (near, far) = make_pool(capacity=256), pair
    sender = Sender(pool, near.fileno(), 0)
    closed = threading.Event()

    def close() -> None:
        pool.close()
        closed.set()
        while True:  # there is room now
            try:
                far.recv(64, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return

    timer = threading.Timer(0.05, close)
    timer.start()
    with pytest.raises(shmpool.PoolClosed):
        sender.drain(burst_of(pool, 200), 60, None)
    timer.join()
    assert closed.is_set()


def test_its_descriptor_is_its_own(make_pool: MakePool, pair: Pair) -> None:
    """The caller's may be closed, and is not closed by it."""
    pool, (near, far) = make_pool(capacity=64), pair
    sender = Sender(pool, near.fileno(), 0)
    number = near.fileno()
    near.close()
    assert (1, None) == sender.drain(burst_of(pool, 1), 1, None)
    assert 4 == len(far.recv(64))
    other = os.dup(far.fileno())
    assert other == number
    sender.close()
    sender.close()
    os.close(other)  # it is still open
