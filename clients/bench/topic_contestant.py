# SPDX-License-Identifier: Apache-2.0
"""What a contestant of clients.bench.topics implements: one publisher, and every message to each
subscriber.

A message has its number in its first eight bytes and in its last eight.

The parent process makes a contestant and calls create(). Its forked children call publisher() or
subscriber() and use what these return. The parent calls remove() when they have ended.
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

# Publishes the messages of these numbers, start to stop, and waits for room.
Publish = Callable[[int, int], None]
# The first and the last number of a message, or a tuple or an array of each; None: no message.
Receive = Callable[[], tuple[Any, Any] | None]


@dataclass(frozen=True)
class Spec:
    """What a run needs."""

    name: str  # unique among runs
    size: int  # bytes of every message
    depth: int  # messages that may wait for a subscriber
    subscribers: int


class Contestant(ABC):
    """Base of all contestants."""

    name: ClassVar[str]
    module: ClassVar[str]  # what it needs to be installed
    loses = False  # a subscriber that is too slow may lose messages
    many = False  # moves several messages a call
    slow: ClassVar[float] = 1  # about how many times as long as the others a small message takes
    copies = False  # and by so much longer a large one

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        # Unpacks the two numbers of a message and skips what is between them.
        self.numbers = struct.Struct(f"<Q{spec.size - 16}xQ").unpack_from
        self.number = struct.Struct("<Q").pack_into

    @classmethod
    def cost_of(cls, size: int) -> float:
        """Returns by how much a run has fewer messages, so that all take about as long."""
        return cls.slow * (1 + size / 4096 if cls.copies else 1)

    @abstractmethod
    def create(self) -> None:
        """Creates what the processes share."""

    @abstractmethod
    def remove(self) -> None:
        """Removes it, also after processes were killed."""

    @abstractmethod
    def publisher(self) -> Publish:
        """In the publisher: returns what publishes."""

    @abstractmethod
    def subscriber(self, index: int) -> Receive:
        """In a subscriber: returns what receives."""

    def clean_up(self) -> None:  # noqa: B027
        """In a process of its own, after a subscriber was killed: the repair that is documented."""
