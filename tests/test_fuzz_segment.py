# SPDX-License-Identifier: Apache-2.0
"""The fuzzer of live segments (fuzz_segment.py), with 500 trials. `make soak` runs more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MakePool

from tests.fuzz_words import Row, Segment

ROOT = Path(__file__).resolve().parent.parent
RUNS, TRIALS = 5, 100


def test_every_word_has_its_place(make_pool: MakePool) -> None:
    """The overwritten words are where the core reads the words of that name."""
    pool = make_pool(capacity=64, prealloc=64)
    queue = pool.create_queue("a-queue", capacity=8)
    queue.send_many([b"x"] * 3)
    segment = Segment(f"/dev/shm/shmpool.{pool.name}")
    try:
        assert 64 == segment.read(segment.named("header.class[0].capacity"))
        (prod,) = [row for row in segment.queues if row.name == "queue.queue.prod"]
        assert 8 + 3 == segment.read(prod.word(1))
        (name,) = [row for row in segment.queues if row.name == "queue.name[0]"]
        assert ord("a") == segment.read(name.word(1))
        (length,) = [row for row in segment.buffers if row.name == "buffer.length"]
        assert [1] * 3 == [n for i in range(64) if (n := segment.read(length.word(i)))]
    finally:
        segment.close()


def test_every_word_of_each_size_class(make_pool: MakePool) -> None:
    """The words of a size class are where the core reads those of that class."""
    sizes, capacity, prealloc = [64, 256, 4096, 1 << 20], [64, 32, 16, 8], [64, 16, 0, 0]
    cache_size = [0, 16, 16, 0]
    pool = make_pool(
        buffer_size=sizes, capacity=capacity, prealloc=prealloc, cache_size=cache_size, bulk=16
    )
    held = [pool.alloc(size=size) for size in sizes for _ in range(3)]
    for buf, length in zip(held, range(1, 13), strict=True):
        buf.length = length
    pool.trim(0)
    segment = Segment(f"/dev/shm/shmpool.{pool.name}")
    try:
        assert [(0, 64), (64, 32), (96, 16), (112, 8)] == [
            (c.first, c.capacity) for c in segment.classes
        ]
        for one, stats in zip(segment.classes, pool.stats().sizes, strict=True):
            (length,) = [row for row in one.buffers if row.name == "buffer.length"]
            at = 3 * segment.classes.index(one) + 1
            assert [at, at + 1, at + 2] == sorted(filter(None, read_all(segment, length)))
            present = read_all(segment, one.extents).count(2**64 - 1)
            grown = stats.created - prealloc[segment.classes.index(one)]
            assert bool(present) == bool(grown)
            positions = [segment.named(f"queue.queue.{end}", one) for end in ("prod", "cons")]
            prod, cons = map(segment.read, positions)
            assert stats.free == prod - cons
            (tag,) = [row for row in one.members if row.name == "member.tag"]
            assert segment.read(segment.named("member.tag")) == segment.read(tag.word(0))
            (top,) = [row for row in one.members if row.name == "member.cache_top"]
            assert stats.cached <= segment.read(top.word(0))
    finally:
        segment.close()


def read_all(segment: Segment, row: Row) -> list[int]:
    return [segment.read(row.word(i)) for i in range(row.count)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(RUNS))
def test_corrupted_words_harm_no_process(seed: int) -> None:
    """Workers, a command line and a daemon use a corrupted pool: none dies, hangs, grows or takes
    long.

    A healthy pool beside it is not affected.
    """
    run = [sys.executable, "-W", "error", "-m", "tests.fuzz_segment"]
    run += ["--trials", str(TRIALS), "--seed", str(seed)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    assert (TRIALS, 0) == (json.loads(done.stdout)["trials"], json.loads(done.stdout)["failures"])
