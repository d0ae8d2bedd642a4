# SPDX-License-Identifier: Apache-2.0
"""Headers, flow hashes and checksums of a burst, against dpkt, scapy and numpy.

The packets are those of a capture, 256 a burst. Each round does all of it once, so that what
disturbs the machine disturbs all; the medians are printed. numpy reads the fields of IPv4, TCP and
UDP by Burst.column(), one call a field, as a program would without headers(). dpkt and scapy get
each packet as bytes, as they need it.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import dpkt
import numpy as np

import shmpool

CAPTURE = Path(__file__).resolve().parents[2] / "tests" / "data" / "mixed.pcap"
BURST = 256


def by_dpkt(packets: list[bytes]) -> None:
    """Reads what a flow table needs."""
    for data in packets:
        ip = dpkt.ethernet.Ethernet(data).data
        above = getattr(ip, "data", None)
        if isinstance(above, dpkt.tcp.TCP | dpkt.udp.UDP):
            _ = (ip.src, ip.dst, above.sport, above.dport)


def by_scapy(packets: list[bytes]) -> None:
    """The same."""
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether

    for data in packets:
        packet = Ether(data)
        ip = packet.getlayer(IP) or packet.getlayer(IPv6)
        above = packet.getlayer(TCP) or packet.getlayer(UDP)
        if ip is not None and above is not None:
            _ = (ip.src, ip.dst, above.sport, above.dport)


def by_numpy(burst: shmpool.Burst) -> None:
    """The same of IPv4 without tags and options: masks and 7 columns."""
    lengths = burst.lengths
    four = (burst.column(12, ">u2") == 0x0800) & (burst.column(14, "u1") == 0x45)
    four &= (burst.column(20, ">u2") & 0x1FFF == 0) & (lengths >= 38)
    protocol = burst.column(23, "u1")
    four &= (protocol == 6) | (protocol == 17)
    for offset, kind in ((26, ">u4"), (30, ">u4"), (34, ">u2"), (36, ">u2")):
        np.where(four, burst.column(offset, kind), 0)


def numpy_sums(burst: shmpool.Burst) -> None:
    """Verifies the checksums of IPv4 headers without options: 10 words of each."""
    words = burst.column(14, "(10,)>u2").astype(np.uint32).sum(axis=1)
    _ = (words >> 16) + (words & 0xFFFF) == 0xFFFF


def dpkt_sums(packets: list[bytes]) -> None:
    """Verifies the checksums of IPv4 headers, TCP and UDP."""
    for data in packets:
        ip = dpkt.ethernet.Ethernet(data).data
        if isinstance(ip, dpkt.ip.IP):
            dpkt.in_cksum(bytes(ip)[: 4 * ip.hl])
            payload = bytes(ip.data)
            head = ip.src + ip.dst + b"\0" + bytes([ip.p]) + len(payload).to_bytes(2, "big")
            dpkt.in_cksum(head + payload)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m clients.bench.headers --rounds 11",
    )
    parser.add_argument("--rounds", type=int, default=11, help="default: 11")
    given = parser.parse_args()
    with CAPTURE.open("rb") as file:
        packets = [data for _, data in dpkt.pcap.Reader(file)][:BURST]
    with shmpool.Pool.create(None, buffer_size=2048, capacity=1024) as pool:
        queue = pool.create_queue("packets", capacity=BURST)
        queue.send_many(packets)
        burst = queue.get_many(BURST)
        headers = burst.headers()

        def many(call: Callable[[], object]) -> Callable[[], object]:
            def repeat() -> None:
                for _ in range(100):  # keeps no result: that would be new memory each time
                    call()

            return repeat

        # What is measured: the name, what it is compared with, the call, how often it does it.
        calls: list[tuple[str, str, Callable[[], object], int]] = [
            ("headers()", "", many(burst.headers), 100),
            ("headers(inner=True)", "headers()", many(lambda: burst.headers(inner=True)), 100),
            ("numpy, 7 columns", "headers()", many(lambda: by_numpy(burst)), 100),
            ("dpkt", "headers()", lambda: by_dpkt(packets), 1),
            ("scapy", "headers()", lambda: by_scapy(packets[:32]), 1),
            ("flow_hash(headers)", "", many(lambda: burst.flow_hash(headers)), 100),
            ("checksums()", "", many(burst.checksums), 100),
            ("set_checksums()", "checksums()", many(burst.set_checksums), 100),
            ("numpy, IPv4 headers", "checksums()", many(lambda: numpy_sums(burst)), 100),
            ("dpkt, IPv4", "checksums()", lambda: dpkt_sums(packets), 1),
            ("decrement_ttl()", "", many(burst.decrement_ttl), 100),
        ]
        times: dict[str, list[float]] = {name: [] for name, *_ in calls}
        for _ in range(given.rounds + 1):  # the first one imports and fills caches
            for name, _, call, repeat in calls:
                n = 32 if name == "scapy" else BURST
                times[name].append(seconds(call) / repeat / n * 1e9)
    print(f"{'':24}{'ns a packet':>12}")
    for name, other, _, _ in calls:
        line = f"{name:24}{statistics.median(times[name][1:]):12.1f}"
        if other:
            pairs = zip(times[name][1:], times[other][1:], strict=True)
            line += f"   {statistics.median(a / b for a, b in pairs):8.1f} x {other}"
        print(line)


if __name__ == "__main__":
    main()
