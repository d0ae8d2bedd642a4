# SPDX-License-Identifier: Apache-2.0
"""Results on the terminal."""

from rich import table as rich_table
from rich.console import Console
from rich.text import Text

from .conclusions import conclusions
from .result import Result
from .tables import Table, tables

WIDTH = 132  # columns for the widest tables, if the output is not a terminal


def show(result: Result) -> None:
    show_tables(tables(result))
    console = Console()
    for sentence in conclusions(result):
        console.print(Text(f"- {sentence}"))
    console.print(", ".join(f"{what}: {value}" for what, value in result.machine.items()))
    for library, why in result.missing.items():
        console.print(f"missing: {library}: {why}")
    if not result.complete:
        console.print("interrupted: these are the cells that were measured")


def show_tables(found: list[Table]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    for table in found:
        console.print(_table(table))


def _table(table: Table) -> rich_table.Table:
    shown = rich_table.Table(title=table.title, title_justify="left", caption=table.note or None)
    for i, heading in enumerate(table.header):
        shown.add_column(Text(heading), justify="right" if i else "left")
    for row in table.rows:
        shown.add_row(*(Text("\n".join(filter(None, lines))) for lines in row), end_section=True)
    return shown
