# SPDX-License-Identifier: Apache-2.0
"""Connections to servers of NATS, and the stream that a link uses there.

A connection ends for good with its first trouble, and the link makes a new one. nats-py's own
reconnecting gives up at refused credentials, and sends again what nobody waits for any more.

Not in here: its consumer (nats_consumer.py), what is published and received (nats.py).
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext, api

from .config import LinkOptions, Remote
from .ends import Refused
from .nats_client import LinkClient
from .nats_options import CONSUMER, NatsOptions

CONNECT_S = 5  # for one attempt to connect to one server
REQUEST_S = 5.0  # for an answer of JetStream
CLOSE_S = 2  # for what is still to be sent when a connection ends
PING_S = 5  # between two pings; a server that leaves PINGS of them unanswered is gone
PINGS = 2
CANCEL_S = 0.5  # before a call that goes on although it was cancelled is cancelled again
WATCH_S = 0.5  # between two questions whether the connection is up
DUPLICATES_S = 120.0  # the duplicate window of a new stream
NS = 1_000_000_000
NAME_TAKEN = 10058  # JetStream's code: there is a stream of that name with other settings
NO_REPLICAS = (10005, 10074)  # there are not so many servers, or not yet
HEADERS = 256  # bytes of a message that its headers take at the most
# Before it a server that is started again makes room below a stream's limit by dropping the oldest
# messages, whatever the stream says of discarding: https://github.com/nats-io/nats-server/issues/4775
KEEPS_SINCE = (2, 10, 6)
# What ends a connection, and not the link.
TROUBLE = (nats.errors.Error, OSError, TimeoutError)


@dataclass(frozen=True)
class Place:
    """The stream of a link: where it is, and what the configuration says of it."""

    link: LinkOptions

    @property
    def nats(self) -> NatsOptions:
        return self.link.nats

    @property
    def remote(self) -> Remote:
        return self.link.remotes[0]

    @property
    def stream(self) -> str:
        return self.remote.path

    @property
    def subject(self) -> str:
        return self.nats.subject or self.stream

    @property
    def consumer(self) -> str:
        return self.nats.consumer or CONSUMER

    @property
    def servers(self) -> list[str]:
        scheme = "tls" if self.encrypted else "nats"
        return [f"{scheme}://{self.remote.bracketed}:{self.remote.port}", *self.nats.servers]

    @property
    def retention(self) -> api.RetentionPolicy:
        """A work queue, whose messages go to one receiver, or one whose messages go to all."""
        everybody = self.link.receivers == "all"
        return api.RetentionPolicy.INTEREST if everybody else api.RetentionPolicy.WORK_QUEUE

    def stream_config(self, keeps: bool) -> api.StreamConfig:
        """What a new stream is. keeps: the server keeps what a limited stream has (keeps_all())."""
        return api.StreamConfig(
            name=self.stream,
            subjects=[self.subject],
            retention=self.retention,
            storage=api.StorageType(self.nats.storage or "file"),
            num_replicas=self.nats.replicas or 1,
            duplicate_window=self.nats.duplicate_window_s or DUPLICATES_S,
            discard=api.DiscardPolicy.NEW,
            max_bytes=(keeps and self.nats.max_bytes) or -1,
            max_age=self.nats.max_age_s or 0,
        )

    def secret(self, path: str | None) -> str | None:
        """Returns what is in a file. OSError."""
        return None if path is None else Path(path).read_text().strip()

    @property
    def encrypted(self) -> bool:
        """Whether a server without TLS is refused."""
        return bool(self.nats.tls or self.nats.ca or self.nats.certificate)

    def tls(self) -> ssl.SSLContext | None:
        """Returns the context for TLS, or None for the default one. Refused."""
        if not (self.encrypted or any(one.startswith("tls:") for one in self.servers)):
            return None
        try:
            context = ssl.create_default_context(cafile=self.nats.ca)
            if self.nats.certificate:
                context.load_cert_chain(self.nats.certificate, self.nats.key)
        except OSError as error:  # SSLError is one
            raise Refused(f"ca, certificate or key cannot be used: {error}") from None
        return context


@contextlib.asynccontextmanager
async def connected(place: Place) -> AsyncIterator[LinkClient]:
    """Connects to the first server that answers. Raises one of TROUBLE, or Refused.

    At the end of the block the connection is closed, and what was published before is sent if the
    server takes it within CLOSE_S.
    """
    client = LinkClient(place.encrypted)
    said: list[Exception] = []

    async def hear(error: Exception) -> None:
        said.append(error)
        del said[:-1]

    try:
        try:
            async with asyncio.timeout(2 * CONNECT_S * len(place.servers)):
                await client.connect(
                    place.servers,
                    name=f"shmpool {place.link.shown}",
                    error_cb=hear,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=CONNECT_S,
                    ping_interval=PING_S,
                    max_outstanding_pings=PINGS,
                    tls=place.tls(),
                    user=place.nats.user,
                    password=place.secret(place.nats.password_file),
                    token=place.secret(place.nats.token_file),
                    user_credentials=place.nats.credentials,
                    nkeys_seed=place.nats.nkey_file,
                )
        except (nats.errors.NoServersError, TimeoutError):
            reason = f": {said[-1]}" if said else ""
            raise ConnectionError(f"no server of {', '.join(place.servers)}{reason}") from None
        except ModuleNotFoundError as error:
            raise Refused(f"credentials and nkey_file need the package {error.name}") from None
        yield client
    finally:
        await _close(client)


async def _close(client: Client) -> None:
    """Closes the connection, with force if the server does not take what is still to be sent."""
    with contextlib.suppress(*TROUBLE, AssertionError):  # AssertionError: it was never open
        async with asyncio.timeout(CLOSE_S):
            if client.is_connected:
                await client.flush(CLOSE_S)
            await client.close()
    # close() waits for room in the socket, which a server that is stopped never makes.
    writer = getattr(client._transport, "_io_writer", None)
    if writer is not None:
        writer.transport.abort()


async def until_lost(client: Client) -> None:
    """Raises ConnectionError when the connection is down: for a call beside those that use it."""
    while client.is_connected:
        await asyncio.sleep(WATCH_S)
    raise ConnectionError(f"connection lost: {client.last_error or 'closed by the server'}")


async def first_of(*calls: Coroutine[Any, Any, None]) -> None:
    """Runs the calls until the first ends, and cancels the others. Raises that one's exception."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        while left := [task for task in tasks if not task.done()]:
            for task in left:  # wait_for() of Python 3.11 sometimes swallows it
                task.cancel()
            await asyncio.wait(left, timeout=CANCEL_S)
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if task in done:
            task.result()


def keeps_all(client: Client) -> bool:
    """Whether the server keeps all that a stream with a limit has when it is started again."""
    found = client.connected_server_version
    return (found.major, found.minor, found.patch) >= KEEPS_SINCE


def jetstream(client: Client, place: Place) -> JetStreamContext:
    """Returns JetStream of the connection, in the domain of the link."""
    return client.jetstream(domain=place.nats.domain, timeout=REQUEST_S)


async def prepare_stream(client: Client, jet: JetStreamContext, place: Place) -> api.StreamInfo:
    """Creates the stream unless it exists. Raises Refused, or one of TROUBLE.

    An existing stream must be what the link needs, and what the configuration says.
    """
    keeps = keeps_all(client)
    try:
        info = await jet.stream_info(place.stream)
    except nats.js.errors.NotFoundError:
        try:
            info = await jet.add_stream(place.stream_config(keeps))
        except nats.js.errors.APIError as error:
            if error.err_code in NO_REPLICAS or error.code == 503:
                raise
            if error.err_code != NAME_TAKEN:
                raise Refused(
                    f"stream {place.stream!r} cannot be created: {error.description}"
                ) from None
            info = await jet.stream_info(place.stream)  # the other side was first
    found = stream_differences(info.config, place)
    if not keeps and place.link.sends and (limits := _limits(info.config)):
        found.append(
            f"a server before {'.'.join(map(str, KEEPS_SINCE))}, as this one, drops messages of a "
            f"stream with {' and '.join(limits)} when it is started again: take the limit away, "
            "max_bytes of the link needs none there"
        )
    if found:
        raise Refused(
            f"stream {place.stream!r} exists, and {'; '.join(found)}. Change the stream, or the "
            "options of the link"
        )
    return info


def stream_differences(there: api.StreamConfig, place: Place) -> list[str]:
    """Returns what of an existing stream the link cannot use, or says otherwise, as clauses."""
    found = []
    subjects = there.subjects or []
    if there.retention != place.retention:
        found.append(f"its retention is {text(there.retention)}, not {text(place.retention)}")
    takes_all = not place.link.sends and place.nats.subject is None
    if not takes_all and not any(covers(pattern, place.subject) for pattern in subjects):
        found.append(f"its subjects are {', '.join(subjects) or 'none'}, without {place.subject}")
    news = there.discard == api.DiscardPolicy.NEW
    for limit in _limits(there):
        if not news:
            found.append(f"it discards old messages beyond {limit}, not new ones")
        elif limit.startswith("max_msgs_per_subject") and not there.discard_new_per_subject:
            found.append(f"it discards old messages beyond {limit} (discard_new_per_subject)")
    if text(getattr(there, "persist_mode", None)) == "async":
        found.append("its servers acknowledge what they can still lose (persist_mode async)")
    if (there.max_age or 0) > 0 and there.max_age != place.nats.max_age_s:
        found.append(f"it drops messages after {there.max_age:g} seconds, not after max_age_s")
    if there.no_ack:
        found.append("it does not acknowledge what is published (no_ack)")
    for name, asked, value in (
        ("storage", place.nats.storage, text(there.storage)),
        ("replicas", place.nats.replicas, there.num_replicas),
        ("duplicate_window_s", place.nats.duplicate_window_s, there.duplicate_window),
    ):
        if asked is not None and asked != value:
            found.append(f"its {name} is {value}, not {asked}")
    return found


def _limits(there: api.StreamConfig) -> list[str]:
    """Returns what bounds a stream, such as "max_msgs 10"."""
    names = "max_msgs", "max_bytes", "max_msgs_per_subject"
    return [f"{name} {value}" for name in names if (value := getattr(there, name) or 0) > 0]


def text(value: Any) -> str:
    """Returns a setting as JetStream writes it."""
    return str(getattr(value, "value", value))


def covers(pattern: str, subject: str) -> bool:
    """Whether a subject of a stream, perhaps with wildcards, includes a subject without them."""
    words, given = pattern.split("."), subject.split(".")
    for i, word in enumerate(words):
        if word == ">":
            return i < len(given)
        if i >= len(given) or word not in ("*", given[i]):
            return False
    return len(words) == len(given)
