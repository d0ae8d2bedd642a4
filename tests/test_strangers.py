# SPDX-License-Identifier: Apache-2.0
"""Files, processes and queues with names chosen by other users.

No name ends a scan, and none reaches a terminal, a log or a page unescaped.
"""

import asyncio
import ctypes
import json
import os
import pty
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import DEADLINE_S, Child, Eventually, MakePool, StartDaemon, _children
from test_damage import corrupt
from test_growth import small_shm

import shmpool
from shmpool.view import View

pytest.importorskip("click", reason="shmpool[cli] is not installed")
pytest.importorskip("aiohttp", reason="shmpool[daemon] is not installed")

from shmpool.cli.main import shmpool as cli

ROOT = Path(__file__).resolve().parent.parent
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
NAMES = [
    b"\xff\xfe",
    b"\x1b]0;owned\x07\x1b[2J",
    b"x\nshmpool: recovered by an attacker\nshmpool: y",
    b"[bold red on yellow]MARKUP[link=http:x]",
    "\u202eabc\u2066".encode(),
    "é名".encode(),
    b"-rf",
    b"y" * 247,
    b"%s{0}",
    b"'; touch x; '",
]

MACHINE = """
    import contextlib, fcntl, io, json, os, shutil, signal, socket, stat, subprocess, sys
    import shmpool
    from shmpool.cli.main import shmpool as cli
    from shmpool.view import View

    def command(*arguments, status=(0,)):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                cli.main(arguments, prog_name="shmpool")
            except SystemExit as end:
                assert (end.code or 0) in status, (arguments, end.code, out.getvalue())
        for line in out.getvalue().split("\\n"):
            assert line.isprintable(), (arguments, line)
        return out.getvalue()

    def listed():
        pools = json.loads(command("ls", "--direct", "--json"))
        return {pool["name"]: pool["trouble"] for pool in pools}

    def path(name):
        return f"/dev/shm/shmpool.{name}"

    def abandoned(name):
        pid = os.fork()
        if pid == 0:
            pool = shmpool.Pool.create(name, buffer_size=64, capacity=64)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
"""


def test_file_names(run: Callable[..., str]) -> None:
    """Every command handles files of such names, and prints a readable form of them."""
    script = (
        MACHINE
        + """
    raw = [bytes.fromhex(name) for name in sys.argv[1:]]
    shmpool.Pool.create("good", buffer_size=64, capacity=64).close()
    for name in raw:
        os.close(os.open(b"/dev/shm/shmpool." + name, os.O_CREAT | os.O_RDWR))
    assert ["good"] == shmpool.pool_names()
    assert {"good": None} == listed()
    assert "good" in command("ls", "--direct")
    for what in ("stats", "describe", "audit"):
        command(what, "good", "--direct")
    assert len(raw) == command("doctor", status=(0, 1)).count("file shmpool."), command("doctor")
    assert "good" in json.dumps(json.loads(command("doctor", "--json", status=(0, 1))))
    from shmpool.cli.access import complete_pool
    assert ["good"] == [item.value for item in complete_pool(None, None, "")]
    command("prune", "--direct")
    print(all(os.path.lexists(b"/dev/shm/shmpool." + name) for name in raw))
    """
    )
    names = [name.hex() for name in NAMES]
    assert "True\n" == run(script, *names, prefix=small_shm("64m"))


KINDS = """
    def program(name):
        shutil.copy("/bin/sleep", path(name))
        os.chmod(path(name), 0o755)
        runs.append(subprocess.Popen([path(name), "1000"]))

    def noise(name):
        with open(path(name), "wb") as file:
            file.write(os.urandom(9000))

    def bound(name):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path(name))

    runs = []
    kinds = {
        "directory": lambda name: os.mkdir(path(name)),
        "fifo": lambda name: os.mkfifo(path(name)),
        "socket": bound,
        "link": lambda name: os.symlink("/etc/passwd", path(name)),
        "dangling": lambda name: os.symlink("nowhere", path(name)),
        "loop": lambda name: os.symlink(path(name), path(name)),
        "device": lambda name: os.mknod(path(name), stat.S_IFCHR | 0o666, os.makedev(1, 3)),
        "noise": noise,
        "program": program,
    }
"""


@needs_root
def test_a_file_with_a_pools_name(run: Callable[..., str]) -> None:
    """It affects that pool only: one of shmpool's exceptions for its users, and a line in the list.

    prune and the other pools continue.
    """
    script = (
        MACHINE
        + KINDS
        + """
    for kind, make in kinds.items():
        make(kind)
    abandoned("zzz")
    try:
        for kind in kinds:
            for call in (shmpool.Pool.attach, View, lambda name: shmpool.Pool.create(
                name, buffer_size=64, capacity=64
            )):
                try:
                    call(kind)
                except shmpool.ShmpoolError as error:
                    assert kind in str(error), error
                else:
                    raise AssertionError(f"{kind} was taken for a pool")
            for what in ("stats", "describe", "audit", "members", "holders", "recover", "trim"):
                assert kind in command(what, kind, "--direct", status=(1,))
        pools = listed()
        assert [] == [kind for kind in kinds if not pools[kind]], pools
        assert pools["zzz"] is None
        command("ls", "--direct")
        for kind in kinds:
            assert f"pool {kind} " in command("doctor", status=(1,)), kind
        assert "zzz" in command("prune", "--direct")
        assert sorted(kinds) == shmpool.pool_names()
    finally:
        for process in runs:
            process.kill()
            process.wait()
    """
    )
    assert "" == run(script, prefix=small_shm("64m"))


@needs_root
@pytest.mark.parametrize("kind", ["F_RDLCK", "F_WRLCK"])
def test_a_lease(run: Callable[..., str], kind: str) -> None:
    """A file whose owner has a lease on it cannot be opened now. Its users get an error, and scans
    continue.

    Reading the file's identity does not break the owner's lease.
    """
    script = (
        MACHINE
        + """
    from shmpool.pool_files import inode_of
    shmpool.Pool.create("aaa", buffer_size=64, capacity=64).close()
    abandoned("zzz")
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    kind = getattr(fcntl, sys.argv[1])
    fd = os.open(path("aaa"), os.O_RDONLY if kind == fcntl.F_RDLCK else os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
    assert os.fstat(fd).st_ino == inode_of("aaa")
    assert kind == fcntl.fcntl(fd, fcntl.F_GETLEASE)
    try:
        shmpool.Pool.attach("aaa")
    except shmpool.AccessDenied as error:
        print(error)
    assert {"aaa", "zzz"} == listed().keys()
    command("doctor", status=(0, 1))
    assert "zzz" in command("prune", "--direct").splitlines()
    """
    )
    said = run(script, kind, prefix=small_shm("64m"))
    assert "pool 'aaa' cannot be opened now: its owner has a lease on the file" in said


@needs_root
def test_a_pool_of_another_user(run: Callable[..., str]) -> None:
    """Without permission the message names the pool's owner, and what would give access.

    The other pools are served.
    """
    script = (
        MACHINE
        + """
    pool = shmpool.Pool.create("aaa", buffer_size=64, capacity=64, mode=0o600)
    import shmpool.rpc.client, shmpool.cli.diagnosis  # while it may
    import rich.console, rich.table, rich.progress
    command("prune", "--direct"), command("doctor", status=(0, 1)), listed()
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    abandoned("zzz")
    for what in ("attach", "unlink"):
        try:
            getattr(shmpool.Pool, what)("aaa")
        except shmpool.AccessDenied as error:
            print(error)
    print(listed()["aaa"], listed()["zzz"])
    print([line for line in command("prune", "--direct").splitlines() if ":" not in line])
    command("doctor", status=(0, 1))
    """
    )
    said = run(script, prefix=small_shm("64m,mode=1777"))
    attach, unlink, troubles, pruned = said.splitlines()
    whose = "pool 'aaa': it belongs to root:root, mode 0600; you are uid 65534. "
    assert f"no permission to attach to {whose}Create it with mode= and group=" == attach
    assert unlink.startswith(f"no permission to unlink {whose}")
    assert f"{attach} None" == troubles
    assert "['zzz']" == pruned


QUEUES = [
    b"[/x]",
    b"[bold]b[/]",
    b"\x1b]0;owned\x07\x1b[31m",
    b"a\nshmpool: pool good recovered by me\nb",
    b"\xff\xfe",
    b"\xe2\x80\xaea",
    b"zweite",  # the other queue's name
    b"",
    b"a" * 63,
    b'x",y="',
]


@pytest.mark.parametrize("name", QUEUES)
def test_queue_names(make_pool: MakePool, capsys: pytest.CaptureFixture[str], name: bytes) -> None:
    """Any bytes in a segment are shown escaped and distinct, and end no command."""
    pool = make_pool(queues=2)
    queue = pool.create_queue("QQQQQQQQQQ", capacity=2)
    pool.create_queue("zweite", capacity=2)
    queue.send_many([b"a", b"b"])
    corrupt(pool, b"QQQQQQQQQQ", 0, (name + b"\0" * 11)[: max(len(name) + 1, 11)])
    with View(pool.name) as view:
        shown = [found.name for found in view.queues()]
    assert 2 == len(set(shown))
    assert all(found.isascii() and found.isprintable() and found for found in shown)
    for what, status in (("describe", {0}), ("stats", {0}), ("ls", {0}), ("audit", {0, 1})):
        for more in ([], ["--json"]):
            arguments = [what, *([pool.name] if what != "ls" else []), "--direct", *more]
            with pytest.raises(SystemExit) as end:
                cli.main(arguments, prog_name="shmpool")
            text = "".join(capsys.readouterr())
            assert (end.value.code or 0) in status, text
            assert all(line.isprintable() for line in text.split("\n")), text
            if what in ("describe", "stats"):
                assert (json.dumps(shown[0]) if more else shown[0]) in text


@pytest.mark.parametrize("name", QUEUES)
def test_queue_names_on_the_screen_and_in_metrics(make_pool: MakePool, name: bytes) -> None:
    """top shows them, and a scraper can read /metrics."""
    pytest.importorskip("textual", reason="shmpool[cli] is not installed")
    metrics = pytest.importorskip(
        "shmpool.service.metrics", reason="shmpool[daemon] is not installed"
    )
    from prometheus_client.openmetrics.parser import text_string_to_metric_families
    from prometheus_client.parser import text_string_to_metric_families as classic
    from test_top import rows, run_until

    from shmpool.cli.access import Direct
    from shmpool.cli.screen import Top
    from shmpool.service.alarms import Policy
    from shmpool.service.handlers import RequestHandler

    pool = make_pool(queues=2)
    queue = pool.create_queue("QQQQQQQQQQ", capacity=2)
    pool.create_queue("zweite", capacity=2)
    queue.send_many([b"a", b"b"])
    corrupt(pool, b"QQQQQQQQQQ", 0, (name + b"\0" * 11)[: max(len(name) + 1, 11)])
    app = Top(Direct(), frozenset([pool.name]), 0.1)
    run_until(app, lambda: 2 == len(rows(app, "queues")))
    handler = RequestHandler("0")
    handler.watch(pool.name, Policy())
    try:
        new, old = (
            asyncio.run(metrics.exposition(handler, "0", kind)).decode()
            for kind in (metrics.OPENMETRICS, metrics.TEXT)
        )
        families = {f.name: f for f in text_string_to_metric_families(new)}
        plain = classic(old)
        for found in (families, {f.name: f for f in plain}):
            depths = {s.labels["queue"]: s.value for s in found["shmpool_queue_depth"].samples}
            assert [2.0, 0.0] == list(depths.values())
    finally:
        handler.release(pool.name)


def test_a_terminal(run: Callable[..., str]) -> None:
    """A name brings no colours of its own into a terminal that has colours: doctor."""
    script = """
    import os
    os.close(os.open(b"/dev/shm/shmpool.\\x1b]0;owned\\x07[red]\\x1b[2J", os.O_CREAT))
    os.close(os.open(b"/dev/shm/shmpool.[bold]x[", os.O_CREAT))
    import sys
    from shmpool.cli import main
    sys.argv = ["shmpool", "doctor"]
    main()
    """
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*small_shm("64m"), sys.executable, "-c", textwrap.dedent(script)],
        stdin=follower, stdout=follower, stderr=follower,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "400"},
    )  # fmt: skip
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 65536):
            shown += chunk
    except OSError:  # the peer has closed
        pass
    os.close(leader)
    assert process.wait(DEADLINE_S) in (0, 1)
    text = shown.decode()
    assert r"\x1b]0;owned\x07[red]\x1b[2J" in text
    assert "file shmpool.[bold]x[" in text
    assert ("\x07" not in text, "\x1b]" not in text, "\x1b[2J" not in text) == (True,) * 3


UNNAMEABLE = """
    import ctypes, os, signal, sys, shmpool
    ctypes.CDLL(None).prctl(15, b"\\xff) S \\xfe\\n", 0, 0, 0)
    if len(sys.argv) > 1:
        buffers = shmpool.Pool.attach(sys.argv[1]).alloc_many(3)
    print("ready", flush=True)
    input()
"""


def test_the_fixtures_scan(start: Callable[..., Child], make_pool: MakePool) -> None:
    """The fixture that finds children of a test reads every process of the machine, whatever its
    name."""
    child = start(UNNAMEABLE)
    assert "ready" == child.line()
    assert b"\xff) S \xfe" in Path(f"/proc/{child.pid}/stat").read_bytes()
    assert child.pid in _children()
    assert os.getpid() not in _children()


def test_a_members_process_of_any_name(
    start: Callable[..., Child],
    start_daemon: StartDaemon,
    make_pool: MakePool,
    eventually: Eventually,
) -> None:
    """The daemon recovers its members like any other, adopts later pools, and goes on watching."""
    pool = make_pool()
    daemon = start_daemon(options="interval = 0.05")
    children = [start(UNNAMEABLE, pool.name) for _ in range(3)]
    assert ["ready"] * 3 == [child.line() for child in children]
    with shmpool.Client(daemon.socket) as client:
        eventually(lambda: 3 == len(client.members(pool.name)))
        for child in children[:2]:
            child.kill()
        eventually(lambda: 1 == len(client.members(pool.name)))
        later = make_pool()
        eventually(
            lambda: any(found.name == later.name and found.watched for found in client.list())
        )
        assert [children[2].pid] == [holder.pid for holder in client.holders(pool.name)]
    assert "Traceback" not in daemon.output()
    assert "failed" not in daemon.output()
    descriptors = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    children[2].send()
    children[2].end()
    assert descriptors < 64


@pytest.mark.slow
def test_the_tests_beside_others_pools(run: Callable[..., str]) -> None:
    """Examples and generated pages work beside pools with their names, and beside any process
    name."""
    script = """
    import ctypes, os, subprocess, sys, shmpool
    names = ("rx", "doc-pool", "doc-queue", "doc-view")
    pools = [shmpool.Pool.create(name, buffer_size=64, capacity=64) for name in names]
    ctypes.CDLL(None).prctl(15, b"\\xff\\xfe", 0, 0, 0)
    os.environ["PYTHONPATH"] = sys.argv[1]
    tests = ["shmpool/pool.py", "shmpool/queue.py", "shmpool/view.py", "tests/test_docs.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--confcutdir=."]
    done = subprocess.run([*command, *tests, "--deselect", "tests/test_docs.py::test_the_units"],
                          cwd=sys.argv[1], capture_output=True, text=True)
    print(done.stdout[-3000:] if done.returncode else "green")
    assert sorted(names) == shmpool.pool_names()
    """
    assert "green\n" == run(script, ROOT, prefix=small_shm("1g"))


def test_names_in_c_and_in_the_kernel() -> None:
    """prctl(2) cuts a process's name at 15 bytes.

    The rest cannot be taken for fields, because the last bracket counts.
    """
    libc = ctypes.CDLL(None)
    before = Path("/proc/self/comm").read_bytes().rstrip(b"\n")
    libc.prctl(15, b"a) R (\xff", 0, 0, 0)
    try:
        from shmpool.service.watched_pool import is_suspended

        assert not is_suspended(os.getpid(), os.getpid())
    finally:
        libc.prctl(15, before, 0, 0, 0)
