# SPDX-License-Identifier: Apache-2.0
"""Which HTTP requests are answered: those under a name of this service, from its own pages or from
no page, and with the token if there is one. No I/O.

A browser lets any page of any site send requests to this machine. What such a page cannot forge
are Host, Origin and Sec-Fetch-*: without these checks it could read everything here, directly or
under a name of its own that it made stand for 127.0.0.1.
"""

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")


class Headers(Protocol):
    """The headers of a request."""

    def getall(self, key: str, default: list[str]) -> list[str]:
        """The values of a header, in any case of its letters."""


@dataclass(frozen=True)
class Refusal:
    """An answer to a request that is not let in."""

    status: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Admission:
    """Whom a service lets in."""

    hosts: frozenset[str] | None  # names and addresses that it is asked by; None: any
    any_address: bool = False  # also by whatever address the machine has
    token: bytes | None = None

    @classmethod
    def at(
        cls, addresses: Iterable[str], names: Iterable[str], token: bytes | None = None
    ) -> "Admission":
        """Of a service that listens at these IP addresses and is known by these names."""
        known = set(addresses)
        hosts = known | {name.lower().removesuffix(".") for name in names}
        if known & (LOOPBACK | WILDCARDS):
            hosts |= LOOPBACK
        return cls(frozenset(hosts - WILDCARDS), bool(known & WILDCARDS), token)

    def refusal(self, headers: Headers, page: bool) -> Refusal | None:
        """None for a request that is let in; page: it is for what a person opens in a browser."""
        named = headers.getall("Host", [])
        if len(named) != 1:
            return Refusal(400, "a request has one Host header\n")
        (authority,) = named
        if not self._is_ours(authority):
            return Refusal(
                403,
                "this service is not known by the name in the Host header; "
                "http_hosts in the daemon's configuration lists its names\n",
            )
        if self._is_foreign(headers, authority, page):
            return Refusal(403, "pages of other sites get nothing here\n")
        if self.token is not None and not self._has_token(headers):
            asked = {"WWW-Authenticate": 'Bearer realm="shmpool", Basic realm="shmpool"'}
            return Refusal(401, "the token is asked for\n", asked)
        return None

    def _is_ours(self, authority: str) -> bool:
        if self.hosts is None:
            return True
        found = _AUTHORITY.fullmatch(authority)
        if found is None:
            return False
        host = (found[1] or found[2]).lower().removesuffix(".")
        return host in self.hosts or (self.any_address and _is_address(host))

    def _is_foreign(self, headers: Headers, authority: str, page: bool) -> bool:
        """Whether the request comes from a page that is not one of this service."""
        own = (f"http://{authority}".lower(), f"https://{authority}".lower())
        if any(origin.lower() not in own for origin in headers.getall("Origin", [])):
            return True
        if all(site in ("same-origin", "none") for site in headers.getall("Sec-Fetch-Site", [])):
            return False
        followed = headers.getall("Sec-Fetch-Mode", []) == ["navigate"]
        whole = headers.getall("Sec-Fetch-Dest", []) == ["document"]
        return not (page and followed and whole)  # a link to the page may be followed

    def _has_token(self, headers: Headers) -> bool:
        """As a bearer token, or as the password of any user, which a browser can ask for."""
        given = headers.getall("Authorization", [])
        if len(given) != 1 or self.token is None:
            return False
        scheme, _, rest = given[0].partition(" ")
        secret = rest.strip().encode(errors="replace")
        if scheme.lower() == "basic":
            try:
                secret = base64.b64decode(secret, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(secret, self.token)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
