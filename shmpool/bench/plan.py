# SPDX-License-Identifier: Apache-2.0
"""What is measured: the cells of every scenario, their contestants, and how long a run takes.

Polling on one core is left out: a process that polls without sleeping keeps the other one off the
core until its time slice ends, so the scheduler would be measured. In the scenarios to-all and
robustness each call passes a single message: it is unknown how many messages of a batch a victim
had.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from . import harness_cost, latency, robustness, throughput
from .latency import Waiting
from .robustness import Fault, FaultTest
from .throughput import Load
from .transport import OneByOne, Transport

Kinds = tuple[type[Transport], ...]

SIZES = (64, 1500, 64 << 10, 1 << 20)  # bytes
SCALING_LEAST = 4  # pairs of processes, however few cores there are
PAIRS = (1, 2, 4, 8)  # producers, and as many consumers
RECEIVERS = 4  # of a message to all
LATENCY_SIZE = 64
START_S, EACH_S = 0.22, 0.032  # what a run takes beyond its window: in all, and for each process


@dataclass(frozen=True)
class Settings:
    """How the benchmark is run; by default it takes half an hour on two cores. More or longer
    runs would not help much: what changes figures most is the distance of the two cores, which a
    virtual machine keeps for minutes.
    """

    runs: int = 3
    window_s: float = 0.25
    sizes: tuple[int, ...] = SIZES
    pairs: tuple[int, ...] = PAIRS
    to_all_sizes: tuple[int, ...] = (64, 1500)
    fault_sizes: tuple[int, ...] = (1500, 1 << 20)
    kills: int = 50
    stops: int = 2
    hung_s: float = 3.0
    scaling_size: int = 64
    scaling_pairs: tuple[int, ...] = ()  # those of scaling_pairs()
    pin: bool = False
    cores: tuple[int, ...] = (0, 1)
    cores_why: str = ""  # in words
    limit_s: float | None = None  # what is not measured by then is left out


FULL = Settings()
QUICK = Settings(
    runs=1, window_s=0.15, sizes=(64, 1 << 20), pairs=(2,), to_all_sizes=(64,),
    fault_sizes=(1500,), kills=3, stops=0, hung_s=1.5, limit_s=103,
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """The same work for several contestants."""

    scenario: str
    key: str
    conditions: dict[str, Any]
    transports: Kinds
    sample: Callable[[type[Any], str], dict[str, Any]]  # measures a transport, given a run's name
    runs: int
    seconds: float  # that a run takes, roughly
    harness_rate: Callable[[str], float] | None = None  # messages a second without any library

    @property
    def title(self) -> str:
        return f"{self.scenario}, {self.key}"


def size_text(size: int) -> str:
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def _load(settings: Settings, scenario: str, load: Load, transports: Kinds) -> Cell:
    def sample(kind: type[Transport], name: str) -> dict[str, Any]:
        cores = list(settings.cores)
        return throughput.measure(kind, name, load, settings.window_s, cores, settings.pin)

    seconds = settings.window_s + START_S + EACH_S * (load.producers + load.consumers)
    conditions = {"producers": load.producers, "consumers": load.consumers, "size": load.size}
    key = f"{load.producers}-{load.consumers}, {size_text(load.size)}"
    return Cell(scenario, key, conditions, transports, sample, settings.runs, seconds)


def _throughput(settings: Settings, transports: Kinds) -> list[Cell]:
    def cell(pairs: int, size: int) -> Cell:
        def rate(name: str) -> float:
            cores = list(settings.cores)
            return harness_cost.measure(name, size, pairs, settings.window_s / 2, cores)

        load = Load(pairs, pairs, size)
        return replace(_load(settings, "throughput", load, transports), harness_rate=rate)

    return [cell(pairs, size) for pairs in settings.pairs for size in settings.sizes]


def _to_all(settings: Settings, transports: Kinds) -> list[Cell]:
    loads = [Load(1, RECEIVERS, size, to_all=True) for size in settings.to_all_sizes]
    return [_load(settings, "to-all", load, _one_by_one(transports)) for load in loads]


def scaling_pairs(cores: int) -> list[int]:
    """1, 2, 4, ... pairs of processes: as many as have a core for each, and at least 4."""
    most = max(cores // 2, SCALING_LEAST)
    return [1 << i for i in range(most.bit_length())]


def _scaling(settings: Settings, transports: Kinds) -> list[Cell]:
    pairs = settings.scaling_pairs or scaling_pairs(len(settings.cores))
    loads = [Load(n, n, settings.scaling_size) for n in pairs]
    return [_load(settings, "scaling", load, _one_by_one(transports)) for load in loads]


def _latency(settings: Settings, transports: Kinds) -> list[Cell]:
    def cell(waiting: Waiting) -> Cell:
        def sample(kind: type[OneByOne], name: str) -> dict[str, Any]:
            cores = list(settings.cores)
            return latency.measure(kind, name, waiting, LATENCY_SIZE, settings.window_s, cores)

        able = tuple(kind for kind in _one_by_one(transports) if waiting.possible(kind))
        conditions = {"waiting": waiting.name.lower(), "size": LATENCY_SIZE}
        seconds = settings.window_s + START_S + 2 * EACH_S
        return Cell("latency", waiting.value, conditions, able, sample, settings.runs, seconds)

    return [cell(waiting) for waiting in Waiting]


def _idle(settings: Settings, transports: Kinds) -> list[Cell]:
    seconds = 2 * settings.window_s

    def sample(kind: type[OneByOne], name: str) -> dict[str, float]:
        return latency.idle(kind, name, LATENCY_SIZE, seconds, list(settings.cores))

    able = tuple(kind for kind in _one_by_one(transports) if kind.blocks)
    cost = seconds + latency.SETTLE_S + START_S + 2 * EACH_S
    return [Cell("idle", "a blocked receiver", {"size": LATENCY_SIZE}, able, sample, 1, cost)]


def _robustness(settings: Settings, transports: Kinds) -> list[Cell]:
    def cell(test: FaultTest) -> Cell:
        def sample(kind: type[Transport], name: str) -> dict[str, Any]:
            return robustness.measure(kind, name, test, list(settings.cores))

        key = f"{test.fault.value} of a {test.victim}, {size_text(test.size)}"
        conditions = {
            "fault": test.fault.value, "victim": test.victim, "size": test.size,
            "times": test.times, "stop_s": test.stop_s,
        }  # fmt: skip
        each = 0.09 if test.fault is Fault.KILL else test.stop_s + 0.05
        cost = 0.5 + test.hung_s / 5 + each * test.times
        return Cell("robustness", key, conditions, _one_by_one(transports), sample, 1, cost)

    times = {Fault.KILL: settings.kills, Fault.STOP: settings.stops}
    return [
        cell(FaultTest(fault, victim, size, times[fault], hung_s=settings.hung_s))
        for fault in Fault
        for victim in ("producer", "consumer")
        for size in settings.fault_sizes
        if times[fault]
    ]


def _one_by_one(transports: Kinds) -> tuple[type[OneByOne], ...]:
    return tuple(kind for kind in transports if issubclass(kind, OneByOne))


SCENARIOS: dict[str, Callable[[Settings, Kinds], list[Cell]]] = {
    "throughput": _throughput,
    "scaling": _scaling,
    "to-all": _to_all,
    "latency": _latency,
    "idle": _idle,
    "robustness": _robustness,
}


def cells(settings: Settings, transports: Kinds, scenarios: list[str]) -> list[Cell]:
    """All cells of those scenarios."""
    usual = tuple(kind for kind in transports if not kind.only_scaling)
    return [
        cell
        for name in scenarios
        for cell in SCENARIOS[name](settings, transports if name == "scaling" else usual)
    ]
