# SPDX-License-Identifier: Apache-2.0
"""A worker process of an executor: takes tasks, runs them, puts results.

A worker holds the buffer of its task until it has put the result. So the kernel and recovery say
which task a killed worker had, at whatever instruction.
"""

import functools
import itertools
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import _base
from concurrent.futures.process import _ExceptionWithTraceback as _Remote
from dataclasses import dataclass
from typing import Any

from .. import errors
from .._hot import Buffer
from ..leases import Leases, leases_of
from ..queue import AlfQueue
from . import calls, objects

IDLE_S = 1.0  # a worker that waits asks so often whether the executor's process still exists


@dataclass(frozen=True)
class Orders:
    """What an executor gives each of its workers."""

    tasks: AlfQueue
    results: AlfQueue
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    most: int | None  # tasks for one worker
    served: bool  # by a forkserver: the parent process is not the executor's


# The worker's leases. They must outlive work() that an exception ends: a task that it has not done
# is given to another worker by process_exit, which CPython 3.13 runs after the frame is gone.
_held: Leases | None = None


def work(orders: Orders, number: int) -> None:
    """The main function of a worker process."""
    tasks = orders.tasks
    send = _Sender(orders, number)
    if orders.initializer is not None:
        try:
            orders.initializer(*orders.initargs)
        except BaseException as error:
            _base.LOGGER.critical("Exception in initializer:", exc_info=True)
            send(calls.FAILED, repr(error))
            return
    send(calls.READY, None)
    reader = calls.Reader(tasks.pool)
    global _held
    held = _held = leases_of(tasks.name)
    # Takes and keeps a task in one call of C: an exception of a signal handler in between would
    # free the buffer, and with it the task.
    messages = iter(functools.partial(tasks.get, IDLE_S), None)
    numbers = itertools.count() if orders.most is None else range(orders.most)
    for _ in numbers:
        try:
            while not held:
                try:
                    held.extend(itertools.islice(messages, 1))
                except errors.Empty:
                    send.leave_if_orphaned()
        except errors.ShutDown:
            return
        held[0].mark = number
        _run(held[0], reader, send)
        held.popleft()._settle()


def _run(buf: Buffer, reader: calls.Reader, send: "_Sender") -> None:
    """Runs a task and sends its result."""
    task = buf.timestamp
    try:
        call, args, kwargs = reader.load(buf)
        kind, value = calls.RESULT, call(*args, **kwargs)
    except BaseException as error:
        kind, value = calls.ERROR, _remote(error)
    send(kind, value, task)


def _remote(error: BaseException) -> Any:
    """Returns what arrives as the exception, with its traceback as text."""
    return _Remote(error, error.__traceback__)  # type: ignore[arg-type]


class _Sender:
    """Sends messages to the executor."""

    def __init__(self, orders: Orders, number: int) -> None:
        self._orders = orders
        self._number = number

    def __call__(self, kind: int, value: object, task: int = 0) -> None:
        """Sends a message; if it cannot be pickled, or is too large, the error instead of it."""
        try:
            self._send(kind, value, task)
        except BaseException as error:
            if kind == calls.ERROR:  # the exception that the task raised cannot be pickled
                error = RuntimeError(f"{value.exc!r}; it cannot be sent: {error!r}")  # type: ignore[attr-defined]
            self._send(calls.ERROR, _remote(error), task)

    def _send(self, kind: int, value: object, task: int) -> None:
        message, results = objects.dumps(value), self._orders.results
        size = objects.size_of(message)
        while True:
            try:
                buf = calls.write(
                    results.pool, kind, message, size, IDLE_S, task=task, worker=self._number
                )
                break
            except errors.PoolExhausted:
                self.leave_if_orphaned()
                if self._orders.tasks.ended:  # nobody waits for it
                    return
        results.put(buf)

    def leave_if_orphaned(self) -> None:
        """Ends this process if that of the executor has ended."""
        parent = multiprocessing.parent_process()
        assert parent is not None  # noqa: S101
        if not parent.is_alive() if self._orders.served else os.getppid() != parent.pid:
            raise SystemExit
