# SPDX-License-Identifier: Apache-2.0
"""A reader of a topic that blocks is killed at any instruction: its writer goes on.

This is a sample of `make sweep`. It counts what the writer does, and prints how long it took.
"""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_kill_points import FLAGS, NATIVE, NO_PTRACE, ROOT

TESTS = ROOT / "tests" / "native"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="steps x86-64 processors only"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc"),
]


def build(directory: Path) -> Path:
    """Compiles the program."""
    program = directory / "held_up"
    sources = [TESTS / "held_up.c", TESTS / "kill_trace.c", *sorted(NATIVE.glob("*.c"))]
    command = ["gcc", *FLAGS, f"-I{NATIVE}", *map(str, sources), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return program


def test_a_dead_reader_holds_the_writer_up_for_one_sleep(tmp_path: Path) -> None:
    """Once the kernel knows of the death, the writer begins at most one more sleep, of 20 ms."""
    ran = subprocess.run(
        [build(tmp_path), "--most", "60"], capture_output=True, text=True, check=False, timeout=800
    )
    if ran.returncode == NO_PTRACE:
        pytest.skip(ran.stdout.strip())
    print(ran.stdout)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert re.search(r"^[1-9]\d* held the writer up", ran.stdout, re.MULTILINE)
