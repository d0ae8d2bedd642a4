# SPDX-License-Identifier: Apache-2.0
"""shmpool daemon."""

import sys
from pathlib import Path

import click

from .. import __version__
from . import needs_extra


@click.command(
    name="daemon",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: shmpool daemon --config shmpool.toml --http 127.0.0.1:9464",
)
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file: see docs/config.md.")
@click.option("--socket", help="Where to listen. [$SHMPOOL_SOCKET, or in $XDG_RUNTIME_DIR/shmpool]")
@click.option("--http", metavar="HOST:PORT", help="Serve metrics and the live page there.")
@click.option("--check", is_flag=True, help="Only say whether the configuration can be used.")
def command(config: Path | None, socket: str | None, http: str | None, check: bool) -> None:
    """Runs the daemon in the foreground, until SIGTERM. SIGHUP reads the configuration again.

    It makes the pools that the configuration declares, adopts those that are there, and watches
    over them. Workers do not need it: they go on when it is not there.
    """
    try:
        from .. import daemon
    except ModuleNotFoundError as error:
        needs_extra(error, "daemon")
    given = {"socket": socket, "http": http}
    overrides = {name: value for name, value in given.items() if value is not None}
    sys.exit(daemon.run(config, overrides, __version__, only_check=check))
