# SPDX-License-Identifier: Apache-2.0
"""The memory orders of alf_queue.h and of topics, checked by Relacy (docs/memory-model.md).

RELACY_INTERLEAVINGS says how many interleavings of each scenario to run: a million if it is unset.
"""

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "tests" / "models" / "relacy"
INTERLEAVINGS = int(os.environ.get("RELACY_INTERLEAVINGS", "1000000"))
FEW = "20000"  # each weakened order below is found within 5,000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="needs g++"),
    pytest.mark.skipif(
        not Path("/usr/include/relacy/relacy.hpp").exists(), reason="needs relacy-dev"
    ),
    pytest.mark.timeout(1800),
]

# Events that must occur in a scenario: without them it tests nothing.
SCENARIOS = {
    "multi-multi": ["full", "empty", "lapped"],
    "multi-multi-bulk": ["full", "empty", "lapped"],
    "single-single": ["empty"],
    "single-multi": ["full", "empty", "lapped"],
    "multi-single": ["full", "empty", "lapped"],
    "laps-of-2": ["full", "empty", "lapped"],
    "laps-of-2-single": ["full", "empty", "lapped"],
    "laps-of-4": ["full", "empty", "lapped"],
    "cycle": ["empty", "lapped"],
    "cycle-bulk": ["empty", "lapped"],
    "sleep-empty": ["slept"],
    "sleep-empty-single": ["slept"],
    "sleep-full": ["slept"],
    "sleep-full-single": ["slept"],
    "dead-producer": ["killed", "buried", "swept", "postponed"],
    "dead-producer-bulk": ["killed", "buried", "swept", "postponed"],
    "dead-producer-single": ["killed", "buried", "swept", "postponed"],
    "dead-consumer": ["killed", "swept", "postponed"],
    "dead-consumer-bulk": ["killed", "swept", "postponed"],
    "dead-consumer-single": ["killed", "swept"],
    "topic": ["lapped", "received", "evicted", "stayed"],
    "topic-readers": ["lapped", "received", "evicted", "stayed"],
    "topic-dead-reader": ["lapped", "received", "evicted", "stayed", "killed", "swept"],
}

# One order weakened, as on the command line, and the scenario that shows that it is needed.
NEEDED = {
    "store slot relaxed alf_publish": "multi-multi",
    "store slot relaxed store_run_release": "multi-multi-bulk",
    "load slot relaxed alf_read": "multi-multi",
    "load slot relaxed load_run_acquire": "multi-multi-bulk",
    "load slot relaxed alf_read_each": "cycle",
    "store cons relaxed alf_move": "laps-of-2-single",
    "store cons release alf_move": "sleep-full-single",
    "store prod relaxed alf_move": "sleep-empty-single",
    "store prod release alf_move": "sleep-empty-single",
    "store limit relaxed alf_reserve": "laps-of-2",
    "load limit relaxed alf_reserve": "laps-of-2",
    "load prod relaxed alf_reserve": "cycle",
    "load cons relaxed alf_reserve": "laps-of-2",
    "load cons relaxed alf_count": "single-single",
    "cas prod acquire alf_reserve": "cycle",
    "cas prod acq_rel alf_reserve": "sleep-empty",
    "cas cons acquire alf_claim": "cycle",
    "cas cons acq_rel alf_claim": "sleep-full",
    "store op relaxed alf_done": "dead-consumer",
    "load prod relaxed ranges_bury": "dead-producer",
    "load cons relaxed sweep": "dead-consumer",
    "cas slot acquire make_tombstone": "dead-producer",
    "load cons acquire operator()": "sleep-full",
    "load prod acquire operator()": "sleep-empty",
    "load wait acquire": "sleep-empty",
    "cas wait acq_rel": "sleep-empty",
    "store slot relaxed topic_publish": "topic",
    "load slot relaxed get": "topic",
    "cas hold acquire let_go": "topic",
    "cas hold release let_go": "topic",
    "cas hold release evict": "topic",
    "store owner relaxed topic_publish": "topic-dead-reader",
    "load owner relaxed forsaken": "topic-dead-reader",
    "cas hold acquire forsaken": "topic-dead-reader",
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the program with the scenarios, compiled once for all workers of xdist."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    program = shared / "relacy-models"
    with (shared / "relacy-models.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            made = shared / "relacy-models.new"
            command = ["g++", "-std=gnu++17", "-O2", "-Wall", "-Wextra", "-Werror"]
            command += [f"-I{MODELS}", f"-I{ROOT / 'shmpool' / 'native'}"]
            command += [str(MODELS / "models.cpp"), "-o", str(made)]
            built = subprocess.run(command, capture_output=True, text=True, check=False)
            assert built.returncode == 0, built.stderr
            made.rename(program)
    return program


def run(models: Path, *arguments: str) -> tuple[bool, str]:
    """Returns whether nothing was found, and the output."""
    done = subprocess.run(
        [models, *arguments], capture_output=True, text=True, errors="replace", check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0, done.stdout


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, models: Path) -> None:
    """In no interleaving of four threads is there a race, a loss, a double or a wrong recovery."""
    clean, printed = run(models, scenario, str(INTERLEAVINGS))
    assert clean, printed[:20000]
    assert f"iterations: {INTERLEAVINGS}\n" in printed
    happened = dict(re.findall(r"^(\w+) (\d+)$", printed, re.MULTILINE))
    for event in SCENARIOS[scenario]:
        assert int(happened[event]) > INTERLEAVINGS // 1000, event
    print(f"{scenario}: {INTERLEAVINGS} interleavings", happened)


@pytest.mark.parametrize("weakened", NEEDED)
def test_weakened_order_is_found(weakened: str, models: Path) -> None:
    """With one order weakened the scenario fails."""
    clean, printed = run(models, NEEDED[weakened], FEW, "--weaken", *weakened.split())
    assert not clean
    assert "execution history" in printed


def test_every_scenario_is_run(models: Path) -> None:
    """The program has the scenarios that are listed here."""
    listed = subprocess.run([models, "list"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == list(SCENARIOS)
