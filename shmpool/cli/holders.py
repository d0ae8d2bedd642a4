# SPDX-License-Identifier: Apache-2.0
"""shmpool holders."""

from ..rpc.protocol import GetHolders
from ..stats import Holder
from .access import query
from .output import print_table


def show(holders: list[Holder]) -> None:
    print_table(
        ("member", "process", "thread", "state", "buffers", "oldest s"),
        [(str(h.member), str(h.pid), str(h.tid), h.state, h.buffers, h.oldest_s) for h in holders],
    )


command = query(GetHolders, "shmpool holders rx --json", show, "counting the buffers of {pool}")
