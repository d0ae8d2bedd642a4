# SPDX-License-Identifier: Apache-2.0
"""The watched pools as metrics, named by Prometheus's conventions. No HTTP.

There are two formats: OpenMetrics 1.0, and the older text format 0.0.4, which curl and promtool
expect.
"""

import asyncio
import re
from types import SimpleNamespace
from typing import Any, get_args

from prometheus_client import exposition as text_format
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics

from .. import errors
from ..choices import SUBSCRIBER_STATES
from ..rpc.records import AlarmKind
from .handlers import RequestHandler
from .watched_pool import SECONDS, WatchedPool

OPENMETRICS = openmetrics.CONTENT_TYPE_LATEST
TEXT = "text/plain; version=0.0.4; charset=utf-8"
ACCEPT_MAX = 4096  # bytes of an Accept header that are read
PER_QUEUE = ("enqueue", "dequeue")  # counted for each queue, not for the pool
LINK_FIGURES = ("packets", "bytes", "window", "unacknowledged", "lag", "reconnects", "doubled",
                "redelivered", "returned")  # fmt: skip
_END = b"# EOF\n"  # of OpenMetrics

Gauge, Counter = GaugeMetricFamily, CounterMetricFamily
POOL, QUEUE, TOPIC = ("pool",), ("pool", "queue"), ("pool", "topic")
LINK = ("pool", "link", "direction")
SUBSCRIBER = (*TOPIC, "subscriber", "pid", "name", "policy")
# Type, name after "shmpool_", help and labels of each family.
FAMILIES: tuple[tuple[Any, str, str, tuple[str, ...]], ...] = (
    (InfoMetricFamily, "build", "The version of the daemon.", ()),
    (Gauge, "foreign_files", "Files of other users under pools' names, which are not opened; 1024 "
     "means at least so many.", ()),
    (Gauge, "refused_pools", "Declared pools whose names are taken by other files.", ()),
    (Gauge, "buffers", "Buffers of a pool by state; uncreated ones have no memory yet, "
     "chained ones belong to the heads of their messages.",
     ("pool", "state")),
    (Gauge, "buffer_size_bytes", "Data bytes of a pool's largest buffers.", POOL),
    (Gauge, "size_class_buffers", "Buffers of a size class by state; those in use are held or "
     "queued.", ("pool", "buffer_size", "state")),
    (Gauge, "reserved_bytes", "Memory of a pool's segment.", POOL),
    (Gauge, "members", "Threads that are attached.", POOL),
    (Gauge, "queue_depth", "Buffers in a queue.", QUEUE),
    (Gauge, "queue_capacity", "The most buffers that a queue holds.", QUEUE),
    (Counter, "ops", "Operations, in buffers: enqueue and dequeue of a queue, the others of a "
     "pool.", ("pool", "queue", "op")),
    (Counter, "queue_refused", "Buffers that a queue refused, or that could not be allocated for "
     "it.", QUEUE),
    (Counter, "queue_dropped", "Buffers of a queue that were freed because the consumer that had "
     "got them died.", QUEUE),
    (Gauge, "topic_depth", "The most messages that a topic keeps.", TOPIC),
    (Gauge, "topic_kept", "Messages that a topic keeps.", TOPIC),
    (Counter, "topic_published", "Messages published in a topic.", TOPIC),
    (Gauge, "topic_waiting", "Publishers that wait, for a subscriber that blocks.", TOPIC),
    (Gauge, "topic_subscribers", "Subscribers of a topic by state: alive, closing or dead.",
     (*TOPIC, "state")),
    (Gauge, "subscriber_lag", "Messages that a subscriber has not got yet.", SUBSCRIBER),
    (Counter, "subscriber_gaps", "Messages that a subscriber has missed.", SUBSCRIBER),
    (Gauge, "subscriber_held", "Messages that a subscriber has got and not let go.", SUBSCRIBER),
    (Gauge, "link_up", "1 if the other side of a link is there.", LINK),
    (Counter, "link_packets", "Packets that a link has sent, or put.", LINK),
    (Counter, "link_bytes", "Their bytes.", LINK),
    (Gauge, "link_window", "Bursts that a link may have on their way.", LINK),
    (Gauge, "link_unacknowledged", "Bursts of a link that are on their way.", LINK),
    (Gauge, "link_oldest_seconds", "Age of the oldest, or how long no room was there.", LINK),
    (Gauge, "link_lag", "Packets that wait to be sent or put.", LINK),
    (Counter, "link_reconnects", "Connections of a link after its first one.", LINK),
    (Counter, "link_doubled", "Bursts that came twice, and were put once.", LINK),
    (Counter, "link_redelivered", "Packets that were perhaps put twice, and are marked.", LINK),
    (Counter, "link_returned", "Packets that the other side had no room for, ever.", LINK),
    (Gauge, "alarms", "Active alarms.", ("pool", "alarm")),
    (Counter, "recoveries", "Recoveries by this daemon.", POOL),
    (Counter, "recovered_members", "Dead members that were recovered.", POOL),
    (Counter, "recovered_subscribers", "Dead subscribers of topics that were recovered.", POOL),
    (Counter, "recovered_buffers", "Buffers of dead members by outcome.", ("pool", "outcome")),
    (HistogramMetricFamily, "recovery_seconds", "Time from the detection of a dead member to the "
     "end of its recovery.", POOL),
)  # fmt: skip


async def exposition(handler: RequestHandler, package: str, kind: str) -> bytes:
    """The metrics of all watched pools in a format, OPENMETRICS or TEXT. package is the daemon's
    version.

    Other tasks of the event loop run after each pool that is read and each family that is written.
    """
    families = {
        name: family(f"shmpool_{name}", text, labels=labels)
        for family, name, text, labels in FAMILIES
    }
    families["build"].add_metric([], {"version": package})
    families["foreign_files"].add_metric([], handler.foreign)
    families["refused_pools"].add_metric([], handler.refused)
    for name, pool in list(handler.watched.items()):
        await asyncio.sleep(0)
        if handler.watched.get(name) is pool:
            _add(families, name, pool)
    text = []
    for family in families.values():
        await asyncio.sleep(0)
        text.append(written(family, kind))
    return b"".join(text) + (_END if kind == OPENMETRICS else b"")


def _add(families: dict[str, Any], name: str, pool: WatchedPool) -> None:
    """Adds a pool's samples, or none if it is damaged: the supervisor will release it."""
    try:
        stats, queues, topics = pool.view.stats(), pool.view.queues(), pool.view.topics()
        reserved = pool.view.file().reserved
    except errors.SegmentInvalid:
        return

    def add(family: str, value: float, *labels: str) -> None:
        families[family].add_metric((name, *labels), value)

    for state in ("free", "cached", "held", "queued", "chained"):
        add("buffers", getattr(stats, state), state)
    add("buffers", stats.capacity - stats.created, "uncreated")
    add("buffer_size_bytes", pool.view.geometry.buffer_size)
    for size in stats.sizes:
        used = max(size.created - size.free - size.cached, 0)
        states = {"free": size.free, "cached": size.cached, "in-use": used}
        states["uncreated"] = size.capacity - size.created
        for state, number in states.items():
            add("size_class_buffers", number, str(size.buffer_size), state)
    add("reserved_bytes", reserved)
    add("members", stats.members)
    for queue in queues:
        add("queue_depth", queue.depth, queue.name)
        add("queue_capacity", queue.capacity, queue.name)
        add("ops", queue.enqueued, queue.name, "enqueue")
        add("ops", queue.dequeued, queue.name, "dequeue")
        add("queue_refused", queue.refused, queue.name)
        add("queue_dropped", queue.dropped, queue.name)
    for topic in topics:
        add("topic_depth", topic.depth, topic.name)
        add("topic_kept", topic.kept, topic.name)
        add("topic_published", topic.published, topic.name)
        add("topic_waiting", topic.waiting, topic.name)
        found = [one.state for one in topic.subscribers]
        for state in SUBSCRIBER_STATES:
            add("topic_subscribers", found.count(state), topic.name, state)
        for one in topic.subscribers:
            who = topic.name, str(one.number), str(one.pid), one.name, one.policy
            add("subscriber_lag", one.lag, *who)
            add("subscriber_gaps", one.gaps, *who)
            add("subscriber_held", one.held, *who)
    for link in pool.links():
        way = link.name, "out" if link.sends else "in"
        add("link_up", link.state == "up", *way)
        add("link_oldest_seconds", link.oldest_s or 0.0, *way)
        for figure in LINK_FIGURES:
            add(f"link_{figure}", getattr(link, figure), *way)
    for op, count in stats.counters.items():
        if op not in PER_QUEUE:
            add("ops", count, "", op)
    active = [alarm.kind for alarm in pool.alarms.active()]
    for kind in get_args(AlarmKind):
        add("alarms", active.count(kind), kind)
    done = pool.recoveries
    add("recoveries", done.count)
    add("recovered_members", done.members)
    add("recovered_subscribers", done.subscribers)
    add("recovered_buffers", done.buffers - done.requeued - done.dead_lettered, "freed")
    add("recovered_buffers", done.requeued, "requeued")
    add("recovered_buffers", done.dead_lettered, "dead-lettered")
    buckets, total = [], 0
    for bound, count in zip((*map(str, SECONDS), "+Inf"), pool.recovery_seconds, strict=True):
        total += count
        buckets.append((bound, total))
    families["recovery_seconds"].add_metric((name,), buckets, pool.recovery_seconds_sum)


def written(family: Metric, kind: str) -> bytes:
    """A family in a format, OPENMETRICS (without the end mark) or TEXT."""
    write: Any = (openmetrics if kind == OPENMETRICS else text_format).generate_latest
    text: bytes = write(SimpleNamespace(collect=lambda: [family]))  # what it needs of a registry
    return text.removesuffix(_END)


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
