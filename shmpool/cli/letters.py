# SPDX-License-Identifier: Apache-2.0
"""shmpool letters."""

from dataclasses import dataclass
from typing import Any

import click

from .. import errors
from ..messages import Message
from ..rpc import wire
from ..rpc.protocol import Drain, GetStats, Peek, Redrive
from .access import Backend, pool_argument, with_backend
from .json_output import json_option, print_json
from .output import IntRange, print_table


@dataclass(frozen=True)
class Letter:
    """One buffer of a queue."""

    queue: str
    position: int  # how many buffers were put before it
    index: int  # the buffer's number in its pool
    length: int  # bytes in use
    payload: str  # in hexadecimal, as many bytes as asked for; of list, none
    redelivered: int  # how many times it was returned to a queue
    origin: str | None  # the queue from which it became a dead letter
    timestamp: int  # ns, on the application's clock
    mark: int
    flow_hash: int


@dataclass(frozen=True)
class Requeued:
    """What requeue did with a queue."""

    queue: str
    requeued: int  # buffers
    left: int  # that are still in it


@dataclass(frozen=True)
class Drained:
    """What drain did with a queue."""

    queue: str
    freed: int  # buffers
    left: int  # that are still in it


COUNT = 16  # buffers shown of each queue
ACTIONS = ("list", "peek", "requeue", "drain")
COLUMNS = ("queue", "position", "buffer", "from", "redelivered", "bytes", "timestamp")


@click.command(
    name="letters",
    epilog="Example: shmpool letters rx; shmpool letters rx peek --queue letters -n 3; "
    "shmpool letters rx requeue --reset; shmpool letters rx drain --queue letters",
)
@pool_argument
@click.argument("action", type=click.Choice(ACTIONS), default="list")
@click.option("--queue", help="Only this queue. Without it, every dead-letter queue of the pool.")
@click.option("-n", "count", type=IntRange(1),
              help="The oldest N of each queue. Without it, all; list and peek: 16.")  # fmt: skip
@click.option("--size", type=IntRange(0), default=64, show_default=True,
              help="peek: bytes shown of each.")  # fmt: skip
@click.option("--to", help="requeue: put all into this queue, not into the queue each came from.")
@click.option("--reset", is_flag=True, help="requeue: set redelivered to 0.")
@json_option(list[Letter], list[Requeued], list[Drained])
@with_backend
def command(
    backend: Backend,
    pool: str,
    action: str,
    queue: str | None,
    count: int | None,
    size: int,
    to: str | None,
    reset: bool,
    as_json: bool,
) -> None:
    """Shows the dead letters of a pool, requeues them, or frees them.

    list shows the oldest in each dead-letter queue, peek also their bytes; neither removes any.
    requeue moves each to the end of the queue that it came from. drain frees them.
    """
    if action in ("list", "peek"):
        show_bytes = action == "peek"
        peeked = {
            name: backend.call(Peek(pool, name, count or COUNT, size if show_bytes else 0))
            for name in letter_queues(backend, pool, queue)
        }
        show(peeked, show_bytes, as_json)
        return
    done = {
        name: backend.call(
            Redrive(pool, name, count, to=to, reset=reset)
            if action == "requeue"
            else Drain(pool, name, count)
        )
        for name in letter_queues(backend, pool, queue)
    }
    left = {q.name: q.depth for q in backend.call(GetStats(pool)).queues}
    if as_json:
        kind = Requeued if action == "requeue" else Drained
        print_json([kind(name, n, left[name]) for name, n in done.items()])
        return
    what = "requeued" if action == "requeue" else "freed"
    print_table(("queue", what, "left"), [(name, n, left[name]) for name, n in done.items()])


def letter_queues(backend: Backend, pool: str, queue: str | None) -> list[str]:
    """The given queue, or every queue that is the dead-letter queue of another. InvalidArgument."""
    if queue is not None:
        return [queue]
    queues = backend.call(GetStats(pool)).queues
    found = {q.dead_letter for q in queues if q.dead_letter is not None}
    if not found:
        raise errors.InvalidArgument(
            f"pool {pool!r} has no dead-letter queue; name one with --queue"
        )
    return [q.name for q in queues if q.name in found]


def show(peeked: dict[str, list[Message]], show_bytes: bool, as_json: bool) -> None:
    if as_json:
        print_json([letter(name, m) for name, found in peeked.items() for m in found])
        return
    rows: list[tuple[object, ...]] = []
    for name, found in peeked.items():
        for m in found:
            row = (name, m.position, m.index, m.origin, m.redelivered, m.length, m.timestamp)
            rows.append((*row, repr(m.payload)) if show_bytes else row)
    print_table((*COLUMNS, "payload") if show_bytes else COLUMNS, rows)


def letter(queue: str, message: Message) -> Letter:
    """The message for JSON."""
    fields: dict[str, Any] = wire.to_wire(message)
    return Letter(queue, **fields | {"payload": message.payload.hex()})
