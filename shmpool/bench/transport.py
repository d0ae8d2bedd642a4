# SPDX-License-Identifier: Apache-2.0
"""What a contestant implements: a transport, which passes messages between processes.

The parent process makes a transport for a Spec, calls create(), and calls remove() at the end. The
transport is pickled to each process of the run. There its endpoints are opened before measuring
starts: sender(), receiver() and their variants return the callables that the loops (producing.py,
consuming.py) call. These callables should be as close to the library's own functions as possible.

Without room, a send returns False or raises one of `full`. Without a message, a receive returns
None or raises one of `empty`. The loops decide what happens then, the same for every contestant.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

SCOREBOARD = "-scoreboard"  # suffix of the name of the harness's own folder
WAIT_S = 0.05  # longest wait of one call, after which the loop checks whether the run is over
BATCH_MAX, BATCH_BYTES = 256, 4 << 20
DEPTH_MAX, DEPTH_MIN, DEPTH_BYTES = 1024, 4, 4 << 20

Packet = Any  # bytes, or any object with the buffer protocol
Send = Callable[[bytes], object]
Receive = Callable[[], Packet | None]


@dataclass(frozen=True)
class Spec:
    """What a run needs. producers and consumers are those of one channel."""

    name: str  # unique among runs
    size: int  # bytes of every message
    channels: int = 1
    producers: int = 1
    consumers: int = 1
    replacements: int = 0  # processes that may join later, of either kind

    @property
    def depth(self) -> int:
        """Messages that a channel holds: as many as fit into 4 MiB, 4 to 1024."""
        return max(DEPTH_MIN, min(DEPTH_MAX, DEPTH_BYTES // self.size))


class Shape(Enum):
    """Who receives the messages of a channel."""

    QUEUE = "many to many"  # any number of processes; each message goes to one of the consumers
    LINK = "one to one"  # one producer, one consumer
    TOPIC = "to all"  # each message goes to every consumer


class UnsupportedError(Exception):
    """The contestant cannot do such a run; the message says why."""


class Transport(ABC):
    """Base of all contestants."""

    library: str  # as in the tables
    call = ""  # the functions that are called, if a library has several contestants
    package: str | None = None  # the distribution; None if it comes with Python
    module = ""  # what to import of it
    shape = Shape.QUEUE
    only_scaling = False  # a contestant of the scenario scaling only
    install = "shmpool[bench]"  # what brings the package
    polls = False  # a receive never waits; the loop yields the processor instead
    prefix = ""  # of the names of shared memory or queues
    number = 0  # index of this process among the producers, or consumers, of its channel
    _kept: Sequence[Any] = ()  # objects that create() opened; the parent keeps them open

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.full: tuple[type[BaseException], ...] = ()
        self.empty: tuple[type[BaseException], ...] = ()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    @classmethod
    def title(cls) -> str:
        return f"{cls.library} {cls.call}".strip()

    @classmethod
    def version(cls) -> str | None:
        """The installed version; "" if it comes with Python, None if it is missing."""
        try:
            return metadata.version(cls.package) if cls.package else ""
        except metadata.PackageNotFoundError:
            return None

    @property
    def lib(self) -> Any:
        """The library's module, which is imported by the first use in a run."""
        return import_module(self.module)

    def each(self, open_one: Callable[[int], Any]) -> list[Any]:
        """For create(): what open_one(channel) returns for each channel."""
        return [open_one(channel) for channel in range(self.spec.channels)]

    def name(self, channel: int) -> str:
        """A name for the channel's shared memory or queue."""
        return f"{self.prefix}{self.spec.name}-{channel}"

    @abstractmethod
    def create(self) -> None:
        """Creates what the processes share. Raises UnsupportedError if it cannot do the run."""

    @abstractmethod
    def remove(self) -> None:
        """Removes it. Also called after create() failed, and after processes were killed."""

    def flush(self) -> None:  # noqa: B027
        """In a producer at its end: waits until everything sent can be received."""

    def close(self) -> None:  # noqa: B027
        """In every process at its end: closes the endpoints that do not close themselves."""

    def wake(self) -> None:  # noqa: B027
        """In a separate process, when the producers have ended: ends the waits of receives that
        have no timeout. Sends two messages for each consumer that its receive returns as None."""

    def recover(self) -> None:  # noqa: B027
        """In the parent, after a process was killed: the repair that the library documents."""

    def leaked(self) -> int | None:
        """In the parent, when the channels are empty: buffers that can never be used again; None
        if the library does not count them."""
        return None

    def files_left(self) -> list[str]:
        """What is still in /dev/shm after remove()."""
        return sorted(
            str(path) for path in Path("/dev/shm").glob(f"*{self.spec.name}*")  # noqa: S108
            if not path.name.endswith(SCOREBOARD)
        )  # fmt: skip


class OneByOne(Transport):
    """Sends and receives one message a call, copied."""

    blocks = True  # receiver(timeout) sleeps in the kernel
    copies = True  # a received message is a bytes object, which later messages do not overwrite
    has_poller = True

    @abstractmethod
    def sender(self, channel: int) -> Send:
        """A function that sends a message. It waits for room, returns False, or raises one of
        `full`. It may wait without a timeout: consumers go on until the producers have stopped."""

    @abstractmethod
    def receiver(self, channel: int, timeout: float) -> Receive:
        """A function that returns the next message, after at most timeout seconds None; at once
        if `polls` is set."""

    def poller(self, channel: int) -> Receive:
        """A function that returns the next message, or at once None, or raises one of `empty`."""
        return self.receiver(channel, 0)


class InPlace(OneByOne):
    """Messages are written into the library's memory, and read there."""

    copies = False

    @abstractmethod
    def writer(self, channel: int) -> tuple[Callable[[], Packet | None], Callable[[Packet], Any]]:
        """Two functions. The first returns memory for one message; without room it returns None or
        raises one of `full`. The second sends what was written there."""

    def sender(self, channel: int) -> Send:
        acquire, commit = self.writer(channel)

        def send(message: bytes) -> object:
            place = acquire()
            if place is None:
                return False
            memoryview(place).cast("B")[:] = memoryview(message).cast("B")
            return commit(place)

        return send


class Many(Transport):
    """Sends and receives many messages a call."""

    @property
    def batch(self) -> int:
        """256 messages, or as many as fit into 4 MiB."""
        return max(1, min(BATCH_MAX, BATCH_BYTES // self.spec.size))


class Batch(Many):
    """A batch is a list of bytes objects."""

    @abstractmethod
    def sender_many(self, channel: int) -> Callable[[list[bytes]], int | None]:
        """A function that sends the first messages of a list. It returns how many, None for all;
        without room it returns 0 or raises one of `full`."""

    @abstractmethod
    def receiver_many(self, channel: int) -> Callable[[], Sequence[bytes] | None]:
        """A function that returns 1 to batch messages; nothing if there are none."""


class Columns(Many):
    """A batch is a set of numpy columns, one for each field of the messages."""

    @abstractmethod
    def column_writer(self, channel: int) -> Callable[[Any, Any], None]:
        """A function that sends batch messages, given the array of their words and the array of
        their last bytes. It writes message.body() into each."""

    @abstractmethod
    def column_reader(self, channel: int) -> Callable[[], tuple[Any, Any]]:
        """A function that returns the words and the last bytes of 1 to batch messages."""


class InFolder(Transport):
    """A library that keeps its files in a folder."""

    @property
    def folder(self) -> Path:
        return Path("/dev/shm") / self.spec.name  # noqa: S108

    def address(self, channel: int, number: int) -> str:
        """Of the socket that producer `number` of the channel listens at."""
        return f"ipc://{self.folder}/{channel}-{number}"

    def create(self) -> None:
        self.folder.mkdir()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
