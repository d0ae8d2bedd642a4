# SPDX-License-Identifier: Apache-2.0
"""The configuration: what it declares is created, at start and by SIGHUP, or refused as a whole."""

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Child, Eventually, MakePool, StartDaemon
from test_daemon import POOL, watched_pools

import shmpool


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
    config = POOL.format(first) + f"[pools.{second}]\nbuffer_size = 4096\ncapacity = 262144\n"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, limits[1]))
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
        assert set() == watched_pools(client)
        daemon.process.send_signal(signal.SIGHUP)  # it is reported each time
        assert any("refused" in line for line in daemon.notified("READY=1"))
        assert 2 == daemon.output().count(f"shmpool: pool {pool_name} refused: ")
        squatter.send()
        assert "gone" == squatter.line()
        eventually(lambda: watched_pools(client) == {pool_name})
        described = client.describe(pool_name)
    assert (0, "0600", ["work"]) == (
        described.file.uid, described.file.mode, [queue.name for queue in described.queues],
    )  # fmt: skip
    squatter.send()
    squatter.end()


def test_reload(start_daemon: StartDaemon, new_name: Callable[[], str]) -> None:
    """SIGHUP creates what is new in the file. A wrong file changes nothing."""
    first, second = new_name(), new_name()
    daemon = start_daemon(POOL.format(first))
    good = daemon.config.read_text()
    daemon.config.write_text(good + POOL.format(second))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.notified("READY=1")
    with shmpool.Client(daemon.socket) as client:
        assert {first, second} == watched_pools(client)
        daemon.config.write_text(good + "[pools\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.notified("READY=1")
        assert "configuration not changed" in daemon.output()
        assert {first, second} == watched_pools(client)


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
        while watched_pools(client) != set(names):
            daemon.notified("READY=1")
        daemon.config.write_text(f"[daemon]\nadopt = []\nprune = false\n{POOL.format(names[3])}")
        daemon.process.send_signal(signal.SIGHUP)
        while watched_pools(client) != {names[3]}:
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
        (f"[pools.{pool_name}.queue.more]\ncapacity = 0\n", "from 1 to 1048576"),
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
        assert {pool_name} == watched_pools(client)


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
    assert (2, True) == (code, "has room for 0 more queues and topics" in said)
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
