# SPDX-License-Identifier: Apache-2.0
"""What a worker of the storm leaves when it is killed: a log in shared memory, and stamped packets.

A record is one 64-bit word: | kind 4 | queue 4 | small 8 | stamp 48 |. It is written before the
count that makes it part of the log, so a kill in between loses that record and nothing else. An
announcement (PUTTING, TAKING, FREEING) is logged before the call, a result (PUT, TOOK, FREED) after
it.

A stamp names a packet on one queue: | producer 24 | sequence 24 |. A producer is one worker
process. A packet has one stamp for each queue. So a packet that is put back still has its stamp of
that queue, whatever a dead member had written for the next one.
"""

import mmap
import os
import zlib
from collections.abc import Iterator
from enum import IntEnum
from struct import Struct

import shmpool

RECORDS = 1 << 15  # of one worker
HEAD = 64  # words before them
COUNT, DOING, STOP, QUIET = 0, 1, 2, 3  # words of an area's head
MOVED = 8  # the first of one word for each queue: packets got from it
TROUBLE = 32  # from this word on: error messages as text
TROUBLE_BYTES = (HEAD - TROUBLE) * 8
QUEUES = 3
TOPIC_BITS = 2  # of the queue field of a subscription's record; its place in the worker is above
UNKNOWN = 255  # times a packet was redelivered, where recv() does not report it
SEQUENCE_BITS = 24

HEADER = Struct(f"<{QUEUES}QII")  # the stamps, the size of the body, its checksum
STAMP = Struct("<Q")
SMALLEST = 64


class Kind(IntEnum):
    """What a record says. n is its small field."""

    PUTTING = 1  # is about to publish n packets from this stamp on
    FORWARDING = 2  # the same, of packets that it owns
    PUT = 3  # n of them are published
    TAKING = 4  # is about to get up to n
    RECEIVING = 5  # is about to get up to n, copied out and freed
    TOOK = 6  # got n
    GOT = 7  # got this one, redelivered n times, with correct contents
    FREEING = 8  # is about to free all that it owns
    FREED = 9
    NACKING = 10  # is about to return all that it owns
    NACKED = 11  # the first n of it were returned


class Told(IntEnum):
    """What a record of a worker with topics says. n is its small field, and last its stamp."""

    PUBLISHING = 1  # is about to publish n messages from this stamp on
    PUBLISHED = 2  # n of them are published
    SUBSCRIBING = 3  # is about to subscribe so, when last messages had been published
    SUBSCRIBED = 4  # has subscribed, when last messages had been published
    SEQUENCE = 5  # got the message with this sequence number
    MESSAGE = 6  # and this stamp
    MISSED = 7  # gaps after it
    ENDS = 8  # is about to leave, with last gaps; n: there was nothing more to get
    LEFT = 9  # at the same time last messages had been published


class Doing(IntEnum):
    """The operation a worker is in, read by the driver that kills it."""

    NOTHING = 0
    SEND = 1
    SEND_MANY = 2
    ALLOC = 3
    ALLOC_MANY = 4
    WRITE = 5
    PUT = 6
    PUT_MANY = 7
    GET = 8
    GET_MANY = 9
    CHECK = 10
    FREE = 11
    FREE_MANY = 12
    RECV = 13
    RECV_MANY = 14
    CLOSE = 15
    NACK = 16
    PUBLISH = 17
    SUBSCRIBE = 18
    TAKE = 19
    LET_GO = 20
    UNSUBSCRIBE = 21


Record = tuple[int, int, int, int]  # Kind, queue, small, stamp


class Log:
    """The areas of all workers: one writer each, read by the driver when the writer is dead."""

    def __init__(self, workers: int, records: int = RECORDS) -> None:
        step = HEAD + records
        self._map = mmap.mmap(-1, workers * step * 8)
        whole = memoryview(self._map).cast("Q")
        self.areas = [whole[i * step : (i + 1) * step] for i in range(workers)]

    def clear(self, worker: int) -> None:
        """Prepares the area for a new worker process. The counts of queue moves stay."""
        area = self.areas[worker]
        area[COUNT] = area[DOING] = area[STOP] = area[QUIET] = area[TROUBLE] = 0

    def records(self, worker: int) -> Iterator[Record]:
        area = self.areas[worker]
        for word in area[HEAD : HEAD + area[COUNT]].tolist():
            yield word >> 60, word >> 56 & 15, word >> 48 & 255, word & (1 << 48) - 1

    def trouble(self, worker: int) -> str:
        text = bytes(self.areas[worker][TROUBLE:HEAD])
        return text.split(b"\0")[0].decode(errors="replace")

    def moved(self, queue: int) -> int:
        return sum(area[MOVED + queue] for area in self.areas)


def stamp_of(life: int, sequence: int) -> int:
    return life << SEQUENCE_BITS | sequence


class Packets:
    """Payloads of the sizes of one run, with checksums, made before the workers are forked."""

    def __init__(self, rooms: list[int]) -> None:
        """rooms is the size of the buffers of each class: packets fill them, or two thirds."""
        sizes = sorted({n for room in rooms for n in (room, max(SMALLEST, room * 2 // 3))})
        self.rooms, self.size = rooms, rooms[-1]
        self.chains = False
        self.packets: list[bytearray] = []
        self.ends: dict[int, tuple[int, int]] = {}  # by checksum: first and last byte of the body
        for n in sizes:
            self._add(n, 4)

    def _add(self, n: int, many: int) -> None:
        """Adds packets of n bytes."""
        for _ in range(many):
            body = os.urandom(n - HEADER.size)
            packet = bytearray(HEADER.size) + body
            checksum = zlib.crc32(body)
            HEADER.pack_into(packet, 0, *[0] * QUEUES, len(body), checksum)
            self.packets.append(packet)
            self.ends[checksum] = body[0], body[-1]

    def stamped(self, which: int, queue: int, stamp: int) -> bytearray:
        """Returns one of the packets as it goes into the queue. The next call for the same packet
        invalidates it."""
        packet = self.packets[which % len(self.packets)]
        stamps = [0] * QUEUES
        stamps[queue] = stamp
        HEADER.pack_into(packet, 0, *stamps, *HEADER.unpack_from(packet)[QUEUES:])
        return packet

    def lengthen(self) -> None:
        """Adds packets for which no single buffer has room: chains of two, three and more
        buffers."""
        self.chains = True
        for n in (self.size + 1, self.size * 5 // 2, self.size * 4):
            self._add(n, 2)

    def stamp_of(self, buf: shmpool.Buffer, queue: int) -> int:
        """stamp_in() of a Buffer. What has a single buffer is not copied."""
        if len(buf.segments) > 1:
            return self.stamp_in(bytes(buf), queue)
        with buf.view as view:
            return self.stamp_in(view, queue)

    def stamp_in(self, packet: "bytes | memoryview", queue: int) -> int:
        """Returns the packet's stamp on the queue. Raises ValueError if its contents are
        corrupt."""
        if len(packet) < HEADER.size:
            raise ValueError(f"{len(packet)} bytes, shorter than a header")
        *stamps, size, checksum = HEADER.unpack_from(packet)
        body = packet[HEADER.size :]
        if size != len(body):
            raise ValueError(f"{len(body)} bytes of body, {size} were sent: {stamps}")
        if zlib.crc32(body) != checksum or self.ends.get(checksum) != (body[0], body[-1]):
            raise ValueError(f"a body of {size} bytes is not what was sent: {stamps}")
        return int(stamps[queue])
