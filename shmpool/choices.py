# SPDX-License-Identifier: Apache-2.0
"""The words that an option or a state can be: as tuples, and as types for annotations.

The types are made when they are first asked for, since typing is slow to import. A module whose
annotations name one imports this module: choices.Side. tests/test_import.py compares the two.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Side = Literal["single", "multi"]
    OnDeath = Literal["free", "requeue", "dead-letter"]
    Memory = Literal["reserved", "on-demand"]
    Lanes = int | Literal["auto"]
    HugePages = Literal["auto", "always", "never"]
    Policy = Literal["block", "drop-oldest", "drop-newest", "latest"]
    Start = Literal["newest", "oldest"]
    SubscriberState = Literal["alive", "closing", "dead"]
    PinState = Literal["off", "registering", "registered", "failed", "unavailable"]

NumaNode = str | int | None  # a number, or "interleave"; None leaves it to the kernel

SIDES: tuple[Side, ...] = ("single", "multi")
ON_DEATH: tuple[OnDeath, ...] = ("free", "requeue", "dead-letter")  # as enum on_death (layout.h)
MEMORY: tuple[Memory, ...] = ("reserved", "on-demand")
HUGE_PAGES: tuple[HugePages, ...] = ("auto", "always", "never")
POLICIES: tuple[Policy, ...] = ("block", "drop-oldest", "drop-newest", "latest")  # as in topic.h
STARTS: tuple[Start, ...] = ("newest", "oldest")  # as in topic.h
SUBSCRIBER_STATES: tuple[SubscriberState, ...] = ("alive", "closing", "dead")
PIN_STATES: tuple[PinState, ...] = (
    "off", "registering", "registered", "failed", "unavailable",
)  # fmt: skip

if not TYPE_CHECKING:
    _WORDS = {
        "Side": SIDES,
        "OnDeath": ON_DEATH,
        "Memory": MEMORY,
        "Lanes": ("auto",),
        "HugePages": HUGE_PAGES,
        "Policy": POLICIES,
        "Start": STARTS,
        "SubscriberState": SUBSCRIBER_STATES,
        "PinState": PIN_STATES,
    }

    def __getattr__(name: str) -> object:
        if name not in _WORDS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from typing import Literal

        kind = Literal[_WORDS[name]]
        return int | kind if name == "Lanes" else kind
