# SPDX-License-Identifier: Apache-2.0
"""Pool: a pool of packet buffers that several processes share, opened in this process.

Not in here: the methods alloc() and close(), and those of Buffer (hot/).

One file: Pool is one class, and half of its lines are the documentation of its methods.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Sequence
from itertools import islice
from os.path import samestat

from . import choices, errors
from ._ffi import Native, ffi, lib
from ._hot import Buffer, PoolBase
from .awaiting import until_free
from .burst import Burst
from .codes import check
from .geometry import CLASSES_MAX, Geometry, differences, planned
from .memory import prepare
from .names import checked_name
from .options import (
    LANED,
    LANES_GROW,
    PoolOptions,
    QueueOptions,
    TopicOptions,
    at_least,
    found_within,
    integer,
    lanes_of,
    queue_refusals,
    topic_refusals,
)
from .os_errors import refuse, refuse_readonly
from .pinning import Pinned, pin, pinned, unpin
from .pool_files import inode_of, replaced, unlink
from .process_exit import leave_at_the_end, open_pools
from .queue import AlfQueue, queue_names, refuse_foreign
from .segment import ANONYMOUS, CREATE_TRIES, Segment, disturbed, refuse_name, user_id
from .stats import (
    LIMIT_S,
    Audit,
    Counting,
    Holder,
    Member,
    Recovery,
    Stats,
    read_members,
    read_stats,
    recovering,
    whole,
)
from .topic import Topic, holding_subscribers

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing

    import numpy.typing as npt

    from . import hints
else:
    from .later import hints, npt, typing


class Pool(PoolBase):
    """Fixed-size buffers in POSIX shared memory, with named queues to pass them between processes.

    Any number of threads and processes may use a pool at the same time. Each thread becomes a
    member with its first call, and has a local cache of free buffers. A forked child becomes a
    member of its own. A Pool pickles to its name, so it can be an argument of a multiprocessing
    process.

    Every method raises PoolClosed if the pool is closed in this process, also while it waits. A
    call that waits raises PoolReplaced once the name stands for another pool (see replaced).
    Without a timeout a call waits as long as it takes; Ctrl-C and other signals interrupt it.

    Attributes: name, readonly, geometry; of the first size class buffer_size, capacity, headroom.

    >>> import shmpool
    >>> with shmpool.Pool.create("doc-pool", buffer_size=2048, capacity=1024) as pool:
    ...     with pool.alloc() as buf:
    ...         buf.write(b"hello")
    ...         print(bytes(buf), len(buf), pool.stats().created > 0)
    5
    b'hello' 5 True
    >>> shmpool.Pool.unlink("doc-pool")
    """

    name: str
    readonly: bool
    geometry: Geometry
    buffer_size: int  # these three are of its first size class
    capacity: int
    headroom: int

    def __init__(self, segment: Segment, made: bool = False) -> None:
        """Call Pool.create or Pool.attach instead."""
        path = getattr(segment, "path", "")  # _hot_open() refuses what is no Segment
        number = self._hot_open(segment, path, made)  # the pool now owns the segment
        self._number = number
        self.name = segment.name
        self.readonly = segment.read_only
        self._owner: int | None = None  # the user who must own the pool, as given to attach()
        self._unpinned_because = ""  # why pin() could not: pinning.py
        raw = ffi.new("struct shmpool_geometry *")
        check(lib.shmpool_geometry(number, raw), f"pool {segment.name!r}")
        self.geometry = Geometry.of(raw)
        self.buffer_size = self.geometry.buffer_size
        self.capacity = self.geometry.capacity
        self.headroom = self.geometry.headroom
        self._least_capacity = min(one.capacity for one in self.geometry.sizes)
        leave_at_the_end(self)

    @classmethod
    def create(
        cls,
        name: str | None,
        *,
        buffer_size: int | Sequence[int],
        capacity: int | Sequence[int],
        prealloc: int | Sequence[int] | None = None,
        bulk: int | None = None,
        refill_multiplier: int | None = None,
        cache_size: int | Sequence[int] | None = None,
        headroom: int | None = None,
        members: int | None = None,
        queues: int | None = None,
        free_rings: choices.Lanes | None = None,
        mode: int = 0o600,
        group: str | int | None = None,
        huge_pages: choices.HugePages = "never",
        numa_node: choices.NumaNode = None,
        populate: bool = False,
        lock: bool = False,
        core_dump: bool = False,
        exist_ok: bool = False,
        replace: bool = False,
        unlink_on_close: bool = False,
        owner: str | int | None = None,
    ) -> Pool:
        """Creates a pool and attaches to it.

        The options from buffer_size to numa_node are those of PoolOptions; docs/config.md lists
        their ranges and defaults. None stands for the default.

        buffer_size       bytes of data that a buffer holds, rounded up to a multiple of 64
        capacity          the most buffers that the pool can grow to, a power of two
        prealloc          buffers that get their memory at once; the others get it on demand
        bulk              buffers that move at once between a local cache and the free ring
        refill_multiplier bulks that the pool grows by when no buffer is free
        cache_size        free buffers that each thread's local cache holds; 0 for no cache
        headroom          bytes left free before the data of a new buffer
        members, queues   the most threads that can be attached, and the most queues
        free_rings        rings that share out the free buffers, so that many cores that free what
                          others allocate do not share one: up to 32, 0 for one; or "auto", one for
                          each core if there are 8 or more. Each takes one of 1,023 queues. A
                          size class has no more than have room for 4 * bulk buffers each
        mode, group       permission bits of the pool's file, for example 0o660, and its group
        huge_pages        "never"; "auto": huge pages of 2 MiB where the kernel makes them;
                          "always": the creation fails if it does not
        numa_node         the number of the NUMA node that the memory comes from while that has
                          some, or "interleave" for all nodes by turns
        populate          maps what the pool has in this process, so that no first use of a page
                          costs anything; also what this process adds to it
        lock              as populate, and nothing that this process maps is swapped out
        core_dump         core files of this process have the pool's memory
        exist_ok          attaches to the pool of that name, if it exists with the options given
        replace           takes the name from the pool that has it, in one step; its members go on
        unlink_on_close   removes the name when this process closes the pool, or ends
        owner             with exist_ok: the user who must own the existing pool

        buffer_size may be a list of up to 8 sizes in ascending order: a pool of several size
        classes, each with buffers of its own size. capacity, prealloc and cache_size are then lists
        of the same length, or one value for all classes. Queues take buffers of every class;
        alloc(size=) and send() choose one.

        populate, lock and core_dump are of this process and not of its children, and hold with
        exist_ok too. docs/memory.md says what each brings.

        If name is None, the pool has no name and takes no memory of /dev/shm. Only forked children
        can use it, and processes of multiprocessing that get this object as an argument.

        Raises:
            InvalidArgument, TypeError: a name or an option; the message says what is allowed.
            PoolExists: the name is taken; with exist_ok, by a pool with other options.
            OutOfSharedMemory: /dev/shm has no room for the pool itself and prealloc.
            AccessDenied: this user cannot create the file, give it to group, or open it.
            LimitReached: this process has 256 pools open, or no descriptor left, or may not lock
                so much.
        """
        if name is not None:
            checked_name(name, "pool")
        elif exist_ok or replace or unlink_on_close or group is not None:
            raise errors.InvalidArgument("exist_ok, replace, unlink_on_close and group need a name")
        if exist_ok and replace:
            raise errors.InvalidArgument("exist_ok and replace exclude each other")
        if owner is not None and not exist_ok:
            raise errors.InvalidArgument("owner needs exist_ok: the creator owns a new pool")
        user = None if owner is None else user_id(owner)
        options = PoolOptions(_given(buffer_size), _given(capacity), _given(prealloc), bulk,
                              refill_multiplier, _given(cache_size), headroom, members, queues,
                              free_rings, mode, group, huge_pages, numa_node)  # fmt: skip
        asked = populate, lock, core_dump
        geometry = planned(name or ANONYMOUS, options)
        check(lib.shmpool_room(), f"pool {name or ANONYMOUS!r}")  # before it takes memory
        if name is None:
            return cls._open(Segment.anonymous(geometry, numa_node), made=True)._prepared(*asked)
        for _ in range(CREATE_TRIES):
            try:
                segment = Segment.create(name, geometry, mode, group, replace, numa_node)
            except errors.PoolExists:
                if not exist_ok:
                    raise
                with contextlib.suppress(errors.PoolNotFound):  # it was removed since: create it
                    there = cls.attach(name, owner=user)
                    return there._refuse_other(options, Geometry.of(geometry))._prepared(*asked)
                continue
            pool = cls._open(segment, made=True)._prepared(*asked)
            try:
                if unlink_on_close:
                    segment._unlink_at_the_end(segment.path)
                # The name comes last, so nothing can fail when the pool has it. No call follows:
                # an exception of a signal handler would leave a name without a pool.
                segment._file_name = segment.path, replace
                return pool
            except FileExistsError:
                pool.close()  # another process has just taken the name: refuse it, or attach
            except OSError as error:
                pool.close()
                raise refuse_name(name, error, replace) from None
            except BaseException:
                pool.close()  # now: a traceback keeps the object alive
                raise
        raise disturbed(name)

    def _refuse_other(self, options: PoolOptions, asked: Geometry) -> Pool:
        """Returns the pool if it has the options given; else closes it and raises PoolExists."""
        found = differences(options, asked, self.geometry)
        if text := "; ".join(f"{option} {there}, not {given}" for option, given, there in found):
            self.close()
            raise errors.PoolExists(
                f"pool {self.name!r} exists with {text}: give its options, or "
                f'remove it first: Pool.unlink("{self.name}")'
            )
        return self

    @classmethod
    def attach(
        cls,
        name: str,
        *,
        readonly: bool = False,
        owner: str | int | None = None,
        timeout: float | None = 0,
        populate: bool = False,
        lock: bool = False,
        core_dump: bool = False,
    ) -> Pool:
        """Attaches to a pool. Waits up to timeout seconds until it exists; None for no limit.

        readonly  needs read permission only. The pool can be read and copied from (peek). No thread
                  is a member, prune() may remove the pool, and a change raises AccessDenied
        owner     the user who must own the pool: any user can create one under a free name
        populate, lock, core_dump  as of create(). The first two need a pool opened for writing

        Raises:
            PoolNotFound, SegmentInvalid: there is no such pool, or the file is not a pool.
            AccessDenied: this user may not open the file, or another user than owner owns it;
                populate or lock with readonly.
            InvalidArgument, LimitReached: the name or owner; 256 pools, no descriptor left, or this
                process may not lock so much.
            OutOfSharedMemory: populate gets no memory for page tables.
        """
        checked_name(name, "pool")
        user = None if owner is None else user_id(owner)
        pool = found_within(timeout, errors.PoolNotFound, lambda: cls._attach(name, readonly, user))
        return pool._prepared(populate, lock, core_dump)

    @classmethod
    def _attach(cls, name: str, readonly: bool, owner: int | None) -> Pool:
        while True:
            pool = cls._open(segment := Segment.attach(name, bool(readonly), owner))
            pool._owner = owner
            if segment.stat().st_nlink:
                return pool
            pool.close()  # it was removed since we opened it

    @classmethod
    def _open(cls, segment: Segment, made: bool = False) -> Pool:
        with segment.opening():
            return cls(segment, made)

    def _prepared(self, populate: bool, lock: bool, core_dump: bool) -> Pool:
        """Returns the pool, which this process has just opened, with its memory as asked for."""
        try:
            prepare(self, populate, lock, core_dump)
        except BaseException:
            self.close()  # now: a traceback keeps the object alive
            raise
        return self

    @staticmethod
    def unlink(name: str) -> None:
        """Removes the pool's name.

        Processes that have the pool open go on using it; its memory is freed when the last of them
        closes it.

        Raises:
            PoolNotFound: there is no pool of that name.
            AccessDenied: this user may not remove it.
            InvalidArgument: no pool can have that name.
        """
        unlink(checked_name(name, "pool"))

    def __repr__(self) -> str:
        state = "closed " if self._segment is None else "read-only " if self.readonly else ""
        sizes = " + ".join(f"{one.capacity} x {one.buffer_size}" for one in self.geometry.sizes)
        return f"<shmpool.Pool {state}{self.name} of {sizes} bytes>"

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        if self.name != ANONYMOUS:
            return _pool_by_name, (self.name, self.readonly, self._owner)
        from multiprocessing import context, reduction

        if context.get_spawning_popen() is None:
            raise TypeError(f"{self!r} can only be an argument of a multiprocessing process")
        return _pool_of_descriptor, (reduction.DupFd(self._opened().fd),)

    @property
    def replaced(self) -> bool:
        """True if the name now stands for another pool of the same owner.

        A call that waits then raises PoolReplaced within a quarter of a second.
        """
        return replaced(self.name, self._opened().status)

    def _refuse_replaced(self) -> None:
        segment: Segment | None = self._segment
        if segment is not None and segment.path and replaced(self.name, segment.status):
            raise errors.PoolReplaced(
                f"pool {self.name!r} was replaced: the name now stands for another one"
            )

    def _opened(self) -> Segment:
        segment: Segment | None = self._segment
        if segment is None:
            raise errors.PoolClosed(f"pool {self.name!r} is closed")
        return segment

    def _fail(self, code: int) -> typing.NoReturn:
        """Raises the exception for a negative code of a call of this pool. hot/ calls it too."""
        refuse(self, code)

    # Buffers.

    async def aalloc(self, size: int | None = None) -> Buffer:
        """Takes a free buffer as alloc() does; awaits one while the pool is exhausted.

        A call that is cancelled, or times out, has taken nothing.

        Raises:
            PayloadTooLarge: no buffer of the pool has size bytes.
            OutOfSharedMemory: the pool must grow and cannot.
            LimitReached: all member slots are taken.
            AccessDenied: the pool was opened read-only.
            PoolClosed, PoolReplaced: see Pool.
        """
        return await until_free(self, size, lambda: self.alloc(0, size))

    def alloc_many(self, n: int, timeout: float | None = None, size: int | None = None) -> Burst:
        """Takes n free buffers as a Burst: all of them or none.

        size: how many bytes each must have room for, as in alloc(). All are of one size class.
        Waits up to timeout seconds (None: as long as it takes, 0: not at all) until n are free.

        Raises:
            PoolExhausted: n were not free in that time; at once if n exceeds capacity.
            InvalidArgument: n is less than 1.
            PayloadTooLarge: no buffer of the pool has size bytes.
            OutOfSharedMemory: the pool must grow and cannot.
            LimitReached: all member slots are taken.
            AccessDenied: the pool was opened read-only.
        """
        n = at_least(n, 1, "n")
        if n > self._least_capacity:
            self._refuse_many(n, at_least(0 if size is None else size, 0, "size"))
        burst = Burst(self, n)
        burst._alloc(timeout, size)
        return burst

    async def aalloc_many(self, n: int, size: int | None = None) -> Burst:
        """Takes n free buffers as alloc_many() does; awaits them, all or none, as aalloc() does.

        Raises what alloc_many() raises; PoolExhausted only if n exceeds capacity.
        """
        n = at_least(n, 1, "n")
        if n > self._least_capacity:
            self._refuse_many(n, at_least(0 if size is None else size, 0, "size"))
        return await until_free(self, size, lambda: self.alloc_many(n, 0, size))

    def _refuse_many(self, n: int, size: int) -> None:
        """Raises PoolExhausted if no size class that has size bytes can ever have n buffers."""
        sizes, room = self.geometry.sizes, self.headroom + size
        most = max((one.capacity for one in sizes if one.buffer_size >= room), default=n)
        if n > most:
            raise errors.PoolExhausted(
                f"n is {n} buffers; pool {self.name!r} never has more than {most}"
                f"{'' if len(sizes) == 1 else ' of one size'}"
            )

    def array(
        self,
        shape: typing.SupportsIndex | Iterable[typing.SupportsIndex],
        dtype: npt.DTypeLike,
        order: hints.Order = "C",
        timeout: float | None = None,
    ) -> npt.NDArray[typing.Any]:
        """Takes a free buffer as the memory of a new numpy array, whose values are undefined.

        Write into the array, and move it with AlfQueue.put_array. The buffer goes back to the pool
        with the last array or view of it. Waits as alloc() does.

        dtype, shape and order are recorded in the buffer before the array, in 128 bytes for a plain
        dtype and a few dimensions: buffer_size must have room for both, unless the pool's headroom
        has it for the record. Needs numpy (the extra shmpool[numpy]).

        >>> import shmpool
        >>> with shmpool.Pool.create("doc-array", buffer_size=4096, capacity=64) as pool:
        ...     work = pool.create_queue("work", capacity=8)
        ...     image = pool.array((2, 3), "u1")
        ...     image[:] = 7
        ...     work.put_array(image)
        ...     got = work.get_array()
        ...     print(got.tolist())
        ...     del got
        [[7, 7, 7], [7, 7, 7]]
        >>> shmpool.Pool.unlink("doc-array")

        Raises:
            InvalidArgument: the dtype refers to objects, or would not arrive as it is; the shape or
                the order is not allowed.
            PayloadTooLarge: a buffer does not hold the array and its record.
            PoolExhausted, OutOfSharedMemory, LimitReached, AccessDenied: as alloc().
        """
        from .arrays import planned_array

        size, made = planned_array(self, shape, dtype, order)
        return made(self.alloc(timeout, size))

    async def aarray(
        self,
        shape: typing.SupportsIndex | Iterable[typing.SupportsIndex],
        dtype: npt.DTypeLike,
        order: hints.Order = "C",
    ) -> npt.NDArray[typing.Any]:
        """Takes a free buffer for a new numpy array as array() does; awaits one as aalloc() does.

        Raises what array() raises, but not PoolExhausted.
        """
        from .arrays import planned_array

        size, made = planned_array(self, shape, dtype, order)
        return made(await self.aalloc(size))

    def burst(self, items: Iterable[Buffer | Burst]) -> Burst:
        """Makes one Burst of Buffers and Bursts of this pool, in their order.

        The Burst takes all of them over, or none: each is then released, as after a put. burst[i]
        is a Buffer again.

        Raises:
            InvalidArgument: a buffer is given twice.
            BufferInUse: a view of one of the buffers is alive.
            BufferReleased: one of the items was freed or put before.
            ForeignBuffer: one of them belongs to another pool.
            TypeError: one of them is neither a Buffer nor a Burst.

        >>> import shmpool
        >>> with shmpool.Pool.create("doc-items", buffer_size=64, capacity=64) as pool:
        ...     first, others = pool.alloc(), pool.alloc_many(4)
        ...     burst = pool.burst([first, others[1:]])
        ...     print(len(burst), len(others), first.released)
        4 1 True
        >>> shmpool.Pool.unlink("doc-items")
        """
        self._opened()
        burst = Burst(self, 0)
        burst._take(items)
        return burst

    def _refuse_foreign(self, item: Buffer | Burst, where: str = "a burst") -> typing.NoReturn:
        """Raises ForeignBuffer or AccessDenied, for an item of another Pool object."""
        refuse_readonly(self)
        what = f"buffer {item.index}" if isinstance(item, Buffer) else f"a burst of {len(item)}"
        text = f"{what} of pool {item.pool.name!r} cannot go into {where}"
        if self._same(item.pool):
            raise errors.ForeignBuffer(
                f"{text}: it came through another Pool object of the same pool"
            )
        raise errors.ForeignBuffer(f"{text} of pool {self.name!r}")

    # Queues.

    def create_queue(
        self,
        name: str,
        *,
        capacity: int,
        producers: choices.Side = "multi",
        consumers: choices.Side = "multi",
        on_death: choices.OnDeath = "free",
        dead_letter: AlfQueue | str | None = None,
        max_redeliveries: int = 0,
        memory: choices.Memory = "reserved",
        lanes: choices.Lanes = 1,
    ) -> AlfQueue:
        """Creates a queue in the pool. The options are those of QueueOptions.

        capacity          buffers that the queue holds, from 1 to 1048576. One put moves up to 65536
        producers         "single": only the thread that puts first may put; or "multi"
        consumers         the same for threads that get
        on_death          what happens to buffers that a consumer had taken when it died: "free";
                          "requeue", to the end of this queue, with redelivered counted; or
                          "dead-letter", to the queue dead_letter
        dead_letter       a queue of this pool, or its name. It and a queue with "requeue" need
                          producers="multi"
        max_redeliveries  with "requeue": after so many redeliveries a buffer goes to dead_letter,
                          if there is one; 0 for no limit
        memory            "reserved": the 8 bytes that each buffer of the capacity takes are
                          reserved now; or "on-demand", in growing parts as the queue fills: a put
                          that finds no memory for the next part raises OutOfSharedMemory
        lanes             rings behind the queue, from 1 to 64, so that many cores do not contend
                          for one. A thread puts into one lane, so its buffers keep their order,
                          and finds the queue full if that lane is; gets take from all of them. The
                          lanes share out the capacity, rounded up, and one put moves up to a
                          lane's share.
                          "auto" begins with one and adds more, up to one for each core, 16 at
                          most, if producers contend. Each takes one of the pool's queues

        Raises:
            InvalidArgument, TypeError: the name or an option; the message says what is allowed.
            QueueExists, QueueNotFound: the name is taken; there is no queue dead_letter.
            LimitReached, OutOfSharedMemory: the pool, or /dev/shm, has no room for the queue.
            AccessDenied, PoolClosed: the pool was opened read-only, or is closed.
        """
        self._opened()
        checked_name(name, "queue")
        letter = self.queue(dead_letter) if isinstance(dead_letter, str) else dead_letter
        refuse_foreign(letter, self, f"dead_letter of queue {name!r}")
        to = None if letter is None else letter.name
        options = QueueOptions(
            capacity, producers, consumers, on_death, to, max_redeliveries, memory, lanes
        )
        for refusal in queue_refusals(options, None if letter is None else letter.producers):
            raise errors.InvalidArgument(f"queue {name!r}: {refusal}")
        flags = (producers == "single") | (consumers == "single") << 1
        flags |= choices.MEMORY.index(memory) << 2
        lanes = lanes if isinstance(lanes, str) else integer(lanes, "lanes", "auto")
        n = lanes_of(lanes, int(capacity))
        number = 0 if letter is None else letter.number
        policy = choices.ON_DEATH.index(on_death), number, int(max_redeliveries)
        while True:
            laned = (n << 16 | LANED | LANES_GROW * (lanes == "auto")) * (lanes != 1)
            code = lib.shmpool_queue_create_wait(
                self._number, name.encode(), int(capacity), flags | laned, *policy
            )
            if code != -errno.ENFILE or n == 1 or lanes != "auto":
                break
            n //= 2  # too few of the pool's queues are left
        return AlfQueue(self, code if code > 0 else refuse(self, code, f"queue {name!r}"))

    def _same(self, other: Pool) -> bool:
        """True if both are the same pool, opened twice."""
        return self is other or samestat(self._opened().status, other._opened().status)

    def queue(self, name: str, *, timeout: float | None = 0) -> AlfQueue:
        """Finds the queue of that name.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) until it exists.

        Raises:
            QueueNotFound: it did not exist in that time.
            InvalidArgument: no queue can have that name.
        """
        checked_name(name, "queue")
        return found_within(timeout, errors.QueueNotFound, lambda: self._find(name))

    def _find(self, name: str) -> AlfQueue:
        self._opened()
        code = lib.shmpool_queue_find(self._number, name.encode())
        return AlfQueue(self, check(code, f"queue {name!r} of pool {self.name!r}"))

    def queues(self) -> list[AlfQueue]:
        """Returns every queue of the pool, in the order of their numbers."""
        self._opened()
        return [AlfQueue(self, number) for number in queue_names(self, topics=False)]

    # Topics.

    def create_topic(self, name: str, *, depth: int) -> Topic:
        """Creates a topic in the pool: a stream of messages that each subscriber gets.

        depth  messages that the topic keeps, a power of two from 2 to 32768. The pool needs so many
               buffers more than without the topic, and must have more than all its topics keep

        A topic takes one of the pool's queue slots, and no queue has the same name.

        Raises:
            InvalidArgument, TypeError: the name or depth; the message says what is allowed.
            QueueExists: the name is taken.
            LimitReached, OutOfSharedMemory: the pool, or /dev/shm, has no room for the topic.
            AccessDenied, PoolClosed: the pool was opened read-only, or is closed.
        """
        self._opened()
        checked_name(name, "topic")
        kept = sum(topic.depth for topic in self.topics())
        for refusal in topic_refusals(TopicOptions(depth), self.geometry.capacity, kept):
            raise errors.InvalidArgument(str(refusal))
        code = lib.shmpool_queue_create_wait(self._number, name.encode(), int(depth), 8, 0, 0, 0)
        return Topic(self, code if code > 0 else refuse(self, code, f"topic {name!r}"))

    def topic(self, name: str, *, timeout: float | None = 0) -> Topic:
        """Finds the topic of that name.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) until it exists.

        Raises:
            QueueNotFound: it did not exist in that time.
            InvalidArgument: no topic can have that name.
        """
        checked_name(name, "topic")
        return found_within(timeout, errors.QueueNotFound, lambda: self._find_topic(name))

    def _find_topic(self, name: str) -> Topic:
        self._opened()
        code = lib.shmpool_queue_find(self._number, name.encode())
        return Topic(self, check(code, f"topic {name!r} of pool {self.name!r}"))

    def topics(self) -> list[Topic]:
        """Returns every topic of the pool, in the order of their numbers."""
        self._opened()
        return [Topic(self, number) for number in queue_names(self, topics=True)]

    # Reading.

    def stats(self) -> Stats:
        """Counts the buffers by where they are, and reads the counters.

        Takes no lock and delays no other thread. The figures are not of one instant.
        """
        self._opened()
        return read_stats(self._number, self.geometry)

    def members(self) -> list[Member]:
        """Returns the attached threads of all processes."""
        self._opened()
        return read_members(self._number, self.geometry.members)

    def audit(self, limit: float | None = LIMIT_S) -> Audit:
        """Checks by two independent counts that no buffer is lost or counted twice.

        Other threads and processes keep working. Stops after limit seconds of processor time
        (None: no limit); then the Audit is not complete.

        Raises:
            SegmentInvalid: the shared memory is corrupted or truncated.
        """
        return self._counting(queue_names(self)).run(limit).audit()

    def holders(self, limit: float | None = LIMIT_S) -> list[Holder]:
        """Returns the threads that hold buffers, and the subscribers that hold messages of topics:
        how many each. Of a thread also for how long it has held the oldest.

        Raises:
            LimitReached: not all buffers were counted within limit seconds of processor time.
            SegmentInvalid: the shared memory is corrupted or truncated.
        """
        return self._holders(self._counting({}).run(limit))

    def _holders(self, counted: Counting) -> list[Holder]:
        return counted.holders() + holding_subscribers(self)

    def _counting(self, queues: dict[int, str]) -> Counting:
        self._opened()
        return Counting(self._number, self.capacity, self.geometry.members, queues)

    def trim(self, keep: int = 0) -> int:
        """Gives the memory of all free buffers but keep to the system. Returns how many bytes.

        A pool of several size classes keeps so many of each. Preallocated buffers stay, and all
        while a process has the pool pinned. The pool grows again when it must. Flushes the local
        caches of all threads. These threads keep working.

        Raises:
            InvalidArgument: keep is negative.
            AccessDenied: the pool was opened read-only.
        """
        self._opened()
        keep = at_least(keep, 0, "keep")
        return check(lib.shmpool_trim_wait(self._number, min(keep, 2**63)), f"pool {self.name!r}")

    def pin(self, timeout: float | None = 0) -> Pinned:
        """Registers the pool's data with CUDA in this process, for copies at the bus's full speed.

        A background thread registers what exists, and later what is created; pinned says how much.
        Waits up to timeout seconds (None: as long as it takes, 0: not at all) until all that exists
        is registered. Then a tensor over a buffer is pinned memory. A repeated call tries again
        what the driver refused. As long as a process has the pool pinned, no process can trim it.
        close() and the end of the process unregister; a forked child has nothing registered.

        Buffers that share a page are registered together, once all of them exist: with prealloc
        equal to capacity, or a buffer_size that is a multiple of 4096, that makes no difference.

        Without a CUDA driver or device nothing is registered, and all else works: the answer's
        state is "unavailable", and its reason says why.

        Raises:
            InvalidArgument, TypeError: the timeout.
            AccessDenied: the pool was opened read-only.
            LimitReached, OutOfSharedMemory: no descriptor, or no memory, is left.
        """
        return pin(self, timeout)

    def unpin(self) -> None:
        """Undoes pin(). No copy by a device may be going on. May be repeated.

        Raises:
            AccessDenied: the pool was opened read-only.
        """
        unpin(self)

    @property
    def pinned(self) -> Pinned:
        """How much of the pool's data is registered with CUDA in this process, and why not more."""
        return pinned(self)

    def recover(self) -> Recovery:
        """Recovers dead members: frees or requeues their buffers, and frees their slots.

        Other members keep working, and any number of threads and processes may recover at the same
        time. A member that waits also recovers dead members. The daemon recovers them at once.

        Raises:
            AccessDenied: the pool was opened read-only.
        """
        self._opened()
        return whole(recovering(self._number, None))


def _given(value: typing.Any) -> typing.Any:
    """Returns an option as it is, or any sequence of values as a list."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return value
    try:
        return list(islice(value, CLASSES_MAX + 1))  # one too many is refused
    except TypeError:
        return value  # a number of numpy in an array of no dimensions


def _pool_by_name(name: str, readonly: bool = False, owner: int | None = None) -> Pool:
    """Unpickles a pool: returns the one that this process has open, or attaches to it."""
    for pool in open_pools():
        segment = pool._segment
        same = (pool.name, pool.readonly, pool._owner) == (name, readonly, owner)
        if segment is not None and same:
            with contextlib.suppress(errors.PoolNotFound, errors.AccessDenied):
                if inode_of(name) == segment.inode:
                    return pool
    return Pool.attach(name, readonly=readonly, owner=owner)


def _pool_of_descriptor(passed: Native) -> Pool:
    """Unpickles a pool without a name, whose descriptor the parent process has passed."""
    segment = Segment.of_descriptor(passed.detach())
    for pool in open_pools():
        if pool._segment is not None and samestat(pool._segment.status, segment.status):
            return pool
    return Pool._open(segment)
