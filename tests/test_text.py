# SPDX-License-Identifier: Apache-2.0
"""Bytes of other users as text, and the sizes in messages."""

import logging
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmpool import os_errors
from shmpool.names import NAME_SHOWN, is_name, printable, printable_lines
from shmpool.rpc import wire
from shmpool.service import logs

STRANGE = [
    (b"rx", "rx"),
    (b"\xff", r"\xff"),
    (b"\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
    (b"a\nshmpool: b", r"a\x0ashmpool: b"),
    ("é", r"\xe9"),
    ("Ā", r"\u0100"),
    ("名", r"\u540d"),
    ("\u202egnp.exe", r"\u202egnp.exe"),
    ("a\u200bb", r"a\u200bb"),
    ("\U0001f600", r"\U0001f600"),
    ("\udcff", r"\xff"),
    ("\ud800", r"\ud800"),
    ("\x7f\x00\x9b2J", r"\x7f\x00\x9b2J"),
    (b"a\\b", "a\\b"),
    ("[bold]x[/]", "[bold]x[/]"),
    (5, "5"),
]


@pytest.mark.parametrize(("foreign", "shown"), STRANGE)
def test_what_is_shown(foreign: object, shown: str) -> None:
    """Printable ASCII is unchanged. Everything else is escaped."""
    assert shown == printable(foreign)


@given(st.binary(max_size=2000) | st.text(max_size=2000))
def test_any_bytes(foreign: bytes | str) -> None:
    """The result is short, printable ASCII. Escaping it again does not change it."""
    shown = printable(foreign)
    assert (True, True) == (shown.isascii(), shown.isprintable() or not shown)
    assert len(shown) <= NAME_SHOWN
    assert shown == printable(shown)


@given(st.text(st.sampled_from("abcXYZ019._-"), min_size=1, max_size=63).filter(is_name))
def test_valid_names(name: str) -> None:
    """A valid pool name is shown unchanged."""
    assert name == printable(name)


def test_what_is_long() -> None:
    """Both ends are shown: the text of a message behind a long value stays visible."""
    shown = printable("a" * 10**6 + ": too long", 100)
    assert (100, True, True) == (len(shown), "aaa...aaa" in shown, shown.endswith(": too long"))


def test_a_message_of_several_lines() -> None:
    """Its lines stay lines, and each is printable."""
    assert [r"a\x1b", "b"] == printable_lines("a\x1b\n\nb")


def test_a_log_record_is_one_line() -> None:
    """It is one line, whatever names other users chose. A traceback keeps the lines of the code."""
    lines = logs.Lines("shmpool: %(message)s")
    record = logging.LogRecord("shmpool", 20, "", 1, "queue %s", ("a\nshmpool: b\x1b[2J",), None)
    assert r"shmpool: queue a\x0ashmpool: b\x1b[2J" == lines.format(record)
    try:
        raise ValueError("\x1b[2J")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
        record = logging.LogRecord("shmpool", 40, "", 1, "failed", (), info)
    text = lines.format(record)
    assert text.endswith(r"ValueError: \x1b[2J")
    assert all(line.isprintable() for line in text.split("\n"))


def test_surrogates_on_the_wire() -> None:
    """Text that is no Unicode in one pool does not end the answer for all pools."""
    packed = wire.pack_error(1, {"message": os.fsdecode(b"\xff")})
    frames = wire.Frames(wire.ANSWER_MAX)
    frames.feed(packed)
    (reply,) = frames
    assert isinstance(reply, wire.Reply)
    assert {"message": r"\udcff"} == reply.error


@pytest.mark.parametrize(
    ("octets", "down", "up"),
    [
        (0, "0 KiB", "0 KiB"),
        (1, "0 KiB", "0.1 KiB"),
        (1024, "1 KiB", "1 KiB"),
        (64 << 20, "64 MiB", "64 MiB"),
        ((64 << 20) - 1, "63.9 MiB", "64 MiB"),
        ((64 << 20) + 1, "64 MiB", "64.1 MiB"),
        ((1 << 30) - 1, "1,023.9 MiB", "1,024 MiB"),
        (3 << 29, "1.5 GiB", "1.5 GiB"),
        (1 << 40, "1 TiB", "1 TiB"),
        (5 << 50, "5,120 TiB", "5,120 TiB"),
    ],
)
def test_sizes(octets: int, down: str, up: str) -> None:
    """A free size is rounded down, a needed size up: the needed one is the larger in print too."""
    assert (down, up) == (os_errors.size_text(octets), os_errors.size_text(octets, up=True))


def test_the_size_that_is_advised() -> None:
    """mount(8) and docker accept it, and it is at least the needed size."""
    for needed in (128 << 20, 3 << 30):
        (size, again) = re.findall(r"size=(\d+[mg])", os_errors.enlarge(needed))
        assert size == again
        assert int(size[:-1]) << {"m": 20, "g": 30}[size[-1]] >= needed
    assert "g" == size[-1]
