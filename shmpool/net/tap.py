# SPDX-License-Identifier: Apache-2.0
"""TAP and TUN devices: this process is the other end of a network interface."""

import errno
import fcntl
import os
import struct
from typing import Literal

from .. import errors
from .._hot import Receiver, Sender
from ..burst import Burst
from ..pool import Pool
from .ends import TwoWay
from .interface import raise_unless_sent

TUNSETIFF = 0x400454CA
MODES = {"tun": 1, "tap": 2}
NO_PI = 0x1000  # no header before each packet
FILE = 1  # flag of Receiver and Sender
NAME_MAX = 15


def _not_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


class TapDevice(TwoWay):
    """A network interface that this process makes: what the system sends there is a source, and
    what is drained the system receives.

    mode: "tap" for packets from Ethernet on, "tun" for IP packets. name: "" lets the kernel choose;
    the attribute name has it then. The interface exists until it is closed, and is down at first:
    `ip link set NAME up`. Needs root or CAP_NET_ADMIN.
    """

    def __init__(self, pool: Pool, name: str = "", *, mode: Literal["tap", "tun"] = "tap") -> None:
        if mode not in MODES:
            raise errors.InvalidArgument(f'mode is {mode!r}; it must be "tap" or "tun"')
        if len(name.encode()) > NAME_MAX or "\0" in name:
            raise errors.InvalidArgument(f"name is {name!r}; at most {NAME_MAX} bytes")
        self.pool = pool
        with open("/dev/net/tun", "r+b", buffering=0, opener=_not_blocking) as file:
            request = struct.pack("16sH22x", name.encode(), MODES[mode] | NO_PI)
            try:
                made = fcntl.ioctl(file, TUNSETIFF, request)
            except PermissionError:
                raise errors.AccessDenied(
                    "a TAP device needs root or the capability CAP_NET_ADMIN"
                ) from None
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                raise errors.InvalidArgument(
                    f"name is {name!r}; another process has that device"
                ) from None
            self.name = made[:16].rstrip(b"\0").decode()
            # Each duplicates it.
            self._sender = Sender(pool, file.fileno(), FILE)
            self._receiver = Receiver(pool, file.fileno(), FILE, pool.buffer_size)

    def __str__(self) -> str:
        return f"device {self.name}"

    def _fill(self, burst: Burst, timeout: float | None) -> int:
        return self._receiver.fill(burst, timeout, None)

    def drain(self, burst: Burst, timeout: float | None = None) -> int:
        """Gives every packet to the system and frees the burst. Raises as PacketSink.drain()."""
        return raise_unless_sent(self, self._sender.drain(burst, timeout, None))
