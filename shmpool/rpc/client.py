# SPDX-License-Identifier: Apache-2.0
"""Client and AsyncClient: the daemon's requests as typed calls. The data path needs neither.

Both have the methods of protocol.Calls. Here is how each connects, sends, and waits.
"""

import asyncio
import contextlib
import select
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Self, TypeVar

from .. import errors
from ..options import seconds_of
from ..pool import Pool
from . import protocol, records, wire

A = TypeVar("A")
LONGEST_S = 2.0**21  # 24 days, the longest timeout of a socket
AGAIN_S = (0.02, 1.0)  # first and longest pause between two tries to connect


class _Client(protocol.Calls):
    """What both clients have besides their I/O."""

    path: Path
    timeout: float

    def __init__(self, path: str | Path | None = None, timeout: float = 10.0) -> None:
        """path of the daemon's socket, by default $SHMPOOL_SOCKET or the daemon's own default;
        timeout in seconds, for each answer."""
        self.path = Path(path) if path is not None else protocol.default_socket()
        self.timeout = min(seconds_of(timeout, "timeout"), LONGEST_S)
        self._msgid = 0
        self._frames = wire.Frames(wire.ANSWER_MAX, trusted=True)

    def _packed(self, request: protocol.AnyRequest) -> bytes:
        self._msgid = self._msgid + 1 & wire.MSGID_MAX
        return wire.pack_call(self._msgid, request.method, request.params())

    def _received(self, data: bytes) -> None:
        if not data:
            raise ConnectionResetError("the daemon ended the connection")
        self._frames.feed(data)

    def _reply(self) -> wire.Reply | None:
        """The answer to the latest request, if it has been received. DaemonUnavailable."""
        for frame in self._frames:
            if isinstance(frame, wire.Reply) and frame.msgid == self._msgid:
                return frame
            self._refuse_closing(frame)
        return None

    def _stats(self) -> Iterator[records.PoolStats]:
        """What a watch has brought. PoolNotFound, DaemonUnavailable."""
        for frame in self._frames:
            match frame:
                case wire.Notice(protocol.STATS, [stats]):
                    yield wire.from_wire(records.PoolStats, stats)
                case wire.Notice(protocol.ENDED, [str(_), str(reason)]):
                    raise errors.PoolNotFound(reason)
            self._refuse_closing(frame)

    def _refuse_closing(self, frame: wire.Frame) -> None:
        match frame:
            case wire.Notice(protocol.CLOSING, [str(reason)]):
                raise self._unavailable(f"the daemon ended the connection: {reason}")

    def _unavailable(self, error: Exception | str) -> errors.DaemonUnavailable:
        """The exception for a connection that failed, or for an answer that did not come."""
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, TimeoutError):
            reason = f"no answer within {self.timeout:g} s"
        remedy = ""
        if isinstance(error, PermissionError):
            remedy = ": ask for read_group in the daemon's configuration, and to join that group"
        elif isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            remedy = f": start one with shmpool daemon --socket {self.path}"
        return errors.DaemonUnavailable(f"no daemon at {self.path}: {reason}{remedy}")

    def _pauses(self) -> Iterator[float]:
        """Seconds until each next try of a watch whose daemon is away, for timeout seconds."""
        since, pause = time.monotonic(), AGAIN_S[0]
        while time.monotonic() - since < self.timeout:
            yield pause
            pause = min(2 * pause, AGAIN_S[1])


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
        except (OSError, wire.FrameError) as error:
            self.close()
            raise self._unavailable(error) from None
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
        pauses: Iterator[float] | None = None  # while the daemon is away
        while True:
            try:
                for stats in self._watch_once(pool, interval):
                    pauses = None
                    yield stats
            except errors.DaemonUnavailable:
                pauses = pauses or self._pauses()
                if (pause := next(pauses, None)) is None:
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
                    raise self._unavailable(error) from None

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

    def __exit__(self, *error: object) -> None:
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
        except (OSError, wire.FrameError) as error:
            await self.close()
            raise self._unavailable(error) from None
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
        pauses: Iterator[float] | None = None  # while the daemon is away
        while True:
            try:
                async for stats in self._watch_once(pool, interval):
                    pauses = None
                    yield stats
            except errors.DaemonUnavailable:
                pauses = pauses or self._pauses()
                if (pause := next(pauses, None)) is None:
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
                    raise self._unavailable(error) from None

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

    async def __aexit__(self, *error: object) -> None:
        await self.close()


def connected(path: Path, timeout: float) -> socket.socket:
    """Connects. Waits up to timeout seconds while the daemon's backlog is full, where a
    non-blocking socket would fail at once. OSError, TimeoutError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        wait = struct.pack("ll", int(timeout), int(timeout % 1 * 1e6) or 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        sock.connect(str(path))
    except BlockingIOError:
        sock.close()
        raise TimeoutError from None
    except BaseException:
        sock.close()
        raise
    return sock


def ended(sock: socket.socket) -> bool:
    """True if the daemon has closed the connection, or announced it, between two requests."""
    sock.setblocking(False)  # with a timeout set, Python itself would wait despite MSG_DONTWAIT
    try:
        sock.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        pass
    finally:
        sock.setblocking(True)
    return True  # end of file, or bytes that no request asked for


async def stream_ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """As ended(), for a stream, whose bytes are in the kernel or in the reader's buffer."""
    waiting = select.poll()
    waiting.register(writer.get_extra_info("socket").fileno(), select.POLLIN)
    if waiting.poll(0):
        return True
    try:
        async with asyncio.timeout(0):
            await reader.read(1)
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def answer(request: protocol.Request[A], reply: wire.Reply) -> A:
    """Returns the answer of a reply. Raises its error, or RequestRefused if its shape is wrong."""
    if reply.error is not None:
        raise protocol.error_of(reply.error)
    try:
        return request.answer_of(reply.result)
    except wire.ShapeError as error:
        raise errors.RequestRefused(
            f"the daemon's answer to {request.method} cannot be understood: {error}"
        ) from None
