# SPDX-License-Identifier: Apache-2.0
"""A pool's geometry: the options of its size classes, planned and checked by C, and what it takes.

Not in here: what each option means (options.py); the ranges, and the checks themselves
(native/geometry.c).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

from . import errors
from ._ffi import Native, ffi, lib
from .options import (
    INT64_MAX,
    INTERLEAVE,
    POOL,
    QUEUE_MAX,
    Option,
    PoolOptions,
    Refusal,
    integer,
    out_of_range,
)
from .os_errors import SHM, enlarge, shared_memory, size_text
from .record import field, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, SupportsIndex

CLASSES_MAX = 8  # size classes of a pool
CAPACITY_MAX = 1 << 24  # buffers of all size classes
FREE_RINGS_CORES = 8  # with fewer, "auto" makes no rings beside the free ring
HUGE_BYTES = 2 << 20  # of a huge page
NODE_MAX = 1023  # number of a NUMA node
HEADER_BYTES = 64  # in front of each buffer
RING_BYTES = QUEUE_MAX * 8  # address space of a queue's ring; it gets memory with the queue


@record(frozen=True)
class SizeClass:
    """The options of one size class of a pool."""

    buffer_size: int  # bytes, a multiple of 64
    capacity: int
    prealloc: int
    cache_size: int


@record(frozen=True)
class Geometry:
    """The options that a pool was created with, and that never change."""

    buffer_size: int  # bytes of its largest buffers, a multiple of 64
    capacity: int  # buffers of all size classes, as is prealloc
    prealloc: int
    bulk: int
    refill_multiplier: int
    cache_size: int  # of the smallest size class
    headroom: int  # bytes
    members: int  # the most threads that can be attached
    queues: int
    free_rings: int  # rings beside the free ring
    sizes: list[SizeClass] = field(default_factory=list)  # in ascending order

    @property
    def room(self) -> int:
        """The bytes of the largest message: a chain of all buffers."""
        return sum(one.buffer_size * one.capacity for one in self.sizes) - self.headroom

    def size_class(self, size: int) -> int:
        """Returns the number of the first size class whose buffers have room for size bytes; the
        number of classes if only a chain has."""
        for number, one in enumerate(self.sizes):
            if one.buffer_size - self.headroom >= size:
                return number
        return len(self.sizes)

    @classmethod
    def of(cls, raw: Native) -> Geometry:
        """Returns the Geometry of a struct shmpool_geometry."""
        sizes = [
            SizeClass(*(int(getattr(one, name)) for name in BY_CLASS)) for one in classes_of(raw)
        ]
        values = {name: int(getattr(raw, name)) for name in GEOMETRY}
        values["buffer_size"] = sizes[-1].buffer_size
        for name in ("capacity", "prealloc"):
            values[name] = sum(getattr(one, name) for one in sizes)
        return cls(**values, sizes=sizes)


# In the order of enum shmpool_option.
GEOMETRY = tuple(name for name in Geometry.__match_args__ if name != "sizes")
BY_CLASS = SizeClass.__match_args__


def classes_of(raw: Native) -> list[Native]:
    """Returns the parts of a struct shmpool_geometry that have the options of each size class."""
    return [raw, *raw.more[0 : raw.classes - 1]]


def native_refusal(why: Native, value: int, beside: Native = None) -> Refusal:
    """Returns what a struct shmpool_refusal says about an option that has this value.

    beside is the geometry that the option belongs to. With it, the text names the options that
    narrow the range, in a pool of several size classes also the class: capacity[1].
    """
    name = GEOMETRY[why.option]
    option = POOL[name]
    demand = f"it must be {option.allowed(why.least, why.most)}"
    if beside is not None and (why.least, why.most) != (option.least, option.most):
        demand += f", as {_limits(why, option, beside)}"
    if why.classes > 1 and name in BY_CLASS:
        name += f"[{why.size_class}]"
    return Refusal(name, option.spelled(value), demand)


def _limits(why: Native, option: Option, beside: Native) -> str:
    """Returns what narrows the range of a refused option of that geometry."""
    parts, number = classes_of(beside), why.size_class
    if why.option == lib.SHMPOOL_QUEUES:
        return _ring_limits(int(option.most or 0), why.most, beside)
    if why.option == lib.SHMPOOL_BUFFER_SIZE and why.least > option.least:
        return f"buffer_size[{number - 1}] is {parts[number - 1].buffer_size}"
    return " and ".join(
        f"{other} is {getattr(parts[number] if other in BY_CLASS else beside, other)}"
        for other in option.limited_by
    )


def _ring_limits(most: int, left: int, beside: Native) -> str:
    """Returns what leaves so many of the most queues: size classes and their rings (side.h).

    Names free_rings only if a lower one would leave more, and then buffer_size only if no lower
    one would leave enough.
    """
    without, least = ffi.new("struct shmpool_geometry *"), ffi.new("struct shmpool_refusal *")
    without[0], without.free_rings, without.queues = beside[0], 0, most
    parts, names = classes_of(beside), []
    fixed = most - least.most if lib.shmpool_plan(without, least) else 0
    made = most - left - fixed
    if made:
        said = f"free_rings is {beside.free_rings}"
        names.append(said if made == beside.free_rings else f"{said}, which makes {made} rings")
    if not names or beside.queues > most - fixed:
        n, warm = len(parts), fixed - len(parts) + 1
        large = f", {warm} of them large" if warm else ""
        names.append(
            f"buffer_size has {n} values{large}"
            if n > 1
            else f"buffer_size is {parts[0].buffer_size}"
        )
    return " and ".join(names)


def _int64(value: SupportsIndex | None, option: str) -> int:
    """Clamps to int64; C rejects the limit as it would the value."""
    if value is None:
        return int(lib.SHMPOOL_DEFAULT)
    return max(-INT64_MAX, min(integer(value, option), INT64_MAX))


def plan(options: PoolOptions) -> tuple[Native, Refusal | None]:
    """Returns the geometry of a pool with these options, and why the options are refused, or None.

    Raises TypeError.
    """
    geometry: Native = ffi.new("struct shmpool_geometry *")
    sizes: Any = options.buffer_size
    classes = len(sizes) if isinstance(sizes, list) else 1
    if not 1 <= classes <= CLASSES_MAX:
        return None, Refusal(
            "buffer_size", repr(sizes), f"it must have from 1 to {CLASSES_MAX} values"
        )
    rings: Any = 0 if options.free_rings is None else options.free_rings
    for name, value in ("huge_pages", options.huge_pages), ("free_rings", rings):
        refusal = out_of_range(name, POOL[name], value)
        if refusal is not None:
            return None, refusal
    geometry.huge = getattr(lib, f"SHMPOOL_HUGE_{options.huge_pages.upper()}")
    geometry.classes = classes
    given: dict[str, Any] = {name: getattr(options, name) for name in BY_CLASS}
    for name, value in given.items():
        if not isinstance(value, list):
            given[name] = [value] * classes
        elif len(value) != classes:
            more = f", or {classes}: one for each buffer_size"
            demand = f"it must be one number{more if classes > 1 else ', as buffer_size is'}"
            return None, Refusal(name, repr(value), demand)
    for name in GEOMETRY:
        if name not in given:
            value = getattr(options, name)
            if name == "free_rings" and isinstance(value, str):
                value = free_rings_of(options, classes)
            setattr(geometry, name, _int64(value, name))
    for number, part in enumerate(classes_of(geometry)):
        for name, values in given.items():
            setattr(part, name, _int64(values[number], name))
    why = ffi.new("struct shmpool_refusal *")
    if not lib.shmpool_plan(geometry, why):
        return geometry, _beside_the_plan(geometry, options)
    if why.fault == lib.SHMPOOL_FAULT_CLASSES:
        return None, Refusal(
            "capacity", f"{why.value} buffers in all", f"the most is {CAPACITY_MAX}"
        )
    name, number = GEOMETRY[why.option], why.size_class
    value = given[name][number] if name in given else getattr(options, name)
    if value is None:
        name = f"{name}[{number}]" if len(classes_of(geometry)) > 1 else name
    return None, native_refusal(why, integer(value, name), geometry)


def free_rings_of(options: PoolOptions, classes: int) -> int:
    """Returns what free_rings="auto" stands for in a pool with these options: a ring for each core,
    but none with few cores."""
    members, queues = (
        integer(POOL[name].default if value is None else value, name)  # type: ignore[arg-type]
        for name, value in (("members", options.members), ("queues", options.queues))
    )
    # Each class has two rings of its own at most, beside these.
    left = (int(POOL["queues"].most or 0) - queues) // classes - 2
    cores, most = os.cpu_count() or 1, int(POOL["free_rings"].most or 0)
    return max(0, min(cores, members, left, most)) if cores >= FREE_RINGS_CORES else 0


def _beside_the_plan(geometry: Native, options: PoolOptions) -> Refusal | None:
    """Returns what is wrong with the options that C does not plan."""
    node: Any = options.numa_node
    number = 0 if node is None or node == INTERLEAVE else -1
    if number and not isinstance(node, (str, bool)):
        number = integer(node, "numa_node")
    if not 0 <= number <= NODE_MAX:
        return Refusal(
            "numa_node", repr(node), f'it must be from 0 to {NODE_MAX}, or "{INTERLEAVE}"'
        )
    most = max(one.prealloc * one.buffer_size for one in classes_of(geometry))
    if geometry.huge == lib.SHMPOOL_HUGE_ALWAYS and most < HUGE_BYTES:
        return Refusal(
            "huge_pages", "'always'", "it needs a prealloc x buffer_size of at least 2 MiB"
        )
    return out_of_range("mode", POOL["mode"], options.mode)


def planned(name: str, options: PoolOptions) -> Native:
    """Returns the struct shmpool_geometry of a pool. Raises InvalidArgument, TypeError."""
    geometry, refusal = plan(options)
    if refusal is not None:
        raise errors.InvalidArgument(f"pool {name!r}: {refusal}")
    return geometry


def differences(
    options: PoolOptions, asked: Geometry, existing: Geometry
) -> Iterator[tuple[str, Any, Any]]:
    """Yields each given option in which the existing pool differs: its name, the value that was
    given, and the pool's value. asked is the geometry that follows from the options."""
    for name in GEOMETRY:
        given = getattr(options, name)
        wanted, there = (values_of(one, name) for one in (asked, existing))
        if given is not None and given != "auto" and wanted != there:
            yield name, given, there


def values_of(geometry: Geometry, name: str) -> Any:
    """Returns the value of an option; a list if it has one for each of several size classes."""
    if name not in BY_CLASS or len(geometry.sizes) == 1:
        return getattr(geometry, name)
    return [getattr(one, name) for one in geometry.sizes]


def taken_at_once(geometry: Native) -> tuple[int, int]:
    """Returns the bytes that a new pool takes for itself and for its preallocated buffers."""
    own = geometry.headers_offset - geometry.queues * RING_BYTES
    buffers = sum(
        -(-one.prealloc * each // mmap.PAGESIZE) * mmap.PAGESIZE
        for one in classes_of(geometry)
        for each in (HEADER_BYTES, one.buffer_size)
    )
    return own, buffers


def does_not_fit(name: str, geometry: Native, back: int = 0) -> errors.OutOfSharedMemory:
    """Returns the exception for a new pool that does not fit into /dev/shm.

    back is the bytes that its unfinished file has taken. They count as free.
    """
    (own, buffers), (total, free) = taken_at_once(geometry), shared_memory()
    needed = own + buffers
    parts = [f"{one.prealloc} x buffer_size {one.buffer_size}" for one in classes_of(geometry)]
    return errors.OutOfSharedMemory(
        f"pool {name!r} needs {size_text(needed, up=True)} at once, {size_text(own, up=True)} of "
        f"it for itself and the rest for prealloc {' and '.join(parts)}; {SHM} has "
        f"{size_text(free + back)} free of {size_text(total)}: "
        f"{'lower prealloc, or ' if buffers else ''}{enlarge(needed)}"
    )
