# SPDX-License-Identifier: Apache-2.0
"""Buffers that are freed when a device's event has completed: what Buffer.free_after begins.

One background thread asks the events. It runs while there are some, and then waits. Not in here:
how a buffer is freed with its last view (hot/buffer.c); here each event has a view.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from . import errors
from ._hot import Buffer
from .locks import renewed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .pool import Pool

POLL_S = 0.0005  # between two questions to the same event
IDLE_S = 0.25  # in which a wake-up that a signal handler's exception prevented is made up for
EXIT_S = 5.0  # the longest wait at the end of the process: a device may have stopped
# Tell whether an event has completed: of torch, Numba and PyCUDA; of CuPy; of cuda.core.
_QUESTIONS = ("query", "done", "is_done")

# Events, their views and the Buffers, by the view's identity. Complete ones are removed by pop().
_pending: dict[int, tuple[Any, memoryview, Buffer]] = {}
_inherited: list[Any] = []  # events of the parent process: their ends would call its driver
_awake = renewed(sys.modules[__name__], "_awake", threading.Event)
_thread: threading.Thread | None = None


def begin(event: Any) -> dict[int, tuple[Any, memoryview, Buffer]]:
    """Returns where hot/free_after.c records the event; starts the thread."""
    global _thread
    if not any(hasattr(event, name) for name in (*_QUESTIONS, "synchronize")):
        raise TypeError(
            f"event is {event!r}; it must have query(), done or synchronize(): torch.cuda.Event, "
            "cupy.cuda.Event"
        )
    if _thread is None or not _thread.is_alive():
        _thread = threading.Thread(target=_work, name="shmpool free_after", daemon=True)
        _thread.start()
    return _pending


def wake(_: None) -> None:
    """Wakes the thread."""
    _awake.set()


def settle(pool: Pool | None, limit: float | None = None) -> None:
    """Waits, up to limit seconds, until no event keeps a buffer of the pool; None: of any pool."""
    deadline = None if limit is None else time.monotonic() + limit
    while _free_completed(pool):
        if deadline is not None and time.monotonic() >= deadline:
            return
        time.sleep(POLL_S)


def _work() -> None:
    while True:
        _awake.wait(POLL_S if _free_completed(None) else IDLE_S)
        _awake.clear()


def _free_completed(pool: Pool | None) -> int:
    """Frees the buffers of completed events. Returns how many events have not completed."""
    left = 0
    for key, (event, view, buf) in list(_pending.items()):
        if pool is None or buf.pool is pool:
            if _completed(event) and _freed(view, buf):
                _pending.pop(key, None)
            else:
                left += 1
    return left


def _completed(event: Any) -> bool:
    try:
        for name in _QUESTIONS:
            if (answer := getattr(event, name, None)) is not None:
                return bool(answer() if callable(answer) else answer)
        event.synchronize()
    except Exception:  # the device has failed: it writes no more
        sys.excepthook(*sys.exc_info())
    return True


def _freed(view: memoryview, buf: Buffer) -> bool:
    """Frees the buffer, if this was its last view. False if this thread finds no member slot."""
    view.release()
    if not buf.released:
        try:
            buf.free()
        except errors.LimitReached:
            return False
        except errors.ShmpoolError:  # another thread has just freed it, or closed the pool
            pass
    return True


def _forget() -> None:
    """In a forked child: the buffers are the parent's."""
    for event, view, _ in _pending.values():
        view.release()
        _inherited.append(event)
    _pending.clear()


os.register_at_fork(after_in_child=_forget)
