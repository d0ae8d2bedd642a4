# SPDX-License-Identifier: Apache-2.0
"""shmpool completion."""

import click
from click.shell_completion import get_completion_class


@click.command(name="completion", epilog='Example: eval "$(shmpool completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Prints a script for the shell to complete subcommands, options and names of pools."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101
    group = ctx.find_root().command
    click.echo(kind(group, {}, "shmpool", "_SHMPOOL_COMPLETE").source())
