# SPDX-License-Identifier: Apache-2.0
"""Messages of NATS that links do not expect, or refuse: nothing is lost or held up by them."""

import asyncio
from typing import Any

import pytest

pytest.importorskip("nats", reason="nats-py is not installed: shmpool[bridge]")

from conftest import Eventually, MakePool
from nats_servers import Server
from test_bridge_nats import (  # noqa: F401  # the fixtures
    DEADLINE_S,
    Run,
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
    link = rig.sender(max_bytes=2000, window=2, burst_bytes=1024)
    rig.here.send_many([b"%d" % i * 900 for i in range(4)])
    rig.eventually(lambda: "maximum bytes" in link.figures.why)
    sending = link._sending  # type: ignore[attr-defined]
    for sent in sending._unacked.values():
        sent.times = 5000
    before = link.figures.redelivered
    rig.eventually(lambda: link.figures.redelivered > before or link.figures.returned)
    rig.receiver()
    assert [b"%d" % i * 900 for i in range(4)] == sorted(got(rig.there, 4))
    assert 0 == link.figures.returned
