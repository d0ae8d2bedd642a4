# SPDX-License-Identifier: Apache-2.0
"""The contestants: one module for each library, which is imported only when a run uses it.

Each adapter uses the calls that the library's documentation recommends. Where that can be
configured, a channel holds as many messages as those of the others and loses none.
"""

from ..transport import Transport
from . import (
    aeron_ipc,
    cloudtoid,
    fasterfifo,
    flag_ring,
    horus_topic,
    iceoryx,
    kernel,
    kick,
    loky_queue,
    membridge_ring,
    nanomsg,
    ours,
    stdlib,
    subetha_ring,
    torch_queue,
    zeromq,
    zeroqueue,
)

TRANSPORTS: tuple[type[Transport], ...] = (
    ours.SendRecv,
    ours.Lanes,
    ours.QueueEach,
    ours.Buffers,
    ours.SendRecvMany,
    ours.Bursts,
    stdlib.Queue,
    stdlib.SimpleQueue,
    stdlib.Pipe,
    stdlib.Ring,
    flag_ring.FlagRing,
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
    aeron_ipc.Aeron,
    horus_topic.Topic,
    torch_queue.TorchQueue,
    loky_queue.Queue,
)
