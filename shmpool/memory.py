# SPDX-License-Identifier: Apache-2.0
"""What a process asks of the kernel for a pool's memory: mapped, locked, of huge pages, from a NUMA
node; and what this machine offers.

Not in here: the system calls (native/memory.h), and which memory exists (native/populate.h).
"""

from __future__ import annotations

import errno
import os
import resource

from . import errors
from ._ffi import Native, ffi, lib
from .choices import NumaNode
from .codes import check
from .geometry import HUGE_BYTES
from .options import INTERLEAVE
from .os_errors import refuse, refuse_readonly, size_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from .pool import Pool

SHMEM_ENABLED = "sys/kernel/mm/transparent_hugepage/shmem_enabled"
HUGETLB = "sys/kernel/mm/hugepages/hugepages-2048kB"
CAP_IPC_LOCK = 14
NODES = "sys/devices/system/node/has_memory"
LET_LOCK = (
    "ulimit -l unlimited; a service: LimitMEMLOCK=infinity; a container: docker run --ulimit "
    "memlock=-1"
)
LET_PLACE = "let seccomp allow mbind (docker run --cap-add SYS_NICE)"
COMPACT = "echo 1 > /proc/sys/vm/compact_memory, as root, joins what is free"
MAKES_NONE = (
    "the kernel makes none of shared memory: use Linux 6.1 or newer, and not deny in "
    f"/{SHMEM_ENABLED}"
)


def prepare(pool: Pool, populate: bool, lock: bool, core_dump: bool) -> None:
    """Does for a pool that this process has just opened what the options say.

    Raises:
        AccessDenied: the pool was opened read-only, and populate or lock is true.
        LimitReached: this process may not lock so much.
        OutOfSharedMemory: there is no memory for page tables, or none left to lock.
        SegmentInvalid: the file was truncated.
    """
    if populate or lock:
        refuse_readonly(pool)
    if core_dump:
        check(lib.shmpool_dump(pool._number), f"pool {pool.name!r}")
    if lock:
        code = lib.shmpool_lock(pool._number)
        if code:
            raise _not_locked(pool.name, pool._opened().size, code)
    if populate or lock:
        progress = ffi.new("uint64_t *")
        while code := lib.shmpool_populate_wait(pool._number, progress):
            if code < 0:
                refuse(pool, code)


def _not_locked(name: str, size: int, code: int) -> errors.ShmpoolError:
    """Returns the exception for a code of shmpool_lock()."""
    text = f"pool {name!r} cannot be locked"
    if code == -errno.ENOSYS:
        return errors.AccessDenied(
            f"{text}: use Linux 4.4 or newer, and a seccomp filter that allows mlock2(2)"
        )
    most = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if most == resource.RLIM_INFINITY:
        return errors.OutOfSharedMemory(f"{text}: no memory is left to lock {size_text(size)}")
    return errors.LimitReached(
        f"{text}: with all that it can grow to it has {size_text(size, up=True)}, RLIMIT_MEMLOCK "
        f"is {size_text(most)}: {LET_LOCK}; or lower capacity, and queues, of which each has 8 MiB"
    )


def place(segment_name: str, base: Native, size: int, node: NumaNode) -> None:
    """Takes the memory of a new pool from a NUMA node. Raises InvalidArgument, AccessDenied."""
    if node is None:
        return
    code = lib.shmpool_node(base, size, -1 if node == INTERLEAVE else int(node))
    if code == 0:
        return
    text = f"pool {segment_name!r}: numa_node is {node!r}"
    if code == -errno.EINVAL:
        from pathlib import Path  # slow to import

        allowed = ", ".join(map(str, nodes(Path("/")))) or "none"
        raise errors.InvalidArgument(
            f"{text}; this process may use the nodes {allowed} (Mems_allowed_list of "
            "/proc/self/status), or leave numa_node out"
        )
    if code == -errno.ENOSYS:
        raise errors.InvalidArgument(
            f"{text}; this kernel has no NUMA: leave it out, or {LET_PLACE}"
        )
    if code == -errno.EPERM:
        raise errors.AccessDenied(f"{text}; mbind(2) is not permitted: {LET_PLACE}")
    check(code, text)


def no_huge_pages(name: str, code: int) -> errors.ShmpoolError | None:
    """Returns the exception for a code of shmpool_create_wait() that is about huge pages."""
    text = f"pool {name!r}: huge_pages is 'always', and "
    if code == -errno.EOPNOTSUPP:
        return errors.InvalidArgument(f"{text}{MAKES_NONE}; or give 'auto'")
    if code == -errno.EAGAIN:
        return errors.OutOfSharedMemory(
            f"{text}no free memory is left in pieces of {size_text(HUGE_BYTES)}: {COMPACT}; or "
            "give 'auto'"
        )
    return None


# What the machine offers. root is / except in tests.


def nodes(root: Path) -> list[int]:
    """Returns the NUMA nodes with memory that this process may use; [0] without NUMA."""
    allowed = _listed(_line(root / "proc/self/status", "Mems_allowed_list:"))
    there = _listed(_text(root / NODES))
    return sorted(allowed & there if allowed and there else there or {0})


def huge_pages() -> str:
    """Returns why the kernel makes no huge page of shared memory now; "" if it does."""
    code = lib.shmpool_huge_pages()
    if code == -errno.EOPNOTSUPP:
        return MAKES_NONE
    if code == -errno.EAGAIN:
        return f"no free memory is left in such pieces: {COMPACT}"
    return os.strerror(-code) if code else ""


def chosen(root: Path) -> str:
    """Returns the mode of transparent huge pages for shared memory, "" if it is unknown."""
    _, _, rest = _text(root / SHMEM_ENABLED).partition("[")
    mode, closed, _ = rest.partition("]")
    return mode if closed else ""


def kept_huge_pages(root: Path) -> tuple[int, int]:
    """Returns how many huge pages hugetlbfs has free, and in all."""
    free, total = (_text(root / HUGETLB / f"{which}_hugepages") for which in ("free", "nr"))
    return int(free or 0), int(total or 0)


def lockable(root: Path) -> int | None:
    """Returns how many bytes this process may lock, None for no limit."""
    most = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    capable = int(_line(root / "proc/self/status", "CapEff:").strip() or "0", 16) >> CAP_IPC_LOCK
    return None if most == resource.RLIM_INFINITY or capable & 1 else most


def _listed(text: str) -> set[int]:
    """Returns the numbers of a list of the kernel: "0-2,5". Empty if it is none."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            found.update(range(int(first), int(last or first) + 1))
    return found


def _line(path: Path, first: str) -> str:
    lines = [line for line in _text(path).splitlines() if line.startswith(first)]
    return lines[0].removeprefix(first) if lines else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
