# SPDX-License-Identifier: Apache-2.0
"""How costs grow: python -m clients.bench.growth

One thing grows at a time: the members of a pool, its queues, its capacity, the processes on each
core. For each size the same calls are measured. Calls that are made once for each message (HOT)
must stay flat, no other may grow faster than what grows. What does is marked, and the exit status
is then 1.

Figures are processor time of the calls, the least of several times, so that a busy machine changes
little. Members are threads, up to 100 in a process, all attached and idle. Buffers all exist, which
is the worst case for creation, audits and recovery. Nothing is left behind, also after Ctrl-C.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

import shmpool

from ..children import uninterrupted
from .growth_report import Growth, machine, markdown, plot, store
from .recovery import forked, kill

THREADS = 100  # members of one process
MESSAGES = 100_000  # of all processes of a crowd
HELD = 100  # buffers that a killed process held
WIDTH = 150  # columns of a table
LOOP = 2000  # hot calls that are measured together
Act = Callable[[], object]


def processor_time(act: Act, times: int = 3) -> float:
    """Seconds that this thread needs for it, the least of several times."""
    taken = []
    for _ in range(times):
        before = time.thread_time()
        act()
        taken.append(time.thread_time() - before)
    return min(taken)


def hot(call: Act) -> float:
    """Seconds of one call, of many in a row."""

    def loop() -> None:
        for _ in range(LOOP):
            call()

    loop()  # touches the memory
    return processor_time(loop, 7) / LOOP


@contextmanager
def members(pool: shmpool.Pool, n: int) -> Iterator[None]:
    """So many idle members besides the caller, in other processes."""
    ready, children = os.pipe(), list[int]()

    def attach(first: int) -> None:
        count = min(THREADS, n - first)
        attached, forever = threading.Semaphore(0), threading.Event()

        def member() -> None:
            pool.alloc().free()
            attached.release()
            forever.wait()

        threading.stack_size(256 << 10)
        for _ in range(count):
            threading.Thread(target=member, daemon=True).start()
        for _ in range(count):
            attached.acquire()
        os.write(ready[1], b"x")
        forever.wait()

    try:
        for first in range(0, n, THREADS):
            with uninterrupted():
                children.append(forked(partial(attach, first)))
            os.read(ready[0], 1)
        yield
    finally:
        for pid in children:
            kill(pid)
        for end in ready:
            os.close(end)


def in_child(act: Callable[[], float]) -> float:
    """What it returns in a child process."""
    answer = os.pipe()
    pid = forked(lambda: os.write(answer[1], repr(act()).encode()) and None)
    try:
        os.close(answer[1])
        return float(os.read(answer[0], 100))
    finally:
        os.close(answer[0])
        os.waitpid(pid, 0)


def attach_time(name: str) -> float:
    """Seconds that a process needs to open the pool."""

    def attach() -> float:
        before = time.thread_time()
        pool = shmpool.Pool.attach(name)
        taken = time.thread_time() - before
        pool.close()
        return taken

    return min(in_child(attach) for _ in range(3))


def recovery_time(pool: shmpool.Pool) -> float:
    """Seconds that pool.recover() needs after a process was killed that held buffers."""
    taken = []
    for _ in range(3):
        held = os.pipe()

        def hold(held: tuple[int, int] = held) -> None:
            burst = pool.alloc_many(HELD)
            os.write(held[1], b"x")
            signal.pause()
            burst.free()

        pid = forked(hold)
        os.read(held[0], 1)
        kill(pid)
        for end in held:
            os.close(end)
        before = time.thread_time()
        found = pool.recover()
        taken.append(time.thread_time() - before)
        if found.members != 1:
            raise RuntimeError(f"recovered {found}; one member with {HELD} buffers was killed")
    return min(taken)


def calls(pool: shmpool.Pool, name: str) -> dict[str, float]:
    """Seconds of each call on that pool, with what there is in it now."""
    last = f"q{len(pool.queues()) - 1}"
    queue = pool.queue(last)
    message = bytes(64)

    def put_get() -> None:
        queue.put(pool.alloc())
        queue.get().free()

    def send_recv() -> None:
        queue.send(message)
        queue.recv()

    return {
        "attach": attach_time(name),
        "alloc, free": hot(lambda: pool.alloc().free()),
        "put, get": hot(put_get),
        "send, recv": hot(send_recv),
        "find a queue": hot(lambda: pool.queue(last)),
        "recover": recovery_time(pool),
        "audit": processor_time(lambda: pool.audit(None)),
        "stats": processor_time(pool.stats, 30),
    }


def measured(
    number: int, *, capacity: int = 4096, queues: int = 1, others: int = 0
) -> dict[str, float]:
    """Creates a pool with so much in it, and measures."""
    name = f"growth-{os.getpid()}-{number}"
    made: list[shmpool.Pool] = []

    def create() -> None:
        while made:
            made.pop().close()
            shmpool.Pool.unlink(name)
        made.append(shmpool.Pool.create(
            name, buffer_size=64, capacity=capacity, prealloc=capacity, members=others + 8,
            queues=queues + 1,
        ))  # fmt: skip

    try:
        figures = {"create": processor_time(create, 1 if capacity > 1 << 20 else 3)}
        pool = made[0]
        before = time.thread_time()
        for i in range(queues):
            pool.create_queue(f"q{i}", capacity=64)
        figures["create a queue"] = (time.thread_time() - before) / queues
        with members(pool, others) if others else contextlib.nullcontext():
            return figures | calls(pool, name)
    finally:
        for pool in made:
            pool.close()
            shmpool.Pool.unlink(name)


def crowd(number: int, each: int) -> dict[str, float]:
    """Processor time of a message with so many processes on each core, which send and receive in
    turns, so that none has to wait for another one: through one queue, and through a queue each."""
    n = each * len(os.sched_getaffinity(0))
    turns = max(MESSAGES // n, 100)
    figures = {}
    with shmpool.Pool.create(
        None, buffer_size=64, capacity=1 << 15, prealloc=1 << 15, members=n + 8, queues=n + 8
    ) as pool:
        shared = pool.create_queue("shared", capacity=1 << 12)
        own = [pool.create_queue(f"q{i}", capacity=64) for i in range(n)]
        for what, queues in (("send, recv", own), ("send, recv: one queue", [shared] * n)):
            figures[what] = min(together(queues, turns) for _ in range(3))
    return figures


def together(queues: list[shmpool.AlfQueue], turns: int) -> float:
    """Processor time of a message: a process for each queue, all at once."""
    go, answers = os.pipe(), os.pipe()

    def work(queue: shmpool.AlfQueue) -> None:
        message = bytes(64)
        queue.send(message)
        queue.recv()
        os.read(go[0], 1)
        before = time.process_time()
        for _ in range(turns):
            queue.send(message)
            queue.recv()
        os.write(answers[1], f"{time.process_time() - before:20.12f}".encode())

    children = [forked(partial(work, queue)) for queue in queues]
    os.close(answers[1])  # if a child fails, the end of the file is read
    try:
        os.write(go[1], b"x" * len(children))
        return sum(float(os.read(answers[0], 20)) for _ in children) / (len(children) * turns)
    finally:
        for pid in children:
            kill(pid)
        for end in (*go, answers[0]):
            os.close(end)


def subjects(most: float) -> list[tuple[str, list[int], Callable[[int, int], dict[str, float]]]]:
    """What grows, its sizes, and what measures one of them."""
    capacities = [n for n in (1 << 10, 1 << 14, 1 << 17, 1 << 20, 1 << 24) if n <= most * (1 << 24)]
    return [
        ("members", sized([1, 10, 100, 1000, 4000], most), lambda i, n: measured(i, others=n)),
        ("queues", sized([1, 10, 100, 1000], most), lambda i, n: measured(i, queues=n)),
        ("capacity", capacities or [1 << 10], lambda i, n: measured(i, capacity=n)),
        ("processes on each core", sized([1, 2, 4, 8, 16], most), crowd),
    ]


def sized(sizes: list[int], most: float) -> list[int]:
    """The sizes up to that share of the largest one."""
    return [n for n in sizes if n <= most * sizes[-1]] or sizes[:1]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, help="members, queues, capacity, processes.")
@click.option("--most", default=1.0, show_default=True, help="Up to this share of the sizes.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures.")
@click.option("--report", type=click.Path(path_type=Path), help="Write growth.md, .json and plots.")
def main(only: tuple[str, ...], most: float, json_path: Path | None, report: Path | None) -> None:
    """Measure how costs grow with members, queues, capacity and processes.

    Example: python -m clients.bench.growth --only queues --report docs
    """
    chosen = [s for s in subjects(most) if not only or any(s[0].startswith(o) for o in only)]
    if not chosen:
        raise click.BadParameter(f"{only} names nothing that grows", param_hint="--only")
    work = [(what, n, run) for what, sizes, run in chosen for n in sizes]
    found = {what: Growth(what) for what, _, _ in chosen}
    for i, (what, n, run) in enumerate(track(work, "measuring", transient=True)):
        found[what].add(n, run(i, n))
    console = Console()
    console.width = max(console.width, WIDTH)
    for growth in found.values():
        table = Table(growth.what, *growth.calls, title=f"us of a call, by {growth.what}")
        for line in growth.lines():
            table.add_row(*line)
        console.print(table)
    if json_path:
        store(json_path, list(found.values()))
    if report:
        report.mkdir(parents=True, exist_ok=True)
        store(report / "growth.json", list(found.values()))
        for growth in found.values():
            (report / f"{growth.file_name}.svg").write_text(plot(growth))
        (report / "growth.md").write_text(markdown(machine(), list(found.values())))
    wrong = [text for growth in found.values() for text in growth.wrong()]
    for text in wrong:
        click.echo(text, err=True)
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
