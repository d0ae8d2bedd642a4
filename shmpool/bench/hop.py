# SPDX-License-Identifier: Apache-2.0
"""How long a cache line takes from one core to the other just now.

Two Python processes bounce a counter in shared memory, and what the same loop costs one process
alone is taken off. That is coarse (tens of ns), but it tells near cores (30 to 60 ns) from far ones
(190 to 290), between which a virtual machine flips: compare only figures of like hops. clients/
bench/native measures it exactly.
"""

import mmap
import multiprocessing
import os
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext
from time import perf_counter_ns as clock
from types import TracebackType

LINE = 8  # words of a cache line
ROUNDS = 2000
TRIES = 5


class Hop:
    """Two processes that wait, asleep, to be asked: this one, and one on the second core."""

    def __init__(self, cores: list[int]) -> None:
        self._cores = cores
        self._words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        context: ForkContext = multiprocessing.get_context("fork")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=self._answer, args=(other,), daemon=True)
        self._process.start()
        other.close()

    def _answer(self, pipe: Connection) -> None:
        self._pipe.close()
        os.sched_setaffinity(0, {self._cores[-1]})
        try:
            while pipe.recv():
                pipe.send(None)
                self._bounce(0, LINE)
        except (EOFError, KeyboardInterrupt):
            return

    def _bounce(self, mine: int, other: int) -> None:
        """Waits for each turn in the one word, and answers in the other."""
        words = self._words
        for turn in range(1, ROUNDS + 1):
            while words[mine] != turn:
                pass
            words[other] = turn

    def measure(self) -> float:
        """ns, one way: the best of a few tries. 0 if there is one core only."""
        if len(set(self._cores)) < 2:
            return 0.0
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self._cores[0]})
        try:
            together = min(self._try() for _ in range(TRIES))
            alone = min(self._alone() for _ in range(TRIES))
        finally:
            os.sched_setaffinity(0, before)
        return max(0.0, (together - alone) / 2)

    def _try(self) -> float:
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

    def __enter__(self) -> "Hop":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()  # it has nothing to tidy up, and SIGTERM is the parent's to handle
        self._process.join()
        self._pipe.close()
