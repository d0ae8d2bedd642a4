# SPDX-License-Identifier: Apache-2.0
"""The interface to systemd: sd_notify(3) datagrams, the watchdog's period, socket activation.

Without systemd (no NOTIFY_SOCKET, no LISTEN_FDS) these functions do nothing.
"""

import os
import socket
import time
from collections.abc import Mapping

FIRST_FD = 3


def notify(*lines: str, environ: Mapping[str, str] = os.environ) -> None:
    """Sends lines as "READY=1" to the service manager. Never waits and never fails."""
    path = environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        try:
            sock.sendto("\n".join(lines).encode(), address)
        except OSError:
            return


def status(text: str) -> str:
    """The line for notify() that shows the text in `systemctl status`."""
    return "STATUS=" + " ".join(text.split())


def reloading() -> None:
    """Sends RELOADING=1 with the time stamp that Type=notify-reload needs."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_period(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between two WATCHDOG=1: half of systemd's limit. None without a watchdog."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    usec = environ.get("WATCHDOG_USEC", "")
    return int(usec) / 2e6 if usec.isdigit() and int(usec) > 0 else None


def listening_socket(environ: Mapping[str, str] = os.environ) -> socket.socket | None:
    """The listening socket that systemd passed to this process, or None."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = environ.get("LISTEN_FDS", "")
    if not count.isdigit() or int(count) < 1:
        return None
    sock = socket.socket(fileno=FIRST_FD)
    os.set_inheritable(FIRST_FD, False)
    sock.setblocking(False)
    return sock
