# SPDX-License-Identifier: Apache-2.0
"""The repository's own rules: who imports whom, orders that name their other side, sizes, words."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "shmpool"
NATIVE = PACKAGE / "native"

# Each includes or imports only from those before it.
C_ORDER = [
    "atomic.h",
    "alf_pace.h",
    "alf_op.h",
    "alf_queue.h",
    "alf_repair.h",
    "layout.h",
    "shmpool.h",
    "binding.h",
    "process.h",
    "copy.h",
    "wait.h",
    "segment.h",
    "token.h",
    "member.h",
    "inquiry.h",
    "slab.h",
    "qmempool.h",
    "transfer.h",
    "queue.h",
    "requeue.h",
    "recover.h",
    "cover.h",
    "recovery.h",
    "blocking.h",
    "trim.h",
    "audit.h",
    "local.h",
    "guard.h",
    "lookup.h",
    "hot.h",
    "payload.h",
    "burst.h",
]
# Modules of the package, except the benchmark. Each imports only from those before it.
PYTHON_ORDER = re.findall(
    r"\S+",
    """
    errors codes names _native _ffi _hot os_errors options buffer burst messages queue pool_files
    process_exit segment pruning stats pool view __init__
    rpc.__init__ rpc.wire rpc.records rpc.protocol rpc.client_connection rpc.client
    service.__init__ service.alarms service.watched_pool service.handlers service.scheduling
    service.config_lines service.config_values service.config service.declared_pools
    service.adoption service.file_watch service.supervisor service.systemd
    service.logs service.listening service.connection service.admission service.metrics
    service.http daemon
    cli.__init__ cli.access cli.output cli.main cli.container cli.diagnosis cli.screen
    cli.describe cli.ls cli.create cli.rm cli.stats cli.members cli.holders cli.audit
    cli.recover cli.trim cli.letters cli.prune cli.watch cli.top cli.doctor cli.completion
    cli.daemon cli.bench __main__
    """,
)
LATE = {  # imported inside a function: the clients with their first use, and what starts a program
    "__init__": {"rpc.client", "rpc.records", "rpc.__init__"},
    "cli.__init__": {"cli.main"},
    "daemon": {"cli.daemon"},
}
BENCH_ORDER = re.findall(
    r"\S+",
    """
    __init__ transport message scoreboard workers producing consuming pingpong contestants
    throughput harness_cost latency robustness line_latency background_load plan result measure
    summary tables conclusions terminal plots document compare command __main__
    """,
)

C_FILES = sorted([*NATIVE.glob("*.[ch]"), *(PACKAGE / "hot").glob("*.[ch]")])
SOURCES = [*C_FILES, *sorted(PACKAGE.rglob("*.py")), *sorted((ROOT / "clients").rglob("*.[chp]*"))]
TESTS = sorted(path for path in (ROOT / "tests").rglob("*") if path.suffix in (".py", ".c", ".h"))


def test_c_order() -> None:
    """A C header includes only headers before it in the list, and every header is in the list."""
    headers = {path.name: path for path in C_FILES if path.suffix == ".h"}
    assert set(C_ORDER) == set(headers)
    for name, path in headers.items():
        for included in re.findall(r'#include "(.+)"', path.read_text()):
            assert C_ORDER.index(included) < C_ORDER.index(name), f"{name} includes {included}"


def imported_by(path: Path) -> set[str]:
    """Modules of the package that a module imports at run time, in dotted names below shmpool."""
    package = path.relative_to(PACKAGE).parent.parts
    found = set()
    for node in ast.walk(
        ast.parse(re.sub(r"if TYPE_CHECKING:\n(?:    .*\n|\n)+", "", path.read_text()))
    ):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*package[: len(package) - node.level + 1], *filter(None, [node.module]))
            for name in node.names:
                inside = PACKAGE.joinpath(*base, name.name)
                module = inside.with_suffix(".py").exists() or (inside / "__init__.py").exists()
                found.add(".".join((*base, name.name) if module else base) or "__init__")
    folders = {name for name in found if (PACKAGE / name.replace(".", "/")).is_dir()}
    return found - folders | {f"{name}.__init__" for name in folders}


def test_python_order() -> None:
    """A module imports only modules before it in the list, and every module is in the list."""
    modules = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
        if not {"bench", "native"} & set(path.relative_to(PACKAGE).parts[:-1])
    }
    assert set(PYTHON_ORDER) - {"_native", "_hot"} == set(modules)
    for name, path in modules.items():
        for other in imported_by(path) - LATE.get(name, set()):
            assert PYTHON_ORDER.index(other) < PYTHON_ORDER.index(name), f"{name} imports {other}"


def test_bench_is_a_client() -> None:
    """The benchmark uses of shmpool what everybody can import, and no module of shmpool uses it."""
    for path in (PACKAGE / "bench").rglob("*.py"):
        inner = path.parent != PACKAGE / "bench"
        found = re.findall(r"^ *from (\.+)\w* import", path.read_text(), re.MULTILINE)
        assert all(len(dots) <= 1 + inner for dots in found), path.name
        assert not re.search(r"from shmpool|import shmpool\.", path.read_text()), path.name
    for path in [*PACKAGE.glob("*.py"), *PACKAGE.glob("rpc/*.py"), *PACKAGE.glob("service/*.py")]:
        assert "bench" not in path.read_text(), path.name


def test_bench_order() -> None:
    """A module of the benchmark imports only modules before it in the list, which has them all."""
    modules = {path.stem: path for path in (PACKAGE / "bench").glob("*.py")}
    assert set(BENCH_ORDER) - {"contestants"} == set(modules)
    for name, path in modules.items():
        imported = re.findall(r"^from \.(\w+) import", path.read_text(), re.MULTILINE)
        for line in re.findall(r"^from \. import (.+)", path.read_text(), re.MULTILINE):
            imported += line.split(", ")
        for other in imported:
            assert BENCH_ORDER.index(other) < BENCH_ORDER.index(name), f"{name} imports {other}"


def declared(header: str) -> set[str]:
    """The functions that a header of native/ declares."""
    return set(re.findall(r"^[\w ]+ (shmpool_\w+)\(", (NATIVE / header).read_text(), re.MULTILINE))


def test_two_ways_into_c() -> None:
    """Python calls through cffi all that shmpool.h declares, and the C types all of binding.h."""
    python = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    hot = "".join(path.read_text() for path in (PACKAGE / "hot").glob("*.c"))
    assert declared("shmpool.h") == set(re.findall(r"\blib\.(shmpool_\w+)", python))
    called = set(re.findall(r"\b(shmpool_\w+)\(", hot))
    assert declared("binding.h") - {"shmpool_close_wait"} == called  # that one is for C programs


def test_hot_calls_block_in_one_place() -> None:
    """Only waiting.c makes blocking calls; only it and the end of a mapping release the lock."""
    for path in (PACKAGE / "hot").glob("*.c"):
        text = path.read_text()
        assert path.name == "waiting.c" or not re.search(r"shmpool_\w+_wait\(", text), path.name
        assert path.name in ("waiting.c", "segment.c") or "SaveThread" not in text, path.name


def test_c_knows_no_python() -> None:
    """Nothing under native/ includes Python's headers."""
    for path in NATIVE.glob("*.[ch]"):
        assert "Python.h" not in path.read_text(), path.name


def test_memory_orders_in_one_place() -> None:
    """Only atomic.h names the compiler's memory orders; everybody else says it in the name."""
    for path in C_FILES:
        if path.name != "atomic.h":
            assert not re.search(r"__ATOMIC_|memory_order_|__sync_", path.read_text()), path.name


def test_orders_name_their_other_side() -> None:
    """Each [TAG] stands at a release and at an acquire, and in a legend; each seq_cst too."""
    text = "".join(path.read_text() for path in C_FILES)
    legend = set(re.findall(r"^ \*     \[(\w+)\]  ", text, re.MULTILINE))
    lines = [line for line in text.splitlines() if not line.startswith(" *")]
    for tag in legend:
        at = [i for i, line in enumerate(lines) if f"[{tag}]" in line]
        tagged = ["".join(lines[i - 2 : i + 1]) for i in at]  # a call may take three lines
        assert any(re.search(r"load_\w+\(|cas_|wait_anybody", line) for line in tagged), tag
        assert any(re.search(r"store_\w+\(|cas_|add_|alf_move", line) for line in tagged), tag
    used = set(re.findall(r"(?<!\w)\[([A-Z]{2,})\]", "\n".join(lines)))
    assert used == legend


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_size(path: Path) -> None:
    """A file of more than 400 lines says in its first comment why it is one file."""
    lines = path.read_text().splitlines()
    assert "build" in path.parts or len(lines) <= 400 or "One file" in "\n".join(lines[:12])


def test_every_file_says_its_licence() -> None:
    """Every source begins with the licence's identifier."""
    for path in [*SOURCES, *TESTS]:
        if "build" not in path.parts and path.stat().st_size:
            assert "SPDX-License-Identifier: Apache-2.0" in path.read_text()[:200], path


def test_documents_name_what_exists() -> None:
    """Every path that a document names in backquotes is there."""
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert documents
    for document in documents:
        for name in re.findall(
            r"`((?:shmpool|clients|tests|docs)/[\w./-]*)`", document.read_text()
        ):
            assert (ROOT / name).exists(), f"{document.name} names {name}"
