# SPDX-License-Identifier: Apache-2.0
"""ProcessPoolExecutor: that of concurrent.futures, with workers that may die.

What the user holds. Not in here: tasks and workers (manager.py).
"""

import itertools
import multiprocessing
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from ..options import at_least
from ..pool import Pool
from .manager import Manager

T = TypeVar("T")


class ProcessPoolExecutor(Executor):
    """concurrent.futures.ProcessPoolExecutor over shared memory.

    Arguments and results travel through a pool; arrays in them are read in place. A worker that is
    killed, or ends by itself, costs only the task that it ran, whose future raises WorkerDied, and
    is replaced.

    max_workers          processes; None: as many as there are processors
    mp_context           a context of multiprocessing; None: the default one
    initializer          called with initargs in each new worker; if it raises, the executor is
                         unusable (BrokenProcessPool)
    max_tasks_per_child  a worker is replaced after so many tasks; None: never. Not with fork
    retries              how often a task is tried again whose worker died
    pool                 a Pool for the arguments and results, in place of one of its own

    >>> import shmpool
    >>> with shmpool.ProcessPoolExecutor(2) as executor:
    ...     print(executor.submit(pow, 2, 10).result(), list(executor.map(abs, [-1, -2])))
    1024 [1, 2]
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        retries: int = 0,
        pool: Pool | None = None,
    ) -> None:
        if max_workers is None:
            max_workers = getattr(os, "process_cpu_count", os.cpu_count)() or 1
        elif max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
            mp_context = mp_context or multiprocessing.get_context("spawn")
            if mp_context.get_start_method(allow_none=False) == "fork":
                raise ValueError(
                    "max_tasks_per_child is incompatible with the start method 'fork'; "
                    "give another mp_context"
                )
        self._mp_context = mp_context or multiprocessing.get_context()
        self._max_workers = max_workers
        self._manager = Manager(
            self._mp_context,
            max_workers,
            initializer,
            initargs,
            max_tasks_per_child,
            at_least(retries, 0, "retries"),
            pool,
        )
        weakref.finalize(self, self._manager.end).atexit = False

    @property
    def _processes(self) -> dict[int, Any]:
        """The workers' processes by pid, as code expects that inspects the standard one."""
        return self._manager.processes

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Runs fn(*args, **kwargs) in a worker. Returns its Future.

        The future raises what the call raises; what cannot be pickled, on either side, raises
        there too. WorkerDied: the worker died, and the task's retries are used up.

        Raises:
            RuntimeError: after shutdown().
            BrokenProcessPool: workers cannot start: their initializer raised, for example.
        """
        return self._manager.submit((fn, args, kwargs))

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """As map(fn, *iterables), in the workers; results come in order.

        timeout     seconds from now, for each result: TimeoutError
        chunksize   so many calls make one task
        buffersize  the most chunks that are submitted and not yet yielded; None: all are submitted
                    now. In concurrent.futures from Python 3.14 on
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None:
            buffersize = at_least(buffersize, 1, "buffersize")
        deadline = None if timeout is None else time.monotonic() + timeout
        calls = zip(*iterables, strict=False)
        chunks = iter(lambda: tuple(itertools.islice(calls, chunksize)), ())
        first = itertools.islice(chunks, buffersize)
        futures = deque(self.submit(_call_each, fn, chunk) for chunk in first)
        executor = weakref.ref(self)  # an iterator does not keep the executor

        def submit_next() -> None:
            owner = executor()
            if owner is not None and (chunk := next(chunks, None)) is not None:
                futures.append(owner.submit(_call_each, fn, chunk))

        return _results(futures, deadline, None if buffersize is None else submit_next)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more tasks, and ends the workers when all tasks are done. May be repeated.

        wait            returns when that is so
        cancel_futures  cancels the tasks that no worker is about to run
        """
        self._manager.end(cancel_futures)
        if wait:
            self._manager.join()


def _call_each(fn: Callable[..., T], chunk: Iterable[tuple[Any, ...]]) -> list[T]:
    return [fn(*args) for args in chunk]


def _results(
    futures: "deque[Future[list[T]]]",
    deadline: float | None,
    submit_next: Callable[[], None] | None,
) -> Iterator[T]:
    """Yields the results of chunks in order. Keeps no reference to what it has yielded."""
    try:
        while futures:
            if submit_next is not None:
                submit_next()
            left = None if deadline is None else deadline - time.monotonic()
            chunk = _result_of(futures, left)
            chunk.reverse()
            while chunk:
                yield chunk.pop()
    finally:
        for future in futures:
            future.cancel()


def _result_of(futures: "deque[Future[list[T]]]", left: float | None) -> list[T]:
    try:
        return futures[0].result(left)
    finally:
        futures.popleft().cancel()
