# SPDX-License-Identifier: Apache-2.0
"""Options of pools and queues, checked and turned into the numbers that C takes."""

import time
from collections.abc import Callable, Mapping
from operator import index
from typing import TYPE_CHECKING, SupportsIndex, TypeVar

from . import errors
from ._ffi import Native, ffi, lib
from ._hot import timeout_seconds

if TYPE_CHECKING:
    from .queue import AlfQueue

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
PAUSE_S = (0.001, 0.05)  # first and longest pause between two attempts to find it
Found = TypeVar("Found")
ON_DEATH = ("free", "requeue", "dead-letter")  # in the order of enum on_death in native/layout.h


def single(value: str, what: str) -> int:
    if value not in ("single", "multi"):
        raise errors.InvalidArgument(f'{what} is {value!r}; allowed are "single" and "multi"')
    return int(value == "single")


def on_death_policy(
    name: str, on_death: str, producers: str, letter: "AlfQueue | None", most: int
) -> tuple[int, int, int]:
    """The three numbers that C takes, if they go together."""
    if on_death not in ON_DEATH:
        raise errors.InvalidArgument(
            f'on_death is {on_death!r}; allowed are "free", "requeue" and "dead-letter"'
        )
    if on_death == "requeue" and producers == "single":
        raise errors.InvalidArgument(
            f'queue {name!r}: on_death="requeue" needs producers="multi", not "single": '
            "whoever recovers puts buffers back, and so is a producer too"
        )
    if on_death == "dead-letter" and letter is None:
        raise errors.InvalidArgument(
            f'queue {name!r}: on_death="dead-letter" needs dead_letter, the queue to put them into'
        )
    if letter is not None and letter.producers == "single":
        raise errors.InvalidArgument(
            f"queue {name!r}: dead_letter is {letter.name!r}, which has a single producer; "
            'it needs producers="multi"'
        )
    most = integer(most, "max_redeliveries")
    if not 0 <= most < 2**32:
        raise errors.InvalidArgument(f"max_redeliveries is {most}; allowed are 0 to {2**32 - 1}")
    return ON_DEATH.index(on_death), letter.number if letter else 0, most


def integer(value: SupportsIndex, what: str) -> int:
    """An int, or what can be one, such as numpy's."""
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{what} is {value!r}; it must be an int") from None


def at_least(value: SupportsIndex, least: int, what: str) -> int:
    value = integer(value, what)
    if value < least:
        raise errors.InvalidArgument(f"{what} is {value}; it must be at least {least}")
    return value


def _int64(option: str, value: SupportsIndex | None) -> int:
    """Clamps to int64; C rejects the limit as it would the value."""
    if value is None:
        return int(lib.SHMPOOL_DEFAULT)
    return max(-INT64_MAX, min(integer(value, option), INT64_MAX))


def planned(name: str, options: Mapping[str, SupportsIndex | None]) -> Native:
    """The geometry of a pool that is made with these options. InvalidArgument."""
    geometry: Native = ffi.new("struct shmpool_geometry *")
    for option, value in options.items():
        setattr(geometry, option, _int64(option, value))
    why = ffi.new("char[256]")
    if lib.shmpool_plan(geometry, why, 256):
        text = f"pool {name!r}: {ffi.string(why).decode()}"
        huge = [index(v) for v in options.values() if v is not None and abs(index(v)) > INT64_MAX]
        if huge:
            text = text.replace(str(INT64_MAX), str(abs(huge[0])))
        raise errors.InvalidArgument(text)
    return geometry


def differences(
    options: Mapping[str, SupportsIndex | None], asked: Native, existing: Native
) -> str:
    """What of the options that were given is not so in the pool that exists, in words."""
    found = []
    for option, value in options.items():
        field = "stride" if option == "buffer_size" else option  # rounded up
        wanted, there = getattr(asked, field), getattr(existing, field)
        if value and wanted != there:
            found.append(f"{option} {there}, not {wanted}")
    return "; ".join(found)


def found_within(
    timeout: float | None, missing: type[errors.ShmpoolError], find: Callable[[], Found]
) -> Found:
    """Returns find(), repeated for up to timeout seconds (None: no limit) while it is missing."""
    deadline, pause = time.monotonic() + timeout_seconds(timeout), PAUSE_S[0]
    while True:
        try:
            return find()
        except missing:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
        time.sleep(min(pause, left))
        pause = min(2 * pause, PAUSE_S[1])
