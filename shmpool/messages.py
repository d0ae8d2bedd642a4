# SPDX-License-Identifier: Apache-2.0
"""Message: a copy of a buffer in a queue. The buffer stays in the queue."""

from __future__ import annotations

from collections.abc import Mapping

from ._ffi import ffi, lib
from .codes import check
from .options import LANES_MAX
from .record import record

FIRST_ROOM = 65536  # bytes that a copy has room for until a longer message comes


@record(frozen=True)
class Message:
    """One buffer in a queue, as it was when AlfQueue.peek copied it."""

    position: int  # how many buffers were put before it since the queue, or its lane, was created
    index: int  # the buffer's number in its pool
    length: int  # bytes in use
    payload: bytes  # the first bytes, as many as peek was asked for
    redelivered: int  # how many times it was returned to a queue
    origin: str | None  # the queue from which it became a dead letter
    timestamp: int  # ns, on the application's clock
    mark: int
    flow_hash: int


def lanes_in_use(pool: int, queue: int) -> list[int]:
    """Returns the numbers of a queue's lanes that are in use, or its own if it has none.

    pool and queue are numbers. Raises QueueNotFound, PoolClosed.
    """
    numbers = ffi.new("uint32_t[]", LANES_MAX)
    n = check(lib.shmpool_queue_lanes(pool, queue, numbers, LANES_MAX), f"queue {queue}")
    return list(numbers[0:n])


def read_messages(
    pool: int, queue: int, names: Mapping[int, str], n: int, size: int
) -> list[Message]:
    """Copies up to n of the oldest messages of a queue, with up to size bytes of each: the oldest
    of its first lane, then those of the next.

    pool and queue are numbers. names maps the numbers of the pool's queues to their names.

    Raises:
        QueueNotFound, SegmentInvalid, PoolClosed.
    """
    found: list[Message] = []
    for lane in lanes_in_use(pool, queue):
        found += _read_lane(pool, lane, names, n - len(found), size)
    return found


def _read_lane(pool: int, queue: int, names: Mapping[int, str], n: int, size: int) -> list[Message]:
    raw = ffi.new("struct shmpool_peek *")
    room = min(size, FIRST_ROOM)
    payload = ffi.new("char[]", max(room, 1))
    found: list[Message] = []
    position = 0
    while len(found) < n and check(
        lib.shmpool_peek(pool, queue, position, raw, payload, room), f"queue {queue}"
    ):
        position = raw.position
        if min(raw.length, size) > room:  # again, with room for it
            room = min(raw.length, size)
            payload = ffi.new("char[]", room)
            continue
        position += 1
        found.append(
            Message(
                position=raw.position,
                index=raw.index,
                length=raw.length,
                payload=ffi.unpack(payload, min(raw.length, room)),
                redelivered=raw.redelivered,
                origin=names.get(raw.origin),
                timestamp=raw.timestamp,
                mark=raw.mark,
                flow_hash=raw.flow_hash,
            )
        )
    return found
