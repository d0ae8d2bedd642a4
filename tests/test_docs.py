# SPDX-License-Identifier: Apache-2.0
"""The generated pages say what the code says, and what is packaged can be used."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import room

ROOT = Path(__file__).resolve().parent.parent

pytest.importorskip("cattrs", reason="shmpool[daemon] is not installed")
pytest.importorskip("click", reason="shmpool[cli] is not installed")


@pytest.fixture
def generate() -> ModuleType:
    """docs/generate.py"""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["protocol.md", "cli.md", "config.md"])
def test_a_page_is_what_is_declared(generate: ModuleType, name: str) -> None:
    """The page is what docs/generate.py would write now."""
    assert generate.TEXTS[name]() == (ROOT / "docs" / name).read_text(), (
        "run: python docs/generate.py"
    )


@pytest.mark.skipif(room() < 2**28, reason="needs 256 MB in /dev/shm")
def test_the_example_configuration() -> None:
    """packaging/shmpool.toml can be used."""
    from shmpool import config

    found = config.load(ROOT / "packaging" / "shmpool.toml")
    assert {"work"} == set(found.pools["rx"].queues)


def test_the_units(tmp_path: Path) -> None:
    """systemd finds nothing wrong with the unit files."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in (ROOT / "packaging").glob("shmpool.s*"):
        text = unit.read_text().replace("/usr/bin/shmpool", sys.executable)
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        [analyze, "verify", "--man=no", *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (0, "") == (done.returncode, "".join(
        line for line in done.stderr.splitlines() if "shmpool" in line
    ))  # fmt: skip
