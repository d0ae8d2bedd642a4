# SPDX-License-Identifier: Apache-2.0
"""Bridges that are killed at random, and every packet counted: python -m tests.bridge_storm.

Two network namespaces with a veth pair between them, a bridge in each, and a pool at each end. One
thread puts numbered packets into the queue that is sent, another takes them out of the queue that
is put into. In the end each number has arrived. One that has arrived n times was marked as
redelivered n - 1 times at least, and there are no more of them than the kills allow.
"""

import argparse
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import shmpool
from tests import network_spaces
from tests.network_spaces import Space, ip

ROOT = Path(__file__).resolve().parent.parent
PORT = 5555
WINDOW = 8  # bursts
BURST = 4096  # bytes, in 64 packets
SIZE = 64
A_WINDOW = WINDOW * BURST // SIZE  # packets
PACKETS_MAX = 200_000_000
GUARD_S = 100.0  # against hangs, not a measurement
Pools = tuple[shmpool.Pool, shmpool.Pool]


class Bridge:
    """`shmpool bridge` in a namespace, or in this one."""

    def __init__(
        self,
        folder: Path,
        name: str,
        text: str,
        space: Space | None = None,
        within: Sequence[str] = (),
        program: Sequence[str] = ("-m", "shmpool"),
    ) -> None:
        """within is a command that executes another one; program is what Python is told to run."""
        config = folder / f"{name}.toml"
        config.write_text(text)
        self._command = [
            *(space.command if space else ()),
            *within,
            sys.executable,
            *program,
            *("bridge", "--config", str(config)),
        ]
        self._log = (folder / f"{name}.log").open("a")
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, cwd=ROOT, stderr=self._log)

    def kill(self) -> None:
        """Kills it, at whatever it is doing, and starts it again."""
        self.process.kill()
        self.process.wait()
        self.start()

    def end(self) -> int:
        """Ends it as a user does. Returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(GUARD_S)
        finally:
            self.close()

    def close(self) -> None:
        """Kills it if it still runs."""
        self.process.kill()
        self.process.wait()
        self._log.close()


@dataclass
class Ledger:
    """What has arrived: how often each number, and how often it was marked."""

    total: int
    times: bytearray = field(init=False)
    marked: bytearray = field(init=False)
    arrived: int = 0  # different numbers

    def __post_init__(self) -> None:
        self.times, self.marked = bytearray(self.total), bytearray(self.total)

    def note(self, burst: shmpool.Burst) -> None:
        for number, again in zip(burst.marks.tolist(), burst.redelivered.tolist(), strict=True):
            self.arrived += not self.times[number]
            self.times[number] += 1
            self.marked[number] += again > 0

    @property
    def doubled(self) -> int:
        """Packets that came more than once, each time counted."""
        return sum(self.times[: self.total]) - self.arrived

    def faults(self) -> list[str]:
        """What is wrong, if all have been sent."""
        lost = [i for i, n in enumerate(self.times[: self.total]) if not n]
        hidden = [
            i for i, n in enumerate(self.times[: self.total]) if n > 1 and self.marked[i] < n - 1
        ]
        return [
            f"{len(found)} packets {what}, the first {found[:5]}"
            for what, found in (("lost", lost), ("doubled and not marked", hidden))
            if found
        ]


class Flow:
    """A thread that puts total packets into one queue, and one that takes them from the other."""

    def __init__(
        self,
        pools: Pools,
        total: int,
        pause: Callable[[], object] = lambda: None,
        stopped_s: float = 0.0,
    ) -> None:
        """pause is called before each burst is taken. stopped_s: for so long the test itself stops
        the flow, one way after the other, and nothing can be put."""
        self._patience = GUARD_S + stopped_s
        self.ledger, self._total, self._pause = Ledger(total), total, pause
        self._finish = threading.Event()
        self.failed: list[BaseException] = []
        self._source, self._target = pools[0].queue("work"), pools[1].queue("work")
        self._threads = [
            threading.Thread(target=self._guarded, args=(call,)) for call in (self._put, self._take)
        ]
        for thread in self._threads:
            thread.start()

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            self.failed.append(error)

    def _put(self) -> None:
        pool, sent = self._source.pool, 0
        while sent < self._total and not self._finish.is_set():
            n = min(64, self._total - sent)
            with pool.alloc_many(n, self._patience) as burst:
                burst.lengths = SIZE
                burst.marks = range(sent, sent + n)
                burst.set_column(0, range(sent, sent + n), ">u4")
                self._source.put_many(burst, self._patience)
            sent += n
        self._total = self.ledger.total = sent

    def _take(self) -> None:
        while self.ledger.arrived < self._total:
            self._pause()
            try:
                burst = self._target.get_many(256, 1)
            except shmpool.Empty:
                continue
            with burst:
                assert burst.marks.tolist() == burst.column(0, ">u4").tolist()
                self.ledger.note(burst)

    def finish(self) -> None:
        """Puts no more than now."""
        self._finish.set()

    def take_the_rest(self) -> None:
        """Takes what came again after all had arrived: what a killed bridge held, marked."""
        with contextlib.suppress(shmpool.Empty):
            while True:
                with self._target.get_many(256, 0) as burst:
                    self.ledger.note(burst)

    @property
    def over(self) -> bool:
        """All have arrived, or it failed."""
        return not any(thread.is_alive() for thread in self._threads)

    def join(self) -> Ledger:
        arrived = -1
        while not self.over and arrived < (arrived := self.ledger.arrived):
            for thread in self._threads:
                thread.join(GUARD_S)
        assert self.over, f"{arrived} of {self._total} packets arrived; failed: {self.failed}"
        for error in self.failed:
            raise error
        return self.ledger


@contextlib.contextmanager
def pools(stem: str) -> Iterator[Pools]:
    """A pool at each end, each with a queue `work`."""
    with contextlib.ExitStack() as stack:
        found = []
        for end in "ab":
            pool = shmpool.Pool.create(f"{stem}-{end}", buffer_size=SIZE, capacity=4096)
            stack.callback(shmpool.Pool.unlink, pool.name)
            stack.enter_context(pool)
            pool.create_queue("work", capacity=1024, on_death="requeue")
            found.append(pool)
        yield found[0], found[1]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def sender(pools: Pools, host: str, port: int = PORT) -> str:
    return (
        f'[[link]]\nfrom = "{pools[0].name}/work"\nto = "zmq://{host}:{port}/{pools[1].name}/work"\n'
        f"window = {WINDOW}\nburst_bytes = {BURST}\n"
    )


def receiver(pools: Pools, host: str = "*", port: int = PORT) -> str:
    return (
        f'[[link]]\nfrom = "zmq://{host}:{port}/{pools[1].name}/work"\n'
        f'to = "{pools[1].name}/work"\nwindow = {WINDOW}\n'
    )


@contextlib.contextmanager
def bridged(pools: Pools, spaces: tuple[Space, Space], folder: Path) -> Iterator[list[Bridge]]:
    """A bridge in each namespace: the one that sends, and the one that receives."""
    with contextlib.ExitStack() as stack:
        there = Bridge(folder, "receive", receiver(pools), spaces[1])
        stack.callback(there.close)
        here = Bridge(folder, "send", sender(pools, spaces[1].address), spaces[0])
        stack.callback(here.close)
        yield [here, there]
        assert [0, 0] == [one.end() for one in (here, there)]


def empty(pool: shmpool.Pool) -> None:
    """Waits until the bridge has sent what came back when one before it was killed, and until all
    of it is acknowledged: what a bridge that ends has not sent yet, it returns."""
    deadline = time.monotonic() + GUARD_S
    queue = pool.queue("work")
    while (len(queue) or pool.stats().held) and time.monotonic() < deadline:
        time.sleep(0.05)


def settled(pools: Pools) -> list[str]:
    """What is left that should not be, when both bridges have ended."""
    found = []
    for pool in pools:
        pool.recover()
        audit = pool.audit()
        if not audit.ok or audit.held:
            found.append(f"pool {pool.name}: {audit}")
        if len(pool.queue("work")):
            found.append(f"pool {pool.name}: {len(pool.queue('work'))} packets in queue work")
    return found


def set_link(space: Space, state: str) -> None:
    ip("-n", space.name, "link", "set", "veth", state)


@contextlib.contextmanager
def lossy(spaces: Sequence[Space]) -> Iterator[None]:
    """Loses one packet of ten on the way, in both directions."""
    rules = (
        "add table ip lossy; add chain ip lossy input { type filter hook input priority 0; }; "
        "add rule ip lossy input numgen random mod 10 < 1 drop"
    )
    for space in spaces:
        subprocess.run([*space.command, "nft", rules], check=True)
    try:
        yield
    finally:
        for space in spaces:
            subprocess.run([*space.command, "nft", "delete", "table", "ip", "lossy"], check=True)


def storm(kills: int, seed: int, downs: int = 0, long_s: float = 0, loses: bool = False) -> Ledger:
    """Kills one of the bridges at random, so often, while packets flow; takes the veth pair down
    in between. Then, for long_s each, it is down, and the consumer stops. One packet of ten is lost
    all the time if it loses. Returns what arrived."""
    chance = random.Random(seed)
    stem = f"storm-bridge-{os.getpid()}"
    with (
        network_spaces.made() as spaces,
        pools(stem) as ends,
        TemporaryDirectory() as folder,
    ):
        left = [*(["kill"] * kills), *(["down"] * downs)]
        chance.shuffle(left)
        go_on = threading.Event()
        go_on.set()
        with (
            lossy(spaces) if loses else contextlib.nullcontext(),
            bridged(ends, spaces, Path(folder)) as bridges,
        ):
            flow = Flow(ends, PACKETS_MAX, pause=go_on.wait, stopped_s=2 * long_s)
            before, moved = 0, time.monotonic()
            while left and not flow.over:
                time.sleep(chance.uniform(0.05, 0.4))
                if flow.ledger.arrived > before:  # it has begun to flow again
                    before, moved = flow.ledger.arrived, time.monotonic()
                    if left.pop() == "kill":
                        chance.choice(bridges).kill()
                    else:
                        set_link(spaces[0], "down")
                        time.sleep(chance.uniform(0.1, 1.0))
                        set_link(spaces[0], "up")
                if time.monotonic() - moved > GUARD_S:
                    logs = [
                        (Path(folder) / f"{end}.log").read_text() for end in ("send", "receive")
                    ]
                    tails = "\n".join(log[-1500:] for log in logs)
                    raise AssertionError(f"only {before} packets arrived:\n{tails}")
            if long_s:
                set_link(spaces[0], "down")
                time.sleep(long_s)
                set_link(spaces[0], "up")
                go_on.clear()
                time.sleep(long_s)
                # Not stats().held: what a killed bridge held is there until the queue has room.
                held = sum(ends[0].audit().held.values())
                go_on.set()
                assert held <= A_WINDOW + 64, held  # those of the thread that puts
            flow.finish()
            ledger = flow.join()
            empty(ends[0])
        flow.take_the_rest()
        for problem in settled(ends):
            raise AssertionError(problem)
        return ledger


def main(description: str | None, run: Callable[..., Ledger], doubled_max: int) -> int:
    """The command line of a storm, of which a kill may double so many packets."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--downs", type=int, default=10)
    parser.add_argument("--long", type=float, default=60, help="seconds of the last two faults")
    parser.add_argument("--lossy", action="store_true", help="lose one packet of ten")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    ledger = run(given.kills, given.seed, given.downs, given.long, given.lossy)
    faults, allowed = ledger.faults(), given.kills * doubled_max
    if ledger.doubled > allowed:
        faults.append(f"more doubled than the windows of {given.kills} kills, {allowed}")
    print(
        f"{ledger.total} packets, {given.kills} kills, {given.downs} times a link down: "
        f"{ledger.doubled} doubled and marked; {'; '.join(faults) or 'none lost'}"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(__doc__, storm, A_WINDOW))
