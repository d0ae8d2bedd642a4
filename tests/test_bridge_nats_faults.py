# SPDX-License-Identifier: Apache-2.0
"""Links over NATS between network namespaces, and what can happen to them: each packet arrives, one
that arrives twice is marked, and all resumes by itself. `make soak-bridge` does so 200 times."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Eventually

pytest.importorskip("nats", reason="nats-py is not installed: shmpool[bridge]")

from shmpool.bridge.packing import RECORD
from tests.bridge_storm import BURST, SIZE, Flow, Pools, lossy, pools, set_link, settled
from tests.nats_storm import A_WINDOW, GROWTH, Spaces, linked, storm
from tests.network_spaces import routed


@pytest.fixture(scope="module")
def spaces() -> Iterator[Spaces]:
    with routed() as three:
        yield three


@pytest.fixture
def both_ends(pool_name: str) -> Iterator[Pools]:
    with pools(pool_name) as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_at_random() -> None:
    """Sender, receiver and server are killed while packets flow and one of ten is lost on the way,
    and links are taken down. No packet is lost; a kill doubles two windows at most, marked."""
    if not shutil.which("nft"):
        pytest.skip("needs nftables; `make tools` as root installs it")
    ledger = storm(kills=9, seed=21, downs=2, loses=True)
    assert [] == ledger.faults()
    assert ledger.doubled <= 2 * 9 * A_WINDOW


@pytest.mark.timeout(300)
def test_links_that_are_down(
    spaces: Spaces, both_ends: Pools, tmp_path: Path, eventually: Eventually
) -> None:
    """While the links at both sides of the server are down the packets wait where they are, and no
    more than a window is taken. Then all arrive, once."""
    with linked(both_ends, spaces, tmp_path) as link:
        source, target = (pool.queue("work") for pool in both_ends)
        source.send(b"first")
        assert b"first" == target.recv(60)
        for space in (spaces[0], spaces[2]):
            set_link(space, "down")
        try:
            source.send_many([b"%d" % i for i in range(1000)])
            for end in ("send", "receive"):
                eventually(lambda end=end: "connection lost" in link.log(end))  # type: ignore[misc]
            held = both_ends[0].stats().held
            assert held <= A_WINDOW
            assert 1000 == held + len(source)
        finally:
            for space in (spaces[0], spaces[2]):
                set_link(space, "up")
        found: list[bytes] = []
        while len(found) < 1000:
            found += target.recv_many(256, 60)
        assert sorted(map(int, found)) == list(range(1000))
    assert [] == settled(both_ends)


@pytest.mark.timeout(300)
def test_lossy_links(spaces: Spaces, both_ends: Pools, tmp_path: Path) -> None:
    """One packet of ten is lost on the way, at both sides of the server and in both directions, and
    all arrive once."""
    if not shutil.which("nft"):
        pytest.skip("needs nftables; `make tools` as root installs it")
    with lossy(spaces), linked(both_ends, spaces, tmp_path):
        ledger = Flow(both_ends, 10_000).join()
    assert [] == ledger.faults() + settled(both_ends)
    assert 0 == ledger.doubled


@pytest.mark.timeout(300)
def test_a_slow_consumer(
    spaces: Spaces, both_ends: Pools, tmp_path: Path, eventually: Eventually
) -> None:
    """A consumer that stops holds its packets up where they are: the queue there fills, the stream
    fills, a window is on its way at each side, the others wait here, and no process grows."""
    with linked(both_ends, spaces, tmp_path, stream=100_000) as link:
        go_on = threading.Event()
        flow = Flow(both_ends, 20_000, pause=go_on.wait)
        try:
            source, target = (pool.queue("work") for pool in both_ends)
            eventually(lambda: len(target) > target.capacity - BURST // (SIZE + RECORD))
            eventually(lambda: "maximum bytes" in link.log("send"))
            eventually(lambda: len(source) > source.capacity - 64)  # those that are put at once
            before = link.memory()
            assert both_ends[0].stats().held <= A_WINDOW + 64  # those of the thread that puts
        finally:
            go_on.set()
        ledger = flow.join()
        grown = [now - was for now, was in zip(link.memory(), before, strict=True)]
    assert [] == ledger.faults() + settled(both_ends)
    assert 0 == ledger.doubled
    assert max(grown) < GROWTH
