# SPDX-License-Identifier: Apache-2.0
"""Ledger: what a receiver has of each sender, kept in the pool that it puts into.

A buffer in a queue of its own, which requeues. The receiver takes the buffer and holds it; if it is
killed, recovery returns the buffer to the queue, and the next receiver reads there how far each
sender had come. A burst is put first and noted then: what a receiver that was killed in between had
put is put once more by the next one, which can tell (`is_next`), and marks it as redelivered.
"""

import hashlib
import time
from sys import byteorder

from .. import errors
from .._hot import Buffer
from ..pool import Pool
from ..queue import AlfQueue
from .stopping import Stop

SENDER = 16  # bytes of a sender's id, of which neither half is zero
ENTRIES = 127  # senders that are known; fewer if the pool has a headroom
SLICE_S = 0.2  # of a wait for the buffer
FRESH_S = 1.0  # after which the buffer goes through its queue: no alarm says that it is held long
ENTRY = 32  # bytes: the sender, the number of its last burst, when it was noted (ns of the machine)
WORDS = ENTRY // 8
NUMBER, NOTED = 2, 3  # words of an entry
_HEAD = b"shmpool bridge 1".ljust(ENTRY, b"\0")  # in the place of the first entry
_SIZE = (ENTRIES + 1) * ENTRY


class Ledger:
    """The ledger of one link that receives. For one thread.

    The words of an entry are stored one at a time, each in one instruction, so a kill tears none.
    No entry lies in two buffers of a chain.
    """

    def __init__(self, pool: Pool, link: str, stop: Stop) -> None:
        """Waits until it has the buffer. link is the address that the link receives at.

        Raises:
            Ending: the link ends.
            PoolExhausted, LimitReached, OutOfSharedMemory: it cannot be made.
            SegmentInvalid: what is in the queue is no ledger.
        """
        self._pool, self._stop = pool, stop
        self._queue = _queue(pool, link)
        self._places: dict[bytes, int] = {}
        self._last: dict[bytes, int] = {}
        self._views: list[memoryview[int]] = []
        self._at: list[tuple[memoryview[int], int]] = []  # of each entry: words, and its first one
        self._take()
        self._read()
        self._found = set(self._last)

    def last(self, sender: bytes) -> int | None:
        """The number of the sender's last burst that was put; None if the sender is not known."""
        return self._last.get(sender)

    def is_next(self, sender: bytes, number: int) -> bool:
        """True if a receiver before this one may have put that burst, and was killed then. For a
        burst that the sender has sent before."""
        if sender not in self._last:
            return True
        return sender in self._found and number == self._last[sender] + 1

    def note(self, sender: bytes, number: int) -> None:
        """Says that a burst was put. A new sender takes the place of the one that has been silent
        for longest."""
        place = self._places.get(sender)
        if place is None:
            place = self._places[sender] = self._place_for(sender)
            words, at = self._at[place]
            words[at] = words[at + 1] = 0  # no sender, until its number is there
            words[at + NUMBER] = number
            words[at], words[at + 1] = (
                int.from_bytes(sender[i : i + 8], byteorder) for i in (0, 8)
            )
        else:
            words, at = self._at[place]
            words[at + NUMBER] = number
        words[at + NOTED] = time.monotonic_ns()
        self._last[sender] = number
        self._found.discard(sender)

    def refresh(self) -> None:
        """Puts the buffer into its queue and takes it again, if it has held it for FRESH_S."""
        if time.monotonic() >= self._fresh_until:
            self._release()
            try:
                self._open(self._queue.get(0))
            except errors.Empty:
                raise errors.QueueBusy(
                    f"another bridge has taken queue {self._queue.name!r} of pool "
                    f"{self._pool.name!r}: it receives at the same address; end one of the two"
                ) from None

    def close(self) -> None:
        """Returns the buffer to its queue, for the next receiver."""
        if not self._buffer.released:
            self._release()
        self._queue.close()

    def _release(self) -> None:
        for view in self._views:
            view.release()
        self._views.clear()
        self._at.clear()
        self._queue.put(self._buffer, 0)

    def _take(self) -> None:
        """Waits for the buffer, and makes it if there is none."""
        while True:
            try:
                return self._open(self._queue.get(SLICE_S))
            except errors.Empty:
                self._stop.check()
                self._make()

    def _open(self, buf: Buffer) -> None:
        self._buffer = buf
        self._fresh_until = time.monotonic() + FRESH_S
        views = self._buffer.segments
        self._views = [view[: view.nbytes // ENTRY * ENTRY].cast("Q") for view in views]
        self._at = [(words, i) for words in self._views for i in range(0, len(words), WORDS)]
        if len(self._buffer) != _SIZE or bytes(views[0][:ENTRY]) != _HEAD or len(self._at) < 2:
            del views
            self._release()
            raise errors.SegmentInvalid(
                f"queue {self._queue.name!r} of pool {self._pool.name!r} holds no ledger: "
                "remove what another program put there"
            )

    def _make(self) -> None:
        """Puts an empty ledger into the queue, unless there is one, or a receiver has it. Of two
        that do so at once, both or one see the other and leave it to a next attempt."""
        with self._queue.producer():
            if self._queue.producers_alive > 1 or self._queue._unfinished(False, 0):
                return
            buf = self._pool.alloc(SLICE_S, _SIZE)
            with buf:
                buf.write(_HEAD.ljust(_SIZE, b"\0"))
                self._queue.put(buf, 0)

    def _read(self) -> None:
        for place in range(1, len(self._at)):
            words, at = self._at[place]
            sender = words[at : at + 2].tobytes()
            if words[at] and words[at + 1]:
                self._places[sender], self._last[sender] = place, words[at + NUMBER]

    def _place_for(self, sender: bytes) -> int:
        """A free place, or that of the sender which has been silent for longest."""
        taken = set(self._places.values())
        for place in range(1, len(self._at)):
            if place not in taken:
                return place
        oldest = min(self._places, key=self._noted)
        del self._last[oldest]
        self._found.discard(oldest)
        return self._places.pop(oldest)

    def _noted(self, sender: bytes) -> int:
        words, at = self._at[self._places[sender]]
        return words[at + NOTED]


def _queue(pool: Pool, link: str) -> AlfQueue:
    """Returns the queue of a link's ledger; makes it if there is none."""
    name = f"bridge.{hashlib.sha256(link.encode()).hexdigest()[:16]}"
    try:
        return pool.create_queue(name, capacity=2, on_death="requeue")
    except errors.QueueExists:
        return pool.queue(name, timeout=1)
