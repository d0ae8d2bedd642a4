# SPDX-License-Identifier: Apache-2.0
"""The processes that fuzz_segment.py runs on a corrupted pool: workers and a command line.

Each reads lines of JSON and carries them out. It answers with a line: what was wrong, and how long
the longest call took. Any exception except a ShmpoolError is wrong, and so is a call that took too
long.
"""

import contextlib
import faulthandler
import io
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shmpool
from shmpool import errors
from shmpool.view import View

CALL_S = 1.0  # of processor time, and of time asleep beyond its timeout
HANG_S = 60.0
TICK_S = 0.005
WAIT_S = 0.01  # the longest timeout that a call is given


class Beside:
    """A thread that uses a healthy pool all the time. It measures how long it was delayed."""

    def __init__(self, name: str) -> None:
        self._pool = shmpool.Pool.attach(name)
        self.longest = 0.0
        self.wrong: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        queue = self._pool.queue("beside")
        while True:
            began, cpu, own = time.monotonic(), time.process_time(), time.thread_time()
            time.sleep(TICK_S)
            try:
                queue.send(b"x" * 32, timeout=0)
                queue.recv(timeout=0)
            except (shmpool.Empty, shmpool.Full):
                pass  # another worker was first
            except Exception as error:
                self.wrong.append(f"the healthy pool: {error!r}")
            others = time.process_time() - cpu - (time.thread_time() - own)
            self.longest = max(self.longest, min(others, time.monotonic() - began))


def waited() -> float | None:
    """Seconds for which this thread waited for a processor, if the kernel reports it."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


class Lateness:
    """A thread that only sleeps and wakes up: it measures how late the machine wakes it."""

    def __init__(self) -> None:
        self.longest = 0.0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(TICK_S)
            now = time.monotonic()
            self.longest, before = max(self.longest, now - before), now


def processor_time(pid: int) -> float:
    """Processor time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Judge:
    """Makes calls, and notes what was wrong with each that failed."""

    def __init__(self, lateness: Lateness, daemon: int = 0) -> None:
        """daemon is the pid of the process that does the work, if it is another one."""
        self._lateness = lateness
        self._daemon = daemon
        self.wrong: list[str] = []
        self.longest = 0.0
        self.refused: dict[str, int] = {}

    def call(self, name: str, function: Callable[[], object]) -> None:
        began, cpu, queued = time.monotonic(), time.thread_time(), waited()
        self._lateness.longest = 0.0
        others = processor_time(self._daemon) if self._daemon else 0.0
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        try:
            function()
        except shmpool.ShmpoolError as error:
            kind = type(error).__name__
            self.refused[kind] = self.refused.get(kind, 0) + 1
        except BaseException as error:
            self.wrong.append(f"{name}: {error!r}")
        faulthandler.cancel_dump_traceback_later()
        used = time.thread_time() - cpu
        asleep = time.monotonic() - began - used - 2 * self._lateness.longest
        asleep = 0.0 if queued is None else asleep - ((waited() or 0.0) - queued)
        if self._daemon:  # it sleeps as long as the daemon works
            asleep = min(asleep, processor_time(self._daemon) - others)
        self.longest = max(self.longest, used)
        if used > CALL_S:
            self.wrong.append(f"{name}: it took {used:.2f} s of processor time")
        elif asleep > CALL_S + WAIT_S and name != "killed":
            self.wrong.append(f"{name}: it was asleep for {asleep:.2f} s")


class Worker:
    """Members of the pool: every call that Python can make, on a pool with any content."""

    def __init__(self, healthy: str) -> None:
        self._beside = Beside(healthy)
        self._lateness = Lateness()
        self.judge = Judge(self._lateness)
        self.name = ""
        self.pool: Any = None
        self.queues: list[Any] = []
        self.held: list[Any] = []
        self.topics: list[Any] = []
        self.subscribers: list[Any] = []
        self.samples: list[Any] = []

    def carry_out(self, order: dict[str, Any]) -> dict[str, Any]:
        self.judge = Judge(self._lateness)
        if "open" in order:
            self.name = order["open"]
            self.judge.call("attach", self._open)
            self._steps(random.Random(order["seed"]), 12)
        elif "close" in order:
            for of in (self.held, self.samples, self.subscribers):
                of.clear()
            if self.pool is not None:
                self.judge.call("close", self.pool.close)
            self.pool, self.queues, self.topics = None, [], []
        else:
            self._steps(random.Random(order["seed"]), order["steps"])
        delay, self._beside.longest = self._beside.longest, 0.0
        wrong = self.judge.wrong + self._beside.wrong
        self._beside.wrong = []
        if delay > CALL_S:
            wrong.append(f"the healthy pool was delayed for {delay:.2f} s")
        return {"wrong": wrong, "longest": self.judge.longest, "refused": self.judge.refused}

    def _open(self) -> None:
        self.pool = shmpool.Pool.attach(self.name)
        self.queues = self.pool.queues()
        self.topics = self.pool.topics()

    def _steps(self, chance: random.Random, steps: int) -> None:
        if self.pool is None:
            self.judge.call("attach", self._open)
            return
        calls = self._calls(chance)
        for _ in range(steps):
            name = chance.choice(list(calls))
            self.judge.call(name, calls[name])
        while len(self.held) > 40:
            self.judge.call("free", self.held.pop().free)
        while len(self.subscribers) > 4:
            self.judge.call("leave", self.subscribers.pop(0).close)

    def _calls(self, chance: random.Random) -> dict[str, Callable[[], object]]:
        pool, held = self.pool, self.held
        single = [what for what in held if isinstance(what, shmpool.Buffer)]
        wait = chance.choice((0, 0, WAIT_S))
        queue = chance.choice(self.queues) if self.queues else None
        most = chance.choice(pool.geometry.sizes).buffer_size - pool.headroom
        size = chance.randrange(most + 1)
        long = chance.choice((size, size, 3 * most + size))  # for which only a chain has room
        calls: dict[str, Callable[[], object]] = {
            "alloc": lambda: held.append(pool.alloc(timeout=wait, size=long)),
            "alloc_many": lambda: held.append(pool.alloc_many(chance.randrange(1, 70), wait, size)),
            "free": lambda: held and held.pop(chance.randrange(len(held))).free(),
            "use": lambda: held and self._use(chance.choice(held), chance),
            "queue": lambda: pool.queue(chance.choice(("q0", "q1", "q2"))),
            "queues": lambda: self.queues.__setitem__(slice(None), pool.queues()),
            "create_queue": lambda: pool.create_queue(f"n{chance.randrange(9)}", capacity=8),
            "stats": pool.stats,
            "members": pool.members,
            "audit": pool.audit,
            "holders": pool.holders,
            "recover": pool.recover,
            "trim": lambda: pool.trim(chance.choice((0, 10, 1000))),
            "again": lambda: self._again(chance),
            "view": self._look,
            "killed": lambda: self._killed(chance),
        }
        if queue is not None:
            calls |= {
                "put": lambda: single and queue.put(single.pop(), timeout=wait),
                "get": lambda: held.append(queue.get(timeout=wait)),
                "send": lambda: queue.send(chance.randbytes(long), timeout=wait),
                "recv": lambda: queue.recv(timeout=wait),
                "send_many": lambda: queue.send_many(
                    [
                        b"a" * chance.choice((30, size, long))
                        for _ in range(chance.randrange(1, 40))
                    ],
                    wait,
                ),
                "recv_many": lambda: queue.recv_many(chance.randrange(1, 40), timeout=wait),
                "get_many": lambda: held.append(queue.get_many(chance.randrange(1, 70), wait)),
                "put_many": lambda: queue.put_many(
                    pool.alloc_many(chance.randrange(1, 9), 0, size), wait
                ),
                "facts": lambda: (len(queue), queue.full(), queue.empty(), queue.dead_letter),
                "release": queue.release,
            }
        if self.topics:
            calls |= self._topic_calls(chance, wait)
        return calls

    def _topic_calls(self, chance: random.Random, wait: float) -> dict[str, Callable[[], object]]:
        topic, samples, subscribers = self.topics[0], self.samples, self.subscribers
        policy = chance.choice(("block", "drop-oldest", "drop-newest", "latest"))
        calls: dict[str, Callable[[], object]] = {
            "publish": lambda: topic.publish(
                self.pool.alloc_many(chance.randrange(1, 9), 0), timeout=wait
            ),
            "topic send": lambda: topic.send(b"new", timeout=wait),
            "subscribe": lambda: subscribers.append(
                topic.subscribe(policy, start=chance.choice(("newest", "oldest")))
            ),
            "subscribers": lambda: (topic.subscribers(), topic.published, topic.ended),
            "topics": lambda: self.topics.__setitem__(slice(None), self.pool.topics()),
            "let go": lambda: samples and samples.pop(chance.randrange(len(samples))).free(),
            "leave": lambda: (
                subscribers and subscribers.pop(chance.randrange(len(subscribers))).close()
            ),
        }
        if subscribers:
            sub = chance.choice(subscribers)
            calls |= {
                "sub.get": lambda: samples.append(sub.get(timeout=wait)),
                "sub.get_many": lambda: samples.append(sub.get_many(chance.randrange(1, 9), wait)),
                "sub facts": lambda: (sub.lag, sub.gaps),
            }
        if samples:
            sample = chance.choice(samples)
            one = sample if isinstance(sample, shmpool.Sample) else sample and sample[0]
            calls["read"] = lambda: one and (bytes(one), one.sequence, one.mark, one.flow_hash)
        return calls

    def _use(self, what: Any, chance: random.Random) -> None:
        """Reads and writes a Buffer or a Burst."""
        if isinstance(what, shmpool.Burst):
            at = chance.randrange(60)
            bytes(what[chance.randrange(len(what))])
            with contextlib.suppress(BufferError):  # there is a chain in it
                what.column(at, "u4")
            what.lengths.tolist()
            what.lengths = chance.randrange(64)
            return
        try:
            room = len(what.data)
        except BufferError:
            self._use_chain(what, chance)
            return
        what.write(chance.randbytes(chance.randrange(chance.choice((64, room + 1)))))
        bytes(what), what.mark, what.timestamp, what.redelivered
        what.headroom = chance.randrange(9)
        what.length = chance.randrange(50)
        with what.view as view:
            view[: len(view)] = bytes(len(view))

    def _use_chain(self, what: Any, chance: random.Random) -> None:
        """Reads and writes a Buffer that is a chain."""
        what.readinto(bytearray(chance.randrange(100)), chance.randrange(100))
        what.write(chance.randbytes(chance.randrange(len(what) + 1)))
        bytes(what), what.mark, what.redelivered
        what.length = chance.randrange(50)
        for view in what.segments:
            view[: len(view)] = bytes(len(view))
            view.release()

    def _again(self, chance: random.Random) -> None:
        """Opens the pool once more, uses it and closes it."""
        with shmpool.Pool.attach(self.name) as pool:
            for queue in pool.queues()[:2]:
                with contextlib.suppress(shmpool.ShmpoolError):
                    queue.send(b"again", timeout=0)
                    queue.recv(timeout=0)
            with contextlib.suppress(shmpool.ShmpoolError):
                pool.alloc_many(chance.randrange(1, 40), 0)

    def _look(self) -> None:
        with View(self.name) as view:
            for read in (view.stats, view.queues, view.members, view.dead, view.operating):
                read()

    def _killed(self, chance: random.Random) -> None:
        """A member that is killed while it owns buffers."""
        calls = self._calls(chance)
        child = os.fork()
        if child:
            self._reap(child)
            return
        signal.alarm(int(HANG_S))
        with contextlib.suppress(BaseException):
            names = ["alloc", "get", "alloc_many", "send", "get_many", "publish", "subscribe"]
            for name in names:
                with contextlib.suppress(BaseException):
                    calls[name]()
        os.kill(os.getpid(), signal.SIGKILL)

    def _reap(self, child: int) -> None:
        _, status, used = os.wait4(child, 0)
        if used.ru_utime + used.ru_stime > CALL_S:
            self.judge.wrong.append(f"a child that was to be killed took {used.ru_utime:.2f} s")
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)
        if number != signal.SIGKILL:
            self.judge.wrong.append(f"a child that was to be killed died of {number}")


class Terminal:
    """The command line, as a user types it."""

    def __init__(self) -> None:
        from shmpool.cli.main import shmpool as command

        self._command = command
        self._lateness = Lateness()

    def carry_out(self, order: dict[str, Any]) -> dict[str, Any]:
        judge = Judge(self._lateness, order["daemon"])
        for line in order["commands"]:
            judge.call(" ".join(line), lambda line=line: self._run(line))  # type: ignore[misc]
        return {"wrong": judge.wrong, "longest": judge.longest, "refused": judge.refused}

    def _run(self, line: list[str]) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                self._command(line, prog_name="shmpool")
            except SystemExit as ended:
                if ended.code not in (0, 1, None):
                    raise errors.InvalidArgument(f"status {ended.code}") from None


def main() -> None:
    role = Worker(sys.argv[2]) if sys.argv[1] == "worker" else Terminal()
    for line in sys.stdin:
        print(json.dumps(role.carry_out(json.loads(line))), flush=True)


if __name__ == "__main__":
    faulthandler.enable()
    main()
