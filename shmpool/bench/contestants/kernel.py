# SPDX-License-Identifier: Apache-2.0
"""The kernel's message queues: POSIX ones (posix_ipc), and a pair of SEQPACKET sockets."""

import errno
import os
import socket
import struct
from contextlib import suppress
from functools import partial
from pathlib import Path

import posix_ipc

from ..transport import WAIT_S, OneByOne, Receive, Send, Spec, UnsupportedError

LIMITS = Path("/proc/sys/fs/mqueue")


class MessageQueue(OneByOne):
    library = "posix_ipc"
    call = "MessageQueue"
    package = "posix_ipc"
    prefix = "/"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.full = self.empty = (posix_ipc.BusyError,)

    def create(self) -> None:
        """Uses the depth that the system allows if spec.depth needs a privilege."""
        allowed = int((LIMITS / "msg_max").read_text())
        for channel in range(self.spec.channels):
            for depth in (self.spec.depth, min(self.spec.depth, allowed)):
                with suppress(ValueError, OSError, posix_ipc.Error):
                    posix_ipc.MessageQueue(
                        self.name(channel), posix_ipc.O_CREX, 0o600, depth, self.spec.size
                    ).close()
                    break
            else:
                most = (LIMITS / "msgsize_max").read_text().strip()
                raise UnsupportedError(
                    f"the system refuses a queue of {self.spec.size}-byte messages "
                    f"(fs.mqueue.msgsize_max {most}, RLIMIT_MSGQUEUE)"
                )

    def remove(self) -> None:
        for channel in range(self.spec.channels):
            with suppress(posix_ipc.ExistentialError):
                posix_ipc.unlink_message_queue(self.name(channel))

    def sender(self, channel: int) -> Send:
        return posix_ipc.MessageQueue(self.name(channel)).send

    def receiver(self, channel: int, timeout: float) -> Receive:
        receive = posix_ipc.MessageQueue(self.name(channel)).receive
        return lambda: receive(timeout)[0]


class SeqPacket(OneByOne):
    library = "socket"
    call = "AF_UNIX SEQPACKET"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.full = self.empty = (BlockingIOError,)

    def create(self) -> None:
        self.pairs = self.each(lambda _: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        for writer, reader in self.pairs:
            room = self.spec.depth * self.spec.size  # at most net.core.wmem_max
            writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
            for end in (writer, reader):
                end.settimeout(None)
        self._check_size()

    def _check_size(self) -> None:
        """Sends one message: it must fit into the buffer, whose size the system limits."""
        writer, reader = self.pairs[0]
        try:
            writer.send(bytes(self.spec.size), socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS, errno.EAGAIN):
                raise
            most = Path("/proc/sys/net/core/wmem_max").read_text().strip()
            raise UnsupportedError(
                f"a message of {self.spec.size} bytes does not fit: {os.strerror(error.errno or 0)}"
                f" (net.core.wmem_max {most})"
            ) from None
        reader.recv(self.spec.size)

    def remove(self) -> None:
        for pair in getattr(self, "pairs", []):
            for end in pair:
                end.close()

    def sender(self, channel: int) -> Send:
        return self._waiting(self.pairs[channel][0], socket.SO_SNDTIMEO, WAIT_S).send

    def receiver(self, channel: int, timeout: float) -> Receive:
        end = self._waiting(self.pairs[channel][1], socket.SO_RCVTIMEO, timeout)
        return partial(end.recv, self.spec.size)

    def poller(self, channel: int) -> Receive:
        return partial(self.pairs[channel][1].recv, self.spec.size, socket.MSG_DONTWAIT)

    def _waiting(self, end: socket.socket, option: int, timeout: float) -> socket.socket:
        """Sets the kernel's timeout; Python's own timeout costs a poll(2) for each call."""
        limit = struct.pack("ll", int(timeout), int(timeout % 1 * 1e6))
        end.setsockopt(socket.SOL_SOCKET, option, limit)
        return end
