# SPDX-License-Identifier: Apache-2.0
"""The messages: each different, and telling whether it was lost, repeated, damaged or overtaken.

A message of n bytes is a 64-bit word, n - 9 bytes of random body, and a last byte that equals the
first one. The words of a producer are its base plus multiples of 257, so that neighbours differ
in their first byte. Producers write every message as a whole; consumers read the word and the
last byte of each, and log the word (board.py); what is in the logs is checked when the run is
over.

Python's own integers and struct cost more than a quick library's whole call, so small messages are
made, and what came is checked, many at a time by numpy; and where a message is packed by itself,
its word goes in as two halves, which are quicker.
"""

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable

STEP = 257
_PRODUCER = 48  # bits below the producer's number
DAMAGED = 1  # what a consumer logs for a message that is not whole: its first and last byte differ
SMALL = 512  # bytes of a message up to which making or keeping several at once is quicker
LARGE = 16 << 10  # bytes of a message from which it is copied whole and not packed
HALF = 32  # bits of a word's lower half
ENDS = 9  # bytes of a message's word and last byte
_HALVES = struct.Struct("<II")
WRONG_ENDS = (bytes([DAMAGED]) + bytes(7), bytes(1))  # those of a message that is not whole

Words = NDArray[np.uint64]


def base(producer: int) -> int:
    """The word before the first one of that producer."""
    return (producer + 1) << _PRODUCER


def packer(size: int) -> struct.Struct:
    """pack(word, body, last byte)."""
    return struct.Struct(f"<Q{size - 9}sB")


def halves(size: int) -> struct.Struct:
    """pack(the word's lower half, its upper half, body, last byte): quicker than packer()."""
    return struct.Struct(f"<II{size - 9}sB")


def packing(size: int) -> Callable[[int, int, bytes, int], bytes]:
    """pack(the word's lower half, its upper half, body, last byte): a new message.

    struct writes zeros first, all over it: a large one is copied from a place where only its ends
    change, which takes two thirds of the time.
    """
    if size < LARGE:
        return halves(size).pack
    pattern, write = _pattern(size)

    def pack(low: int, high: int, _body: bytes, last: int) -> bytes:
        write(low, high, last)
        return bytes(pattern)

    return pack


def packing_into(size: int) -> Callable[[Any, int, int, int, bytes, int], object]:
    """pack_into(place, at, the word's lower half, its upper half, body, last byte), likewise."""
    if size < LARGE:
        return halves(size).pack_into
    pattern, write = _pattern(size)

    def pack_into(place: Any, at: int, low: int, high: int, _body: bytes, last: int) -> None:
        write(low, high, last)
        memoryview(place).cast("B")[at : at + size] = pattern

    return pack_into


def _pattern(size: int) -> tuple[bytearray, Callable[[int, int, int], None]]:
    """A message, and write(the word's lower half, its upper half, last byte) for its ends."""
    pattern = bytearray(size)
    pattern[ENDS - 1 : -1] = body(size)

    def write(low: int, high: int, last: int) -> None:
        _HALVES.pack_into(pattern, 0, low, high)
        pattern[-1] = last

    return pattern, write


def checker(size: int) -> Callable[[Any], tuple[int, int]]:
    """The word and the last byte of a message; struct.error if its length is wrong."""
    unpack: Callable[[Any], tuple[int, int]] = struct.Struct(f"<Q{size - 9}xB").unpack
    return unpack


def ends(size: int) -> Callable[[Any], tuple[bytes, bytes]]:
    """The word and the last byte of a message, as bytes; struct.error if its length is wrong."""
    unpack: Callable[[Any], tuple[bytes, bytes]] = struct.Struct(f"<8s{size - 9}x1s").unpack
    return unpack


def body(size: int) -> bytes:
    return random.Random(size).randbytes(size - 9)


def packets(size: int, n: int) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
    """n messages as an array, to be given words and last bytes."""
    layout = np.dtype([("word", "<u8"), ("body", f"V{size - 9}"), ("last", "u1")])
    array = np.zeros(n, layout)
    array["body"] = body(size)
    return array


def maker(size: int, n: int) -> Callable[[int], list[bytes]]:
    """make(word): n messages from that word on, each a bytes object of its own."""
    if size > SMALL:
        pack, filling = packing(size), body(size)

        def make_large(word: int) -> list[bytes]:
            found: list[bytes] = []
            while len(found) < n:
                lows, high = low_halves(word, n - len(found))
                found += [pack(low, high, filling, low & 255) for low in lows]
                word += len(lows) * STEP
            return found

        return make_large
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
    """The lower halves of the next n words, or of as many as have the same upper half; and that."""
    high, low = word >> HALF, word & ((1 << HALF) - 1)
    return range(low, min(low + n * STEP, 1 << HALF), STEP), high


def whole_checker(size: int) -> Callable[[Sequence[bytes]], Words]:
    """check(messages): their words, to be logged; DAMAGED for each that is not whole."""
    layout, wrong = _layout(size), bytes([DAMAGED]) + bytes(size - 1)

    def check(messages: Sequence[bytes]) -> Words:
        together = b"".join(messages)
        if len(together) == size * len(messages):
            words: Words = np.frombuffer(together, layout)["word"]
            if _sound(together, size, words):
                return words
        return _judged(b"".join(m if len(m) == size else wrong for m in messages), layout)

    return check


def ends_checker() -> Callable[[Sequence[bytes]], Words]:
    """The same, of what ends() gave of each message, one after the other."""
    layout = _layout(ENDS)

    def check(ends: Sequence[bytes]) -> Words:
        together = b"".join(ends)
        words: Words = np.frombuffer(together, layout)["word"]
        return words if _sound(together, ENDS, words) else _judged(together, layout)

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


def _sound(messages: bytes, size: int, words: Words) -> bool:
    """Whether all are, the quick way. A zero is no word: it is memory that nobody wrote."""
    same = messages[::size] == messages[size - 1 :: size]
    return same and np.count_nonzero(words) == len(words)


def _judged(messages: bytes, layout: "np.dtype[np.void]") -> Words:
    found = np.frombuffer(messages, layout)
    sound = (found["first"] == found["last"]) & (found["word"] != 0)
    return np.where(sound, found["word"], np.uint64(DAMAGED))


@dataclass
class Faults:
    """What went wrong with the messages of one run."""

    lost: int = 0
    repeated: int = 0
    damaged: int = 0
    overtaken: int = 0  # came to a consumer after a later one of the same producer
    unknown: int = 0  # nobody sent them

    def __bool__(self) -> bool:
        return any(astuple(self))

    def __add__(self, other: "Faults") -> "Faults":
        return Faults(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        return ", ".join(f"{n:,} {what}" for what, n in vars(self).items() if n)


def check(sent: dict[int, int], logs: "Iterable[Words]", in_flight: bool = False) -> Faults:
    """What is wrong if the producers sent up to those words and the logs say what came.

    in_flight: a producer may have been killed between a send and the counting of it, so that one
    message more than it counted is no stranger.
    """
    faults = Faults()
    arrived = [log[log != DAMAGED] for log in logs]
    faults.damaged = sum(len(log) for log in logs) - sum(map(len, arrived))
    everything = np.concatenate([*arrived, np.empty(0, np.uint64)])
    producers = everything >> np.uint64(_PRODUCER)
    strangers = [everything[~np.isin(producers, [producer + 1 for producer in sent])]]
    for producer, last in sent.items():
        first = base(producer)
        most = (last - first) // STEP
        own = everything[producers == producer + 1]
        number, rest = np.divmod(own - np.uint64(first), np.uint64(STEP))
        known = (rest == 0) & (number > 0) & (number <= most + in_flight)
        # Counted, not sorted: they are millions, and each producer's are dense.
        times = np.bincount(number[known].astype(np.int64), minlength=most + 1)
        faults.lost += most - int(np.count_nonzero(times[1 : most + 1]))
        faults.repeated += int(known.sum()) - int(np.count_nonzero(times))
        strangers.append(own[~known])
        for log in arrived:
            order = log[log >> np.uint64(_PRODUCER) == producer + 1].astype(np.int64)
            faults.overtaken += int((np.diff(order) < 0).sum())
    unknown = np.concatenate(strangers)
    faults.unknown = len(np.unique(unknown))
    faults.repeated += len(unknown) - faults.unknown
    return faults
