# SPDX-License-Identifier: Apache-2.0
"""What a mutant is, and the tables that list them. Nothing here runs anything."""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path


def _pattern(text: str) -> re.Pattern[str]:
    """Finds text however it is broken into lines and indented."""
    words = re.findall(r"\w+|[^\w\s]", text)
    between = [
        r"\s+" if left[-1:].isalnum() and right[:1].isalnum() else r"\s*"
        for left, right in zip(words, words[1:], strict=False)
    ]
    joined = "".join(re.escape(w) + b for w, b in zip(words, [*between, ""], strict=True))
    return re.compile(joined)


@dataclass(frozen=True)
class Mutant:
    """One broken step."""

    name: str
    file: str  # from the root of the tree
    changes: tuple[tuple[str, str], ...]  # old, new
    tests: tuple[str, ...] = ()
    equivalent: str = ""

    def apply(self, text: str) -> str:
        """The file's text with the step broken. ValueError if it is not there exactly once."""
        for old, new in self.changes:
            found = list(
                _exact(old, text) if self.file.endswith(".py") else _pattern(old).finditer(text)
            )
            if len(found) != 1:
                message = f"{self.file}: {self.name}: its text is there {len(found)} times: {old!r}"
                raise ValueError(message)
            text = text[: found[0].start()] + new + text[found[0].end() :]
        return text

    def fault(self, root: Path) -> str:
        """What is wrong with the table's entry, "" if nothing is."""
        if bool(self.tests) == bool(self.equivalent):
            return f"{self.file}: {self.name}: needs tests, or why it is equivalent"
        try:
            self.apply((root / self.file).read_text())
        except (ValueError, OSError) as error:
            return f"{error}; update the table"
        return ""


def _exact(old: str, text: str) -> list[re.Match[str]]:
    return list(re.finditer(re.escape(old), text))


@dataclass
class Outcome:
    """What became of one."""

    mutant: Mutant
    found_by: str = ""  # the test that failed, or how it did not compile
    seconds: float = 0.0
    said: str = field(default="", repr=False)

    def __str__(self) -> str:
        by = f"found by {self.found_by}" if self.found_by else "SURVIVED"
        return f"{self.mutant.file}: {self.mutant.name}: {by} ({self.seconds:.1f} s) {self.said}"


def read_table(path: Path) -> list[Mutant]:
    """The mutants of a table."""
    mutants = []
    folder = "shmpool/native/" if path.name == "core.toml" else ""
    for row in tomllib.loads(path.read_text())["mutant"]:
        changes = [(row["old"], row["new"])]
        if "also" in row:
            changes.append((row["also"]["old"], row["also"]["new"]))
        mutants.append(
            Mutant(
                row["name"],
                folder + row["file"],
                tuple(changes),
                tuple(row.get("tests", ())),
                row.get("equivalent", ""),
            )
        )
    return mutants
