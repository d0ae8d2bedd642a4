# SPDX-License-Identifier: Apache-2.0
"""The programs in clients/ that receive and send packets, between network namespaces."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dpkt
import pytest
from conftest import Eventually, MakePool
from network_spaces import Space, frame, made, raw_socket

import shmpool
from shmpool import net
from shmpool.view import View

Spaces = tuple[Space, Space]
ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
WHOLE = ("--latency", 1)  # the ring has room for all that comes while the program has no processor
PROGRAMS = ["capture", "drop", "record", "replay", "udp_echo", "udp_sink"]


@pytest.fixture(scope="module")
def spaces() -> Iterator[Spaces]:
    with made() as both:
        yield both


@contextlib.contextmanager
def program(space: Space, name: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Runs a client in a namespace; it ends with the block. If that fails, a note says what the
    program said, packets that were dropped for instance."""
    command = [*space.command, sys.executable, "-m", f"clients.{name}", *map(str, arguments)]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipe) as child:  # type: ignore[call-overload]
        try:
            yield child
        except BaseException as error:
            child.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
                error.add_note(f"{name} said: {child.communicate(timeout=10)[1]}")
            raise
        finally:
            child.kill()


def ended(child: "subprocess.Popen[str]") -> str:
    """What a program says at its end, which is a good one."""
    _, said = child.communicate(timeout=60)
    assert 0 == child.returncode, said
    return str(said)


def listening(space: Space, n: int = 1) -> bool:
    """Whether so many sockets are bound to all packets in the namespace."""
    with space.entered():
        lines = Path("/proc/thread-self/net/packet").read_text().splitlines()[1:]
    return sum(line.split()[3] == "0003" for line in lines) >= n


@pytest.mark.parametrize("name", PROGRAMS)
def test_help(name: str) -> None:
    """Each says what it does, with an example."""
    done = subprocess.run(
        [sys.executable, "-m", f"clients.{name}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert 0 == done.returncode
    assert f"Example: python -m clients.{name} " in " ".join(done.stdout.split())


def test_drop(spaces: Spaces, eventually: Eventually) -> None:
    """Counts what it receives, and ends after so many packets."""
    with program(spaces[1], "drop", "veth", "--count", 500, "--filter", "ether proto 0x88b5") as rx:
        eventually(lambda: listening(spaces[1]))
        with raw_socket(spaces[0]) as sock:
            while rx.poll() is None:
                sock.send(frame(0))
        assert "total 500 packets, 30,000 bytes" in ended(rx)


def test_xdp(spaces: Spaces, make_pool: MakePool, eventually: Eventually) -> None:
    """drop and capture receive through AF_XDP too, and refuse what it has not."""
    pool = make_pool(buffer_size=2048, capacity=8192, queues=8)
    for arguments in (("drop", "veth", "--count", 500), ("capture", pool.name, "veth")):
        with program(spaces[1], *map(str, arguments), "--xdp") as rx, raw_socket(spaces[0]) as sock:
            while rx.poll() is None:
                sock.send(frame(0))
                if "capture" in arguments and pool.queues() and len(pool.queue("packets-0")) > 9:
                    rx.send_signal(signal.SIGINT)
                    break
            said = ended(rx)
        if "no AF_XDP" in said:
            pytest.skip(said)
        assert "packets, " in said
    with program(spaces[1], "drop", "veth", "--xdp", "--promiscuous") as rx:
        assert "no --promiscuous" in rx.communicate(timeout=60)[1]


def test_ctrl_c(spaces: Spaces, eventually: Eventually) -> None:
    """Ctrl-C ends a program that waits, with its summary and nothing left."""
    before = set(Path("/dev/shm").iterdir())
    with program(spaces[1], "drop", "veth") as rx:
        eventually(lambda: listening(spaces[1]))
        rx.send_signal(signal.SIGINT)
        assert "total 0 packets, 0 bytes" in ended(rx)
        assert not {f for f in Path("/dev/shm").iterdir() if f"net-{rx.pid}" in f.name} - before


@pytest.mark.parametrize("latency", [(), WHOLE])
def test_ctrl_c_waits_for_what_the_kernel_keeps_back(
    spaces: Spaces, eventually: Eventually, tmp_path: Path, latency: tuple[object, ...]
) -> None:
    """Packets that came just before Ctrl-C are recorded."""
    out = tmp_path / "out.pcapng"

    def recorded() -> int:
        with contextlib.suppress(net.CaptureError):  # a packet is being written
            return sum(1 for _ in net.packets(out))
        return 0

    arguments = (out, "--interface", "veth", "--filter", "udp port 9", *latency)
    with program(spaces[1], "record", *arguments) as rx:
        eventually(lambda: listening(spaces[1]))
        with spaces[0].entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.sendto(b"first", (spaces[1].address, 9))
            eventually(lambda: recorded() == 1)
            for _ in range(10):
                sock.sendto(b"x", (spaces[1].address, 9))
        rx.send_signal(signal.SIGINT)
        assert "total 11 packets" in ended(rx)
    assert 11 == recorded()


def test_trouble(spaces: Spaces) -> None:
    """A message, not a traceback."""
    with program(spaces[1], "drop", "none") as rx:
        _, said = rx.communicate(timeout=60)
    assert 1 == rx.returncode
    assert "Error: interface is 'none'" in said
    assert "Traceback" not in said


def test_replay_and_record(spaces: Spaces, eventually: Eventually, tmp_path: Path) -> None:
    """What is replayed, faster than it was recorded, is recorded again, and dpkt reads it."""
    out = tmp_path / "out.pcapng"
    sent = [packet.data for packet in net.packets(DATA / "mixed.pcapng")]
    arguments = (out, "--interface", "veth", "--count", len(sent), *WHOLE)
    with program(spaces[1], "record", *arguments) as rx:
        eventually(lambda: listening(spaces[1]))
        with program(spaces[0], "replay", DATA / "mixed.pcapng", "veth", "--speed", 10) as tx:
            said = ended(tx)
            assert f"total {len(sent)} packets" in said
        assert f"total {len(sent)} packets" in ended(rx)
    with out.open("rb") as file:
        recorded = list(dpkt.pcap.UniversalReader(file))
    # A tag goes another way through the kernel: packets with and without keep their order each.
    for tagged in (False, True):
        assert [p for p in sent if (p[12:14] == b"\x81\0") == tagged] == [
            p for _, p in recorded if (p[12:14] == b"\x81\0") == tagged
        ]
    times = [packet.time or 0 for packet in net.packets(DATA / "mixed.pcapng")]
    # It has waited between packets. Those that are late are nearer to each other, so the program is
    # asked for how long it ran, which it rounds.
    took = float(said.split()[-2])
    assert took + 0.05 >= (times[-1] - times[0]) / 1e9 / 10


def test_capture_and_record(
    spaces: Spaces, eventually: Eventually, make_pool: MakePool, tmp_path: Path
) -> None:
    """Each flow goes to one of the queues; a recorder of a queue ends when capture ends."""
    pool = make_pool(buffer_size=2048, capacity=4096, queues=8)
    arguments = (pool.name, "veth", "--workers", 2, "--filter", "udp port 9", *WHOLE)
    with program(spaces[1], "capture", *arguments) as rx, contextlib.ExitStack() as stack:
        eventually(lambda: listening(spaces[1]))
        recorder = stack.enter_context(
            program(
                *(spaces[1], "record", tmp_path / "one.pcapng"),
                *("--pool", pool.name, "--queue", "packets-0"),
            )
        )
        for _ in range(16):
            with spaces[0].entered():
                sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            for _ in range(5):
                sock.sendto(b"x", (spaces[1].address, 9))
        second = pool.queue("packets-1")
        counted = 0
        eventually(lambda: sum(q.enqueued for q in queue_stats(pool)) >= 80)
        rx.send_signal(signal.SIGINT)
        ended(rx)
        ended(recorder)
        ports = {packet.data[34:36] for packet in net.packets(tmp_path / "one.pcapng")}
        counted += sum(1 for _ in net.packets(tmp_path / "one.pcapng"))
        others = set()
        with contextlib.suppress(shmpool.ShutDown):
            while True:
                with second.get_many(256, timeout=0) as burst:
                    others |= {bytes(buffer)[34:36] for buffer in burst}
                    counted += len(burst)
    assert 80 == counted
    assert 16 == len(ports | others)
    assert not ports & others


def queue_stats(pool: shmpool.Pool) -> "list[shmpool.QueueStats]":
    with View(pool.name) as view:
        return [queue for queue in view.queues() if queue.name.startswith("packets-")]


def test_capture_of_a_file(make_pool: MakePool) -> None:
    """A file's packets are put in order, and the queue ends with the last one."""
    pool = make_pool(buffer_size=2048, capacity=4096)
    command = [sys.executable, "-m", "clients.capture", pool.name, DATA / "mixed.pcap", "--quiet"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as child:
        queue = pool.queue("packets-0", timeout=60)
        found: list[bytes] = []
        with contextlib.suppress(shmpool.ShutDown):
            while True:
                with queue.get_many(256, timeout=60) as burst:
                    found += map(bytes, burst)
        assert "total 3,825 packets" in ended(child)
    assert [packet.data for packet in net.packets(DATA / "mixed.pcap")] == found


def port_of(child: "subprocess.Popen[str]") -> int:
    assert child.stderr is not None
    return int(child.stderr.readline().rsplit(None, 1)[1])


def test_udp_sink(spaces: Spaces) -> None:
    """Counts datagrams that come to its port."""
    with program(spaces[1], "udp_sink", "--port", 0, "--count", 50, "--gro") as rx:
        port = port_of(rx)
        with spaces[0].entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            for _ in range(50):
                sock.sendto(b"hello", (spaces[1].address, port))
        assert "total 50 packets, 250 bytes" in ended(rx)


def test_udp_echo(spaces: Spaces) -> None:
    """Each datagram comes back."""
    with program(spaces[1], "udp_echo", "--port", 0, "--count", 20) as rx:
        port = port_of(rx)
        with spaces[0].entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.settimeout(60)
            for i in range(20):
                sock.sendto(b"%d" % i, (spaces[1].address, port))
            assert {b"%d" % i for i in range(20)} == {sock.recv(100) for _ in range(20)}
        assert "total 20 packets" in ended(rx)


@pytest.mark.slow
def test_bench() -> None:
    """The benchmark measures each contestant that is installed here."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("gcc"):
        pytest.skip("needs root, iproute2 and gcc")
    command = [sys.executable, "-m", "clients.bench.net", "--size", "60", "--turns", "1"]
    done = subprocess.run(
        [*command, "--seconds", "0.05"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    if "needs root" in done.stderr:
        pytest.skip(done.stderr)
    assert 0 == done.returncode, done.stderr
    for name in (
        "drop    shmpool",
        "drop    C, only receives",
        "drop    C, malloc'ed buffers",
        "drop    recv_into and bytes",
        "queue   shmpool, queue",
        "queue   multiprocessing.Queue",
        "forward shmpool, header columns",
        "forward C, forwards",
        "forward a bytearray for each",
    ):
        assert f"  {name} " in done.stdout
