# SPDX-License-Identifier: Apache-2.0
"""The client of nats-py, with a shorter way for the bursts of a link.

nats-py hands what is published to a task that writes, and what arrives to a task for each
subscription. A burst and its acknowledgements pass both tasks four times, each time one turn of the
event loop later. Here they are written when they are sent, and read where they are parsed.
"""

from collections.abc import Callable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

# What is replaced or called of nats-py's client, beside its documented methods.
HOOKS = ("_process_msg", "_process_headers", "_build_message", "_connect_command")


class LinkClient(Client):
    """A client of one link.

    It says nothing of itself over a connection that should be encrypted and is not: nats-py
    encrypts only if the server asks for it, also for tls://. A process that answers for a server
    would be sent the password.
    """

    def __init__(self, encrypted: bool) -> None:
        super().__init__()
        self._encrypted = encrypted
        self._calls: dict[int, Callable[[Msg], None]] = {}

    def _connect_command(self) -> bytes:
        client: Any = self
        at, writer = client._current_server.uri, client._transport._io_writer
        secured = writer.get_extra_info("ssl_object")
        if (self._encrypted or at.scheme == "tls") and not secured:
            raise nats.errors.Error(f"{at.netloc} offers no TLS, and the link demands it")
        return bytes(super()._connect_command())

    @property
    def server_id(self) -> str:
        """That of the server: another one after it was started again."""
        return str(self._server_info.get("server_id"))

    async def hear(self, subject: str, call: Callable[[Msg], None]) -> None:
        """Subscribes. Each message is handed to call() before the next one is read."""
        missing = [name for name in HOOKS if not hasattr(Client, name)]
        if missing:
            raise nats.errors.Error(f"this version of nats-py has no {', '.join(missing)}")
        subscription = await self.subscribe(subject)
        self._calls[subscription._id] = call

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        call = self._calls.get(sid)
        if call is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        found = await self._process_headers(headers)
        try:
            call(self._build_message(sid, subject, reply, data, found))
        except Exception as error:  # the next message is read all the same, as by nats-py
            await self._error_cb(error)

    def send(self, subject: str, reply: str, headers: bytes, data: bytes) -> None:
        """Publishes, and never waits: a caller that sends much awaits drained() after it.

        headers are as they are sent, or empty. ConnectionError: the connection is down.
        """
        if not self.is_connected:
            raise ConnectionError(f"connection lost: {self.last_error or 'it is closed'}")
        if headers:
            sizes = f"{len(headers)} {len(headers) + len(data)}"
            head = b"HPUB %s %s %s\r\n" % (subject.encode(), reply.encode(), sizes.encode())
        else:
            head = b"PUB %s %s %d\r\n" % (subject.encode(), reply.encode(), len(data))
        lines = [*self._pending, head + headers, data, b"\r\n"]  # what nats-py has not written yet
        self._pending, self._pending_data_size = [], 0
        try:
            self._open.writelines(lines)
        except (RuntimeError, AttributeError) as error:
            # The event loop has closed it, and nats-py does not know yet: uvloop raises the first
            # one, asyncio of CPython 3.12 the second one.
            raise ConnectionError(f"connection lost: {error}") from None

    async def drained(self) -> None:
        """Waits until the connection takes more."""
        await self._open.drain()

    @property
    def _open(self) -> Any:
        """The transport, which a connection has."""
        return self._transport
