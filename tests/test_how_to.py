# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/how-to: their code runs, and prints what they say."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEADLINE_S

HOW_TO = Path(__file__).resolve().parent.parent / "docs" / "how-to"
NEEDS = {"joblib.md": "joblib", "dataloader.md": "torch"}
PRINTS = {"joblib.md": "100 499500000.0\n", "dataloader.md": "100 4950\n" * 2}


def test_every_page_is_run() -> None:
    """The table above has each page of the folder."""
    assert set(NEEDS) == set(PRINTS) == {page.name for page in HOW_TO.iterdir()}


@pytest.mark.parametrize("page", NEEDS)
def test_a_page_runs(page: str, tmp_path: Path) -> None:
    """Its blocks of code, one after the other, are a program, which prints what the page says."""
    if importlib.util.find_spec(NEEDS[page]) is None:
        pytest.skip(f"{NEEDS[page]} is not installed")
    text = (HOW_TO / page).read_text()
    blocks = re.findall(r"^```python\n(.+?)^```", text, re.MULTILINE | re.DOTALL)
    script = tmp_path / "program.py"
    script.write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert (0, PRINTS[page]) == (done.returncode, done.stdout), done.stderr
    (said,) = re.findall(r"^It prints `([^`]+)`", text, re.MULTILINE)
    assert said == PRINTS[page].partition("\n")[0]
