# SPDX-License-Identifier: Apache-2.0
"""The watched pools as metrics, named by Prometheus's conventions. No HTTP.

There are two formats: OpenMetrics 1.0, and the older text format 0.0.4, which curl and promtool
expect.
"""

import asyncio
import re
from collections.abc import Callable, Iterable

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.utils import floatToGoString

from .. import errors
from .handlers import RequestHandler
from .watched_pool import SECONDS, WatchedPool

OPENMETRICS = CONTENT_TYPE_LATEST
TEXT = "text/plain; version=0.0.4; charset=utf-8"
ACCEPT_MAX = 4096  # bytes of an Accept header that are read
_SUFFIXES = {"counter": "_total", "info": "_info"}  # part of the family's name in 0.0.4
_TYPES = {"info": "gauge", "unknown": "untyped"}
_END = b"# EOF\n"  # of OpenMetrics
PER_QUEUE = ("enqueue", "dequeue")  # counted for each queue, not for the pool


async def exposition(handler: RequestHandler, package: str, kind: str) -> bytes:
    """The metrics of all watched pools in a format, OPENMETRICS or TEXT. package is the daemon's
    version.

    Other tasks of the event loop run after each pool that is read and each family that is written.
    """
    families = _Families(handler, package)
    for name, pool in list(handler.watched.items()):
        await asyncio.sleep(0)
        if handler.watched.get(name) is pool:
            families.add(name, pool)
    write: Callable[[Metric], bytes] = text_format if kind == TEXT else openmetrics
    text = []
    for family in families.all():
        await asyncio.sleep(0)
        text.append(write(family))
    return b"".join(text) + (b"" if kind == TEXT else _END)


class _Families:
    """Every family, filled pool by pool."""

    def __init__(self, handler: RequestHandler, package: str) -> None:
        pool, queue = ("pool",), ("pool", "queue")
        self._build = InfoMetricFamily("shmpool_build", "The version of the daemon.")
        self._build.add_metric([], {"version": package})
        self._foreign = GaugeMetricFamily(
            "shmpool_foreign_files",
            "Files of other users under pools' names, which are not opened; 1024 means at least "
            "so many.",
        )
        self._foreign.add_metric([], handler.foreign)
        self._refused = GaugeMetricFamily(
            "shmpool_refused_pools", "Declared pools whose names are taken by other files."
        )
        self._refused.add_metric([], handler.refused)
        self._buffers = GaugeMetricFamily(
            "shmpool_buffers",
            "Buffers of a pool by state; uncreated ones have no memory yet.",
            labels=("pool", "state"),
        )
        self._size = GaugeMetricFamily(
            "shmpool_buffer_size_bytes", "Data bytes of a buffer.", labels=pool
        )
        self._reserved = GaugeMetricFamily(
            "shmpool_reserved_bytes", "Memory of a pool's segment.", labels=pool
        )
        self._members = GaugeMetricFamily(
            "shmpool_members", "Threads that are attached.", labels=pool
        )
        self._depth = GaugeMetricFamily("shmpool_queue_depth", "Buffers in a queue.", labels=queue)
        self._capacity = GaugeMetricFamily(
            "shmpool_queue_capacity", "The most buffers that a queue holds.", labels=queue
        )
        self._ops = CounterMetricFamily(
            "shmpool_ops",
            "Operations, in buffers: enqueue and dequeue of a queue, the others of a pool.",
            labels=("pool", "queue", "op"),
        )
        self._queue_refused = CounterMetricFamily(
            "shmpool_queue_refused",
            "Buffers that a queue refused, or that could not be allocated for it.",
            labels=queue,
        )
        self._dropped = CounterMetricFamily(
            "shmpool_queue_dropped",
            "Buffers of a queue that were freed because the consumer that had got them died.",
            labels=queue,
        )
        self._alarms = GaugeMetricFamily(
            "shmpool_alarms", "Active alarms.", labels=("pool", "alarm")
        )
        self._recoveries = CounterMetricFamily(
            "shmpool_recoveries", "Recoveries by this daemon.", labels=pool
        )
        self._recovered_members = CounterMetricFamily(
            "shmpool_recovered_members", "Dead members that were recovered.", labels=pool
        )
        self._recovered_buffers = CounterMetricFamily(
            "shmpool_recovered_buffers",
            "Buffers of dead members by outcome.",
            labels=("pool", "outcome"),
        )
        self._recovery_seconds = HistogramMetricFamily(
            "shmpool_recovery_seconds",
            "Time from the detection of a dead member to the end of its recovery.",
            labels=pool,
        )

    def add(self, name: str, pool: WatchedPool) -> None:
        """Adds a pool's samples, or none if it is damaged: the supervisor will release it."""
        try:
            stats, queues = pool.view.stats(), pool.view.queues()
            reserved = pool.view.file().reserved
        except errors.SegmentInvalid:
            return
        uncreated = stats.capacity - stats.created
        for state, count in (
            ("free", stats.free), ("cached", stats.cached), ("held", stats.held),
            ("queued", stats.queued), ("uncreated", uncreated),
        ):  # fmt: skip
            self._buffers.add_metric((name, state), count)
        self._size.add_metric((name,), pool.view.geometry.buffer_size)
        self._reserved.add_metric((name,), reserved)
        self._members.add_metric((name,), stats.members)
        for queue in queues:
            self._depth.add_metric((name, queue.name), queue.depth)
            self._capacity.add_metric((name, queue.name), queue.capacity)
            self._ops.add_metric((name, queue.name, "enqueue"), queue.enqueued)
            self._ops.add_metric((name, queue.name, "dequeue"), queue.dequeued)
            self._queue_refused.add_metric((name, queue.name), queue.refused)
            self._dropped.add_metric((name, queue.name), queue.dropped)
        for op, count in stats.counters.items():
            if op not in PER_QUEUE:
                self._ops.add_metric((name, "", op), count)
        for kind in ("low-water", "queue-full", "held-long", "stopped"):
            active = sum(alarm.kind == kind for alarm in pool.alarms.active())
            self._alarms.add_metric((name, kind), active)
        done = pool.recoveries
        self._recoveries.add_metric((name,), done.count)
        self._recovered_members.add_metric((name,), done.members)
        freed = done.buffers - done.requeued - done.dead_lettered
        for outcome, count in (
            ("freed", freed), ("requeued", done.requeued), ("dead-lettered", done.dead_lettered),
        ):  # fmt: skip
            self._recovered_buffers.add_metric((name, outcome), count)
        buckets, total = [], 0
        for bound, count in zip((*SECONDS, float("inf")), pool.recovery_seconds, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        self._recovery_seconds.add_metric((name,), buckets, pool.recovery_seconds_sum)

    def all(self) -> list[Metric]:
        return [family for family in vars(self).values() if isinstance(family, Metric)]


def format_for(accept: str | None) -> str:
    """The content type that an Accept header asks for.

    Without a header it is OpenMetrics. It is the older format if the header accepts anything, or
    only formats that there are not.
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


class _One(list[Metric]):
    """A family as prometheus_client's writer takes it."""

    def collect(self) -> Iterable[Metric]:
        return self


def openmetrics(family: Metric) -> bytes:
    """A family in OpenMetrics 1.0, without the end mark."""
    text: bytes = generate_latest(_One([family]))  # type: ignore[no-untyped-call]
    return text.removesuffix(_END)


def text_format(family: Metric) -> bytes:
    """A family in the text format 0.0.4."""
    name = family.name + _SUFFIXES.get(family.type, "")
    lines = [
        f"# HELP {name} {_escaped(family.documentation)}",
        f"# TYPE {name} {_TYPES.get(family.type, family.type)}",
    ]
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
