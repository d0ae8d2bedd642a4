# SPDX-License-Identifier: Apache-2.0
"""The pools that the daemon holds as metrics, named after Prometheus's conventions. No HTTP."""

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

from . import errors
from .held import SECONDS, Held
from .registry import Registry

CONTENT_TYPE = CONTENT_TYPE_LATEST
PER_QUEUE = ("enqueue", "dequeue")  # counted for each queue, not for the pool


class Pools(Collector):
    """Reads every held pool when it is asked."""

    def __init__(self, registry: Registry, package: str) -> None:
        self._registry, self._package = registry, package

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
        recovery = _Recoveries()
        for name, held in self._registry.held.items():
            try:
                stats, queues = held.view.stats(), held.view.queues()
                memory = held.view.file().reserved
            except errors.SegmentInvalid:
                continue  # the keeper is about to release it
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

    def add(self, name: str, held: Held) -> None:
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


class Exposition:
    """The text that a scraper gets."""

    def __init__(self, registry: Registry, package: str) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Pools(registry, package))

    def text(self) -> bytes:
        text: bytes = generate_latest(self._registry)  # type: ignore[no-untyped-call]
        return text
