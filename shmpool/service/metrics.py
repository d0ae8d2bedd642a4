# SPDX-License-Identifier: Apache-2.0
"""The pools that the daemon holds as metrics, named after Prometheus's conventions. No HTTP.

There are two formats: OpenMetrics 1.0, and the older text format 0.0.4, which curl and promtool
expect.
"""

import re
from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from .. import errors
from .handlers import RequestHandler
from .watched_pool import SECONDS, WatchedPool

OPENMETRICS = CONTENT_TYPE_LATEST
TEXT = "text/plain; version=0.0.4; charset=utf-8"
ACCEPT_MAX = 4096  # bytes of an Accept header that are read
_SUFFIXES = {"counter": "_total", "info": "_info"}  # which 0.0.4 has in the name of the family
_TYPES = {"info": "gauge", "unknown": "untyped"}
PER_QUEUE = ("enqueue", "dequeue")  # counted for each queue, not for the pool


class Pools(Collector):
    """Reads every held pool when it is asked."""

    def __init__(self, handler: RequestHandler, package: str) -> None:
        self._handler, self._package = handler, package

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: what there is depends on the pools."""
        return []

    def collect(self) -> Iterator[Metric]:
        info = InfoMetricFamily("shmpool_build", "The version of the daemon.")
        info.add_metric([], {"version": self._package})
        yield info
        buffers = GaugeMetricFamily(
            "shmpool_buffers",
            "Buffers of a pool by where they are; uncreated ones have no memory yet.",
            labels=("pool", "state"),
        )
        size = GaugeMetricFamily(
            "shmpool_buffer_size_bytes", "Data room of a buffer.", labels=("pool",)
        )
        reserved = GaugeMetricFamily(
            "shmpool_reserved_bytes", "Memory that a pool's segment has.", labels=("pool",)
        )
        members = GaugeMetricFamily(
            "shmpool_members", "Threads that are attached.", labels=("pool",)
        )
        depth = GaugeMetricFamily(
            "shmpool_queue_depth", "Buffers in a queue.", labels=("pool", "queue")
        )
        capacity = GaugeMetricFamily(
            "shmpool_queue_capacity", "The most buffers a queue holds.", labels=("pool", "queue")
        )
        ops = CounterMetricFamily(
            "shmpool_ops",
            "Operations, in buffers: enqueue and dequeue of a queue, the rest of a pool.",
            labels=("pool", "queue", "op"),
        )
        refused = CounterMetricFamily(
            "shmpool_queue_refused",
            "Buffers that were to go into a queue, and found no room or no free buffer.",
            labels=("pool", "queue"),
        )
        dropped = CounterMetricFamily(
            "shmpool_queue_dropped",
            "Buffers of a queue that were freed because the consumer that had got them died.",
            labels=("pool", "queue"),
        )
        alarms = GaugeMetricFamily("shmpool_alarms", "Alarms that last.", labels=("pool", "alarm"))
        foreign = GaugeMetricFamily(
            "shmpool_foreign_files",
            "Files of other users under pools' names, which are not opened; 1024 stands for more.",
        )
        foreign.add_metric([], self._handler.foreign)
        names = GaugeMetricFamily(
            "shmpool_refused_pools", "Declared pools whose names other files have."
        )
        names.add_metric([], self._handler.refused)
        yield from (foreign, names)
        recovery = _Recoveries()
        for name, held in self._handler.watched.items():
            try:
                stats, queues = held.view.stats(), held.view.queues()
                memory = held.view.file().reserved
            except errors.SegmentInvalid:
                continue  # the supervisor is about to release it
            states = {
                "free": stats.free,
                "cached": stats.cached,
                "held": stats.held,
                "queued": stats.queued,
                "uncreated": stats.capacity - stats.created,
            }
            for state, count in states.items():
                buffers.add_metric((name, state), count)
            size.add_metric((name,), held.view.geometry.buffer_size)
            reserved.add_metric((name,), memory)
            members.add_metric((name,), stats.members)
            for queue in queues:
                depth.add_metric((name, queue.name), queue.depth)
                capacity.add_metric((name, queue.name), queue.capacity)
                ops.add_metric((name, queue.name, "enqueue"), queue.enqueued)
                ops.add_metric((name, queue.name, "dequeue"), queue.dequeued)
                refused.add_metric((name, queue.name), queue.refused)
                dropped.add_metric((name, queue.name), queue.dropped)
            for op, count in stats.counters.items():
                if op not in PER_QUEUE:
                    ops.add_metric((name, "", op), count)
            for kind in ("low-water", "queue-full", "held-long", "stopped"):
                active = sum(alarm.kind == kind for alarm in held.alarms.active())
                alarms.add_metric((name, kind), active)
            recovery.add(name, held)
        yield from (buffers, size, reserved, members, depth, capacity, ops)
        yield from (refused, dropped, alarms)
        yield from recovery.families()


class _Recoveries:
    """The families that tell of recoveries."""

    def __init__(self) -> None:
        label = ("pool",)
        self._count = CounterMetricFamily(
            "shmpool_recoveries", "Recoveries by this daemon.", labels=label
        )
        self._members = CounterMetricFamily(
            "shmpool_recovered_members", "Members that were recovered from.", labels=label
        )
        self._buffers = CounterMetricFamily(
            "shmpool_recovered_buffers",
            "Buffers taken from dead members, by what became of them.",
            labels=("pool", "outcome"),
        )
        self._seconds = HistogramMetricFamily(
            "shmpool_recovery_seconds",
            "Time from the kernel's word that a process is dead to the end of its recovery.",
            labels=label,
        )

    def add(self, name: str, held: WatchedPool) -> None:
        so_far = held.recoveries
        self._count.add_metric((name,), so_far.count)
        self._members.add_metric((name,), so_far.members)
        freed = so_far.buffers - so_far.requeued - so_far.dead_lettered
        self._buffers.add_metric((name, "freed"), freed)
        self._buffers.add_metric((name, "requeued"), so_far.requeued)
        self._buffers.add_metric((name, "dead-lettered"), so_far.dead_lettered)
        buckets, total = [], 0
        for bound, count in zip((*SECONDS, float("inf")), held.recovery_seconds, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        self._seconds.add_metric((name,), buckets, held.recovery_seconds_sum)

    def families(self) -> Iterator[Metric]:
        yield from (self._count, self._members, self._buffers, self._seconds)


def format_for(accept: str | None) -> str:
    """The content type that an Accept header asks for.

    Without one OpenMetrics; the older format for whoever takes anything, or only what there is not.
    """
    if accept is None:
        return OPENMETRICS
    wanted = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for media in accept[:ACCEPT_MAX].lower().split(","):
        kind, *parameters = (part.strip() for part in media.split(";"))
        quality = 1.0
        for parameter in parameters:
            if found := re.fullmatch(r"q\s*=\s*([01](?:\.[0-9]{0,3})?)", parameter):
                quality = float(found[1])
        if kind in wanted:
            wanted[kind] = max(wanted[kind], quality)
    first, second = wanted.values()
    return OPENMETRICS if first >= second and first > 0 else TEXT


def text_format(families: Iterable[Metric]) -> bytes:
    """The families in the text format 0.0.4."""
    lines = []
    for family in families:
        name = family.name + _SUFFIXES.get(family.type, "")
        lines.append(f"# HELP {name} {_escaped(family.documentation)}")
        lines.append(f"# TYPE {name} {_TYPES.get(family.type, family.type)}")
        for sample in family.samples:
            labels = ",".join(
                f'{label}="{_escaped(value, quote=True)}"'
                for label, value in sorted(sample.labels.items())
            )
            value = floatToGoString(sample.value)  # type: ignore[no-untyped-call]
            lines.append(f"{sample.name}{f'{{{labels}}}' if labels else ''} {value}")
    return "".join(f"{line}\n" for line in lines).encode()


def _escaped(text: str, quote: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quote else text


class Exposition:
    """What a scraper gets."""

    def __init__(self, handler: RequestHandler, package: str) -> None:
        self._pools = Pools(handler, package)
        self._collectors = CollectorRegistry(auto_describe=False)
        self._collectors.register(self._pools)

    def answer(self, accept: str | None) -> tuple[str, bytes]:
        """The content type and the text, in the format that an Accept header asks for."""
        kind = format_for(accept)
        if kind == TEXT:
            return kind, text_format(self._pools.collect())
        text: bytes = generate_latest(self._collectors)  # type: ignore[no-untyped-call]
        return kind, text
