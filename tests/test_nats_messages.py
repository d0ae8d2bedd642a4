# SPDX-License-Identifier: Apache-2.0
"""Messages of NATS that links do not expect, or refuse: nothing is lost or held up by them."""

import asyncio
from typing import Any

import pytest

pytest.importorskip("nats", reason="nats-py is not installed: shmpool[bridge]")

from nats_servers import Server
from test_bridge_nats import (  # noqa: F401  # the fixtures
    Run,
    got,
    nats,
    pools,
    run_link,
    server,
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
