# SPDX-License-Identifier: Apache-2.0
"""shmpool holders."""

from ..rpc.protocol import GetHolders
from .access import Backend, pool_argument, with_backend
from .output import command_of, json_option, print_json, print_table, working


@command_of(GetHolders, "shmpool holders rx --json")
@pool_argument
@json_option
@with_backend
def command(backend: Backend, pool: str, as_json: bool) -> None:
    with working(f"counting the buffers of {pool}"):
        holders = backend.call(GetHolders(pool))
    if as_json:
        print_json(holders)
        return
    print_table(
        ("member", "process", "thread", "state", "buffers", "oldest s"),
        [(str(h.member), str(h.pid), str(h.tid), h.state, h.buffers, h.oldest_s) for h in holders],
    )
