# SPDX-License-Identifier: Apache-2.0
"""shmpool top: the full-screen view, driven by keys without a terminal."""

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import DEADLINE_S, MakePool, StartDaemon
from test_daemon import POOL

import shmpool

pytest.importorskip("textual", reason="shmpool[cli] is not installed")

from textual.widgets import DataTable

from shmpool.cli.access import Backend, Direct
from shmpool.cli.screen import Top, bar


def rows(app: Top, table: str) -> list[list[str]]:
    found = app.query_one(f"#{table}", DataTable)
    return [[str(cell) for cell in found.get_row_at(i)] for i in range(found.row_count)]


def state(app: Top) -> str:
    """The line above the tables."""
    return str(app.query_one("#state").render())


def run_until(
    app: Top, shown: Callable[[], object], keys: tuple[tuple[str, Callable[[], object]], ...] = ()
) -> None:
    """Runs the screen until it shows something. Then presses each key and waits until the screen
    shows what goes with it. Ends the screen with q."""

    async def drive() -> None:
        async with app.run_test(size=(140, 40)) as pilot, asyncio.timeout(DEADLINE_S):
            for key, condition in (("", shown), *keys):
                if key:
                    await pilot.press(key)
                while not condition():
                    await pilot.pause(0.02)
            assert app.return_code is None
            await pilot.press("q")
            assert 0 == app.return_code

    asyncio.run(drive())


def test_what_it_shows(make_pool: MakePool) -> None:
    """Pools, queues and members with the segment's own figures, and only the requested ones."""
    pool, other = make_pool(prealloc=64), make_pool()
    work = pool.create_queue("work", capacity=16)
    work.send_many([b"x"] * 4)
    other.create_queue("work", capacity=16).send(b"x")
    with pool.alloc_many(8), other.alloc():
        app = Top(Direct(), frozenset([pool.name]), 0.1)

        def complete() -> bool:
            if not rows(app, "pools"):
                return False
            (shown,) = rows(app, "pools")
            assert [pool.name, "64", "52", "0", "8", "4", "1"] == [shown[0], *shown[2:8]]
            (queue,) = rows(app, "queues")
            assert [pool.name, "work", "4", "16"] == queue[:4]
            (member,) = rows(app, "members")
            assert [pool.name, str(os.getpid()), "8"] == [
                member[0], member[2].replace(",", ""), member[4],
            ]  # fmt: skip
            return True

        run_until(app, complete)
        everything = Top(Direct(), frozenset(), 0.1)

        def both() -> bool:
            tables = [rows(everything, table) for table in ("pools", "queues", "members")]
            return all({pool.name, other.name} <= {row[0] for row in table} for table in tables)

        run_until(everything, both)


def test_rates(make_pool: MakePool) -> None:
    """Puts and gets are shown per second. s sorts by the next column, p pauses and continues."""
    pool = make_pool(prealloc=64)
    work = pool.create_queue("work", capacity=16)
    app = Top(Direct(), frozenset([pool.name]), 0.1)

    def rate() -> bool:
        work.send(b"x")
        work.recv()
        return any(int(row[5].replace(",", "")) > 0 for row in rows(app, "queues"))

    def says(words: str) -> Callable[[], bool]:
        return lambda: words in state(app)

    keys = (
        ("s", says("members by ops/s")), ("s", says("members by process")),
        ("p", says("paused")), ("p", says("1 pool, members by process")),
    )  # fmt: skip
    run_until(app, rate, keys)


def test_topics(make_pool: MakePool) -> None:
    """Topics and their subscribers have a table each, which is hidden while there are none."""
    pool = make_pool(prealloc=64)
    app = Top(Direct(), frozenset([pool.name]), 0.1)
    topic = pool.create_topic("ticks", depth=8)

    def hidden() -> bool:
        assert not app.query_one("#queues").display
        return bool(rows(app, "topics")) and not app.query_one("#subscribers").display

    def moving() -> bool:
        topic.send(b"x")
        sub.get(timeout=10).free()
        (shown,) = rows(app, "topics")
        assert [pool.name, "ticks", "8"] == shown[:3]
        found = rows(app, "subscribers")
        if not found or found[0][9] == "0" or shown[4] == "0":  # rates
            return False
        assert [[pool.name, "ticks", "0", str(os.getpid())]] == [row[:4] for row in found]
        assert ("latest", "alive") == (found[0][5], found[0][10])
        return True

    run_until(app, hidden)
    with topic.subscribe(policy="latest") as sub:
        app = Top(Direct(), frozenset([pool.name]), 0.1)
        run_until(app, lambda: bool(rows(app, "topics")) and moving())


def test_with_a_daemon_that_ends(start_daemon: StartDaemon, pool_name: str) -> None:
    """It shows the daemon's pools. When the daemon has ended it says so and continues."""
    daemon = start_daemon(POOL.format(pool_name))
    ask: Backend = shmpool.Client(daemon.socket)
    app = Top(ask, frozenset(), 0.1)

    def seen() -> bool:
        if daemon.process.poll() is None:
            if any(row[0] == pool_name for row in rows(app, "pools")):
                daemon.end()
            return False
        return "no daemon" in state(app)

    run_until(app, seen)


def test_the_bar(pool: shmpool.Pool) -> None:
    """It has the same width for a pool in any state. A small share is still visible."""
    from shmpool.rpc.protocol import GetStats

    with pool.alloc():
        text = bar(Direct().call(GetStats(pool.name))).plain
    assert 24 == len(text)
    assert text.count("█") >= 2
    assert "·" not in text


def test_the_keys_of_an_interrupt() -> None:
    """Ctrl-C ends it, as it ends every other command."""
    app = Top(Direct(), frozenset(), 0.1)

    async def drive() -> None:
        async with app.run_test() as pilot, asyncio.timeout(DEADLINE_S):
            await pilot.press("ctrl+c")
            assert 0 == app.return_code

    asyncio.run(drive())


def test_no_pool() -> None:
    """With no pool to show it says so and runs until q is pressed."""
    app = Top(Direct(), frozenset(["no-such-pool"]), 0.1)
    run_until(app, lambda: "0 pools" in state(app) and not rows(app, "pools"))


@pytest.mark.parametrize(
    ("terminal", "pools", "words"),
    [(False, [], "it needs a terminal"), (True, ["x", "../x"], "pool name is '../x'")],
)
def test_what_it_refuses(terminal: bool, pools: list[str], words: str) -> None:
    """Usage errors. In a pipe it would write escape sequences, and no key could end it."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "shmpool", "top", *pools]
    ends = theirs if terminal else subprocess.DEVNULL
    try:
        done = subprocess.run(
            command, stdin=ends, stdout=ends, stderr=subprocess.PIPE, timeout=DEADLINE_S
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert 2 == done.returncode
    assert words in done.stderr.decode()
