# SPDX-License-Identifier: Apache-2.0
"""What multiprocessing has, over shared memory: Queue, JoinableQueue, SimpleQueue, and the
executor of concurrent.futures: ProcessPoolExecutor.

`from shmpool import Queue` in place of `from multiprocessing import Queue` is the whole migration;
get_context() is for code that takes a context. docs/drop-in-queue.md lists what differs.
"""

from .context import Context, get_context
from .executor import ProcessPoolExecutor
from .queues import JoinableQueue, Queue, SimpleQueue

__all__ = [
    "Context",
    "JoinableQueue",
    "ProcessPoolExecutor",
    "Queue",
    "SimpleQueue",
    "get_context",
]
