# SPDX-License-Identifier: Apache-2.0
"""A ring with flags by hand, in the shape of the one that vLLM broadcasts with: no line of it is
vLLM's. Each chunk has a flag that it is written and one for each reader that this reader is done.
There is one writer; readers are there from the beginning, and nobody can be replaced.
"""

from multiprocessing.shared_memory import SharedMemory

from ..transport import OneByOne, Receive, Send, Shape, UnsupportedError


class FlagRing(OneByOne):
    """The writer waits for the oldest chunk until all readers are done with it.

    Correct only where stores become visible in program order, as on x86.
    """

    library = "ring with flags"
    call = "by hand"
    shape = Shape.TOPIC
    polls = True
    blocks = False

    def create(self) -> None:
        if self.spec.replacements:
            raise UnsupportedError("a new process does not know the position of the old one")
        self._opened: list[tuple[SharedMemory, memoryview]] = []
        self._row = 1 + self.spec.consumers  # flags of a chunk
        self._memories = self.each(self._memory)

    def _memory(self, channel: int) -> SharedMemory:
        size = self.spec.depth * (self._row + self.spec.size)
        return SharedMemory(self.name(channel), create=True, size=size)

    def remove(self) -> None:
        for memory in getattr(self, "_memories", []):
            memory.close()
            memory.unlink()

    def _open(self, channel: int) -> tuple[memoryview, memoryview]:
        """The flags and the chunks."""
        memory = SharedMemory(self.name(channel))
        whole = memoryview(memory.buf or b"")
        self._opened.append((memory, whole))
        flags = self.spec.depth * self._row
        return whole[:flags], whole[flags:]

    def close(self) -> None:
        for memory, whole in self._opened:
            whole.release()
            memory.close()

    def sender(self, channel: int) -> Send:
        flags, chunks = self._open(channel)
        row, depth, size, n = self._row, self.spec.depth, self.spec.size, 0
        unread = bytes(self.spec.consumers)

        def send(message: bytes) -> bool:
            nonlocal n
            at = n % depth
            flag, start = at * row, at * size
            readers = slice(flag + 1, flag + row)
            if flags[flag] and 0 in flags[readers]:
                return False
            flags[flag] = 0
            chunks[start : start + size] = message
            flags[readers] = unread
            flags[flag] = 1
            n += 1
            return True

        return send

    def receiver(self, channel: int, timeout: float) -> Receive:
        flags, chunks = self._open(channel)
        row, depth, size, n = self._row, self.spec.depth, self.spec.size, 0
        mine = 1 + self.number

        def receive() -> bytes | None:
            nonlocal n
            at = n % depth
            flag, start = at * row, at * size
            if not flags[flag] or flags[flag + mine]:
                return None
            message = bytes(chunks[start : start + size])
            flags[flag + mine] = 1
            n += 1
            return message

        return receive
