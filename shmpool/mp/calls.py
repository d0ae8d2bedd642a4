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
from ..stats import read_size
from . import objects

TASK = 0  # a function and its arguments. Among the results: its worker died
RESULT = 1  # what the function returned
ERROR = 2  # what it raised
READY = 3  # the worker has started
FAILED = 4  # its initializer raised; the object says what
ENDED = 5  # the worker's process has ended: from the executor to itself
WAKE = 6  # something has changed: from the executor to itself

PART = 32  # free buffers are counted each time that this part of them has been read


def write(
    pool: Pool,
    kind: int,
    message: Any,
    size: int,
    timeout: float | None,
    *,
    task: int = 0,
    worker: int = 0,
) -> Buffer:
    """Returns a buffer with a message of objects.dumps(), which has size bytes. Raises as
    objects.written()."""
    buf = objects.written(pool, message, size, timeout)
    buf.flow_hash, buf.timestamp, buf.mark = kind, task, worker
    return buf


class Reader:
    """Reads the objects of messages: in place while half of the buffers of their size are free,
    else into memory of the process.

    So objects that are kept never take the memory that the next tasks and results need.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        n = len(pool.geometry.sizes)
        self._left = [0] * n  # to be read before the free ones are counted
        self._copy = [False] * n

    def load(self, buf: Buffer) -> Any:
        """Returns the object. Raises what unpickling raises."""
        size = len(buf)
        if size < SHORT:
            return objects.loads(buf, True)
        number = self._pool.geometry.size_class(size)
        if number == len(self._copy):
            return objects.loads(buf, True)
        self._left[number] -= 1
        if self._left[number] < 0:
            size_of = read_size(self._pool._number, self._pool.geometry, number)
            used = size_of.created - size_of.free - size_of.cached
            self._copy[number] = 2 * used >= size_of.capacity
            self._left[number] = size_of.capacity // PART
        return objects.loads(buf, self._copy[number])
