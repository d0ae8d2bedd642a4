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
from collections.abc import Sequence
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
        return _columns(transport, board, slot, channel)
    if isinstance(transport, Batch):
        return _batches(transport, board, slot, channel)
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


def _batches(transport: Batch, board: Scoreboard, slot: int, channel: int) -> Work:
    receive_many, words = transport.receiver_many(channel), board.words
    size, empty, polls = transport.spec.size, transport.empty, transport.polls
    log, edges = np.frombuffer(board.log(slot), np.uint64), message.edges(size)
    check_edges = message.edges_checker()

    def check_large(batch: Sequence[bytes]) -> Words:
        found: list[bytes] = []
        for packet in batch:
            found += edges(packet) if len(packet) == size else DAMAGED_EDGES
        return check_edges(found)

    check = message.whole_checker(size) if size <= SMALL else check_large

    def work() -> None:
        n = 0
        while True:
            ending, before = words[DONE], n
            try:
                while batch := receive_many():
                    found = check(batch)
                    log[n : n + len(found)] = found
                    n += len(found)
            except empty:
                pass
            if ending and n == before:
                return
            if polls:
                os.sched_yield()

    return work


def _columns(transport: Columns, board: Scoreboard, slot: int, channel: int) -> Work:
    read, words, empty = transport.column_reader(channel), board.words, transport.empty
    log = np.frombuffer(board.log(slot), np.uint64)

    def work() -> None:
        n = 0
        while True:
            ending, before = words[DONE], n
            try:
                while True:
                    word, last = read()
                    k = len(word)
                    whole = word.astype(np.uint8) == last
                    if np.count_nonzero(whole) < k or np.count_nonzero(word) < k:
                        word = np.where(whole & (word != 0), word, np.uint64(DAMAGED))
                    log[n : n + k] = word
                    n += k
            except empty:
                pass
            if ending and n == before:
                return

    return work
