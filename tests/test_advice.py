# SPDX-License-Identifier: Apache-2.0
"""What the test suite prints: advice under a failed test, and which quick test is slow."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import advice
import processor_time
import pytest

FAILS = """
import subprocess

def test_good():
    pass

def test_bad(tmp_path):
    (tmp_path / "log").touch()
    subprocess.run(["no-such-compiler"])

def test_worse():
    import no_such_module
"""


LEAVES = """
import gc
import subprocess

def test_bad():
    process = subprocess.Popen(["sleep", "1000"], stdout=subprocess.PIPE)
    assert 0 == process.pid

def test_good():
    gc.collect()
"""


def test_one_failure_is_one_failure(tmp_path: Path) -> None:
    """The process that a failed test has left is ended, and does not fail the next test."""
    (tmp_path / "test_sample.py").write_text(LEAVES)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "--tb=short"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tests}:{tests.parent}"},
    )
    assert "1 failed, 1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    (pid,) = set(re.findall(r"assert 0 == (\d+)", done.stdout))
    assert not Path(f"/proc/{pid}").exists()


def test_a_failure_says_what_to_do(tmp_path: Path) -> None:
    """It says how to run the test alone, which works; where its files are; what to install."""
    (tmp_path / "test_sample.py").write_text(FAILS)
    (tmp_path / "pytest.ini").touch()

    def run(*arguments: str) -> str:
        return subprocess.run(
            arguments,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ
            | {"PYTHONPATH": str(Path(__file__).parent), "PYTEST_ADDOPTS": "-p advice"},
        ).stdout

    printed = run(sys.executable, "-m", "pytest")
    assert "2 failed, 1 passed" in printed
    assert 2 == printed.count(advice.TITLE)
    assert "Install the program no-such-compiler: make tools, as root" in printed
    assert "Install the module no_such_module: make .venv/.dev" in printed
    (directory,) = re.findall("See the files that it wrote: (.+)", printed)
    assert ["log"] == os.listdir(directory)
    first, second = re.findall("Run it alone: (.+)", printed)
    assert second.endswith("test_sample.py::test_worse")
    assert "1 failed in" in run(*shlex.split(first))


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({"a.so": 1, "b.c": 2}, ["Build the extension, which is older than b.c: pip install -e ."]),
        ({"a.so": 2, "b.c": 1}, []),
        ({"b.c": 1}, []),
    ],
)
def test_an_old_extension(tmp_path: Path, times: dict[str, int], said: list[str]) -> None:
    """A failure names the source that is newer than the tested extension."""
    for name, time in times.items():
        path = tmp_path / ("_native.a.so" if name == "a.so" else f"native/{name}")
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (time, time))
    assert said == advice.outdated(tmp_path)


def test_the_share_of_a_quick_test() -> None:
    """A quick test that takes too large a share is named, on a machine of any speed."""
    for speed in (0.1, 1, 10):
        seconds = {str(i): 9 * speed for i in range(10)}
        assert [] == processor_time.over(seconds)
        (said,) = processor_time.over(seconds | {"long": 11 * speed})
        assert said.startswith("long takes")
        assert said.endswith("mark it with @pytest.mark.slow")
