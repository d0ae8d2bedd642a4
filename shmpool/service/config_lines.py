# SPDX-License-Identifier: Apache-2.0
"""On which line of a TOML document a key stands: tomllib does not say.

One pass over a document that tomllib has read, so that no mistake has to be found here.
"""

import re
import tomllib

Path = tuple[str, ...]

DEPTH = 5  # of a key that is found: pools.NAME.queue.NAME.option
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""[ \t]*(?:([A-Za-z0-9_-]+)|("(?:[^"\\]|\\.)*"|'[^']*'))[ \t]*(\.?)""")
_COMMENT = re.compile(r"[^\n]*")
_MARK = re.compile(r"[\n#\"'\[\]{}]")  # what matters in the search for the end of a value
_STRING_END = {
    '"""': re.compile(r'(?:[^"\\]|\\.|"(?!""))*"{3,5}', re.DOTALL),
    "'''": re.compile(r"(?:[^']|'(?!''))*'{3,5}"),
    '"': re.compile(r'(?:[^"\\]|\\.)*"'),
    "'": re.compile(r"[^']*'"),
}


def key_lines(text: str) -> dict[Path, int]:
    """The line, from 1, of every table and key of a document that tomllib can read; what stands in
    an inline table, or is deeper than DEPTH, is left out. The tables of an array are numbered."""
    found: dict[Path, int] = {}
    table: Path = ()
    tables: dict[Path, int] = {}  # of an array of tables, so far
    line, counted, at = 1, 0, 0
    while (at := _end(_BLANK, text, at)) < len(text):
        line, counted = line + text.count("\n", counted, at), at
        header, many = text[at] == "[", text.startswith("[[", at)
        if header:
            at += 2 if many else 1
        path, at = _key(text, at)
        if many:
            tables[path] = tables.get(path, -1) + 1
            found.setdefault(path, line)
            path = (*path, str(tables[path]))
        elif header:
            path = _in_array(path, tables)
        if header:
            table, at = path, text.index("]", at) + 1
            at += text.startswith("]", at)
        else:
            path, at = table + path, _after_value(text, text.index("=", at) + 1)
        for depth in range(1, min(len(path), DEPTH) + 1):
            found.setdefault(path[:depth], line)
    return found


def _in_array(path: Path, tables: dict[Path, int]) -> Path:
    """The path of a table, with the number of the last table of an array that it is part of."""
    for depth in range(1, len(path)):
        if path[:depth] in tables:
            return (*path[:depth], str(tables[path[:depth]]), *path[depth:])
    return path


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where the match that begins there ends: there, if there is none."""
    found = pattern.match(text, at)
    return found.end() if found else at


def _key(text: str, at: int) -> tuple[Path, int]:
    """The dotted key that begins there, and where it ends."""
    path: list[str] = []
    while found := _KEY.match(text, at):
        bare, quoted, dot = found.groups()
        path.append(bare if quoted is None else next(iter(tomllib.loads(f"{quoted}=0"))))
        at = found.end()
        if not dot:
            break
    return tuple(path), at


def _after_value(text: str, at: int) -> int:
    """The end of the line on which the value that begins there ends."""
    depth = 0  # of arrays and inline tables
    while found := _MARK.search(text, at):
        mark, at = found[0], found.end()
        if mark == "\n":
            if depth == 0:
                break
        elif mark == "#":
            at = _end(_COMMENT, text, at)
        elif mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
        else:
            quote = mark * 3 if text.startswith(mark * 3, found.start()) else mark
            at = _end(_STRING_END[quote], text, found.start() + len(quote))
    return at if found else len(text)
