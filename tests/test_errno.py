# SPDX-License-Identifier: Apache-2.0
"""A sample of the sweep of errno_sweep.py, in which system calls fail. `make sweep` does all of
it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = 150
SEEDS = range(4)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a /dev/shm of its own"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
    pytest.mark.timeout(600),  # 8 s on an idle machine
]


@pytest.mark.parametrize("seed", SEEDS)
def test_each_failure_is_an_exception_of_ours(seed: int) -> None:
    """Whatever call fails with whatever errno, the operation succeeds or raises one of shmpool's
    exceptions.

    Repeated, it succeeds. The audit is clean, and nothing else is left.
    """
    pytest.importorskip("click", reason="shmpool[cli] is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.errno_sweep", "--sample", str(SAMPLE), "--seed", str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    assert (0, "") == (done.returncode, done.stderr), done.stdout
    assert f"{SAMPLE} of " in done.stdout
