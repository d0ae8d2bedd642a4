# SPDX-License-Identifier: Apache-2.0
"""One run of a contestant of clients.bench.topics: its processes, and what they measure.

Times are in seconds, and for messages that all subscribers have.
"""

import mmap
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from typing import Any

import click
import numpy as np

from ..children import uninterrupted
from .topic_contestant import Contestant, Publish, Receive, Spec

CONTEXT = multiprocessing.get_context("fork")
LATER_S = 0.0005  # between two messages when latency is measured
POLL_S = 0.0002
LIMIT_S = 120.0  # a run that is not over by then has stopped
STEP = 16  # messages between two times of the publisher, if it publishes many a call

# Words of the board. Those of process i begin at EACH * (i + 1); the publisher is the last process.
DONE, GAP, PUBLISHED = range(3)
EACH = 8
READY, RECEIVED, LOST, WRONG, ENDED, USED, SEEN = range(7)


class Board:
    """Counters in shared memory, and times in nanoseconds."""

    def __init__(self, processes: int, times: int = 0) -> None:
        self.at_times = EACH * (processes + 1)
        self.processes, self.times = processes, times
        self.words = memoryview(mmap.mmap(-1, 8 * (self.at_times + processes * times))).cast("Q")

    def all(self, field: int) -> list[int]:
        """Returns the word of each process."""
        return [self.words[EACH * (i + 1) + field] for i in range(self.processes)]

    def set(self, process: int, field: int, value: int) -> None:
        self.words[EACH * (process + 1) + field] = value

    def times_of(self, process: int) -> memoryview:
        """The part for the times of a process, one for each message."""
        start = self.at_times + process * self.times
        return self.words[start : start + self.times]

    def wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            time.sleep(POLL_S)


@dataclass
class Check:
    """What one subscriber has received: numbers in order, each once."""

    expected: int = 0
    received: int = 0
    lost: int = 0
    wrong: int = 0  # repeated, older, or not whole

    def one(self, first: int, last: int) -> None:
        if first != last or first < self.expected:
            self.wrong += 1
            return
        self.lost += first - self.expected
        self.received += 1
        self.expected = first + 1

    def many(self, firsts: Any, lasts: Any) -> None:
        n = len(firsts)
        numbers = range(self.expected, self.expected + n)
        if isinstance(firsts, tuple):
            good = firsts == lasts == tuple(numbers)
        else:
            good = (firsts == np.arange(numbers.start, numbers.stop)).all() and (
                firsts == lasts
            ).all()
        if good:
            self.received += n
            self.expected += n
        else:
            for first, last in zip(firsts, lasts, strict=True):
                self.one(int(first), int(last))


def receive_until(
    receive: Receive, check: Check, stop: int, many: bool, over: Callable[[], bool]
) -> None:
    """Receives and checks messages up to number stop, or until nothing comes and it is over."""
    one, together = check.one, check.many
    was_over = False
    while check.expected < stop:
        found = receive()
        if found is None:
            if was_over:
                check.lost += stop - check.expected
                check.expected = stop
                return
            was_over = over()
        elif many:
            together(*found)
        elif found[0] == found[1] == check.expected:  # the same as one(), without the call
            check.expected += 1
            check.received += 1
        else:
            one(*found)


class Run:
    """The processes of one run of a contestant."""

    def __init__(self, kind: type[Contestant], spec: Spec, board: Board) -> None:
        self.contestant, self.spec, self.board = kind(spec), spec, board
        self.processes: list[ForkProcess] = []

    def fork(self, work: Callable[..., None], *arguments: object) -> ForkProcess:
        process = CONTEXT.Process(target=work, args=arguments, daemon=True)
        with uninterrupted():
            process.start()
            self.processes.append(process)
        return process

    def publish(self, work: Callable[[Publish], None]) -> None:
        publish = self.contestant.publisher()
        self.board.set(self.spec.subscribers, READY, 1)
        self.board.wait(lambda: all(self.board.all(READY)))
        work(publish)

    def subscribe(self, index: int, work: Callable[[Receive, int], None]) -> None:
        receive = self.contestant.subscriber(index)
        self.board.set(index, READY, 1)
        work(receive, index)

    def start(
        self, publish: Callable[[Publish], None], subscribe: Callable[[Receive, int], None]
    ) -> None:
        """Starts all processes: the publisher last, so that it is the last one of processes."""
        self.contestant.create()
        for index in range(self.spec.subscribers):
            self.fork(self.subscribe, index, subscribe)
        self.fork(self.publish, publish)

    def finished(self, limit: float) -> bool:
        """Waits until all processes have ended. Returns False if one has not by then."""
        deadline = time.monotonic() + limit
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        failed = [process.exitcode for process in self.processes if process.exitcode]
        if failed:
            raise click.ClickException(f"a process of {self.contestant.name} failed: {failed}")
        return all(process.exitcode == 0 for process in self.processes)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.contestant.remove()


@contextmanager
def run_of(kind: type[Contestant], spec: Spec, board: Board) -> Iterator[Run]:
    """A run, whose processes end with the block."""
    run = Run(kind, spec, board)
    try:
        yield run
    finally:
        run.end()


@dataclass(frozen=True)
class Moved:
    """What one run moved."""

    seconds: float
    used: float  # processor time of all processes
    lost: int
    wrong: int


def throughput(kind: type[Contestant], spec: Spec, n: int) -> Moved | None:
    """Returns what a run of n messages measured, or None if it stopped.

    The first messages, twice as many as may wait, are not measured: with them each process touches
    the memory for the first time.
    """
    first, publisher = 2 * spec.depth, spec.subscribers
    board = Board(spec.subscribers + 1)

    def publish(publish: Publish) -> None:
        publish(0, first)
        board.words[DONE] = 1
        board.wait(lambda: min(board.all(SEEN)[:publisher]) == first)
        begin, used = time.perf_counter_ns(), time.process_time_ns()
        publish(first, first + n)
        board.words[DONE] = 2
        board.set(publisher, ENDED, begin)
        board.set(publisher, USED, time.process_time_ns() - used)

    def subscribe(receive: Receive, index: int) -> None:
        check = Check()

        def receive_to(stop: int, phase: int) -> None:
            over = lambda: kind.loses and board.words[DONE] >= phase  # noqa: E731
            receive_until(receive, check, stop, kind.many, over)

        receive_to(first, 1)
        board.set(index, SEEN, first)
        begin = check.received, check.lost
        receive_to(first + 1, 2)
        used = time.process_time_ns()  # without the time until the first message
        receive_to(first + n, 2)
        board.set(index, ENDED, time.perf_counter_ns())
        board.set(index, USED, time.process_time_ns() - used)
        board.set(index, RECEIVED, check.received - begin[0])
        board.set(index, LOST, check.lost - begin[1])
        board.set(index, WRONG, check.wrong)

    with run_of(kind, spec, board) as run:
        run.start(publish, subscribe)
        if not run.finished(LIMIT_S):
            return None
    *ended, begin = board.all(ENDED)
    moved = max(sum(board.all(RECEIVED)) / spec.subscribers, 1)
    return Moved(
        (max(ended) - begin) / 1e9 / moved,
        sum(board.all(USED)) / 1e9 / moved,
        sum(board.all(LOST)),
        sum(board.all(WRONG)),
    )


def latency(kind: type[Contestant], spec: Spec, n: int) -> list[float] | None:
    """Returns the seconds that each of n messages took, or None if the run stopped."""
    publisher = spec.subscribers
    board = Board(spec.subscribers + 1, n)

    def publish(publish: Publish) -> None:
        sent = board.times_of(publisher)
        for i in range(n):
            time.sleep(LATER_S)
            sent[i] = time.perf_counter_ns()
            publish(i, i + 1)
            board.wait(lambda: min(board.all(SEEN)[:publisher]) == i + 1)  # noqa: B023

    def subscribe(receive: Receive, index: int) -> None:
        came = board.times_of(index)
        for i in range(n):
            while (found := receive()) is None:
                pass
            came[i] = time.perf_counter_ns()
            if (i, i) != found:
                raise AssertionError(f"message {i} is {found}")
            board.set(index, SEEN, i + 1)

    with run_of(kind, spec, board) as run:
        run.start(publish, subscribe)
        if not run.finished(LIMIT_S):
            return None
    *came, sent = (board.times_of(i).tolist() for i in range(publisher + 1))
    return [(max(times) - begin) / 1e9 for begin, *times in zip(sent, *came, strict=True)]


def waiting_for_processor() -> Callable[[], int]:
    """Returns what tells for how many nanoseconds this thread was ready and had no processor."""
    try:
        file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    except FileNotFoundError:  # a kernel that does not count it
        return lambda: 0
    return lambda: int(os.pread(file, 64, 0).split()[1])


@dataclass(frozen=True)
class HeldUp:
    """The publisher's longest pause before and after a subscriber was killed, without the time in
    which it waited for a processor."""

    before: float
    after: float  # infinite if it stopped
    lost: int  # by the subscribers that were not killed


def held_up(kind: type[Contestant], spec: Spec, chance: random.Random, limit: float) -> HeldUp:
    """Kills one of the subscribers at a random moment of its work."""
    board = Board(spec.subscribers + 1)
    words, step = board.words, STEP if kind.many else 1

    def publish(publish: Publish) -> None:
        waited = waiting_for_processor()
        n, last = 0, time.perf_counter_ns() - waited()
        while True:
            publish(n, n + step)
            n += step
            now = time.perf_counter_ns() - waited()
            words[GAP] = max(words[GAP], now - last)
            words[PUBLISHED], last = n, now

    def subscribe(receive: Receive, index: int) -> None:
        check = Check()
        while True:
            if (found := receive()) is not None:
                (check.many if kind.many else check.one)(*found)
                board.set(index, LOST, check.lost + check.wrong)

    def goes_on(messages: int, limit: float) -> bool:
        """Waits until so many more are published. Returns False if they are not in time."""
        goal, deadline = words[PUBLISHED] + messages, time.monotonic() + limit
        while words[PUBLISHED] < goal:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    with run_of(kind, spec, board) as run:
        run.start(publish, subscribe)
        board.wait(lambda: words[PUBLISHED] > 2 * spec.depth)
        words[GAP] = 0
        if not goes_on(4 * spec.depth + chance.randrange(spec.depth), LIMIT_S):
            raise click.ClickException(f"{kind.name} stopped before a subscriber was killed")
        before = words[GAP] / 1e9
        words[GAP] = 0
        victim = chance.randrange(spec.subscribers)
        run.processes[victim].kill()
        if kind.clean_up is not Contestant.clean_up:
            run.fork(run.contestant.clean_up)
        after = words[GAP] / 1e9 if goes_on(4 * spec.depth, limit) else float("inf")
        lost = board.all(LOST)[: spec.subscribers]
        return HeldUp(before, after, sum(lost) - lost[victim])
