# SPDX-License-Identifier: Apache-2.0
"""Measures what receiving packets costs: python -m clients.bench.net, as root

A program in C sends packets through a veth pair as fast as it can, and the contestants take turns
to receive them and drop them. Everything is in a network namespace of its own, which goes with the
process. The figure is the receiver's processor time for a packet, from the first packet on: it
depends little on what else the machine does. The kernel's work for a packet on a veth pair is done
in the sender's processor time.
"""

import ctypes
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

import shmpool
from shmpool.net import PacketSource

from .building import NATIVE, built

PROGRAM = NATIVE / "build" / "gcc" / "net_receive"
NEWNET = 0x40000000
POOL = "shmpool"
ONLY, MALLOC, BYTES = "C, only receives", "C, malloc'ed buffers", "recv_into and bytes"
SCAPY, PCAPY = "scapy's sniffer", "pcapy-ng"
Figures = tuple[int, int, int, int]  # packets, ns of processor time, ns, dropped


class Clock:
    """Begins with the first packet."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.packets = 0
        self.began = self.used = 0

    def more(self, packets: int) -> bool:
        """Counts packets. False when the time is up."""
        if not self.began:
            self.began, self.used = time.monotonic_ns(), time.process_time_ns()
            return True
        self.packets += packets
        return time.monotonic_ns() - self.began < self.seconds * 1e9

    def figures(self, dropped: int = 0) -> Figures:
        used, took = time.process_time_ns() - self.used, time.monotonic_ns() - self.began
        return self.packets, used, took, dropped


def receive_shmpool(interface: str, clock: Clock) -> Figures:
    with (
        shmpool.Pool.create(None, buffer_size=2048, capacity=4096) as pool,
        PacketSource(pool, interface) as source,
    ):
        for burst in source.bursts():
            n = len(burst)
            burst.free()
            if not clock.more(n):
                break
        return clock.figures(source.statistics().dropped)


def receive_bytes(interface: str, clock: Clock) -> Figures:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((interface, 3))
        room = bytearray(2048)
        view = memoryview(room)
        n = sock.recv_into(room)
        while clock.more(1):
            for _ in range(256):
                n = sock.recv_into(room)
                bytes(view[:n])
            clock.packets += 255
        return clock.figures()


def receive_scapy(interface: str, clock: Clock) -> Figures:
    from scapy.config import conf
    from scapy.sendrecv import sniff

    conf.logLevel = 40
    sniff(iface=interface, store=False, stop_filter=lambda packet: not clock.more(1))
    return clock.figures()


def receive_pcapy(interface: str, clock: Clock) -> Figures:
    import pcapy

    reader = pcapy.open_live(interface, 2048, 0, 1)
    while True:
        header, packet = reader.next()
        if header is not None and not clock.more(1):
            return clock.figures()
        del packet


PYTHON: dict[str, Callable[[str, Clock], Figures]] = {
    POOL: receive_shmpool,
    BYTES: receive_bytes,
    PCAPY: receive_pcapy,
    SCAPY: receive_scapy,
}
MODULES = {SCAPY: "scapy.sendrecv", PCAPY: "pcapy"}


def command(name: str, seconds: float) -> list[str]:
    """What receives in that way at the interface that is sent to."""
    if name in PYTHON:
        module = [sys.executable, "-m", "clients.bench.net"]
        return [*module, "--receive", name, "--seconds", str(seconds)]
    return [str(PROGRAM), "malloc" if name == MALLOC else "receive", "veth1", str(seconds)]


def installed(name: str) -> bool:
    """Whether the contestant's library can be imported; says so if not."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {MODULES.get(name, 'shmpool')}"], capture_output=True
    )
    if done.returncode:
        click.echo(f"{name} is left out: it is not installed")
    return not done.returncode


def make_interfaces() -> None:
    """Puts this process into a new network namespace with a veth pair."""
    if ctypes.CDLL(None, use_errno=True).unshare(NEWNET):
        raise click.ClickException(
            f"needs root, for a network namespace: {os.strerror(ctypes.get_errno())}"
        )
    if not shutil.which("ip"):
        raise click.ClickException("needs iproute2")
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    for what in (
        "link add veth0 type veth peer name veth1",
        "link set veth0 up",
        "link set veth1 up",
    ):
        subprocess.run(["ip", *what.split()], check=True)


def measure(names: list[str], size: int, turns: int, seconds: float) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {name: [] for name in names}
    for _ in range(turns):
        for name, figures in found.items():
            with subprocess.Popen(
                command(name, seconds), stdout=subprocess.PIPE, text=True
            ) as receiver:
                sender = subprocess.Popen([PROGRAM, "send", "veth0", str(size)])
                try:
                    said, _ = receiver.communicate(timeout=60)
                finally:
                    sender.kill()
                    sender.wait()
                    receiver.kill()
            packets, used, took, dropped = map(int, said.split())
            figures.append((packets, used, took, dropped))
    return found


def report(found: dict[str, list[Figures]], size: int) -> None:
    """Prints medians, and the medians of the ratios of each turn."""
    click.echo(f"{size} B (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors)")
    ours = [used / packets for packets, used, _, _ in found[POOL]]
    for name, figures in found.items():
        each = [used / packets for packets, used, _, _ in figures]
        rate = statistics.median(packets / took * 1e9 for packets, _, took, _ in figures)
        ratio = statistics.median(e / o for e, o in zip(each, ours, strict=True))
        click.echo(
            f"  {name:22} {statistics.median(each):8,.0f} ns of processor a packet"
            f"  {rate / 1e6:6.2f} M/s received  {ratio:6.2f} x shmpool's processor time"
        )


@click.command(epilog="Example: python -m clients.bench.net --size 60 --size 1500 --turns 5")
@click.option("--size", "sizes", multiple=True, type=click.IntRange(18, 1514), help="Bytes.")
@click.option("--turns", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.01, 60), default=0.5, show_default=True)
@click.option("--receive", type=click.Choice(list(PYTHON)), hidden=True)
def main(sizes: tuple[int, ...], turns: int, seconds: float, receive: str | None) -> None:
    """Compares what receiving and dropping a packet costs."""
    if receive is not None:
        click.echo(" ".join(map(str, PYTHON[receive]("veth1", Clock(seconds)))))
        return
    built("net_receive")
    names = [name for name in (POOL, ONLY, MALLOC, BYTES, PCAPY, SCAPY) if installed(name)]
    make_interfaces()
    for size in sizes or (60, 512, 1500):
        report(measure(names, size, turns, seconds), size)


if __name__ == "__main__":
    main()
