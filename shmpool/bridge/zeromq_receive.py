# SPDX-License-Identifier: Apache-2.0
"""The end of a ZeroMQ link that receives: puts bursts into a queue or topic, and acknowledges them.

The order of the steps of one burst: its buffers are put, the ledger notes its number, and then an
acknowledgement tells the sender, which frees its own. A kill between the first two doubles it,
flagged; between the last two the ledger says that it is there.
"""

import contextlib
import logging
import time
from dataclasses import dataclass, field

import zmq

from .. import errors
from ..names import printable
from ..pool import Pool
from . import messages, sockets
from .config import Remote
from .ends import Target
from .ledger import Ledger
from .link import Link
from .messages import Message
from .packing import BadMessage

log = logging.getLogger("shmpool.bridge")

NOBLOCK, MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)  # a sum of enums takes 1 us
ACK_EVERY = 8  # bursts of a sender, or half of its window, while more of them are there
TURN = 32  # messages that are read before acknowledgements are sent
IDLE_MS, STARVING_MS = 100, 10  # of a wait for a message: whether it ends, or there is room
SILENT_S = 5.0  # after which nothing is kept free for a sender
GONE_S = 30.0  # after which a sender is forgotten, but not by the ledger
FORGET_S = 1.0  # between two looks for such senders
CONNECTIONS_S = 0.05  # between two questions what has become of the connections
MESSAGE_LEAST = 4 << 20  # bytes that every receiver takes in one message
COMPLAIN_S = 10.0  # between two lines of the log about what a peer sent
SENDERS_MAX = 120  # connected at once: fewer than the ledger knows


@dataclass
class Session:
    """One sender, as long as it is heard of."""

    route: bytes  # where answers go: the newest connection
    last: int  # the number of the last burst that was put
    heard: float
    unknown_until: int = 0  # bursts up to this may have been put before the ledger knew the sender
    turn: int = 0  # of its last HELLO
    granted: int = 0  # packets that may be on their way
    full: int = 0  # granted, when the room was counted last: while most is left, it is not again
    unanswered: int = 0  # bursts since the last acknowledgement
    asked: float = field(default=0.0)  # when WHO was sent


class Receiver(Link):
    """Receives bursts of any number of senders."""

    def work(self, pool: Pool) -> None:
        """See Link. EADDRINUSE: another process receives there."""
        at = self.options.remotes[0]
        self._sessions: dict[bytes, Session] = {}
        self._complained, self._forget_at, self._waits = 0.0, 0.0, 0
        self._connections: set[int] = set()  # their descriptors
        self._lost, self._connections_at = 0, 0.0
        self._ack_every = max(min(ACK_EVERY, self.options.window // 2), 1)
        self._largest = max(pool.geometry.room, MESSAGE_LEAST)
        self._path = at.path
        with (  # first where to put: without it no sender gets a connection
            contextlib.closing(Target(pool, self.options.local.name)) as self._target,
            sockets.context() as ctx,
            sockets.router(ctx, self.options, at, self._largest) as (self._sock, self._monitor),
            contextlib.closing(Ledger(pool, _address(at), self.stop)) as self._ledger,
        ):
            self._receive()

    def _receive(self) -> None:
        self._note_state()
        while not self.stop.is_set:
            self.refuse_replaced()
            n = int(self._wait_for_message())
            while 0 < n < TURN and self._take_message(NOBLOCK):
                n += 1
            self._answer_all()
            self._ledger.refresh()
            now = time.monotonic()
            if now >= self._connections_at:
                self._connections_at = now + CONNECTIONS_S
                self._note_connections()
            if now >= self._forget_at:
                self._forget()

    def _wait_for_message(self) -> bool:
        """Waits for a message, and reads it. Returns False if there is none. A recv() that waits
        takes fewer system calls than a poll() in front of it."""
        wait = STARVING_MS if self._starving() else IDLE_MS
        if wait != self._waits:
            self._waits = wait
            self._sock.setsockopt(zmq.RCVTIMEO, wait)
        return self._take_message(0)

    def _take_message(self, flags: int) -> bool:
        """Reads one message. Returns False if there is none."""
        sock = self._sock
        try:
            route = sock.recv(flags)
        except zmq.Again:
            return False
        frames = [sock.recv(copy=False)]  # a route is never alone
        while frames[-1].more:
            frames.append(sock.recv(copy=False))
        try:
            self._handle(route, frames)
        except BadMessage as error:
            self._complain(str(error))
        return True

    def _handle(self, route: bytes, frames: list[zmq.Frame]) -> None:
        head = frames[0].buffer
        message = messages.message_of(head)
        kind, session = message.kind, self._sessions.get(message.sender)
        if kind == messages.BURST and len(frames) == 2 and session is not None:
            self._burst(session, message, head[messages.HEAD :], frames[1].buffer)
            session.heard = time.monotonic()
        elif kind == messages.HELLO:
            self._welcome(route, message, bytes(frames[1].buffer) if len(frames) > 1 else b"")
        elif session is None:
            if len(self._sessions) < SENDERS_MAX:
                self._send(route, Message(messages.WHO, message.sender))
        elif kind == messages.BYE:
            del self._sessions[message.sender]
            self._note_state()
        else:
            raise BadMessage(f"a message of kind {kind} with {len(frames)} parts")

    def _welcome(self, route: bytes, hello: Message, path: bytes) -> None:
        if path.decode(errors="replace") != self._path:
            text = f"{printable(path)!r} is not received here; {self._path!r} is"
            self._send(route, Message(messages.REFUSED, hello.sender), text)
            return
        session, now = self._sessions.get(hello.sender), time.monotonic()
        if session is None:
            if len(self._sessions) >= SENDERS_MAX:
                text = f"{SENDERS_MAX} senders are connected, which is the most"
                self._send(route, Message(messages.REFUSED, hello.sender), text)
                return
            last = self._ledger.last(hello.sender)
            unknown_until = hello.number if last is None else 0
            last = max(hello.credit - 1, last or 0)  # what it has not any more was acknowledged
            session = Session(route, last, now, unknown_until)
            self._sessions[hello.sender] = session
        elif hello.turn < session.turn:  # of a connection before this one
            return
        session.route, session.turn, session.heard, session.granted = route, hello.turn, now, 0
        credit = self._grant(session)
        self._send(
            route,
            Message(
                messages.WELCOME,
                hello.sender,
                session.last,
                credit,
                hello.turn,
                0,
                min(self._largest, 2**32 - 1),
            ),
        )
        session.unanswered = 0
        self._note_connections()

    def _burst(
        self, session: Session, message: Message, table: memoryview, data: memoryview
    ) -> None:
        number = message.number
        if number <= session.last:
            self.figures.doubled += 1
            session.unanswered += 1
        elif number > session.last + 1:  # a sender that knew so would not send it
            now = time.monotonic()
            if now - session.asked > 0.1:
                session.asked = now
                self._send(session.route, Message(messages.WHO, message.sender))
        else:
            self._put(session, message, table, data)
        if session.unanswered >= self._ack_every:
            self._answer(message.sender, session)

    def _put(self, session: Session, message: Message, table: memoryview, data: memoryview) -> None:
        sender, number, figures = message.sender, message.number, self.figures
        again = bool(message.flags & messages.DOUBTFUL)
        if message.flags & messages.AGAIN:
            again |= number <= session.unknown_until or self._ledger.is_next(sender, number)
        figures.lag, figures.oldest_since = message.packets, time.monotonic()
        try:
            n = self._target.place(table, data, again, self.stop)
        except errors.PayloadTooLarge as error:
            # Not noted: if the sender does not read it, it sends the burst again and is told again.
            self._send(session.route, Message(messages.REJECTED, sender, number), str(error))
            return
        finally:
            figures.lag, figures.oldest_since = 0, None
        self._ledger.note(sender, number)
        session.last = number
        session.unanswered += 1
        session.granted = max(session.granted - n, 0)
        figures.redelivered += n * again
        figures.bursts += 1
        figures.packets += n
        figures.bytes += data.nbytes

    # Acknowledgements and credit.

    def _grant(self, session: Session) -> int:
        """Returns how many packets the sender may have on their way: its share of the room that no
        other sender was promised."""
        now, room = time.monotonic(), self._target.room()
        others = [
            one.granted
            for one in self._sessions.values()
            if one is not session and now - one.heard < SILENT_S
        ]
        session.granted = max(min(room // (len(others) + 1), room - sum(others)), 0)
        session.full = session.granted
        return session.granted

    def _answer(self, sender: bytes, session: Session) -> None:
        session.unanswered = 0
        if len(self._sessions) > 1 or session.granted * 4 <= session.full * 3:
            self._grant(session)
        self._send(session.route, Message(messages.ACK, sender, session.last, session.granted))

    def _answer_all(self) -> None:
        """Acknowledges what was put, and says that there is room again."""
        for sender, session in self._sessions.items():
            before = session.granted
            if session.unanswered:
                self._answer(sender, session)
            elif before < self.options.window:
                credit = max(self._grant(session), before)
                session.granted = credit
                if credit > before:
                    self._send(session.route, Message(messages.ACK, sender, session.last, credit))

    def _starving(self) -> bool:
        """True if a sender waits for room."""
        return any(one.granted < self.options.window for one in self._sessions.values())

    def _forget(self) -> None:
        """Forgets senders that have been silent for long; each says HELLO if it is there again."""
        now = time.monotonic()
        self._forget_at, long_ago = now + FORGET_S, now - GONE_S
        gone = [sender for sender, one in self._sessions.items() if one.heard < long_ago]
        for sender in gone:
            del self._sessions[sender]
        if gone:
            self._note_state()

    def _note_connections(self) -> None:
        """Reads what has become of the connections: a sender without one is away at once, though
        it is known for longer. A session has no descriptor, so only the last one says so."""
        for event, value in sockets.happened(self._monitor):
            if event == zmq.EVENT_ACCEPTED:
                self._connections.add(value)
            elif event == zmq.EVENT_DISCONNECTED:
                self._connections.discard(value)
                self._lost += 1
            elif self._lost:
                self._lost -= 1
                self.figures.reconnects += 1
        self._note_state()

    def _note_state(self) -> None:
        self.figures.window = self.options.window
        if self._sessions and self._connections:
            self.up()
        else:
            self.down("no sender is connected")

    def _send(self, route: bytes, message: Message, text: str = "") -> None:
        """Answers a sender. An answer may be lost, with a connection or because too many wait: the
        sender asks again."""
        with contextlib.suppress(zmq.Again):
            self._sock.send(route, MORE)
            self._sock.send(message.packed() + text.encode(), NOBLOCK)

    def _complain(self, what: str) -> None:
        now = time.monotonic()
        if now - self._complained > COMPLAIN_S:
            self._complained = now
            log.warning("link %s: a peer sent %s", self.options.shown, printable(what))


def _address(at: Remote) -> str:
    """What the ledger is called after: the path, which stays when an address changes."""
    return f"{at.port}/{at.path}"
