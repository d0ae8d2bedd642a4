# SPDX-License-Identifier: Apache-2.0
"""shmpool rm."""

import click

from .. import errors
from ..rpc.protocol import Destroy
from .access import Asker, from_whom, pool_argument
from .output import command_of


@command_of(Destroy, "shmpool rm rx", name="rm")
@pool_argument
@click.option("--force", "-f", is_flag=True, help="Succeed even if there is no such pool.")
@from_whom
def command(ask: Asker, pool: str, force: bool) -> None:
    try:
        ask.call(Destroy(pool))
    except errors.PoolNotFound:
        if not force:
            raise
