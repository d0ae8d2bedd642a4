# SPDX-License-Identifier: Apache-2.0
"""Locks of Python's: a forked child never waits for one that a thread of its parent had."""

import ast
import multiprocessing
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE_S

import shmpool
from shmpool import locks

PACKAGE = Path(shmpool.__file__).parent
# What has a lock, of threading and queue; functools.cached_property has one before Python 3.12.
KINDS = {
    "Barrier", "BoundedSemaphore", "Condition", "Event", "LifoQueue", "Lock", "PriorityQueue",
    "RLock", "Semaphore", "SimpleQueue", "cached_property", "allocate_lock",
}  # fmt: skip
MODULES = {"_thread", "functools", "queue", "threading"}


def made_otherwise(text: str) -> Iterator[int]:
    """Yields the lines on which a lock is made, or named, except as an argument of renewed()."""
    tree = ast.parse(text)
    allowed: set[ast.AST] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="renewed")):
                allowed.update(node.args)
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=module, names=names) if module in MODULES:
                if KINDS & {alias.name for alias in names}:
                    yield node.lineno
            case ast.Attribute(value=ast.Name(id=module), attr=attr) if module in MODULES:
                if attr in KINDS and node not in allowed:
                    yield node.lineno


def test_no_lock_is_made_otherwise() -> None:
    """Every lock of the package is made by renewed(); the daemon does not fork."""
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in PACKAGE.rglob("*.py")
        if not {"service", "bench"} & set(path.relative_to(PACKAGE).parts)
        for line in made_otherwise(path.read_text())
    ]
    assert [] == found
    assert [1, 2] == list(made_otherwise("from queue import SimpleQueue\nx = threading.Lock()"))
    assert [] == list(made_otherwise('x = renewed(self, "x", threading.Lock)'))


def of_all_owners() -> dict[str, Any]:
    """Returns the locks that exist, by what they are called."""
    return {
        f"{type(owner).__name__} {getattr(owner, '__name__', '')}.{name}": getattr(owner, name)
        for known, names in list(locks._known.items())
        if (owner := known()) is not None
        for name in names
    }


def is_free(lock: Any) -> bool:
    """Whether the lock, or that of an Event, can be taken."""
    lock = getattr(lock, "_cond", lock)
    return bool(lock.acquire(blocking=False))


def test_a_child_finds_every_lock_free(pool: shmpool.Pool) -> None:
    """One thread has all locks while another one forks: the child can take each, and the parent's
    executor tells it that it is the parent's."""
    context = multiprocessing.get_context("fork")
    with shmpool.ProcessPoolExecutor(1, context, pool=pool) as executor:
        executor.submit(abs, 1).result()
        held, forked = threading.Event(), threading.Event()
        found = of_all_owners()
        assert {"module shmpool.free_after._awake", "module shmpool.mp.program._lock"} < set(found)
        assert any(name.startswith("Backlog") for name in found)

        def hold() -> None:
            for lock in found.values():
                getattr(lock, "_cond", lock).acquire()
            held.set()
            assert forked.wait(DEADLINE_S)
            for lock in found.values():
                getattr(lock, "_cond", lock).release()

        def look(to: Any) -> None:
            with pytest.raises(RuntimeError, match="that of the parent process"):
                executor.submit(abs, 1)
            to.send([name for name, lock in of_all_owners().items() if not is_free(lock)])

        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(DEADLINE_S)
        ours, theirs = context.Pipe()
        child = context.Process(target=look, args=(theirs,))
        child.start()
        forked.set()
        holder.join()
        try:
            assert ours.poll(DEADLINE_S)
            assert [] == ours.recv()
        finally:
            child.kill()
            child.join()
            ours.close()
            theirs.close()


class Owner:
    def __init__(self) -> None:
        self.lock = locks.renewed(self, "lock", threading.RLock)


def test_a_fork_by_the_thread_that_has_the_lock() -> None:
    """The child goes on with the old one, and then has the new one."""
    owner = Owner()
    with owner.lock:
        had = owner.lock
        pid = os.fork()
    if not pid:
        os._exit(0 if had is not owner.lock and is_free(owner.lock) else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert had is owner.lock


def test_an_owner_that_is_gone() -> None:
    """Nothing is remembered of it."""
    owner = Owner()
    assert {"lock": threading.RLock} == locks._known[weakref.ref(owner)]
    del owner
    assert None not in [known() for known in locks._known]
