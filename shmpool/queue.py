# SPDX-License-Identifier: Apache-2.0
"""AlfQueue: a named queue of a pool. What moves buffers is in hot/; here is what describes the
queue, and what raises the exceptions.
"""

import errno
from operator import methodcaller
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from . import errors
from ._ffi import Native, check, fail, ffi, lib
from .buffer import Buffer, QueueBase
from .burst import Burst
from .messages import Message, read_messages
from .names import is_name, printable
from .options import ON_DEATH, OnDeath, Side, at_least
from .os_errors import refuse, refuse_readonly

if TYPE_CHECKING:
    from typing_extensions import Buffer as BytesLike

    from .pool import Pool


class AlfQueue(QueueBase):
    """A lock-free FIFO of buffers in the pool's segment, made by Pool.create_queue.

    Safe for any number of threads and processes, unless it was made for a single producer or
    consumer: then the first member (thread) to put (get) is the one, and others get QueueBusy.
    Pickles to its name, so it can be an argument of a multiprocessing process.

    >>> import shmpool
    >>> with shmpool.Pool.create("doc-queue", buffer_size=64, capacity=64) as pool:
    ...     work = pool.create_queue("work", capacity=8)
    ...     work.send(b"hello")
    ...     print(len(work), work.recv())
    1 b'hello'
    >>> shmpool.Pool.unlink("doc-queue")
    """

    def __init__(self, pool: "Pool", number: int) -> None:
        self.pool = pool
        self.number = number
        self._closed = False
        info = self._info()
        self.name = queue_name(pool.name, number, info)
        self.capacity: int = info.capacity
        self.producers: Side = "single" if info.single_producer else "multi"
        self.consumers: Side = "single" if info.single_consumer else "multi"
        self.on_death: OnDeath = ON_DEATH[info.on_death % 3]
        self.max_redeliveries: int = info.max_redeliveries
        self._dead_letter: int = info.dead_letter
        self._hot_open(pool, number, f"queue {self.name!r} is empty")

    def _info(self) -> Native:
        info = ffi.new("struct shmpool_queue_info *")
        check(lib.shmpool_queue_info(self.pool._number, self.number, info), f"queue {self.number}")
        return info

    def __repr__(self) -> str:
        return f"<shmpool.AlfQueue {self.pool.name}/{self.name} of {self.capacity}>"

    def __reduce__(self) -> "tuple[methodcaller, tuple[Pool]]":
        return methodcaller("queue", self.name), (self.pool,)

    @property
    def dead_letter(self) -> "AlfQueue | None":
        """The queue that receives buffers whose consumers died max_redeliveries times, or None."""
        if not self._dead_letter:
            return None
        try:
            return AlfQueue(self.pool, self._dead_letter)
        except (errors.QueueNotFound, OverflowError):
            raise errors.SegmentInvalid(
                f"pool {self.pool.name!r} is corrupted: "
                f"dead_letter of queue {self.name!r} is queue {self._dead_letter}"
            ) from None

    def full(self) -> bool:
        """Whether a put would find no room now."""
        return len(self) >= self.capacity

    def release(self) -> None:
        """Releases the calling thread's single-producer or single-consumer role, if it has one."""
        check(lib.shmpool_queue_release(self.pool._number, self.number), f"queue {self.name!r}")

    def close(self) -> None:
        """Releases the calling thread's roles and closes this object; the queue itself stays.

        May be repeated. Any later use is PoolClosed.
        """
        if not self._closed:
            lib.shmpool_queue_release(self.pool._number, self.number)
            self._hot_close()
            self._closed = True

    def __enter__(self) -> "AlfQueue":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise errors.PoolClosed(f"queue {self.name!r} is closed")

    def _fail(self, code: int, empty: bool = False, n: int = 1) -> NoReturn:
        """Raises what a call that takes (empty), or that was to put n buffers, failed with."""
        self._refuse_closed()
        if code == -errno.ENOBUFS or (code == -errno.EAGAIN and not empty):
            lib.shmpool_refused(self.pool._number, self.number, n)
        if code == -errno.EAGAIN and empty:
            raise errors.Empty(f"queue {self.name!r} is empty")
        if code == -errno.EBUSY:
            raise errors.QueueBusy(self._who_is_it(empty))
        refuse(self.pool, code, f"queue {self.name!r}")

    def _foreign(self, what: str, pool: "Pool") -> NoReturn:
        self._refuse_closed()
        refuse_readonly(self.pool)
        text = f"{what} of pool {pool.name!r} cannot go into queue {self.name!r}"
        if self.pool._same(pool):
            raise errors.ForeignBuffer(
                f"{text}: it came through another Pool object of the same pool"
            )
        raise errors.ForeignBuffer(f"{text} of pool {self.pool.name!r}")

    def _who_is_it(self, consumer: bool) -> str:
        info = self._info()
        number = (info.consumer if consumer else info.producer) - 1
        side = "consumer" if consumer else "producer"
        who = next((m for m in self.pool.members() if m.number == number), None)
        is_it = f"process {who.pid}, thread {who.tid}" if who else f"member {number}"
        return f"queue {self.name!r} has a single {side}: {is_it}"

    # What hot/ comes back with when it did not succeed.

    def _put_foreign(self, buf: Buffer) -> NoReturn:
        self._foreign(f"buffer {buf.index}", buf.pool)

    def _put_failed(self, code: int, index: int) -> NoReturn:
        if code in (-errno.ESTALE, -errno.EPERM):
            fail(code, f"queue {self.name!r}: buffer {index} of pool {self.pool.name!r}")
        self._fail(code)

    def _put_many_failed(self, code: int, n: int) -> NoReturn:
        if code == -errno.EMSGSIZE:
            lib.shmpool_refused(self.pool._number, self.number, n)
            raise errors.Full(
                f"burst has {n} buffers; queue {self.name!r} never holds more than {self.capacity}"
            )
        self._fail(code, n=n)

    def _send_failed(self, code: int, payload: "BytesLike") -> NoReturn:
        if code == -errno.EMSGSIZE:
            size = memoryview(payload).nbytes
            room = self.pool.buffer_size - self.pool.headroom
            raise errors.PayloadTooLarge(f"payload is {size} bytes; a buffer holds {room}")
        self._fail(code)

    # Many at once.

    def put_many(self, burst: Burst, timeout: float | None = None) -> None:
        """Moves a burst into the queue: all of it, or Full after timeout seconds and none.

        The burst is released. Full at once if it is larger than the queue.
        """
        if not isinstance(burst, Burst):
            raise TypeError(f"put_many() takes a shmpool.Burst, not a {type(burst).__name__}")
        if burst.pool is not self.pool:
            self._foreign(f"a burst of {len(burst)}", burst.pool)
        burst._put(self, timeout)

    def get_many(self, n: int, timeout: float | None = None) -> Burst:
        """A burst of the 1..n oldest buffers; Empty if there is none within timeout seconds."""
        burst = Burst(self.pool, min(at_least(n, 1, "n"), self.capacity))
        burst._get(self, timeout)
        return burst

    def _send_many_failed(
        self, code: int, sent: int, payloads: "tuple[BytesLike, ...]"
    ) -> NoReturn:
        if code == -errno.EMSGSIZE:
            size = max(memoryview(payload).nbytes for payload in payloads)
            room = self.pool.buffer_size - self.pool.headroom
            raise errors.PayloadTooLarge(f"payload is {size} bytes; a buffer holds {room}")
        try:
            self._fail(code, n=len(payloads) - sent)
        except (errors.Full, errors.PoolExhausted) as error:
            error.sent = sent
            error.args = (f"{error}: {sent} of {len(payloads)} payloads were sent",)
            raise

    # Buffers whose consumer failed.

    def requeue(self, item: Buffer | Burst, timeout: float | None = None) -> None:
        """Returns a Buffer or Burst that was got from this queue: Buffer.nack(), Burst.nack().

        InvalidArgument if it was got from another queue.
        """
        if not isinstance(item, (Buffer, Burst)):
            raise TypeError(
                f"requeue() takes a shmpool.Buffer or a shmpool.Burst, not {type(item).__name__}"
            )
        if item.pool is not self.pool:
            self._foreign("what was got from a queue", item.pool)
        here = [item] if isinstance(item, Buffer) else [b for b in item if not b.released]
        for buf in here:
            if buf.queue_number != self.number:
                raise errors.InvalidArgument(
                    f"buffer {buf.index} was not got from queue {self.name!r}"
                )
        item.nack(timeout)

    def peek(self, n: int = 1, size: int | None = None) -> list[Message]:
        """Copies of the n oldest buffers, with size bytes of each (None: all), oldest first.

        Takes nothing and waits for nobody. One that a consumer takes meanwhile is left out.
        """
        n = min(at_least(n, 1, "n"), self.capacity)
        room = self.pool.buffer_size
        room = room if size is None else min(at_least(size, 0, "size"), room)
        self._refuse_closed()
        names = self.pool._queue_names()
        return read_messages(self.pool._number, self.number, names, n, room)

    def redrive(
        self, n: int | None = None, *, to: "AlfQueue | None" = None, reset: bool = False
    ) -> int:
        """Moves the n oldest buffers (None: as many as there are now) back to the queues from
        which they became dead letters, or to the queue to: how many went.

        reset sets redelivered to 0. Waits for nobody: what finds no room there, or was no dead
        letter where no to is given, is at the end of this queue again. Whoever is killed meanwhile
        has one buffer in hand at most, which goes where this queue's on_death says.
        """
        refuse_readonly(self.pool)
        refuse_foreign(to, self.pool, "to")
        if to is not None and to.number == self.number:
            raise errors.InvalidArgument(f"to is queue {self.name!r} itself")
        if self.producers == "single" or (to is not None and to.producers == "single"):
            raise errors.InvalidArgument(
                f"queue {(to or self).name!r} has a single producer, and takes from no other"
            )
        self._refuse_closed()
        moved, number = 0, to.number if to is not None else 0
        for _ in range(len(self) if n is None else min(at_least(n, 1, "n"), self.capacity)):
            code = self._move(number, bool(reset))
            if isinstance(code, Buffer):  # this queue has filled up meanwhile
                self.put(code)
            elif code == -errno.EAGAIN:
                break
            elif code not in (0, -errno.ENOBUFS, -errno.ENOENT):
                self._fail(code, empty=True)
            moved += code == 0
        return moved

    def drain(self, n: int | None = None) -> int:
        """Frees the n oldest buffers (None: as many as there are now): how many."""
        refuse_readonly(self.pool)
        most, drained = len(self) if n is None else min(at_least(n, 1, "n"), self.capacity), 0
        while drained < most:
            try:
                burst = self.get_many(min(most - drained, 256), timeout=0)
            except errors.Empty:
                break
            drained += len(burst)
            burst.free()
        return drained


def refuse_foreign(queue: AlfQueue | None, pool: "Pool", what: str) -> None:
    """TypeError, InvalidArgument if an argument is no queue of the pool."""
    if queue is None:
        return
    if not isinstance(queue, AlfQueue):
        raise TypeError(f"{what} is {queue!r}; it must be an AlfQueue, its name, or None")
    if not pool._same(queue.pool):
        raise errors.InvalidArgument(
            f"{what} is {queue.name!r} of pool {queue.pool.name!r}; "
            f"it must be a queue of pool {pool.name!r}"
        )


def queue_names(pool: "Pool") -> dict[int, str]:
    """The queues of a pool, by their numbers. SegmentInvalid, PoolClosed."""
    info: Native = ffi.new("struct shmpool_queue_info *")
    names = {}
    for number in range(1, pool.geometry.queues + 1):
        code = lib.shmpool_queue_info(pool._number, number, info)
        if code != -errno.ENOENT:
            check(code, f"queue {number} of pool {pool.name!r}")
            names[number] = queue_name(pool.name, number, info)
    return names


def queue_name(pool: str, number: int, info: Native) -> str:
    """The name of a pool's queue. SegmentInvalid if something else has been written there."""
    raw: bytes = ffi.string(info.name)
    name = printable(raw)
    if not is_name(name):
        raise errors.SegmentInvalid(
            f"pool {pool!r} is corrupted: the name of queue {number} is '{name}'"
        )
    return name
