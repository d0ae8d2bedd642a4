# SPDX-License-Identifier: Apache-2.0
"""The messages. Each is different, so that lost, repeated, damaged and reordered ones are found.

    0             8                        n - 1
    +-------------+------------------------+-----------+
    | word (u64)  | body: random bytes     | last byte |      n bytes
    +-------------+------------------------+-----------+

The last byte equals the first one. The words of a producer are its base plus multiples of STEP, so
that consecutive messages differ in their first byte. Producers write the whole of every message.
Consumers read the edges of each (the word and the last byte) and log the word (scoreboard.py). The
logs are checked when the run is over.

Python's integers and struct cost more than a call of a fast library. So numpy makes and checks
small messages many at a time; a message that is packed alone gets its word as two halves, which is
faster.
"""

import random
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEP = 257
_PRODUCER = 48  # the producer's number begins at this bit
DAMAGED = 1  # logged for a damaged message: wrong length, or first and last byte differ
SMALL = 512  # bytes: up to this size it is faster to make or keep several messages at once
LARGE = 16 << 10  # bytes: from this size on it is faster to copy a message than to pack it
HALF = 32  # bits of a word's lower half
EDGES = 9  # bytes: the word and the last byte
_HALVES = struct.Struct("<II")
DAMAGED_EDGES = (bytes([DAMAGED]) + bytes(7), bytes(1))

Words = NDArray[np.uint64]


def base(producer: int) -> int:
    """The word before the first word of that producer."""
    return (producer + 1) << _PRODUCER


def packer(size: int) -> struct.Struct:
    """Its pack() takes word, body, last byte."""
    return struct.Struct(f"<Q{size - EDGES}sB")


def _halves(size: int) -> struct.Struct:
    return struct.Struct(f"<II{size - EDGES}sB")


def packing(size: int) -> Callable[[int, int, bytes, int], bytes]:
    """Returns pack(lower half of the word, upper half, body, last byte), which makes a message.

    struct first fills the message with zeros. So large messages are copied from a pattern of which
    only the edges change; that takes two thirds of the time.
    """
    if size < LARGE:
        return _halves(size).pack
    pattern = bytearray(size)
    pattern[EDGES - 1 : -1] = body(size)

    def pack(low: int, high: int, _body: bytes, last: int) -> bytes:
        _HALVES.pack_into(pattern, 0, low, high)
        pattern[-1] = last
        return bytes(pattern)

    return pack


def packing_into(size: int) -> Callable[[Any, int, int, int, bytes, int], object]:
    """Returns pack_into(place, offset, ...), with the other arguments of packing()'s pack()."""
    if size < LARGE:
        return _halves(size).pack_into

    def pack_into(place: Any, offset: int, low: int, high: int, body: bytes, last: int) -> None:
        view = memoryview(place).cast("B")
        _HALVES.pack_into(view, offset, low, high)
        view[offset + EDGES - 1 : offset + size - 1] = body
        view[offset + size - 1] = last

    return pack_into


def checker(size: int) -> Callable[[Any], tuple[int, int]]:
    """Returns a function that unpacks a message's word and last byte. It raises struct.error if
    the length is wrong."""
    unpack: Callable[[Any], tuple[int, int]] = struct.Struct(f"<Q{size - EDGES}xB").unpack
    return unpack


def edges(size: int) -> Callable[[Any], tuple[bytes, bytes]]:
    """As checker(), but the function returns bytes objects."""
    unpack: Callable[[Any], tuple[bytes, bytes]] = struct.Struct(f"<8s{size - EDGES}x1s").unpack
    return unpack


def body(size: int) -> bytes:
    """The same bytes for every message of that size."""
    return random.Random(size).randbytes(size - EDGES)


def packets(size: int, n: int) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
    """An array of n messages without words and last bytes."""
    layout = np.dtype([("word", "<u8"), ("body", f"V{size - EDGES}"), ("last", "u1")])
    array = np.zeros(n, layout)
    array["body"] = body(size)
    return array


def maker(size: int, n: int) -> Callable[[int], Iterable[bytes]]:
    """Returns make(word), which makes n messages from that word on, each a new bytes object; small
    ones at once, others when they are asked for."""
    if size > SMALL:
        pack, filling = packing(size), body(size)

        def make_each(word: int) -> Iterator[bytes]:
            end = word + n * STEP
            while word < end:
                lows, high = low_halves(word, (end - word) // STEP)
                for low in lows:
                    yield pack(low, high, filling, low & 255)
                word += len(lows) * STEP

        return make_each
    array = packets(size, n)
    words, lasts, whole = array["word"], array["last"], array.view(f"V{size}")
    steps = np.arange(n, dtype=np.uint64) * np.uint64(STEP)

    def make(word: int) -> list[bytes]:
        np.add(steps, np.uint64(word), words)
        lasts[:] = words  # their first bytes
        made: list[bytes] = whole.tolist()
        return made

    return make


def low_halves(word: int, n: int) -> tuple[range, int]:
    """The lower halves of the next n words, and their upper half. Fewer than n words if the upper
    half would change."""
    high, low = word >> HALF, word & ((1 << HALF) - 1)
    return range(low, min(low + n * STEP, 1 << HALF), STEP), high


def whole_checker(size: int) -> Callable[[Sequence[bytes]], Words]:
    """Returns check(messages), which returns the words to log; DAMAGED for a damaged message."""
    layout, damaged = _layout(size), bytes([DAMAGED]) + bytes(size - 1)

    def check(messages: Sequence[bytes]) -> Words:
        together = b"".join(messages)
        if len(together) == size * len(messages):
            words: Words = np.frombuffer(together, layout)["word"]
            if _all_whole(together, size, words):
                return words
        return _mark_damaged(b"".join(m if len(m) == size else damaged for m in messages), layout)

    return check


def edges_checker() -> Callable[[Sequence[bytes]], Words]:
    """As whole_checker(), but check() takes what edges() returned for each message, in one list."""
    layout = _layout(EDGES)

    def check(edges: Sequence[bytes]) -> Words:
        together = b"".join(edges)
        words: Words = np.frombuffer(together, layout)["word"]
        return words if _all_whole(together, EDGES, words) else _mark_damaged(together, layout)

    return check


def _layout(size: int) -> "np.dtype[np.void]":
    return np.dtype(
        {
            "names": ["word", "first", "last"],
            "formats": ["<u8", "u1", "u1"],
            "offsets": [0, 0, size - 1],
            "itemsize": size,
        }
    )


def _all_whole(messages: bytes, size: int, words: Words) -> bool:
    """A fast test for the usual case. A word of 0 is memory that no producer wrote."""
    same = messages[::size] == messages[size - 1 :: size]
    return same and np.count_nonzero(words) == len(words)


def _mark_damaged(messages: bytes, layout: "np.dtype[np.void]") -> Words:
    found = np.frombuffer(messages, layout)
    whole = (found["first"] == found["last"]) & (found["word"] != 0)
    return np.where(whole, found["word"], np.uint64(DAMAGED))


@dataclass
class MessageErrors:
    """What went wrong with the messages of one run."""

    lost: int = 0
    repeated: int = 0
    damaged: int = 0
    reordered: int = 0  # received after a later message of the same producer, by one consumer
    unknown: int = 0  # sent by no producer

    def __bool__(self) -> bool:
        return any(astuple(self))

    def __add__(self, other: "MessageErrors") -> "MessageErrors":
        return MessageErrors(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        return ", ".join(f"{n:,} {what}" for what, n in vars(self).items() if n)


def check(sent: dict[int, int], logs: Iterable[Words], in_flight: bool = False) -> MessageErrors:
    """Compares the last word that each producer sent with the logs of the consumers.

    in_flight: a producer may have been killed after it sent a message and before it counted it, so
    one message more than it counted is allowed.
    """
    errors = MessageErrors()
    arrived = [log[log != DAMAGED] for log in logs]
    errors.damaged = sum(len(log) for log in logs) - sum(map(len, arrived))
    everything = np.concatenate([*arrived, np.empty(0, np.uint64)])
    producers = everything >> np.uint64(_PRODUCER)
    unknown = [everything[~np.isin(producers, [producer + 1 for producer in sent])]]
    for producer, last in sent.items():
        first = base(producer)
        count = (last - first) // STEP
        own = everything[producers == producer + 1]
        number, rest = np.divmod(own - np.uint64(first), np.uint64(STEP))
        known = (rest == 0) & (number > 0) & (number <= count + in_flight)
        # Counted, not sorted: there are millions, and the numbers of a producer are dense.
        times = np.bincount(number[known].astype(np.int64), minlength=count + 1)
        errors.lost += count - int(np.count_nonzero(times[1 : count + 1]))
        errors.repeated += int(known.sum()) - int(np.count_nonzero(times))
        unknown.append(own[~known])
        for log in arrived:
            order = log[log >> np.uint64(_PRODUCER) == producer + 1].astype(np.int64)
            errors.reordered += int((np.diff(order) < 0).sum())
    strange = np.concatenate(unknown)
    errors.unknown = len(np.unique(strange))
    errors.repeated += len(strange) - errors.unknown
    return errors
