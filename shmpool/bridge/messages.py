# SPDX-License-Identifier: Apache-2.0
"""The messages of a ZeroMQ link: what stands in front of a burst, and what goes back.

    from the sender                    from the receiver
    HELLO oldest, newest, turn, path   at each connection
                                       WELCOME last, credit, turn, largest
    BURST number, packets              in order, from last + 1 on
                                       ACK last, credit
                                       WHO: it does not know the sender, or has missed a burst
                                       REJECTED number, text: the pool never has room for a packet
                                       of that burst, of which nothing was put or noted
                                       REFUSED text
    BYE                                it ends

A sender is one life of one link: a new one gets a new id and begins with number 1. last is the
number of its last burst that the receiver has put and noted; what is up to it is not put again.
credit is how many packets may be on their way beyond last, largest the most bytes of a message. A
HELLO comes behind all bursts that were sent before it, so what its WELCOME does not count was lost,
or refused, and is sent again. A burst that was rejected is sent again without packets.

Any answer may be lost. Each is repeated: WELCOME and REFUSED at the next HELLO, which comes until
there is an answer, ACK with the next one and in WELCOME, WHO and REJECTED when bursts come again.
"""

import struct
from typing import NamedTuple

from .packing import BadMessage

MAGIC = 0x53484D31  # read in another byte order it is another number
HELLO, WELCOME, BURST, ACK, WHO, REJECTED, REFUSED, BYE = range(1, 9)
AGAIN = 1  # flag of a burst: it was sent to this receiver before
DOUBTFUL = 2  # flag of a burst: another receiver may have it
_HEAD = struct.Struct("=IBBHI16sQQQ")
HEAD = _HEAD.size


class Message(NamedTuple):
    """The head of a message."""

    kind: int
    sender: bytes
    number: int = 0  # of the burst; last; HELLO: the newest that was sent
    credit: int = 0  # packets; HELLO: number of the oldest that is not acknowledged
    turn: int = 0  # of a HELLO, and of its WELCOME
    flags: int = 0
    packets: int = 0  # WELCOME: bytes of a message

    def packed(self) -> bytes:
        """The head as bytes."""
        kind, sender, number, credit, turn, flags, packets = self
        return _HEAD.pack(MAGIC, kind, flags, 0, packets, sender, number, credit, turn)


def message_of(frame: bytes | memoryview) -> Message:
    """Reads the head of a message. BadMessage."""
    if len(frame) < HEAD:
        raise BadMessage(f"a message of {len(frame)} bytes; its head has {HEAD}")
    magic, kind, flags, _, packets, sender, number, credit, turn = _HEAD.unpack_from(frame)
    if magic != MAGIC:
        raise BadMessage(
            "a message of no bridge of this version, or of a machine of another byte order"
        )
    return Message(kind, sender, number, credit, turn, flags, packets)
