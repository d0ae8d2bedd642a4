# SPDX-License-Identifier: Apache-2.0
"""Measures links over NATS JetStream beside nats-py: python -m clients.bench.nats_bridge

One server, with a work-queue stream for each contestant; publisher and receiver are processes of
their own. Latency: from before a packet is sent until the receiver has it, one at a time, both
contestants by turns. Then packets a second, and the processor time of publisher and receiver
together. nats-py publishes a message for each packet, with a window of acknowledgements, and gets
them pushed.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import nats
from rich.console import Console
from rich.table import Table

import shmpool
from shmpool.bridge.config import LinkOptions
from shmpool.bridge.link import link_of

from .recovery import forked

ONE = 100  # packets of a round of the latency
WINDOW = 256  # messages of nats-py that are not acknowledged
STAMP = 8


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """Starts nats-server. Returns its host and port."""
    if not shutil.which("nats-server"):
        raise click.ClickException("nats-server is not installed: `make tools` as root")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "server.conf"
    config.write_text(f'listen: 127.0.0.1:{port}\njetstream {{ store_dir: "{folder}" }}\n')
    process = subprocess.Popen(["nats-server", "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.01)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@dataclass
class Contestant:
    """How packets are sent, and when they have come."""

    name: str
    pids: list[int]  # of publisher and receiver
    latency: Callable[[int], float]  # of one packet of that size: microseconds
    stream: Callable[[int, int], None]  # sends so many packets of that size, and receives all


def processor_s(pids: list[int]) -> float:
    """Processor time of these processes so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def ours(address: str) -> Iterator[Contestant]:
    """Two pools with a link between them."""
    names = [f"bench-nats-{side}-{os.getpid()}" for side in ("here", "there")]
    pools = [shmpool.Pool.create(name, buffer_size=2048, capacity=8192) for name in names]
    here, there = (pool.create_queue("work", capacity=2048, on_death="requeue") for pool in pools)
    stream = f"nats://{address}/ours"
    ends = [
        LinkOptions(f"{names[0]}/work", stream),
        LinkOptions(stream, f"{names[1]}/work"),
    ]

    def run(options: LinkOptions) -> Callable[[], None]:
        def run() -> None:
            link = link_of(options)
            link.start()
            link.join()

        return run

    pids = [forked(run(options)) for options in ends]

    def latency(size: int) -> float:
        began = time.perf_counter()
        here.send(bytes(size))
        there.recv()
        return (time.perf_counter() - began) * 1e6

    def moved(n: int, size: int) -> None:
        sent, received, burst = 0, 0, 64
        while received < n:
            while sent < n and sent - received < 1024:
                packets = here.pool.alloc_many(burst)
                packets.lengths = size
                here.put_many(packets)
                sent += burst
            with there.get_many(256) as got:
                received += len(got)

    try:
        yield Contestant("a link", pids, latency, moved)
    finally:
        for pid in pids:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        for name in names:
            shmpool.Pool.unlink(name)


@contextlib.contextmanager
def theirs(address: str) -> Iterator[Contestant]:
    """nats-py in two processes. They are told what to do, and tell when it came, by pipes."""
    orders, order = os.pipe()
    told, tell = os.pipe()
    pids = [
        forked(lambda: asyncio.run(receiver(address, tell))),
        forked(lambda: asyncio.run(publisher(address, orders))),
    ]
    if os.read(told, STAMP) != bytes(STAMP):
        raise click.ClickException("nats-py did not begin")

    def ask(n: int, size: int) -> None:
        os.write(order, b"%08d%08d" % (n, size))

    def latency(size: int) -> float:
        ask(1, size)
        return int.from_bytes(os.read(told, STAMP), "little") / 1000

    def moved(n: int, size: int) -> None:
        ask(n, size)
        left = n
        while left:
            left -= len(os.read(told, STAMP * 4096)) // STAMP

    try:
        yield Contestant("nats-py", pids, latency, moved)
    finally:
        for pid in pids:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        for fd in (orders, order, told, tell):
            os.close(fd)


async def publisher(address: str, orders: int) -> None:
    client = await nats.connect(f"nats://{address}")
    jet = client.jetstream()
    loop = asyncio.get_running_loop()
    while order := await loop.run_in_executor(None, os.read, orders, 16):
        n, size = int(order[:8]), int(order[8:])
        waiting: list[asyncio.Future[Any]] = []
        for i in range(n):
            stamp = time.monotonic_ns().to_bytes(STAMP, "little")
            waiting.append(await jet.publish_async("theirs", stamp + bytes(size - STAMP)))
            if i % WINDOW == WINDOW - 1:
                await asyncio.gather(*waiting)
                waiting.clear()
        await asyncio.gather(*waiting)


async def receiver(address: str, tell: int) -> None:
    client = await nats.connect(f"nats://{address}")
    jet = client.jetstream()
    await jet.add_stream(name="theirs", subjects=["theirs"], retention="workqueue")

    async def came(msg: Any) -> None:
        took = time.monotonic_ns() - int.from_bytes(msg.data[:STAMP], "little")
        os.write(tell, took.to_bytes(STAMP, "little"))
        await msg.ack()

    await jet.subscribe("theirs", durable="bench", cb=came, manual_ack=True)
    os.write(tell, bytes(STAMP))
    await asyncio.Event().wait()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=5, show_default=True, help="Rounds of each comparison.")
@click.option("--packets", default=20_000, show_default=True, help="Packets of a stream.")
def main(rounds: int, packets: int) -> None:
    """Measures links over NATS JetStream beside nats-py."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        address = stack.enter_context(server(Path(folder)))
        one, other = (stack.enter_context(kind(address)) for kind in (ours, theirs))
        table = Table("bytes", "measured", one.name, other.name, "ratio")
        for size in (64, 1500):
            late: dict[str, list[float]] = {one.name: [], other.name: []}
            for contestant in (one, other):
                contestant.latency(size)
            for _ in range(rounds):
                for contestant in (one, other):
                    taken = [contestant.latency(size) for _ in range(ONE)]
                    late[contestant.name].append(statistics.median(taken))
            row(table, size, "microseconds to the receiver", late[one.name], late[other.name])
            rates: dict[str, list[float]] = {one.name: [], other.name: []}
            costs: dict[str, list[float]] = {one.name: [], other.name: []}
            for _ in range(rounds):
                for contestant in (one, other):
                    before, began = processor_s(contestant.pids), time.perf_counter()
                    contestant.stream(packets, size)
                    rates[contestant.name].append(packets / (time.perf_counter() - began))
                    used = processor_s(contestant.pids) - before
                    costs[contestant.name].append(used / packets * 1e6)
            row(table, size, "packets a second", rates[one.name], rates[other.name])
            row(table, size, "processor microseconds a packet", costs[one.name], costs[other.name])
        console.print(table)
    console.print("Medians of rounds; the ratio is the median of those of each round.")


def row(table: Table, size: int, what: str, one: list[float], other: list[float]) -> None:
    ratio = statistics.median(a / b for a, b in zip(one, other, strict=True))
    figures = [f"{statistics.median(values):,.1f}" for values in (one, other)]
    table.add_row(str(size), what, *figures, f"{ratio:.2f}")


if __name__ == "__main__":
    main()
