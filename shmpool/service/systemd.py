# SPDX-License-Identifier: Apache-2.0
"""The interface to systemd: sd_notify(3) datagrams, the watchdog's period, socket activation.

Without systemd (no NOTIFY_SOCKET, no LISTEN_FDS) these functions do nothing.
"""

import contextlib
import os
import re
import socket
import time
from collections.abc import Mapping

from .. import errors
from ..names import printable

FIRST_FD = 3
DIGITS_MAX = 15  # of a number: more microseconds are no watchdog
SHOWN = 80  # characters of a value in a message


def notify(*lines: str) -> None:
    """Sends lines as "READY=1" to the service manager. Never waits and never fails."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.setblocking(False)
        sock.sendto("\n".join(lines).encode(), address)


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
    usec = _number(environ.get("WATCHDOG_USEC", ""))
    return usec / 2e6 if usec else None


def listening_socket(environ: Mapping[str, str] = os.environ) -> socket.socket | None:
    """The listening Unix socket that systemd passed to this process, or None. InvalidArgument if
    it passed anything else: the daemon would never hear of a client."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    given = environ.get("LISTEN_FDS")
    if given is None:
        return None
    count = _number(given)
    if count is None or count > 1:
        raise _refused(given, "it must be 1")
    if count == 0:
        return None
    try:
        sock = socket.socket(fileno=FIRST_FD)
    except OSError as error:
        raise _refused(given, f"descriptor {FIRST_FD} is not a socket: {error.strerror}") from None
    if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        why = f"descriptor {FIRST_FD} is not a Unix stream socket"
    elif not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        why = f"descriptor {FIRST_FD} is a socket that does not listen"
    else:
        os.set_inheritable(FIRST_FD, False)
        sock.setblocking(False)
        return sock
    sock.close()
    raise _refused(given, why)


def _refused(given: str, why: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        f"LISTEN_FDS is {printable(given, SHOWN)!r}: {why}; the daemon takes one Unix socket from "
        "the service manager: set one ListenStream= in shmpool.socket, or unset LISTEN_FDS"
    )


def _number(text: str) -> int | None:
    """The number that systemd has written, or None. No other digits than ASCII's, and no more than
    int() converts."""
    return int(text) if re.fullmatch(f"[0-9]{{1,{DIGITS_MAX}}}", text) else None
