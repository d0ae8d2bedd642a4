# SPDX-License-Identifier: Apache-2.0
"""shmpool bridge."""

import sys
from pathlib import Path

import click

from .. import errors
from ..names import printable_lines
from ..rpc.protocol import default_socket
from . import needs_extra
from .json_output import Checked, json_option, print_json


@click.command(name="bridge", epilog="Example: shmpool bridge --config bridge.toml")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="TOML file with the links; docs/bridge.md describes it.",
)
@click.option("--socket", help="Path of the daemon's socket. [as for shmpool daemon]")
@click.option("--with-parent", type=int, hidden=True)  # ends with the daemon
@click.option("--check", is_flag=True, help="Check the configuration and exit.")
@json_option(Checked, about="With --check: print JSON.")
@click.option(
    "--make-keys",
    type=click.Path(path_type=Path),
    help="Write new CURVE keys into this file, print the public one, and exit.",
)
def command(
    config: Path | None,
    socket: str | None,
    with_parent: int | None,
    check: bool,
    as_json: bool,
    make_keys: Path | None,
) -> None:
    """Runs links to other machines in the foreground until SIGTERM or Ctrl-C.

    A link takes from a queue or topic here and sends, or receives and puts into one here. Its
    figures are shown by the daemon, if one runs.
    """
    if as_json and not check:
        raise click.UsageError("--json needs --check: the bridge itself prints a log")
    try:
        from ..bridge import process
        from ..service import config as configuration
        from ..service import logs

        if make_keys is not None:
            from ..bridge import keys

            click.echo(keys.make(make_keys))
            return
        if config is None:
            raise click.UsageError("--config is missing: the file with the [[link]] tables")
        try:
            loaded = configuration.load(config)
            if not loaded.link:
                raise errors.InvalidArgument(f"{str(config)!r} has no [[link]] table")
        except errors.InvalidArgument as error:
            if as_json:
                print_json(Checked(False, printable_lines(error)))
                sys.exit(2)
            raise
        if check:
            if as_json:
                print_json(Checked(True, []))
            return
        logs.to_stderr(loaded.daemon.log_level)
        where = socket or loaded.daemon.socket
        process.run(loaded.link, Path(where) if where else default_socket(), with_parent)
    except ModuleNotFoundError as error:
        needs_extra(error, "bridge")
