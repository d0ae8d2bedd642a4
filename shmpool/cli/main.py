# SPDX-License-Identifier: Apache-2.0
"""The group of subcommands. Errors become one line and an exit status here."""

import importlib
import io
import os
import sys
from typing import Any

import click

from .. import __version__, errors
from ..names import printable_lines

# The module of each subcommand, in the order of the help.
MODULES = {
    "daemon": "daemon",
    "ls": "ls",
    "create": "create",
    "rm": "rm",
    "describe": "describe",
    "stats": "stats",
    "watch": "watch",
    "top": "top",
    "members": "members",
    "holders": "holders",
    "audit": "audit",
    "recover": "recover",
    "letters": "letters",
    "trim": "trim",
    "prune": "prune",
    "doctor": "doctor",
    "bench": "bench",
    "completion": "completion",
}


class Subcommands(click.Group):
    """Imports a subcommand's module when it is needed, and turns our errors into lines."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(MODULES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in MODULES:
            return None
        module = importlib.import_module(f"shmpool.cli.{MODULES[name]}")
        command: click.Command = module.command
        return command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # what it cannot encode is escaped
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().main(*args, **kwargs)
        except errors.InvalidArgument as error:
            complain(error)
            sys.exit(2)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has gone
            sys.exit(1)
        except (errors.ShmpoolError, OSError) as error:
            complain(error)
            sys.exit(1)


def complain(error: Exception) -> None:
    """To stderr, each line with our name before it."""
    for line in printable_lines(error):
        click.echo(f"shmpool: {line}", err=True)


@click.group(
    cls=Subcommands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: shmpool create rx --buffer-size 2048 --capacity 65536 --queue work=4096",
)
@click.version_option(__version__)
def shmpool() -> None:
    """Pools of packet buffers in shared memory: create, inspect and recover them.

    Every command works with the daemon and without it: if no daemon answers at the socket, the
    command works on the pool itself.
    """
