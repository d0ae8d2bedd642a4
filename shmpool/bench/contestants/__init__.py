# SPDX-License-Identifier: Apache-2.0
"""The contestants. Their libraries are imported only when they are used.

Each adapter uses the calls that its library's documentation puts first, configured to hold as many
messages as the others and not to lose any where that can be configured.
"""

from ..way import Way
from . import (
    cloudtoid,
    fasterfifo,
    iceoryx,
    kernel,
    kick,
    membridge_ring,
    nanomsg,
    ours,
    stdlib,
    subetha_ring,
    zeromq,
    zeroqueue,
)

WAYS: tuple[type[Way], ...] = (
    ours.SendRecv,
    ours.Buffers,
    ours.SendRecvMany,
    ours.Bursts,
    stdlib.Queue,
    stdlib.SimpleQueue,
    stdlib.Pipe,
    stdlib.Ring,
    fasterfifo.PutGet,
    fasterfifo.PutGetMany,
    iceoryx.LoanReceive,
    iceoryx.Events,
    kick.SendReceive,
    kick.AllocateView,
    cloudtoid.TrySendReceive,
    cloudtoid.TrySendBatch,
    zeroqueue.ZeroQ,
    subetha_ring.SendRecv,
    subetha_ring.SendRecvMany,
    membridge_ring.Spsc,
    kernel.MessageQueue,
    kernel.SeqPacket,
    zeromq.PushPull,
    nanomsg.PushPull,
)
