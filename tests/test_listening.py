# SPDX-License-Identifier: Apache-2.0
"""Listening sockets: which files are changed, and how many connections are served."""

import asyncio
import contextlib
import errno
import ipaddress
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE_S, StartDaemon

import shmpool
from shmpool.rpc import wire
from shmpool.service import listening, systemd
from shmpool.service.listening import Acceptor, CannotListen

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the socket."""
    return tmp_path / "d.sock"


@pytest.fixture
def lock(path: Path) -> Path:
    """The path of its lock file."""
    return path.with_name("d.sock.lock")


def refused(path: Path, match: str) -> None:
    with pytest.raises(CannotListen, match=match) as caught, listening.listening(path, -1):
        pytest.fail("it listens")
    assert "\n" not in str(caught.value)


def test_a_lock_that_is_a_link(path: Path, lock: Path) -> None:
    """Neither the link nor its target is changed, whether the target exists or not."""
    precious = path.with_name("precious")
    precious.write_text("important\n")
    lock.symlink_to(precious)
    refused(path, "lock: Too many levels of symbolic links")
    assert "important\n" == precious.read_text()
    assert lock.is_symlink()
    precious.unlink()
    refused(path, "symbolic links")
    assert not precious.exists()


def test_a_lock_that_is_another_name_of_a_file(path: Path, lock: Path) -> None:
    """A lock file with a second name, or with content that is not a pid, is left as it is."""
    precious = path.with_name("precious")
    for text in ("1234\n", "important\n", "1" * 100, "\0\0"):
        precious.write_text(text)
        lock.hardlink_to(precious)
        refused(path, "not a lock file of this user")
        precious.unlink()
        if text != "1234\n":
            refused(path, "not a lock file of this user")
        assert text == lock.read_text()
        lock.unlink()


def test_a_lock_that_is_no_file(path: Path, lock: Path) -> None:
    """A FIFO or a directory is refused at once."""
    os.mkfifo(lock)
    refused(path, "not a lock file of this user")
    lock.unlink()
    lock.mkdir()
    refused(path, "Is a directory")


@needs_root
def test_a_lock_of_another_user(path: Path, lock: Path) -> None:
    """A lock file of another user is neither written nor removed."""
    lock.touch()
    os.chown(lock, 65534, 65534)
    refused(path, "not a lock file of this user")
    assert 65534 == lock.stat().st_uid


def test_a_lock_that_is_removed_again_and_again(
    path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other daemons that end at once may remove it. It is tried a few times, and no descriptor
    stays."""
    open_lock, removals = listening._open_lock, list[int]()

    def opened(path: Path, lock: Path) -> int:
        fd = open_lock(path, lock)
        if removals:
            lock.unlink()
            removals.pop()
        return fd

    monkeypatch.setattr(listening, "_open_lock", opened)
    before = os.listdir("/proc/self/fd")
    removals += [1] * 1000
    refused(path, "removed again and again")
    removals[:] = [1]
    with listening.listening(path, -1):
        assert lock.exists()
    assert before == os.listdir("/proc/self/fd")


def test_what_a_killed_daemon_left(path: Path, lock: Path) -> None:
    """The lock file and the socket of a killed daemon are replaced, and removed at the end."""
    lock.write_text("123\n")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listening.listening(path, -1):
        assert f"{os.getpid()}\n" == lock.read_text()
        refused(path, f"process {os.getpid()}")
    assert not lock.exists()
    assert not path.exists()


def test_a_link_in_the_sockets_place(path: Path) -> None:
    """The link is not followed or removed, and its target keeps its rights."""
    precious = path.with_name("precious")
    precious.write_text("important\n")
    precious.chmod(0o600)
    path.symlink_to(precious)
    refused(path, "not a socket")
    with pytest.raises(OSError, match="not a socket"):
        listening.give_to_group(path, os.getegid())
    assert (0o600, "important\n") == (stat.S_IMODE(precious.stat().st_mode), precious.read_text())


def test_a_socket_for_a_group(path: Path) -> None:
    """The members of the group may connect, and no other user."""
    group = os.getegid()
    with listening.listening(path, group):
        status = path.stat()
        assert (0o660, group) == (stat.S_IMODE(status.st_mode), status.st_gid)


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2200, reason="needs 2,200 descriptors"
)
def test_a_burst_of_connections(start_daemon: StartDaemon) -> None:
    """1,000 clients that connect at once are all answered, although only 200 may be connected."""
    daemon = start_daemon(options="max_clients = 200")
    ready, trouble, got = threading.Barrier(20), list[object](), list[int]()

    def connects() -> None:
        ready.wait()
        with contextlib.ExitStack() as stack:
            clients = []
            for _ in range(50):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.setblocking(False)  # the backlog must have room
                code = sock.connect_ex(str(daemon.socket))
                if code:
                    trouble.append(os.strerror(code))
                sock.settimeout(DEADLINE_S)
                sock.sendall(wire.pack_call(1, "ping", []))
                clients.append(sock)
            for sock in clients:
                reply = next(iter(fed(sock.recv(4096))))
                got.append(1 if isinstance(reply, wire.Reply) else 0)
                sock.close()

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.kill(daemon.pid, 19)  # SIGSTOP, so that all of them are waiting
    threads = [threading.Thread(target=connects) for _ in range(20)]
    try:
        for thread in threads:
            thread.start()
        os.kill(daemon.pid, 18)
        for thread in threads:
            thread.join()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [] == trouble
    assert 1000 == len(got)
    assert sum(got) >= 200


def fed(data: bytes) -> wire.Frames:
    frames = wire.Frames(wire.ANSWER_MAX, trusted=True)
    frames.feed(data)
    return frames


class Counting(asyncio.Protocol):
    """Counts open connections. The other side closes them."""

    open = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Counting.open += 1

    def connection_lost(self, error: Exception | None) -> None:
        Counting.open -= 1


@pytest.fixture
def listener(path: Path) -> Iterator[socket.socket]:
    """A socket that listens at the path."""
    Counting.open = 0
    with listening.listening(path, -1) as sock:
        yield sock


async def until(condition: object) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


def test_no_descriptors(
    listener: socket.socket, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While accept() has no descriptors the loop is idle and logs it once. Then it goes on."""
    accepted = []

    class Short:
        """A socket whose accept() fails while `failing` is set."""

        failing = True

        def accept(self) -> tuple[socket.socket, object]:
            accepted.append(self.failing)
            if self.failing:
                raise OSError(errno.EMFILE, "Too many open files")
            return listener.accept()

        def fileno(self) -> int:
            return listener.fileno()

    async def go() -> None:
        short = Short()
        acceptor = Acceptor(short, Counting, lambda: True)  # type: ignore[arg-type]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            await until(lambda: len(accepted) == 3)
            began = asyncio.get_running_loop().time()
            acceptor.has_room_again()
            await until(lambda: len(accepted) == 5)
            assert asyncio.get_running_loop().time() - began > listening.SHORT_S / 2
            short.failing = False
            await until(lambda: Counting.open == 1)
        await until(lambda: Counting.open == 0)
        acceptor.close()

    asyncio.run(go())
    assert 1 == sum("no connection can be accepted" in line for line in caplog.messages)


def test_no_room(listener: socket.socket, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection beyond the limit waits in the backlog, and is accepted after FULL_S."""

    async def go() -> None:
        acceptor = Acceptor(listener, Counting, lambda: Counting.open + acceptor.pending < 1)
        first, second = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        with first, second:
            first.connect(str(path))
            second.connect(str(path))
            await until(lambda: Counting.open == 1)
            await asyncio.sleep(0)
            monkeypatch.setattr(listening, "FULL_S", 1e9)
            first.close()
            await until(lambda: Counting.open == 0)
            monkeypatch.setattr(listening, "FULL_S", 0.01)
            acceptor.has_room_again()
            await until(lambda: Counting.open == 1)
            with socket.socket(socket.AF_UNIX) as third:
                third.connect(str(path))
                await until(lambda: Counting.open == 2)
        await until(lambda: Counting.open == 0)
        acceptor.close()

    asyncio.run(go())


def test_a_protocol_that_cannot_be_made(listener: socket.socket, path: Path) -> None:
    """The fault is reported, the connection ends, and the next one is accepted."""

    def make() -> asyncio.Protocol:
        raise RuntimeError("no protocol")

    async def go() -> None:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: faults.append(str(context["exception"]))
        )
        acceptor = Acceptor(listener, make, lambda: True)
        for n in (1, 2):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                await until(lambda n=n: len(faults) == n)  # type: ignore[misc]
                assert b"" == client.recv(1)
        assert ["no protocol"] * 2 == faults
        acceptor.close()

    asyncio.run(go())


ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
arguments = [sys.executable, "-m", "shmpool.daemon", "--config", sys.argv[2]]
os.execv(sys.executable, arguments)
"""


def link_local() -> str:
    """A link-local address of this machine, with its scope."""
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        digits, _, _, scope, _, interface = line.split()
        if scope == "20":
            return f"{ipaddress.IPv6Address(bytes.fromhex(digits))}%{interface}"
    pytest.skip("this machine has no link-local address")


def test_an_address_with_a_scope() -> None:
    """A link-local address is bound on its interface."""
    address = link_local()
    with listening.tcp_sockets(address, 0) as (sock,):
        bare, _, interface = address.partition("%")
        name = sock.getsockname()
        assert (bare, socket.if_nametoindex(interface)) == (name[0].partition("%")[0], name[3])


HANDED_OVER = """
import os, sys
fd = int(sys.argv[1])
if fd >= 0:
    os.dup2(fd, 3)
else:
    os.closerange(3, 4)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[2])
os.execv(sys.executable, [sys.executable, "-m", "shmpool.daemon", "--socket", sys.argv[3]])
"""


def _datagrams() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def _tcp() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "count", "words"),
    [
        (socket.socketpair, "1", "does not listen"),
        (lambda: socket.socket(socket.AF_UNIX), "1", "does not listen"),
        (_datagrams, "1", "not a Unix stream socket"),
        (_tcp, "1", "not a Unix stream socket"),
        (os.pipe, "1", "not a socket"),
        (lambda: os.open("/", os.O_PATH), "1", "not a socket"),
        (lambda: -1, "1", "not a socket"),
        (lambda: -1, "\u00b2", "must be 1"),
        (lambda: -1, "\u0663", "must be 1"),
        (lambda: -1, "9" * 5000, "must be 1"),
        (lambda: -1, "2", "must be 1"),
    ],
)
def test_what_cannot_be_listened_at(
    path: Path, make: Callable[[], Any], count: str, words: str
) -> None:
    """What the service manager passed and no client can reach is refused in one line, which names
    the variable and the descriptor."""
    made = make()
    ends = made if isinstance(made, tuple) else (made,)
    fds = [end if isinstance(end, int) else end.fileno() for end in ends]
    arguments = [str(fds[0]), count, str(path)]
    done = subprocess.run(
        [sys.executable, "-c", HANDED_OVER, *arguments],
        pass_fds=[fd for fd in fds if fd >= 0],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    for end in ends:
        if not isinstance(end, int):
            end.close()
        elif end >= 0:
            os.close(end)
    (line,) = done.stderr.splitlines()
    assert (1, True, True) == (done.returncode, words in line, "LISTEN_FDS is " in line)
    assert "descriptor 3" in line or words == "must be 1"
    assert line.isprintable()
    assert not path.exists()


def test_numbers_of_the_service_manager() -> None:
    """Only ASCII digits are a number; what is not one is no watchdog."""
    for text in ("", "\u00b2", "\u0663", "9" * 5000, "-1", " 1", "1 ", "0x1", "0"):
        assert systemd.watchdog_period({"WATCHDOG_USEC": text}) is None
    assert 0.5 == systemd.watchdog_period({"WATCHDOG_USEC": "1000000"})


def test_notify_without_descriptors(path: Path, run: Callable[..., str]) -> None:
    """notify() returns where no socket can be made."""
    script = """
        import os, resource, sys
        from shmpool.service import systemd
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        os.environ["NOTIFY_SOCKET"] = sys.argv[1]
        systemd.notify("READY=1")
        print("returned")
        """
    assert "returned\n" == run(script, path)


@pytest.mark.slow
def test_no_descriptors_for_the_event_loop(tmp_path: Path) -> None:
    """From 7 descriptors on, the daemon ends with one line that names the cause, or runs; with the
    fewest it is the event loop that cannot. With fewer Python itself cannot start it."""
    config = tmp_path / "c.toml"
    config.write_text("[daemon]\nprune = false\nadopt = []\n")
    names = "Too many open files"
    command = [sys.executable, "-m", "shmpool.daemon", "--config", str(config), "--socket"]
    loop = False
    for limit in range(7, 15):
        script = f'ulimit -n {limit}; exec "$@"'
        process = subprocess.Popen(
            ["sh", "-c", script, "sh", *command, str(tmp_path / f"{limit}.sock")],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        said = [process.stderr.readline()]
        if serves := "listening at" in said[0]:
            process.terminate()
        said += process.stderr.readlines()
        status = process.wait(DEADLINE_S)
        process.stderr.close()
        assert "Traceback" not in "".join(said)
        if not serves:
            assert (1, 1) == (status, len(said)), said
            assert names in said[0]
        loop = loop or said[0].startswith("shmpool: the event loop cannot run: ")
    assert loop
    assert serves


@pytest.mark.parametrize("abstract", [False, True])
def test_the_group_of_an_inherited_socket(path: Path, tmp_path: Path, abstract: bool) -> None:
    """read_group may connect to an inherited socket. If that is impossible, the log says what to
    do."""
    config = tmp_path / "c.toml"
    group = subprocess.run(["id", "-gn"], capture_output=True, text=True).stdout.strip()
    config.write_text(f'[daemon]\nprune = false\nadopt = []\nread_group = "{group}"\n')
    address = f"\0shmpool-test-{os.getpid()}" if abstract else str(path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(address)
        if not abstract:
            path.chmod(0o600)
        sock.listen()
        process = subprocess.Popen(
            [sys.executable, "-c", ACTIVATED, str(sock.fileno()), str(config)],
            pass_fds=[sock.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        said = [process.stderr.readline()]
        while "listening" not in said[-1]:
            assert said[-1]
            said.append(process.stderr.readline())
        process.terminate()
        process.communicate()
        assert 0 == process.returncode
    warned = [line for line in said if "read_group" in line]
    if abstract:
        assert "SocketGroup= and SocketMode=0660" in warned[0]
    else:
        assert [] == warned
        assert 0o660 == stat.S_IMODE(path.stat().st_mode)
        assert f"listening at {path}\n" in said[-1]


def test_few_descriptors(start_daemon: StartDaemon, pool_name: str) -> None:
    """With 128 descriptors the daemon watches, answers, and reports its limit to clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    script = 'ulimit -n 128; exec "$@"'
    daemon = start_daemon(
        f"[pools.{pool_name}]\nbuffer_size = 256\ncapacity = 64\n",
        prefix=("sh", "-c", script, "sh"),
    )
    assert (soft, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(daemon.socket))
        answer = sock.recv(4096)  # the last client gets the reason
        assert b"clients are connected already" in answer
    with shmpool.Client(daemon.socket, timeout=60) as client:
        assert [pool_name] == [pool.name for pool in client.list() if pool.watched]
        assert client.audit(pool_name).ok
