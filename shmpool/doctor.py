# SPDX-License-Identifier: Apache-2.0
"""What on this machine keeps shmpool from working, or from working well, and what to do about it.

Each check asks the system itself. Nothing is changed, and nothing needs the daemon.
"""

import ctypes
import mmap
import os
import platform
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import errors, protocol
from .client import Client
from .files import PREFIX, SHM, pool_names
from .view import View, survive_truncation

SMALL = 256 << 20  # bytes of /dev/shm, of which a container gets 64 MiB unless it is told otherwise
MEMBARRIER = {"x86_64": 324, "aarch64": 283, "riscv64": 283, "ppc64le": 365, "s390x": 356}
GLOBAL_EXPEDITED = 1 << 1
SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "pit")
DESCRIPTORS = 1024
CLOCK = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    state: Literal["ok", "note", "bad"]
    found: str
    advice: str = ""


def examine(socket: Path | None = None) -> list[Finding]:
    """Every check, in the order of what depends on what."""
    survive_truncation()
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _shared_memory, _permissions, _limits, _kernel, _clock, _segments,
    )  # fmt: skip
    findings = [finding for check in checks for finding in check()]
    return [*findings, *_daemon(socket or protocol.default_socket())]


def mib(octets: int) -> str:
    return f"{octets / 2**20:,.0f} MiB"


def _shared_memory() -> Iterator[Finding]:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    kind = next((mount[2] for mount in reversed(mounts) if mount[1] == SHM), None)
    if kind != "tmpfs":
        yield Finding(SHM, "bad", f"it is {kind or 'not mounted'}", f"mount -t tmpfs tmpfs {SHM}")
        return
    room = os.statvfs(SHM)
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    grow = f"mount -o remount,size=8G {SHM}; in a container: --shm-size=8g"
    small = total < SMALL
    yield Finding(f"size of {SHM}", "bad" if small else "ok", mib(total), grow if small else "")
    little = free < total // 10
    yield Finding(
        f"free in {SHM}",
        "note" if little else "ok",
        f"{mib(free)}, {room.f_ffree:,} files",
        f"shmpool ls, shmpool trim, shmpool prune; or {grow}" if little else "",
    )


def _permissions() -> Iterator[Finding]:
    good = os.access(SHM, os.R_OK | os.W_OK | os.X_OK)
    yield Finding(
        f"permission to {SHM}",
        "ok" if good else "bad",
        f"mode {os.stat(SHM).st_mode & 0o7777:04o}, this is user {os.geteuid()}",
        "" if good else f"chmod 1777 {SHM}",
    )


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Finding(
        "open files",
        "ok" if hard >= DESCRIPTORS else "note",
        f"{soft:,} of {hard:,}",
        "" if hard >= DESCRIPTORS else "ulimit -n 4096: the daemon needs one for each process",
    )
    for name, limit in (("file size", resource.RLIMIT_FSIZE), ("addresses", resource.RLIMIT_AS)):
        most = resource.getrlimit(limit)[0]
        free = most == resource.RLIM_INFINITY
        flag = "f" if limit == resource.RLIMIT_FSIZE else "v"
        yield Finding(
            f"limit of {name}",
            "ok" if free else "note",
            "none" if free else mib(most),
            "" if free else f"ulimit -{flag} unlimited: a pool is a sparse file, mapped as a whole",
        )
    if CGROUP_LIMIT.exists() and (text := CGROUP_LIMIT.read_text().strip()) != "max":
        total = os.statvfs(SHM)
        less = int(text) < total.f_blocks * total.f_frsize
        yield Finding(
            "memory of the control group",
            "note" if less else "ok",
            mib(int(text)),
            f"pools count towards it, and it is less than {SHM}" if less else "",
        )


def _kernel() -> Iterator[Finding]:
    try:
        os.close(os.pidfd_open(os.getpid()))
        yield Finding("pidfd_open", "ok", f"Linux {platform.release()}")
    except OSError as error:
        yield Finding("pidfd_open", "bad", str(error), "Linux 5.3 or newer")
    number = MEMBARRIER.get(platform.machine())
    if number is not None:
        answer = ctypes.CDLL(None, use_errno=True).syscall(number, 0, 0, 0)
        good = answer > 0 and answer & GLOBAL_EXPEDITED
        yield Finding(
            "membarrier",
            "ok" if good else "note",
            "expedited" if good else "missing",
            "" if good else "without it a pool that runs dry waits for other workers' next call",
        )
    wipe = hasattr(mmap, "MADV_WIPEONFORK") or _can_wipe_on_fork()
    yield Finding(
        "wipe on fork", "ok" if wipe else "bad", "there" if wipe else "missing", ""
        if wipe else "Linux 4.14 or newer",
    )  # fmt: skip


def _can_wipe_on_fork() -> bool:
    with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        try:
            page.madvise(18)
        except OSError:
            return False
    return True


def _clock() -> Iterator[Finding]:
    try:
        source = CLOCK.read_text().strip()
    except OSError:
        return
    slow = source in SLOW_CLOCKS
    yield Finding(
        "clock source",
        "note" if slow else "ok",
        source,
        "reading it is a system call: waits with timeouts get slower" if slow else "",
    )


def _segments() -> Iterator[Finding]:
    names = pool_names()
    for name in names:
        finding = _segment(name)
        if finding is not None:
            yield finding
    yield Finding("pools", "ok", ", ".join(names) or "none")


def _segment(name: str) -> Finding | None:
    """What is wrong with one pool, if something is."""
    try:
        with View(name) as view:
            gone = {member.pid for member in view.dead_members()}
    except errors.AccessDenied as error:
        return Finding(f"pool {name}", "note", str(error))
    except (errors.ShmpoolError, OSError) as error:
        return Finding(
            f"pool {name}", "bad", str(error), f"shmpool prune; or rm {SHM}/{PREFIX}{name}"
        )
    if gone:
        pids = ", ".join(map(str, sorted(gone)))
        return Finding(
            f"pool {name}", "note", f"members of dead processes: {pids}", f"shmpool recover {name}"
        )
    return None


def _daemon(socket: Path) -> list[Finding]:
    try:
        with Client(socket, timeout=2.0) as client:
            pong = client.ping()
    except errors.DaemonUnavailable as error:
        return [Finding("daemon", "note", str(error), "shmpool daemon; workers do not need it")]
    return [Finding("daemon", "ok", f"process {pong.pid} at {socket}")]
