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

import bisect
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

PART = 32  # free buffers are counted each time that this part of them has been read


def write(
    pool: Pool, kind: int, message: Any, timeout: float | None, *, task: int = 0, worker: int = 0
) -> Buffer:
    """Returns a buffer with a message of objects.dumps(). Raises as objects.written()."""
    buf = objects.written(pool, message, timeout)
    buf.flow_hash, buf.timestamp, buf.mark = kind, task, worker
    return buf


class Reader:
    """Reads the objects of messages: in place while half of the buffers of their size are free,
    else into memory of the process.

    So objects that are kept never take the memory that the next tasks and results need.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sizes = [c.buffer_size - pool.geometry.headroom for c in pool.geometry.sizes]
        self._capacities = [c.capacity for c in pool.geometry.sizes]
        self._left = [0] * len(self._capacities)  # to be read before the free ones are counted
        self._copy = [False] * len(self._capacities)

    def size_class(self, size: int) -> int:
        """Returns which size class of the pool a message of that many bytes uses; as many as there
        are for a message that is a chain."""
        return bisect.bisect_left(self._sizes, size)

    def load(self, buf: Buffer) -> Any:
        """Returns the object. Raises what unpickling raises."""
        size = len(buf)
        if size < SHORT:
            return objects.loads(buf, True)
        number = self.size_class(size)
        if number == len(self._copy):
            return objects.loads(buf, True)
        self._left[number] -= 1
        if self._left[number] < 0:
            capacity = self._capacities[number]
            sizes = self._pool.stats().sizes[number]
            used = sizes.created - sizes.free - sizes.cached
            self._copy[number] = 2 * used >= capacity
            self._left[number] = capacity // PART
        return objects.loads(buf, self._copy[number])
