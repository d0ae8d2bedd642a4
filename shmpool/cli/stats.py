# SPDX-License-Identifier: Apache-2.0
"""shmpool stats."""

from datetime import datetime

from ..rpc.protocol import GetStats
from ..rpc.records import PoolStats
from . import next_steps
from .access import query
from .output import hint, print_links, print_table, print_topics


def show(stats: PoolStats) -> None:
    buffers = stats.buffers
    print_table(
        ("pool", "capacity", "created", "free", "cached", "held", "queued", "chained", "members"),
        [(stats.pool, buffers.capacity, buffers.created, buffers.free, buffers.cached,
          buffers.held, buffers.queued, buffers.chained, buffers.members)],
    )  # fmt: skip
    if len(buffers.sizes) > 1:
        print_table(
            ("buffer size", "capacity", "created", "free", "cached"),
            [(s.buffer_size, s.capacity, s.created, s.free, s.cached) for s in buffers.sizes],
        )
    if stats.queues:
        print_table(
            ("queue", "depth", "capacity", "enqueued", "dequeued", "refused", "dropped"),
            [
                (q.name, q.depth, q.capacity, q.enqueued, q.dequeued, q.refused, q.dropped)
                for q in stats.queues
            ],
        )
    print_topics(stats.topics)
    print_links(stats.links)
    print_table(("counter", "buffers or times"), list(buffers.counters.items()))
    recoveries = stats.recoveries
    if recoveries.count and recoveries.last_at is not None and recoveries.last_s is not None:
        last = datetime.fromtimestamp(recoveries.last_at).isoformat(" ", "seconds")
        print_table(
            ("recoveries", "members", "subscribers", "buffers", "requeued", "dead letters",
             "last", "took ms"),
            [(recoveries.count, recoveries.members, recoveries.subscribers, recoveries.buffers,
              recoveries.requeued, recoveries.dead_lettered, last, recoveries.last_s * 1e3)],
        )  # fmt: skip
    for alarm in stats.alarms:
        print_table(("alarm", "subject", ""), [(alarm.kind, alarm.subject, alarm.message)])
    for alarm in stats.alarms:
        hint(next_steps.of_alarm(stats.pool, alarm))


command = query(GetStats, "shmpool stats rx", show)
