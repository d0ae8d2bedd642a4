# SPDX-License-Identifier: Apache-2.0
"""clients.pipeline: jobs pass through stages whose workers are killed."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clients.pipeline import JOB, result

ROOT = Path(__file__).resolve().parent.parent


def start(*arguments: object) -> "subprocess.Popen[str]":
    """Starts the program in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "clients.pipeline", "--quiet", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Waits until the program ends. Checks that its pool is gone, and ends what it left."""
    segment = Path(f"/dev/shm/shmpool.pipeline-{process.pid}")
    try:
        out, err = process.communicate(timeout=500)
        assert not segment.exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        segment.unlink(missing_ok=True)
    return process.returncode, out, err


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_workers(workers: int) -> None:
    """Each job comes out once and right, although workers of all stages are killed."""
    process = start("--jobs", 3000, "--kills", 12, "--workers", workers, "--seed", workers)
    code, out, err = finish(process)
    assert (0, "") == (code, err)
    found = re.search(r"([\d,]+) +│ ([\d,]+) +│ (\d+) +│ (\d+) +│ (\d+) +│ ok", out)
    assert found, out
    assert ("3,000", "3,000", "0", "12") == found.groups()[:4]
    assert re.search(r"[\d,]+ jobs/s through 3 stages", out)


def test_interrupted() -> None:
    """Ctrl-C ends the program and its workers, and leaves no pool."""
    process = start("--jobs", 10_000_000, "--kills", 0)
    segment = Path(f"/dev/shm/shmpool.pipeline-{process.pid}")
    while not segment.exists() and process.poll() is None:
        pass
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert 1 == code, err
    assert "\nAborted!\n" == err


def test_refused() -> None:
    """A number that is not allowed is named, with what is."""
    code, _, err = finish(start("--kills", -1))
    assert 2 == code
    assert "-1 is not in the range 0<=x<=10000" in err


def test_result() -> None:
    """The result of a job is what its three stages must write."""
    number, square, digits, check = result(12)
    assert (12, 144, 9) == (number, square, digits)
    assert JOB.pack(12, 144, 9, check)[:8] == b"\x0c" + bytes(7)
