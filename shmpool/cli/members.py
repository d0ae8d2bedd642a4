# SPDX-License-Identifier: Apache-2.0
"""shmpool members."""

from ..rpc.protocol import GetMembers
from ..stats import Member
from .access import query
from .output import print_table


def show(members: list[Member]) -> None:
    print_table(
        ("member", "process", "thread", "held", "cached", "doing", "alloc", "free"),
        [
            (str(m.number), str(m.pid), str(m.tid), m.held, m.cached, m.operation,
             m.counters["alloc"], m.counters["free"])
            for m in members
        ],
    )  # fmt: skip


command = query(GetMembers, "shmpool members rx", show)
