# SPDX-License-Identifier: Apache-2.0
"""shmpool demo."""

import subprocess
import sys

import click

from .packaged import packaged


@click.command(name="demo", epilog="Example: shmpool demo")
@click.option("--source", is_flag=True, help="Print the program and do not run it.")
def command(source: bool) -> None:
    """Prints and runs a dozen lines: a worker is killed, and its message is delivered again."""
    program = packaged("example.py")
    click.echo(program, nl=False)
    if not source:
        click.echo("prints")
        sys.exit(subprocess.run([sys.executable, "-c", program], check=False).returncode)
