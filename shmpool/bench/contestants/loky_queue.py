# SPDX-License-Identifier: Apache-2.0
"""loky, joblib's executor: the queue through which it passes tasks and results. It is that of
multiprocessing with a pickler of its own.
"""

import queue

from ..workers import context
from . import stdlib


class Queue(stdlib.Queue):
    library = "loky Queue"
    package = module = "loky"

    def create(self) -> None:
        self.full, self.empty = (queue.Full,), (queue.Empty,)
        make = self.lib.backend.queues.Queue
        self.queues = self.each(lambda _: make(self.spec.depth, ctx=context()))
