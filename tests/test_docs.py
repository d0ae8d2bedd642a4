# SPDX-License-Identifier: Apache-2.0
"""The generated pages match the code, and the packaged files can be used."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from conftest import DEADLINE_S
from test_growth import small_shm

ROOT = Path(__file__).resolve().parent.parent

pytest.importorskip("aiohttp", reason="shmpool[daemon] is not installed")
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


GENERATED = ["protocol.md", "cli.md", "config.md", "headers.md", "metrics.md", "layout.md"]


@pytest.mark.parametrize("name", GENERATED)
def test_a_page_is_up_to_date(generate: ModuleType, name: str) -> None:
    """The page is what docs/generate.py would write now."""
    assert set(generate.TEXTS) == set(GENERATED)
    assert generate.TEXTS[name]() == (ROOT / "docs" / name).read_text(), (
        "run: python docs/generate.py"
    )


def test_the_example_configuration() -> None:
    """packaging/shmpool.toml can be used."""
    from shmpool.service import config

    found = config.load(ROOT / "packaging" / "shmpool.toml")
    assert {"work"} == set(found.pools["rx"].queue)


def test_the_example_of_the_readme(tmp_path: Path) -> None:
    """It is the program of `shmpool demo`, has a dozen lines, and prints what the README says."""
    program = (ROOT / "packaging" / "example.py").read_text()
    readme = (ROOT / "README.md").read_text()
    assert f"\n```python\n{program}```\n" in readme
    assert len([line for line in program.splitlines() if line.strip()]) <= 12
    (said,) = re.findall(r"^It prints `([^`]+)`", readme, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-m", "shmpool", "demo"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=DEADLINE_S,
    )
    assert (0, f"{program}prints\n{said}\n") == (done.returncode, done.stdout), done.stderr


def test_commands_that_create_pools(run: Callable[..., str]) -> None:
    """The commands of README and help that create a pool, and the packaged configuration, do so in
    a container's /dev/shm."""
    from shmpool.cli.main import shmpool as group

    readme = (ROOT / "README.md").read_text()
    create = re.findall(r"^ +shmpool (create .+)", readme, re.MULTILINE)
    script = """
    import json, shlex, sys
    from pathlib import Path
    import shmpool
    from shmpool.service import config, handlers
    from shmpool.cli.main import shmpool as cli
    creations, packaged = json.loads(sys.argv[1])
    for line in creations:
        arguments = [*shlex.split(line), "--direct", "--json"]
        assert cli.main(arguments, standalone_mode=False) is None
        shmpool.Pool.unlink("rx")
    for name, options in config.load(Path(packaged)).pools.items():
        handlers.create_pool(name, options, options.queue, options.topic)
        pool = shmpool.Pool.attach(name)
        assert pool.alloc_many(16384).free() is None  # half of what it may grow to
    """
    assert group.epilog is not None
    creations = [*create, group.epilog.partition("shmpool ")[2]]
    assert 2 == len(creations)
    given = [creations, str(ROOT / "packaging" / "shmpool.toml")]
    run(script, json.dumps(given), prefix=small_shm("64m"))


def links(document: Path) -> list[str]:
    """The targets of a document's links and pictures in this repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    return [target for target in targets if "://" not in target]


def anchors(document: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "name", ["README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
)
def test_links_lead_somewhere(name: str) -> None:
    """Each link of a page leads to a file of the repository, and to a title that this has."""
    document = ROOT / name
    for target in links(document):
        path, _, title = target.partition("#")
        found = document.parent / path if path else document
        assert found.exists(), f"{name} links to {target}"
        assert not title or title in anchors(found), f"{name} links to {target}"


def test_the_readme_leads_to_every_page() -> None:
    """It links to each page of docs/, or to its folder, and names no page without a link."""
    targets = [ROOT / target.partition("#")[0] for target in links(ROOT / "README.md")]
    for page in (ROOT / "docs").rglob("*.md"):
        assert page in targets or page.parent in targets, f"no link to {page}"
    text = (ROOT / "README.md").read_text()
    assert [] == re.findall(r"`(?:docs/)?[\w/-]+\.md`", text)


def test_documents_name_commands_that_exist() -> None:
    """Each `make x`, `shmpool x` and `python -m x` of the documents exists."""
    from shmpool.cli.main import MODULES

    code = [
        code
        for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
        for code in re.findall(r"`([^`]+)`|^ {4}(\S.*)$", path.read_text(), re.MULTILINE)
    ]
    text = "\n".join(quoted or shown for quoted, shown in code)
    targets = re.findall(r"^([\w/-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for pattern, known in (
        (r"^make +([\w/-]+)", targets),
        (r"(?:^|  )shmpool ([a-z][a-z-]+)", MODULES),
    ):
        named = set(re.findall(pattern, text, re.MULTILINE))
        assert named
        assert set() == named - set(known)
    modules = set(re.findall(r"python3? -m ((?:shmpool|tests|clients)[\w.]*)", text))
    assert "shmpool" in modules
    assert set() == {name for name in modules if importlib.util.find_spec(name) is None}


def test_make_help_names_every_target() -> None:
    """`make help` prints the head of the Makefile, which names each target that is to be called."""
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    done = subprocess.run(
        ["make", "-s", "help"], capture_output=True, text=True, cwd=ROOT, timeout=DEADLINE_S
    )
    assert (0, "") == (done.returncode, done.stderr)
    named = set(re.findall(r"(?<=make )[a-z0-9-]+|bench-[a-z-]+", done.stdout))
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):(?!=)", makefile, re.MULTILINE))
    assert targets == set(phony.replace("\\", "").split())
    assert set() == targets - named - {"all"}


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


def test_what_no_test_takes() -> None:
    """docs/coverage.md names functions that exist; `make coverage` finds those it does not name."""
    text = (ROOT / "docs" / "coverage.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", text, re.MULTILINE)
    assert rows
    wrong = []
    for file, functions in rows:
        source = (ROOT / file).read_text()
        definition = r"\bdef {}\(" if file.endswith(".py") else r"^\w[^;{{}}=]*\b{}\([^;]*?\)\n\{{"
        wrong += [
            f"{file}: {name}"
            for name in re.findall(r"`([^`]+)`", functions)
            if name != "<module>"
            and not re.search(definition.format(name.rpartition(".")[2]), source, re.MULTILINE)
        ]
    assert [] == wrong
