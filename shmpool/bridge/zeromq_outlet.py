# SPDX-License-Identifier: Apache-2.0
"""One receiver as its sender knows it: its socket, what is on its way to it, and its credit."""

import os
import time
from collections import deque
from dataclasses import dataclass, field

import zmq

from .._hot import Buffer
from . import messages
from .config import Remote
from .ends import Batch, Packed
from .ledger import SENDER
from .messages import Message

NOBLOCK, MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
SOON_S = 0.02  # after which a HELLO that had no connection is tried again
ASK_S = 3.0  # without an answer, after which HELLO is sent again


@dataclass
class Shipment:
    """One batch on its way, to one receiver or to all."""

    batch: Batch
    size: int  # bytes of its packets
    to: int  # receivers that have not acknowledged it
    at: float  # when it was sent first
    doubtful: bool = False  # another receiver may have it
    resent: bool = False  # a receiver that was killed may have put it; the next one knows


@dataclass
class Sent:
    """A shipment in the window of an outlet."""

    number: int
    shipment: Shipment
    flags: int = 0


@dataclass
class Outlet:
    """One receiver, as this sender knows it."""

    to: Remote
    sock: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    sender: bytes
    path: bytes
    window: deque[Sent] = field(default_factory=deque)
    packets: int = 0  # in the window
    newest: int = 0  # number that was sent
    credit: int = 0
    largest: int = 1 << 20  # bytes of a message
    connected: bool = False
    ready: bool = False  # it has answered the last HELLO
    met: bool = False  # it was ready before
    turn: int = 0
    asked: float = 0.0  # when HELLO was sent
    counted: int = 0  # the newest that was sent then
    moved: float = 0.0  # when a burst was sent or acknowledged
    away: float = 0.0  # since when it is not ready
    refusal: str = ""

    def room(self, bursts: int) -> int:
        """How many packets it may be sent now."""
        if not self.ready or len(self.window) >= bursts:
            return 0
        return max(self.credit - self.packets, 0)

    def hello(self) -> None:
        """Asks how far it is. Its answer counts all that was sent before."""
        self.turn += 1
        self.asked, self.counted = time.monotonic(), self.newest
        oldest = self.window[0].number if self.window else self.newest + 1
        hello = Message(messages.HELLO, self.sender, self.newest, oldest, self.turn)
        if not self.pass_on(hello.packed(), self.path):
            self.asked += SOON_S - ASK_S

    def ask_again(self) -> None:
        """Asks how far it is, because it did not take a burst. Nothing is sent until it says so."""
        if self.ready:
            self.ready, self.away = False, time.monotonic()
            self.hello()

    def send(self, sent: Sent, packed: Packed | None = None) -> None:
        """Sends a burst, which may be packed already. Without a connection it is lost, and a
        WELCOME will not count it."""
        shipment = sent.shipment
        flags = sent.flags | (messages.DOUBTFUL if shipment.doubtful else 0)
        head = Message(messages.BURST, self.sender, sent.number, 0, 0, flags, shipment.batch.n)
        table, data = packed or shipment.batch.packed()
        sent.flags |= messages.AGAIN
        self.moved = time.monotonic()
        self.pass_on(head.packed() + table, data)

    def pass_on(self, head: bytes, rest: bytes | Buffer) -> bool:
        """Sends a message. False if there is no connection."""
        try:
            self.sock.send(head, MORE)
            self.sock.send(rest, NOBLOCK)
        except zmq.Again:
            return False
        return True

    def new_life(self) -> None:
        """Begins again as another sender, after its bursts were given to others."""
        self.sender, self.newest, self.packets = new_sender(), 0, 0
        self.window.clear()
        self.ready = False


def new_sender() -> bytes:
    """Returns the id of a new sender. Its first byte is not zero, as ZeroMQ demands, nor is one of
    its halves."""
    return b"".join(b"\x01" + os.urandom(7) for _ in range(SENDER // 8))
