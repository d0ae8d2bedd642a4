# SPDX-License-Identifier: Apache-2.0
"""The loops of consumers, the same for every contestant.

Each function opens the endpoints and returns the work, which starts when all processes are ready.
A consumer that finds no message yields the processor (sched_yield) and never sleeps; a receive
that waits by itself waits instead.

Messages are checked and logged up to GROUP at a time, but always before a sched_yield. While
messages are slow, a group is no larger than what arrives within GROUP_NS. So the log is never far
behind.
"""

import os
import struct
from collections.abc import Callable, Sequence
from time import perf_counter_ns as clock

import numpy as np

from . import message
from .message import DAMAGED, DAMAGED_EDGES, SMALL, Words
from .producing import Work
from .scoreboard import DONE, Scoreboard
from .transport import WAIT_S, Batch, Columns, OneByOne, Transport

GROUP, GROUP_NS = 256, 1_000_000


def consume(transport: Transport, board: Scoreboard, slot: int, channel: int, exact: bool) -> Work:
    """Receives and logs until the run is done and the channel is empty. exact: logs each message
    at once, because this process may be killed.
    """
    if isinstance(transport, Columns):
        return _log_batches(transport, board, slot, _columns(transport, channel))
    if isinstance(transport, Batch):
        return _log_batches(transport, board, slot, _batches(transport, channel))
    if isinstance(transport, OneByOne):
        return _groups(transport, board, slot, channel, 1 if exact else GROUP)
    raise TypeError(f"{transport.title()} cannot receive")


def _groups(transport: OneByOne, board: Scoreboard, slot: int, channel: int, most: int) -> Work:
    """Collects up to `most` messages: small copied ones whole, of others the edges."""
    receive, empty = transport.receiver(channel, WAIT_S), transport.empty
    polls, size = transport.polls, transport.spec.size
    words, log = board.words, np.frombuffer(board.log(slot), np.uint64)
    whole, edges = transport.copies and size <= SMALL, message.edges(size)
    check = message.whole_checker(size) if whole else message.edges_checker()

    def work() -> None:
        n, group = 0, 1
        while True:
            kept: list[bytes] = []
            ending, began, full = words[DONE], clock(), False
            try:
                for _ in range(group):
                    if (packet := receive()) is None:
                        break
                    if whole:
                        kept.append(packet)
                    else:
                        kept += edges(packet)
                else:
                    full = True
            except empty:
                pass
            except struct.error:
                kept += DAMAGED_EDGES
            if kept:
                found = check(kept)
                log[n : n + len(found)] = found
                n += len(found)
            elif ending:
                return
            if full:  # the last packet stays referenced until the next one arrives
                quick = clock() - began < GROUP_NS
                group = min(2 * group, most) if quick else max(group // 2, 1)
                continue
            packet = None
            if polls:
                os.sched_yield()

    return work


def _batches(transport: Batch, channel: int) -> Callable[[], Words | None]:
    """Returns a function that receives and checks a batch."""
    receive_many, size = transport.receiver_many(channel), transport.spec.size
    edges, check_edges = message.edges(size), message.edges_checker()

    def check_large(batch: Sequence[bytes]) -> Words:
        found: list[bytes] = []
        for packet in batch:
            found += edges(packet) if len(packet) == size else DAMAGED_EDGES
        return check_edges(found)

    check = message.whole_checker(size) if size <= SMALL else check_large

    def receive() -> Words | None:
        batch = receive_many()
        return check(batch) if batch else None

    return receive


def _columns(transport: Columns, channel: int) -> Callable[[], Words | None]:
    """As _batches()."""
    read = transport.column_reader(channel)

    def receive() -> Words:
        word, last = read()
        whole = word.astype(np.uint8) == last
        if np.count_nonzero(whole) < len(word) or np.count_nonzero(word) < len(word):
            return np.where(whole & (word != 0), word, np.uint64(DAMAGED))
        found: Words = word
        return found

    return receive


def _log_batches(
    transport: Transport, board: Scoreboard, slot: int, receive: Callable[[], Words | None]
) -> Work:
    words, empty, polls = board.words, transport.empty, transport.polls
    log = np.frombuffer(board.log(slot), np.uint64)

    def work() -> None:
        n = 0
        while True:
            ending, before = words[DONE], n
            try:
                while (found := receive()) is not None:
                    log[n : n + len(found)] = found
                    n += len(found)
            except empty:
                pass
            if ending and n == before:
                return
            if polls:
                os.sched_yield()

    return work
