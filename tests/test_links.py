# SPDX-License-Identifier: Apache-2.0
"""What the daemon knows of bridges' links, and the command that runs them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import shmpool
from shmpool.rpc.records import LinkState, LinkStats
from shmpool.service.links import FORGET_S, LINKS_MAX, SILENT_S, Links, down, lags

UP = LinkStats("rx/work", 7, "rx", "rx/work", "zmq://far:1/x", True, "up", 100.0)


def test_reports_count_until_they_are_old() -> None:
    """A report replaces the last one of its process. A bridge that reports no more is silent, then
    forgotten; one that has said that it ends is forgotten soon."""
    now = [0.0]
    links = Links(lambda: now[0])
    other = replace(UP, pid=8, name="other", state="ended")
    links.report("7", 7, [UP, replace(UP, name="second")])
    links.report("8", 8, [other])
    assert ["other", "rx/work", "second"] == [one.name for one in links.of("rx")]
    links.report("7", 7, [UP])
    assert ["other", "rx/work"] == [one.name for one in links.of("rx")]
    assert [] == links.of("tx")
    now[0] = SILENT_S
    assert ["ended", "silent"] == [one.state for one in links.of("rx")]
    now[0] = 2 * SILENT_S
    assert ["silent"] == [one.state for one in links.of("rx")]
    links.report("9", 9, [replace(UP, pid=9)])  # a new process has the link
    assert [(9, "up")] == [(one.pid, one.state) for one in links.of("rx")]
    now[0] += FORGET_S
    assert [] == links.of("rx")


def test_bridges_with_one_process_number() -> None:
    """Two containers, say. The links of both are shown, and stay."""
    links = Links(lambda: 0.0)
    for packets in (1, 2):
        for name in ("in", "out"):
            links.report(name, 1, [replace(UP, pid=1, name=name, packets=packets)])
    assert [("in", 2), ("out", 2)] == [(link.name, link.packets) for link in links.of("rx")]


def test_the_rate_of_a_link() -> None:
    """It is that between two reports, however often it is asked for. What a bridge counted before
    it was started again does not count."""
    now = [0.0]
    links = Links(lambda: now[0])

    def report(pid: int, packets: int, state: LinkState = "up") -> int:
        links.report(str(pid), pid, [replace(UP, pid=pid, packets=packets, state=state)])
        (first,), (second,) = links.of("rx"), links.of("rx")
        assert first.rate == second.rate
        return first.rate

    found = [report(7, 100)]
    for pid, packets, seconds in ((7, 400, 2.0), (7, 400, 1.0), (9, 50, 6.0), (9, 90, 0.5)):
        now[0] += seconds
        found.append(report(pid, packets))
    assert [0, 150, 0, 0, 80] == found
    now[0] += SILENT_S
    assert [("silent", 0)] == [(one.state, one.rate) for one in links.of("rx")]


def test_two_bridges_with_a_link_of_one_name() -> None:
    """Both are shown, until one has gone: what one says hides nothing of the other."""
    now, mine, other = [0.0], os.getpid(), os.getppid()
    links = Links(lambda: now[0])

    def shown() -> list[tuple[str, int, str]]:
        return [(one.name, one.pid, one.state) for one in links.of("rx")]

    for _ in range(2):
        links.report(str(mine), mine, [replace(UP, pid=mine, state="down")])
        links.report(str(other), other, [replace(UP, pid=other)])
        assert [("rx/work", mine, "down"), (f"rx/work ({other})", other, "up")] == shown()
    now[0] = SILENT_S
    links.report(str(other), other, [replace(UP, pid=other)])
    assert [("rx/work", other, "up")] == shown()
    links.report(str(mine), mine, [replace(UP, pid=mine)])
    links.report(str(other), other, [replace(UP, pid=other, state="ended")])
    links.report(str(mine), mine, [replace(UP, pid=mine)])
    assert [("rx/work", mine, "up")] == shown()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    links.report(str(gone.pid), gone.pid, [replace(UP, pid=gone.pid, name="second")])
    links.report(str(mine), mine, [replace(UP, pid=mine), replace(UP, pid=mine, name="second")])
    assert [("rx/work", mine, "up"), ("second", mine, "up")] == shown()


def test_reports_are_bounded() -> None:
    """Bridges cannot make the daemon hold more than so many links."""
    links = Links()
    many = [replace(UP, name=str(i)) for i in range(LINKS_MAX)]
    links.report("7", 7, many)
    links.report("7", 7, many)
    with pytest.raises(shmpool.LimitReached, match=f"may have {LINKS_MAX}"):
        links.report("8", 8, [replace(UP, pid=8)])


def test_when_a_link_is_an_alarm() -> None:
    """It is one if it has been down for down_s, is silent, or has a burst on its way for lag_s."""
    away = replace(UP, state="down", why="no answer", down_s=5.0)
    assert ["", "the link has been down for more than 5 s: no answer"] == [
        down(away, 100.0 + after) for after in (4.9, 5.0)
    ]
    assert "no report" in down(replace(UP, state="silent", why="no report"), 0.0)
    assert "" == down(UP, 1e9)
    late = replace(UP, oldest_s=10.0, unacknowledged=3, lag=5)
    assert "for more than 10 s; 3 bursts are on their way, and 5 packets wait" in lags(late)
    full = replace(late, unacknowledged=0)
    assert "the other side has had no room for more than 10 s; 5 packets wait" == lags(full)
    assert "the pool, or the queue or topic, has had no room" in lags(replace(full, sends=False))
    assert ["", "", ""] == [
        lags(one) for one in (UP, replace(late, oldest_s=9.9), replace(late, state="down"))
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 2, "--config is missing"),
        (("--config", "none.toml"), 2, "No such file"),
        (("--config", "empty.toml"), 2, "'empty.toml' has no [[link]] table"),
        (("--config", "wrong.toml", "--check"), 2, "line 2: link.0.from"),
        (("--config", "good.toml", "--check"), 0, ""),
        (("--config", "good.toml", "--json"), 2, "--json needs --check"),
        (("--make-keys", "good.toml"), 1, "File exists"),
    ],
)
def test_the_command(arguments: tuple[str, ...], status: int, said: str, tmp_path: Path) -> None:
    """What is wrong with a configuration is said, and the exit status follows from it."""
    pytest.importorskip("zmq", reason="shmpool[bridge] is not installed")
    (tmp_path / "empty.toml").write_text("")
    (tmp_path / "wrong.toml").write_text('[[link]]\nfrom = "rx"\nto = "zmq://far:1/x"\n')
    (tmp_path / "good.toml").write_text('[[link]]\nfrom = "rx/work"\nto = "zmq://far:1/x"\n')
    command = [sys.executable, "-m", "shmpool", "bridge", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert status == done.returncode
    assert said in done.stderr
    if "--check" in arguments:
        lines = [line.removeprefix("shmpool: ") for line in done.stderr.splitlines()]
        as_json = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True)
        assert (status, "") == (as_json.returncode, as_json.stderr)
        assert {"ok": not status, "messages": lines} == json.loads(as_json.stdout)


def test_links_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """A table has each link, and why it is not up; without links there is none."""
    pytest.importorskip("rich", reason="shmpool[cli] is not installed")
    from shmpool.cli.output import print_links

    print_links([])
    assert "" == capsys.readouterr().out
    print_links([replace(UP, state="down", why="no answer", unacknowledged=3, window=16)])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("rx/work", "zmq://far:1/x", "down", "3/16", "no answer"))
