# SPDX-License-Identifier: Apache-2.0
"""The scenarios of the native benchmark (core.py) with their goals, and its contestants."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Work(IntEnum):
    """The numbers of enum bench_work in native/bench.h, which explains them."""

    TURN, PASS, CYCLE, POOL, HAND_OVER, PATH, LINE_LATENCY, TOUCH, NEW = range(9)


class Place(IntEnum):
    """The numbers of enum bench_place."""

    ONE_CORE, TWO_CORES, OVERSUBSCRIBED = range(3)


class Contestant(NamedTuple):
    name: str
    column: str
    package: str = ""  # of Debian, which it needs


# By their names in native/. Each of ours has a line of its own in the table, others a column.
CONTESTANTS = {
    "queue_ours": Contestant("ring", "ours"),
    "queue_ours_owner": Contestant("ring + owner words", "ours"),
    "queue_ours_multi": Contestant("ring, multi/multi", "ours"),
    "pool_ours": Contestant("pool", "ours"),
    "touch_plain": Contestant("without more", "ours"),
    "touch_populated": Contestant("populate", "ours"),
    "touch_huge": Contestant("huge pages", "ours"),
    "queue_tailwait": Contestant("tail-wait", "original"),
    "pool_original": Contestant("qmempool of 2014", "original"),
    "queue_rte": Contestant("rte_ring", "dpdk", "libdpdk-dev"),
    "pool_rte": Contestant("rte_mempool", "dpdk", "libdpdk-dev"),
    "pool_rte_owner": Contestant("rte_mempool + owner", "+ owner", "libdpdk-dev"),
    "queue_ck": Contestant("ck_ring", "ck", "libck-dev"),
    "queue_bbq": Contestant("BBQ of 2022", "bbq"),
    "pool_malloc": Contestant("malloc", "malloc"),
    "pool_mimalloc": Contestant("mimalloc", "mimalloc", "libmimalloc-dev"),
    "pool_jemalloc": Contestant("jemalloc", "jemalloc", "libjemalloc-dev"),
}
OURS, *BASELINES = dict.fromkeys(contestant.column for contestant in CONTESTANTS.values())
QUEUES = ("queue_ours", "queue_ours_owner", "queue_tailwait", "queue_rte", "queue_ck", "queue_bbq")
POOLS = (
    "pool_ours", "pool_original", "pool_rte", "pool_malloc", "pool_mimalloc", "pool_jemalloc",
)  # fmt: skip
TOUCHES = ("touch_plain", "touch_populated", "touch_huge")
HANDED = (*POOLS, "pool_rte_owner")


@dataclass(frozen=True)
class Cell:
    """One scenario. The fields from work to single are those of struct bench_cell."""

    name: str
    contestants: tuple[str, ...]
    work: Work
    place: Place
    producers: int
    consumers: int
    bulk: int
    held: int = 0
    single: bool = False
    limit: float = 0.0  # the goal: at most so many ns, or times what `against` takes; 0: none
    against: str = ""  # a contestant; "baselines": the better one; "": the limit is in ns

    @property
    def goal(self) -> str:
        if not self.limit:
            return ""
        if not self.against:
            return f"<= {self.limit:.1f} ns"
        name = f" of {CONTESTANTS[self.against].name}" if self.against in CONTESTANTS else ""
        return f"<= {self.limit:.2f}x{name}"


LINE = Cell("line latency", ("line_latency",), Work.LINE_LATENCY, Place.TWO_CORES, 2, 0, 0)


# Work, place, producers and consumers of several cells.
ALONE = (Work.TURN, Place.ONE_CORE, 1, 0)
PAIR = (Work.PASS, Place.TWO_CORES, 1, 1)
TWO_CYCLE = (Work.CYCLE, Place.TWO_CORES, 2, 0)
EIGHT_EIGHT = (Work.PASS, Place.OVERSUBSCRIBED, 8, 8)
EIGHT_CYCLE = (Work.CYCLE, Place.OVERSUBSCRIBED, 8, 0)


def _queue(what: str, shape: tuple[Work, Place, int, int], goals: dict[int, float]) -> list[Cell]:
    """A cell for each bulk, with its goal."""
    return [
        Cell(f"queue, {what}, bulk {bulk}", QUEUES, *shape, bulk, limit=limit, against="baselines")
        for bulk, limit in goals.items()
    ]


def _pool(what: str, held: int, bulk: int, limit: float = 0, against: str = "") -> Cell:
    shape = (Work.POOL, Place.ONE_CORE, 1, 0)
    return Cell(f"pool, {what}", POOLS, *shape, bulk, held, limit=limit, against=against)


def _freed(bulk: int, against: str) -> Cell:
    name, shape = f"pool, freed by another, bulk {bulk}", (Work.HAND_OVER, Place.TWO_CORES, 1, 1)
    return Cell(name, HANDED, *shape, bulk, limit=1, against=against)


CELLS = [
    *_queue("1 core", ALONE, {1: 1.15, 2: 0, 4: 0, 8: 1.1, 16: 0, 32: 1, 64: 0, 128: 1, 256: 0}),
    Cell("queue, 1 core, single, bulk 1", (*QUEUES, "queue_ours_multi"), *ALONE, 1,
         single=True, limit=0.5, against="queue_ours_multi"),
    *_queue("1 to 1", PAIR, {1: 1, 8: 1, 32: 1, 128: 0, 256: 0}),
    Cell("queue, 1 to 1, single, bulk 1", QUEUES, *PAIR, 1,
         single=True, limit=1, against="baselines"),
    *_queue("2 get and put", TWO_CYCLE, {1: 1, 8: 1, 32: 1}),
    *_queue("8 to 8", EIGHT_EIGHT, {1: 1, 32: 1}),
    *_queue("8 get and put", EIGHT_CYCLE, {1: 1}),
    _pool("reuse of one buffer", 1, 1, 1, "pool_original"),
    _pool("256 one by one", 256, 1, 1, "pool_original"),
    _pool("256 in bulks of 8", 256, 8),
    _pool("256 at once", 256, 256),
    _pool("bulk 32", 32, 32, 1, "pool_rte"),
    Cell("pool, 8 workers, 256", POOLS, Work.POOL, Place.OVERSUBSCRIBED, 8, 0, 1, 256,
         limit=1, against="pool_rte"),
    # Bulks of 32 pay for owner words, which DPDK does not have.
    _freed(1, "pool_rte"), _freed(8, "pool_rte"), _freed(32, "pool_rte_owner"),
    Cell("whole path, 64 bytes", POOLS, Work.PATH, Place.TWO_CORES, 1, 1, 32, limit=67.2),
    # The other scenarios are measured when every page was used once. For a page of 4 KiB:
    Cell("first touch in a process", TOUCHES, Work.TOUCH, Place.ONE_CORE, 1, 0, 1),
    Cell("new memory and first touch", TOUCHES, Work.NEW, Place.ONE_CORE, 1, 0, 1),
]  # fmt: skip
