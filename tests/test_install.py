# SPDX-License-Identifier: Apache-2.0
"""The installed package: a wheel built from the source distribution, in an empty environment."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

try:
    importlib.metadata.version("build")  # an import would find the folder of that name
except importlib.metadata.PackageNotFoundError:
    pytest.skip("build is not installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent
BUILT = shutil.ignore_patterns("*.so", "__pycache__", "_native.c")
SECONDS = 600  # a guard against hangs: pip may wait for its index for a long time
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * SECONDS)]

USE = """
import importlib.metadata, sys, shmpool
assert shmpool.__file__.startswith(sys.prefix), shmpool.__file__
with shmpool.Pool.create(sys.argv[1], buffer_size=64, capacity=64) as pool:
    work = pool.create_queue("work", capacity=8)
    buf = pool.alloc()
    buf.write(b"hello")
    work.put(buf)
    with work.get(timeout=1.0) as buf:
        print(bytes(buf), importlib.metadata.version("shmpool"))
"""


def run(*command: object, cwd: Path) -> str:
    """Runs a command that must succeed, without this environment's modules. Returns its output."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, cwd=cwd, env=environ, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution and the wheel built from it. The tree is not changed."""
    directory = tmp_path_factory.mktemp("install")
    tree = directory / "tree"
    shutil.copytree(ROOT / "shmpool", tree / "shmpool", ignore=BUILT)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    run(sys.executable, "-m", "build", "--no-isolation", tree, "-o", directory, cwd=directory)
    (sdist,) = directory.glob("*.tar.gz")
    (wheel,) = directory.glob("*.whl")
    return sdist, wheel


def test_every_source_is_distributed(built: tuple[Path, Path]) -> None:
    """C sources, headers, types and the live page are in both; the wheel has the extension too."""
    sdist, wheel = built
    sources = {
        str(path.relative_to(ROOT))
        for folder, _, names in os.walk(ROOT / "shmpool")
        for path in (Path(folder) / name for name in set(names) - BUILT(folder, names))
        if path.parent.name != "__pycache__"
    }
    assert {"shmpool/py.typed", "shmpool/_hot.pyi", "shmpool/service/web/page.html"} < sources
    with tarfile.open(sdist) as archive:
        assert set() == sources - {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert set() == sources - names
    (extension,) = (name for name in names if name.endswith(".so"))
    assert extension.startswith("shmpool/_native.")


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel and its requirements, and nothing else."""
    _, wheel = built
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=True)
    programs = directory / "bin"
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = message_from_bytes(archive.read(metadata)).get_all("Requires-Dist", [])
    required = [line.partition(";")[0] for line in lines if "extra" not in line or '"cli"' in line]
    pip = [programs / "python", "-m", "pip", "install", "--quiet"]
    give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
    try:
        subprocess.run([*pip, *required], check=True, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        give_up(f"pip did not install {required} within {SECONDS} s")
    except subprocess.CalledProcessError as error:
        give_up(f"pip cannot install {required}: {error.stderr.decode().strip().splitlines()[-1]}")
    run(*pip, "--no-index", f"{wheel}[cli]", cwd=directory)
    return programs


def test_the_wheel_can_be_used(installed: Path, pool_name: str, tmp_path: Path) -> None:
    """A put and a get, the command, and the package as a program, outside the source tree."""
    python, command = installed / "python", installed / "shmpool"
    printed = run(python, "-W", "error", "-c", USE, pool_name, cwd=tmp_path)
    assert printed.startswith("b'hello' ")
    version = printed.split()[1]
    assert pool_name in run(command, "ls", "--direct", cwd=tmp_path)
    run(python, "-m", "shmpool", "rm", pool_name, "--direct", cwd=tmp_path)
    assert pool_name not in run(command, "ls", "--direct", cwd=tmp_path)
    assert version in run(command, "--version", cwd=tmp_path)
