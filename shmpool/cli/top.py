# SPDX-License-Identifier: Apache-2.0
"""shmpool top."""

import sys

import click

from ..names import checked_name
from ..rpc.protocol import INTERVAL_MIN
from . import needs_extra
from .access import Backend, with_backend
from .output import FloatRange


@click.command(name="top", epilog="Example: shmpool top rx --interval 0.5")
@click.argument("pools", nargs=-1)
@click.option(
    "--interval", type=FloatRange(INTERVAL_MIN, 60), default=1.0, show_default=True,
    help="Seconds between two updates.",
)  # fmt: skip
@with_backend
def command(backend: Backend, pools: tuple[str, ...], interval: float) -> None:
    """Shows pools, queues, topics and members with their rates, live.

    Keys: q quits, p pauses, s sorts members.
    """
    try:
        from .screen import Top
    except ModuleNotFoundError as error:
        needs_extra(error, "cli")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("it needs a terminal: use shmpool stats or shmpool watch")
    shown = frozenset(checked_name(pool, "pool") for pool in pools)
    Top(backend, shown, interval).run()
