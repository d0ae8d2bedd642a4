# SPDX-License-Identifier: Apache-2.0
"""shmpool prune."""

import click

from ..protocol import Prune
from .access import Asker, from_whom
from .output import command_of, json_option, print_json, working

HELP = """Removes every abandoned pool that no process has open, with what is in its queues, and
prints the names."""


@command_of(Prune, "shmpool prune", help_text=HELP)
@json_option
@from_whom
def command(ask: Asker, as_json: bool) -> None:
    with working("looking for abandoned pools"):
        names = ask.call(Prune())
    if as_json:
        print_json(names)
        return
    for name in names:
        click.echo(name)
