# SPDX-License-Identifier: Apache-2.0
"""The group of subcommands. Turns errors into a line on stderr and an exit status."""

import contextlib
import errno
import importlib
import io
import sys
from collections.abc import Iterator
from typing import Any

import click

from .. import __version__, errors
from ..names import printable_lines

# Each subcommand is the module of its name, with _ in place of -. This is the order of the help.
MODULES = (
    "daemon", "bridge", "ls", "create", "rm", "describe", "stats", "watch", "top", "members",
    "holders", "audit", "recover", "letters", "trim", "prune", "doctor", "bench", "completion",
    "demo", "config-example", "systemd-unit",
)  # fmt: skip


class Subcommands(click.Group):
    """Imports a subcommand's module when it is called. Prints exceptions of shmpool as lines."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(MODULES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in MODULES:
            return None
        module = importlib.import_module(f"shmpool.cli.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with printable_refusals():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with printable_refusals():
            return super().invoke(ctx)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # escape what it cannot encode
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().main(*args, **kwargs)
        except errors.InvalidArgument as error:
            complain(error)
            sys.exit(2)
        except errors.ShmpoolError as error:
            complain(error)
            sys.exit(1)
        except OSError as error:
            unwritten = error.filename is None and error.errno in (errno.ENOSPC, errno.EIO)
            complain(f"standard output: {error.strerror}" if unwritten else error)
            sys.exit(1)


@contextlib.contextmanager
def printable_refusals() -> Iterator[None]:
    """Makes messages of usage errors safe for a terminal.

    They repeat arguments, which the shell may have taken from the names of files.
    """
    try:
        yield
    except click.ClickException as error:
        text = "\n".join(printable_lines(error.format_message()))
        error.format_message = lambda: text  # type: ignore[method-assign]
        raise


def complain(error: Exception | str) -> None:
    """Prints the message to stderr, each line after "shmpool: "."""
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

    Commands on pools work with the daemon and without it: if no daemon answers at the socket, the
    command uses the pool itself.
    """
