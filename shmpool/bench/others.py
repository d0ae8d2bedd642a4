# SPDX-License-Identifier: Apache-2.0
"""How much of the cores other programs took while a round ran: its figures suffer from that."""

import os
import time
from pathlib import Path

from .crew import Worker

_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal: columns of /proc/stat


class Others:
    """Share of the cores' time, from the making of this object until share()."""

    def __init__(self, cores: list[int]) -> None:
        self._cores = {f"cpu{core}" for core in cores}
        self._from = self._now()

    def _now(self) -> tuple[float, float, float]:
        """Seconds: of the clock, of the cores at work, of this process and ended workers."""
        ticks = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *columns = line.split()
            if name in self._cores:
                ticks += sum(int(columns[i]) for i in _BUSY)
        own = os.times()
        return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), sum(own[:2]) + Worker.spent

    def share(self) -> float:
        """0 to 1; coarse when a round is shorter than a second."""
        passed, busy, own = (
            now - before for now, before in zip(self._now(), self._from, strict=True)
        )
        return max(0.0, busy - own) / (passed * len(self._cores))
