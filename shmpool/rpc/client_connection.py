# SPDX-License-Identifier: Apache-2.0
"""What both clients have in common: a connection, and what the frames on it mean."""

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
    reason = getattr(error, "strerror", None) or error
    return errors.DaemonUnavailable(f"no daemon at {path}: {reason}")


def late(path: Path, timeout: float) -> errors.DaemonUnavailable:
    return unavailable(path, f"no answer within {timeout:g} s")


def connected(path: Path, timeout: float) -> socket.socket:
    """A connection, waited for while the daemon has many others to accept: a socket that does not
    block would fail at once."""
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
    """Whether the daemon has gone, or said that it will, while nothing was asked of it."""
    sock.setblocking(False)  # MSG_DONTWAIT would be waited for by Python itself
    try:
        sock.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        pass
    finally:
        sock.setblocking(True)
    return True  # the end, or what nobody has asked for


async def stream_ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """The same of a stream: in the kernel, or already here."""
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
    if reply.error is not None:
        raise protocol.error_of(reply.error)
    try:
        return request.answer_of(reply.result)
    except wire.ShapeError as error:
        raise errors.RequestRefused(
            f"the daemon's answer to {request.method} cannot be understood: {error}"
        ) from None


def reply_to(msgid: int, frame: wire.Frame, path: Path) -> wire.Reply | None:
    """The frame, if it is the answer. DaemonUnavailable if it says good-bye."""
    match frame:
        case wire.Reply() if frame.msgid == msgid:
            return frame
        case wire.Notice(protocol.CLOSING, [str(reason)]):
            raise unavailable(path, f"the daemon ended the connection: {reason}")
    return None


def stats_of(frame: wire.Frame, path: Path) -> records.PoolStats | None:
    """What the notification of a watch brings."""
    match frame:
        case wire.Notice(protocol.STATS, [stats]):
            found: records.PoolStats = wire.from_wire(records.PoolStats, stats)
            return found
        case wire.Notice(protocol.ENDED, [str(_), str(reason)]):
            raise errors.PoolNotFound(reason)
    reply_to(-1, frame, path)
    return None
