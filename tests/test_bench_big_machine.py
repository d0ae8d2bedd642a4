# SPDX-License-Identifier: Apache-2.0
"""clients/bench/big_machine.py: its steps, and its check of pinned memory where there is no GPU."""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clients.bench import big_machine
from clients.bench.big_machine import ROOT, Steps


@pytest.fixture
def steps() -> Steps:
    return Steps(io.StringIO())


def test_step(steps: Steps) -> None:
    """The output of a step is returned and logged."""
    assert "42\n" == steps.run(sys.executable, "-c", "print(42)")
    assert isinstance(steps.log, io.StringIO)
    assert "42\n" in steps.log.getvalue()
    assert not steps.failed


def test_step_that_fails(steps: Steps) -> None:
    """A step that is needed makes the whole fail; another one does not."""
    command = (sys.executable, "-c", "raise SystemExit('broken')")
    assert steps.run(*command, needed=False) is None
    assert not steps.failed
    assert steps.run(*command) is None
    assert steps.failed


def test_step_that_takes_too_long(steps: Steps) -> None:
    """It is asked to end, and killed if it does not listen; what it printed is kept."""
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); "
    steps.end = time.monotonic() + 1000
    assert steps.run(sys.executable, "-c", stubborn + "time.sleep(1000)", most=2) is None
    assert isinstance(steps.log, io.StringIO)
    assert "1\n\nended after 2 s" in steps.log.getvalue()
    steps.end = time.monotonic()
    assert steps.run(sys.executable, "-c", "print(2)") is None
    assert "no time is left for it" in steps.log.getvalue()


def test_pinned_memory(steps: Steps, tmp_path: Path) -> None:
    """Without a GPU the check says that there is none, and does not measure."""
    words = big_machine.pinned(steps, tmp_path)
    found = json.loads((tmp_path / "pinned.json").read_text())
    if found["state"] != "unavailable":
        pytest.skip("this machine has a GPU")
    assert not steps.failed
    assert f"unavailable, 0 bytes: {found['reason']}" == words
    assert "gpu_frames" not in found


def test_usage() -> None:
    """Without arguments the script says what it does, and does nothing."""
    program = ROOT / "clients" / "bench" / "big_machine.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert 2 == done.returncode
    assert "Within five minutes" in done.stderr
