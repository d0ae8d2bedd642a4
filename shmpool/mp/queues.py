# SPDX-License-Identifier: Apache-2.0
"""Queue, JoinableQueue and SimpleQueue: multiprocessing's queues over the queues of a pool.

One file: the three share one base, and a third of the lines is the documentation of their methods.
Not in here: how an object becomes a message (objects.py), and whose memory they use (program.py).
"""

import contextlib
import itertools
import pickle
import time
import types
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from .. import errors
from .._hot import Buffer
from ..choices import OnDeath
from ..leases import leases_of, leave
from ..options import QUEUE_MAX, at_least, integer
from ..pool import Pool
from ..queue import AlfQueue
from ..wakers import Wanted, wait
from . import objects, program

_pickle, _unpickle = objects.dumps, pickle.loads


class _Objects:
    """A queue of objects, as every process of the program has one of its own."""

    _on_death: OnDeath = "free"
    _leased = False  # what is got counts as unfinished until it is done
    _shared = True  # until it is complete
    _taking = "_take"  # the method of AlfQueue that takes a message

    def __init__(self, capacity: int, pool: Pool | None, copy: bool) -> None:
        if pool is not None and not isinstance(pool, Pool):
            raise TypeError(f"pool is {pool!r}; it must be a shmpool.Pool, or None")
        if pool is None:
            queue = program.new_queue(capacity, self._on_death)
        else:
            queue = pool.create_queue(
                program.new_name(),
                capacity=capacity,
                on_death=self._on_death,
                memory="on-demand",
            )
        self._open(queue, copy)
        self._shared = pool is not None
        self._forks = program.forks()

    def _open(self, queue: AlfQueue, copy: bool) -> None:
        self._queue = queue
        self._copy = copy
        self._closed = False
        self._send: Callable[..., None] = queue.send
        self._take: Callable[..., Any] = getattr(queue, self._taking)

    def __getstate__(self) -> tuple[Any, ...]:
        self._shared = True
        return program.reference(self._queue), self._copy

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._open(program.referred(state[0]), state[1])

    def __del__(self) -> None:
        if not self._shared and self._forks == program.forks():
            with contextlib.suppress(errors.ShmpoolError):
                self._recycle()

    def _recycle(self) -> None:
        program.recycle(self._queue, self._on_death)

    def __repr__(self) -> str:
        name = getattr(getattr(self, "_queue", None), "name", "?")
        return f"<shmpool.{type(self).__name__} {name}>"

    __class_getitem__ = classmethod(types.GenericAlias)  # type: ignore[var-annotated]

    def empty(self) -> bool:
        """True if a get would find nothing now. Raises OSError after close()."""
        if self._closed:
            raise OSError(f"{self!r} is closed")
        return self._queue.empty()

    def fileno(self) -> int:
        """Returns a file descriptor that is readable while an object is there: AlfQueue.fileno().

        Raises OSError after close().
        """
        if self._closed:
            raise OSError(f"{self!r} is closed")
        return self._queue.fileno()

    def _wanted(self) -> Wanted:
        return self._queue._wanted()

    def _may_take(self) -> bool:
        return self._queue._may_take()

    @property
    def _reader(self) -> "_End":
        """What programs use that know the pipe behind multiprocessing's queues."""
        return _End(self)

    _writer = _reader

    def close(self) -> None:
        """Closes the object in this process: any further put or get raises ValueError.

        Other processes go on. What was put stays in the queue.
        """
        self._closed = True
        self._send = self._take = self._refuse_closed

    def _refuse_closed(self, *given: object) -> NoReturn:
        raise ValueError(f"Queue {self!r} is closed")

    def put(self, obj: object, block: bool = True, timeout: float | None = None) -> None:
        """Puts an object. Without room waits up to timeout seconds, None for no limit.

        Raises:
            Full: there was no room for that long; at once if block is false.
            ShutDown: the queue was shut down.
            ValueError: the queue was closed in this process.
            PayloadTooLarge: all memory of the queue together does not hold the object.
            OutOfSharedMemory: there is no memory for it.
            What pickling the object raises; then nothing was put.
        """
        message = _pickle(obj)
        try:
            if type(message) is not bytes:
                self._put_parts(message, _limit(block, timeout))
            elif block and timeout is None:
                self._send(message)  # the quickest way
            else:
                self._send(message, _limit(block, timeout))
        except errors.PoolExhausted as error:
            raise errors.Full(str(error)) from None

    def _put_parts(self, parts: Any, timeout: float | None) -> None:
        """Puts a message of several parts."""
        if self._closed:
            self._refuse_closed()
        deadline = None if timeout is None else time.monotonic() + timeout
        buf = objects.written(self._queue.pool, parts, objects.size_of(parts), timeout)
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        self._queue._put_or_free(buf, left)

    def _load(self, message: Any) -> Any:
        """Returns the object of a message. If unpickling raises, its buffer is freed."""
        try:
            if type(message) is bytes:
                return _unpickle(message)
            obj = objects.loads(message, self._copy)
            if not self._leased:
                message._settle()  # its memory stays while the object lives
            return obj
        except BaseException as error:
            if isinstance(message, Buffer) and not message.released:
                message._settle()
            error.add_note(f"The object came from {self!r}.")
            raise


class _End:
    """A queue as an end of a pipe, for multiprocessing.connection.wait() and concurrent.futures."""

    def __init__(self, queue: _Objects) -> None:
        self._of = queue
        self.fileno, self.send, self.close = queue.fileno, queue.put, queue.close

    @property
    def closed(self) -> bool:
        return self._of._closed

    def recv(self) -> Any:
        return self._of._load(self._of._take())

    def poll(self, timeout: float | None = 0.0) -> bool:
        return bool(wait([self._of], timeout))


def _is_bytes(message: object) -> bool:
    return type(message) is bytes


def _limit(block: bool, timeout: float | None) -> float | None:
    """Returns the timeout of shmpool's call: like multiprocessing, takes a negative one for 0."""
    if not block:
        return 0
    return None if timeout is None else float(max(timeout, 0))


class SimpleQueue(_Objects):
    """multiprocessing.SimpleQueue over shared memory: put() and get() of any picklable object.

    >>> import shmpool
    >>> queue = shmpool.SimpleQueue()
    >>> queue.put({"any": "object"})
    >>> queue.get()
    {'any': 'object'}
    """

    def __init__(self, *, ctx: object = None, pool: Pool | None = None, copy: bool = False) -> None:
        super().__init__(QUEUE_MAX, pool, copy)

    def get(self) -> Any:
        """Takes the oldest object. Waits while there is none."""
        return self._load(self._take())


class Queue(_Objects):
    """multiprocessing.Queue over shared memory.

    put() is synchronous: there is no thread behind it, and an object that it returned from is in
    the queue, also if the process is killed the next moment. A numpy array of 4 KiB or more, and
    other memory that pickle passes out of band, is copied once, into shared memory, and read there:
    that memory is free again when the object is gone.

    maxsize  the most objects; 0 for no limit of its own. 1,048,576 is the most, and the objects of
             all queues of the program share one memory: put() waits while that is full too
    ctx      is accepted and not used
    pool     a Pool for the queue, in place of the program's memory
    copy     gives objects memory of their own when they are got

    >>> import shmpool
    >>> queue = shmpool.Queue()
    >>> queue.put([1, 2])
    >>> queue.get()
    [1, 2]
    """

    def __init__(
        self,
        maxsize: int = 0,
        *,
        ctx: object = None,
        pool: Pool | None = None,
        copy: bool = False,
    ) -> None:
        self._maxsize = maxsize = integer(maxsize, "maxsize")
        super().__init__(min(maxsize, QUEUE_MAX) if maxsize > 0 else QUEUE_MAX, pool, copy)

    def __getstate__(self) -> tuple[Any, ...]:
        return *super().__getstate__(), self._maxsize

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        super().__setstate__(state)
        self._maxsize = state[2]

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Takes the oldest object. Without one waits up to timeout seconds, None for no limit.

        Raises:
            Empty: the queue was empty for that long; at once if block is false.
            ShutDown: the queue was shut down, and is empty.
            ValueError: the queue was closed in this process.
            What unpickling the object raises, with a note that names the queue; the object is gone.
        """
        if block:
            if timeout is None:
                return self._load(self._take())
            return self._load(self._take(timeout if timeout > 0 else 0))
        return self._load(self._take(0))

    def put_nowait(self, obj: object) -> None:
        """put(obj, block=False)."""
        self.put(obj, False)

    def get_nowait(self) -> Any:
        """get(block=False)."""
        return self.get(False)

    def put_many(
        self, objs: Iterable[object], block: bool = True, timeout: float | None = None
    ) -> None:
        """Puts several objects, in order. Waits as put() does, timeout seconds for all of them.

        Raises as put(). Full says in its attribute sent how many were put. If pickling one raises,
        none was.
        """
        messages = [objects.dumps(obj) for obj in objs]
        limit = _limit(block, timeout)
        deadline = None if limit is None else time.monotonic() + limit
        sent = 0
        for small, run in itertools.groupby(messages, _is_bytes):
            for several in [list(run)] if small else ([message] for message in run):
                left = None if deadline is None else max(deadline - time.monotonic(), 0)
                try:
                    if self._closed:
                        self._refuse_closed()
                    if small:
                        self._queue.send_many(several, left)
                    else:
                        self._put_parts(several[0], left)
                except (errors.Full, errors.PoolExhausted) as error:
                    full = errors.Full(str(error))
                    full.sent = sent + error.sent
                    raise full from None
                sent += len(several)

    def get_many(
        self, n: int = QUEUE_MAX, block: bool = True, timeout: float | None = None
    ) -> list[Any]:
        """Takes the 1 to n oldest objects, as many as are there. Waits as get() does for the first.

        Raises as get(); InvalidArgument if n is less than 1. If unpickling one raises, the
        exception has those before it in its attribute objects, if it can have one. Those behind it
        stay in the queue.
        """
        n = at_least(n, 1, "n")
        if self._closed:
            self._refuse_closed()
        buf: Buffer | None = self._queue.get(_limit(block, timeout))
        objs: list[Any] = []
        try:
            while buf is not None:
                objs.append(self._load(buf))
                buf = self._queue.try_get() if len(objs) < n else None
        except errors.ShutDown:
            pass
        except BaseException as error:
            with contextlib.suppress(AttributeError, TypeError):
                error.objects = objs  # type: ignore[attr-defined]
            raise
        return objs

    def qsize(self) -> int:
        """Returns how many objects are in the queue now."""
        return len(self._queue)

    def empty(self) -> bool:
        """True if a get would find nothing now. Raises OSError after close(), if it was ever used:
        as in multiprocessing."""
        return super().empty() if self._queue._info().enqueued else True

    def full(self) -> bool:
        """True if a put would find no room now."""
        return self._queue.full()

    def shutdown(self, immediate: bool = False) -> None:
        """Ends the queue, for every process: as queue.Queue.shutdown() of Python 3.13.

        Any further put raises ShutDown, and so does a get once the queue is empty. Calls that wait
        do so at once. immediate discards what is in the queue.
        """
        self._queue.shutdown(immediate)

    def join_thread(self) -> None:
        """Does nothing: there is no thread."""

    def cancel_join_thread(self) -> None:
        """Does nothing: there is no thread."""


class JoinableQueue(Queue):
    """multiprocessing.JoinableQueue over shared memory.

    What a process has got and not yet called task_done() for stays its own. If the process ends,
    these objects go back to the end of the queue, for another one to get. So join() returns when
    each object has been dealt with, in spite of any kill.

    on_death  "requeue", or "free": then the objects of a process that ended count as done. The
              other parameters are those of Queue

    >>> import shmpool
    >>> queue = shmpool.JoinableQueue()
    >>> queue.put("task")
    >>> queue.get()
    'task'
    >>> queue.task_done()
    >>> queue.join()
    True
    """

    def __init__(
        self,
        maxsize: int = 0,
        *,
        ctx: object = None,
        pool: Pool | None = None,
        copy: bool = False,
        on_death: OnDeath = "requeue",
    ) -> None:
        self._on_death = on_death
        super().__init__(maxsize, pool=pool, copy=copy)

    _leased = True
    _taking = "get"  # the buffer is what goes back if this process dies

    def _open(self, queue: AlfQueue, copy: bool) -> None:
        super()._open(queue, copy)
        self._leases = leases_of(queue.name)

    def _load(self, message: Any) -> Any:
        obj = super()._load(message)
        self._leases.append(message)
        return obj

    def task_done(self) -> None:
        """Says that the oldest object that this process has got is done.

        Raises:
            ValueError: this process has none that is not done.
        """
        with contextlib.suppress(IndexError):
            while True:
                buf = self._leases.popleft()
                if not buf.released:  # as one is that the parent process had got
                    buf._settle()
                    return
        raise ValueError("task_done() called too many times")

    def join(self, timeout: float | None = None) -> bool:
        """Waits until every object that was put is done, up to timeout seconds, None for no limit.

        Returns whether all are.
        """
        return self._queue._unfinished(False, timeout) == 0

    def __del__(self) -> None:
        super().__del__()
        if hasattr(self, "_leases"):
            leave(self._leases)

    def _recycle(self) -> None:
        with contextlib.suppress(ValueError):
            while True:  # a later queue must not wait for them
                self.task_done()
        super()._recycle()

    @property
    def unfinished(self) -> int:
        """How many objects were put and are not done."""
        return self._queue._unfinished(False, 0)
