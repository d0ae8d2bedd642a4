# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run do, the same for every contestant.

Each function opens its ends first and returns the work, which starts when all are ready. Whoever
finds no room, or nothing, yields the processor (sched_yield), never sleeps; a call that waits by
itself does so instead.
"""

import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from . import message
from .board import DONE, SEATS, STOP, Board
from .message import DAMAGED, STEP
from .way import PATIENCE_S, Batch, Columns, InPlace, OneByOne, Send, Way

COUNTED = 64  # messages, or 64 KiB of them, that a producer sends between two looks at the board

Work = Callable[[], Any]


def produce(way: Way, board: Board, seat: int, channels: range, exact: bool) -> Work:
    """Sends until it is told to stop. exact: counts each message at once, for it may be killed."""
    size = way.spec.size
    counted = 1 if exact else max(1, min(COUNTED, COUNTED * 1024 // size))
    board.words[SEATS + seat] = message.base(seat)
    if isinstance(way, Columns):
        work = _produce_columns(way, board, seat, channels)
    elif isinstance(way, Batch):
        work = _produce_batches(way, board, seat, channels)
    elif isinstance(way, InPlace) and len(channels) == 1:
        work = _produce_in_place(way, board, seat, channels[0], counted)
    elif isinstance(way, OneByOne):
        work = _produce_one_by_one(way, board, seat, channels, counted)
    else:
        raise TypeError(f"{way.title()} cannot send")

    def produce() -> None:
        work()
        way.flush()

    return produce


def _produce_one_by_one(
    way: OneByOne, board: Board, seat: int, channels: range, counted: int
) -> Work:
    sends, words, me = [way.sender(channel) for channel in channels], board.words, SEATS + seat
    send = sends[0] if len(sends) == 1 else _to_all(sends, way, board)
    pack, body = message.packer(way.spec.size).pack, message.body(way.spec.size)
    wait, full = os.sched_yield, way.full

    def work() -> None:
        start = words[me] + STEP
        while not words[STOP]:
            for word in range(start, start + counted * STEP, STEP):
                packet = pack(word, body, word & 255)
                while True:
                    try:
                        if send(packet) is not False:
                            break
                    except full:
                        pass
                    if words[STOP]:
                        words[me] = word - STEP
                        return
                    wait()
            start = word + STEP
            words[me] = word

    return work


def _to_all(sends: list[Send], way: Way, board: Board) -> Send:
    """Sends a message on every channel; once begun, even if it is to stop."""
    words, full, wait = board.words, way.full, os.sched_yield

    def send_all(packet: bytes) -> bool | None:
        for send in sends:
            while True:
                try:
                    if send(packet) is not False:
                        break
                except full:
                    pass
                if words[DONE] or (words[STOP] and send is sends[0]):
                    return False
                wait()
        return None

    return send_all


def _produce_in_place(way: InPlace, board: Board, seat: int, channel: int, counted: int) -> Work:
    (acquire, commit), words, me = way.writer(channel), board.words, SEATS + seat
    pack_into, body = message.packer(way.spec.size).pack_into, message.body(way.spec.size)
    wait, full = os.sched_yield, way.full

    def work() -> None:
        start = words[me] + STEP
        while not words[STOP]:
            for word in range(start, start + counted * STEP, STEP):
                while True:
                    try:
                        if (place := acquire()) is not None:
                            pack_into(place, 0, word, body, word & 255)
                            if commit(place) is not False:
                                break
                    except full:
                        pass
                    if words[STOP]:
                        words[me] = word - STEP
                        return
                    wait()
            start = word + STEP
            words[me] = word

    return work


def _produce_batches(way: Batch, board: Board, seat: int, channels: range) -> Work:
    send_many, words, me = way.sender_many(channels[0]), board.words, SEATS + seat
    pack, body = message.packer(way.spec.size).pack, message.body(way.spec.size)
    n, full = way.batch, way.full

    def work() -> None:
        start = words[me] + STEP
        while not words[STOP]:
            batch = [pack(word, body, word & 255) for word in range(start, start + n * STEP, STEP)]
            while batch:
                try:
                    sent = send_many(batch)
                except full:
                    sent = 0
                sent = len(batch) if sent is None else sent
                start += sent * STEP
                words[me] = start - STEP
                batch = batch[sent:]
                if batch and words[STOP]:
                    return
                if not sent:
                    os.sched_yield()

    return work


def _produce_columns(way: Columns, board: Board, seat: int, channels: range) -> Work:
    write, words, me = way.column_writer(channels[0]), board.words, SEATS + seat
    n, full = way.batch, way.full
    number = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(STEP) + np.uint64(words[me])
    step = np.uint64(n * STEP)

    def work() -> None:
        nonlocal number
        while not words[STOP]:
            try:
                write(number, (number & 255).astype(np.uint8))
            except full:
                continue
            words[me] = int(number[-1])
            number += step

    return work


def consume(way: Way, board: Board, seat: int, channel: int) -> Work:
    """Receives and logs until the run is done and nothing comes any more."""
    if isinstance(way, Columns):
        return _consume_columns(way, board, seat, channel)
    if isinstance(way, Batch):
        return _consume_batches(way, board, seat, channel)
    if isinstance(way, OneByOne):
        return _consume_one_by_one(way, board, seat, channel)
    raise TypeError(f"{way.title()} cannot receive")


def _consume_one_by_one(way: OneByOne, board: Board, seat: int, channel: int) -> Work:
    receive, log, words = way.receiver(channel, PATIENCE_S), board.log(seat), board.words
    check, empty, polls = message.checker(way.spec.size), way.empty, way.polls

    def work() -> None:
        n = 0
        while True:
            ending, before = words[DONE], n
            try:
                while (packet := receive()) is not None:
                    word, last = check(packet)
                    log[n] = word if last == word & 255 else DAMAGED
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


def _consume_batches(way: Batch, board: Board, seat: int, channel: int) -> Work:
    receive_many, log, words = way.receiver_many(channel), board.log(seat), board.words
    check, empty, polls = message.checker(way.spec.size), way.empty, way.polls

    def work() -> None:
        n = 0
        while True:
            ending, before = words[DONE], n
            try:
                while batch := receive_many():
                    for packet in batch:
                        word, last = check(packet)
                        log[n] = word if last == word & 255 else DAMAGED
                        n += 1
            except empty:
                pass
            if ending and n == before:
                return
            if polls:
                os.sched_yield()

    return work


def _consume_columns(way: Columns, board: Board, seat: int, channel: int) -> Work:
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
                    good = word & 255 == last
                    log[n : n + k] = word if good.all() else np.where(good, word, DAMAGED)
                    n += k
            except empty:
                pass
            if ending and n == before:
                return

    return work
