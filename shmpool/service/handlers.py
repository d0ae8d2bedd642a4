# SPDX-License-Identifier: Apache-2.0
"""What each request does to the pools of this machine. No sockets.

The daemon's RequestHandler keeps pools open; that of the command line keeps none. A slow request
may be answered by another thread than the one that opens the pools.
"""

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

from .. import errors
from ..options import PoolOptions, QueueOptions, TopicOptions, keywords, letters_in_a_circle
from ..pool import Pool
from ..pool_files import pool_names
from ..pruning import survey
from ..queue import queue_names
from ..rpc.protocol import (
    AnyRequest,
    Create,
    Describe,
    Destroy,
    Drain,
    GetHolders,
    GetMembers,
    GetStats,
    List,
    Negotiate,
    Peek,
    Ping,
    Prune,
    Recover,
    Redrive,
    ReportLinks,
    RunAudit,
    Trim,
    Watch,
    negotiate,
)
from ..rpc.records import Description, Pong, PoolSummary, Pruned, Recoveries
from ..stats import LIMIT_S, recovering, whole
from ..view import View
from .alarms import Policy
from .links import Links
from .watched_pool import Rank, WatchedPool, stats_of

POOLS_MAX = 256  # that a process may have open (OPENING_POOLS_MAX of native/opening.h)
CLIENT_PLACES = 3  # requests of clients, and lists of holders, in progress at once
RECOVERY_PLACES = 3  # recoveries in progress at once
# The rest, without one each for the event loop and for the thread that creates and trims.
WATCHED_MAX = POOLS_MAX - CLIENT_PLACES - RECOVERY_PLACES - 2


class RequestHandler:
    """Answers requests, and holds the pools that the daemon watches."""

    def __init__(self, package: str) -> None:
        """package: the version that version answers."""
        self._package = package
        self._started = time.monotonic()
        self.watched: dict[str, WatchedPool] = {}
        self.watched_max = WATCHED_MAX
        self.names: Callable[[], list[str]] = pool_names  # what there is to list
        self.foreign = self.refused = 0  # files of other users; declared pools that are refused
        self.links = Links()

    # Watching.

    def watch(self, name: str, policy: Policy, rank: Rank = Rank.OWN) -> WatchedPool:
        """Watches a pool, or changes the policy of one that is watched. A declared one counts as
        in use. LimitReached."""
        watched = self._watched(name)
        if watched is None:
            self.release(name)
            if len(self.watched) >= self.watched_max:
                raise errors.LimitReached(
                    f"pool {name!r}: {self.watched_max} pools are watched already, which is the "
                    "most; unlink a pool, or let [daemon] adopt name fewer"
                )
            watched = self.watched[name] = WatchedPool(View(name), policy, links=self.links)
        watched.use(policy, rank)
        return watched

    def release(self, name: str) -> None:
        """Detaches from a pool, which stays."""
        watched = self.watched.pop(name, None)
        if watched is not None:
            watched.close()

    def _watched(self, name: str) -> WatchedPool | None:
        """The pool, if it is watched and the name does not stand for another one now."""
        watched = self.watched.get(name)
        return None if watched is None or watched.view.stale() else watched

    @contextlib.contextmanager
    def _view(self, name: str) -> Iterator[View]:
        watched = self._watched(name)
        if watched is not None:
            yield watched.view
        else:
            with View(name) as view:
                yield view

    # Answers.

    def answer(self, request: AnyRequest) -> Any:
        """Returns the answer, of the type that the request's class names. ShmpoolError."""
        match request:
            case Ping():
                return Pong(os.getpid(), time.monotonic() - self._started)
            case Negotiate():
                return negotiate(request, self._package)
            case List():
                return [self._summary(name) for name in self.names()]
            case Create(name, options, queues, topics):
                create_pool(name, options, queues, topics)
                with View(name) as view:
                    return _description(view)
            case Destroy(name):
                return Pool.unlink(name)
            case Describe(name):
                with self._view(name) as view:
                    return _description(view)
            case GetStats(name):
                watched = self._watched(name)
                if watched is not None:
                    return watched.stats()
                with View(name) as view:
                    return stats_of(view, time.time(), Recoveries(), [])
            case GetMembers(name):
                with self._view(name) as view:
                    return view.members()
            case RunAudit() | GetHolders() | Recover():
                return whole(self.steps(request))
            case Trim(name, keep):
                with Pool.attach(name) as pool:
                    return pool.trim(keep)
            case Peek(name, queue, n, size):
                with View(name) as view:  # not the watched one's: that is the event loop's
                    return view.peek(queue, n, size)
            case Redrive(name, queue, n, to=to, reset=reset):
                with Pool.attach(name) as pool:
                    target = pool.queue(to) if to is not None else None
                    return pool.queue(queue).redrive(n, to=target, reset=reset)
            case Drain(name, queue, n):
                with Pool.attach(name) as pool:
                    return pool.queue(queue).drain(n)
            case Prune(age):
                return Pruned(*survey(age=age))
            case ReportLinks(bridge, pid, links):
                return self.links.report(bridge, pid, links)
            case Watch():
                raise errors.RequestRefused("watch needs a daemon: it sends notifications")
        raise errors.RequestRefused(f"{request.method} is not answered by this version")

    def steps(
        self, request: AnyRequest, limit: float | None = LIMIT_S
    ) -> Generator[None, None, Any]:
        """As answer(), with a yield every few milliseconds if the request scans a whole pool. limit
        is in seconds of processor time. Any thread may continue the generator."""
        match request:
            case RunAudit(name):
                with Pool.attach(name, readonly=True) as pool:
                    counting = pool._counting(queue_names(pool))
                    yield from counting.steps(limit)
                    return counting.audit()
            case GetHolders(name):
                with Pool.attach(name, readonly=True) as pool:
                    counting = pool._counting({})
                    yield from counting.steps(limit)
                    return pool._holders(counting)
            case Recover(name):
                with Pool.attach(name) as pool:
                    return (yield from recovering(pool._number, limit))
            case _:
                return self.answer(request)

    def _summary(self, name: str) -> PoolSummary:
        """By a view of its own: another thread than the one that releases pools may make it."""
        watched = self.watched.get(name)
        try:
            with View(name) as view:
                if watched is not None and watched.inode != view.inode:
                    watched = None
                stats, queues, topics = view.stats(), view.queues(), view.topics()
                return PoolSummary(
                    name=name,
                    watched=watched is not None,
                    capacity=stats.capacity,
                    buffer_size=view.geometry.buffer_size,
                    created=stats.created,
                    free=stats.free,
                    cached=stats.cached,
                    held=stats.held,
                    queued=stats.queued,
                    queues=len(queues),
                    topics=len(topics),
                    members=stats.members,
                    reserved=view.file().reserved,
                    alarms=len(watched.alarms.active()) if watched else 0,
                )
        except (errors.ShmpoolError, OSError) as error:
            return PoolSummary(name, watched is not None, trouble=str(error))


def _description(view: View) -> Description:
    return Description(view.name, view.geometry, view.file(), view.queues(), view.topics())


def create_pool(
    name: str,
    options: PoolOptions,
    queues: dict[str, QueueOptions],
    topics: dict[str, TopicOptions],
) -> None:
    """Creates a pool, its queues and its topics: all, or nothing. Raises as Pool.create,
    create_queue and create_topic."""
    with Pool.create(name, unlink_on_close=True, **keywords(PoolOptions, options)) as pool:
        create_queues(pool, queues)
        create_topics(pool, topics)
        pool._opened()._unlink_at_the_end(None)


def create_queues(pool: Pool, queues: dict[str, QueueOptions]) -> None:
    """Creates queues, each after the queue that its dead letters go to."""
    if circle := letters_in_a_circle(queues):
        raise errors.InvalidArgument(
            f"pool {pool.name!r}: the dead letters of {', '.join(circle)} go in a circle"
        )
    left = dict(queues)
    while left:
        for name in [name for name, queue in left.items() if queue.dead_letter not in left]:
            pool.create_queue(name, **keywords(QueueOptions, left.pop(name)))


def create_topics(pool: Pool, topics: dict[str, TopicOptions]) -> None:
    for name, topic in topics.items():
        pool.create_topic(name, **keywords(TopicOptions, topic))
