# SPDX-License-Identifier: Apache-2.0
"""The options of a pool, a queue and a topic: one record each, which also describes each option.

Pool.create, Client.create, the command line, the configuration file and their documentation follow
from these records. Not in here: the ranges and defaults of a pool's options (native/segment.c).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from operator import index

from . import choices, errors
from ._ffi import Native, lib
from ._hot import timeout_seconds
from .record import field, metadata_of, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, SupportsIndex, TypeVar

    Found = TypeVar("Found")

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
QUEUE_MAX = 1 << 20  # buffers that a queue can hold
LANES_MAX = 64  # lanes of one queue
LANED, LANES_GROW = 16, 64  # flags of native/alf_queue.h
LANES_AUTO = 16  # the most that "auto" makes
LANE_LEAST = 256  # buffers that each of them holds at least
DEPTH_MAX = 1 << 15  # messages that a topic can keep
PAUSE_S = (0.001, 0.05)  # first and longest pause between two tries in found_within()
ByClass = int | list[int]  # an option of a size class: one value, or one for each class
INTERLEAVE = "interleave"  # a numa_node


@record(frozen=True)
class Option:
    """What one option means, and the values that it can have."""

    about: str  # one sentence
    unit: str = ""
    least: float | None = None  # the range, before other options narrow it
    most: float | None = None
    default: int | str | None = None  # the value that None stands for, or text about it
    choices: tuple[str, ...] = ()
    also: str | None = None  # allowed besides the range
    power_of_two: bool = False
    or_zero: bool = False  # 0 is allowed too
    octal: bool = False  # is written in octal
    limited_by: tuple[str, ...] = ()  # options that narrow the range
    by_class: bool = False  # may be a list: a value for each size class

    def spelled(self, value: object) -> str:
        """Returns a value as the option is written: in octal, or as repr() writes it."""
        if isinstance(value, int) and not isinstance(value, bool):
            try:
                return f"0{value:03o}" if self.octal and value >= 0 else str(value)
            except ValueError:  # over sys.get_int_max_str_digits()
                return f"an integer of {value.bit_length()} bits"
        return repr(value)

    def allowed(self, least: float | None = None, most: float | None = None) -> str:
        """Returns in words the values that the option can have; "" for any value."""
        if self.choices:
            return " or ".join(f'"{choice}"' for choice in self.choices)
        least = self.least if least is None else least
        most = self.most if most is None else most
        if least is None:
            return ""
        if most is None:
            return f"at least {self.spelled(least)}"
        span = f"from {self.spelled(least)} to {self.spelled(most)}"
        if self.power_of_two:
            span = f"a power of two {span}"
        if self.also is not None:
            span += f', or "{self.also}"'
        if not self.or_zero:
            return span
        return f"0 or {span}" if least <= most else "0"


@record(frozen=True)
class Refusal:
    """A value that an option cannot have: `capacity is 3; it must be a power of two from ...`."""

    option: str
    value: str  # as spelled() writes it
    demand: str

    def __str__(self) -> str:
        return f"{self.option} is {self.value}; {self.demand}"


def about(option: Option) -> dict[str, Option]:
    """Returns the metadata of a field that is an option."""
    return {"option": option}


def _pool_option(number: int, about: str, unit: str, **more: Any) -> Option:
    """Returns an option of a pool's geometry, with the range and default that C has for it."""
    span = lib.shmpool_range(number)
    default = None if span.standard == lib.SHMPOOL_DEFAULT else span.standard
    return Option(about, unit, span.least, span.most, **{"default": default, **more})


@record(frozen=True)
class PoolOptions:
    """The options of a new pool, for Pool.create. None stands for the default.

    A pool has one size class, or up to 8: then buffer_size is a list, in ascending order, and the
    other options of a size class are lists of that length, or one value for all classes.

    >>> PoolOptions(buffer_size=2048, capacity=1024, members=8).members
    8
    """

    # fmt: off
    buffer_size: ByClass = field(metadata=about(_pool_option(
        lib.SHMPOOL_BUFFER_SIZE,
        "Bytes of data that a buffer holds, rounded up to a multiple of 64.",
        "bytes", limited_by=("capacity",), by_class=True)))
    capacity: ByClass = field(metadata=about(_pool_option(
        lib.SHMPOOL_CAPACITY,
        "The most buffers that the pool can grow to.",
        "buffers", power_of_two=True, by_class=True)))
    prealloc: ByClass | None = field(default=None, metadata=about(_pool_option(
        lib.SHMPOOL_PREALLOC,
        "Buffers that get their memory at once; the others get it on demand.",
        "buffers", limited_by=("capacity",), by_class=True)))
    bulk: int | None = field(default=None, metadata=about(_pool_option(
        lib.SHMPOOL_BULK,
        "Buffers that move at once between a local cache and the free ring.",
        "buffers")))
    refill_multiplier: int | None = field(default=None, metadata=about(_pool_option(
        lib.SHMPOOL_REFILL_MULTIPLIER,
        "Bulks that the pool grows by when no buffer is free.",
        "bulks")))
    cache_size: ByClass | None = field(default=None, metadata=about(_pool_option(
        lib.SHMPOOL_CACHE_SIZE,
        "Free buffers that each thread's local cache holds; 0 for no cache.",
        "buffers", power_of_two=True, or_zero=True, limited_by=("bulk", "capacity"), by_class=True,
        default="512, or less: a quarter of capacity, 2 MiB of buffers; 0 from 64 KiB on")))
    headroom: int | None = field(default=None, metadata=about(_pool_option(
        lib.SHMPOOL_HEADROOM,
        "Bytes left free before the data of a new buffer.",
        "bytes", limited_by=("buffer_size",))))
    members: int | None = field(default=None, metadata=about(_pool_option(
        lib.SHMPOOL_MEMBERS,
        "The most threads that can be attached.",
        "threads")))
    queues: int | None = field(default=None, metadata=about(_pool_option(
        lib.SHMPOOL_QUEUES,
        "The most queues and topics that the pool can have.",
        "queues")))
    free_rings: int | str | None = field(default=None, metadata=about(_pool_option(
        lib.SHMPOOL_FREE_RINGS,
        "Rings that share out the free buffers, so that many cores do not share one; 0 for one.",
        "rings", also="auto")))
    mode: int = field(default=0o600, metadata=about(Option(
        "Permission bits of the pool's file, for example 0660.",
        least=0, most=0o777, octal=True)))
    group: str | int | None = field(default=None, metadata=about(Option(
        "Group that owns the file, by name or number.",
        default="the creator's")))
    huge_pages: choices.HugePages = field(default="never", metadata=about(Option(
        "Whether the memory is made of huge pages of 2 MiB.",
        choices=choices.HUGE_PAGES)))
    numa_node: choices.NumaNode = field(default=None, metadata=about(Option(
        'The NUMA node that the memory comes from, or "interleave" for all by turns.',
        default="the kernel's choice")))
    # fmt: on


@record(frozen=True)
class QueueOptions:
    """The options of a new queue, for Pool.create_queue.

    >>> QueueOptions(4096, on_death="requeue").consumers
    'multi'
    """

    # fmt: off
    capacity: int = field(metadata=about(Option(
        "Buffers that the queue holds.", "buffers", 1, QUEUE_MAX)))
    producers: choices.Side = field(default="multi", metadata=about(Option(
        "Whether one thread puts, or any number.", choices=choices.SIDES)))
    consumers: choices.Side = field(default="multi", metadata=about(Option(
        "Whether one thread gets, or any number.", choices=choices.SIDES)))
    on_death: choices.OnDeath = field(default="free", metadata=about(Option(
        "What happens to buffers that a consumer had taken when it died.",
        choices=choices.ON_DEATH)))
    dead_letter: str | None = field(default=None, metadata=about(Option(
        "The queue that gets dead letters.", default="none")))
    max_redeliveries: int = field(default=0, metadata=about(Option(
        "Redeliveries after which a buffer goes to dead_letter; 0 for no limit.",
        "redeliveries", 0, 2**16 - 1)))
    memory: choices.Memory = field(default="reserved", metadata=about(Option(
        "Whether all 8 bytes for each buffer are reserved with the queue, or as it fills.",
        choices=choices.MEMORY)))
    lanes: int | str = field(default=1, metadata=about(Option(
        "Rings behind the queue, so that many cores do not share one; each takes a queue's number.",
        "lanes", 1, LANES_MAX, also="auto")))
    # fmt: on


@record(frozen=True)
class TopicOptions:
    """The options of a new topic, for Pool.create_topic.

    >>> TopicOptions(1024).depth
    1024
    """

    # fmt: off
    depth: int = field(metadata=about(Option(
        "Messages that the topic keeps. The pool needs so many buffers more.", "messages",
        2, DEPTH_MAX, power_of_two=True)))
    # fmt: on


def options_of(kind: type) -> dict[str, Option]:
    """Returns the options of a record or a dataclass, by the names of its fields."""
    found = metadata_of(kind)
    return {name: given["option"] for name, given in found.items() if "option" in given}


POOL = options_of(PoolOptions)
QUEUE = options_of(QueueOptions)
TOPIC = options_of(TopicOptions)


def queue_slots(options: QueueOptions | TopicOptions) -> int:
    """Returns how many of the pool's queues one takes: with lanes one more for each.

    With "auto" at least two: one lane is enough.
    """
    lanes = getattr(options, "lanes", 1)
    return 1 if lanes == 1 else 1 + (1 if lanes == "auto" else lanes)


def lanes_of(lanes: choices.Lanes, capacity: int) -> int:
    """Returns how many lanes a queue gets: for "auto" one for each core, 16 at most, each for 256
    buffers or more."""
    if lanes != "auto":
        return lanes
    return max(1, min(LANES_AUTO, os.cpu_count() or 1, capacity // LANE_LEAST))


def policy_of(info: Native) -> tuple[choices.Side, choices.Side, choices.OnDeath]:
    """Returns producers, consumers and on_death of a struct shmpool_queue_info; "free" for an
    on_death that was corrupted."""
    return (
        "single" if info.single_producer else "multi",
        "single" if info.single_consumer else "multi",
        choices.ON_DEATH[info.on_death] if info.on_death < len(choices.ON_DEATH) else "free",
    )


def keywords(kind: Any, options: object) -> dict[str, Any]:
    """Returns the options of a record as keyword arguments of Pool.create, create_queue or
    create_topic."""
    return {name: getattr(options, name) for name in kind.__match_args__}


# Checks.


def integer(value: SupportsIndex, what: str, also: str | None = None) -> int:
    """Returns an integer of any type, such as numpy's, as an int. TypeError names the word also."""
    try:
        return index(value)
    except TypeError:
        word = "" if also is None else f', or "{also}"'
        raise TypeError(f"{what} is {value!r}; it must be an int{word}") from None


def at_least(value: SupportsIndex, least: int, what: str) -> int:
    """Returns value as an int. Raises InvalidArgument if it is less than least, or TypeError."""
    value = integer(value, what)
    if value < least:
        raise errors.InvalidArgument(f"{what} is {value}; it must be at least {least}")
    return value


def seconds_of(value: float | None, what: str) -> float:
    """Returns a number of seconds of any type, inf for None. Raises InvalidArgument, TypeError."""
    try:
        return timeout_seconds(value)
    except TypeError:
        raise TypeError(f"{what} is {value!r}; it must be a number of seconds, or None") from None
    except errors.InvalidArgument:
        raise errors.InvalidArgument(
            f"{what} is {value!r} seconds; it cannot be negative"
        ) from None


def out_of_range(name: str, option: Option, value: Any) -> Refusal | None:
    """Returns why a value is refused, or None. Does not check against other options."""
    number = value
    if option.also is not None and isinstance(value, str):
        fits = value == option.also
    elif option.choices:
        fits = value in option.choices
    elif option.least is not None:
        number = value if isinstance(option.least, float) else integer(value, name, option.also)
        fits = option.least <= number and not isinstance(value, bool)
        fits = fits and (option.most is None or number <= option.most)
        fits = fits and not (option.power_of_two and int(number) & int(number) - 1)
    else:
        return None
    given = value if type(value) is bool else number  # index() makes an int of a bool
    shown = f"{given!r} ({given:#o})" if option.octal else option.spelled(given)
    return None if fits else Refusal(name, shown, f"it must be {option.allowed()}")


def queue_refusals(options: QueueOptions, letter: choices.Side | None) -> Iterator[Refusal]:
    """Yields what is wrong with a queue's options. letter: `producers` of the queue dead_letter."""
    for name, option in QUEUE.items():
        refusal = out_of_range(name, option, getattr(options, name))
        if refusal is not None:
            yield refusal
    on_death = repr(options.on_death)
    if options.on_death == "requeue" and options.producers == "single":
        yield Refusal(
            "on_death",
            on_death,
            'it needs producers="multi": who recovers a dead consumer is a producer too',
        )
    if options.on_death == "dead-letter" and options.dead_letter is None:
        yield Refusal("on_death", on_death, "it needs dead_letter, the queue that gets them")
    sides = {"producers": options.producers, "consumers": options.consumers}
    lanes = options.lanes if isinstance(options.lanes, str) else integer(options.lanes, "lanes")
    if lanes != 1 and "single" in sides.values():
        side = "producers" if options.producers == "single" else "consumers"
        yield Refusal("lanes", repr(lanes), f'they need {side}="multi"')
    if isinstance(lanes, int) and lanes > max(integer(options.capacity, "capacity"), 1):
        yield Refusal("lanes", repr(lanes), f"they share out the capacity, {options.capacity}")
    if letter == "single":
        yield Refusal(
            "dead_letter", repr(options.dead_letter), 'that queue needs producers="multi"'
        )


def topic_refusals(
    options: TopicOptions, capacity: int | None = None, kept: int = 0
) -> Iterator[Refusal]:
    """Yields what is wrong with the options of a topic in a pool of capacity buffers (None: not
    known), whose other topics keep so many."""
    for name, option in TOPIC.items():
        refusal = out_of_range(name, option, getattr(options, name))
        if refusal is not None:
            yield refusal
            return
    depth = int(options.depth)
    if capacity is not None and kept + depth >= capacity:
        others = f", and its other topics keep {kept:,}" if kept else ""
        yield Refusal(
            "depth",
            f"{depth}",
            f"a topic keeps so many buffers, and the pool has {capacity:,}{others}: it must have "
            "more than its topics keep",
        )


def letters_in_a_circle(queues: Mapping[str, QueueOptions]) -> list[str]:
    """Returns the queues whose dead letters return to them, sorted. [] if there are none."""
    done: set[str | None] = set()
    for first in queues:
        chain: list[str] = []
        at: str | None = first
        while at is not None and at in queues and at not in done:
            done.add(at)
            chain.append(at)
            at = queues[at].dead_letter
        if at is not None and at in chain:
            return sorted(chain[chain.index(at) :])
    return []


# Waiting for what another process creates.
def found_within(
    timeout: float | None, missing: type[errors.ShmpoolError], find: Callable[[], Found]
) -> Found:
    """Returns find(). Repeats it while it raises missing, for up to timeout seconds.

    A timeout of None is no limit. Raises the last exception of find().
    """
    deadline, pause = time.monotonic() + timeout_seconds(timeout), PAUSE_S[0]
    while True:
        try:
            return find()
        except missing:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
        time.sleep(min(pause, left))
        pause = min(2 * pause, PAUSE_S[1])
