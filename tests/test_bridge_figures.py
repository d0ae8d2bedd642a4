# SPDX-License-Identifier: Apache-2.0
"""What links over ZeroMQ say of themselves: who is there, what waits, and which alarm it is."""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Child, Eventually, MakePool, RunLink, StartDaemon

import shmpool

pytest.importorskip("zmq", reason="shmpool[bridge] is not installed")

from shmpool.bridge.config import LinkOptions
from shmpool.bridge.link import Link, link_of
from shmpool.bridge.process import Reports, end_links, stats_of
from shmpool.bridge.zeromq_receive import Receiver
from shmpool.service.links import Links, lags
from tests.bridge_storm import free_port

PENDING = 1500  # connections: more events than ZeroMQ keeps by itself


@pytest.fixture
def ends(make_pool: MakePool) -> tuple[shmpool.AlfQueue, shmpool.AlfQueue]:
    """A queue here with room for 256 packets, and one there with room for 8."""
    here, there = (make_pool(buffer_size=64, capacity=1024) for _ in range(2))
    return (
        here.create_queue("work", capacity=256, on_death="requeue"),
        there.create_queue("work", capacity=8),
    )


def end_of(queue: shmpool.AlfQueue) -> str:
    return f"{queue.pool.name}/{queue.name}"


def test_a_link_lags_without_room_there(
    ends: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: RunLink, eventually: Eventually
) -> None:
    """Packets that wait here while the queue there is full are an alarm, though each burst that was
    sent is acknowledged. It ends with the wait."""
    here, there = ends
    address = f"zmq://127.0.0.1:{free_port()}/x"
    run_link(address, end_of(there))
    sender = run_link(end_of(here), address, lag_s=0.2)
    here.send_many([b"%d" % i for i in range(100)])
    eventually(lambda: "no room" in lags(stats_of(sender)))  # before, one may be on its way as long
    stats = stats_of(sender)
    assert (8, 0, 92) == (stats.packets, stats.unacknowledged, stats.lag)
    assert "the other side has had no room for more than 0.2 s; 92 packets wait" == lags(stats)
    found: list[bytes] = []
    while len(found) < 100:
        found += there.recv_many(100, 30)
    assert [b"%d" % i for i in range(100)] == found
    eventually(lambda: stats_of(sender).oldest_s is None)


def held_up(
    ends: tuple[shmpool.AlfQueue, shmpool.AlfQueue],
    address: str,
    run_link: RunLink,
    eventually: Eventually,
    **options: object,
) -> tuple[Link, Link]:
    """A sender and a receiver, which waits with two packets for room that it had promised."""
    here, there = ends
    receiver = run_link(address, end_of(there), **options)
    sender = run_link(end_of(here), address)
    eventually(lambda: sender.figures.state == "up")
    there.send_many([b"other"] * 8)  # of another producer, behind its back
    here.send_many([b"a", b"b"])
    eventually(lambda: receiver.figures.lag == 2)
    return sender, receiver


def test_a_receiver_lags_while_it_waits(
    ends: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: RunLink, eventually: Eventually
) -> None:
    """A burst that has arrived and finds no room is an alarm of the pool there, too."""
    address = f"zmq://127.0.0.1:{free_port()}/x"
    sender, receiver = held_up(ends, address, run_link, eventually, lag_s=0.2)
    eventually(lambda: lags(stats_of(receiver)))
    assert lags(stats_of(receiver)).endswith("for more than 0.2 s; 2 packets wait")
    assert [b"other"] * 8 == ends[1].recv_many(8, 30)
    eventually(lambda: sender.figures.packets == receiver.figures.packets == 2)
    assert (None, 0) == (stats_of(receiver).oldest_s, receiver.figures.lag)


def test_strangers_do_not_stop_a_receiver_that_waits(
    ends: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: RunLink, eventually: Eventually
) -> None:
    """However many connections come and go while the receiver does not ask, ZeroMQ goes on."""
    port = free_port()
    sender, receiver = held_up(ends, f"zmq://127.0.0.1:{port}/x", run_link, eventually)
    for _ in range(PENDING):
        with contextlib.closing(socket.create_connection(("127.0.0.1", port), 30)):
            pass
    assert [b"other"] * 8 == ends[1].recv_many(8, 30)
    assert [b"a", b"b"] == [ends[1].recv(30) for _ in range(2)]
    eventually(lambda: sender.figures.packets == 2)
    assert ("up", "up") == (sender.figures.state, receiver.figures.state)
    assert (0, 0) == (sender.figures.reconnects, receiver.figures.reconnects)


def test_a_sender_that_is_killed_is_away_at_once(
    ends: tuple[shmpool.AlfQueue, shmpool.AlfQueue],
    run_link: RunLink,
    eventually: Eventually,
    start: Callable[..., Child],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The link that receives is down when the connection ends, though it knows the sender for
    longer; the next connection is a reconnect."""
    # However busy the machine is.
    monkeypatch.setattr("shmpool.bridge.zeromq_receive.GONE_S", 600.0)
    here, there = ends
    address = f"zmq://127.0.0.1:{free_port()}/x"
    receiver = run_link(address, end_of(there))
    assert isinstance(receiver, Receiver)
    program = (
        "import signal\n"
        "from shmpool.bridge.config import LinkOptions\n"
        "from shmpool.bridge.link import link_of\n"
        f"link_of(LinkOptions({end_of(here)!r}, {address!r})).start()\n"
        "signal.pause()\n"
    )
    for n in range(2):
        sender = start(program)
        here.send(b"one")
        assert b"one" == there.recv(30)
        assert ("up", n) == (receiver.figures.state, receiver.figures.reconnects)
        sender.kill()
        eventually(lambda: receiver.figures.state == "down")
        assert n + 1 == len(receiver._sessions)
    assert "no sender is connected" == receiver.figures.why


def test_what_sends_ends_before_what_receives(
    ends: tuple[shmpool.AlfQueue, shmpool.AlfQueue],
) -> None:
    """A bridge that is both ends of a link still acknowledges what is on its way when it ends."""
    receiving: list[bool] = []

    class Waits(Link):
        def work(self, pool: shmpool.Pool) -> None:
            self.stop.wait(30)
            if self.options.sends:
                receiving.append(not links[1].stop.wait(0.2))

    address = "zmq://127.0.0.1:9/x"
    links = [
        Waits(LinkOptions(end_of(ends[0]), address)),
        Waits(LinkOptions(address, end_of(ends[1]))),
    ]
    for link in links:
        link.start()
    assert [] == end_links(links, Reports(links, Path("/nowhere")))
    assert [True] == receiving
    assert ["ended", "ended"] == [link.figures.state for link in links]


def test_the_last_report_is_sent_to_a_daemon_that_was_away(
    ends: tuple[shmpool.AlfQueue, shmpool.AlfQueue], start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """A bridge that ends says so, also while it would not ask the daemon again yet. Else the daemon
    takes it for a silent one, which is an alarm."""
    at, daemon = tmp_path / "socket", start_daemon()
    links = [link_of(LinkOptions(end_of(ends[0]), "zmq://127.0.0.1:9/x"))]
    reports = Reports(links, at)
    links[0].start()
    reports.send()
    at.symlink_to(daemon.socket)  # now the daemon is there
    assert [] == end_links(links, reports)
    with shmpool.Client(daemon.socket) as client:
        assert ["ended"] == [one.state for one in client.stats(ends[0].pool.name).links]


def test_a_clock_that_is_set_moves_no_alarm(
    ends: tuple[shmpool.AlfQueue, shmpool.AlfQueue],
    run_link: RunLink,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For how long a link has been down is not measured on the wall clock."""
    monkeypatch.setattr("time.time", lambda: 1e9)
    sender = run_link(end_of(ends[0]), f"zmq://127.0.0.1:{free_port()}/x")
    eventually(lambda: sender.figures.state == "down")
    links = Links(wall=lambda: time.time())
    links.report(str(os.getpid()), os.getpid(), [stats_of(sender)])
    for wall in (2e9, 1e8):
        monkeypatch.setattr("time.time", lambda wall=wall: wall)
        (shown,) = links.of(ends[0].pool.name)
        assert wall - 5 < shown.since <= wall
        links.report(str(os.getpid()), os.getpid(), [stats_of(sender)])
        (shown,) = links.of(ends[0].pool.name)
        assert wall - 5 < shown.since <= wall
