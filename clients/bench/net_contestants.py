# SPDX-License-Identifier: Apache-2.0
"""What receives, passes on or forwards packets in Python, for clients.bench.net.

Each is called with the interface that it receives at and a Clock, and counts until the time is up.
Those that forward send to `veth2`.
"""

import contextlib
import ipaddress
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import shmpool
from shmpool.net import PacketSink, PacketSource

from ..children import children
from ..forward import Counts, forward
from ..routes import Table

OUT = "veth2"
END = b""
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


def _pool() -> shmpool.Pool:
    return shmpool.Pool.create(None, buffer_size=2048, capacity=4096)


def _socket(interface: str, protocol: int) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind((interface, protocol))
    return sock


def receive_shmpool(interface: str, clock: Clock) -> Figures:
    with _pool() as pool, PacketSource(pool, interface) as source:
        for burst in source.bursts():
            n = len(burst)
            burst.free()
            if not clock.more(n):
                break
        return clock.figures(source.statistics().dropped)


def receive_bytes(interface: str, clock: Clock) -> Figures:
    with _socket(interface, 3) as sock:
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


@contextlib.contextmanager
def _running(work: Callable[[Any, Any], None], given: Any) -> Iterator[BaseProcess]:
    """Runs a process, which is ready when the block begins."""
    ready = multiprocessing.get_context("spawn").Event()
    with children() as start:
        process = start(work, ready, given)
        ready.wait()
        yield process


def _take_bursts(ready: Any, name: str) -> None:
    with shmpool.Pool.attach(name) as pool, contextlib.suppress(shmpool.ShutDown):
        queue = pool.queue("packets")
        ready.set()
        while True:
            queue.get_many(256).free()


def queue_shmpool(interface: str, clock: Clock) -> Figures:
    """Puts bursts into a queue, from which another process takes them."""
    name = f"bench-net-{os.getpid()}"
    with shmpool.Pool.create(name, buffer_size=2048, capacity=4096, unlink_on_close=True) as pool:
        queue = pool.create_queue("packets", capacity=2048)
        with _running(_take_bursts, name) as child:
            with PacketSource(pool, interface) as source:
                for burst in source.bursts():
                    n = len(burst)
                    queue.put_many(burst)
                    if not clock.more(n):
                        break
                figures = clock.figures(source.statistics().dropped)
            queue.shutdown()
            child.join()
    return figures


def _take_objects(ready: Any, queue: Any) -> None:
    ready.set()
    while queue.get() != END:
        pass


def queue_bytes(interface: str, clock: Clock) -> Figures:
    """The same with recv_into and multiprocessing.Queue."""
    queue = multiprocessing.get_context("spawn").Queue(2048)
    with contextlib.closing(queue), _running(_take_objects, queue) as child:
        queue.cancel_join_thread()  # nobody may read what is left after Ctrl-C
        with _socket(interface, 3) as sock:
            room = bytearray(2048)
            view = memoryview(room)
            n = sock.recv_into(room)
            while clock.more(1):
                for _ in range(64):
                    n = sock.recv_into(room)
                    queue.put(bytes(view[:n]))
                clock.packets += 63
            figures = clock.figures()
        queue.put(END)
        child.join()
    return figures


def forward_shmpool(interface: str, clock: Clock) -> Figures:
    """clients.forward: header columns, a table of routes."""
    table = Table(
        ["198.51.100.0/24=02:00:00:00:00:64", "203.0.113.0/24=02:00:00:00:00:65"],
        bytes.fromhex("020000000002"),
    )
    counts = Counts()
    with (
        _pool() as pool,
        PacketSource(pool, interface) as source,
        PacketSink(pool, OUT) as sink,
    ):
        for burst in source.bursts():
            before = counts.forwarded
            forward(burst, table, sink, counts)
            if not clock.more(counts.forwarded - before):
                break
        return clock.figures(source.statistics().dropped)


def forward_bytes(interface: str, clock: Clock) -> Figures:
    """A new object for each packet, and a dict of networks."""
    routes = {ipaddress.IPv4Address("198.51.100.0").packed[:3]: bytes.fromhex("020000000064")}
    own = bytes.fromhex("020000000002")
    with _socket(interface, 3) as source, _socket(OUT, 0) as sink:
        room = bytearray(2048)
        view = memoryview(room)
        while clock.more(1):
            n = source.recv_into(room)
            packet = bytearray(view[:n])
            if packet[12:14] != b"\x08\0" or packet[22] < 2:
                continue
            target = routes.get(bytes(packet[30:33]))
            if target is None:
                continue
            packet[0:6], packet[6:12] = target, own
            packet[22] -= 1
            total = (~int.from_bytes(packet[24:26], "big") & 0xFFFF) + 0xFEFF
            total = (total & 0xFFFF) + (total >> 16)
            packet[24:26] = (~total & 0xFFFF).to_bytes(2, "big")
            sink.send(packet)
        return clock.figures()


def forward_scapy(interface: str, clock: Clock) -> Figures:
    from scapy.config import conf
    from scapy.layers.inet import IP
    from scapy.layers.l2 import Ether
    from scapy.sendrecv import sniff

    conf.logLevel = 40
    out = conf.L2socket(iface=OUT)

    def send(packet: Any) -> None:
        packet[Ether].dst, packet[Ether].src = "02:00:00:00:00:64", "02:00:00:00:00:02"
        packet[IP].ttl -= 1
        del packet[IP].chksum  # scapy computes it again
        out.send(packet)

    sniff(iface=interface, store=False, prn=send, stop_filter=lambda packet: not clock.more(1))
    return clock.figures()


Contestant = Callable[[str, Clock], Figures]
