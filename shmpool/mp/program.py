# SPDX-License-Identifier: Apache-2.0
"""The memory of a program's queues: nameless pools, each shared by many queues.

A nameless pool is in no directory. It reaches the program's processes by fork, or as an open file
while multiprocessing starts them, and the kernel frees it with the last of them, however that ends.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.context import get_spawning_popen
from typing import Any, TypeVar

from .. import errors
from ..choices import OnDeath
from ..locks import renewed
from ..pool import Pool
from ..process_exit import open_pools
from ..queue import AlfQueue
from ..segment import ANONYMOUS

T = TypeVar("T")
KIB, MIB = 2**10, 2**20
HEAD = 4 * KIB  # room for an object's pickle beside an array of a power of two
# Size classes: bytes, the most buffers, and free buffers that a thread caches.
SIZES = (
    (256, 1 << 20, 128),
    (2 * KIB, 1 << 16, 64),
    (16 * KIB + HEAD, 1 << 14, 16),
    (128 * KIB + HEAD, 1 << 13, 0),
    (MIB + HEAD, 1 << 11, 0),
    (8 * MIB + HEAD, 1 << 8, 0),
    (64 * MIB + HEAD, 1 << 5, 0),
    (512 * MIB + HEAD, 1 << 2, 0),
)
SHARE = 16  # the buffers of one class take at most this part of the machine's memory
MEMBERS = 1024  # threads
QUEUES = 1000

# A signal handler may make a queue while its thread makes one.
_lock = renewed(sys.modules[__name__], "_lock", threading.RLock)
_current: Pool | None = None
_idle: dict[tuple[int, OnDeath], list[AlfQueue]] = {}  # queues to use again
_forks = 0  # of this process


def new_queue(capacity: int, on_death: OnDeath) -> AlfQueue:
    """Makes a queue in the program's memory.

    Raises:
        OutOfSharedMemory, LimitReached: there is no memory, or no descriptor, for it.
    """
    with contextlib.suppress(KeyError, IndexError):
        return _idle[capacity, on_death].pop()
    name = new_name()
    options: dict[str, Any] = {"capacity": capacity, "on_death": on_death, "memory": "on-demand"}
    return in_memory(lambda pool: pool.create_queue(name, **options))


def in_memory(make: Callable[[Pool], T]) -> T:
    """Returns make(pool), which creates queues in the program's memory.

    Raises:
        OutOfSharedMemory, LimitReached: there is no memory, or no descriptor, for it.
    """
    global _current
    with _lock:
        if _current is None:
            _current = next(filter(_of_program, open_pools()), None) or new_pool()
        with contextlib.suppress(errors.LimitReached):
            return make(_current)
        _current = new_pool()  # the old one goes with its last queue
        _idle.clear()
        return make(_current)


def new_name() -> str:
    """Returns a name that no other queue of the machine has."""
    return os.urandom(8).hex()


def _of_program(pool: Pool) -> bool:
    """True for a pool that the parent process passed, which its children use too."""
    return pool.name == ANONYMOUS and pool.geometry.queues == QUEUES and not pool.replaced


def new_pool() -> Pool:
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // SHARE
    sizes = [(size, n, cached) for size, n, cached in SIZES if 2 * size <= most]
    return Pool.create(
        None,
        buffer_size=[size for size, _, _ in sizes],
        capacity=[min(n, 1 << (most // size).bit_length() - 1) for size, n, _ in sizes],
        cache_size=[cached for _, _, cached in sizes],
        bulk=16,
        members=MEMBERS,
        queues=QUEUES,
    )


def reference(queue: AlfQueue) -> Any:
    """Returns what a queue pickles to: for a process that is being started the queue with its pool,
    else a name, for processes that have its pool."""
    if queue.pool.name != ANONYMOUS or get_spawning_popen() is not None:
        return queue
    status = queue.pool._opened().status
    return status.st_dev, status.st_ino, queue.name


def referred(to: Any) -> AlfQueue:
    """Returns the queue that a reference stands for.

    Raises:
        RuntimeError: this process does not have its memory.
    """
    if isinstance(to, AlfQueue):
        return to
    for pool in open_pools():
        segment = pool._segment
        if segment is not None and (segment.status.st_dev, segment.status.st_ino) == to[:2]:
            with contextlib.suppress(errors.QueueNotFound):
                return pool.queue(to[2])
    raise RuntimeError(
        "a Queue came to a process that does not have its memory: give it, or another Queue of the "
        "program, to the process when it is started (Process(args=...), or a pool's initializer)"
    )


def forks() -> int:
    """Returns how often this process has forked: a child may use the queues that exist then."""
    return _forks


def recycle(queue: AlfQueue, on_death: OnDeath) -> None:
    """Keeps a queue that no other process has ever known for the next one of its capacity.

    Raises:
        PoolClosed: its pool is closed.
    """
    if not queue.ended:
        queue._drop_descriptor()
        queue.drain()
        if queue.pool is _current:  # an older pool goes with its last queue
            _idle.setdefault((queue.capacity, on_death), []).append(queue)


def _before_fork() -> None:
    global _forks
    _forks += 1


def _in_child() -> None:
    _idle.clear()  # the parent has them


os.register_at_fork(before=_before_fork, after_in_child=_in_child)
