# SPDX-License-Identifier: Apache-2.0
"""pynng: Push0 and Pull0 over ipc://, every consumer connected to every producer."""

from typing import Any

from ..transport import WAIT_S, InFolder, OneByOne, Receive, Send

BUFFER_MAX = 8192  # messages, the library's limit


class PushPull(InFolder, OneByOne):
    library = "pynng"
    call = "Push0, Pull0"
    package = module = "pynng"

    def _buffers(self) -> int:
        return min(BUFFER_MAX, max(1, self.spec.depth // 2))

    def sender(self, channel: int) -> Send:
        self.full = (self.lib.Timeout,)
        self._socket: Any = self.lib.Push0(
            listen=self.address(channel, self.number),
            send_buffer_size=self._buffers(),
            send_timeout=int(WAIT_S * 1000),
        )
        return self._socket.send

    def receiver(self, channel: int, timeout: float) -> Receive:
        return self._pull(channel, timeout).recv

    def poller(self, channel: int) -> Receive:
        socket = self._pull(channel, 0)
        receive = socket.recv
        self.empty = (self.lib.TryAgain, self.lib.Timeout)
        return lambda: receive(block=False)

    def _pull(self, channel: int, timeout: float) -> Any:
        self.empty = (self.lib.Timeout,)
        socket = self.lib.Pull0(
            recv_buffer_size=self._buffers(),
            recv_timeout=int(timeout * 1000),
            reconnect_time_min=1,
            reconnect_time_max=20,
        )
        for number in range(self.spec.producers):
            socket.dial(self.address(channel, number), block=False)
        self._socket_kept = socket
        return socket
