# SPDX-License-Identifier: Apache-2.0
"""shmpool config-example."""

import click

from .packaged import packaged

FILES = {
    "daemon": "shmpool.toml",
    "alerts": "alerts.yml",
    "grafana": "grafana.json",
    "compose": "compose.yaml",
    "kubernetes": "kubernetes.yaml",
}


@click.command(name="config-example", epilog="Example: shmpool config-example > /etc/shmpool.toml")
@click.argument("what", type=click.Choice(list(FILES)), default="daemon")
def command(what: str) -> None:
    """Prints a configuration with remarks: of the daemon, or alerts for Prometheus, a board for
    Grafana, two containers in Compose or Kubernetes that share a pool."""
    click.echo(packaged(FILES[what]), nl=False)
