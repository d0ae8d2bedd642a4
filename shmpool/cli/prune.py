# SPDX-License-Identifier: Apache-2.0
"""shmpool prune."""

import click

from ..protocol import Prune
from .access import Asker, from_whom
from .output import command_of, json_option, print_json, working


@command_of(Prune, "shmpool prune")
@json_option
@from_whom
def command(ask: Asker, as_json: bool) -> None:
    with working("looking for abandoned segments"):
        names = ask.call(Prune())
    if as_json:
        print_json(names)
        return
    for name in names:
        click.echo(name)
