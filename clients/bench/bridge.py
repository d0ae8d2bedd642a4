# SPDX-License-Identifier: Apache-2.0
"""What a bridge costs over loopback: python -m clients.bench.bridge.

Two processes `shmpool bridge` move packets from one pool to another. Beside them two processes with
plain pyzmq send one message for each burst from a DEALER to a ROUTER socket, with the same window
and acknowledgements; they have no pool and copy nothing into one. Processor time is that of the two
processes.
"""

import contextlib
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import click
import zmq

import shmpool

from ..children import Start, children, uninterrupted
from .turns import compare, processor_seconds

BURST = 65536  # bytes
WINDOW, ACK_EVERY = 16, 4  # bursts, as the bridge has it
KINDS = {"bursts of one buffer of 64 KiB": 65536, "packets of 1500 B": 1500, "packets of 64 B": 64}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Bridged:
    """Two pools, and a bridge at each."""

    def __init__(self, size: int) -> None:
        stem = f"bench-bridge-{os.getpid()}"
        self.size, count = size, max(16 * WINDOW * BURST // size, 256)
        capacity = 1 << (2 * count).bit_length()
        self.pools = [
            shmpool.Pool.create(
                f"{stem}-{end}",
                buffer_size=size,
                capacity=capacity,
                prealloc=capacity,
                unlink_on_close=True,
            )
            for end in "ab"
        ]
        self.source, self.target = (
            pool.create_queue("work", capacity=count, on_death="requeue") for pool in self.pools
        )
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, folder: Path) -> None:
        """Starts the bridges. Returns when a packet has come through."""
        address = f"zmq://127.0.0.1:{free_port()}/work"
        here, there = (f"{pool.name}/work" for pool in self.pools)
        for name, (taken, to) in {"b": (address, there), "a": (here, address)}.items():
            config = folder / f"{name}.toml"
            config.write_text(f'[[link]]\nfrom = "{taken}"\nto = "{to}"\nwindow = {WINDOW}\n')
            command = [sys.executable, "-m", "shmpool", "bridge", "--config", str(config)]
            with uninterrupted():
                self._processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        self.one()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def move(self, bursts: int) -> None:
        """Puts so many bursts at one end and takes them at the other."""
        each = max(BURST // self.size, 1)
        left = there = bursts * each
        while there:
            with contextlib.suppress(shmpool.Full, shmpool.PoolExhausted):
                while left:
                    n = min(each, left)
                    with self.pools[0].alloc_many(n, 0) as burst:
                        burst.lengths = self.size
                        self.source.put_many(burst, 0)
                    left -= n
            with contextlib.suppress(shmpool.Empty), self.target.get_many(1024, 0.01) as burst:
                there -= len(burst)

    def one(self) -> None:
        """Moves one packet of 64 bytes."""
        self.source.send(bytes(64))
        self.target.get(30).free()

    def close(self) -> None:
        with uninterrupted():  # a second Ctrl-C: they do not see it
            for process in self._processes:
                process.terminate()
            for process in self._processes:
                process.wait()
        for pool in self.pools:
            pool.close()


@contextlib.contextmanager
def bridged(size: int) -> Iterator[Bridged]:
    """Two pools with running bridges, which end with the block."""
    found = Bridged(size)
    with tempfile.TemporaryDirectory() as folder:
        try:
            found.start(Path(folder))
            yield found
        finally:
            found.close()


class Plain:
    """Two processes with plain pyzmq."""

    def __init__(self, start: Start, size: int) -> None:
        self._pipes, self._processes, port = [], [], free_port()
        for main in (receive, send):
            mine, theirs = multiprocessing.get_context("spawn").Pipe()
            self._pipes.append(mine)
            self._processes.append(start(main, theirs, port, size))

    @property
    def pids(self) -> list[int]:
        return [process.pid or 0 for process in self._processes]

    def move(self, bursts: int) -> None:
        for pipe in self._pipes:
            pipe.send(bursts)
        for pipe in self._pipes:
            pipe.recv()


def send(pipe: Connection, port: int, size: int) -> None:
    """Sends as many messages as it is told, with a window."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.connect(f"tcp://127.0.0.1:{port}")
        payload = bytes(size)
        while True:
            n = pipe.recv()
            unacknowledged = 0
            for _ in range(n):
                while unacknowledged >= WINDOW:
                    unacknowledged -= int(sock.recv())
                sock.send(payload)
                unacknowledged += 1
            while unacknowledged:
                unacknowledged -= int(sock.recv())
            pipe.send(True)


def receive(pipe: Connection, port: int, _size: int) -> None:
    """Receives as many messages as it is told, and acknowledges them."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as sock:
        sock.bind(f"tcp://127.0.0.1:{port}")
        while True:
            n = pipe.recv()
            pending = 0
            for i in range(n):
                route = sock.recv()
                sock.recv(copy=False)
                pending += 1
                if pending == ACK_EVERY or i == n - 1:
                    sock.send_multipart([route, b"%d" % pending])
                    pending = 0
            pipe.send(True)


def echo(port: int) -> None:
    """Returns each message to its sender."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as sock:
        sock.bind(f"tcp://127.0.0.1:{port}")
        while True:
            sock.send_multipart(sock.recv_multipart())


@contextlib.contextmanager
def echoing() -> Iterator[Callable[[], object]]:
    """A call that sends a packet of 64 bytes to another process, and has it back."""
    port = free_port()
    with children() as start, zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        start(echo, port)
        sock.connect(f"tcp://127.0.0.1:{port}")
        yield lambda: (sock.send(bytes(64)), sock.recv())


@contextlib.contextmanager
def contestants(size: int) -> Iterator[dict[str, Bridged | Plain]]:
    with bridged(size) as ours, children() as start:
        yield {"shmpool": ours, "plain pyzmq": Plain(start, BURST)}


def cost(one: Bridged | Plain, bursts: int) -> tuple[float, float]:
    """Returns seconds, and seconds of processor time, for each burst."""
    before, begin = processor_seconds(one.pids), time.perf_counter()
    one.move(bursts)
    return (time.perf_counter() - begin) / bursts, (processor_seconds(one.pids) - before) / bursts


def latency(call: Callable[[], object], n: int) -> float:
    """Returns the median of the microseconds that a call takes."""
    took = []
    for _ in range(n):
        begin = time.perf_counter_ns()
        call()
        took.append(time.perf_counter_ns() - begin)
    return statistics.median(took) / 1000


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--turns", default=5, show_default=True, help="Of each contestant, for each kind.")
@click.option("--bursts", default=3000, show_default=True, help="In each turn.")
def main(turns: int, bursts: int) -> None:
    """Compare a bridge with plain pyzmq: a burst of 64 KiB, and one packet at a time."""
    for kind, size in KINDS.items():
        with contestants(size) as found:
            for one in found.values():
                one.move(bursts // 10 + 1)
            compare(f"64 KiB: {kind}", found, turns, lambda name: cost(found[name], bursts))
    with bridged(64) as pools, echoing() as there_and_back:
        ours, theirs = [], []
        for _ in range(turns):
            ours.append(latency(pools.one, 300))
            theirs.append(latency(there_and_back, 300) / 2)
        ratio = statistics.median(o / t for o, t in zip(ours, theirs, strict=True))
        click.echo("one packet of 64 B at a time, medians until the other side has it")
        click.echo(f"  shmpool              {statistics.median(ours):10,.1f} us, from put to get")
        click.echo(f"  plain pyzmq          {statistics.median(theirs):10,.1f} us, half of an echo")
        click.echo(f"  shmpool takes {ratio:.1f} times as long")


if __name__ == "__main__":
    main()
