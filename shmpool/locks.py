# SPDX-License-Identifier: Apache-2.0
"""Locks of Python's that a forked child has new.

A thread that holds a lock while another one forks does not exist in the child: nobody would release
the lock there. The package makes its locks in no other way (tests/test_locks.py). Not in here:
those of C, which a forked child reads as unlocked or which are held around a fork
(native/opening.c).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")

# No WeakKeyDictionary: its callback is in Python, and an exception of a signal handler is lost in a
# callback.
_known: dict[weakref.ref[Any], dict[str, Callable[[], object]]] = {}


def renewed(owner: object, name: str, make: Callable[[], T]) -> T:
    """Returns make(), for owner.name, which becomes another make() in each forked child.

    The owner may be a module.

    A thread that forks while it has the lock itself goes on in the child with the old one.
    """
    _known.setdefault(weakref.ref(owner, _known.pop), {})[name] = make
    return make()


def _in_child() -> None:
    for known, names in list(_known.items()):
        owner = known()
        for name, make in names.items():
            if owner is not None:
                setattr(owner, name, make())


os.register_at_fork(after_in_child=_in_child)
