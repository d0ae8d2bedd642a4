# SPDX-License-Identifier: Apache-2.0
"""Writes the overview of the public names into the docstring of shmpool/__init__.py.

python docs/overview.py

help(shmpool) shows that docstring, and no more (`__dir__` there says why). Each public name has the
first sentence of its docstring, its attributes with their types, and its methods. What stands above
the overview is written by hand.
"""

import ast
import inspect
import multiprocessing.queues
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import shmpool  # noqa: E402
from shmpool import errors  # noqa: E402

FILE = ROOT / "shmpool" / "__init__.py"
STUB = ROOT / "shmpool" / "_hot.pyi"
WIDTH = 100
FIRST = "Everything that is public.\n"
# What stands in which part. A name that is in none belongs to the last one.
PARTS: dict[str, tuple[str, ...]] = {
    "Pools, queues, topics": (
        "Pool", "Buffer", "Burst", "AlfQueue", "Topic", "Subscriber", "Sample", "Samples",
    ),
    "Functions": ("pool_names", "prune", "wait", "get_context"),
    "In place of Python's classes of these names; what they have besides": (
        "Queue", "JoinableQueue", "SimpleQueue", "Context", "ProcessPoolExecutor",
    ),
    "The daemon's clients: their other methods are its requests": ("Client", "AsyncClient"),
    "Options": ("PoolOptions", "QueueOptions", "TopicOptions"),
    "Exceptions: all have errno: int | None": (
        "ShmpoolError",
        *(name for name in shmpool.__all__ if name != "ShmpoolError" and hasattr(errors, name)),
    ),
    "Types for annotations": ("OnDeath", "Side", "PinState"),
    "Records": (),
}  # fmt: skip


@cache
def stubbed() -> dict[str, dict[str, str]]:
    """The types of the attributes of each class in C, as the stub has them."""
    found: dict[str, dict[str, str]] = {}
    for kind in ast.parse(STUB.read_text()).body:
        if isinstance(kind, ast.ClassDef):
            types = found[kind.name] = {}
            for node in kind.body:
                if isinstance(node, ast.AnnAssign):
                    types[ast.unparse(node.target)] = ast.unparse(node.annotation)
                elif isinstance(node, ast.FunctionDef) and node.decorator_list and node.returns:
                    types[node.name] = ast.unparse(node.returns)
    return found


def type_of(kind: type, name: str) -> str:
    """The type of a property or of an attribute in C."""
    for base in kind.__mro__:
        item = vars(base).get(name)
        if item is not None and (found := stubbed().get(base.__name__, {}).get(name)):
            return found
        if isinstance(item, property):
            return spelled((item.fget.__annotations__ or {})["return"])
    raise LookupError(f"{kind.__name__}.{name} has no type")


def spelled(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:shmpool|typing|npt|[a-z_]+)\.(?=\w)", "", text).replace(
        "ByClass", "int | list[int]"
    )


def foreign(kind: type) -> set[str]:
    """The names that a class has from Python's own classes."""
    bases = [base for base in kind.__mro__ if base.__module__.partition(".")[0] != "shmpool"]
    return {name for base in bases for name in dir(base)}


def attributes(kind: type) -> Iterator[tuple[str, str]]:
    """The public attributes of a class, with their types."""
    if issubclass(kind, BaseException):
        own = vars(kind).get("__annotations__", {})
        yield from ((name, spelled(own[name])) for name in own if name not in ("errno", "about"))
        return
    if is_dataclass(kind):
        yield from ((field.name, spelled(field.type)) for field in fields(kind))
    else:
        for base in reversed(kind.__mro__):
            declared = vars(base).get("__annotations__", {})
            yield from ((name, spelled(of)) for name, of in declared.items() if name[0] != "_")
    for name in sorted(set(dir(kind)) - foreign(kind)):
        if not name.startswith("_") and inspect.isdatadescriptor(
            inspect.getattr_static(kind, name)
        ):
            yield name, type_of(kind, name)


def methods(kind: type) -> list[str]:
    """The public methods of a class: of a client those that are no request, of a queue for
    multiprocessing those that Python's Queue does not have."""
    if is_dataclass(kind) or issubclass(kind, BaseException):
        return []
    theirs = foreign(kind)
    if kind.__module__ == "shmpool.mp.queues":
        theirs |= set(dir(multiprocessing.queues.Queue))
    return [
        name
        for name in sorted(set(dir(kind)) - theirs)
        if not name.startswith("_")
        and inspect.isroutine(item := inspect.getattr_static(kind, name))
        and type(item).__name__ != "Call"
    ]


def grouped(found: Iterator[tuple[str, str]]) -> str:
    """Attributes in their order; those that follow one another and are of one type share it."""
    groups = [(kind, [name for name, _ in some]) for kind, some in groupby(found, lambda x: x[1])]
    return "; ".join(f"{', '.join(names)}: {kind}" for kind, names in groups)


def sentence(item: Any) -> str:
    """The first sentence of a docstring."""
    text = " ".join((inspect.getdoc(item) or "").partition("\n\n")[0].split())
    return re.split(r"(?<=\w)\.(?: |$)", text)[0] + "."


def filled(text: str, first: str, rest: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def entry(name: str) -> Iterator[str]:
    """What the overview says of one public name."""
    item = getattr(shmpool, name)
    if not inspect.isclass(item):
        if not inspect.isroutine(item):
            yield f"{name}  {' | '.join(map(repr, get_args(item)))}"
            return
        called = re.sub(r"'", "", str(inspect.signature(item)))
        yield from filled(f"{name}{spelled(called)}  {sentence(item)}", "", "    ")
        return
    found, calls = grouped(attributes(item)), methods(item)
    if not calls:
        yield from filled(f"{sentence(item)} {found}", f"{name}  ", "    ")
        return
    yield from filled(sentence(item), f"{name}  ", "    ")
    if found:
        yield from filled(found, "    ", "        ")
    yield from filled(", ".join(f"{call}()" for call in calls), "    ", "        ")


def overview() -> str:
    """The overview, without what stands above it."""
    listed = {name for names in PARTS.values() for name in names}
    lines = [FIRST]
    for title, names in PARTS.items():
        lines += [f"{title}:"]
        for name in names or sorted(set(shmpool.__all__) - listed):
            lines += entry(name)
        lines.append("")
    return "\n".join(lines)


def written(text: str) -> str:
    """The source of the package with the overview of now."""
    before, _, rest = text.partition(FIRST)
    return f'{before}{overview().rstrip()}\n"""{rest.partition(chr(34) * 3)[2]}'


if __name__ == "__main__":
    FILE.write_text(written(FILE.read_text()))
