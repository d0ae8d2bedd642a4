# SPDX-License-Identifier: Apache-2.0
"""What the daemon does to pools by itself: adopts, recovers, raises alarms, trims, prunes."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Child, Eventually, MakePool, StartDaemon
from test_daemon import POOL, WORKER, watched_pools

import shmpool
from shmpool.view import View


def test_pools_come_and_go(
    start_daemon: StartDaemon,
    make_pool: MakePool,
    eventually: Eventually,
    pool_name: str,
) -> None:
    """A new pool is adopted. A pool that is unlinked is released."""
    daemon = start_daemon(options="interval = 0.05")
    with shmpool.Client(daemon.socket) as client:
        assert set() == watched_pools(client)
        make_pool(name=pool_name)
        eventually(lambda: watched_pools(client) == {pool_name})
        shmpool.Pool.unlink(pool_name)
        eventually(lambda: "released" in daemon.output())
        maps = Path(f"/proc/{daemon.pid}/maps").read_text()
        assert pool_name not in maps


def test_a_killed_worker_is_recovered(
    start_daemon: StartDaemon, start: type[Child], eventually: Eventually, pool_name: str
) -> None:
    """Without a request, the buffers of a killed process are recovered, and counted exactly."""
    daemon = start_daemon(POOL.format(pool_name), options="interval = 0.05")
    worker = start(WORKER, pool_name)
    assert "ready" == worker.line()
    with shmpool.Client(daemon.socket) as client:
        assert 5 == client.stats(pool_name).buffers.held
        worker.kill()
        eventually(lambda: client.stats(pool_name).recoveries.count == 1)
        stats = client.stats(pool_name)
        assert (0, 0) == (stats.buffers.held, stats.buffers.members)
        assert (1, 5) == (stats.recoveries.members, stats.recoveries.buffers)
        assert client.audit(pool_name).ok
        assert stats.recoveries.last_s is not None
        assert 0 < stats.recoveries.last_s < client.ping().uptime_s


@pytest.mark.slow
def test_alarms(
    start_daemon: StartDaemon, make_pool: MakePool, eventually: Eventually, pool_name: str
) -> None:
    """Low water, a full queue, a buffer owned too long: each is in the stats and the log while it
    lasts.

    It is removed from the stats when it is over.
    """
    policy = "low_water = 50\nqueue_full_s = 0.1\nheld_s = 0.2\n"
    config = f"[pools.{pool_name}]\nbuffer_size = 256\ncapacity = 64\n{policy}"
    daemon = start_daemon(config + f"[pools.{pool_name}.queue.work]\ncapacity = 8\n",
                          options="interval = 0.05")  # fmt: skip
    with shmpool.Client(daemon.socket) as client, client.pool(pool_name) as pool:

        def alarms() -> set[str]:
            return {alarm.kind for alarm in client.stats(pool_name).alarms}

        assert set() == alarms()
        work = pool.queue("work")
        work.send_many([b"x"] * 8)
        held = pool.alloc_many(10)
        eventually(lambda: alarms() == {"low-water", "queue-full", "held-long"})
        assert 3 == next(p.alarms for p in client.list() if p.name == pool_name)
        work.recv_many(8)
        held.free()
        eventually(lambda: alarms() == set())
    log = daemon.output()
    for kind in ("low-water", "queue-full", "held-long"):
        assert 1 == log.count(f"alarm {kind}: pool {pool_name}")
        assert 1 == log.count(f"alarm {kind} cleared: pool {pool_name}")


MOVER = """
    import sys, shmpool
    pool = shmpool.Pool.attach(sys.argv[1])
    work, burst = pool.queue("work"), pool.alloc_many(16384)
    print("ready", flush=True)
    while True:
        work.put_many(burst)
        burst = work.get_many(16384)
"""


def test_a_member_stopped_in_an_operation(
    start_daemon: StartDaemon, start: type[Child], eventually: Eventually, pool_name: str
) -> None:
    """A process that SIGSTOP suspends in the middle of a put or a get raises an alarm until
    SIGCONT.

    The alarm is in the stats and the log. A process that is suspended between two operations raises
    none. A full queue is an alarm too: when it is raised, the daemon has inspected the pool once
    more.
    """
    daemon = start_daemon(
        f"[pools.{pool_name}]\nbuffer_size = 64\ncapacity = 32768\nqueue_full_s = 0\n"
        f"[pools.{pool_name}.queue.work]\ncapacity = 32768\n"
        f"[pools.{pool_name}.queue.mark]\ncapacity = 2\n",
        options="interval = 0.05",
    )
    mover = start(MOVER, pool_name)
    assert "ready" == mover.line()
    with (
        shmpool.Client(daemon.socket) as client,
        View(pool_name) as view,
        client.pool(pool_name) as pool,
    ):
        mark = pool.queue("mark")

        def stopped() -> bool:
            """Suspends the mover. Returns True if the mover was in the middle of an operation."""
            os.kill(mover.pid, signal.SIGSTOP)
            os.waitpid(mover.pid, os.WUNTRACED)
            return [(mover.pid, mover.pid)] == view.operating()

        def go_on() -> None:
            os.kill(mover.pid, signal.SIGCONT)
            os.waitpid(mover.pid, os.WCONTINUED)

        def alarms() -> list[tuple[str, str]]:
            return [(alarm.kind, alarm.subject) for alarm in client.stats(pool_name).alarms]

        subject = f"{mover.pid}/{mover.pid}"
        for inside in (True, False, True):
            while stopped() != inside:
                go_on()
            if inside:
                eventually(lambda: alarms() == [("stopped", subject)])
                assert f"alarm stopped: pool {pool_name}: {subject}: thread" in daemon.output()
            else:
                mark.send_many([b"x"] * 2)
                eventually(lambda: alarms() == [("queue-full", "mark")])
                mark.recv_many(2)
            go_on()
            eventually(lambda: alarms() == [])
        raised = daemon.output().count(f"alarm stopped: pool {pool_name}")
        assert raised >= 2  # it may have found a short operation
        eventually(lambda: daemon.output().count("alarm stopped cleared") == raised)
    mover.kill()


CONSUMER = """
    import sys, shmpool
    with shmpool.Pool.attach(sys.argv[1]) as pool:
        got = [pool.queue("work").get() for _ in range(3)]
        print("ready", flush=True)
        input()
"""


def test_on_death_is_carried_out(
    start_daemon: StartDaemon, start: type[Child], eventually: Eventually, pool_name: str
) -> None:
    """A killed consumer's buffers are requeued, then moved to the dead-letter queue."""
    daemon = start_daemon(
        f"[pools.{pool_name}]\nbuffer_size = 256\ncapacity = 64\n"
        f"[pools.{pool_name}.queue.work]\ncapacity = 8\non_death = 'requeue'\n"
        "max_redeliveries = 1\ndead_letter = 'dead'\n"
        f"[pools.{pool_name}.queue.dead]\ncapacity = 8\n"
    )
    with shmpool.Client(daemon.socket) as client, client.pool(pool_name) as pool:
        pool.queue("work").send_many([b"a", b"b", b"c"])
        for requeued, dead_lettered in ((3, 0), (3, 3)):
            consumer = start(CONSUMER, pool_name)
            assert "ready" == consumer.line()
            consumer.kill()

            def books() -> tuple[int, int]:
                recoveries = client.stats(pool_name).recoveries
                return recoveries.requeued, recoveries.dead_lettered

            eventually(lambda r=requeued, d=dead_lettered: books() == (r, d))
        assert [b"a", b"b", b"c"] == sorted(pool.queue("dead").recv_many(3))
        assert 0 == len(pool.queue("work"))
        (described,) = [q for q in client.describe(pool_name).queues if q.name == "work"]
        assert ("requeue", "dead", 1) == (
            described.on_death, described.dead_letter, described.max_redeliveries,
        )  # fmt: skip


def test_killed_before_it_is_watched(
    start_daemon: StartDaemon, start: type[Child], eventually: Eventually, pool_name: str
) -> None:
    """A worker that dies right after its first call is recovered, in each of ten tries."""
    daemon = start_daemon(POOL.format(pool_name))
    with shmpool.Client(daemon.socket) as client:
        for number in range(1, 11):
            worker = start(WORKER, pool_name)
            assert "ready" == worker.line()
            worker.kill()
            eventually(lambda n=number: client.stats(pool_name).recoveries.members == n)
        assert client.audit(pool_name).ok


def test_a_pool_that_is_truncated(
    start_daemon: StartDaemon, make_pool: MakePool, eventually: Eventually, pool_name: str
) -> None:
    """A pool whose file is truncated is released with a reason, and the daemon goes on."""
    good = make_pool()
    bad = make_pool(name=pool_name)
    bad.close()
    daemon = start_daemon()
    with shmpool.Client(daemon.socket) as client:
        eventually(lambda: watched_pools(client) == {good.name, pool_name})
        os.truncate(f"/dev/shm/shmpool.{pool_name}", 4096)
        eventually(lambda: f"pool {pool_name} released" in daemon.output())
        with pytest.raises(shmpool.SegmentInvalid):
            client.stats(pool_name)
        assert {good.name} == watched_pools(client)
        assert daemon.pid == client.ping().pid


ABANDONED = """
    import subprocess, sys, time
    from pathlib import Path
    import shmpool
    options = {"buffer_size": 64, "capacity": 64}
    busy, mine = (shmpool.Pool.create(name, **options) for name in ("busy", "mine"))
    kept = shmpool.Pool.create("kept", **options)
    kept.close()
    mine.close()
    dies = "import os, shmpool; p = shmpool.Pool.create('left', buffer_size=64, capacity=64); "
    subprocess.run([sys.executable, "-c", dies + "os._exit(1)"])
    Path("/dev/shm/shmpool.half").touch()
    Path("/dev/shm/shmpool.other").write_bytes(b"what another program has put here" * 100)
    config = Path(sys.argv[1])
    config.write_text('[daemon]\\nadopt = ["mine"]\\n')
    arguments = ["--config", config, "--socket", config.with_suffix(".sock")]
    daemon = subprocess.Popen([sys.executable, "-m", "shmpool.daemon", *arguments],
                              stderr=subprocess.PIPE, text=True)
    said = []
    while len(said) < 2:
        line = daemon.stderr.readline()
        assert line, "the daemon has ended"
        said += [line.strip()] if " removed: " in line else []
    print(shmpool.pool_names())
    daemon.terminate()
    daemon.communicate()
    print(sorted(said))
    busy.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a /dev/shm of its own")
def test_abandoned_segments_are_removed(tmp_path: Path, run: Callable[..., str]) -> None:
    """The daemon removes pools of dead creators and unfinished files by itself.

    It leaves pools that are in use, pools that were left on purpose, and files that are no pools.
    """
    own = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh")
    pools, log = run(ABANDONED, tmp_path / "c.toml", prefix=own).splitlines()
    assert "['busy', 'kept', 'mine', 'other']" == pools
    said = [f"shmpool: segment {name} removed: it was abandoned" for name in ("half", "left")]
    assert str(said) == log


def test_memory_is_given_back(
    start_daemon: StartDaemon, eventually: Eventually, pool_name: str
) -> None:
    """Memory by which a pool grew for a burst of work is returned to the kernel, down to the mark.

    The pool grows again when it needs to.
    """
    daemon = start_daemon(
        f"[pools.{pool_name}]\nbuffer_size = 4096\ncapacity = 16384\nprealloc = 256\n"
        "trim_to = 512\ntrim_after_s = 0.1\n",
        options="interval = 0.05",
    )
    with shmpool.Client(daemon.socket) as client, client.pool(pool_name) as pool:

        def reserved() -> int:
            return client.describe(pool_name).file.reserved

        small = reserved()
        for _ in range(2):
            burst = pool.alloc_many(8192)
            assert reserved() > small + 7000 * 4096
            burst.free()
            eventually(lambda: reserved() < small + 2048 * 4096)
            assert client.audit(pool_name).ok
        assert client.stats(pool_name).buffers.created >= 512
    assert "returned to the kernel" in daemon.output()


READER = """
    import os, sys, threading, time
    from pathlib import Path
    import shmpool, shmpool.service.daemon, shmpool.service.watched_pool
    import shmpool.rpc.client
    sys.stderr = sys.stdout
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    inspected = []
    inspect = shmpool.service.watched_pool.WatchedPool.inspect
    def counted(self):
        inspected.append(self)
        if len(inspected) == 20:
            print("inspected 20 times", flush=True)
        return inspect(self)
    shmpool.service.watched_pool.WatchedPool.inspect = counted
    def end():
        input()
        os.kill(os.getpid(), 15)
    threading.Thread(target=end, daemon=True).start()
    package = {"socket": sys.argv[2]}
    shmpool.service.daemon.log.addFilter(lambda record: sys.argv[3] in record.getMessage())
    sys.exit(shmpool.service.daemon.run(Path(sys.argv[1]), package, "0"))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_pool_that_the_daemon_may_only_read(
    start: type[Child], make_pool: MakePool, tmp_path: Path
) -> None:
    """It is watched; that is reported once, with the consequence. Its dead members are not
    recovered, and no attempt is made."""
    pool = make_pool(mode=0o644)
    for directory in [tmp_path, *tmp_path.parents]:
        if directory.stat().st_mode & 0o011 != 0o011:
            directory.chmod(directory.stat().st_mode | 0o011)
    config = tmp_path / "c.toml"
    config.write_text(f'[daemon]\ninterval = 0.05\nadopt = ["{pool.name}"]\n')
    place = tmp_path / "place"
    place.mkdir()
    os.chown(place, 65534, 65534)
    reader = start(READER, config, place / "s", pool.name)
    worker = start(WORKER, pool.name)
    assert "ready" == worker.line()
    worker.kill()
    said = reader.line()
    assert "inspected 20 times" == reader.line()
    reader.send()
    lines = [said, *reader.end().splitlines()]
    assert 1 == sum(pool.name in line for line in lines), lines
    assert f"pool {pool.name} is watched but not recovered: this user cannot write to it" in said


@pytest.mark.slow
def test_a_watched_pool_of_a_dead_process(
    start_daemon: StartDaemon, start: type[Child], eventually: Eventually, pool_name: str
) -> None:
    """Watching a pool is not using it: a watched pool of a killed creator is removed by any prune.

    The daemon removes it too. A declared pool stays.
    """
    creates = """
        import sys, shmpool
        pool = shmpool.Pool.create(sys.argv[1], buffer_size=64, capacity=64)
        print("ready", flush=True)
        input()
    """

    def killed() -> None:
        creator = start(creates, pool_name)
        assert "ready" == creator.line()
        eventually(lambda: watched_pools(client) == {pool_name})
        creator.kill()

    def reload(text: str) -> None:
        daemon.config.write_text(text)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.notified("READY=1")

    daemon = start_daemon(options="interval = 0.05")
    text = daemon.config.read_text()
    with shmpool.Client(daemon.socket) as client:
        killed()
        eventually(lambda: pool_name in client.prune().removed)
        eventually(lambda: watched_pools(client) == set())
        killed()
        reload(text + f"[pools.{pool_name}]\nbuffer_size = 64\ncapacity = 64\n")
        assert pool_name not in client.prune().removed
        reload(text)
        assert pool_name in client.prune().removed
        reload(text.replace("prune = false", "prune = true"))
        for _ in range(3):  # `shmpool prune` of other tests may be faster
            killed()
            eventually(lambda: not os.path.exists(f"/dev/shm/shmpool.{pool_name}"))
        eventually(lambda: f"segment {pool_name} removed" in daemon.output())
