# SPDX-License-Identifier: Apache-2.0
"""Measures what receiving and forwarding packets costs: python -m clients.bench.net, as root

A program in C sends packets through a veth pair as fast as it can. The contestants take turns to
receive them and drop them, to pass them on to another process, and to forward them through a second
pair. Everything is in a network namespace of its own, which goes with the process. Two figures: the
processor time of the receiver for a packet, from the first packet on, which depends little on what
else the machine does; and the rate, which is that of the machine as it is. The kernel's work for a
packet on a veth pair is done in the sender's processor time, so forwarding has that of the second
pair.
"""

import ctypes
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import click

from .building import NATIVE, built
from .net_contestants import (
    OUT,
    Clock,
    Contestant,
    Figures,
    forward_bytes,
    forward_scapy,
    forward_shmpool,
    queue_bytes,
    queue_shmpool,
    receive_bytes,
    receive_pcapy,
    receive_scapy,
    receive_shmpool,
)

PROGRAM = NATIVE / "build" / "gcc" / "net_receive"
NEWNET = 0x40000000
ONLY = "C, only receives"
C_PROGRAMS = {ONLY: "receive", "C, malloc'ed buffers": "malloc", "C, forwards": "forward"}
PYTHON: dict[str, Contestant] = {
    "shmpool": receive_shmpool,
    "recv_into and bytes": receive_bytes,
    "pcapy-ng": receive_pcapy,
    "scapy's sniffer": receive_scapy,
    "shmpool, queue": queue_shmpool,
    "multiprocessing.Queue": queue_bytes,
    "shmpool, header columns": forward_shmpool,
    "a bytearray for each": forward_bytes,
    "scapy, forwards": forward_scapy,
}
# What is compared with what; the first one of each is shmpool.
PARTS = {
    "drop": (
        *("shmpool", ONLY, "C, malloc'ed buffers"),
        *("recv_into and bytes", "pcapy-ng", "scapy's sniffer"),
    ),
    "queue": ("shmpool, queue", "multiprocessing.Queue"),
    "forward": (
        *("shmpool, header columns", "C, forwards"),
        *("a bytearray for each", "scapy, forwards"),
    ),
}
MODULES = {"scapy": "scapy.sendrecv", "pcapy": "pcapy"}


def command(name: str, seconds: float) -> list[str]:
    """What receives in that way at the interface that is sent to."""
    if name in PYTHON:
        module = [sys.executable, "-m", "clients.bench.net"]
        return [*module, "--receive", name, "--seconds", str(seconds)]
    out = [OUT] if C_PROGRAMS[name] == "forward" else []
    return [str(PROGRAM), C_PROGRAMS[name], "veth1", str(seconds), *out]


def installed(name: str) -> bool:
    """Whether the contestant's library can be imported; says so if not."""
    module = next((module for start, module in MODULES.items() if name.startswith(start)), "os")
    done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True)
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
        "link add veth2 type veth peer name veth3",
        *(f"link set veth{i} up" for i in range(4)),
    ):
        subprocess.run(["ip", *what.split()], check=True)


def flooded(receives: list[str], size: int) -> list[int]:
    """The numbers that a receiver prints, while packets of that size come to it."""
    # Threads of numpy's library spin for 30 ms after their start: that is no receiver's time.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(receives, stdout=subprocess.PIPE, text=True, env=environment) as receiver:
        sender = subprocess.Popen([PROGRAM, "send", "veth0", str(size)])
        try:
            said, _ = receiver.communicate(timeout=60)
        finally:
            sender.kill()
            sender.wait()
            receiver.kill()
    return [int(word) for word in said.split()]


def measure(names: list[str], size: int, turns: int, seconds: float) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {name: [] for name in names}
    for _ in range(turns):
        for name, figures in found.items():
            packets, used, took, dropped = flooded(command(name, seconds), size)
            figures.append((packets, used, took, dropped))
    return found


def report(found: dict[str, list[Figures]], size: int) -> None:
    """Prints medians, and the medians of the ratios of each turn."""
    click.echo(f"{size} B (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors)")
    for part, names in PARTS.items():
        if names[0] not in found:
            continue
        for name in filter(found.__contains__, names):
            each, ours = costs(found[name]), costs(found[names[0]])
            rate = statistics.median(rates(found[name]))
            ratio = statistics.median(e / o for e, o in zip(each, ours, strict=True))
            share = statistics.median(
                r / most for r, most in zip(rates(found[name]), rates(found[ONLY]), strict=True)
            )
            click.echo(
                f"  {part:8}{name:24}{statistics.median(each):8,.0f} ns of processor a packet"
                f"{ratio:8.2f} x shmpool's{rate / 1e6:8.3f} M/s {share:6.3f} x {ONLY}"
            )


def costs(figures: list[Figures]) -> list[float]:
    return [used / max(packets, 1) for packets, used, _, _ in figures]


def rates(figures: list[Figures]) -> list[float]:
    return [packets / took * 1e9 for packets, _, took, _ in figures]


@click.command(epilog="Example: python -m clients.bench.net --size 60 --part forward --turns 5")
@click.option("--size", "sizes", multiple=True, type=click.IntRange(42, 1514), help="Bytes.")
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Not all.")
@click.option("--turns", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.01, 60), default=0.5, show_default=True)
@click.option("--receive", type=click.Choice(list(PYTHON)), hidden=True)
def main(
    sizes: tuple[int, ...],
    parts: tuple[str, ...],
    turns: int,
    seconds: float,
    receive: str | None,
) -> None:
    """Compares what receiving, passing on and forwarding a packet costs."""
    if receive is not None:
        click.echo(" ".join(map(str, PYTHON[receive]("veth1", Clock(seconds)))))
        return
    built("net_receive")
    wanted = [ONLY, *(name for part in parts or PARTS for name in PARTS[part])]
    names = [name for name in dict.fromkeys(wanted) if installed(name)]
    make_interfaces()
    for size in sizes or (60, 512, 1500):
        report(measure(names, size, turns, seconds), size)


if __name__ == "__main__":
    main()
