# SPDX-License-Identifier: Apache-2.0
"""ProcessPoolExecutor: the interface of concurrent.futures.

Not in here: workers that die (test_executor_deaths.py)."""

import concurrent.futures
import contextlib
import gc
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cpython_executor
import numpy as np
import pytest
from conftest import DEADLINE_S, METHODS, Begin, Eventually, MakePool, at_rest, descriptors

import shmpool
from shmpool.mp import backlog, calls

DOCS = Path(__file__).resolve().parent.parent / "docs" / "executor.md"
FORK = multiprocessing.get_context("fork")
BASE = concurrent.futures._base.__file__

pytestmark = pytest.mark.usefixtures("own_memory")


def same(obj: Any) -> Any:
    return obj


def wait_for(fd: int) -> int:
    """Returns the process when the parent writes to the pipe; each byte lets one call go on."""
    os.read(fd, 1)
    return os.getpid()


@pytest.fixture
def gate() -> Any:
    """The two ends of a pipe, which forked workers inherit."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


# CPython's own tests.


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    not cpython_executor.installed(),
    reason="CPython's tests of process pools are not installed; `make tools` installs Debian's",
)
@pytest.mark.parametrize("method", METHODS)
def test_cpythons_own_tests(method: str, tmp_path: Path) -> None:
    """CPython's tests of its process pools pass, except those of what shmpool's does not do."""
    cpython_executor.borrow(tmp_path)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, cpython_executor.__file__, method],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=14 * DEADLINE_S,
    )
    assert 0 == done.returncode, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.endswith("ok")]
    assert len(lines) >= 50
    reasons = set(cpython_executor.DEVIATIONS.values())
    skipped = [line for line in done.stderr.splitlines() if " skipped '" in line]
    ours = [line for line in skipped if line.partition(" skipped '")[2].rstrip("'") in reasons]
    assert len(cpython_executor.DEVIATIONS) == len(ours)


@pytest.mark.parametrize("name", [*cpython_executor.DEVIATIONS, *cpython_executor.INSTEAD])
def test_each_deviation_is_documented(name: str) -> None:
    """docs/executor.md names each test of CPython that is left out, or expects another error."""
    assert f"`{name}`" in DOCS.read_text()


# Calls.


def test_objects_of_every_kind(context: shmpool.mp.Context) -> None:
    """What a worker returns equals what it was given."""
    objects: list[Any] = [
        None,
        "text",
        {"a": [1, 2.5, b"x"]},
        b"x" * 300_000,
        np.arange(100_000).reshape(100, 1000),
        (np.zeros(3), [np.ones(50_000)], bytearray(9000)),
    ]
    with shmpool.ProcessPoolExecutor(2, context) as executor:
        for obj in objects:
            assert pickle.dumps(obj) == pickle.dumps(executor.submit(same, obj).result())
        assert [[0], [1]] == list(executor.map(same, ([i] for i in range(2))))


def is_in_place(array: np.ndarray[Any, Any]) -> bool:
    return not array.flags.owndata and array.ctypes.data % 64 == 0


def test_arrays_are_read_in_place(eventually: Eventually) -> None:
    """An argument has the memory of a buffer in the worker, a result has it here."""
    with shmpool.ProcessPoolExecutor(1, FORK) as executor:
        pool = executor._manager._pool
        sent = np.arange(100_000)
        assert executor.submit(is_in_place, sent).result()
        got = executor.submit(same, sent).result()
        assert is_in_place(got)
        assert np.array_equal(sent, got)
        eventually(lambda: 2 == pool.stats().held)  # one of them is the executor's
        del got
        assert 1 == pool.stats().held
    assert at_rest(pool)


def test_a_queue_goes_to_a_worker(context: shmpool.mp.Context) -> None:
    """A queue of the program is an argument like any other, unlike multiprocessing's."""
    queue = shmpool.Queue()
    with shmpool.ProcessPoolExecutor(1, context) as executor:
        executor.submit(put, queue, "here").result()
    assert "here" == queue.get(timeout=DEADLINE_S)


def put(queue: shmpool.Queue, obj: object) -> None:
    queue.put(obj)


def test_results_that_are_kept_leave_room(make_pool: MakePool) -> None:
    """They lie in the pool until half of it is used; the rest is copied out, and no task waits."""
    pool = make_pool(buffer_size=16384, capacity=64)
    with shmpool.ProcessPoolExecutor(2, FORK, pool=pool) as executor:
        kept = list(executor.map(np.zeros, [1500] * 200))
        assert 200 == len(kept)
        assert pool.stats().held <= 40
        assert 1.0 == executor.submit(np.ones, 1500).result()[0]
    del kept
    assert at_rest(pool)


def test_a_task_waits_for_memory(make_pool: MakePool) -> None:
    """While there is no buffer submit() returns at once, and the task runs when there is one."""
    pool = make_pool(buffer_size=1024, capacity=8)
    with shmpool.ProcessPoolExecutor(1, FORK, pool=pool) as executor:
        assert 1 == executor.submit(same, 1).result()
        taken = pool.alloc_many(7)  # the executor has one
        future = executor.submit(same, 2)
        assert concurrent.futures.wait([future], 0.2).not_done
        taken.free()
        assert 2 == future.result(DEADLINE_S)


def all_of(pool: shmpool.Pool) -> list[shmpool.Buffer]:
    """Returns all buffers that are free."""
    taken: list[shmpool.Buffer] = []
    with contextlib.suppress(shmpool.PoolExhausted):
        while True:
            taken.append(pool.alloc(0))
    return taken


def test_shutdown_while_the_caller_has_all_memory(
    make_pool: MakePool, eventually: Eventually
) -> None:
    """It returns, and cancels the tasks that wait for memory. Before it a dead worker is
    replaced."""
    pool = make_pool(buffer_size=1024, capacity=8)
    with shmpool.ProcessPoolExecutor(1, FORK, pool=pool) as executor:
        pid = executor.submit(os.getpid).result()
        eventually(lambda: pool.stats().held == 1)  # what the executor keeps
        taken = all_of(pool)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: executor._processes.keys() - {pid})
        futures = [executor.submit(same, 2) for _ in range(3)]
        executor.shutdown(cancel_futures=True)
        assert [True] * 3 == [future.cancelled() for future in futures]
        assert 7 == len(taken)


def test_workers_that_start_without_memory(make_pool: MakePool) -> None:
    """They end when the executor does."""
    pool = make_pool(buffer_size=1024, capacity=8)
    with shmpool.ProcessPoolExecutor(2, FORK, pool=pool) as executor:
        taken = all_of(pool)
        future = executor.submit(same, 1)
        executor.shutdown(cancel_futures=True)
        assert future.cancelled()
        assert 7 == len(taken)
    taken += all_of(pool)
    with pytest.raises(shmpool.PoolExhausted):
        shmpool.ProcessPoolExecutor(pool=pool)


def test_what_is_larger_than_all_memory(make_pool: MakePool) -> None:
    """Arguments and results that no buffers hold raise in the future."""
    pool = make_pool(buffer_size=4096, capacity=8)
    with shmpool.ProcessPoolExecutor(1, FORK, pool=pool) as executor:
        for future in (executor.submit(same, b"x" * 40_000), executor.submit(bytes, 40_000)):
            with pytest.raises(shmpool.PayloadTooLarge):
                future.result()
        assert 3 == executor.submit(same, 3).result()


def raise_it(error: BaseException) -> None:
    raise error


class UnsendableError(Exception):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def raise_unsendable() -> None:
    raise UnsendableError


class UnreadableError(Exception):
    """An exception whose pickle calls it with too few arguments, a usual mistake."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second


def raise_unreadable() -> None:
    raise UnreadableError("a", "b")


class Unreadable:
    def __reduce__(self) -> Any:
        return raise_it, (ZeroDivisionError("cannot be read"),)


def test_errors_arrive_in_the_future(context: shmpool.mp.Context) -> None:
    """What a call raises, with its traceback; and what cannot be pickled or unpickled."""
    with shmpool.ProcessPoolExecutor(1, context) as executor:
        error = executor.submit(raise_it, KeyError("x")).exception()
        assert isinstance(error, KeyError)
        assert "raise error" in str(error.__cause__)
        assert isinstance(executor.submit(raise_it, SystemExit(3)).exception(), SystemExit)
        for fn, arg in ((same, threading.Lock()), (same, lambda: 0), (memoryview, b"")):
            with pytest.raises((TypeError, pickle.PicklingError, AttributeError)):
                executor.submit(fn, arg).result()
        with pytest.raises(ZeroDivisionError, match="cannot be read"):
            executor.submit(same, Unreadable()).result()
        error = executor.submit(Unreadable).exception()
        assert isinstance(error, ZeroDivisionError)
        assert ["The result of the task could not be read."] == error.__notes__
        error = executor.submit(raise_unreadable).exception()
        assert isinstance(error, TypeError)
        assert ["The result of the task could not be read."] == error.__notes__
        with pytest.raises(RuntimeError, match=r"UnsendableError\(\); it cannot be sent"):
            executor.submit(raise_unsendable).result()
        assert 4 == executor.submit(same, 4).result()


def test_map() -> None:
    """In order, in chunks; with buffersize no more chunks are submitted than that."""
    with shmpool.ProcessPoolExecutor(2, FORK) as executor:
        numbers = range(100)
        for size in (1, 7, 1000):
            assert list(numbers) == list(executor.map(same, numbers, chunksize=size))
        taken: list[int] = []
        some = executor.map(same, (taken.append(i) or i for i in numbers), buffersize=3)  # type: ignore[func-returns-value]
        assert 3 == len(taken)
        assert [0, 1] == [next(some), next(some)]
        assert 5 == len(taken)
        assert list(range(2, 100)) == list(some)
        with pytest.raises(ValueError, match="buffersize is 0"):
            executor.map(same, numbers, buffersize=0)
        with pytest.raises(TypeError, match="buffersize is"):
            executor.map(same, numbers, buffersize="3")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(same, numbers)


def then_fails() -> Iterator[int]:
    yield from range(3)
    raise KeyError("no more")


def test_map_over_what_raises() -> None:
    """What an iterable raises comes out of map(), or with buffersize of the iterator when it is its
    turn."""
    with shmpool.ProcessPoolExecutor(1, FORK) as executor:
        with pytest.raises(KeyError, match="no more"):
            executor.map(same, then_fails())
        results = executor.map(same, then_fails(), buffersize=2)
        assert 0 == next(results)
        with pytest.raises(KeyError, match="no more"):
            list(results)
        assert 4 == executor.submit(same, 4).result()


def test_map_gives_up(gate: tuple[int, int]) -> None:
    """After its timeout it raises, and what has not begun is cancelled."""
    with shmpool.ProcessPoolExecutor(1, FORK) as executor:
        results = executor.map(wait_for, [gate[0]] * 20, timeout=0.1)
        with pytest.raises(TimeoutError):
            next(results)
        os.write(gate[1], b"x" * 20)
    # Each call that ran has read a byte: two were in the queue; the worker had taken one, or not.
    assert len(os.read(gate[0], 20)) in (17, 18)


def test_pending_futures_can_be_cancelled(gate: tuple[int, int]) -> None:
    """As in concurrent.futures a few tasks are handed to the workers, and the rest can be."""
    with shmpool.ProcessPoolExecutor(1, FORK) as executor:
        futures = [executor.submit(wait_for, gate[0]) for _ in range(20)]
        cancelled = [future.cancel() for future in futures]
        os.write(gate[1], b"x" * 20)
        assert not cancelled[0]
        assert sum(cancelled) in (17, 18)  # two are in the queue; the worker had taken one, or not
        assert cancelled == [future.cancelled() for future in futures]
        for future in futures:
            if not future.cancelled():
                future.result()


def test_tasks_are_taken_back(gate: tuple[int, int], tmp_path: Path) -> None:
    """What was handed to the workers ahead, after quick tasks, can be cancelled all the same. The
    rest is done in its order, also with big arguments and retries."""
    log = tmp_path / "log"
    with shmpool.ProcessPoolExecutor(1, FORK, retries=1) as executor:
        assert 2000 == len(list(executor.map(same, range(2000))))
        for big in (b"", bytes(100_000)):
            log.unlink(missing_ok=True)
            tasks = executor._manager._tasks
            executor.submit(wait_for, gate[0])
            tasks._window = 100  # as it is after quick tasks, unless this machine is busy
            futures = [executor.submit(append, log, i, big) for i in range(200)]
            cancelled = [i for i, future in enumerate(futures) if i % 3 and future.cancel()]
            assert len(cancelled) >= 130
            os.write(gate[1], b"x")
            left = [i for i in range(200) if i not in cancelled]
            for i in left:
                futures[i].result(DEADLINE_S)
            assert left == [int(line) for line in log.read_text().split()]
            assert all(futures[i].cancelled() for i in cancelled)
        pool = executor._manager._pool
    del futures
    assert at_rest(pool)


def test_a_signal_handler_interrupts_cancel(gate: tuple[int, int], begin: Begin) -> None:
    """A handler may raise at any instruction of cancel(): every task is done, or cancelled."""
    with shmpool.ProcessPoolExecutor(1, FORK) as executor:
        tasks = executor._manager._tasks
        executor.submit(same, 0).result()
        armed, within = False, 0

        def interrupt(number: int, frame: types.FrameType | None) -> None:
            nonlocal armed, within
            files = set()
            while frame is not None:
                files.add(frame.f_code.co_filename)
                frame = frame.f_back
            # Not in Future itself, which would keep its lock.
            if armed and backlog.__file__ in files and not {threading.__file__, BASE} & files:
                armed = False
                within += 1
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGUSR1, interrupt)
        annoyer = begin(FORK, annoy, os.getpid())
        gc.collect()  # as above
        gc.disable()
        try:
            while within < 100:
                executor.submit(wait_for, gate[0])
                tasks._window = 100
                futures = [executor.submit(same, i) for i in range(60)]
                for future in futures[::-2]:
                    try:
                        armed = True
                        future.cancel()
                        armed = False
                    except KeyboardInterrupt:
                        pass
                os.write(gate[1], b"x")
                for i, future in enumerate(futures):
                    assert future.cancelled() or i == future.result(DEADLINE_S)
        finally:
            annoyer.kill()
            annoyer.join()
            signal.signal(signal.SIGUSR1, before)
            gc.enable()
        assert not tasks


def test_shutdown_cancels(gate: tuple[int, int]) -> None:
    """cancel_futures: those that no worker is about to run are cancelled, the others done."""
    executor = shmpool.ProcessPoolExecutor(1, FORK)
    futures = [executor.submit(wait_for, gate[0]) for _ in range(20)]
    executor.shutdown(wait=False, cancel_futures=True)
    os.write(gate[1], b"x" * 20)
    executor.shutdown()
    assert sum(future.cancelled() for future in futures) in (17, 18)
    assert not concurrent.futures.wait(futures, 0).not_done
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(same, 1)


def test_tasks_run_in_order() -> None:
    """One worker runs the tasks of a thread in the order of their submission."""
    ran: list[int] = []
    with shmpool.ProcessPoolExecutor(1, FORK) as executor:
        for i in range(5000):
            executor.submit(same, i).add_done_callback(lambda f: ran.append(f.result()))
    assert list(range(5000)) == ran


def test_submit_from_threads() -> None:
    """Several threads, and callbacks, may submit."""
    with shmpool.ProcessPoolExecutor(2, FORK) as executor:
        more: list[concurrent.futures.Future[int]] = []
        sums: list[int] = []

        def submit() -> None:
            futures = [executor.submit(same, i) for i in range(500)]
            futures[0].add_done_callback(lambda f: more.append(executor.submit(same, 10_000)))
            sums.append(sum(future.result() for future in futures))

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [sum(range(500))] * 4 == sums
        assert [10_000] * 4 == [future.result() for future in more]


class Submits:
    """Submits a task of its own each time that it is pickled."""

    def __init__(self, executor: shmpool.ProcessPoolExecutor) -> None:
        self.executor = executor
        self.futures: list[concurrent.futures.Future[str]] = []

    def __reduce__(self) -> Any:
        self.futures.append(self.executor.submit(same, "inner"))
        return same, ("outer",)


def test_pickling_submits() -> None:
    """An argument may submit while it is pickled."""
    with shmpool.ProcessPoolExecutor(1, FORK) as executor:
        arg = Submits(executor)
        assert "outer" == executor.submit(same, arg).result()
        assert ["inner"] == [future.result() for future in arg.futures]


def append(log: Path, number: int, big: bytes = b"") -> None:
    fd = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{number}\n".encode())
    os.close(fd)


def annoy(pid: int) -> None:
    """Sends the process signals at random times, until it is killed."""
    while True:
        time.sleep(random.uniform(1e-5, 5e-4))
        os.kill(pid, signal.SIGUSR1)


def test_a_signal_handler_submits_and_raises(tmp_path: Path, begin: Begin) -> None:
    """A handler may run at any instruction of submit(): submit itself, and raise. What submit()
    returned is done, nothing runs twice, and the executor goes on."""
    log = tmp_path / "log"
    inner: list[concurrent.futures.Future[str]] = []
    outer: list[concurrent.futures.Future[None]] = []
    within, armed = 0, False
    with shmpool.ProcessPoolExecutor(1, FORK) as executor:

        def interrupt(number: int, frame: types.FrameType | None) -> None:
            nonlocal within, armed
            if not armed:
                return
            armed = False
            inner.append(executor.submit(same, "inner"))
            while frame is not None and frame.f_code.co_filename != shmpool.mp.executor.__file__:
                frame = frame.f_back
            within += frame is not None
            raise KeyboardInterrupt

        executor.submit(same, 0).result()
        before = signal.signal(signal.SIGUSR1, interrupt)
        number = 0
        annoyer = begin(FORK, annoy, os.getpid())
        gc.collect()  # threads and processes of earlier tests are in WeakSets of Python's, whose
        gc.disable()  # callbacks would report the exception
        try:
            while within < 200:
                number += 1
                try:
                    armed = True
                    outer.append(executor.submit(append, log, number))
                    armed = False
                except KeyboardInterrupt:
                    pass
        finally:
            annoyer.kill()
            annoyer.join()
            signal.signal(signal.SIGUSR1, before)
            gc.enable()
        assert {"inner"} == {future.result(DEADLINE_S) for future in inner}
        assert {None} == {future.result(DEADLINE_S) for future in outer}
    ran = [int(line) for line in log.read_text().split()]
    assert len(outer) <= len(ran) == len(set(ran)) <= number


# Workers.


def nested(number: int) -> int:
    with shmpool.ProcessPoolExecutor(2) as executor:
        return sum(executor.map(same, range(number)))


def test_an_executor_in_a_worker(context: shmpool.mp.Context) -> None:
    """A worker may have an executor of its own."""
    with shmpool.ProcessPoolExecutor(1, context) as executor:
        assert 45 == executor.submit(nested, 10).result()


INHERITED: list[shmpool.ProcessPoolExecutor] = []


def use_inherited() -> None:
    INHERITED[0].submit(same, 1)


def test_an_inherited_executor() -> None:
    """A forked process cannot use its parent's executor, and is told so."""
    with shmpool.ProcessPoolExecutor(1, FORK) as executor:
        INHERITED.append(executor)
        with pytest.raises(RuntimeError, match="that of the parent process"):
            executor.submit(use_inherited).result()
        INHERITED.clear()


def test_threads_and_descriptors(eventually: Eventually) -> None:
    """There are two threads, whatever is submitted, and after shutdown() nothing is left."""
    with shmpool.ProcessPoolExecutor(1, FORK) as first:
        first.submit(same, 1).result()
    before = threading.active_count(), descriptors(os.getpid())
    for _ in range(3):
        executor = shmpool.ProcessPoolExecutor(3, FORK)
        for future in [executor.submit(same, i) for i in range(500)]:
            future.result()
        assert before[0] + 2 == threading.active_count()
        executor.shutdown()
        del executor, future
        assert before == (threading.active_count(), descriptors(os.getpid()))


def test_an_executor_that_is_dropped(eventually: Eventually) -> None:
    """Its tasks are done, and its workers end."""
    executor = shmpool.ProcessPoolExecutor(2, FORK)
    futures = [executor.submit(same, i) for i in range(100)]
    processes = list(executor._processes.values())
    del executor
    assert list(range(100)) == [future.result() for future in futures]
    eventually(lambda: not any(process.is_alive() for process in processes))


def test_workers_start_on_demand() -> None:
    """With spawn no worker is started while one is idle."""
    with shmpool.ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as executor:
        for _ in range(3):
            executor.submit(same, 1).result()
        assert 1 == len(executor._processes)


def fail() -> None:
    raise ValueError("no start")


@pytest.mark.parametrize(
    ("initializer", "why"),
    [(fail, "ValueError.*no start"), (lambda: os._exit(0), "could not start.*status 0")],
)
def test_an_initializer_that_fails(
    initializer: Callable[[], None], why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """All tasks raise BrokenProcessPool, and so does submit() from then on."""
    with shmpool.ProcessPoolExecutor(2, FORK, initializer) as executor:
        futures = []
        with contextlib.suppress(BrokenProcessPool):  # the workers may have failed before the last
            for i in range(20):
                futures.append(executor.submit(same, i))
        for future in futures:
            with pytest.raises(BrokenProcessPool, match=why):
                future.result()
        with pytest.raises(BrokenProcessPool, match=why):
            executor.submit(same, 1)


def test_max_tasks_per_child() -> None:
    """A worker does no more tasks than that, and the next one follows."""
    context = multiprocessing.get_context("forkserver")
    with shmpool.ProcessPoolExecutor(1, context, max_tasks_per_child=2) as executor:
        pids = [executor.submit(os.getpid).result() for _ in range(6)]
    assert [1, 1, 1] == [len(set(pids[i : i + 2])) for i in (0, 2, 4)]
    assert 3 == len(set(pids))


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"max_workers": 0}, ValueError, "greater than 0"),
        ({"initializer": 1}, TypeError, "must be a callable"),
        ({"max_tasks_per_child": 0}, ValueError, ">= 1"),
        ({"max_tasks_per_child": 1.5}, TypeError, "must be an integer"),
        ({"max_tasks_per_child": 1, "mp_context": FORK}, ValueError, "incompatible with"),
        ({"retries": -1}, ValueError, "retries is -1"),
        ({"retries": "x"}, TypeError, "retries is 'x'"),
    ],
)
def test_options_that_are_refused(options: Any, error: type[Exception], why: str) -> None:
    """As in concurrent.futures; ours in the same way."""
    with pytest.raises(error, match=why):
        shmpool.ProcessPoolExecutor(**options)


def test_the_header_of_a_message(pool: shmpool.Pool) -> None:
    """A kind, a task and a worker fit into it."""
    buf = calls.write(pool, calls.WAKE, b"x", 1, 0, task=2**62, worker=2**32 - 1)
    assert (calls.WAKE, 2**62, 2**32 - 1) == (buf.flow_hash, buf.timestamp, buf.mark)
    assert backlog.TASKS_MOST < backlog.RESULTS_MOST
    buf.free()


# The end of the program.

EXIT = """
import sys, multiprocessing, shmpool

def say(text):
    sys.stdout.write(text + "\\n")  # at once: another worker writes too
    sys.stdout.flush()

if __name__ == "__main__":
    executor = shmpool.ProcessPoolExecutor(2, multiprocessing.get_context(sys.argv[1]))
    for text in "abc":
        executor.submit(say, text)
    if sys.argv[2] == "shutdown":
        executor.shutdown(wait=False)
"""


@pytest.mark.parametrize("how", ["nothing", "shutdown"])
@pytest.mark.parametrize("method", METHODS)
def test_tasks_are_done_before_exit(method: str, how: str, tmp_path: Path) -> None:
    """A program that ends does its tasks first, as with the standard executor."""
    script = tmp_path / "program.py"
    script.write_text(EXIT)
    done = subprocess.run(
        [sys.executable, script, method, how], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert (0, "", ["a", "b", "c"]) == (done.returncode, done.stderr, sorted(done.stdout.split()))


CLOSED = """
import sys, multiprocessing, shmpool

def same(value):
    return value

if __name__ == "__main__":
    with shmpool.Pool.create(None, buffer_size=1024, capacity=256, queues=8) as pool:
        context = multiprocessing.get_context(sys.argv[1])
        executor = shmpool.ProcessPoolExecutor(2, context, pool=pool)
        print(executor.submit(same, 1).result())
"""


@pytest.mark.parametrize("method", METHODS)
def test_its_pool_is_closed_first(method: str, tmp_path: Path) -> None:
    """The executor is of no use then, and its workers end: the program does too."""
    script = tmp_path / "program.py"
    script.write_text(CLOSED)
    command = [sys.executable, script, method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert (0, "1\n", "") == (done.returncode, done.stdout, done.stderr)


def test_ctrl_c(start: Callable[..., Any]) -> None:
    """SIGINT to the program: its main thread gets KeyboardInterrupt, and it ends."""
    child = start(
        """
        import multiprocessing, os, signal, shmpool
        executor = shmpool.ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
        executor.submit(pow, 2, 2).result()
        try:
            print("ready", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            print(executor.submit(pow, 2, 3).result(), flush=True)
        """
    )
    assert "ready" == child.line()
    os.kill(child.pid, signal.SIGINT)
    assert "8" == child.end().strip()


GROUP = """
import multiprocessing, os, signal, sys, shmpool

def wait(i, begun):
    if i < 2:
        begun.put(i)
        signal.pause()

if __name__ == "__main__":
    os.setpgid(0, 0)
    begun = shmpool.Queue()
    with shmpool.ProcessPoolExecutor(2, multiprocessing.get_context(sys.argv[1])) as executor:
        results = executor.map(wait, range(50), [begun] * 50)
        try:
            print(sorted([begun.get(), begun.get()]))
            os.killpg(0, signal.SIGINT)
            list(results)
        except KeyboardInterrupt:
            print(executor.submit(abs, -1).result())
"""


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_of_a_group(method: str, tmp_path: Path) -> None:
    """Ctrl-C at a terminal, while map() runs: the workers get SIGINT too, and the tasks that they
    run raise KeyboardInterrupt. The executor goes on, and the program ends."""
    script = tmp_path / "program.py"
    script.write_text(GROUP)
    done = subprocess.run(
        [sys.executable, script, method], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert (0, "[0, 1]\n1\n") == (done.returncode, done.stdout), done.stderr
