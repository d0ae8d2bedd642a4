# SPDX-License-Identifier: Apache-2.0
"""Messages of NATS that links do not expect, or refuse: nothing is lost or held up by them."""

import asyncio
from typing import Any

import pytest

pytest.importorskip("nats", reason="nats-py is not installed: shmpool[bridge]")

import test_bridge_nats
from conftest import Eventually, MakePool
from nats.js.errors import NotFoundError
from nats_servers import Server
from test_bridge_nats import (  # noqa: F401  # the fixtures
    DEADLINE_S,
    Run,
    Start,
    body,
    got,
    nats,
    pools,
    process,
    receives,
    run_link,
    sends,
    server,
    stream_messages,
)
from test_nats_streams import Rig, rig  # noqa: F401

import shmpool
from shmpool.bridge.nats_sending import VERSION

Message = tuple[bytes, dict[str, str] | None]


def publish(server: Server, *messages: Message) -> None:  # noqa: F811
    """Publishes them, each when the server has forgotten the names of those before."""

    async def send(client: Any) -> None:
        for data, headers in messages:
            while (await client.jetstream().publish("work", data, headers=headers)).duplicate:
                await asyncio.sleep(0.02)

    nats(server, send)


def test_other_programs_use_a_name_again(rig: Rig) -> None:  # noqa: F811
    """What the server has stored twice are two messages, unless a bridge says that it is one."""
    rig.receiver(duplicate_window_s=0.1)
    publish(rig.server, (b"one", {"Nats-Msg-Id": "a"}), (b"two", {"Nats-Msg-Id": "a"}))
    assert [b"one", b"two"] == got(rig.there, 2)


def test_packets_behind_one_that_no_message_holds(
    server: Server,  # noqa: F811
    make_pool: MakePool,
    run_link: Run,  # noqa: F811
    eventually: Eventually,
) -> None:
    """It returns to its queue without end; the others are sent, and the link ends when asked."""
    pool = make_pool(buffer_size=2048, capacity=2048, queues=8)
    here = pool.create_queue("here", capacity=64, on_death="requeue")
    here.send(bytes(1_100_000))  # the server takes 1 MiB
    link = run_link(sends(here, server))
    eventually(lambda: link.figures.returned > 3)
    here.send(b"small")
    eventually(lambda: link.figures.packets == 1)
    link.end()
    assert link.join(DEADLINE_S)
    assert 1 == len(here)


def test_a_burst_that_is_refused_for_an_hour(rig: Rig) -> None:  # noqa: F811
    """The sender goes on publishing it, and gives nothing back."""

    async def delete(jet: Any) -> None:
        await jet.delete_stream("work")

    link = rig.sender(window=2, burst_bytes=1024)
    rig.eventually(lambda: link.figures.state == "up")
    rig.ask(delete)
    rig.here.send_many([b"%d" % i * 900 for i in range(4)])
    rig.eventually(lambda: "no server has the stream" in link.figures.why)
    sending = link._sending  # type: ignore[attr-defined]
    for sent in sending._unacked.values():
        sent.times = 5000
    before = link.figures.redelivered
    rig.eventually(lambda: link.figures.redelivered > before or link.figures.returned)
    rig.receiver()
    assert [b"%d" % i * 900 for i in range(4)] == sorted(got(rig.there, 4))
    assert 0 == link.figures.returned


def test_headers_that_look_like_a_servers(rig: Rig) -> None:  # noqa: F811
    """A message is a packet also if its headers say what servers say of a request."""
    link = rig.receiver()
    statuses = ["100", "200", "404", "408", "409", "503"]
    publish(rig.server, *((one.encode(), {"Status": one}) for one in statuses))
    assert [one.encode() for one in statuses] == got(rig.there, len(statuses))
    assert 0 == link.figures.reconnects


def test_a_burst_of_another_version(rig: Rig) -> None:  # noqa: F811
    """It stays in the stream, is said, and does not hold up the next ones."""
    link = rig.receiver()
    publish(
        rig.server,
        (body(b"abc"), {"Shmpool-Burst": "2 little"}),
        (body(b"abc"), {"Shmpool-Burst": "1 big" if VERSION == "1 little" else "1 little"}),
    )
    rig.eventually(lambda: "stays in the stream; this is version 1" in link.figures.why)
    publish(rig.server, (b"plain", None))
    assert [b"plain"] == got(rig.there, 1)
    rig.eventually(lambda: stream_messages(rig.server) == 2)


def test_many_packets_that_the_pool_never_holds(
    server: Server,  # noqa: F811
    make_pool: MakePool,
    run_link: Run,  # noqa: F811
    eventually: Eventually,
) -> None:
    """They stay in the stream, more than a server lets be unacknowledged by default, and the others
    pass."""
    there = make_pool(buffer_size=64, capacity=128).create_queue("there", capacity=8)
    link = run_link(receives(there, server, window=256))
    eventually(lambda: link.figures.state == "up")

    async def send(client: Any) -> None:
        for _ in range(1010):
            await client.publish("work", bytes(9000))
        await client.jetstream().publish("work", b"small")

    nats(server, send)
    assert [b"small"] == got(there, 1)
    eventually(lambda: link.figures.returned >= 1010)
    eventually(lambda: stream_messages(server) == 1010)


KILLED = """
    import os, signal
    from shmpool.bridge.ledger import Ledger
    note = Ledger.note
    def killed(ledger, sender, number):
        if number == NUMBER:
            os.kill(os.getpid(), signal.SIGKILL)
        note(ledger, sender, number)
    Ledger.note = killed
"""


@pytest.mark.parametrize("number", [1, 2])
def test_a_receiver_and_what_its_server_knows_are_lost(
    rig: Rig,  # noqa: F811
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """A receiver is killed between its queue and its ledger, and its server with what it had not
    written down. The next receiver marks what came, and nothing else."""
    run = KILLED.replace("NUMBER", str(number)) + test_bridge_nats.RUN_LINK
    monkeypatch.setattr(test_bridge_nats, "RUN_LINK", run)
    child = process(start, receives(rig.there, rig.server))
    for i in range(1, number + 1):
        rig.eventually(lambda: consumers(rig.server))
        publish(rig.server, (b"%d" % i, None))
        assert [(b"%d" % i, 0)] == marked(rig.there, 1)
    assert child.process.wait(DEADLINE_S) == -9

    async def forget(client: Any) -> None:
        await client.jetstream().delete_consumer("work", "shmpool")

    nats(rig.server, forget)
    rig.receiver()
    assert [(b"%d" % number, 1)] == marked(rig.there, 1)
    publish(rig.server, (b"next", None))
    assert [(b"next", 0)] == marked(rig.there, 1)


def consumers(server: Server) -> int:  # noqa: F811
    async def ask(client: Any) -> int:
        try:
            return int((await client.jetstream().stream_info("work")).state.consumer_count)
        except NotFoundError:
            return 0

    return int(nats(server, ask))


def marked(queue: shmpool.AlfQueue, n: int) -> list[tuple[bytes, int]]:
    """Receives n packets, with what marks them."""
    found = []
    for _ in range(n):
        with queue.get(timeout=DEADLINE_S) as buf:
            found.append((bytes(buf), buf.redelivered))
    return found


def test_a_link_that_ends_publishes_again_what_was_refused(rig: Rig) -> None:  # noqa: F811
    """In the time that it has for what is not acknowledged, rather than return it at once."""

    async def delete(jet: Any) -> None:
        await jet.delete_stream("work")

    async def create(jet: Any) -> None:
        await jet.add_stream(name="work", subjects=["work"], retention="workqueue")

    link = rig.sender()
    rig.eventually(lambda: link.figures.state == "up")
    rig.ask(delete)
    rig.here.send(b"once")
    rig.eventually(lambda: "no server has the stream" in link.figures.why)
    link.end()
    rig.ask(create)
    assert link.join(DEADLINE_S)
    assert (1, 0) == (link.figures.packets, link.figures.returned)
    assert 1 == stream_messages(rig.server)
