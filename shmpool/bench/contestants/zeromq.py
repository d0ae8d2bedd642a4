# SPDX-License-Identifier: Apache-2.0
"""pyzmq: PUSH and PULL over ipc://, every consumer connected to every producer."""

from functools import partial
from typing import TYPE_CHECKING, Any

from ..transport import WAIT_S, InFolder, OneByOne, Receive, Send

if TYPE_CHECKING:
    import zmq

RECONNECT_MS = 1  # after which a consumer that started before its producer connects again


class PushPull(InFolder, OneByOne):
    library = "pyzmq"
    call = "PUSH, PULL"
    package = "pyzmq"

    def _socket(self, kind: int, option: int, timeout: float) -> "zmq.Socket[Any]":
        import zmq

        self.full = self.empty = (zmq.Again,)
        socket: zmq.Socket[Any] = zmq.Context.instance().socket(kind)
        socket.set_hwm(max(1, self.spec.depth // 2))  # half of it on either side
        socket.setsockopt(option, int(timeout * 1000))
        socket.linger = 0
        socket.reconnect_ivl = RECONNECT_MS
        return socket

    def close(self) -> None:
        import zmq

        zmq.Context.instance().destroy()

    def sender(self, channel: int) -> Send:
        import zmq

        socket = self._socket(zmq.PUSH, zmq.SNDTIMEO, WAIT_S)
        socket.bind(self.address(channel, self.number))
        return socket.send

    def receiver(self, channel: int, timeout: float) -> Receive:
        import zmq

        socket = self._socket(zmq.PULL, zmq.RCVTIMEO, timeout)
        for number in range(self.spec.producers):
            socket.connect(self.address(channel, number))
        return socket.recv if timeout else partial(socket.recv, zmq.NOBLOCK)
