# SPDX-License-Identifier: Apache-2.0
"""The requests to the daemon and their answers: each request is one frozen class.

The daemon's dispatch, the clients' methods, the command line and docs/protocol.md follow from these
classes. No I/O: sockets are in client.py and service/connection.py, and what a request does is in
service/handlers.py. One file: the classes are read as one table.
"""

import inspect
import os
from collections.abc import Callable, Coroutine
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import (
    Any,
    ClassVar,
    Generic,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    cast,
    get_args,
    overload,
)

from .. import errors
from ..messages import Message
from ..options import PoolOptions, QueueOptions, TopicOptions
from ..stats import Audit, Holder, Member, Recovery
from . import wire
from .records import Description, LinkStats, Pong, PoolStats, PoolSummary, Pruned, Version

PROTOCOL = 1  # the newest that this package speaks, and the oldest
INTERVAL_MIN = 0.1  # s between two notifications of a watch

A = TypeVar("A")
P = ParamSpec("P")


def default_socket() -> Path:
    """$SHMPOOL_SOCKET; else in $XDG_RUNTIME_DIR/shmpool; else in /run/shmpool."""
    if path := os.environ.get("SHMPOOL_SOCKET"):
        return Path(path)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return (Path(runtime) / "shmpool" if runtime else Path("/run/shmpool")) / "daemon.sock"


# Requests.


@dataclass(frozen=True)
class Request(Generic[A]):
    """A request. Its fields are its parameters, in this order.

    To add one: write its class, name it in Calls, and answer it in service/handlers.py.
    """

    method: ClassVar[str]
    answer: ClassVar[Any]  # a type: the A of the class
    writes: ClassVar[bool]  # only the daemon's user may; a client does not send it twice
    slow: ClassVar[bool]  # takes longer than to read a few words of the segment

    def __init_subclass__(cls, method: str, writes: bool = False, slow: bool = False) -> None:
        cls.method, cls.writes, cls.slow = method, writes, slow
        (cls.answer,) = get_args(vars(cls)["__orig_bases__"][0])

    def params(self) -> list[Any]:
        """The parameters, as they are sent."""
        return [wire.to_wire(getattr(self, name.name)) for name in fields(self)]

    def answer_of(self, result: Any) -> A:
        """The answer, from what was received. ShapeError."""
        answer: A = wire.from_wire(self.answer, result)
        return answer


@dataclass(frozen=True)
class Ping(Request[Pong], method="ping"):
    """Answers while the daemon runs: its pid, and how long it has run, in seconds."""


@dataclass(frozen=True)
class Negotiate(Request[Version], method="version"):
    """Agrees on the newest protocol that both sides speak. Without it a connection speaks 1.

    Raises: RequestRefused if there is none.
    """

    oldest: int = PROTOCOL
    newest: int = PROTOCOL


@dataclass(frozen=True)
class List(Request[list[PoolSummary]], method="list", slow=True):
    """Lists every pool on the machine, sorted by name."""


@dataclass(frozen=True)
class Create(Request[Description], method="create", writes=True, slow=True):
    """Creates a pool, its queues and its topics: all, or nothing if one cannot be created.

    Raises: PoolExists, InvalidArgument, OutOfSharedMemory, AccessDenied, LimitReached.
    """

    pool: str
    options: PoolOptions
    queues: dict[str, QueueOptions] = field(default_factory=dict)
    topics: dict[str, TopicOptions] = field(default_factory=dict)


@dataclass(frozen=True)
class Destroy(Request[None], method="destroy", writes=True, slow=True):
    """Removes a pool, with what is in its queues. Processes that have it open keep it until the
    last one closes it.

    Raises: PoolNotFound, AccessDenied.
    """

    pool: str


@dataclass(frozen=True)
class Describe(Request[Description], method="describe"):
    """Describes a pool: its geometry, its file, its queues and topics.

    Raises: PoolNotFound, SegmentInvalid, AccessDenied.
    """

    pool: str


@dataclass(frozen=True)
class GetStats(Request[PoolStats], method="stats"):
    """Reports where a pool's buffers are, its queues and topics, and its counters.

    Raises: PoolNotFound, SegmentInvalid, AccessDenied.
    """

    pool: str


@dataclass(frozen=True)
class GetMembers(Request[list[Member]], method="members"):
    """Lists the threads that are attached to a pool.

    Raises: PoolNotFound, SegmentInvalid, AccessDenied.
    """

    pool: str


@dataclass(frozen=True)
class GetHolders(Request[list[Holder]], method="holders", slow=True):
    """Lists the threads that hold buffers: how many, for how long, and whether they are alive; and
    the subscribers of topics that hold messages.

    Raises: PoolNotFound, SegmentInvalid, AccessDenied; LimitReached if the pool is too large to be
    walked through in 0.5 s of processor time.
    """

    pool: str


@dataclass(frozen=True)
class RunAudit(Request[Audit], method="audit", slow=True):
    """Checks by two independent counts that no buffer is lost or counted twice.

    Raises: PoolNotFound, SegmentInvalid, AccessDenied.
    """

    pool: str


@dataclass(frozen=True)
class Recover(Request[Recovery], method="recover", writes=True, slow=True):
    """Recovers what dead members left in a pool, now; the daemon does so by itself.

    Raises: PoolNotFound, SegmentInvalid, AccessDenied.
    """

    pool: str


@dataclass(frozen=True)
class Trim(Request[int], method="trim", writes=True, slow=True):
    """Returns the memory of free buffers to the system, keeping `keep` of them; the answer is how
    many bytes.

    Preallocated memory stays. Raises: PoolNotFound, SegmentInvalid, AccessDenied, InvalidArgument.
    """

    pool: str
    keep: int = 0


@dataclass(frozen=True)
class Peek(Request[list[Message]], method="peek", writes=True, slow=True):
    """Copies the `n` oldest messages of a queue, with `size` bytes of each; none is taken.

    Raises: PoolNotFound, QueueNotFound, SegmentInvalid, AccessDenied, InvalidArgument.
    """

    # writes: payloads are only for users who may attach
    pool: str
    queue: str
    n: int = 16
    size: int = 64


@dataclass(frozen=True)
class Redrive(Request[int], method="redrive", writes=True, slow=True):
    """Moves a queue's `n` oldest buffers, nil for all, back to the queues from which they became
    dead letters, or to the queue `to`; the answer is how many.

    `reset` sets redelivered to 0. A buffer stays where the other queue has no room. Raises:
    PoolNotFound, QueueNotFound, SegmentInvalid, AccessDenied, InvalidArgument, QueueBusy.
    """

    pool: str
    queue: str
    n: int | None = None
    to: str | None = field(default=None, kw_only=True)
    reset: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class Drain(Request[int], method="drain", writes=True, slow=True):
    """Frees a queue's `n` oldest buffers, nil for all; the answer is how many.

    Raises: PoolNotFound, QueueNotFound, SegmentInvalid, AccessDenied, InvalidArgument, QueueBusy.
    """

    pool: str
    queue: str
    n: int | None = None


@dataclass(frozen=True)
class Prune(Request[Pruned], method="prune", writes=True, slow=True):
    """Removes every abandoned pool that no process has open, with what is in its queues.

    Abandoned is a pool whose creator died without closing or unlinking it; with `age`, also one
    that no process has used for so many seconds. The answer has the names, and why each other pool
    stays. Raises: InvalidArgument.
    """

    age: float | None = None


@dataclass(frozen=True)
class Watch(Request[float], method="watch"):
    """Sends a pool's statistics every `interval` seconds until the client disconnects; 0 ends it.

    The answer is the interval that is granted, at least 0.1. A client that does not read them is
    disconnected. Raises: PoolNotFound, SegmentInvalid, AccessDenied, InvalidArgument.
    """

    pool: str
    interval: float = 1.0


@dataclass(frozen=True)
class ReportLinks(Request[None], method="report_links", writes=True):
    """Tells the daemon how the links of a bridge are, all of them.

    A bridge does so every second. The daemon shows them with the statistics of their pools.
    `bridge` is another one for each process, and `pid` its number as it knows it itself.
    """

    bridge: str
    pid: int
    links: list[LinkStats]


AnyRequest = Request[Any]


class Blocking(Protocol):
    """A client whose calls return the answer."""

    def call(self, request: Request[A]) -> A: ...


class Awaiting(Protocol):
    """A client whose calls are awaited."""

    def call(self, request: Request[A]) -> Coroutine[Any, Any, A]: ...


class Call(Generic[P, A]):
    """A request as a method of a client, with the parameters, answer and docstring of its class.

    The client decides whether it returns the answer or is awaited; a type checker sees which.
    """

    def __init__(self, request: Callable[P, Request[A]]) -> None:
        self.request = cast(Any, request)
        self.__doc__ = request.__doc__
        returns = self.request.answer
        self.__signature__ = inspect.signature(request).replace(return_annotation=returns)

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...

    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, A]: ...

    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, Coroutine[Any, Any, A]]: ...

    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self

        def method(*params: P.args, **named: P.kwargs) -> Any:
            return client.call(self.request(*params, **named))

        method.__name__, method.__doc__ = self.request.method, self.__doc__
        method.__signature__ = self.__signature__  # type: ignore[attr-defined]
        return method


class Calls:
    """The requests as methods, each once: what Client and AsyncClient have in common."""

    ping = Call(Ping)
    version = Call(Negotiate)
    list = Call(List)
    create = Call(Create)
    destroy = Call(Destroy)
    describe = Call(Describe)
    stats = Call(GetStats)
    members = Call(GetMembers)
    holders = Call(GetHolders)
    audit = Call(RunAudit)
    recover = Call(Recover)
    trim = Call(Trim)
    peek = Call(Peek)
    redrive = Call(Redrive)
    drain = Call(Drain)
    prune = Call(Prune)
    report_links = Call(ReportLinks)


REQUESTS: tuple[type[AnyRequest], ...] = (
    *(call.request for call in vars(Calls).values() if isinstance(call, Call)),
    Watch,  # each client has a method of its own, which iterates
)
_BY_METHOD = {kind.method: kind for kind in REQUESTS}

# Notifications from the daemon.
STATS = "stats"  # [PoolStats], for each watch
ENDED = "ended"  # [pool, reason]: a watch is over
CLOSING = "closing"  # [reason]: the daemon ends the connection


def request_of(call: wire.Call) -> AnyRequest:
    """The request out of what came. InvalidArgument, RequestRefused."""
    kind = _BY_METHOD.get(call.method)
    if kind is None:
        known = ", ".join(_BY_METHOD)
        raise errors.RequestRefused(f"there is no method {call.method[:60]!r}; known are {known}")
    names = wire.hints(kind)
    least = sum(map(wire.is_required, fields(kind)))
    if not least <= len(call.params) <= len(names):
        raise errors.InvalidArgument(
            f"{call.method} came with {len(call.params)} parameters; it takes {usage(kind)}"
        )
    try:
        return kind(
            **{
                name: wire.from_wire(type_, value, name)
                for (name, type_), value in zip(names.items(), call.params, strict=False)
            }
        )
    except wire.ShapeError as error:
        raise errors.InvalidArgument(f"{call.method}: {error}") from None


def usage(kind: type[Request[Any]]) -> str:
    """The parameters in words: `trim(pool, keep=0)`."""
    parts = []
    for param in fields(kind):
        make = param.default_factory
        default = param.default if make is MISSING else make()
        parts.append(param.name if default is MISSING else f"{param.name}={default!r}")
    return f"{kind.method}({', '.join(parts)})"


# Errors. They travel by name, so that a client raises what the library would have raised.


def error_to_wire(error: errors.ShmpoolError) -> dict[str, Any]:
    return {"kind": type(error).__name__, "errno": error.errno, "message": str(error)}


def error_of(value: Any) -> errors.ShmpoolError:
    """The exception for the error of an answer."""
    name = value.get("kind") if isinstance(value, dict) else None
    message = value.get("message") if isinstance(value, dict) else None
    kind = getattr(errors, name, None) if isinstance(name, str) else None
    if isinstance(kind, type) and issubclass(kind, errors.ShmpoolError):
        return kind(str(message))
    return errors.RequestRefused(str(message if message is not None else value))


def negotiate(request: Negotiate, package: str) -> Version:
    """The newest protocol of both. RequestRefused if there is none."""
    if not request.oldest <= PROTOCOL <= request.newest:
        raise errors.RequestRefused(
            f"the client speaks protocol {request.oldest} to {request.newest}, "
            f"this daemon {PROTOCOL}"
        )
    return Version(PROTOCOL, package)
