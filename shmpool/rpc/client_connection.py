# SPDX-License-Identifier: Apache-2.0
"""What both clients use: opening a connection, and the meaning of the frames on it."""

import asyncio
import select
import socket
import struct
from pathlib import Path
from typing import TypeVar

from .. import errors
from . import protocol, records, wire

A = TypeVar("A")


def unavailable(path: Path, error: Exception | str) -> errors.DaemonUnavailable:
    """Returns the exception for a connection that failed."""
    reason = getattr(error, "strerror", None) or error
    remedy = ""
    if isinstance(error, PermissionError):
        remedy = ": ask for read_group in the daemon's configuration, and be a member of that group"
    elif isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        remedy = f": start one with shmpool daemon --socket {path}"
    return errors.DaemonUnavailable(f"no daemon at {path}: {reason}{remedy}")


def late(path: Path, timeout: float) -> errors.DaemonUnavailable:
    """Returns the exception for an answer that did not arrive within timeout seconds."""
    return unavailable(path, f"no answer within {timeout:g} s")


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


def reply_to(msgid: int, frame: wire.Frame, path: Path) -> wire.Reply | None:
    """Returns the frame if it is the reply to that request. DaemonUnavailable if it announces that
    the daemon closes the connection."""
    match frame:
        case wire.Reply() if frame.msgid == msgid:
            return frame
        case wire.Notice(protocol.CLOSING, [str(reason)]):
            raise unavailable(path, f"the daemon ended the connection: {reason}")
    return None


def stats_of(frame: wire.Frame, path: Path) -> records.PoolStats | None:
    """Returns the statistics of a watch's notification, None for another frame. PoolNotFound."""
    match frame:
        case wire.Notice(protocol.STATS, [stats]):
            found: records.PoolStats = wire.from_wire(records.PoolStats, stats)
            return found
        case wire.Notice(protocol.ENDED, [str(_), str(reason)]):
            raise errors.PoolNotFound(reason)
    reply_to(-1, frame, path)
    return None
