# SPDX-License-Identifier: Apache-2.0
"""clients.flows and clients.forward: captures pass through the real programs."""

import csv
import io
import ipaddress
import json
import struct
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import dpkt
import pytest
from captures import RAW, ethernet, pcap, udp4
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import NETS, checksum, frame, udp

pytest.importorskip("numpy", reason="shmpool[numpy] is not installed")
pytest.importorskip("click", reason="shmpool[cli] is not installed")

import numpy as np

from clients.routes import Network, Routes

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
OWN, NEXT, LAST = "02:00:00:00:00:01", "02:00:00:00:00:80", "02:00:00:00:00:fe"


def program(name: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", f"clients.{name}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def flows_of(path: Path) -> dict[tuple[Any, ...], list[int]]:
    """Packets, octets, first and last time, and flags of each flow and direction, by dpkt."""
    found: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0, 2**63, 0, 0])
    with path.open("rb") as file:
        for when, data in dpkt.pcap.UniversalReader(file):
            ip = dpkt.ethernet.Ethernet(data).data
            if not isinstance(ip, dpkt.ip.IP | dpkt.ip6.IP6):
                continue
            above = ip.data
            ports = isinstance(above, dpkt.tcp.TCP | dpkt.udp.UDP)
            ends = (ipaddress.ip_address(ip.src), ipaddress.ip_address(ip.dst))
            key = (*map(str, ends), *((above.sport, above.dport) if ports else (0, 0)), ip.p)
            flow = found[key]
            flow[0] += 1
            flow[1] += ip.len if isinstance(ip, dpkt.ip.IP) else 40 + ip.plen
            time = round(float(when) * 1e9)
            flow[2], flow[3] = min(flow[2], time), max(flow[3], time)
            flow[4] |= above.flags & 0xFF if isinstance(above, dpkt.tcp.TCP) else 0
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "workers"), [("mixed.pcap", 3), ("mixed.pcapng", 1)])
def test_flows(name: str, workers: int) -> None:
    """Each flow that dpkt finds in the file is one line, with its packets, octets, times and flags,
    however many workers count; CSV and JSON have the same."""
    done = program("flows", DATA / name, "--workers", workers)
    assert (0, "") == (done.returncode, done.stderr)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    numbers = ("packets", "octets", "first", "last", "tcp_flags")
    wanted = flows_of(DATA / name)
    assert len(rows) == len(wanted)
    for row in rows:
        key = (row["src"], row["dst"], *(int(row[n]) for n in ("sport", "dport", "protocol")))
        packets, octets, first, last, flags = (int(row[n]) for n in numbers)
        assert [packets, octets, flags] == [*wanted[key][:2], wanted[key][4]], key
        assert abs(first - wanted[key][2]) < 2000, key  # ns: dpkt's times are floats
        assert abs(last - wanted[key][3]) < 2000, key
    as_json = program("flows", DATA / name, "--workers", 2, "--json")
    assert rows == [{n: str(v) for n, v in row.items()} for row in json.loads(as_json.stdout)]


def timed(*packets: tuple[float, int]) -> bytes:
    """A capture file of UDP packets from these ports, at these times in seconds."""
    data = pcap([ethernet(udp4(port)) for _, port in packets])
    at, out = 24, bytearray(data)
    for seconds, _ in packets:
        struct.pack_into("<II", out, at, int(seconds), round(seconds % 1 * 1e6))
        at += 16 + struct.unpack_from("<I", out, at + 8)[0]
    return bytes(out)


@pytest.mark.slow
def test_timeouts(tmp_path: Path) -> None:
    """A flow that has no packet for so long is written and begins again; one that goes on is
    written each time that it is so old. Together the lines have every packet, once."""
    lasting = [(1000 + i / 2, 1) for i in range(200)]
    pause = [(1000.0, 2), (1001.0, 2), (1061.0, 2)]
    (tmp_path / "in").write_bytes(timed(*sorted(lasting + pause)))
    done = program("flows", tmp_path / "in", "--active", 30, "--inactive", 10)
    assert (0, "") == (done.returncode, done.stderr)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for row in rows:
        found[row["sport"]].append((row["ended"], int(row["packets"])))
        assert int(row["last"]) - int(row["first"]) < 31e9
    assert [("inactive", 2), ("end", 1)] == found["2"]
    assert ["active"] * 3 + ["end"] == [ended for ended, _ in found["1"]]
    assert 200 == sum(packets for _, packets in found["1"])
    as_json = program("flows", tmp_path / "in", "--active", 30, "--inactive", 10, "--json")
    assert rows == [{n: str(v) for n, v in row.items()} for row in json.loads(as_json.stdout)]


def test_many_records_before_the_end(tmp_path: Path) -> None:
    """A file whose flows end every second does not stop the workers that write them."""
    packets = [(1000 + i, 1000 + i % 40000) for i in range(3000)]
    (tmp_path / "in").write_bytes(timed(*packets))
    done = program("flows", tmp_path / "in", "--inactive", 1, "--workers", 1)
    assert (0, "") == (done.returncode, done.stderr)
    assert 3001 == len(done.stdout.splitlines())


def test_other_link_types(tmp_path: Path) -> None:
    """A file of another link type is refused in one line."""
    (tmp_path / "raw").write_bytes(pcap([b"\x45"], RAW))
    done = program("flows", tmp_path / "raw")
    assert 1 == done.returncode
    assert f"Error: {tmp_path}/raw has packets of link type 101, not Ethernet\n" == done.stderr


def forwarded(data: bytes, target: str) -> bytes:
    """The frame as a router sends it to that MAC address; every byte is computed again."""
    at = 14
    while data[at - 2 : at] == b"\x81\0":
        at += 4
    macs = bytes.fromhex((target + OWN).replace(":", ""))
    if data[at] >> 4 == 6:
        return macs + data[12 : at + 7] + bytes([data[at + 7] - 1]) + data[at + 8 :]
    header = bytearray(data[at : at + (data[at] & 15) * 4])
    header[8] -= 1
    header[10:12] = b"\0\0"
    header[10:12] = checksum(bytes(header)).to_bytes(2, "big")
    return macs + data[12:at] + header + data[at + len(header) :]


def stays(ip: dpkt.ip.IP | dpkt.ip6.IP6) -> bool:
    """Whether no router forwards it."""
    for address in map(ipaddress.ip_address, (ip.src, ip.dst)):
        if address.is_multicast or address.is_link_local or address.is_loopback:
            return True
        if address.is_unspecified or (address.version == 4 and address.is_reserved):
            return True
    kind = bytes(ip.data)[:1] if ip.v == 6 and ip.p == dpkt.ip.IP_PROTO_ICMP6 else b""
    return kind in map(bytes, zip(range(130, 138), strict=True))


@pytest.mark.slow
def test_forward(tmp_path: Path) -> None:
    """What comes out is what a router would send, in order; what it would not, is counted."""
    with (DATA / "mixed.pcap").open("rb") as file:
        packets = [data for _, data in dpkt.pcap.Reader(file)]
    good = frame(NETS[1], udp(4)).data
    network = 14
    dying, wrong = bytearray(good), bytearray(good)
    dying[network + 8] = 1
    dying[network + 10 : network + 12] = b"\0\0"
    header = bytes(dying[network : network + (dying[network] & 15) * 4])
    dying[network + 10 : network + 12] = checksum(header).to_bytes(2, "big")
    wrong[network + 10] ^= 1
    packets += [bytes(dying), bytes(wrong), good, good[:30]]
    six = str(ipaddress.ip_network("2001:db8::/32"))
    wanted, no_ip, of_link, no_route = [], 2, 0, 0
    for data in packets[:-4]:
        ip = dpkt.ethernet.Ethernet(data).data
        if not isinstance(ip, dpkt.ip.IP | dpkt.ip6.IP6):
            no_ip += 1
        elif stays(ip):
            of_link += 1
        elif isinstance(ip, dpkt.ip6.IP6):
            if ipaddress.ip_address(ip.dst) in ipaddress.ip_network(six):
                wanted.append(forwarded(data, LAST))
            else:
                no_route += 1
        elif str(ipaddress.ip_address(ip.dst)) == "192.0.2.80":
            wanted.append(forwarded(data, LAST))
        elif ip.dst.startswith((b"\xc0\0\2", b"\xc6\x33\x64")):
            wanted.append(forwarded(data, NEXT))
        else:
            no_route += 1
    wanted.append(forwarded(good, NEXT))
    assert len(wanted) > 2000
    (tmp_path / "in").write_bytes(pcap(packets))
    routes = (f"192.0.2.80/32={LAST}", f"192.0.2.0/24={NEXT}", f"198.51.100.0/24={NEXT}")
    routes += (f"{six}={LAST}",)
    done = program(
        "forward", tmp_path / "in", tmp_path / "out", "--mac", OWN,
        *(word for route in routes for word in ("--route", route)), "--burst", 100,
    )  # fmt: skip
    assert (0, "") == (done.returncode, done.stderr)
    assert (
        f"{len(wanted)} forwarded, {no_ip} not IP or damaged, {of_link} of their link, "
        f"{no_route} without a route, 1 with no TTL left\n"
    ) == done.stdout
    with (tmp_path / "out").open("rb") as file:
        assert wanted == [data for _, data in dpkt.pcap.Reader(file)]


@pytest.mark.parametrize(
    ("route", "why"),
    [
        (f"192.0.2.1/24={NEXT}", "192.0.2.1/24 has host bits set"),
        ("192.0.2.0/24=02:00", "02:00 is not a MAC address of 6 bytes"),
    ],
)
def test_wrong_routes(tmp_path: Path, route: str, why: str) -> None:
    """A wrong route is refused in one line, before the file is written."""
    out = tmp_path / "out"
    done = program("forward", DATA / "mixed.pcap", out, "--mac", OWN, "--route", route)
    assert (1, f"Error: {why}\n") == (done.returncode, done.stderr)
    assert not out.exists()


def networks(version: int) -> "st.SearchStrategy[Network]":
    """Prefixes of that version of IP."""
    kind = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    bits = kind("0.0.0.0/0" if version == 4 else "::/0").max_prefixlen
    return st.builds(
        lambda address, length: kind((address, length), strict=False),
        st.integers(0, 2**bits - 1),
        st.integers(0, bits),
    )


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([4, 6]).flatmap(
        lambda version: st.lists(networks(version), min_size=1, max_size=12, unique=True)
    ),
    st.data(),
)
def test_longest_prefix(prefixes: list[Network], data: st.DataObject) -> None:
    """The route of an address is that of the longest prefix that it has."""
    four = prefixes[0].version == 4
    last = 2 ** prefixes[0].max_prefixlen - 1
    edges = [int(end) for p in prefixes for end in (p.network_address, p.broadcast_address)]
    near = st.sampled_from(edges).flatmap(
        lambda edge: st.integers(max(edge - 1, 0), min(edge + 1, last))
    )
    numbers = data.draw(st.lists(st.integers(0, last) | near, min_size=1, max_size=20))
    if four:
        addresses = np.array(numbers, np.uint32)
    else:
        octets = b"".join(number.to_bytes(16, "big") for number in numbers)
        addresses = np.frombuffer(octets, np.uint8).reshape(-1, 16)
    make = ipaddress.IPv4Address if four else ipaddress.IPv6Address
    for address, number in zip(numbers, Routes(prefixes).of(addresses).tolist(), strict=True):
        having = [i for i, p in enumerate(prefixes) if make(address) in p]
        assert number == max(having, key=lambda i: prefixes[i].prefixlen, default=-1)
