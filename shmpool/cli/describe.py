# SPDX-License-Identifier: Apache-2.0
"""shmpool describe."""

from dataclasses import asdict

from ..os_errors import size_text
from ..rpc.protocol import Describe
from ..rpc.records import Description
from .access import query
from .output import print_table, print_topics


def show(found: Description) -> None:
    file = found.file
    geometry = asdict(found.geometry)
    sizes = geometry.pop("sizes")
    if len(sizes) > 1:  # a table of their own
        geometry = {name: value for name, value in geometry.items() if name not in sizes[0]}
    rows: list[tuple[str, object]] = list(geometry.items())
    rows += [
        ("file", file.path),
        ("size", size_text(file.size)),
        ("memory", size_text(file.reserved)),
        ("mode", f"{file.mode}, user {file.uid}, group {file.gid}"),
    ]
    print_table((found.pool, ""), rows)
    if len(sizes) > 1:
        print_table(
            tuple(name.replace("_", " ") for name in sizes[0]),
            [tuple(size.values()) for size in sizes],
        )
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
    lanes = [(q.name, i, lane) for q in found.queues for i, lane in enumerate(q.lane_stats)]
    if lanes:
        print_table(
            ("queue", "lane", "depth", "capacity", "enqueued", "dequeued", "lost"),
            [(name, i, *asdict(lane).values()) for name, i, lane in lanes],
        )
    print_topics(found.topics)


command = query(Describe, "shmpool describe rx", show)
