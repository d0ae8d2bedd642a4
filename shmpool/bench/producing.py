# SPDX-License-Identifier: Apache-2.0
"""The loops of producers, the same for every contestant.

Each function opens the endpoints and returns the work, which starts when all processes are ready.
A producer that finds no room yields the processor (sched_yield) and never sleeps; a send that
waits by itself waits instead. Small messages are made up to COUNT_MAX at a time, each of them new
and written as a whole. The process's slot of the scoreboard says what was sent.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from . import message
from .message import HALF, STEP
from .scoreboard import DONE, SLOTS, STOP, Scoreboard
from .transport import Batch, Columns, InPlace, OneByOne, Send, Transport

# Messages that a producer sends between two accesses to the scoreboard: as many as make 64 KiB.
COUNT_MIN, COUNT_MAX, COUNT_BYTES = 8, 64, 64 << 10

Work = Callable[[], Any]


def produce(
    transport: Transport, board: Scoreboard, slot: int, channels: range, exact: bool
) -> Work:
    """Sends until STOP is set. exact: counts each message at once, because this process may be
    killed."""
    size = transport.spec.size
    group = 1 if exact else max(COUNT_MIN, min(COUNT_MAX, COUNT_BYTES // size))
    board.words[SLOTS + slot] = message.base(slot)
    if isinstance(transport, Columns):
        work = _columns(transport, board, slot, channels)
    elif isinstance(transport, Batch):
        work = _batches(transport, board, slot, channels)
    elif isinstance(transport, InPlace) and len(channels) == 1:
        work = _in_place(transport, board, slot, channels[0], group)
    elif isinstance(transport, OneByOne):
        work = _one_by_one(transport, board, slot, channels, group)
    else:
        raise TypeError(f"{transport.title()} cannot send")

    def produce() -> None:
        work()
        transport.flush()

    return produce


def _one_by_one(
    transport: OneByOne, board: Scoreboard, slot: int, channels: range, group: int
) -> Work:
    send, words, me = _sender(transport, board, channels), board.words, SLOTS + slot
    make, check = message.maker(transport.spec.size, group), message.checker(transport.spec.size)
    wait, full, step = os.sched_yield, transport.full, group * STEP

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


def _sender(transport: OneByOne, board: Scoreboard, channels: range) -> Send:
    """A function that sends a message on every channel. A message that was sent on the first
    channel is sent on all of them, even after STOP."""
    sends = [transport.sender(channel) for channel in channels]
    if len(sends) == 1:
        return sends[0]
    words, full, wait = board.words, transport.full, os.sched_yield

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


def _in_place(transport: InPlace, board: Scoreboard, slot: int, channel: int, group: int) -> Work:
    (acquire, commit), words, me = transport.writer(channel), board.words, SLOTS + slot
    pack_into, body = message.packing_into(transport.spec.size), message.body(transport.spec.size)
    wait, full = os.sched_yield, transport.full

    def work() -> None:
        low, high = 0, 0
        while not words[STOP]:
            lows, high = message.low_halves(words[me] + STEP, group)
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


def _batches(transport: Batch, board: Scoreboard, slot: int, channels: range) -> Work:
    send_many, words, me = transport.sender_many(channels[0]), board.words, SLOTS + slot
    make, full = message.maker(transport.spec.size, transport.batch), transport.full

    def work() -> None:
        last = words[me]
        while not words[STOP]:
            batch = list(make(last + STEP))
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


def _columns(transport: Columns, board: Scoreboard, slot: int, channels: range) -> Work:
    write, words, me = transport.column_writer(channels[0]), board.words, SLOTS + slot
    n, full = transport.batch, transport.full
    number = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(STEP) + np.uint64(words[me])
    step = np.uint64(n * STEP)

    def work() -> None:
        nonlocal number
        while not words[STOP]:
            try:
                write(number, number.astype(np.uint8))  # the last byte is the word's first one
            except full:
                continue
            words[me] = int(number[-1])
            number += step

    return work
