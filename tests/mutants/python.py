# SPDX-License-Identifier: Apache-2.0
"""Mutants of the Python package: made from its syntax trees, chosen by a hash of their own text.

The hash covers the names of function and class, the line, and the replacement. So the same code has
the same mutants wherever its file is, and a change elsewhere changes none of them. Each mutant is
shown to the tests that run its line (lines.py), the quickest first.
"""

import ast
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# They compile C, search models, trace by themselves, or run for minutes.
LEFT_OUT = ["bench", "bench_loops", "browser", "captures", "demo", "footprint", "instructions"]
LEFT_OUT += ["kill_points", "models", "native", "property_kills", "relacy", "steer", "storm"]
LEFT_OUT += ["structure", "capture", "column", "errno", "fuzz_segment", "interrupted"]
LEFT_OUT += ["capture_files", "interface", "net_chain", "net_programs", "scan", "tap", "udp"]


def _isolated() -> list[str]:
    """A command prefix that isolates a command in namespaces, if allowed, so that nothing stays."""
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
    command += ['mount -t tmpfs -o size=1g tmpfs /dev/shm && "$@"; exit $?', "sh"]
    try:
        allowed = subprocess.run([*command, "true"], check=False, capture_output=True)
    except OSError:
        return []
    return command if allowed.returncode == 0 else []


ISOLATED = _isolated()
TESTS_SECONDS = 60.0  # of tests that are shown to one mutant, as lines.py timed them
FOLDERS_LEFT_OUT = ("bench", "native", "hot", "net")


@dataclass(frozen=True)
class Candidate:
    """A mutant of the package."""

    file: str
    within: str  # qualified name of the function or class
    text: str  # of the line where it begins, without spaces around it
    old: str
    new: str
    line: int
    span: tuple[int, int]  # in the file's text, in characters
    imported: bool  # whether the line runs when its module is imported, not in a function

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Its name in python.toml. Several mutants of the package may have the same."""
        return self.within, self.text, self.old, self.new

    @property
    def key(self) -> str:
        """The hash that it is chosen by."""
        return hashlib.sha256("\0".join(self.identity).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The name that is printed."""
        old, new = " ".join(self.old.split()), " ".join(self.new.split())
        return f"{self.within}: {self.text[:80]}: {old[:80]} -> {new[:90]}"


SWAPPED: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "+",
    ast.FloorDiv: "*",
    ast.BitOr: "&",
    ast.BitAnd: "|",
}


class _Finder(ast.NodeVisitor):
    def __init__(self, file: str, text: str) -> None:
        self.file, self.text = file, text
        self.lines = text.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        self.names: list[str] = []
        self.functions = 0  # around the node
        self.found: list[Candidate] = []

    def _at(self, line: int, column: int) -> int:
        start = self.starts[line - 1]
        head = self.text[start : self.starts[line]].encode()[:column]
        return start + len(head.decode())

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.lineno, node.col_offset), self._at(
            node.end_lineno, node.end_col_offset
        )

    def _replace(self, node: ast.expr | ast.stmt, new: str) -> None:
        start, end = self._span(node)
        old = self.text[start:end]
        if self.names and old != new:
            self.found.append(
                Candidate(
                    file=self.file,
                    within=".".join(self.names),
                    text=self.lines[node.lineno - 1].strip(),
                    old=old,
                    new=new,
                    line=node.lineno,
                    span=(start, end),
                    imported=not self.functions,
                )
            )

    def _source(self, node: ast.expr) -> str:
        start, end = self._span(node)
        return self.text[start:end]

    def _scope(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        function = not isinstance(node, ast.ClassDef)
        self.names.append(node.name)
        self.functions += function
        for child in node.body:
            self.visit(child)
        self.functions -= function
        self.names.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _scope  # noqa: N815

    def visit_If(self, node: ast.If) -> None:
        if self._source(node.test) != "TYPE_CHECKING":
            self._replace(node.test, f"not ({self._source(node.test)})")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._replace(node.test, f"not ({self._source(node.test)})")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1:
            new = SWAPPED[type(node.ops[0])]
            left, right = self._source(node.left), self._source(node.comparators[0])
            self._replace(node, f"({left} {new} {right})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        new = OPERATORS.get(type(node.op))
        strings = (ast.JoinedStr, ast.List, ast.Dict)
        text = any(
            isinstance(side, strings)
            or (isinstance(side, ast.Constant) and not isinstance(side.value, int))
            for side in (node.left, node.right)
        )
        if new and not text:
            self._replace(node, f"({self._source(node.left)} {new} {self._source(node.right)})")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        word = " or " if isinstance(node.op, ast.And) else " and "
        self._replace(node, "(" + word.join(f"({self._source(v)})" for v in node.values) + ")")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if type(node.value) is int:
            self._replace(node, f"({node.value} + 1)")
        elif type(node.value) is bool:
            self._replace(node, str(not node.value))

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call | ast.Await):
            self._replace(node, "pass")
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(node, "pass")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not isinstance(node.value, ast.Constant):
            self._replace(node, "return None")
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Mutants do not change the text of messages."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)


def candidates(root: Path) -> Iterator[Candidate]:
    """All possible mutants, of one file after the other."""
    for path in sorted((root / "shmpool").rglob("*.py")):
        if path.relative_to(root).parts[1] in FOLDERS_LEFT_OUT:
            continue
        text = path.read_text()
        finder = _Finder(str(path.relative_to(root)), text)
        finder.visit(ast.parse(text))
        yield from finder.found


def choose(root: Path, n: int, only: str = "") -> list[Candidate]:
    """Chooses n of them, no two on one line, from files or names with that text."""
    chosen: dict[tuple[str, int], Candidate] = {}
    for one in sorted(candidates(root), key=lambda c: c.key):
        if len(chosen) < n and (only in one.file or only in one.name):
            chosen.setdefault((one.file, one.line), one)
    return list(chosen.values())


def record_lines(root: Path, to: Path, names: str = "") -> None:
    """Runs all tests, or the given ones, and notes which lines each of them runs."""
    tests = [
        str(path.relative_to(root))
        for path in sorted((root / "tests").glob("test_*.py"))
        if path.stem.removeprefix("test_") not in LEFT_OUT
        and (not names or path.stem.removeprefix("test_") in names.split())
    ]
    if not names:
        tests += ["shmpool", *(f"--ignore=shmpool/{folder}" for folder in FOLDERS_LEFT_OUT)]
    command = [*ISOLATED, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "tests.mutants.lines", "--lines", str(to), *tests]
    said = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True).stdout
    print(*(line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))), sep="\n")


class Choice:
    """The tests that a mutant is shown to."""

    def __init__(self, root: Path, lines: Path) -> None:
        self.rows = json.loads(lines.read_text())
        self.root = root

    def tests(self, one: Candidate) -> list[str]:
        """The tests that run its line. If that runs at import: those of lines that name its class,
        and those that compare documentation and declarations.

        First come tests in files that name its module, class or function. Then come the other tests
        of such files that run anything of the mutant's file: cached code runs only in the first
        test that needs it. The quick ones come first in each group.
        """
        lines = {one.file: {one.line}}
        if one.imported:
            lines = self._naming(one.within.rpartition(".")[2])
        running = [
            test
            for test, row in self.rows.items()
            if _meets(row["lines"], lines) or (one.imported and "test_docs.py" in test)
        ]
        near = self._files_naming(Path(one.file).stem, one.within.split("."))
        beside = [
            test
            for test, row in self.rows.items()
            if _file(test) in near and one.file in row["lines"] and test not in running
        ]
        chosen, total = [], 0.0
        for group, until in (
            ([test for test in running if _file(test) in near], 0.5 * TESTS_SECONDS),
            (beside, 0.75 * TESTS_SECONDS),
            ([test for test in running if _file(test) not in near], TESTS_SECONDS),
        ):
            for test in sorted(group, key=self._seconds):
                if total < until:
                    chosen.append(test)
                    total += self._seconds(test)
        return chosen

    def _seconds(self, test: str) -> float:
        return float(self.rows[test]["seconds"])

    def _files_naming(self, stem: str, names: list[str]) -> set[str]:
        """The test files that have a module's name in theirs, or contain one of these words."""
        word = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
        return {
            file
            for file in set(map(_file, self.rows))
            if stem in Path(file).stem or word.search((self.root / file).read_text())
        }

    def _naming(self, name: str) -> dict[str, set[int]]:
        """The lines of the package with this word."""
        word = re.compile(rf"\b{re.escape(name)}\b")
        found = {}
        for path in (self.root / "shmpool").rglob("*.py"):
            lines = path.read_text().splitlines()
            found[str(path.relative_to(self.root))] = {
                at for at, line in enumerate(lines, 1) if word.search(line)
            }
        return found


def _file(test: str) -> str:
    return test.partition("::")[0]


def _meets(run: dict[str, list[int]], wanted: dict[str, set[int]]) -> bool:
    return any(not wanted.get(name, set()).isdisjoint(lines) for name, lines in run.items())
