# SPDX-License-Identifier: Apache-2.0
"""Results of one or several machines as a Markdown page with its plots, and as one self-contained
HTML page.
"""

import html
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import plots
from .conclusions import conclusions
from .contestants import TRANSPORTS
from .cores import ranges
from .result import Result
from .tables import Lines, Table, machines, tables

NAME = "benchmarks"
INTRODUCTION = """\
# Benchmarks

How shmpool compares with other transports for messages between Python processes, measured by the
benchmark that comes with it (`shmpool bench`, extra `shmpool[bench]`). The benchmark generates this
page.

Every message is different. The producer writes all of it. The consumer checks its length, its
number, its first and its last byte; lost, repeated, damaged and reordered messages are counted.
That costs the same for every contestant, and little: producers make up to 64 small messages (up to
512 bytes) at a time and then send each; consumers check up to 256 at a time, but of slow transports
no more than arrive within a millisecond, and always before they wait. In fault tests each message
is made, counted and checked by itself. All processes keep the memory that they free; otherwise
large batches would mostly measure how malloc returns it to the kernel.

Contestants take turns, run by run. Every queue, and every lane of one, holds as many messages as
fit into 4 MiB, 4 to 1024, or what the system allows a socket. A process that finds no room or no
message, and has no call that waits, yields the processor (sched_yield). "Cache line" is the time
that a cache line takes from the first core to the second, measured before and after the runs of
each cell: compare only figures that were measured with like times. "Background load" is the share
of the cores that other programs used at that time. Figures of several machines stand side by side;
a ratio is of one machine and one run.
"""
STYLE = """\
body { font: 15px/1.5 sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: 12px; display: block; overflow-x: auto }
td, th { border: 1px solid #ccc; padding: .2rem .5rem; vertical-align: top; text-align: left }
svg { max-width: 100%; height: auto }
"""


def write(result: Result, folder: Path) -> list[Path]:
    """Writes the results into benchmarks/, in a file of their machine, and of all machines' files
    there the plots, benchmarks.md and benchmarks.html. Returns the paths."""
    pictures = folder / NAME
    pictures.mkdir(parents=True, exist_ok=True)
    written = [pictures / f"{result.file_name}.json"]
    result.write(written[0])
    results = read_all(pictures)
    images = plots.plots(*results)
    for old in pictures.glob("*.svg"):
        old.unlink()
    for name, svg in images.items():
        written.append(pictures / f"{name}.svg")
        written[-1].write_text(svg.rstrip("\n") + "\n")
    text = markdown(results, list(images))
    written.append(folder / f"{NAME}.md")
    written[-1].write_text(text)
    written.append(folder / f"{NAME}.html")
    written[-1].write_text(page(text, images))
    return written


def read_all(pictures: Path) -> list[Result]:
    """The results of every machine there. Raises ValueError."""
    return [Result.read(path) for path in sorted(pictures.glob("*.json"))]


def markdown(results: Sequence[Result], images: list[str]) -> str:
    parts = [INTRODUCTION, "\n## The machines\n\n", _table(machines(results))]
    parts += [_run(result) for result in results]
    parts.append("\n## What it shows\n")
    for result in results:
        parts.append(f"\nOn the {result.name}:\n\n" if len(results) > 1 else "\n")
        parts += [f"- {sentence}\n" for sentence in conclusions(result)]
    parts.append(_contestants())
    if images:
        parts.append("\n## Plots\n")
        parts += [f"\n![{name}]({NAME}/{name}.svg)\n" for name in images]
    for table in tables(*results):
        parts.append(f"\n## {table.title}\n\n")
        parts.append(_table(table))
        if table.note:
            parts.append(f"\n{table.note}\n")
    return "".join(parts)


def _run(result: Result) -> str:
    versions = ", ".join(f"{name} {version}".strip() for name, version in result.versions.items())
    options = result.options
    lines = [
        f"- started {result.started}{'' if result.complete else ', interrupted'}",
        *(f"- {what}: {value}" for what, value in result.machine.items()),
        f"- {options['runs']} runs of {options['window_s']} s, {_placement(options)}",
        f"- contestants: {versions}",
        *(f"- missing: {library}: {why}" for library, why in result.missing.items()),
    ]
    return f"\n### {result.name}\n\n" + "\n".join(lines) + "\n"


def _placement(options: dict[str, Any]) -> str:
    """Which cores there were, and which of them the processes got."""
    text = f"on cores {ranges(options['cores'])}"
    if why := options.get("cores_why"):
        text += f" ({why})"
    if options["pin"]:
        return f"{text}, pinned in turns"
    if why:
        return f"{text}; each process has cores of its own while there are enough"
    return f"{text}, pinned for latency only"


def _contestants() -> str:
    """The docstrings of the adapters' modules."""
    modules = dict.fromkeys(transport.__module__ for transport in TRANSPORTS)
    texts = [" ".join((sys.modules[name].__doc__ or "").split()) for name in modules]
    lines = [f"- {html.escape(text, quote=False)}\n" for text in texts]
    return "\n## The contestants\n\n" + "".join(lines)


def _table(table: Table) -> str:
    lines = [table.header, ["---", *["---:"] * (len(table.header) - 1)]]
    lines += [[_field(field) for field in row] for row in table.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _field(lines: Lines) -> str:
    return "<br>".join(html.escape(line, quote=False).replace("|", "\\|") for line in lines if line)


def page(text: str, images: dict[str, str]) -> str:
    """The Markdown text as HTML, with the plots inside."""
    from markdown_it import MarkdownIt

    body = str(MarkdownIt("commonmark").enable("table").render(text))
    for name, svg in images.items():
        body = body.replace(f'<img src="{NAME}/{name}.svg" alt="{name}" />', svg)
    head = f'<meta charset="utf-8"><title>Benchmarks of shmpool</title><style>\n{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}</body></html>\n'
