# SPDX-License-Identifier: Apache-2.0
"""shmpool recover."""

from dataclasses import asdict

from ..rpc.protocol import Recover
from .access import Backend, pool_argument, with_backend
from .output import command_of, json_option, print_json, print_table, working


@command_of(Recover, "shmpool recover rx")
@pool_argument
@json_option
@with_backend
def command(backend: Backend, pool: str, as_json: bool) -> None:
    with working(f"recovering {pool}"):
        recovery = backend.call(Recover(pool))
    if as_json:
        print_json(recovery)
        return
    found = {name.replace("_", " "): count for name, count in asdict(recovery).items()}
    print_table(list(found), [list(found.values())])
