# SPDX-License-Identifier: Apache-2.0
"""The loops of latency runs: ping and echo, and a receiver that waits for a message that never
comes.

Each function opens the endpoints and returns the work, as in producing.py.
"""

import contextlib
import os
import time
from time import perf_counter_ns as clock
from typing import Any

from . import message
from .message import STEP
from .producing import Work
from .scoreboard import DONE, SLOTS, STOP, Scoreboard
from .transport import WAIT_S, OneByOne, Packet, Receive, Send

HOLD_S = 0.02  # how often a process without work checks whether the run is over
SPINS = 1000  # polls of an empty channel before a process yields the processor


def idle(transport: OneByOne, board: Scoreboard, slot: int, timeout: float) -> Work:
    """Waits for a message that never comes."""
    receive, empty = transport.receiver(0, timeout), transport.empty

    def work() -> None:
        with contextlib.suppress(*empty):
            receive()

    return work


def hold(transport: OneByOne, board: Scoreboard, slot: int) -> Work:
    """Keeps a producer's endpoint open and sends nothing."""
    endpoints, words = [transport.sender(0)], board.words

    def work() -> None:
        while not words[DONE]:
            time.sleep(HOLD_S)
        endpoints.clear()

    return work


def ping(transport: OneByOne, board: Scoreboard, slot: int, polling: bool) -> Work:
    """Sends on channel 0 and waits for the answer on channel 1. The work returns the ns of each
    round trip and the number of wrong answers."""
    send, receive = _sender(transport, board, 0), _receiver(transport, board, 1, polling)
    size, words, me = transport.spec.size, board.words, SLOTS + slot
    pack, check, body = message.packer(size).pack, message.checker(size), message.body(size)

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
            if answer is None:  # the run is over, or the message was lost
                break
            times.append(now - before)
            words[me] = len(times)
            wrong += check(answer) != (word, word & 255)
        return times, wrong

    return _then_done(work, board)


def echo(transport: OneByOne, board: Scoreboard, slot: int, polling: bool) -> Work:
    """Sends every message back."""
    send, receive = _sender(transport, board, 1), _receiver(transport, board, 0, polling)

    def work() -> None:
        while (packet := receive()) is not None:
            send(packet)

    return _then_done(work, board)


def _sender(transport: OneByOne, board: Scoreboard, channel: int) -> Send:
    """A send that retries until there is room."""
    send, full, words = transport.sender(channel), transport.full, board.words

    def send_surely(packet: Packet) -> None:
        while not words[DONE]:
            try:
                if send(packet) is not False:
                    return
            except full:
                pass
            os.sched_yield()

    return send_surely


def _then_done(work: Work, board: Scoreboard) -> Work:
    """Sets DONE when the work returns or raises, so that the other process stops too."""

    def wrapped() -> Any:
        try:
            return work()
        finally:
            board.words[DONE] = 1

    return wrapped


def _receiver(transport: OneByOne, board: Scoreboard, channel: int, polling: bool) -> Receive:
    """A receive that polls or blocks until a message arrives; None when the run is over."""
    wait = transport.poller(channel) if polling else transport.receiver(channel, WAIT_S)
    empty, words = transport.empty, board.words

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
