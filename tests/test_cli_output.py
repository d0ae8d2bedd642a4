# SPDX-License-Identifier: Apache-2.0
"""What the command line prints: JSON with the fields that are documented, tables for any width,
colours, and what to do next."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, get_args, get_origin

import pytest
from conftest import MakePool

pytest.importorskip("click", reason="shmpool[cli] is not installed")
pytest.importorskip("rich", reason="shmpool[cli] is not installed")

import click

from shmpool.cli import doctor, next_steps, watch
from shmpool.cli.diagnosis import Finding
from shmpool.cli.json_output import JsonOption
from shmpool.cli.main import MODULES
from shmpool.cli.main import shmpool as group
from shmpool.cli.output import hint, print_table
from shmpool.rpc import wire
from shmpool.rpc.records import Alarm, AlarmKind, PoolSummary

# What --json prints, by command, and the fields of each record: a promise to scripts. A field may
# be added. One that is renamed or removed breaks them.
COMMANDS = {
    "daemon": ["Checked"],
    "bridge": ["Checked"],
    "ls": ["PoolSummary"],
    "create": ["Description"],
    "rm": ["Removed"],
    "describe": ["Description"],
    "stats": ["PoolStats"],
    "watch": ["PoolStats"],
    "members": ["Member"],
    "holders": ["Holder"],
    "audit": ["Audit"],
    "recover": ["Recovery"],
    "letters": ["Letter", "Requeued", "Drained"],
    "trim": ["Trimmed"],
    "prune": ["Pruned"],
    "doctor": ["Finding"],
}
FIELDS = {
    "Alarm": "kind subject since message",
    "Audit": "ok total free cached held queued unaccounted complete chained",
    "Checked": "ok messages",
    "Description": "pool geometry file queues topics",
    "Drained": "queue freed left",
    "File": "path size reserved mode uid gid",
    "Finding": "subject state found advice",
    "Geometry": "buffer_size capacity prealloc bulk refill_multiplier cache_size headroom members "
    "queues free_rings sizes",
    "Holder": "member pid tid state buffers oldest_s topic",
    "LaneStats": "depth capacity enqueued dequeued lost",
    "Letter": "queue position index length payload redelivered origin timestamp mark flow_hash",
    "Member": "number pid tid attached_ns cached held operation dead counters",
    "LinkStats": "name pid pool source target sends state since why bursts packets bytes window "
    "unacknowledged oldest_s lag reconnects doubled redelivered returned rate down_s lag_s",
    "PoolStats": "pool at buffers queues topics recoveries alarms links",
    "PoolSummary": "name watched capacity buffer_size created free cached held queued queues "
    "topics members reserved alarms trouble",
    "Pruned": "removed left",
    "QueueStats": "name capacity depth enqueued dequeued producers consumers on_death dead_letter "
    "max_redeliveries refused dropped memory lanes lane_stats",
    "Recoveries": "count members buffers requeued dead_lettered last_at last_s longest_s "
    "subscribers",
    "Recovery": "members buffers requeued dead_lettered postponed unknown subscribers",
    "Removed": "pool removed",
    "Requeued": "queue requeued left",
    "SizeClass": "buffer_size capacity prealloc cache_size",
    "SizeStats": "buffer_size capacity created free cached",
    "Stats": "capacity created free cached held queued members recovered counters refused dropped "
    "sizes chained estimated",
    "Subscription": "number pid name policy lag gaps held closing dead",
    "TopicStats": "name depth published kept waiting subscribers",
    "Trimmed": "bytes",
}
# Print no figures: a full screen, text for other programs, results in a file, a log.
WITHOUT = {"top", "completion", "demo", "config-example", "systemd-unit", "bench"}


def answers_of(command: str) -> tuple[Any, ...]:
    found = group.get_command(click.Context(group), command)
    assert found is not None
    return next((p.answers for p in found.params if isinstance(p, JsonOption)), ())


def record_of(answer: Any) -> Any:
    return (get_args(answer) or (answer,))[0]


def records_in(kind: Any) -> dict[str, list[str]]:
    """The fields of each record that a type is made of."""
    if not wire.is_dataclass(kind):
        return {name: of for part in get_args(kind) for name, of in records_in(part).items()}
    found = {kind.__name__: list(wire.hints(kind))}
    for inner in wire.hints(kind).values():
        found |= records_in(inner)
    return found


def test_every_command_that_has_answers_prints_json() -> None:
    """The commands with --json, and the records of each."""
    found = {name: [record_of(one).__name__ for one in answers_of(name)] for name in MODULES}
    assert WITHOUT == {name for name, records in found.items() if not records}
    assert {name: records for name, records in found.items() if records} == COMMANDS


def test_the_fields_of_json() -> None:
    """They are the promised ones."""
    found: dict[str, list[str]] = {}
    for name in COMMANDS:
        for answer in answers_of(name):
            found |= records_in(answer)
    assert {name: text.split() for name, text in FIELDS.items()} == found


def check_fields(kind: Any, value: Any) -> None:
    """A value has the fields of its type, and so have those in it."""
    inner = get_args(kind)
    if wire.is_dataclass(kind):
        assert list(value) == list(wire.hints(kind))
        for name, of in wire.hints(kind).items():
            check_fields(of, value[name])
    elif get_origin(kind) is list:
        for part in value:
            check_fields(inner[0], part)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """printed(*arguments): what the command prints to stdout, without a daemon."""

    def printed(*arguments: object) -> str:
        with contextlib.suppress(SystemExit):  # audit and doctor
            group.main([*map(str, arguments)], standalone_mode=False)
        found = capsys.readouterr()
        assert "" == found.err
        return found.out

    return printed


def test_what_is_printed_has_these_fields(
    make_pool: MakePool, pool_name: str, printed: Callable[..., str]
) -> None:
    """Each command, of a pool with queues, lanes, a topic, and messages in them."""
    pool = make_pool(buffer_size=[64, 256], capacity=64, queues=8)
    letters = pool.create_queue("letters", capacity=8, on_death="requeue")
    work = pool.create_queue("work", capacity=8, on_death="dead-letter", dead_letter=letters)
    pool.create_queue("wide", capacity=8, lanes=2)
    topic = pool.create_topic("ticks", depth=2)

    def check(command: str, *arguments: object, answer: int = 0) -> None:
        text = printed(command, *arguments, "--json", *["--direct"] * (command != "doctor"))
        check_fields(answers_of(command)[answer], json.loads(text))
        seen.add(command)

    seen: set[str] = set()
    with topic.subscribe(), pool.alloc():
        topic.send(b"x")
        for command in ("describe", "stats", "members", "holders", "audit", "recover", "trim"):
            check(command, pool.name)
        check("ls")
        check("watch", pool.name, "--count", 1)
        for answer, action in enumerate(("peek", "requeue", "drain")):
            work.send(b"x")
            work.get().nack()
            check("letters", pool.name, action, answer=answer)
    check("create", pool_name, "--buffer-size", 64, "--capacity", 64, "--queue", "q=8")
    check("rm", pool_name)
    check("rm", pool_name, "--force")
    check("doctor")
    # prune is of all pools of the machine: tests/test_cli.py; bridge: tests/test_links.py
    assert set(COMMANDS) == seen | {"daemon", "prune", "bridge"}


ROWS = [("rx-of-a-long-name", 1024, "a text that needs a good many columns, and is wrapped"),
        ("tx", 7, "short")]  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_tables_fit(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No line is wider than the terminal, and no name or number is divided."""
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(("pool", "held", "why"), ROWS)
    print_table([f"title{i}" for i in range(13)], [[f"name-{i}" for i in range(13)]])
    print_table([f"none{i}" for i in range(13)], [])
    print_table(("file", ""), [("file", "/dev/shm/" + "Q" * 60)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert {"rx-of-a-long-name", "1,024", "tx", "7", *(f"name-{i}" for i in range(13))} <= {*words}
    assert {f"none{i}" for i in range(13)} <= {*words}
    assert 60 == "".join(lines).count("Q")
    assert "\u2026" not in "".join(lines)


def test_a_narrow_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each value, under the first one of its row."""
    monkeypatch.setenv("COLUMNS", "32")
    print_table(("pool", "capacity", "free", "trouble"), [("rx", 65536, 1000000000, None)])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert ["rx", "  capacity  65,536", "  free      1,000,000,000"] == lines


@pytest.mark.parametrize("width", [None, 5, 40, 80, 119, 120, 200])
def test_columns_of_watch(width: int | None) -> None:
    """As many as there is room for, in their order: the time first, all of them in a pipe."""
    found = watch._shown(width)
    room = 10 if width is None else max(1, min(width // watch.COLUMN, 10))
    assert (room, 0, sorted(found)) == (len(found), found[0], found)
    assert set(watch.IMPORTANCE) == set(watch.COLUMNS)


@pytest.mark.parametrize("arguments", [("--help",), ("bench", "--help"), ("bench", "--quick")])
def test_without_what_the_benchmark_needs(arguments: tuple[str, ...]) -> None:
    """The commands are listed, and bench has its help. To run, it says what to install."""
    code = "import sys; sys.modules['numpy'] = None; import shmpool.cli; shmpool.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    if arguments[-1] == "--help":
        assert (0, "") == (done.returncode, done.stderr)
        assert "Measures shmpool against other libraries." in done.stdout
        assert "Example: shmpool " in done.stdout
    else:
        assert (1, "") == (done.returncode, done.stdout)
        assert "shmpool: numpy is not installed: pip install 'shmpool[bench]'\n" == done.stderr


@pytest.mark.parametrize("name", MODULES)
def test_help_has_an_example(name: str, printed: Callable[..., str]) -> None:
    """Each subcommand's."""
    assert re.search(rf"Example: .*shmpool {name}", printed(name, "--help"))


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_colours(
    environ: dict[str, str],
    coloured: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """None in a pipe and with NO_COLOR; with FORCE_COLOR in a pipe too. States keep their words."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    print_table(("pool", "state"), [("bad", "dead"), ("x" * 100, "ok")])
    text = capsys.readouterr().out
    assert coloured == bool(re.search(r"\x1b\[[\d;]*3[1-3]m", text))
    plain = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()
    assert ["bad", "dead"] == plain[1].split()
    assert len(plain) == 3  # 160 columns
    assert not re.search(r"\x1b\[[\d;]*3[1-3]m *bad", text)  # a name is no state


SUMMARY = PoolSummary("rx", watched=True)


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        ([], ["shmpool create"]),
        ([SUMMARY], []),
        ([SUMMARY, PoolSummary("tx", watched=True, alarms=2)], ["shmpool stats tx"]),
        ([PoolSummary("tx", watched=False, trouble="corrupted")], ["shmpool doctor"]),
    ],
)
def test_what_ls_says_to_do(pools: list[PoolSummary], words: list[str]) -> None:
    """Without pools, with alarms, and with pools that cannot be used."""
    said = list(next_steps.of_list(pools))
    assert len(words) == len(said)
    assert all(word in text for word, text in zip(words, said, strict=True))


def test_what_to_do_about_each_alarm() -> None:
    """Every kind of alarm has a step, whose command exists."""
    assert set(get_args(AlarmKind)) == set(next_steps.STEPS)
    for kind in get_args(AlarmKind):
        said = next_steps.of_alarm("rx", Alarm(kind, "work", 0.0, ""))
        assert said.startswith(f"{kind} work: ")
        named = re.findall(r"shmpool ([a-z]+) rx", said)
        assert named or kind == "stopped"
        assert set(named) <= set(MODULES)


@pytest.mark.parametrize(
    ("states", "words"),
    [
        (("ok",), "shmpool demo"),
        (("ok", "note"), "1 note says"),
        (("note", "note"), "2 notes say"),
        (("bad", "note"), "1 bad"),
    ],
)
def test_what_doctor_says_to_do(states: tuple[Any, ...], words: str) -> None:
    """After findings that are good, could be better, or are bad."""
    assert words in doctor.next_step([Finding("x", state, "") for state in states])


def test_hints_are_for_terminals(capfd: pytest.CaptureFixture[str]) -> None:
    """They are said on stderr if it and stdout are terminals, and nowhere else."""
    hint("never seen")
    assert ("", "") == capfd.readouterr()
    pid, terminal = os.forkpty()
    if pid == 0:  # pragma: no cover - another process
        try:
            import sys

            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            hint("do \x1b[31mthis")
            sys.stderr.flush()
        finally:
            os._exit(0)
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # EIO: the child has ended
        pass
    os.close(terminal)
    os.waitpid(pid, 0)
    assert b"shmpool: do \\x1b[31mthis\r\n" == shown
