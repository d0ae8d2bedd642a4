# SPDX-License-Identifier: Apache-2.0
"""The daemon as a process: start, adoption, reload, end, and what it refuses."""

import contextlib
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import conftest
import pytest
from conftest import Child, DaemonProcess, Eventually, MakePool, StartDaemon

import shmpool
from shmpool import PoolOptions, QueueOptions
from shmpool.rpc import protocol
from shmpool.view import View

POOL = """
[pools.{0}]
buffer_size = 256
capacity = 64
[pools.{0}.queue.work]
capacity = 16
"""

WORKER = """
    import sys, shmpool
    pool = shmpool.Pool.attach(sys.argv[1])
    buffers = pool.alloc_many(5)
    print("ready", flush=True)
    for line in sys.stdin:
        with pool.alloc() as buf:
            print(buf.write(line.encode()), flush=True)
    buffers.free()
"""


def held_pools(client: shmpool.Client) -> set[str]:
    return {pool.name for pool in client.list() if pool.held}


def test_declared_pools_are_created(start_daemon: StartDaemon, pool_name: str) -> None:
    """Declared pools and queues exist when the daemon is ready."""
    daemon = start_daemon(POOL.format(pool_name))
    with shmpool.Pool.attach(pool_name) as pool:
        assert (256, 64) == (pool.buffer_size, pool.capacity)
        assert 16 == pool.queue("work").capacity
    with shmpool.Client(daemon.socket) as client:
        assert {pool_name} == held_pools(client)
        assert daemon.pid == client.ping().pid
        assert protocol.PROTOCOL == client.version().protocol


def test_killed_and_started_again(
    start_daemon: StartDaemon, start: type[Child], pool_name: str
) -> None:
    """After kill -9 the worker continues, and a new daemon at the same path adopts the pool."""
    daemon = start_daemon(POOL.format(pool_name))
    worker = start(WORKER, pool_name)
    assert "ready" == worker.line()
    daemon.end(signal.SIGKILL)
    worker.send("abc")
    assert "4" == worker.line()
    again = start_daemon("", "--socket", str(daemon.socket))
    with shmpool.Client(daemon.socket) as client:
        assert again.pid == client.ping().pid
        assert {pool_name} == held_pools(client)
        assert 5 == client.stats(pool_name).buffers.held
    worker.end()


def test_started_twice(start_daemon: StartDaemon) -> None:
    """A second daemon at the same path exits with status 1 and names the first."""
    daemon = start_daemon()
    second = start_daemon("", "--socket", str(daemon.socket), ready=False)
    assert 1 == second.process.wait(60)
    assert f"shmpool: a daemon, process {daemon.pid}, listens at {daemon.socket} already\n" == (
        second.output()
    )
    with shmpool.Client(daemon.socket) as client:
        client.ping()


def test_the_socket_of_another_program(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """A path where another program listens, or that is not a socket, is refused and unchanged."""
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        daemon = start_daemon("", "--socket", str(path), ready=False)
        assert 1 == daemon.process.wait(60)
        assert [f"shmpool: cannot listen at {path}: another program listens there"] == (
            daemon.output().splitlines()
        )
    file = tmp_path / "file"
    file.write_text("precious")
    daemon = start_daemon("", "--socket", str(file), ready=False)
    assert 1 == daemon.process.wait(60)
    assert "not a socket" in daemon.output()
    assert "precious" == file.read_text()


def test_no_permission_for_the_socket(start_daemon: StartDaemon) -> None:
    """A directory that cannot be created gives one line and exit status 1."""
    daemon = start_daemon("", "--socket", "/proc/nowhere/daemon.sock", ready=False)
    assert 1 == daemon.process.wait(60)
    (line,) = daemon.output().splitlines()
    assert line.startswith("shmpool: cannot listen at /proc/nowhere/daemon.sock: ")


def test_a_wrong_configuration_creates_nothing(
    start_daemon: StartDaemon, new_name: Callable[[], str]
) -> None:
    """One wrong value: exit status 2, and no pool is created."""
    good, bad = new_name(), new_name()
    config = POOL.format(good) + f"[pools.{bad}]\nbuffer_size = 64\ncapacity = 63\n"
    daemon = start_daemon(config, ready=False)
    assert 2 == daemon.process.wait(60)
    assert "capacity = 63" in daemon.output()
    assert f"shmpool: {daemon.config}, line " in daemon.output()
    assert not {good, bad} & set(shmpool.pool_names())
    assert not daemon.socket.exists()


def test_a_failed_pool_removes_the_earlier_ones(
    start_daemon: StartDaemon, new_name: Callable[[], str]
) -> None:
    """If the second pool exceeds a limit, the first is removed again; exit status 2."""
    first, second = new_name(), new_name()
    config = POOL.format(first) + f"[pools.{second}]\nbuffer_size = 4096\ncapacity = 8192\n"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, limits[1]))
    try:
        daemon = start_daemon(config, ready=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 2 == daemon.process.wait(60)
    assert f"pool {first} created" in daemon.output()
    assert "File too large" in daemon.output()
    assert not {first, second} & set(shmpool.pool_names())


@pytest.mark.slow
@pytest.mark.parametrize("address", ["foo", "127.0.0.1:99999", "127.0.0.1:x", ":80", "80"])
def test_a_wrong_http_address(start_daemon: StartDaemon, address: str) -> None:
    """A wrong address on the command line is one line; exit status 2."""
    daemon = start_daemon("", "--http", address, ready=False)
    assert 2 == daemon.process.wait(60)
    line = f"shmpool: --http {address}: it must be host:port, the port at most 65535"
    assert [line] == daemon.output().splitlines()


def test_no_room_for_the_queues(
    start_daemon: StartDaemon, make_pool: MakePool, new_name: Callable[[], str]
) -> None:
    """More queues than an existing pool has room for: one line, exit status 2.

    Neither a new pool nor the queues before the failed one are created.
    """
    new, old = new_name(), make_pool(queues=2)
    old.create_queue("one", capacity=8)
    queues = "".join(f"[pools.{old.name}.queue.{name}]\ncapacity = 8\n" for name in ("two", "q"))
    table = f"[pools.{old.name}]\nbuffer_size = 256\ncapacity = 64\nqueues = 2\n"
    daemon = start_daemon(POOL.format(new) + table + queues, ready=False)
    assert 2 == daemon.process.wait(60)
    (line,) = daemon.output().splitlines()
    assert f"line 17: pools.{old.name}.queue.q: pool '{old.name}' has room for 1 more" in line
    assert new not in shmpool.pool_names()
    assert ["one"] == [queue.name for queue in old.queues()]


SMALL_SHM = """
    import subprocess, sys
    done = subprocess.run([sys.executable, "-m", "shmpool.daemon", "--config", sys.argv[1],
                           "--socket", sys.argv[2]], capture_output=True, text=True)
    print(done.returncode, done.stderr, end="")
    import shmpool
    print(shmpool.pool_names())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a /dev/shm of its own")
def test_more_than_is_free_in_shared_memory(tmp_path: Path, run: Callable[..., str]) -> None:
    """Pools that fit one by one and not together: the line and the value of the one that did not,
    exit status 2, and none is created. --check says the same."""
    config = tmp_path / "shmpool.toml"
    size = "buffer_size = 4096\ncapacity = 8192\nprealloc = 8192\n"
    config.write_text(f"[pools.one]\n{size}[pools.two]\n{size}")
    mount = 'mount -t tmpfs -o size=48m tmpfs /dev/shm && exec "$@"'
    said = run(
        SMALL_SHM, config, tmp_path / "d.sock", prefix=("unshare", "-m", "sh", "-c", mount, "sh")
    )
    assert said.startswith(f"2 shmpool: {config}, line 8: ")
    assert f"shmpool: {config}, line 8: pools.two.prealloc = 8192: " in said
    assert "prealloc 8192 x buffer_size 4096; /dev/shm has" in said
    assert "with the missing pools before it, " in said
    assert said.endswith("\n[]\n")


def test_a_different_geometry_is_refused(
    start_daemon: StartDaemon, make_pool: MakePool, pool_name: str
) -> None:
    """A declared value that differs from an existing pool's: both values, exit status 2. The pool
    is unchanged."""
    pool = make_pool(name=pool_name, capacity=128)
    pool.create_queue("work", capacity=8)
    daemon = start_daemon(POOL.format(pool_name), ready=False)
    assert 2 == daemon.process.wait(60)
    where = f"shmpool: {daemon.config}, line"
    assert [
        f"{where} 8: pool '{pool_name}': capacity is declared 64 and exists as 128",
        f"{where} 10: pool '{pool_name}', queue 'work': capacity is declared 16 and exists as 8",
    ] == daemon.output().splitlines()
    assert 128 == pool.stats().capacity


def test_declaring_an_existing_pool(
    start_daemon: StartDaemon, make_pool: MakePool, pool_name: str
) -> None:
    """An existing pool that is as declared is adopted with its buffers. Missing queues are
    created."""
    pool = make_pool(name=pool_name)
    with pool.alloc():
        daemon = start_daemon(POOL.format(pool_name))
        with shmpool.Client(daemon.socket) as client:
            assert 1 == client.stats(pool_name).buffers.held
        assert 16 == pool.queue("work").capacity


def test_pools_come_and_go(
    start_daemon: StartDaemon,
    make_pool: MakePool,
    eventually: Eventually,
    pool_name: str,
) -> None:
    """A new pool is adopted. A pool that is unlinked is released."""
    daemon = start_daemon(options="interval = 0.05")
    with shmpool.Client(daemon.socket) as client:
        assert set() == held_pools(client)
        make_pool(name=pool_name)
        eventually(lambda: held_pools(client) == {pool_name})
        shmpool.Pool.unlink(pool_name)
        eventually(lambda: "released" in daemon.output())
        maps = Path(f"/proc/{daemon.pid}/maps").read_text()
        assert pool_name not in maps


def test_reload(start_daemon: StartDaemon, new_name: Callable[[], str]) -> None:
    """SIGHUP creates what is new in the file. A wrong file changes nothing."""
    first, second = new_name(), new_name()
    daemon = start_daemon(POOL.format(first))
    good = daemon.config.read_text()
    daemon.config.write_text(good + POOL.format(second))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.notified("READY=1")
    with shmpool.Client(daemon.socket) as client:
        assert {first, second} == held_pools(client)
        daemon.config.write_text(good + "[pools\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.notified("READY=1")
        assert "configuration not changed" in daemon.output()
        assert {first, second} == held_pools(client)


def test_reload_again_and_again(start_daemon: StartDaemon, new_name: Callable[[], str]) -> None:
    """However many SIGHUPs arrive during a reload, the last content of the file counts.

    A pool that the file no longer names is released, and stays.
    """
    names = [new_name() for _ in range(10)]
    daemon = start_daemon(POOL.format(names[0]))
    good = daemon.config.read_text()
    for count in range(2, 11):
        daemon.config.write_text(good + "".join(map(POOL.format, names[1:count])))
        daemon.process.send_signal(signal.SIGHUP)
    with shmpool.Client(daemon.socket) as client:
        while held_pools(client) != set(names):
            daemon.notified("READY=1")
        daemon.config.write_text(f"[daemon]\nadopt = []\nprune = false\n{POOL.format(names[3])}")
        daemon.process.send_signal(signal.SIGHUP)
        while held_pools(client) != {names[3]}:
            daemon.notified("READY=1")
    assert set(names) <= set(shmpool.pool_names())


def test_the_log_level_changes_at_once(start_daemon: StartDaemon, pool_name: str) -> None:
    """After a reload the log has only lines of the new level."""
    daemon = start_daemon()
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("[daemon]", '[daemon]\nlog_level = "error"'))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.notified("READY=1")
    daemon.config.write_text(daemon.config.read_text() + POOL.format(pool_name))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.notified("READY=1")
    assert "reloaded" not in daemon.output()
    assert pool_name in shmpool.pool_names()


def test_the_end(start_daemon: StartDaemon, pool_name: str) -> None:
    """SIGTERM: requests are answered, clients are notified, pools stay, and no other file does."""
    daemon = start_daemon(POOL.format(pool_name))
    client = shmpool.Client(daemon.socket)
    client.ping()
    assert 0 == daemon.end()
    daemon.notified("STOPPING=1")
    with pytest.raises(shmpool.DaemonUnavailable):
        client.ping()
    client.close()
    assert pool_name in shmpool.pool_names()
    left = {path.name for path in daemon.directory.iterdir()}
    assert {"shmpool.toml", "notify", "log"} == left


def test_create_and_destroy(start_daemon: StartDaemon, pool_name: str) -> None:
    """A client creates a pool with queues, cannot create it again, and removes it."""
    daemon = start_daemon()
    with shmpool.Client(daemon.socket) as client:
        made = client.create(pool_name, PoolOptions(256, 64), {"work": QueueOptions(16)})
        assert (pool_name, 64, ["work"]) == (
            made.pool, made.geometry.capacity, [queue.name for queue in made.queues],
        )  # fmt: skip
        assert {pool_name} == held_pools(client)
        with pytest.raises(shmpool.PoolExists):
            client.create(pool_name, PoolOptions(256, 64))
        with client.pool(pool_name) as pool, pool.alloc():
            assert 1 == sum(client.audit(pool_name).held.values())
            assert [os.getpid()] == [member.pid for member in client.members(pool_name)]
        client.destroy(pool_name)
        for call in (client.stats, client.destroy, client.describe, client.audit, client.members):
            with pytest.raises(shmpool.PoolNotFound):
                call(pool_name)
        with pytest.raises(shmpool.InvalidArgument):
            client.create(pool_name, PoolOptions(256, 63))
        queues = {"a": QueueOptions(8), "b": QueueOptions(3)}
        with pytest.raises(
            shmpool.InvalidArgument
        ):  # the second queue fails: the pool is removed too
            client.create(pool_name, PoolOptions(256, 64), queues)
        assert pool_name not in shmpool.pool_names()


def test_watchdog(start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon keeps feeding systemd's watchdog."""
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    daemon = start_daemon(ready=False)
    daemon.notified("WATCHDOG=1")
    daemon.notified("WATCHDOG=1")


def test_socket_activation(tmp_path: Path, run: Callable[..., str]) -> None:
    """The daemon uses a socket of systemd, and does not remove it."""
    path = tmp_path / "activated.sock"
    script = tmp_path / "activate.py"
    script.write_text(
        "import os, sys\n"
        "os.dup2(int(sys.argv[1]), 3)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
        "arguments = [sys.executable, '-m', 'shmpool.daemon', '--config', sys.argv[2]]\n"
        "os.execv(sys.executable, arguments)\n"
    )
    config = tmp_path / "c.toml"
    config.write_text(f'[daemon]\nprune = false\nadopt = ["test-{os.getpid()}-*"]\n')
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        process = subprocess.Popen(
            [sys.executable, str(script), str(sock.fileno()), str(config)],
            pass_fds=[sock.fileno()],
            stderr=subprocess.DEVNULL,
        )
        try:
            with shmpool.Client(path, timeout=60) as client:
                assert process.pid == client.ping().pid
        finally:
            process.terminate()
            assert 0 == process.wait(60)
    assert path.exists()


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


def test_a_suspended_daemon_delays_no_worker(
    start_daemon: StartDaemon, start: type[Child], pool_name: str
) -> None:
    """Workers run while SIGSTOP suspends the daemon. A client's call ends at its timeout, and
    succeeds after SIGCONT."""
    daemon = start_daemon(POOL.format(pool_name))
    worker = start(WORKER, pool_name)
    assert "ready" == worker.line()
    with shmpool.Client(daemon.socket, timeout=0.2) as client:
        client.ping()
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            worker.send("abc")
            assert "4" == worker.line()
            with pytest.raises(shmpool.DaemonUnavailable, match=r"0\.2 s"):
                client.ping()
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
    with shmpool.Client(daemon.socket) as client:
        client.ping()
    worker.end()


@pytest.mark.slow
def test_only_one_of_many_that_start(start_daemon: StartDaemon, eventually: Eventually) -> None:
    """Of five daemons started at once on one path one becomes ready. Four exit with status 1."""
    first = start_daemon(ready=False)
    daemons = [first]
    daemons += [start_daemon("", "--socket", str(first.socket), ready=False) for _ in range(4)]
    eventually(lambda: sum(d.process.poll() is None for d in daemons) == 1)
    (left,) = [d for d in daemons if d.process.poll() is None]
    assert [1] * 4 == [d.process.returncode for d in daemons if d is not left]
    left.notified("READY=1")
    with shmpool.Client(first.socket) as client:
        assert left.pid == client.ping().pid
    lock = first.socket.with_name("daemon.sock.lock")
    with lock.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


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


def test_dead_letters_in_a_circle(start_daemon: StartDaemon, pool_name: str) -> None:
    """Queues that are each other's dead-letter queues are refused, and nothing is created."""
    queue = "capacity = 8\non_death = 'dead-letter'\ndead_letter"
    daemon = start_daemon(
        f"[pools.{pool_name}]\nbuffer_size = 256\ncapacity = 64\n"
        f"[pools.{pool_name}.queue.a]\n{queue} = 'b'\n"
        f"[pools.{pool_name}.queue.b]\n{queue} = 'a'\n",
        ready=False,
    )
    assert 2 == daemon.process.wait(60)
    assert "the dead letters of a, b go in a circle" in daemon.output()
    assert pool_name not in shmpool.pool_names()


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
        eventually(lambda: held_pools(client) == {good.name, pool_name})
        os.truncate(f"/dev/shm/shmpool.{pool_name}", 4096)
        eventually(lambda: f"pool {pool_name} released" in daemon.output())
        with pytest.raises(shmpool.SegmentInvalid):
            client.stats(pool_name)
        assert {good.name} == held_pools(client)
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


SQUATTER = """
    import os, sys, time, shmpool
    os.umask(0)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    pool = shmpool.Pool.create(sys.argv[1], buffer_size=256, capacity=64, mode=0o666)
    print("squatted", flush=True)
    input()
    shmpool.Pool.unlink(sys.argv[1])
    print("gone", flush=True)
    input()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_declared_pool_of_another_user(
    start_daemon: StartDaemon, start: type[Child], eventually: Eventually, pool_name: str
) -> None:
    """It is refused and reported, to the service manager too, and the daemon starts without it.

    It is created as declared when the other one is removed.
    """
    squatter = start(SQUATTER, pool_name)
    assert "squatted" == squatter.line()
    daemon = start_daemon(POOL.format(pool_name), ready=False)
    (status,) = [line for line in daemon.notified("READY=1") if line.startswith("STATUS=")]
    assert f"pool {pool_name} refused: what has its name belongs to user 65534" in status
    assert f"shmpool: pool {pool_name} refused: " in daemon.output()
    with shmpool.Client(daemon.socket) as client:
        assert set() == held_pools(client)
        daemon.process.send_signal(signal.SIGHUP)  # it is reported each time
        assert any("refused" in line for line in daemon.notified("READY=1"))
        assert 2 == daemon.output().count(f"shmpool: pool {pool_name} refused: ")
        squatter.send()
        assert "gone" == squatter.line()
        eventually(lambda: held_pools(client) == {pool_name})
        described = client.describe(pool_name)
    assert (0, "0600", ["work"]) == (
        described.file.uid, described.file.mode, [queue.name for queue in described.queues],
    )  # fmt: skip
    squatter.send()
    squatter.end()


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
        eventually(lambda: held_pools(client) == {pool_name})
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
        eventually(lambda: held_pools(client) == set())
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


MANY = """
    import os, sys, shmpool
    pids = []
    for _ in range(int(sys.argv[2])):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            pool = shmpool.Pool.attach(sys.argv[1])
            buf = pool.alloc()
            os.write(write, b"x")
            while True:
                os.read(0, 1) or os._exit(0)
        os.read(read, 1)
        os.close(read)
        os.close(write)
        pids.append(pid)
    print(*pids, flush=True)
    input()
"""


def test_more_processes_than_descriptors(
    start_daemon: StartDaemon, start: type[Child], eventually: Eventually, pool_name: str
) -> None:
    """150 processes are members, and the daemon may have 128 descriptors.

    Each process that is killed is recovered, and clients are answered.
    """
    daemon = start_daemon(
        f"[pools.{pool_name}]\nbuffer_size = 256\ncapacity = 256\n",
        prefix=("sh", "-c", 'ulimit -n 128; exec "$@"', "sh"),
    )
    parent = start(MANY, pool_name, 150)
    pids = [int(pid) for pid in parent.line().split()]
    with shmpool.Client(daemon.socket) as client:
        assert 150 == client.stats(pool_name).buffers.held
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: client.stats(pool_name).recoveries.members == 150)
        assert 0 == client.stats(pool_name).buffers.held
        assert client.audit(pool_name).ok
    parent.kill()


SLOW = f"""
import time
from shmpool.service.daemon import Daemon

class Slow(Daemon):
    async def answer(self, request):
        time.sleep(0.2)
        super().answer(request)
        return await super().answer(request)

import shmpool.service.daemon
shmpool.service.daemon.Daemon = Slow
{conftest.DEBUGGED}
"""


def test_what_debug_mode_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow callback and a coroutine that is never awaited are errors of a daemon under test."""
    monkeypatch.setattr(conftest, "SLOW_S", 0.1)
    config = "[daemon]\nadopt = []\nprune = false\n"
    with contextlib.closing(DaemonProcess(tmp_path, config, (), code=SLOW)) as daemon:
        daemon.notified("READY=1")
        with shmpool.Client(daemon.socket) as client:
            client.list()
        assert 0 == daemon.end()
        found = daemon.asyncio_errors()
    assert any("coroutine 'Daemon.answer' was never awaited" in line for line in found)
    (slow, *_) = [line for line in found if line.startswith("Executing <Task ")]
    assert slow not in daemon.output()


STUCK = """
    import os, sys, threading
    from pathlib import Path
    import shmpool.service.daemon
    from shmpool.rpc import protocol
    from shmpool.service import handlers
    steps = handlers.RequestHandler.steps
    def never(self, request, *arguments):
        if isinstance(request, (protocol.Recover, protocol.RunAudit)):
            os.write(1, b"stuck\\n")  # in one piece: two threads do
            threading.Event().wait()
        return (yield from steps(self, request, *arguments))
    handlers.RequestHandler.steps = never
    sys.exit(shmpool.service.daemon.run(Path(sys.argv[1]), {"socket": sys.argv[2]}, "0"))
"""


@pytest.mark.slow
def test_a_thread_that_never_ends(start: type[Child], make_pool: MakePool, tmp_path: Path) -> None:
    """SIGTERM ends the daemon and removes its socket even if its threads are blocked."""
    pools = [make_pool() for _ in range(2)]
    config, path = tmp_path / "c.toml", tmp_path / "s"
    config.write_text("[daemon]\nadopt = []\nprune = false\n")
    daemon = start(STUCK, config, path)
    pid = None
    while pid is None:  # its socket exists before it listens
        with contextlib.suppress(shmpool.DaemonUnavailable), shmpool.Client(path) as client:
            pid = client.ping().pid

    def ask(method: str, pool: shmpool.Pool) -> None:
        with shmpool.Client(path, timeout=60) as client, pytest.raises(shmpool.DaemonUnavailable):
            getattr(client, method)(pool.name)

    asked = zip(("recover", "audit"), pools, strict=True)
    threads = [threading.Thread(target=ask, args=what) for what in asked]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert "stuck" == daemon.line()
    with shmpool.Client(path) as client:
        assert daemon.pid == client.ping().pid
    daemon.process.terminate()
    daemon.end()
    for thread in threads:
        thread.join()
    assert not path.exists()


def test_a_reload_that_is_refused(start_daemon: StartDaemon, pool_name: str) -> None:
    """Each refusal is reported in the log and to the service manager, and the daemon goes on
    unchanged.

    It is reported for any invalid file, and again with each SIGHUP.
    """
    daemon = start_daemon(POOL.format(pool_name))
    good = daemon.config.read_text()
    wrong = [
        (f"x = {'9' * 5000}\n", "too large"),
        (f"x = {'[' * 3000}{']' * 3000}\n", "nested too deeply"),
        ("[daemon]\n", "twice"),
        ("\0", "Invalid statement"),
        (f"[pools.{pool_name}.queue.more]\ncapacity = 3\n", "power of two"),
        ("#" * (1 << 21), "longer than"),
    ]
    for number, (text, why) in enumerate(wrong * 2, 1):
        daemon.config.write_text(good + text)
        daemon.process.send_signal(signal.SIGHUP)
        said = daemon.notified("READY=1")
        (status,) = [line for line in said if line.startswith("STATUS=")]
        assert "configuration not changed" in status
        assert number == daemon.output().count("configuration not changed")
        assert why in daemon.output().splitlines()[-1]
    daemon.config.unlink()
    os.mkfifo(daemon.config)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.notified("READY=1")
    assert "it is not a regular file" in daemon.output()
    daemon.config.unlink()
    late = good.replace("[daemon]", "[daemon]\ninterval = 2.0")
    for number in (1, 2):  # the same error is reported again
        daemon.config.write_text(late)
        daemon.process.send_signal(signal.SIGHUP)
        assert any("interval" in line for line in daemon.notified("READY=1"))
        assert number == daemon.output().count("daemon.interval changes at the next start")
    daemon.config.write_text(good)
    daemon.process.send_signal(signal.SIGHUP)
    (status,) = [line for line in daemon.notified("READY=1") if line.startswith("STATUS=")]
    assert status.startswith("STATUS=listening")
    with shmpool.Client(daemon.socket) as client:
        assert {pool_name} == held_pools(client)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--config", "/dev/zero"), "not a regular file"),
        (("--config", "/tmp"), "not a regular file"),
        (("--config", "x" * 5000), "too long"),
        (("--socket", "x" * 108), "path"),
        (("--socket", ""), "path"),
        (("--http", "[::1:80"), "address"),
        (("--http", f"{'x' * 300}:80"), "address"),
        (("--http", "a\x1b[2J:80"), "\\x1b"),
        (("--http", "unix:"), "path"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], words: str) -> None:
    """They give one printable line and status 2, with --check and without."""
    check = ("--check",) if "x" in arguments[1] else ()
    done = subprocess.run(
        [sys.executable, "-m", "shmpool.daemon", *arguments, *check],
        capture_output=True,
        text=True,
        timeout=60,
    )
    (line,) = done.stderr.splitlines()
    assert (2, True) == (done.returncode, line.isprintable())
    assert words in line


@pytest.mark.slow
def test_what_check_accepts(
    tmp_path: Path, make_pool: MakePool, new_name: Callable[[], str]
) -> None:
    """--check refuses what a start would refuse, and prints nothing for a correct configuration.

    A start refuses queues beyond an existing pool's room, other values, and unknown hosts.
    """
    old = make_pool(queues=1)
    table = f"[pools.{old.name}]\nbuffer_size = 256\ncapacity = 64\nqueues = 1\n"

    def check(text: str) -> tuple[int, str]:
        config = tmp_path / "c.toml"
        config.write_text(text)
        arguments = ("--check", "--config", str(config))
        done = subprocess.run(
            [sys.executable, "-m", "shmpool.daemon", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stderr

    queue = f"[pools.{old.name}.queue"
    assert (0, "") == check(table + f"{queue}.a]\ncapacity = 4\n" + POOL.format(new_name()))
    old.create_queue("there", capacity=4)
    code, said = check(table + f"{queue}.a]\ncapacity = 4\n")
    assert (2, True) == (code, "has room for 0 more queues" in said)
    code, said = check(table.replace("64", "128"))
    assert (2, True) == (code, "capacity is declared 128 and exists as 64" in said)
    for host in ("no-such-host.invalid", "192.0.2.1", "1", "[2001:db8::1]"):
        code, said = check(f'[daemon]\nhttp = "{host}:0"\n')
        assert (1, 1, True) == (code, len(said.splitlines()), f"http://{host}:0: " in said)
    with socket.create_server(("127.0.0.1", 0)) as other:  # maybe the daemon that will reload it
        port = other.getsockname()[1]
        assert (0, "") == check(f'[daemon]\nhttp = "127.0.0.1:{port}"\n')
    file = tmp_path / "file"
    file.touch()
    for place in (tmp_path, file, file / "sock"):
        for option in (f'socket = "{place}"', f'http = "unix:{place}"'):
            code, said = check(f"[daemon]\n{option}\n")
            assert (1, 1) == (code, len(said.splitlines()))
            assert f"shmpool: cannot listen at {place}: " in said
    here = tmp_path / "daemon.sock"
    for path, other_path in (
        (here, here),
        (here, f"{here}.lock"),
        (f"{here}.lock", here),
        (here, tmp_path / "no" / ".." / "daemon.sock"),
    ):
        code, said = check(f'[daemon]\nsocket = "{path}"\nhttp = "unix:{other_path}"\n')
        assert (2, 1) == (code, len(said.splitlines()))
        assert ', line 3: daemon.http = "unix:/' in said
        assert "the daemon's socket, or a lock file PATH.lock, is there" in said
    assert (0, "") == check(f'[daemon]\nsocket = "{here}"\nhttp = "unix:{here}.http"\n')
    assert not here.exists()
