# SPDX-License-Identifier: Apache-2.0
"""Runs pytest as often as requested, each time in a fork of a process that has imported it before.

    python tests/mutants/warm.py [alone]    in the root of the tree, started by checks.py

A line of stdin is one run: {"arguments": [...], "seconds": N, "output": PATH}. A line of stdout is
its result: the exit status, or null if it took longer. Nothing of this project is imported here, so
each run uses the current files. With "alone", the process has namespaces of its own: after each run
no process and no file in /dev/shm is left.
"""

import contextlib
import importlib
import json
import os
import select
import shutil
import signal
import sys
import traceback
from pathlib import Path

# What most tests import, except plugins of pytest's, which pytest must load itself.
FIRST = ["pytest", "asyncio", "multiprocessing.forkserver", "cffi"]
FIRST += ["msgpack", "uvloop", "numpy", "click", "rich.console", "aiohttp.web"]


def _child(arguments: list[str], output: str) -> None:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    to = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for fd, at in ((nothing, 0), (to, 1), (to, 2)):
        os.dup2(fd, at)
    os.close(nothing)
    os.close(to)
    status = int(importlib.import_module("pytest").main(arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _run(arguments: list[str], seconds: float, output: str) -> int | None:
    """Returns the exit status, or None if there is none in time."""
    pid = os.fork()
    if pid == 0:
        try:
            _child(arguments, output)
        except BaseException:
            traceback.print_exc()
        os._exit(3)
    fd = os.pidfd_open(pid)
    ended, _, _ = select.select([fd], [], [], seconds)
    os.close(fd)
    if not ended:
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) if ended else None


def _tidy() -> None:
    """Ends every other process of the namespace but the first, and empties /dev/shm."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    for path in Path("/dev/shm").iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def main() -> None:
    """Runs until stdin ends."""
    sys.path[0] = os.getcwd()
    for name in FIRST:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # the tests that need it are skipped
    for line in sys.stdin:
        status = _run(**json.loads(line))
        if sys.argv[1:] == ["alone"]:
            _tidy()
        print(json.dumps(status), flush=True)


if __name__ == "__main__":
    main()
