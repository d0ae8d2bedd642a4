# SPDX-License-Identifier: Apache-2.0
"""Bridges between two network namespaces, and what can happen to them: each packet arrives, one
that arrives twice is marked, and all resumes by itself. `make soak-bridge` does so 200 times."""

import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Eventually, MakePool, StartBridge, StartDaemon, descriptors, resident

import shmpool
from shmpool.rpc.records import LinkStats

pytest.importorskip("zmq", reason="shmpool[bridge] is not installed")

from tests.bridge_storm import (
    A_WINDOW,
    Flow,
    Pools,
    bridged,
    free_port,
    lossy,
    pools,
    receiver,
    sender,
    set_link,
    settled,
    storm,
)
from tests.network_spaces import Space, made
from tests.suspending import suspend

FEW = 64  # descriptors
# A bridge that ends waits for acknowledgements for as long as the test needs.
WAITS_LONGER = """
import runpy
import shmpool.bridge.link
shmpool.bridge.link.DRAIN_S = 600.0
runpy.run_module("shmpool", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def spaces() -> Iterator[tuple[Space, Space]]:
    with made() as both:
        yield both


@pytest.fixture
def both_ends(pool_name: str) -> Iterator[Pools]:
    with pools(pool_name) as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kills_at_random() -> None:
    """Bridges at both ends are killed while packets flow, and the link is taken down. None is lost,
    and each kill doubles a window at most, marked."""
    ledger = storm(kills=10, seed=20, downs=1)
    assert [] == ledger.faults()
    assert ledger.doubled <= 10 * A_WINDOW


def test_a_link_that_is_down(
    spaces: tuple[Space, Space], both_ends: Pools, tmp_path: Path, eventually: Eventually
) -> None:
    """While the link is down the packets wait where they are, and no more than a window is taken.
    Then all arrive, once."""
    with bridged(both_ends, spaces, tmp_path):
        source, target = (pool.queue("work") for pool in both_ends)
        source.send(b"first")
        assert b"first" == target.recv(60)
        eventually(lambda: both_ends[0].stats().held == 0)  # it is acknowledged

        def lost() -> int:
            return (tmp_path / "send.log").read_text().count("no answer")

        before = lost()
        set_link(spaces[0], "down")
        try:
            source.send_many([b"%64d" % i for i in range(1000)])
            eventually(lambda: lost() > before)
            assert both_ends[0].stats().held <= A_WINDOW
            eventually(lambda: 1000 == both_ends[0].stats().held + len(source))
        finally:
            set_link(spaces[0], "up")
        found: list[bytes] = []
        while len(found) < 1000:
            found += target.recv_many(256, 60)
        assert sorted(map(int, found)) == list(range(1000))
    assert [] == settled(both_ends)


def test_a_lossy_link(spaces: tuple[Space, Space], both_ends: Pools, tmp_path: Path) -> None:
    """One packet of ten is lost on the way, in both directions, and all arrive once."""
    if not shutil.which("nft"):
        pytest.skip("needs nftables; `make tools` as root installs it")
    with lossy(spaces), bridged(both_ends, spaces, tmp_path):
        ledger = Flow(both_ends, 20_000).join()
    assert [] == ledger.faults() + settled(both_ends)
    assert 0 == ledger.doubled


@pytest.mark.slow
def test_a_slow_link(
    spaces: tuple[Space, Space], make_pool: MakePool, start_bridge: StartBridge, tmp_path: Path
) -> None:
    """Bursts that take longer than a heartbeat arrive, once, over the connection that there is."""
    slow = "qdisc add dev veth root tbf rate 1mbit burst 32kb latency 400ms"
    tc = [*spaces[0].command, "tc"]
    if subprocess.run([*tc, *slow.split()], capture_output=True, check=False).returncode:
        pytest.skip("the kernel cannot slow an interface down (sch_tbf)")
    both = (
        make_pool(buffer_size=65536, capacity=128),
        make_pool(buffer_size=65536, capacity=128),
    )
    for pool in both:
        pool.create_queue("work", capacity=64, on_death="requeue")
    at = f"zmq://{spaces[1].address}:5555/{both[1].name}/work"
    configs = (
        f'[[link]]\nfrom = "{at.replace(spaces[1].address, "*")}"\nto = "{both[1].name}/work"\n',
        f'[[link]]\nfrom = "{both[0].name}/work"\nto = "{at}"\n',
    )
    packets = [b"%d" % i * 30000 for i in range(10, 58)]  # 2.8 MB: 23 s
    both[0].queue("work").send_many(packets)
    there = start_bridge("receive", configs[0], spaces[1])
    here = start_bridge("send", configs[1], spaces[0])
    try:
        target = both[1].queue("work")
        for packet in packets:
            with target.get(timeout=60) as buf:
                assert (packet, 0) == (bytes(buf), buf.redelivered)
    finally:
        subprocess.run([*tc, "qdisc", "del", "dev", "veth", "root"], check=True)
        statuses = [here.end(), there.end()]
    assert [0, 0] == statuses
    assert [] == settled(both)
    assert (tmp_path / "send.log").read_text().count("no answer") <= 1  # at the start


def test_a_slow_consumer(
    spaces: tuple[Space, Space], both_ends: Pools, tmp_path: Path, eventually: Eventually
) -> None:
    """A consumer that stops holds its packets up where they are: the queue there fills, a window is
    on its way, the others wait here, and no process grows."""
    with bridged(both_ends, spaces, tmp_path) as bridges:
        go_on = threading.Event()
        flow = Flow(both_ends, 200_000, pause=go_on.wait)
        source, target = (pool.queue("work") for pool in both_ends)
        eventually(lambda: target.full() and source.full())
        before = [resident(bridge.process.pid) for bridge in bridges]
        assert both_ends[0].stats().held <= A_WINDOW + 64  # those of the thread that puts
        go_on.set()
        ledger = flow.join()
        grown = [
            resident(bridge.process.pid) - was for bridge, was in zip(bridges, before, strict=True)
        ]
    assert [] == ledger.faults() + settled(both_ends)
    assert 0 == ledger.doubled
    assert max(grown) < 32 << 20


def test_a_bridge_ends_as_asked(
    both_ends: Pools, start_bridge: StartBridge, tmp_path: Path, eventually: Eventually
) -> None:
    """SIGTERM gives back what no receiver has, marked, and leaves nothing held."""
    bridge = start_bridge("send", sender(both_ends, "127.0.0.1", 9))  # nothing listens there
    source = both_ends[0].queue("work")
    source.send_many([b"%d" % i for i in range(10)])
    eventually(lambda: "no answer" in (tmp_path / "send.log").read_text())
    assert 0 == bridge.end()
    assert 10 == len(source)
    assert 0 == both_ends[0].stats().held


def test_a_bridge_that_ends_is_not_silent(
    start_daemon: StartDaemon,
    both_ends: Pools,
    start_bridge: StartBridge,
    eventually: Eventually,
) -> None:
    """It reports while it waits for acknowledgements, and the daemon raises no alarm."""
    port, daemon = free_port(), start_daemon("")
    told = f'[daemon]\nsocket = "{daemon.socket}"\n'
    there = start_bridge("receive", receiver(both_ends, "127.0.0.1", port))
    here = start_bridge(
        "send", told + sender(both_ends, "127.0.0.1", port), program=("-c", WAITS_LONGER)
    )
    with shmpool.Client(daemon.socket) as client:

        def links() -> list[LinkStats]:
            return client.stats(both_ends[0].name).links

        eventually(lambda: [one.state for one in links()] == ["up"])
        suspend(there.process.pid)
        both_ends[0].queue("work").send(b"late")
        eventually(lambda: links()[0].unacknowledged)
        here.process.send_signal(signal.SIGTERM)
        ages: set[float | None] = set()  # one may have been on its way with the signal
        eventually(lambda: ages.add(links()[0].oldest_s) or len(ages) > 2 or None in ages)
        assert None not in ages
        there.process.send_signal(signal.SIGCONT)
        assert b"late" == both_ends[1].queue("work").recv(60)
        assert 0 == here.process.wait(60)
        assert ["ended"] == [one.state for one in links()]
    assert 0 == there.end()


def test_more_links_than_a_shell_gives_descriptors(
    both_ends: Pools, start_bridge: StartBridge, tmp_path: Path, eventually: Eventually
) -> None:
    """A bridge takes all the descriptors that it may have."""
    links = sender(both_ends, "127.0.0.1", 9) + "".join(
        f'[[link]]\nname = "{i}"\nfrom = "{both_ends[0].name}/work"\n'
        f'to = "zmq://127.0.0.1:{9 + i}/x"\n'
        for i in range(1, 8)
    )
    limited = ["sh", "-c", f'ulimit -Sn {FEW}; exec "$@"', "sh"]
    bridge = start_bridge("send", links, within=limited)
    eventually(lambda: (tmp_path / "send.log").read_text().count("no answer") == 8)
    assert descriptors(bridge.process.pid) > FEW
    assert 0 == bridge.end()


def test_in_the_daemon(start_daemon: StartDaemon, both_ends: Pools, eventually: Eventually) -> None:
    """The daemon runs the links of its configuration, starts their process again when it is killed,
    and shows them, with an alarm while one is down."""
    port = free_port()
    links = sender(both_ends, "127.0.0.1", port) + "down_s = 0.2\n"
    daemon = start_daemon(links, options="interval = 0.05")
    with shmpool.Client(daemon.socket) as client:

        def stats(end: int) -> shmpool.PoolStats:
            return client.stats(both_ends[end].name)

        eventually(lambda: [one.kind for one in stats(0).alarms] == ["link-down"])
        daemon.config.write_text(daemon.config.read_text() + receiver(both_ends, "127.0.0.1", port))
        daemon.process.send_signal(1)  # SIGHUP
        eventually(lambda: [one.state for end in (0, 1) for one in stats(end).links] == ["up"] * 2)
        eventually(lambda: not stats(0).alarms)
        both_ends[0].queue("work").send(b"here")
        assert b"here" == both_ends[1].queue("work").recv(60)
        eventually(lambda: stats(0).links[0].packets == 1)
        (pid,) = {one.pid for end in (0, 1) for one in stats(end).links}
        subprocess.run(["kill", "-9", str(pid)], check=True)
        eventually(lambda: {one.pid for one in stats(0).links} not in ({pid}, set()))
        pid = stats(0).links[0].pid
        both_ends[0].queue("work").send(b"again")
        assert b"again" == both_ends[1].queue("work").recv(60)
    daemon.end(signal.SIGKILL)  # its bridge ends with it
    eventually(lambda: not Path(f"/proc/{pid}").exists())
