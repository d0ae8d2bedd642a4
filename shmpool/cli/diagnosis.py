# SPDX-License-Identifier: Apache-2.0
"""What on this machine keeps shmpool from working, or from working well, and what to do about it.

Each check asks the system itself. Nothing is changed, and nothing needs the daemon.
"""

import ctypes
import fcntl
import mmap
import os
import platform
import resource
import shlex
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .. import errors
from ..names import printable
from ..os_errors import SHM, shared_memory, size_text
from ..pool_files import PREFIX, pool_names, strange_names
from ..rpc import protocol
from ..rpc.client import Client
from ..view import View
from . import container

SMALL = 256 << 20  # bytes of /dev/shm; a container gets 64 MiB unless it is told otherwise
MEMBARRIER = {"x86_64": 324, "aarch64": 283, "riscv64": 283, "ppc64le": 365, "s390x": 356}
GLOBAL_EXPEDITED = 1 << 1
SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "pit")
DESCRIPTORS = 1024
SHOWN = 20  # names in one finding
CLOCK = "sys/devices/system/clocksource/clocksource0/current_clocksource"
ROOT = Path("/")
BIGGER = (
    f"mount -o remount,size=1g {SHM}; a container: docker run --shm-size=1g, "
    f"or in Kubernetes an emptyDir with medium: Memory at {SHM}"
)


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    subject: str
    state: Literal["ok", "note", "bad"]
    found: str
    advice: str = ""


def examine(socket: Path | None = None) -> list[Finding]:
    """Every check, in the order of what depends on what. Raises nothing."""
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        (SHM, _shared_memory),
        (f"permission to {SHM}", _permissions),
        ("limits", _limits),
        ("memory of the control group", _control_group),
        ("container", _container),
        ("logind", _logind),
        ("kernel", _kernel),
        ("clock source", _clock),
        ("pools", _segments),
        ("daemon", lambda: _daemon(socket)),
    )
    findings: list[Finding] = []
    for subject, check in checks:
        try:
            findings += check()
        except Exception as error:  # a machine that is stranger than the check knows
            findings.append(Finding(subject, "note", printable(f"cannot be examined: {error!r}")))
    return findings


def _shared_memory() -> Iterator[Finding]:
    if not os.path.isdir(SHM):
        make = f"mkdir -p {SHM} && mount -t tmpfs -o mode=1777,size=1g tmpfs {SHM}"
        yield Finding(SHM, "bad", "it does not exist", make)
        return
    kind = container.file_system(SHM, ROOT)
    if kind != "tmpfs":
        yield Finding(
            SHM,
            "bad" if kind else "note",
            f"it is on {kind}, not on tmpfs" if kind else "/proc/self/mounts cannot be read",
            f"mount -t tmpfs -o mode=1777,size=1g tmpfs {SHM}"
            if kind
            else "mount -t proc proc /proc",
        )
    total, free = shared_memory()
    small = total < SMALL
    yield Finding(
        f"size of {SHM}", "note" if small else "ok", size_text(total), BIGGER if small else ""
    )
    status = os.statvfs(SHM)
    little = free < total // 10 or (status.f_files and status.f_favail < status.f_files // 10)
    yield Finding(
        f"free in {SHM}",
        "note" if little else "ok",
        f"{size_text(free)}, {status.f_favail:,} files",
        f"shmpool ls shows who has it, shmpool prune and shmpool trim free some; or {BIGGER}"
        if little
        else "",
    )


def _permissions() -> Iterator[Finding]:
    try:
        mode = os.stat(SHM).st_mode & 0o7777
    except OSError:
        return  # there is none, which is said already
    if os.statvfs(SHM).f_flag & os.ST_RDONLY:
        yield Finding(
            f"permission to {SHM}", "bad", "it is mounted read-only", f"mount -o remount,rw {SHM}"
        )
        return
    good = os.access(SHM, os.R_OK | os.W_OK | os.X_OK)
    yield Finding(
        f"permission to {SHM}",
        "ok" if good else "bad",
        f"mode {mode:04o}, this is uid {os.geteuid()}",
        "" if good else f"chmod 1777 {SHM}",
    )


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 0 <= hard < DESCRIPTORS
    yield Finding(
        "open files",
        "note" if few else "ok",
        f"{soft:,} of {hard:,}",
        "as root: ulimit -n 4096; a service: LimitNOFILE=4096; a container: docker run "
        "--ulimit nofile=4096"
        if few
        else "",
    )
    for name, flag, limit in (
        ("file size", "f", resource.RLIMIT_FSIZE),
        ("addresses", "v", resource.RLIMIT_AS),
    ):
        most = resource.getrlimit(limit)[0]
        free = most == resource.RLIM_INFINITY
        yield Finding(
            f"limit of {name}",
            "ok" if free else "note",
            "none" if free else size_text(most),
            "" if free else f"ulimit -{flag} unlimited: a pool is a sparse file, mapped as a whole",
        )


def _control_group() -> Iterator[Finding]:
    limit = container.memory_limit(ROOT)
    total, _ = shared_memory()
    if limit is None:
        yield Finding("memory of the control group", "ok", "no limit")
        return
    less = limit.octets < total
    yield Finding(
        "memory of the control group",
        "note" if less else "ok",
        f"{size_text(limit.octets)} (cgroup v{limit.version}, {printable(limit.group)})",
        f"shared memory counts towards it: whoever fills pools beyond it is killed, as it is less "
        f"than {SHM}; a container: docker run --memory=SIZE; a service: MemoryMax=SIZE"
        if less
        else "",
    )


def _container() -> Iterator[Finding]:
    own = container.own_pid_namespace(ROOT)
    yield Finding(
        "PID namespace",
        "note" if own is None else "ok",
        {None: "/proc/self/ns cannot be read", False: "the machine's"}.get(own, "one of its own"),
        "shmpool works across them; the pids that it shows of other containers' members are those "
        "in their namespace. docker run --pid=host, or --pid=container:NAME, shares one"
        if own
        else "mount -t proc proc /proc"
        if own is None
        else "",
    )
    try:
        device = os.stat(SHM).st_dev
    except OSError:
        return
    yield Finding(
        f"device of {SHM}",
        "ok",
        f"{os.major(device)}:{os.minor(device)}",
        "containers share pools if this is the same in each: docker run --ipc=host, "
        "--ipc=container:NAME, or a shared volume"
        if own
        else "",
    )


def _logind() -> Iterator[Finding]:
    user = container.removed_at_logout(ROOT)
    if user is not None:
        yield Finding(
            "RemoveIPC of logind",
            "note",
            f"when the last session of {printable(user)} ends, systemd removes the user's pools",
            f"loginctl enable-linger {shlex.quote(printable(user))}; or RemoveIPC=no in "
            "/etc/systemd/logind.conf and systemctl restart systemd-logind",
        )


def _kernel() -> Iterator[Finding]:
    trouble = _record_locks()
    yield Finding(
        "open file description locks",
        "bad" if trouble else "ok",
        trouble or f"Linux {platform.release()}",
        "shmpool needs them to know who is alive: Linux 3.15 or newer, and a seccomp filter that "
        "lets fcntl(2) pass"
        if trouble
        else "",
    )
    number = MEMBARRIER.get(platform.machine())
    if number is not None:
        answer = ctypes.CDLL(None, use_errno=True).syscall(number, 0, 0, 0)
        good = answer > 0 and answer & GLOBAL_EXPEDITED
        yield Finding(
            "membarrier",
            "ok" if good else "note",
            "expedited" if good else "missing",
            ""
            if good
            else "Linux 4.16 or newer, and a seccomp filter that lets membarrier(2) pass: without "
            "it a pool that runs dry waits for other workers' next call",
        )
    wipe = hasattr(mmap, "MADV_WIPEONFORK") or _can_wipe_on_fork()
    yield Finding(
        "wipe on fork", "ok" if wipe else "bad", "present" if wipe else "missing", ""
        if wipe else "Linux 4.14 or newer",
    )  # fmt: skip


def _record_locks() -> str:
    """Why a lock of an open file description cannot be taken, if so."""
    try:
        fd = os.memfd_create("shmpool-doctor")
    except OSError as error:
        return f"memfd_create: {error.strerror}"
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 1, 0))
    except OSError as error:
        return f"F_OFD_SETLK: {error.strerror}"
    finally:
        os.close(fd)
    return ""


def _can_wipe_on_fork() -> bool:
    with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        try:
            page.madvise(18)
        except OSError:
            return False
    return True


def _clock() -> Iterator[Finding]:
    source = printable(container.text_of(ROOT / CLOCK).strip())
    if source:
        slow = source in SLOW_CLOCKS
        yield Finding(
            "clock source",
            "note" if slow else "ok",
            source,
            "reading it is a system call, so that waits with timeouts are slower; the kernel "
            "parameter clocksource=tsc, if the hardware has one"
            if slow
            else "",
        )


def _segments() -> Iterator[Finding]:
    if not os.path.isdir(SHM):
        return
    names = pool_names()
    for name in names:
        yield from _segment(name)
    strange = strange_names()
    for file in strange[:SHOWN]:
        yield Finding(
            printable(f"file {file}"),
            "note",
            "no pool can have that name",
            f"its owner or root: rm -r -- {SHM}/{_shell_word(file)}",
        )
    if len(strange) > SHOWN:
        more = len(strange) - SHOWN
        yield Finding("files that are no pools", "note", f"{more:,} more named {PREFIX}*")
    shown = ", ".join(names[:SHOWN])
    more_of_them = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    yield Finding("pools", "ok", f"{shown}{more_of_them}" or "none")


def _segment(name: str) -> Iterator[Finding]:
    """What is wrong with one pool, if something is."""
    total, _ = shared_memory()
    try:
        with View(name) as view:
            gone = {member.pid for member in view.dead_members()}
            most = view.geometry.capacity * view.geometry.buffer_size
    except errors.PoolNotFound:
        return  # it went away in between, or is being made
    except errors.AccessDenied as error:
        yield Finding(f"pool {name}", "note", printable(error))
    except (errors.ShmpoolError, OSError) as error:
        yield Finding(
            f"pool {name}",
            "bad",
            printable(error),
            f"shmpool prune, if it is abandoned; or its owner or root: rm -r {SHM}/{PREFIX}{name}",
        )
    else:
        if gone:
            pids = sorted(gone)
            shown = ", ".join(map(str, pids[:SHOWN])) + (", ..." if len(pids) > SHOWN else "")
            yield Finding(
                f"pool {name}",
                "note",
                f"members of dead processes: {shown}",
                f"shmpool recover {name}",
            )
        if most > total > 0:
            yield Finding(
                f"pool {name}",
                "note",
                f"it can grow to {size_text(most)}, but {SHM} has only {size_text(total)}",
                f"create it with a lower capacity; or {BIGGER}",
            )


def _shell_word(file: str) -> str:
    """A file's name, whatever its bytes, as bash and zsh take it."""
    quoted = shlex.quote(file)
    if quoted.isascii() and quoted.isprintable():
        return quoted
    raw = os.fsencode(file)
    safe = (chr(b) if 0x20 <= b < 0x7F and b not in b"\\'" else f"\\x{b:02x}" for b in raw)
    return f"$'{''.join(safe)}'"


def _daemon(socket: Path | None) -> Iterator[Finding]:
    path = socket or protocol.default_socket()
    try:
        with Client(path, timeout=2.0) as client:
            pong = client.ping()
    except (errors.ShmpoolError, OSError, ValueError) as error:
        advice = "shmpool daemon starts one; workers do not need it"
        yield Finding("daemon", "note", printable(error), advice)
    else:
        yield Finding("daemon", "ok", printable(f"process {pong.pid} at {path}"))
