# SPDX-License-Identifier: Apache-2.0
"""The repository's own rules: the order of imports, the other side of each memory order, sizes,
words."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants.table import read_core

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "shmpool"
NATIVE = PACKAGE / "native"

# Each file includes or imports only files before it.
C_ORDER = [
    "atomic.h",
    "alf_pace.h",
    "alf_op.h",
    "alf_queue.h",
    "alf_repair.h",
    "layout.h",
    "owner.h",
    "shmpool.h",
    "binding.h",
    "process.h",
    "copy.h",
    "wait.h",
    "geometry.h",
    "memory.h",
    "segment.h",
    "forked.h",
    "token.h",
    "role.h",
    "slab.h",
    "pool.h",
    "chain.h",
    "bytes.h",
    "bypass.h",
    "transfer.h",
    "side.h",
    "free_ring.h",
    "cache.h",
    "member.h",
    "device.h",
    "liveness.h",
    "qmempool.h",
    "lanes.h",
    "queue.h",
    "topic.h",
    "requeue.h",
    "cover.h",
    "recovery.h",
    "recover.h",
    "unfinished.h",
    "blocking.h",
    "trim.h",
    "audit.h",
    "pin.h",
    "populate.h",
    "opening.h",
    "guard.h",
    "lookup.h",
    "uring.h",
    "place.h",
    "tend.h",
    "helper.h",
    "hot.h",
    "parts.h",
    "payload.h",
    "arrays.h",
    "burst.h",
    "samples.h",
    "net.h",
    "xdp.h",
    "scan.h",
    "parse.h",
    "checksum.h",
    "toeplitz.h",
    "headers.h",
]
# Where a .c file stands in that order if it has no header of its own, or implements one for others.
C_PLACE = {
    "reserve.c": "segment.h",
    "ranges.c": "recovery.h",
    "sweep.c": "recovery.h",
    "subscribers.c": "recovery.h",
    "queue_create.c": "queue.h",
    "queue_view.c": "queue.h",
    "topic_subscriber.c": "topic.h",
    "topic_keep.c": "topic.h",
    "topic_repair.c": "topic.h",
    "topic_take.c": "topic.h",
    "recover_due.c": "recover.h",
    "blocking_alloc.c": "blocking.h",
    "blocking_topic.c": "blocking.h",
    "shmpool.c": "lookup.h",
    "bulk.c": "lookup.h",
    "letters.c": "lookup.h",
    "chains.c": "lookup.h",
    "figures.c": "lookup.h",
    "waker.c": "helper.h",
    "topics.c": "lookup.h",
    "queues.c": "lookup.h",
    "pages.c": "lookup.h",
}
# The prefix of a file's functions, if it is not the file's name.
C_PREFIX = {
    "alf_op.h": "alf",
    "alf_pace.c": "alf",
    "alf_pace.h": "alf",
    "alf_queue.h": "alf",
    "alf_repair.h": "alf",
    "owner.h": "owner|tag|handle|buffer",
    "reserve.c": "segment",
    "recover_due.c": "recover",
    "blocking_alloc.c": "blocking",
    "blocking_topic.c": "blocking",
    "topic.h": "topic|hold",
    "queue_create.c": "queue",
    "queue_view.c": "queue",
    "topic_subscriber.c": "topic",
    "topic_keep.c": "topic",
    "topic_repair.c": "topic",
    "topic_take.c": "topic",
    "bulk.c": "shmpool",
    "letters.c": "shmpool",
    "chains.c": "shmpool",
    "figures.c": "shmpool|audit",
    "waker.c": "shmpool",
    "topics.c": "shmpool",
    "queues.c": "shmpool",
    "pages.c": "shmpool",
    "lookup.h": r"\w+",
}
# Modules of the package, except the benchmark. Each imports only modules before it.
PYTHON_ORDER = re.findall(
    r"\S+",
    """
    later locks record choices errors codes names _native _ffi _hot os_errors options geometry
    memory free_after leases live_views arrays columns packets burst messages wakers named awaiting
    queue pool_files process_exit segment pruning stats pinning topic pool view __init__
    mp.objects mp.program mp.queues mp.context mp.calls mp.worker mp.backlog mp.manager
    mp.executor mp.__init__ net.ends net.marks net.content net.capture net.recording net.filters
    net.interface net.udp net.tap net.xdp net.__init__ net.headers hints
    rpc.__init__ rpc.wire rpc.records rpc.protocol rpc.client
    service.__init__ service.links service.alarms service.history service.watched_pool
    service.handlers service.scheduling service.config_lines service.config_values
    bridge.__init__ bridge.nats_options bridge.config service.config service.bridge_process
    service.declared_pools service.adoption service.file_watch service.supervisor service.systemd
    service.logs service.listening service.connection service.admission service.metrics
    service.http service.daemon
    bridge.packing bridge.stopping bridge.ends bridge.ledger bridge.link bridge.keys
    bridge.messages bridge.sockets bridge.zeromq_receive bridge.zeromq_outlet
    bridge.zeromq_send bridge.zeromq
    bridge.nats_client bridge.nats_stream bridge.nats_consumer bridge.nats_sending
    bridge.nats_receiving bridge.nats bridge.process
    cli.__init__ cli.json_output cli.output cli.access cli.main cli.next_steps cli.container
    cli.diagnosis cli.screen cli.describe cli.ls cli.create cli.rm cli.stats cli.members
    cli.holders cli.audit cli.recover cli.trim cli.letters cli.prune cli.watch cli.top cli.doctor
    cli.completion cli.packaged cli.demo cli.config_example cli.systemd_unit cli.daemon cli.bridge
    cli.bench
    daemon __main__
    """,
)
# Imported inside a function: the clients and the headers of packets at first use, and the command
# behind main().
LATE = {
    "__init__": {"rpc.client", "rpc.records", "rpc.__init__", "mp.__init__"},
    "cli.__init__": {"cli.main"},
    "packets": {"net.headers"},
}
BENCH_ORDER = re.findall(
    r"\S+",
    """
    __init__ cores transport message scoreboard workers producing consuming pingpong contestants
    throughput harness_cost latency robustness line_latency background_load plan result measure
    summary tables conclusions terminal plots document compare command __main__
    """,
)

# Ordered atomics: which read, and which write. A compare-and-swap and an addition do both.
ACQUIRES = "load_acquire|load_seq_cst|load_run_acquire|cas_seq_cst|add_seq_cst"
RELEASES = "store_release|store_seq_cst|store_run_release|cas_seq_cst|add_seq_cst"
# The words that a tag may stand at.
TAGGED = {
    "SLOT": "slot",
    "CONS": "cons|limit|position",
    "PROD": "prod|position",
    "PART": "backed",
    "OP": "op$",
    "OWNER": "owner",
    "CHAIN": "handle|got|owner",
    "ABANDONED": "abandoned|swept",
    "ROLE": "role|producer|consumer",
    "EXTENT": "extent",
    "TRIMS": "trims",
    "BYPASS": "bypassed|cons",
    "CACHE": "cache_top|cache_bottom|bottom",
    "MEMBER": "identity",
    "BARRIER": "barrier",
    "CLEARED": "cleared|tag",
    "ENDED": "ended|adopted",
    "DEVICE": "device",
    "QUEUE": "state",
    "WAIT": "word|_wait|_want|want|prod|cons",
    "CALLERS": "callers|serial|at$",
    "HOLD": "since|owner",
    "CURSOR": "cursor",
    "GATE": "gate|prod",
    "TOPIC": "state|barred|word",
    "LANES": "active|state",
    "KEEP": "keepers|state|cursor|prod",
    "SHELF": "shelf|slot",
}
WRITER = "write|wrote|store|move|raise|set|lock|take|add|clear|count"
READER = "read|see|load|find|look|poll|inspect"

C_FILES = sorted(
    path for name in ("native", "hot", "net") for path in (PACKAGE / name).glob("*.[ch]")
)
SOURCES = [*C_FILES, *sorted(PACKAGE.rglob("*.py")), *sorted((ROOT / "clients").rglob("*.[chp]*"))]
TESTS = sorted(path for path in (ROOT / "tests").rglob("*") if path.suffix in (".py", ".c", ".h"))


def test_c_order() -> None:
    """A C file includes only headers that stand at its place in the list or before.

    The list has every header. A .c file stands where its header does, and those of hot/ and net/
    stand last.
    """
    assert set(C_ORDER) == {path.name for path in C_FILES if path.suffix == ".h"}
    for path in C_FILES:
        home = path.name if path.suffix == ".h" else C_PLACE.get(path.name, path.stem + ".h")
        if path.parent.name in ("hot", "net") and path.suffix == ".c":
            home = C_ORDER[-1]
        place = C_ORDER.index(home)
        included = [C_ORDER.index(name) for name in re.findall('#include "(.+)"', path.read_text())]
        for other in included:
            itself = path.suffix == ".c" and other == place
            assert other < place or itself, f"{path.name} includes {C_ORDER[other]}"


def test_c_functions_carry_their_files_name() -> None:
    """A function of the core that other files see begins with the name of its file."""
    count = 0
    for path in [*NATIVE.glob("*.c"), *NATIVE.glob("*.h")]:
        if path.name == "atomic.h":
            continue
        prefix = C_PREFIX.get(path.name, path.stem)
        shown = "" if path.suffix == ".c" else "static (?:ALWAYS_INLINE|inline) "
        for name in re.findall(
            rf"^{shown}(?!static |__)[a-z][\w \*]*[ \*](\w+)\([^;{{]*\)\n{{",
            path.read_text(),
            re.MULTILINE,
        ):
            count += 1
            assert re.fullmatch(rf"(?:{prefix})(?:_\w+)?", name), f"{path.name}: {name}()"
    assert count > 100


def at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, without what is for type checkers only."""
    yield node
    inner = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        inner = iter(node.orelse)
    for child in inner:
        yield from at_run_time(child)


def imported_by(path: Path) -> set[str]:
    """The modules that a module imports at run time, as dotted names below shmpool."""
    package = path.relative_to(PACKAGE).parent.parts
    found = set()
    for node in at_run_time(ast.parse(path.read_text())):
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
    """The benchmark imports only public names of shmpool, and no module of shmpool imports it."""
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
    text = (NATIVE / header).read_text()
    return set(re.findall(r"^(?:struct )?\w+ (shmpool_\w+)\(", text, re.MULTILINE))


def test_two_interfaces_to_c() -> None:
    """Python calls through cffi all that shmpool.h declares, and the C types all of binding.h."""
    python = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    hot = "".join(path.read_text() for path in (PACKAGE / "hot").glob("*.c"))
    assert declared("shmpool.h") == set(re.findall(r"\blib\.(shmpool_\w+)", python))
    called = set(re.findall(r"\b(shmpool_\w+)\(", hot))
    assert declared("binding.h") - {"shmpool_close_wait"} == called  # for C programs


def test_hot_calls_block_in_one_place() -> None:
    """Only waiting.c makes blocking calls. Only waiting.c and the end of a mapping release the
    lock."""
    for path in (PACKAGE / "hot").glob("*.c"):
        text = path.read_text()
        assert path.name == "waiting.c" or not re.search(r"shmpool_\w+_wait\(", text), path.name
        assert path.name in ("waiting.c", "segment.c") or "SaveThread" not in text, path.name


def test_c_knows_no_python() -> None:
    """Nothing under native/ includes Python's headers."""
    for path in NATIVE.glob("*.[ch]"):
        assert "Python.h" not in path.read_text(), path.name


def test_memory_orders_in_one_place() -> None:
    """Only atomic.h names the compiler's memory orders. Everywhere else the order is in the
    name."""
    for path in C_FILES:
        if path.name != "atomic.h":
            assert not re.search(r"__ATOMIC_|memory_order_|__sync_", path.read_text()), path.name


def statements(text: str) -> list[tuple[str, str]]:
    """The statements of a C file: the code without comments, and its comments.

    A statement ends at a semicolon or brace outside parentheses. A comment behind it on its last
    line belongs to it.
    """
    text = re.sub(r"^#(?:.*\\\n)*.*$", "", text, flags=re.MULTILINE)
    found = []
    code = comments = ""
    depth = 0
    for match in re.finditer(r"/\*.*?\*/|.", text, re.DOTALL):
        piece = match.group()
        if piece.startswith("/*"):
            comments += piece
            continue
        code += piece
        depth += (piece == "(") - (piece == ")")
        if piece in ";{}" and depth == 0:
            behind = re.match(r"[ \t]*(/\*.*?\*/)", text[match.end() :], re.DOTALL)
            found.append((code, comments + (behind.group(1) if behind else "")))
            code = comments = ""
    return found


def ordered(code: str) -> list[tuple[str, str]]:
    """The ordered atomics of a statement: the name of each, and the word that it is given."""
    found = []
    for match in re.finditer(rf"\b({ACQUIRES}|{RELEASES})\(", code):
        depth, end = 1, match.end()
        while depth > 1 or code[end] not in ",)":
            depth += (code[end] == "(") - (code[end] == ")")
            end += 1
        found.append((match.group(1), code[match.end() : end].strip()))
    return found


def test_each_order_names_its_other_side() -> None:
    """Each ordered atomic carries the tag of its word, or says "pairs with"."""
    count = 0
    for path in C_FILES:
        if path.name == "atomic.h":
            continue
        for code, comments in statements(path.read_text()):
            tags = re.findall(r"\[([A-Z]+)\]", comments)
            for _, word in ordered(code):
                count += 1
                named = any(re.search(TAGGED[tag], word) for tag in tags)
                paired = re.search("pairs with", comments, re.IGNORECASE)
                assert named or paired, f"{path.name}: {' '.join(code.split())}"
    assert count > 100


def test_each_tag_has_two_sides() -> None:
    """Each [TAG] has one legend, which names a writer and a reader, and code on both sides."""
    legends: dict[str, str] = {}
    writes = set()
    reads = set()
    for path in C_FILES:
        text = path.read_text()
        for tag, legend in re.findall(
            r"^ \*     \[(\w+)\]  (.*\n(?: \*      .*\n)*)", text, re.MULTILINE
        ):
            assert tag not in legends, tag
            legends[tag] = legend
        if path.name == "atomic.h":
            continue
        for code, comments in statements(text):
            for tag in re.findall(r"\[([A-Z]+)\]", comments):
                for name, word in ordered(code):
                    if re.search(TAGGED[tag], word):
                        writes |= {tag} if re.fullmatch(RELEASES, name) else set()
                        reads |= {tag} if re.fullmatch(ACQUIRES, name) else set()
    assert set(legends) == writes == reads == set(TAGGED)
    for tag, legend in legends.items():
        assert re.search(WRITER, legend), f"[{tag}] names no writer"
        assert re.search(READER, legend), f"[{tag}] names no reader"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_size(path: Path) -> None:
    """A file of more than 400 lines says in its first comment why it is one file."""
    lines = path.read_text().splitlines()
    assert "build" in path.parts or len(lines) <= 400 or "One file" in "\n".join(lines[:12])


C_SOURCES = [
    path
    for folder in ("shmpool", "clients", "tests")
    for path in sorted((ROOT / folder).rglob("*.[chp]*"))
    if path.suffix in (".c", ".h", ".cpp") and "build" not in path.parts
]
# A type or the head of a macro alone on a line, and on the next line the rest and a comment. Tags
# of memory orders may: they belong to the order's own line.
CUT_IN_TWO = re.compile(
    r"^[ \t]*(?!else\b|do\b|PyObject_HEAD)(?:(?:\w+ )*\w+(?: \*+)?|\w[\w *]* =|\w[\w *]* \**\w+\(|"
    r"#define \w+ +\\)\n"
    r"[ \t]+[^;\n]*[^;\n\s];?[ \t]*/\*(?! pairs with |.*\[[A-Z]+\]).*",
    re.MULTILINE,
)


def lines_at_fault(text: str) -> list[str]:
    """Lines of a C source that are too long (a tab is 8), and declarations cut in two."""
    long = [line for line in text.splitlines() if len(line.expandtabs(8)) > 100]
    return long + CUT_IN_TWO.findall(text)


@pytest.mark.parametrize("path", C_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_columns(path: Path) -> None:
    """No line is over 100 columns, comments included, and no trailing comment cuts a declaration.

    Move a comment that does not fit behind its declaration to the line above it.
    """
    assert lines_at_fault(path.read_text()) == []


def test_columns_finds_faults() -> None:
    """test_columns() finds a long comment, and declarations cut by a comment."""
    assert lines_at_fault("\tint a; /* " + "x" * 79 + " */\n") == []
    assert len(lines_at_fault("\tint a; /* " + "x" * 80 + " */\n")) == 1
    assert len(lines_at_fault("struct s {\n\tuint64_t\n\t\tname; /* long */\n};\n")) == 1
    assert len(lines_at_fault("\tstruct moving\n\t\t*moving; /* long */\n")) == 1
    assert len(lines_at_fault("\tuint64_t bulk =\n\t\tleft / 2; /* long */\n")) == 1
    assert len(lines_at_fault("#define NAME    \\\n\t20 /* long */\n")) == 1
    assert len(lines_at_fault("void name(\n\tstruct scene *s); /* long */\n")) == 1
    assert lines_at_fault("\telse\n\t\tname(); /* long */\n") == []
    assert lines_at_fault("\tuint64_t name; /* short */\n\tint b; /* short */\n") == []


def test_every_file_says_its_licence() -> None:
    """Every source begins with the licence's identifier."""
    for path in [*SOURCES, *TESTS]:
        if "build" not in path.parts and path.stat().st_size:
            assert "SPDX-License-Identifier: Apache-2.0" in path.read_text()[:200], path


def test_documents_name_what_exists() -> None:
    """Every path that a document names in backquotes exists."""
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert documents
    for document in documents:
        for name in re.findall(
            r"`((?:shmpool|clients|tests|docs)/[\w./-]*)`", document.read_text()
        ):
            assert (ROOT / name).exists(), f"{document.name} names {name}"


# Words of an old dialect, and what is written instead. shmpool/native/ is not searched.
NOT_WRITTEN = {
    r"anew|for ever|likewise|meanwhile": "again, without end, in the same way, in that time",
    r"put(?:s|ting)? right": "recover, repair",
    r"who is dead|knows not": "dead members, does not know",
    r"somebody|whoever": "the member, process, user or caller",
    r"whose (?:it|they) (?:is|are)": "its owner",
    r"in hand|goes home": "owned, freed",
    r"stands? still": "is suspended",
    r"cuts? off": "truncated, interrupted",
    r"scribbl\w*": "overwrite, corrupt",
    r"hollow\w*": "stale",
    r"robs?|robbed|honou?r(?:s|ed)?|spill(?:s|ed)?": "steal, flush on request, drain",
    r"ordeals?|blows?|hops?(?! limit)": "fault test, fault, cache-line latency",
}
PROSE = [
    path
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *SOURCES,
        *TESTS,
        *(ROOT / "tests" / "models").rglob("*.pml"),
        *(ROOT / "tests" / "models").rglob("*.cpp"),
    ]
    if path != Path(__file__).resolve() and "build" not in path.parts
]


def test_plain_words() -> None:
    """No source or document uses a word of the old dialect, in code, comments or text."""
    for path in PROSE:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for words, instead in NOT_WRITTEN.items():
                found = re.search(rf"(?<![a-z])(?:{words})(?![a-z])", line, re.IGNORECASE)
                assert not found, f"{path}:{number}: {found and found[0]}: write {instead}"


def test_every_mutant_of_the_core_applies() -> None:
    """Each entry of the tables names a text of the core, or of shmpool/net, that occurs once."""
    mutants = read_core(ROOT / "tests" / "mutants" / "core.toml")
    assert len(mutants) >= 60
    mutants += read_core(ROOT / "tests" / "mutants" / "net.toml", "net")
    assert [] == [fault for mutant in mutants if (fault := mutant.fault(ROOT))]


def test_the_benchmark_has_the_flags_of_the_module() -> None:
    """What is measured is what is shipped: both are compiled with one file of flags."""
    flags = (NATIVE / "flags").read_text().split()
    makefile = (ROOT / "clients" / "bench" / "native" / "Makefile").read_text()
    assert "CFLAGS = -g @$(NATIVE)/flags\n" in makefile
    assert not [flag for flag in flags if flag in makefile]
    assert "FLAGS.read_text()" in (NATIVE / "build.py").read_text()
    assert "-O2" in flags
