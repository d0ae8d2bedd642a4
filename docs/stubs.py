# SPDX-License-Identifier: Apache-2.0
"""Writes the docstrings of the C types into shmpool/_hot.pyi, where editors read them.

python docs/stubs.py

The docstrings' source is C: help() shows it. The rest of the stub is written by hand.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

import shmpool
from shmpool import _hot

STUB = Path(shmpool.__file__).with_name("_hot.pyi")
WIDTH = 100
Piece = tuple[int, int, str]  # from where to where of the text, and what comes there


def docstring(owner: object, name: str, indent: str) -> str:
    """What stands in the stub for the docstring of a public name; "" if there is none."""
    text = "" if name.startswith("_") else inspect.getdoc(getattr(owner, name, None)) or ""
    if not text:
        return ""
    raw = "r" * ("\\" in text)
    lines = list(refilled(text.splitlines(), WIDTH - len(indent) - len(raw) - 3))
    first = f'{raw}"""{lines[0]}'
    if len(lines) == 1 and len(indent) + len(first) + 3 <= WIDTH:
        return f'{indent}{first}"""'
    return "\n".join(
        [indent + first, *((indent + line).rstrip() for line in lines[1:]), f'{indent}"""']
    )


def refilled(lines: list[str], width: int) -> Iterator[str]:
    """The lines of a docstring; paragraphs that are too wide are filled again."""
    at = 0
    while at < len(lines):
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        block = [lines[at]]
        while lines[at] and len(lines) > at + len(block):
            line = lines[at + len(block)]
            if not line or line[: len(line) - len(line.lstrip())] != indent:
                break
            block.append(line)
        at += len(block)
        if all(len(line) <= width for line in block):
            yield from block
        else:
            yield from textwrap.wrap(
                " ".join(line.strip() for line in block),
                width,
                initial_indent=indent,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )


def is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


class Stub:
    """The text of the stub, and where each of its nodes stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._starts = [0]
        for line in text.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line.encode()))

    def start(self, node: ast.stmt) -> int:
        """The offset of the line on which a statement begins, decorators included."""
        decorators = getattr(node, "decorator_list", [])
        return self._starts[min([node.lineno, *(one.lineno for one in decorators)]) - 1]

    def end(self, node: ast.stmt) -> int:
        """The offset behind the last line of a statement."""
        assert node.end_lineno is not None  # noqa: S101
        return self._starts[node.end_lineno]

    def pieces(self, body: list[ast.stmt], owner: object, indent: str) -> Iterator[Piece]:
        """What changes in a body: of the module or of a class."""
        for node, behind in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.FunctionDef):
                body_at = self._starts[node.body[0].lineno - 1] + node.body[0].col_offset
                head = self.text.encode()[self.start(node) : body_at].decode().rstrip()
                doc = docstring(owner, node.name, indent + "    ")
                yield (
                    self.start(node),
                    self.end(node),
                    f"{head}\n{doc}\n" if doc else f"{head} ...\n",
                )
            elif isinstance(node, ast.ClassDef):
                yield from self._class(node, getattr(owner, node.name))
            elif isinstance(node, ast.AnnAssign):
                end, name = self.end(node), ast.unparse(node.target)
                known = inspect.isdatadescriptor(getattr(owner, name, None))
                doc = docstring(owner, name, indent) if known else ""
                if behind is not None and is_docstring(behind):
                    yield end, self.end(behind), f"{doc}\n" if doc else ""
                elif doc:
                    yield end, end, f"{doc}\n"

    def _class(self, node: ast.ClassDef, owner: object) -> Iterator[Piece]:
        first, *rest = node.body
        doc = docstring(_hot, node.name, "    ")
        if is_docstring(first):
            yield self.start(first), self.start(rest[0]), f"{doc}\n\n" if doc else ""
        else:
            rest = node.body
            if doc:
                yield self.start(first), self.start(first), f"{doc}\n\n"
        yield from self.pieces(rest, owner, "    ")


def written(text: str) -> str:
    """The stub with the docstrings of now."""
    stub = Stub(text)
    raw = text.encode()
    for start, end, piece in sorted(stub.pieces(ast.parse(text).body, _hot, ""), reverse=True):
        raw = raw[:start] + piece.encode() + raw[end:]
    return raw.decode()


if __name__ == "__main__":
    STUB.write_text(written(STUB.read_text()))
