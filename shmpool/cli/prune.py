# SPDX-License-Identifier: Apache-2.0
"""shmpool prune."""

import click

from ..names import LINE_SHOWN, printable
from ..rpc.protocol import Prune
from .access import Backend, with_backend
from .json_output import json_option, print_json
from .output import FloatRange, command_of, working

HELP = """Removes every abandoned pool that no process has open, with what is in its queues, and
prints the names.

A pool is abandoned if its creator died without closing or unlinking it. The reason why each other
pool stays is printed to stderr."""


@command_of(Prune, "shmpool prune --age 86400", help_text=HELP)
@click.option(
    "--age",
    type=FloatRange(0),
    metavar="SECONDS",
    help="Also remove pools that were left on purpose and have not been used for this long.",
)
@json_option(Prune.answer)
@with_backend
def command(backend: Backend, age: float | None, as_json: bool) -> None:
    with working("searching for abandoned pools"):
        done = backend.call(Prune(age))
    if as_json:
        print_json(done)
        return
    for name in done.removed:
        click.echo(name)
    for name, why in done.left.items():
        click.echo(f"shmpool: {printable(name)} stays: {printable(why, LINE_SHOWN)}", err=True)
