# SPDX-License-Identifier: Apache-2.0
"""Client and AsyncClient: the daemon's requests as typed calls. The data path needs neither."""

import asyncio
import builtins
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from .. import errors
from ..messages import Message
from ..options import PoolOptions, QueueOptions
from ..pool import Pool
from ..stats import Audit, Holder, Member, Recovery
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


class Client:
    """Requests to the daemon from blocking code. For one thread at a time.

    Connects with the first call, and again after the connection is lost: then a request that
    changes nothing is sent again; any other raises DaemonUnavailable: it may have been carried out.
    """

    def __init__(self, path: str | Path | None = None, timeout: float = 10.0) -> None:
        """path of the daemon's socket, default $SHMPOOL_SOCKET or as the daemon's; timeout in
        seconds for each answer."""
        self.path = Path(path) if path is not None else protocol.default_socket()
        self.timeout = timeout
        self._socket: socket.socket | None = None
        self._frames = wire.Frames(wire.ANSWER_MAX, trusted=True)
        self._msgid = 0

    def call(self, request: protocol.Request[A]) -> A:
        """The answer. DaemonUnavailable, and what the library would raise in the daemon's place."""
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
                answer(protocol.Negotiate(), self._ask(protocol.Negotiate()))
            reply = self._ask(request)
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

    def _ask(self, request: protocol.Request[A]) -> wire.Reply:
        assert self._socket is not None  # noqa: S101
        self._msgid = self._msgid + 1 & wire.MSGID_MAX
        with contextlib.suppress(BrokenPipeError):  # why it has closed may be there to read
            self._socket.sendall(wire.pack_call(self._msgid, request.method, request.params()))
        deadline = time.monotonic() + self.timeout
        while True:
            for frame in self._frames:
                reply = reply_to(self._msgid, frame, self.path)
                if reply is not None:
                    return reply
            self._receive(deadline)

    def _receive(self, deadline: float) -> None:
        assert self._socket is not None  # noqa: S101
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionResetError("the daemon ended the connection")
        self._frames.feed(data)

    def watch(self, pool: str, interval: float = 1.0) -> Iterator[records.PoolStats]:
        """The pool's stats every interval seconds, without end. PoolNotFound when it is gone.

        Uses a connection of its own. A daemon that goes away is waited for, timeout seconds.
        """
        lost_at: float | None = None
        pause = AGAIN_S[0]
        while True:
            try:
                for stats in self._watch_once(pool, interval):
                    lost_at, pause = None, AGAIN_S[0]
                    yield stats
            except errors.DaemonUnavailable:
                now = time.monotonic()
                lost_at = now if lost_at is None else lost_at
                if now - lost_at >= self.timeout:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, AGAIN_S[1])

    def _watch_once(self, pool: str, interval: float) -> Iterator[records.PoolStats]:
        with Client(self.path, self.timeout) as own:
            granted = own.call(protocol.Watch(pool, interval))
            while True:
                for frame in own._frames:
                    stats = stats_of(frame, self.path)
                    if stats is not None:
                        yield stats
                try:
                    own._receive(time.monotonic() + granted + self.timeout)
                except (OSError, wire.FrameError) as error:
                    raise unavailable(self.path, error) from None

    def pool(self, name: str) -> Pool:
        """Attaches to a pool, in this process."""
        return Pool.attach(name)

    def ping(self) -> records.Pong:
        return self.call(protocol.Ping())

    def version(self) -> records.Version:
        return self.call(protocol.Negotiate())

    def list(self) -> builtins.list[records.PoolSummary]:
        return self.call(protocol.List())

    def create(
        self,
        pool: str,
        options: PoolOptions,
        queues: dict[str, QueueOptions] | None = None,
    ) -> records.Description:
        return self.call(protocol.Create(pool, options, queues or {}))

    def destroy(self, pool: str) -> None:
        return self.call(protocol.Destroy(pool))

    def describe(self, pool: str) -> records.Description:
        return self.call(protocol.Describe(pool))

    def stats(self, pool: str) -> records.PoolStats:
        return self.call(protocol.GetStats(pool))

    def members(self, pool: str) -> builtins.list[Member]:
        return self.call(protocol.GetMembers(pool))

    def holders(self, pool: str) -> builtins.list[Holder]:
        return self.call(protocol.GetHolders(pool))

    def audit(self, pool: str) -> Audit:
        return self.call(protocol.RunAudit(pool))

    def recover(self, pool: str) -> Recovery:
        return self.call(protocol.Recover(pool))

    def trim(self, pool: str, keep: int = 0) -> int:
        return self.call(protocol.Trim(pool, keep))

    def peek(self, pool: str, queue: str, n: int = 16, size: int = 64) -> builtins.list[Message]:
        return self.call(protocol.Peek(pool, queue, n, size))

    def redrive(
        self,
        pool: str,
        queue: str,
        n: int | None = None,
        *,
        to: str | None = None,
        reset: bool = False,
    ) -> int:
        return self.call(protocol.Redrive(pool, queue, n, to, reset))

    def drain(self, pool: str, queue: str, n: int | None = None) -> int:
        return self.call(protocol.Drain(pool, queue, n))

    def prune(self, age: float | None = None) -> records.Pruned:
        return self.call(protocol.Prune(age))

    def close(self) -> None:
        """Ends the connection. May be repeated; the next call connects again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_socket", None) is not None:
            self.close()


class AsyncClient:
    """As Client, for asyncio. Calls of several tasks take turns."""

    def __init__(self, path: str | Path | None = None, timeout: float = 10.0) -> None:
        self.path = Path(path) if path is not None else protocol.default_socket()
        self.timeout = timeout
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._frames = wire.Frames(wire.ANSWER_MAX, trusted=True)
        self._msgid = 0
        self._turn = asyncio.Lock()

    async def call(self, request: protocol.Request[A]) -> A:
        """The answer. DaemonUnavailable, and what the library would raise in the daemon's place."""
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
                    answer(protocol.Negotiate(), await self._ask(protocol.Negotiate()))
                reply = await self._ask(request)
        except (errors.ShmpoolError, asyncio.CancelledError):
            await self.close()  # an answer that comes late would be taken for another's
            raise
        except TimeoutError:
            await self.close()
            raise late(self.path, self.timeout) from None
        except (OSError, wire.FrameError) as error:
            await self.close()
            raise unavailable(self.path, error) from None
        return answer(request, reply)

    async def _ask(self, request: protocol.Request[A]) -> wire.Reply:
        assert self._streams is not None  # noqa: S101
        self._msgid = self._msgid + 1 & wire.MSGID_MAX
        self._streams[1].write(wire.pack_call(self._msgid, request.method, request.params()))
        while True:
            for frame in self._frames:
                reply = reply_to(self._msgid, frame, self.path)
                if reply is not None:
                    return reply
            await self._receive()

    async def _receive(self) -> None:
        assert self._streams is not None  # noqa: S101
        data = await self._streams[0].read(65536)
        if not data:
            raise ConnectionResetError("the daemon ended the connection")
        self._frames.feed(data)

    async def watch(self, pool: str, interval: float = 1.0) -> AsyncIterator[records.PoolStats]:
        """As Client.watch."""
        loop = asyncio.get_running_loop()
        lost_at: float | None = None
        pause = AGAIN_S[0]
        while True:
            try:
                async for stats in self._watch_once(pool, interval):
                    lost_at, pause = None, AGAIN_S[0]
                    yield stats
            except errors.DaemonUnavailable:
                now = loop.time()
                lost_at = now if lost_at is None else lost_at
                if now - lost_at >= self.timeout:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, AGAIN_S[1])

    async def _watch_once(self, pool: str, interval: float) -> AsyncIterator[records.PoolStats]:
        async with AsyncClient(self.path, self.timeout) as own:
            granted = await own.call(protocol.Watch(pool, interval))
            while True:
                for frame in own._frames:
                    stats = stats_of(frame, self.path)
                    if stats is not None:
                        yield stats
                try:
                    async with asyncio.timeout(granted + self.timeout):
                        await own._receive()
                except (OSError, wire.FrameError) as error:
                    raise unavailable(self.path, error) from None

    async def pool(self, name: str) -> Pool:
        """Attaches to a pool, in this process."""
        return await asyncio.to_thread(Pool.attach, name)

    async def ping(self) -> records.Pong:
        return await self.call(protocol.Ping())

    async def version(self) -> records.Version:
        return await self.call(protocol.Negotiate())

    async def list(self) -> builtins.list[records.PoolSummary]:
        return await self.call(protocol.List())

    async def create(
        self,
        pool: str,
        options: PoolOptions,
        queues: dict[str, QueueOptions] | None = None,
    ) -> records.Description:
        return await self.call(protocol.Create(pool, options, queues or {}))

    async def destroy(self, pool: str) -> None:
        return await self.call(protocol.Destroy(pool))

    async def describe(self, pool: str) -> records.Description:
        return await self.call(protocol.Describe(pool))

    async def stats(self, pool: str) -> records.PoolStats:
        return await self.call(protocol.GetStats(pool))

    async def members(self, pool: str) -> builtins.list[Member]:
        return await self.call(protocol.GetMembers(pool))

    async def holders(self, pool: str) -> builtins.list[Holder]:
        return await self.call(protocol.GetHolders(pool))

    async def audit(self, pool: str) -> Audit:
        return await self.call(protocol.RunAudit(pool))

    async def recover(self, pool: str) -> Recovery:
        return await self.call(protocol.Recover(pool))

    async def trim(self, pool: str, keep: int = 0) -> int:
        return await self.call(protocol.Trim(pool, keep))

    async def peek(
        self, pool: str, queue: str, n: int = 16, size: int = 64
    ) -> builtins.list[Message]:
        return await self.call(protocol.Peek(pool, queue, n, size))

    async def redrive(
        self,
        pool: str,
        queue: str,
        n: int | None = None,
        *,
        to: str | None = None,
        reset: bool = False,
    ) -> int:
        return await self.call(protocol.Redrive(pool, queue, n, to, reset))

    async def drain(self, pool: str, queue: str, n: int | None = None) -> int:
        return await self.call(protocol.Drain(pool, queue, n))

    async def prune(self, age: float | None = None) -> records.Pruned:
        return await self.call(protocol.Prune(age))

    async def close(self) -> None:
        """Ends the connection. May be repeated; the next call connects again."""
        if self._streams is not None:
            (_, writer), self._streams = self._streams, None
            writer.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
