# SPDX-License-Identifier: Apache-2.0
"""shmpool daemon."""

import contextlib
import io
import sys
from pathlib import Path

import click

from .. import __version__
from . import needs_extra
from .json_output import Checked, json_option, print_json


@click.command(
    name="daemon",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: shmpool daemon --config shmpool.toml --http 127.0.0.1:9464",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="TOML file to read; docs/config.md lists the options.",
)
@click.option(
    "--socket", help="Path of the socket. [$SHMPOOL_SOCKET, or in $XDG_RUNTIME_DIR/shmpool]"
)
@click.option(
    "--http", metavar="HOST:PORT", help="Serve metrics and the live page at this address."
)
@click.option(
    "--check",
    is_flag=True,
    help="Check the configuration and exit. The status is 0 if the daemon could start with it.",
)
@json_option(Checked, about="With --check: print JSON.")
def command(
    config: Path | None, socket: str | None, http: str | None, check: bool, as_json: bool
) -> None:
    """Runs the daemon in the foreground until SIGTERM. SIGHUP reloads the configuration.

    The daemon creates the pools that the configuration declares, watches existing ones, and
    recovers dead members. Workers do not need it.
    """
    if as_json and not check:
        raise click.UsageError("--json needs --check: the daemon itself prints a log")
    try:
        from ..service import daemon
    except ModuleNotFoundError as error:
        needs_extra(error, "daemon")
    given = {"socket": socket, "http": http}
    overrides = {name: value for name, value in given.items() if value is not None}
    if not as_json:
        sys.exit(daemon.run(config, overrides, __version__, only_check=check))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = daemon.run(config, overrides, __version__, only_check=True)
    lines = [line.removeprefix("shmpool: ") for line in said.getvalue().splitlines()]
    print_json(Checked(status == 0, lines))
    sys.exit(status)
