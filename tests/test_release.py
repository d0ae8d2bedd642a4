# SPDX-License-Identifier: Apache-2.0
"""What a release is made with: .ci/release, .ci/sbom, .ci/share and the workflow of the wheels."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import shmpool

ROOT = Path(__file__).resolve().parent.parent
SHELLS = {
    "bash": "bash-completion/completions/shmpool",
    "zsh": "zsh/site-functions/_shmpool",
    "fish": "fish/vendor_completions.d/shmpool.fish",
}


def run(*command: object, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environ},
        timeout=110,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with what .ci/release changes, all of it committed."""
    tree = tmp_path / "tree"
    for name in (".ci/release", ".ci/sbom", "shmpool/__init__.py", "CHANGELOG.md", ".gitignore"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    settings = ("-c", "user.name=A Test", "-c", "user.email=test@example.org")
    for command in (("init", "-q"), ("add", "-A"), (*settings, "commit", "-qm", "Start")):
        done = run("git", *command, cwd=tree)
        assert done.returncode == 0, done.stderr
    return tree


AUTHOR = {
    f"GIT_{who}_{what}": text
    for who in ("AUTHOR", "COMMITTER")
    for what, text in (("NAME", "A Test"), ("EMAIL", "test@example.org"))
}


def test_a_release(checkout: Path) -> None:
    """It writes the version and the date, commits and tags. A second one of that version, of an
    older one, or without changes is refused, and changes nothing."""

    def release(version: str) -> tuple[int, str]:
        command = (sys.executable, checkout / ".ci" / "release", version, "--only-commit")
        done = run(*command, cwd=checkout, **AUTHOR)
        return done.returncode, done.stdout + done.stderr

    assert release("7.8.9")[0] == 0
    assert '\n__version__ = "7.8.9"\n' in (checkout / "shmpool" / "__init__.py").read_text()
    changes = (checkout / "CHANGELOG.md").read_text()
    assert re.search(r"## \[Unreleased\]\n\n## \[7\.8\.9\] - \d{4}-\d\d-\d\d\n\n###", changes)
    assert time.strftime("%Y") in changes
    assert run("git", "tag", cwd=checkout).stdout == "v7.8.9\n"
    for version, why in (
        ("7.8.9", "the tag v7.8.9 exists"),
        ("7.8", "it must be three numbers"),
        ("7.9.0", "no unreleased changes"),
        ("7.0.0", "7.8.9 was there before"),
    ):
        status, said = release(version)
        assert (1, True) == (status, why in said), said
    assert run("git", "status", "--porcelain", cwd=checkout).stdout == ""
    (checkout / "CHANGELOG.md").write_text("changed")
    assert "the working tree has changes" in release("8.0.0")[1]


def test_the_version_stands_once() -> None:
    """pyproject.toml reads it from the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert "shmpool.__version__" == project["tool"]["setuptools"]["dynamic"]["version"]["attr"]


def test_the_bill_of_materials() -> None:
    """It is CycloneDX, has this version, and each requirement of a user's once."""
    bill = json.loads(run(sys.executable, ROOT / ".ci" / "sbom", cwd=ROOT).stdout)
    assert ("CycloneDX", "1.6") == (bill["bomFormat"], bill["specVersion"])
    assert shmpool.__version__ == bill["metadata"]["component"]["version"]
    required = {one["name"] for one in bill["components"] if one["scope"] == "required"}
    assert {"cffi", "posix_ipc", "msgpack", "uvloop"} == required
    references = [one["bom-ref"] for one in bill["components"]]
    assert len(set(references)) == len(references)
    assert [sorted(references)] == [one["dependsOn"] for one in bill["dependencies"]]


def test_man_pages_and_completions(tmp_path: Path) -> None:
    """Each subcommand has a page that groff prints without a warning, and each shell its file."""
    pytest.importorskip("click", reason="shmpool[cli] is not installed")
    from shmpool.cli.main import MODULES

    done = run(sys.executable, ROOT / ".ci" / "share", tmp_path / "share", cwd=tmp_path)
    assert (0, "") == (done.returncode, done.stderr)
    manual = tmp_path / "share" / "man" / "man1"
    pages = {path.name for path in manual.iterdir()}
    assert {"shmpool.1", "shmpool-create.1", "shmpool-systemd-unit.1"} <= pages
    assert pages <= {"shmpool.1", *(f"shmpool-{name}.1" for name in MODULES)}
    for place in SHELLS.values():
        assert "_SHMPOOL_COMPLETE" in (tmp_path / "share" / place).read_text()
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    printed = run("groff", "-man", "-Tascii", "-ww", *sorted(manual.iterdir()), cwd=tmp_path)
    assert (0, "") == (printed.returncode, printed.stderr)
    assert "--buffer-size" in re.sub(".\b", "", printed.stdout)


FLOW = ROOT / ".github" / "workflows" / "wheels.yml"


def test_the_workflow() -> None:
    """It builds with the settings of pyproject.toml on both processors, signs what it has built,
    and names each action by a commit's hash."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    jobs = yaml.safe_load(FLOW.read_text())["jobs"]
    built = {"sdist", "wheels", "sbom"}
    assert built | {"attest", "publish"} == set(jobs)
    assert (built, {"attest"}) == (set(jobs["attest"]["needs"]), set(jobs["publish"]["needs"]))
    assert jobs["attest"]["permissions"] == {"id-token": "write", "attestations": "write"}
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert all("permissions" not in jobs[name] for name in built)
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert used
    assert [] == [name for name in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", name)]
    signed = {name.partition("@")[0] for name in used if "attest" in name}
    assert {"actions/attest-build-provenance", "actions/attest-sbom"} == signed
    assert len(jobs["wheels"]["strategy"]["matrix"]["runner"]) == 2
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    assert "{project}/tests/try_wheel.py" in settings["test-command"]
    assert {"x86_64", "aarch64"} == set(settings["archs"])


def test_linters_of_workflows_find_nothing() -> None:
    """The schema of workflows, and zizmor, which knows what makes them unsafe."""
    pytest.importorskip("check_jsonschema")
    schema = (sys.executable, "-m", "check_jsonschema", "--builtin-schema")
    checked = run(*schema, "vendor.github-workflows", FLOW, cwd=ROOT)
    assert 0 == checked.returncode, checked.stdout
    zizmor = Path(sys.executable).with_name("zizmor")
    if not zizmor.exists():
        pytest.skip("zizmor is not installed")
    found = run(zizmor, "--offline", "--no-progress", "--persona=regular", FLOW, cwd=ROOT)
    assert 0 == found.returncode, found.stdout + found.stderr


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_which_wheels_are_built(architecture: str) -> None:
    """cibuildwheel reads the settings: each Python with glibc and with musl, none of its own."""
    pytest.importorskip("cibuildwheel")
    command = (sys.executable, "-m", "cibuildwheel", "--print-build-identifiers")
    done = run(*command, "--platform", "linux", "--archs", architecture, cwd=ROOT)
    assert 0 == done.returncode, done.stderr
    expected = {
        f"{python}-{libc}_{architecture}"
        for python in ("cp311", "cp312", "cp313", "cp314")
        for libc in ("manylinux", "musllinux")
    }
    assert expected == set(done.stdout.split())
