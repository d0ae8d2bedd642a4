# SPDX-License-Identifier: Apache-2.0
"""A hook of mkdocs: pages of the site that are made from what stands elsewhere.

The home page is the README. Architecture, contributing and changes are files of the repository's
root. The reference is made from docstrings, those of the C types included. `make site` builds it.
"""

import inspect
import re
import sys
from pathlib import Path
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
# The order of the reference; what is not named follows by name.
FIRST = ("Pool", "AlfQueue", "Buffer", "Burst", "Topic", "Subscriber", "Sample", "Samples")


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
    text = inspect.getdoc(item) or ""
    signature = re.sub(r"'", "", shown(name.rpartition(".")[2], item))
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


def reference() -> str:
    """The page of the reference."""
    import shmpool

    names = [*FIRST, *sorted(set(shmpool.__all__) - set(FIRST))]
    lines = ["# API", "", "Written from the docstrings: `help(shmpool.Pool)` shows the same.", ""]
    for name in names:
        item = getattr(shmpool, name)
        lines += documented(name, item, 2)
        if inspect.isclass(item) and not issubclass(item, BaseException):
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
