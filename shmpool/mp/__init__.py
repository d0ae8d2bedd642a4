# SPDX-License-Identifier: Apache-2.0
"""The queues of multiprocessing, over shared memory: Queue, JoinableQueue, SimpleQueue.

`from shmpool import Queue` in place of `from multiprocessing import Queue` is the whole migration;
get_context() is for code that takes a context. docs/drop-in-queue.md lists what differs.
"""

from .context import Context, get_context
from .queues import JoinableQueue, Queue, SimpleQueue

__all__ = ["Context", "JoinableQueue", "Queue", "SimpleQueue", "get_context"]
