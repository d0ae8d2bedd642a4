# SPDX-License-Identifier: Apache-2.0
"""shmpool describe."""

from dataclasses import asdict

from ..os_errors import size_text
from ..rpc.protocol import Describe
from ..rpc.records import Description
from .access import Backend, pool_argument, with_backend
from .output import command_of, json_option, print_json, print_table


@command_of(Describe, "shmpool describe rx")
@pool_argument
@json_option
@with_backend
def command(backend: Backend, pool: str, as_json: bool) -> None:
    found = backend.call(Describe(pool))
    if as_json:
        print_json(found)
        return
    show(found)


def show(found: Description) -> None:
    """Prints a pool's description as tables."""
    file = found.file
    rows: list[tuple[str, object]] = list(asdict(found.geometry).items())
    rows += [
        ("file", file.path),
        ("size", size_text(file.size)),
        ("memory", size_text(file.reserved)),
    ]
    rows += [("mode", f"{file.mode}, user {file.uid}, group {file.gid}")]
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
