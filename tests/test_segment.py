# SPDX-License-Identifier: Apache-2.0
"""Segments that are missing, incomplete or forbidden, and concurrent creators of one pool."""

import contextlib
import errno
import os
import signal
import stat
import subprocess
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Child, Eventually, MakePool, open_files

import shmpool
import shmpool.segment
from shmpool._ffi import lib
from shmpool.pool_files import open_file
from shmpool.segment import Segment
from shmpool.view import View


def segment(name: str) -> Path:
    return Path(f"/dev/shm/shmpool.{name}")


def test_a_missing_segment(pool_name: str) -> None:
    """attach and unlink are PoolNotFound that names the pool, and FileNotFoundError."""
    for call in (shmpool.Pool.attach, shmpool.Pool.unlink):
        with pytest.raises(shmpool.PoolNotFound, match=pool_name) as caught:
            call(pool_name)
        assert isinstance(caught.value, FileNotFoundError)


def test_a_file_that_shrinks(pool: shmpool.Pool) -> None:
    """A file that was truncated after its header was read is not mapped: a read would be SIGBUS."""
    size = segment(pool.name).stat().st_size
    file = open_file(pool.name, read_only=True)
    with pytest.raises(shmpool.SegmentInvalid, match=f"{pool.name}.*truncated"):
        Segment(pool.name, file, size + 1, read_only=True)


def test_mode_and_group(make_pool: MakePool) -> None:
    """The file has exactly the given mode, whatever the umask. 0600 is the default."""
    before = os.umask(0o077)
    try:
        shared, private = make_pool(mode=0o660, group=os.getgid()), make_pool()
    finally:
        os.umask(before)
    assert 0o660 == stat.S_IMODE(segment(shared.name).stat().st_mode)
    assert os.getgid() == segment(shared.name).stat().st_gid
    assert 0o600 == stat.S_IMODE(segment(private.name).stat().st_mode)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file to any group")
def test_group_by_name(make_pool: MakePool) -> None:
    """group takes a name or a number."""
    assert 1 == segment(make_pool(group="daemon").name).stat().st_gid
    assert 12345 == segment(make_pool(group=12345).name).stat().st_gid


def test_attach_without_permission(make_pool: MakePool, run: Callable[..., str]) -> None:
    """A user without permission by the mode gets AccessDenied that names the pool."""
    pool = make_pool(mode=0o600 if os.getuid() == 0 else 0o000)
    printed = run(
        """
        import os, sys
        import shmpool
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            shmpool.Pool.attach(sys.argv[1])
        except shmpool.AccessDenied as error:
            print(isinstance(error, PermissionError), sys.argv[1] in str(error))
        """,
        pool.name,
    )
    assert "True True\n" == printed


@pytest.mark.skipif(os.getuid() != 0, reason="needs a second user")
def test_unlink_and_create_without_permission(pool: shmpool.Pool, run: Callable[..., str]) -> None:
    """Another user can neither unlink the pool nor create one of its name."""
    printed = run(
        """
        import os, sys
        import shmpool
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        for call in (
            lambda: shmpool.Pool.unlink(sys.argv[1]),
            lambda: shmpool.Pool.create(sys.argv[1], buffer_size=64, capacity=2),
        ):
            try:
                call()
            except (shmpool.AccessDenied, shmpool.PoolExists) as error:
                print(type(error).__name__, sys.argv[1] in str(error))
        """,
        pool.name,
    )
    assert "AccessDenied True\n" == printed.splitlines(keepends=True)[0]
    assert 2 == len(printed.splitlines())
    assert segment(pool.name).exists()


@pytest.mark.parametrize("group", ["'root'", "0"])
def test_a_group_that_is_not_ours(pool_name: str, run: Callable[..., str], group: str) -> None:
    """AccessDenied names the pool and the group. Nothing is left."""
    if os.getuid() != 0 and 0 in os.getgroups():
        pytest.skip("this user is in the group root")
    printed = run(
        f"""
        import os, sys
        import shmpool
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            shmpool.Pool.create(sys.argv[1], buffer_size=64, capacity=2, group={group})
        except shmpool.AccessDenied as error:
            print(error)
        """,
        pool_name,
    )
    told = f"pool '{pool_name}' cannot be given to group {group}: Operation not permitted; give a "
    assert printed.startswith(told)
    assert not segment(pool_name).exists()


def test_a_group_that_the_namespace_does_not_know(pool_name: str, run: Callable[..., str]) -> None:
    """It is AccessDenied too."""
    prefix = ("unshare", "--user", "--map-root-user")
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    printed = run(
        """
        import sys
        import shmpool
        try:
            shmpool.Pool.create(sys.argv[1], buffer_size=64, capacity=2, group=12345)
        except shmpool.AccessDenied as error:
            print(error)
        """,
        pool_name,
        prefix=prefix,
    )
    assert f"pool '{pool_name}' cannot be given to group 12345: Invalid argument; " in printed
    assert not segment(pool_name).exists()


DIES = """
    import os, signal, sys
    import shmpool, shmpool.segment as segment

    def die(*arguments, **options):
        if sys.argv[4:] == ["forks"] and not os.fork():
            print(os.getpid(), flush=True)  # as a fork of another thread: it makes nothing
            signal.pause()
        os.kill(os.getpid(), int(sys.argv[3]))

    where = sys.argv[2]
    if where == "empty":
        os.ftruncate = die
    elif where == "sized":
        truncate = os.ftruncate
        os.ftruncate = lambda *arguments: (truncate(*arguments), die())
    elif where == "filled":
        os.fchown = die
    elif where == "open":
        chmod = os.fchmod
        os.fchmod = lambda *arguments: (chmod(*arguments), die())
    pool = shmpool.Pool.create(sys.argv[1], buffer_size=64, capacity=64, mode=0o644)
    if where == "named":  # what is there between the two system calls of the last step
        os.link(pool._segment.path, "/dev/shm/shmpool.~0")
        die()
"""
UNFINISHED = ["empty", "sized", "filled", "open"]


def unfinished(pid: int) -> set[Path]:
    """The unnamed files that a process has open. Other processes create pools too."""
    return {Path(link) for link in open_files(pid) if link.startswith("/dev/shm/shmpool.~")}


@pytest.fixture
def alone(run: Callable[..., str]) -> Callable[..., str]:
    """run() in a /dev/shm of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a /dev/shm of its own")
    own = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh")
    return lambda script, *arguments: run(script, *arguments, prefix=own)


LEFT = """
    import os, signal, subprocess, sys
    import shmpool
    from shmpool.pool_files import names
    where, forks = sys.argv[2], sys.argv[3:]
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1], "rx", where, "9", *forks],
                             stdout=subprocess.PIPE)
    grandchild = int(child.stdout.readline()) if forks else None
    assert child.wait() == -9
    print(len([*names()]), shmpool.pool_names())
    if where == "named":
        assert ["rx"] == shmpool.prune()
    try:
        shmpool.Pool.attach("rx")
    except shmpool.PoolNotFound:
        print("not found")
    with shmpool.Pool.create("rx", buffer_size=64, capacity=2) as pool:
        print(len(pool.alloc_many(2)))
        print(shmpool.prune(), [*names()])
    child.stdout.close()
    if grandchild:
        os.kill(grandchild, signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("forks", [[], ["forks"]])
@pytest.mark.parametrize("where", UNFINISHED)
def test_a_creator_killed(alone: Callable[..., str], where: str, forks: list[str]) -> None:
    """The pool's name never existed, and the next create gets it. prune() removes what is left.

    It does so although a child of the creator lives.
    """
    lines = alone(LEFT, textwrap.dedent(DIES), where, *forks).splitlines()
    assert ["1 []", "not found", "2", "[] ['rx']"] == lines


def test_a_creator_killed_when_the_pool_has_its_name(alone: Callable[..., str]) -> None:
    """The pool is complete and abandoned. prune() removes both of its names."""
    lines = alone(LEFT, textwrap.dedent(DIES), "named").splitlines()
    assert ["2 ['rx']", "not found", "2", "[] ['rx']"] == lines


@pytest.mark.usefixtures("own_pools")
def test_a_pool_that_is_being_made(pool_name: str, start: Callable[..., Child]) -> None:
    """No process waits for a suspended creator, and prune() leaves its file alone.

    Of two creators the first to finish gets the name.
    """
    child = start(DIES, pool_name, "filled", int(signal.SIGSTOP))
    os.waitpid(child.pid, os.WUNTRACED)
    (file,) = unfinished(child.pid)
    for call in (shmpool.Pool.attach, View):
        with pytest.raises(shmpool.PoolNotFound, match=pool_name):
            call(pool_name)
    shmpool.prune()
    assert file.exists()
    with shmpool.Pool.create(pool_name, buffer_size=64, capacity=2):
        os.kill(child.pid, signal.SIGCONT)
        assert 0 != child.process.wait()
        assert not file.exists()
        with shmpool.Pool.attach(pool_name) as pool:
            assert 2 == pool.capacity


@pytest.mark.usefixtures("own_pools")
def test_who_may_open_a_pool_that_is_being_made(
    pool_name: str, start: Callable[..., Child], eventually: Eventually
) -> None:
    """Until it has its group and is complete, only its creator can open it."""
    child = start(DIES, pool_name, "filled", int(signal.SIGSTOP))
    os.waitpid(child.pid, os.WUNTRACED)
    (file,) = unfinished(child.pid)
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    child.kill()
    shmpool.prune()
    assert not file.exists()


@pytest.mark.usefixtures("own_pools")
@pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.9])
def test_a_creator_killed_while_it_reserves(
    pool_name: str, start: Callable[..., Child], eventually: Eventually, part: float
) -> None:
    """It is killed with part of the memory reserved: the next create succeeds."""
    size = 64 << 20
    child = start(
        """
        import shmpool, sys
        shmpool.Pool.create(sys.argv[1], buffer_size=16384, capacity=4096, prealloc=4096)
        """,
        pool_name,
    )

    def reserved() -> bool:
        for path in Path("/dev/shm").glob("shmpool.~*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_blocks * 512 >= max(part * size, 1):
                    return True
        return child.process.poll() is not None

    eventually(reserved)
    child.process.kill()
    child.process.wait()
    try:
        shmpool.Pool.attach(pool_name).close()  # the creator was faster
        shmpool.Pool.unlink(pool_name)
    except shmpool.PoolNotFound:
        pass
    with shmpool.Pool.create(pool_name, buffer_size=64, capacity=2) as pool:
        assert 2 == len(pool.alloc_many(2))
    shmpool.prune()  # and the files of the other one


def test_a_timer_does_not_keep_a_pool_from_being_made(
    pool_name: str, run: Callable[..., str]
) -> None:
    """Signals that are faster than the reservation of memory only delay it."""
    printed = run(
        """
        import shmpool, signal, sys
        signal.signal(signal.SIGALRM, lambda *arguments: None)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        pool = shmpool.Pool.create(sys.argv[1], buffer_size=16384, capacity=1024, prealloc=1024)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(len(pool.alloc_many(1024)))
        """,
        pool_name,
    )
    assert "1024" == printed.strip()


def test_half_made_files(pool_name: str) -> None:
    """An empty file of a pool's size is no pool, and is replaced by one."""
    for size in (0, 1 << 20, 34 << 20):
        segment(pool_name).touch()
        os.truncate(segment(pool_name), size)
        with pytest.raises(shmpool.SegmentInvalid, match=pool_name):
            shmpool.Pool.attach(pool_name)
        with shmpool.Pool.create(pool_name, buffer_size=64, capacity=2):
            shmpool.Pool.unlink(pool_name)


AT_ONCE = """
    import sys, time
    import shmpool
    print("ready", flush=True)
    for line in sys.stdin:
        name, at = line.split()
        while time.monotonic() < float(at):
            pass
        try:  # open until the next: a pool that nobody has open may be pruned
            pool = shmpool.Pool.create(name, buffer_size=64, capacity=64)
            print("won", flush=True)
        except shmpool.PoolExists:
            print("lost", flush=True)
"""


def test_two_make_one_pool(new_name: Callable[[], str], start: Callable[..., Child]) -> None:
    """Of several concurrent creators exactly one succeeds, and its pool is complete."""
    children = [start(AT_ONCE) for _ in range(3)]
    assert ["ready"] * 3 == [child.line() for child in children]
    for _ in range(40):
        name = new_name()
        for child in children:
            child.send(f"{name} {time.monotonic() + 0.002}")
        assert ["lost", "lost", "won"] == sorted(child.line() for child in children)
        with shmpool.Pool.attach(name) as pool:
            assert 64 == pool.capacity
        shmpool.Pool.unlink(name)
    for child in children:
        child.end()


QUEUES_AT_ONCE = """
    import sys, time
    import shmpool
    pool = shmpool.Pool.attach(sys.argv[1])
    print("ready", flush=True)
    at = float(input())
    won = []
    for i in range(600):
        while time.monotonic() < at + i * 0.0002:
            pass
        try:
            pool.create_queue(f"q{i}", capacity=2)
            won.append(i)
        except shmpool.QueueExists:
            pass
    print(*won)
"""


def test_two_make_one_queue(make_pool: MakePool, start: Callable[..., Child]) -> None:
    """Of several concurrent creators of a queue exactly one succeeds, for every name."""
    pool = make_pool(queues=1023)
    children = [start(QUEUES_AT_ONCE, pool.name) for _ in range(2)]
    assert ["ready"] * 2 == [child.line() for child in children]
    at = time.monotonic() + 0.05
    for child in children:
        child.send(at)
    won = [int(i) for child in children for i in child.end().split()]
    assert list(range(600)) == sorted(won)
    assert sorted(f"q{i}" for i in range(600)) == sorted(queue.name for queue in pool.queues())


@pytest.mark.parametrize("replace", [False, True])
def test_a_creator_meets_a_pruner(
    make_pool: MakePool, new_name: Callable[[], str], monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    """prune() locks or removes a new file before its creator locks it: the creator makes
    another."""
    name = make_pool().name if replace else new_name()
    met = []

    class Met(shmpool.segment.SegmentBase):
        def _create(self, path: str) -> int:
            code = super()._create(path)
            met.append(path)
            if len(met) == 1:
                return -errno.EDEADLK
            if len(met) == 2:
                os.unlink(path)
            return code

    monkeypatch.setattr(shmpool.segment, "SegmentBase", Met)
    with shmpool.Pool.create(name, buffer_size=64, capacity=2, replace=replace) as pool:
        pool.alloc().free()
        assert not pool.replaced
    assert 3 == len(set(met))
    assert [] == [path for path in met if os.path.exists(path)]


def test_one_check_an_attach(pool: shmpool.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """C checks the segment when it opens it, and Python does not check it again.

    Only if C refuses the segment Python reads it, to give the reason.
    """
    asked: list[str] = []
    lib = shmpool.segment.lib

    class Recording:
        def __getattr__(self, name: str) -> object:
            asked.append(name)
            return getattr(lib, name)

    monkeypatch.setattr(shmpool.segment, "lib", Recording())
    shmpool.Pool.attach(pool.name).close()
    shmpool.Pool.attach(pool.name, readonly=True).close()
    View(pool.name).close()
    assert "shmpool_check" not in asked
    with segment(pool.name).open("r+b") as file:
        magic = file.read(8)
        file.seek(0)
        file.write(bytes(8))
        file.flush()
        for call in (shmpool.Pool.attach, View):
            with pytest.raises(shmpool.SegmentInvalid, match="its magic is 0x0, not 0x"):
                call(pool.name)
        file.seek(0)
        file.write(magic)
    assert ["shmpool_check"] * 2 == [name for name in asked if name == "shmpool_check"]


def test_a_pool_that_the_kernel_refuses(pool_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any error of the kernel for the memory is raised and names the pool. Nothing is left."""

    class Refusing:
        """The C library, with a reservation of memory that fails."""

        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def shmpool_create_wait(self, *arguments: object) -> int:
            return -errno.EIO

    monkeypatch.setattr(shmpool.segment, "lib", Refusing())
    for name in (pool_name, None):
        with pytest.raises(shmpool.ShmpoolError, match="Input/output error") as caught:
            shmpool.Pool.create(name, buffer_size=256, capacity=64)
        assert (name or "anonymous") in str(caught.value)
    assert not segment(pool_name).exists()


def test_a_file_that_the_kernel_refuses(pool_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exception has the reason why the file could not be created."""

    class Refused(shmpool.segment.SegmentBase):
        def _create(self, path: str) -> int:
            return -errno.EMFILE

    monkeypatch.setattr(shmpool.segment, "SegmentBase", Refused)
    with pytest.raises(shmpool.LimitReached, match="ulimit -n"):
        shmpool.Pool.create(pool_name, buffer_size=256, capacity=64)
