# SPDX-License-Identifier: Apache-2.0
"""The options of pools and queues: one record each, and everything that is derived from it."""

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, fields, replace

import pytest
from conftest import MakePool

import shmpool
from shmpool import PoolOptions, QueueOptions
from shmpool._ffi import lib
from shmpool.geometry import GEOMETRY, Geometry, plan
from shmpool.options import POOL, QUEUE, options_of, queue_refusals

ROOMY = PoolOptions(buffer_size=4096, capacity=8192)  # besides these no geometry option is narrower
# Options of Pool.create that are not the pool's.
OF_THE_CALL = {
    "populate", "lock", "core_dump", "exist_ok", "replace", "unlink_on_close", "owner",
}  # fmt: skip
NARROWED = ("buffer_size", "prealloc", "cache_size", "headroom")


def parameters(call: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a call."""
    found = inspect.signature(call).parameters
    return {name: p for name, p in found.items() if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("call", "record", "own"),
    [
        (shmpool.Pool.create, PoolOptions, OF_THE_CALL),
        (shmpool.Pool.create_queue, QueueOptions, set()),
    ],
)
def test_a_call_takes_the_options_of_its_record(
    call: Callable[..., object], record: type, own: set[str]
) -> None:
    """Names, order and defaults are the record's; the docstring names each."""
    given = {name: p.default for name, p in parameters(call).items() if name not in own}
    expected = {
        field.name: inspect.Parameter.empty if field.default is MISSING else field.default
        for field in fields(record)
    }
    assert list(expected.items()) == list(given.items())
    documented = re.findall(r"^(\w+(?:, \w+)*) ", inspect.getdoc(call) or "", re.MULTILINE)
    named = [name for line in documented for name in line.split(", ")]
    assert [] == [name for name in [*expected, *own] if name not in named]


@pytest.mark.parametrize("record", [PoolOptions, QueueOptions])
def test_every_field_is_an_option(record: type) -> None:
    """Each field is documented by a sentence."""
    options = options_of(record)
    assert [field.name for field in fields(record)] == list(options)
    for option in options.values():
        assert re.fullmatch(r"[A-Z][^.]+.*\.", option.about)


def test_the_geometry_is_in_the_order_of_c() -> None:
    """A number of enum shmpool_option is the place of that field, in Python and in C."""
    numbers = [getattr(lib, f"SHMPOOL_{name.upper()}") for name in GEOMETRY]
    assert [*range(len(GEOMETRY))] == numbers
    assert lib.SHMPOOL_OPTIONS == len(GEOMETRY)
    others = ["mode", "group", "huge_pages", "numa_node"]
    assert [*GEOMETRY, *others] == [field.name for field in fields(PoolOptions)]


@pytest.mark.parametrize("name", GEOMETRY)
def test_c_refuses_what_is_out_of_range(name: str) -> None:
    """The ends of the range that the record shows are allowed. Values beyond are refused.

    The message names the option, the value as given, and the range.
    """
    option = POOL[name]
    assert option.least is not None
    assert option.most is not None
    for value in (option.least - 1, option.most + 1, -(2**70), 2**70):
        if (name, value) == ("cache_size", 0):
            continue
        _, refusal = plan(replace(ROOMY, **{name: value}))
        assert refusal is not None
        assert (name, str(value)) == (refusal.option, refusal.value)
        if name not in NARROWED:
            assert f"it must be {option.allowed()}" == refusal.demand
    if name not in NARROWED:
        for value in (option.least, option.most):
            beside = {"capacity": 64, "prealloc": None, "buffer_size": 64} | {name: value}
            assert plan(PoolOptions(**beside))[1] is None


def test_a_narrow_range() -> None:
    """A range that other options have narrowed to one value, or to none but 0."""
    option = POOL["cache_size"]
    assert "0 or a power of two from 32 to 32" == option.allowed(32, 32)
    assert "0" == option.allowed(32, 16)


@pytest.mark.parametrize("name", GEOMETRY)
def test_a_default_is_what_the_record_says(name: str) -> None:
    """The value that replaces None is the one that a pool gets."""
    default = POOL[name].default
    if name in ("buffer_size", "capacity"):
        assert default is None
        return
    geometry, refusal = plan(ROOMY)
    assert refusal is None
    expected = 512 if name == "cache_size" else default
    assert expected == getattr(Geometry.of(geometry), name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 1000}, "capacity is 1000; it must be a power of two from 2 to 16777216"),
        ({"capacity": 2**70}, f"capacity is {2**70}; it must be a power of two from 2 to 16777216"),
        ({"capacity": 10**5000}, "capacity is an integer of 16610 bits; it must be a power of two "
         "from 2 to 16777216"),
        ({"prealloc": 65}, "prealloc is 65; it must be from 0 to 64, as capacity is 64"),
        ({"headroom": 64}, "headroom is 64; it must be from 0 to 63, as buffer_size is 64"),
        ({"cache_size": 48}, "cache_size is 48; it must be 0 or a power of two from 32 to 64, as "
         "bulk is 32 and capacity is 64"),
        ({"capacity": 16, "cache_size": 16}, "cache_size is 16; it must be 0, as bulk is 32 and "
         "capacity is 16"),
        ({"buffer_size": 2**30, "capacity": 2**24}, "buffer_size is 1073741824; it must be from 1 "
         "to 4194304, as capacity is 16777216"),
        ({"mode": 660}, "mode is 660 (0o1224); it must be from 0000 to 0777"),
    ],
)  # fmt: skip
def test_a_refusal_in_words(options: dict[str, int], message: str) -> None:
    """The option, its value, the range, and the options that narrow its range."""
    with pytest.raises(shmpool.InvalidArgument) as caught:
        shmpool.Pool.create("never", **({"buffer_size": 64, "capacity": 64} | options))
    assert f"pool 'never': {message}" == str(caught.value)


@pytest.mark.parametrize(
    ("options", "letter", "refused"),
    [
        (QueueOptions(2), None, []),
        (QueueOptions(0), None, ["capacity is 0; it must be from 1 to 1048576"]),
        (QueueOptions(2, max_redeliveries=-1), None,
         ["max_redeliveries is -1; it must be from 0 to 65535"]),
        (QueueOptions(2, producers="one"), None,  # type: ignore[arg-type]
         ["""producers is 'one'; it must be "single" or "multi\""""]),
        (QueueOptions(2, on_death="requeue", producers="single"), None, ["on_death is 'requeue'"]),
        (QueueOptions(2, on_death="dead-letter"), None, ["on_death is 'dead-letter'"]),
        (QueueOptions(2, dead_letter="d"), "single", ["dead_letter is 'd'"]),
        (QueueOptions(2, dead_letter="d"), "multi", []),
        (QueueOptions(0, max_redeliveries=2**32), None, ["capacity is 0", "max_redeliveries is"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_queue(
    options: QueueOptions, letter: str | None, refused: list[str]
) -> None:
    """Every option that is wrong, by itself or together with others."""
    found = [str(refusal) for refusal in queue_refusals(options, letter)]  # type: ignore[arg-type]
    assert len(refused) == len(found)
    for start, said in zip(refused, found, strict=True):
        assert said.startswith(start)


def test_the_command_line_and_the_configuration_have_the_same_names() -> None:
    """Every option is one of `shmpool create`, and a key of its table in the configuration."""
    pytest.importorskip("click", reason="shmpool[cli] is not installed")
    from shmpool.cli import create
    from shmpool.service import config

    taken = {text for param in create.command.params for text in param.opts}
    assert {f"--{name.replace('_', '-')}" for name in POOL} <= taken
    assert set(POOL) <= {field.name for field in fields(config.PoolConfig)}
    text = "[pools.rx]\nbuffer_size = 64\ncapacity = 64\n[pools.rx.queue.q]\ncapacity = 2\n"
    pool = config.parse(text).pools["rx"]
    assert QueueOptions(2) == pool.queue["q"]
    assert set(QUEUE) == {field.name for field in fields(pool.queue["q"])}


def test_exist_ok_compares_what_is_given(make_pool: MakePool) -> None:
    """An option that is not given may differ. One that is given must be the same, 0 too."""
    pool = make_pool(headroom=8)
    size = {"buffer_size": pool.buffer_size, "capacity": pool.capacity}
    shmpool.Pool.create(pool.name, **size, exist_ok=True).close()
    with pytest.raises(shmpool.PoolExists, match="exists with headroom 8, not 0"):
        shmpool.Pool.create(pool.name, **size, headroom=0, exist_ok=True)
