# SPDX-License-Identifier: Apache-2.0
"""Topics: one buffer, many readers. A Topic publishes; a Subscriber gets.

Not in here: publish(), get() and Sample (hot/topic.c).
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import AsyncIterator, Iterator

from . import choices, errors
from ._ffi import ffi, lib
from ._hot import Buffer, Sample, SubscriberBase, TopicBase, timeout_seconds
from .awaiting import Filled, Taken
from .burst import Burst
from .codes import check
from .names import printable
from .options import at_least
from .os_errors import refuse, refuse_readonly
from .queue import queue_names
from .record import record
from .stats import Holder
from .wakers import MESSAGE, Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing

    import numpy as np
    import numpy.typing as npt

    from . import hints
else:
    from .later import hints, np, npt, typing


PUBLISH_MAX = 1024  # messages that one publish() takes
SUBSCRIBERS_MAX = 24  # of one topic
BURST = 64  # messages that a loop over a subscriber gets at once


@record(frozen=True)
class Subscription:
    """One subscriber of a topic, of any process."""

    number: int  # in the topic
    pid: int  # of its process, in that process's PID namespace
    name: str  # of the thread that has subscribed, as ps shows it
    policy: choices.Policy
    lag: int  # messages that it has not got yet
    gaps: int  # messages that it has missed
    held: int  # messages that it has got and not let go
    closing: bool  # it was closed, and its process still holds messages
    dead: bool  # its process is dead, and not recovered completely

    @property
    def state(self) -> choices.SubscriberState:
        """What closing and dead say, in a word."""
        return "dead" if self.dead else "closing" if self.closing else "alive"


def read_subscribers(
    pool: int, topic: int, most: int = SUBSCRIBERS_MAX, asks: int = SUBSCRIBERS_MAX
) -> list[Subscription]:
    """Reads up to most subscribers of a topic of an open pool, both by number. Asks the kernel
    about so many of them whether they are alive. Raises PoolClosed, SegmentInvalid."""
    out = ffi.new("struct shmpool_subscriber_info[]", SUBSCRIBERS_MAX)
    code = lib.shmpool_subscribers(pool, topic, out, min(most, SUBSCRIBERS_MAX), asks)
    known = choices.POLICIES
    return [
        Subscription(
            number=one.number,
            pid=one.pid,
            name=printable(ffi.string(one.name)),
            policy=known[one.policy] if one.policy < len(known) else "drop-oldest",
            lag=one.lag,
            gaps=one.gaps,
            held=one.held,
            closing=bool(one.closing),
            dead=bool(one.dead),
        )
        for one in out[0 : check(code, f"topic {topic}")]
    ]


def holding_subscribers(pool: hints.Pool) -> list[Holder]:
    """Returns the subscribers that hold messages. Raises SegmentInvalid, PoolClosed."""
    return [
        Holder(one.number, one.pid, 0, "dead" if one.dead else "alive", one.held, None, name)
        for number, name in queue_names(pool, topics=True).items()
        for one in read_subscribers(pool._number, number)
        if one.held
    ]


class Topic(TopicBase, Filled):
    """A named stream of messages, made by Pool.create_topic. Each subscriber gets each of them.

    Any number of threads and processes may publish. The topic keeps the newest `depth` messages.
    What it keeps and what a subscriber holds is not free in the pool. A Topic pickles to its name.
    Every method raises PoolClosed if the topic object or its pool is closed.

    >>> import shmpool
    >>> with shmpool.Pool.create("doc-topic", buffer_size=64, capacity=64) as pool:
    ...     ticks = pool.create_topic("ticks", depth=8)
    ...     with ticks.subscribe() as one, ticks.subscribe(policy="latest") as other:
    ...         ticks.send(b"1.07")
    ...         ticks.send(b"1.08")
    ...         print(bytes(one.get()), bytes(other.get()))
    b'1.07' b'1.08'
    >>> shmpool.Pool.unlink("doc-topic")
    """

    depth: int
    _kind = "topic"

    def __init__(self, pool: hints.Pool, number: int) -> None:
        info = self._find(pool, number)
        self.depth = info.capacity
        self._hot_open(pool, number)

    def __repr__(self) -> str:
        return f"<shmpool.Topic {self.pool.name}/{self.name} of {self.depth}>"

    def send(self, payload: hints.BytesLike, timeout: float | None = None) -> None:
        """Copies a bytes-like object into a new buffer and publishes it.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) for a buffer and for
        subscribers with the policy "block".

        Raises:
            PoolExhausted: no buffer was free for that long.
            PayloadTooLarge: the payload has more bytes than the pool's buffers hold.
            OutOfSharedMemory: the pool must grow and cannot.
            Full, ShutDown, PoolClosed, PoolReplaced: as publish().
        """
        self._refuse_closed()
        refuse_readonly(self.pool)
        deadline = time.monotonic() + timeout_seconds(timeout)
        with memoryview(payload) as view:
            buf = self.pool.alloc(timeout, size=view.nbytes)
            with buf:
                buf.write(view)
                left = None if timeout is None else max(0.0, deadline - time.monotonic())
                self.publish(buf, left)

    def subscribe(
        self, policy: choices.Policy = "drop-oldest", start: choices.Start = "newest"
    ) -> Subscriber:
        """Begins to get the topic's messages: those from now on, or also those that it keeps.

        policy  what happens when this subscriber is a whole depth behind:
                "block"        publishers wait for it, so that it misses nothing
                "drop-oldest"  it goes on with the oldest message that is kept
                "drop-newest"  it keeps these, and misses what comes while it has them to get
                "latest"       it always gets the newest message, and first the one that is there
        start   "newest": the first message is the next one that is published;
                "oldest": the first message is the oldest that the topic keeps

        Raises:
            InvalidArgument: the policy or the start.
            LimitReached: the topic has 24 subscribers, which is the most.
            AccessDenied: the pool was opened read-only.
        """
        refuse_readonly(self.pool)
        self._refuse_closed()
        for value, allowed, what in (
            (policy, choices.POLICIES, "policy"),
            (start, choices.STARTS, "start"),
        ):
            if not isinstance(value, str) or value not in allowed:
                words = " or ".join(f'"{one}"' for one in allowed)
                raise errors.InvalidArgument(f"{what} is {value!r}; it must be {words}")
        for _ in range(SUBSCRIBERS_MAX):  # others may take those of dead processes first
            with contextlib.suppress(errors.LimitReached):
                return Subscriber(self, policy, start)
            code = lib.shmpool_vacancy_wait(self.pool._number, self.number)
            if not check(code, f"topic {self.name!r}"):
                break
        return Subscriber(self, policy, start)

    def subscribers(self) -> list[Subscription]:
        """Returns the subscribers of all processes."""
        self._refuse_closed()
        return read_subscribers(self.pool._number, self.number)

    @property
    def published(self) -> int:
        """How many messages have been published: the sequence number of the next one."""
        self._refuse_closed()
        return int(self._info().enqueued)

    @property
    def kept(self) -> int:
        """How many messages the topic keeps now: depth at most."""
        self._refuse_closed()
        return int(self._info().count)

    def shutdown(self) -> None:
        """Ends the topic for every process: any further publish raises ShutDown, and so does a get
        of a subscriber that has got all messages. Calls that wait do so at once. May be repeated.

        Raises:
            AccessDenied: the pool was opened read-only.
        """
        refuse_readonly(self.pool)
        self._refuse_closed()
        code = lib.shmpool_queue_shutdown_wait(self.pool._number, self.number)
        check(code, f"topic {self.name!r}")

    # Event loops: awaiting.py.

    def _give(self, buf: Buffer, timeout: float) -> None:
        self.publish(buf, timeout)

    def _room(self) -> int:
        return check(lib.shmpool_topic_room(self.pool._number, self.number), self._what)

    async def apublish(self, item: Buffer | Burst) -> None:
        """Publishes as publish() does; awaits subscribers with the policy "block" that are behind.

        The tasks of one event loop publish in the order in which they asked. If the call is
        cancelled, or times out, nothing was published, and the item is still the caller's.

        Raises:
            Full: the burst has more buffers than one publish() takes.
            What publish() raises besides.
        """
        n = len(item) if isinstance(item, Burst) else 1
        if n > min(self.depth, PUBLISH_MAX):
            self.publish(item, 0)  # raises
        await self._until_room(self.publish, item, n)

    def _fail(self, code: int, item: object = None, sent: int = 0) -> typing.NoReturn:
        """Raises the exception for a negative code of a call of this topic (hot/topic.c)."""
        self._refuse_closed()
        what = f"topic {self.name!r}"
        if code == -errno.ENOTEMPTY:
            raise errors.LimitReached(
                f"{what} has {SUBSCRIBERS_MAX} subscribers, which is the most; close one"
            )
        if code == -errno.EMSGSIZE and isinstance(item, Burst):
            raise errors.Full(
                f"burst has {len(item)} buffers; one publish() to {what} takes at most "
                f"{min(self.depth, PUBLISH_MAX)}: publish it in parts"
            )
        if code == -errno.ENOBUFS:
            raise errors.Full(f"{what} has a subscriber that blocks and is {self.depth} behind")
        if isinstance(item, (Buffer, Burst)) and code in (-errno.ESTALE, -errno.EPERM):
            if item.pool is not self.pool:
                self.pool._refuse_foreign(item, what)
            if isinstance(item, Buffer):
                what += f": buffer {item.index} of pool {self.pool.name!r}"
        refuse(self.pool, code, what)


class Samples(list[Sample]):
    """Messages of a topic, in the order in which they were published.

    At the end of a with block all of them are let go.
    """

    @property
    def sequence(self) -> npt.NDArray[np.uint64]:
        """The sequence numbers as an array. Needs numpy."""
        import numpy as np

        return np.fromiter((one.sequence for one in self), np.uint64, len(self))

    def free(self) -> None:
        """Lets all messages go. Those that were let go before do not matter.

        Raises:
            BufferInUse: a view of one of them is alive; the others were let go.
        """
        refusal = None
        for one in self:
            try:
                if not one.released:
                    one.free()
            except errors.BufferInUse as error:
                refusal = error
        if refusal is not None:
            raise refusal

    def __enter__(self) -> Samples:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        try:
            self.free()
        except errors.BufferInUse:
            if kind is None:
                raise


class Subscriber(SubscriberBase, Taken[Sample, "Samples"]):
    """What one process gets of a topic, made by Topic.subscribe.

    Any thread of the process may use it; each message goes to one of them. A forked child may not:
    it subscribes itself. close(), the end of a with block, and the end of the process end the
    subscription; a process that is killed holds nobody up for longer than it takes to notice.
    """

    topic: Topic
    policy: choices.Policy

    def __init__(self, topic: Topic, policy: choices.Policy, start: choices.Start) -> None:
        self.topic = topic
        self.policy = policy
        self._waker = None
        self._hot_open(topic, choices.POLICIES.index(policy), choices.STARTS.index(start))

    def get_many(self, n: int, timeout: float | None = None) -> Samples:
        """Gets the next 1 to n messages, 1,024 at most; with the policy "latest", one.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) for the first.

        Raises:
            InvalidArgument: n is less than 1.
            Empty, ShutDown, PoolClosed, PoolReplaced: as get().
        """
        samples = Samples()
        self._take_many(samples, min(at_least(n, 1, "n"), PUBLISH_MAX), timeout)
        return samples

    def __iter__(self) -> Iterator[Samples]:
        """Gets messages, up to 64 at once, until the topic is shut down."""
        while True:
            try:
                samples = self.get_many(BURST)
            except errors.ShutDown:
                return
            yield samples

    def __aiter__(self) -> AsyncIterator[Samples]:
        """bursts(): the same as the loop without async, in an event loop."""
        return self.bursts(BURST)

    def _wanted(self) -> Wanted:
        return Wanted(self.topic.pool, self._where, MESSAGE)

    def _there(self) -> int:
        return self.lag

    def close(self) -> None:
        """Ends the subscription. Samples that were got stay valid. May be repeated."""
        self._hot_close()
        self._drop_descriptor()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<shmpool.Subscriber of {self.topic.pool.name}/{self.topic.name}, {self.policy}>"

    def _fail(self, code: int) -> typing.NoReturn:
        """Raises the exception for a negative code of a call of this subscriber."""
        what = f"subscriber of topic {self.topic.name!r}"
        if code == -errno.EAGAIN:
            raise errors.Empty(f"topic {self.topic.name!r} has no message that is new")
        if code == -errno.ENOTCONN:
            raise errors.PoolClosed(f"{what} is closed")
        if code == -errno.ECHILD:
            raise errors.PoolClosed(
                f"{what} belongs to the process that this one was forked from: subscribe here"
            )
        refuse(self.topic.pool, code, what)
