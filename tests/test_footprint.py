# SPDX-License-Identifier: Apache-2.0
"""How much memory the daemon uses."""

from collections.abc import Callable, Iterator

import pytest
from conftest import Child, DaemonProcess, Eventually, StartDaemon, resident
from test_daemon import POOL, WORKER

import shmpool

pytest.importorskip("aiohttp", reason="shmpool[daemon] is not installed")
from test_http import PORT, events, get

MOST = 48 << 20  # bytes: 48 MiB, as ps and systemd count


@pytest.fixture
def weighed(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[str, DaemonProcess], int]]:
    """weighed(when, daemon): returns the resident bytes, which pytest -rP also prints."""

    def weighed(when: str, daemon: DaemonProcess) -> int:
        octets = resident(daemon.pid)
        print(f"{when}: {octets / (1 << 20):.1f} MiB resident")
        return octets

    return weighed


@pytest.mark.slow
def test_with_every_service(
    start_daemon: StartDaemon,
    start: type[Child],
    new_name: Callable[[], str],
    eventually: Eventually,
    weighed: Callable[[str, DaemonProcess], int],
) -> None:
    """The daemon stays under 48 MiB with HTTP on.

    It has served pages, metrics, streams and every request, and made a recovery and ten reloads.
    """
    names = [new_name() for _ in range(3)]
    daemon = start_daemon("".join(map(POOL.format, names)), *PORT, debug=False)
    assert weighed("HTTP on, started", daemon) < MOST
    streams = [events(daemon) for _ in range(3)]
    with shmpool.Client(daemon.socket) as client:
        for _ in range(5):
            for path in ("", "page.js", "page.css", "metrics", "healthz", "api/v1/pools"):
                assert 200 == get(daemon, f"/{path}")[0]
            for what in ("", "/stats", "/members", "/holders", "/audit"):
                assert 200 == get(daemon, f"/api/v1/pools/{names[0]}{what}")[0]
            for stream in streams:
                next(stream)
            watch = client.watch(names[0], 0.1)
            next(watch)
            watch.close()  # type: ignore[attr-defined]
            for call in (client.audit, client.holders, client.recover, client.trim, client.members):
                call(names[1])
            client.prune()
        worker = start(WORKER, names[0])
        assert "ready" == worker.line()
        worker.kill()
        eventually(lambda: client.stats(names[0]).recoveries.count == 1)
        for _ in range(10):
            daemon.process.send_signal(1)
            daemon.notified("READY=1")
        assert weighed("HTTP on, all of it used", daemon) < MOST
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]


def test_without_http(
    start_daemon: StartDaemon, pool_name: str, weighed: Callable[[str, DaemonProcess], int]
) -> None:
    """Without HTTP it uses less."""
    daemon = start_daemon(POOL.format(pool_name), debug=False)
    with shmpool.Client(daemon.socket) as client:
        assert client.audit(pool_name).ok
    assert weighed("HTTP off", daemon) < MOST - 5_000_000
