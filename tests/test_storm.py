# SPDX-License-Identifier: Apache-2.0
"""The storm (storm.py), 2,000 kills of it: packets of each size, with and without a driver that
recovers. `make soak` runs more.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import room

ROOT = Path(__file__).resolve().parent.parent
KILLS = 250
RUNS = [(size, how) for size in (64, 1500, 65536, 1 << 20) for how in ("driver", "survivors")]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "recovers"), RUNS)
def test_nothing_is_lost_doubled_or_stuck(
    size: int, recovers: str, record_property: Callable[[str, object], None]
) -> None:
    """Workers killed and stopped at random: per-producer order, no duplicate, no loss but what the
    dead held under "free", contents intact, audits exact, and everything free in the end; whether
    somebody recovers after each kill or the survivors have to notice."""
    if size == 1 << 20 and room() < 1 << 28:
        pytest.skip("needs 256 MB in /dev/shm")
    run = [sys.executable, "-W", "error", "-m", "tests.storm", "--json", "--kills", str(KILLS)]
    run += ["--size", str(size), "--seed", str(size), "--workers", "6"]
    run += ["--nobody-recovers"] if recovers == "survivors" else []
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert 0 == done.returncode, done.stderr
    figures = json.loads(done.stdout)
    print(f"{size} bytes, the {recovers} recover:", json.dumps(figures))
    for key, value in figures.items():
        record_property(key, value)
    assert (KILLS, 0) == (figures["kills"], figures["failures"])
    assert figures["packets"] > KILLS
