# SPDX-License-Identifier: Apache-2.0
"""Pools that are attached read-only, and pools that must belong to a given user."""

import asyncio
import errno
import os
import pickle
import signal
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from conftest import Child, MakePool, join

import shmpool
from shmpool._ffi import lib
from shmpool.pool_files import in_use, path_of
from shmpool.rpc.protocol import GetHolders, GetMembers, GetStats, Peek, RunAudit
from shmpool.service.handlers import RequestHandler

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")

OF_NAMES = {"create", "attach", "unlink"}  # of Pool: not of an open pool

# Each public method and property of an open pool and its queues is either a read or a change.
# A name that is in neither table fails test_every_public_name_is_in_a_table.
READS: dict[type, dict[str, Callable[[Any], object]]] = {
    shmpool.Pool: {
        "audit": lambda pool: (pool.audit().ok, pool.audit().queued),
        "close": lambda pool: None,  # in every test
        "holders": lambda pool: [(holder.buffers, holder.state) for holder in pool.holders()],
        "members": lambda pool: [member.pid for member in pool.members()],
        "pinned": lambda pool: pool.pinned.state,
        "queue": lambda pool: pool.queue("work").name,
        "queues": lambda pool: [queue.name for queue in pool.queues()],
        "topic": lambda pool: pool.topic("news").name,
        "topics": lambda pool: [topic.name for topic in pool.topics()],
        "replaced": lambda pool: pool.replaced,
        "stats": lambda pool: (pool.stats().queued, pool.stats().held),
    },
    shmpool.AlfQueue: {
        "close": lambda queue: queue.pool.queue(queue.name).close(),
        "dead_letter": lambda queue: queue.dead_letter,
        "empty": lambda queue: queue.empty(),
        "ended": lambda queue: queue.ended,
        "full": lambda queue: queue.full(),
        "peek": lambda queue: [message.payload for message in queue.peek(8)],
    },
}
SEEN: dict[type, dict[str, object]] = {
    shmpool.Pool: {
        "audit": (True, {"work": 2, "none": 0, "news": 0}),
        "close": None,
        "holders": [(5, "alive")],
        "members": [os.getpid()],
        "pinned": "off",
        "queue": "work",
        "queues": ["work", "none"],
        "topic": "news",
        "topics": ["news"],
        "replaced": False,
        "stats": (2, 5),
    },
    shmpool.AlfQueue: {
        "close": None,
        "dead_letter": None,
        "empty": False,
        "ended": False,
        "full": False,
        "peek": [b"hello", b"world"],
    },
}


def awaited(coroutine: Coroutine[Any, Any, object]) -> None:
    """Runs a call that is awaited."""
    asyncio.run(coroutine)


CHANGES: dict[type, dict[str, Callable[[Any, Any], object]]] = {
    shmpool.Pool: {
        "aalloc": lambda pool, given: awaited(pool.aalloc()),
        "aalloc_many": lambda pool, given: awaited(pool.aalloc_many(2)),
        "aarray": lambda pool, given: awaited(pool.aarray(2, "u1")),
        "create_topic": lambda pool, given: pool.create_topic("other", depth=2),
        "alloc": lambda pool, given: pool.alloc(timeout=0),
        "alloc_many": lambda pool, given: pool.alloc_many(2, timeout=0),
        "array": lambda pool, given: pool.array(8, "u1", timeout=0),
        "burst": lambda pool, given: pool.burst([given["buf"], given["burst"]]),
        "create_queue": lambda pool, given: pool.create_queue("new", capacity=8),
        "recover": lambda pool, given: pool.recover(),
        "pin": lambda pool, given: pool.pin(),
        "trim": lambda pool, given: pool.trim(),
        "unpin": lambda pool, given: pool.unpin(),
    },
    shmpool.AlfQueue: {
        "drain": lambda queue, given: queue.drain(),
        "aget": lambda queue, given: awaited(queue.aget()),
        "aget_many": lambda queue, given: awaited(queue.aget_many(2)),
        "aput": lambda queue, given: awaited(queue.aput(given["buf"])),
        "aput_many": lambda queue, given: awaited(queue.aput_many(given["burst"])),
        "arecv": lambda queue, given: awaited(queue.arecv()),
        "arecv_many": lambda queue, given: awaited(queue.arecv_many(2)),
        "asend": lambda queue, given: awaited(queue.asend(b"x")),
        "asend_many": lambda queue, given: awaited(queue.asend_many([b"x"])),
        "aget_array": lambda queue, given: awaited(queue.aget_array()),
        "bursts": lambda queue, given: awaited(queue.bursts(2).__anext__()),
        "fileno": lambda queue, given: queue.fileno(),
        "get": lambda queue, given: queue.get(),
        "get_array": lambda queue, given: queue.get_array(timeout=0),
        "get_many": lambda queue, given: queue.get_many(2),
        "get_nowait": lambda queue, given: queue.get_nowait(),
        "producer": lambda queue, given: queue.producer().__enter__(),
        "producers_alive": lambda queue, given: queue.producers_alive,
        "put": lambda queue, given: queue.put(given["buf"]),
        "put_array": lambda queue, given: queue.put_array(b"bytes", timeout=0),
        "put_many": lambda queue, given: queue.put_many(given["burst"]),
        "put_nowait": lambda queue, given: queue.put_nowait(given["buf"]),
        "recv": lambda queue, given: queue.recv(),
        "recv_many": lambda queue, given: queue.recv_many(2),
        "redrive": lambda queue, given: queue.redrive(),
        "release": lambda queue, given: queue.release(),
        "requeue": lambda queue, given: queue.requeue(given["buf"]),
        "send": lambda queue, given: queue.send(b"x"),
        "send_many": lambda queue, given: queue.send_many([b"x", b"y"]),
        "shutdown": lambda queue, given: queue.shutdown(),
        "try_get": lambda queue, given: queue.try_get(),
        "try_recv": lambda queue, given: queue.try_recv(),
        "wait_producers": lambda queue, given: queue.wait_producers(timeout=0),
    },
}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize("kind", READS)
def test_every_public_name_is_in_a_table(kind: type) -> None:
    """So a new method is tested on a pool that is open read-only."""
    of_names = OF_NAMES if kind is shmpool.Pool else set()
    assert public(kind) - of_names == set(READS[kind]) | set(CHANGES[kind])


@pytest.fixture
def filled(make_pool: MakePool) -> shmpool.Pool:
    """A pool that other users may read, with two messages in the queue work and none in the
    other."""
    pool = make_pool(mode=0o644, queues=3, members=2, cache_size=0)
    pool.create_queue("work", capacity=8).send_many([b"hello", b"world"])
    pool.create_queue("none", capacity=8)
    pool.create_topic("news", depth=2)
    return pool


def contents(pool: shmpool.Pool) -> bytes:
    return Path(path_of(pool.name)).read_bytes()


def of(kind: type, pool: shmpool.Pool, queue: str) -> Any:
    return pool if kind is shmpool.Pool else pool.queue(queue)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in READS for name in READS[kind]])
def test_a_read(filled: shmpool.Pool, kind: type, name: str) -> None:
    """It returns what a member would get, and changes no byte of the pool."""
    with filled.alloc_many(5):
        before = contents(filled)
        with shmpool.Pool.attach(filled.name, readonly=True) as pool:
            found = READS[kind][name](of(kind, pool, "work"))
            again = READS[kind][name](of(kind, filled, "work"))
        assert SEEN[kind][name] == found == again
        assert before == contents(filled)


@pytest.mark.parametrize("queue", ["work", "none"])
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in CHANGES for name in CHANGES[kind]]
)
def test_a_change(filled: shmpool.Pool, kind: type, name: str, queue: str) -> None:
    """It is AccessDenied with the reason. Neither the pool nor the arguments are changed."""
    with filled.alloc_many(2) as burst, filled.alloc() as buf:
        before = contents(filled)
        with shmpool.Pool.attach(filled.name, readonly=True) as pool:
            with pytest.raises(shmpool.AccessDenied, match="the pool was opened read-only"):
                CHANGES[kind][name](of(kind, pool, queue), {"burst": burst, "buf": buf})
            assert 1 == len(pool.members())
        assert before == contents(filled)
        assert not buf.released
        assert 2 == len(burst)


def test_what_it_is(filled: shmpool.Pool) -> None:
    """The object says that it is read-only. So are its mapping and its descriptor. It has no
    token."""
    name = filled.name
    filled.close()
    with shmpool.Pool.attach(name, readonly=True) as pool:
        assert (True, False) == (pool.readonly, filled.readonly)
        assert f"<shmpool.Pool read-only {name} of 64 x 256 bytes>" == repr(pool)
        assert not in_use(pool._segment.fd)
        assert os.O_RDONLY == os.O_ACCMODE & int(
            Path(f"/proc/self/fdinfo/{pool._segment.fd}").read_text().split("flags:")[1].split()[0],
            8,
        )
        maps = Path("/proc/self/maps").read_text().splitlines()
        assert ["r--s"] == [line.split()[1] for line in maps if line.endswith(path_of(name))]
        queue = pool.queue("work")
        assert f"<shmpool.AlfQueue {name}/work of 8>" == repr(queue)
        assert 2 == len(queue)
        with queue:  # the end of the with block releases no role, and is no error
            pass
    assert f"<shmpool.Pool closed {name} of 64 x 256 bytes>" == repr(pool)
    with pytest.raises(shmpool.PoolClosed):
        pool.stats()
    pool.close()


def test_refused_buffers_are_not_counted(filled: shmpool.Pool) -> None:
    """The counter is not raised: this is the only call into C that changes a pool without a
    member."""
    with shmpool.Pool.attach(filled.name, readonly=True) as pool:
        number = pool.queue("work").number
        assert -errno.EROFS == lib.shmpool_refused(pool._number, number, 1)
        assert 0 == lib.shmpool_refused(filled._number, number, 1)
        assert 1 == pool.stats().refused


def test_pickled(filled: shmpool.Pool) -> None:
    """A pickle is read-only, and is the existing read-only opening. A writable one does not replace
    it."""
    with shmpool.Pool.attach(filled.name, readonly=True) as pool:
        assert pickle.loads(pickle.dumps(pool)) is pool
        assert pickle.loads(pickle.dumps(filled)) is filled
        assert pickle.loads(pickle.dumps(pool.queue("work"))).pool is pool
        pickled = pickle.dumps(pool)
    with pickle.loads(pickled) as again:
        assert again.readonly


def test_no_pool(pool_name: str) -> None:
    """The errors are those of every attach. timeout waits."""
    with pytest.raises(shmpool.PoolNotFound):
        shmpool.Pool.attach(pool_name, readonly=True)
    with pytest.raises(shmpool.PoolNotFound):
        shmpool.Pool.attach(pool_name, readonly=True, timeout=0.01)
    Path(path_of(pool_name)).write_bytes(b"x" * 8192)
    with pytest.raises(shmpool.SegmentInvalid):
        shmpool.Pool.attach(pool_name, readonly=True)


AS_NOBODY = """
    import os, sys
    import shmpool, shmpool.service.handlers
    from shmpool.rpc.protocol import GetHolders, GetMembers, GetStats, Peek, RunAudit
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    name = sys.argv[1]
    try:
        shmpool.Pool.attach(name)
    except shmpool.AccessDenied:
        print("denied")
    pool = shmpool.Pool.attach(name, readonly=True, owner=0)
    queue = pool.queue("work")
    print(pool.stats().queued, len(pool.members()), pool.audit().ok, queue.empty(), len(queue))
    print([(h.buffers, h.state) for h in pool.holders()], [m.payload for m in queue.peek(2)])
    for change in (pool.alloc, pool.recover, pool.trim, queue.recv, lambda: queue.send(b"x")):
        try:
            change()
        except shmpool.AccessDenied as error:
            print("opened read-only" in str(error))
    answer = shmpool.service.handlers.RequestHandler("0").answer
    print(answer(RunAudit(name)).ok, len(answer(GetHolders(name))), len(answer(GetMembers(name))),
          answer(GetStats(name)).queues[0].depth, answer(Peek(name, "work", 1, 5))[0].payload)
    print(pool.replaced)
    pool.close()
"""


@NEEDS_ROOT
def test_a_user_who_may_only_read(filled: shmpool.Pool, run: Callable[..., str]) -> None:
    """With the right to read the file, another user sees everything and changes nothing.

    This holds for the user's own calls, and for the requests that daemon and command line make.
    """
    with filled.alloc_many(5):
        before = contents(filled)
        printed = run(AS_NOBODY, filled.name).splitlines()
        assert before == contents(filled)
    assert [
        "denied",
        "2 1 True False 2",
        "[(5, 'alive')] [b'hello', b'world']",
        *["True"] * 5,
        "True 1 1 2 b'hello'",
        "False",
    ] == printed


COMMANDS = """
    import os, sys
    import shmpool.cli.diagnosis
    from shmpool.cli import audit, holders, letters
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    name = sys.argv[1]
    for command, arguments in (
        (audit, []), (holders, []), (letters, ["list", "--queue", "work"]),
        (letters, ["peek", "--queue", "work"]),
    ):
        try:
            command.command.main([name, "--direct", "--json", *arguments])
        except SystemExit as end:
            assert not end.code, end.code
    print([finding.state for finding in shmpool.cli.diagnosis._segment(name)])
"""


@NEEDS_ROOT
def test_commands_of_a_user_who_may_only_read(
    filled: shmpool.Pool, run: Callable[..., str]
) -> None:
    """audit, holders, letters and doctor are answered from a read-only mapping."""
    pytest.importorskip("click", reason="shmpool[cli] is not installed")
    with filled.alloc():
        before = contents(filled)
        printed = run(COMMANDS, filled.name)
        assert before == contents(filled)
    assert '"ok": true' in printed
    assert f'"pid": {os.getpid()}' in printed
    assert b"hello".hex() in printed
    assert printed.endswith("[]\n")


def test_requests_take_no_token(filled: shmpool.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read-only requests attach read-only, so prune() can go on.

    A pool whose member slots are all taken is counted too.
    """
    name = filled.name
    others = [threading.Thread(target=filled.stats) for _ in range(2)]
    for thread in others:
        thread.start()
        join(thread)
    opened: list[bool] = []
    attach = shmpool.Pool.attach.__func__  # type: ignore[attr-defined]

    def noted(cls: type, name: str, **options: Any) -> shmpool.Pool:
        pool: shmpool.Pool = attach(cls, name, **options)
        opened.append(pool.readonly)
        return pool

    monkeypatch.setattr(shmpool.Pool, "attach", classmethod(noted))
    handler = RequestHandler("0")
    assert handler.answer(RunAudit(name)).ok
    assert [] == handler.answer(GetHolders(name))
    assert [b"hel"] == [m.payload for m in handler.answer(Peek(name, "work", 1, 3))]
    assert handler.answer(GetStats(name)).buffers.queued == 2
    assert len(handler.answer(GetMembers(name))) == len(filled.members())
    assert [True, True] == opened


CREATES = """
    import sys, shmpool
    pool = shmpool.Pool.create(sys.argv[1], buffer_size=64, capacity=64)
    pool.create_queue("work", capacity=8).send(b"left")
    print("ready", flush=True)
    input()
"""


def test_prune_beside_it(pool_name: str, start: type[Child], own_pools: None) -> None:
    """A read-only opening is no use of the pool: the pool is removed when its creator has died.

    It can be read until it is closed. Another pool with its name is reported.
    """
    creator = start(CREATES, pool_name)
    assert "ready" == creator.line()
    with shmpool.Pool.attach(pool_name, readonly=True) as pool:
        work = pool.queue("work")
        assert [] == [name for name in shmpool.prune() if name == pool_name]
        creator.kill()
        assert ["dead"] == [shmpool.stats.FATES[fate(pool, m.number)] for m in pool.members()]
        assert pool_name in shmpool.prune()
        assert ([b"left"], 1) == ([m.payload for m in work.peek()], len(work))
        assert not pool.replaced
        with shmpool.Pool.create(pool_name, buffer_size=64, capacity=64):
            assert pool.replaced


def fate(pool: shmpool.Pool, number: int) -> int:
    return int(lib.shmpool_fate(pool._number, number))


def test_a_fork(filled: shmpool.Pool) -> None:
    """A child continues to read what its parent opened, and takes no token either.

    The end of one opening is not the end of the other.
    """
    name = filled.name
    filled.close()
    pool = shmpool.Pool.attach(name, readonly=True)
    work = pool.queue("work")
    child = os.fork()
    if not child:
        seen = (pool.stats().queued, len(work), [m.payload for m in work.peek()], pool.audit().ok)
        free = not in_use(pool._segment.fd) and not pool.members()
        pool.close()
        os._exit(0 if (2, 2, [b"hello"], True) == seen and free else 1)
    assert 0 == os.waitpid(child, 0)[1]
    assert (2, 2) == (len(work), pool.stats().queued)
    pool.close()


TRUNCATED = """
    import os, sys
    import shmpool

    def meet(call):
        try:
            return call()
        except shmpool.ShmpoolError as error:
            return type(error).__name__

    name, keep = sys.argv[1], int(sys.argv[2])
    path = f"/dev/shm/shmpool.{name}"
    pools = []
    for first in range(11):
        pool = shmpool.Pool.attach(name, readonly=True)
        work = pool.queue("work")
        pools.append((pool, work))
    os.truncate(path, keep)
    for first, (pool, work) in enumerate(pools):
        calls = [pool.stats, pool.members, pool.queues, pool.audit, pool.holders, work.peek,
                 work.empty, work.full, lambda: len(work), lambda: pool.queue("work"),
                 lambda: pool.queue("other")]
        print(meet(calls[first]), *[meet(call) for call in calls])
        print(repr(pool), pool.replaced, meet(lambda: work.send(b"x")))
        pool.close()
"""


@pytest.mark.parametrize("keep", [0, 4096])
def test_a_pool_that_is_truncated_under_it(
    make_pool: MakePool, run: Callable[..., str], keep: int
) -> None:
    """The first read that meets the hole is SegmentInvalid, and so is every later one."""
    pool = make_pool()
    pool.create_queue("work", capacity=8).send(b"hello")
    lines = run(TRUNCATED, pool.name, keep).splitlines()
    assert ["SegmentInvalid"] * 12 * 11 == " ".join(lines[::2]).split()
    assert [f"<shmpool.Pool read-only {pool.name} of 64 x 256 bytes> False SegmentInvalid"] * (
        11
    ) == lines[1::2]


def test_closed_while_another_thread_counts(make_pool: MakePool) -> None:
    """close() waits for a read without the interpreter's lock, and then unmaps."""
    name = make_pool(capacity=65536, prealloc=65536, buffer_size=64).name
    for _ in range(20):
        pool = shmpool.Pool.attach(name, readonly=True)
        counting, ended = threading.Event(), []

        def count(
            pool: shmpool.Pool = pool,
            counting: threading.Event = counting,
            ended: list[str] = ended,
        ) -> None:
            try:
                while True:
                    pool.audit()
                    counting.set()
            except shmpool.PoolClosed:
                ended.append("closed")

        thread = threading.Thread(target=count)
        thread.start()
        counting.wait()
        pool.close()
        join(thread)
        assert ["closed"] == ended


# The owner that a pool must have.


def test_owner(filled: shmpool.Pool) -> None:
    """By number or by name. A pickle keeps it."""
    import pwd

    me = os.geteuid()
    for owner in (me, pwd.getpwuid(me).pw_name):
        for readonly in (False, True):
            with shmpool.Pool.attach(filled.name, owner=owner, readonly=readonly) as pool:
                assert pool.readonly is readonly
                assert pickle.loads(pickle.dumps(pool)) is pool


def test_another_owner(filled: shmpool.Pool) -> None:
    """AccessDenied names the owner of the pool, and the required owner."""
    me = os.geteuid()
    with pytest.raises(shmpool.AccessDenied, match=rf"'{filled.name}' belongs to .*\(uid {me}\)"):
        shmpool.Pool.attach(filled.name, owner=me + 1)
    with pytest.raises(shmpool.AccessDenied, match="not to owner=uid 4294967294: refused"):
        shmpool.Pool.attach(filled.name, owner=2**32 - 2, readonly=True)


@pytest.mark.parametrize("owner", ["no such user", "", "a\0b", "\udcff", -1, 2**32 - 1, True])
def test_an_unknown_owner(filled: shmpool.Pool, owner: str | int) -> None:
    """It is refused, also before the pool exists."""
    with pytest.raises(shmpool.InvalidArgument, match="owner is "):
        shmpool.Pool.attach(filled.name, owner=owner)
    with pytest.raises(shmpool.InvalidArgument, match="owner is "):
        shmpool.Pool.attach(f"{filled.name}-no", owner=owner, timeout=None)


def test_owner_goes_with_exist_ok(pool_name: str) -> None:
    """A pool that is created belongs to its creator. A wrong owner is refused before that."""
    for owner, exist_ok in (("root", False), ("no such user", True)):
        with pytest.raises(shmpool.InvalidArgument, match="owner"):
            shmpool.Pool.create(
                pool_name, buffer_size=64, capacity=2, owner=owner, exist_ok=exist_ok
            )
    with pytest.raises(shmpool.PoolNotFound):
        shmpool.Pool.attach(pool_name)


def test_an_owner_of_another_type(filled: shmpool.Pool) -> None:
    with pytest.raises(TypeError, match=r"owner is 1\.5"):
        shmpool.Pool.attach(filled.name, owner=1.5)  # type: ignore[arg-type]


SQUATTER = """
    import os, sys, shmpool
    os.umask(0)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    pool = shmpool.Pool.create(sys.argv[1], buffer_size=256, capacity=64, mode=0o666)
    print("squatted", flush=True)
    input()
"""


@NEEDS_ROOT
def test_a_name_taken_by_another_user(make_pool: MakePool, start: type[Child]) -> None:
    """With owner given, the other user's pool is refused.

    It is refused by attach, by create with exist_ok, and by a pickle of the former pool. Without
    owner it is attached.
    """
    mine = make_pool()
    with shmpool.Pool.attach(mine.name, owner="root") as attached:
        pickled = pickle.dumps(attached)
    mine.close()
    shmpool.Pool.unlink(mine.name)
    squatter = start(SQUATTER, mine.name)
    assert "squatted" == squatter.line()
    options = {"buffer_size": 256, "capacity": 64, "exist_ok": True}
    for call in (
        lambda: shmpool.Pool.attach(mine.name, owner="root"),
        lambda: shmpool.Pool.attach(mine.name, owner=0, timeout=60, readonly=True),
        lambda: shmpool.Pool.create(mine.name, owner="root", **options),
        lambda: pickle.loads(pickled),
    ):
        with pytest.raises(shmpool.AccessDenied, match=r"belongs to .*uid 65534"):
            call()
    squatter.process.send_signal(signal.SIGKILL)
    squatter.process.wait()
    with open(path_of(mine.name), "rb") as file:
        assert not in_use(file.fileno())  # none of them stays open
    with shmpool.Pool.attach(mine.name) as pool, shmpool.Pool.create(mine.name, **options) as other:
        assert pool.stats().capacity == other.stats().capacity
