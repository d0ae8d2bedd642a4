# SPDX-License-Identifier: Apache-2.0
"""shmpool create."""

import click

from .. import errors
from ..pool_files import PREFIX, SHM
from ..rpc import wire
from ..rpc.protocol import Create
from ..rpc.records import PoolOptions, QueueOptions
from .access import Backend, with_backend
from .describe import show
from .output import command_of, json_option, print_json, working


@command_of(
    Create,
    "shmpool create rx --buffer-size 2048 --capacity 65536 --queue work=4096,on_death=requeue",
)
@click.argument("pool")
@click.option("--buffer-size", type=int, required=True, help="Bytes of data a buffer holds.")
@click.option(
    "--capacity", type=int, required=True, help="The most buffers it can grow to, a power of two."
)
@click.option(
    "--prealloc",
    type=int,
    help="Buffers that get their memory at once; the others when they are needed.",
)
@click.option("--cache-size", type=int, help="Free buffers that each thread caches.")
@click.option(
    "--bulk", type=int, help="Buffers moved at once between a cache and the pool, 16 to 64."
)
@click.option("--refill-multiplier", type=int, help="Bulks that the pool grows by, 1 to 64.")
@click.option("--headroom", type=int, help="Bytes left free before a new buffer's data.")
@click.option("--max-members", type=int, help="The most threads that can attach.")
@click.option("--max-queues", type=int, help="The most queues it can have.")
@click.option(
    "--mode",
    default="0600",
    show_default=True,
    help="Permission bits of the pool's file, for example 0660.",
)
@click.option("--group", help="Group that owns the file.")
@click.option(
    "--queue",
    "queues",
    multiple=True,
    metavar="NAME=CAPACITY[,OPTION=VALUE...]",
    help="A queue to create; may be repeated. Options: producers, consumers, on_death, "
    "dead_letter, max_redeliveries.",
)
@json_option
@with_backend
def command(
    backend: Backend,
    pool: str,
    buffer_size: int,
    capacity: int,
    prealloc: int | None,
    cache_size: int | None,
    bulk: int | None,
    refill_multiplier: int | None,
    headroom: int | None,
    max_members: int | None,
    max_queues: int | None,
    mode: str,
    group: str | None,
    queues: tuple[str, ...],
    as_json: bool,
) -> None:
    options = PoolOptions(
        buffer_size=buffer_size,
        capacity=capacity,
        prealloc=prealloc,
        cache_size=cache_size,
        bulk=bulk,
        refill_multiplier=refill_multiplier,
        headroom=headroom,
        max_members=max_members,
        max_queues=max_queues,
        mode=mode,
        group=group,
    )
    wanted_queues: dict[str, QueueOptions] = {}
    for given in queues:
        name, queue = parse_queue(given)
        if name in wanted_queues:
            raise errors.InvalidArgument(f"--queue {given}: there is a queue {name!r} before it")
        wanted_queues[name] = queue
    request = Create(pool, options, wanted_queues)
    wanted = (prealloc or 0) * buffer_size
    with working(f"creating {pool}", f"{SHM}/{PREFIX}{pool}", wanted or None):
        made = backend.call(request)
    if as_json:
        print_json(made)
        return
    show(made)


def parse_queue(given: str) -> tuple[str, QueueOptions]:
    """NAME=CAPACITY[,OPTION=VALUE...]. InvalidArgument."""
    name, *rest = given.split(",")
    name, _, capacity = name.partition("=")
    if not name or not capacity:
        raise errors.InvalidArgument(
            f"--queue needs NAME=CAPACITY, for example work=4096, not {given!r}"
        )
    options: dict[str, object] = {"capacity": capacity}
    for option in rest:
        key, _, value = option.partition("=")
        if key not in wire.hints(QueueOptions):
            known = ", ".join(wire.hints(QueueOptions))
            raise errors.InvalidArgument(
                f"--queue {given}: unknown option {key!r}; known are {known}"
            )
        options[key] = value
    for key in ("capacity", "max_redeliveries"):
        if key in options:
            options[key] = _whole(str(options[key]), f"--queue {given}: {key}")
    try:
        found: QueueOptions = wire.from_wire(QueueOptions, options, "")
    except wire.ShapeError as error:
        raise errors.InvalidArgument(f"--queue {given}: {str(error).lstrip('.')}") from None
    return name, found


def _whole(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise errors.InvalidArgument(f"{what} is {text!r}; it must be an integer") from None
