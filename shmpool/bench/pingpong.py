# SPDX-License-Identifier: Apache-2.0
"""What two processes do to and fro: ping and echo, and one that waits for what never comes.

Each function opens its ends first and returns the work, as in producing.py.
"""

import contextlib
import os
import time
from time import perf_counter_ns as clock
from typing import Any

from . import message
from .board import DONE, SEATS, STOP, Board
from .message import STEP
from .producing import Work
from .way import PATIENCE_S, OneByOne, Packet, Receive, Send

HOLD_S = 0.02  # between two looks of who has nothing to do
SPINS = 1000  # times a ping-pong polls before it yields


def idle(way: OneByOne, board: Board, seat: int, timeout: float) -> Work:
    """Waits for a message that never comes."""
    receive, empty = way.receiver(0, timeout), way.empty

    def work() -> None:
        with contextlib.suppress(*empty):
            receive()

    return work


def hold(way: OneByOne, board: Board, seat: int) -> Work:
    """Has a producer's end open and sends nothing."""
    ends, words = [way.sender(0)], board.words

    def work() -> None:
        while not words[DONE]:
            time.sleep(HOLD_S)
        ends.clear()

    return work


def ping(way: OneByOne, board: Board, seat: int, polling: bool) -> Work:
    """Sends on channel 0 and waits for it to come back on channel 1: ns of each, wrong answers."""
    send, receive = _surely(way, board, 0), _receiving(way, board, 1, polling)
    pack, check = message.packer(way.spec.size).pack, message.checker(way.spec.size)
    body, words, me = message.body(way.spec.size), board.words, SEATS + seat

    def work() -> tuple[list[int], int]:
        times: list[int] = []
        word, wrong = message.base(0), 0
        while not words[STOP]:
            word += STEP
            packet = pack(word, body, word & 255)
            before = clock()
            send(packet)
            answer = receive()
            now = clock()
            if answer is None:  # stopped while it waited, or the message is lost
                break
            times.append(now - before)
            words[me] = len(times)
            wrong += check(answer) != (word, word & 255)
        return times, wrong

    return _told(work, board)


def echo(way: OneByOne, board: Board, seat: int, polling: bool) -> Work:
    """Sends back what comes."""
    send, receive = _surely(way, board, 1), _receiving(way, board, 0, polling)

    def work() -> None:
        while (packet := receive()) is not None:
            send(packet)

    return _told(work, board)


def _surely(way: OneByOne, board: Board, channel: int) -> Send:
    """A send that tries until there is room."""
    send, full, words = way.sender(channel), way.full, board.words

    def surely(packet: Packet) -> None:
        while not words[DONE]:
            try:
                if send(packet) is not False:
                    return
            except full:
                pass
            os.sched_yield()

    return surely


def _told(work: Work, board: Board) -> Work:
    def told() -> Any:
        try:
            return work()
        finally:
            board.words[DONE] = 1

    return told


def _receiving(way: OneByOne, board: Board, channel: int, polling: bool) -> Receive:
    """Waits as asked for; None when the run is over."""
    wait = way.poller(channel) if polling else way.receiver(channel, PATIENCE_S)
    empty, words = way.empty, board.words

    def receive() -> Packet | None:
        spins = 0
        while True:
            try:
                if (packet := wait()) is not None:
                    return packet
            except empty:
                pass
            spins += 1
            if not polling or spins % SPINS == 0:
                if words[DONE]:
                    return None
                os.sched_yield()

    return receive
