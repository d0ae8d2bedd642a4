# SPDX-License-Identifier: Apache-2.0
"""What a link takes out of a stream of NATS JetStream, and puts into a queue or topic here.

A burst is acknowledged only when it is in the queue. What comes again is dropped if this process
has put it, and else marked as redelivered:

    it comes again because                 it is known by
    an acknowledgement was lost            its Nats-Msg-Id, if this process has put it
    a receiver was killed                  the server's count of its deliveries
    the sender has published it again      its header Shmpool-Again
    a killed server forgot what was done   its number in the stream: a stream is delivered in order,
                                           and the ledger has the highest number; the first one
                                           above it was perhaps put by a receiver that was killed
    the same, and another receiver has it  it was in the stream when the server was started again,
                                           and deliveries were counted that did not come here

A message of another program, without the header Shmpool-Burst, is one packet.
"""

import asyncio
import hashlib
import json
import struct
import sys
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo, RetentionPolicy, StreamInfo

from .. import errors
from .._hot import packed_longest
from .ends import Progress, Target
from .ledger import SENDER, Ledger
from .nats_client import LinkClient
from .nats_consumer import (
    began_again,
    has_begun_again,
    left_behind,
    prepare_consumer,
    replace_consumer,
)
from .nats_sending import BODY, VERSION
from .nats_stream import NS, Place, first_of, jetstream, keeps_all, prepare_stream, until_lost
from .packing import RECORD, BadMessage, checked
from .stopping import Ending

if TYPE_CHECKING:
    from .link import Link

KNOWN = 1 << 16  # bursts that this process knows it has put
EXPIRES_S = 30.0  # for which a server keeps a request
HEARTBEAT_S = 2.0  # between two signs of life of a request
SILENT_S = 3 * HEARTBEAT_S  # after which a request is taken for lost
CHECK_S = 2.0  # between two questions whether the stream and the consumer agree
AGREEING = 3  # answers that they do not, about the same message, and it is so
OVERDUE = 3  # times that a consumer's ack_wait is over, and what was delivered does not come again
RETRY_S = 30.0  # before a server delivers again what cannot be put here
_PLAIN = struct.Struct("=IIIHHQ")  # the record of another program's message: its length
_LENGTH = struct.Struct("=I")  # what a record begins with
ORIGIN = "$JS.ACK."  # what the reply subject of a message from a stream begins with
ENDED = ("404", "408")  # statuses of a request that has ended
ALIVE = "100"  # of one that goes on


class Receiving:
    """The bursts of one receiver. For one thread, which runs an event loop."""

    def __init__(self, place: Place, target: Target, ledger: Ledger, link: "Link") -> None:
        self._place, self._target, self._ledger, self._link = place, target, ledger, link
        self._figures = link.figures
        self._known: OrderedDict[str, None] = OrderedDict()  # put: oldest first
        self._apart: OrderedDict[str, None] = OrderedDict()  # put, but for what has no room here
        self._partly: tuple[str, Progress] | None = None  # a burst that is not put completely
        self._held: deque[Msg] = deque()  # not acknowledged, oldest first
        self._asked = 0  # messages that servers still may send
        self._turn = asyncio.Event()  # to ask for more
        self._came = asyncio.Event()
        self._ended: Exception | None = None  # why no more come
        self._stream = b""  # the stream's identity, as the ledger has it
        self._newest = 0  # number that a receiver before this one can have put
        self._server = ""  # its id, of the last connection
        self._restarted = 0  # number of the last message when another server was found
        self._counted = 0  # deliveries to all receivers, as the last message here says; 0: unknown
        self._born = ""  # when the consumer was created: another one delivers all again
        self._replaced = 0  # number of the last message when another consumer was found
        # Deliveries of which some did not come here, and how many checks have said so.
        self._elsewhere = 0, 0
        self._forgets = False  # the server is an old one of which _overdue() tells
        self._first = 0, 0.0  # message that is the stream's first one, and since when it stays
        self._others = False  # other receivers of the same consumer get messages, too

    async def serve(self, client: LinkClient, ending: asyncio.Event) -> None:
        """Receives over this connection. Raises Ending at the end, or one of TROUBLE."""
        jet = jetstream(client, self._place)
        info = await prepare_stream(client, jet, self._place)
        consumer = await prepare_consumer(jet, self._place, info)
        name = f"{self._place.stream} {info.created}"  # another stream of that name begins at 1
        self._meet(hashlib.sha256(name.encode()).digest()[:SENDER], info, consumer)
        if await has_begun_again(jet, self._place, consumer):
            self._ledger.note(self._stream, 0)
            consumer = await replace_consumer(jet, self._place, info)
        if client.server_id != self._server:
            self._restarted = info.state.last_seq if self._server else 0
            self._server = client.server_id
        born = str(consumer.created)
        if born != self._born:
            stored = await jet.stream_info(self._place.stream)
            self._replaced = stored.state.last_seq if self._born else 0
            self._born = born
        self._first, self._elsewhere = (0, 0.0), (0, 0)
        self._forgets = not keeps_all(client)
        wait = consumer.config.ack_wait or self._place.nats.ack_wait_s
        self._held.clear()
        self._asked, self._ended, self._counted = 0, None, 0
        inbox = client.new_inbox()
        await client.hear(inbox, self._arrived)
        self._link.up()
        try:
            await first_of(
                self._ask(client, inbox),
                self._place_all(client),
                self._keep(wait / 3),
                self._check(jet, wait),
                ending.wait(),  # type: ignore[arg-type]
                until_lost(client),
            )
            for msg in self._held:  # another receiver may have them at once
                await msg.nak()
        finally:
            self._held.clear()
            self._count()
        raise Ending

    def _meet(self, stream: bytes, info: StreamInfo, consumer: ConsumerInfo) -> None:
        """Notes what there was of a stream before the first message from it."""
        if stream == self._stream:
            return
        self._stream, self._newest = stream, info.state.last_seq
        if consumer.delivered is not None:
            self._newest = max(self._newest, consumer.delivered.stream_seq)
        if self._ledger.last(stream) is None:  # if this process is killed, the next one knows
            self._ledger.note(stream, 0)

    async def _ask(self, client: LinkClient, inbox: str) -> None:
        """Asks for messages, so that a window of them is here or on its way."""
        window = self._place.link.window
        subject = f"{self._prefix}.CONSUMER.MSG.NEXT.{self._place.stream}.{self._place.consumer}"
        while True:
            self._turn.clear()
            if self._ended is not None:
                raise self._ended
            n = window - self._asked - len(self._held)
            if n >= max(window // 2, 1):
                request = {
                    "batch": n,
                    "expires": int(EXPIRES_S * NS),
                    "idle_heartbeat": int(HEARTBEAT_S * NS),
                }
                self._asked += n
                await client.publish(subject, json.dumps(request).encode(), reply=inbox)
            try:
                async with asyncio.timeout(SILENT_S):
                    await self._turn.wait()
            except TimeoutError:
                self._asked = 0  # the server that had the request has lost it

    @property
    def _prefix(self) -> str:
        domain = self._place.nats.domain
        return f"$JS.{domain}.API" if domain else "$JS.API"

    def _arrived(self, msg: Msg) -> None:
        """A message, or what the server says of a request."""
        status = (msg.headers or {}).get("Status")
        if msg.reply.startswith(ORIGIN):  # its headers are a program's, whatever they are
            self._asked = max(self._asked - 1, 0)
            self._held.append(msg)
            self._came.set()
            self._count()
        elif status in ENDED:
            left = (msg.headers or {}).get("Nats-Pending-Messages", "")
            self._asked = max(self._asked - int(left), 0) if left.isdigit() else 0
        elif status != ALIVE:
            why = (msg.headers or {}).get("Description", "") or f"status {status}"
            if why == "Leadership Change":
                self._asked = 0
            else:
                self._ended = ConnectionError(f"consumer {self._place.consumer!r}: {why}")
        self._turn.set()

    async def _keep(self, seconds: float) -> None:
        """Tells the server that what is here is being worked on, while the queue is full; keeps the
        ledger fresh, and asks whether the pool is still the one of that name."""
        told = time.monotonic()
        while True:
            await asyncio.sleep(min(seconds, 0.5))
            self._ledger.refresh()
            self._link.refuse_replaced()
            if time.monotonic() - told >= seconds:
                told = time.monotonic()
                for msg in list(self._held):
                    await msg.in_progress()

    async def _check(self, jet: JetStreamContext, wait: float) -> None:
        """Makes another consumer if messages that it takes for done stay in the stream. wait: the
        consumer's ack_wait."""
        before, times = 0, 0
        while True:
            await asyncio.sleep(CHECK_S)
            try:
                consumer = await jet.consumer_info(self._place.stream, self._place.consumer)
                stream = await jet.stream_info(self._place.stream)
                first = await left_behind(jet, self._place, stream, consumer)
                first = first or self._overdue(stream, consumer, wait)
            except (TimeoutError, nats.js.errors.ServiceUnavailableError):
                continue  # a cluster without a leader
            if str(consumer.created) != self._born:  # it delivers again what is held here
                raise ConnectionError(f"consumer {self._place.consumer!r} is another one")
            self._see_others(consumer)
            times = times + 1 if first and first == before else 0
            if times == AGREEING - 1:
                if began_again(stream, consumer):
                    self._ledger.note(self._stream, 0)
                await replace_consumer(jet, self._place, stream)
                raise ConnectionError(f"stream {self._place.stream!r} has forgotten what was done")
            before = first

    def _see_others(self, consumer: ConsumerInfo) -> None:
        """Notes that deliveries went elsewhere. One on its way here arrives between two checks."""
        said = consumer.delivered.consumer_seq if consumer.delivered else 0
        here = self._counted + len(self._held)
        before, times = self._elsewhere
        times = times + 1 if said == before and said > here else 0
        self._elsewhere = said, times
        if self._counted and (said > here + self._asked or times >= AGREEING):
            self._others = True

    def _overdue(self, stream: StreamInfo, consumer: ConsumerInfo, wait: float) -> int:
        """Returns the number of a work queue's first message if it was delivered, but not here for
        so long that it should have come again; or 0.

        A killed server may wait for an acknowledgement of a message that is gone, in place of this
        one: seen before 2.10; 2.11 and 2.12 would stay so, too, and count the one that is gone as
        delivered again. Where others receive, one of them may have it for as long as its queue is
        full; a receiver to which nothing came since it connected does not know of them.
        """
        waited_for = consumer.num_ack_pending or 0
        number, now = stream.state.first_seq, time.monotonic()
        stays = (
            (self._forgets or 0 < waited_for <= (consumer.num_redelivered or 0))
            and stream.state.messages
            and not self._others
            and not self._held
            and consumer.delivered is not None
            and number <= consumer.delivered.stream_seq
            and not consumer.config.filter_subject
            and stream.config.retention == RetentionPolicy.WORK_QUEUE
        )
        if not stays or number != self._first[0]:
            self._first = number, now
        return number if now - self._first[1] > RETRY_S + OVERDUE * wait else 0

    async def _place_all(self, client: LinkClient) -> None:
        """Puts what has arrived into the queue, and acknowledges it."""
        while True:
            while not self._held:
                self._came.clear()
                await self._came.wait()
            msg = self._held[0]
            try:
                await self._put(msg)
                client.send(msg.reply, "", b"", b"+ACK")
            except BadMessage as error:
                self._link.down(f"dropped a message that is no burst: {error}")
                await msg.term()
            except errors.PayloadTooLarge as error:
                self._figures.returned += 1
                self._link.down(str(error))
                await msg.nak(RETRY_S)
            except _OtherVersion as error:  # another receiver may understand it, or a later one
                self._link.down(str(error))
                await msg.nak(RETRY_S)
            self._held.popleft()
            self._count()
            self._turn.set()

    async def _put(self, msg: Msg) -> None:
        """Puts a burst into the queue, unless this process has. Cancelled, it goes on where it was
        when the burst comes again.

        Raises PayloadTooLarge if a packet is larger than the pool, after it has put the others.
        """
        headers = msg.headers or {}
        deliveries, number, counted, stored = _origin(msg.reply)
        if self._counted and counted > self._counted + 1:
            self._others = True
        self._counted = counted
        if number == self._first[0]:
            self._first = 0, 0.0
        key = f"{number} at {stored}"
        if "Shmpool-Burst" in headers:  # who else gives names may give the same one twice
            key = headers.get("Nats-Msg-Id") or key
        if key in self._known:
            self._figures.doubled += 1
            return
        table, data = _parts(msg.data, headers)
        longest, largest = packed_longest(table, 0, checked(table, data))[0], self._target.largest
        if longest > largest:
            table, data = _up_to(largest, table, data)
            if key in self._apart or not table:
                raise _too_large(longest, largest)
        highest = self._ledger.last(self._stream) or 0
        again = (
            deliveries > 1
            or "Shmpool-Again" in headers
            or number <= highest
            or number <= self._replaced
            or (number <= self._restarted and self._others)
            or (number <= self._newest and self._ledger.is_next(self._stream, highest + 1))
        )
        if self._partly is None or self._partly[0] != key:
            self._partly = key, Progress()
        n = await self._target.aplace(table, data, again, self._partly[1])
        self._partly = None
        done = self._apart if longest > largest else self._known
        done[key] = None
        if len(done) > KNOWN:
            done.popitem(last=False)
        if number > highest:
            self._ledger.note(self._stream, number)
        figures = self._figures
        figures.bursts += 1
        figures.packets += n
        figures.bytes += len(data)
        figures.redelivered += n if again else 0
        if longest > largest:
            raise _too_large(longest, largest)
        self._link.up()

    def _count(self) -> None:
        self._figures.unacknowledged = self._figures.lag = len(self._held)


def _origin(reply: str) -> tuple[int, int, int, str]:
    """Returns how often a message has been delivered, its number in the stream, how many deliveries
    of any message there have been with it, and when it was stored. Its reply subject says so: that
    of nats-py's metadata, without making dates of it.

        $JS.ACK.stream.consumer.deliveries.number.counted.stored....
        $JS.ACK.domain.account.stream.consumer.deliveries.number.counted.stored....
    """
    words = reply.split(".")
    at = 4 if len(words) == 9 else 6
    return int(words[at]), int(words[at + 1]), int(words[at + 2]), words[at + 3]


def _too_large(longest: int, largest: int) -> errors.PayloadTooLarge:
    return errors.PayloadTooLarge(
        f"a packet of {longest} bytes stays in the stream: the pool here holds {largest}"
    )


def _up_to(largest: int, table: memoryview, data: memoryview) -> tuple[memoryview, memoryview]:
    """Returns the packets of a burst that are no larger than that."""
    records, payloads, at = [], [], 0
    for i in range(0, len(table), RECORD):
        (length,) = _LENGTH.unpack_from(table, i)
        if length <= largest:
            records.append(table[i : i + RECORD])
            payloads.append(data[at : at + length])
        at += length
    return memoryview(b"".join(records)), memoryview(b"".join(payloads))


class _OtherVersion(errors.ShmpoolError):
    """A burst as bridges here do not write them."""


def _parts(data: bytes, headers: dict[str, str]) -> tuple[memoryview, memoryview]:
    """Returns a burst's table and the bytes of its packets. Raises BadMessage, _OtherVersion."""
    version = headers.get("Shmpool-Burst")
    view = memoryview(data)
    if version is None:
        return memoryview(_PLAIN.pack(len(data), 0, 0, 0, 0, 0)), view
    if version != VERSION:
        raise _OtherVersion(
            f"a burst of version {version!r:.40} stays in the stream; this is version 1 of a "
            f"{sys.byteorder}-endian machine"
        )
    if len(data) < BODY.size:
        raise BadMessage(f"a body of {len(data)} bytes")
    (n,) = BODY.unpack_from(data)
    end = BODY.size + n * RECORD
    if not n or end > len(data):
        raise BadMessage(f"{n} packets in a body of {len(data)} bytes")
    return view[BODY.size : end], view[end:]
