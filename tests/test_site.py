# SPDX-License-Identifier: Apache-2.0
"""The site of the documentation: every page is in it, and it is built without a warning."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_every_page_has_a_place() -> None:
    """The navigation of mkdocs.yml has each page of docs/. docs/site_pages.py lists decisions."""
    listed = set(re.findall(r"([\w/-]+\.md)\b", (ROOT / "mkdocs.yml").read_text()))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    pages = {page for page in pages if not page.startswith("decisions/")}
    written = {"index.md", "api.md", "architecture.md", "contributing.md", "changelog.md"}
    assert set() == pages - listed
    assert written == listed - pages


@pytest.mark.slow
def test_the_site(tmp_path: Path) -> None:
    """mkdocs builds it with --strict. Links and pictures of the README work there too, and the
    reference has docstrings of Python and of C."""
    if importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed")
    command = ("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path))
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "true"},
        timeout=110,
    )
    assert (0, "") == (done.returncode, done.stdout + done.stderr)
    home = (tmp_path / "index.html").read_text()
    assert '<img alt="Producers and consumers' in home
    assert 'href="tutorial/"' in home
    assert 'href="docs/' not in home
    reference = (tmp_path / "api" / "index.html").read_text()
    for text in (
        "Takes the oldest Buffer.",
        "One buffer of a pool, owned by this process.",
        "Every packet that an interface receives",
        "Bits of the column layers.",
    ):
        assert text in reference
    for page, text in (("metrics", "shmpool_queue_depth"), ("layout", "struct queue_slot")):
        assert text in (tmp_path / page / "index.html").read_text()
    for page in tmp_path.rglob("*.html"):
        assert "fonts.googleapis" not in page.read_text(), page
