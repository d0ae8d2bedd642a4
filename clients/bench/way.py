# SPDX-License-Identifier: Apache-2.0
"""What every contestant can do: a way to get 64-byte messages from one process to another.

The parent calls create() and remove(); each process of a round opens its own end, before the clock
starts, and gets a function that does the timed work in a loop of its own, so that no common layer
adds to the cost of a call. While there is nothing to do, a contestant that has no blocking call of
its own backs off with sched_yield, like all others.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import metadata

DEPTH = 1024  # messages a queue holds
PATIENCE = 5.0  # seconds until a blocking call gives up

Send = Callable[[list[bytes]], None]
Receive = Callable[[Callable[[], bool]], list[bytes]]
Ping = Callable[[list[bytes]], tuple[list[int], list[bytes]]]
Echo = Callable[[int], None]

clock = time.perf_counter_ns


class Way(ABC):
    """One contestant's way. name is unique to the run and the round."""

    contestant: str
    package: str

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def version(cls) -> str | None:
        """The installed version, or None."""
        try:
            return metadata.version(cls.package)
        except metadata.PackageNotFoundError:
            return None

    @abstractmethod
    def create(self) -> None:
        """Makes what the processes share."""

    @abstractmethod
    def remove(self) -> None:
        """Removes it; also when create() came only half way."""


class Stream(Way):
    """Producers and consumers, any number of each up to two."""

    @abstractmethod
    def sender(self, number: int) -> Send:
        """Sends every message of a list."""

    @abstractmethod
    def receiver(self, number: int) -> Receive:
        """Receives until it is told that the producers are done, and then what is left."""


class PingPong(Way):
    """Two processes, one message to and fro."""

    @abstractmethod
    def pinger(self) -> Ping:
        """Sends each message and waits for it to come back: the ns of each, and what came."""

    @abstractmethod
    def echoer(self) -> Echo:
        """Sends that many messages back."""


class CallPingPong(PingPong):
    """For a library whose calls are send(message) and receive(), None if nothing came.

    A blocking receive() that gives None gave up. A polling one is called again at once.
    """

    polling: bool

    @abstractmethod
    def ends(self, me: int) -> tuple[Callable[[bytes], object], Callable[[], bytes | None]]:
        """The calls of the pinging process (0) or the echoing one (1)."""

    def pinger(self) -> Ping:
        send, receive = self.ends(0)
        polling = self.polling

        def ping(messages: list[bytes]) -> tuple[list[int], list[bytes]]:
            times: list[int] = []
            back: list[bytes] = []
            before = clock()
            for message in messages:
                send(message)
                while (answer := receive()) is None:
                    if not polling:
                        return times, back
                now = clock()
                times.append(now - before)
                back.append(answer)
                before = now
            return times, back

        return ping

    def echoer(self) -> Echo:
        send, receive = self.ends(1)
        polling = self.polling

        def echo(count: int) -> None:
            for _ in range(count):
                while (message := receive()) is None:
                    if not polling:
                        return
                send(message)

        return echo
