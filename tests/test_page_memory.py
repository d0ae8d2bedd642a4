# SPDX-License-Identifier: Apache-2.0
"""The pages of a pool: mapped in advance, huge, locked, of a NUMA node, left out of core files.

Each test reads what the kernel says of the mapping: /proc/self/smaps, numa_maps, counts of faults.
"""

import errno
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Child, MakePool
from test_seccomp import FILTER, lines_of, numbers

import shmpool
from shmpool import memory
from shmpool._ffi import lib

Start = Callable[..., Child]
PAGE, HUGE = 4 << 10, 2 << 20
PAGES = 1024  # a buffer each
FEW = PAGES // 8  # faults of the interpreter itself, and more than it has
POPULATE_READ, POPULATE_WRITE, COLLAPSE = 22, 23, 25  # of madvise(2)
NAMES = pytest.mark.parametrize("named", [True, False], ids=["named", "anonymous"])


def of_mapping(pool: shmpool.Pool, kind: str = "smaps") -> list[str]:
    """The lines of a file of /proc/self that are about the pool's mapping."""
    segment = pool._opened()
    found, inside = [], False
    for line in Path(f"/proc/self/{kind}").read_text().splitlines():
        if at := re.match(r"([0-9a-f]+)[- ]", line):
            inside = segment.address <= int(at[1], 16) < segment.address + segment.size
        found += [line] * inside
    return found


def bytes_of(pool: shmpool.Pool, key: str) -> int:
    """What smaps counts of the mapping under that key."""
    lines = [line.split() for line in of_mapping(pool) if line.startswith(f"{key}:")]
    assert lines
    return sum(int(words[1]) << 10 for words in lines)


def flags(pool: shmpool.Pool) -> set[str]:
    lines = [line for line in of_mapping(pool) if line.startswith("VmFlags:")]
    return {flag for line in lines for flag in line.split()[1:]}


def in_file(pool: shmpool.Pool) -> int:
    """Bytes of memory that the pool's file has."""
    return os.fstat(pool._opened().fd).st_blocks * 512


def faults_of_first_use(pool: shmpool.Pool) -> int:
    """How many page faults it takes to write to PAGES buffers of a page each."""
    burst = pool.alloc_many(PAGES)
    buffers = list(burst)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for buffer in buffers:
        buffer.write(b"x")
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.fixture
def pages(make_pool: MakePool) -> Iterator[Callable[..., shmpool.Pool]]:
    """pages(**options): a pool of PAGES buffers of a page each, and no cache."""

    def pages(**options: Any) -> shmpool.Pool:
        given = {"buffer_size": PAGE, "capacity": PAGES, "prealloc": PAGES, "cache_size": 0}
        named = options.pop("named", True)
        if named:
            return make_pool(**given | options)
        pool = shmpool.Pool.create(None, **given | options)
        made.append(pool)
        return pool

    made: list[shmpool.Pool] = []
    yield pages
    for pool in made:
        pool.close()


@pytest.fixture
def huge_pages() -> None:
    """Skips a test where the kernel makes no huge pages of shared memory."""
    if code := lib.shmpool_huge_pages():
        pytest.skip(f"no huge pages of shared memory on this machine: {os.strerror(-code)}")


Pages = Callable[..., shmpool.Pool]

# Populate.


@NAMES
def test_first_use_costs_nothing(pages: Pages, named: bool) -> None:
    """Without populate each page faults at its first use, with populate none does."""
    assert faults_of_first_use(pages(named=named)) >= PAGES
    assert faults_of_first_use(pages(named=named, populate=True)) < FEW


def test_attach_with_populate(pages: Pages) -> None:
    """attach() maps what others have made, rings of queues included, and nothing that is absent."""
    pool = pages(prealloc=100, capacity=2 * PAGES)
    pool.create_queue("q", capacity=4096)
    pool.create_topic("t", depth=512)
    pool.alloc_many(PAGES).free()
    before = in_file(pool)
    with shmpool.Pool.attach(pool.name, populate=True) as other:
        assert before == in_file(pool) == bytes_of(other, "Rss")
        assert faults_of_first_use(other) < FEW


def test_what_is_added_is_mapped_too(pages: Pages) -> None:
    """A process that populates maps also what it adds to the pool later."""
    pool = pages(prealloc=0, populate=True)
    assert faults_of_first_use(pool) < FEW
    pool.create_queue("q", capacity=1 << 16)
    assert in_file(pool) == bytes_of(pool, "Rss")


def test_populate_changes_nothing(pages: Pages) -> None:
    pool = pages()
    held = pool.alloc_many(PAGES)
    for number, buffer in enumerate(held):
        buffer.write(b"%d" % number)
    with shmpool.Pool.attach(pool.name, populate=True):
        assert [b"%d" % number for number in range(PAGES)] == [bytes(buffer) for buffer in held]
    held.free()
    assert pool.audit().ok


def test_populate_needs_write_access(pages: Pages) -> None:
    name = pages().name
    for option in ("populate", "lock"):
        with pytest.raises(shmpool.AccessDenied, match="opened read-only"):
            shmpool.Pool.attach(name, readonly=True, **{option: True})


def test_populate_of_a_truncated_file(pages: Pages) -> None:
    pool = pages(capacity=16 * PAGES, prealloc=16 * PAGES)
    os.truncate(f"/dev/shm/shmpool.{pool.name}", PAGE)
    with pytest.raises(shmpool.SegmentInvalid):
        memory.prepare(pool, populate=True, lock=False, core_dump=False)


@pytest.mark.parametrize("code", ["EINVAL", "EPERM", "ENOSYS"])
def test_populate_on_an_older_kernel(pages: Pages, start: Start, code: str) -> None:
    """Where the kernel knows neither MADV_POPULATE_READ nor _WRITE, each page is read."""
    pool = pages()
    child = start(
        f"""{FILTER}
for advice in ({POPULATE_READ}, {POPULATE_WRITE}):
    refuse(errno.{code}, {numbers("madvise")}, third=advice)
import resource
options = {{"buffer_size": {PAGE}, "capacity": {PAGES}, "prealloc": {PAGES}, "cache_size": 0}}
for pool in (shmpool.Pool.attach(sys.argv[1], populate=True),
             shmpool.Pool.create(None, populate=True, **options)):
    buffers = list(pool.alloc_many({PAGES}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for buffer in buffers:
        buffer.write(b"x")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
""",
        pool.name,
    )
    assert all(int(line) < FEW for line in lines_of(child))


def test_no_memory_for_page_tables(pages: Pages, start: Start) -> None:
    """What populate cannot get is an error by name, and the pool of that process is closed."""
    child = start(
        f"""{FILTER}
for advice in ({POPULATE_READ}, {POPULATE_WRITE}):
    refuse(errno.ENOMEM, {numbers("madvise")}, third=advice)
for call in (lambda: shmpool.Pool.attach(sys.argv[1], populate=True),
             lambda: shmpool.Pool.create(None, buffer_size=64, capacity=64, populate=True)):
    try:
        call()
    except shmpool.OutOfSharedMemory as error:
        print(error)
print(len(shmpool.process_exit.open_pools()))
""",
        pages().name,
    )
    first, second, still_open = lines_of(child)
    assert "gets no more memory" in first
    assert "gets no more memory" in second
    assert "0" == still_open


def test_populate_and_trim_at_once(pages: Pages, start: Start) -> None:
    """What is trimmed while others populate stays without memory: none maps an absent extent."""
    pool = pages(prealloc=0, capacity=8 * PAGES)
    pool.alloc().free()
    own = in_file(pool)
    others = [
        start(
            """
            import sys, shmpool
            while True:
                shmpool.Pool.attach(sys.argv[1], populate=True).close()
                print(flush=True)
            """,
            pool.name,
        )
        for _ in range(2)
    ]
    for _ in range(50):
        for other in others:
            other.line()
        pool.alloc_many(8 * PAGES).free()
        pool.trim()
    for other in others:
        other.kill()
    pool.recover()
    pool.trim()
    extent = 4 << 20
    assert in_file(pool) <= own + 8 * PAGES * 64 + extent  # headers keep theirs


@pytest.mark.slow
def test_killed_while_it_populates(pages: Pages, start: Start) -> None:
    """A process that is killed in populate keeps nobody from trimming."""
    pool = pages(prealloc=0, capacity=8 * PAGES)
    for _ in range(20):
        pool.alloc_many(8 * PAGES).free()
        child = start(
            """
            import sys, shmpool
            print(flush=True)
            while True:
                shmpool.Pool.attach(sys.argv[1], populate=True).close()
            """,
            pool.name,
        )
        child.line()
        child.kill()
        assert pool.trim() > 0
    assert pool.audit().ok


# Huge pages.


@NAMES
@pytest.mark.usefixtures("huge_pages")
def test_huge_pages(pages: Pages, named: bool) -> None:
    """All preallocated buffers are in huge pages, in each process that uses them."""
    pool = pages(named=named, huge_pages="always")
    assert PAGES * PAGE == bytes_of(pool, "ShmemPmdMapped")
    assert faults_of_first_use(pool) < FEW
    assert pool.audit().ok


@pytest.mark.usefixtures("huge_pages")
def test_huge_pages_of_another_process(pages: Pages) -> None:
    pool = pages(huge_pages="auto")
    with shmpool.Pool.attach(pool.name, populate=True) as other:
        assert PAGES * PAGE == bytes_of(other, "ShmemPmdMapped")


@pytest.mark.usefixtures("huge_pages")
def test_growth_in_huge_pages(pages: Pages) -> None:
    """A pool that is added to gets whole huge pages, and trim gives whole ones back."""
    pool = pages(huge_pages="auto", prealloc=PAGES, capacity=4 * PAGES)
    before = in_file(pool)
    pool.alloc_many(3 * PAGES).free()
    assert 3 * PAGES * PAGE == bytes_of(pool, "ShmemPmdMapped")
    assert 2 * PAGES * PAGE == pool.trim()
    assert PAGES * PAGE == bytes_of(pool, "ShmemPmdMapped")
    assert before + 2 * PAGES * 64 == in_file(pool)  # headers keep their memory
    pool.alloc_many(4 * PAGES).free()
    assert 4 * PAGES * PAGE == bytes_of(pool, "ShmemPmdMapped")
    assert pool.audit().ok


@pytest.mark.usefixtures("huge_pages")
def test_huge_pages_of_every_size(make_pool: MakePool) -> None:
    """Each size class begins at a huge page."""
    pool = make_pool(
        buffer_size=[2048, 65536], capacity=[2048, 128], prealloc=[2048, 128], huge_pages="always"
    )
    assert 2048 * 2048 + 128 * 65536 == bytes_of(pool, "ShmemPmdMapped")
    queue = pool.create_queue("q", capacity=64)
    queue.send_many([b"x" * 60_000] * 64)
    assert [b"x" * 60_000] * 64 == queue.recv_many(64)
    assert pool.audit().ok


def test_never_is_the_default(pages: Pages) -> None:
    assert 0 == bytes_of(pages(), "ShmemPmdMapped")


REFUSED = f"""{FILTER}
refuse(getattr(errno, sys.argv[2]), {numbers("madvise")}, third={COLLAPSE})
options = {{"buffer_size": 4096, "capacity": 1024, "prealloc": 1024}}
with shmpool.Pool.create(sys.argv[1], huge_pages="auto", **options) as pool:
    pool.alloc_many(1024).free()
    print(pool.audit().ok)
shmpool.Pool.unlink(sys.argv[1])
try:
    shmpool.Pool.create(sys.argv[1], huge_pages="always", **options)
except (shmpool.InvalidArgument, shmpool.OutOfSharedMemory) as error:
    print(type(error).__name__, error)
print(sys.argv[1] in shmpool.pool_names())
"""


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("EINVAL", "InvalidArgument", "Linux 6.1"),
        ("ENOMEM", "OutOfSharedMemory", "compact_memory"),
        ("EAGAIN", "OutOfSharedMemory", "2 MiB"),
    ],
)
def test_no_huge_pages(start: Start, pool_name: str, code: str, kind: str, words: str) -> None:
    """Where there are none, "auto" does without, and "always" says what is missing."""
    ok, refusal, left = lines_of(start(REFUSED, pool_name, code))
    assert "True" == ok
    assert refusal.startswith(f"{kind} pool {pool_name!r}: huge_pages is 'always'")
    assert words in refusal
    assert "False" == left


def test_options_of_huge_pages(pool_name: str) -> None:
    sizes: dict[str, Any] = {"buffer_size": 4096, "capacity": 1024}
    with pytest.raises(shmpool.InvalidArgument, match="prealloc x buffer_size of at least 2 MiB"):
        shmpool.Pool.create(pool_name, huge_pages="always", prealloc=511, **sizes)
    with pytest.raises(shmpool.InvalidArgument, match="huge_pages is 'yes'; it must be \"auto\""):
        shmpool.Pool.create(pool_name, huge_pages="yes", **sizes)  # type: ignore[arg-type]


# Lock.


@NAMES
def test_lock(pages: Pages, named: bool) -> None:
    """All that the pool has is mapped and locked, and what it gets later too."""
    pool = pages(named=named, prealloc=100, lock=True)
    assert in_file(pool) == bytes_of(pool, "Locked")
    assert faults_of_first_use(pool) < FEW
    assert in_file(pool) == bytes_of(pool, "Locked")
    assert 0 == pool.trim()  # the kernel keeps what is locked


def test_attach_with_lock(pages: Pages) -> None:
    pool = pages()
    pool.close()  # "Locked" counts a share of a page that is mapped twice
    with shmpool.Pool.attach(pool.name, lock=True) as other:
        assert in_file(other) == bytes_of(other, "Locked")


def test_a_lock_over_the_limit(start: Start) -> None:
    """The error names the limit and its value, and what to set."""
    child = start(
        """
        import os, resource, shmpool
        shmpool.Pool.create(None, buffer_size=64, capacity=64).close()
        if os.geteuid() == 0:
            os.setuid(65534)  # root may lock without a limit
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, hard))
        try:
            shmpool.Pool.create(None, buffer_size=4096, capacity=1024, queues=1, lock=True)
        except shmpool.LimitReached as error:
            print(error)
        print(len(shmpool.process_exit.open_pools()))
        """
    )
    said, still_open = child.end().splitlines()
    for words in ("with all that it can grow to it has 12.", "RLIMIT_MEMLOCK is 64 KiB: ulimit -l"):
        assert words in said
    assert "0" == still_open


def test_a_lock_that_is_refused(start: Start) -> None:
    child = start(
        f"""{FILTER}
refuse(errno.ENOSYS, {numbers("mlock2")})
try:
    shmpool.Pool.create(None, buffer_size=64, capacity=64, lock=True)
except shmpool.AccessDenied as error:
    print(error)
"""
    )
    assert "mlock2(2)" in lines_of(child)[0]


# NUMA.


def without_numa(pool_name: str) -> str:
    """Why no pool can be placed on this machine; "" if one can."""
    try:
        shmpool.Pool.create(pool_name, buffer_size=64, capacity=64, numa_node=0).close()
    except (shmpool.InvalidArgument, shmpool.AccessDenied) as error:
        return str(error)
    shmpool.Pool.unlink(pool_name)
    return ""


@NAMES
@pytest.mark.parametrize("wanted", ["first", "interleave"])
def test_nodes(pages: Pages, pool_name: str, named: bool, wanted: str) -> None:
    """The kernel has the policy for the file: it holds in each process that uses the pool."""
    if why := without_numa(pool_name):
        pytest.skip(why)
    allowed = memory.nodes(Path("/"))
    node: int | str = allowed[0] if wanted == "first" else wanted
    pool = pages(named=named, numa_node=node)
    (line,) = of_mapping(pool, "numa_maps")
    policy = line.split()[1]
    assert re.fullmatch(rf"prefer.*:{node}" if wanted == "first" else "interleave:.*", policy)
    if named:
        with shmpool.Pool.attach(pool.name) as other:
            (line,) = of_mapping(other, "numa_maps")
            assert policy == line.split()[1]
    assert pool.audit().ok


def test_a_node_that_is_not_there(pool_name: str) -> None:
    if why := without_numa(pool_name):
        pytest.skip(why)
    allowed = ", ".join(map(str, memory.nodes(Path("/"))))
    with pytest.raises(
        shmpool.InvalidArgument,
        match=f"numa_node is 1023; this process may use the nodes {allowed} ",
    ):
        shmpool.Pool.create(pool_name, buffer_size=64, capacity=64, numa_node=1023)
    assert pool_name not in shmpool.pool_names()


@pytest.mark.parametrize("node", [-1, 1024, "first", True])
def test_what_is_no_node(pool_name: str, node: Any) -> None:
    words = rf"numa_node is {node!r}; it must be from 0 to 1023, or \"interleave\""
    with pytest.raises(shmpool.InvalidArgument, match=words):
        shmpool.Pool.create(pool_name, buffer_size=64, capacity=64, numa_node=node)


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [("EPERM", "AccessDenied", "--cap-add SYS_NICE"), ("ENOSYS", "InvalidArgument", "no NUMA")],
)
def test_nodes_without_permission(
    start: Start, pool_name: str, code: str, kind: str, words: str
) -> None:
    child = start(
        f"""{FILTER}
refuse(errno.{code}, {numbers("mbind")})
try:
    shmpool.Pool.create(sys.argv[1], buffer_size=64, capacity=64, numa_node=0)
except shmpool.ShmpoolError as error:
    print(type(error).__name__, error)
print(sys.argv[1] in shmpool.pool_names())
""",
        pool_name,
    )
    said, left = lines_of(child)
    assert said.startswith(f"{kind} pool {pool_name!r}: numa_node is 0; ")
    assert words in said
    assert "False" == left


def test_nodes_of_the_machine(tmp_path: Path) -> None:
    """Those that have memory and that the process may use."""
    assert [0] == memory.nodes(tmp_path)
    (tmp_path / memory.NODES).parent.mkdir(parents=True)
    (tmp_path / memory.NODES).write_text("0-3,6\n")
    assert [0, 1, 2, 3, 6] == memory.nodes(tmp_path)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Name:\tx\nMems_allowed_list:\t2-4\n")
    assert [2, 3] == memory.nodes(tmp_path)


# Core files.


@NAMES
def test_core_files(pages: Pages, named: bool) -> None:
    """A pool's memory is left out of core files, unless a process asks for it."""
    pool = pages(named=named)
    assert "dd" in flags(pool)
    assert "dd" not in flags(pages(named=named, core_dump=True))
    if named:
        with shmpool.Pool.attach(pool.name) as other:
            assert "dd" in flags(other)
        with shmpool.Pool.attach(pool.name, core_dump=True) as other:
            assert "dd" not in flags(other)
        with shmpool.Pool.attach(pool.name, readonly=True, core_dump=True) as other:
            assert "dd" not in flags(other)


# All together.


def test_exist_ok_prepares_too(pages: Pages) -> None:
    pool = pages()
    options: dict[str, Any] = {"buffer_size": PAGE, "capacity": PAGES}
    with shmpool.Pool.create(
        pool.name, exist_ok=True, populate=True, core_dump=True, **options
    ) as other:
        assert in_file(pool) == bytes_of(other, "Rss")
        assert "dd" not in flags(other)


@pytest.mark.usefixtures("huge_pages")
def test_every_way_to_make_a_pool(pool_name: str) -> None:
    """The command line and the daemon's configuration make pools with the same options."""
    pytest.importorskip("click", reason="shmpool[cli] is not installed")
    config = pytest.importorskip("shmpool.service.config")
    declared_pools = pytest.importorskip("shmpool.service.declared_pools")
    text = f"""
        [pools.{pool_name}]
        buffer_size = {PAGE}
        capacity = {PAGES}
        prealloc = {PAGES}
        huge_pages = "always"
        """
    command = ["create", pool_name, "--direct", "--buffer-size", str(PAGE), "--capacity"]
    command += [str(PAGES), "--prealloc", str(PAGES), "--huge-pages", "always"]
    for make in (
        lambda: declared_pools.make(config.parse(text)),
        lambda: subprocess.run(
            [sys.executable, "-m", "shmpool", *command], check=True, stdout=subprocess.DEVNULL
        ),
    ):
        make()
        with shmpool.Pool.attach(pool_name, populate=True) as pool:
            assert PAGES * PAGE == bytes_of(pool, "ShmemPmdMapped")
        shmpool.Pool.unlink(pool_name)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('huge_pages = "yes"', 'huge_pages = "yes": it must be "auto" or "always" or "never"'),
        ('huge_pages = "always"', "it needs a prealloc x buffer_size of at least 2 MiB"),
        ("numa_node = -1", 'numa_node = -1: it must be from 0 to 1023, or "interleave"'),
        ('numa_node = "first"', 'it must be from 0 to 1023, or "interleave"'),
        ("numa_node = 1.5", "numa_node = 1.5: it must be a string or an integer"),
    ],
)
def test_the_configuration_names_the_line(line: str, words: str) -> None:
    config = pytest.importorskip("shmpool.service.config")
    with pytest.raises(config.ConfigError) as caught:
        config.parse(f"[pools.rx]\nbuffer_size = 64\ncapacity = 64\n{line}\n")
    assert "line 4: " in str(caught.value)
    assert words in str(caught.value)


def test_codes_are_not_others() -> None:
    """Other codes of a creation are not taken for those of huge pages."""
    assert memory.no_huge_pages("x", -errno.ENOSPC) is None
