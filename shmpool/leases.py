# SPDX-License-Identifier: Apache-2.0
"""Leases: messages that this process has got and not yet said to be done, by queue.

They belong to the process, not to an object: whatever object of the queue it uses may say so, and
one that is dropped takes none with it. If the process ends, however it ends, they are a dead
consumer's.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from weakref import WeakValueDictionary

from . import errors
from ._hot import Buffer

Leases = deque[Buffer]
_leases: WeakValueDictionary[str, Leases] = WeakValueDictionary()
_left: list[Leases] = []  # those whose objects are gone


def leases_of(queue: str) -> Leases:
    """Returns the leases of a queue, whose name no other queue has."""
    return _leases.setdefault(queue, deque())


def leave(leases: Leases) -> None:
    """Keeps the leases of an object that is dropped."""
    _left[:] = [others for others in _left if others and others is not leases]
    if leases:
        _left.append(leases)


def outlive() -> None:
    """Leaves all leases to recovery, as if the process were killed: no object's end frees them."""
    for leases in list(_leases.values()):
        for buf in list(leases):
            with contextlib.suppress(errors.ShmpoolError):  # it is done
                buf._outlive()


def _in_child() -> None:
    _left.clear()
    for leases in list(_leases.values()):
        leases.clear()  # they are the parent's


os.register_at_fork(after_in_child=_in_child)
