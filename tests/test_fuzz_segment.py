# SPDX-License-Identifier: Apache-2.0
"""The fuzzer of live segments (fuzz_segment.py), with 500 trials. `make soak` runs more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MakePool

from tests.fuzz_words import Segment

ROOT = Path(__file__).resolve().parent.parent
RUNS, TRIALS = 5, 100


def test_every_word_has_its_place(make_pool: MakePool) -> None:
    """The overwritten words are where the core reads the words of that name."""
    pool = make_pool(capacity=64, prealloc=64)
    queue = pool.create_queue("a-queue", capacity=8)
    queue.send_many([b"x"] * 3)
    segment = Segment(f"/dev/shm/shmpool.{pool.name}")
    try:
        assert 64 == segment.read(segment.named("header.capacity"))
        (prod,) = [row for row in segment.queues if row.name == "queue.queue.prod"]
        assert 8 + 3 == segment.read(prod.word(1))
        (name,) = [row for row in segment.queues if row.name == "queue.name[0]"]
        assert ord("a") == segment.read(name.word(1))
        (length,) = [row for row in segment.buffers if row.name == "buffer.length"]
        assert [1] * 3 == [n for i in range(64) if (n := segment.read(length.word(i)))]
    finally:
        segment.close()


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
