# SPDX-License-Identifier: Apache-2.0
"""shmpool prune."""

import click

from ..protocol import Prune
from .access import Asker, from_whom
from .output import command_of, json_option, print_json, working


@command_of(Prune, "shmpool prune --age 86400")
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
        click.echo(f"shmpool: {name} stays: {why}", err=True)
