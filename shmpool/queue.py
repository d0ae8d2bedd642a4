# SPDX-License-Identifier: Apache-2.0
"""AlfQueue: a named queue of a pool. put, get, send, recv and the last two's forms for many are in
hot/; here is what else may wait, what moves bursts, and what describes the queue.
"""

import errno
from array import array
from operator import methodcaller
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from . import errors
from ._ffi import FOREVER, Native, check, fail, ffi, lib, until, waited
from .buffer import Buffer, QueueBase
from .burst import Burst
from .options import ON_DEATH

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
        self._key = pool._key | number << 48
        info = self._info()
        self.name = queue_name(pool.name, number, info)
        self.capacity: int = info.capacity
        self.producers = "single" if info.single_producer else "multi"
        self.consumers = "single" if info.single_consumer else "multi"
        self.on_death: str = ON_DEATH[info.on_death % 3]
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
        """Where what no consumer survives goes, if anywhere."""
        if not self._dead_letter:
            return None
        try:
            return AlfQueue(self.pool, self._dead_letter)
        except (errors.QueueNotFound, OverflowError):
            raise errors.SegmentInvalid(
                f"pool {self.pool.name!r} is damaged: "
                f"dead_letter of queue {self.name!r} is queue {self._dead_letter}"
            ) from None

    def full(self) -> bool:
        """Whether a put would find no room just now."""
        return len(self) >= self.capacity

    def release(self) -> None:
        """Gives up the calling thread's single-producer or single-consumer role, if it has one."""
        check(lib.shmpool_queue_release(self.pool._number, self.number), f"queue {self.name!r}")

    def close(self) -> None:
        """Gives up the calling thread's roles and ends this object; the queue itself stays.

        May be repeated. Any later use is PoolClosed.
        """
        if self._key:
            lib.shmpool_queue_release(self.pool._number, self.number)
            self._key = 0
            self._hot_close()

    def __enter__(self) -> "AlfQueue":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _fail(self, code: int, empty: bool = False) -> NoReturn:
        if not self._key:
            raise errors.PoolClosed(f"queue {self.name!r} is closed")
        if code == -errno.EAGAIN and empty:
            raise errors.Empty(f"queue {self.name!r} is empty")
        if code == -errno.EBUSY:
            raise errors.QueueBusy(self._who_is_it(empty))
        fail(code, f"queue {self.name!r}")

    def _foreign(self, what: str, pool: "Pool") -> NoReturn:
        if not self._key:
            raise errors.PoolClosed(f"queue {self.name!r} is closed")
        text = f"{what} of pool {pool.name!r} cannot go into queue {self.name!r}"
        if self.pool._same(pool):
            raise errors.ForeignBuffer(f"{text}: it came through another opening of the pool")
        raise errors.ForeignBuffer(f"{text} of pool {self.pool.name!r}")

    def _who_is_it(self, consumer: bool) -> str:
        info = self._info()
        number = (info.consumer if consumer else info.producer) - 1
        side = "consumer" if consumer else "producer"
        who = next((m for m in self.pool.members() if m.number == number), None)
        is_it = f"process {who.pid}, thread {who.tid}" if who else f"member {number}"
        return f"queue {self.name!r} has a single {side}, which is {is_it}"

    # What hot/ comes back with when its one attempt did not succeed.

    def _put_foreign(self, buf: Buffer) -> NoReturn:
        self._foreign(f"buffer {buf.index}", buf.pool)

    def _put_slow(self, code: int, low: int, timeout: float | None) -> None:
        if code in (-errno.EINPROGRESS, -errno.EBUSY) or (code == -errno.ENOBUFS and timeout != 0):
            key = self._key | low
            code = waited(lambda end: lib.shmpool_put_wait(key, end), timeout)
        if code in (-errno.ESTALE, -errno.EPERM):
            fail(code, f"queue {self.name!r}: buffer {low & 0xFFFFFF} of pool {self.pool.name!r}")
        if code < 0:
            self._fail(code)

    def _get_wait(self, code: int, timeout: float | None) -> int:
        if code == -errno.EBUSY or (code == -errno.EAGAIN and timeout != 0):
            code = waited(lambda end: lib.shmpool_get_wait(self._key, end), timeout)
        if code < 0:
            self._fail(code, empty=True)
        return code

    def _get_slow(self, code: int, timeout: float | None) -> Buffer:
        return self.pool._wrap(self._get_wait(code, timeout))

    def _recv_slow(self, code: int, timeout: float | None) -> bytes:
        with self.pool._wrap(self._get_wait(code, timeout)) as buffer:
            return bytes(buffer)

    def _send_slow(self, code: int, payload: "BytesLike", timeout: float | None) -> None:
        if code == -errno.EMSGSIZE:
            size = memoryview(payload).nbytes
            room = self.pool.buffer_size - self.pool.headroom
            raise errors.PayloadTooLarge(f"{size} bytes do not fit into a buffer of {room}")
        again = (-errno.EAGAIN, -errno.ENOBUFS, -errno.EBUSY)
        if code != -errno.EINPROGRESS and (code not in again or timeout == 0):
            self._fail(code)
        self.send_many([payload], timeout)  # with a timeout that only Python understands

    @staticmethod
    def _until(timeout: float | None) -> int:
        return until(timeout)

    # Many at once.

    def put_many(self, burst: Burst, timeout: float | None = None) -> None:
        """Moves a burst into the queue: all of it, or Full after timeout seconds and none.

        The burst is spent. Full at once if it is larger than the queue.
        """
        if not isinstance(burst, Burst):
            raise TypeError(f"put_many() takes a shmpool.Burst, not {type(burst).__name__}")
        native, n = burst._take()
        if burst.pool is not self.pool:
            self._foreign(f"a burst of {n}", burst.pool)
        if n > self.capacity:
            raise errors.Full(
                f"a burst of {n} never fits into queue {self.name!r} of {self.capacity}"
            )
        end = FOREVER if timeout is None else until(timeout)
        # Before it waits: no other thread may take a view of what is about to be somebody else's.
        spent = burst._spend()
        try:
            while (code := lib.shmpool_put_many_wait(self._key, native, n, end)) < 0:
                if code != -errno.EINTR:
                    self._fail(code)
        except BaseException:
            burst._restore(spent)
            raise

    def get_many(self, n: int, timeout: float | None = None) -> Burst:
        """A burst of the 1..n oldest buffers; Empty if there is none within timeout seconds."""
        handles = array("Q", bytes(8 * _count(n, self.capacity)))
        native = ffi.from_buffer("uint64_t[]", handles)
        end = FOREVER if timeout is None else until(timeout)
        while (code := lib.shmpool_get_many_wait(self._key, native, len(handles), end)) < 0:
            if code != -errno.EINTR:
                self._fail(code, empty=True)
        if code == len(handles):
            return Burst(self.pool, self.pool._key, handles, native)
        ffi.release(native)
        del handles[code:]
        return Burst(self.pool, self.pool._key, handles)

    def _send_many_failed(
        self, code: int, sent: int, payloads: "tuple[BytesLike, ...]"
    ) -> NoReturn:
        if code == -errno.EMSGSIZE:
            size = max(memoryview(payload).nbytes for payload in payloads)
            room = self.pool.buffer_size - self.pool.headroom
            raise errors.PayloadTooLarge(
                f"a payload of {size} bytes does not fit into a buffer of {room}"
            )
        try:
            self._fail(code)
        except (errors.Full, errors.PoolExhausted) as error:
            error.sent = sent
            error.args = (f"{error}: {sent} of {len(payloads)} payloads were sent",)
            raise

    def _recv_many_failed(self, code: int) -> NoReturn:
        self._fail(code, empty=True)


def queue_name(pool: str, number: int, info: Native) -> str:
    """The name of a pool's queue. SegmentInvalid if something else has been written there."""
    name: bytes = ffi.string(info.name)
    if not name.isascii():
        raise errors.SegmentInvalid(
            f"pool {pool!r} is damaged: the name of queue {number} is {name!r}"
        )
    return name.decode()


def _count(n: int, most: int) -> int:
    if not isinstance(n, int):
        raise TypeError(f"n is {n!r}; it is an int")
    if n < 1:
        raise errors.InvalidArgument(f"n is {n}; it is at least 1")
    return min(n, most)
