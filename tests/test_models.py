# SPDX-License-Identifier: Apache-2.0
"""The Spin models of tests/models: each is searched whole, and each mutation of them is found.

What they cover, and what they do not, is in docs/models.md.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = Path(__file__).parent / "models"
DEPTH = 20_000  # steps of the longest run; a search that would go deeper says so and fails
MEMORY_MB = 4_000

MULTI = {"MULTI_PRODUCER": 1, "MULTI_CONSUMER": 1, "SIZE": 2, "REUSE": 0}
QUEUES = {
    "multi": MULTI
    | {"N0": 2, "N1": 1, "BUFFERS": 3, "CONSUMERS": 2, "RECOVERERS": 1, "CRASHES": 1},
    "multi-recoverers": MULTI
    | {"N0": 1, "N1": 1, "BUFFERS": 2, "CONSUMERS": 1, "RECOVERERS": 2, "CRASHES": 2},
    "multi-bulk": MULTI
    | {"N0": 2, "N1": 0, "BUFFERS": 2, "CONSUMERS": 1, "RECOVERERS": 2, "CRASHES": 2},
    "multi-claims": MULTI
    | {"N0": 0, "N1": 0, "BUFFERS": 3, "CONSUMERS": 2, "RECOVERERS": 2, "CRASHES": 2, "SIZE": 4},
    "reuse": MULTI
    | {"N0": 1, "N1": 0, "BUFFERS": 2, "CONSUMERS": 1, "RECOVERERS": 2, "CRASHES": 2, "REUSE": 1},
    "single-consumer": MULTI
    | {"N0": 2, "N1": 1, "BUFFERS": 3, "CONSUMERS": 1, "RECOVERERS": 2, "CRASHES": 2}
    | {"MULTI_CONSUMER": 0},
    "single-producer": MULTI
    | {"N0": 2, "N1": 1, "BUFFERS": 3, "CONSUMERS": 1, "RECOVERERS": 2, "CRASHES": 2}
    | {"MULTI_PRODUCER": 0},
}
# Enough for the ring to go round behind a void.
WIDE = QUEUES["multi"] | {"CONSUMERS": 1}

MUTATIONS = [
    ("OP_AFTER_CAS", WIDE),
    ("OWNER_AFTER_PUBLISH", WIDE),
    ("DONE_BEFORE_OWNER", QUEUES["multi-claims"]),
    ("NO_OP_COVER", WIDE),
    ("VOID_WITHOUT_CAS", WIDE),
    ("VOID_FORGOTTEN", WIDE),
    ("LAPPED_FORGOTTEN", WIDE),
    ("NO_SECOND_LOOK", QUEUES["multi-claims"]),
    ("OPS_BEFORE_CONS", QUEUES["multi-claims"]),
    ("NO_IDENTITY_CHECK", QUEUES["reuse"]),
    ("SLOT_BEFORE_OPS", QUEUES["single-consumer"]),
    ("VOID_FIRST", QUEUES["single-consumer"]),
    ("VOID_POSTPONED", QUEUES["single-consumer"]),
    ("LIVE_NOW", QUEUES["single-consumer"]),
    ("CONSUMER_ROLE_FIRST", QUEUES["single-consumer"]),
    ("ROLE_FIRST", QUEUES["single-producer"]),
]
CACHE_MUTATIONS = [
    "PURGE_FROM_OUTSIDE",
    "SPILL_UNCHECKED",
    "NO_GENERATION",
    "STOLEN_BEFORE_OWNER",
    "ROB_STORES",
    "STEAL_NO_BARRIER",
]

pytestmark = [
    pytest.mark.skipif(not shutil.which("spin"), reason="spin is not installed"),
    pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed"),
    pytest.mark.timeout(600),
]


def _search(model: str, options: dict[str, int], where: Path, level: str = "-O2") -> str:
    """What the verifier of one model, generated and compiled in where, says in the end."""
    defines = [f"-D{name}={value}" for name, value in options.items()]
    run = {"cwd": where, "capture_output": True, "text": True}
    made = subprocess.run(["spin", "-a", *defines, MODELS / f"{model}.pml"], **run)  # type: ignore[call-overload]
    assert 0 == made.returncode, made.stdout[-2000:]
    subprocess.run(
        [
            "gcc",
            level,
            "-w",
            "-DSAFETY",
            "-DCOLLAPSE",
            f"-DMEMLIM={MEMORY_MB}",
            "-o",
            "pan",
            "pan.c",
        ],
        check=True,
        **run,
    )  # type: ignore[call-overload]
    found = subprocess.run(["./pan", f"-m{DEPTH}", "-w22"], **run)  # type: ignore[call-overload]
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


def test_cache(tmp_path: Path) -> None:
    """A cache whose owner, thief and recoverers may die anywhere keeps each buffer once."""
    _whole(_search("cache", {"OPS": 4}, tmp_path))


@pytest.mark.parametrize(("mutation", "options"), MUTATIONS, ids=lambda x: x if str(x) == x else "")
def test_queue_mutation(mutation: str, options: dict[str, int], tmp_path: Path) -> None:
    """A step of the queue or of its recovery left out or moved breaks an assertion."""
    said = _search("queue", options | {f"MUTATE_{mutation}": 1}, tmp_path, "-O1")
    assert re.search(r"pan:1: assertion violated", said), said
    assert "errors: 1" in said


@pytest.mark.parametrize("mutation", CACHE_MUTATIONS)
def test_cache_mutation(mutation: str, tmp_path: Path) -> None:
    """A step of the cache or of its recovery left out or moved breaks an assertion."""
    said = _search("cache", {"OPS": 4, f"MUTATE_{mutation}": 1}, tmp_path, "-O1")
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
