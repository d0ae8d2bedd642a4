# SPDX-License-Identifier: Apache-2.0
"""What is behind an executor: its tasks, its workers, and two threads.

One file: the threads and the calls of the user share one state, under one lock.

One thread collects the messages of the workers and is the only one that changes what is known of
workers. The other one waits for the ends of processes: it recovers what a dead worker
held and says so with a message, as workers do. No thread waits for a worker.

    submit() --backlog--> queue of tasks --> workers --> queue of results --> collector
                                                |                                 ^
                                                +-- end --> watcher, recovery ----+

A task is in the backlog (backlog.py), in the queue of tasks, held by a worker, or in the queue of
results: there as a result, or as the task again because its worker died.
"""

import contextlib
import itertools
import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Any

from .. import errors
from .._hot import Buffer
from ..locks import renewed
from ..pool import Pool
from . import calls, program
from .backlog import Backlog, Task, make_queues
from .worker import Orders, work

BATCH = 256  # messages between two looks at the backlog
RETRY_S = 0.05  # between two tries to find memory for a task
STARTS_MOST = 100  # workers killed while they start, one after the other, until that is an error
ENDED_MOST = 1024  # ended workers whose exit codes are remembered

AFTER = "cannot schedule new futures after "
IN_CHILD = "this executor is that of the parent process; make one in this process"


class Alarm:
    """A descriptor that is readable from ring() on. Any thread may ring it, closed or not."""

    def __init__(self) -> None:
        self._lock = renewed(self, "_lock", threading.RLock)  # a signal handler, too, may ring
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ring(self) -> None:
        with self._lock:
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def close(self) -> None:
        with self._lock:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)


class Worker:
    """A worker process, until its end has been dealt with."""

    def __init__(self, process: BaseProcess) -> None:
        self.process = process
        self.ready = False
        self.failure = ""  # why its initializer failed
        self.done = 0  # tasks
        self.retired = False  # it has done all tasks it may do
        self.lost: list[Task] = []  # came back before its end was known


class Manager:
    """The state of an executor, which its threads keep and the user's object does not need."""

    def __init__(
        self,
        context: Any,
        workers: int,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        most: int | None,
        retries: int,
        pool: Pool | None,
    ) -> None:
        self._context = context
        self._method = context.get_start_method(allow_none=False)
        self._workers_most = workers
        self._most = most
        queues = program.in_memory(make_queues) if pool is None else make_queues(pool)
        self._queue, self._results = queues
        self._pool = self._queue.pool
        self._reader = calls.Reader(self._pool)
        self._alarm = Alarm()
        self._tasks = Backlog(self._queue, workers, retries, self._alarm.ring)
        # What the executor says to itself travels in one buffer that it keeps: so it needs no
        # memory when the program itself has all of it.
        self._notes: deque[tuple[int, int]] = deque()  # to be put: kinds, and workers
        self._carrier: Buffer | None = calls.write(self._pool, calls.WAKE, b"", 0, 0)
        served = self._method == "forkserver"
        self._orders = Orders(*queues, initializer, initargs, most, served)
        self.refusal: tuple[type[Exception], str] | None = None  # what submit() raises
        self._ending = False  # no task will be submitted any more
        self._closing = False  # and all are done: the workers end
        self._at = 0.0  # when messages were taken

        self.processes: dict[int, BaseProcess] = {}  # by pid
        self._workers: dict[int, Worker] = {}
        self._worker_numbers = itertools.count(1)
        self._idle = 0  # workers that have no task to come
        self._starts = 0  # workers killed while they started, since the last one that did not
        self._ended: dict[int, tuple[int | None, int | None]] = {}  # pid and exit code, by number

        self.collector: threading.Thread | None = None
        self._ends: dict[int, int] = {}  # workers, by the descriptor that says when they end
        self._epoll = select.epoll()
        self._epoll.register(self._alarm.fd, select.EPOLLIN)
        _managers.add(weakref.ref(self, _managers.discard))

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it was never complete
            self._close()

    def _close(self) -> None:
        self._epoll.close()
        self._alarm.close()
        self._carrier = None

    # Called by the threads of the user.

    def submit(self, call: tuple[Any, ...]) -> "Future[Any]":
        """Returns the future of a call: function, arguments, keyword arguments."""
        with self._tasks.lock:
            if self.refusal is not None:
                raise self.refusal[0](self.refusal[1])
            self._provide_workers()
            return self._tasks.add(call)

    def end(self, cancel: bool = False) -> None:
        """Lets the workers end when all tasks are done; with cancel, without the backlog."""
        with self._tasks.lock:
            if self.refusal is None:
                self.refusal = RuntimeError, AFTER + "shutdown"
            self._ending = True
        if cancel:
            self._tasks.cancel()
        self._alarm.ring()

    def join(self) -> None:
        """Waits until the workers and threads have ended."""
        collector = self.collector
        if collector is not None and collector is not threading.current_thread():
            collector.join()

    def _provide_workers(self) -> None:
        """Starts a worker if none is idle; if processes are forked all, before there are threads.

        Raises OSError if none can be started, BrokenProcessPool if no thread can.
        """
        if self.collector is None:
            if self._method == "fork":
                while len(self._workers) < self._workers_most:
                    try:
                        self._start_worker()
                    except OSError:
                        if not self._workers:
                            raise
                        break  # the executor goes on with fewer
            self._start_threads()
        if self._method == "fork":
            return
        if self._idle:
            self._idle -= 1
        elif len(self.processes) < self._workers_most:
            self._start_worker()

    def _start_threads(self) -> None:
        self._watcher = threading.Thread(target=self._watch, name="shmpool-watcher")
        collector = threading.Thread(target=self._collect, name="shmpool-collector")
        try:
            self._watcher.start()
            collector.start()
        except RuntimeError as error:  # Python is about to exit
            self._break(f"a thread could not be started: {error}")
            self._dismiss()
            raise BrokenProcessPool(f"a thread could not be started: {error}") from error
        self.collector = collector

    # Workers.

    def _start_worker(self) -> None:
        number = next(self._worker_numbers)
        process = self._context.Process(target=work, args=(self._orders, number))
        process.start()
        self._workers[number] = Worker(process)
        self.processes[process.pid] = process
        end = process.sentinel
        if self._method != "forkserver":  # a sentinel is readable only after its heirs' ends, too
            with contextlib.suppress(OSError):
                end = os.pidfd_open(process.pid)
        self._ends[end] = number
        self._epoll.register(end, select.EPOLLIN)

    def _watch(self) -> None:
        """The watcher's thread: says when processes end."""
        try:
            while not self._closing or self._ends:
                for end, _ in self._epoll.poll(RETRY_S if self._tasks.stuck else None):
                    if end == self._alarm.fd:
                        os.eventfd_read(end)
                        self._note(calls.WAKE)
                        continue
                    self._epoll.unregister(end)
                    number = self._ends.pop(end)
                    if end != self._workers[number].process.sentinel:
                        os.close(end)
                    self._pool.recover()
                    self._note(calls.ENDED, number)
                if self._tasks.stuck:
                    self._note(calls.WAKE)
        except BaseException as error:
            self._break(f"the thread that watches its workers failed: {error!r}")
            with contextlib.suppress(errors.ShmpoolError):  # the pool is closed
                for number, worker in list(self._workers.items()):
                    worker.process.join()
                    self._note(calls.ENDED, number)
                self._note(calls.WAKE)

    def _note(self, kind: int, worker: int = 0) -> None:
        """Says something to the collector, behind all that is in the queue of results."""
        with self._tasks.lock:
            self._notes.append((kind, worker))
            self._send_note()

    def _send_note(self) -> None:
        """Puts a note, if the carrier is not under way; else the collector does when it is back."""
        with self._tasks.lock:
            if self._notes and self._carrier is not None:
                buf, self._carrier = self._carrier, None
                buf.flow_hash, buf.mark = self._notes.popleft()
                self._results.put(buf, 0)

    # The collector's thread.

    def _collect(self) -> None:
        try:
            while self._workers or not self._closing:
                done = self._take()
                now = time.monotonic()
                if done:
                    self._tasks.keep_ahead(done, now - self._at)
                self._at = now
                self._tasks.fill()
                if self._ending:
                    self._close_if_done()
        except BaseException as error:
            self._break(f"the thread that collects its results failed: {error!r}")
            self._dismiss()
        finally:
            self._watcher.join()
            self._close()
            with contextlib.suppress(errors.ShmpoolError):  # the pool is closed
                self._results.drain()

    def _take(self) -> int:
        """Waits for messages and handles them. Returns how many tasks are done by them."""
        buf: Buffer | None = self._results.get()
        done = seen = 0
        while buf is not None:
            kind = buf.flow_hash
            if kind in (calls.RESULT, calls.ERROR):
                done += self._handle_result(buf, kind == calls.ERROR)
            elif kind == calls.TASK:
                self._handle_lost(buf)
            else:
                self._handle_worker(buf, kind)
            seen += 1
            buf = self._results.try_get() if seen < BATCH else None
        return done

    def _handle_result(self, buf: Buffer, failed: bool) -> bool:
        """Returns whether the result is the first one of its task."""
        task = self._tasks.end(buf.timestamp)
        if task is None:  # an interrupted worker has sent two
            buf.free()
            return False
        worker = self._workers[buf.mark]
        worker.done += 1
        if worker.done == self._most:
            worker.retired = True
            self.processes.pop(worker.process.pid or 0, None)
            self._replace()
        self._idle += 1
        finish: Callable[[Any], None] = task.future.set_result
        try:
            value = self._reader.load(buf)
            if failed:
                finish = task.future.set_exception
        except BaseException as error:
            error.add_note("The result of the task could not be read.")
            finish, value = task.future.set_exception, error
        buf._settle()  # its memory stays while the object lives
        task.finish(finish, value)
        return True

    def _handle_lost(self, buf: Buffer) -> None:
        """A task came back, because its worker died."""
        task = self._tasks.pending.get(buf.timestamp)
        if task is None:  # the worker had put the result
            buf.free()
        elif not buf.mark:  # the worker had not begun
            self._queue.put(buf, 0)
        else:
            number = buf.mark
            buf.free()
            if number in self._workers:  # the watcher does not know yet
                self._workers[number].lost.append(task)
            else:
                self._lose(task, *self._ended.get(number, (None, None)))

    def _lose(self, task: Task, pid: int | None, exitcode: int | None) -> None:
        """Tries a task again whose worker died, or fails it."""
        if self._tasks.end(task.number) is None:  # the executor broke in between
            return
        if task.retries:
            self._tasks.again(task)
            return
        self._idle += 1
        error = errors.WorkerDied(f"the worker that ran the task, {_death(pid, exitcode)}")
        error.pid, error.exitcode = pid, exitcode
        task.finish(task.future.set_exception, error)

    def _handle_worker(self, buf: Buffer, kind: int) -> None:
        number = buf.mark
        if kind in (calls.WAKE, calls.ENDED):
            self._carrier = buf
            self._send_note()
            if kind == calls.ENDED:
                self._handle_end(number)
            return
        with self._tasks.lock:  # a thread that starts the worker may not have noted it yet
            worker = self._workers[number]
        if kind == calls.READY:
            worker.ready = True
            self._starts = 0
        elif kind == calls.FAILED:
            worker.failure = f"the initializer of a worker raised {self._reader.load(buf)}"
        buf.free()

    def _handle_end(self, number: int) -> None:
        """A worker has ended. What it had put, and what it held, came before this, or comes yet."""
        worker = self._workers.pop(number)
        process = worker.process
        process.join()
        pid, exitcode = process.pid, process.exitcode
        if len(self._ended) >= ENDED_MOST:
            del self._ended[next(iter(self._ended))]
        self._ended[number] = pid, exitcode
        self.processes.pop(pid or 0, None)
        for task in worker.lost:
            self._lose(task, pid, exitcode)
        if worker.retired or self._closing:
            return
        if worker.failure:  # not before: it may have said more, in a log
            self._break(worker.failure)
            return
        self._starts += not worker.ready
        by_itself = not worker.ready and exitcode is not None and exitcode >= 0
        if by_itself or self._starts > STARTS_MOST:
            self._break(f"a worker could not start: {_death(pid, exitcode)}")
        else:
            self._replace()

    def _replace(self) -> None:
        """Starts a worker in place of one that ended; with fewer workers the executor goes on."""
        with self._tasks.lock:
            if self._closing or (self._ending and not self._tasks):
                return
            try:
                self._start_worker()
            except OSError as error:
                if not self.processes:
                    self._break(f"no worker could be started: {error}")

    def _close_if_done(self) -> None:
        with self._tasks.lock:
            if not self._tasks and not self._closing:
                self._closing = True
                self._queue.shutdown()
                self._alarm.ring()

    def _break(self, why: str) -> None:
        """Fails all tasks, and ends the workers."""
        with self._tasks.lock:
            self.refusal = BrokenProcessPool, f"the executor is not usable: {why}"
            self._ending = self._closing = True
        text = self.refusal[1]
        self._tasks.fail(lambda: BrokenProcessPool(text))
        for worker in list(self._workers.values()):
            worker.process.terminate()
        with contextlib.suppress(errors.ShmpoolError):  # the pool is closed
            self._queue.shutdown(immediate=True)
        self._alarm.ring()

    def _dismiss(self) -> None:
        """Waits for the ends of all workers, where the collector cannot."""
        for worker in list(self._workers.values()):
            worker.process.join()


def _death(pid: int | None, exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"process {pid}, was killed by signal {-exitcode}"
    return f"process {pid}, ended" + (f" with status {exitcode}" if exitcode is not None else "")


# No WeakSet: its callback is in Python, and an exception of a signal handler is lost in a callback.
_managers: "set[weakref.ref[Manager]]" = set()


def _existing() -> list[Manager]:
    return [manager for known in list(_managers) if (manager := known()) is not None]


def _at_exit() -> None:
    """Lets every executor do its tasks before the interpreter ends, as the standard one does."""
    for manager in (managers := _existing()):
        manager.refusal = manager.refusal or (RuntimeError, AFTER + "interpreter shutdown")
        manager.end()
    for manager in managers:
        manager.join()


def _in_child() -> None:
    for manager in _existing():
        manager.refusal, manager.collector = (RuntimeError, IN_CHILD), None
    _managers.clear()


# Before the threads that are no daemons are joined; atexit would be behind that.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
os.register_at_fork(after_in_child=_in_child)
