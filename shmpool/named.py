# SPDX-License-Identifier: Apache-2.0
"""What AlfQueue and Topic have in common: a name in a pool, an end for all, close().

Not in here: waiting in event loops (awaiting.py), and putting and getting (hot/).
"""

from __future__ import annotations

from operator import methodcaller

from . import errors
from ._ffi import Native, ffi, lib
from .codes import check
from .names import is_name, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing

    from . import hints
else:
    from .later import hints, typing


class Named:
    """A queue or a topic of a pool."""

    _kind: typing.ClassVar[str]  # the method of Pool that finds it
    pool: hints.Pool
    number: int
    name: str

    if TYPE_CHECKING:  # the classes in C have it

        def _hot_close(self) -> None: ...

    def _find(self, pool: hints.Pool, number: int) -> Native:
        """Finds the name to the number. Returns what the segment says of it."""
        self.pool = pool
        self.number = number
        self._closed = False
        info = self._info()
        self.name = queue_name(pool.name, number, info)
        kind = "topic" if info.topic else "queue"
        if kind != self._kind:
            raise errors.QueueNotFound(
                f"{self.name!r} of pool {pool.name!r} is a {kind}; Pool.{kind}() finds it"
            )
        return info

    def _info(self, number: int | None = None) -> Native:
        """Returns what the segment says of it, or of another number, such as a lane's."""
        number = self.number if number is None else number
        info = ffi.new("struct shmpool_queue_info *")
        check(lib.shmpool_queue_info(self.pool._number, number, info), f"{self._kind} {number}")
        return info

    @property
    def _what(self) -> str:
        return f"{self._kind} {self.name!r}"

    def __reduce__(self) -> tuple[methodcaller, tuple[hints.Pool]]:
        return methodcaller(self._kind, self.name), (self.pool,)

    @property
    def ended(self) -> bool:
        """True if a process has called shutdown()."""
        self._refuse_closed()
        return bool(check(lib.shmpool_queue_ended(self.pool._number, self.number), self._what))

    def close(self) -> None:
        """Closes this object; what it names stays. May be repeated. Later use raises PoolClosed."""
        self._hot_close()
        self._closed = True

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise errors.PoolClosed(f"{self._what} is closed")


def queue_name(pool: str, number: int, info: Native) -> str:
    """Returns the name of a pool's queue. Raises SegmentInvalid if the name is corrupted."""
    raw: bytes = ffi.string(info.name)
    name = printable(raw)
    if not is_name(name):
        raise errors.SegmentInvalid(
            f"pool {pool!r} is corrupted: the name of queue {number} is '{name}'"
        )
    return name
