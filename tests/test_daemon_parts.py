# SPDX-License-Identifier: Apache-2.0
"""Parts of the daemon by themselves: descriptors, places, notifications, a reload that fails."""

import asyncio
import logging
import resource
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="shmpool[daemon] is not installed")

from shmpool.rpc.protocol import INTERVAL_MIN, AnyRequest
from shmpool.service import daemon as module
from shmpool.service.daemon import DESCRIPTORS_A_POOL, DESCRIPTORS_KEPT, Daemon


@pytest.fixture
def daemon() -> Daemon:
    """A daemon that does not run."""
    return Daemon(None, {"max_clients": 1 << 30}, "0")


@pytest.mark.parametrize("most", [64, 128, 256, 1024, 4096, 1 << 20])
def test_descriptors(daemon: Daemon, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools, HTTP and clients share what is left, and use no more."""
    monkeypatch.setattr(resource, "getrlimit", lambda what: (most // 2, most))
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: None)
    daemon._divide_descriptors()
    pools, clients = daemon._handler.watched_max, daemon._clients_max
    assert min(pools, clients, daemon._http_max) >= 1
    used = pools * DESCRIPTORS_A_POOL + daemon._http_max + clients
    assert used == max(most - DESCRIPTORS_KEPT, DESCRIPTORS_A_POOL + 2)  # one of each at least


def test_a_place_that_is_free_again(daemon: Daemon) -> None:
    """The end of a connection makes room for one that waits, from the moment that there is one."""
    said: list[str] = []
    gone: Any = object()
    daemon.disconnected(gone)  # while the daemon starts
    daemon._acceptor = SimpleNamespace(has_room_again=lambda: said.append("room"))  # type: ignore
    daemon._connections.add(gone)
    daemon.disconnected(gone)
    assert (["room"], set()) == (said, daemon._connections)


def test_one_notification_for_all_watches(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notification is made once for all watches of a pool, and again a moment later. Those of
    pools that nobody watches any more are dropped in the end."""
    asked: list[str] = []

    def answer(request: AnyRequest) -> dict[str, str]:
        pool: str = request.pool  # type: ignore[union-attr]
        asked.append(pool)
        return {"pool": pool}

    now = 10.0
    daemon._loop = SimpleNamespace(time=lambda: now)  # type: ignore[assignment]
    monkeypatch.setattr(daemon._handler, "answer", answer)
    for pool in ("a", "b", "a", "b"):
        assert pool.encode() in daemon.packed_stats(pool)
    assert ["a", "b"] == asked
    now += INTERVAL_MIN / 4 + 0.001
    daemon.packed_stats("a")
    assert ["a", "b", "a"] == asked
    for number in range(3000):
        daemon.packed_stats(f"pool-{number}")
        assert len(daemon._packed_stats) <= 1001


def test_a_reload_that_fails(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of ours is logged with its traceback, is the status, and changes nothing."""
    said: list[str] = []
    before = daemon.config
    daemon.supervisor = SimpleNamespace(adoption=SimpleNamespace(refused={}))  # type: ignore
    daemon._address = "somewhere"
    monkeypatch.setattr(daemon, "_load", lambda: {}["no such key"])
    monkeypatch.setattr(module.systemd, "notify", lambda *lines: said.extend(lines))
    with caplog.at_level(logging.ERROR):
        asyncio.run(daemon._reload_once())
    assert before is daemon.config
    (record,) = [r for r in caplog.records if r.message == "configuration not changed"]
    assert record.exc_info
    assert record.exc_info[0] is KeyError
    assert any("configuration not changed: KeyError('no such key')" in line for line in said)
