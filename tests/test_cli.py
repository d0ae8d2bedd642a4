# SPDX-License-Identifier: Apache-2.0
"""The shmpool command: each subcommand with a daemon and without, its output and exit status."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE_S, Child, MakePool, StartDaemon
from test_daemon import POOL
from test_page_memory import without_numa
from test_topic_figures import get, subscribe

import shmpool
from shmpool import options as allowed
from shmpool._ffi import ffi, lib

pytest.importorskip("click", reason="shmpool[cli] is not installed")
pytest.importorskip("rich", reason="shmpool[cli] is not installed")

from shmpool.cli import diagnosis
from shmpool.cli.main import MODULES
from shmpool.cli.output import print_table

Run = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = [sys.executable, "-W", "error", "-c", "from shmpool.cli import main; main()"]


@pytest.fixture
def shmpool_command(tmp_path: Path) -> Run:
    """shmpool_command(*arguments): runs it, with no daemon at the default path."""
    environ = os.environ | {"SHMPOOL_SOCKET": str(tmp_path / "no-daemon")}

    def call(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            env=environ | more,
        )

    return call


def loaded(done: subprocess.CompletedProcess[str]) -> Any:
    assert (0, "") == (done.returncode, done.stderr)
    return json.loads(done.stdout)


@pytest.fixture(params=["with a daemon", "without"])
def options(request: pytest.FixtureRequest) -> list[str]:
    """Arguments that make a subcommand ask a daemon, or work without one."""
    if request.param == "without":
        return ["--direct"]
    daemon = request.getfixturevalue("start_daemon")()
    return ["--socket", str(daemon.socket)]


@pytest.mark.slow
def test_a_pool_from_creation_to_removal(
    shmpool_command: Run, options: list[str], pool_name: str
) -> None:
    """create, ls, describe, stats, members, audit and rm do the same with a daemon and without."""

    def ask(*arguments: object) -> Any:
        return loaded(shmpool_command(*arguments, "--json", *options))

    queues = ["--queue", "work=16,producers=single", "--queue", "rest=8"]
    size = ["--buffer-size", 256, "--capacity", 64, "--prealloc", 64]
    made = ask("create", pool_name, *size, *queues)
    assert [("work", "single"), ("rest", "multi")] == [
        (queue["name"], queue["producers"]) for queue in made["queues"]
    ]
    with shmpool.Pool.attach(pool_name) as pool, pool.alloc():
        (listed,) = [found for found in ask("ls") if found["name"] == pool_name]
        assert (64, 1, 1) == (listed["capacity"], listed["held"], listed["members"])
        assert made["geometry"] == ask("describe", pool_name)["geometry"]
        assert 63 == ask("stats", pool_name)["buffers"]["free"]
        assert [(os.getpid(), 1)] == [(m["pid"], m["held"]) for m in ask("members", pool_name)]
        assert {"0": 1} == ask("audit", pool_name)["held"]
        lines = shmpool_command(
            "watch", pool_name, "--count", 2, "--interval", 0.1, "--json", *options
        )
        samples = [json.loads(line) for line in lines.stdout.splitlines()]
        assert [1, 1] == [sample["buffers"]["held"] for sample in samples]
    again = shmpool_command("create", pool_name, *size, *options)
    assert (1, True) == (again.returncode, f"pool '{pool_name}' exists" in again.stderr)
    assert 0 == shmpool_command("rm", pool_name, *options).returncode
    gone = shmpool_command("rm", pool_name, *options)
    assert (1, True) == (gone.returncode, f"there is no pool '{pool_name}'" in gone.stderr)
    assert 0 == shmpool_command("rm", "-f", pool_name, *options).returncode
    for subcommand in ("stats", "describe", "members", "audit", "watch"):
        assert 1 == shmpool_command(subcommand, pool_name, *options).returncode


@pytest.mark.slow
def test_topics(
    shmpool_command: Run, options: list[str], start: Callable[..., Child], pool_name: str
) -> None:
    """Each command shows topics and their subscribers, with a daemon and without."""

    def ask(*arguments: object) -> Any:
        return loaded(shmpool_command(*arguments, "--json", *options))

    def shown(*arguments: object) -> str:
        done = shmpool_command(*arguments, *options)
        assert (0, "") == (done.returncode, done.stderr)
        return " ".join(done.stdout.split())

    size = ["--buffer-size", 256, "--capacity", 64]
    made = ask("create", pool_name, *size, "--topic", "ticks=8", "--topic", "state=2")
    assert [("ticks", 8), ("state", 2)] == [(t["name"], t["depth"]) for t in made["topics"]]
    (listed,) = [found for found in ask("ls") if found["name"] == pool_name]
    assert (0, 2) == (listed["queues"], listed["topics"])
    child = subscribe(start, pool_name, "block", 2, "[red]x")
    with shmpool.Pool.attach(pool_name) as pool:
        for _ in range(5):
            pool.topic("ticks").send(b"x")
        get(child, 3)
        place = f"ticks 0 {child.pid} [red]x block 2 0 2 alive"
        for command in ("stats", "describe"):
            assert place in shown(command, pool_name)
            assert "ticks 8 5 5 0 1" in shown(command, pool_name)
            (ticks, _) = ask(command, pool_name)["topics"]
            assert (5, 2) == (ticks["published"], ticks["subscribers"][0]["held"])
        assert f"ticks 0 {child.pid} alive 2" in shown("holders", pool_name)
        assert [("ticks", child.pid, 2)] == [
            (h["topic"], h["pid"], h["buffers"]) for h in ask("holders", pool_name) if h["topic"]
        ]
        line = shown("watch", pool_name, "--count", 1, "--interval", 0.1)
        assert "published/s lag" in line
        assert "2" == line.split()[-1]
        assert "5" == str(ask("audit", pool_name)["queued"]["ticks"])
        child.kill()
        if options == ["--direct"]:
            assert "dead" in shown("stats", pool_name)
            assert "members and subscribers of dead processes" in doctor(pool_name)
            assert 1 == ask("recover", pool_name)["subscribers"]
        pool.recover()
        assert [[], []] == [topic["subscribers"] for topic in ask("stats", pool_name)["topics"]]


@pytest.mark.slow
def test_doctor_of_topics(make_pool: MakePool) -> None:
    """It names the subscriber that holds publishers up."""
    pool = make_pool(capacity=64)
    topic = pool.create_topic("ticks", depth=8)
    with topic.subscribe(policy="block"):
        for _ in range(8):
            topic.send(b"x")
        said = doctor(pool.name)
        assert f"topic ticks: subscriber 0 (process {os.getpid()}, " in said
        assert "8 messages behind, has held publishers up" in said


def doctor(pool: str) -> str:
    """What doctor finds about a pool."""
    return "; ".join(found.found for found in diagnosis._segment(pool))


@pytest.mark.slow
def test_letters(shmpool_command: Run, options: list[str], make_pool: MakePool) -> None:
    """letters shows the dead letters of a pool, puts them back and frees them."""
    pool = make_pool()

    def ask(*arguments: object) -> Any:
        return loaded(shmpool_command("letters", pool.name, *arguments, "--json", *options))

    none = shmpool_command("letters", pool.name, *options)
    assert (
        2,
        f"shmpool: pool '{pool.name}' has no dead-letter queue; name one with --queue\n",
    ) == (
        none.returncode,
        none.stderr,
    )
    letters = pool.create_queue("letters", capacity=8, on_death="requeue")
    work = pool.create_queue("work", capacity=8, on_death="dead-letter", dead_letter=letters)
    for i in range(3):
        work.send(b"[red]\xff%d" % i)
        work.get().nack()
    assert [("letters", "work", 1, "")] * 3 == [
        (m["queue"], m["origin"], m["redelivered"], m["payload"]) for m in ask()
    ]
    assert [b"[red]\xff0".hex()] == [m["payload"] for m in ask("peek", "-n", 1)]
    assert [b"[red".hex()] * 3 == [m["payload"] for m in ask("peek", "--size", 4)]
    shown = shmpool_command("letters", pool.name, "peek", *options)
    assert (0, "") == (shown.returncode, shown.stderr)
    assert "b'[red]\\xff0'" in shown.stdout
    assert [{"queue": "letters", "requeued": 1, "left": 2}] == ask("requeue", "-n", 1, "--reset")
    assert [(b"[red]\xff0", 0)] == [(m.payload, m.redelivered) for m in work.peek(8)]
    work.get().nack()
    assert [{"queue": "letters", "freed": 2, "left": 1}] == ask("drain", "-n", 2)
    pool.create_queue("other", capacity=8)
    assert 1 == ask("requeue", "--queue", "letters", "--to", "other")[0]["requeued"]
    drained = shmpool_command("letters", pool.name, "drain", "--queue", "other", *options)
    assert ["queue  freed  left", "other      1     0"] == [
        line.rstrip() for line in drained.stdout.splitlines()
    ]


WORDS = {name: option.also for name, option in allowed.POOL.items() if option.also}


@pytest.mark.parametrize(("name", "word"), [*WORDS.items(), ("numa_node", allowed.INTERLEAVE)])
def test_a_word_in_place_of_a_number(
    shmpool_command: Run, options: list[str], pool_name: str, name: str, word: str
) -> None:
    """An option that takes a word besides numbers takes it on the command line, too, and names it
    when another word is refused."""
    if name == "numa_node" and (why := without_numa(pool_name)):
        pytest.skip(why)
    flag = f"--{name.replace('_', '-')}"
    pool = ("create", pool_name, "--buffer-size", 64, "--capacity", 4096, *options)
    done = shmpool_command(*pool, flag, "other")
    assert 0 != done.returncode
    assert f"{name} is 'other'" in done.stderr
    assert word in done.stderr
    done = shmpool_command(*pool, flag, word)
    assert (0, "") == (done.returncode, done.stderr)
    assert 0 == shmpool_command("rm", pool_name, *options).returncode


def test_any_integer(shmpool_command: Run, options: list[str], make_pool: MakePool) -> None:
    """An option beyond 64 bits is a usage error, or as good as no limit: with a daemon too."""
    pool, huge = make_pool(), str(10**30)
    size = ["--buffer-size", huge, "--capacity", huge]
    for arguments, status in (
        (["create", "test-never", *size], 2),
        (["watch", pool.name, "--count", huge, "--interval", huge], 2),
        (["watch", "test-never", "--count", huge], 1),
    ):
        done = shmpool_command(*arguments, *options)
        assert (status, "") == (done.returncode, done.stdout)
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_tables(shmpool_command: Run, make_pool: MakePool, pool_name: str) -> None:
    """Without --json there are tables with the same figures, and the reason if a pool has none."""
    Path(f"/dev/shm/shmpool.{pool_name}").write_bytes(bytes(8192))
    pool = make_pool(prealloc=64)
    pool.create_queue("work", capacity=16).send(b"x")
    for subcommand, words in (
        (["ls"], [pool.name, "capacity", "cannot be used", pool_name, "creator died"]),
        (["describe", pool.name], ["buffer_size", "work", "0600"]),
        (["stats", pool.name], ["depth", "work", "alloc"]),
        (["members", pool.name], [str(os.getpid())]),
        (["audit", pool.name], ["in work", "ok"]),
        (["watch", pool.name, "--count", "1"], ["queued", "63"]),
    ):
        done = shmpool_command(*subcommand)
        assert (0, "") == (done.returncode, done.stderr)
        for word in words:
            assert word in done.stdout


def test_an_audit_that_does_not_add_up(shmpool_command: Run, make_pool: MakePool) -> None:
    """A buffer whose owner word names no member: exit status 1."""
    pool = make_pool(prealloc=64)
    geometry = ffi.new("struct shmpool_geometry *")
    assert 0 == lib.shmpool_geometry(pool._number, geometry)
    with Path(f"/dev/shm/shmpool.{pool.name}").open("r+b") as file:
        file.seek(geometry.headers_offset)  # the offset of the first buffer's owner word
        owner = file.read(8)
        file.seek(geometry.headers_offset)
        file.write((4000).to_bytes(8, "little"))
        file.flush()
        done = shmpool_command("audit", pool.name)
        file.seek(geometry.headers_offset)
        file.write(owner)
    assert 1 == done.returncode
    assert "NOT OK" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_help(shmpool_command: Run, name: str) -> None:
    """-h of every subcommand shows an example that is a command of its own."""
    done = shmpool_command(name, "-h")
    assert (0, "") == (done.returncode, done.stderr)
    example = done.stdout.partition("Example: ")[2]
    assert f"shmpool {name}" in example


@pytest.mark.slow
def test_usage_errors(shmpool_command: Run, pool_name: str) -> None:
    """Arguments that cannot be used are exit status 2, and nothing is created."""
    size = ["--buffer-size", 64, "--capacity", 64]
    for arguments in (
        ["nonsense"],
        ["stats"],
        ["stats", "../x"],
        ["create", pool_name, "--buffer-size", 64, "--capacity", 63],
        ["create", pool_name, "--buffer-size", "x", "--capacity", 64],
        ["create", pool_name, *size, "--mode", "9"],
        ["create", pool_name, *size, "--queue", "work"],
        ["create", pool_name, *size, "--queue", "work=8,colour=red"],
        ["create", pool_name, *size, "--queue", "work=8,producers=some"],
        ["create", pool_name, *size, "--queue", "work=0"],
        ["create", pool_name, *size, "--queue", "work=8", "--queue", "work=16"],
        ["create", pool_name, *size, "--topic", "ticks"],
        ["create", pool_name, *size, "--topic", "ticks=9"],
        ["create", pool_name, *size, "--topic", "ticks=8,capacity=8"],
        ["create", pool_name, *size, "--topic", "ticks=8", "--topic", "ticks=8"],
    ):
        done = shmpool_command(*arguments)
        assert 2 == done.returncode, arguments
        assert "Traceback" not in done.stderr
    assert pool_name not in shmpool.pool_names()


@pytest.mark.parametrize(
    "arguments",
    [("ls", "{}"), ("{}",), ("stats", "x", "--{}"), ("create", "x", "--capacity", "{}"), ("--{}",)],
)
def test_usage_errors_are_printable(shmpool_command: Run, arguments: tuple[str, ...]) -> None:
    """Arguments may be names of strangers' files, from a pattern of the shell."""
    foreign = "\x1b]0;owned\x07\x9b31m\u202ea\rb\udcff"
    done = shmpool_command(*[text.format(foreign) for text in arguments])
    assert (2, "") == (done.returncode, done.stdout)
    assert all(" " <= character <= "~" or character == "\n" for character in done.stderr)
    assert "owned" in done.stderr


@pytest.mark.slow
def test_which_daemon_is_asked(
    shmpool_command: Run, start_daemon: StartDaemon, pool_name: str, tmp_path: Path
) -> None:
    """The daemon at SHMPOOL_SOCKET if it answers; the one that --socket names; or none."""
    daemon = start_daemon(POOL.format(pool_name))
    environ = {"SHMPOOL_SOCKET": str(daemon.socket)}

    def watched(*arguments: str, **environ: str) -> bool:
        pools = loaded(shmpool_command("ls", "--json", *arguments, **environ))
        (found,) = [pool for pool in pools if pool["name"] == pool_name]
        answer: bool = found["watched"]
        return answer

    assert watched(**environ)
    assert not watched("--direct", **environ)
    assert not watched()
    done = shmpool_command("ls", "--socket", tmp_path / "nowhere", **environ)
    assert 1 == done.returncode
    assert done.stderr.startswith(f"shmpool: no daemon at {tmp_path / 'nowhere'}")


def test_checking_a_configuration(shmpool_command: Run, tmp_path: Path, pool_name: str) -> None:
    """daemon --check says whether a configuration could be used, and creates nothing."""
    path = tmp_path / "c.toml"
    path.write_text(POOL.format(pool_name))
    assert 0 == shmpool_command("daemon", "--check", "--config", path).returncode
    path.write_text("[pools.x]\nbuffer_size = 64\n")
    done = shmpool_command("daemon", "--check", "--config", path)
    assert (2, f"shmpool: {path}, line 1: pools.x: capacity is missing\n") == (
        done.returncode, done.stderr,
    )  # fmt: skip
    assert pool_name not in shmpool.pool_names()
    said = json.loads(shmpool_command("daemon", "--check", "--json", "--config", path).stdout)
    assert {
        "ok": False,
        "messages": [line.removeprefix("shmpool: ") for line in done.stderr.splitlines()],
    } == said
    path.write_text(POOL.format(pool_name))
    good = loaded(shmpool_command("daemon", "--check", "--json", "--config", path))
    assert {"ok": True, "messages": []} == good
    assert 2 == shmpool_command("daemon", "--json").returncode


def test_completion(shmpool_command: Run, make_pool: MakePool) -> None:
    """Each shell has a script. Subcommands and the names of pools are completed."""
    for shell in ("bash", "zsh", "fish"):
        assert "_SHMPOOL_COMPLETE" in shmpool_command("completion", shell).stdout
    pool = make_pool()
    asked = {"_SHMPOOL_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    done = shmpool_command(**asked, COMP_WORDS=f"shmpool stats {pool.name[:-1]}")
    assert f"plain,{pool.name}" in done.stdout.splitlines()
    folder = Path(f"/dev/shm/shmpool.{pool.name}.folder")
    folder.mkdir()
    try:
        done = shmpool_command(**asked, COMP_WORDS=f"shmpool stats {pool.name}")
    finally:
        folder.rmdir()
    assert [f"plain,{pool.name}"] == done.stdout.splitlines()
    asked["COMP_CWORD"] = "1"
    done = shmpool_command(**asked, COMP_WORDS="shmpool au")
    assert ["plain,audit"] == done.stdout.splitlines()


def test_a_reader_that_goes_away(shmpool_command: Run, make_pool: MakePool) -> None:
    """watch into a pipe prints no traceback when the reader ends."""
    pool = make_pool()
    arguments = ["watch", pool.name, "--interval", "0.1", "--direct"]
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "queued" in process.stdout.readline()
        process.stdout.close()
        assert "" == process.stderr.read()
        assert 1 == process.wait(DEADLINE_S)


def test_doctor(shmpool_command: Run, make_pool: MakePool, pool_name: str) -> None:
    """Every check has a finding. A damaged segment is bad: exit status 1, with what to do."""
    make_pool()
    findings = json.loads(shmpool_command("doctor", "--json").stdout)
    subjects = {finding["subject"]: finding for finding in findings}
    for subject in ("size of /dev/shm", "free in /dev/shm", "permission to /dev/shm", "open files",
                    "open file description locks", "pools", "daemon"):  # fmt: skip
        assert subjects[subject]["found"]
    assert "shmpool daemon" in subjects["daemon"]["advice"]
    Path(f"/dev/shm/shmpool.{pool_name}").write_bytes(b"x" * 8192)
    done = shmpool_command("doctor", "--json")
    (bad,) = [f for f in json.loads(done.stdout) if f["subject"] == f"pool {pool_name}"]
    assert (1, "bad") == (done.returncode, bad["state"])
    assert "shmpool prune" in bad["advice"]
    table = shmpool_command("doctor", COLUMNS="400").stdout
    assert "what to do" in table
    assert f"pool {pool_name}" in table


def test_a_missing_extra(shmpool_command: Run, tmp_path: Path) -> None:
    """Without click the command says what to install."""
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click', name='click')\n")
    done = shmpool_command("ls", PYTHONPATH=str(tmp_path))
    assert 1 == done.returncode
    assert "shmpool: click is not installed: pip install 'shmpool[cli]'\n" == done.stderr


@pytest.mark.slow
def test_recover(
    shmpool_command: Run, options: list[str], make_pool: MakePool, start: type[Child]
) -> None:
    """holders names a dead process and recover recovers its buffers, with a daemon and without.

    A daemon may recover them before the command does.
    """
    pool = make_pool()
    child = start(
        """
        import sys, shmpool
        buffers = shmpool.Pool.attach(sys.argv[1]).alloc_many(3)
        print("ready", flush=True)
        input()
        """,
        pool.name,
    )
    assert "ready" == child.line()
    (holder,) = loaded(shmpool_command("holders", pool.name, "--json", *options))
    assert (child.pid, 3, "alive") == (holder["pid"], holder["buffers"], holder["state"])
    child.kill()
    if "--direct" in options:
        (holder,) = loaded(shmpool_command("holders", pool.name, "--json", *options))
        assert (child.pid, "dead") == (holder["pid"], holder["state"])
        doctor = json.loads(shmpool_command("doctor", "--json").stdout)
        (finding,) = [f for f in doctor if f["subject"] == f"pool {pool.name}"]
        assert f"shmpool recover {pool.name}" == finding["advice"]
        recovery = loaded(shmpool_command("recover", pool.name, "--json", *options))
        assert (1, 3) == (recovery["members"], recovery["buffers"])
    else:
        assert 0 == shmpool_command("recover", pool.name, *options).returncode
    assert [] == loaded(shmpool_command("holders", pool.name, "--json", *options))
    assert loaded(shmpool_command("audit", pool.name, "--json", *options))["ok"]


@pytest.mark.slow
def test_trim(shmpool_command: Run, options: list[str], make_pool: MakePool) -> None:
    """trim gives memory back to the kernel, except that of the given number of free buffers."""
    pool = make_pool(capacity=65536, buffer_size=256)
    pool.alloc_many(40000).free()
    freed = loaded(shmpool_command("trim", pool.name, "--keep", 1024, "--json", *options))["bytes"]
    assert 0 < freed
    assert loaded(shmpool_command("audit", pool.name, "--json", *options))["ok"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a /dev/shm of its own")
def test_prune(run: Callable[..., str]) -> None:
    """prune removes pools that a dead creator left or that are old, and names them. It says why the
    others stay."""
    script = """
        import json, subprocess, sys, shmpool
        from shmpool.cli import main
        shmpool.Pool.create("idle", buffer_size=64, capacity=64).close()
        dies = "import os, shmpool; "
        dies += "p = shmpool.Pool.create('left', buffer_size=64, capacity=64); os._exit(1)"
        subprocess.run([sys.executable, "-c", dies])
        busy = shmpool.Pool.create("busy", buffer_size=64, capacity=64)
        command = [sys.executable, "-c", "from shmpool.cli import main; main()", "prune"]
        for more in ([], ["--json"], ["--age", "0"]):
            done = subprocess.run([*command, "--direct", *more], capture_output=True, text=True)
            print(done.stdout.strip())
            print(done.stderr.strip().splitlines()[:1])
        print(shmpool.pool_names())
        """
    own = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh")
    lines = run(script, prefix=own).splitlines()
    busy = "['shmpool: busy stays: a process has it open']"
    assert ["left", busy, "idle", busy, "['busy']"] == [lines[0], lines[1], *lines[-3:]]
    left = json.loads("".join(lines[2:-4]))
    assert [] == left["removed"]
    assert ["busy", "idle"] == sorted(left["left"])
    assert "on purpose" in left["left"]["idle"]


def test_a_long_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A table has one line for each member, for as many members as there can be."""
    rows = [(f"member {number}", number) for number in range(4095)]
    print_table(("member", "held"), rows)
    lines = capsys.readouterr().out.splitlines()
    assert ["member       held", "member 0     0"] == lines[:2]
    assert (4096, "member 4094  4,094") == (len(lines), lines[-1])


def on_terminal(*words: str) -> tuple[int, str, str]:
    """Runs a command whose stderr is a terminal. Returns its exit status, its output, and what the
    terminal has shown."""
    ours, its = os.openpty()
    environ = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    command = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=its, text=True, env=environ)
    os.close(its)
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
        while part := terminal.read(4096):  # EIO: no process has the terminal open any more
            shown += part
    output, _ = command.communicate(timeout=DEADLINE_S)
    return command.returncode, output, shown.decode()


def test_progress_on_a_terminal(make_pool: MakePool, pool_name: str) -> None:
    """A user who waits at a terminal is told for what, on stderr; stdout has the answer alone."""
    pool = make_pool()
    status, output, shown = on_terminal(*COMMAND, "audit", pool.name, "--json", "--direct")
    assert (0, True) == (status, json.loads(output)["ok"])
    assert f"counting the buffers of {pool.name}" in shown
    status, _, shown = on_terminal(
        *COMMAND, "create", pool_name, "--buffer-size", "64", "--capacity", "64", "--direct"
    )
    assert (0, True) == (status, f"creating {pool_name}" in shown)
