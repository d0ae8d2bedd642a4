# SPDX-License-Identifier: Apache-2.0
"""shmpool rm."""

from dataclasses import dataclass

import click

from .. import errors
from ..rpc.protocol import Destroy
from .access import Backend, pool_argument, with_backend
from .json_output import json_option, print_json
from .output import command_of


@dataclass(frozen=True)
class Removed:
    """What rm did."""

    pool: str
    removed: bool  # false with --force if there was no such pool


@command_of(Destroy, "shmpool rm rx", name="rm")
@pool_argument
@click.option("--force", "-f", is_flag=True, help="Succeed even if there is no such pool.")
@json_option(Removed)
@with_backend
def command(backend: Backend, pool: str, force: bool, as_json: bool) -> None:
    removed = True
    try:
        backend.call(Destroy(pool))
    except errors.PoolNotFound:
        if not force:
            raise
        removed = False
    if as_json:
        print_json(Removed(pool, removed))
