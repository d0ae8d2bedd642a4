# SPDX-License-Identifier: Apache-2.0
"""What a link publishes into a stream of NATS JetStream: bursts, until the server has each of them.

body of a message    what
4 bytes              how many packets
24 bytes each        their table (packing.py)
the rest             their bytes

header               what
Nats-Msg-Id          sender-number: the server drops what it has stored in its duplicate window
Shmpool-Burst        the version of the body, and the byte order of its numbers
Shmpool-Again        the burst was published before
"""

import asyncio
import json
import secrets
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import StreamInfo

from .. import errors
from .._hot import Buffer
from .config import PACKETS_MAX
from .ends import Batch, Refused, Returns, Source
from .link import DRAIN_S
from .nats_client import LinkClient
from .nats_consumer import has_receiver
from .nats_stream import HEADERS, Place, first_of, jetstream, prepare_stream, until_lost
from .packing import fitting
from .stopping import Ending

if TYPE_CHECKING:
    from .link import Link

BODY = struct.Struct("<I")
VERSION = f"1 {sys.byteorder}"
_BURST = f"Shmpool-Burst: {VERSION}\r\n"
ACK_S = (5.0, 60.0)  # first and longest wait for the server's acknowledgement
REFUSED_S = 1.0  # pause after the server has refused a burst
RETURN_S = 0.02  # pause after a packet that is returned
DOUBLINGS = 10  # of the wait; more would be no longer, and no number some day
ASKS = 16  # parts of max_bytes, after each of which the sender asks how much is stored
SCAN_S = 0.25  # between two looks for bursts that wait too long


@dataclass(slots=True)
class _Sent:
    """A burst that is not acknowledged."""

    number: int
    batch: Batch
    bytes: int  # of its packets
    since: float = field(default_factory=time.monotonic)
    due: float = 0.0  # when it is published again
    times: int = 0  # published


class _Room:
    """What a stream may still hold, if it has no limit of its own and the link's max_bytes is one.

    It knows what is stored by asking, and asks again before more than a part of the limit has been
    published: others publish there, too.
    """

    def __init__(self, jet: JetStreamContext, place: Place, info: StreamInfo) -> None:
        self._jet, self._place = jet, place
        limited = (info.config.max_bytes or 0) > 0
        self._limit = None if limited else place.nats.max_bytes
        self._burst = min(place.link.burst_bytes + HEADERS, (self._limit or 0) // 2)
        self._left = 0  # bytes to publish before it asks again

    def less(self, published: int) -> None:
        """Says that a message was published, of so many bytes without its headers."""
        self._left -= published + HEADERS

    async def missing(self) -> str:
        """Returns why no more may be published now, or nothing. Raises one of TROUBLE."""
        if self._limit is None or self._left > 0:
            return ""
        stored = (await self._jet.stream_info(self._place.stream)).state.bytes
        self._left = min(self._limit - stored - self._burst, max(self._limit // ASKS, 1))
        if self._left > 0:
            return ""
        return (
            f"stream {self._place.stream!r}: maximum bytes reached: {stored} of max_bytes "
            f"{self._limit}, and no room for a burst of {self._burst}"
        )


class Sending:
    """The bursts of one sender. For one thread, which runs an event loop."""

    def __init__(self, place: Place, source: Source, link: "Link") -> None:
        self._place, self._source, self._link = place, source, link
        self._figures = link.figures
        self._id = secrets.token_hex(8)
        self._next = 0
        self._unacked: dict[int, _Sent] = {}  # oldest first
        self._returns = Returns()  # what no message holds
        self._acked = asyncio.Event()
        self._most = 0  # bytes of a message, without its headers: what server and stream take
        self._size = 1024.0  # bytes of a packet, with its record: an average

    async def serve(self, client: LinkClient, ending: asyncio.Event) -> None:
        """Sends over this connection. Raises Ending or ShutDown at the end, or one of TROUBLE."""
        jet = jetstream(client, self._place)
        info = await prepare_stream(client, jet, self._place)
        if not await has_receiver(jet, self._place, info):
            raise Refused(
                f"stream {self._place.stream!r} has no receiver of {self._place.subject} yet, and "
                "keeps nothing for those that come later: start them first"
            )
        limit = info.config.max_bytes or 0
        if limit <= 0:  # a burst that is larger than the whole stream would never be in it
            limit = self._place.nats.max_bytes or 0
        most = [client.max_payload, info.config.max_msg_size or 0, limit]
        self._most = min(n for n in most if n > 0) - HEADERS
        room = _Room(jet, self._place, info)
        inbox = client.new_inbox()
        await client.hear(f"{inbox}.*", self._answered)
        self._link.up()
        beside = self._again(client, inbox), until_lost(client)
        await first_of(self._send(client, inbox, room), _set(ending), *beside)
        beside = self._again(client, inbox), until_lost(client)
        await first_of(self._all_acked(), _over(ending), *beside)
        if not ending.is_set():
            raise errors.ShutDown(f"{self._place.link.from_} was shut down")
        raise Ending

    def give_back(self) -> None:
        """Returns what is not acknowledged to its queue."""
        self._figures.returned += self._returns.end(sent.batch for sent in self._unacked.values())
        self._unacked.clear()
        self._count()

    async def _send(self, client: LinkClient, inbox: str, room: "_Room") -> None:
        """Publishes what no server has acknowledged, then takes bursts and publishes them while the
        window and the stream have room. Returns after a shutdown."""
        window = self._place.link.window
        for sent in list(self._unacked.values()):
            if sent.number in self._unacked:
                await self._publish(client, inbox, sent)
        while True:
            while len(self._unacked) >= window:
                self._acked.clear()
                await self._acked.wait()
            while self._returns.crowded:  # _again() places them
                await asyncio.sleep(SCAN_S)
            while why := await room.missing():
                if self._source.waiting:
                    self._link.down(why)
                elif not self._unacked:  # a full stream keeps nobody waiting
                    self._link.up()
                await asyncio.sleep(SCAN_S)
            most = int(min(self._place.link.burst_bytes, self._most) / self._size)
            try:
                batch = await self._source.atake(min(max(most, 1), PACKETS_MAX))
            except errors.ShutDown:
                return
            self._returns.place()
            # No await before each part is in _unacked: who is cancelled has lost none.
            returned = self._figures.returned
            for sent, body in list(self._divided(batch, self._most)):
                room.less(len(body))
                await self._publish(client, inbox, sent, body)
            if self._figures.returned != returned:  # it may be the only one, and come at once
                await asyncio.sleep(RETURN_S)

    async def _all_acked(self) -> None:
        while self._unacked:
            self._acked.clear()
            await self._acked.wait()

    def _divided(self, batch: Batch, most: int) -> Iterator[tuple[_Sent, bytes]]:
        """Yields the bursts that a batch makes, and their bodies. One that is larger than a message
        of the server returns to its queue."""
        limit, left = min(self._place.link.burst_bytes, most), [batch]
        while left:
            batch = left.pop()
            table, data = batch.packed()
            size = BODY.size + len(table) + len(data)
            self._size += (size / batch.n - self._size) / 8
            if size > limit and batch.n > 1:
                first, rest = batch.split(fitting(table, limit - BODY.size - len(table)))
                left += rest, first
            elif size > most:
                self._refuse(batch, size, most)
            else:
                sent = _Sent(self._next, batch, len(data))
                self._next += 1
                self._unacked[sent.number] = sent
                self._count()
                yield sent, _body(batch, table, data)

    def _refuse(self, batch: Batch, size: int, most: int) -> None:
        self._returns.add(batch)
        self._figures.returned += batch.n
        self._link.down(
            f"a packet makes a message of {size} bytes; the server takes at most {most}: raise its "
            "max_payload, the stream's max_msg_size or max_bytes, or give the queue a dead_letter "
            "and max_redeliveries"
        )

    async def _publish(
        self, client: LinkClient, inbox: str, sent: _Sent, body: bytes | None = None
    ) -> None:
        headers = f"NATS/1.0\r\nNats-Msg-Id: {self._id}-{sent.number}\r\n{_BURST}"
        if sent.times:
            headers += f"Shmpool-Again: {sent.times}\r\n"
            self._figures.redelivered += sent.batch.n
        sent.due = time.monotonic() + min(ACK_S[0] * 2 ** min(sent.times, DOUBLINGS), ACK_S[1])
        sent.times += 1
        client.send(
            self._place.subject,
            f"{inbox}.{sent.number}",
            f"{headers}\r\n".encode(),
            _body(sent.batch, *sent.batch.packed()) if body is None else body,
        )
        await client.drained()

    def _answered(self, msg: Msg) -> None:
        """The server has stored a burst, or says why it has not."""
        sent = self._unacked.get(int(msg.subject.rpartition(".")[2]))
        if sent is None:
            return  # acknowledged before
        why = "no server has the stream" if not msg.data else ""
        if not why:
            answer = json.loads(msg.data)
            if "error" in answer:
                why = str(answer["error"].get("description", answer["error"]))
            elif not answer.get("seq"):
                why = "another copy is being stored"
        if why:
            sent.due = time.monotonic() + REFUSED_S
            self._link.down(f"stream {self._place.stream!r}: {why}")
            return
        del self._unacked[sent.number]
        sent.batch.free()
        figures = self._figures
        figures.bursts += 1
        figures.packets += sent.batch.n
        figures.bytes += sent.bytes
        figures.doubled += bool(answer.get("duplicate"))
        self._count()
        self._acked.set()
        self._link.up()

    async def _again(self, client: LinkClient, inbox: str) -> None:
        """Publishes again what is not acknowledged in time, returns what no message holds, and
        notes how much waits."""
        while True:
            await asyncio.sleep(SCAN_S)
            self._link.refuse_replaced()
            self._returns.place()
            self._figures.lag = self._source.waiting
            now = time.monotonic()
            for sent in [one for one in self._unacked.values() if one.due <= now]:
                if sent.number in self._unacked:
                    await self._publish(client, inbox, sent)

    def _count(self) -> None:
        self._figures.unacknowledged = len(self._unacked)
        oldest = next(iter(self._unacked.values()), None)
        self._figures.oldest_since = None if oldest is None else oldest.since


async def _set(event: asyncio.Event) -> None:
    await event.wait()


async def _over(ending: asyncio.Event) -> None:
    """Returns DRAIN_S after the link was asked to end."""
    await ending.wait()
    await asyncio.sleep(DRAIN_S)


def _body(batch: Batch, table: bytes, data: bytes | Buffer) -> bytes:
    return b"".join((BODY.pack(batch.n), table, data))
