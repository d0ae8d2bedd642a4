# SPDX-License-Identifier: Apache-2.0
"""shmpool.net.XdpSocket, between network namespaces."""

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import DEADLINE_S, Eventually, MakePool
from network_spaces import Space, frame, ip, made, raw_socket

import shmpool
from shmpool import net
from shmpool.net import XdpProgram, XdpSocket
from shmpool.view import View
from tests.fuzz_words import Segment

Spaces = tuple[Space, Space]
ROOT = Path(__file__).resolve().parent.parent
Open = Callable[..., XdpSocket]
RING = 64
CAPACITY = 512
PIDFD_GETFD = 438
SO_DOMAIN = 39


@pytest.fixture(scope="module")
def spaces() -> Iterator[Spaces]:
    try:
        socket.socket(net.xdp.AF_XDP, socket.SOCK_RAW, 0).close()
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EPERM):
            raise
        pytest.skip(f"no AF_XDP here: {error.strerror}")
    with made() as both:
        yield both


@pytest.fixture
def pool(make_pool: MakePool) -> shmpool.Pool:
    return make_pool(buffer_size=2048, capacity=CAPACITY, prealloc=CAPACITY)


@pytest.fixture
def opened(spaces: Spaces, pool: shmpool.Pool) -> Iterator[Open]:
    """Opens sockets in the second namespace, and closes them."""
    with contextlib.ExitStack() as stack:

        def open_one(interface: str | XdpProgram = "veth", **options: object) -> XdpSocket:
            given = {"ring": RING, **options}
            with spaces[1].entered():
                return stack.enter_context(
                    XdpSocket(pool, interface, **given)  # type: ignore[arg-type]
                )

        yield open_one


def numbers(burst: shmpool.Burst) -> list[int]:
    return [int.from_bytes(bytes(buffer)[14:18], "big") for buffer in burst]


def ready(xdp: XdpSocket) -> None:
    """Gives the kernel buffers, which the first call does."""
    with contextlib.suppress(shmpool.Empty):
        xdp.get_many(timeout=0).free()


def all_of(xdp: XdpSocket, n: int, most: int = 256) -> list[int]:
    """The numbers of the next n packets; frees them."""
    found: list[int] = []
    while len(found) < n:
        with xdp.get_many(most, timeout=10) as burst:
            found += numbers(burst)
    return found


def send(space: Space, count: int, size: int = 60) -> None:
    with raw_socket(space) as sock:
        for i in range(count):
            sock.send(frame(i, size))


def all_free(pool: shmpool.Pool) -> bool:
    stats = pool.stats()
    return stats.created == stats.free + stats.cached


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_received(spaces: Spaces, opened: Open, pool: shmpool.Pool, mode: str) -> None:
    """Packets come whole and in order, into the pool's buffers, with room for a header in front."""
    xdp = opened(mode=mode)
    ready(xdp)
    assert not xdp.zero_copy
    before = time.time_ns()
    with raw_socket(spaces[0]) as sock:
        for i in range(RING):
            sock.send(frame(i, 60 + i))
    seen: list[bytes] = []
    while len(seen) < RING:
        with xdp.get_many(timeout=10) as burst:
            seen += [bytes(buffer) for buffer in burst]
            assert all(before <= at <= time.time_ns() for at in burst.timestamps.tolist())
            assert burst.lengths.tolist() == net.original_lengths(burst).tolist()
            assert all(256 <= buffer.headroom for buffer in burst)
            with spaces[1].entered():
                assert {socket.if_nametoindex("veth")} == set(net.interface_numbers(burst).tolist())
    assert [frame(i, 60 + i) for i in range(RING)] == seen
    with pytest.raises(shmpool.Empty):
        xdp.get_many(timeout=0)
    counts = xdp.statistics()
    assert (RING, sum(range(60, 60 + RING)), 0, 0) == (
        counts.packets,
        counts.bytes,
        counts.truncated,
        counts.dropped,
    )
    assert RING == pool.stats().held
    xdp.close()
    assert all_free(pool)
    assert counts == xdp.statistics()
    assert pool.audit().ok


def test_sent(spaces: Spaces, opened: Open, pool: shmpool.Pool) -> None:
    """A drained burst arrives in order, and its buffers are free once they were sent."""
    xdp = opened()
    with raw_socket(spaces[0]) as sock:
        sock.bind(("veth", 3))
        sock.settimeout(10)
        for turn in range(5):
            burst = pool.alloc_many(100)
            for i, buffer in enumerate(burst):
                buffer.write(frame(100 * turn + i, 61))
            assert 100 == xdp.drain(burst, timeout=10)
            with pytest.raises(shmpool.BufferReleased):
                len(burst)
            assert [frame(100 * turn + i, 61) for i in range(100)] == [
                sock.recv(2048) for _ in range(100)
            ]
    assert (500, 500 * 61, 0) == (xdp.sent().packets, xdp.sent().bytes, xdp.sent().refused)
    xdp.close()
    assert all_free(pool)


def test_refused(opened: Open, pool: shmpool.Pool, make_pool: MakePool) -> None:
    """What cannot be sent is freed and counted; a view keeps the burst; another pool's is none."""
    xdp = opened()
    burst = pool.alloc_many(2)
    burst[0].write(frame(0))
    assert 1 == xdp.drain(burst)
    with pool.alloc(size=3000) as chain:
        chain.write(frame(0, 3000))
        assert 0 == xdp.drain(pool.burst([chain]))
    assert (1, 2) == (xdp.sent().packets, xdp.sent().refused)
    burst = pool.alloc_many(2)
    view = burst[0].view
    with pytest.raises(shmpool.BufferInUse):
        xdp.drain(burst)
    view.release()
    burst.free()
    with pytest.raises(TypeError, match="another pool"):
        xdp.drain(make_pool(buffer_size=2048, capacity=64).alloc_many(1))
    xdp.close()
    assert all_free(pool)


def test_forwarded(spaces: Spaces, opened: Open, pool: shmpool.Pool) -> None:
    """What came is sent back from the same buffers, more often than the rings have entries."""
    xdp = opened()
    ready(xdp)
    with raw_socket(spaces[0]) as sock:
        sock.bind(("veth", 3))
        sock.settimeout(10)
        for turn in range(20):
            for i in range(50):
                sock.send(frame(turn * 50 + i))
            left = 50
            while left:
                burst = xdp.get_many(timeout=10)
                left -= len(burst)
                xdp.drain(burst)
            assert [frame(turn * 50 + i) for i in range(50)] == [sock.recv(2048) for _ in range(50)]
    xdp.close()
    assert all_free(pool)
    assert pool.audit().ok


def test_the_system_has_the_rest(spaces: Spaces, opened: Open) -> None:
    """While a socket has the queue the system sees no packet of it; afterwards it does."""
    xdp = opened()
    ready(xdp)
    with raw_socket(spaces[1]) as sock:
        sock.bind(("veth", 0x88B5))
        sock.setblocking(False)
        send(spaces[0], 3)
        assert [0, 1, 2] == all_of(xdp, 3)
        with pytest.raises(BlockingIOError):
            sock.recv(2048)
        xdp.close()
        sock.settimeout(10)
        send(spaces[0], 1)
        assert frame(0) == sock.recv(2048)


def test_dropped(spaces: Spaces, opened: Open) -> None:
    """received + dropped by the kernel = sent, to the packet."""
    xdp = opened()
    ready(xdp)
    send(spaces[0], 1000)
    received = 0
    with contextlib.suppress(shmpool.Empty):
        while True:
            with xdp.get_many(timeout=0.1) as burst:
                received += len(burst)
    counts = xdp.statistics()
    assert 0 < counts.dropped
    assert (received, 1000) == (counts.packets, counts.packets + counts.dropped)
    assert counts.dropped == xdp.kernel_statistics().dropped + xdp.kernel_statistics().ring_full
    assert 0 < xdp.kernel_statistics().no_buffer


def test_exhausted(spaces: Spaces, opened: Open, pool: shmpool.Pool) -> None:
    """When the kernel has no buffer left and the pool none, the call says so; later it goes on."""
    xdp = opened()
    ready(xdp)
    held = [pool.alloc_many(CAPACITY - RING)]
    send(spaces[0], RING)
    while sum(map(len, held)) < CAPACITY:
        held.append(xdp.get_many(timeout=10))
    with pytest.raises(shmpool.PoolExhausted):
        xdp.get_many(timeout=0.05)
    for burst in held:
        burst.free()
    ready(xdp)
    send(spaces[0], 10)
    assert list(range(10)) == all_of(xdp, 10)


def test_grows(spaces: Spaces, make_pool: MakePool) -> None:
    """A pool that has no buffers yet makes them; it is not trimmed while the kernel has some."""
    pool = make_pool(buffer_size=[256, 4096], capacity=1024)
    with spaces[1].entered(), XdpSocket(pool, "veth", ring=RING) as xdp:
        ready(xdp)
        send(spaces[0], 5, 1400)
        assert list(range(5)) == all_of(xdp, 5)
        created = pool.stats().created
        pool.trim()
        assert created == pool.stats().created
    assert all_free(pool)


@pytest.mark.parametrize(
    ("geometry", "options", "words"),
    [
        ({"buffer_size": 1024}, {}, "buffer_size of the pool is 1024; AF_XDP needs"),
        ({"buffer_size": 8192}, {}, "buffer_size of the pool is 8192; AF_XDP needs"),
        ({}, {"ring": 100}, "ring is 100; it must be a power of two"),
        ({}, {"ring": 512}, "ring is 512 buffers; at most half of the pool's 512"),
        ({}, {"queue": 1 << 20}, "queue is 1048576"),
        ({}, {"latency": 1}, "latency is 1 s; it must be from 0 to"),
        ({}, {"queue": 900}, "queue is 900; veth has none of that number"),
        ({}, {"interface": "none"}, "interface is 'none'"),
        ({}, {"mode": "fast"}, "mode is 'fast'"),
    ],
)
def test_bad_options(
    spaces: Spaces,
    make_pool: MakePool,
    geometry: dict[str, int],
    options: dict[str, object],
    words: str,
) -> None:
    """What does not fit is refused with a word on what does, and leaves nothing."""
    pool = make_pool(**{"buffer_size": 2048, "capacity": CAPACITY, **geometry})
    before = len(os.listdir("/proc/self/fd"))
    given = {"interface": "veth", "ring": RING, **options}
    with spaces[1].entered(), pytest.raises(shmpool.InvalidArgument, match=words):
        XdpSocket(pool, **given)  # type: ignore[arg-type]
    assert before == len(os.listdir("/proc/self/fd"))
    assert not pool.stats().held
    with spaces[1].entered():
        XdpSocket(make_pool(buffer_size=2048, capacity=CAPACITY), "veth", ring=RING).close()


def test_taken(opened: Open) -> None:
    """A queue has one socket, and an interface one program."""
    xdp = opened()
    with pytest.raises(shmpool.InvalidArgument, match="has an XDP program already"):
        opened()
    assert xdp._own is not None
    with pytest.raises(shmpool.InvalidArgument, match="has an AF_XDP socket already"):
        opened(xdp._own)


def test_refused_by_the_program(
    opened: Open, pool: shmpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that the program does not take leaves no dead member."""

    def refuse(*_: object) -> None:
        raise OSError("no room in the map")

    monkeypatch.setattr(XdpProgram, "steer", refuse)
    with pytest.raises(OSError, match="no room in the map"):
        opened()
    assert [] == [member for member in pool.members() if member.dead]


def test_mtu(spaces: Spaces, opened: Open) -> None:
    """An interface whose packets no buffer holds is refused."""
    ip("-n", spaces[1].name, "link", "set", "veth", "mtu", "3000")
    try:
        with pytest.raises(shmpool.InvalidArgument, match="the MTU of veth is 3000; buffers of"):
            opened()
    finally:
        ip("-n", spaces[1].name, "link", "set", "veth", "mtu", "1500")


def test_corrupted_headers(spaces: Spaces, opened: Open, pool: shmpool.Pool) -> None:
    """A packet is in the buffer that the kernel's ring names, whatever a header says."""
    xdp = opened()
    ready(xdp)
    words = Segment(f"/dev/shm/shmpool.{pool.name}")
    (handles,) = (row for row in words.buffers if row.name == "buffer.handle")

    def swap_neighbours() -> None:
        for word in map(handles.word, range(CAPACITY)):
            words.write(word, words.read(word) ^ 1)

    swap_neighbours()
    send(spaces[0], 5)
    received = xdp.get_many(timeout=10)
    swap_neighbours()
    assert list(range(len(received))) == numbers(received)
    received.free()


def test_program_is_shared(spaces: Spaces, opened: Open, make_pool: MakePool) -> None:
    """Sockets of several queues share a program, and each gets its queue's packets."""
    ip(
        *("-n", spaces[0].name, "link", "add", "many", "numtxqueues", "2", "numrxqueues", "2"),
        *("type", "veth", "peer", "name", "many", "netns", spaces[1].name),
        *("numtxqueues", "2", "numrxqueues", "2"),
    )
    try:
        for space in spaces:
            ip("-n", space.name, "link", "set", "many", "up")
        with spaces[1].entered(), XdpProgram("many") as program:
            both = [opened(program, queue=queue) for queue in range(2)]
            for xdp in both:
                ready(xdp)
            with spaces[0].entered():
                ip("-n", spaces[0].name, "address", "add", "198.51.100.1/24", "dev", "many")
                neighbour = ("198.51.100.2", "lladdr", "02:00:00:00:00:09", "dev", "many")
                ip("-n", spaces[0].name, "neighbour", "add", *neighbour)
                socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(32)]
            for sock in socks:
                sock.sendto(b"hello", ("198.51.100.2", 9))
                sock.close()
            counts = []
            for xdp in both:
                found = 0
                for burst in xdp.bursts(timeout=0.2):
                    found += sum(bytes(buffer).endswith(b"hello") for buffer in burst)
                counts.append(found)
            assert 32 == sum(counts)
            for xdp in both:
                xdp.close()
    finally:
        ip("-n", spaces[0].name, "link", "del", "many")


def test_close_from_another_thread(opened: Open, pool: shmpool.Pool) -> None:
    """close() ends a call that waits, and every later one, and the buffers are free."""
    xdp = opened()
    ready(xdp)
    timer = threading.Timer(0.05, xdp.close)
    timer.start()
    assert [] == list(xdp.bursts())
    timer.join()
    with pytest.raises(shmpool.ShutDown):
        xdp.get_many()
    with pytest.raises(shmpool.ShutDown):
        xdp.drain(pool.alloc_many(1))
    xdp.close()
    assert all_free(pool)


@pytest.fixture(params=[[2048], [2048, 8192]], ids=["one class", "a larger one is free"])
def starved(
    request: pytest.FixtureRequest, spaces: Spaces, make_pool: MakePool
) -> Iterator[XdpSocket]:
    """A socket whose size class has no free buffer, so that the kernel has none. It gets some after
    a while, so that no call waits on after its test has failed."""
    pool = make_pool(buffer_size=request.param, capacity=CAPACITY, prealloc=CAPACITY)
    with spaces[1].entered(), XdpSocket(pool, "veth", ring=RING) as xdp:
        held = pool.alloc_many(CAPACITY)
        timer = threading.Timer(DEADLINE_S, held.free)
        timer.start()
        yield xdp
        assert timer.is_alive(), "the call ended only when there were buffers"
        timer.cancel()
        timer.join()
        held.free()


def test_close_without_a_buffer(starved: XdpSocket) -> None:
    """close() ends a call that waits for a first buffer."""
    timer = threading.Timer(0.05, starved.close)
    timer.start()
    assert [] == list(starved.bursts())
    timer.join()


def test_signal_without_a_buffer(starved: XdpSocket) -> None:
    """A signal handler runs while a call waits for a first buffer, and its exception ends it."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            starved.get_many()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_pool_is_closed_first(opened: Open, spaces: Spaces, pool: shmpool.Pool) -> None:
    """A pool closed under a socket leaves its buffers to recovery when the socket is
    gone."""
    xdp = opened()
    ready(xdp)
    with shmpool.Pool.attach(pool.name) as other:
        pool.close()
        with spaces[1].entered():
            assert 1 == other.recover().unknown
            assert RING == other.stats().held
            with pytest.raises(shmpool.PoolClosed):
                xdp.get_many(timeout=0)
            xdp.close()
            while other.stats().held:
                other.recover()
        assert other.audit().ok


def test_forked(opened: Open, pool: shmpool.Pool) -> None:
    """A forked child is told to open a socket of its own, and takes nothing from its parent."""
    xdp = opened()
    ready(xdp)
    pid = os.fork()
    if not pid:
        try:
            xdp.get_many(timeout=0)
        except RuntimeError:
            xdp.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert 0 == os.waitpid(pid, 0)[1]
    assert RING == pool.stats().held


PROGRAM = """
import os, sys
import shmpool
from shmpool.net import XdpSocket
pool = shmpool.Pool.attach(sys.argv[1])
xdp = XdpSocket(pool, "veth", ring=64)
try:
    xdp.get_many(timeout=0)
except shmpool.Empty:
    pass
if "fork" in sys.argv and not os.fork():
    os.read(0, 1)
    os._exit(0)
print("ready", flush=True)
held = []
while True:
    if "idle" in sys.argv:
        os.read(0, 1)
    for burst in xdp.bursts():
        held.append(burst[:1])
        if len(burst):
            xdp.drain(burst)
        del held[:-20]
"""


@contextlib.contextmanager
def owner(space: Space, pool: shmpool.Pool, *words: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A process with a socket. What it forked ends when its standard input is closed."""
    command = [*space.command, sys.executable, "-c", PROGRAM, pool.name, *words]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, **pipes) as child:  # type: ignore[call-overload]
        try:
            assert b"ready\n" == child.stdout.readline()
            yield child
        finally:
            child.kill()


def test_killed_while_traffic_flows(
    spaces: Spaces, pool: shmpool.Pool, eventually: Eventually
) -> None:
    """All buffers of a killed process come back: those in its hands, on their way out, and those
    that the kernel had."""
    for _ in range(3):
        with owner(spaces[1], pool) as child, raw_socket(spaces[0]) as sock:
            while pool.stats().held < RING + 20:
                sock.send(frame(0))
            child.send_signal(signal.SIGKILL)
            for _ in range(1000):
                sock.send(frame(0))
        with spaces[1].entered():
            eventually(lambda: pool.recover() is not None and not pool.stats().held)
        assert pool.audit().ok
        assert all_free(pool)


def frames_in(pool: shmpool.Pool, kind: int) -> int:
    """How many packets of that type lie in the pool's memory."""
    with Path(f"/dev/shm/shmpool.{pool.name}").open("rb") as file:
        file.seek(-CAPACITY * 2048, os.SEEK_END)
        return file.read().count(frame(0, kind=kind)[:14])


def test_no_buffer_of_a_live_socket_is_reused(
    spaces: Spaces, pool: shmpool.Pool, eventually: Eventually
) -> None:
    """A forked child keeps the socket of a killed process, and the kernel writes on into its
    buffers: nobody gets them. When the child ends they all come back."""
    kind = 0x88B6
    with owner(spaces[1], pool, "fork", "idle") as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
        with spaces[1].entered():
            eventually(lambda: pool.recover().unknown == 1)
            assert RING == pool.stats().held
            others = pool.alloc_many(CAPACITY - RING)
            for i, buffer in enumerate(others):
                buffer.write(i.to_bytes(2, "big") * 1024)
            assert 0 == frames_in(pool, kind)
            with raw_socket(spaces[0]) as sock:
                for i in range(4 * RING):
                    sock.send(frame(i, kind=kind))
            eventually(lambda: RING == frames_in(pool, kind))
            with pytest.raises(shmpool.PoolExhausted):
                pool.alloc(timeout=0)
            for i, buffer in enumerate(others):
                assert i.to_bytes(2, "big") * 1024 == bytes(buffer)
            assert 1 == pool.recover().unknown
            assert pool.audit().ok
            others.free()
            assert child.stdin is not None
            child.stdin.close()
            eventually(lambda: pool.recover() is not None and not pool.stats().held)
    assert all_free(pool)
    assert pool.audit().ok


@contextlib.contextmanager
def child_that_keeps() -> Iterator[None]:
    """A forked child, which has this process's descriptors, until the end of the block."""
    inside, outside = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(outside)
        os.read(inside, 1)
        os._exit(0)
    os.close(inside)
    try:
        yield
    finally:
        os.close(outside)
        os.waitpid(pid, 0)


def test_closed_while_a_child_has_it(
    spaces: Spaces, opened: Open, pool: shmpool.Pool, eventually: Eventually
) -> None:
    """close() frees nothing that a forked child's descriptor keeps in the kernel's hands."""
    xdp = opened()
    ready(xdp)
    with spaces[1].entered():
        with child_that_keeps():
            xdp.close()
            assert 1 == pool.recover().unknown
            with View(pool.name) as view:
                assert (0, []) == (view.dead(), view.dead_members())
            assert RING == pool.stats().held
        eventually(lambda: pool.recover() is not None and not pool.stats().held)
    assert all_free(pool)


def test_no_slot_but_that_of_a_socket(
    spaces: Spaces, make_pool: MakePool, eventually: Eventually
) -> None:
    """Where a socket that a forked child keeps has the last member slot, a thread and a socket are
    told so. The slot is free when the child has ended."""
    pool = make_pool(buffer_size=2048, capacity=CAPACITY, prealloc=CAPACITY, members=2)
    with spaces[1].entered():
        program = XdpProgram("veth")
        xdp = XdpSocket(pool, program, ring=RING)

    def refused() -> bool:
        found: list[bool] = []

        def attach() -> None:
            try:
                pool.alloc().free()
                found.append(False)
            except shmpool.LimitReached:
                found.append(True)

        thread = threading.Thread(target=attach)
        thread.start()
        thread.join()
        return found[0]

    with spaces[1].entered():
        with child_that_keeps():
            xdp.close()
            assert refused()
            with pytest.raises(shmpool.LimitReached, match="all 2 member slots are taken"):
                XdpSocket(pool, program, ring=RING)
            program.close()
        eventually(lambda: not refused())


def test_another_namespace(
    spaces: Spaces, opened: Open, pool: shmpool.Pool, eventually: Eventually
) -> None:
    """Who cannot see the interface frees nothing. A new socket of the queue proves that the old one
    is gone, to all."""
    with owner(spaces[1], pool, "idle") as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
        with spaces[1].entered():
            program = None
            while program is None:  # the dead one's goes with its last descriptor
                with contextlib.suppress(shmpool.InvalidArgument):
                    program = XdpProgram("veth")
        assert 1 == pool.recover().unknown
        assert RING == pool.stats().held
        xdp = None
        while xdp is None:
            with contextlib.suppress(shmpool.InvalidArgument):
                xdp = opened(program)
        assert 0 == pool.recover().unknown
        assert 0 == pool.stats().held
        ready(xdp)
        send(spaces[0], 5)
        assert list(range(5)) == all_of(xdp, 5)
        program.close()


def test_interface_is_deleted(
    spaces: Spaces, opened: Open, pool: shmpool.Pool, eventually: Eventually
) -> None:
    """The end of the interface ends a call that waits, and gives the buffers back."""
    ip(
        *("-n", spaces[0].name, "link", "add", "brief", "type", "veth"),
        *("peer", "name", "brief", "netns", spaces[1].name),
    )
    ip("-n", spaces[1].name, "link", "set", "brief", "up")
    xdp = opened("brief")
    ready(xdp)
    timer = threading.Timer(0.05, ip, ("-n", spaces[0].name, "link", "del", "brief"))
    timer.start()
    try:
        with pytest.raises(OSError, match="Network is down"):
            xdp.get_many(timeout=10)
    finally:
        timer.join()
    xdp.close()
    assert all_free(pool)


def socket_of(pid: int) -> socket.socket:
    """The AF_XDP socket of another process, which is this one's too then."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            fd = libc.syscall(PIDFD_GETFD, pidfd, int(number), 0)
            if fd < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                sock = socket.socket(net.xdp.AF_XDP, socket.SOCK_RAW, 0, fileno=fd)
                if sock.getsockopt(socket.SOL_SOCKET, SO_DOMAIN) == net.xdp.AF_XDP:
                    return sock
                sock.close()
            else:
                os.close(fd)
    finally:
        os.close(pidfd)
    raise AssertionError(f"process {pid} has no AF_XDP socket")


def test_interface_that_is_being_deleted(spaces: Spaces, make_pool: MakePool) -> None:
    """The kernel does not list an interface that is being deleted, while it may still write packets
    to the socket. A dead owner's buffers are free only when the socket has its end."""
    for _ in range(8):
        pool = make_pool(buffer_size=2048, capacity=CAPACITY, prealloc=CAPACITY)
        with (
            made() as (_, there),
            owner(there, pool, "idle") as child,
            socket_of(child.pid) as kept,
            there.entered(),
        ):
            child.kill()
            child.wait()
            assert 1 == pool.recover().unknown
            end = threading.Thread(target=ip, args=("-n", there.name, "link", "del", "veth"))
            end.start()
            try:
                while pool.recover().unknown:
                    pass
                assert errno.ENETDOWN == kept.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            finally:
                end.join()


@pytest.mark.parametrize("buffers", [False, True], ids=["burst", "burst with buffers"])
def test_no_memory_while_some_are_sent(
    spaces: Spaces, opened: Open, pool: shmpool.Pool, buffers: bool
) -> None:
    """Packets in the interface's ring are no longer the burst's, whatever allocation fails."""
    testcapi = pytest.importorskip(
        "_testcapi", reason="this Python has no _testcapi, which makes allocations fail"
    )
    link = ("-n", spaces[1].name, "link", "set", "veth")
    for number in range(12):
        xdp = opened()
        burst = pool.alloc_many(RING + 3)
        burst.lengths = 60
        every = list(burst) if buffers else []
        ip(*link, "down")
        try:
            testcapi.set_nomemory(number, number + 1)
            try:
                xdp.drain(burst, timeout=0)
            except (MemoryError, OSError):
                pass
            finally:
                testcapi.remove_mem_hooks()
            held = RING if xdp.sent().packets else 0
            assert RING + 3 - held == len(burst)
            assert not buffers or held == sum(buffer.released for buffer in every)
            del every
            burst.free()
            assert held == pool.stats().held
        finally:
            ip(*link, "up")
        xdp.close()
    assert held
    assert all_free(pool)


@pytest.mark.slow
def test_bench(spaces: Spaces) -> None:
    """The benchmark measures both ways."""
    if os.geteuid() or not shutil.which("gcc"):
        pytest.skip("needs root and gcc")
    command = [sys.executable, "-m", "clients.bench.net_xdp", "--size", "60", "--turns", "1"]
    done = subprocess.run(
        [*command, "--seconds", "0.05"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert 0 == done.returncode, done.stderr
    for name in ("AF_PACKET", "AF_XDP, in the driver", "AF_XDP, generic"):
        assert f"  {name} " in done.stdout
