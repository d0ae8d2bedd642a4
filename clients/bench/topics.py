# SPDX-License-Identifier: Apache-2.0
"""What a topic moves, from one publisher to 1 to 4 subscribers: python -m clients.bench.topics.

Each subscriber gets every message and checks the number that is in its first and in its last eight
bytes: the bandwidth of the memory is not measured. What a subscriber did not get is lost, and only
what arrived counts as moved. All processes share two cores. The contestants take turns; the figures
are medians, and the ratios medians of those of each turn. One that is not installed is left out by
name. What is measured:

throughput: the time of a message, from the first one's publishing until the last subscriber has the
last one, divided by their number. Beside it stands the processor time of all processes together: a
busy machine lengthens the first, and hardly the second.

latency: one message at a time, from before its publishing until the last subscriber has it.

kills: how long the publisher is held up when a subscriber is killed: its longest pause between two
calls after the kill, and beside it the longest one before. The time in which the publisher waits
for a processor is not counted; that in which living subscribers do is, so on a busy machine only
the difference says something. One that does not go on has stopped.
"""

import importlib
import os
import random
import statistics
from collections.abc import Callable

import click

from .topic_contestant import Contestant, Spec
from .topic_contestants import CONTESTANTS
from .topic_runs import HeldUp, Moved, held_up, latency, throughput

CORES = 2
DEPTHS = {64: 1024, 2**20: 64}  # bytes of a message: how many may wait for a subscriber
MESSAGES = 40_000  # of a run, divided by how slow the contestant is
ROUND_TRIPS = 300  # of a run that measures latency
WHAT = ("throughput", "latency", "kills")


def installed(kind: type[Contestant]) -> bool:
    try:
        importlib.import_module(kind.module)
    except ImportError as error:
        click.echo(f"{kind.name} is left out: {error}")
        return False
    return True


class Bench:
    """The contestants, in turns, and what to tell of them."""

    def __init__(self, kinds: list[type[Contestant]], turns: int, scale: float) -> None:
        self.kinds, self.turns, self.scale = kinds, turns, scale
        self.ours = [kind for kind in kinds if kind.module == "shmpool"]
        self.runs = 0

    def spec(self, size: int, subscribers: int) -> Spec:
        self.runs += 1
        return Spec(f"topics-{os.getpid()}-{self.runs}", size, DEPTHS[size], subscribers)

    def count(self, most: int, cost: float = 1) -> int:
        return max(int(most * self.scale / cost), 1)

    def line(self, kind: type[Contestant], text: str) -> None:
        click.echo(f"  {kind.name:16} {text}")

    def ratios(self, kind: type[Contestant], of: Callable[[type[Contestant]], list[float]]) -> str:
        """Says how many times as long as ours it takes: the medians of the ratios of the turns."""
        texts = []
        for own in self.ours:
            if own is not kind and (pairs := list(zip(of(kind), of(own), strict=False))):
                ratio = statistics.median(theirs / ours for theirs, ours in pairs)
                texts.append(f" {ratio:7.2f} x {own.name}")
        return "".join(texts)

    def throughput(self, size: int, subscribers: int) -> None:
        moved: dict[type[Contestant], list[Moved]] = {kind: [] for kind in self.kinds}
        stopped: set[type[Contestant]] = set()
        for _ in range(self.turns):
            for kind in self.kinds:
                n = self.count(MESSAGES, kind.cost_of(size))
                run = throughput(kind, self.spec(size, subscribers), n)
                if run is None:
                    stopped.add(kind)
                else:
                    moved[kind].append(run)
        for kind, runs in moved.items():
            if kind in stopped:
                self.line(kind, "stopped")
                continue
            texts = []
            for what, name in (("seconds", "elapsed"), ("used", "of processors")):
                value = statistics.median(getattr(run, what) for run in runs) * 1e6
                ratios = self.ratios(kind, lambda k: [getattr(run, what) for run in moved[k]])  # noqa: B023
                texts.append(f"{value:9,.2f} us {name}{ratios}")
            lost, wrong = (sum(getattr(run, what) for run in runs) for what in ("lost", "wrong"))
            if lost or wrong:
                texts.append(f"LOST {lost:,}, WRONG {wrong:,}")
            self.line(kind, "; ".join(texts))

    def latency(self, size: int, subscribers: int) -> None:
        single = [kind for kind in self.kinds if not kind.many]
        took: dict[type[Contestant], list[list[float]]] = {kind: [] for kind in single}
        for _ in range(self.turns):
            for kind, runs in took.items():
                times = latency(kind, self.spec(size, subscribers), self.count(ROUND_TRIPS))
                if times is not None:
                    runs.append(sorted(times))
        for kind, runs in took.items():
            if len(runs) < self.turns:
                self.line(kind, "stopped")
                continue
            half, most = (
                statistics.median(times[int(len(times) * part)] for times in runs) * 1e6
                for part in (0.5, 0.99)
            )
            text = f"median {half:10,.1f} us, 99th percentile {most:10,.1f} us"
            self.line(
                kind, text + self.ratios(kind, lambda k: [t[len(t) // 2] for t in took.get(k, [])])
            )

    def kills(self, size: int, subscribers: int, kills: int, limit: float) -> None:
        for kind in self.kinds:
            runs: list[HeldUp] = []
            while len(runs) < kills and not any(run.after == float("inf") for run in runs):
                chance = random.Random(len(runs))
                runs.append(held_up(kind, self.spec(size, subscribers), chance, limit))
            before, after = max(run.before for run in runs), max(run.after for run in runs)
            lost = sum(run.lost for run in runs)
            if after == float("inf"):
                self.line(kind, f"stopped: no message for {limit:g} s after kill {len(runs)}")
                continue
            middle = statistics.median(run.after for run in runs) * 1e3
            self.line(
                kind,
                f"held up {middle:8.2f} ms (median of {kills}), {after * 1e3:8.2f} ms at most, "
                f"before a kill {before * 1e3:8.2f} ms, lost by others {lost:,}",
            )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("what", nargs=-1, type=click.Choice(WHAT))
@click.option("--turns", default=5, show_default=True, help="Of each contestant, for each figure.")
@click.option("--scale", default=1.0, show_default=True, help="Times so many messages.")
@click.option("--to", "counts", multiple=True, type=click.IntRange(1, 8), help="Subscribers.")
@click.option("--size", "sizes", multiple=True, type=click.Choice(list(DEPTHS)), help="Bytes.")
@click.option("--kills", default=10, show_default=True, help="Of each contestant.")
@click.option("--limit", default=10.0, show_default=True, help="Seconds until one has stopped.")
@click.option("--only", "names", multiple=True, help="This contestant; may be given repeatedly.")
def main(
    what: tuple[str, ...],
    turns: int,
    scale: float,
    counts: tuple[int, ...],
    sizes: tuple[int, ...],
    kills: int,
    limit: float,
    names: tuple[str, ...],
) -> None:
    """Compare what moves each message to several subscribers.

    WHAT is throughput, latency or kills; all three if it is not given.

    Example: python -m clients.bench.topics throughput --to 4 --size 64
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    kinds = [kind for kind in CONTESTANTS if not names or kind.name in names]
    bench = Bench([kind for kind in kinds if installed(kind)], turns, scale)
    for size in sizes or DEPTHS:
        for subscribers in counts or (1, 2, 4):
            for measure in what or WHAT:
                load = f"load {os.getloadavg()[0]:.1f} on {CORES} cores"
                click.echo(f"{measure}: {size:,} bytes, to {subscribers} ({load})")
                if measure == "throughput":
                    bench.throughput(size, subscribers)
                elif measure == "latency":
                    bench.latency(size, subscribers)
                elif subscribers > 1 or counts:
                    bench.kills(size, subscribers, kills, limit)


if __name__ == "__main__":
    main()
