# SPDX-License-Identifier: Apache-2.0
"""The end of a ZeroMQ link that sends: takes bursts, and owns each until it is acknowledged.

An Outlet is one receiver. Its window and its credit say what may be sent to it; no more is taken
out of the queue than that. If this process is killed, recovery returns what it owned to the queue.
"""

import logging
import time
from dataclasses import replace

import zmq

from .. import errors
from ..names import printable
from ..pool import Pool
from ..topic import Samples
from . import messages, sockets
from .config import PACKETS_MAX
from .ends import Batch, Packed, Returns, Source, source_of
from .link import DRAIN_S, Link
from .messages import Message
from .packing import BadMessage, fitting
from .zeromq_outlet import ASK_S, NOBLOCK, Outlet, Sent, Shipment, new_sender

log = logging.getLogger("shmpool.bridge")

CONNECTIONS_S = 0.02  # between two questions what has become of the connections
KEEP_S = 10.0  # without a burst, after which HELLO is sent
RETURN_S = 0.02  # pause after a packet that is returned
IDLE_MS = 250
ALONE_S = 0.1  # of a wait at the queue alone, between two questions about the connections
SOON_S = 0.0002  # first wait at the queue alone while answers may come; each is twice as long
PACKET_LEAST = 16  # bytes that a packet is guessed to have, to take not too few


class Sender(Link):
    """Sends bursts to one receiver, or to several."""

    def work(self, pool: Pool) -> None:
        """See Link. Refused: the queue loses what a dead consumer had taken, or the keys."""
        self._outlets: list[Outlet] = []
        self._to_all = self.options.receivers == "all"
        self._mean = 1500.0  # bytes of a packet in the last burst
        self._taken: list[Batch] = []  # and not sent yet
        self._returns = Returns()  # what no receiver takes
        self._connections_at = 0.0
        self._pause = SOON_S
        self._starved: float | None = None  # since when packets wait for a receiver's room
        source = self._source = source_of(pool, self.options.local.name)
        try:
            with sockets.context() as ctx:
                for to in self.options.remotes:
                    sender = new_sender()
                    sock, monitor = sockets.dealer(ctx, self.options, to, sender)
                    away = time.monotonic()
                    self._outlets.append(
                        Outlet(to, sock, monitor, sender, to.path.encode(), away=away)
                    )
                self._answers = self._poller()
                try:
                    self._send_until_stop(source)
                finally:  # also before it begins again: no room is kept free for it
                    for one in self._outlets:
                        one.pass_on(Message(messages.BYE, one.sender).packed(), b"")
        finally:
            self._give_back()
            source.close()

    def _poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        for one in self._outlets:
            poller.register(one.sock, zmq.POLLIN)
            poller.register(one.monitor, zmq.POLLIN)
        poller.register(self.stop.fileno(), zmq.POLLIN)
        return poller

    def _send_until_stop(self, source: Source) -> None:
        self._note_state()
        ended = False
        while not self.stop.is_set:
            self.refuse_replaced()
            self._returns.place()
            room = self._room()
            if room == 0 or self._unacknowledged() * 2 >= self.options.window:
                self._listen()  # seldom, while there is room
                room = self._room()
            if room and not self._taken and not ended:
                try:
                    self._take(source, room)
                except errors.ShutDown:
                    ended = True
            if room and self._taken and self._send_next(room):
                continue
            self._listen()
            if ended and not self._taken and not self._unacknowledged():
                raise errors.ShutDown("the queue was shut down")
            if self._taken or ended or self._room() == 0:
                self._note_figures()
                self._answers.poll(IDLE_MS)
                self._connections_at = 0.0
        deadline = time.monotonic() + DRAIN_S
        while self._unacknowledged() and time.monotonic() < deadline:
            self._listen()
            time.sleep(0.001)

    def _take(self, source: Source, room: int) -> None:
        """Takes up to room packets of about burst_bytes. Waits for the first one.

        A packet wakes this thread with one futex. With a descriptor of the queue, to poll for
        answers too, there would be three wakeups in its way and a system call in each take. So an
        answer is read later, by no more than the time that it has taken. While there is room,
        nothing waits for it.
        """
        seconds = self._pause if self._unacknowledged() else ALONE_S
        batch = source.take(self._wanted(room), seconds)
        if batch is None:
            self._pause = min(self._pause * 2, ALONE_S)
        else:
            self._pause = SOON_S
            self._taken.append(batch)
            self._returns.place()

    def _room(self) -> int:
        """How many packets may be taken and sent now."""
        if self._returns.crowded:
            return 0
        rooms = [one.room(self.options.window) for one in self._outlets]
        return min(min(rooms) if self._to_all else max(rooms), PACKETS_MAX)

    def _send_next(self, room: int) -> bool:
        """Sends a burst of what was taken. False if that has to wait."""
        batch, packed = self._next(room)
        size = len(packed[1])
        fit = [one for one in self._outlets if one.ready and size <= one.largest]
        if len(fit) < (len(self._outlets) if self._to_all else 1):
            self._return(batch, _too_large(size, self._outlets))  # it has one packet: others fit
            self._listen()  # it may come again at once, until a receiver that takes it is there
            return True
        if not self._to_all:
            fit = [one for one in fit if one.room(self.options.window)]
            if not fit:  # the others may have room, and not for this one
                self._taken.insert(0, batch)
                return False
            fit = [min(fit, key=lambda one: len(one.window))]
        self._mean = size / batch.n
        shipment = Shipment(batch, size, len(fit), time.monotonic(), batch.doubtful)
        for one in fit:
            self._ship(one, shipment, packed)
        return True

    def _next(self, room: int) -> tuple[Batch, Packed]:
        """Packs up to room packets of about burst_bytes of what was taken."""
        self._divide(self._wanted(room))
        packed = self._taken[0].packed()
        if len(packed[1]) > 2 * self.options.burst_bytes:  # larger than those before
            self._divide(fitting(packed[0], self.options.burst_bytes))
            packed = self._taken[0].packed()
        return self._taken.pop(0), packed

    def _wanted(self, room: int) -> int:
        """How many packets a burst should have."""
        return min(room, int(self.options.burst_bytes // max(self._mean, PACKET_LEAST))) or 1

    def _divide(self, n: int) -> None:
        """Leaves n packets in the batch that is next."""
        if self._taken[0].n > n:
            self._taken[:1] = self._taken[0].split(n)

    def _ship(self, one: Outlet, shipment: Shipment, packed: Packed | None = None) -> None:
        one.newest += 1
        sent = Sent(one.newest, shipment)
        one.window.append(sent)
        one.packets += shipment.batch.n
        one.send(sent, packed)

    # What comes back.

    def _listen(self) -> None:
        """Reads what the receivers and the connections say."""
        now = time.monotonic()
        connections = now >= self._connections_at
        if connections:
            self._connections_at = now + CONNECTIONS_S
            self._note_figures()
        for one in self._outlets:
            for event, _ in sockets.happened(one.monitor) if connections else ():
                self._connection(one, event)
            while one.connected and self._answer(one):
                pass
            waited = now - one.asked
            quiet = now - one.moved
            if one.connected and waited > ASK_S and (
                not one.ready or (one.window and quiet > ASK_S) or quiet > KEEP_S < waited
            ):  # fmt: skip
                one.hello()
        if len(self._outlets) > 1 and not self._to_all:
            self._fail_over(now)

    def _connection(self, one: Outlet, event: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.figures.reconnects += one.met
            one.connected = True
            one.refusal = ""
            one.hello()
        elif event == zmq.EVENT_DISCONNECTED:
            self._lost(one)
        else:
            one.refusal = "the handshake failed: it is no receiver of a bridge, or refuses the key"
        self._note_state()

    def _lost(self, one: Outlet) -> None:
        if one.ready:
            one.away = time.monotonic()
        one.connected = one.ready = False

    def _answer(self, one: Outlet) -> bool:
        """Reads one answer. False if there is none."""
        try:
            answer = one.sock.recv(NOBLOCK)
        except zmq.Again:
            return False
        try:
            message = messages.message_of(answer)
        except BadMessage as error:
            one.refusal = str(error)
            return True
        if message.sender == one.sender:
            self._understand(one, message, answer[messages.HEAD :])
        return True

    def _understand(self, one: Outlet, message: Message, text: bytes) -> None:
        if message.kind == messages.ACK:
            self._acknowledged(one, message.number)
            one.credit = message.credit
        elif message.kind == messages.WELCOME and message.turn == one.turn:
            self._welcomed(one, message)
        elif message.kind == messages.WHO:
            one.ask_again()
        elif message.kind == messages.REJECTED:
            self._rejected(one, message.number, printable(text))
        elif message.kind == messages.REFUSED:
            one.refusal = printable(text)
            self._note_state()

    def _welcomed(self, one: Outlet, message: Message) -> None:
        self._acknowledged(one, message.number)
        one.credit, one.largest = message.credit, message.packets
        if not one.ready:
            one.ready = one.met = True
            one.refusal = ""
        if one.window and one.window[0].number <= one.counted:  # lost, and those behind it refused
            one.window[0].shipment.resent = True  # those behind it were not put
            for sent in one.window:
                if sent.shipment.size > one.largest:  # another pool than before
                    self._unload(sent.shipment, _too_large(sent.shipment.size, [one]))
                one.send(sent)
        self._note_state()

    def _acknowledged(self, one: Outlet, last: int) -> None:
        figures = self.figures
        while one.window and one.window[0].number <= last:
            sent = one.window.popleft()
            shipment = sent.shipment
            one.packets -= shipment.batch.n
            one.moved = time.monotonic()
            shipment.to -= 1
            if shipment.to == 0:
                shipment.batch.free()
                figures.bursts += shipment.batch.n > 0
                figures.packets += shipment.batch.n
                figures.bytes += shipment.size
        figures.unacknowledged = self._unacknowledged()

    def _rejected(self, one: Outlet, number: int, why: str) -> None:
        """The receiver's pool never has room for a packet of that burst, and has put none of it,
        nor what came behind it. Its number is sent again without packets."""
        for sent in one.window:
            if sent.number == number and sent.shipment.batch.n:
                self._unload(sent.shipment, why)
                one.ask_again()

    def _unload(self, shipment: Shipment, why: str) -> None:
        """Takes the packets out of a shipment that a receiver never takes. Each is sent alone, as
        others have room there, and one that was alone counts as one that its consumer failed on."""
        batch = shipment.batch
        for one in self._outlets:
            one.packets -= sum(batch.n for sent in one.window if sent.shipment is shipment)
        shipment.batch, shipment.size = Batch(Samples(), 0), 0
        if batch.n == 1:
            self._return(batch, why)
            return
        doubtful = shipment.doubtful or shipment.resent or self._to_all
        self._taken += [replace(one, doubtful=doubtful) for one in batch.singles()]

    def _return(self, batch: Batch, why: str) -> None:
        """Returns a batch to its queue, which may have a limit to that. Not more than a few in a
        second, if it has not."""
        log.warning("link %s: %d packets returned: %s", self.options.shown, batch.n, why)
        self.figures.returned += batch.n
        self._returns.add(batch)
        self.stop.wait(RETURN_S)

    def _fail_over(self, now: float) -> None:
        """Gives the bursts of a receiver that is away to the others; it may have them too."""
        for one in self._outlets:
            ready = [other for other in self._outlets if other.ready and other is not one]
            if one.ready or not one.window or not ready:
                continue
            if now - one.away < self.options.failover_s:
                continue
            left = [sent.shipment for sent in one.window if sent.shipment.batch.n]
            one.new_life()
            for i, shipment in enumerate(left):
                shipment.doubtful = True
                fit = [other for other in ready if shipment.size <= other.largest]
                if fit:
                    self.figures.redelivered += shipment.batch.n
                    self._ship(fit[i % len(fit)], shipment)
                else:
                    self._unload(shipment, _too_large(shipment.size, ready))

    # Figures, and the end.

    def _unacknowledged(self) -> int:
        return sum(len(one.window) for one in self._outlets)

    def _note_state(self) -> None:
        away = [one for one in self._outlets if not one.ready]
        if not away or (len(away) < len(self._outlets) and not self._to_all):
            self.up()
        else:
            self.down("; ".join(f"{one.to}: {one.refusal or 'no answer'}" for one in away))

    def _note_figures(self) -> None:
        figures = self.figures
        oldest = [one.window[0].shipment.at for one in self._outlets if one.window]
        figures.unacknowledged = self._unacknowledged()
        figures.lag = self._source.waiting
        if oldest or not (figures.lag or self._taken) or self._room() or figures.state != "up":
            self._starved = None
        elif self._starved is None:
            self._starved = time.monotonic()
        figures.oldest_since = min(oldest, default=self._starved)

    def _give_back(self) -> None:
        """Returns what is not acknowledged to the queue."""
        left = {id(sent.shipment): sent.shipment for one in self._outlets for sent in one.window}
        self._returns.end([*(one.batch for one in left.values()), *self._taken])
        self.figures.unacknowledged, self.figures.oldest_since = 0, None


def _too_large(size: int, outlets: list[Outlet]) -> str:
    """Says why none of them gets a packet."""
    largest = ", ".join(f"{one.largest} ({one.to})" for one in outlets if one.ready)
    return f"a packet has {size} bytes; receivers take {largest}"
