# SPDX-License-Identifier: Apache-2.0
"""What a subcommand prints: a table or JSON to stdout, and its progress to stderr."""

import contextlib
import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..names import LINE_SHOWN, printable
from ..rpc import wire
from ..rpc.records import LinkStats
from ..view import TopicStats

WIDTH = 160  # columns of a table that is not printed to a terminal
RICH_ROWS_MAX = 500  # rich takes half a millisecond for a row


def _in_words(least: float | None, most: float | None) -> str:
    """The limits of a range, which click itself shows as x>=1."""
    return f"from {least}" if most is None else f"from {least} to {most}"


class IntRange(click.IntRange):
    """click's IntRange with its limits in words. min must be given."""

    def _describe_range(self) -> str:
        return _in_words(self.min, self.max)


class FloatRange(click.FloatRange):
    """click's FloatRange with its limits in words. min must be given."""

    def _describe_range(self) -> str:
        return _in_words(self.min, self.max)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def command_of(
    request: Any, example: str, name: str | None = None, help_text: str | None = None
) -> Callable[..., Any]:
    """Makes a click command. Without help_text, its help is the first paragraph of the request's
    docstring."""
    text = help_text or (inspect.getdoc(request) or "").partition("\n\n")[0].replace("`", "")
    return click.command(name=name or request.method, help=text, epilog=f"Example: {example}")


def print_json(answer: Any) -> None:
    click.echo(json.dumps(wire.to_wire(answer), indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows under their titles, numbers aligned to the right."""
    if len(rows) > RICH_ROWS_MAX:
        print_plain([columns, *([text(value) for value in row] for row in rows)])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, title in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], (int, float)) for row in rows)
        table.add_column(Text(text(title)), justify="right" if numeric else "left", no_wrap=i == 0)
    for row in rows:
        table.add_row(*(Text(text(value)) for value in row))  # a Text is not read as markup
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)


def print_topics(topics: Sequence[TopicStats]) -> None:
    """Prints topics, and a table of their subscribers, if there are some."""
    if topics:
        print_table(
            ("topic", "depth", "kept", "published", "waiting", "subscribers"),
            [(t.name, t.depth, t.kept, t.published, t.waiting, len(t.subscribers)) for t in topics],
        )
    if rows := [
        (t.name, str(s.number), str(s.pid), s.name, s.policy, s.lag, s.gaps, s.held, s.state)
        for t in topics
        for s in t.subscribers
    ]:
        print_table(
            ("topic", "subscriber", "process", "name", "policy", "lag", "gaps", "held", "state"),
            rows,
        )


def print_links(links: Sequence[LinkStats]) -> None:
    """Prints links, if there are some, and why one is not up."""
    if links:
        print_table(
            ("link", "to", "state", "packets", "unacknowledged", "lag", "reconnects", "doubled",
             "redelivered", "why"),
            [
                (x.name, x.target, x.state, x.packets, f"{x.unacknowledged}/{x.window}", x.lag,
                 x.reconnects, x.doubled, x.redelivered, x.why)
                for x in links
            ],
        )  # fmt: skip


def print_plain(rows: Sequence[Sequence[str]]) -> None:
    """Prints columns without rich: 100 times as quick."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return "" if value is None else printable(value, LINE_SHOWN)


def working(what: str) -> contextlib.AbstractContextManager[object]:
    """Shows on a terminal what is being done while the block runs; nothing for ""."""
    stderr = Console(stderr=True)
    if not what or not stderr.is_terminal:
        return contextlib.nullcontext()
    return stderr.status(Text(printable(what)))
