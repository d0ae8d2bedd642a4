# SPDX-License-Identifier: Apache-2.0
"""shmpool rm."""

import click

from .. import errors
from ..rpc.protocol import Destroy
from .access import Backend, pool_argument, with_backend
from .output import command_of


@command_of(Destroy, "shmpool rm rx", name="rm")
@pool_argument
@click.option("--force", "-f", is_flag=True, help="Succeed even if there is no such pool.")
@with_backend
def command(backend: Backend, pool: str, force: bool) -> None:
    try:
        backend.call(Destroy(pool))
    except errors.PoolNotFound:
        if not force:
            raise
