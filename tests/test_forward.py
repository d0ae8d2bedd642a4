# SPDX-License-Identifier: Apache-2.0
"""clients.forward between a client and a server: real programs talk through it."""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Eventually, MakePool
from network_spaces import (
    SET_TX_CHECKSUMS,
    Space,
    add_ipv6,
    add_neighbours,
    address6,
    routed,
    switch_off,
)
from test_net_programs import ROOT, listening

from shmpool import net
from shmpool.net.headers import Checksum, Layer

Spaces = tuple[Space, Space, Space]
LINE = re.compile(
    r"(?:back: )?(\d+) forwarded, (\d+) not IP or damaged, (\d+) of their link, "
    r"(\d+) without a route, (\d+) with no TTL left, (\d+) to others, (\d+) answered"
)
FORWARDED, NO_IP, OF_LINK, NO_ROUTE, EXPIRED, OTHERS, ANSWERED = range(7)  # of LINE


@pytest.fixture(scope="module")
def spaces() -> Iterator[Spaces]:
    with routed() as three:
        add_ipv6(three)
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


def command_of(spaces: Spaces, *options: str) -> list[str]:
    client, between, server = spaces
    routes = []
    for option, end, nets in (
        ("--route", server, ("198.51.100.0/24", "2001:db8:2::/64")),
        ("--back", client, ("192.0.2.0/24", "2001:db8:1::/64")),
    ):
        routes += [word for net in nets for word in (option, f"{net}={end.mac.hex(':')}")]
    forward = (sys.executable, "-m", "clients.forward", "left", "right", "--quiet")
    return [*between.command, *forward, *routes, *options]


@contextlib.contextmanager
def running(spaces: Spaces, *options: str) -> Iterator[Router]:
    with subprocess.Popen(
        command_of(spaces, *options),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        try:
            yield Router(child)
        finally:
            child.kill()


@pytest.fixture
def router(spaces: Spaces, eventually: Eventually) -> Iterator[Router]:
    with running(spaces) as one:
        eventually(lambda: listening(spaces[1], 2))
        yield one


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
    assert 5 == there[FORWARDED] == back[FORWARDED]
    assert (3, 2, 2) == (there[NO_ROUTE], there[EXPIRED], there[ANSWERED])
    assert (0, 0, 0) == (back[NO_ROUTE], back[EXPIRED], back[ANSWERED])


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
    assert (0, 0) == (back[NO_IP], back[EXPIRED])


def measured(spaces: Spaces) -> int:
    """Returns how many bytes iperf3's server has received of 20 MiB over TCP."""
    needs("iperf3", "iperf3")
    client, _, server = spaces
    with serving(server, "iperf3", "-s", "-1", "--forceflush", says="Server listening"):
        done = run(client, "iperf3", "-c", server.address, "-n", "20M", "-J")
        assert 0 == done.returncode, done.stdout + done.stderr
    octets = json.loads(done.stdout)["end"]["sum_received"]["bytes"]
    assert octets >= 10 * 2**20
    return int(octets)


def test_iperf3(spaces: Spaces, router: Router) -> None:
    """iperf3 measures TCP through it: all that was sent was received."""
    octets = measured(spaces)
    there, back = router.ended()
    assert there[0] >= octets / 1448
    assert back[0] > 0


def ping6(space: Space, target: str, *options: object) -> "subprocess.CompletedProcess[str]":
    return run(space, "ping", "-6", "-i", 0.05, *options, target)


def test_ping6(spaces: Spaces, router: Router) -> None:
    """IPv6: echoes come back with a hop limit of one less, whole and in fragments. Neighbour
    discovery between the ends and the router's system is not forwarded."""
    needs("ping", "iputils-ping")
    client, _, server = spaces
    target = address6(server)
    done = ping6(client, target, "-c", 5, "-W", 10)
    assert (0, 5) == (done.returncode, done.stdout.count(" ttl=63 ")), done.stdout
    done = ping6(client, target, "-c", 3, "-W", 10, "-s", 3000)
    assert (0, 3) == (done.returncode, done.stdout.count(" ttl=63 ")), done.stdout
    done = ping6(client, target, "-c", 2, "-W", 5, "-t", 1)
    assert 0 != done.returncode
    assert 2 == done.stdout.count("Time exceeded: Hop limit"), done.stdout
    assert 0 != ping6(client, "2001:db8:3::1", "-c", 3, "-W", 0.1).returncode
    there, back = router.ended()
    # An end may also have closed a connection of the test before.
    assert 5 + 3 * 3 <= min(there[FORWARDED], back[FORWARDED])
    assert (0, 3, 2, 2) == tuple(there[i] for i in (NO_IP, NO_ROUTE, EXPIRED, ANSWERED))


def test_traceroute(spaces: Spaces, router: Router) -> None:
    """traceroute shows the router and then the server, of both families."""
    needs("traceroute", "traceroute")
    client, _, server = spaces
    for first, last, family in (
        ("192.0.2.254", server.address, "-4"),
        ("2001:db8:1::fe", address6(server), "-6"),
    ):
        done = run(client, "traceroute", family, "-n", "-q", 1, "-w", 10, "-m", 4, last)
        assert 0 == done.returncode, done.stderr
        lines = [line.split() for line in done.stdout.splitlines()[1:]]
        assert [["1", first], ["2", last]] == [line[:2] for line in lines], done.stdout
    there, _ = router.ended()
    assert 2 == there[EXPIRED] == there[ANSWERED]


def test_curl6(spaces: Spaces, router: Router, tmp_path: Path) -> None:
    """A file comes through whole over IPv6."""
    needs("curl", "curl")
    client, _, server = spaces
    data = bytes(range(256)) * 4096
    (tmp_path / "file").write_bytes(data)
    target = address6(server)
    http = (sys.executable, "-u", "-m", "http.server", "8000", "--bind", target)
    with serving(server, *http, says="Serving HTTP", cwd=tmp_path):
        url = f"http://[{target}]:8000/file"
        done = run(client, "curl", "-6", "-sS", "--max-time", 60, "-o", tmp_path / "got", url)
        assert (0, "") == (done.returncode, done.stderr)
    assert data == (tmp_path / "got").read_bytes()
    there, back = router.ended()
    assert back[FORWARDED] >= len(data) / 1428
    assert (0, 0, 0) == (there[NO_IP], back[NO_IP], back[EXPIRED])


@pytest.fixture(scope="module")
def xdp_spaces() -> Iterator[Spaces]:
    """As spaces, without the system's answers to ARP, and with the ends' own checksums."""
    try:
        socket.socket(net.xdp.AF_XDP, socket.SOCK_RAW, 0).close()
    except OSError as error:
        pytest.skip(f"no AF_XDP here: {error.strerror}")
    with routed() as three:
        add_ipv6(three)
        add_neighbours(three)
        for end in (three[0], three[2]):
            switch_off(end, SET_TX_CHECKSUMS)
        yield three


@pytest.fixture
def xdp_router(xdp_spaces: Spaces, eventually: Eventually) -> Iterator[Router]:
    client, _, server = xdp_spaces
    with running(xdp_spaces, "--xdp") as one:
        ping = ("ping", "-c", 1, "-W", 0.2, server.address)
        eventually(lambda: run(client, *ping).returncode == 0)
        yield one


def test_xdp(xdp_spaces: Spaces, xdp_router: Router) -> None:
    """Through AF_XDP both ways: echoes of both families, their TTL, and answers."""
    needs("ping", "iputils-ping")
    client, _, server = xdp_spaces
    done = run(client, "ping", "-c", 20, "-i", 0.02, "-W", 10, server.address)
    assert (0, 20) == (done.returncode, done.stdout.count(" ttl=63 ")), done.stdout
    done = ping6(client, address6(server), "-c", 20, "-W", 10)
    assert (0, 20) == (done.returncode, done.stdout.count(" ttl=63 ")), done.stdout
    done = run(client, "ping", "-c", 2, "-i", 0.05, "-W", 5, "-t", 1, server.address)
    assert 2 == done.stdout.count("Time to live exceeded"), done.stdout
    there, back = xdp_router.ended()
    assert 41 <= back[FORWARDED] <= there[FORWARDED]
    assert 2 == there[EXPIRED] == there[ANSWERED]


def test_iperf3_through_xdp(xdp_spaces: Spaces, xdp_router: Router) -> None:
    """TCP through AF_XDP: all that was sent was received."""
    octets = measured(xdp_spaces)
    there, back = xdp_router.ended()
    assert there[FORWARDED] >= octets / 1448
    assert back[FORWARDED] > 0


def test_xdp_refused(xdp_spaces: Spaces, xdp_router: Router) -> None:
    """An interface that has an XDP program already: one line that says so."""
    done = subprocess.run(
        command_of(xdp_spaces, "--xdp"), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert 1 == done.returncode
    assert "Error: --xdp: interface 'left' has an XDP program already" in done.stderr
    assert "Traceback" not in done.stderr
    xdp_router.ended()


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
