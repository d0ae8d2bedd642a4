# SPDX-License-Identifier: Apache-2.0
"""What a mutant is, and the tables that list them. Nothing is run here."""

import itertools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .python import Candidate

_COMMENT = r"/\*(?:[^*]|\*(?!/))*\*/"


def _pattern(text: str) -> re.Pattern[str]:
    """Matches C text, however it is broken into lines and indented, and whatever its comments
    say."""
    words = re.findall(r"\w+|[^\w\s]", re.sub(_COMMENT, " ", text))
    between = [
        rf"(?:\s|{_COMMENT})" + ("+" if left[-1:].isalnum() and right[:1].isalnum() else "*")
        for left, right in itertools.pairwise(words)
    ]
    joined = "".join(re.escape(w) + b for w, b in zip(words, [*between, ""], strict=True))
    return re.compile(joined)


@dataclass(frozen=True)
class Mutant:
    """One broken step: of the core, identified by its text; of the package, by its place."""

    name: str
    file: str  # from the root of the tree
    changes: tuple[tuple[str, str], ...] = ()  # old, new
    tests: tuple[str, ...] = ()  # checks.py; the mutant is found if any one of them fails
    equivalent: str = ""
    candidate: Candidate | None = None

    def apply(self, text: str) -> str:
        """Returns the file's text with the step broken. Raises ValueError if it does not occur
        once."""
        if self.candidate:
            start, end = self.candidate.span
            assert text[start:end] == self.candidate.old
            return text[:start] + self.candidate.new + text[end:]
        for old, new in self.changes:
            found = list(_pattern(old).finditer(text))
            if len(found) != 1:
                message = f"{self.file}: {self.name}: its text is there {len(found)} times: {old!r}"
                raise ValueError(message)
            text = text[: found[0].start()] + new + text[found[0].end() :]
        return text

    def fault(self, root: Path) -> str:
        """Returns what is wrong with the table's entry, or ""."""
        if not self.candidate and bool(self.tests) == bool(self.equivalent):
            return f"{self.file}: {self.name}: needs tests, or why it is equivalent"
        try:
            self.apply((root / self.file).read_text())
        except (ValueError, OSError) as error:
            return f"{error}; update the table"
        return ""


@dataclass
class Outcome:
    """The result of one mutant."""

    mutant: Mutant
    found_by: str = ""  # the test that failed, or how it did not compile
    seconds: float = 0.0
    said: str = ""

    def __str__(self) -> str:
        by = f"found by {self.found_by}" if self.found_by else "SURVIVED"
        text = (
            f"{self.mutant.file}: {self.mutant.name}: {by} ({self.seconds:.1f} s) {self.said[:160]}"
        )
        return text.rstrip()


def read_core(path: Path, folder: str = "native") -> list[Mutant]:
    """The mutants of the core, or of another folder's C code."""
    mutants = []
    for row in tomllib.loads(path.read_text())["mutant"]:
        changes = [(row["old"], row["new"])]
        if "also" in row:
            changes.append((row["also"]["old"], row["also"]["new"]))
        tests = tuple(row.get("tests", ()))
        why = row.get("equivalent", "")
        mutants.append(
            Mutant(row["name"], f"shmpool/{folder}/{row['file']}", tuple(changes), tests, why)
        )
    return mutants


def read_equivalents(path: Path) -> dict[tuple[str, str, str, str], str]:
    """Returns the reasons why mutants of the package are equivalent, by their identities."""
    rows = tomllib.loads(path.read_text()).get("mutant", [])
    return {(row["within"], row["line"], row["old"], row["new"]): row["equivalent"] for row in rows}
