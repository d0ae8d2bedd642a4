# SPDX-License-Identifier: Apache-2.0
"""Message: a buffer in a queue as a copy, taken without taking the buffer."""

from collections.abc import Mapping
from dataclasses import dataclass

from ._ffi import ffi, lib
from .codes import check


@dataclass(frozen=True)
class Message:
    """One buffer in a queue, as it was when it was looked at."""

    position: int  # in the queue: how many were put before it since the queue was made
    index: int  # the buffer's number in its pool
    length: int  # bytes in use
    payload: bytes  # the first of them, as many as were asked for
    redelivered: int  # times it was put back
    origin: str | None  # the queue from which it became a dead letter
    timestamp: int  # ns, on the user's clock
    mark: int
    flow_hash: int


def read_messages(
    pool: int, queue: int, names: Mapping[int, str], n: int, size: int
) -> list[Message]:
    """Up to n of the oldest messages of a queue, with up to size bytes of each."""
    raw = ffi.new("struct shmpool_peek *")
    payload = ffi.new("char[]", max(size, 1))
    found: list[Message] = []
    position = 0
    while len(found) < n and check(
        lib.shmpool_peek(pool, queue, position, raw, payload, size), f"queue {queue}"
    ):
        position = raw.position + 1
        found.append(
            Message(
                position=raw.position,
                index=raw.index,
                length=raw.length,
                payload=ffi.unpack(payload, min(raw.length, size)),
                redelivered=raw.redelivered,
                origin=names.get(raw.origin),
                timestamp=raw.timestamp,
                mark=raw.mark,
                flow_hash=raw.flow_hash,
            )
        )
    return found
