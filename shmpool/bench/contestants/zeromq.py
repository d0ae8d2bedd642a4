# SPDX-License-Identifier: Apache-2.0
"""pyzmq: PUSH and PULL over ipc://, every consumer connected to every producer."""

from functools import partial
from typing import Any

from ..transport import WAIT_S, InFolder, OneByOne, Receive, Send

RECONNECT_MS = 1  # after which a consumer that started before its producer connects again


class PushPull(InFolder, OneByOne):
    library = "pyzmq"
    call = "PUSH, PULL"
    package = "pyzmq"
    module = "zmq"

    def _socket(self, kind: int, option: int, timeout: float) -> Any:
        self.full = self.empty = (self.lib.Again,)
        socket = self.lib.Context.instance().socket(kind)
        socket.set_hwm(max(1, self.spec.depth // 2))  # half of it on either side
        socket.setsockopt(option, int(timeout * 1000))
        socket.linger = 0
        socket.reconnect_ivl = RECONNECT_MS
        return socket

    def close(self) -> None:
        self.lib.Context.instance().destroy()

    def sender(self, channel: int) -> Send:
        socket = self._socket(self.lib.PUSH, self.lib.SNDTIMEO, WAIT_S)
        socket.bind(self.address(channel, self.number))
        return socket.send

    def receiver(self, channel: int, timeout: float) -> Receive:
        socket = self._socket(self.lib.PULL, self.lib.RCVTIMEO, timeout)
        for number in range(self.spec.producers):
            socket.connect(self.address(channel, number))
        return socket.recv if timeout else partial(socket.recv, self.lib.NOBLOCK)
