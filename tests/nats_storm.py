# SPDX-License-Identifier: Apache-2.0
"""Links over NATS that are killed at random, and every packet counted: python -m tests.nats_storm.

    sender, pool a  --  veth  --  nats-server  --  veth  --  receiver, pool b

Three network namespaces, with a process in each that may be killed. Packets flow and are counted as
in bridge_storm.py, which does the same over ZeroMQ.
"""

import asyncio
import contextlib
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import nats

from shmpool.bridge.packing import RECORD
from tests import nats_servers
from tests.bridge_storm import (
    BURST,
    GUARD_S,
    PACKETS_MAX,
    SIZE,
    WINDOW,
    Bridge,
    Flow,
    Ledger,
    Pools,
    empty,
    lossy,
    main,
    pools,
    set_link,
    settled,
)
from tests.nats_servers import Server
from tests.network_spaces import Space, routed

A_WINDOW = WINDOW * BURST // (SIZE + RECORD)  # packets, at one side of the server
STREAM = 1 << 20  # bytes that the stream holds
GROWTH = 32 << 20  # bytes of memory that a bridge may take more than when it began
PACE_S = 0.005  # between two bursts that are taken, so that the processors are not always busy
Spaces = tuple[Space, Space, Space]  # of the sender, the server and the receiver


@dataclass
class Linked:
    """A link over NATS: its processes."""

    send: Bridge
    receive: Bridge
    server: Server
    space: Space  # of the server
    folder: Path

    def restart_server(self) -> None:
        """Kills the server, at whatever it is doing, and starts it again."""
        self.server.kill()
        self.server.start()

    def log(self, end: str) -> str:
        """What the bridge has said that sends or receives."""
        return (self.folder / f"{end}.log").read_text()

    def state(self) -> str:
        """What the server says of the stream and its consumer."""

        async def ask() -> str:
            client = await nats.connect(self.server.url, allow_reconnect=False)
            try:
                jet = client.jetstream()
                found = await jet.stream_info("work"), await jet.consumer_info("work", "shmpool")
                return "\n".join(map(str, found))
            finally:
                await client.close()

        with self.space.entered():
            return asyncio.run(ask())

    def memory(self) -> list[int]:
        """Resident bytes of both bridges."""
        pids = [bridge.process.pid for bridge in (self.send, self.receive)]
        pages = [Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in pids]
        return [int(n) * resource.getpagesize() for n in pages]


@contextlib.contextmanager
def linked(ends: Pools, spaces: Spaces, folder: Path, stream: int = STREAM) -> Iterator[Linked]:
    """A server in the middle, and a bridge at each side. stream: bytes that the stream holds."""
    first, middle, last = spaces
    text = (
        '[[link]]\nfrom = "{}"\nto = "{}"\n'
        f"window = {WINDOW}\nburst_bytes = {BURST}\n"
        f"[link.nats]\nack_wait_s = 1.0\nmax_bytes = {stream}\n"
    )
    with nats_servers.one(folder, space=middle) as server, contextlib.ExitStack() as stack:

        def bridge(name: str, space: Space, *between: str) -> Bridge:
            made = Bridge(folder, name, text.format(*between), space)
            stack.callback(made.close)
            return made

        def stream_at(space: Space) -> str:
            """The stream's address as that namespace has it."""
            host = f"{space.address.rpartition('.')[0]}.254"
            return f"nats://{host}:{server.port}/work"

        send = bridge("send", first, f"{ends[0].name}/work", stream_at(first))
        receive = bridge("receive", last, stream_at(last), f"{ends[1].name}/work")
        yield Linked(send, receive, server, middle, folder)
        assert [0, 0] == [one.end() for one in (send, receive)]


def storm(kills: int, seed: int, downs: int = 0, long_s: float = 0, loses: bool = False) -> Ledger:
    """Kills sender, receiver or server at random, so often, while packets flow; takes one of the
    veth pairs down in between. Then, for long_s each, both are down, and the consumer stops. One
    packet of ten is lost all the time if it loses. Returns what arrived."""
    chance = random.Random(seed)
    with (
        routed() as spaces,
        pools(f"storm-nats-{os.getpid()}") as ends,
        TemporaryDirectory() as folder,
        lossy(spaces) if loses else contextlib.nullcontext(),
    ):
        go_on = threading.Event()
        go_on.set()

        def pause() -> None:
            go_on.wait()
            time.sleep(PACE_S)

        with linked(ends, spaces, Path(folder)) as link:
            flow = Flow(ends, PACKETS_MAX, pause, 2 * long_s)
            try:
                _faults(chance, link, spaces, flow, kills, downs)
                if long_s:
                    _long_faults(long_s, link, spaces, ends, go_on)
            finally:
                go_on.set()
                flow.finish()
            try:
                ledger = flow.join()
            except AssertionError as error:
                at = [(len(pool.queue("work")), pool.stats().held) for pool in ends]
                raise AssertionError(f"{error}; queued and held {at}\n{link.state()}") from None
            empty(ends[0])
        flow.take_the_rest()
        for problem in settled(ends):
            raise AssertionError(problem)
        return ledger


def _faults(
    chance: random.Random, link: Linked, spaces: Spaces, flow: Flow, kills: int, downs: int
) -> None:
    """A fault, each time that packets have arrived since the one before."""

    def down() -> None:
        space = chance.choice((spaces[0], spaces[2]))
        set_link(space, "down")
        time.sleep(chance.uniform(0.1, 1.0))
        set_link(space, "up")

    victims = link.send.kill, link.receive.kill, link.restart_server
    left: list[Callable[[], None]] = [victims[i % 3] for i in range(kills)] + [down] * downs
    chance.shuffle(left)
    before, moved = 0, time.monotonic()
    while left and not flow.over:
        time.sleep(chance.uniform(0.05, 0.4))
        if flow.ledger.arrived > before:
            before, moved = flow.ledger.arrived, time.monotonic()
            left.pop()()
        if time.monotonic() - moved > GUARD_S:
            tails = "\n".join(link.log(end)[-1500:] for end in ("send", "receive"))
            state = link.state()
            why = f"{tails}\n{state}\n{flow.failed}"
            raise AssertionError(f"only {before} packets arrived:\n{why}")


def _long_faults(
    seconds: float, link: Linked, spaces: Spaces, ends: Pools, go_on: threading.Event
) -> None:
    """Both links down, and then a consumer that stops: no more than a window is held, and neither
    bridge grows."""
    for space in (spaces[0], spaces[2]):
        set_link(space, "down")
    time.sleep(seconds)
    before = link.memory()  # one of them was perhaps killed last, and has been starting
    for space in (spaces[0], spaces[2]):
        set_link(space, "up")
    go_on.clear()
    time.sleep(seconds)
    pid = link.send.process.pid
    held = sum(one.buffers for one in ends[0].holders() if one.pid == pid)
    assert held <= A_WINDOW, held  # what killed senders held may still wait for room in the queue
    grown = [now - was for now, was in zip(link.memory(), before, strict=True)]
    assert max(grown) < GROWTH, grown


if __name__ == "__main__":
    sys.exit(main(__doc__, storm, 2 * A_WINDOW))
