# SPDX-License-Identifier: Apache-2.0
"""shmpool config-example."""

import click

from .packaged import packaged


@click.command(name="config-example", epilog="Example: shmpool config-example > /etc/shmpool.toml")
def command() -> None:
    """Prints a configuration for the daemon, with remarks."""
    click.echo(packaged("shmpool.toml"), nl=False)
