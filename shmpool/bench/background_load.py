# SPDX-License-Identifier: Apache-2.0
"""How much processor time other programs used during a round: figures suffer from it."""

import os
import time
from pathlib import Path

from .workers import Worker

_BUSY = (0, 1, 2, 5, 6, 7)  # columns of /proc/stat: user, nice, system, irq, softirq, steal


class BackgroundLoad:
    """Other programs' share of the cores' time, from the creation of this object to share()."""

    def __init__(self, cores: list[int]) -> None:
        self._cores = {f"cpu{core}" for core in cores}
        self._start = self._now()

    def _now(self) -> tuple[float, float, float]:
        """Seconds: of the clock, of all work on the cores, of this process and ended workers."""
        ticks = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *columns = line.split()
            if name in self._cores:
                ticks += sum(int(columns[i]) for i in _BUSY)
        own = os.times()
        return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), sum(own[:2]) + Worker.ended_cpu_s

    def share(self) -> float:
        """0 to 1; coarse for rounds under a second."""
        wall, busy, own = (now - start for now, start in zip(self._now(), self._start, strict=True))
        return max(0.0, busy - own) / (wall * len(self._cores))
