# SPDX-License-Identifier: Apache-2.0
"""Measures AF_XDP against AF_PACKET on a veth pair: python -m clients.bench.net_xdp, as root

The same turns as clients.bench.net: a program in C floods the pair, the contestants receive bursts
and free them, and the figure is the receiver's processor time for a packet. On veth the kernel
copies each packet for both. For AF_XDP it does so in the sender's processor time, as it does the
program's work, so the sender's rate is given too.
"""

import os
import statistics
import sys
import time

import click

import shmpool
from shmpool.net import PacketSource, Source, XdpSocket

from . import net
from .building import built

CONTESTANTS = ("AF_PACKET", "AF_XDP, in the driver", "AF_XDP, generic")


def opened(name: str, pool: shmpool.Pool, interface: str) -> Source:
    if name == CONTESTANTS[0]:
        return PacketSource(pool, interface)
    return XdpSocket(pool, interface, mode="generic" if name == CONTESTANTS[2] else "native")


def receive(name: str, interface: str, seconds: float) -> str:
    """Receives for so long from the first packet on. Packets, ns of processor time, ns, dropped."""
    with (
        shmpool.Pool.create(None, buffer_size=2048, capacity=8192, prealloc=8192) as pool,
        opened(name, pool, interface) as source,
    ):
        source.get_many().free()
        before = source.statistics()
        began, used, packets = time.monotonic_ns(), time.process_time_ns(), 0
        while time.monotonic_ns() < began + seconds * 1e9:
            burst = source.get_many()
            packets += len(burst)
            burst.free()
        used, took = time.process_time_ns() - used, time.monotonic_ns() - began
        dropped = source.statistics().dropped - before.dropped
    return f"{packets} {used} {took} {dropped}"


def turn(name: str, size: int, seconds: float) -> list[int]:
    module = [sys.executable, "-m", "clients.bench.net_xdp", "--receive", name]
    return net.flooded([*module, "--seconds", str(seconds)], size)


@click.command(epilog="Example: python -m clients.bench.net_xdp --size 60 --turns 5")
@click.option("--size", "sizes", multiple=True, type=click.IntRange(18, 1514), help="Bytes.")
@click.option("--turns", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.01, 60), default=0.5, show_default=True)
@click.option("--receive", "one", type=click.Choice(CONTESTANTS), hidden=True)
def main(sizes: tuple[int, ...], turns: int, seconds: float, one: str | None) -> None:
    """Compares what receiving a packet costs through AF_XDP and through AF_PACKET."""
    if one is not None:
        click.echo(receive(one, "veth1", seconds))
        return
    built("net_receive")
    net.make_interfaces()
    for size in sizes or (60, 512, 1500):
        found: dict[str, list[list[int]]] = {name: [] for name in CONTESTANTS}
        for _ in range(turns):
            for name, figures in found.items():
                figures.append(turn(name, size, seconds))
        click.echo(f"{size} B (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors)")
        first = [used / packets for packets, used, _, _ in found[CONTESTANTS[0]]]
        for name, figures in found.items():
            each = [used / packets for packets, used, _, _ in figures]
            rate = statistics.median(packets / took * 1e3 for packets, _, took, _ in figures)
            sent = statistics.median((n + lost) / took * 1e3 for n, _, took, lost in figures)
            ratio = statistics.median(e / f for e, f in zip(each, first, strict=True))
            click.echo(
                f"  {name:22} {statistics.median(each):7,.0f} ns of processor a packet"
                f"  {rate:6.2f} M/s received of {sent:6.2f}  {ratio:5.2f} x AF_PACKET's"
            )


if __name__ == "__main__":
    main()
