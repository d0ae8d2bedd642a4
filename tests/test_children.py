# SPDX-License-Identifier: Apache-2.0
"""clients.children: Ctrl-C at any moment leaves no process half started, and none is forgotten."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Ctrl-C comes when a process runs and multiprocessing has not told it what to do yet. A thread that
# does not block SIGINT receives it, as one of numpy's library may.
INTERRUPTED = """
import multiprocessing.resource_tracker, multiprocessing.util, os, signal, threading, time
from clients.children import children, uninterrupted

multiprocessing.resource_tracker.ensure_running()
threading.Thread(target=threading.Event().wait, daemon=True).start()
caught, catches = os.pipe()
os.set_blocking(catches, False)
signal.set_wakeup_fd(catches)
before = signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, ())
spawned = []

def spawn(*arguments, spawn=multiprocessing.util.spawnv_passfds):
    spawned.append(spawn(*arguments))
    os.kill(os.getpid(), signal.SIGINT)
    os.read(caught, 1)
    return spawned[-1]

def runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

def blocks_interrupts(pid):
    text = open(f"/proc/{pid}/status").read().partition("SigBlk:")[2].split()[0]
    return bool(int(text, 16) >> signal.SIGINT - 1 & 1)

multiprocessing.util.spawnv_passfds = spawn
"""
UNCHANGED = """
assert before == (signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
AS_USUAL = """
try:
    with children() as start:
        start(time.sleep, 1000)
        print("not interrupted")
except KeyboardInterrupt:
    print("interrupted", runs(spawned[0]))
"""
OWN_HANDLER = """
came = []
signal.signal(signal.SIGINT, lambda *arguments: came.append(arguments))
before = signal.getsignal(signal.SIGINT), before[1]
with children() as start:
    process = start(time.sleep, 1000)
    print(came, runs(process.pid), blocks_interrupts(process.pid))
"""
IGNORED = """
signal.set_wakeup_fd(-1)
os.write(catches, b"x")  # no signal will
signal.signal(signal.SIGINT, signal.SIG_IGN)
before = signal.SIG_IGN, before[1]
with children() as start:
    print(runs(start(time.sleep, 1000).pid))
"""
IN_A_THREAD = """
def work():
    with children() as start:
        process = start(time.sleep, 1000)
        print(runs(process.pid), blocks_interrupts(process.pid))
        leave.wait()

leave = threading.Event()
thread = threading.Thread(target=work)
signal.signal(signal.SIGINT, lambda *_: leave.set())
before = signal.getsignal(signal.SIGINT), before[1]
thread.start()
thread.join()
print(runs(spawned[0]))
"""
WHOLE = """
process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0,))
try:
    with uninterrupted():
        process.start()
except KeyboardInterrupt:
    process.join()
    print(process.exitcode)
"""
NESTED = """
try:
    with uninterrupted(), uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        os.read(caught, 1)
        print("not yet")
except KeyboardInterrupt:
    print("interrupted")
"""
A_FAILURE = """
try:
    with uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        os.read(caught, 1)
        raise OSError("no processes")
except KeyboardInterrupt as interrupt:
    print(repr(interrupt.__context__))
"""
OF_THE_BENCHMARK = "from shmpool.bench.workers import uninterrupted"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (AS_USUAL, "interrupted False"),
        (OWN_HANDLER, "[(2, None)] True True"),
        (IGNORED, "True"),
        (IN_A_THREAD, "True True\nFalse"),
        (WHOLE, "0"),
        (NESTED, "not yet\ninterrupted"),
        (A_FAILURE, "OSError('no processes')"),
        (OF_THE_BENCHMARK + WHOLE, "0"),
        (OF_THE_BENCHMARK + NESTED, "not yet\ninterrupted"),
        (OF_THE_BENCHMARK + A_FAILURE, "OSError('no processes')"),
    ],
    ids=[
        *("as usual", "own handler", "ignored", "in a thread", "whole", "nested", "a failure"),
        *("benchmark, whole", "benchmark, nested", "benchmark, a failure"),
    ],
)
def test_interrupted_while_a_process_is_started(script: str, says: str) -> None:
    """It is started as a whole, Ctrl-C comes after that, and the handler and mask are as before."""
    code = INTERRUPTED + script + UNCHANGED
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert (0, says, "") == (done.returncode, done.stdout.strip(), done.stderr)


FIRST = """
import time
from clients.children import children

with children() as start:
    status = open(f"/proc/{start(time.sleep, 1000).pid}/status").read()
    print(int(status.partition("SigBlk:")[2].split()[0], 16) >> 1 & 1)
"""


def test_the_first_child_does_not_see_ctrl_c() -> None:
    """The process that multiprocessing starts before it does not make it see Ctrl-C."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert (0, "1", "") == (done.returncode, done.stdout.strip(), done.stderr)
