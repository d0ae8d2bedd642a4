# SPDX-License-Identifier: Apache-2.0
"""ProcessPoolExecutor: workers that are killed, at any moment, and their executor's process."""

import concurrent.futures
import itertools
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DEADLINE_S, METHODS, Eventually, at_rest

import shmpool
from shmpool.mp import manager, worker

FORK = multiprocessing.get_context("fork")

pytestmark = pytest.mark.usefixtures("own_memory")


def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def same(obj: Any) -> Any:
    return obj


def first(marker: Path) -> bool:
    """True for the first caller of all processes."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def note(log: Path, what: object) -> object:
    """Writes a line, in one call: it is there if the process is killed afterwards."""
    fd = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{what}\n".encode())
    os.close(fd)
    return what


def note_and_take_a_while(log: Path, what: object) -> object:
    note(log, what)
    time.sleep(0.001)  # long enough to be killed in
    return what


def runs(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def test_a_killed_worker_costs_its_task(context: shmpool.mp.Context) -> None:
    """Its future says which process died of what; all other tasks are done, and more follow."""
    with shmpool.ProcessPoolExecutor(2, context) as executor:
        futures = [executor.submit(same, i) for i in range(20)]
        workers = set(executor._processes)
        error = executor.submit(die).exception()
        assert isinstance(error, shmpool.WorkerDied)
        assert not isinstance(error, BrokenProcessPool)
        assert -signal.SIGKILL == error.exitcode
        assert error.pid in workers
        assert f"process {error.pid}, was killed by signal 9" in str(error)
        assert list(range(20)) == [future.result() for future in futures]
        assert error.pid not in {executor.submit(os.getpid).result() for _ in range(20)}


@pytest.mark.parametrize("status", [0, 3])
def test_a_worker_that_ends_in_a_task(status: int) -> None:
    """os._exit() is a death too; the error has the status."""
    with shmpool.ProcessPoolExecutor(1, FORK) as executor:
        error = executor.submit(os._exit, status).exception()
        assert isinstance(error, shmpool.WorkerDied)
        assert status == error.exitcode
        assert f"ended with status {status}" in str(error)
        assert 1 == executor.submit(same, 1).result()


def test_workers_killed_between_tasks(eventually: Eventually) -> None:
    """They cost nothing, and are replaced."""
    with shmpool.ProcessPoolExecutor(2, FORK) as executor:
        assert [0, 1, 2, 3] == list(executor.map(same, range(4)))
        before = set(executor._processes)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert list(range(100)) == list(executor.map(same, range(100)))
        eventually(lambda: len(set(executor._processes) - before) == 2)


def change_and_die(marker: Path, array: np.ndarray[Any, Any]) -> float:
    """Kills its first worker after it has changed the array in place."""
    array += 1
    if first(marker):
        die()
    return float(array.sum())


def test_a_retried_task(tmp_path: Path) -> None:
    """It runs again, with its arguments as they were submitted."""
    with shmpool.ProcessPoolExecutor(1, FORK, retries=1) as executor:
        future = executor.submit(change_and_die, tmp_path / "first", np.zeros(5000))
        assert 5000.0 == future.result()


def test_retries_are_used_up(tmp_path: Path) -> None:
    """A task that kills each of its workers is tried so many times more, and raises."""
    log = tmp_path / "log"
    with shmpool.ProcessPoolExecutor(2, FORK, retries=3) as executor:
        futures = [executor.submit(note_and_die, log) for _ in range(2)]
        for future in futures:
            with pytest.raises(shmpool.WorkerDied):
                future.result()
        assert 8 == len(runs(log))
        assert 5 == executor.submit(same, 5).result()


def note_and_die(log: Path) -> None:
    note(log, 0)
    die()


def test_a_task_that_was_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker killed after it got a task, and before it began, costs no task."""

    def islice(messages: Any, n: int) -> list[Any]:
        taken = [next(messages)]
        if first(tmp_path / "first"):
            die()
        return taken

    monkeypatch.setattr(
        worker, "itertools", types.SimpleNamespace(islice=islice, count=itertools.count)
    )
    with shmpool.ProcessPoolExecutor(2, FORK) as executor:
        assert list(range(10)) == list(executor.map(same, range(10)))
    assert (tmp_path / "first").exists()


def test_a_result_that_is_in_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker killed after it has put its result, and still holds the task, costs no task."""
    send = worker._Sender._send

    def send_and_die(self: Any, kind: int, value: object, task: int) -> None:
        send(self, kind, value, task)
        if task and first(tmp_path / "first"):
            die()

    monkeypatch.setattr(worker._Sender, "_send", send_and_die)
    with shmpool.ProcessPoolExecutor(1, FORK) as executor:
        assert [np.pi, *range(10)] == list(executor.map(same, [np.pi, *range(10)]))
    assert (tmp_path / "first").exists()


def trace(marker: Path, step: int) -> None:
    """Kills the first worker at the nth line that it executes of its own code."""
    if not first(marker):
        return
    left = step

    def on_line(frame: types.FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if Path(frame.f_code.co_filename).parent.name != "mp":
            return None
        left -= 1
        if left <= 0:
            first(marker.with_suffix(".reached"))
            die()
        return on_line

    sys._getframe(1).f_trace = on_line
    sys.settrace(on_line)


@pytest.mark.parametrize("retries", [0, 1])
def test_a_kill_at_each_line(tmp_path: Path, retries: int) -> None:
    """Wherever a worker dies, each task is done, or says that its worker died and did not end.

    No task is begun twice unless it may be retried; then all are done.
    """
    step, died = 0, 0
    while True:
        step += 1
        marker, log = tmp_path / f"first-{step}", tmp_path / f"log-{step}"
        with shmpool.ProcessPoolExecutor(
            1, FORK, initializer=trace, initargs=(marker, step), retries=retries
        ) as executor:
            futures = [executor.submit(note, log, i) for i in range(2)]
            errors = [future.exception(DEADLINE_S) for future in futures]
        died += sum(error is not None for error in errors)
        ran = runs(log)
        for i, error in enumerate(errors):
            assert (error is None and ran.count(i) >= 1) or isinstance(error, shmpool.WorkerDied)
            assert ran.count(i) <= 1 + retries
            assert error is None or not retries
        if not marker.with_suffix(".reached").exists():
            break
    assert step > 30
    assert (died > 10) == (not retries)


def test_workers_killed_while_they_start(tmp_path: Path) -> None:
    """They are replaced; the tasks are done."""
    with shmpool.ProcessPoolExecutor(2, FORK, die_thrice, (tmp_path,)) as executor:
        assert list(range(20)) == list(executor.map(same, range(20)))
    assert 3 == len(list(tmp_path.iterdir()))


def die_thrice(folder: Path) -> None:
    for i in range(3):
        if first(folder / str(i)):
            die()


def test_workers_that_never_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are killed at each start are an error in the end, and no endless loop."""
    monkeypatch.setattr(manager, "STARTS_MOST", 5)
    with shmpool.ProcessPoolExecutor(1, FORK, die) as executor:
        error = executor.submit(same, 1).exception()
        assert isinstance(error, BrokenProcessPool)
        assert re.search("could not start.*killed by signal 9", str(error))


def test_killed_after_shutdown() -> None:
    """shutdown() waits for the tasks, also if a worker is killed then."""
    executor = shmpool.ProcessPoolExecutor(1, FORK)
    futures: list[Future[Any]] = [executor.submit(die) for _ in range(3)]
    futures.append(executor.submit(same, 1))
    executor.shutdown()
    assert 1 == futures.pop().result()
    assert [-9] * 3 == [getattr(future.exception(), "exitcode", None) for future in futures]


def test_a_worker_interrupted_between_tasks(capfd: pytest.CaptureFixture[str]) -> None:
    """SIGINT to an idle worker ends it, and costs no task."""
    with shmpool.ProcessPoolExecutor(1, FORK) as executor:
        pid = executor.submit(os.getpid).result()
        os.kill(pid, signal.SIGINT)
        assert list(range(50)) == list(executor.map(same, range(50)))


def test_workers_killed_in_turnover() -> None:
    """With max_tasks_per_child each task has its own worker; one that dies costs only that."""
    context = multiprocessing.get_context("forkserver")
    with shmpool.ProcessPoolExecutor(2, context, max_tasks_per_child=1) as executor:
        calls: list[Callable[[], Any]] = [die if i % 3 == 2 else os.getpid for i in range(9)]
        futures = [executor.submit(call) for call in calls]
        died = [future.exception(DEADLINE_S) is not None for future in futures]
        assert [i % 3 == 2 for i in range(9)] == died
        assert 6 == len({future.result() for i, future in enumerate(futures) if not died[i]})


@pytest.mark.parametrize("workers", [1, 2])
def test_a_suspended_worker_is_killed(workers: int) -> None:
    """SIGSTOP delays the tasks that the worker would do; when it is killed, all are done."""
    with shmpool.ProcessPoolExecutor(workers, FORK) as executor:
        assert list(range(100)) == list(executor.map(same, range(100)))
        pid = next(iter(executor._processes))
        os.kill(pid, signal.SIGSTOP)
        futures = [executor.submit(same, i) for i in range(10_000)]
        if workers > 1:
            assert 9_999 == futures[-1].result(DEADLINE_S)
        os.kill(pid, signal.SIGKILL)
        assert list(range(10_000)) == [future.result(DEADLINE_S) for future in futures]


def execute() -> None:
    os.execv(sys.executable, [sys.executable, "-c", ""])


def test_a_worker_that_becomes_another_program() -> None:
    """It died for the executor, whose future says so when the other program has ended."""
    with shmpool.ProcessPoolExecutor(1, FORK) as executor:
        error = executor.submit(execute).exception(DEADLINE_S)
        assert isinstance(error, shmpool.WorkerDied)
        assert 0 == error.exitcode


def storm(tasks: int, kills: int, retries: int, log: Path, seed: int) -> tuple[int, int]:
    """Runs at least so many tasks, and kills so many random workers, one each time that some tasks
    are done. Cancels some tasks in between.

    Returns how many tasks there were, and how many say that their worker died.
    """
    randomly, every = random.Random(seed), tasks // (kills + 1)
    futures: list[Future[Any]] = []
    cancelled: set[int] = set()
    killed: set[int] = set()
    done = 0

    def count(future: Future[Any]) -> None:
        nonlocal done
        done += 1
        if done < every * (len(killed) + 1) or len(killed) == kills:
            return
        workers = list(executor._processes.items())
        alive = [one for pid, one in workers if pid not in killed and one.is_alive()]
        if alive:  # else at the next task that is done
            victim = randomly.choice(alive)
            killed.add(victim.pid)
            victim.kill()

    with shmpool.ProcessPoolExecutor(4, FORK, retries=retries) as executor:
        pool = executor._manager._pool
        while len(futures) < tasks or len(killed) < kills:
            first = len(futures)
            for i in range(first, first + tasks):
                futures.append(executor.submit(note_and_take_a_while, log, i))
                futures[i].add_done_callback(count)
            some = randomly.sample(range(first, first + tasks), tasks // 20)
            cancelled |= {i for i in some if futures[i].cancel()}
            concurrent.futures.wait(futures, 4 * DEADLINE_S)
        assert [8] == list(executor.map(same, [8]))
    counts = np.bincount(runs(log), minlength=len(futures))
    died = 0
    for i, future in enumerate(futures):
        if i in cancelled:
            assert 0 == counts[i]
        elif (error := future.exception(0)) is None:
            assert i == future.result()
            assert 1 <= counts[i] <= 1 + retries
        else:
            died += 1
            assert isinstance(error, shmpool.WorkerDied)
            assert -signal.SIGKILL == error.exitcode
            assert error.pid in killed
            assert counts[i] <= 1 + retries
            del error
    n = len(futures)
    del futures, future
    assert at_rest(pool)
    return n, died


@pytest.mark.parametrize("retries", [0, 20])
def test_random_kills(tmp_path: Path, retries: int) -> None:
    """20 kills in 400 tasks: each is done or says that its worker died, and none ran twice."""
    _, died = storm(400, 20, retries, tmp_path / "log", 1)
    assert died <= (0 if retries else 20)


@pytest.mark.slow
def test_many_random_kills(tmp_path: Path) -> None:
    """200 kills in 5,000 tasks and more."""
    n, died = storm(5000, 200, 0, tmp_path / "log", 2)
    assert n >= 5000
    assert 0 < died <= 200


# The executor's own process.

PROGRAM = """
import multiprocessing, os, signal, sys, time
import shmpool

def work(how):
    if how == "busy":
        time.sleep(0.5)
    return os.getpid()

if __name__ == "__main__":
    executor = shmpool.ProcessPoolExecutor(2, multiprocessing.get_context(sys.argv[1]))
    list(executor.map(work, ["idle"] * 8))
    print(*executor._processes, flush=True)
    if sys.argv[2] == "busy":
        for _ in range(20):
            executor.submit(work, "busy")
    signal.pause()
"""


@pytest.mark.parametrize("how", ["idle", "busy"])
@pytest.mark.parametrize("method", METHODS)
def test_the_executor_s_process_is_killed(
    method: str, how: str, tmp_path: Path, eventually: Eventually
) -> None:
    """Its workers end by themselves, and it leaves nothing in /dev/shm."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, script, method, how], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert pids
    named = re.findall("/dev/shm/shmpool.*", Path(f"/proc/{process.pid}/maps").read_text())
    process.kill()
    process.wait()
    process.stdout.close()
    assert [] == named
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in pids))


def test_a_worker_that_waits_for_memory_of_nobody(
    tmp_path: Path, start: Callable[..., Any]
) -> None:
    """A worker whose result finds no memory ends too, when its executor's process is killed."""
    child = start(
        """
        import multiprocessing, os, signal, shmpool

        def result():
            os.write(write, b"x")
            return bytes(1000)

        read, write = os.pipe()
        pool = shmpool.Pool.create(None, buffer_size=1024, capacity=8)
        context = multiprocessing.get_context("fork")
        executor = shmpool.ProcessPoolExecutor(1, context, pool=pool)
        executor.submit(pow, 2, 2).result()
        taken = pool.alloc_many(6)  # the executor has one, the task one
        executor.submit(result)
        os.read(read, 1)
        print(*executor._processes, flush=True)
        signal.pause()
        """
    )
    pid = int(child.line())
    child.kill()
    for _ in range(int(DEADLINE_S * 10)):
        if not os.path.exists(f"/proc/{pid}/exe"):
            return
        threading.Event().wait(0.1)
    pytest.fail("the worker did not end")
