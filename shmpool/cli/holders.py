# SPDX-License-Identifier: Apache-2.0
"""shmpool holders."""

from ..rpc.protocol import GetHolders
from ..stats import Holder
from .access import query
from .output import print_table


def show(holders: list[Holder]) -> None:
    print_table(
        ("member", "process", "thread", "state", "buffers", "oldest s"),
        [
            (str(h.member), str(h.pid), str(h.tid), h.state, h.buffers, h.oldest_s)
            for h in holders
            if h.topic is None
        ],
    )
    if subscribers := [h for h in holders if h.topic is not None]:
        print_table(
            ("topic", "subscriber", "process", "state", "messages"),
            [(h.topic, str(h.member), str(h.pid), h.state, h.buffers) for h in subscribers],
        )


command = query(GetHolders, "shmpool holders rx --json", show, "counting the buffers of {pool}")
