# SPDX-License-Identifier: Apache-2.0
"""What comes with Python: multiprocessing's Queue, SimpleQueue and Pipe, and a hand-written ring
in multiprocessing.shared_memory.
"""

import queue
from functools import partial
from multiprocessing.shared_memory import SharedMemory

from ..transport import OneByOne, Receive, Send, Shape
from ..workers import context


class Queue(OneByOne):
    library = "multiprocessing.Queue"

    def create(self) -> None:
        self.full, self.empty = (queue.Full,), (queue.Empty,)
        self.queues = self.each(lambda _: context().Queue(self.spec.depth))

    def remove(self) -> None:
        for channel in getattr(self, "queues", []):
            channel.cancel_join_thread()
            channel.close()

    def sender(self, channel: int) -> Send:
        return self.queues[channel].put

    def receiver(self, channel: int, timeout: float) -> Receive:
        return partial(self.queues[channel].get, True, timeout)

    def poller(self, channel: int) -> Receive:
        return self.queues[channel].get_nowait

    def flush(self) -> None:
        """A separate thread writes to the pipe."""
        for channel in self.queues:
            channel.close()
            channel.join_thread()


class SimpleQueue(OneByOne):
    library = "multiprocessing.SimpleQueue"

    def create(self) -> None:
        self.queues = self.each(lambda _: context().SimpleQueue())

    def remove(self) -> None:
        for channel in getattr(self, "queues", []):
            channel.close()

    def sender(self, channel: int) -> Send:
        return self.queues[channel].put

    def receiver(self, channel: int, timeout: float) -> Receive:
        return self.queues[channel].get

    def poller(self, channel: int) -> Receive:
        get, empty = self.queues[channel].get, self.queues[channel].empty
        return lambda: None if empty() else get()

    def wake(self) -> None:
        for channel in self.queues:
            for _ in range(2 * (self.spec.consumers + self.spec.replacements)):
                channel.put(None)


class Pipe(OneByOne):
    library = "multiprocessing.Pipe"
    shape = Shape.LINK

    def create(self) -> None:
        self.pipes = self.each(lambda _: context().Pipe(duplex=False))

    def remove(self) -> None:
        for reader, writer in getattr(self, "pipes", []):
            reader.close()
            writer.close()

    def sender(self, channel: int) -> Send:
        return self.pipes[channel][1].send_bytes

    def receiver(self, channel: int, timeout: float) -> Receive:
        receive = self.pipes[channel][0].recv_bytes
        return lambda: receive() or None

    def poller(self, channel: int) -> Receive:
        receive, ready = self.pipes[channel][0].recv_bytes, self.pipes[channel][0].poll
        return lambda: receive() if ready() else None

    def wake(self) -> None:
        for _, writer in self.pipes:
            for _ in range(2):
                writer.send_bytes(b"")


class Ring(OneByOne):
    """Fixed slots and two positions, each on its own cache line and written by one side only.

    Correct only where stores become visible in program order, as on x86.
    """

    library = "shared_memory"
    call = "ring by hand"
    shape = Shape.LINK
    polls = True
    blocks = False
    HEAD, TAIL, SLOTS = 0, 8, 128  # offsets: positions in 8-byte words, slots in bytes

    def create(self) -> None:
        self._opened: list[tuple[SharedMemory, tuple[memoryview, memoryview]]] = []
        size = self.SLOTS + self.spec.depth * self.spec.size
        self.memories = self.each(lambda c: SharedMemory(self.name(c), create=True, size=size))

    def remove(self) -> None:
        for memory in getattr(self, "memories", []):
            memory.close()
            memory.unlink()

    def _open(self, channel: int) -> tuple[memoryview, memoryview]:
        memory = SharedMemory(self.name(channel))
        whole = memoryview(memory.buf or b"")
        views = whole[: self.SLOTS].cast("Q"), whole[self.SLOTS :]
        whole.release()
        self._opened.append((memory, views))
        return views

    def close(self) -> None:
        for memory, views in self._opened:
            for view in views:
                view.release()
            memory.close()

    def sender(self, channel: int) -> Send:
        (words, slots), size, depth = self._open(channel), self.spec.size, self.spec.depth
        at, tail = self.HEAD, self.TAIL

        def send(message: bytes) -> bool:
            head = words[at]
            if head - words[tail] >= depth:
                return False
            start = head % depth * size
            slots[start : start + size] = message
            words[at] = head + 1
            return True

        return send

    def receiver(self, channel: int, timeout: float) -> Receive:
        (words, slots), size, depth = self._open(channel), self.spec.size, self.spec.depth
        at, head = self.TAIL, self.HEAD

        def receive() -> bytes | None:
            tail = words[at]
            if words[head] == tail:
                return None
            start = tail % depth * size
            message = bytes(slots[start : start + size])
            words[at] = tail + 1
            return message

        return receive
