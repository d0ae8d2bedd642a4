# SPDX-License-Identifier: Apache-2.0
"""Flows of packets, counted by several workers: python -m clients.flows CAPTURE --json

One process receives packets, hashes their flows and spreads each burst over the workers' queues, so
that both directions of a flow come to one worker. A worker has a table of its flows. At the end the
tables are written as CSV or JSON, a line for each flow and direction, as NetFlow has them. No
Python for a packet: headers are columns, and a burst's packets are summed by flow in numpy before
the table is touched.
"""

import csv
import ipaddress
import json
import os
import pickle
import struct
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import shmpool
from shmpool.net import CaptureSource
from shmpool.net.headers import Headers, Layer, Link

from .children import children

LINK = 2  # bytes of the link type before a packet, in clients.demo
# By link type of a capture file. The 4 bytes before IP have a different meaning on each system.
LINKS = {1: Link.ETHERNET, 113: Link.COOKED, 276: Link.COOKED2, 0: Link.NULL, 108: Link.LOOP}
LINKS |= dict.fromkeys((12, 14, 101, 228, 229), Link.IP)
KINDS = {"IPv4": Layer.IPV4, "IPv6": Layer.IPV6, "ARP": Layer.ARP}
ANSWER = 64  # capacity of the queue for a worker's table
TIMEOUT = 300.0  # s: a process that waits for so long for a packet gives up
NAME = struct.Struct("=16s16sHHBB")  # headers.flow


@dataclass
class Flow:
    """One direction of a flow."""

    packets: int = 0
    octets: int = 0  # of IP packets
    first: int = 2**63 - 1  # ns since 1970
    last: int = 0
    tcp_flags: int = 0  # of all its packets


class FlowTable(dict[bytes, Flow]):
    """The flows by headers.flow."""

    def add(self, headers: Headers, times: NDArray[np.int64]) -> None:
        """Counts the IP packets of a burst."""
        ip = headers.has(Layer.IPV4) | headers.has(Layer.IPV6)
        ours, times = headers[ip], times[ip]
        names, where = np.unique(ours.flow, return_inverse=True)
        packets = np.bincount(where, minlength=len(names))
        octets = np.bincount(where, ours.ip_length, len(names)).astype(np.int64)
        first = np.full(len(names), 2**63 - 1)
        last, flags = np.zeros(len(names), np.int64), np.zeros(len(names), np.uint8)
        np.minimum.at(first, where, times)
        np.maximum.at(last, where, times)
        np.bitwise_or.at(flags, where, ours.tcp_flags)
        columns = (column.tolist() for column in (names, packets, octets, first, last, flags))
        for name, more, size, begin, end, bits in zip(*columns, strict=True):
            self._add(name, Flow(more, size, begin, end, bits))

    def merge(self, other: "FlowTable") -> None:
        """Adds what another worker has counted. A flow is in two tables if it has fragments: those
        without ports are hashed by their addresses."""
        for name, flow in other.items():
            self._add(name, flow)

    def _add(self, name: bytes, more: Flow) -> None:
        flow = self.setdefault(name, Flow())
        flow.packets += more.packets
        flow.octets += more.octets
        flow.first, flow.last = min(flow.first, more.first), max(flow.last, more.last)
        flow.tcp_flags |= more.tcp_flags

    def rows(self) -> list[dict[str, Any]]:
        """A row for each flow, the earliest first."""
        found = []
        for name, flow in sorted(self.items(), key=lambda pair: (pair[1].first, pair[0])):
            source, target, port, target_port, protocol, version = NAME.unpack(name)
            ends = (ipaddress.IPv6Address(end) for end in (source, target))
            texts = [str(end.ipv4_mapped if version == 4 else end) for end in ends]
            row = {"src": texts[0], "dst": texts[1], "sport": port, "dport": target_port}
            found.append(row | {"protocol": protocol} | asdict(flow))
        return found


@dataclass
class Tally:
    """What one worker of clients.demo has counted. A flow there is both directions of TCP or UDP:
    its name is the lower end, the higher end, and the protocol."""

    packets: int = 0
    octets: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    flows: Counter[bytes] = field(default_factory=Counter)

    def add(self, burst: shmpool.Burst) -> int:
        """Counts the packets of a burst, each preceded by its link type, a big-endian u2; the
        caller still owns it. Returns how many of its buffers are empty: they have no link type."""
        lengths = burst.lengths
        packets = lengths > 0
        count = int(np.count_nonzero(packets))
        self.packets += count
        self.octets += int(lengths.sum()) - LINK * count
        links = burst.column(0, ">u2")
        for link in np.unique(links[packets]).tolist():
            ours = packets & (links == link)
            if link in LINKS:
                self._add(burst.headers(LINKS[link], LINK)[ours])
            else:
                self.kinds["other"] += int(np.count_nonzero(ours))
        return len(burst) - count

    def _add(self, headers: Headers) -> None:
        other = len(headers)
        for kind, layer in KINDS.items():
            if count := int(np.count_nonzero(headers.has(layer))):
                self.kinds[kind] += count
                other -= count
        if other:
            self.kinds["other"] += other
        flow = headers.flow[headers.has(Layer.TCP) | headers.has(Layer.UDP)]
        names, counts = np.unique(flow, return_counts=True)
        for name, count in zip(names.tolist(), counts.tolist(), strict=True):
            source, target, port, target_port, protocol, _ = NAME.unpack(name)
            ends = (source + port.to_bytes(2, "big"), target + target_port.to_bytes(2, "big"))
            self.flows[min(ends) + max(ends) + bytes([protocol])] += count


def work(packets: shmpool.AlfQueue, answer: shmpool.AlfQueue) -> None:
    """A worker: counts until its queue has ended, and sends its table."""
    table = FlowTable()
    while True:
        try:
            with packets.get_many(256, timeout=TIMEOUT) as burst:
                table.add(burst.headers(), burst.timestamps)
        except shmpool.ShutDown:
            break
    answer.send(pickle.dumps(table), timeout=TIMEOUT)


def refuse_other_links(source: CaptureSource) -> None:
    """Raises ValueError if an interface that was found so far is not Ethernet."""
    for interface in source.interfaces:
        if interface.link != Link.ETHERNET:
            raise ValueError(f"{source} has packets of link type {interface.link}, not Ethernet")


def count_flows(path: Path, workers: int) -> FlowTable:
    """Counts the flows of a capture file."""
    with (
        shmpool.Pool.create(
            f"flows-{os.getpid()}",
            buffer_size=2048,
            capacity=1 << 16,
            queues=workers + 1,
            unlink_on_close=True,
        ) as pool,
        children() as start,
    ):
        queues = [pool.create_queue(f"worker-{i}", capacity=1024) for i in range(workers)]
        answer = pool.create_queue("tables", capacity=ANSWER)
        for queue in queues:
            start(work, queue, answer)
        with CaptureSource(pool, path) as source:
            for burst in source.bursts():
                refuse_other_links(source)
                burst.spread(queues, burst.flow_hash(symmetric=True, store=True), TIMEOUT)
        for queue in queues:
            queue.shutdown()
        tables = FlowTable()
        for _ in queues:
            tables.merge(pickle.loads(answer.recv(timeout=TIMEOUT)))
        return tables


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: python -m clients.flows trace.pcapng --workers 4 --json > flows.json",
)
@click.argument("capture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--workers", type=click.IntRange(1, ANSWER), default=2, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="JSON in place of CSV.")
def main(capture: Path, workers: int, as_json: bool) -> None:
    """Writes the flows of CAPTURE (pcap or pcapng, Ethernet), one a line."""
    try:
        rows = count_flows(capture, workers).rows()
    except (ValueError, OSError, shmpool.ShmpoolError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    names = ["src", "dst", "sport", "dport", "protocol", *Flow.__dataclass_fields__]
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    main()
