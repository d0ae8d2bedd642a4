# SPDX-License-Identifier: Apache-2.0
"""Checks this machine for what keeps shmpool from working or makes it slow, and what to do.

The checks ask the kernel and change nothing. They do not need the daemon. A kernel that refuses
MADV_WIPEONFORK is not found here: with it shmpool cannot be imported.
"""

import contextlib
import fcntl
import os
import platform
import resource
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .. import errors, memory
from .._hot import forks_by_kernel, has_membarrier
from ..names import printable
from ..os_errors import (
    MAKE_SHM,
    MOUNT_SHM,
    OPEN_SHM,
    SHM,
    WRITABLE_SHM,
    shared_memory,
    size_text,
)
from ..pool_files import PREFIX, path_of, pool_names, record_lock, strange_names
from ..rpc import protocol
from ..rpc.client import Client
from ..service.alarms import held_up_by
from ..view import View
from . import container

SMALL = 256 << 20  # bytes; the /dev/shm of a container has 64 MiB by default
SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "pit")
DESCRIPTORS = 1024
SHOWN_MAX = 20  # names in one finding
CLOCK = "sys/devices/system/clocksource/clocksource0/current_clocksource"
ROOT = Path("/")
ENLARGE = (
    f"mount -o remount,size=1g {SHM}; a container: docker run --shm-size=1g, "
    f"or in Kubernetes an emptyDir with medium: Memory at {SHM}"
)
LET_GO = "let it go on, or end its process; another policy than block holds nobody up"
MOUNT_PROC = "mount -t proc proc /proc"

State = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    subject: str
    state: State
    found: str
    advice: str = ""  # what to do


def examine(socket: Path | None = None) -> list[Finding]:
    """Makes every check, a cause before its consequences. Raises nothing. socket is the path of the
    daemon's socket, or None for the default path."""
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        (SHM, _shared_memory),
        (f"permission to {SHM}", _permissions),
        ("limits", _limits),
        ("memory of the control group", _control_group),
        ("huge pages", _huge_pages),
        ("limit of locked memory", _locked_memory),
        ("NUMA nodes", _nodes),
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
        except Exception as error:  # the check does not know such a machine
            findings.append(Finding(subject, "note", printable(f"cannot be examined: {error!r}")))
    return findings


def _judged(subject: str, good: bool, found: str, advice: str, bad: State = "note") -> Finding:
    """The finding of a check that is either good, or needs the advice."""
    return Finding(subject, "ok", found) if good else Finding(subject, bad, found, advice)


def _shared_memory() -> Iterator[Finding]:
    if not os.path.isdir(SHM):
        yield Finding(SHM, "bad", "it does not exist", MAKE_SHM)
        return
    kind = container.file_system(SHM, ROOT)
    if not kind:
        yield Finding(SHM, "note", "/proc/self/mounts cannot be read", MOUNT_PROC)
    elif kind != "tmpfs":
        yield Finding(SHM, "bad", f"it is on {kind}, not on tmpfs", MOUNT_SHM)
    total, free = shared_memory()
    yield _judged(f"size of {SHM}", total >= SMALL, size_text(total), ENLARGE)
    status = os.statvfs(SHM)
    little = free < total // 10 or (status.f_files and status.f_favail < status.f_files // 10)
    yield _judged(
        f"free in {SHM}",
        not little,
        f"{size_text(free)}, {status.f_favail:,} files",
        f"shmpool ls shows what uses it, shmpool prune and shmpool trim free some; or {ENLARGE}",
    )


def _permissions() -> Iterator[Finding]:
    subject = f"permission to {SHM}"
    try:
        mode = os.stat(SHM).st_mode & 0o7777
    except OSError:
        return  # _shared_memory() has reported it
    if os.statvfs(SHM).f_flag & os.ST_RDONLY:
        yield Finding(subject, "bad", "it is mounted read-only", WRITABLE_SHM)
        return
    good = os.access(SHM, os.R_OK | os.W_OK | os.X_OK)
    yield _judged(subject, good, f"mode {mode:04o}, this is uid {os.geteuid()}", OPEN_SHM, "bad")


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield _judged(
        "open files",
        hard == resource.RLIM_INFINITY or hard >= DESCRIPTORS,
        f"{soft:,} of {hard:,}",
        "as root: ulimit -n 4096; a service: LimitNOFILE=4096; a container: docker run "
        "--ulimit nofile=4096",
    )
    for name, flag, limit in (
        ("file size", "f", resource.RLIMIT_FSIZE),
        ("addresses", "v", resource.RLIMIT_AS),
    ):
        most = resource.getrlimit(limit)[0]
        free = most == resource.RLIM_INFINITY
        yield _judged(
            f"limit of {name}",
            free,
            "none" if free else size_text(most),
            f"ulimit -{flag} unlimited: a pool is a sparse file, mapped as a whole",
        )


def _control_group() -> Iterator[Finding]:
    subject = "memory of the control group"
    limit = container.memory_limit(ROOT)
    total, _ = shared_memory()
    if limit is None:
        yield Finding(subject, "ok", "no limit")
        return
    yield _judged(
        subject,
        limit.octets >= total,
        f"{size_text(limit.octets)} (cgroup v{limit.version}, {printable(limit.group)})",
        f"pools count towards it, and it is less than {SHM}: a process that fills pools beyond "
        "it is killed; a container: docker run --memory=SIZE; a service: MemoryMax=SIZE",
    )


def _huge_pages() -> Iterator[Finding]:
    trouble = memory.huge_pages()
    mode = memory.chosen(ROOT)
    free, total = memory.kept_huge_pages(ROOT)
    found = f"{'not made' if trouble else 'made on request'} (shmem_enabled {mode or 'unknown'})"
    brings = (
        'with huge_pages="auto" a pool is made in a quarter of the time, and no process pays for '
        "its first use"
    )
    if trouble:
        brings = f"{trouble}: {brings}; populate=True makes a process pay at once, at its start"
    yield Finding("huge pages", "note" if trouble else "ok", found, brings)
    if total:
        yield Finding(
            "pages of hugetlbfs",
            "note",
            f"{free:,} free of {total:,}",
            "shmpool does not use them, and no pool can have their memory: echo 0 > "
            "/proc/sys/vm/nr_hugepages, as root, if nothing else needs them",
        )


def _locked_memory() -> Iterator[Finding]:
    most = memory.lockable(ROOT)
    shown = "none" if most is None else size_text(most)
    larger = f"for lock=True of larger pools: {memory.LET_LOCK}"
    yield Finding("limit of locked memory", "ok", shown, "" if most is None else larger)


def _nodes() -> Iterator[Finding]:
    found = memory.nodes(ROOT)
    near = (
        "numa_node= takes a pool's memory from the node where its workers run, "
        'numa_node="interleave" from all by turns'
    )
    shown = ", ".join(map(str, found))
    yield Finding("NUMA nodes", "ok", shown, near if len(found) > 1 else "")


def _container() -> Iterator[Finding]:
    own = container.own_pid_namespace(ROOT)
    pids = (
        "shmpool works across PID namespaces; a member of another container is shown with the "
        "pid that it has there. docker run --pid=host, or --pid=container:NAME, shares one"
    )
    devices = (
        "containers share pools if this device is the same in each: docker run --ipc=host, "
        "--ipc=container:NAME, or a shared volume"
    )
    if own is None:
        yield Finding("PID namespace", "note", "/proc/self/ns cannot be read", MOUNT_PROC)
    elif own:
        yield Finding("PID namespace", "ok", "not the host's", pids)
    else:
        yield Finding("PID namespace", "ok", "the host's")
    with contextlib.suppress(OSError):
        device = os.stat(SHM).st_dev
        shown = f"{os.major(device)}:{os.minor(device)}"
        yield Finding(f"device of {SHM}", "ok", shown, devices if own else "")


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
    yield _judged(
        "open file description locks",
        not trouble,
        trouble or f"Linux {platform.release()}",
        "shmpool detects dead processes by them: use Linux 3.15 or newer, and a seccomp filter "
        "that allows fcntl(2)",
        "bad",
    )
    good = has_membarrier()
    yield _judged(
        "membarrier",
        good,
        "expedited" if good else "missing",
        "use Linux 4.16 or newer, and a seccomp filter that allows membarrier(2): without it, "
        "an empty pool gets the buffers in other members' caches at their next call only",
    )

    if not forks_by_kernel():
        yield Finding(
            "madvise",
            "note",
            "every advice is accepted, as qemu-user does, and may be ignored",
            "fork by os.fork, multiprocessing or the C library's fork(): a child that was made "
            "by a bare system call would take itself for its parent",
        )


def _record_locks() -> str:
    """Why an open file description lock cannot be taken, or "" if it can."""
    try:
        fd = os.memfd_create("shmpool-doctor")
    except OSError as error:
        return f"memfd_create: {error.strerror}"
    try:
        record_lock(fd, fcntl.F_WRLCK, 0, 1)
    except OSError as error:
        return f"F_OFD_SETLK: {error.strerror}"
    finally:
        os.close(fd)
    return ""


def _clock() -> Iterator[Finding]:
    source = printable(container.text_of(ROOT / CLOCK).strip())
    if source:
        yield _judged(
            "clock source",
            source not in SLOW_CLOCKS,
            source,
            "reading it takes a system call, which slows waits with timeouts; use the kernel "
            "parameter clocksource=tsc if the hardware has one",
        )


def _segments() -> Iterator[Finding]:
    if not os.path.isdir(SHM):
        return
    names = pool_names()
    for name in names:
        yield from _segment(name)
    strange = strange_names()
    for file in strange[:SHOWN_MAX]:
        yield Finding(
            printable(f"file {file}"),
            "note",
            "no pool can have that name",
            f"its owner or root: rm -r -- {SHM}/{_shell_word(file)}",
        )
    if len(strange) > SHOWN_MAX:
        more = len(strange) - SHOWN_MAX
        yield Finding("files that are not pools", "note", f"{more:,} more named {PREFIX}*")
    shown = ", ".join(names[:SHOWN_MAX])
    more_of_them = f" and {len(names) - SHOWN_MAX:,} more" if len(names) > SHOWN_MAX else ""
    yield Finding("pools", "ok", f"{shown}{more_of_them}" or "none")


def _segment(name: str) -> Iterator[Finding]:
    subject, (total, _) = f"pool {name}", shared_memory()
    try:
        with View(name) as view:
            topics = view.topics()
            gone = {member.pid for member in view.dead_members()}
            gone |= {one.pid for topic in topics for one in topic.subscribers if one.dead}
            most = sum(one.capacity * one.buffer_size for one in view.geometry.sizes)
    except errors.PoolNotFound:
        return  # it was removed since it was listed, or is being created
    except errors.AccessDenied as error:
        yield Finding(subject, "note", printable(error))
    except (errors.ShmpoolError, OSError) as error:
        advice = f"shmpool prune, if it is abandoned; or its owner or root: rm -r {path_of(name)}"
        yield Finding(subject, "bad", printable(error), advice)
    else:
        if gone:
            shown = ", ".join(map(str, sorted(gone)[:SHOWN_MAX]))
            more = ", ..." * (len(gone) > SHOWN_MAX)
            found = f"members and subscribers of dead processes: {shown}{more}"
            yield Finding(subject, "note", found, f"shmpool recover {name}")
        for topic in topics:
            if who := held_up_by(topic):
                yield Finding(subject, "note", f"topic {topic.name}: {who}", LET_GO)
        if most > total > 0:
            found = f"it can grow to {size_text(most)}, but {SHM} has only {size_text(total)}"
            yield Finding(subject, "note", found, f"create it with a lower capacity; or {ENLARGE}")


def _shell_word(file: str) -> str:
    """A file's name, whatever its bytes, quoted for bash and zsh."""
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
