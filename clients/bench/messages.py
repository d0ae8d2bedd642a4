# SPDX-License-Identifier: Apache-2.0
"""The 64-byte messages: each different, and telling whether it was lost, repeated or damaged.

Eight words: producer and sequence number, six that are made from them, and the complement of the
first. All are made before the clock starts and looked at after it has stopped, for every contestant
alike.
"""

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

SIZE = 64
WORDS = SIZE // 8
_PRODUCER = 48  # bits below the producer's number
_ODD = np.uint64(0x9E3779B97F4A7C15)

Words = NDArray[np.uint64]


def make(producer: int, count: int) -> list[bytes]:
    """count messages of that producer."""
    number = np.arange(count, dtype=np.uint64) | np.uint64(producer << _PRODUCER)
    words = np.empty((count, WORDS), np.uint64)
    words[:] = number[:, None] * _ODD + np.arange(WORDS, dtype=np.uint64)
    words[:, 0] = number
    words[:, -1] = ~number
    data = words.tobytes()
    return [data[at : at + SIZE] for at in range(0, len(data), SIZE)]


@dataclass
class Faults:
    """What went wrong with the messages of one run."""

    lost: int = 0
    repeated: int = 0
    damaged: int = 0
    disordered: int = 0

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def __add__(self, other: "Faults") -> "Faults":
        return Faults(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        return ", ".join(f"{n} {what}" for what, n in vars(self).items() if n)


def numbers(received: list[bytes]) -> tuple[Words, int]:
    """The first word of every sound message, in order of arrival, and how many are damaged."""
    sound = [message for message in received if len(message) == SIZE]
    words = np.frombuffer(b"".join(sound), np.uint64).reshape(-1, WORDS)
    good = words[:, -1] == ~words[:, 0]
    for i in range(1, WORDS - 1):
        good &= words[:, i] == words[:, 0] * _ODD + np.uint64(i)
    return words[good, 0], len(received) - int(good.sum())


def check(arrived: list[Words], producers: int, count: int) -> Faults:
    """What is wrong if producers sent count messages each and arrived is what each consumer got."""
    faults = Faults()
    everything = np.concatenate(arrived)
    unique = np.unique(everything)
    faults.lost = producers * count - len(unique)
    faults.repeated = len(everything) - len(unique)
    for words in arrived:
        for producer in range(producers):
            own = words[words >> np.uint64(_PRODUCER) == producer].astype(np.int64)
            faults.disordered += int((np.diff(own) < 0).sum())
    return faults
