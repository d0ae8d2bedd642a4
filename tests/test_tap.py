# SPDX-License-Identifier: Apache-2.0
"""shmpool.net.TapDevice: this process as the other end of an interface."""

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest
from conftest import MakePool
from network_spaces import Space, frame, ip, made

import shmpool
from shmpool.net import TapDevice


@pytest.fixture(scope="module")
def space() -> Iterator[Space]:
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("no /dev/net/tun here")
    with made() as (first, _):
        yield first


@pytest.fixture
def pool(make_pool: MakePool) -> shmpool.Pool:
    return make_pool(buffer_size=2048, capacity=1024)


@contextlib.contextmanager
def device(space: Space, pool: shmpool.Pool, mode: str = "tap") -> Iterator[TapDevice]:
    """A device in the namespace that is up and has an address."""
    with space.entered():
        tap = TapDevice(pool, "tap0", mode=mode)  # type: ignore[arg-type]
    with tap:
        assert "tap0" == tap.name
        ip("-n", space.name, "address", "add", "198.51.100.1/24", "dev", "tap0")
        ip("-n", space.name, "link", "set", "tap0", "up")
        yield tap


def test_received_and_sent(space: Space, pool: shmpool.Pool) -> None:
    """What the system sends there comes out, and what is drained the system receives."""
    with device(space, pool) as tap, space.entered():
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300)
        with packets:
            packets.bind(("tap0", 3))
            for i in range(300):
                packets.send(frame(i))
            found: list[bytes] = []
            while len(found) < 300:
                with tap.get_many(timeout=10) as burst:
                    assert (burst.timestamps > 10**18).all()
                    found += [bytes(b) for b in burst if bytes(b)[12:14] == b"\x88\xb5"]
            assert [frame(i) for i in range(300)] == found
            burst = pool.alloc_many(300)
            for i, buffer in enumerate(burst):
                buffer.write(frame(1000 + i))
            assert 300 == tap.drain(burst)
            got: list[bytes] = []
            packets.settimeout(10)
            while len(got) < 300:
                data, where = packets.recvfrom(4096)
                if where[2] != socket.PACKET_OUTGOING:
                    got.append(data)
            assert [frame(1000 + i) for i in range(300)] == got
        assert 300 == tap.sent().packets
    stats = pool.stats()
    assert stats.created == stats.free + stats.cached


def test_truncated(space: Space, make_pool: MakePool) -> None:
    """A packet that no buffer holds is truncated and counted, and its mark has the whole length."""
    small = make_pool(buffer_size=64, capacity=64)
    with device(space, small) as tap, space.entered():
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packets:
            packets.bind(("tap0", 0))
            for size in (64, 65, 1514):
                packets.send(frame(size, size))
        found = []
        while len(found) < 3:
            with tap.get_many(timeout=10) as burst:
                lengths = shmpool.net.original_lengths(burst).tolist()
                for buffer, length in zip(burst, lengths, strict=True):
                    if bytes(buffer)[12:14] == b"\x88\xb5":
                        assert frame(length, length)[:64] == bytes(buffer)
                        found.append(length)
        assert [64, 65, 1514] == found
        assert 2 <= tap.statistics().truncated  # the system's own packets may be long too


def test_answers_ping(space: Space, pool: shmpool.Pool) -> None:
    """A TUN device that swaps the addresses of an echo request answers a datagram's path."""
    with device(space, pool, "tun") as tun, space.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.bind(("198.51.100.1", 5000))
            sock.settimeout(10)
            sock.sendto(b"to and fro", ("198.51.100.2", 5000))
            while True:
                with tun.get_many(timeout=10) as burst:
                    ours = burst[burst.column(9, "u1") == socket.IPPROTO_UDP]
                if len(ours):
                    break
            near, far = ours.column(12, "V4"), ours.column(16, "V4")
            ours.set_column(12, far)
            ours.set_column(16, near)
            ours.set_column(26, 0, ">u2")  # no checksum
            tun.drain(ours)
            assert b"to and fro" == sock.recv(100)


def test_ends(space: Space, pool: shmpool.Pool) -> None:
    """Timeouts and close() end a wait. The interface is gone then."""
    with device(space, pool) as tap:
        with contextlib.suppress(shmpool.Empty):
            while True:
                tap.get_many(timeout=0.3).free()  # the system's own packets
        timer = threading.Timer(0.05, tap.close)
        timer.start()
        for burst in tap.bursts():
            burst.free()
        timer.join()
    shown = subprocess.run(["ip", "-n", space.name, "link", "show", "tap0"], capture_output=True)
    assert 0 != shown.returncode


def test_down_or_taken(space: Space, pool: shmpool.Pool) -> None:
    """Packets for a device that is down stay in the burst; one that is taken says so."""
    with space.entered(), TapDevice(pool, "tap1") as tap:
        burst = pool.alloc_many(2)
        for buffer in burst:
            buffer.write(frame(1))
        with pytest.raises(OSError, match=r"."):
            tap.drain(burst, timeout=1)
        assert 2 == len(burst)
        with pytest.raises(shmpool.InvalidArgument, match="another process has that device"):
            TapDevice(pool, "tap1")


@pytest.mark.parametrize("options", [{"mode": "tup"}, {"name": "x" * 16}, {"name": "a\0"}])
def test_bad_options(pool: shmpool.Pool, options: dict[str, str]) -> None:
    with pytest.raises(shmpool.InvalidArgument):
        TapDevice(pool, **options)  # type: ignore[arg-type]
