# SPDX-License-Identifier: Apache-2.0
"""shmpool prune."""

import click

from ..names import LINE_SHOWN, printable
from ..rpc.protocol import Prune
from .access import Asker, from_whom
from .output import command_of, json_option, print_json, working

HELP = """Removes every abandoned pool that no process has open, with what is in its queues, and
prints the names.

Abandoned is a pool whose creator died without closing or unlinking it. Why each other pool stays
goes to stderr."""


@command_of(Prune, "shmpool prune --age 86400", help_text=HELP)
@click.option(
    "--age",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Also pools that were left on purpose and that nobody has used for so long.",
)
@json_option
@from_whom
def command(ask: Asker, age: float | None, as_json: bool) -> None:
    with working("looking for abandoned pools"):
        done = ask.call(Prune(age))
    if as_json:
        print_json(done)
        return
    for name in done.removed:
        click.echo(name)
    for name, why in done.left.items():
        click.echo(f"shmpool: {printable(name)} stays: {printable(why, LINE_SHOWN)}", err=True)
