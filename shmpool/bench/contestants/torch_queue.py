# SPDX-License-Identifier: Apache-2.0
"""torch.multiprocessing.Queue: each message is a tensor of bytes, which torch moves into shared
memory of its own and passes as a file descriptor. At most 64 messages are in a queue.
"""

import queue
import resource
from typing import Any

from ..transport import OneByOne, Receive, Send

CONTEXT = "forkserver"
DEPTH_MAX = 64  # messages: torch moves so few that a run could not end with more in the queue


class TorchQueue(OneByOne):
    library = "torch.multiprocessing.Queue"
    package = module = "torch"
    install = "torch, of which a build for CPUs will do"
    copies = False

    def create(self) -> None:
        self.full, self.empty = (queue.Full,), (queue.Empty,)
        context = self.lib.multiprocessing.get_context(CONTEXT)
        self.queues = self.each(lambda _: context.Queue(min(self.spec.depth, DEPTH_MAX)))

    def remove(self) -> None:
        for channel in getattr(self, "queues", []):
            channel.cancel_join_thread()
            channel.close()

    def _open(self, channel: int) -> Any:
        """Each message on its way needs a file descriptor."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self.lib.set_num_threads(1)
        return self.queues[channel]

    def sender(self, channel: int) -> Send:
        put, tensor, byte = self._open(channel).put, self.lib.frombuffer, self.lib.uint8
        return lambda packet: put(tensor(bytearray(packet), dtype=byte))

    def receiver(self, channel: int, timeout: float) -> Receive:
        get = self._open(channel).get
        return lambda: get(True, timeout).numpy()

    def poller(self, channel: int) -> Receive:
        get = self._open(channel).get_nowait
        return lambda: get().numpy()

    def flush(self) -> None:
        """A separate thread writes to the pipe."""
        for channel in self.queues:
            channel.close()
            channel.join_thread()
