# SPDX-License-Identifier: Apache-2.0
"""shmpool.bench: its producers and consumers count exactly, whatever a library does.

The loops run in this process, with a transport that the test scripts.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from shmpool.bench import harness_cost, message
from shmpool.bench.consuming import GROUP, consume
from shmpool.bench.message import STEP, MessageErrors
from shmpool.bench.plan import size_text
from shmpool.bench.producing import COUNT_MAX, produce
from shmpool.bench.result import CellResult, Result
from shmpool.bench.scoreboard import DONE, PREFIX, SLOTS, STOP, Scoreboard, length
from shmpool.bench.tables import tables
from shmpool.bench.transport import (
    Batch,
    Columns,
    InPlace,
    OneByOne,
    Packet,
    Receive,
    Send,
    Spec,
    Transport,
)

SIZES = [64, 1500]  # below and above message.SMALL
MANY = 3 * GROUP + 5  # messages: three groups and a part of one
SLOT, SENDER = 3, 2


class FullError(Exception):
    """The queue has no room."""


class EmptyError(Exception):
    """The queue has no message."""


class Scripted(Transport):
    """Sends call `take`; receives return what `give` yields, where None means no message."""

    library, polls = "a script", True

    def __init__(self, size: int) -> None:
        super().__init__(Spec("none", size))
        self.full, self.empty = (FullError,), (EmptyError,)
        self.take: Send = lambda packet: None
        self.give: Iterator[bytes | None] = iter(())

    def create(self) -> None:
        """Does nothing."""

    def remove(self) -> None:
        """Does nothing."""


class Copies(Scripted, OneByOne):
    """Receives bytes, or None without a message."""

    def sender(self, channel: int) -> Send:
        return self.take

    def receiver(self, channel: int, timeout: float) -> Receive:
        return lambda: next(self.give, None)


class Raising(Copies):
    """Receives bytes, or raises without a message."""

    def receiver(self, channel: int, timeout: float) -> Receive:
        def receive() -> Packet:
            packet = next(self.give, None)
            if packet is None:
                raise EmptyError
            return packet

        return receive


class Places(Scripted, InPlace):
    """Has one place for all messages; each overwrites the last one."""

    def writer(self, channel: int) -> tuple[Callable[[], Packet], Callable[[Packet], Any]]:
        place = bytearray(self.spec.size)
        return lambda: place, lambda place: self.take(bytes(place))

    def receiver(self, channel: int, timeout: float) -> Receive:
        place = bytearray(2 * self.spec.size)

        def receive() -> Packet | None:
            packet = next(self.give, None)
            if packet is None:
                return None
            place[: len(packet)] = packet
            return memoryview(place)[: len(packet)]

        return receive


class Lists(Scripted, Batch):
    """Sends and receives up to 100 a call."""

    def sender_many(self, channel: int) -> Callable[[list[bytes]], int | None]:
        def send(batch: list[bytes]) -> int:
            sent = 0
            for packet in batch[:100]:
                if self.take(packet) is False:
                    break
                sent += 1
            return sent

        return send

    def receiver_many(self, channel: int) -> Callable[[], Sequence[bytes]]:
        return lambda: [p for p in (next(self.give, None) for _ in range(100)) if p is not None]


class Fields(Scripted, Columns):
    """Sends and receives arrays of fields. Receives up to 100 messages."""

    def column_writer(self, channel: int) -> Callable[[Any, Any], None]:
        size = self.spec.size
        pack, body = message.packer(size).pack, message.body(size)

        def write(words: Any, lasts: Any) -> None:
            for word, last in zip(words.tolist(), lasts.tolist(), strict=True):
                self.take(pack(word, body, last))

        return write

    def column_reader(self, channel: int) -> Callable[[], tuple[Any, Any]]:
        def read() -> tuple[Any, Any]:
            found = [p for p in (next(self.give, None) for _ in range(100)) if p is not None]
            if not found:
                raise EmptyError
            together = np.frombuffer(b"".join(found), np.uint8).reshape(len(found), -1)
            return together[:, :8].copy().view(np.uint64).reshape(-1), together[:, -1]

        return read


TRANSPORTS = [Copies, Raising, Places, Lists]


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    with Scoreboard.create(f"{PREFIX}{os.getpid()}-loops") as board:
        yield board


def packet(size: int, n: int) -> bytes:
    """The sender's n-th message."""
    word = message.base(SENDER) + n * STEP
    return message.packer(size).pack(word, message.body(size), word & 255)


def errors(
    transport: Scripted, board: Scoreboard, coming: list[bytes | None], exact: bool
) -> MessageErrors:
    """Returns the errors that consume() counts if MANY were sent and these are received."""

    def give() -> Iterator[bytes | None]:
        yield from coming
        board.words[DONE] = 1

    transport.give = give()
    consume(transport, board, SLOT, 0, exact)()
    log = board.logged(SLOT)
    assert sum(p is not None for p in coming) == len(log)
    return message.check({SENDER: message.base(SENDER) + MANY * STEP}, [log])


@pytest.mark.parametrize("exact", [False, True], ids=["together", "at once"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", TRANSPORTS)
class TestConsume:
    """Each loop of consumers, with small and with large messages."""

    def test_all_arrive(
        self, kind: type[Scripted], size: int, exact: bool, board: Scoreboard
    ) -> None:
        """No error is counted, with pauses between messages."""
        coming: list[bytes | None] = [packet(size, n) for n in range(1, MANY + 1)]
        for at in (0, 1, GROUP, 2 * GROUP, 2 * GROUP + 1):
            coming.insert(at, None)
        assert not errors(kind(size), board, coming, exact)

    @pytest.mark.parametrize("by", [-1, 1, -60], ids=lambda by: f"{by:+}")
    def test_wrong_length(
        self, kind: type[Scripted], size: int, exact: bool, by: int, board: Scoreboard
    ) -> None:
        """A message that is too short or too long counts as damaged, and the others do not."""
        coming = [packet(size, n) for n in range(1, MANY + 1)]
        for at in (0, 130, MANY - 1):
            coming[at] = (coming[at] + b"\0")[: size + by]
        assert MessageErrors(lost=3, damaged=3) == errors(kind(size), board, [*coming], exact)


LOOPS = [(kind, exact) for kind in TRANSPORTS for exact in (False, True)] + [(Fields, False)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "exact"), LOOPS)
def test_errors(kind: type[Scripted], size: int, exact: bool, board: Scoreboard) -> None:
    """Lost, repeated, damaged, reordered and unknown messages are counted among good ones."""
    coming = [packet(size, n) for n in range(1, MANY + 1)]
    lost = coming.pop(700)
    coming[600] = coming[600][:-1] + bytes([coming[600][-1] ^ 1])
    coming[500] = bytes(size)
    coming[400], coming[401] = coming[401], coming[400]
    coming.insert(300, coming[299])
    coming.append(packet(size, MANY + 1))
    assert lost not in coming
    expected = MessageErrors(lost=3, repeated=1, damaged=2, reordered=1, unknown=1)
    assert expected == errors(kind(size), board, [*coming], exact)


@pytest.mark.parametrize("size", SIZES)
def test_wrong_lengths_with_the_right_sum(size: int, board: Scoreboard) -> None:
    """A message that is too short, after one that is too long, makes two damaged ones."""
    coming: list[bytes | None] = [packet(size, n) for n in range(1, MANY + 1)]
    coming[100:102] = [packet(size, 101) + b"\5", packet(size, 102)[:-1]]
    found = errors(Copies(size), board, coming, exact=False)
    assert MessageErrors(lost=2, damaged=2) == found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", TRANSPORTS)
def test_logged_before_a_wait(kind: type[Scripted], size: int, board: Scoreboard) -> None:
    """When a consumer receives again after it found no message, its log has all that arrived."""
    log, given, behind = board.log(SLOT), 0, []

    def give() -> Iterator[bytes | None]:
        nonlocal given
        for pause in (1, 7, GROUP, GROUP + 1, 0, 0):
            for _ in range(pause):
                given += 1
                yield packet(size, given)
            if kind is Lists:  # a list ends with the hundredth None only
                yield from [None] * 100
            yield None
            behind.append(given - length(log))
        board.words[DONE] = 1

    transport = kind(size)
    transport.give = give()
    consume(transport, board, SLOT, 0, False)()
    assert [0] * 6 == behind
    log.release()


@pytest.mark.parametrize("size", SIZES)
def test_slow_messages_are_logged_at_once(
    size: int, board: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most one slow message is not logged yet, even if they arrive without a pause."""
    monkeypatch.setattr("shmpool.bench.consuming.GROUP_NS", 0)
    log, given, most = board.log(SLOT), 0, 0

    def give() -> Iterator[bytes | None]:
        nonlocal given, most
        for n in range(1, MANY + 1):
            most = max(most, given - length(log))
            given += 1
            yield packet(size, n)
        board.words[DONE] = 1

    transport = Copies(size)
    transport.give = give()
    consume(transport, board, SLOT, 0, False)()
    assert 1 >= most
    log.release()


@pytest.mark.parametrize("exact", [False, True], ids=["together", "at once"])
@pytest.mark.parametrize("size", [*SIZES, 64 << 10])
@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("refuse", ["False", "raise"])
def test_produce(
    refuse: str, kind: type[Scripted], size: int, exact: bool, board: Scoreboard
) -> None:
    """A producer that is stopped while there is no room has counted exactly the messages taken.

    Every message is in order, whole, and a new object.
    """
    if kind is Lists and refuse == "raise":
        pytest.skip("a list is taken in part, or not at all")
    taken: list[bytes] = []
    asked, stop_at = 0, 2 * COUNT_MAX + 7

    def take(sent: bytes) -> bool | None:
        nonlocal asked
        asked += 1
        if len(taken) == stop_at:
            board.words[STOP] = 1
        elif asked % 5:
            taken.append(sent)
            return None
        if refuse == "raise":
            raise FullError
        return False

    transport = kind(size)
    transport.take = take
    produce(transport, board, SENDER, range(1), exact)()
    assert stop_at == len(taken) == len({id(sent) for sent in taken})
    assert [packet(size, n) for n in range(1, stop_at + 1)] == taken
    assert message.base(SENDER) + stop_at * STEP == board.words[SLOTS + SENDER]


@pytest.mark.parametrize("size", SIZES)
def test_produce_columns(size: int, board: Scoreboard) -> None:
    """A batch for which there is no room is sent again. The messages counted are those taken."""
    transport = Fields(size)
    taken: list[bytes] = []
    asked = 0

    def take(sent: bytes) -> None:
        nonlocal asked
        if len(taken) % transport.batch == 0:  # the first one of a batch
            asked += 1
            if asked % 3 == 0:
                raise FullError
        taken.append(sent)
        if len(taken) == 5 * transport.batch:
            board.words[STOP] = 1

    transport.take = take
    produce(transport, board, SENDER, range(1), False)()
    assert [packet(size, n) for n in range(1, 5 * transport.batch + 1)] == taken
    assert message.base(SENDER) + len(taken) * STEP == board.words[SLOTS + SENDER]


@pytest.mark.parametrize("size", SIZES)
def test_harness_cost(size: int) -> None:
    """The harness is measured without a library, and the tables show its rate."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    rate = harness_cost.measure(f"{PREFIX}{os.getpid()}-cost", size, 4, 0.05, cores)
    assert rate > 0
    conditions = {"producers": 4, "consumers": 4, "size": size}
    cells = [CellResult("throughput", "", conditions, [], harness_rate=rate) for rate in (1e6, 0.0)]
    notes = [tables(Result("", {}, {}, {}, {}, [cell]))[0].note for cell in cells]
    assert f"would reach 1,000 k/s ({size_text(size)})" in notes[0]
    assert "would reach" not in notes[1]


@pytest.mark.parametrize("size", SIZES)
def test_words_beyond_their_lower_half(size: int) -> None:
    """Messages stay in order where the lower half of their words overflows."""
    first = message.base(SENDER) + ((1 << 32) // STEP - 3) * STEP
    words = [first + n * STEP for n in range(10)]
    check = message.checker(size)
    assert [(word, word & 255) for word in words] == [
        check(p) for p in message.maker(size, 10)(first)
    ]
    lows, high = message.low_halves(first, 10)
    assert words[: len(lows)] == [high << 32 | low for low in lows]
    assert 0 < len(lows) < 10
    assert (
        np.uint64(words[-1])
        == message.whole_checker(size)(list(message.maker(size, 10)(first)))[-1]
    )


@pytest.mark.parametrize("size", [10, message.LARGE - 1, message.LARGE, message.LARGE + 1])
def test_packing(size: int) -> None:
    """Packed or copied, new or in place: the same bytes, and each message a new object."""
    body, place = message.body(size), bytearray(size + 3)
    pack, pack_into = message.packing(size), message.packing_into(size)
    made = []
    for low in (5, 6 + (7 << 20)):
        expected = message.packer(size).pack(9 << 32 | low, body, low & 255)
        made.append(pack(low, 9, body, low & 255))
        pack_into(place, 1, low, 9, body, low & 255)
        assert expected == made[-1]
        assert bytes(place) == bytes(1) + expected + bytes(2)
    assert made[0] != made[1]
