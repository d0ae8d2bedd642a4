# SPDX-License-Identifier: Apache-2.0
"""What a contestant is: a way to get messages from some processes to others.

The parent makes an object for a Spec and calls create() and, at the end, remove(). The object is
handed to each process of the run (so what create() stored in it must survive pickling for a new
process); there its ends are opened before anything is measured: sender() and the like give the
callables that the loops (producing.py, consuming.py) call, as close to the library's own function
as may be.

A way says False, or raises one of `full`, when there is no room; None, or raises one of `empty`,
when there is nothing. What to do then is the loops' business, the same for all.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

BOARD = "-board"  # how the name of the harness's own folder ends
PATIENCE_S = 0.05  # a stream's receive waits so long before it looks whether the run is over
BATCH_MOST, BATCH_BYTES = 256, 4 << 20
DEPTH_MOST, DEPTH_LEAST, DEPTH_BYTES = 1024, 4, 4 << 20

Packet = Any  # bytes, or whatever has the buffer protocol
Send = Callable[[bytes], object]
Receive = Callable[[], Packet | None]


@dataclass(frozen=True)
class Spec:
    """What a run needs. name is its own; producers and consumers are those of one channel."""

    name: str
    size: int  # bytes of every message
    channels: int = 1
    producers: int = 1
    consumers: int = 1
    newcomers: int = 0  # processes that may join later, of either kind

    @property
    def depth(self) -> int:
        """Messages that a channel holds: as many as fit into 4 MiB, 4 to 1024."""
        return max(DEPTH_LEAST, min(DEPTH_MOST, DEPTH_BYTES // self.size))


class Shape(Enum):
    """Who gets what on a channel."""

    QUEUE = "many to many"  # any number of processes; each message goes to one of the consumers
    LINK = "one to one"  # one producer, one consumer
    TOPIC = "to all"  # each message goes to every consumer


class UnsupportedError(Exception):
    """Why a contestant cannot do such a run."""


class Way(ABC):
    """One contestant's way. polls: what receives never waits, so that the loops have to."""

    library: str  # as in the tables
    call: str  # what is called, if a library has several ways
    package: str | None  # its distribution; None if it comes with Python
    shape = Shape.QUEUE
    polls = False
    number = 0  # which of a channel's producers, or consumers, this process is

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.full: tuple[type[BaseException], ...] = ()
        self.empty: tuple[type[BaseException], ...] = ()

    @classmethod
    def title(cls) -> str:
        return f"{cls.library} {cls.call}".strip()

    @classmethod
    def version(cls) -> str | None:
        """The installed version, "" if it comes with Python, None if it is missing."""
        try:
            return metadata.version(cls.package) if cls.package else ""
        except metadata.PackageNotFoundError:
            return None

    @abstractmethod
    def create(self) -> None:
        """Makes what the processes share. UnsupportedError if it cannot do such a run."""

    @abstractmethod
    def remove(self) -> None:
        """Removes it; also when create() came only half way, and when processes were killed."""

    def flush(self) -> None:  # noqa: B027
        """In a producer that is done: returns when everything sent can be received."""

    def leave(self) -> None:  # noqa: B027
        """In a process that is done: closes its ends, where that does not happen by itself."""

    def wake(self) -> None:  # noqa: B027
        """In a process of its own, when the producers are done: ends the waiting of consumers whose
        receive has no timeout, by messages that it gives out as None, two for each."""

    def recover(self) -> None:  # noqa: B027
        """In the parent, after a death: the repair that the library documents, if any."""

    def leaked(self) -> int | None:
        """In the parent, when all is drained: buffers that nobody will ever get back; None if the
        library does not say."""
        return None

    def left(self) -> list[str]:
        """What is still in file systems after remove()."""
        return sorted(
            str(path) for path in Path("/dev/shm").glob(f"*{self.spec.name}*")  # noqa: S108
            if not path.name.endswith(BOARD)
        )  # fmt: skip


class OneByOne(Way):
    """Sends and receives one message a call, copied."""

    blocks = True  # receiver(timeout) sleeps in the kernel
    copies = True  # what it receives are bytes of their own, which stay as they are
    polling = True  # there is a poller()

    @abstractmethod
    def sender(self, channel: int) -> Send:
        """Sends a message; waits for room, or returns False or raises one of `full`.

        It need not stop waiting by itself: when producers are told to stop, consumers still get
        what there is."""

    @abstractmethod
    def receiver(self, channel: int, timeout: float) -> Receive:
        """The next message; if polls is set, None at once when there is none."""

    def poller(self, channel: int) -> Receive:
        """The next message, or at once None or one of `empty`."""
        return self.receiver(channel, 0)


class InPlace(OneByOne):
    """Messages are written where they are passed on, and read where they arrived."""

    copies = False

    @abstractmethod
    def writer(self, channel: int) -> tuple[Callable[[], Packet | None], Callable[[Packet], Any]]:
        """Two calls: room for one message, None or one of `full` if there is none; and its sending.

        pack_into() writes to what the first gives and the second takes it."""

    def sender(self, channel: int) -> Send:
        acquire, commit = self.writer(channel)

        def send(message: bytes) -> object:
            place = acquire()
            if place is None:
                return False
            memoryview(place).cast("B")[:] = memoryview(message).cast("B")
            return commit(place)

        return send


class Many(Way):
    """Many messages a call."""

    @property
    def batch(self) -> int:
        """256 messages, or as many as make 4 MiB."""
        return max(1, min(BATCH_MOST, BATCH_BYTES // self.spec.size))


class Batch(Many):
    """As a list."""

    @abstractmethod
    def sender_many(self, channel: int) -> Callable[[list[bytes]], int | None]:
        """Sends the first so many of the list, None: all; 0 or one of `full` without room."""

    @abstractmethod
    def receiver_many(self, channel: int) -> Callable[[], Sequence[bytes] | None]:
        """1 to batch messages; if polls is set, nothing at once when there are none."""


class Columns(Many):
    """Written and checked field by field as numpy columns."""

    @abstractmethod
    def column_writer(self, channel: int) -> Callable[[Any, Any], None]:
        """Sends batch messages, given an array of their words and one of their last bytes. All else
        of each is message.body(), which it writes too."""

    @abstractmethod
    def column_reader(self, channel: int) -> Callable[[], tuple[Any, Any]]:
        """The words and the last bytes of 1 to batch messages."""


class InFolder(Way):
    """A library that keeps its files in a folder."""

    @property
    def folder(self) -> Path:
        return Path("/dev/shm") / self.spec.name  # noqa: S108

    def create(self) -> None:
        self.folder.mkdir()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
