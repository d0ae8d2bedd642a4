# SPDX-License-Identifier: Apache-2.0
"""What a link is: the options of one [[link]] table, its two ends, and what it may not be.

No I/O. The table is read with the daemon's configuration (service/config.py).
"""

import ipaddress
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from typing import Literal, get_args
from urllib.parse import unquote

from .. import errors
from ..names import is_name, printable
from ..options import Option, Refusal, about, options_of, out_of_range
from .nats_options import STREAM, NatsOptions, nats_refusals

ENGINES = {"zmq": "bridge.zeromq", "nats": "bridge.nats"}  # by scheme: the module below shmpool
LINKS_MAX = 64
PACKETS_MAX = 4096  # of one burst
RECEIVERS_MAX = 16  # of one link
Receivers = Literal["competing", "all"]
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[^]/]*\]|[^/:]*)(?::([0-9]{1,5}))?(?:/(.*))?")
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_Z85 = string.digits + string.ascii_letters + ".-:+=^!/*?&<>()[]{}@%$#"
_KEY = 40  # characters of a key: 32 bytes in Z85
_SHOWN = 80


@dataclass(frozen=True)
class Local:
    """A queue or a topic of a pool of this machine: `pool/queue`."""

    pool: str
    name: str

    def __str__(self) -> str:
        return f"{self.pool}/{self.name}"


@dataclass(frozen=True)
class Remote:
    """What stands behind an address, `scheme://host:port/path`, as its engine reads it."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def bracketed(self) -> str:
        """The host, an address of IPv6 in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bracketed}:{self.port}/{self.path}"


End = Local | Remote


@dataclass(frozen=True)
class LinkOptions:
    """[[link]]"""

    # fmt: off
    from_: str = field(metadata=about(Option(
        "Where it takes from: a queue or topic here (pool/queue), or an address to receive at.")))
    to: str | list[str] = field(metadata=about(Option(
        "Where it puts: a queue or topic here, or the address of one or several receivers.")))
    name: str | None = field(default=None, metadata=about(Option(
        "The link's name in figures and logs.", default="from")))
    receivers: Receivers = field(default="competing", metadata=about(Option(
        "Whether a burst goes to one of several receivers, or to all.",
        choices=get_args(Receivers))))
    window: int = field(default=16, metadata=about(Option(
        "Bursts that may be on their way to a receiver, not acknowledged.",
        "bursts", 1, 1024)))
    burst_bytes: int = field(default=524288, metadata=about(Option(
        "Bytes that a burst has at most, if it has more than one packet.",
        "bytes", 1024, 1 << 20)))
    key_file: str | None = field(default=None, metadata=about(Option(
        "File with the CURVE keys of this end (zmq), as `shmpool bridge --make-keys` writes it.",
        default="no encryption")))
    peer_key: str | None = field(default=None, metadata=about(Option(
        "The receiver's public key, 40 characters: with it the link is encrypted.",
        default="no encryption")))
    allow_keys: list[str] = field(default_factory=list, metadata=about(Option(
        "Public keys of the senders that may connect to an encrypted link.",
        default="[]")))
    down_s: float = field(default=5.0, metadata=about(Option(
        "Alarm when the link has been down for this long.", "seconds", 0.0, 1e6)))
    lag_s: float = field(default=10.0, metadata=about(Option(
        "Alarm when a burst is not acknowledged, or the other side has no room, for this long.",
        "seconds", 0.0, 1e6)))
    failover_s: float = field(default=10.0, metadata=about(Option(
        "A competing receiver that is away for this long loses its bursts to the others.",
        "seconds", 0.1, 1e6)))
    # fmt: on
    nats: NatsOptions = field(default_factory=NatsOptions)

    @property
    def shown(self) -> str:
        """The name that figures and logs have of it."""
        return self.name or printable(self.from_, _SHOWN)

    @property
    def source(self) -> End:
        """Where it takes from. InvalidArgument."""
        return end_of(self.from_)

    @property
    def targets(self) -> list[End]:
        """Where it puts. InvalidArgument."""
        return [end_of(one) for one in ([self.to] if isinstance(self.to, str) else self.to)]

    @property
    def sends(self) -> bool:
        """True if it takes from a pool here."""
        return isinstance(self.source, Local)

    @property
    def local(self) -> Local:
        """The end that is here."""
        one = self.source if self.sends else self.targets[0]
        assert isinstance(one, Local)  # noqa: S101 (link_refusals() has checked it)
        return one

    @property
    def remotes(self) -> list[Remote]:
        """The ends that are elsewhere."""
        return [one for one in (self.source, *self.targets) if isinstance(one, Remote)]


OPTIONS = options_of(LinkOptions)


def end_of(text: str) -> End:
    """Returns the end that a text names. InvalidArgument."""
    shown = printable(text, _SHOWN)
    if "://" not in text:
        pool, slash, name = text.partition("/")
        if slash and is_name(pool) and is_name(name):
            return Local(pool, name)
        raise errors.InvalidArgument(
            f"{shown!r} is neither pool/queue nor an address such as zmq://host:5555/rx/work"
        )
    found = _URL.fullmatch(text)
    scheme = text.partition("://")[0]
    if scheme not in ENGINES:
        known = " or ".join(f"{one}://" for one in ENGINES)
        raise errors.InvalidArgument(f"{shown!r} begins with no engine; it must be {known}")
    if not found or not found[3] or not 1 <= int(found[3]) <= 65535:
        raise errors.InvalidArgument(
            f"{shown!r} has no port; it must be {scheme}://host:port/path, the port from 1 to 65535"
        )
    host, path = found[2], unquote(found[4] or "")
    if host.startswith("["):
        host = host[1:-1]
    if not _is_host(host):
        raise errors.InvalidArgument(f"{shown!r} has no host; it must be a name, an address or *")
    if not _PATH.fullmatch(path):
        raise errors.InvalidArgument(
            f"{shown!r} has no path; it must name what is behind it, such as /rx/work"
        )
    return Remote(scheme, host, int(found[3]), path)


def _is_host(host: str) -> bool:
    if host == "*" or re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?", host):
        return True
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def _is_key(text: str) -> bool:
    """Whether it is 32 bytes in Z85. Not every five of its characters are four bytes."""
    if len(text) != _KEY or not set(text) <= set(_Z85):
        return False
    digits = [_Z85.index(one) for one in text]
    words = (digits[i : i + 5] for i in range(0, _KEY, 5))
    return all(reduce(lambda high, low: high * 85 + low, word) < 2**32 for word in words)


def link_refusals(link: LinkOptions) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with a link: the option, and what is demanded of it."""
    for name, option in OPTIONS.items():
        refusal: Refusal | None = None
        if option.choices or option.least is not None:
            refusal = out_of_range(name, option, getattr(link, name))
        if refusal is not None:
            yield name, refusal.demand
    texts = [("from_", link.from_)]
    texts += [("to", one) for one in ([link.to] if isinstance(link.to, str) else link.to)]
    faults = [(option, why) for option, text in texts if (why := _fault(text))]
    yield from faults
    for name, key in [("peer_key", link.peer_key), *(("allow_keys", k) for k in link.allow_keys)]:
        if key is not None and not _is_key(key):
            yield name, "each must be a public key: 40 characters of Z85"
    if not faults:
        yield from _wrong_ends(link)
        yield from _wrong_nats(link)


def _fault(text: str) -> str:
    try:
        end_of(text)
    except errors.InvalidArgument as error:
        return str(error)
    return ""


def _wrong_ends(link: LinkOptions) -> Iterator[tuple[str, str]]:
    """Yields why two ends do not make a link."""
    source, targets = link.source, link.targets
    schemes = {one.scheme for one in link.remotes}
    if not 1 <= len(targets) <= RECEIVERS_MAX:
        yield "to", f"it must name from 1 to {RECEIVERS_MAX} receivers"
    elif isinstance(source, Local) == any(isinstance(one, Local) for one in targets):
        yield "to", "one end must be a queue or topic here, the other an address"
    elif isinstance(source, Remote) and len(targets) > 1:
        yield "to", "a link that receives puts into one queue or topic"
    elif len(schemes) > 1 or ("nats" in schemes and len(targets) > 1):
        yield "to", "several receivers must all be zmq:// addresses"
    elif len({str(one) for one in targets}) < len(targets):
        yield "to", "a receiver is named twice"
    elif any(one.host == "*" for one in targets if isinstance(one, Remote)):
        yield "to", "it must name the receiver's host; only from may be an address with *"
    elif isinstance(source, Remote) and (source.scheme, source.host) == ("nats", "*"):
        yield "from_", "it must name the server's host: a link connects to it to receive, too"
    elif isinstance(source, Local) and "zmq" in schemes and link.allow_keys:
        yield "allow_keys", "only a link that receives has it; one that sends has peer_key"
    elif isinstance(source, Remote) and link.peer_key is not None:
        yield "peer_key", "only a link that sends has it; one that receives has allow_keys"
    elif link.key_file is None and (link.peer_key is not None or link.allow_keys):
        yield "key_file", "it is missing: an encrypted link needs keys of its own"
    elif link.key_file is not None and isinstance(source, Local) and link.peer_key is None:
        yield "peer_key", "it is missing: key_file encrypts only with the receiver's public key"
    elif link.key_file is not None and isinstance(source, Remote) and not link.allow_keys:
        yield "allow_keys", "it is missing: an encrypted link names the senders that may connect"


def _wrong_nats(link: LinkOptions) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with [link.nats]."""
    over = [one for one in link.remotes if one.scheme == "nats"]
    if not over:
        if link.nats != NatsOptions():
            yield "nats", "it is only for links over nats://"
        return
    if not STREAM.fullmatch(over[0].path):
        end = "to" if isinstance(link.source, Local) else "from_"
        yield end, "it must end in a stream's name: up to 64 letters, digits, - and _"
    for key in ("key_file", "peer_key", "allow_keys"):
        if getattr(link, key):
            yield key, "it is only for links over zmq://; [link.nats] has tls"
    for option, demand in nats_refusals(link.nats, link.receivers == "all" and not link.sends):
        yield f"nats.{option}", demand


def common_refusals(links: list[LinkOptions]) -> Iterator[tuple[int, str, str]]:
    """Yields what is wrong with links beside each other: number, option, demand. Each is valid by
    itself."""
    names: set[str] = set()
    heard: dict[tuple[str, int], int] = {}
    for number, link in enumerate(links):
        if number == LINKS_MAX:
            yield number, "from_", f"a bridge has at most {LINKS_MAX} links"
        if link.shown in names:
            yield number, "name" if link.name else "from_", "another link has that name; set name"
        names.add(link.shown)
        if isinstance(link.source, Remote) and link.source.scheme == "zmq":
            place = (link.source.scheme, link.source.port)
            if heard.setdefault(place, number) != number:
                yield number, "from_", "another link receives at that port; take one for each"
