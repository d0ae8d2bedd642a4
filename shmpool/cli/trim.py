# SPDX-License-Identifier: Apache-2.0
"""shmpool trim."""

from dataclasses import dataclass

import click

from ..os_errors import size_text
from ..rpc.protocol import Trim
from .access import Backend, pool_argument, with_backend
from .json_output import json_option, print_json
from .output import IntRange, command_of, working


@dataclass(frozen=True)
class Trimmed:
    """What a trim did."""

    bytes: int  # returned to the system


HELP = """Returns the memory of free buffers to the system, keeping --keep of them, and prints how
many bytes."""


@command_of(Trim, "shmpool trim rx --keep 4096", help_text=HELP)
@pool_argument
@click.option("--keep", type=IntRange(0), default=0, show_default=True,
              help="Free buffers that keep their memory.")  # fmt: skip
@json_option(Trimmed)
@with_backend
def command(backend: Backend, pool: str, keep: int, as_json: bool) -> None:
    with working(f"trimming {pool}"):
        freed = backend.call(Trim(pool, keep))
    if as_json:
        print_json(Trimmed(freed))
        return
    click.echo(f"{size_text(freed)} returned to the kernel")
