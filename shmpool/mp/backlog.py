# SPDX-License-Identifier: Apache-2.0
"""The tasks of an executor on their way to the workers: the backlog, and the queue of tasks.

Any thread adds tasks. A new task is put into the queue at once if there is room, by the thread that
adds it. The rest waits, in order, until the collector (manager.py) moves it.
"""

import contextlib
import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures._base import PENDING, RUNNING
from itertools import repeat
from typing import Any

from .. import errors
from .._hot import Buffer
from ..locks import renewed
from ..pool import Pool
from ..queue import AlfQueue
from . import calls, objects, program

RESULTS_MOST = 65536  # in the queue of results, and tasks of killed workers
TASKS_MOST = 4096  # in the queue of tasks
# So much work is kept in it, and at least a task for each worker and one more: only these cannot be
# cancelled.
AHEAD_S = 0.01
SHARE = 4  # tasks take at most this part of the buffers of a size, so that results find some
# Bytes of tasks that are not done, unless that is less than a task for each worker and one more.
# Buffers are used in turn: with more of them each one has left the processor's caches.
GIVEN_MOST = 16 << 20


class TaskFuture(Future[Any]):
    """The future of a task. It can be cancelled while the workers have not been given the task, or
    can do without it."""

    backlog: "weakref.ref[Backlog]"  # a future that is kept does not keep the queues

    def cancel(self) -> bool:
        if super().cancel():
            return True
        backlog = self.backlog()
        if backlog is None or not self.running():
            return False
        backlog.take_back()
        return super().cancel()


class Task:
    """A future and its call, which is forgotten when it is in shared memory."""

    __slots__ = (
        "buffer", "call", "future", "message", "number", "retries", "size", "size_class", "started",
    )  # fmt: skip

    def __init__(self, number: int, call: tuple[Any, ...], retries: int) -> None:
        self.number = number
        self.call: tuple[Any, ...] | None = call
        self.retries = retries  # left
        self.future = TaskFuture()
        self.started = False  # its future cannot be cancelled any more
        self.message: Any = None  # the call, pickled
        self.size = self.size_class = 0  # of the message
        self.buffer: Buffer | None = None  # released when it is in the queue of tasks

    def is_put(self) -> bool:
        """True once it is in the queue of tasks, until it is taken back."""
        return self.buffer is not None and self.buffer.released

    def finish(self, set_it: Callable[[Any], None], value: object) -> None:
        """Sets the future's result or exception, if the user has not."""
        with contextlib.suppress(InvalidStateError):
            set_it(value)


def make_queues(pool: Pool) -> tuple[AlfQueue, AlfQueue]:
    """Returns the queues of tasks and of results."""
    results = pool.create_queue(program.new_name(), capacity=RESULTS_MOST, memory="on-demand")
    tasks = pool.create_queue(
        program.new_name(),
        capacity=2 * TASKS_MOST,
        on_death="dead-letter",
        dead_letter=results,
    )
    return tasks, results


class Backlog:
    """Tasks that the workers have not done."""

    def __init__(
        self,
        queue: AlfQueue,
        workers: int,
        retries: int,
        wake: Callable[[], None],
    ) -> None:
        """wake lets the collector call fill()."""
        self.lock = renewed(self, "lock", threading.RLock)  # a signal handler, too, may submit
        self.pending: dict[int, Task] = {}  # given to the workers
        self.stuck = False  # there is no memory for the next task
        self._queue = queue
        self._least = self._window = workers + 1  # tasks that are kept in the queue
        self._retries = retries
        self._wake = wake
        self._process = os.getpid()
        self._weakly = weakref.ref(self)
        self._waiting: deque[Task] = deque()
        self._taken: deque[Buffer] = deque()  # back from the queue
        self._filling = False
        self._numbers = itertools.count(1)
        self._share = [
            max(min(c.capacity // SHARE, max(GIVEN_MOST // c.buffer_size, workers + 1)), 1)
            for c in queue.pool.geometry.sizes
        ] + [1]
        self._given = [0] * len(self._share)  # buffers put into the queue, by size class
        self._back = [0] * len(self._share)  # of these, the tasks that came back

    def __bool__(self) -> bool:
        """True if any task is not done."""
        return bool(self._waiting or self.pending)

    def add(self, call: tuple[Any, ...]) -> "Future[Any]":
        """Adds a task, and puts it into the queue if it is its turn. Returns its future.

        May be interrupted at any instruction, by a signal handler that adds a task or raises, and
        may be called by what is pickled. Takes no lock of a future: an interruption could keep it.
        """
        task = Task(next(self._numbers), call, self._retries)
        task.future.backlog = self._weakly
        if not self._waiting and not self._filling and len(self._queue) < self._window:
            task.future._state = RUNNING  # nobody else knows it
            task.started = True
        self._waiting.append(task)
        if task.started:
            self._put(started_only=True)
        elif not self.pending:
            self._wake()
        return task.future

    def again(self, task: Task) -> None:
        """Adds a task whose worker died, before all others."""
        task.retries -= 1
        task.buffer = None
        with self.lock:
            self._remove_put()
            self._waiting.appendleft(task)

    def fill(self) -> None:
        """Moves tasks into the queue until that has enough."""
        self._put(started_only=False)

    def keep_ahead(self, done: int, seconds: float) -> None:
        """Adapts how many tasks are in the queue to how many were done in that time."""
        ahead = int(AHEAD_S * done / max(seconds, 1e-6))
        self._window = min(self._least + ahead, TASKS_MOST)

    def take_back(self) -> None:
        """Takes tasks back that no worker has taken, so that they can be cancelled.

        Leaves the workers the least that they are given. May be interrupted as add().
        """
        if self._process != os.getpid():  # the queue is the parent's
            return
        with self.lock:
            if self._filling:
                return
            self._window = self._least
            try:
                with contextlib.suppress(errors.ShmpoolError):  # it is shut down, or closed
                    # One call of C, like that of a worker: no exception gets in between.
                    self._taken.extend(iter(self._queue.try_get, None))
                self._put(started_only=True)
                for task in itertools.takewhile(lambda task: task.started, self._waiting):
                    never_ran = task.retries == self._retries and not task.is_put()
                    if never_ran and task.future._state == RUNNING:
                        task.future._state = PENDING  # nobody else changes it now
                        task.started = False
            finally:
                self._wake()

    def _remove_put(self) -> None:
        """Removes a task that was put, by a call that was interrupted before it removed it: it must
        not be here too when it is taken back."""
        while self._waiting and self._waiting[0].is_put():
            self._waiting.popleft()

    def _keep_taken(self) -> None:
        """Puts what was taken back before all other tasks. Goes on where it was interrupted."""
        for buf in self._taken:
            task = self.pending.get(buf.timestamp)
            if task is not None:
                task.buffer = buf
        numbers = [buf.timestamp for buf in reversed(self._taken)]
        # One call of C, again: a task is in one of the two, and not in both.
        self._waiting.extendleft(filter(None, map(self.pending.pop, numbers, repeat(None))))
        self._taken.clear()

    def end(self, number: int) -> Task | None:
        """Returns a task that was given to the workers, and that they have no more."""
        task = self.pending.pop(number, None)
        if task is not None:
            self._back[task.size_class] += 1
        return task

    def cancel(self) -> None:
        """Cancels the tasks that are not in the queue, except those that are to be retried."""
        self.take_back()
        with self.lock:
            cancelled = [task for task in self._waiting if not task.started]
            started = [task for task in self._waiting if task.started]
            self._waiting.clear()
            self._waiting.extend(started)
        for task in cancelled:
            if task.future.cancel():
                task.future.set_running_or_notify_cancel()

    def fail(self, make_error: Callable[[], Exception]) -> None:
        """Fails all tasks that are not done."""
        with self.lock:
            left = [*self.pending.values(), *self._waiting]
            self.pending.clear()
            self._waiting.clear()
        for task in left:
            if task.started or task.future.set_running_or_notify_cancel():
                task.finish(task.future.set_exception, make_error())

    def _put(self, started_only: bool) -> None:
        with self.lock:
            if self._filling:
                return
            self._filling = True
            try:
                self._remove_put()
                if self._taken:
                    self._keep_taken()
                while self._waiting and len(self._queue) < self._window:
                    task = self._waiting[0]
                    if not task.started and started_only:
                        self._wake()
                        return
                    if not self._give(task):
                        return
                    self._waiting.popleft()
            except BaseException:
                self._wake()
                raise
            finally:
                self._filling = False

    def _give(self, task: Task) -> bool:
        """Puts a task into the queue. Returns false if there is no memory for it now.

        What cannot be pickled, or is too large, raises in the future.
        """
        if not task.started:
            if not task.future.set_running_or_notify_cancel():
                return True
            task.started = True
        if task.buffer is None:
            try:
                if task.message is None:
                    task.message = objects.dumps(task.call)
                    task.size = objects.size_of(task.message)
                    task.size_class = self._queue.pool.geometry.size_class(task.size)
                n = task.size_class
                if self._given[n] - self._back[n] >= self._share[n]:
                    # Counted again: an interruption may have left out one.
                    given = [one for one in list(self.pending.values()) if one.size_class == n]
                    self._back[n] = self._given[n] - len(given)
                    if len(given) >= self._share[n]:
                        return False  # until one comes back
                task.buffer = calls.write(
                    self._queue.pool, calls.TASK, task.message, task.size, 0, task=task.number
                )
            except errors.PoolExhausted:
                self.stuck = True
                self._wake()
                return False
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                task.finish(task.future.set_exception, error)
                return True
            task.message = None
            if not task.retries:
                task.call = None
        if not task.is_put():  # else interrupted after the put
            self.pending[task.number] = task
            self._queue.put(task.buffer, 0)
            self._given[task.size_class] += 1
        self.stuck = False
        return True
