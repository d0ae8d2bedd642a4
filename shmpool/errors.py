# SPDX-License-Identifier: Apache-2.0
"""Every exception that shmpool raises. Most are also a built-in exception, such as ValueError."""

from __future__ import annotations

import errno
import queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import hints
else:
    from .later import hints


class ShmpoolError(Exception):
    """The root of the package's exceptions; errno is its code in errno.h, or None."""

    errno: int | None = None


class InvalidArgument(ShmpoolError, ValueError):
    """A name, size or option is not allowed; the message says what is."""

    errno = errno.EINVAL


class PoolExists(ShmpoolError, FileExistsError):
    """Pool.create: there is a pool of that name."""

    errno = errno.EEXIST


class PoolNotFound(ShmpoolError, FileNotFoundError):
    """Pool.attach, Pool.unlink: there is no pool of that name, or its creator died making it."""

    errno = errno.ENOENT


class AccessDenied(ShmpoolError, PermissionError):
    """The mode and owner of the pool's file do not let this user in."""

    errno = errno.EACCES


class SegmentInvalid(ShmpoolError):
    """The file of that name is no pool of this version, or is corrupted."""

    errno = errno.EBADMSG


class PoolReplaced(ShmpoolError):
    """While a call waited, the pool's name was given to another pool. Attach to that pool."""

    errno = errno.ESTALE


class PoolClosed(ShmpoolError, ValueError):
    """The pool was closed in this process."""

    errno = errno.EBADF


class QueueExists(ShmpoolError, FileExistsError):
    """create_queue: the pool has a queue of that name."""

    errno = errno.EEXIST


class QueueNotFound(ShmpoolError, LookupError):
    """queue: the pool has no queue of that name."""

    errno = errno.ENOENT


class QueueBusy(ShmpoolError):
    """The queue has a single producer or a single consumer, and that is another thread."""

    errno = errno.EBUSY


class PoolExhausted(ShmpoolError):
    """No buffer became free by the timeout. sent is how many payloads of send_many were sent."""

    errno = errno.EAGAIN
    sent: int = 0


class OutOfSharedMemory(ShmpoolError, MemoryError):
    """Shared memory has no room, or the limits of this process do not let it have more."""

    errno = errno.ENOSPC


class LimitReached(ShmpoolError):
    """All slots for members, queues, or pools of a process are taken, or all its descriptors."""

    errno = errno.EUSERS


class Full(ShmpoolError, queue.Full):
    """The queue had no room by the timeout. sent is how many payloads of send_many were sent, or
    buffers of a spread were put."""

    errno = errno.ENOBUFS
    sent: int = 0


class Empty(ShmpoolError, queue.Empty):
    """The queue stayed empty for the whole timeout."""

    errno = errno.EAGAIN


class ShutDown(ShmpoolError, getattr(queue, "ShutDown", Exception)):  # type: ignore[misc]
    """The queue was shut down: it takes no more, and for a call that takes, it is empty.

    Also a queue.ShutDown, which Python has from 3.13 on.
    """

    errno = errno.EPIPE


class NoArray(ShmpoolError, TypeError):
    """get_array: the message is no array, or its record of dtype and shape is corrupted.

    It went back to its queue. If it could not, buffer is the Buffer, else None.
    """

    errno = errno.ENOMSG
    buffer: hints.Buffer | None = None

    def __reduce__(self) -> tuple[type[NoArray], tuple[object, ...]]:
        return type(self), self.args  # a Buffer cannot be pickled


class BufferReleased(ShmpoolError, ValueError):
    """The Buffer was freed or put, or belongs to the process that this one was forked from."""

    errno = errno.ESTALE


class BufferInUse(ShmpoolError, BufferError):
    """A memoryview or numpy array of the buffer is alive: it can be neither freed nor put."""

    errno = errno.ETXTBSY


class ForeignBuffer(ShmpoolError, ValueError):
    """The buffer belongs to another process or to another pool."""

    errno = errno.EPERM


class PayloadTooLarge(ShmpoolError, ValueError):
    """The payload has more bytes than fit into a buffer."""

    errno = errno.EMSGSIZE


class WorkerDied(ShmpoolError, RuntimeError):
    """ProcessPoolExecutor: the worker that ran the task was killed, or ended by itself.

    pid is that of the worker. exitcode is as in multiprocessing: the negative number of the signal
    that killed it, or its exit status; None if it is not known.
    """

    errno = errno.EOWNERDEAD
    pid: int | None = None
    exitcode: int | None = None


class DaemonUnavailable(ShmpoolError, ConnectionError):
    """Client: no daemon answers at the socket, or it ended the connection."""

    errno = errno.ECONNREFUSED


class RequestRefused(ShmpoolError):
    """Client: the daemon has no such request, or could not carry it out; the message says why."""

    errno = errno.EPROTO
