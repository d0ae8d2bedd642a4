# SPDX-License-Identifier: Apache-2.0
"""One client of the daemon: reads its requests, writes its answers and notifications, and limits
what it may cost.

A client's requests are answered one at a time, in order; those of other clients run in between. The
limits are the bytes of a frame, the seconds until a frame is complete, the bytes of requests that
are waiting, and the bytes that the client has not read. A client that exceeds one gets the
reason and is disconnected.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

from .. import errors
from ..rpc import protocol, wire

log = logging.getLogger("shmpool")

FRAME_S = 10.0  # from the first byte of a frame until it must be complete
UNREAD_S = 10.0  # a client that reads nothing is disconnected after this long
UNREAD_MAX = 256 << 10  # bytes that a client with watches may leave unread
GOODBYE_S = 2.0  # for a client to read why it is disconnected
READ_MAX = 16 << 10  # bytes of one read from a socket
WATCHES_MAX = 64  # of a connection
GROUPS_MAX = 256  # socket.getsockopt() takes no larger buffer
SO_PEERGROUPS = 59  # asm-generic/socket.h; the socket module has no name for it


@dataclass(frozen=True)
class Peer:
    """The process at the other end, as the kernel reports it."""

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
        except OSError:  # more groups, or an old kernel: only the main group counts
            raw = b""
        groups = struct.unpack(f"{len(raw) // 4}I", raw)
        return cls(pid, uid, frozenset((gid, *groups)))


class Host(Protocol):
    """What a connection needs from the daemon."""

    def admit(self, connection: "Connection", peer: Peer) -> str | None:
        """Returns None to accept the client, else why it is refused."""

    def may_write(self, peer: Peer) -> bool:
        """True if the client may use requests that change something."""

    def disconnected(self, connection: "Connection") -> None:
        """Called once, when the connection has ended."""

    async def answer(self, request: protocol.AnyRequest) -> Any:
        """Returns the answer. ShmpoolError."""

    async def in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function in a thread. Returns its result."""

    def packed_stats(self, pool: str) -> bytes:
        """Returns a notification with the pool's statistics. ShmpoolError."""


def _packed(msgid: int, answer: Any) -> bytes:
    return wire.pack_result(msgid, wire.to_wire(answer))


class Connection(asyncio.BufferedProtocol):
    """The protocol of one connection. For the thread of the event loop."""

    _received = memoryview(bytearray(READ_MAX))  # shared: emptied before the next read

    def __init__(self, host: Host) -> None:
        self._host = host
        self._frames = wire.Frames(wire.REQUEST_MAX)
        self._watches: dict[str, asyncio.TimerHandle] = {}
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._worker: asyncio.Task[None] | None = None
        self._frame_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._paused = self._more = self._eof = self._closing = False

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        try:
            self.peer = Peer.of(transport.get_extra_info("socket"))
        except OSError:  # it has ended, or the kernel does not say who it is
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
        return self._worker is not None  # its requests are answered first

    def pause_writing(self) -> None:
        self._can_write.clear()
        self._unread_timer = self._loop.call_later(
            UNREAD_S, self.drop, f"too slow: the client read nothing for {UNREAD_S:g} s"
        )

    def resume_writing(self) -> None:
        self._can_write.set()
        if self._unread_timer is not None:
            self._unread_timer.cancel()

    def connection_lost(self, error: Exception | None) -> None:
        self._start_closing()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        if self._worker is not None:
            self._worker.cancel()
        self._host.disconnected(self)

    # Requests.

    def _start_work(self) -> None:
        self._more = False
        self._worker = self._loop.create_task(self._work())
        self._worker.add_done_callback(self._work_done)

    async def _work(self) -> None:
        """Answers every complete frame."""
        for frame in self._frames:
            self._stop_frame_timer()
            match frame:
                case wire.Call():
                    reply = await self._reply(frame)
                    if self._closing:
                        return
                    self._transport.write(reply)
                    await self._can_write.wait()
                    await asyncio.sleep(0)  # other clients run
                case wire.Notice():
                    pass  # no notification of a client means anything
                case wire.Reply():
                    raise wire.FrameError("an answer to a request that was never sent")

    def _work_done(self, worker: "asyncio.Task[None]") -> None:
        self._worker = None
        error = None if worker.cancelled() else worker.exception()
        if isinstance(error, wire.FrameError):
            self.drop(str(error))
        elif error is not None:
            log.error("a request failed in the daemon", exc_info=error)
            self.drop("the daemon failed; see its log")
        elif self._more and not self._closing:
            self._start_work()  # bytes came after the worker's last read of the frames
        elif self._eof:
            self._transport.close()
        elif not self._closing:
            if self._paused:
                self._paused = False
                self._transport.resume_reading()
            if self._frames.unread and self._frame_timer is None:
                self._frame_timer = self._loop.call_later(
                    FRAME_S, self.drop, f"too slow: a frame was not complete after {FRAME_S:g} s"
                )

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
            if request.slow:  # its answer may be long: 65,536 messages take half a second
                packed: bytes = await self._host.in_thread(_packed, call.msgid, answer)
                return packed
            return _packed(call.msgid, answer)
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
                f"this connection watches {WATCHES_MAX} pools already; open another connection"
            )
        if not request.interval <= 3600:
            raise errors.InvalidArgument(
                f"interval is {request.interval} s; it must be from {protocol.INTERVAL_MIN} to 3600"
            )
        self._host.packed_stats(request.pool)  # fails if there is no such pool
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

    # Disconnecting.

    def drop(self, reason: str) -> None:
        """Sends the client the reason. Disconnects it when it has read that, or after GOODBYE_S."""
        if self._closing:
            return
        self._start_closing()
        log.info("client %s (user %s) disconnected: %s", self.peer.pid, self.peer.uid, reason)
        self._transport.write(wire.pack_notice(protocol.CLOSING, [reason]))
        self._transport.close()
        self._loop.call_later(GOODBYE_S, self._transport.abort)

    async def finish(self, reason: str) -> None:
        """Reads no more, answers the requests that were read, and disconnects the client."""
        if not self._closing:
            self._transport.pause_reading()
        if self._worker is not None:
            await asyncio.wait([self._worker])
        self.drop(reason)

    def _start_closing(self) -> None:
        self._closing = True
        self._stop_frame_timer()
        for timer in self._watches.values():
            timer.cancel()

    def _stop_frame_timer(self) -> None:
        if self._frame_timer is not None:
            self._frame_timer.cancel()
            self._frame_timer = None
