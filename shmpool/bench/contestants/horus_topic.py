# SPDX-License-Identifier: Apache-2.0
"""horus-robotics: its generic Topic, which carries texts and no bytes, up to 4096 bytes as UTF-8; a
message is a text of latin-1 characters, encoded and decoded here.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from .. import message
from ..transport import OneByOne, Receive, Send, Shape, UnsupportedError

TEXT_MAX = 4090  # bytes of a text in UTF-8


class Topic(OneByOne):
    """A topic for each pair. A full one refuses (try_send), so that nothing is lost."""

    library = "horus-robotics"
    call = "Topic"
    package = "horus-robotics"
    module = "horus"
    shape = Shape.LINK
    polls = True
    blocks = False

    def create(self) -> None:
        body = message.body(self.spec.size).decode("latin-1")
        if len(body.encode()) + 2 * message.EDGES > TEXT_MAX:
            raise UnsupportedError("a text of more than 4096 bytes in UTF-8")

    def remove(self) -> None:
        """Removes the folder of the run's namespace. The library has no hyphens in its names."""
        folder = f"horus_{self.spec.name.replace('-', '_')}"
        shutil.rmtree(Path("/dev/shm", folder), ignore_errors=True)  # noqa: S108

    def _open(self, channel: int) -> Any:
        os.environ["HORUS_NAMESPACE"] = self.spec.name
        return self.lib.Topic(f"channel{channel}", capacity=self.spec.depth)

    def sender(self, channel: int) -> Send:
        try_send = self._open(channel).try_send
        return lambda packet: try_send(packet.decode("latin-1"))

    def receiver(self, channel: int, timeout: float) -> Receive:
        try_recv = self._open(channel).try_recv

        def receive() -> bytes | None:
            text = try_recv()
            return None if text is None else text.encode("latin-1")

        return receive
