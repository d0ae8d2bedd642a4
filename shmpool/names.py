# SPDX-License-Identifier: Apache-2.0
"""Names: which ones a pool or a queue can have, and how untrusted text is shown.

The names of files, processes and queues, and whatever a peer sends, are bytes that any user may
choose. printable() makes them safe for a terminal, a log, a label or a message.
"""

from __future__ import annotations

from . import errors

NAME_MAX = 63
NAME_SHOWN = 300  # characters of a name that are shown; a file's name has up to 255 bytes
LINE_SHOWN = 4096  # characters that are shown of a line of a log or a message
_PUNCTUATION = str.maketrans("", "", "._-")


def is_name(name: str) -> bool:
    """True if a pool or a queue can have that name."""
    inner = name.translate(_PUNCTUATION)
    return len(name) <= NAME_MAX and name[:1].isalnum() and inner.isascii() and inner.isalnum()


def checked_name(name: object, what: str) -> str:
    """Returns a valid name, else raises InvalidArgument or TypeError. what is "pool" or "queue"."""
    if not isinstance(name, str):
        raise TypeError(f"{what} name is {name!r:.80}; it must be a str")
    if not is_name(name):
        raise errors.InvalidArgument(
            f"{what} name is {name!r:.80}; allowed are 1 to {NAME_MAX} of A-Z a-z 0-9 . _ -, "
            "the first a letter or digit"
        )
    return name


def printable(foreign: object, most: int = NAME_SHOWN) -> str:
    r"""Returns the text in printable ASCII. A text of more than most characters keeps both ends.

    Every other character becomes \xNN, \uNNNN or \UNNNNNNNN: control characters and escape
    sequences, line breaks, letters that look like ASCII or change the direction, and bytes that are
    not UTF-8. A backslash stays, so that printable text is not changed.

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
    """Returns the lines of a message in printable ASCII, without empty lines."""
    return [printable(line, LINE_SHOWN) for line in str(foreign).split("\n") if line]


def _shown(character: str) -> str:
    code = ord(character)
    if 0x20 <= code < 0x7F:
        return character
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as surrogateescape decodes it
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
