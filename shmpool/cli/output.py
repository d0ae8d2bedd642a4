# SPDX-License-Identifier: Apache-2.0
"""What a subcommand prints: a table to stdout, its progress and the next step to stderr."""

import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..names import LINE_SHOWN, printable
from ..rpc.records import LinkStats
from ..view import TopicStats

WIDTH = 160  # columns of a table that is not printed to a terminal, unless COLUMNS is set
TEXT_WIDTH = 16  # columns that are enough for a text, which is wrapped
RICH_ROWS_MAX = 500  # rich takes half a millisecond for a row
# Words of a column of states, which are not only told apart by their colour.
STATES = {
    "ok": "green", "alive": "green",
    "note": "yellow", "stopped": "yellow", "closing": "yellow", "unknown": "yellow",
    "bad": "bold red", "dead": "bold red",
}  # fmt: skip
F = TypeVar("F", bound=Callable[..., Any])


def _in_words(least: float | None, most: float | None) -> str:
    """The limits of a range, which click itself shows as x>=1."""
    return f"from {least} on" if most is None else f"from {least} to {most}"


class IntRange(click.IntRange):
    """click's IntRange with its limits in words. min must be given."""

    def _describe_range(self) -> str:
        return _in_words(self.min, self.max)


class FloatRange(click.FloatRange):
    """click's FloatRange with its limits in words. min must be given."""

    def _describe_range(self) -> str:
        return _in_words(self.min, self.max)


def command_of(
    request: Any, example: str, name: str | None = None, help_text: str | None = None
) -> Callable[..., Any]:
    """Makes a click command. Without help_text, its help is the first paragraph of the request's
    docstring."""
    text = help_text or (inspect.getdoc(request) or "").partition("\n\n")[0].replace("`", "")
    return click.command(name=name or request.method, help=text, epilog=f"Example: {example}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows under their titles, numbers aligned to the right."""
    if len(rows) > RICH_ROWS_MAX:
        print_plain([columns, *([text(value) for value in row] for row in rows)])
        return
    console = Console()
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        console.width = WIDTH
    titles = [text(title) for title in columns]
    cells = [
        [_cell(title, value) for title, value in zip(titles, row, strict=True)] for row in rows
    ]
    numeric = [
        bool(rows) and all(isinstance(row[i], (int, float)) for row in rows)
        for i in range(len(columns))
    ]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    fixed = [whole or i == 0 for i, whole in enumerate(numeric)]
    least = [w if f else min(w, TEXT_WIDTH) for w, f in zip(widths, fixed, strict=True)]
    if sum(least) + len(least) > console.width:
        if not rows:
            console.print(Text("  ".join(titles), "bold"))
        _print_narrow(console, titles, cells)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, title in enumerate(titles):
        side: Literal["left", "right"] = "right" if numeric[i] else "left"
        table.add_column(Text(title), justify=side, no_wrap=fixed[i], overflow="fold")
    for row_cells in cells:
        table.add_row(*row_cells)
    console.print(table)


def _cell(title: str, value: object) -> Text:
    """A value as a Text, which is not read as markup."""
    shown = text(value)
    return Text(shown, STATES.get(shown, "") if title in ("", "state") else "")


def _print_narrow(console: Console, titles: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
    """Prints each row as lines of a title and a value, for a table that is wider than the terminal.
    The first value stands above them."""
    for row in rows:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for title, cell in list(zip(titles, row, strict=True))[1:]:
            if cell.plain:
                table.add_row(Text(f"  {title}"), cell)
        console.print(Text(row[0].plain, "bold"), soft_wrap=True)
        console.print(table)


def hint(words: str) -> None:
    """Says on stderr what to do next, to a user at a terminal."""
    if sys.stdout.isatty() and sys.stderr.isatty():
        click.echo(f"shmpool: {printable(words, LINE_SHOWN)}", err=True)


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
            ("link", "to", "state", "packets", "packets/s", "unacknowledged", "lag", "reconnects",
             "doubled", "redelivered", "why"),
            [
                (x.name, x.target, x.state, x.packets, x.rate, f"{x.unacknowledged}/{x.window}",
                 x.lag, x.reconnects, x.doubled, x.redelivered, x.why)
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
