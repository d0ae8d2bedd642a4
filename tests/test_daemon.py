# SPDX-License-Identifier: Apache-2.0
"""The daemon as a process: start, requests, end."""

import contextlib
import fcntl
import os
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
from tests.suspending import suspend

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


def watched_pools(client: shmpool.Client) -> set[str]:
    return {pool.name for pool in client.list() if pool.watched}


def test_declared_pools_are_created(start_daemon: StartDaemon, pool_name: str) -> None:
    """Declared pools and queues exist when the daemon is ready."""
    daemon = start_daemon(POOL.format(pool_name))
    with shmpool.Pool.attach(pool_name) as pool:
        assert (256, 64) == (pool.buffer_size, pool.capacity)
        assert 16 == pool.queue("work").capacity
    with shmpool.Client(daemon.socket) as client:
        assert {pool_name} == watched_pools(client)
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
        assert {pool_name} == watched_pools(client)
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
        assert {pool_name} == watched_pools(client)
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
        queues = {"a": QueueOptions(8), "b": QueueOptions(0)}
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
        suspend(daemon.pid)
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
