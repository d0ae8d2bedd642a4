# SPDX-License-Identifier: Apache-2.0
"""The Spin models of tests/models: each is searched whole, and each mutation of them is found.

What they cover, and what they do not, is in docs/models.md. With SHMPOOL_MODELS=long in the
environment the largest are searched too, for some minutes each, with up to 12 GB of memory.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = Path(__file__).parent / "models"
DEPTH = 40_000  # steps of the longest run; a search that would go deeper says so and fails
MEMORY_MB, LONG_MEMORY_MB = 6_000, 12_000


def _queue(n0: int, n1: int, buffers: int, consumers: int, **other: int) -> dict[str, int]:
    """Options of queue.pml: bulks of the producers, all buffers, consumers, and what differs."""
    usual = {"MULTI_PRODUCER": 1, "MULTI_CONSUMER": 1, "SIZE": 2, "RECOVERERS": 2, "CRASHES": 2}
    kinds = {"REUSE": 0, "HAND_ON": 0}
    return {"N0": n0, "N1": n1, "BUFFERS": buffers, "CONSUMERS": consumers} | usual | kinds | other


QUEUES = {
    "multi": _queue(2, 1, 3, 1, RECOVERERS=1, CRASHES=1),
    "reserves": _queue(1, 1, 2, 0, CRASHES=3),
    "reserves-bulk": _queue(2, 1, 3, 0, CRASHES=3),
    "bulk": _queue(2, 0, 2, 1),
    "claims": _queue(0, 0, 3, 2, CRASHES=3, SIZE=4),
    "reuse": _queue(1, 0, 2, 1, REUSE=1),
    "single-consumer-bulk": _queue(2, 0, 2, 1, MULTI_CONSUMER=0),
    "single-consumers": _queue(0, 0, 3, 2, SIZE=4, MULTI_CONSUMER=0),
    "single-producers": _queue(1, 1, 2, 1, MULTI_PRODUCER=0),
    "hand-on": _queue(0, 0, 2, 2, MULTI_CONSUMER=0, HAND_ON=1),
}
LONG = {
    "multi-consumers": _queue(2, 1, 3, 2, RECOVERERS=1, CRASHES=1),
    "single-consumer": _queue(2, 1, 3, 1, MULTI_CONSUMER=0),
    "single-producers-bulk": _queue(2, 1, 3, 1, MULTI_PRODUCER=0),
    "two-of-everything": _queue(2, 1, 3, 2, MERGED=1, SEQUENTIAL=1),
}

MUTATIONS = [
    ("OP_AFTER_CAS", QUEUES["multi"]),
    ("OWNER_AFTER_PUBLISH", QUEUES["multi"]),
    ("PUBLISHING_LATE", QUEUES["multi"]),
    ("DONE_BEFORE_OWNER", QUEUES["claims"]),
    ("CERTAIN_WITHOUT_PUBLISH", QUEUES["multi"]),
    ("NEVER_CERTAIN", QUEUES["multi"]),
    ("PUBLISHED_TOO", QUEUES["bulk"]),
    ("NO_OP_COVER", QUEUES["multi"]),
    ("NO_SECOND_LOOK", _queue(1, 1, 2, 1)),
    ("UNRESERVE_AFTER_TOMBSTONES", LONG["single-consumer"]),
    ("UNRESERVE_TO_THE_DEAD", QUEUES["reserves"]),
    ("TOMBSTONES_OF_POSTPONED_RANGE", LONG["single-consumer"]),
    ("TOMBSTONE_WITHOUT_CAS", QUEUES["multi"]),
    ("TOMBSTONE_FORGOTTEN", QUEUES["multi"]),
    ("OPS_BEFORE_CONS", QUEUES["claims"]),
    ("CLAIM_FORGOTTEN", QUEUES["claims"]),
    ("LOST_TO_LEAVE", QUEUES["hand-on"]),
    ("LIVE_NOW", QUEUES["reserves"]),
    ("NO_IDENTITY_CHECK", QUEUES["reuse"]),
    ("ROLE_BEFORE_PROD", QUEUES["single-producers"]),
    ("CONSUMER_ROLE_FIRST", LONG["single-consumer"]),
    ("ROLES_BEFORE_SWEEP", QUEUES["single-consumers"]),
    ("NO_OP_COVER", LONG["two-of-everything"]),
    ("CLAIM_FORGOTTEN", LONG["two-of-everything"]),
]
CACHE_MUTATIONS = [
    "PURGE_FROM_OUTSIDE",
    "FLUSH_UNCHECKED",
    "NO_GENERATION",
    "STOLEN_BEFORE_OWNER",
    "STEAL_STORES",
    "STEAL_NO_BARRIER",
]
IS_LONG = os.environ.get("SHMPOOL_MODELS") == "long"

pytestmark = [
    pytest.mark.skipif(not shutil.which("spin"), reason="spin is not installed"),
    pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed"),
    pytest.mark.timeout(600),
]


def _search(model: str, options: dict[str, int], where: Path, long: bool = False) -> str:
    """What the verifier of one model, generated and compiled in where, says in the end."""
    defines = [f"-D{name}={value}" for name, value in options.items()]
    run = {"cwd": where, "capture_output": True, "text": True}
    made = subprocess.run(["spin", "-a", *defines, MODELS / f"{model}.pml"], **run)  # type: ignore[call-overload]
    assert 0 == made.returncode, made.stdout[-2000:]
    subprocess.run(
        [
            "gcc",
            "-O2" if long else "-O1",
            "-w",
            "-DSAFETY",
            "-DCOLLAPSE",
            f"-DMEMLIM={LONG_MEMORY_MB if long else MEMORY_MB}",
            "-o",
            "pan",
            "pan.c",
        ],
        check=True,
        **run,
    )  # type: ignore[call-overload]
    hashed = "-w26" if long else "-w22"
    found = subprocess.run(["./pan", f"-m{DEPTH}", hashed], **run)  # type: ignore[call-overload]
    said: str = found.stdout + found.stderr
    states = re.search(r"([\d.e+]+) states, stored", said)
    seconds = re.search(r"elapsed time ([\d.]+)", said)
    assert states, said
    print(f"{model} {options}: {states[1]} states, {seconds[1] if seconds else '?'} s")
    assert "max search depth too small" not in said
    return said


def _whole(said: str) -> None:
    assert "errors: 0" in said, said
    assert "Search not completed" not in said, said
    assert "truncated" not in said, said


@pytest.mark.parametrize("name", QUEUES)
def test_queue(name: str, tmp_path: Path) -> None:
    """No crash at any step loses a buffer, doubles it, reorders it or stops the queue."""
    _whole(_search("queue", QUEUES[name], tmp_path))


@pytest.mark.skipif(not IS_LONG, reason="takes minutes: SHMPOOL_MODELS=long")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", LONG)
def test_queue_long(name: str, tmp_path: Path) -> None:
    """The same with more members and buffers at once."""
    _whole(_search("queue", LONG[name], tmp_path, long=True))


def test_cache(tmp_path: Path) -> None:
    """A cache whose owner, thief and recoverers may die anywhere keeps each buffer once."""
    _whole(_search("cache", {"OPS": 4}, tmp_path))


@pytest.mark.parametrize(("mutation", "options"), MUTATIONS, ids=lambda x: x if str(x) == x else "")
def test_queue_mutation(mutation: str, options: dict[str, int], tmp_path: Path) -> None:
    """A step of the queue or of its recovery left out or moved breaks an assertion."""
    said = _search("queue", options | {f"MUTATE_{mutation}": 1}, tmp_path)
    assert re.search(r"pan:1: assertion violated", said), said
    assert "errors: 1" in said


@pytest.mark.parametrize("mutation", CACHE_MUTATIONS)
def test_cache_mutation(mutation: str, tmp_path: Path) -> None:
    """A step of the cache or of its recovery left out or moved breaks an assertion."""
    said = _search("cache", {"OPS": 4, f"MUTATE_{mutation}": 1}, tmp_path)
    assert re.search(r"pan:1: assertion violated", said), said
    assert "errors: 1" in said


def test_every_mutation_is_looked_for() -> None:
    """Every MUTATE_ name in the models is in a list here."""
    named = {
        name
        for path in MODELS.glob("*.pml")
        for name in re.findall(r"MUTATE_(\w+)", path.read_text())
    }
    assert named == {name for name, _ in MUTATIONS} | set(CACHE_MUTATIONS)
