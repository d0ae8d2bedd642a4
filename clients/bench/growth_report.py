# SPDX-License-Identifier: Apache-2.0
"""The figures of clients.bench.growth: how fast each call grows, as tables and plots."""

import io
import json
import math
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

HOT = ("alloc, free", "put, get", "send, recv")  # calls that must stay flat
FLAT = 1.6  # times its figure at the smallest size: the most that a hot call may take
FASTER = 1.3  # an exponent above it is more than linear; two nested loops have 2
# A linear call whose memory outgrows the caches seems to grow faster at that step. So what takes
# less than two cache misses for each thing is linear.
MISSES_S = 200e-9
NOISE_S = 200e-6  # below it a figure is no base for an exponent


@dataclass
class Growth:
    """Seconds of each call, by the size of what grows."""

    what: str
    figures: dict[int, dict[str, float]] = field(default_factory=dict)

    def add(self, size: int, figures: dict[str, float]) -> None:
        self.figures[size] = figures

    @property
    def sizes(self) -> list[int]:
        return list(self.figures)

    @property
    def calls(self) -> list[str]:
        return list(next(iter(self.figures.values()), {}))

    @property
    def file_name(self) -> str:
        return f"growth-{self.what.split()[0]}"

    def times(self, call: str) -> float:
        """The figure at the largest size, divided by that at the smallest one."""
        first, last = (self.figures[size][call] for size in (self.sizes[0], self.sizes[-1]))
        return last / first

    def exponent(self, call: str) -> float:
        """Of the last step: 0 is flat, 1 linear, 2 quadratic. 0 if there is none."""
        if len(self.sizes) < 2:
            return 0.0
        (a, before), (b, after) = list(self.figures.items())[-2:]
        return math.log(after[call] / before[call]) / math.log(b / a)

    def judge(self, call: str) -> str:
        """In words."""
        if call in HOT:
            return "flat" if self.times(call) <= FLAT else f"{self.times(call):.1f} x: NOT FLAT"
        if self.figures[self.sizes[-1]][call] < NOISE_S:
            return f"{self.times(call):.1f} x in all"
        power, each = self.exponent(call), self.figures[self.sizes[-1]][call] / self.sizes[-1]
        if power > FASTER and each < MISSES_S:
            return f"n^{power:.2f}, {each * 1e9:.0f} ns each"
        return f"n^{power:.2f}" + (": MORE THAN LINEAR" if power > FASTER else "")

    def wrong(self) -> list[str]:
        """What grows more than it may."""
        judged = {call: self.judge(call) for call in self.calls}
        return [f"{self.what}: {call}: {text}" for call, text in judged.items() if ": " in text]

    def lines(self) -> list[list[str]]:
        """A row for each size, and one with what each call does."""
        rows = [
            [f"{size:,}", *(_us(figures[call]) for call in self.calls)]
            for size, figures in self.figures.items()
        ]
        return [*rows, ["growth", *(self.judge(call) for call in self.calls)]]


def _us(seconds: float) -> str:
    us = seconds * 1e6
    return f"{us:,.0f}" if us >= 100 else f"{us:.3g}"


def plot(growth: Growth) -> str:
    """SVG: a line for each call."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "growth"}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for call in growth.calls:
            values = [figures[call] * 1e6 for figures in growth.figures.values()]
            style = "-" if call in HOT else "--"
            axes.loglog(growth.sizes, values, style, marker="o", markersize=4, label=call)
        axes.set_xticks(growth.sizes, [f"{size:,}" for size in growth.sizes])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(growth.what)
        axes.set_ylabel("us of a call")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper", fontsize="small")
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :].rstrip("\n") + "\n"


INTRODUCTION = """\
# How costs grow

Written by `make bench-growth ARGS="--report docs"`. One thing grows at a time. Figures are
microseconds of processor time of one call, the least of several, so that a busy machine changes
them little. All buffers exist, and all members are attached. Calls that are made once for each
message stay flat, and no other call grows faster than what grows. The last row says so: n^1 is
linear, by the last step; of a call that takes less than 200 us it says how many times the first
figure the last one is. A call whose memory outgrows the caches at the last step seems to grow
faster there: it is linear if it takes less than two cache misses, 200 ns, for each thing.
`tests/test_instructions.py` shows that hot calls are flat by counts of instructions.

"create a queue" is the mean of all queues. "find a queue" is for the last one that was created.
Recovery is of a process that was killed and held 100 buffers. Processes on each core send and
receive in turns, so that what grows there is what they do to each other: in queues of their own
that must be nothing; through one queue they share its cache lines and positions.
"""


def machine() -> str:
    """The processor and the interpreter."""
    model = re.search(r"^model name\s*: (.+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{model[1] if model else platform.machine()}, CPython {platform.python_version()}"


def store(path: Path, growths: list[Growth]) -> None:
    """Writes the figures as JSON."""
    figures = {growth.what: growth.figures for growth in growths}
    path.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1) + "\n")


def stored(path: Path) -> tuple[str, list[Growth]]:
    """Reads the machine and the figures."""
    raw = json.loads(path.read_text())
    found = []
    for what, figures in raw["figures"].items():
        found.append(Growth(what, {int(size): of for size, of in figures.items()}))
    return raw["machine"], found


def markdown(machine: str, growths: list[Growth]) -> str:
    """A page with a table and a plot for each."""
    parts = [INTRODUCTION, f"\nMeasured on {machine}.\n"]
    for growth in growths:
        header = [growth.what, *growth.calls]
        lines = [header, ["---:"] * len(header), *growth.lines()]
        parts.append(f"\n## By {growth.what}\n\n")
        parts += [f"| {' | '.join(line)} |\n" for line in lines]
        parts.append(f"\n![Cost by {growth.what}]({growth.file_name}.svg)\n")
    return "".join(parts)
