# SPDX-License-Identifier: Apache-2.0
"""What the daemon costs: python -m clients.bench.daemon

Starts daemons of its own, on a pool that only it knows, and prints their memory without and with
HTTP, the share of a core that one takes when nothing happens, how long it takes to read a pool of
1,000 members and 100 queues, and the time from SIGKILL until a worker's buffers are free again.
"""

import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import click
from rich.console import Console
from rich.table import Table

import shmpool
from shmpool.view import View

MEMBERS, QUEUES = 1000, 100
PROCESSES = 4  # that the members are threads of
LOOKS = 2000
KILLS = 40
CONFIG = '[daemon]\nadopt = ["{0}"]\nprune = false\nlog_level = "{1}"\n'


class Daemon:
    """One that is ready."""

    def __init__(self, directory: Path, pool: str, *arguments: str) -> None:
        config, self.socket = directory / "shmpool.toml", directory / "daemon.sock"
        config.write_text(CONFIG.format(pool, "info"))
        self._log = (directory / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shmpool.daemon", "--config", config, "--socket", self.socket,
             *arguments],
            stderr=self._log,
        )  # fmt: skip
        self.client = shmpool.Client(self.socket)
        while True:
            try:
                self.client.ping()
                break
            except shmpool.DaemonUnavailable:
                time.sleep(0.01)

    def output(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def memory(self) -> dict[str, float]:
        """MB of its memory, in several ways to count."""
        proc = Path(f"/proc/{self.process.pid}")
        text = (proc / "smaps_rollup").read_text() + (proc / "status").read_text()
        names = {"Rss": "Rss", "Pss": "Pss", "Anonymous": "Anonymous", "Pool": "RssShmem"}
        return {
            name: int(re.findall(rf"^{line}:\s+(\d+) kB", text, re.MULTILINE)[0]) * 1024 / 1e6
            for name, line in names.items()
        }

    def seconds(self) -> float:
        """Of a core, so far, all threads."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def end(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait()
        self._log.close()


@contextlib.contextmanager
def daemon(pool: str, *arguments: str) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory() as directory:
        made = Daemon(Path(directory), pool, *arguments)
        try:
            yield made
        finally:
            made.end()


def forked_members(pool: str, count: int) -> int:
    """A process with so many members, that ends when it is killed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        os.read(read, 1)
        os.close(read)
        return pid
    attached = shmpool.Pool.attach(pool)
    inside, leave = threading.Barrier(count + 1), threading.Event()

    def member() -> None:
        with attached.alloc():
            inside.wait()
            leave.wait()

    for _ in range(count):
        threading.Thread(target=member, daemon=True).start()
    inside.wait()
    os.write(write, b"x")
    signal.pause()
    os._exit(0)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def memory(table: Table, pool: str) -> None:
    for title, arguments in (("without HTTP", ()), ("with HTTP", ("--http", "127.0.0.1:0"))):
        with daemon(pool, *arguments) as one:
            for _ in range(5):
                for call in (one.client.stats, one.client.audit, one.client.holders):
                    call(pool)
                for url in re.findall(r"live page at (http://\S+)", one.output()):
                    for path in ("", "page.js", "metrics", "healthz", f"api/v1/pools/{pool}/stats"):
                        urlopen(url + path).read()
            used = one.memory()
        table.add_row(f"resident {title}", f"{used['Rss']:.1f} MB")
        table.add_row("  of these the pool's own pages", f"{used['Pool']:.1f} MB")
        table.add_row("  its share (PSS)", f"{used['Pss']:.1f} MB")
        table.add_row("  of no file", f"{used['Anonymous']:.1f} MB")


def idle(table: Table, pool: str, seconds: float) -> None:
    with daemon(pool, "--http", "127.0.0.1:0") as one:
        time.sleep(1.0)
        before = one.seconds()
        time.sleep(seconds)
        share = (one.seconds() - before) / seconds
    table.add_row(f"idle for {seconds:g} s at an interval of 1 s", f"{share:.2%} of a core")


def reading(table: Table, pool: str) -> None:
    took = []
    with View(pool) as view:
        for _ in range(LOOKS):
            began = time.perf_counter()
            stats, queues = view.stats(), view.queues()
            took.append((time.perf_counter() - began) * 1e3)
        began = time.perf_counter()
        members = view.members()
        listed = (time.perf_counter() - began) * 1e3
    table.add_row(
        f"reading {stats.members:,} members and {len(queues)} queues",
        f"{statistics.median(took):.3f} ms, 99 % under {sorted(took)[LOOKS * 99 // 100]:.3f} ms",
    )
    table.add_row(f"listing {len(members):,} members", f"{listed:.3f} ms")


def recovering(table: Table, pool: str) -> None:
    took = []
    with daemon(pool) as one, View(pool) as view:
        others = view.stats().members
        for _ in range(KILLS):
            pid = forked_members(pool, 1)
            time.sleep(0.2)  # it is watched by now
            began = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            while view.stats().members != others:
                time.sleep(0.0002)
            took.append((time.perf_counter() - began) * 1e3)
            os.waitpid(pid, 0)
        while (counted := one.client.stats(pool).recoveries).members < KILLS:
            time.sleep(0.01)
    table.add_row(
        f"SIGKILL to recovered, {KILLS} times among {others:,} members",
        f"{statistics.median(took):.1f} ms, most {max(took):.1f} ms",
    )
    longest = (counted.longest_s or 0) * 1e3
    table.add_row("the longest by the daemon's own count", f"{longest:.1f} ms")


@click.command()
@click.option("--seconds", default=30.0, show_default=True, help="To be idle.")
def main(seconds: float) -> None:
    """Measures the daemon."""
    table = Table("the daemon", "", title=None, box=None)
    name = f"bench-daemon-{os.getpid()}"
    with shmpool.Pool.create(
        name, buffer_size=256, capacity=4096, prealloc=4096, members=MEMBERS + 16, queues=QUEUES
    ) as pool:
        crowd = []
        try:
            for number in range(QUEUES):
                pool.create_queue(f"queue-{number}", capacity=64)
            memory(table, name)
            idle(table, name, seconds)
            recovering(table, name)
            crowd = [forked_members(name, MEMBERS // PROCESSES) for _ in range(PROCESSES)]
            reading(table, name)
            idle(table, name, seconds)
            recovering(table, name)
        finally:
            for pid in crowd:
                kill(pid)
            shmpool.Pool.unlink(name)
    Console().print(table)


if __name__ == "__main__":
    main()
