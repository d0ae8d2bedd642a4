# SPDX-License-Identifier: Apache-2.0
"""Ending a link: what its thread waits with, and what wakes it."""

import os
import select


class Ending(Exception):  # noqa: N818
    """The link ends while it waits."""


class Stop:
    """Says to one thread that it ends. Any thread, or a handler of a signal, may set it."""

    def __init__(self) -> None:
        self._is_set = False
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    @property
    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Ends the link. May be repeated."""
        self._is_set = True
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    def check(self) -> None:
        """Raises Ending if it is set."""
        if self.is_set:
            raise Ending

    def wait(self, seconds: float) -> bool:
        """Waits for so long, or until it is set. Returns whether it is."""
        if not self.is_set:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            poll.poll(seconds * 1000)
        return self.is_set

    def fileno(self) -> int:
        """A descriptor that is readable once it is set."""
        return self._fd

    def close(self) -> None:
        """Closes the descriptor, after the thread has ended."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
