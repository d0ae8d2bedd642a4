# SPDX-License-Identifier: Apache-2.0
"""Pinned memory: a pool's data registered with CUDA in this process, by a background thread.

The CUDA driver's library is looked for at run time. Not in here: what is registered when, and that
it is unregistered before the mapping ends (native/pin.h).
"""

from __future__ import annotations

import os
import sys
import threading
import time

from . import choices
from ._ffi import ffi, lib
from ._hot import timeout_seconds
from .locks import renewed
from .os_errors import refuse, refuse_readonly
from .record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    from typing import Any

    from .pool import Pool

DRIVER = "libcuda.so.1"
LOOK_S = 0.1  # between two looks for buffers that exist since

_numbers: set[int] = set()  # the pools that are pinned
_awake = renewed(sys.modules[__name__], "_awake", threading.Event)
_thread: threading.Thread | None = None


@record(frozen=True)
class Pinned:
    """How much of a pool's data is registered with CUDA in this process.

    state   "off": pin() was not called; "registering"; "registered": all that could be;
            "failed": the driver refused a part; "unavailable": this process has no CUDA
    """

    state: choices.PinState
    bytes: int  # of data, registered
    total: int  # bytes of data of all buffers that exist
    reason: str = ""  # why it failed or is unavailable


class _UnavailableError(Exception):
    """CUDA is unavailable; the message says why."""


def pin(pool: Pool, timeout: float | None) -> Pinned:
    """Pool.pin()."""
    global _thread
    seconds = timeout_seconds(timeout)
    end = time.monotonic() + seconds
    pool._opened()
    refuse_readonly(pool)
    try:
        driver = _driver()
    except _UnavailableError as error:
        pool._unpinned_because = str(error)
        return pinned(pool)
    if code := lib.shmpool_pin_wait(pool._number, driver):
        refuse(pool, code)
    _numbers.add(pool._number)
    if _thread is None or not _thread.is_alive():
        _thread = threading.Thread(target=_work, name="shmpool pin", daemon=True)
        _thread.start()
    _awake.set()
    while time.monotonic() < end and lib.shmpool_pin_more_wait(pool._number) > 0:
        pass
    return pinned(pool)


def unpin(pool: Pool) -> None:
    """Pool.unpin()."""
    pool._opened()
    refuse_readonly(pool)
    if code := lib.shmpool_unpin_wait(pool._number):
        refuse(pool, code)
    pool._unpinned_because = ""


def pinned(pool: Pool) -> Pinned:
    """Pool.pinned."""
    pool._opened()
    found = ffi.new("struct shmpool_pinned *")
    if code := lib.shmpool_pinned(pool._number, found):
        refuse(pool, code)
    state: choices.PinState = "registering" if found.behind else "registered"
    reason = ""
    if not found.pinned:
        reason = pool._unpinned_because
        state = "unavailable" if reason else "off"
    elif found.error:
        state, reason = "failed", _text(_library(), "cuMemHostRegister", found.error)
    return Pinned(state, found.bytes, found.total, reason)


def _work() -> None:
    """Registers what exists, of all pools that are pinned, and what is created later."""
    while True:
        busy = False
        for number in list(_numbers):
            _numbers.discard(number)  # before: pin() may add it again in the meantime
            code = lib.shmpool_pin_more_wait(number)
            if code >= 0:
                _numbers.add(number)
                busy |= code > 0
        if not busy:
            _awake.wait(LOOK_S if _numbers else None)
            _awake.clear()


def _driver() -> Any:
    """Returns a struct shmpool_driver, with the primary context of the thread's present device, or
    of the first one.

    Raises:
        _UnavailableError: this process has no CUDA.
    """
    import ctypes

    cuda = _library()
    device, context = ctypes.c_int(0), ctypes.c_void_p()
    _call(cuda, "cuInit", 0)
    _call(cuda, "cuCtxGetCurrent", ctypes.byref(context))
    if context:
        _call(cuda, "cuCtxGetDevice", ctypes.byref(device))
    else:
        _call(cuda, "cuDeviceGet", ctypes.byref(device), 0)
    # Kept for the life of the process, as the programs' own libraries do.
    _call(cuda, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    names = (
        "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2", "cuMemHostRegister_v2", "cuMemHostUnregister",
    )  # fmt: skip
    functions = [ctypes.cast(_function(cuda, name), ctypes.c_void_p).value for name in names]
    addresses = [ffi.cast("void *", address) for address in (context.value, *functions)]
    return ffi.new("struct shmpool_driver *", addresses)


def _library() -> ctypes.CDLL:
    import ctypes

    try:
        return ctypes.CDLL(DRIVER)
    except OSError as error:
        raise _UnavailableError(f"the CUDA driver is not installed here ({error})") from None


def _function(cuda: ctypes.CDLL, name: str) -> Any:
    try:
        return cuda[name]
    except AttributeError:
        raise _UnavailableError(
            f"the CUDA driver ({DRIVER}) is too old: it has no {name}"
        ) from None


def _call(cuda: ctypes.CDLL, name: str, *arguments: Any) -> None:
    if code := _function(cuda, name)(*arguments):
        raise _UnavailableError(_text(cuda, name, code))


def _text(cuda: ctypes.CDLL, name: str, code: int) -> str:
    """Returns what the driver says of an error of one of its functions."""
    import ctypes

    said = []
    for function in ("cuGetErrorName", "cuGetErrorString"):
        text = ctypes.c_char_p()
        if not _function(cuda, function)(code, ctypes.byref(text)) and text.value:
            said.append(text.value.decode(errors="replace"))
    return f"{name}: " + (": ".join(said) or f"error {code}")


os.register_at_fork(after_in_child=_numbers.clear)  # no pool is pinned in a forked child
