# SPDX-License-Identifier: Apache-2.0
"""The messages: each different, and telling whether it was lost, repeated, damaged or overtaken.

A message of n bytes is a 64-bit word, n - 9 bytes of random body, and a last byte that equals the
first one. The words of a producer are its base plus multiples of 257, so that neighbours differ
in their first byte. Producers write every message as a whole; consumers read the word and the
last byte of each, and log the word (board.py); what is in the logs is checked when the run is
over.
"""

import random
import struct
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable

STEP = 257
_PRODUCER = 48  # bits below the producer's number
DAMAGED = 1  # what a consumer logs for a message whose first and last byte differ

Words = NDArray[np.uint64]


def base(producer: int) -> int:
    """The word before the first one of that producer."""
    return (producer + 1) << _PRODUCER


def packer(size: int) -> struct.Struct:
    """pack(word, body, last byte)."""
    return struct.Struct(f"<Q{size - 9}sB")


def checker(size: int) -> Callable[[Any], tuple[int, int]]:
    """The word and the last byte of a message; struct.error if it is too short."""
    unpack: Callable[[Any], tuple[int, int]] = struct.Struct(f"<Q{size - 9}xB").unpack_from
    return unpack


def body(size: int) -> bytes:
    return random.Random(size).randbytes(size - 9)


def packets(size: int, n: int) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
    """n messages as an array, to be given words and last bytes."""
    layout = np.dtype([("word", "<u8"), ("body", f"V{size - 9}"), ("last", "u1")])
    array = np.zeros(n, layout)
    array["body"] = body(size)
    return array


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
