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
SHARED_OFFSET = 256
RING_SLOTS = 65536  # addresses of each queue's ring
ALL_ONES = 2**64 - 1


def _without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


@functools.cache
def layout() -> Any:
    """Returns an FFI that knows the structs of the segment."""
    ffi = cffi.FFI()
    text = "".join(
        _without_comments((NATIVE / name).read_text()) for name in ("alf_queue.h", "layout.h")
    )
    (counters,) = re.findall(r"enum counter \{(.*?)\}", text, re.DOTALL)
    values = {"COUNTERS": len(re.findall(r"COUNT_\w+", counters))}
    for name, value in re.findall(r"^#define (\w+) (\d+)u?l*$", text, re.MULTILINE):
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
        elif kind.kind == "array":
            width = layout().sizeof(kind.item)
            for i in range(kind.length or 0):
                yield f"{name}[{i}]", at + i * width, width
        else:
            yield name, at, layout().sizeof(kind)


class Segment:
    """A pool's file, and every word in it."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR)
        self.size = os.fstat(self.fd).st_size
        self.map = mmap.mmap(self.fd, self.size)
        ffi = layout()
        at = {name: offset for name, offset, _ in _fields("segment_header")}
        word = {name: self._read(offset, 8) for name, offset in at.items()}
        member, queue, buffer = (
            ffi.sizeof(f"struct {name}") for name in ("member", "queue_slot", "buffer")
        )
        members = (word["queues_offset"] - word["members_offset"]) // word["member_stride"]
        queues = word["max_queues"] + 1
        self.capacity = word["capacity"]
        self.header = [Word(f"header.{n}", o, w) for n, o, w in _fields("segment_header")]
        self.shared = [
            Word(f"shared.{n}", SHARED_OFFSET + o, w) for n, o, w in _fields("pool_shared")
        ]
        stride = word["member_stride"]
        self.members = [
            Row(f"member.{n}", word["members_offset"] + o, stride, members, w)
            for n, o, w in _fields("member")
        ]
        self.caches = [
            Row(f"member.cache.{i}", word["members_offset"] + member + 8 * i, stride, members, 8)
            for i in range(word["cache_size"])
        ]
        self.queues = [
            Row(f"queue.{n}", word["queues_offset"] + o, queue, queues, w)
            for n, o, w in _fields("queue_slot")
        ]
        self.extents = Row("extent", word["extents_offset"], 8, word["extents"], 8)
        self.free_ring = Row("free ring", word["free_ring_offset"], 8, self.capacity, 8)
        self.rings = [
            Row(f"ring.{i}", word["rings_offset"] + (i - 1) * RING_SLOTS * 8, 8, 16, 8)
            for i in range(1, queues)
        ]
        self.buffers = [
            Row(f"buffer.{n}", word["headers_offset"] + o, buffer, self.capacity, w)
            for n, o, w in _fields("buffer")
        ]

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
            lambda: self.extents,
            lambda: self.free_ring,
            lambda: chance.choice(self.rings),
            lambda: chance.choice(self.buffers),
            lambda: self.buffers[0],
        )
        while True:
            row = chance.choice(kinds)()
            if row.count:
                return row

    def hot(self, chance: random.Random) -> Word:
        """Returns a word that the core decides by, of something that is in use."""
        rows = [
            (self.queues, "queue.queue.", 4),
            (self.queues, "queue.state", 4),
            (self.members, "member.", 4),
            (self.buffers, "buffer.", 20),
            ([self.free_ring], "free ring", 40),
            ([self.extents], "extent", 8),
        ]
        found, prefix, most = chance.choice(rows)
        row = chance.choice([r for r in found if r.name.startswith(prefix)] + found[:1])
        if "counters" in row.name or "base" in row.name or not row.count:
            return self.hot(chance)
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
        now = self.read(word)
        other = self.read(Word("", self.word(chance).offset // 8 * 8, word.width))
        found = chance.choice(
            (
                0,
                ALL_ONES,
                now + 1,
                now - 1,
                now ^ 1 << chance.randrange(8 * word.width),
                now ^ 1 << chance.randrange(8 * word.width),
                now + self.capacity,
                now - self.capacity,
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
                self.capacity,
            )
        )
        return found % (1 << 8 * word.width)

    def named(self, name: str) -> Word:
        """Returns the word of that name: of the header, of the pool, or of the first of many."""
        rows = [row.word(0) for row in (*self.members, *self.queues, *self.buffers)]
        return next(
            word
            for word in (*self.header, *self.shared, *rows)
            if word.name in (name, f"{name}[0]")
        )

    def fill(self, name: str, value: Callable[[int], int]) -> None:
        """Overwrites a word of every member, queue, buffer or slot with value(its number)."""
        every = [*self.members, *self.queues, *self.buffers, self.extents, self.free_ring]
        (row,) = [row for row in every if row.name == name]
        words = [value(i) % (1 << 8 * row.width) for i in range(row.count)]
        for i, word in enumerate(words):
            self.write(row.word(i), word)

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)
