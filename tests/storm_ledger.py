# SPDX-License-Identifier: Apache-2.0
"""Checks a storm: compares what was published with what was got, from the logs of all workers.

What is certain, and what a kill leaves uncertain:

    a put that returned          published
    a put interrupted by a kill  each of its packets was published or not
    a get interrupted, "free"    up to as many as it asked for were got, unlogged, and freed
    a get interrupted, otherwise nothing: what was got is put back
    a recv interrupted           otherwise: up to as many as it had counted as got were freed
    owned at the kill            "free": freed; otherwise put back, so it must be got again
    a free interrupted           otherwise: freed or put back
    a nack, interrupted or not   put back, so it must be got again
    a forward interrupted        otherwise: on the next queue or put back, and never both

The number of packets that dead consumers may have owned is counted, and at most as many may be
missing at the end. Everything else is exact. Violations are collected; settle() checks what only
the end shows.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.storm_log import SEQUENCE_BITS, UNKNOWN, Kind, Record, stamp_of

SEEN, FINAL, RECEIVED = 1, 2, 4  # got; got and freed or forwarded; got by recv()
VIOLATIONS_MAX = 20
Packet = tuple[int, int]  # a queue and a stamp on it


@dataclass
class Stream:
    """The packets that one worker process put into one queue, by sequence number."""

    put: int = 0  # this many with certainty
    may: int = 0  # and up to this many
    state: bytearray = field(default_factory=bytearray)

    def mark(self, sequence: int, bits: int) -> int:
        """Sets the packet's state. Returns the one before."""
        if sequence >= len(self.state):
            self.state.extend(bytes(sequence + 64 - len(self.state)))
        before = self.state[sequence]
        self.state[sequence] = before | bits
        return before


class Ledger:
    """The account of one run.

    returns[q] is true if a dead consumer's packets of queue q are put back, or go to a dead-letter
    queue, where they count as got from q too.
    """

    def __init__(self, returns: list[bool], requeues: list[bool]) -> None:
        self.returns = returns
        self.requeues = requeues
        self.streams: dict[Packet, Stream] = {}
        self.again: dict[
            Packet, list[tuple[int, bool]]
        ] = {}  # deliveries of a packet after its first
        # What was interrupted: a free (None), or a forward as that packet, by a worker that had
        # got it after that many redeliveries.
        self.open: dict[Packet, tuple[Packet, int] | None] = {}
        self.may_be_lost: Counter[int] = Counter()
        self.lost: Counter[int] = Counter()
        self.figures: Counter[str] = Counter()
        self.violations: list[str] = []

    def wrong(self, text: str) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(text)

    def stream(self, queue: int, stamp: int) -> Stream:
        key = queue, stamp >> SEQUENCE_BITS
        stream = self.streams.get(key)
        if stream is None:
            stream = self.streams[key] = Stream()
        return stream

    def got(self, queue: int, stamp: int, redelivered: int, final: bool) -> None:
        """Notes a packet that was got from the queue or from its dead-letter queue."""
        self.figures["packets"] += 1
        self.figures["redelivered"] += UNKNOWN > redelivered > 0
        sequence = stamp & (1 << SEQUENCE_BITS) - 1
        bits = SEEN | (FINAL if final else 0) | (RECEIVED if redelivered == UNKNOWN else 0)
        before = self.stream(queue, stamp).mark(sequence, bits)
        if before & SEEN and not self.returns[queue]:
            self.wrong(f"queue {queue}: {name(stamp)} came twice")
        elif before & FINAL and final:
            self.wrong(f"queue {queue}: {name(stamp)} came again after it was freed")
        if before or not final or UNKNOWN > redelivered > 0:
            self.again.setdefault((queue, stamp), []).append((redelivered, final))

    def life(
        self, life: int, records: Iterable[Record], killed: bool, dequeued: int | None
    ) -> None:
        """Reads the log of one worker process.

        dequeued is how many buffers it had counted as got when it was killed; None or 0 if a
        recoverer cleared its slot before that was read.
        """
        Life(self, life, dequeued).read(records, killed)

    def settle(self) -> None:
        """Makes the final checks, when all workers have ended and all queues are drained."""
        for (queue, life), stream in self.streams.items():
            if any(stream.state[stream.may :]):
                self.wrong(f"queue {queue}: life {life} published only {stream.may}, more came")
            want = FINAL if self.returns[queue] else SEEN
            for sequence in range(stream.put):
                packet = queue, stamp_of(life, sequence)
                state = self.state(packet)
                if not state & want and not self.accounted(packet):
                    self.lost[queue] += 1  # also one put back, then lost in an interrupted recv
        for packet, deliveries in self.again.items():
            self.check_again(*packet, deliveries)
        for packet, forward in self.open.items():
            if forward and self.state(forward[0]):
                self.check_forwarded(*packet, *forward)
        for queue, n in self.lost.items():
            if n > self.may_be_lost[queue]:
                self.wrong(f"queue {queue}: {n} lost, dead members had {self.may_be_lost[queue]}")

    def accounted(self, packet: Packet) -> bool:
        """True if a packet not known to be freed was in an interrupted free or forward."""
        if packet not in self.open:
            return False
        forward = self.open[packet]
        if forward and not self.state(forward[0]):  # it was published there, and lost there
            self.lost[forward[0][0]] += 1
        return True

    def state(self, packet: Packet) -> int:
        stream, sequence = self.stream(*packet), packet[1] & (1 << SEQUENCE_BITS) - 1
        return stream.state[sequence] if sequence < len(stream.state) else 0

    def check_forwarded(self, queue: int, stamp: int, on: Packet, redelivered: int) -> None:
        """A packet that was published on the next queue was not got again from the first one."""
        deliveries = self.again[queue, stamp]
        self.figures["forwarded after redeliveries"] += redelivered > 0
        if self.state((queue, stamp)) & FINAL or any(n > redelivered for n, _ in deliveries):
            self.wrong(
                f"queue {queue}: {name(stamp)} was forwarded as {name(on[1])} of queue {on[0]} "
                f"after {redelivered} redeliveries, and put back: {deliveries}"
            )

    def check_again(self, queue: int, stamp: int, deliveries: list[tuple[int, bool]]) -> None:
        """Each delivery but the last ended with a death or a nack. Each redelivery was counted."""
        known = [n for n, _ in deliveries if n != UNKNOWN]
        text = f"queue {queue}: {name(stamp)} came again after it was freed: {deliveries}"
        if len(set(known)) != len(known):
            self.wrong(f"queue {queue}: {name(stamp)} came twice, uncounted: {deliveries}")
        if any(final and n != max(known) for n, final in deliveries if n != UNKNOWN):
            self.wrong(text)
        state, ended = self.state((queue, stamp)), any(final for _, final in deliveries)
        if state & FINAL and not state & RECEIVED and not ended:  # freed at its first delivery
            self.wrong(text)


class Life:
    """Reads the log of one worker process."""

    def __init__(self, ledger: Ledger, life: int, dequeued: int | None) -> None:
        self.ledger, self.number, self.dequeued = ledger, life, dequeued
        self.took = 0
        self.hand: list[tuple[int, int, int]] = []  # queue, stamp, redelivered
        self.putting: tuple[Kind, int, int, int] | None = None
        self.taking: tuple[Kind, int, int] | None = None
        self.returned = False  # the call that took it has ended and reported how many
        self.freeing = False
        self.last: dict[Packet, int] = {}

    def read(self, records: Iterable[Record], killed: bool) -> None:
        for kind, queue, small, stamp in records:
            match kind:
                case Kind.PUTTING | Kind.FORWARDING:
                    self.putting = kind, queue, small, stamp
                case Kind.PUT:
                    self.published(small)
                case Kind.TAKING | Kind.RECEIVING:
                    self.taking = kind, queue, small
                    self.returned = False
                case Kind.TOOK:
                    assert self.taking is not None
                    self.took += small
                    self.returned = True
                    self.taking = (*self.taking[:2], small) if small else None
                case Kind.GOT:
                    self.got(queue, stamp, small)
                case Kind.FREEING:
                    self.freeing = True
                case Kind.FREED:
                    self.finish()
                case Kind.NACKED:
                    for packet in self.hand[:small]:
                        self.ledger.got(*packet, final=False)
                    self.ledger.figures["nacked"] += small
                    del self.hand[:small]
        if killed:
            self.killed()
        elif self.putting or self.taking or self.hand:
            self.ledger.wrong(f"life {self.number} ended while it owned {self.hand}")

    def published(self, n: int) -> None:
        assert self.putting is not None
        kind, queue, _, stamp = self.putting
        stream = self.ledger.stream(queue, stamp)
        stream.put = stream.may = stream.put + n
        self.ledger.figures["published"] += n
        self.putting = None
        if kind == Kind.FORWARDING and n:
            self.finish()

    def got(self, queue: int, stamp: int, redelivered: int) -> None:
        assert self.taking is not None
        kind, _, left = self.taking
        self.taking = (kind, queue, left - 1) if left > 1 else None
        self.in_order(queue, stamp, redelivered)
        if kind == Kind.RECEIVING or not self.ledger.returns[queue]:
            self.ledger.got(queue, stamp, redelivered, final=True)
        if kind == Kind.TAKING:
            self.hand.append((queue, stamp, redelivered))

    def in_order(self, queue: int, stamp: int, redelivered: int) -> None:
        if self.ledger.requeues[queue] and redelivered:
            return
        before = self.last.get((queue, stamp >> SEQUENCE_BITS), -1)
        if stamp <= before:
            self.ledger.wrong(
                f"queue {queue}: life {self.number} got {name(stamp)} after {name(before)}"
            )
        self.last[queue, stamp >> SEQUENCE_BITS] = stamp

    def finish(self) -> None:
        """What the worker owned is freed or forwarded."""
        for queue, stamp, redelivered in self.hand:
            if self.ledger.returns[queue]:
                self.ledger.got(queue, stamp, redelivered, final=True)
        self.hand.clear()
        self.freeing = False

    def unlogged(self, n: int) -> int:
        """Returns how many packets the interrupted call had taken, at most n.

        A recoverer clears the dead member's counters before its slot is free, so they may read as
        zero.
        """
        if not self.dequeued or self.dequeued < self.took:
            self.ledger.figures["counters not known"] += 1
            return n
        return self.dequeued - self.took

    def killed(self) -> None:
        """Notes what the last operation leaves uncertain."""
        ledger = self.ledger
        if self.taking:
            kind, queue, n = self.taking
            if not ledger.returns[queue]:
                ledger.may_be_lost[queue] += n
            elif kind == Kind.RECEIVING:  # what was freed had been counted
                ledger.may_be_lost[queue] += n if self.returned else min(n, self.unlogged(n))
        if self.putting:
            _, to, n, first = self.putting
            stream = ledger.stream(to, first)
            stream.may = stream.put + n
        forwarding = self.putting is not None and self.putting[0] == Kind.FORWARDING
        for i, (queue, stamp, redelivered) in enumerate(self.hand):
            if not ledger.returns[queue]:
                continue
            ledger.got(queue, stamp, redelivered, final=False)
            if forwarding and self.putting:
                on = self.putting[1], self.putting[3] + i
                self.ledger.open[queue, stamp] = on, redelivered
            elif self.freeing:
                self.ledger.open[queue, stamp] = None


def name(stamp: int) -> str:
    return f"packet {stamp & (1 << SEQUENCE_BITS) - 1} of life {stamp >> SEQUENCE_BITS}"
