# SPDX-License-Identifier: Apache-2.0
"""Source and Sink: what everything has that packets come out of, or go into."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from .. import errors
from .._hot import Receiver, Sender
from ..burst import Burst
from ..pool import Pool

MOST = 256  # packets of one call


@dataclass(frozen=True, slots=True)
class Received:
    """What a source has delivered since it was opened, and what it has not."""

    packets: int
    bytes: int  # in buffers
    truncated: int  # packets that had no room in a buffer: its first bytes were kept
    dropped: int  # packets that the kernel had no room for; 0 for a file


@dataclass(frozen=True, slots=True)
class Sent:
    """What a sink has taken since it was opened."""

    packets: int
    bytes: int
    refused: int  # packets that the kernel or the interface refused; they are freed too


class _End(ABC):
    """What is closed at the end of a with block."""

    @abstractmethod
    def close(self) -> None:
        """Ends calls of other threads, and closes it. May be repeated."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def filled(burst: Burst | None) -> Burst | None:
    """Returns the burst if it has packets: an exception (Ctrl-C) has ended the call that received
    them, after that and before it returned. The next call returns them."""
    try:
        return burst if burst is not None and len(burst) else None
    except errors.BufferReleased:
        return None


def raise_unless_filled(source: "Source", got: int, timeout: float | None) -> None:
    if got < 0:
        raise errors.ShutDown(f"{source}: no more packets")
    if not got:
        raise errors.Empty(f"{source}: no packet in {timeout} s")


class Source(_End):
    """Packets, in bursts of up to 256 that the caller owns.

    One thread at a time takes from a source; any thread may close it. It belongs to the process
    that opened it: a forked child opens one of its own. An exception that ends a call (of a signal
    handler, Ctrl-C) loses no packet: the next call returns those that it had received.
    """

    pool: Pool
    _burst: Burst | None = None  # of a call that has not returned it

    @abstractmethod
    def _fill(self, burst: Burst, timeout: float | None) -> int:
        """Fills an empty Burst: how many packets; 0 when the time is up; -1 at the end."""

    def get_many(self, n: int = MOST, timeout: float | None = None) -> Burst:
        """Takes 1 to n packets that are there, 256 at most, as a Burst.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) for the first one.
        While it waits it holds no buffer (an XdpSocket does). Timestamps are in nanoseconds since
        1970; marks: see shmpool.net.marks.

        Raises:
            Empty: there was no packet for that long.
            ShutDown: the file has ended, or the source was closed, also by another thread during
                the call.
            PoolExhausted: there were packets, and no buffer was free for that long. They stay
                where they are: the next call finds them, or the kernel drops some and counts them.
            InvalidArgument: n is less than 1.
            PoolClosed: the pool is closed.
        """
        if n < 1:
            raise errors.InvalidArgument(f"n is {n}; it must be at least 1")
        burst = filled(self._burst)
        if burst is None:
            self._burst = burst = Burst(self.pool, min(n, MOST))
            raise_unless_filled(self, self._fill(burst, timeout), timeout)
        elif len(burst) > n:
            return burst[:n]
        self._burst = None
        return burst

    def bursts(self, n: int = MOST, timeout: float | None = None) -> Iterator[Burst]:
        """Yields bursts until the file ends, the source is closed, or there was no packet for
        timeout seconds. Each is the caller's, who frees it or puts it into a queue."""
        while True:
            try:
                burst = self.get_many(n, timeout)
            except (errors.Empty, errors.ShutDown):
                return
            yield burst
            del burst  # the caller's: what it did not keep is freed before the next wait

    @abstractmethod
    def statistics(self) -> Received:
        """Returns the counts since the source was opened."""


class Sink(_End):
    """Takes bursts: one thread at a time."""

    @abstractmethod
    def drain(self, burst: Burst, timeout: float | None = None) -> int:
        """Sends or writes every packet of the burst and frees it. Returns how many were sent: all
        but those that were refused, which sent() counts."""

    @abstractmethod
    def sent(self) -> Sent:
        """Returns the counts since the sink was opened."""


class TwoWay(Source, Sink):
    """Both, over one descriptor, which each side has a duplicate of."""

    _receiver: Receiver
    _sender: Sender

    def statistics(self) -> Received:
        return Received(*self._receiver.counts)

    def sent(self) -> Sent:
        return Sent(*self._sender.counts)

    def close(self) -> None:
        self._receiver.close()
        self._sender.close()
