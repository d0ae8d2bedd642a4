# SPDX-License-Identifier: Apache-2.0
"""Every system call of every operation fails once, with each errno that it can have.

    python -m tests.errno_sweep                         all of them
    python -m tests.errno_sweep --sample 300 --seed 7   300 of them, drawn from a seed
    python -m tests.errno_sweep --only create:12:ENOSPC one of them, with its traceback

Each trial is a process of its own, forked from one that has nothing open, in a /dev/shm of its own.
It does the operation once while native/preload_errno.c makes the call fail, and checks:

    the operation succeeds, or raises one of shmpool's exceptions; it neither crashes nor hangs
    after a failure it succeeds when it is repeated
    the audit is clean, and everything is free after a recovery
    no descriptor, no mapping of a pool and no file in /dev/shm is left

Commands end with 0, 1 or 2 and without a traceback. errno_operations.py has the operations. The
daemon runs only if it is named: its calls depend on when its client connects, so the nth call
is not always the same one.
"""

import argparse
import ctypes
import errno
import faulthandler
import gc
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn

import shmpool
from tests.errno_operations import OPERATIONS, Operation, warm_up

HANG_S = 60  # of a trial that takes 10 ms
SOURCE = Path(__file__).resolve().parent / "native" / "preload_errno.c"
OWN_SHM = (
    *("unshare", "-m", "sh", "-c"),
    'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"',
    "sh",
)
_DESCRIPTORS = "EMFILE ENFILE"
ERRNOS = {
    kind: names.split()
    for kind, names in {
        "access": "EACCES ENOENT EIO",
        "close": "EIO EINTR",
        "create": "EACCES EPERM ENOSPC EDQUOT ENOENT ENOTDIR EROFS ENOMEM EINTR EIO "
        + _DESCRIPTORS,
        "dup": _DESCRIPTORS,
        "fchmod": "EPERM EROFS EIO",
        "fchown": "EPERM EINVAL EROFS EDQUOT EIO",
        "fstat": "ENOMEM EOVERFLOW EIO",
        "ftruncate": "EFBIG ENOSPC EPERM EINTR EIO",
        "getlk": "EINVAL EPERM ENOLCK ENOMEM EIO",
        "getrandom": "ENOSYS EPERM",
        "key": "EAGAIN ENOMEM",
        "link": "EACCES EPERM EEXIST EMLINK ENOSPC EDQUOT EROFS ENOENT ENOMEM EIO",
        "madvise": "ENOMEM EINVAL EAGAIN EPERM",
        "map": "ENOMEM EACCES EAGAIN ENODEV EPERM EOVERFLOW",
        "membarrier": "ENOSYS EPERM EINVAL ENOMEM",
        "memory": "ENOMEM",
        "open": "EACCES EPERM ENOENT ENOTDIR ELOOP EROFS ENOMEM EINTR EAGAIN ETXTBSY EIO "
        + _DESCRIPTORS,
        "punch": "EOPNOTSUPP ENOSYS EPERM ENOSPC EINTR EIO",
        "read": "EIO EINTR",
        "readdir": "EIO ENOENT",
        "rename": "EACCES EPERM ENOSPC EROFS ENOENT ENOMEM EIO",
        "reserve": "ENOSPC EDQUOT EFBIG ENOMEM EINTR EOPNOTSUPP EINVAL EPERM EIO",
        "setlk": "EAGAIN EACCES EINTR ENOLCK ENOMEM EINVAL EPERM EIO",
        "sleep": "EINTR EAGAIN ETIMEDOUT ENOMEM ENOSYS EPERM",
        "stat": "EACCES ENOENT ELOOP ENOMEM EIO",
        "statvfs": "EACCES ENOSYS ENOMEM EOVERFLOW EIO",
        "thread": "EAGAIN",
        "unlink": "EACCES EPERM ENOENT EROFS EBUSY ENOMEM EIO",
        "wake": "EPERM ENOSYS ENOMEM",
        "accept": f"ECONNABORTED ENOBUFS ENOMEM EPERM EINTR {_DESCRIPTORS}",
        "bind": "EACCES EADDRINUSE ENOENT EROFS ENOMEM",
        "connect": "ECONNREFUSED ENOENT EACCES EAGAIN EPERM ENOTDIR",
        "inotify": f"ENOSYS EPERM ENOMEM {_DESCRIPTORS}",
        "listen": "EADDRINUSE EOPNOTSUPP",
        "recv": "ECONNRESET ENOMEM EINTR",
        "send": "EPIPE ECONNRESET ENOBUFS ENOMEM EINTR",
        "socket": f"EACCES EPERM EAFNOSUPPORT ENOBUFS ENOMEM {_DESCRIPTORS}",
        "sockopt": "EPERM ENOPROTOOPT ENOMEM",
        "watch": "ENOSPC ENOMEM EACCES ENOENT",
    }.items()
}


class Preload:
    """The library, in this process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._library.errno_arm.argtypes = [ctypes.c_long, ctypes.c_int]
        self._library.errno_disarm.restype = ctypes.c_long
        self._library.errno_kind.argtypes = [ctypes.c_long]
        self._library.errno_kind.restype = ctypes.c_char_p

    def arm(self, nth: int, number: int) -> None:
        self._library.errno_arm(nth, number)

    def disarm(self) -> list[str]:
        """Stops counting. Returns the kinds of the calls that were counted."""
        calls = self._library.errno_disarm()
        return [self._library.errno_kind(nth).decode() for nth in range(1, calls + 1)]


class JudgementError(AssertionError):
    """An operation had a wrong result."""


def descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:  # the descriptor that listed them
            continue
    return found


def left_over(before: set[str], kept: tuple[str, ...]) -> list[str]:
    """Returns what a finished operation has left in this process and in /dev/shm."""
    gc.collect()  # tracebacks keep the objects of the failed call
    maps = Path("/proc/self/maps").read_text().splitlines()
    found = [line for line in maps if "/dev/shm/" in line or "memfd:shmpool" in line]
    new = sorted(descriptors() - before)
    found += [file for file in new if not any(words in file for words in kept)]
    shmpool.prune()  # a temporary name that could not be removed
    return [*found, *os.listdir("/dev/shm")]


def attempt(preload: Preload, operation: Operation, nth: int, number: int) -> tuple[str, list[str]]:
    """Does the operation with one failure. Returns the exception that it raised, or "", and the
    calls."""
    raised, preload_failed = "", None
    operation.arm, operation.disarm = lambda: preload.arm(nth, number), preload.disarm
    if not operation.arms_itself:
        operation.arm()
    try:
        operation.act()
    except shmpool.ShmpoolError as error:
        raised = f"{type(error).__name__}: {error}"
    except BaseException as error:
        preload_failed = error
    calls = preload.disarm()
    operation.arm = operation.disarm = lambda: None
    if preload_failed is not None:
        raise JudgementError("not one of shmpool's exceptions") from preload_failed
    return raised, calls


def trial(preload: Preload, name: str, nth: int, number: int) -> dict[str, object]:
    """Does one operation with one failure, and checks the result."""
    before = descriptors()
    operation = OPERATIONS[name]()
    operation.set_up()
    raised, calls = attempt(preload, operation, nth, number)
    if raised and not operation.repeats:
        raise JudgementError(f"it may not fail: {raised}")
    if raised:
        try:
            operation.act()
        except BaseException as error:
            raise JudgementError(f"first {raised}; then it fails again") from error
    operation.judge()
    operation.tear_down()
    if left := left_over(before, operation.kept):
        raise JudgementError(f"left: {left}")
    return {"raised": raised, "calls": calls}


def child(preload: Preload, name: str, nth: int, number: int, to: int, talk: bool) -> NoReturn:
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    try:
        result = trial(preload, name, nth, number)
    except BaseException as error:
        if talk:
            traceback.print_exc()
        reasons: list[str] = []
        reason: BaseException | None = error
        while reason is not None:
            at = traceback.extract_tb(reason.__traceback__)[-1]
            where = f"{Path(at.filename).name}:{at.lineno}"
            reasons.append(f"{type(reason).__name__}: {reason} ({where})")
            reason = reason.__cause__ or reason.__context__
        result = {"wrong": " <- ".join(reasons)}
    os.write(to, json.dumps(result).encode())
    os._exit(0)


def forked(
    preload: Preload, name: str, nth: int, number: int, talk: bool = False
) -> dict[str, object]:
    """Runs the trial in a process of its own."""
    out, to = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        child(preload, name, nth, number, to, talk)
    os.close(to)
    text = b""
    while piece := os.read(out, 1 << 16):
        text += piece
    os.close(out)
    _, status = os.waitpid(pid, 0)
    if not text:
        text = json.dumps({"wrong": f"it ended with {os.waitstatus_to_exitcode(status)}"}).encode()
    for entry in os.listdir("/dev/shm"):
        os.unlink(f"/dev/shm/{entry}")
    found: dict[str, object] = json.loads(text)
    return found


def plan(preload: Preload, names: list[str]) -> list[tuple[str, int, str, str]]:
    """Returns every possible failure: operation, number of the call, its kind, errno."""
    failures = []
    for name in names:
        counted = forked(preload, name, 0, 0)
        if "wrong" in counted:
            raise SystemExit(f"{name} without a failure: {counted['wrong']}")
        calls = counted["calls"]
        assert isinstance(calls, list)
        for nth, kind in enumerate(calls, 1):
            failures += [(name, nth, kind, number) for number in ERRNOS.get(kind, ())]
    return failures


def compiled(directory: Path) -> Path:
    """Returns the library to preload."""
    library = directory / "preload_errno.so"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", library, SOURCE, "-ldl"], check=True)
    return library


def inside(arguments: argparse.Namespace) -> int:
    """Runs in the process that has the library preloaded."""
    preload = Preload()
    wrong = 0
    warm_up()
    if arguments.only:
        name, nth, number = arguments.only.split(":")
        found = forked(preload, name, int(nth), getattr(errno, number), talk=True)
        print(json.dumps(found, indent=1))
        return "wrong" in found
    names = arguments.operations or [name for name in OPERATIONS if name != "daemon"]
    if arguments.calls:
        for name in names:
            print(name, *forked(preload, name, 0, 0)["calls"])  # type: ignore[misc]
        return 0
    failures = plan(preload, names)
    every = len(failures)
    if arguments.sample and arguments.sample < every:
        failures = random.Random(arguments.seed).sample(failures, arguments.sample)
    for name, nth, kind, number in failures:
        found = forked(preload, name, nth, getattr(errno, number))
        if "wrong" in found:
            wrong += 1
            print(f"{name}:{nth}:{number} ({kind}): {found['wrong']}", flush=True)
    print(f"{len(failures)} of {every} failures of {len(names)} operations: {wrong} wrong")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.errno_sweep", description=__doc__.splitlines()[0])
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help=", ".join(OPERATIONS))
    parser.add_argument("--sample", type=int, default=0, help="how many failures; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calls", action="store_true", help="list the calls, and fail none")
    parser.add_argument("--only", metavar="OPERATION:NTH:ERRNO")
    arguments = parser.parse_args()
    if "LD_PRELOAD" in os.environ:
        return inside(arguments)
    directory = Path(tempfile.mkdtemp())
    try:
        environ = os.environ | {
            "LD_PRELOAD": str(compiled(directory)),
            "SHMPOOL_SOCKET": str(directory / "nobody.sock"),
        }
        command = [*OWN_SHM, sys.executable, "-m", "tests.errno_sweep", *sys.argv[1:]]
        return subprocess.run(command, env=environ).returncode
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
