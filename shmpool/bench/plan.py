# SPDX-License-Identifier: Apache-2.0
"""What is measured: the cells of every scenario, who takes part in them, and how long a run
takes.

Polling on one core is left out: a process that polls without sleeping keeps the other one off the
core until the scheduler's slice ends, and that is what would be measured. To all goes one message
at a time. Robustness is about single messages too: nobody can say how many of a batch a victim
had.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from . import floor, latency, robustness, throughput
from .latency import PingPong, Waiting
from .robustness import Blow, Ordeal
from .throughput import Load
from .way import OneByOne, Way

SCENARIOS = ("throughput", "to-all", "latency", "idle", "robustness")
SIZES = (64, 1500, 64 << 10, 1 << 20)  # bytes
PAIRS = (1, 2, 4, 8)  # producers, and as many consumers
RECEIVERS = 4  # of a message to all
LATENCY_SIZE = 64
START_S, EACH_S = 0.22, 0.032  # a run's time beyond its window, and each process's


@dataclass(frozen=True)
class Settings:
    """How the whole benchmark is run: by default within half an hour on two cores. More runs, or
    longer ones, tell more about this half hour only: what moves figures most is how far apart the
    cores are, and that stays for minutes.
    """

    runs: int = 3
    window_s: float = 0.25
    sizes: tuple[int, ...] = SIZES
    pairs: tuple[int, ...] = PAIRS
    to_all_sizes: tuple[int, ...] = (64, 1500)
    ordeal_sizes: tuple[int, ...] = (1500, 1 << 20)
    kills: int = 50
    stops: int = 2
    hung_s: float = 3.0
    pin: bool = False
    cores: tuple[int, ...] = (0, 1)
    limit_s: float | None = None  # after which what is left is not measured


FULL = Settings()
QUICK = Settings(
    runs=1,
    window_s=0.15,
    sizes=(64, 1 << 20),
    pairs=(2,),
    to_all_sizes=(64,),
    ordeal_sizes=(1500,),
    kills=3,
    stops=0,
    hung_s=1.5,
    limit_s=103,
)


@dataclass(frozen=True)
class Cell:
    """One line of work for several contestants."""

    scenario: str
    key: str
    conditions: dict[str, Any]
    ways: tuple[type[Way], ...]
    sample: Callable[[type[Any], str], dict[str, Any]]  # one run of one way, with a name for it
    runs: int
    seconds: float  # that a run takes, roughly
    floor: Callable[[str], float] | None = None  # the rate without any library

    @property
    def title(self) -> str:
        return f"{self.scenario}, {self.key}"


def size_text(size: int) -> str:
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def cells(settings: Settings, ways: tuple[type[Way], ...], scenarios: list[str]) -> list[Cell]:
    """All cells of those scenarios."""
    makers = {
        "throughput": _throughput,
        "to-all": _to_all,
        "latency": _latency,
        "idle": _idle,
        "robustness": _robustness,
    }
    return [cell for name in scenarios for cell in makers[name](settings, ways)]


def _load(settings: Settings, scenario: str, load: Load, ways: tuple[type[Way], ...]) -> Cell:
    def sample(kind: type[Way], name: str) -> dict[str, Any]:
        cores = list(settings.cores)
        return throughput.measure(kind, name, load, settings.window_s, cores, settings.pin)

    people = f"{load.producers}-{load.consumers}"
    seconds = settings.window_s + START_S + EACH_S * (load.producers + load.consumers)
    conditions = {"producers": load.producers, "consumers": load.consumers, "size": load.size}
    key = f"{people}, {size_text(load.size)}"
    return Cell(scenario, key, conditions, ways, sample, settings.runs, seconds)


def _throughput(settings: Settings, ways: tuple[type[Way], ...]) -> list[Cell]:
    def cell(pairs: int, size: int) -> Cell:
        def lowest(name: str) -> float:
            return floor.measure(name, size, pairs, settings.window_s / 2, list(settings.cores))

        return replace(_load(settings, "throughput", Load(pairs, pairs, size), ways), floor=lowest)

    return [cell(pairs, size) for pairs in settings.pairs for size in settings.sizes]


def _to_all(settings: Settings, ways: tuple[type[Way], ...]) -> list[Cell]:
    singles = tuple(way for way in ways if issubclass(way, OneByOne))
    return [
        _load(settings, "to-all", Load(1, RECEIVERS, size, to_all=True), singles)
        for size in settings.to_all_sizes
    ]


def _latency(settings: Settings, ways: tuple[type[Way], ...]) -> list[Cell]:
    def cell(waiting: Waiting) -> Cell:
        def sample(kind: type[OneByOne], name: str) -> dict[str, Any]:
            pingpong = PingPong(waiting, LATENCY_SIZE)
            return latency.measure(kind, name, pingpong, settings.window_s, list(settings.cores))

        able = tuple(w for w in ways if issubclass(w, OneByOne) and waiting.possible(w))
        conditions = {"waiting": waiting.name.lower(), "size": LATENCY_SIZE}
        seconds = settings.window_s + START_S + 2 * EACH_S
        return Cell("latency", waiting.value, conditions, able, sample, settings.runs, seconds)

    return [cell(waiting) for waiting in Waiting]


def _idle(settings: Settings, ways: tuple[type[Way], ...]) -> list[Cell]:
    seconds = 2 * settings.window_s

    def sample(kind: type[OneByOne], name: str) -> dict[str, float]:
        return latency.idle(kind, name, LATENCY_SIZE, seconds, list(settings.cores))

    able = tuple(w for w in ways if issubclass(w, OneByOne) and w.blocks)
    cost = seconds + latency.SETTLE_S + START_S + 2 * EACH_S
    return [Cell("idle", "a blocked receiver", {"size": LATENCY_SIZE}, able, sample, 1, cost)]


def _robustness(settings: Settings, ways: tuple[type[Way], ...]) -> list[Cell]:
    def cell(ordeal: Ordeal) -> Cell:
        def sample(kind: type[Way], name: str) -> dict[str, Any]:
            return robustness.measure(kind, name, ordeal, list(settings.cores))

        key = f"{ordeal.blow.value} of a {ordeal.victim}, {size_text(ordeal.size)}"
        conditions = {
            "blow": ordeal.blow.value, "victim": ordeal.victim, "size": ordeal.size,
            "times": ordeal.times, "stop_s": ordeal.stop_s,
        }  # fmt: skip
        each = 0.09 if ordeal.blow is Blow.KILL else ordeal.stop_s + 0.05
        cost = 0.5 + ordeal.hung_s / 5 + each * ordeal.times
        return Cell("robustness", key, conditions, singles, sample, 1, cost)

    singles = tuple(way for way in ways if issubclass(way, OneByOne))
    times = {Blow.KILL: settings.kills, Blow.STOP: settings.stops}
    return [
        cell(Ordeal(blow, victim, size, times[blow], hung_s=settings.hung_s))
        for blow in Blow
        for victim in ("producer", "consumer")
        for size in settings.ordeal_sizes
        if times[blow]
    ]
