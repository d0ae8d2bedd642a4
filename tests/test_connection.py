# SPDX-License-Identifier: Apache-2.0
"""A client's connection to the daemon, without a daemon: when its requests are answered."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import DEADLINE_S

from shmpool.rpc import protocol, wire
from shmpool.rpc.records import Pong
from shmpool.service.connection import Connection, Peer


class Answering:
    """A host that admits every client, and notes which of them it answers."""

    def __init__(self) -> None:
        self.answered: list[str] = []
        self.left: list[Connection] = []

    def admit(self, connection: Connection, peer: Peer) -> str | None:
        return None

    def may_write(self, peer: Peer) -> bool:
        return True

    def disconnected(self, connection: Connection) -> None:
        self.left.append(connection)

    async def answer(self, request: protocol.AnyRequest) -> Any:
        assert isinstance(request, protocol.Describe)
        self.answered.append(request.pool)
        return Pong(1, 0.0)

    async def in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(call, *arguments)

    def packed_stats(self, pool: str) -> bytes:
        return b""


class Sent(asyncio.Transport):
    """A transport that keeps the written bytes."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"socket": sock})
        self.frames = wire.Frames(wire.ANSWER_MAX, trusted=True)

    def write(self, data: Any) -> None:
        self.frames.feed(data)

    def close(self) -> None:
        pass


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    """A socket with a peer."""
    ours, its = socket.socketpair()
    with ours, its:
        yield ours


def connected(host: Answering, sock: socket.socket) -> tuple[Connection, Sent]:
    connection, transport = Connection(host), Sent(sock)
    connection.connection_made(transport)
    return connection, transport


def receive(connection: Connection, *frames: bytes) -> None:
    data = b"".join(frames)
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))


def describe(msgid: int, pool: str) -> bytes:
    return wire.pack_call(msgid, "describe", [pool])


def test_clients_take_turns(sock: socket.socket) -> None:
    """However many requests one client sends at a time, other clients are answered in between."""

    async def go() -> None:
        host = Answering()
        (first, _), (second, _) = connected(host, sock), connected(host, sock)
        receive(first, *(describe(n, "a") for n in range(3)))
        receive(second, *(describe(n, "b") for n in range(3)))
        async with asyncio.timeout(DEADLINE_S):
            while len(host.answered) < 6:
                await asyncio.sleep(0)
        assert list("ababab") == host.answered

    asyncio.run(go())


def test_a_client_that_does_not_read(sock: socket.socket) -> None:
    """A client that does not read its answers has no further request read: the daemon's memory is
    bounded."""

    async def go() -> None:
        host = Answering()
        connection, _ = connected(host, sock)
        connection.pause_writing()
        receive(connection, *(describe(n, "a") for n in range(3)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert ["a"] == host.answered
        connection.resume_writing()
        async with asyncio.timeout(DEADLINE_S):
            while len(host.answered) < 3:
                await asyncio.sleep(0)

    asyncio.run(go())


def test_a_late_request(sock: socket.socket) -> None:
    """A request that arrives after the last answer, before the daemon waits again, is answered."""

    async def go() -> None:
        host = Answering()
        connection, transport = connected(host, sock)
        receive(connection, describe(1, "a"))
        worker = connection._worker
        assert worker is not None
        async with asyncio.timeout(DEADLINE_S):
            while not worker.done():
                await asyncio.sleep(0)
            assert worker is connection._worker  # the callback of its end has still to run
            receive(connection, describe(2, "b"))
            while len(host.answered) < 2:
                await asyncio.sleep(0)
            while connection._worker is not None:
                await asyncio.sleep(0)
        assert [1, 2] == [frame.msgid for frame in transport.frames]  # type: ignore[union-attr]

    asyncio.run(go())


def test_a_watch_ends_with_its_connection(sock: socket.socket) -> None:
    """Nothing is sent to a client that has disconnected, and the daemon knows that it has."""

    async def go() -> None:
        host = Answering()
        connection, _ = connected(host, sock)
        receive(connection, wire.pack_call(1, "watch", ["a", 1.0]))
        async with asyncio.timeout(DEADLINE_S):
            while not connection._watches:
                await asyncio.sleep(0)
        (timer,) = connection._watches.values()
        connection.connection_lost(None)
        assert timer.cancelled()
        assert [connection] == host.left
        receive(connection, describe(2, "a"))
        await asyncio.sleep(0)
        assert [] == host.answered

    asyncio.run(go())


def test_a_long_answer_is_packed_in_a_thread(
    sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop packs no answer of a slow request, which may have many thousand records."""
    packed_by = list[bool]()
    pack = wire.pack_result

    def note(msgid: int, result: Any) -> bytes:
        packed_by.append(threading.current_thread() is threading.main_thread())
        return pack(msgid, result)

    monkeypatch.setattr(wire, "pack_result", note)

    class Slow(Answering):
        async def answer(self, request: protocol.AnyRequest) -> Any:
            self.answered.append(request.method)
            return []

    async def go() -> None:
        host = Slow()
        connection, transport = connected(host, sock)
        calls = [("peek", ["a", "q"]), ("holders", ["a"]), ("list", []), ("describe", ["a"])]
        for n, (method, given) in enumerate(calls):
            receive(connection, wire.pack_call(n, method, given))
        got: list[wire.Frame] = []
        async with asyncio.timeout(DEADLINE_S):
            while len(got) < len(calls):
                await asyncio.sleep(0)
                got += transport.frames
        assert [method for method, _ in calls] == host.answered
        assert list(range(len(calls))) == [frame.msgid for frame in got]  # type: ignore[union-attr]
        assert [False, False, False, True] == packed_by

    asyncio.run(go())


class Held(Answering):
    """A host whose answers wait until they are let go, or that fails."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.go = asyncio.Event()

    async def answer(self, request: protocol.AnyRequest) -> Any:
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return await super().answer(request)


async def settled(connection: Connection) -> None:
    """Returns when every request that was read is answered."""
    async with asyncio.timeout(DEADLINE_S):
        while connection._worker is not None:
            await asyncio.sleep(0)


def test_what_may_be_watched(sock: socket.socket) -> None:
    """A second watch of a pool replaces the first, and interval 0 ends it. A connection has at most
    64, of at most an hour."""

    async def go() -> None:
        connection, transport = connected(Answering(), sock)

        async def watch(pool: str, interval: float) -> wire.Reply:
            receive(connection, wire.pack_call(1, "watch", [pool, interval]))
            await settled(connection)
            (reply,) = (f for f in transport.frames if isinstance(f, wire.Reply))
            return reply

        assert 1.0 == (await watch("a", 1.0)).result
        first = connection._watches["a"]
        assert 2.0 == (await watch("a", 2.0)).result
        assert first.cancelled()
        assert 0.0 == (await watch("a", 0.0)).result
        assert {} == connection._watches
        assert "it must be from 0.1 to 3600" in (await watch("a", 3601.0)).error["message"]
        for number in range(64):
            assert 1.0 == (await watch(f"p{number}", 1.0)).result
        assert "watches 64 pools already" in (await watch("a", 1.0)).error["message"]
        connection.connection_lost(None)

    asyncio.run(go())


def test_frames_that_are_no_requests(sock: socket.socket) -> None:
    """A notification is ignored. The answer to a request that was never sent ends it."""

    async def go() -> None:
        host = Answering()
        connection, transport = connected(host, sock)
        receive(connection, wire.pack_notice("x", []), describe(1, "a"))
        await settled(connection)
        assert ["a"] == host.answered
        receive(connection, wire.pack_result(1, None), describe(2, "b"))
        await settled(connection)
        *_, last = transport.frames
        closing = wire.Notice(protocol.CLOSING, ["an answer to a request that was never sent"])
        assert (closing, ["a"]) == (last, host.answered)

    asyncio.run(go())


def test_a_request_that_the_daemon_fails_at(
    sock: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs this client its connection, and the log has the traceback."""

    async def go() -> None:
        host = Held(ZeroDivisionError("a mistake of ours"))
        host.go.set()
        connection, transport = connected(host, sock)
        receive(connection, describe(1, "a"))
        await settled(connection)
        (closing,) = transport.frames
        assert wire.Notice(protocol.CLOSING, ["the daemon failed; see its log"]) == closing

    asyncio.run(go())
    assert any(
        record.exc_info and "a request failed" in record.message for record in caplog.records
    )


def test_an_answer_after_the_end(sock: socket.socket) -> None:
    """A client that was disconnected while its request was being answered is sent no answer."""

    async def go() -> None:
        host = Held()
        connection, transport = connected(host, sock)
        receive(connection, describe(1, "a"))
        await asyncio.sleep(0)
        connection.drop("enough")
        host.go.set()
        await settled(connection)
        assert [wire.Notice(protocol.CLOSING, ["enough"])] == list(transport.frames)

    asyncio.run(go())


def test_more_requests_than_a_client_may_have_waiting(sock: socket.socket) -> None:
    """The daemon reads no more from it until those are answered."""

    async def go() -> None:
        host = Held()
        connection, transport = connected(host, sock)
        reading = [True]
        transport.pause_reading = lambda: reading.append(False)  # type: ignore[method-assign]
        transport.resume_reading = lambda: reading.append(True)  # type: ignore[method-assign]
        receive(connection, describe(1, "a"))
        await asyncio.sleep(0)
        notice = wire.pack_notice("x", ["y" * 8000])
        sent = 0
        while reading[-1]:
            receive(connection, notice)
            sent += len(notice)
        assert wire.REQUEST_MAX < sent < wire.REQUEST_MAX + 3 * len(notice)
        host.go.set()
        await settled(connection)
        assert ([True, False, True], ["a"]) == (reading, host.answered)

    asyncio.run(go())
