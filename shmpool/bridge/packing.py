# SPDX-License-Identifier: Apache-2.0
"""Packets as bytes: a table with a record for each, and their contents, one after the other.

hot/pack.c does it for bursts. A sender packs what it took, a receiver unpacks it into new buffers
and puts them (ends.py). What travels of a packet: length, mark, flow_hash, timestamp, redelivered.
"""

import errno
import struct
from typing import TYPE_CHECKING

from .. import errors
from .._hot import Buffer, Sample, burst_pack, burst_unpack, packed_longest
from ..burst import Burst
from ..codes import fail
from ..topic import Samples

if TYPE_CHECKING:
    from typing_extensions import Buffer as BytesLike

    from ..pool import Pool

_RECORD = struct.Struct("=IIIHHQ")  # struct pack_record of hot/pack.c
RECORD = _RECORD.size
STRAIGHT = 4096  # bytes from which a single buffer is not copied


def pack(batch: Burst | Samples) -> tuple[bytes, "bytes | Buffer"]:
    """Returns the packets' table, and their bytes: of a single large buffer, that buffer. The
    caller still owns the packets."""
    if isinstance(batch, Burst):
        if len(batch) == 1 and len(batch[0]) >= STRAIGHT and len(batch[0].segments) == 1:
            return _record(batch[0], batch[0].redelivered), batch[0]
        return burst_pack(batch, b"")
    return b"".join(_record(one, 0) for one in batch), b"".join(map(bytes, batch))


def _record(one: Buffer | Sample, redelivered: int) -> bytes:
    return _RECORD.pack(len(one), one.mark, one.flow_hash, redelivered, 0, one.timestamp)


def fitting(table: bytes, most: int) -> int:
    """Returns how many packets, one at least, have up to most bytes together."""
    total = 0
    for n, record in enumerate(_RECORD.iter_unpack(table)):
        total += record[0]
        if total > most:
            return max(n, 1)
    return len(table) // RECORD


def checked(table: "BytesLike", data: "BytesLike") -> int:
    """Returns how many packets there are. BadMessage if table and data do not belong together."""
    return measured(table, data)[0]


def measured(table: "BytesLike", data: "BytesLike") -> tuple[int, int]:
    """Returns how many packets there are, and the bytes of the longest. BadMessage as checked()."""
    n, rest = divmod(memoryview(table).nbytes, RECORD)
    longest, total = packed_longest(table, 0, n)
    if rest or total != memoryview(data).nbytes:
        raise BadMessage("a table of packets whose lengths are not those of the data")
    return n, longest


def unpack(
    pool: "Pool",
    table: "BytesLike",
    data: "BytesLike",
    first: int,
    at: int,
    most: int,
    again: bool,
    timeout: float,
) -> tuple[Burst, int]:
    """Returns up to most packets from number first on, whose bytes begin at that place in data, in
    new buffers; and where the next one's bytes begin. The caller owns the burst.

    again marks each as redelivered once more. Waits up to timeout seconds for the buffers.

    Raises:
        PoolExhausted: there were none in that time.
        BadMessage: table and data do not belong together.
        PayloadTooLarge: the pool never has room for one of them.
    """
    n = min(most, memoryview(table).nbytes // RECORD - first)
    longest, _ = packed_longest(table, first, n)
    try:
        burst = pool.alloc_many(n, timeout, longest)
    except errors.PayloadTooLarge:  # a chain
        longest, _ = packed_longest(table, first, 1)
        burst = pool.burst([pool.alloc(timeout, longest)])
    done = burst_unpack(burst, table, data, first, at, again)
    if done >= 0:
        return burst, done
    burst.free()
    if done == -errno.EBADMSG:
        raise BadMessage("a table of packets whose lengths are not those of the data")
    return fail(done, f"burst of pool {pool.name!r}")


class BadMessage(errors.ShmpoolError):
    """A peer sent what no bridge sends."""
