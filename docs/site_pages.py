# SPDX-License-Identifier: Apache-2.0
"""A hook of mkdocs: pages of the site that are made from what stands elsewhere.

The home page is the README. Architecture, contributing and changes are files of the repository's
root. The reference is made from docstrings, those of the C types included. `make site` builds it.
"""

import inspect
import re
import sys
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.structure.files import File, Files

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))
COPIED = {
    "index.md": "README.md",
    "architecture.md": "ARCHITECTURE.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
# The modules of the reference, and what comes first in each; the rest follows by name.
MODULES = {
    "shmpool": ("Pool", "AlfQueue", "Buffer", "Burst", "Topic", "Subscriber", "Sample", "Samples"),
    "shmpool.net": ("PacketSource", "PacketSink", "UdpSocket", "TapDevice", "CaptureSource"),
    "shmpool.net.headers": ("Headers", "Checksums"),
}


def from_root(text: str) -> str:
    """A page of the root as it stands in docs/: its links are relative to that folder."""
    for name, source in COPIED.items():
        text = text.replace(f"]({source})", f"]({name})")
    text = text.replace("](docs/decisions/)", "](decisions/0001-headers-apart.md)")
    text = text.replace("](LICENSE)", "](https://www.apache.org/licenses/LICENSE-2.0)")
    return text.replace("](docs/", "](")


def shown(name: str, item: Any) -> str:
    """The name with its parameters, as far as they are known."""
    try:
        return f"{name}{inspect.signature(item)}"
    except (TypeError, ValueError):
        return f"{name}(...)" if callable(item) else name


def documented(name: str, item: Any, level: int) -> list[str]:
    if isinstance(item, (int, str)):  # its docstring would be that of the type
        return [f"{'#' * level} {name}", "", f"`{item!r}`", ""]
    text = inspect.getdoc(item) or ""
    signature = re.sub(r"'|\b(?:hints|typing)\.", "", shown(name.rpartition(".")[2], item))
    lines = [f"{'#' * level} {name}", ""]
    if callable(item):
        lines += ["```python", signature, "```", ""]
    return [*lines, "```text", text, "```", ""] if text else lines


def members(kind: type) -> list[tuple[str, Any]]:
    """The public methods and attributes that have docstrings, inherited ones included."""
    found = []
    for name in sorted(dir(kind)):
        item = inspect.getattr_static(kind, name)
        if name.startswith("_") or not inspect.getdoc(item):
            continue
        if isinstance(item, (classmethod, staticmethod)):
            item = getattr(kind, name)
        found.append((name, item))
    return found


def public(module: ModuleType) -> list[str]:
    """The names that a module shows: __all__, or the classes and functions that it defines."""
    names = getattr(module, "__all__", None)
    if names is None:
        own = (inspect.isclass, inspect.isfunction)
        names = [
            name
            for name, item in vars(module).items()
            if any(is_kind(item) for is_kind in own)
            and item.__module__ == module.__name__
            and not name.startswith("_")
        ]
    return list(names)


def reference() -> str:
    """The page of the reference."""
    lines = ["# API", "", "Written from the docstrings: `help(shmpool.Pool)` shows the same.", ""]
    for module_name, first in MODULES.items():
        module = import_module(module_name)
        if module_name != "shmpool":
            lines += [f"## {module_name}", "", "```text", inspect.getdoc(module) or "", "```", ""]
        for name in (*first, *sorted(set(public(module)) - set(first))):
            item = getattr(module, name)
            lines += documented(name, item, 2 if module_name == "shmpool" else 3)
            if inspect.isclass(item) and not issubclass(item, (BaseException, Enum)):
                for member, value in members(item):
                    lines += documented(f"{name}.{member}", value, 3)
    return "\n".join(lines)


def on_config(config: Any) -> Any:
    """Lists the decisions in the navigation. mkdocs calls it."""
    pages = sorted((DOCS / "decisions").glob("*.md"))
    titles = [page.read_text().partition("\n")[0].lstrip("# ") for page in pages]
    listed = [{title: f"decisions/{page.name}"} for title, page in zip(titles, pages, strict=True)]
    for section in config.nav:
        for entry in next(iter(section.values())):
            if isinstance(entry, dict) and entry.get("Decisions") == "decisions":
                entry["Decisions"] = listed
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages. mkdocs calls it."""
    for name, source in COPIED.items():
        text = from_root((ROOT / source).read_text())
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, "api.md", content=reference()))
    return files
