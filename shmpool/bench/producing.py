# SPDX-License-Identifier: Apache-2.0
"""What producers do, the same for every contestant.

Each function opens its ends first and returns the work, which starts when all are ready. Whoever
finds no room yields the processor (sched_yield), never sleeps; a call that waits by itself does
so instead. Small messages are made up to COUNTED at a time, each of them new and written as a
whole; the seat's word on the board says what was sent.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from . import message
from .board import DONE, SEATS, STOP, Board
from .message import HALF, STEP
from .way import Batch, Columns, InPlace, OneByOne, Send, Way

# Messages that a producer sends between two looks at the board: as many as fit into some bytes.
COUNTED_LEAST, COUNTED, COUNTED_BYTES = 8, 64, 64 << 10

Work = Callable[[], Any]


def produce(way: Way, board: Board, seat: int, channels: range, exact: bool) -> Work:
    """Sends until it is told to stop. exact: counts each message at once, for it may be killed."""
    size = way.spec.size
    counted = 1 if exact else max(COUNTED_LEAST, min(COUNTED, COUNTED_BYTES // size))
    board.words[SEATS + seat] = message.base(seat)
    if isinstance(way, Columns):
        work = _columns(way, board, seat, channels)
    elif isinstance(way, Batch):
        work = _batches(way, board, seat, channels)
    elif isinstance(way, InPlace) and len(channels) == 1:
        work = _in_place(way, board, seat, channels[0], counted)
    elif isinstance(way, OneByOne):
        groups = _one_by_one if exact or size > message.SMALL else _groups
        work = groups(way, board, seat, channels, counted)
    else:
        raise TypeError(f"{way.title()} cannot send")

    def produce() -> None:
        work()
        way.flush()

    return produce


def _groups(way: OneByOne, board: Board, seat: int, channels: range, counted: int) -> Work:
    """Small messages, made together."""
    send, words, me = _sender(way, board, channels), board.words, SEATS + seat
    make, check = message.maker(way.spec.size, counted), message.checker(way.spec.size)
    wait, full, step = os.sched_yield, way.full, counted * STEP

    def work() -> None:
        last = words[me]
        while not words[STOP]:
            for packet in make(last + STEP):
                while True:
                    try:
                        if send(packet) is not False:
                            break
                    except full:
                        pass
                    if words[STOP]:
                        words[me] = check(packet)[0] - STEP
                        return
                    wait()
            last += step
            words[me] = last

    return work


def _one_by_one(way: OneByOne, board: Board, seat: int, channels: range, counted: int) -> Work:
    send, words, me = _sender(way, board, channels), board.words, SEATS + seat
    pack, body = message.packing(way.spec.size), message.body(way.spec.size)
    wait, full = os.sched_yield, way.full

    def work() -> None:
        low, high = 0, 0
        while not words[STOP]:
            lows, high = message.low_halves(words[me] + STEP, counted)
            for low in lows:
                packet = pack(low, high, body, low & 255)
                while True:
                    try:
                        if send(packet) is not False:
                            break
                    except full:
                        pass
                    if words[STOP]:
                        words[me] = (high << HALF | low) - STEP
                        return
                    wait()
            words[me] = high << HALF | low

    return work


def _sender(way: OneByOne, board: Board, channels: range) -> Send:
    sends = [way.sender(channel) for channel in channels]
    return sends[0] if len(sends) == 1 else _to_all(sends, way, board)


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


def _in_place(way: InPlace, board: Board, seat: int, channel: int, counted: int) -> Work:
    (acquire, commit), words, me = way.writer(channel), board.words, SEATS + seat
    pack_into, body = message.packing_into(way.spec.size), message.body(way.spec.size)
    wait, full = os.sched_yield, way.full

    def work() -> None:
        low, high = 0, 0
        while not words[STOP]:
            lows, high = message.low_halves(words[me] + STEP, counted)
            for low in lows:
                while True:
                    try:
                        if (place := acquire()) is not None:
                            pack_into(place, 0, low, high, body, low & 255)
                            if commit(place) is not False:
                                break
                    except full:
                        pass
                    if words[STOP]:
                        words[me] = (high << HALF | low) - STEP
                        return
                    wait()
            words[me] = high << HALF | low

    return work


def _batches(way: Batch, board: Board, seat: int, channels: range) -> Work:
    send_many, words, me = way.sender_many(channels[0]), board.words, SEATS + seat
    make, full = message.maker(way.spec.size, way.batch), way.full

    def work() -> None:
        last = words[me]
        while not words[STOP]:
            batch = make(last + STEP)
            while batch:
                try:
                    sent = send_many(batch)
                except full:
                    sent = 0
                sent = len(batch) if sent is None else sent
                last += sent * STEP
                words[me] = last
                batch = batch[sent:]
                if batch and words[STOP]:
                    return
                if not sent:
                    os.sched_yield()

    return work


def _columns(way: Columns, board: Board, seat: int, channels: range) -> Work:
    write, words, me = way.column_writer(channels[0]), board.words, SEATS + seat
    n, full = way.batch, way.full
    number = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(STEP) + np.uint64(words[me])
    step = np.uint64(n * STEP)

    def work() -> None:
        nonlocal number
        while not words[STOP]:
            try:
                write(number, number.astype(np.uint8))  # their first bytes
            except full:
                continue
            words[me] = int(number[-1])
            number += step

    return work
