# SPDX-License-Identifier: Apache-2.0
"""The types of a public method, its inspect.signature(), and the arguments it accepts are the
same."""

import ast
import asyncio
import inspect
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt
import pytest

import shmpool
import shmpool.net
from shmpool import _hot
from shmpool.net.headers import Checksums, Headers
from shmpool.rpc import protocol

STUB = ast.parse(Path(shmpool.__file__).with_name("_hot.pyi").read_text())
NATIVE: dict[str, type] = {
    "Buffer": shmpool.Buffer,
    "SegmentBase": _hot.SegmentBase,
    "PoolBase": _hot.PoolBase,
    "ArrayMemory": _hot.ArrayMemory,
    "BurstBase": _hot.BurstBase,
    "QueueBase": _hot.QueueBase,
    "TopicBase": _hot.TopicBase,
    "SubscriberBase": _hot.SubscriberBase,
    "Sample": _hot.Sample,
    "Turns": _hot.Turns,
    "Scan": _hot.Scan,
    "Ring": _hot.Ring,
    "Receiver": _hot.Receiver,
    "Sender": _hot.Sender,
    "Xdp": _hot.Xdp,
}
PUBLIC = [shmpool.Pool, shmpool.AlfQueue, shmpool.Buffer, shmpool.Burst]
PUBLIC += [shmpool.Topic, shmpool.Subscriber, shmpool.Sample]
METHODS = [
    (kind, name)
    for kind in PUBLIC
    for name in dir(kind)
    if not name.startswith("_") and callable(getattr(kind, name))
]


def stubs() -> list[tuple[str, ast.FunctionDef]]:
    """The public methods that _hot.pyi declares, each with its class."""
    return [
        (kind.name, entry)
        for kind in STUB.body
        if isinstance(kind, ast.ClassDef)
        for entry in kind.body
        if isinstance(entry, ast.FunctionDef)
        if not entry.name.startswith("_") and not entry.decorator_list
    ]


def test_every_method_in_c_has_a_stub() -> None:
    """Every stub has a method, too."""
    declared = {(kind, entry.name) for kind, entry in stubs()}
    there = {
        (kind, name)
        for kind, type_ in NATIVE.items()
        for name, value in vars(type_).items()
        if not name.startswith("_") and callable(value)
    }
    assert declared == there


def test_the_stub_has_the_docstrings_of_the_types() -> None:
    """Editors show what help() shows: docs/stubs.py writes it, and no public method is without."""
    script = Path(__file__).resolve().parent.parent / "docs" / "stubs.py"
    text = Path(shmpool.__file__).with_name("_hot.pyi").read_text()
    assert runpy.run_path(str(script))["written"](text) == text, "run: python docs/stubs.py"
    bare = [
        f"{kind}.{entry.name}"
        for kind, entry in stubs()
        if NATIVE[kind] in {shmpool.Buffer, shmpool.Sample, *shmpool.Pool.__mro__,
                            *shmpool.AlfQueue.__mro__, *shmpool.Topic.__mro__,
                            *shmpool.Subscriber.__mro__, *shmpool.Burst.__mro__}
        and not ast.get_docstring(entry)
    ]  # fmt: skip
    assert [] == bare


@pytest.mark.parametrize(("kind", "stub"), stubs(), ids=lambda value: getattr(value, "name", value))
def test_a_stub_is_the_signature(kind: str, stub: ast.FunctionDef) -> None:
    """Names, order, defaults and positional-only parameters equal those of inspect.signature()."""
    shown = list(inspect.signature(getattr(NATIVE[kind], stub.name)).parameters.values())[1:]
    stubbed = [(a.arg, True) for a in stub.args.posonlyargs] + [
        (a.arg, False) for a in stub.args.args
    ]
    assert stubbed[1:] == [(p.name, p.kind is p.POSITIONAL_ONLY) for p in shown]
    defaults = [None if p.default is p.empty else repr(p.default) for p in shown]
    assert [None] * (len(shown) - len(stub.args.defaults)) + [
        ast.unparse(value) for value in stub.args.defaults
    ] == defaults


def by_name(pool: shmpool.Pool) -> dict[tuple[type, str], Callable[[], object]]:
    """Each public method whose parameters may be named, called with all of them named."""
    queue = pool.create_queue("q", capacity=8)
    topic = pool.create_topic("t", depth=2)
    sub = topic.subscribe(policy="latest")
    name, kind = pool.name, shmpool.Pool

    def got() -> shmpool.Buffer:
        queue.send(b"x")
        return queue.get()

    def made() -> None:
        kind.unlink(name=name)
        with kind.create(name=name, buffer_size=64, capacity=2):
            pass
        with kind.attach(name=name):
            pass

    return {
        (kind, "alloc"): lambda: pool.alloc(timeout=0),
        (kind, "alloc_many"): lambda: pool.alloc_many(n=2, timeout=0),
        (kind, "burst"): lambda: pool.burst(items=[pool.alloc()]),
        (kind, "create_queue"): lambda: pool.create_queue(name="other", capacity=2),
        (kind, "queue"): lambda: pool.queue(name="q"),
        (kind, "create_topic"): lambda: pool.create_topic(name="u", depth=2),
        (kind, "topic"): lambda: pool.topic(name="t"),
        (shmpool.Topic, "publish"): lambda: topic.publish(timeout=0, item=pool.alloc()),
        (shmpool.Topic, "send"): lambda: topic.send(payload=b"x", timeout=0),
        (shmpool.Topic, "subscribe"): lambda: topic.subscribe(policy="latest", start="oldest"),
        (shmpool.Subscriber, "get"): lambda: sub.get(timeout=0),
        (shmpool.Subscriber, "get_many"): lambda: (topic.send(b""), sub.get_many(n=1, timeout=0)),
        (kind, "trim"): lambda: pool.trim(keep=1),
        (kind, "pin"): lambda: pool.pin(timeout=0),
        (kind, "audit"): lambda: pool.audit(limit=None),
        (kind, "holders"): lambda: pool.holders(limit=1),
        (kind, "create"): made,
        (kind, "attach"): lambda: None,  # made() does
        (kind, "unlink"): lambda: None,
        (shmpool.AlfQueue, "put"): lambda: queue.put(timeout=0, buf=pool.alloc()),
        (shmpool.AlfQueue, "get"): lambda: queue.get(timeout=0),
        (kind, "array"): lambda: pool.array(shape=2, dtype="u1", order="F", timeout=0),
        (shmpool.AlfQueue, "put_array"): lambda: queue.put_array(array=np.zeros(2), timeout=0),
        (shmpool.AlfQueue, "get_array"): lambda: queue.get_array(timeout=0),
        (shmpool.AlfQueue, "send"): lambda: queue.send(payload=b"x", timeout=0),
        (shmpool.AlfQueue, "recv"): lambda: queue.recv(timeout=0),
        (shmpool.AlfQueue, "send_many"): lambda: queue.send_many(payloads=[b"x"] * 3, timeout=0),
        (shmpool.AlfQueue, "recv_many"): lambda: queue.recv_many(timeout=0, n=3),
        (shmpool.AlfQueue, "put_many"): lambda: queue.put_many(burst=pool.alloc_many(2), timeout=0),
        (shmpool.AlfQueue, "requeue"): lambda: queue.requeue(item=got(), timeout=0),
        (shmpool.AlfQueue, "peek"): lambda: queue.peek(n=1, size=2),
        (shmpool.AlfQueue, "redrive"): lambda: queue.redrive(n=1, to=None, reset=True),
        (shmpool.AlfQueue, "drain"): lambda: queue.drain(n=1),
        (kind, "aalloc"): lambda: asyncio.run(pool.aalloc(size=2)),
        (kind, "aalloc_many"): lambda: asyncio.run(pool.aalloc_many(n=2, size=2)),
        (kind, "aarray"): lambda: asyncio.run(pool.aarray(shape=2, dtype="u1", order="F")),
        (shmpool.AlfQueue, "asend"): lambda: asyncio.run(queue.asend(payload=b"x")),
        (shmpool.AlfQueue, "asend_many"): lambda: asyncio.run(queue.asend_many(payloads=[b"x"])),
        (shmpool.Topic, "asend"): lambda: asyncio.run(topic.asend(payload=b"x")),
        (shmpool.Topic, "apublish"): lambda: asyncio.run(topic.apublish(item=pool.alloc())),
        (shmpool.Subscriber, "bursts"): lambda: sub.bursts(n=1),
        (shmpool.Subscriber, "aget_many"): lambda: (
            topic.send(b""),
            asyncio.run(sub.aget_many(n=1)),
        ),
        (shmpool.AlfQueue, "aput"): lambda: asyncio.run(queue.aput(buf=pool.alloc())),
        (shmpool.AlfQueue, "aput_many"): lambda: asyncio.run(
            queue.aput_many(burst=pool.alloc_many(2))
        ),
        (shmpool.AlfQueue, "aget_many"): lambda: asyncio.run(queue.aget_many(n=1)),
        (shmpool.AlfQueue, "arecv_many"): lambda: asyncio.run(queue.arecv_many(n=1)),
        (shmpool.AlfQueue, "bursts"): lambda: queue.bursts(n=1),
        (shmpool.AlfQueue, "wait_producers"): lambda: queue.wait_producers(timeout=0),
        (shmpool.AlfQueue, "shutdown"): lambda: pool.create_queue("ended", capacity=2).shutdown(
            immediate=True
        ),
        (shmpool.Buffer, "nack"): lambda: got().nack(timeout=0),
        (shmpool.Burst, "nack"): lambda: pool.queue("q").get_many(2).nack(timeout=0),
        (shmpool.AlfQueue, "get_many"): lambda: queue.get_many(n=2, timeout=0),
        (shmpool.Burst, "spread"): lambda: pool.alloc_many(2).spread(
            queues=[queue], keys=[0, 0], timeout=0
        ),
        (shmpool.Burst, "headers"): lambda: pool.alloc_many(2).headers(link=1, at=0, inner=True),
        (shmpool.Burst, "flow_hash"): lambda: pool.alloc_many(2).flow_hash(
            headers=None, key=None, symmetric=True, ports=True, store=True
        ),
        (shmpool.Burst, "checksums"): lambda: pool.alloc_many(2).checksums(
            link=1, at=0, inner=False
        ),
        (shmpool.Burst, "set_checksums"): lambda: pool.alloc_many(2).set_checksums(
            link=1, at=0, ip=True, transport=True, inner=False
        ),
        (shmpool.Burst, "decrement_ttl"): lambda: pool.alloc_many(2).decrement_ttl(link=1, at=0),
        (shmpool.Burst, "select"): lambda: pool.alloc_many(2).select(mask=[True, False]),
        (shmpool.Burst, "sort"): lambda: pool.alloc_many(2).sort(by=[2, 1]),
        (shmpool.Burst, "partition"): lambda: pool.alloc_many(2).partition(by=[2, 1]),
        (shmpool.Burst, "column"): lambda: pool.alloc_many(2).column(offset=0, dtype="u1"),
        (shmpool.Burst, "set_column"): lambda: pool.alloc_many(2).set_column(
            offset=0, values=1, dtype="u1"
        ),
    }


def test_arguments_may_be_named(pool: shmpool.Pool) -> None:
    """A parameter that inspect.signature() does not show as positional-only can be given by
    name."""
    calls = by_name(pool)
    nameable = {
        (kind, name)
        for kind, name in METHODS
        if any(
            p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"
            for p in inspect.signature(getattr(kind, name)).parameters.values()
        )
    }
    assert nameable == set(calls)
    for call in calls.values():
        call()


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("put", "buf and "),
        ("send", "payload and "),
        ("send_many", "payloads and "),
        ("recv_many", "n and "),
        ("get", ""),
        ("recv", ""),
        ("get_array", ""),
    ],
)
def test_other_arguments(pool: shmpool.Pool, name: str, takes: str) -> None:
    """Too many, too few, unknown and repeated arguments are TypeError that lists the parameters."""
    call: Callable[..., object] = getattr(pool.create_queue("q", capacity=8), name)
    first = takes.removesuffix(" and ") or "timeout"
    wrong: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((1, 2, 3), {}), ((), {"wait": 1})]
    wrong += [((1, 2), {"timeout": 3}), ((1,), {first: 1})]
    wrong += [((), {}), ((), {"timeout": 1})] if takes else [((1, 2), {})]
    for positional, named in wrong:
        words = rf"^{name}\(\) takes {takes}one optional argument, timeout; there is no block$"
        with pytest.raises(TypeError, match=words):
            call(*positional, **named)


def named_in(annotation: object) -> set[type]:
    """The classes of shmpool that an annotation names."""
    inner = set().union(*map(named_in, get_args(annotation)))
    origin = get_origin(annotation) or annotation
    ours = isinstance(origin, type) and origin.__module__.split(".")[0] == "shmpool"
    return inner | ({origin} if ours else set())


def named_by(thing: Any) -> set[type]:
    """The classes that the annotations of a function or of a record's fields name."""
    return set().union(*map(named_in, get_type_hints(thing).values()))


# Calls that wait and have no form that is awaited. What takes nothing loses nothing in
# asyncio.to_thread().
NOT_AWAITED = {
    "Pool.attach": "takes nothing",
    "Pool.queue": "takes nothing",
    "Pool.topic": "takes nothing",
    "Pool.pin": "takes nothing",
    "AlfQueue.wait_producers": "takes nothing",
    "AlfQueue.requeue": "with timeout=0, a Buffer that finds no room is still the caller's",
    "Buffer.nack": "the same",
    "Burst.nack": "the same",
    "Burst.spread": "with timeout=0, what has no room stays in the burst, for the next try",
    "AlfQueue.put_array": "hands an array over if only the caller refers to it; a coroutine would",
}


def test_what_waits_can_be_awaited() -> None:
    """Each public method with a timeout has a form for event loops, or a reason why not. That has
    the same parameters, but no timeout, and a Raises section or a reference to it."""
    waiting = {
        f"{kind.__name__}.{name}": kind
        for kind, name in METHODS
        if "timeout" in inspect.signature(getattr(kind, name)).parameters
    }
    assert len(waiting) > 15
    without = set()
    for label, kind in waiting.items():
        name = label.partition(".")[2]
        awaited = getattr(kind, "a" + name, None)
        if awaited is None:
            without.add(label)
            continue
        assert inspect.iscoroutinefunction(awaited), label
        given = list(inspect.signature(getattr(kind, name)).parameters)
        given.remove("timeout")
        assert given == list(inspect.signature(awaited).parameters), label
    assert set(NOT_AWAITED) == without


def public_callables(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The public classes and functions of a module, with their methods and properties."""
    for label in module.__all__:
        value = getattr(module, label)
        if inspect.isclass(value) or inspect.isroutine(value):
            yield label, value
        for name in dir(value) if inspect.isclass(value) else ():
            item = inspect.getattr_static(value, name)
            call = getattr(item, "__func__", None) or getattr(item, "fget", None) or item
            if inspect.isfunction(call) and (name == "__init__" or name[0] != "_"):
                yield f"{label}.{name}", call


@pytest.mark.parametrize("module", [shmpool, shmpool.net], ids=lambda module: module.__name__)
def test_annotations_can_be_read(module: ModuleType) -> None:
    """typing.get_type_hints() has the types of each public class, method, property and function:
    also those of numpy, typing and modules that import shmpool does not import."""
    found = {label: get_type_hints(call) for label, call in public_callables(module)}
    assert len(found) > 40
    if module is shmpool:
        assert shmpool.Pool is found["AlfQueue.__init__"]["pool"]
        assert npt.NDArray[np.uint32] == found["Burst.lengths"]["return"]
        assert npt.DTypeLike == found["Pool.array"]["dtype"]
        assert Headers == found["Burst.headers"]["return"]
        assert Any is found["Burst.partition"]["return"].__args__[0]
        assert shmpool.Buffer | None == found["NoArray"]["buffer"]


def test_annotations_without_numpy(run: Callable[..., str]) -> None:
    """Where numpy is not installed, all that does not name it can be read."""
    script = """
    import sys
    sys.modules["numpy"] = None
    import shmpool
    from typing import get_type_hints
    for call in (shmpool.AlfQueue.asend, shmpool.Burst.spread, shmpool.AlfQueue.requeue):
        try:
            print(sorted(get_type_hints(call)))
        except ImportError as error:
            print(error)
    """
    said = run(script).splitlines()
    assert "['payload', 'return']" == said[0]
    assert "numpy" in said[1]
    assert "return" in said[2]


def test_what_public_signatures_name_is_public() -> None:
    """Each class in an annotation of public functions, methods and records is in __all__.

    The exception are the requests, which are in shmpool.rpc.protocol, and the headers of packets,
    which are in shmpool.net.headers.
    """
    named: set[type] = set()
    for name in shmpool.__all__:
        value = getattr(shmpool, name)
        if isinstance(value, type):
            named |= named_by(value)
            for key in [key for key in dir(value) if not key.startswith("_")]:
                call = getattr(value, key)
                if isinstance(call, protocol.Call):
                    named |= named_by(call.request) | named_in(call.request.answer)
                elif inspect.isfunction(call) or inspect.ismethod(call):
                    named |= named_by(call)
        elif inspect.isfunction(value):
            named |= named_by(value)
    assert {shmpool.Message, shmpool.Member, shmpool.Geometry, shmpool.QueueStats} <= named
    elsewhere = {protocol.Request, Headers, Checksums}
    assert elsewhere >= {kind for kind in named if kind.__name__ not in shmpool.__all__}
