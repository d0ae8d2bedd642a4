# SPDX-License-Identifier: Apache-2.0
"""The traffic of real programs through the programs in clients/: curl, iperf3, dig, ping and
tcpreplay on one side, capture, flows, record and drop on the other."""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dpkt
import pytest
from conftest import Eventually, MakePool
from network_spaces import Space, made, whole_packets
from test_forward import needs, run, serving
from test_net_programs import DATA, WHOLE, ended, listening, program, queue_stats

import shmpool
from shmpool import net
from shmpool.net.headers import Layer
from tests.suspending import suspend

Spaces = tuple[Space, Space]
SIZE = 1 << 20  # bytes that curl gets


@pytest.fixture(scope="module")
def spaces() -> Iterator[Spaces]:
    with made() as both:
        for space in both:
            whole_packets(space)
        yield both


@contextlib.contextmanager
def watching(
    space: Space, eventually: Eventually, name: str, *arguments: object
) -> Iterator["subprocess.Popen[str]"]:
    """Runs a client that receives at `veth`; it listens when the block begins."""
    with program(space, name, *arguments) as child:
        eventually(lambda: listening(space))
        yield child


def download(spaces: Spaces, folder: Path) -> bytes:
    """Lets curl get a file from a web server of the second space. Returns the file."""
    needs("curl", "curl")
    data = os.urandom(SIZE)
    (folder / "file").write_bytes(data)
    http = (sys.executable, "-u", "-m", "http.server", "8000", "--bind", spaces[1].address)
    with serving(spaces[1], *http, says="Serving HTTP", cwd=folder):
        url = f"http://{spaces[1].address}:8000/file"
        done = run(spaces[0], "curl", "-sS", "--max-time", 60, "-o", folder / "got", url)
        assert (0, "") == (done.returncode, done.stderr)
    assert data == (folder / "got").read_bytes()
    return data


def answer_in(recording: Path) -> bytes:
    """What the web server has sent behind its headers, as far as all before it is there."""
    stream: dict[int, bytes] = {}
    first = 0
    with contextlib.suppress(net.CaptureError):  # the last packet is being written
        for packet in net.packets(recording):
            tcp = dpkt.ethernet.Ethernet(packet.data).data.data
            if tcp.sport == 8000:
                if tcp.flags & dpkt.tcp.TH_SYN:
                    first = tcp.seq + 1
                elif tcp.data:
                    stream[(tcp.seq - first) % 2**32] = bytes(tcp.data)
    whole = bytearray()
    for at, part in sorted(stream.items()):
        if at > len(whole):
            break
        whole[at : at + len(part)] = part
    return bytes(whole.partition(b"\r\n\r\n")[2])


def test_record_a_download(spaces: Spaces, eventually: Eventually, tmp_path: Path) -> None:
    """The recording of what curl gets has every byte of the file: dpkt puts it together again."""
    out = tmp_path / "out.pcapng"
    arguments = (out, "--interface", "veth", "--filter", "tcp port 8000", "--quiet", *WHOLE)
    with watching(spaces[1], eventually, "record", *arguments) as recorder:
        data = download(spaces, tmp_path)
        eventually(lambda: len(answer_in(out)) >= SIZE)
        recorder.send_signal(signal.SIGINT)
        ended(recorder)
    assert data == answer_in(out)


def answer_names(server: socket.socket) -> None:
    """Answers each question for an address with 203.0.113.7, until the socket is closed."""
    with contextlib.suppress(OSError):
        while True:
            question, sender = server.recvfrom(4096)
            end = question.index(b"\0", 12) + 5
            reply = question[:2] + struct.pack(">HHHHH", 0x8580, 1, 1, 0, 0) + question[12:end]
            reply += struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + bytes([203, 0, 113, 7])
            server.sendto(reply, sender)


def test_flows_of_programs(spaces: Spaces, eventually: Eventually, tmp_path: Path) -> None:
    """A live table of flows has what dig, ping, curl and iperf3 have sent and received, both
    directions each, and writes those that have ended before it ends."""
    for name, package in (("dig", "bind9-dnsutils"), ("ping", "iputils-ping"), ("iperf3",) * 2):
        needs(name, package)
    client, server = (space.address for space in spaces)
    with spaces[1].entered():
        names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind((server, 53))
    threading.Thread(target=answer_names, args=(names,), daemon=True).start()
    arguments = ("veth", "--json", "--inactive", 1, "--filter", "ip", *WHOLE)
    with names, watching(spaces[1], eventually, "flows", *arguments) as flows:
        assert flows.stdout is not None
        done = run(spaces[0], "dig", f"@{server}", "+short", "+time=30", "name.example")
        assert "203.0.113.7\n" == done.stdout
        early = json.loads(flows.stdout.readline())
        assert ("inactive", 17) == (early["ended"], early["protocol"])
        assert 0 == run(spaces[0], "ping", "-c", 5, "-i", 0.05, server).returncode
        download(spaces, tmp_path)
        with serving(spaces[1], "iperf3", "-s", "-1", "--forceflush", says="Server listening"):
            iperf = run(spaces[0], "iperf3", "-c", server, "-u", "-n", "1M", "-b", "50M", "-J")
            assert 0 == iperf.returncode, iperf.stdout
        rows, received = [early], received_of(iperf.stdout)[0]
        while received > sum(
            row["packets"] for row in rows if (row["protocol"], row["dport"]) == (17, 5201)
        ):
            rows.append(json.loads(flows.stdout.readline()))
        flows.send_signal(signal.SIGINT)
        # Not communicate(), which would leave what readline() has read ahead.
        out, said = flows.stdout.read(), flows.stderr.read()  # type: ignore[union-attr]
        assert 0 == flows.wait(timeout=60), said
    assert "packets were dropped" not in said
    rows += map(json.loads, out.splitlines())

    def of(protocol: int, port: int, sender: str) -> list[dict[str, Any]]:
        """Those from the sender, and of a port of the server."""
        end = "dport" if sender == client else "sport"
        return [
            row
            for row in rows
            if (row["protocol"], row["src"], row[end]) == (protocol, sender, port)
        ]

    assert [1] == [row["packets"] for row in of(17, 53, client)]
    assert [1] == [row["packets"] for row in of(17, 53, server)]
    for sender in (client, server):
        assert (5, 5 * 84) == tuple(
            sum(row[name] for row in of(1, 0, sender)) for name in ("packets", "octets")
        )
    assert sum(row["octets"] for row in of(6, 8000, server)) > SIZE
    for sender in (client, server):
        flags = 0
        for row in of(6, 8000, sender):
            flags |= row["tcp_flags"]
        assert flags & 0x13 == 0x13  # SYN, FIN, ACK
    assert sum(row["packets"] for row in of(17, 5201, client)) >= received


def received_of(report: str) -> tuple[int, int]:
    """How many datagrams iperf3 has received, and sent. On a busy machine some never come: the
    kernel drops them before the interface that they are sent to. The last ones are then not among
    those that its server calls lost: it has not missed them."""
    end = json.loads(report)["end"]
    there = end["sum_received"]
    return there["packets"] - there["lost_packets"], end["sum_sent"]["packets"]


@pytest.mark.parametrize("suspended", [False, True])
def test_capture_of_iperf3(
    spaces: Spaces, eventually: Eventually, make_pool: MakePool, suspended: bool
) -> None:
    """Workers' queues get every datagram that iperf3 receives, each once, also if capture is
    suspended all the time in which they come."""
    needs("iperf3", "iperf3")
    pool = make_pool(buffer_size=2048, capacity=8192, queues=8)
    rule = f"udp dst port 5201 and dst host {spaces[1].address}"
    arguments = (pool.name, "veth", "--workers", 2, "--filter", rule, "--quiet", *WHOLE)
    with watching(spaces[1], eventually, "capture", *arguments) as capture:
        if suspended:
            suspend(capture.pid)
        with serving(spaces[1], "iperf3", "-s", "-1", "--forceflush", says="Server listening"):
            done = run(
                spaces[0],
                *("iperf3", "-c", spaces[1].address, "-u", "-n", "2M", "-b", "50M", "-J"),
                *("-P", 2),
            )
            assert 0 == done.returncode, done.stdout
        capture.send_signal(signal.SIGCONT)
        received, sent = received_of(done.stdout)
        eventually(lambda: sum(queue.enqueued for queue in queue_stats(pool)) >= received)
        capture.send_signal(signal.SIGINT)
        said = ended(capture)
    assert "were dropped" not in said
    assert " 0 dropped" in said
    datagrams = 0  # longer than what opens a stream
    ports: list[set[int]] = []
    for number in range(2):
        ports.append(set())
        with contextlib.suppress(shmpool.ShutDown):
            while True:
                with pool.queue(f"packets-{number}").get_many(256, timeout=0) as burst:
                    headers = burst.headers()
                    assert headers.has(Layer.UDP).all()
                    ports[-1] |= set(headers.port_src.tolist())
                    datagrams += int((burst.lengths > 100).sum())
    assert received <= datagrams <= sent
    assert not ports[0] & ports[1]  # a flow has one worker


def test_tcpreplay(spaces: Spaces, eventually: Eventually, tmp_path: Path) -> None:
    """What tcpreplay sends of a recording is recorded again, byte by byte."""
    needs("tcpreplay", "tcpreplay")
    packets = [packet.data for packet in net.packets(DATA / "mixed.pcapng")]
    fitting = [packet for packet in packets if len(packet) <= 1514]
    out = tmp_path / "out.pcapng"
    arguments = (out, "--interface", "veth", "--count", len(fitting), "--quiet", *WHOLE)
    with watching(spaces[1], eventually, "record", *arguments) as recorder:
        done = run(spaces[0], "tcpreplay", "-q", "-t", "-i", "veth", DATA / "mixed.pcapng")
        assert 0 == done.returncode, done.stdout + done.stderr
        said = ended(recorder)
    assert f"total {len(fitting)} packets" in said
    with out.open("rb") as file:
        recorded = [data for _, data in dpkt.pcap.UniversalReader(file)]
    assert sorted(fitting) == sorted(recorded)


def test_drop_pings(spaces: Spaces, eventually: Eventually) -> None:
    """Of ping's echoes and replies drop counts the ones that it was asked for."""
    needs("ping", "iputils-ping")
    rule = ("--filter", "icmp[icmptype] == icmp-echo")
    with watching(spaces[1], eventually, "drop", "veth", "--count", 7, *rule) as drop:
        assert 0 == run(spaces[0], "ping", "-c", 7, "-i", 0.05, spaces[1].address).returncode
        assert "total 7 packets, 686 bytes" in ended(drop)
