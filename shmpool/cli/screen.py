# SPDX-License-Identifier: Apache-2.0
"""The full-screen view of shmpool top. It changes nothing."""

from dataclasses import dataclass
from typing import ClassVar, cast

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Static

from .. import errors
from ..names import LINE_SHOWN, printable
from ..rpc.protocol import GetMembers, GetStats, List
from ..rpc.records import Alarm, PoolStats
from ..stats import Member
from ..topic import Subscription
from ..view import TopicStats
from . import next_steps
from .access import Backend

BAR = 24  # columns
MEMBERS_MAX = 200
COLOURS = (
    ("free", "green"),
    ("cached", "cyan"),
    ("held", "yellow"),
    ("queued", "blue"),
    ("chained", "magenta"),
)
POOLS = ("pool", "buffers", "capacity", "free", "cached", "held", "queued", "members",
         "allocs/s", "recoveries", "alarms")  # fmt: skip
QUEUES = ("pool", "queue", "depth", "capacity", "fill", "puts/s", "gets/s", "refused", "dropped")
TOPICS = ("pool", "topic", "depth", "kept", "published/s", "waiting", "subscribers")
SUBSCRIBERS = ("pool", "topic", "subscriber", "process", "name", "policy", "lag", "gaps", "held",
               "gets/s", "state")  # fmt: skip
LINKS = ("pool", "link", "to", "state", "packets/s", "unacknowledged", "lag", "reconnects",
         "doubled", "redelivered", "why")  # fmt: skip
MEMBERS = ("pool", "member", "process", "thread", "held", "cached", "doing", "ops/s")
TABLES = {"pools": POOLS, "queues": QUEUES, "topics": TOPICS, "subscribers": SUBSCRIBERS,
          "links": LINKS, "members": MEMBERS}  # fmt: skip
SORTS = ("held", "ops/s", "process")
OPS = ("alloc", "free", "enqueue", "dequeue")


@dataclass(frozen=True)
class Snapshot:
    """Each pool's stats and members at one moment, and the last error if some are missing."""

    pools: dict[str, tuple[PoolStats, list[Member]]]
    error: str = ""


def take_snapshot(backend: Backend, wanted: frozenset[str]) -> Snapshot:
    """Reads the wanted pools, or all if none are named."""
    pools: dict[str, tuple[PoolStats, list[Member]]] = {}
    failed = ""
    try:
        for summary in backend.call(List()):
            if summary.trouble is None and (not wanted or summary.name in wanted):
                try:
                    stats = backend.call(GetStats(summary.name))
                    pools[summary.name] = stats, backend.call(GetMembers(summary.name))
                except errors.PoolNotFound:
                    continue  # it was removed since it was listed
                except (errors.SegmentInvalid, errors.AccessDenied) as error:
                    failed = str(error)
    except (errors.ShmpoolError, OSError) as error:
        failed = str(error)
    return Snapshot(pools, failed)


def alarms_of(snapshot: Snapshot) -> list[tuple[str, Alarm]]:
    """The alarms of all pools, each with the name of its pool."""
    found = [(name, stats.alarms) for name, (stats, _) in snapshot.pools.items()]
    return [(name, alarm) for name, alarms in found for alarm in alarms]


def bar(stats: PoolStats) -> Text:
    """The states of a pool's buffers, in colours. Dots are buffers that do not exist yet."""
    text, used = Text(), 0
    for state, colour in COLOURS:
        count: int = getattr(stats.buffers, state)
        width = round(BAR * count / stats.buffers.capacity)
        width = min(max(width, 1 if count else 0), BAR - used)
        text.append("█" * width, colour)
        used += width
    return text.append("·" * (BAR - used), "dim")


class Top(App[None]):
    """A table of each kind, if there are any. A worker thread reads, so that a slow answer does not
    delay the keys."""

    TITLE = "shmpool"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Static { height: 1; padding: 0 1; }
    DataTable { height: 1fr; }
    #pools { height: auto; max-height: 40%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "quit", "Quit"),
        ("p", "pause", "Pause"),
        ("s", "sort", "Sort members"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
    ]

    def __init__(self, backend: Backend, wanted: frozenset[str], interval: float) -> None:
        super().__init__()
        self._backend, self._wanted, self._interval = backend, wanted, interval
        self._before: Snapshot | None = None
        self._paused = False
        self._sort = 0

    def compose(self) -> ComposeResult:
        yield Static(id="state")
        for name, columns in TABLES.items():
            table: DataTable[object] = DataTable(id=name, cursor_type="row", zebra_stripes=True)
            for column in columns:
                table.add_column(column, key=column)
            table.display = False  # until there is a row
            yield table
        yield Footer()

    def on_mount(self) -> None:
        self._step()
        self.set_interval(self._interval, self._step)

    def action_pause(self) -> None:
        self._paused = not self._paused
        self._say("paused" if self._paused else "")

    def action_sort(self) -> None:
        self._sort = (self._sort + 1) % len(SORTS)
        if self._before is not None:
            self._show(self._before)

    def _step(self) -> None:
        if not self._paused:
            self.run_worker(self._read, thread=True, exclusive=True)

    def _read(self) -> None:
        found = take_snapshot(self._backend, self._wanted)
        if self.is_running:
            self.call_from_thread(self._show, found)

    def _say(self, text: str) -> None:
        self.query_one("#state", Static).update(Text(printable(text, LINE_SHOWN)))

    def _show(self, now: Snapshot) -> None:
        count = len(now.pools)
        words = f"{count} pool{'' if count == 1 else 's'}, members by {SORTS[self._sort]}"
        steps = [next_steps.of_alarm(*of) for of in alarms_of(now)]
        if steps:
            words += f"; {steps[0]}"
        elif not now.pools and not self._wanted:
            words = f"0 pools; {next_steps.NO_POOLS}"
        self._say("paused" if self._paused else now.error or words)
        pools: list[tuple[object, ...]] = []
        queues: list[tuple[object, ...]] = []
        topics: list[tuple[object, ...]] = []
        subscribers: list[tuple[object, ...]] = []
        links: list[tuple[object, ...]] = []
        members: list[tuple[object, ...]] = []
        for name, (stats, attached) in now.pools.items():
            before = self._before.pools.get(name) if self._before is not None else None
            rate = _Rates(stats, attached, before)
            b = stats.buffers
            pools.append((name, bar(stats), b.capacity, b.free, b.cached, b.held, b.queued,
                          b.members, rate.pool("alloc"), stats.recoveries.count,
                          "; ".join(f"{a.kind} {a.subject}" for a in stats.alarms)))  # fmt: skip
            for queue in stats.queues:
                eighths = min(8 * queue.depth // max(queue.capacity, 1), 7)
                fill = Text("▁▂▃▄▅▆▇█"[eighths] if queue.depth else " ")
                puts, gets = rate.queue(queue.name)
                queues.append((name, queue.name, queue.depth, queue.capacity, fill, puts, gets,
                               queue.refused, queue.dropped))  # fmt: skip
            for topic in stats.topics:
                topics.append((name, topic.name, topic.depth, topic.kept, rate.topic(topic),
                               topic.waiting, len(topic.subscribers)))  # fmt: skip
                subscribers += [
                    (name, topic.name, str(s.number), str(s.pid), s.name, s.policy, s.lag, s.gaps,
                     s.held, rate.subscriber(topic, s), s.state)
                    for s in topic.subscribers
                ]  # fmt: skip
            links += [
                (name, x.name, x.target, x.state, x.rate, f"{x.unacknowledged}/{x.window}",
                 x.lag, x.reconnects, x.doubled, x.redelivered, x.why)
                for x in stats.links
            ]  # fmt: skip
            members += [
                (name, m.number, m.pid, m.tid, m.held, m.cached, m.operation or "", rate.member(m))
                for m in attached
            ]
        column = MEMBERS.index(SORTS[self._sort])
        members.sort(key=lambda row: cast(int, row[column]), reverse=column != 2)
        named = [(row[0], *map(str, row[1:4]), *row[4:]) for row in members]  # numbers, not counts
        for table, rows in zip(
            TABLES, (pools, queues, topics, subscribers, links, named), strict=True
        ):
            self._fill(table, rows[:MEMBERS_MAX])
        self._before = now

    def _fill(self, name: str, rows: list[tuple[object, ...]]) -> None:
        table = self.query_one(f"#{name}", DataTable)
        cursor, scroll = table.cursor_row, table.scroll_y
        table.clear()
        table.display = bool(rows)
        for row in rows:
            table.add_row(*(_cell(value) for value in row))
        table.move_cursor(row=min(cursor, max(len(rows) - 1, 0)), scroll=False)
        table.scroll_to(y=scroll, animate=False)


class _Rates:
    """A pool's operations per second since the snapshot before."""

    def __init__(
        self,
        stats: PoolStats,
        members: list[Member],
        before: tuple[PoolStats, list[Member]] | None,
    ) -> None:
        self._now = stats
        self._before, was = before or (stats, members)
        self._topics = {topic.name: topic for topic in self._before.topics}
        self._members = {(m.number, m.attached_ns): m for m in was}
        self._seconds = stats.at - self._before.at

    def _per_second(self, more: int) -> int:
        return round(more / self._seconds) if self._seconds > 0 else 0

    def pool(self, counter: str) -> int:
        now, before = self._now.buffers.counters, self._before.buffers.counters
        return self._per_second(now[counter] - before[counter])

    def queue(self, name: str) -> tuple[int, int]:
        now, before = ({q.name: q for q in s.queues}.get(name) for s in (self._now, self._before))
        if now is None or before is None:
            return 0, 0
        put, got = now.enqueued - before.enqueued, now.dequeued - before.dequeued
        return self._per_second(put), self._per_second(got)

    def topic(self, topic: TopicStats) -> int:
        before = self._topics.get(topic.name, topic)
        return self._per_second(topic.published - before.published)

    def subscriber(self, topic: TopicStats, subscriber: Subscription) -> int:
        """Messages that it has got or missed."""
        before = self._topics.get(topic.name, topic)
        for was in before.subscribers:
            if (was.number, was.pid) == (subscriber.number, subscriber.pid):
                more = topic.published - before.published + was.lag - subscriber.lag
                return max(self._per_second(more), 0)
        return 0

    def member(self, member: Member) -> int:
        before = self._members.get((member.number, member.attached_ns))
        if before is None:
            return 0
        return self._per_second(
            sum(member.counters[op] for op in OPS) - sum(before.counters[op] for op in OPS)
        )


def _cell(value: object) -> Text:
    """A table cell. Text from other processes is not read as markup."""
    if isinstance(value, int):
        return Text(f"{value:,}", justify="right")
    return value if isinstance(value, Text) else Text(printable(value))
