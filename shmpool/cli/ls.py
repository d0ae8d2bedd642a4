# SPDX-License-Identifier: Apache-2.0
"""shmpool ls."""

from ..os_errors import size_text
from ..rpc.protocol import List
from . import next_steps
from .access import Backend, with_backend
from .json_output import json_option, print_json
from .output import command_of, hint, print_table


@command_of(List, "shmpool ls --json", name="ls")
@json_option(List.answer)
@with_backend
def command(backend: Backend, as_json: bool) -> None:
    pools = backend.call(List())
    if as_json:
        print_json(pools)
        return
    print_table(
        ("pool", "capacity", "created", "free", "cached", "held", "queued", "queues", "topics",
         "members", "memory", "daemon", "alarms"),
        [
            (pool.name, pool.capacity, pool.created, pool.free, pool.cached, pool.held,
             pool.queued, pool.queues, pool.topics, pool.members, size_text(pool.reserved),
             "watches" if pool.watched else "", pool.alarms)
            for pool in pools
            if pool.trouble is None
        ],
    )  # fmt: skip
    troubled = [(pool.name, pool.trouble) for pool in pools if pool.trouble is not None]
    if troubled:
        print_table(("pool", "cannot be used"), troubled)
    for step in next_steps.of_list(pools):
        hint(step)
