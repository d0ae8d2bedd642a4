# SPDX-License-Identifier: Apache-2.0
"""Calls as messages between an executor and its workers.

A message is an object (objects.py) in a buffer, whose header says what it is:

    flow_hash   a kind: TASK to ERROR
    timestamp   the number of the task
    mark        the number of the worker; 0 in a task that no worker has begun

Tasks go through one queue, everything else through the queue of results. That is also where
recovery puts a task whose worker died. It does so after the death, so behind the result of the
task, if the worker had put one.
"""

from typing import Any

from .._hot import SHORT, Buffer
from ..pool import Pool
from . import objects

TASK = 0  # a function and its arguments. Among the results: its worker died
RESULT = 1  # what the function returned
ERROR = 2  # what it raised
READY = 3  # the worker has started
FAILED = 4  # its initializer raised; the object says what
ENDED = 5  # the worker's process has ended: from the executor to itself
WAKE = 6  # something has changed: from the executor to itself

PART = 32  # free memory is counted each time that this part of the pool has been read


def write(
    pool: Pool, kind: int, message: Any, timeout: float | None, *, task: int = 0, worker: int = 0
) -> Buffer:
    """Returns a buffer with a message of objects.dumps(). Raises as objects.written()."""
    buf = objects.written(pool, message, timeout)
    buf.flow_hash, buf.timestamp, buf.mark = kind, task, worker
    return buf


class Reader:
    """Reads the objects of messages: in place while half of the pool's memory is free, else into
    memory of the process.

    So objects that are kept never take the memory that the next tasks and results need.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._unseen = 0  # bytes read since free memory was counted
        self._copy = False

    def load(self, buf: Buffer) -> Any:
        """Returns the object. Raises what unpickling raises."""
        size = len(buf)
        if size >= SHORT:
            self._unseen += size
            if self._unseen * PART >= self._pool.geometry.room:
                self._unseen, self._copy = 0, self._scarce()
        return objects.loads(buf, self._copy)

    def _scarce(self) -> bool:
        sizes = self._pool.stats().sizes
        used = sum((s.created - s.free - s.cached) * s.buffer_size for s in sizes)
        return used * 2 > self._pool.geometry.room
