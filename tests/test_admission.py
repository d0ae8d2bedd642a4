# SPDX-License-Identifier: Apache-2.0
"""Which HTTP requests are admitted."""

import base64

import pytest

from shmpool.service.admission import Admission

LOCAL = Admission.at(["127.0.0.1"], ["127.0.0.1", "Node1."])
EVERYWHERE = Admission.at(["0.0.0.0", "::"], ["0.0.0.0", "node1"])  # noqa: S104
ONE = Admission.at(["192.0.2.7"], ["192.0.2.7"])
PROXIED = Admission(hosts=None)
TOKEN = Admission.at(["127.0.0.1"], [], token=b"0123456789abcdef")


class Headers(dict[str, list[str]]):
    """The headers of a request."""

    def getall(self, key: str, default: list[str]) -> list[str]:
        return self.get(key, default)


def status(admission: Admission, *, page: bool = False, **headers: str | list[str]) -> int:
    """Returns the status of a refusal, or 200 if the request is admitted."""
    given = {
        name.replace("_", "-").title(): [value] if isinstance(value, str) else value
        for name, value in headers.items()
    }
    refusal = admission.refusal(Headers(given), page)
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize(
    ("admission", "host", "expected"),
    [
        (LOCAL, "127.0.0.1:9464", 200),
        (LOCAL, "127.0.0.1", 200),
        (LOCAL, "localhost:1", 200),
        (LOCAL, "LOCALHOST.:9464", 200),
        (LOCAL, "[::1]:9464", 200),
        (LOCAL, "node1:9464", 200),
        (LOCAL, "node1.", 200),
        (LOCAL, "evil.example", 403),
        (LOCAL, "127.0.0.1.evil.example", 403),
        (LOCAL, "localhost.evil.example:9464", 403),
        (LOCAL, "evil.example:127.0.0.1", 403),
        (LOCAL, "evil.example#localhost", 403),
        (LOCAL, "user@localhost", 403),
        (LOCAL, "localhost:9464:9464", 403),
        (LOCAL, "[localhost]", 403),
        (LOCAL, "192.0.2.7", 403),
        (LOCAL, "", 403),
        (LOCAL, "\xff", 403),
        (EVERYWHERE, "192.0.2.7:9464", 200),
        (EVERYWHERE, "[2001:db8::1]", 200),
        (EVERYWHERE, "localhost", 200),
        (EVERYWHERE, "node1", 200),
        (EVERYWHERE, "evil.example", 403),
        (ONE, "192.0.2.7:80", 200),
        (ONE, "localhost", 403),
        (ONE, "192.0.2.8", 403),
        (PROXIED, "any.example", 200),
    ],
)
def test_host(admission: Admission, host: str, expected: int) -> None:
    """Only names and addresses of the service itself are admitted. Any other may be an attack."""
    assert expected == status(admission, host=host)


def test_one_host_header() -> None:
    """A request without a Host header, or with several, is refused: caches and proxies differ on
    it."""
    assert 400 == status(LOCAL)
    assert 400 == status(LOCAL, host=["localhost", "evil.example"])
    assert 400 == status(PROXIED, host=["localhost", "localhost"])


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"origin": "http://localhost:9464"}, 200),
        ({"origin": "https://LOCALHOST:9464"}, 200),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "http://localhost"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": ["http://localhost:9464", "https://evil.example"]}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": ["none", "cross-site"]}, 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, 403),
    ],
)
def test_pages_of_other_sites(headers: dict[str, str | list[str]], expected: int) -> None:
    """Requests by pages of this service, and those that name no page, are admitted. Others are
    refused."""
    assert expected == status(LOCAL, host="localhost:9464", **headers)
    assert expected == status(PROXIED, host="localhost:9464", **headers)


def test_a_link_may_be_followed() -> None:
    """A page of another site may link to the live page, as a whole document.

    It may not put the page into a frame, nor link to what programs read.
    """
    link = {
        "host": "localhost",
        "sec_fetch_site": "cross-site",
        "sec_fetch_mode": "navigate",
        "sec_fetch_dest": "document",
    }
    assert 200 == status(LOCAL, page=True, **link)
    assert 403 == status(LOCAL, page=False, **link)
    assert 403 == status(LOCAL, page=True, **link | {"sec_fetch_dest": "iframe"})
    assert 403 == status(LOCAL, page=True, **link | {"origin": "https://evil.example"})


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        ("Bearer 0123456789abcdef", 200),
        ("bearer  0123456789abcdef", 200),
        (basic("prometheus:0123456789abcdef"), 200),
        (basic(":0123456789abcdef"), 200),
        ("Bearer 0123456789abcde", 401),
        ("Bearer 0123456789abcdef0", 401),
        ("Bearer", 401),
        ("Bearer é", 401),
        ("0123456789abcdef", 401),
        ("Digest 0123456789abcdef", 401),
        (basic("0123456789abcdef"), 401),
        (basic("0123456789abcdef:"), 401),
        ("Basic !!!", 401),
        ("Basic é", 401),
        (["Bearer 0123456789abcdef", "Bearer x"], 401),
    ],
)
def test_token(authorization: str | list[str], expected: int) -> None:
    """The token is accepted as a bearer token, or as a password with any user. Nothing else is."""
    assert expected == status(TOKEN, host="localhost", authorization=authorization)
    assert 200 == status(LOCAL, host="localhost", authorization=authorization)


def test_when_a_browser_asks_for_the_token() -> None:
    """A browser asks its user for the token. A browser on a page of another site does not."""
    refusal = TOKEN.refusal(Headers({"Host": ["localhost"]}), page=True)
    assert refusal is not None
    assert (401, True) == (refusal.status, "Basic" in refusal.headers["WWW-Authenticate"])
    assert 403 == status(TOKEN, host="evil.example", authorization="Bearer 0123456789abcdef")
    assert 403 == status(TOKEN, host="localhost", origin="https://evil.example")
