# SPDX-License-Identifier: Apache-2.0
"""[link.nats]: what a link over NATS JetStream needs besides its two ends.

No I/O, and nothing of nats-py.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from ..options import Option, about, options_of, out_of_range

Storage = Literal["file", "memory"]
STREAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # and of a consumer
_SUBJECT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_SERVER = re.compile(r"(nats|tls)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?")
CONSUMER = "shmpool"


@dataclass(frozen=True)
class NatsOptions:
    """[link.nats]"""

    # fmt: off
    servers: list[str] = field(default_factory=list, metadata=about(Option(
        "Other servers of the cluster, such as nats://other:4222.",
        default="[]")))
    subject: str | None = field(default=None, metadata=about(Option(
        "Subject that a sender's messages have, and the only one that a receiver gets.",
        default="the stream's name; a receiver gets all")))
    consumer: str | None = field(default=None, metadata=about(Option(
        "Name of the consumer that receivers share, or, with receivers = \"all\", that each has of "
        "its own.", default=CONSUMER)))
    storage: Storage | None = field(default=None, metadata=about(Option(
        "Where servers keep the stream.", choices=get_args(Storage), default="file")))
    replicas: int | None = field(default=None, metadata=about(Option(
        "Servers of the cluster that keep the stream, so that one may be lost.",
        "servers", 1, 5, default="1")))
    duplicate_window_s: float | None = field(default=None, metadata=about(Option(
        "How long servers remember what was published, and drop it if it comes again.",
        "seconds", 0.1, 1e6, default="120")))
    max_bytes: int | None = field(default=None, metadata=about(Option(
        "Bytes that the stream holds, headers included; a sender waits while it is full, and no "
        "message is larger.", "bytes", 1024, default="no limit")))
    max_age_s: float | None = field(default=None, metadata=about(Option(
        "Age at which servers drop messages that nobody has received.",
        "seconds", 1.0, 1e9, default="never")))
    ack_wait_s: float = field(default=30.0, metadata=about(Option(
        "How long a server waits for a receiver that was killed before another one gets its "
        "messages.", "seconds", 0.5, 1e6)))
    domain: str | None = field(default=None, metadata=about(Option(
        "Domain of JetStream.", default="none")))
    user: str | None = field(default=None, metadata=about(Option("User.", default="none")))
    password_file: str | None = field(default=None, metadata=about(Option(
        "File with the user's password.", default="none")))
    token_file: str | None = field(default=None, metadata=about(Option(
        "File with a token.", default="none")))
    credentials: str | None = field(default=None, metadata=about(Option(
        "File with a user's JWT and seed. Needs the package nkeys, as nkey_file does.",
        default="none")))
    nkey_file: str | None = field(default=None, metadata=about(Option(
        "File with a seed of a user.", default="none")))
    tls: bool = field(default=False, metadata=about(Option(
        "Refuse a server without TLS; with ca, certificate or tls://host:port it is refused too.")))
    ca: str | None = field(default=None, metadata=about(Option(
        "File with the certificates that sign the servers' ones.", default="the system's")))
    certificate: str | None = field(default=None, metadata=about(Option(
        "File with this client's certificate.", default="none")))
    key: str | None = field(default=None, metadata=about(Option(
        "File with the certificate's key.", default="in the certificate's file")))
    # fmt: on


OPTIONS = options_of(NatsOptions)


def nats_refusals(nats: NatsOptions, everybody: bool) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with the options of a link: the option, and what is demanded of it.

    everybody: it is a receiver, and each one gets all messages.
    """
    for name, option in OPTIONS.items():
        value = getattr(nats, name)
        if value is None or not (option.choices or option.least is not None):
            continue
        refusal = out_of_range(name, option, value)
        if refusal is not None:
            yield name, refusal.demand
    if nats.consumer is not None and not STREAM.fullmatch(nats.consumer):
        yield "consumer", "it must be up to 64 letters, digits, - and _"
    if nats.consumer is None and everybody:
        yield "consumer", 'it is missing: with receivers = "all" each receiver needs one of its own'
    if nats.subject is not None and not _SUBJECT.fullmatch(nats.subject):
        yield "subject", "it must be words of letters, digits, - and _, with dots between them"
    for server in nats.servers:
        if not _SERVER.fullmatch(server):
            yield "servers", "each must be nats://host:port or tls://host:port"
    if (nats.user is None) != (nats.password_file is None):
        yield "password_file", "user and password_file belong together"
    if nats.key is not None and nats.certificate is None:
        yield "key", "it belongs to a certificate, which is missing"
    ways = ("user", "token_file", "credentials", "nkey_file")
    if sum(getattr(nats, way) is not None for way in ways) > 1:
        yield "credentials", f"only one of {', '.join(ways)} can be given"
