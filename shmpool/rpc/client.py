# SPDX-License-Identifier: Apache-2.0
"""Client and AsyncClient: the daemon's requests as typed calls. The data path needs neither.

Both have the methods of protocol.Calls. Here is how each connects, sends, and waits.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from .. import errors
from ..pool import Pool
from . import protocol, records, wire
from .client_connection import (
    answer,
    connected,
    ended,
    late,
    reply_to,
    stats_of,
    stream_ended,
    unavailable,
)

A = TypeVar("A")
AGAIN_S = (0.02, 1.0)  # first and longest pause between two tries to connect


class _Client(protocol.Calls):
    """What both clients have besides their I/O."""

    def __init__(self, path: str | Path | None = None, timeout: float = 10.0) -> None:
        """path of the daemon's socket, by default $SHMPOOL_SOCKET or the daemon's own default;
        timeout in seconds, for each answer."""
        self.path = Path(path) if path is not None else protocol.default_socket()
        self.timeout = timeout
        self._msgid = 0
        self._frames = wire.Frames(wire.ANSWER_MAX, trusted=True)

    def _packed(self, request: protocol.AnyRequest) -> bytes:
        self._msgid = self._msgid + 1 & wire.MSGID_MAX
        return wire.pack_call(self._msgid, request.method, request.params())

    def _reply(self) -> wire.Reply | None:
        """The answer to the latest request, if it has been received. DaemonUnavailable."""
        replies = (reply_to(self._msgid, frame, self.path) for frame in self._frames)
        return next((reply for reply in replies if reply is not None), None)

    def _received(self, data: bytes) -> None:
        if not data:
            raise ConnectionResetError("the daemon ended the connection")
        self._frames.feed(data)

    def _stats(self) -> Iterator[records.PoolStats]:
        """What a watch has brought. PoolNotFound, DaemonUnavailable."""
        for frame in self._frames:
            stats = stats_of(frame, self.path)
            if stats is not None:
                yield stats


class _Outage:
    """The pauses of a watch while its daemon is away; after timeout seconds they end."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.end()

    def end(self) -> None:
        """The daemon is back."""
        self._since: float | None = None
        self._pause = AGAIN_S[0]

    def pause(self) -> float | None:
        """Seconds until the next try; None for no more."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        pause, self._pause = self._pause, min(2 * self._pause, AGAIN_S[1])
        return pause if now - self._since < self._timeout else None


class Client(_Client):
    """Requests to the daemon from blocking code. For one thread at a time, and not over a fork.

    Connects with the first call, and again after the connection is lost: then a request that
    changes nothing is sent again. Any other raises DaemonUnavailable, because it may have been
    carried out. Each call raises what the library would have raised in the daemon, and
    DaemonUnavailable where no daemon answers within timeout seconds.

    >>> import shmpool
    >>> shmpool.Client("/nowhere").ping()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    shmpool.errors.DaemonUnavailable: no daemon at /nowhere: No such file or directory: start ...
    """

    _socket: socket.socket | None = None

    def call(self, request: protocol.Request[A]) -> A:
        """Sends any request of protocol.py and returns its answer."""
        again = self._socket is not None and not request.writes
        try:
            return self._call(request)
        except errors.DaemonUnavailable:
            if not again:
                raise
        return self._call(request)

    def _call(self, request: protocol.Request[A]) -> A:
        try:
            if self._socket is not None and ended(self._socket):
                self.close()
            if self._socket is None:
                self._socket = connected(self.path, self.timeout)
                self._frames = wire.Frames(wire.ANSWER_MAX, trusted=True)
                answer(protocol.Negotiate(), self._ask(self._socket, protocol.Negotiate()))
            reply = self._ask(self._socket, request)
        except errors.ShmpoolError:
            self.close()
            raise
        except TimeoutError:
            self.close()
            raise late(self.path, self.timeout) from None
        except (OSError, wire.FrameError) as error:
            self.close()
            raise unavailable(self.path, error) from None
        return answer(request, reply)

    def _ask(self, sock: socket.socket, request: protocol.AnyRequest) -> wire.Reply:
        with contextlib.suppress(BrokenPipeError):  # the daemon's reason may still be read
            sock.sendall(self._packed(request))
        deadline = time.monotonic() + self.timeout
        while (reply := self._reply()) is None:
            self._receive(sock, deadline)
        return reply

    def _receive(self, sock: socket.socket, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        self._received(sock.recv(65536))

    def watch(self, pool: str, interval: float = 1.0) -> Iterator[records.PoolStats]:
        """Yields the pool's statistics every interval seconds, at least 0.1, without end.

        Uses a connection of its own. Waits up to timeout seconds for a daemon that goes away.

        Raises:
            PoolNotFound: there is no such pool, or it was removed.
            DaemonUnavailable: the daemon has been away for timeout seconds.
            SegmentInvalid, AccessDenied, InvalidArgument: as stats().
        """
        outage = _Outage(self.timeout)
        while True:
            try:
                for stats in self._watch_once(pool, interval):
                    outage.end()
                    yield stats
            except errors.DaemonUnavailable:
                pause = outage.pause()
                if pause is None:
                    raise
                time.sleep(pause)

    def _watch_once(self, pool: str, interval: float) -> Iterator[records.PoolStats]:
        with Client(self.path, self.timeout) as own:
            granted = own.call(protocol.Watch(pool, interval))
            assert own._socket is not None  # noqa: S101
            while True:
                yield from own._stats()
                try:
                    own._receive(own._socket, time.monotonic() + granted + self.timeout)
                except (OSError, wire.FrameError) as error:
                    raise unavailable(self.path, error) from None

    def pool(self, name: str) -> Pool:
        """Attaches to a pool, in this process. Raises as Pool.attach."""
        return Pool.attach(name)

    def close(self) -> None:
        """Ends the connection. May be repeated; the next call connects again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class AsyncClient(_Client):
    """As Client, for asyncio: each method is awaited. For one event loop; calls of several tasks
    take turns. A cancelled call ends the connection; the next one connects again.
    """

    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def __init__(self, path: str | Path | None = None, timeout: float = 10.0) -> None:
        super().__init__(path, timeout)
        self._turn = asyncio.Lock()

    async def call(self, request: protocol.Request[A]) -> A:
        """As Client.call."""
        async with self._turn:
            again = self._streams is not None and not request.writes
            try:
                return await self._call(request)
            except errors.DaemonUnavailable:
                if not again:
                    raise
            return await self._call(request)

    async def _call(self, request: protocol.Request[A]) -> A:
        try:
            async with asyncio.timeout(self.timeout):
                if self._streams is not None and await stream_ended(*self._streams):
                    await self.close()
                if self._streams is None:
                    sock = await asyncio.to_thread(connected, self.path, self.timeout)
                    self._streams = await asyncio.open_unix_connection(sock=sock)
                    self._frames = wire.Frames(wire.ANSWER_MAX, trusted=True)
                    first = await self._ask(*self._streams, protocol.Negotiate())
                    answer(protocol.Negotiate(), first)
                reply = await self._ask(*self._streams, request)
        except (errors.ShmpoolError, asyncio.CancelledError):
            await self.close()  # a late answer would be taken for that to another request
            raise
        except TimeoutError:
            await self.close()
            raise late(self.path, self.timeout) from None
        except (OSError, wire.FrameError) as error:
            await self.close()
            raise unavailable(self.path, error) from None
        return answer(request, reply)

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        request: protocol.AnyRequest,
    ) -> wire.Reply:
        writer.write(self._packed(request))
        while (reply := self._reply()) is None:
            self._received(await reader.read(65536))
        return reply

    async def watch(self, pool: str, interval: float = 1.0) -> AsyncIterator[records.PoolStats]:
        """As Client.watch."""
        outage = _Outage(self.timeout)
        while True:
            try:
                async for stats in self._watch_once(pool, interval):
                    outage.end()
                    yield stats
            except errors.DaemonUnavailable:
                pause = outage.pause()
                if pause is None:
                    raise
                await asyncio.sleep(pause)

    async def _watch_once(self, pool: str, interval: float) -> AsyncIterator[records.PoolStats]:
        async with AsyncClient(self.path, self.timeout) as own:
            granted = await own.call(protocol.Watch(pool, interval))
            assert own._streams is not None  # noqa: S101
            reader, _ = own._streams
            while True:
                for stats in own._stats():
                    yield stats
                try:
                    async with asyncio.timeout(granted + self.timeout):
                        own._received(await reader.read(65536))
                except (OSError, wire.FrameError) as error:
                    raise unavailable(self.path, error) from None

    async def pool(self, name: str) -> Pool:
        """Attaches to a pool, in this process. Raises as Pool.attach."""
        return await asyncio.to_thread(Pool.attach, name)

    async def close(self) -> None:
        """Ends the connection. May be repeated; the next call connects again."""
        if self._streams is not None:
            (_, writer), self._streams = self._streams, None
            writer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
