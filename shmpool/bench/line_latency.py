# SPDX-License-Identifier: Apache-2.0
"""How long a cache line currently takes from one core to the other.

Two Python processes bounce a counter in shared memory; the cost of the same loop in one process is
subtracted. The result is good to tens of ns. That is enough to tell near cores (30 to 60 ns) from
far ones (190 to 290 ns); virtual machines switch between the two. Compare only figures that were
measured with like latencies. clients/bench/native measures it exactly.
"""

import mmap
import multiprocessing
import os
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext
from time import perf_counter_ns as clock

from .workers import uninterrupted

LINE = 8  # 64-bit words of a cache line
ROUNDS = 2000
TRIES = 5


class CacheLineLatency:
    """This process, on the first core, and one on the second, which sleeps until measure() is
    called."""

    def __init__(self, cores: list[int]) -> None:
        self._cores = cores
        self._words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        context: ForkContext = multiprocessing.get_context("fork")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=self._answer, args=(other,), daemon=True)
        with uninterrupted():
            self._process.start()
        other.close()

    def _answer(self, pipe: Connection) -> None:
        """In the other process: answers each turn in word LINE."""
        self._pipe.close()
        os.sched_setaffinity(0, {self._cores[:2][-1]})
        words = self._words
        try:
            while pipe.recv():
                pipe.send(None)
                for turn in range(1, ROUNDS + 1):
                    while words[0] != turn:
                        pass
                    words[LINE] = turn
        except EOFError:
            return

    def measure(self) -> float:
        """ns for one way, the best of five tries; 0 if there is only one core."""
        if len(set(self._cores)) < 2:
            return 0.0
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self._cores[0]})
        try:
            together = min(self._together() for _ in range(TRIES))
            alone = min(self._alone() for _ in range(TRIES))
        finally:
            os.sched_setaffinity(0, before)
        return max(0.0, (together - alone) / 2)

    def _together(self) -> float:
        words = self._words
        words[0] = words[LINE] = 0
        self._pipe.send(True)
        self._pipe.recv()
        start = clock()
        for turn in range(1, ROUNDS + 1):
            words[0] = turn
            while words[LINE] != turn:
                pass
        return (clock() - start) / ROUNDS

    def _alone(self) -> float:
        words = self._words
        start = clock()
        for turn in range(1, ROUNDS + 1):
            words[0] = turn
            while words[0] != turn:
                pass
            words[LINE] = turn
            while words[LINE] != turn:
                pass
        return (clock() - start) / ROUNDS

    def __enter__(self) -> "CacheLineLatency":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()  # SIGTERM is handled by the parent; this process holds nothing
        self._process.join()
        self._pipe.close()
