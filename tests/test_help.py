# SPDX-License-Identifier: Apache-2.0
"""What help() shows: of the package an overview, of a class its attributes and methods."""

import os
import pydoc
import re
import runpy
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import shmpool

ROOT = Path(__file__).resolve().parent.parent
LINES_MOST = 250  # five screens


def text_of(thing: object) -> str:
    """What help() prints."""
    return pydoc.plain(pydoc.render_doc(thing))


def attributes_of(name: str) -> set[str]:
    """The public attributes and methods of a public class: what help() of the package names."""
    kind = getattr(shmpool, name)
    if is_dataclass(kind):
        found = {one.name for one in fields(kind)}
        return found | {key for key, one in vars(kind).items() if isinstance(one, property)}
    foreign = (
        BaseException,
        OSError,
        list,
        shmpool.mp.Queue,
        shmpool.mp.SimpleQueue,
        shmpool.mp.Context,
    )
    if not isinstance(kind, type) or kind is shmpool.ProcessPoolExecutor:
        return set()
    theirs = {key for base in foreign if issubclass(kind, base) for key in dir(base)}
    return {key for key in dir(kind) if not key.startswith("_")} - theirs


def entry(text: str, name: str) -> set[str]:
    """The words of what a text says of a name: of its line, and of those behind that are indented
    more."""
    found = re.search(rf"^( *){name}(?:  |\().*\n(?:\1 +.*\n)*", text, re.MULTILINE)
    return set(re.findall(r"\w+", found[0])) if found else set()


def test_the_overview_is_up_to_date() -> None:
    """The docstring of the package is what docs/overview.py would write now."""
    script = runpy.run_path(str(ROOT / "docs" / "overview.py"))
    text = (ROOT / "shmpool" / "__init__.py").read_text()
    assert script["written"](text) == text, "run: python docs/overview.py"


def test_help_of_the_package() -> None:
    """It has each public name with its attributes, their types and its methods, and is short."""
    text = text_of(shmpool)
    assert text.count("\n") < LINES_MOST
    assert set() == set(re.findall(r"^[A-Z]{3,}", text, re.MULTILINE)) - {
        "NAME", "DESCRIPTION", "PACKAGE", "VERSION", "FILE",
    }  # fmt: skip
    for name in shmpool.__all__:
        words = entry(text, name)
        assert name in words
        wanted = attributes_of(name) - {"errno"}
        if name in ("Client", "AsyncClient"):  # their other methods are the daemon's requests
            wanted &= {"call", "close", "pool", "watch"}
        assert set() == wanted - words, name
    for shown in (
        "Pool  Fixed-size buffers in POSIX shared memory",
        "name: str; readonly: bool; geometry: Geometry",
        "Pong  The daemon runs. pid: int; uptime_s: float",
        "prune(*, age: float | None = None) -> list[str]  Removes every abandoned pool",
        "Side  'single' | 'multi'",
    ):
        assert shown in text


def test_help_of_a_class() -> None:
    """It has each attribute, also one that is only annotated."""
    script = runpy.run_path(str(ROOT / "docs" / "overview.py"))
    for kind in (getattr(shmpool, name) for name in shmpool.__all__):
        if isinstance(kind, type):
            text = re.sub(r"(?m)^.*__annotations__ = .*$", "", text_of(kind))
            wanted = {name for name, _ in script["attributes"](kind)}
            assert set() == wanted - set(re.findall(r"\w+", text)), kind


def test_only_pydoc_gets_the_short_form() -> None:
    """dir() and inspect.getmembers() have every public name; `python -m pydoc` prints what help()
    does."""
    import inspect

    assert set(shmpool.__all__) <= set(dir(shmpool))
    assert set(shmpool.__all__) <= {name for name, _ in inspect.getmembers(shmpool)}
    done = subprocess.run(
        [sys.executable, "-m", "pydoc", "shmpool"],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PAGER": "cat"},
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    assert done.stdout.count("\n") < LINES_MOST
    assert "AlfQueue  A lock-free FIFO" in done.stdout
