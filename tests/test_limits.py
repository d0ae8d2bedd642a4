# SPDX-License-Identifier: Apache-2.0
"""The limits that protect the daemon from hostile and broken clients."""

import contextlib
import os
import random
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import DaemonProcess, StartDaemon, resident

import shmpool
from shmpool.rpc import protocol, wire
from shmpool.rpc.records import PoolStats

CLIENTS = 1000
POOL = "[pools.{0}]\nbuffer_size = 256\ncapacity = 64\n"


def connect(daemon: DaemonProcess) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(daemon.socket))
    sock.settimeout(60)
    return sock


def frames_until_closed(sock: socket.socket) -> list[wire.Frame]:
    """Everything that the daemon sends until it ends the connection."""
    stream = wire.Frames(wire.ANSWER_MAX, trusted=True)
    got: list[wire.Frame] = []
    while True:
        try:
            data = sock.recv(1 << 16)
        except ConnectionResetError:
            return got
        if not data:
            return got
        stream.feed(data)
        got += stream


def reason(frames: list[wire.Frame]) -> str:
    """The daemon's last message: why it ended the connection."""
    last = frames[-1]
    assert isinstance(last, wire.Notice)
    assert protocol.CLOSING == last.method
    (text,) = last.params
    assert isinstance(text, str)
    return text


@pytest.fixture
def enough_files() -> Any:
    """Raises the limit of descriptors as far as possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CLIENTS + 200:
        pytest.skip(f"{hard} open files are the most")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("enough_files")
def test_a_thousand_clients(start_daemon: StartDaemon, pool_name: str) -> None:
    """A thousand clients at once: silent ones, ones with half a frame or a claim of 4 GiB, ones
    that never read.

    One more client is answered, and little memory is used.
    """
    daemon = start_daemon(POOL.format(pool_name), options="max_clients = 2000")
    before = resident(daemon.pid)
    half = wire.pack_call(1, "ping", [])[:-1]
    claim = b"\xdb\xff\xff\xff\xff" + bytes(1000)
    ask = wire.pack_call(1, "stats", [pool_name]) * 20
    clients = [connect(daemon) for _ in range(CLIENTS)]
    for i, sock in enumerate(clients):
        sock.sendall((b"", half, claim, ask)[i % 4])
    with shmpool.Client(daemon.socket, timeout=60) as client:
        assert daemon.pid == client.ping().pid
        assert 64 == client.stats(pool_name).buffers.capacity
    assert resident(daemon.pid) - before < 64 << 20
    for sock in clients[3::4]:
        stream = wire.Frames(wire.ANSWER_MAX, trusted=True)
        got: list[wire.Frame] = []
        while len(got) < 20:
            stream.feed(sock.recv(1 << 16))
            got += stream
    for sock in clients:
        sock.close()


def test_more_clients_than_allowed(start_daemon: StartDaemon) -> None:
    """One client too many gets the reason. When another one has left, the next is admitted."""
    daemon = start_daemon(options="max_clients = 2")
    first = shmpool.Client(daemon.socket)
    with first, shmpool.Client(daemon.socket) as second:
        first.ping()
        second.ping()
        with connect(daemon) as third:
            assert "2 clients" in reason(frames_until_closed(third))
        with pytest.raises(shmpool.DaemonUnavailable, match="2 clients"):
            shmpool.Client(daemon.socket).ping()
        second.ping()
        first.close()
        for _ in range(1000):  # the daemon notices its end later
            try:
                with shmpool.Client(daemon.socket) as fourth:
                    fourth.ping()
                break
            except shmpool.DaemonUnavailable:
                continue
        else:
            pytest.fail("no client was admitted")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_garbage(start_daemon: StartDaemon, seed: int) -> None:
    """Garbage ends its own connection with a reason. Requests before it are answered."""
    daemon = start_daemon()
    dice = random.Random(seed)
    for _ in range(20):
        with connect(daemon) as sock:
            sock.sendall(wire.pack_call(7, "ping", []))
            sock.sendall(b"\xc1" + dice.randbytes(dice.randrange(2000)))
            first, *_, last = frames_until_closed(sock)
            assert isinstance(first, wire.Reply)
            assert (7, None) == (first.msgid, first.error)
            assert "not MessagePack" in reason([last])
    with shmpool.Client(daemon.socket) as client:
        client.ping()


def test_what_is_no_request(start_daemon: StartDaemon) -> None:
    """Invalid calls are answered with the error, and the connection continues."""
    daemon = start_daemon()
    calls: list[tuple[str, list[object], str, str]] = [
        ("nonsense", [], "RequestRefused", "no method"),
        ("stats", [], "InvalidArgument", "stats(pool)"),
        ("stats", [7], "InvalidArgument", "pool is 7"),
        ("stats", ["../x"], "InvalidArgument", "A-Z"),
        ("stats", ["nope"], "PoolNotFound", "nope"),
        ("ping", [1], "InvalidArgument", "ping()"),
        ("watch", ["nope", 1.0], "PoolNotFound", "nope"),
        ("watch", ["nope", -1.0, 3], "InvalidArgument", "watch(pool"),
        ("create", ["x", {"buffer_size": 1}], "InvalidArgument", "capacity is missing"),
        ("create", ["x", {"buffer_size": 1, "capacity": 1}, {"q": 3}], "InvalidArgument", "q"),
        ("version", [2, 3], "RequestRefused", "protocol 2 to 3"),
    ]
    with connect(daemon) as sock:
        stream = wire.Frames(wire.ANSWER_MAX, trusted=True)
        for msgid, (method, params, kind, words) in enumerate(calls):
            sock.sendall(wire.pack_call(msgid, method, params))
            got: list[wire.Frame] = []
            while not got:
                stream.feed(sock.recv(1 << 16))
                got += stream
            (reply,) = got
            assert isinstance(reply, wire.Reply)
            assert (msgid, None, kind) == (reply.msgid, reply.result, reply.error["kind"])
            assert words in reply.error["message"]


@pytest.mark.slow
def test_a_frame_that_never_ends(start_daemon: StartDaemon) -> None:
    """One byte a second keeps no connection: a frame that is not complete in time ends it."""
    daemon = start_daemon()
    with connect(daemon) as sock, shmpool.Client(daemon.socket) as client:
        frame = wire.pack_call(1, "ping", ["x" * 1000])
        sock.settimeout(1.0)
        answer = b""
        began = time.monotonic()
        for byte in frame:
            try:
                sock.sendall(bytes([byte]))
                answer = sock.recv(1 << 16)
                break
            except TimeoutError:
                client.ping()
        assert time.monotonic() - began < 60
        stream = wire.Frames(wire.ANSWER_MAX)
        stream.feed(answer)
        assert "not complete" in reason(list(stream))


def test_a_watcher_that_does_not_read(start_daemon: StartDaemon, make_pool: Any) -> None:
    """It is disconnected with a reason, which it finds when it reads. Other clients are served."""
    pool = make_pool(queues=1023)
    for number in range(400):
        pool.create_queue(f"a-queue-with-a-long-name-{number}", capacity=2)
    daemon = start_daemon(POOL.format(pool.name))
    with connect(daemon) as sock, shmpool.Client(daemon.socket) as client:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(wire.pack_call(1, "watch", [pool.name, 0.1]))
        stream = client.watch(pool.name, 0.1)
        while "disconnected" not in daemon.output():
            assert isinstance(next(stream), PoolStats)
        stream.close()  # type: ignore[attr-defined]
        assert "too slow" in daemon.output()
        got = frames_until_closed(sock)
        assert isinstance(got[1], wire.Notice)
        assert protocol.STATS == got[1].method
        assert "too slow" in reason(got)


def test_a_client_that_never_reads(start_daemon: StartDaemon, pool_name: str) -> None:
    """The daemon reads no further requests of a client that does not read its answers."""
    daemon = start_daemon(POOL.format(pool_name))
    before = resident(daemon.pid)
    with connect(daemon) as sock, shmpool.Client(daemon.socket) as client:
        sock.settimeout(0.5)
        flood = wire.pack_call(1, "stats", [pool_name]) * 1000
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 1 << 26:
                sent += sock.send(flood)
        assert sent < 1 << 26
        client.ping()
        assert resident(daemon.pid) - before < 16 << 20


def test_many_requests_at_once(start_daemon: StartDaemon) -> None:
    """Requests that arrive in one piece are answered in order. Half-closing loses none."""
    daemon = start_daemon()
    with connect(daemon) as sock:
        sock.sendall(b"".join(wire.pack_call(i, "ping", []) for i in range(500)))
        sock.shutdown(socket.SHUT_WR)
        got = frames_until_closed(sock)
        assert list(range(500)) == [f.msgid for f in got if isinstance(f, wire.Reply)]


def test_the_socket_is_the_users(start_daemon: StartDaemon) -> None:
    """No other user can connect: mode 0600."""
    daemon = start_daemon()
    assert 0o600 == daemon.socket.stat().st_mode & 0o777


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_who_may_do_what(
    start_daemon: StartDaemon, run: Callable[..., str], pool_name: str, tmp_path: Path
) -> None:
    """A member of read_group may read, and not create or destroy. Another user may not connect."""
    daemon = start_daemon(POOL.format(pool_name), options='read_group = "daemon"')
    assert 0o660 == daemon.socket.stat().st_mode & 0o777
    for directory in [daemon.directory, *daemon.directory.parents]:
        if directory.owner() == "root" and directory.stat().st_mode & 0o001 == 0:
            directory.chmod(directory.stat().st_mode | 0o011)
    script = """
        import os, sys, grp, shmpool
        group = grp.getgrnam("daemon").gr_gid
        client = shmpool.Client(sys.argv[1])
        os.setgroups([group] if sys.argv[3] == "in" else [])
        os.setgid(65534)
        os.setuid(65534)
        try:
            print([pool.name for pool in client.list() if pool.name == sys.argv[2]])
            print(client.stats(sys.argv[2]).buffers.capacity)
            for call in (client.destroy, client.recover, client.trim):
                try:
                    call(sys.argv[2])
                except shmpool.AccessDenied as error:
                    print("AccessDenied")
        except shmpool.DaemonUnavailable as error:
            print(error)
        """
    lines = run(script, daemon.socket, pool_name, "in").splitlines()
    assert [f"['{pool_name}']", "64", *["AccessDenied"] * 3] == lines
    assert pool_name in shmpool.pool_names()
    assert "Permission denied" in run(script, daemon.socket, pool_name, "out")
    daemon.socket.chmod(0o666)  # the kernel lets every user connect: the daemon does not
    assert "user 65534 may not connect" in run(script, daemon.socket, pool_name, "out")


def test_requests_that_follow_on_each_other(start_daemon: StartDaemon) -> None:
    """The next request is answered whenever it arrives, also just as the last one's work ends."""
    daemon = start_daemon()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(shmpool.Client(daemon.socket, 5.0)) for _ in range(8)]
        for _ in range(300):
            for client in clients:
                assert daemon.pid == client.ping().pid
