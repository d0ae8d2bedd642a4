# SPDX-License-Identifier: Apache-2.0
"""Overwrites words of pools in use, and checks that every process that uses them survives.

    python -m tests.fuzz_segment --trials 50000 --seed 7
    python -m tests.fuzz_segment --seed 7 --round 12        that round alone, again

Two workers (fuzz_roles.py), a command line and a daemon use a pool. A trial overwrites a word of
it, or the same word of every member, queue, buffer or slot; or it flips a word to and fro, makes a
hole, or writes what a careful attacker would. Then each worker makes some calls. Ten trials make a
round, which has a pool of its own and may end with a truncated file. The checks are:

    no process dies or hangs, and none grows
    every exception is a ShmpoolError
    no call takes more than 1 s of processor time, nor of sleep beyond its timeout
    a healthy pool is not delayed by more than 1 s: neither the threads of a worker that use it
    beside the corrupted pool, nor the daemon that recovers it
"""

import argparse
import contextlib
import ctypes
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shmpool
from tests.fuzz_roles import CALL_S, HANG_S, processor_time
from tests.fuzz_words import LANED, TOPIC_DEPTH, Row, Segment, SizeClass, Word

ROUND_TRIALS = 10
CRAFTED = (
    *("nowhere", "stale", "queues", "dead", "full", "chains", "circle", "holders"),
    "lanes",
)
TRUNCATED = 0.2  # share of the rounds that end so
STEPS = 6  # calls of each worker after a trial
WORKERS = 2
GROWN = 64 << 20  # bytes by which the memory of a process may grow
ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("ls", "describe", "stats", "audit", "members", "holders", "doctor", "recover")
POOL: dict[str, Any] = {"buffer_size": 64, "headroom": 8, "capacity": 64, "members": 6, "queues": 8}
SIZES = {"buffer_size": [64, 256, 4096], "capacity": [64, 64, 16]}
EIGHT = {"buffer_size": [64 << k for k in range(8)], "capacity": [64, 32, 16, 16, 8, 4, 2, 2]}
POOLS: tuple[tuple[int, dict[str, Any]], ...] = (  # how often, and what
    (10, POOL),
    (10, POOL | {"prealloc": 32, "capacity": 256, "cache_size": 16, "bulk": 16}),
    (10, POOL | {"prealloc": 1024, "capacity": 1024, "cache_size": 64, "buffer_size": 256}),
    (10, POOL | SIZES),
    (8, POOL | SIZES | {"prealloc": [0, 64, 4], "cache_size": [0, 32, 16], "bulk": 16}),
    (4, POOL | EIGHT | {"queues": 1016}),
    (8, POOL | {"prealloc": 32, "capacity": 256, "bulk": 16, "free_rings": 4}),
    (4, POOL | {"buffer_size": [64, 65536], "capacity": [64, 32], "prealloc": [64, 16]}),
    (3, POOL | {"buffer_size": [64, 128], "capacity": 65536, "prealloc": [65536, 0]}),
    (3, POOL | {"prealloc": 100, "capacity": 1024, "members": 4095, "queues": 1023}),
    (3, POOL | {"prealloc": 65536, "capacity": 65536, "members": 256}),
    (1, POOL | {"capacity": 1 << 21, "members": 256, "bulk": 16, "refill_multiplier": 1}),
)


class Role:
    """A process of fuzz_roles.py, which carries out lines that it is sent."""

    def __init__(self, *arguments: str) -> None:
        self.kind = arguments[0]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by end()
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.fuzz_roles", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=ROOT,
        )
        self.first: int | None = None

    def send(self, **order: Any) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(order), file=self.process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        """Returns what was wrong with the last line that it carried out."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 2 * HANG_S)
        line = self.process.stdout.readline() if ready else ""
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        how = "hangs" if not ready else f"has ended with {self.process.wait()}"
        self.errors.seek(0)
        text = "\n".join(self.errors.read().splitlines()[-40:])
        return {"wrong": [f"the {self.kind} {how}\n{text}"], "longest": 0.0, "refused": {}}

    def grown(self) -> int:
        """Bytes by which its memory has grown since the first call."""
        now = own_memory(self.process.pid)
        if self.first is None:
            self.first = now
        return now - self.first

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def own_memory(pid: int) -> int:
    """Bytes of memory that a process shares with no other."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+) kB", text)[0]) << 10


class Daemon:
    """A daemon that adopts the pools."""

    def __init__(self, directory: Path, prefix: str) -> None:
        self.socket = directory / "daemon.sock"
        self._log = directory / "log"
        config = directory / "shmpool.toml"
        config.write_text(f'[daemon]\nadopt = ["{prefix}*"]\nprune = false\ninterval = 0.05\n')
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shmpool.daemon", "--config", str(config)],
                env=os.environ | {"SHMPOOL_SOCKET": str(self.socket)},
                stderr=log,
                cwd=ROOT,
            )
        self._read = 0
        self.first: int | None = None

    def ready(self) -> None:
        while self.process.poll() is None:
            with contextlib.suppress(shmpool.DaemonUnavailable), shmpool.Client(self.socket) as c:
                c.ping()
                return
            time.sleep(0.02)
        raise SystemExit(f"fuzz_segment: no daemon: {self._log.read_text()}")

    def wrong(self, healthy: shmpool.Pool) -> list[str]:
        """Returns what is wrong with it, after a member of the healthy pool was killed."""
        if self.process.poll() is not None:
            return [f"the daemon has ended with {self.process.returncode}\n{self._said()}"]
        found = [line for line in self._said().splitlines() if re.search("Traceback|failed", line)]
        cpu, began, deaths = processor_time(self.process.pid), time.monotonic(), deaths_of(healthy)
        kill_a_member(healthy)
        while deaths_of(healthy) == deaths:
            if time.monotonic() - began > HANG_S:
                return [*found, "the daemon recovers the healthy pool no more"]
            time.sleep(0.005)
        try:
            with shmpool.Client(self.socket, timeout=HANG_S) as client:
                client.stats(healthy.name)
        except shmpool.ShmpoolError as error:
            found.append(f"the daemon answers {error!r}")
        delay = min(time.monotonic() - began, processor_time(self.process.pid) - cpu)
        if delay > CALL_S:
            found.append(f"the daemon left the healthy pool waiting for {delay:.2f} s")
        now = own_memory(self.process.pid)
        self.first = now if self.first is None else self.first
        if now - self.first > GROWN:
            found.append(f"the daemon has grown by {now - self.first >> 20} MiB")
        return found

    def _said(self) -> str:
        with self._log.open() as log:
            log.seek(self._read)
            text = log.read()
            self._read = log.tell()
        return text

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def deaths_of(pool: shmpool.Pool) -> int:
    return pool.stats().recovered


def kill_a_member(pool: shmpool.Pool) -> None:
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            pool.alloc_many(3, 0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


class Flips:
    """A thread that writes the values into a word in turn, until the end of the with block."""

    def __init__(self, segment: Segment, word: Word, values: tuple[int, ...]) -> None:
        self._work = segment, word, values
        self._stop = threading.Event()

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        segment, word, values = self._work
        while not self._stop.is_set():
            for value in values:
                for _ in range(50):
                    segment.write(word, value)
            time.sleep(1e-5)

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


@dataclass
class Trial:
    """What is written into the segment before a few calls, and during them."""

    said: str
    during: contextlib.AbstractContextManager[None] = field(default_factory=contextlib.nullcontext)


def overwrite(segment: Segment, chance: random.Random, word: Word | None = None) -> Trial:
    word = word or segment.word(chance)
    value, before = segment.value(chance, word), segment.read(word)
    segment.write(word, value)
    return Trial(f"{word.name} at {word.offset}: {before:#x} becomes {value:#x}")


def overwrite_hot(segment: Segment, chance: random.Random) -> Trial:
    return overwrite(segment, chance, segment.hot(chance))


def overwrite_row(segment: Segment, chance: random.Random) -> Trial:
    row: Row = segment.row(chance)
    value, step = segment.value(chance, row.word(0)), chance.choice((0, 0, 1, row.count))
    for i in range(min(row.count, 1 << 16)):
        segment.write(row.word(i), (value + i * step) % (1 << 8 * row.width))
    return Trial(f"every {row.name} from {row.offset} on: {value:#x} + i * {step}")


def flip(segment: Segment, chance: random.Random) -> Trial:
    word = chance.choice((segment.word, segment.hot))(chance)
    values = (segment.read(word), *(segment.value(chance, word) for _ in range(2)))
    said = f"{word.name} at {word.offset} flips between {', '.join(map(hex, values))}"
    return Trial(said, Flips(segment, word, values))


def punch(segment: Segment, chance: random.Random) -> Trial:
    """Makes a hole of some pages, which read as zeros."""
    at = chance.randrange(0, segment.size, 4096)
    one = chance.choice(segment.classes)
    at = chance.choice((at, one.free_ring.offset, one.buffers[0].offset // 4096 * 4096))
    length = 4096 * chance.choice((1, 1, 4, 1000))
    libc = ctypes.CDLL(None)
    libc.fallocate(segment.fd, 3, ctypes.c_long(at), ctypes.c_long(length))
    return Trial(f"a hole of {length} bytes at {at}")


def craft(segment: Segment, crafted: Sequence[str], chance: random.Random) -> Trial:
    """Writes what a careful attacker would: the longest possible walks, in every size class."""
    what = chance.choice(crafted)
    if what == "nowhere":  # all positions are wrong, all members are in an operation
        segment.fill("buffer.owner", lambda i: 1 << 63 | 5)
        segment.fill("member.op", lambda i: 7 << 29 | 3 << 12 | 5 << 2 | 1)
    elif what == "queues":  # as many queues as possible, all full
        rooms = {one.slot: one.capacity for one in segment.classes}
        segment.fill("queue.state", lambda i: 2**64 - 1)
        segment.fill("queue.queue.capacity", lambda i: rooms.get(i, 1 << 20))
        segment.fill("queue.queue.prod", lambda i: 1 << 40)
        segment.fill("queue.queue.cons", lambda i: (1 << 40) - (1 << 20))
    elif what == "holders":  # everybody holds everything, and all subscribers block
        segment.fill("buffer.since", lambda i: chance.choice((1, 2)) << 62 | 4 << 52 | 2**24 - 1)
        for row in segment.topic:
            value = {"subscriber.state": 1 << 62 | 3, "subscriber.policy": 0, "topic.gate": 0}
            for i in range(row.count * (row.name in value)):
                segment.write(row.word(i), value[row.name])
    elif what == "lanes":  # queues, and their lanes, are lanes of each other
        flags, state = chance.choice((16, 48, 80)), chance.choice((2**64 - 1, 1 << 33 | 1))
        segment.fill("queue.queue.flags", lambda i: flags)
        segment.fill("queue.state", lambda i: state if i > LANED else 2**64 - 1)
        segment.fill("queue.laned", lambda i: LANED)
        for row in segment.lanes:
            if "number" in row.name:
                segment.write(row.word(0), chance.choice((LANED, LANED + 1, LANED + 2)))
    for one in segment.classes:
        craft_class(segment, what, chance, one)
    return Trial(f"crafted: {what}")


def craft_class(segment: Segment, what: str, chance: random.Random, one: SizeClass) -> None:
    n, lap = one.capacity, 2 * one.capacity
    if what == "stale":  # everything exists, and every free buffer may be out of the free ring
        segment.fill("extent", lambda i: 2**64 - 1, one)
        segment.fill("free ring", lambda i: n << 25 | one.first + i * 0x9E3779B1 % n, one)
        segment.write(segment.named("queue.bypassed", one), lap)
        segment.write(segment.named("queue.queue.cons", one), n)
        segment.write(segment.named("queue.queue.prod", one), lap)
    elif what == "dead":  # all members but one are dead, and had reserved the same positions
        count, first = min(n, (1 << 17) - 1), 2 * lap
        transit, reserved = 1 << 63 | one.slot << 53, count << 12 | one.slot << 2 | 1
        segment.fill("free ring", lambda i: (first - n) << 25, one)
        segment.fill("buffer.owner", lambda i: transit | first + i % count, one)
        segment.fill("member.op", lambda i: first << 29 | reserved, one)
        segment.fill(
            "member.identity", lambda i: (1 << 62 | 4194300 << 40 | 12345 + i) * (i > 1), one
        )
        segment.write(segment.named("queue.queue.cons", one), first)
        segment.write(segment.named("queue.queue.prod", one), first + count)
    elif what in ("chains", "circle"):
        craft_chains(segment, chance.randrange(n) if what == "circle" else -1, one)
    elif what == "full":  # the ring of free buffers has no room
        prod = chance.choice((1 << 63, lap + 1))
        segment.write(segment.named("queue.queue.prod", one), prod)
        segment.write(segment.named("queue.queue.limit", one), 0)


def craft_chains(segment: Segment, head: int, one: SizeClass) -> None:
    """Makes all buffers of the class one chain, whose links lead in a circle behind its head.

    A head of -1: each buffer heads a chain, of which the next buffer is the only segment.
    """
    (handle,) = [row for row in one.buffers if row.name == "buffer.handle"]
    (link,) = [row for row in one.buffers if row.name == "buffer.failures_link"]
    (owner,) = [row for row in one.buffers if row.name == "buffer.owner"]
    now = [segment.read(handle.word(i)) for i in range(one.capacity)]
    for i, its in enumerate(now):
        first = i - 1 if head < 0 else head
        behind = (i + 1) % one.capacity
        behind += behind == head  # past the head, which is no segment
        segment.write(link.word(i), (i ^ behind % one.capacity) << 32)
        if head in (-1, i):
            segment.write(handle.word(i), its | 1 << 31)
        if i != head:
            word = 1 << 62 | one.first + first % one.capacity << 32 | now[first] >> 32
            segment.write(owner.word(i), word)


KINDS: tuple[tuple[int, Callable[[Segment, random.Random], Trial] | None], ...] = (
    (10, overwrite),
    (10, overwrite_hot),
    (4, overwrite_row),
    (3, flip),
    (1, punch),
    (4, None),  # craft
)


class Fuzz:
    """Runs the processes, and collects what was wrong."""

    def __init__(self, seed: int, directory: Path, crafted: Sequence[str]) -> None:
        self._crafted = crafted
        self._seed = seed
        self._prefix = f"fuzz-{os.getpid()}-"
        self._healthy = shmpool.Pool.create(
            f"{self._prefix}healthy", buffer_size=64, capacity=64, prealloc=64, cache_size=0
        )
        self._healthy.create_queue("beside", capacity=16)
        self._directory = directory
        self._daemon = self._new_daemon()
        self._roles = [self._role(kind) for kind in ["worker"] * WORKERS + ["terminal"]]
        self.failures: list[str] = []
        self.trials = 0
        self.longest = 0.0
        self.refused: dict[str, int] = {}

    def _new_daemon(self) -> Daemon:
        daemon = Daemon(self._directory, self._prefix)
        daemon.ready()
        return daemon

    def _role(self, kind: str) -> Role:
        return Role(kind, self._healthy.name)

    @contextlib.contextmanager
    def _target(self, chance: random.Random, number: int) -> Iterator[tuple[str, Segment]]:
        """Creates a pool with queues and a topic."""
        options = chance.choices([o for _, o in POOLS], [often for often, _ in POOLS])[0]
        name = f"{self._prefix}{number}"
        pool = shmpool.Pool.create(name, **options)
        try:
            pool.create_queue("q0", capacity=16)
            pool.create_queue("q1", capacity=8, producers="single", consumers="single")
            pool.create_queue(
                "q2", capacity=8, on_death="requeue", dead_letter="q0", max_redeliveries=2
            )
            pool.create_topic("news", depth=TOPIC_DEPTH)
            pool.create_queue("q3", capacity=8, on_death="requeue", lanes=2)
            pool.close()
            segment = Segment(f"/dev/shm/shmpool.{name}")
            try:
                yield name, segment
            finally:
                segment.close()
        finally:
            shmpool.Pool.unlink(name)

    def round(self, number: int, trials: int) -> list[str]:
        """Runs some trials with one pool. Returns what was done."""
        chance = random.Random(f"{self._seed}/{number}")
        done: list[str] = []
        with self._target(chance, number) as (name, segment):
            self._tell(done, open=name, seed=chance.getrandbits(32))
            for _ in range(trials):
                kind = chance.choices([k for _, k in KINDS], [often for often, _ in KINDS])[0]
                trial = kind(segment, chance) if kind else craft(segment, self._crafted, chance)
                done.append(trial.said)
                self.trials += 1
                with trial.during:
                    self._tell(done, seed=chance.getrandbits(32), steps=STEPS)
            if chance.random() < TRUNCATED:
                length = chance.choice((0, 4096, segment.size // 2, segment.size - 1))
                os.ftruncate(segment.fd, length)
                done.append(f"truncated to {length} bytes")
                self._tell(done, seed=chance.getrandbits(32), steps=STEPS)
            commands = chance.sample(COMMANDS, 2)
            lines = [self._line(command, name, chance) for command in commands]
            self._roles[-1].send(commands=lines, daemon=self._daemon.process.pid)
            self._tell(done, seed=chance.getrandbits(32), steps=STEPS)
            self._judge(done, self._roles[-1].answer())
            self._tell(done, close=True)
        wrong = self._daemon.wrong(self._healthy)
        self._fail(done, wrong)
        if wrong:
            self._daemon.end()
            self._daemon = self._new_daemon()
        for i, role in enumerate(self._roles):
            if role.process.poll() is not None or role.grown() > GROWN:
                self._fail(done, [f"the {role.kind} has grown"] * (role.process.poll() is None))
                role.end()
                self._roles[i] = self._role(role.kind)
        return done

    def _line(self, command: str, name: str, chance: random.Random) -> list[str]:
        direct = chance.random() < 0.5 and command != "doctor"
        line = [command] + [name] * (command not in ("ls", "doctor"))
        return [*line, "--direct"] if direct else [*line, "--socket", str(self._daemon.socket)]

    def _tell(self, done: list[str], **order: Any) -> None:
        workers = self._roles[:WORKERS]
        for i, worker in enumerate(workers):
            seed = {"seed": order["seed"] + i} if "seed" in order else {}
            worker.send(**order | seed)
        for worker in workers:
            self._judge(done, worker.answer())

    def _judge(self, done: list[str], answer: dict[str, Any]) -> None:
        self.longest = max(self.longest, answer["longest"])
        for kind, times in answer["refused"].items():
            self.refused[kind] = self.refused.get(kind, 0) + times
        self._fail(done, answer["wrong"])

    def _fail(self, done: list[str], wrong: list[str]) -> None:
        for what in wrong:
            self.failures.append(f"{what}, after trial {len(done)}")
            print(f"fuzz_segment: {self.failures[-1]}", file=sys.stderr, flush=True)

    def end(self) -> None:
        for role in self._roles:
            role.end()
        self._daemon.end()
        self._healthy.close()
        shmpool.Pool.unlink(self._healthy.name)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz_segment")
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--round", type=int, help="only this one")
    parser.add_argument("--crafted", nargs="*", default=CRAFTED, help="what attackers write")
    parser.add_argument("--failures", type=int, default=10, help="to end after")
    args = parser.parse_args()
    rounds = range(-(-args.trials // ROUND_TRIALS)) if args.round is None else [args.round]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        fuzz = Fuzz(args.seed, Path(directory), args.crafted)
        try:
            for number in rounds:
                before = len(fuzz.failures)
                done = fuzz.round(number, ROUND_TRIALS)
                if len(fuzz.failures) > before:
                    print(
                        f"again: --seed {args.seed} --round {number}",
                        *done,
                        sep="\n    ",
                        file=sys.stderr,
                    )
                if len(fuzz.failures) >= args.failures:
                    break
        finally:
            fuzz.end()
    figures = {
        "trials": fuzz.trials,
        "failures": len(fuzz.failures),
        "longest_call_s": round(fuzz.longest, 3),
        "refused": fuzz.refused,
        "seconds": round(time.monotonic() - began, 1),
        "seed": args.seed,
    }
    print(json.dumps(figures))
    return bool(fuzz.failures)


if __name__ == "__main__":
    sys.exit(main())
