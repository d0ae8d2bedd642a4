# SPDX-License-Identifier: Apache-2.0
"""One client of the daemon: its frames in, its answers and notifications out, and its limits.

A client is answered one request at a time, in order, and others in between. What it may cost is
bounded: bytes of a frame, seconds until it is whole, bytes of requests that wait, bytes that it has
not read. Who goes beyond is told why and dropped; everybody else goes on.
"""

import asyncio
import logging
import socket
import struct
from dataclasses import dataclass
from typing import Any, Protocol, cast

from .. import errors
from ..rpc import protocol, wire

log = logging.getLogger("shmpool")

FRAME_S = 10.0  # until a frame that has begun must be whole
UNREAD_S = 10.0  # until a client must have read some of what was sent
UNREAD_MAX = 256 << 10  # bytes of notifications that a watcher has not read
GOODBYE_S = 2.0  # until who is dropped must have read why
READ_MAX = 16 << 10  # bytes taken from a socket at once
WATCHES_MAX = 64
GROUPS_MAX = 256  # getsockopt() takes no larger buffer
SO_PEERGROUPS = 59  # asm-generic/socket.h; the socket module does not name it


@dataclass(frozen=True)
class Peer:
    """Who is at the other end, as the kernel says."""

    pid: int
    uid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, sock: socket.socket) -> "Peer":
        pid, uid, gid = struct.unpack(
            "iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_MAX * 4)
        except OSError:  # more than that, or an old kernel: only the main one counts
            raw = b""
        groups = struct.unpack(f"{len(raw) // 4}I", raw)
        return cls(pid, uid, frozenset((gid, *groups)))


class Host(Protocol):
    """What a connection needs of the daemon."""

    def admit(self, connection: "Connection", peer: Peer) -> str | None:
        """None to let the client in; else why not."""

    def may_write(self, peer: Peer) -> bool:
        """Whether the client may ask for what changes something."""

    def gone(self, connection: "Connection") -> None:
        """The connection has ended."""

    async def answer(self, request: protocol.AnyRequest) -> Any:
        """What the request comes to. ShmpoolError."""

    def packed_stats(self, pool: str) -> bytes:
        """The notification of a watch. ShmpoolError."""


class Connection(asyncio.BufferedProtocol):
    """Shell around the frames: see the module."""

    _received = memoryview(bytearray(READ_MAX))  # for all: it is emptied before the next read

    def __init__(self, host: Host) -> None:
        self._host = host
        self._frames = wire.Frames(wire.REQUEST_MAX)
        self._watches: dict[str, asyncio.TimerHandle] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._worker: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._paused = self._more = self._eof = self._closing = False

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        try:
            self.peer = Peer.of(transport.get_extra_info("socket"))
        except OSError:  # it has gone already, or the kernel does not say: nobody is let in unknown
            self._closing = True
            self._transport.abort()
            return
        reason = self._host.admit(self, self.peer)
        if reason is not None:
            self.drop(reason)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._received

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing:
            return
        self._frames.feed(self._received[:nbytes])
        self._more = True
        if self._worker is None:
            self._start_work()
        elif self._frames.unread > wire.REQUEST_MAX and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._eof = True
        return self._worker is not None  # what was asked is answered first

    def pause_writing(self) -> None:
        self._room.clear()
        self._unread = self._loop.call_later(UNREAD_S, self._reads_nothing)

    def resume_writing(self) -> None:
        self._room.set()
        if self._unread is not None:
            self._unread.cancel()

    def connection_lost(self, error: Exception | None) -> None:
        self._end()
        if self._unread is not None:
            self._unread.cancel()
        if self._worker is not None:
            self._worker.cancel()
        self._host.gone(self)

    # Requests.

    def _start_work(self) -> None:
        self._more = False
        self._worker = self._loop.create_task(self._work())
        self._worker.add_done_callback(self._worked)

    async def _work(self) -> None:
        """Answers every frame that is whole."""
        for frame in self._frames:
            self._stop_timer()
            match frame:
                case wire.Call():
                    reply = await self._reply(frame)
                    if self._closing:
                        return
                    self._transport.write(reply)
                    await self._room.wait()
                    await asyncio.sleep(0)  # the others' turn
                case wire.Notice():
                    pass  # there is nothing that a client could tell us
                case wire.Reply():
                    raise wire.FrameError("an answer to a request that was never made")

    def _worked(self, worker: "asyncio.Task[None]") -> None:
        self._worker = None
        error = None if worker.cancelled() else worker.exception()
        if isinstance(error, wire.FrameError):
            self.drop(str(error))
        elif error is not None:
            log.error("a request failed in the daemon", exc_info=error)
            self.drop("the daemon failed; see its log")
        elif self._more and not self._closing:
            self._start_work()  # it came when the worker had looked for the last time
        elif self._eof:
            self._transport.close()
        elif not self._closing:
            if self._paused:
                self._paused = False
                self._transport.resume_reading()
            if self._frames.unread and self._timer is None:
                self._timer = self._loop.call_later(FRAME_S, self._frame_late)

    async def _reply(self, call: wire.Call) -> bytes:
        try:
            request = protocol.request_of(call)
            if request.writes and not self._host.may_write(self.peer):
                raise errors.AccessDenied(
                    f"user {self.peer.uid} may only use the read-only requests, not {call.method}; "
                    "the daemon's own user and root may"
                )
            if isinstance(request, protocol.Watch):
                answer: Any = self._watch(request)
            else:
                answer = await self._host.answer(request)
            return wire.pack_result(call.msgid, wire.to_wire(answer))
        except errors.ShmpoolError as error:
            return wire.pack_error(call.msgid, protocol.error_to_wire(error))
        except OSError as error:
            refused = errors.RequestRefused(f"{call.method}: {error}")
            return wire.pack_error(call.msgid, protocol.error_to_wire(refused))

    # Watches.

    def _watch(self, request: protocol.Watch) -> float:
        timer = self._watches.pop(request.pool, None)
        if timer is not None:
            timer.cancel()
        if request.interval <= 0:
            return 0.0
        if len(self._watches) >= WATCHES_MAX:
            raise errors.LimitReached(
                f"this connection watches {WATCHES_MAX} pools, which is the most; open another"
            )
        if not request.interval <= 3600:
            raise errors.InvalidArgument(
                f"interval is {request.interval} s; it must be from {protocol.INTERVAL_MIN} to 3600"
            )
        self._host.packed_stats(request.pool)  # there is such a pool
        interval = max(request.interval, protocol.INTERVAL_MIN)
        self._watches[request.pool] = self._loop.call_later(0, self._notify, request.pool, interval)
        return interval

    def _notify(self, pool: str, interval: float) -> None:
        if self._transport.get_write_buffer_size() > UNREAD_MAX:
            self.drop(f"too slow: more than {UNREAD_MAX} bytes of notifications were not read")
            return
        try:
            self._transport.write(self._host.packed_stats(pool))
        except (errors.ShmpoolError, OSError) as error:
            del self._watches[pool]
            self._transport.write(wire.pack_notice(protocol.ENDED, [pool, str(error)]))
            return
        self._watches[pool] = self._loop.call_later(interval, self._notify, pool, interval)

    # The end.

    def drop(self, reason: str) -> None:
        """Tells the client why and ends the connection, now or when it has read that."""
        if self._closing:
            return
        self._end()
        log.info("client %s (user %s) dropped: %s", self.peer.pid, self.peer.uid, reason)
        self._transport.write(wire.pack_notice(protocol.CLOSING, [reason]))
        self._transport.close()
        self._loop.call_later(GOODBYE_S, self._transport.abort)

    async def finish(self, reason: str) -> None:
        """Answers what has come, takes no more, and ends."""
        if not self._closing:
            self._transport.pause_reading()
        if self._worker is not None:
            await asyncio.wait([self._worker])
        self.drop(reason)

    def _end(self) -> None:
        self._closing = True
        self._stop_timer()
        for timer in self._watches.values():
            timer.cancel()

    def _reads_nothing(self) -> None:
        self.drop(f"too slow: the client read nothing for {UNREAD_S:g} s")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _frame_late(self) -> None:
        self.drop(f"too slow: a frame was not whole after {FRAME_S:g} s")
