# SPDX-License-Identifier: Apache-2.0
"""What `import shmpool` brings and costs, counted: no test here reads a clock."""

import ast
import copy
import pickle
import re
from collections.abc import Callable
from dataclasses import (
    FrozenInstanceError,
    asdict,
    astuple,
    dataclass,
    fields,
    is_dataclass,
    replace,
)
from inspect import signature
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import shmpool
from clients.bench.imports import instructions, modules
from shmpool import choices
from shmpool.options import Option, options_of
from shmpool.record import field, record

# What the import must not bring: slow to import, and of no use to a program that moves packets.
UNWANTED = {
    "aiohttp", "ast", "asyncio", "cffi", "click", "concurrent", "ctypes", "dataclasses", "enum",
    "inspect", "json", "logging", "msgpack", "multiprocessing", "numpy", "pathlib", "pickle",
    "prometheus_client", "random", "re", "rich", "selectors", "signal", "socket", "subprocess",
    "tempfile", "textual", "typing", "urllib", "uvloop",
}  # fmt: skip
MODULES_MOST = 90
INSTRUCTIONS_MOST = 300_000
USE = """
import shmpool
with shmpool.Pool.create(None, buffer_size=64, capacity=64) as pool:
    queue = pool.create_queue("q", capacity=8)
    with pool.alloc() as buf:
        queue.put(buf)
    queue.get().free()
    queue.send(b"x")
    queue.recv()
    pool.create_topic("t", depth=2)
    pool.stats(), pool.audit(), pool.members()
"""


@pytest.mark.parametrize("statement", ["import shmpool", USE], ids=["import", "use"])
def test_what_is_not_imported(statement: str) -> None:
    """Neither the import nor a program that uses pools, queues and topics imports any of these."""
    assert set() == {name.partition(".")[0] for name in modules(statement)} & UNWANTED


def test_what_the_import_costs() -> None:
    """A number of modules and of bytecode instructions, each a good deal below its bound."""
    assert len(modules("import shmpool")) < MODULES_MOST
    assert instructions("import shmpool") < INSTRUCTIONS_MOST


def test_public_names_are_listed() -> None:
    """dir() has the names that are imported with their first use, too."""
    assert set(shmpool.__all__) <= set(dir(shmpool))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = shmpool.nothing  # type: ignore[attr-defined]


def literals() -> dict[str, tuple[str, ...]]:
    """The words of each Literal in choices.py, as type checkers read them."""
    found = {}
    for node in ast.walk(ast.parse(Path(choices.__file__).read_text())):
        text = ast.unparse(node.value) if isinstance(node, ast.Assign) else ""
        if words := re.search(r"Literal\[('.*')\]", text):
            assert isinstance(node, ast.Assign)
            found[ast.unparse(node.targets[0])] = ast.literal_eval(f"({words[1]},)")
    return found


def test_choices_are_the_same_words_as_types() -> None:
    """The type that type checkers see, the one at run time, and the tuple have the same words."""
    static = literals()
    assert len(static) == 9
    for name, words in static.items():
        kind = getattr(choices, name)
        kind = get_args(kind)[1] if name == "Lanes" else kind
        assert words == get_args(kind) == choices._WORDS[name]
    for name in ("OnDeath", "Side", "PinState"):
        assert getattr(shmpool, name) == getattr(choices, name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = choices.nothing  # type: ignore[attr-defined]


# Records beside dataclasses of the same fields.


def both(make: Callable[[Any, Any], type]) -> tuple[Any, Any]:
    """A class made twice: as a record, and as a dataclass."""
    import dataclasses

    return make(record, field), make(dataclasses.dataclass, dataclasses.field)


def shape(decorate: Any, field: Any) -> type:
    class Shape:
        """A shape."""

        sides: int
        name: str = "triangle"
        sizes: list[int] = field(default_factory=list)
        unit: str = field(default="m", metadata={"option": Option("A unit.")})

    made: type = decorate(frozen=True)(Shape)
    return made


Shape, Twin = both(shape)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((3,), {}),
        ((4, "square"), {"unit": "km"}),
        ((4, "square", [1, 2], "mm"), {}),
        ((), {"sizes": [1], "sides": 5}),
        ((), {"unit": "mm", "sizes": [1], "name": "x", "sides": 5}),
    ],
)
def test_a_record_is_what_a_dataclass_is(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Fields, text, equality, order, copies and what the module dataclasses makes of it."""
    one, twin = Shape(*values, **named), Twin(*values, **named)
    assert repr(twin) == repr(one)
    assert vars(twin) == vars(one)
    assert (one == Shape(*values, **named), one == twin, one == Shape(9)) == (True, False, False)
    assert (astuple(twin), asdict(twin)) == (astuple(one), asdict(one))
    assert (
        repr(replace(twin, sides=9))
        == repr(replace(one, sides=9))
        == repr(one.__replace__(sides=9))
    )
    assert one == copy.deepcopy(one)
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)
    match one:
        case Shape(sides, name, sizes, unit):
            assert astuple(one) == (sides, name, sizes, unit)


@pytest.mark.parametrize(
    ("values", "named", "words"),
    [
        ((), {}, "Shape needs the argument 'sides'"),
        ((), {"corners": 1}, "Shape needs the argument 'sides'"),
        ((), {"sides": 1, "corners": 1}, "Shape takes no argument 'corners'"),
        ((1, 2, 3, 4, 5), {}, "Shape takes 4 arguments, and 5 were given"),
        ((1,), {"sides": 1}, "Shape takes two values for the argument 'sides'"),
        ((1,), {"corners": 1}, "Shape takes no argument 'corners'"),
        ((1, 2, 3, 4), {"corners": 1}, "Shape takes no argument 'corners'"),
    ],
)
def test_wrong_arguments(values: tuple[Any, ...], named: dict[str, Any], words: str) -> None:
    """They are a TypeError, as with a dataclass."""
    for kind, text in ((Twin, "argument"), (shape(record, field), words)):
        with pytest.raises(TypeError, match=text):
            kind(*values, **named)


def test_what_reads_dataclasses_finds_one() -> None:
    """fields(), the signature, the hints, the metadata, and a dataclass that inherits from it."""
    kind, twin = both(shape)
    assert signature(twin) == signature(kind)
    assert is_dataclass(kind)
    for ours, theirs in zip(fields(kind), fields(twin), strict=True):
        for name in ("name", "type", "default", "default_factory", "metadata", "init", "kw_only"):
            assert getattr(theirs, name) == getattr(ours, name)
    assert get_type_hints(twin) == get_type_hints(kind)
    assert options_of(twin) == options_of(kind) == {"unit": Option("A unit.")}
    assert (kind.name, kind.unit, hasattr(kind, "sizes")) == ("triangle", "m", False)

    @dataclass(frozen=True)
    class Solid(kind):  # type: ignore[misc]
        height: int = 1

    assert ["sides", "name", "sizes", "unit", "height"] == [one.name for one in fields(Solid)]
    assert signature(Solid).parameters.keys() == {one.name for one in fields(Solid)}
    assert Solid(3, height=2) == replace(Solid(3), height=2)
    with pytest.raises(TypeError, match="frozen"):
        record(frozen=False)


def test_a_record_is_frozen() -> None:
    """No field can be set or deleted, also of a subclass, which may have other attributes."""

    class Marked(Shape):  # type: ignore[misc]
        pass

    one, marked = Shape(3), Marked(3)
    marked.colour = "red"
    assert "red" == marked.colour
    del marked.colour
    for record_, name in ((one, "sides"), (one, "colour"), (marked, "sides")):
        with pytest.raises(FrozenInstanceError, match=f"cannot assign to field '{name}'"):
            setattr(record_, name, 4)
        with pytest.raises(FrozenInstanceError, match=f"cannot delete field '{name}'"):
            delattr(record_, name)


def test_public_records_pickle(pool: shmpool.Pool) -> None:
    """Each record of the API is equal after pickling, and can be hashed if its fields can."""
    queue, topic = pool.create_queue("q", capacity=4), pool.create_topic("t", depth=2)
    queue.send(b"hello")
    with topic.subscribe(), pool.alloc():
        records = [
            pool.geometry, pool.geometry.sizes[0], pool.stats(), pool.stats().sizes[0],
            *pool.members(), pool.audit(), *pool.holders(), pool.recover(), pool.pinned,
            *queue.peek(), *topic.subscribers(), shmpool.PoolOptions(64, 64),
            shmpool.QueueOptions(4), shmpool.TopicOptions(2),
        ]  # fmt: skip
    assert len(records) == 14
    for one in records:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert one == pickle.loads(pickle.dumps(one, protocol))
        assert set(get_type_hints(type(one))) == set(vars(one))
    assert hash(shmpool.QueueOptions(4)) == hash(shmpool.QueueOptions(4))
