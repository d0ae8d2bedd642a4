# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/: their code runs, and prints what they say."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEADLINE_S
from pages import blocks, run_page

DOCS = Path(__file__).resolve().parent.parent / "docs"
HOW_TO = DOCS / "how-to"
# These are programs with workers that import them.
NEEDS = {"joblib.md": "joblib", "dataloader.md": "torch"}
PRINTS = {"joblib.md": "100 499500000.0\n", "dataloader.md": "100 4950\n" * 2}


PAGES = ["tutorial.md", "at-a-glance.md", "concepts.md", "recovery.md"]
PAGES += sorted(f"how-to/{page.name}" for page in HOW_TO.iterdir() if page.name not in NEEDS)


def test_every_how_to_has_code() -> None:
    """Each page of the folder has blocks that run, and shows what some of them print."""
    assert set(NEEDS) == set(PRINTS)
    for page in HOW_TO.iterdir():
        languages = {language for language, _ in blocks(page)}
        assert {"python"} <= languages, page.name
        assert page.name in NEEDS or "text" in languages, page.name


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_code_of_a_page(page: str, tmp_path: Path) -> None:
    """All its blocks run, one after the other, and print what the page shows."""
    pytest.importorskip("numpy")
    pytest.importorskip("click", reason="shmpool[cli] is not installed")
    run_page(DOCS / page, tmp_path)


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
