# SPDX-License-Identifier: Apache-2.0
"""shmpool members."""

from ..rpc.protocol import GetMembers
from .access import Backend, pool_argument, with_backend
from .output import command_of, json_option, print_json, print_table


@command_of(GetMembers, "shmpool members rx")
@pool_argument
@json_option
@with_backend
def command(backend: Backend, pool: str, as_json: bool) -> None:
    members = backend.call(GetMembers(pool))
    if as_json:
        print_json(members)
        return
    print_table(
        ("member", "process", "thread", "held", "cached", "doing", "alloc", "free"),
        [
            (str(m.number), str(m.pid), str(m.tid), m.held, m.cached, m.operation,
             m.counters["alloc"], m.counters["free"])
            for m in members
        ],
    )  # fmt: skip
