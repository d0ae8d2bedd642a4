# SPDX-License-Identifier: Apache-2.0
"""The words of a live segment, by name. Their offsets are from native/layout.h itself."""

import functools
import mmap
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cffi

NATIVE = Path(__file__).resolve().parent.parent / "shmpool" / "native"
STRUCTS = ("segment_header", "member", "pool_shared", "alf_queue", "queue_slot", "buffer")
STRUCTS += ("topic_subscriber", "topic", "lane_table")
TOPIC_SLOT, TOPIC_DEPTH = 4, 8  # of the topic, if the pool has one
CACHE_LINE = 64
RING_SLOTS = 1 << 20  # addresses of each queue's ring
ALL_ONES = 2**64 - 1
LANED = 5  # number of the queue with lanes
WARM_SIZE, WARM_BYTES = 64 << 10, 8 << 20  # as in geometry.h
QUEUE_PAGE, QUEUE_PAGES = 4096, 16  # as in layout.h
SIDE_BULKS = 4


def _without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def _rounded(n: int, to: int) -> int:
    return -(-n // to) * to


def _shared_offset() -> int:
    text = (NATIVE / "layout.h").read_text()
    (lines,) = re.findall(r"#define SHARED_OFFSET \((\d+) \* CACHE_LINE\)", text)
    return int(lines) * CACHE_LINE


SHARED_OFFSET = _shared_offset()


@functools.cache
def layout() -> Any:
    """Returns an FFI that knows the structs of the segment."""
    ffi = cffi.FFI()
    text = "".join(
        _without_comments((NATIVE / name).read_text()) for name in ("alf_queue.h", "layout.h")
    )
    (counters,) = re.findall(r"enum counter \{(.*?)\}", text, re.DOTALL)
    values = {"COUNTERS": len(re.findall(r"COUNT_\w+", counters))}
    for name, value in re.findall(r"^#define (\w+) (\d+)u?l* *$", text, re.MULTILINE):
        values[name] = int(value)
    names = "|".join(values)
    declared = "typedef uint64_t alf_shared_position; typedef uint64_t shared_cache_position;\n"
    declared += "typedef uint64_t shared64; typedef uint32_t shared32;\n"
    for struct in STRUCTS:
        (body,) = re.findall(rf"^struct {struct} \{{\n(.*?)\n\}};", text, re.DOTALL | re.MULTILINE)
        body = re.sub(
            r"\[([^]]+)\]",
            lambda found: f"[{_number(found[1], names, values)}]",
            body,
        )
        declared += f"struct {struct} {{\n{body}\n}};\n"
    ffi.cdef(declared)
    return ffi


def _number(text: str, names: str, values: dict[str, int]) -> int:
    text = re.sub(rf"\b({names})\b", lambda found: str(values[found[1]]), text)
    return sum(int(part) for part in text.split("+"))


def side_rings(of: dict[str, int], free_rings: int, bulk: int) -> tuple[int, int]:
    """Returns how many side rings a class has, and their slots, as geometry_sides() does."""
    number, most = 1, WARM_BYTES // of["buffer_size"]
    if of["buffer_size"] < WARM_SIZE:
        number = min(free_rings, of["capacity"] // (SIDE_BULKS * bulk))
        if not number:
            return 0, 0
        most = of["capacity"] // number
    return number, max(2, 1 << most.bit_length() - 1)


@dataclass(frozen=True)
class Word:
    """A word of the segment."""

    name: str
    offset: int
    width: int  # bytes


@dataclass(frozen=True)
class Row:
    """The same word of every member, queue, buffer, extent or slot."""

    name: str
    offset: int  # of the first
    stride: int  # bytes to the next
    count: int
    width: int

    def word(self, i: int) -> Word:
        return Word(f"{self.name}[{i}]", self.offset + i * self.stride, self.width)


class Dealt(Row):
    """The same word of every queue slot: slots are dealt out to pages, as layout.h says."""

    def word(self, i: int) -> Word:
        pages = max(-(-self.count // (QUEUE_PAGE // self.stride)), min(self.count, QUEUE_PAGES))
        at = self.offset + i % pages * QUEUE_PAGE + i // pages * self.stride
        return Word(f"{self.name}[{i}]", at, self.width)


def _fields(struct: str) -> Iterator[tuple[str, int, int]]:
    """Yields name, offset and bytes of each scalar of a struct, and of each item of an array."""
    for name, field in layout().typeof(f"struct {struct}").fields:
        kind, at = field.type, field.offset
        if name.startswith("pad"):
            continue
        if kind.kind == "union":  # as its first member, the whole
            yield kind.fields[0][0], at, layout().sizeof(kind)
        elif kind.kind == "struct":
            for inner, offset, width in _fields(kind.cname.removeprefix("struct ")):
                yield f"{name}.{inner}", at + offset, width
        elif kind.kind == "array" and kind.item.kind == "struct":
            for i in range(kind.length):
                for inner, offset, width in _fields(kind.item.cname.removeprefix("struct ")):
                    start = at + i * layout().sizeof(kind.item)
                    yield f"{name}[{i}].{inner}", start + offset, width
        elif kind.kind == "array":
            width = layout().sizeof(kind.item)
            for i in range(kind.length or 0):
                yield f"{name}[{i}]", at + i * width, width
        else:
            yield name, at, layout().sizeof(kind)


@dataclass(frozen=True)
class SizeClass:
    """The words of one size class."""

    first: int  # index of its first buffer
    capacity: int
    slot: int  # the queue slot that is its free ring
    shared: list[Word]
    members: list[Row]  # of each member the block of this class
    caches: list[Row]
    extents: Row
    free_ring: Row
    sides: list[Row]  # the slots of each side ring
    buffers: list[Row]

    @property
    def rows(self) -> list[Row]:
        return [*self.members, *self.buffers, self.extents, self.free_ring, *self.sides]


class Segment:
    """A pool's file, and every word in it. Words of all size classes have the same names."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR)
        self.size = os.fstat(self.fd).st_size
        self.map = mmap.mmap(self.fd, self.size)
        at = {name: offset for name, offset, _ in _fields("segment_header")}
        word = {name: self._read(offset, 8) for name, offset in at.items()}
        self.header = [Word(f"header.{n}", o, w) for n, o, w in _fields("segment_header")]
        self.classes = list(self._classes(word))
        self.capacity = sum(one.capacity for one in self.classes)
        self.shared = [word for one in self.classes for word in one.shared]
        self.members = [row for one in self.classes for row in one.members]
        self.sides = [row for one in self.classes for row in one.sides]
        self.caches = [row for one in self.classes for row in one.caches]
        self.buffers = [row for one in self.classes for row in one.buffers]
        named, queue = word["max_queues"], layout().sizeof("struct queue_slot")
        slots = named + len(self.classes) + sum(len(one.sides) for one in self.classes)
        self.queues = [
            Dealt(f"queue.{n}", word["queues_offset"] + o, queue, slots, w)
            for n, o, w in _fields("queue_slot")
        ]
        self.rings = [
            Row(f"ring.{i}", word["rings_offset"] + (i - 1) * RING_SLOTS * 8, 8, 16, 8)
            for i in range(1, named + 1)
        ]
        table = word["rings_offset"] + (LANED - 1) * RING_SLOTS * 8
        self.lanes = [Row(f"lanes.{n}", table + o, 8, 1, w) for n, o, w in _fields("lane_table")]

        self.topic = list(self._topic(word["rings_offset"])) if named >= TOPIC_SLOT else []

    def _topic(self, rings: int) -> Iterator[Row]:
        """Yields the words behind the slots of the topic's ring."""
        ffi = layout()
        at = rings + ((TOPIC_SLOT - 1) * RING_SLOTS + TOPIC_DEPTH) * 8
        one = ffi.sizeof("struct topic_subscriber")
        first = at + ffi.offsetof("struct topic", "subscriber")
        number = (at + ffi.sizeof("struct topic") - first) // one
        for name, offset, width in _fields("topic_subscriber"):
            yield Row(f"subscriber.{name}", first + offset, one, number, width)
        for name in ("gate", "keepers"):
            yield Row(f"topic.{name}", at + ffi.offsetof("struct topic", name), 8, 1, 8)
        yield Row("shelf", at + ffi.sizeof("struct topic"), 8, number * TOPIC_DEPTH, 8)

    def _classes(self, word: dict[str, int]) -> Iterator[SizeClass]:
        """Yields each size class: its parts lie in the order of the classes."""
        ffi = layout()
        member, buffer, shared = (
            ffi.sizeof(f"struct {name}") for name in ("member", "buffer", "pool_shared")
        )
        stride, first, block = word["member_stride"], 0, word["members_offset"]
        members = word["max_members"]
        extents_at, ring_at = word["extents_offset"], word["free_ring_offset"]
        for k in range(word["classes"]):
            of = {name: word[f"class[{k}].{name}"] for name, _, _ in _fields("segment_class")}
            capacity, each = of["capacity"], of["extent_buffers"]
            extents = -(-(capacity - of["prealloc"]) // each)
            headers = word["headers_offset"] + first * buffer
            side_at, (sides, room) = (
                _rounded(ring_at + 8 * capacity, 64),
                side_rings(of, word["free_rings"], word["bulk"]),
            )
            yield SizeClass(
                first,
                capacity,
                word["max_queues"] + k if k else 0,
                [
                    Word(f"shared.{n}", SHARED_OFFSET + k * shared + o, w)
                    for n, o, w in _fields("pool_shared")
                ],
                [
                    Row(f"member.{n}", block + o, stride, members, w)
                    for n, o, w in _fields("member")
                ],
                [
                    Row(f"member.cache.{i}", block + member + 8 * i, stride, members, 8)
                    for i in range(of["cache_size"])
                ],
                Row("extent", extents_at, 8, extents, 8),
                Row("free ring", ring_at, 8, capacity, 8),
                [
                    Row(f"side ring {i}", side_at + i * _rounded(8 * room, 64), 8, room, 8)
                    for i in range(sides)
                ],
                [
                    Row(f"buffer.{n}", headers + o, buffer, capacity, w)
                    for n, o, w in _fields("buffer")
                ],
            )
            block = _rounded(block + member + 8 * of["cache_size"], 64)
            extents_at += 8 * extents
            ring_at = _rounded(side_at + sides * _rounded(8 * room, 64), mmap.PAGESIZE)
            first += capacity

    def _read(self, offset: int, width: int) -> int:
        return int.from_bytes(self.map[offset : offset + width], "little")

    def read(self, word: Word) -> int:
        return self._read(word.offset, word.width)

    def write(self, word: Word, value: int) -> None:
        self.map[word.offset : word.offset + word.width] = value.to_bytes(word.width, "little")

    def row(self, chance: random.Random) -> Row:
        """Returns the words of one name. Every kind of word is equally likely."""
        kinds: tuple[Callable[[], Row], ...] = (
            lambda: chance.choice(self.members),
            lambda: chance.choice(self.members),
            lambda: chance.choice(self.caches or self.members),
            lambda: chance.choice(self.queues),
            lambda: chance.choice([r for r in self.queues if r.width > 1]),
            lambda: chance.choice([r for r in self.queues if r.width > 1]),
            lambda: chance.choice(self.classes).extents,
            lambda: chance.choice(self.classes).free_ring,
            lambda: chance.choice(self.sides or self.rings),
            lambda: chance.choice(self.rings),
            lambda: chance.choice(self.lanes),
            lambda: chance.choice(self.buffers),
            lambda: chance.choice(self.classes).buffers[0],
            lambda: chance.choice(self.topic or self.queues),
        )
        while True:
            row = chance.choice(kinds)()
            if row.count:
                return row

    def hot(self, chance: random.Random) -> Word:
        """Returns a word that the core decides by, of something that is in use."""
        one = chance.choice(self.classes)
        rows = [
            (self.queues, "queue.queue.", 4),
            (self.queues, "queue.state", 4),
            (self.lanes, "lanes.", 1),
            (one.members, "member.", 4),
            (one.buffers, "buffer.", 20),
            ([one.free_ring], "free ring", 40),
            ([one.extents], "extent", 8),
            ([r for r in one.buffers if r.name in ("buffer.since", "buffer.owner")], "buffer.", 20),
            *((self.topic, prefix, 4) for prefix in ("subscriber.", "topic.") if self.topic),
        ]
        found, prefix, most = chance.choice(rows)
        row = chance.choice([r for r in found if r.name.startswith(prefix)] + found[:1])
        if "counters" in row.name or "base" in row.name or not row.count:
            return self.hot(chance)
        if row in self.queues and chance.random() < 0.3:
            return row.word(one.slot)
        return row.word(chance.randrange(min(most, row.count)))

    def word(self, chance: random.Random) -> Word:
        """Returns any word. Those of members, queues and buffers in use are likelier."""
        if chance.random() < 0.15:
            return chance.choice(chance.choice((self.header, self.shared)))
        row = self.row(chance)
        most = min(row.count, chance.choice((4, 16, row.count)))
        return row.word(chance.randrange(most))

    def value(self, chance: random.Random, word: Word) -> int:
        """Returns a value that a faulty or hostile process may write there."""
        now, one = self.read(word), chance.choice(self.classes)
        border = chance.choice((one.first, one.first + one.capacity))
        other = self.read(Word("", self.word(chance).offset // 8 * 8, word.width))
        found = chance.choice(
            (
                0,
                ALL_ONES,
                now + 1,
                now - 1,
                now ^ 1 << chance.randrange(8 * word.width),
                now ^ 1 << chance.randrange(8 * word.width),
                now + border,
                now - border,
                now << 1,
                other,
                other,
                other + 1,
                chance.getrandbits(64),
                chance.getrandbits(64),
                chance.getrandbits(20),
                1 << 63,
                1 << 62 | chance.getrandbits(62),
                1 << 31,
                chance.randrange(1, 9),
                border,
                one.slot,
            )
        )
        return found % (1 << 8 * word.width)

    def named(self, name: str, one: SizeClass | None = None) -> Word:
        """Returns the word of that name: of the header, of the pool, or of the first of many.

        With a size class: that of the class, or of its free ring.
        """
        of = one or self.classes[0]
        words = [*self.header, *of.shared]
        words += [row.word(of.slot) for row in self.queues]
        words += [row.word(0) for row in of.rows]
        names = (name, f"{name}[{of.slot}]", f"{name}[0]")
        return next(word for word in words if word.name in names)

    def fill(self, name: str, value: Callable[[int], int], one: SizeClass | None = None) -> None:
        """Overwrites a word of every member, queue, buffer or slot with value(its number).

        With a size class: only that of the class.
        """
        every = [*self.queues, *(row for of in self.classes for row in of.rows)]
        for row in every if one is None else one.rows:
            if row.name == name:
                words = [value(i) % (1 << 8 * row.width) for i in range(row.count)]
                for i, word in enumerate(words):
                    self.write(row.word(i), word)

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)
