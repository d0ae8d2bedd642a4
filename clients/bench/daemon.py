# SPDX-License-Identifier: Apache-2.0
"""Measures what the daemon costs: python -m clients.bench.daemon

Starts daemons on a pool of its own. Prints their memory without and with HTTP, the share of a core
that an idle one uses, the time to read a pool of 1,000 members and 100 queues, and the time from
SIGKILL until the buffers of a worker are free again.
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

from .recovery import forked, kill

MEMBERS, QUEUES = 1000, 100
PROCESSES = 4  # the members are their threads
READS = 2000
KILLS = 40
CONFIG = '[daemon]\nadopt = ["{0}"]\nprune = false\nlog_level = "{1}"\n'


class Daemon:
    """A daemon that answers requests."""

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
        """Its memory in MB, by kind."""
        proc = Path(f"/proc/{self.process.pid}")
        text = (proc / "smaps_rollup").read_text() + (proc / "status").read_text()
        names = {"Rss": "Rss", "Pss": "Pss", "Anonymous": "Anonymous", "Pool": "RssShmem"}
        return {
            name: int(re.findall(rf"^{line}:\s+(\d+) kB", text, re.MULTILINE)[0]) * 1024 / 1e6
            for name, line in names.items()
        }

    def cpu(self) -> float:
        """Processor seconds of all its threads so far."""
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
        started = Daemon(Path(directory), pool, *arguments)
        try:
            yield started
        finally:
            started.end()


def forked_members(pool: str, count: int) -> int:
    """Starts a process with so many members, which lives until it is killed. Returns its pid."""
    read, write = os.pipe()

    def work() -> None:
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

    pid = forked(work)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    return pid


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
        table.add_row("  anonymous", f"{used['Anonymous']:.1f} MB")


def idle(table: Table, pool: str, seconds: float) -> None:
    with daemon(pool, "--http", "127.0.0.1:0") as one:
        time.sleep(1.0)
        before = one.cpu()
        time.sleep(seconds)
        share = (one.cpu() - before) / seconds
    table.add_row(f"idle for {seconds:g} s at an interval of 1 s", f"{share:.2%} of a core")


def reading(table: Table, pool: str) -> None:
    took = []
    with View(pool) as view:
        for _ in range(READS):
            began = time.perf_counter()
            stats, queues = view.stats(), view.queues()
            took.append((time.perf_counter() - began) * 1e3)
        began = time.perf_counter()
        members = view.members()
        listed = (time.perf_counter() - began) * 1e3
    table.add_row(
        f"reading {stats.members:,} members and {len(queues)} queues",
        f"{statistics.median(took):.3f} ms, 99 % under {sorted(took)[READS * 99 // 100]:.3f} ms",
    )
    table.add_row(f"listing {len(members):,} members", f"{listed:.3f} ms")


def recovering(table: Table, pool: str) -> None:
    took = []
    with daemon(pool) as one, View(pool) as view:
        remaining = view.stats().members
        for _ in range(KILLS):
            pid = forked_members(pool, 1)
            time.sleep(0.2)  # by then the daemon watches the process
            began = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            while view.stats().members != remaining:
                time.sleep(0.0002)
            took.append((time.perf_counter() - began) * 1e3)
            os.waitpid(pid, 0)
        while (counted := one.client.stats(pool).recoveries).members < KILLS:
            time.sleep(0.01)
    table.add_row(
        f"SIGKILL to recovered, {KILLS} times among {remaining:,} members",
        f"{statistics.median(took):.1f} ms, most {max(took):.1f} ms",
    )
    longest = (counted.longest_s or 0) * 1e3
    table.add_row("the longest, as the daemon counts", f"{longest:.1f} ms")


@click.command()
@click.option("--seconds", default=30.0, show_default=True, help="How long the daemon is idle.")
def main(seconds: float) -> None:
    """Measure what the daemon costs."""
    table = Table("the daemon", "", title=None, box=None)
    name = f"bench-daemon-{os.getpid()}"
    with shmpool.Pool.create(
        name, buffer_size=256, capacity=4096, prealloc=4096, members=MEMBERS + 16, queues=QUEUES
    ) as pool:
        processes = []
        try:
            for number in range(QUEUES):
                pool.create_queue(f"queue-{number}", capacity=64)
            memory(table, name)
            idle(table, name, seconds)
            recovering(table, name)
            processes = [forked_members(name, MEMBERS // PROCESSES) for _ in range(PROCESSES)]
            reading(table, name)
            idle(table, name, seconds)
            recovering(table, name)
        finally:
            for pid in processes:
                kill(pid)
            shmpool.Pool.unlink(name)
    Console().print(table)


if __name__ == "__main__":
    main()
