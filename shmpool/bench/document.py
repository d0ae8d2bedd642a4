# SPDX-License-Identifier: Apache-2.0
"""Results as a Markdown page with its plots, and as one self-contained HTML page."""

import html
import sys
from pathlib import Path

from . import plots
from .conclusions import conclusions
from .contestants import TRANSPORTS
from .result import Result
from .tables import Lines, Table, tables

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

Contestants take turns, run by run. Every queue holds as many messages as fit into 4 MiB, 4 to 1024,
or what the system allows a socket. A process that finds no room or no message, and has no call that
waits, yields the processor (sched_yield). "Cache line" is the time that a cache line takes from one
core to the other, measured before and after the runs of each cell: compare only figures that were
measured with like times. "Background load" is the share of the cores that other programs used
at that time.
"""
STYLE = """\
body { font: 15px/1.5 sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: 12px; display: block; overflow-x: auto }
td, th { border: 1px solid #ccc; padding: .2rem .5rem; vertical-align: top; text-align: left }
svg { max-width: 100%; height: auto }
"""


def write(result: Result, folder: Path) -> list[Path]:
    """Writes benchmarks.md and benchmarks.html, and into benchmarks/ the results and the plots.
    Returns the paths."""
    images = plots.plots(result)
    pictures = folder / NAME
    pictures.mkdir(parents=True, exist_ok=True)
    for old in pictures.glob("*.svg"):
        old.unlink()
    written = [pictures / "results.json"]
    result.write(written[0])
    for name, svg in images.items():
        written.append(pictures / f"{name}.svg")
        written[-1].write_text(svg.rstrip("\n") + "\n")
    text = markdown(result, list(images))
    written.append(folder / f"{NAME}.md")
    written[-1].write_text(text)
    written.append(folder / f"{NAME}.html")
    written[-1].write_text(page(text, images))
    return written


def markdown(result: Result, images: list[str]) -> str:
    parts = [INTRODUCTION, "\n", _run(result)]
    parts.append("\n## What it shows\n\n")
    parts += [f"- {sentence}\n" for sentence in conclusions(result)]
    parts.append(_contestants())
    if images:
        parts.append("\n## Plots\n")
        parts += [f"\n![{name}]({NAME}/{name}.svg)\n" for name in images]
    for table in tables(result):
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
        f"- {options['runs']} runs of {options['window_s']} s, "
        + ("pinned" if options["pin"] else "pinned for latency only")
        + f", on cores {', '.join(map(str, options['cores']))}",
        f"- contestants: {versions}",
        *(f"- missing: {library}: {why}" for library, why in result.missing.items()),
    ]
    return "## The run\n\n" + "\n".join(lines) + "\n"


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
