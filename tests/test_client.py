# SPDX-License-Identifier: Apache-2.0
"""Client and AsyncClient: typed answers, the library's exceptions, and reconnection."""

import asyncio
import collections
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import StartDaemon

import shmpool
from shmpool import PoolOptions, QueueOptions
from shmpool.rpc import client as client_module
from shmpool.rpc import protocol, wire

POOL = "[pools.{0}]\nbuffer_size = 256\ncapacity = 64\n[pools.{0}.queue.work]\ncapacity = 16\n"


def test_the_clients_are_imported_late(run: Callable[..., str]) -> None:
    """import shmpool loads neither msgpack nor asyncio; the first use of a client does."""
    script = """
        import sys, shmpool
        heavy = {"asyncio", "msgpack", "uvloop", "socket", "shmpool.view", "shmpool.rpc.client"}
        print(heavy & set(sys.modules))
        print(shmpool.Client.__name__, shmpool.AsyncClient.__name__, "msgpack" in sys.modules)
        """
    assert ["set()", "Client AsyncClient True"] == run(script).splitlines()


def test_no_daemon(tmp_path: Path) -> None:
    """Without a daemon the exception names the path, and is a ConnectionError."""
    with pytest.raises(shmpool.DaemonUnavailable, match="nowhere"):
        shmpool.Client(tmp_path / "nowhere").ping()

    async def ask() -> None:
        async with shmpool.AsyncClient(tmp_path / "nowhere") as client:
            await client.ping()

    with pytest.raises(ConnectionError, match="nowhere"):
        asyncio.run(ask())


def test_the_default_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """SHMPOOL_SOCKET, then XDG_RUNTIME_DIR, then /run."""
    monkeypatch.setenv("SHMPOOL_SOCKET", "/a/b")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert Path("/a/b") == shmpool.Client().path
    monkeypatch.delenv("SHMPOOL_SOCKET")
    assert Path("/run/user/7/shmpool/daemon.sock") == shmpool.Client().path
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert Path("/run/shmpool/daemon.sock") == shmpool.AsyncClient().path


def test_a_restarted_daemon(start_daemon: StartDaemon, pool_name: str) -> None:
    """A read-only request is sent again over a new connection. The caller does not notice."""
    daemon = start_daemon(POOL.format(pool_name))
    with shmpool.Client(daemon.socket) as client:
        assert daemon.pid == client.ping().pid
        daemon.end(signal.SIGKILL)
        again = start_daemon("", "--socket", str(daemon.socket))
        assert again.pid == client.ping().pid


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_change_after_a_restart(
    start_daemon: StartDaemon, new_name: Callable[[], str], end: int
) -> None:
    """A request that changes something goes to a restarted daemon if the old one ended before it.

    The old daemon received nothing of the request.
    """
    first = start_daemon()
    options = PoolOptions(256, 64)
    names = [new_name(), new_name()]

    async def restart_under_both() -> None:
        asynchronous = shmpool.AsyncClient(first.socket)
        with shmpool.Client(first.socket) as client:
            client.ping()
            await asynchronous.ping()
            first.end(end)
            start_daemon("", "--socket", str(first.socket))
            await asyncio.sleep(0)
            await asynchronous.create(names[0], options)
            client.create(names[1], options)
            assert set(names) <= {pool.name for pool in client.list()}
        await asynchronous.close()

    asyncio.run(restart_under_both())


def test_a_change_is_not_sent_twice(tmp_path: Path) -> None:
    """If the daemon dies during a create, the client reports it and does not send the request
    again."""
    path, calls = tmp_path / "s", []

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            with connection:
                frames = wire.Frames(wire.REQUEST_MAX)
                while data := connection.recv(4096):
                    frames.feed(data)
                    for frame in frames:
                        assert isinstance(frame, wire.Call)
                        calls.append(frame.method)
                        if frame.method == "stop":
                            return
                        if frame.method == "create":
                            connection.close()
                            break
                        version = {"protocol": 1, "package": "0"}
                        pong = {"pid": 1, "uptime_s": 0}
                        answer = version if frame.method == "version" else pong
                        connection.sendall(wire.pack_result(frame.msgid, answer))
                    if connection.fileno() == -1:
                        break

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        with shmpool.Client(path) as client:
            client.ping()
            with pytest.raises(shmpool.DaemonUnavailable):
                client.create("rx", PoolOptions(64, 64))
            client.ping()
        with socket.socket(socket.AF_UNIX) as stop:
            stop.connect(str(path))
            stop.sendall(wire.pack_call(1, "stop", []))
            thread.join(60)
    assert ["version", "ping", "create", "version", "ping", "stop"] == calls


def test_watch_goes_on_over_a_restart(start_daemon: StartDaemon, pool_name: str) -> None:
    """A watch continues while the daemon is killed and started again."""
    daemon = start_daemon(POOL.format(pool_name))
    with shmpool.Client(daemon.socket, timeout=60) as client:
        watch = client.watch(pool_name, 0.1)
        first = next(watch)
        assert (pool_name, 64) == (first.pool, first.buffers.capacity)
        daemon.end(signal.SIGKILL)
        start_daemon("", "--socket", str(daemon.socket))
        assert next(watch).at > first.at
        watch.close()  # type: ignore[attr-defined]


def test_a_watch_ends_with_its_pool(start_daemon: StartDaemon, pool_name: str) -> None:
    """The pool is destroyed: PoolNotFound."""
    daemon = start_daemon(POOL.format(pool_name))
    with shmpool.Client(daemon.socket) as client:
        watch = client.watch(pool_name, 0.1)
        next(watch)
        client.destroy(pool_name)
        with pytest.raises(shmpool.PoolNotFound):
            collections.deque(watch, maxlen=0)
        with pytest.raises(shmpool.PoolNotFound):
            next(client.watch(pool_name))


def test_the_asyncio_client(start_daemon: StartDaemon, pool_name: str) -> None:
    """It has the same calls. Calls of several tasks take turns on one connection."""
    daemon = start_daemon()

    async def ask() -> None:
        async with shmpool.AsyncClient(daemon.socket) as client:
            assert daemon.pid == (await client.ping()).pid
            assert 1 == (await client.version()).protocol
            queues = {"work": QueueOptions(16)}
            made = await client.create(pool_name, PoolOptions(256, 64), queues)
            assert made == await client.describe(pool_name)
            many = await asyncio.gather(*(client.stats(pool_name) for _ in range(50)))
            assert {64} == {stats.buffers.capacity for stats in many}
            assert pool_name in [pool.name for pool in await client.list()]
            assert (await client.audit(pool_name)).ok
            assert [] == await client.members(pool_name)
            with await client.pool(pool_name) as pool:
                assert 64 == pool.capacity
            seen = 0
            async for stats in client.watch(pool_name, 0.1):
                assert pool_name == stats.pool
                seen += 1
                if seen == 3:
                    break
            with pytest.raises(shmpool.PoolExists):
                await client.create(pool_name, PoolOptions(256, 64))
            await client.destroy(pool_name)
            with pytest.raises(shmpool.PoolNotFound):
                await client.stats(pool_name)
            with pytest.raises(shmpool.PoolNotFound):
                await anext(client.watch(pool_name))

    asyncio.run(ask())


def test_a_cancelled_call_is_not_anothers(start_daemon: StartDaemon, pool_name: str) -> None:
    """The answer to a cancelled call is not given to the next call."""
    daemon = start_daemon(POOL.format(pool_name))

    async def ask() -> None:
        async with shmpool.AsyncClient(daemon.socket) as client:
            await client.ping()
            task = asyncio.create_task(client.audit(pool_name))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert daemon.pid == (await client.ping()).pid

    asyncio.run(ask())


def test_asyncio_over_a_restart(start_daemon: StartDaemon, pool_name: str) -> None:
    """Calls and watches of the asyncio client reconnect too."""
    daemon = start_daemon(POOL.format(pool_name))

    async def ask() -> None:
        async with shmpool.AsyncClient(daemon.socket, timeout=60) as client:
            await client.ping()
            watch = client.watch(pool_name, 0.1)
            first = await anext(watch)
            daemon.end(signal.SIGKILL)
            again = start_daemon("", "--socket", str(daemon.socket))
            assert again.pid == (await client.ping()).pid
            assert (await anext(watch)).at > first.at
            await watch.aclose()  # type: ignore[attr-defined]

    asyncio.run(ask())


def test_calls_are_numbered(tmp_path: Path) -> None:
    """No two calls of a connection have the same number, so no call gets another's answer."""
    path, numbers = tmp_path / "daemon.sock", list[list[int]]()

    def serve() -> None:
        for _ in range(2):
            sock, _ = server.accept()
            frames, mine = wire.Frames(wire.REQUEST_MAX), list[int]()
            with sock:
                while data := sock.recv(4096):
                    frames.feed(data)
                    for call in frames:
                        assert isinstance(call, wire.Call)
                        mine.append(call.msgid)
                        version = {"protocol": 1, "package": "0"}
                        result = version if call.method == "version" else 7
                        sock.sendall(wire.pack_result(call.msgid, result))
            numbers.append(mine)

    async def ask() -> None:
        async with shmpool.AsyncClient(path) as client:
            for _ in range(3):
                await client.trim("rx")

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        with shmpool.Client(path) as client:
            for _ in range(3):
                client.trim("rx")
        asyncio.run(ask())
        thread.join()
    assert [4, 4] == [len(set(mine)) for mine in numbers]


def test_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that sends without end, and never the answer, does not delay a call beyond it."""
    monkeypatch.setattr(client_module, "time", SimpleNamespace(monotonic=lambda: 5.0))
    ours, its = socket.socketpair()
    with ours, its, shmpool.Client(tmp_path / "daemon.sock") as client:
        its.send(b"\xc0" * 100)
        client._receive(ours, 5.5)
        for deadline in (5.0, 4.5):
            its.send(b"\xc0")
            with pytest.raises(TimeoutError):
                client._receive(ours, deadline)


def test_a_daemon_that_falls_silent(tmp_path: Path) -> None:
    """Each call waits for its own timeout, on a connection that was used before too."""
    path = tmp_path / "daemon.sock"

    def serve() -> None:
        sock, _ = server.accept()
        with sock:
            frames = wire.Frames(wire.REQUEST_MAX)
            for result in ({"protocol": 1, "package": "0"}, {"pid": 1, "uptime_s": 0}):
                while not (calls := list(frames)):
                    frames.feed(sock.recv(4096))
                assert isinstance(calls[0], wire.Call)
                sock.sendall(wire.pack_result(calls[0].msgid, result))
            while sock.recv(4096):
                pass

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        with shmpool.Client(path) as client:
            client.ping()
            client.timeout = 0.2
            with pytest.raises(shmpool.DaemonUnavailable, match=r"0\.2"):
                client.prune()
        thread.join()


def test_an_answer_of_another_shape(tmp_path: Path) -> None:
    """An answer of the wrong shape raises an exception that names it."""
    request = protocol.Ping()
    with pytest.raises(wire.ShapeError, match="uptime_s"):
        request.answer_of({"pid": os.getpid()})


CALLS = {
    name: call for name, call in vars(protocol.Calls).items() if isinstance(call, protocol.Call)
}


def test_every_request_is_a_call() -> None:
    """Each request class is a method of the clients with its name on the wire.

    The exception is watch, which iterates: each client has its own method.
    """
    classes = {kind for kind in vars(protocol).values() if isinstance(kind, type)}
    requests = {k for k in classes if issubclass(k, protocol.Request) and k is not protocol.Request}
    assert requests == set(protocol.REQUESTS)
    assert {kind.method for kind in requests} == {*CALLS, "watch"}
    for name, call in CALLS.items():
        assert name == call.request.method
    for client in (shmpool.Client, shmpool.AsyncClient):
        assert callable(vars(client)["watch"])


@pytest.mark.parametrize("client", [shmpool.Client, shmpool.AsyncClient])
def test_every_method_is_documented(client: type) -> None:
    """help() shows a docstring for each public method, and the parameters of its request."""
    names = [name for name in dir(client) if not name.startswith("_")]
    assert {*CALLS, "watch", "pool", "call", "close"} == set(names)
    for name in names:
        assert inspect.getdoc(getattr(client, name))
    drain = getattr(client("/nowhere"), "drain")  # noqa: B009
    assert "(pool: str, queue: str, n: int | None = None) -> int" == str(inspect.signature(drain))
    assert (protocol.Drain.__doc__, "drain") == (drain.__doc__, drain.__name__)


TYPED = """
import shmpool
def blocking(client: shmpool.Client) -> int:
    found: shmpool.Description = client.create("rx", shmpool.PoolOptions(64, 64))
    return client.redrive("rx", "work", 3, to="other") + found.geometry.capacity
async def awaiting(client: shmpool.AsyncClient) -> int:
    pools: list[shmpool.PoolSummary] = await client.list()
    return await client.drain("rx", "work") + len(pools)
def wrong(client: shmpool.Client, other: shmpool.AsyncClient) -> None:
    client.drain("rx")
    client.drain("rx", "work", many=3)
    client.trim("rx", "all")
    other.list().sort()
"""


@pytest.mark.slow
def test_a_type_checker_sees_the_calls(tmp_path: Path) -> None:
    """mypy --strict knows parameters and answers of both clients. It accepts correct calls, and
    finds each of four mistakes."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    file = tmp_path / "typed.py"
    file.write_text(TYPED)
    # In a process of its own: mypy raises the recursion limit, which other tests rely on.
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path}", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    said, trouble = done.stdout, done.stderr
    lines = [line.split(":")[1] for line in said.splitlines() if ": error:" in line]
    first = 1 + TYPED.splitlines().index('    client.drain("rx")')
    assert ([str(first + i) for i in range(4)], "") == (lines, trouble), said
