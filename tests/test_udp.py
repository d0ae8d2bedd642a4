# SPDX-License-Identifier: Apache-2.0
"""shmpool.net.UdpSocket: datagrams over the loopback interface."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from conftest import MakePool
from network_spaces import ip, made

import shmpool
from shmpool.net import UdpSocket, address_texts, addresses_of

HERE = ("127.0.0.1", 0)
Open = Callable[..., UdpSocket]


@pytest.fixture
def pool(make_pool: MakePool) -> shmpool.Pool:
    return make_pool(buffer_size=2048, capacity=4096)


@pytest.fixture
def udp(pool: shmpool.Pool) -> Iterator[Open]:
    """Opens sockets, and closes them."""
    with contextlib.ExitStack() as stack:
        yield lambda *given, **options: stack.enter_context(UdpSocket(pool, *given, **options))


def burst_of(pool: shmpool.Pool, payloads: list[bytes]) -> shmpool.Burst:
    burst = pool.alloc_many(len(payloads))
    for buffer, payload in zip(burst, payloads, strict=True):
        buffer.write(payload)
    return burst


def all_of(source: UdpSocket, n: int) -> list[bytes]:
    """The next n datagrams; frees them."""
    found: list[bytes] = []
    while len(found) < n:
        with source.get_many(timeout=10) as burst:
            found += map(bytes, burst)
    return found


def free_again(pool: shmpool.Pool) -> bool:
    stats = pool.stats()
    return stats.created == stats.free + stats.cached


PAYLOADS = [bytes([i]) * i for i in range(100)]  # the first one is empty


def test_received(pool: shmpool.Pool, udp: Open) -> None:
    """Datagrams come whole, in order, with the kernel's time and the address of the sender."""
    server = udp(HERE)
    before = time.time_ns()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(HERE)
        for payload in PAYLOADS:
            sock.sendto(payload, server.address)
        address = sock.getsockname()
    found = []
    while len(found) < 100:
        burst, addresses = server.get_many_from(timeout=10)
        assert {address} == set(address_texts(addresses))
        assert len(burst) == len(addresses)
        assert all(before <= at <= time.time_ns() for at in burst.timestamps.tolist())
        found += map(bytes, burst)
        burst.free()
    assert PAYLOADS == found
    assert (100, sum(map(len, PAYLOADS))) == (
        server.statistics().packets,
        server.statistics().bytes,
    )
    with pytest.raises(shmpool.Empty):
        server.get_many(timeout=0)
    assert free_again(pool)


@pytest.mark.parametrize("gso", [False, True])
@pytest.mark.parametrize("gro", [False, True])
def test_sent(pool: shmpool.Pool, udp: Open, gso: bool, gro: bool) -> None:
    """What a connected socket drains arrives as the same datagrams, whatever is put together."""
    server = udp(HERE, gro=gro)
    client = udp(peer=server.address, gso=gso)
    payloads = [bytes([i]) * 1000 for i in range(70)] + [b"short"] + PAYLOADS[:50]
    assert len(payloads) == client.drain(burst_of(pool, payloads))
    assert payloads == all_of(server, len(payloads))
    assert (len(payloads), sum(map(len, payloads)), 0) == (
        client.sent().packets,
        client.sent().bytes,
        client.sent().refused,
    )
    assert free_again(pool)


def test_gro_divides_among_bursts(pool: shmpool.Pool, udp: Open) -> None:
    """Datagrams that the kernel hands over together fill bursts of any size."""
    server = udp(HERE, gro=True)
    client = udp(peer=server.address, gso=True)
    payloads = [bytes([i]) * 100 for i in range(50)]
    client.drain(burst_of(pool, payloads))
    found = []
    while len(found) < 50:
        burst, addresses = server.get_many_from(7, timeout=10)
        assert {client.address} == set(address_texts(addresses))
        found += map(bytes, burst)
        burst.free()
    assert payloads == found


@pytest.mark.parametrize("gso", [False, True])
def test_echo(pool: shmpool.Pool, udp: Open, gso: bool) -> None:
    """A burst goes back to where each datagram came from."""
    server = udp(HERE, gso=gso)
    clients = [udp(peer=server.address) for _ in range(3)]
    for i, client in enumerate(clients):
        client.drain(burst_of(pool, [bytes([i])] * 5))
    echoed = 0
    while echoed < 15:
        burst, addresses = server.get_many_from(timeout=10)
        echoed += server.drain(burst, to=addresses)
    assert [[bytes([i])] * 5 for i in range(3)] == [all_of(client, 5) for client in clients]


def test_freed_elements(pool: shmpool.Pool, udp: Open) -> None:
    """Where a Buffer was freed by itself, the others go to their own addresses."""
    server = udp(HERE)
    clients = [udp(HERE) for _ in range(3)]
    burst = burst_of(pool, [b"0", b"1", b"2"])
    burst[1].free()
    assert 2 == server.drain(burst, to=addresses_of([client.address for client in clients]))
    assert ([b"0"], [b"2"]) == (all_of(clients[0], 1), all_of(clients[2], 1))
    with pytest.raises(shmpool.Empty):
        clients[1].get_many(timeout=0)


def test_ipv6(pool: shmpool.Pool, udp: Open) -> None:
    """The same over IPv6."""
    try:
        server = udp(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    client = udp(peer=server.address)
    client.drain(burst_of(pool, [b"six"]))
    burst, addresses = server.get_many_from(timeout=10)
    assert [client.address] == address_texts(addresses)
    server.drain(burst, to=addresses)
    assert [b"six"] == all_of(client, 1)
    with pytest.raises(shmpool.InvalidArgument, match="not of the socket's family"):
        udp(HERE).drain(burst_of(pool, [b"x"]), to=addresses_of([("::1", 9)]))


def test_truncated(make_pool: MakePool) -> None:
    """A datagram that is longer than a buffer is truncated and counted, as recvmsg(2) does."""
    pool = make_pool(buffer_size=[64, 2048], capacity=[64, 64])
    with UdpSocket(pool, HERE, datagram=64) as small, UdpSocket(pool, HERE) as large:
        for server in (small, large):
            with UdpSocket(pool, peer=server.address) as client:
                with pool.alloc(size=2000) as buffer:
                    buffer.write(bytes(1000))
                    client.drain(pool.burst([buffer]))
                with server.get_many(timeout=10) as burst:
                    assert [1000] == shmpool.net.original_lengths(burst).tolist()
                    assert [64 if server is small else 1000] == burst.lengths.tolist()
        assert (1, 0) == (small.statistics().truncated, large.statistics().truncated)


def test_refused(pool: shmpool.Pool, udp: Open, make_pool: MakePool) -> None:
    """What UDP cannot carry is counted and freed; the others are sent."""
    large = make_pool(buffer_size=1 << 17, capacity=16)
    server = udp(HERE)
    with UdpSocket(large, peer=server.address) as client:
        burst = large.alloc_many(3)
        burst.lengths = [3, 65_508, 4]
        assert 2 == client.drain(burst)
        assert (2, 1) == (client.sent().packets, client.sent().refused)
    assert [3, 4] == [len(payload) for payload in all_of(server, 2)]


def test_not_together(udp: Open, make_pool: MakePool) -> None:
    """Datagrams that the kernel does not take together, because they are longer than the MTU, are
    sent one by one; those that it takes go together again."""
    large = make_pool(buffer_size=65536, capacity=64)
    with made() as (first, second):
        ip("-n", first.name, "route", "change", "192.0.2.0/24", "dev", "veth", "mtu", "1000")
        with second.entered():
            server = UdpSocket(large, (second.address, 9))
        with first.entered():
            client = UdpSocket(large, peer=(second.address, 9), gso=True)
        with server, client:
            payloads = [bytes([i]) * 3000 for i in range(5)] + [bytes([i]) * 100 for i in range(9)]
            assert 14 == client.drain(burst_of(large, payloads))
            assert payloads == all_of(server, 14)
            assert (14, 0) == (client.sent().packets, client.sent().refused)
            payloads = [b"x" * 60000, *([b"y" * 65508] * 2), b"z"]
            assert 2 == client.drain(burst_of(large, payloads))
            assert [payloads[0], payloads[3]] == all_of(server, 2)
            assert 2 == client.sent().refused


def test_nobody_listens(pool: shmpool.Pool, udp: Open) -> None:
    """That an earlier datagram reached nobody ends neither a drain nor a wait."""
    # An address of its own: nobody else takes the port while nobody listens.
    server = udp((f"127.9.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}", 0))
    client = udp(peer=server.address)
    address = server.address
    server.close()
    for _ in range(3):
        assert 2 == client.drain(burst_of(pool, [b"a", b"b"]))
    with pytest.raises(shmpool.Empty):
        client.get_many(timeout=0.05)
    server = udp(address)
    client.drain(burst_of(pool, [b"there"]))
    assert b"there" in all_of(server, 1)


def test_dropped(pool: shmpool.Pool, udp: Open) -> None:
    """received + dropped by the kernel = sent, to the packet."""
    server = udp(HERE, receive_buffer=10_000)
    client = udp(peer=server.address)
    for _ in range(4):
        client.drain(burst_of(pool, [bytes(1000)] * 256))
    received = 0
    with contextlib.suppress(shmpool.Empty):
        while True:
            with server.get_many(timeout=0.1) as burst:
                received += len(burst)
    assert 0 < server.statistics().dropped
    assert 1024 == received + server.statistics().dropped


def test_close_from_another_thread(udp: Open) -> None:
    """close() ends a call that waits, and every later one."""
    server = udp(HERE)
    timer = threading.Timer(0.05, server.close)
    timer.start()
    assert [] == list(server.bursts())
    timer.join()
    with pytest.raises(shmpool.ShutDown):
        server.get_many()
    with pytest.raises(shmpool.ShutDown):
        server.get_many_from()


def test_exhausted(pool: shmpool.Pool, udp: Open) -> None:
    """Without a free buffer datagrams wait in the socket."""
    server = udp(HERE)
    client = udp(peer=server.address)
    client.drain(burst_of(pool, PAYLOADS))
    held = pool.alloc_many(4096)
    with pytest.raises(shmpool.PoolExhausted):
        server.get_many(timeout=0.05)
    held.free()
    assert PAYLOADS == all_of(server, 100)


def test_shared_port(pool: shmpool.Pool, udp: Open) -> None:
    """Several sockets at one port share the datagrams."""
    first = udp(HERE, reuse_port=True)
    second = udp(first.address, reuse_port=True)
    sent = 0
    while not (first.statistics().packets and second.statistics().packets):
        client = udp(peer=first.address)
        client.drain(burst_of(pool, [b"x"]))
        client.close()
        sent += 1
        for server in (first, second):
            with contextlib.suppress(shmpool.Empty):
                server.get_many(timeout=0.01).free()


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ((), {}),
        ((("no.such.host.invalid", 1),), {}),
        ((("127.0.0.1", "x"),), {}),
        ((HERE,), {"datagram": 0}),
    ],
)
def test_bad_options(udp: Open, given: tuple[object, ...], options: dict[str, object]) -> None:
    with pytest.raises(shmpool.InvalidArgument):
        udp(*given, **options)


def test_bad_addresses(pool: shmpool.Pool, udp: Open) -> None:
    """A drain without a peer needs an address for each; the burst stays the caller's."""
    server = udp(HERE)
    burst = burst_of(pool, [b"a", b"b"])
    for to in (None, addresses_of([HERE]), np.zeros((2, 28), "u1")):
        with pytest.raises(shmpool.InvalidArgument):
            server.drain(burst, to=to)
    assert 2 == len(burst)
    burst.free()
