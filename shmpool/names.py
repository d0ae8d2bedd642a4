# SPDX-License-Identifier: Apache-2.0
"""Names: which ones a pool or a queue can have, and how those of strangers are shown.

The names of files, processes and queues, and whatever a peer sends, are bytes that anybody may
choose. printable() makes text of them that may go anywhere: a terminal, a log, a label, a message.
"""

import re

from . import errors

NAME_MAX = 63
NAME_SHOWN = 300  # characters of a name: 63 may be in one of ours, 255 bytes in a file's
LINE_SHOWN = 4096  # characters of a line of a log or a message
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


def is_name(name: str) -> bool:
    """Whether a pool or a queue can have that name."""
    return len(name) <= NAME_MAX and _NAME.fullmatch(name) is not None


def checked_name(name: object, what: str) -> str:
    """The name, if it can name a pool or a queue; what is "pool" or "queue"."""
    if not isinstance(name, str):
        raise TypeError(f"{what} name is {name!r:.80}; it must be a str")
    if not is_name(name):
        raise errors.InvalidArgument(
            f"{what} name is {name!r:.80}; allowed are 1 to {NAME_MAX} of A-Z a-z 0-9 . _ -, "
            "the first a letter or digit"
        )
    return name


def printable(foreign: object, most: int = NAME_SHOWN) -> str:
    r"""The text in printable ASCII; of what is longer than that many characters, both ends.

    Everything else, so control characters, line breaks, escape sequences, letters that look like
    others or change the direction, and bytes that are no UTF-8, becomes \xNN, \uNNNN or
    \UNNNNNNNN. A backslash stays: what is printable already is not changed.

    >>> printable(b"rx\xff\x1b[2J")
    'rx\\xff\\x1b[2J'
    """
    if isinstance(foreign, (bytes, bytearray)):
        text = foreign.decode(errors="surrogateescape")
    else:
        text = str(foreign)
    if len(text) > 2 * most:
        text = text[:most] + text[-most:]
    if not (text.isascii() and text.isprintable()):
        text = "".join(map(_shown, text))
    half = most // 2
    return text if len(text) <= most else f"{text[: most - half - 3]}...{text[-half:]}"


def printable_lines(foreign: object) -> list[str]:
    """Each line of a message that may have several."""
    return [printable(line, LINE_SHOWN) for line in str(foreign).split("\n") if line]


def _shown(character: str) -> str:
    code = ord(character)
    if 0x20 <= code < 0x7F:
        return character
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8, as surrogateescape keeps it
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
