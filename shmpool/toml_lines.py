# SPDX-License-Identifier: Apache-2.0
"""On which line of a TOML document a key stands: tomllib does not say.

A statement, the lines up to where tomllib can read them by themselves, names its keys in full.
"""

import tomllib
from typing import Any

Path = tuple[str, ...]


def key_lines(text: str) -> dict[Path, int]:
    """The line, from 1, of every key and table of a document that tomllib can read."""
    found: dict[Path, int] = {}
    table: Path = ()
    start, statement = 1, ""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not statement:
            start = number
        statement += line
        try:
            value = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # goes on in the next line
        header = statement.lstrip().startswith("[")
        if header:
            table = _last(value)
        for path in _paths(value):
            found.setdefault(path if header else table + path, start)
        statement = ""
    return found


def _last(value: Any) -> Path:
    path: Path = ()
    while value:
        if isinstance(value, list):
            value = value[0]
            continue
        ((key, value),) = value.items()
        path += (key,)
    return path


def _paths(value: Any) -> list[Path]:
    if not isinstance(value, dict):
        return []
    below = ((key, path) for key, inner in value.items() for path in [(), *_paths(inner)])
    return [(key, *path) for key, path in below]
