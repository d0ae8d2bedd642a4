# SPDX-License-Identifier: Apache-2.0
"""Flows of packets, counted by several workers: python -m clients.flows eth0 --json

One process receives packets of an interface or a file, hashes their flows and spreads each burst
over the workers' queues, so that both directions of a flow come to one worker. A worker has a table
of its flows. They are written as CSV or JSON, a line for each flow and direction, as NetFlow has
them: a flow without a packet for --inactive seconds, and what a flow had when it is --active
seconds old; the others at the end. No Python for a packet: numpy sums a burst's columns by flow.

Time is that of the packets. A worker whose queue is full delays nobody: at an interface its packets
are dropped and counted.
"""

import csv
import ipaddress
import json
import os
import pickle
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

import shmpool
from shmpool.net import CaptureSource, PacketSource
from shmpool.net.headers import Headers, Layer, Link

from .children import children
from .rates import WAIT_S, Rates, ended_by_ctrl_c, latency_option, running

ANSWER = 64  # capacity of the queue for a worker's table
TIMEOUT = 300.0  # s: a process that waits for so long for another one gives up
SECOND_NS = 1_000_000_000
NAME = struct.Struct("=16s16sHHBB")  # headers.flow


@dataclass
class Flow:
    """One direction of a flow."""

    packets: int = 0
    octets: int = 0  # of IP packets
    first: int = 2**63 - 1  # ns since 1970
    last: int = 0
    tcp_flags: int = 0  # of all its packets


class Timeouts(NamedTuple):
    """When flows are written before the end, in seconds; None: they are not."""

    active: float | None
    inactive: float | None
    live: bool  # time passes without packets too


class Record(NamedTuple):
    """What is written of a flow."""

    name: bytes
    flow: Flow
    ended: str  # "active", "inactive" or "end"

    def row(self) -> dict[str, Any]:
        source, target, port, target_port, protocol, version = NAME.unpack(self.name)
        ends = (ipaddress.IPv6Address(end) for end in (source, target))
        texts = [str(end.ipv4_mapped if version == 4 else end) for end in ends]
        row = {"src": texts[0], "dst": texts[1], "sport": port, "dport": target_port}
        return row | {"protocol": protocol} | asdict(self.flow) | {"ended": self.ended}


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

    def expire(self, now: int, timeouts: Timeouts) -> list[Record]:
        """Takes the flows out whose time is up."""
        found = []
        for name, flow in self.items():
            for ended, since, seconds in (
                ("inactive", flow.last, timeouts.inactive),
                ("active", flow.first, timeouts.active),
            ):
                if seconds is not None and now - since >= seconds * SECOND_NS:
                    found.append(Record(name, flow, ended))
                    break
        for record in found:
            del self[record.name]
        return found

    def rest(self) -> list[Record]:
        return [Record(name, flow, "end") for name, flow in self.items()]


def by_second(times: NDArray[np.int64]) -> Iterator[slice]:
    """Divides a burst where its packets' time goes on by a second: a file's may have hours."""
    edges = np.flatnonzero(np.diff(times // SECOND_NS)) + 1
    starts = [0, *edges.tolist()]
    yield from map(slice, starts, [*starts[1:], len(times)])


def work(packets: shmpool.AlfQueue, answer: shmpool.AlfQueue, timeouts: Timeouts) -> None:
    """A worker: counts until its queue has ended. Sends lists of records whose time was up, and at
    the end its table."""
    table = FlowTable()
    due = 0  # when to search the table

    def expire(now: int) -> None:
        nonlocal due
        if now >= due:
            due = now + SECOND_NS
            if found := table.expire(now, timeouts):
                answer.send(pickle.dumps(found), timeout=TIMEOUT)

    while True:
        try:
            with packets.get_many(256, timeout=0.5 if timeouts.live else TIMEOUT) as burst:
                headers, times = burst.headers(), burst.timestamps
                for part in by_second(times):
                    expire(int(times[part][0]))
                    table.add(headers[part], times[part])
        except shmpool.Empty:
            if not timeouts.live:
                raise
            expire(time.time_ns())
        except shmpool.ShutDown:
            break
    answer.send(pickle.dumps(table), timeout=TIMEOUT)


def refuse_other_links(source: CaptureSource) -> None:
    """Raises ValueError if an interface that was found so far is not Ethernet."""
    for interface in source.interfaces:
        if interface.link != Link.ETHERNET:
            raise ValueError(f"{source} has packets of link type {interface.link}, not Ethernet")


class Counting:
    """The workers of one run: they are given bursts, and give records."""

    def __init__(self, pool: shmpool.Pool, workers: int, wait: bool) -> None:
        self.queues = [pool.create_queue(f"worker-{i}", capacity=4096) for i in range(workers)]
        self.answer = pool.create_queue("records", capacity=ANSWER)
        self.dropped = 0
        self._wait = wait
        self._rest = FlowTable()
        self._ended = 0
        self._found: list[Record] = []

    def spread(self, burst: shmpool.Burst) -> None:
        hashes = burst.flow_hash(symmetric=True, store=True)
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                burst.spread(self.queues, hashes, 0.1 if self._wait else 0)
            except shmpool.Full:
                if not self._wait:
                    self.dropped += len(burst)
                    burst.free()
                    return
                if time.monotonic() > deadline:
                    raise
            else:
                return
            # A worker may wait for room for its records; take them.
            self._found += self.records()
            hashes = burst.flow_hashes

    def records(self) -> Iterator[Record]:
        """Those that are there."""
        found, self._found = self._found, []
        yield from found
        while (data := self.answer.try_recv()) is not None:
            yield from self._records_of(data)

    def last_records(self) -> Iterator[Record]:
        """Ends the workers, and yields the rest."""
        for queue in self.queues:
            queue.shutdown()
        while self._ended < len(self.queues):
            yield from self._records_of(self.answer.recv(timeout=TIMEOUT))
        yield from self._rest.rest()

    def _records_of(self, data: bytes) -> Iterator[Record]:
        found = pickle.loads(data)
        if isinstance(found, FlowTable):
            self._rest.merge(found)
            self._ended += 1
        else:
            yield from found


def count_file(path: Path, workers: int, timeouts: Timeouts) -> list[Record]:
    """Counts the flows of a capture file. Returns them, the earliest first."""
    with _pool(workers) as pool, children() as start:
        counting = Counting(pool, workers, wait=True)
        for queue in counting.queues:
            start(work, queue, counting.answer, timeouts)
        found: list[Record] = []
        with CaptureSource(pool, path) as source:
            for burst in source.bursts():
                refuse_other_links(source)
                counting.spread(burst)
                found += counting.records()
        found += counting.last_records()
    return sorted(found, key=lambda record: (record.flow.first, record.name))


def count_interface(
    interface: str,
    workers: int,
    timeouts: Timeouts,
    filter_: str | None,
    latency: float,
    writer: "Writer",
) -> None:
    """Writes the flows of an interface, as they end, until Ctrl-C."""
    rates, missed = Rates(quiet=True), 0
    with _pool(workers) as pool, children() as start:
        counting = Counting(pool, workers, wait=False)
        for queue in counting.queues:
            start(work, queue, counting.answer, timeouts)
        with (
            running(rates),
            PacketSource(pool, interface, filter=filter_, latency=latency, outgoing=True) as source,
            ended_by_ctrl_c(source, latency) as ending,
        ):
            came = False
            while not ending.over(waiting=came):
                try:
                    burst = source.get_many(timeout=WAIT_S)
                except shmpool.Empty:
                    came = False
                except shmpool.ShutDown:
                    break
                else:
                    came = True
                    rates.add(len(burst), int(burst.lengths.sum()))
                    counting.spread(burst)
                writer.write(counting.records())
            missed = source.statistics().dropped
        writer.write(counting.last_records())
        for n, what in ((counting.dropped, "queue"), (missed, "the kernel's ring")):
            if n:
                click.echo(f"{n:,} packets were dropped: {what} full", err=True)


def _pool(workers: int) -> shmpool.Pool:
    return shmpool.Pool.create(
        f"flows-{os.getpid()}",
        buffer_size=2048,
        capacity=1 << 16,
        queues=workers + 1,
        unlink_on_close=True,
    )


class Writer:
    """Writes records as lines of CSV, or as JSON objects, one a line."""

    def __init__(self, as_json: bool) -> None:
        self._csv: csv.DictWriter[str] | None = None
        if not as_json:
            names = ["src", "dst", "sport", "dport", "protocol"]
            names += [*Flow.__dataclass_fields__, "ended"]
            self._csv = csv.DictWriter(sys.stdout, names, lineterminator="\n")
            self._csv.writeheader()

    def write(self, records: Iterator[Record]) -> None:
        for record in records:
            if self._csv is not None:
                self._csv.writerow(record.row())
            else:
                click.echo(json.dumps(record.row()))
        sys.stdout.flush()


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: python -m clients.flows trace.pcapng --workers 4 --json > flows.json",
)
@click.argument("name", metavar="CAPTURE_OR_INTERFACE")
@click.option("--workers", type=click.IntRange(1, ANSWER), default=2, show_default=True)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="JSON in place of CSV; of an interface, an object a line.",
)
@click.option(
    "--active",
    type=click.FloatRange(0, min_open=True),
    help="Writes a flow that is so"
    " many seconds old, and counts on from 0; of an interface 60 unless given.",
)
@click.option(
    "--inactive",
    type=click.FloatRange(0, min_open=True),
    help="Writes a flow without a packet for so many seconds; of an interface 15 unless given.",
)
@click.option("--filter", "filter_", help="An expression of tcpdump's language (interface).")
@latency_option
def main(
    name: str,
    workers: int,
    as_json: bool,
    active: float | None,
    inactive: float | None,
    filter_: str | None,
    latency: float,
) -> None:
    """Writes the flows of CAPTURE_OR_INTERFACE (pcap or pcapng; Ethernet), one a line."""
    try:
        if Path(name).exists():
            records = count_file(Path(name), workers, Timeouts(active, inactive, live=False))
            if as_json:
                click.echo(json.dumps([record.row() for record in records], indent=1))
            else:
                Writer(as_json).write(iter(records))
            return
        timeouts = Timeouts(active or 60, inactive or 15, live=True)
        count_interface(name, workers, timeouts, filter_, latency, Writer(as_json))
    except (ValueError, OSError, shmpool.ShmpoolError) as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
