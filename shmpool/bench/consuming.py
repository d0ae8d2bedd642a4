# SPDX-License-Identifier: Apache-2.0
"""What consumers do, the same for every contestant.

Each function opens its ends first and returns the work, which starts when all are ready. Whoever
finds nothing yields the processor (sched_yield), never sleeps; a call that waits by itself does
so instead. What came is checked, and logged, up to GROUP messages at a time, but before each wait
of the harness, and of slow ones no more than come within GROUP_NS: the log must not stay behind.
"""

import os
import struct
from collections.abc import Sequence
from time import perf_counter_ns as clock

import numpy as np

from . import message
from .board import DONE, Board
from .message import DAMAGED, SMALL, WRONG_ENDS, Words
from .producing import Work
from .way import PATIENCE_S, Batch, Columns, OneByOne, Way

GROUP, GROUP_NS = 256, 1_000_000


def consume(way: Way, board: Board, seat: int, channel: int, exact: bool) -> Work:
    """Receives and logs until the run is done and nothing comes any more. exact: logs each message
    at once, for it may be killed.
    """
    if isinstance(way, Columns):
        return _columns(way, board, seat, channel)
    if isinstance(way, Batch):
        return _batches(way, board, seat, channel)
    if isinstance(way, OneByOne):
        return (_one_by_one if exact else _groups)(way, board, seat, channel)
    raise TypeError(f"{way.title()} cannot receive")


def _groups(way: OneByOne, board: Board, seat: int, channel: int) -> Work:
    """Keeps small messages that are copies, or else the ends of each."""
    receive, empty, polls = way.receiver(channel, PATIENCE_S), way.empty, way.polls
    words, log, size = board.words, np.frombuffer(board.log(seat), np.uint64), way.spec.size
    whole, ends = way.copies and size <= SMALL, message.ends(size)
    check = message.whole_checker(size) if whole else message.ends_checker()

    def work() -> None:
        n, most = 0, 1
        while True:
            kept: list[bytes] = []
            ending, began, full = words[DONE], clock(), False
            try:
                for _ in range(most):
                    if (packet := receive()) is None:
                        break
                    if whole:
                        kept.append(packet)
                    else:
                        kept += ends(packet)
                else:
                    full = True
            except empty:
                pass
            except struct.error:
                kept += WRONG_ENDS
            if kept:
                found = check(kept)
                log[n : n + len(found)] = found
                n += len(found)
            elif ending:
                return
            if full:  # and the last packet lives until the next one is there
                quick = clock() - began < GROUP_NS
                most = min(2 * most, GROUP) if quick else max(most // 2, 1)
                continue
            packet = None
            if polls:
                os.sched_yield()

    return work


def _one_by_one(way: OneByOne, board: Board, seat: int, channel: int) -> Work:
    receive, log, words = way.receiver(channel, PATIENCE_S), board.log(seat), board.words
    check, empty, polls = message.checker(way.spec.size), way.empty, way.polls

    def work() -> None:
        n = 0
        while True:
            ending, before = words[DONE], n
            try:
                while (packet := receive()) is not None:
                    word, last = check(packet)
                    log[n] = (last == word & 255 and word) or DAMAGED
                    n += 1
            except empty:
                pass
            except struct.error:
                log[n] = DAMAGED
                n += 1
            packet = None
            if ending and n == before:
                return
            if polls:
                os.sched_yield()

    return work


def _batches(way: Batch, board: Board, seat: int, channel: int) -> Work:
    receive_many, words = way.receiver_many(channel), board.words
    size, empty, polls = way.spec.size, way.empty, way.polls
    log, ends = np.frombuffer(board.log(seat), np.uint64), message.ends(size)
    check_ends = message.ends_checker()

    def check_large(batch: Sequence[bytes]) -> Words:
        got: list[bytes] = []
        for packet in batch:
            got += ends(packet) if len(packet) == size else WRONG_ENDS
        return check_ends(got)

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


def _columns(way: Columns, board: Board, seat: int, channel: int) -> Work:
    read, words, empty = way.column_reader(channel), board.words, way.empty
    log = np.frombuffer(board.log(seat), np.uint64)

    def work() -> None:
        n = 0
        while True:
            ending, before = words[DONE], n
            try:
                while True:
                    word, last = read()
                    k = len(word)
                    sound = word.astype(np.uint8) == last
                    if np.count_nonzero(sound) < k or np.count_nonzero(word) < k:
                        word = np.where(sound & (word != 0), word, np.uint64(DAMAGED))
                    log[n : n + k] = word
                    n += k
            except empty:
                pass
            if ending and n == before:
                return

    return work
