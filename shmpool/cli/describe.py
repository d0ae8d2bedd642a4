# SPDX-License-Identifier: Apache-2.0
"""shmpool describe."""

from dataclasses import asdict

from ..os_errors import size_text
from ..rpc.protocol import Describe
from ..rpc.records import Description
from .access import query
from .output import print_table


def show(found: Description) -> None:
    file = found.file
    rows: list[tuple[str, object]] = list(asdict(found.geometry).items())
    rows += [
        ("file", file.path),
        ("size", size_text(file.size)),
        ("memory", size_text(file.reserved)),
        ("mode", f"{file.mode}, user {file.uid}, group {file.gid}"),
    ]
    print_table((found.pool, ""), rows)
    if found.queues:
        print_table(
            ("queue", "capacity", "producers", "consumers", "on death", "dead letters to",
             "refused", "dropped"),
            [
                (q.name, q.capacity, q.producers, q.consumers, q.on_death, q.dead_letter,
                 q.refused, q.dropped)
                for q in found.queues
            ],
        )  # fmt: skip


command = query(Describe, "shmpool describe rx", show)
