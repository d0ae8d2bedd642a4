# SPDX-License-Identifier: Apache-2.0
"""Which pools a daemon watches, whatever other users put into /dev/shm."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import DEADLINE_S, MakePool

pytest.importorskip("aiohttp", reason="shmpool[daemon] is not installed")

import shmpool
from shmpool.service import adoption, config, file_watch, watched_pool
from shmpool.service.adoption import Adoption
from shmpool.service.file_watch import CloseWatch, NameWatch
from shmpool.service.handlers import RequestHandler

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make files of others")
Adopting = tuple[RequestHandler, Adoption, list[str]]


def file_of(name: str) -> Path:
    return Path(f"/dev/shm/shmpool.{name}")


@pytest.fixture
def adopting() -> Iterator[Adopting]:
    """A handler, its Adoption, and the list of pools that it asked to declare again."""
    pools, again = RequestHandler("0"), list[str]()
    yield pools, Adoption(pools, again.append), again
    for name in list(pools.watched):
        pools.release(name)


def adopt(*patterns: str, users: tuple[str, ...] = (), **pools: dict[str, object]) -> config.Config:
    """A configuration that adopts these names and declares these pools."""
    found = config.Config(pools={name: config.PoolConfig(**pool) for name, pool in pools.items()})
    daemon = replace(found.daemon, adopt=list(patterns), adopt_users=list(users))
    return replace(found, daemon=daemon)


SMALL = {"buffer_size": 256, "capacity": 64}


@needs_root
def test_pools_of_other_users(adopting: Adopting, make_pool: MakePool) -> None:
    """Pools of other users are counted and not opened. Those of a user in adopt_users are
    watched."""
    pools, decide, _ = adopting
    own, other, named = (make_pool().name for _ in range(3))
    os.chown(file_of(other), NOBODY, NOBODY)
    os.chown(file_of(named), 12345, NOBODY)
    decide.configure(adopt(own, other, named, users=("12345",)))
    for name in (own, other, named):
        decide.changed(name)
    assert {own, named} == set(pools.watched)
    assert (watched_pool.Rank.OWN, watched_pool.Rank.OTHER) == (
        pools.watched[own].rank,
        pools.watched[named].rank,
    )
    assert 1 == pools.foreign
    assert {own, other, named} == set(decide.names())
    assert {own, named} == set(decide.own_names())
    decide.configure(adopt(own, other, named, users=("*",)))
    decide.changed(other)
    assert {own, other, named} == set(pools.watched)
    assert 0 == pools.foreign


@needs_root
def test_a_pool_that_is_given_away(adopting: Adopting, make_pool: MakePool) -> None:
    """A watched pool is released when another user gets its file, and watched again later."""
    pools, decide, _ = adopting
    name = make_pool().name
    decide.configure(adopt(name))
    decide.changed(name)
    assert {name} == set(pools.watched)
    os.chown(file_of(name), NOBODY, NOBODY)
    decide.rescan()
    assert {} == pools.watched
    os.chown(file_of(name), 0, 0)
    decide.changed(name)
    assert {name} == set(pools.watched)


@needs_root
def test_own_pools_come_first(adopting: Adopting, make_pool: MakePool) -> None:
    """Declared pools and own pools always get a place: they evict pools of other users."""
    pools, decide, _ = adopting
    pools.watched_max = 3
    others = [make_pool().name for _ in range(4)]
    own, declared = make_pool().name, make_pool().name
    for name in others:
        os.chown(file_of(name), NOBODY, NOBODY)
    decide.configure(adopt("*", users=("*",), **{declared: SMALL}))
    for name in others:
        decide.changed(name)
    assert set(others[:3]) == set(pools.watched)
    decide.changed(own)
    decide.watch(declared, config.PoolConfig(256, 64), watched_pool.Rank.DECLARED)
    assert {own, declared} < set(pools.watched)
    assert 3 == len(pools.watched)
    for name in others:
        decide.changed(name)
    assert {own, declared} < set(pools.watched)
    shmpool.Pool.unlink(own)
    decide.changed(own)
    decide.rescan()  # its place is free: one of the other users' pools gets it
    assert 3 == len(pools.watched)


@needs_root
@pytest.mark.parametrize(
    ("mode", "owner", "group", "why"),
    [
        (0o600, NOBODY, 0, "belongs to user 65534"),
        (0o666, NOBODY, 0, "belongs to user 65534"),
        (0o606, 0, 0, "mode is 0606"),
        (0o620, 0, 0, "mode is 0620"),
        (0o666, 0, 0, "mode is 0666"),
        (0o600, 0, NOBODY, None),
        (0o604, 0, 0, None),
    ],
)
def test_a_file_with_a_declared_name(
    adopting: Adopting,
    make_pool: MakePool,
    mode: int,
    owner: int,
    group: int,
    why: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A file of another user, or with wider permissions than declared, is not the declared pool."""
    pools, decide, again = adopting
    name = make_pool().name
    file_of(name).chmod(mode)
    os.chown(file_of(name), owner, group)
    decide.configure(adopt("*", **{name: SMALL}))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            decide.changed(name)
            decide.rescan()
    if why is None:
        assert {name} == set(pools.watched)
        return
    assert {} == pools.watched
    assert [True] == [why in line for line in caplog.messages if "refused" in line]
    assert (1, []) == (pools.refused, again)
    shmpool.Pool.unlink(name)
    decide.changed(name)
    assert [name] == again
    decide.rescan()
    assert [name] == again  # until an answer arrives
    decide.declared(name, None)
    assert 0 == pools.refused


@needs_root
def test_a_declared_pool_whose_rights_change(adopting: Adopting, make_pool: MakePool) -> None:
    """A watched declared pool is refused when its file gets wider permissions than declared."""
    pools, decide, again = adopting
    name = make_pool().name
    decide.configure(adopt(**{name: SMALL}))
    decide.changed(name)
    assert watched_pool.Rank.DECLARED == pools.watched[name].rank
    file_of(name).chmod(0o666)
    decide.changed(name)
    assert {} == pools.watched
    file_of(name).chmod(0o600)
    decide.changed(name)
    assert [name] == again


def test_files_that_are_no_pools(
    adopting: Adopting, new_name: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    """Each is logged once, retried after growing pauses, and forgotten when it is removed."""
    pools, decide, _ = adopting
    names = [new_name() for _ in range(3)]
    file_of(names[0]).write_bytes(bytes(10000))
    os.mkfifo(file_of(names[1]))
    file_of(names[2]).symlink_to("/dev/zero")
    decide.configure(adopt("*"))
    with caplog.at_level(logging.INFO):
        for _ in range(10):
            for name in names:
                decide.changed(name)
    assert 3 == len(caplog.messages)
    assert {} == pools.watched
    assert set(names) == set(decide.names())
    for name in names:
        file_of(name).unlink()
        decide.changed(name)
    assert [] == decide.names()


def test_many_names(
    adopting: Adopting, new_name: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of names that are remembered is bounded, and names that no pool can have are not
    remembered."""
    pools, decide, _ = adopting
    monkeypatch.setattr(adoption, "SKIPPED_MAX", 5)
    monkeypatch.setattr(adoption, "LISTED_MAX", 5)
    names = [new_name() for _ in range(20)]
    for name in names:
        file_of(name).touch()
        if os.geteuid() == 0 and name in names[10:]:
            os.chown(file_of(name), NOBODY, NOBODY)
    for config_ in (adopt("*"), adopt()):
        decide.configure(config_)
        for name in [*names, "x" * 64, "a b", "\x1b[2J", "\udcff", ""]:
            decide.changed(name)
        assert 5 <= len(decide.names()) <= 10
        assert set(decide.names()) <= set(names)
    assert {} == pools.watched


def test_a_damaged_pool(adopting: Adopting, make_pool: MakePool) -> None:
    """A pool that becomes unreadable is released, still listed, and not tried again at once."""
    pools, decide, _ = adopting
    name = make_pool().name
    decide.configure(adopt("*"))
    decide.changed(name)
    decide.damaged(name, "torn")
    decide.rescan()
    assert {} == pools.watched
    assert [name] == decide.names()


def test_a_place_becomes_free(adopting: Adopting, make_pool: MakePool) -> None:
    """A pool without a place is watched as soon as a place is free."""
    pools, decide, _ = adopting
    pools.watched_max = 1
    first, second = make_pool().name, make_pool().name
    decide.configure(adopt("*"))
    decide.changed(first)
    decide.changed(second)
    assert {first} == set(pools.watched)
    shmpool.Pool.unlink(first)
    decide.rescan()
    decide.rescan()
    assert {second} == set(pools.watched)


def test_a_pool_with_members_finds_a_place(adopting: Adopting, make_pool: MakePool) -> None:
    """A pool with members evicts one without, but neither one with members nor a declared one."""
    pools, decide, _ = adopting
    pools.watched_max = 2
    idle, used, later, more = (make_pool() for _ in range(4))
    decide.configure(adopt("*"))
    used.alloc().free()
    for pool in (idle, used):
        decide.changed(pool.name)
    decide.changed(later.name)
    assert {idle.name, used.name} == set(pools.watched)
    later.alloc().free()
    decide.changed(later.name)
    assert {used.name, later.name} == set(pools.watched)
    more.alloc().free()
    decide.changed(more.name)
    assert {used.name, later.name} == set(pools.watched)


def test_a_damaged_pool_makes_room(
    adopting: Adopting, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged pool gives its place to a pool with members, as a pool that no process has open
    does."""
    pools, decide, _ = adopting
    pools.watched_max = 1
    damaged, later = make_pool(), make_pool()
    decide.configure(adopt("*"))
    damaged.alloc().free()
    later.alloc().free()
    decide.changed(damaged.name)
    read, broken = watched_pool.View.stats, pools.watched[damaged.name].view

    def stats(view: watched_pool.View) -> shmpool.Stats:
        if view is broken:
            raise shmpool.SegmentInvalid("torn")
        return read(view)

    monkeypatch.setattr(watched_pool.View, "stats", stats)
    decide.changed(later.name)
    assert {later.name} == set(pools.watched)


def test_watching_is_not_using(adopting: Adopting, make_pool: MakePool, own_pools: None) -> None:
    """prune() removes a watched pool that no process has open, but not a declared one."""
    pools, decide, _ = adopting
    watched, declared = make_pool(), make_pool()
    for pool in (watched, declared):
        pool.close()
    decide.configure(adopt(watched.name, **{declared.name: SMALL}))
    decide.changed(watched.name)
    decide.changed(declared.name)
    assert {watched.name, declared.name} == set(pools.watched)
    assert [watched.name] == shmpool.prune(age=0)
    decide.rescan()
    assert {declared.name} == set(pools.watched)
    assert [] == shmpool.prune(age=0)
    decide.configure(adopt(declared.name))
    assert {declared.name} == set(pools.watched)
    assert [declared.name] == shmpool.prune(age=0)


@contextlib.asynccontextmanager
async def watching() -> AsyncIterator[tuple[NameWatch, "asyncio.Queue[str]"]]:
    reported: asyncio.Queue[str] = asyncio.Queue()
    found = NameWatch(reported.put_nowait)
    task = asyncio.create_task(found.run())
    try:
        yield found, reported
    finally:
        task.cancel()
        found.close()


async def until_reported(reported: "asyncio.Queue[str]", name: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await reported.get() != name:
            pass


@pytest.mark.parametrize("inotify", [True, False])
def test_files_that_come_and_go(
    new_name: Callable[[], str], inotify: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that exist, are created, moved or change rights are reported, with inotify and
    without."""
    if not inotify:
        monkeypatch.setattr(file_watch, "_watch_directory", lambda: -1)
        monkeypatch.setattr(file_watch, "POLL_S", 0.01)
    first, second, third = (new_name() for _ in range(3))

    async def go() -> None:
        file_of(first).touch()
        async with watching() as (_, reported):
            await until_reported(reported, first)
            file_of(second).touch()
            await until_reported(reported, second)
            file_of(second).rename(file_of(third))
            await until_reported(reported, third)
            while not reported.empty():
                reported.get_nowait()
            file_of(third).chmod(0o640)
            await until_reported(reported, third)
            if inotify:
                file_of(third).unlink()
                await until_reported(reported, third)

    asyncio.run(go())


def test_inotify_loses_events(new_name: Callable[[], str]) -> None:
    """After inotify has lost events, the whole directory is reported again."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    early, late = new_name(), new_name()

    async def go() -> None:
        async with watching() as (_, reported):
            file_of(early).touch()
            await until_reported(reported, early)
            name = f"/dev/shm/shmpool.{late}"
            for _ in range(limit // 2 + 100):  # the kernel merges none of these: nothing reads
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600))
                os.unlink(name)
            while not reported.empty():
                reported.get_nowait()
            file_of(late).touch()
            await until_reported(reported, early)  # whose file nothing has happened to

    asyncio.run(go())


def test_files_that_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The close of a followed pool's file is reported at once, that of another file is not.

    Nothing is reported after the end, and no descriptor stays. The kernel queues the event before
    close(2) returns, and the event loop reads it one iteration later. The files are in a folder of
    their own, because a prune of /dev/shm opens and closes files.
    """
    followed, other = tmp_path / "followed", tmp_path / "other"
    for path in (followed, other):
        path.touch()
    monkeypatch.setattr(file_watch, "path_of", lambda name: str(tmp_path / name))

    async def go() -> None:
        reported = list[str]()
        before = os.listdir("/proc/self/fd")
        closes = CloseWatch(lambda: reported.append("closed"))
        closes.follow({followed.name: followed.stat().st_ino})

        async def reports_of(path: Path) -> int:
            """Returns how often the close of this file is reported."""
            reported.clear()
            os.close(os.open(path, os.O_RDWR))
            for _ in range(10):
                await asyncio.sleep(0)
            return len(reported)

        assert (1, 0, 1) == (
            await reports_of(followed),
            await reports_of(other),
            await reports_of(followed),
        )
        os.close(os.open(followed, os.O_RDWR))
        closes.close()
        assert 0 == await reports_of(followed)
        names = NameWatch(print)
        names.close()
        assert before == os.listdir("/proc/self/fd")

    asyncio.run(go())


def test_closes_without_standard_input(pool: shmpool.Pool, run: Callable[..., str]) -> None:
    """The watch works if its descriptor is 0, as in a process without a standard input."""
    printed = run(
        """
        import asyncio, os, sys
        from shmpool.service.file_watch import CloseWatch

        async def go():
            os.close(0)
            closed = asyncio.Event()
            watch = CloseWatch(closed.set)
            path = f"/dev/shm/shmpool.{sys.argv[1]}"
            watch.follow({sys.argv[1]: os.stat(path).st_ino})
            os.close(os.open(path, os.O_RDWR))
            await closed.wait()
            print(watch._fd)
            watch.close()

        asyncio.run(go())
        """,
        pool.name,
    )
    assert "0\n" == printed


def test_a_file_that_is_marked_as_used(make_pool: MakePool) -> None:
    """Only the intended file is marked: not the target of a link in its place, nor another file
    that has its name now."""
    name = make_pool().name
    inode = file_of(name).stat().st_ino
    link = file_of(f"{name}-link")
    link.symlink_to(file_of(name))
    before = os.listdir("/proc/self/fd")
    try:
        with pytest.raises(OSError, match="symbolic links"):
            watched_pool._lock_in_use(str(link), inode)
    finally:
        link.unlink()
    with pytest.raises(OSError, match="another file"):
        watched_pool._lock_in_use(str(file_of(name)), inode + 1)
    assert before == os.listdir("/proc/self/fd")
    os.close(watched_pool._lock_in_use(str(file_of(name)), inode))
