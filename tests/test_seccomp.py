# SPDX-License-Identifier: Apache-2.0
"""Processes under a seccomp filter that refuses system calls, as containers and services have.

Everything works, or an exception says what is missing.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import DEADLINE_S, Child, MakePool

import shmpool

Start = Callable[..., Child]

# Of x86-64 and aarch64.
NUMBERS = {
    "x86_64": {
        "pidfd_open": 434, "membarrier": 324, "process_madvise": 440, "fcntl": 72, "fallocate": 285,
        "madvise": 28, "link": 265, "mbind": 237, "mlock2": 325,
    },
    "aarch64": {
        "pidfd_open": 434, "membarrier": 283, "process_madvise": 440, "fcntl": 25, "fallocate": 47,
        "madvise": 233, "link": 37, "mbind": 235, "mlock2": 284,
    },
}  # fmt: skip
pytestmark = pytest.mark.skipif(
    os.uname().machine not in NUMBERS, reason="its system call numbers are not listed here"
)

# refuse(errno, number, ..., second=value): from now on those calls fail; if a value is given, only
# with that as their second argument, or third.
FILTER = """
import ctypes, errno, os, signal, struct, sys
import shmpool

def refuse(number, *calls, second=None, third=None):
    load, equal, end, allow, deny = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050000 | number
    code = [(load, 0, 0, 0)]
    for i, call in enumerate(calls):
        code.append((equal, len(calls) - i, 0, call))
    code += [(end, 0, 0, allow)]
    for at, value in ((24, second), (32, third)):
        if value is not None:
            code += [(load, 0, 0, at), (equal, 1, 0, value), (end, 0, 0, allow)]
    code += [(end, 0, 0, deny)]
    text = b"".join(struct.pack("HBBI", *line) for line in code)
    raw = ctypes.create_string_buffer(text)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(raw)))
    libc, zero = ctypes.CDLL(None, use_errno=True), ctypes.c_ulong(0)
    no_new_privileges, set_seccomp, by_filter = 38, 22, ctypes.c_ulong(2)
    assert libc.prctl(no_new_privileges, ctypes.c_ulong(1), zero, zero, zero) == 0
    if libc.prctl(set_seccomp, by_filter, program, zero, zero):
        print("no seccomp", flush=True)
        os._exit(0)

"""


def numbers(*names: str) -> str:
    return ", ".join(str(NUMBERS[os.uname().machine][name]) for name in names)


def skip_without(line: str) -> str:
    if line == "no seccomp":
        pytest.skip("the kernel has no seccomp filters")
    return line


def lines_of(child: Child) -> list[str]:
    """The output of the process, after it has ended."""
    lines = child.end().splitlines()
    skip_without(lines[0])
    return lines


@pytest.mark.parametrize("number", ["EPERM", "ENOSYS"])
def test_recovery_goes_on(make_pool: MakePool, start: Start, number: str) -> None:
    """Without pidfd_open, membarrier and process_madvise recovery works.

    The process recovers others and steals from their caches. It counts as live, and is recovered
    after its death.
    """
    pool = make_pool(capacity=256, prealloc=256)
    holder = start(
        """
        import sys, shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        held = pool.alloc_many(7)
        print(flush=True)
        sys.stdin.readline()
        """,
        pool.name,
    )
    holder.line()
    child = start(
        f"""{FILTER}
refuse(errno.{number}, {numbers("pidfd_open", "membarrier", "process_madvise")})
pool = shmpool.Pool.attach(sys.argv[1])
print(pool.recover().members, flush=True)
sys.stdin.readline()
print(pool.recover().members, flush=True)
print(len(pool.alloc_many(256)), pool.audit().ok, flush=True)
sys.stdin.readline()
""",
        pool.name,
    )
    assert "0" == skip_without(child.line())
    holder.kill()
    child.send()
    assert "1" == child.line()
    assert "256 True" == child.line()
    assert 0 == pool.recover().members
    child.kill()
    assert 1 == pool.recover().members
    assert 256 == len(pool.alloc_many(256))


@pytest.mark.parametrize("number", ["EPERM", "EINVAL"])
def test_no_such_locks(pool: shmpool.Pool, pool_name: str, start: Start, number: str) -> None:
    """If a process cannot take a token, create and attach are refused with the reason.

    It may read. Nothing is left.
    """
    pool.alloc().free()
    set_lock = 37
    child = start(
        f"""{FILTER}
refuse(errno.{number}, {numbers("fcntl")}, second={set_lock})
for call in (lambda: shmpool.Pool.attach(sys.argv[1]),
             lambda: shmpool.Pool.create(sys.argv[2], buffer_size=64, capacity=64)):
    try:
        call()
    except shmpool.SegmentInvalid as error:
        print("open file description locks" in str(error), "seccomp" in str(error), flush=True)
from shmpool.view import View
with View(sys.argv[1]) as view:
    print(view.dead(), len(view.members()))
print(sys.argv[2] in shmpool.pool_names())
""",
        pool.name,
        pool_name,
    )
    assert ["True True", "True True", "0 1", "False"] == lines_of(child)


def test_madvise_is_ignored(make_pool: MakePool, start: Start) -> None:
    """Where madvise(2) returns 0 and does nothing, as under qemu-user, a child of os.fork() is a
    member of its own, which may not use its parent's buffers, and does not keep its parent
    alive."""
    pool = make_pool(capacity=64, prealloc=64)
    child = start(
        f"""{FILTER.replace("import shmpool", "")}
refuse(0, {numbers("madvise")})
import threading
import shmpool
from shmpool._hot import forks_by_kernel
pool = shmpool.Pool.attach(sys.argv[1])
held, begun = pool.alloc_many(7), threading.Event()

def another():  # its table and its member are not the child's either
    with pool.alloc():
        begun.set()
        signal.pause()

threading.Thread(target=another, daemon=True).start()
begun.wait()
if os.fork() == 0:
    try:
        held.free()
    except shmpool.ShmpoolError as error:
        mine = pool.alloc()
        print(forks_by_kernel(), type(error).__name__, len(pool.members()), flush=True)
    sys.stdin.readline()
    mine.free()
    print(sum(pool.audit().held.values()), flush=True)
    os._exit(0)
signal.pause()
""",
        pool.name,
    )
    assert "False BufferReleased 3" == skip_without(child.line())
    assert (0, 9) == (pool.recover().members, sum(pool.audit().held.values()))
    child.process.kill()
    child.process.wait(DEADLINE_S)
    recovery = pool.recover()
    assert (2, 8) == (recovery.members, recovery.buffers)
    audit = pool.audit()
    assert (True, 1) == (audit.ok, sum(audit.held.values()))
    child.send()
    assert "0" == child.line()


def test_no_event_loop(start: Start, tmp_path: Path) -> None:
    """A daemon that may not use fcntl ends with one line and status 1."""
    pytest.importorskip("uvloop", reason="shmpool[daemon] is not installed")
    child = start(
        f"""{FILTER}
import shmpool.service.daemon
sys.stderr = sys.stdout
refuse(errno.EPERM, {numbers("fcntl")})
sys.exit(shmpool.service.daemon.run(None, {{"socket": sys.argv[1]}}, "0"))
""",
        tmp_path / "d.sock",
    )
    said = skip_without(child.line())
    assert said.startswith("shmpool: the event loop cannot run: Operation not permitted: ")
    assert ("", 1) == (child.line(), child.process.wait(DEADLINE_S))


@pytest.mark.parametrize("number", ["EPERM", "ENOSYS", "EOPNOTSUPP"])
def test_no_memory_can_be_reserved(
    pool: shmpool.Pool, pool_name: str, start: Start, number: str
) -> None:
    """Without fallocate a pool can be neither created nor grown. Existing buffers are used."""
    pool.alloc().free()
    child = start(
        f"""{FILTER}
pool = shmpool.Pool.attach(sys.argv[1])
refuse(errno.{number}, {numbers("fallocate")})
created = pool.stats().created
held = pool.alloc_many(created)
print(len(held), flush=True)
for call in (lambda: pool.alloc(timeout=0),
             lambda: pool.create_queue("q", capacity=65536),
             lambda: shmpool.Pool.create(sys.argv[2], buffer_size=64, capacity=64)):
    try:
        call()
    except (shmpool.SegmentInvalid, shmpool.AccessDenied) as error:
        print(isinstance(error, shmpool.ShmpoolError))
    except shmpool.PoolExhausted:
        print(created == 64)
print(pool.audit().ok, [queue.name for queue in pool.queues()], sys.argv[2] in shmpool.pool_names())
""",
        pool.name,
        pool_name,
    )
    held, *rest = lines_of(child)
    assert int(held) > 0
    assert ["True", "True", "True", "True [] False"] == rest
