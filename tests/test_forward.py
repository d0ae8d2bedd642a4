# SPDX-License-Identifier: Apache-2.0
"""clients.forward between a client and a server: real programs talk through it."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Eventually, MakePool
from network_spaces import Space, routed
from test_net_programs import ROOT, listening

from shmpool import net
from shmpool.net.headers import Checksum, Layer

Spaces = tuple[Space, Space, Space]
LINE = re.compile(
    r"(?:back: )?(\d+) forwarded, (\d+) not IPv4 or damaged, (\d+) without a route, "
    r"(\d+) with no TTL left, (\d+) to others"
)


@pytest.fixture(scope="module")
def spaces() -> Iterator[Spaces]:
    with routed() as three:
        yield three


class Router:
    """The program; ended() has its counts of both ways."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self.child = child

    def ended(self) -> list[list[int]]:
        self.child.send_signal(signal.SIGINT)
        out, said = self.child.communicate(timeout=60)
        assert 0 == self.child.returncode, said
        return [list(map(int, found)) for found in LINE.findall(out)]


@pytest.fixture
def router(spaces: Spaces, eventually: Eventually) -> Iterator[Router]:
    client, between, server = spaces
    command = [
        *between.command, sys.executable, "-m", "clients.forward", "left", "right", "--quiet",
        "--route", f"198.51.100.0/24={server.mac.hex(':')}",
        "--back", f"192.0.2.0/24={client.mac.hex(':')}",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            eventually(lambda: listening(between, 2))
            yield Router(child)
        finally:
            child.kill()


def needs(program: str, package: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"needs {program}; `make tools` as root installs {package}")


def run(space: Space, *command: object) -> "subprocess.CompletedProcess[str]":
    whole = [*space.command, *map(str, command)]
    return subprocess.run(whole, capture_output=True, text=True, timeout=100, check=False)


@contextlib.contextmanager
def serving(
    space: Space, *command: object, says: str, cwd: Path = ROOT
) -> Iterator["subprocess.Popen[str]"]:
    """Runs a server until the block ends; it has said that it is ready."""
    with subprocess.Popen(
        [*space.command, *map(str, command)],
        cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as child:  # fmt: skip
        try:
            assert child.stdout is not None
            for line in child.stdout:
                if says in line:
                    break
            yield child
        finally:
            child.kill()


def test_ping(spaces: Spaces, router: Router) -> None:
    """An echo and its reply go through, with a TTL of one less; a TTL of 1 and an address without
    a route are counted, and so is what is for the router itself."""
    needs("ping", "iputils-ping")
    client, _, server = spaces
    done = run(client, "ping", "-c", 5, "-i", 0.05, "-W", 10, server.address)
    assert (0, 5) == (done.returncode, done.stdout.count(" ttl=63 ")), done.stdout
    assert (
        0 != run(client, "ping", "-c", 2, "-i", 0.05, "-W", 0.1, "-t", 1, server.address).returncode
    )
    assert 0 != run(client, "ping", "-c", 3, "-i", 0.05, "-W", 0.1, "203.0.113.1").returncode
    there, back = router.ended()
    assert 5 == there[0] == back[0]
    assert (3, 2) == (there[2], there[3])
    assert (0, 0) == (back[2], back[3])


def test_udp_datagrams(spaces: Spaces, router: Router, make_pool: MakePool) -> None:
    """Datagrams whose checksum the sender left to the hardware arrive with the right one."""
    client, between, server = spaces
    pool = make_pool(buffer_size=2048, capacity=1024)
    with between.entered():
        before = net.PacketSource(pool, "left", filter="udp dst port 9")
    with server.entered():
        after = net.PacketSource(pool, "veth", filter="udp dst port 9")
        udp = net.UdpSocket(pool, (server.address, 9))
    with client.entered():
        sender = net.UdpSocket(pool, peer=(server.address, 9))
    with before, after, udp, sender:
        burst = pool.alloc_many(10)
        for i, buffer in enumerate(burst):
            buffer.write(bytes([i]) * (i + 1))
        sender.drain(burst)
        seen: list[bytes] = []
        while len(seen) < 10:
            with udp.get_many(timeout=60) as got:
                seen += map(bytes, got)
        assert [bytes([i]) * (i + 1) for i in range(10)] == seen
        for source, missing in ((before, True), (after, False)):
            n = 0
            while n < 10:
                with source.get_many(timeout=60) as got:
                    n += len(got)
                    assert ((got.marks & net.CHECKSUM_MISSING != 0) == missing).all()
                    states = got.checksums()
                    assert (states.ip == Checksum.RIGHT).all()
                    assert missing or (states.transport == Checksum.RIGHT).all()
                    headers = got.headers()
                    assert ((headers.ttl == 64) == missing).all()
                    assert headers.has(Layer.UDP).all()
                    if not missing:
                        assert [int.from_bytes(server.mac, "big")] * len(got) == list(
                            headers.mac_dst
                        )
    router.ended()


def test_curl(spaces: Spaces, router: Router, tmp_path: Path) -> None:
    """A file comes through whole: TCP, whose checksums the senders left to the hardware."""
    needs("curl", "curl")
    client, _, server = spaces
    data = bytes(range(256)) * 4096
    (tmp_path / "file").write_bytes(data)
    http = (sys.executable, "-u", "-m", "http.server", "8000", "--bind", server.address)
    with serving(server, *http, says="Serving HTTP", cwd=tmp_path):
        url = f"http://{server.address}:8000/file"
        done = run(client, "curl", "-sS", "--max-time", 60, "-o", tmp_path / "got", url)
        assert (0, "") == (done.returncode, done.stderr)
    assert data == (tmp_path / "got").read_bytes()
    there, back = router.ended()
    assert back[0] >= len(data) / 1448
    assert there[0] > 0
    assert (0, 0) == (back[1], back[3])


def test_iperf3(spaces: Spaces, router: Router) -> None:
    """iperf3 measures TCP through it: all that was sent was received."""
    needs("iperf3", "iperf3")
    client, _, server = spaces
    with serving(server, "iperf3", "-s", "-1", "--forceflush", says="Server listening"):
        done = run(client, "iperf3", "-c", server.address, "-n", "20M", "-J")
        assert 0 == done.returncode, done.stdout + done.stderr
    octets = json.loads(done.stdout)["end"]["sum_received"]["bytes"]
    assert octets >= 10 * 2**20
    there, back = router.ended()
    assert there[0] >= octets / 1448
    assert back[0] > 0


def test_an_interface_that_is_none(spaces: Spaces) -> None:
    """One line, no traceback."""
    command = [sys.executable, "-m", "clients.forward", "none", "right", "--route"]
    done = subprocess.run(
        [*spaces[1].command, *command, "192.0.2.0/24=02:00:00:00:00:01"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert 1 == done.returncode
    assert "Error: interface is 'none'; `ip link` lists" in done.stderr
    assert "Traceback" not in done.stderr
