# SPDX-License-Identifier: Apache-2.0
"""shmpool systemd-unit."""

import sys
from pathlib import Path

import click

from .packaged import packaged

PACKAGED = "/usr/bin/shmpool"  # where the unit of packaging/ has the command


@click.command(
    name="systemd-unit",
    epilog="Example: shmpool systemd-unit > /etc/systemd/system/shmpool.service",
)
@click.option("--socket", is_flag=True, help="Print the unit of the socket.")
def command(socket: bool) -> None:
    """Prints the daemon's unit for systemd, which starts the command that prints it."""
    unit = packaged("shmpool.socket" if socket else "shmpool.service")
    called = Path(sys.argv[0])
    here = f"{called.resolve()}" if called.name == "shmpool" else f"{sys.executable} -m shmpool"
    click.echo(unit.replace(PACKAGED, here), nl=False)
