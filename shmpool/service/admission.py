# SPDX-License-Identifier: Apache-2.0
"""Decides which HTTP requests are answered: those with a host name of this service, not sent by a
page of another site, and with the token if there is one. No I/O.

A browser lets any page of any site send requests to this machine. Such a page could read every
answer, directly or under a name of its own site that resolves to 127.0.0.1 (DNS rebinding). It
cannot forge Host, Origin and Sec-Fetch-*, which are checked here.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from .config_values import is_address

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")


class Headers(Protocol):
    """The headers of a request."""

    def getall(self, key: str, default: list[str]) -> list[str]:
        """The values of a header. The case of its name does not matter."""


@dataclass(frozen=True)
class Refusal:
    """The answer to a request that is refused."""

    status: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Admission:
    """The rules of one service."""

    hosts: frozenset[str] | None  # names and addresses of the service; None: any
    any_address: bool = False  # any IP address is one of the service
    token: bytes | None = None

    @classmethod
    def at(
        cls, addresses: Iterable[str], names: Iterable[str], token: bytes | None = None
    ) -> "Admission":
        """The rules of a service that listens at these IP addresses and has these host names."""
        known = set(addresses)
        hosts = known | {name.lower().removesuffix(".") for name in names}
        if known & (LOOPBACK | WILDCARDS):
            hosts |= LOOPBACK
        return cls(frozenset(hosts - WILDCARDS), bool(known & WILDCARDS), token)

    def refusal(self, headers: Headers, page: bool) -> Refusal | None:
        """Returns None to answer the request. page is true if it is for the live page itself."""
        named = headers.getall("Host", [])
        if len(named) != 1:
            return Refusal(400, "a request must have one Host header\n")
        (authority,) = named
        if not self._is_ours(authority):
            return Refusal(
                403,
                "the Host header does not name this service; "
                "http_hosts in the daemon's configuration lists its names\n",
            )
        if self._is_foreign(headers, authority, page):
            return Refusal(403, "requests by pages of other sites are refused\n")
        if self.token is not None and not self._has_token(headers):
            challenge = {"WWW-Authenticate": 'Bearer realm="shmpool", Basic realm="shmpool"'}
            return Refusal(401, "the token is missing or wrong\n", challenge)
        return None

    def _is_ours(self, authority: str) -> bool:
        if self.hosts is None:
            return True
        found = _AUTHORITY.fullmatch(authority)
        if found is None:
            return False
        host = (found[1] or found[2]).lower().removesuffix(".")
        return host in self.hosts or (self.any_address and is_address(host))

    def _is_foreign(self, headers: Headers, authority: str, page: bool) -> bool:
        """True if the request was sent by a page of another site."""
        own = (f"http://{authority}".lower(), f"https://{authority}".lower())
        if any(origin.lower() not in own for origin in headers.getall("Origin", [])):
            return True
        if all(site in ("same-origin", "none") for site in headers.getall("Sec-Fetch-Site", [])):
            return False
        navigates = headers.getall("Sec-Fetch-Mode", []) == ["navigate"]
        document = headers.getall("Sec-Fetch-Dest", []) == ["document"]
        return not (page and navigates and document)  # a link to the live page is allowed

    def _has_token(self, headers: Headers) -> bool:
        """True if the token is sent as a bearer token, or as the password of any user name, which a
        browser prompts for."""
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
