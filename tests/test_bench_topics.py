# SPDX-License-Identifier: Apache-2.0
"""clients.bench.topics: every message is checked, and each contestant that is installed runs."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from clients.bench import topics
from clients.bench.topic_contestant import Contestant, Spec
from clients.bench.topic_contestants import CONTESTANTS, Kickmsg, QueueEach
from clients.bench.topic_runs import Check, held_up, latency, receive_until, throughput

pytestmark = [
    pytest.mark.timeout(600),  # however busy the machine is
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
FOREIGN = {"iceoryx2", "kickmsg"}


def marked(kind: type[Contestant]) -> object:
    """Marks a contestant whose library comes neither with Python nor with shmpool."""
    marks = [pytest.mark.contestants] if kind.module in FOREIGN else []
    return pytest.param(kind, marks=marks, id=kind.name)


ALL = [marked(kind) for kind in CONTESTANTS]


@pytest.fixture
def spec(request: pytest.FixtureRequest) -> Iterator[Spec]:
    """A run with two subscribers. Fails if it leaves a file."""
    name = f"test-topics-{abs(hash(request.node.nodeid)) % 10**8}"
    yield Spec(name, size=64, depth=64, subscribers=2)
    assert [] == [*Path("/dev/shm").glob(f"*{name}*"), *Path("/tmp").glob(f"*{name}*")]


def checked(*numbers: int) -> Check:
    check = Check(expected=10)
    for n in numbers:
        check.one(n, n)
    return check


def test_check_one() -> None:
    """What is missing is lost; what is repeated, old or not whole is wrong."""
    assert Check(expected=13, received=3) == checked(10, 11, 12)
    assert Check(expected=15, received=2, lost=3) == checked(11, 14)
    assert Check(expected=12, received=2, wrong=2) == checked(10, 10, 11, 3)
    torn = checked(10)
    torn.one(11, 10)
    assert Check(expected=11, received=1, wrong=1) == torn


@pytest.mark.parametrize("kind", [tuple, lambda numbers: np.array(numbers, np.uint64)])
@pytest.mark.parametrize(
    "numbers", [(10, 11, 12), (11, 14), (10, 10, 11), (12, 11), (10, 12, 12)], ids=str
)
def test_check_many(numbers: tuple[int, ...], kind: Callable[[tuple[int, ...]], Any]) -> None:
    """Many numbers are checked as one after the other is."""
    check = Check(expected=10)
    check.many(kind(numbers), kind(numbers))
    assert checked(*numbers) == check
    torn = Check(expected=10)
    torn.many(kind(numbers), kind((*numbers[:-1], 99)))
    assert check.wrong <= torn.wrong
    assert 1 <= torn.wrong


def test_check_until_it_is_over() -> None:
    """What had not come when the publisher had ended and nothing more came is lost."""
    coming, ends = (
        iter([(0, 0), None, (1, 1), None, (3, 3), None, None]),
        iter([False, False, True]),
    )
    check = Check()
    receive_until(lambda: next(coming), check, 9, False, lambda: next(ends))
    assert Check(expected=9, received=3, lost=6) == check


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("size", [64, 2**16])
def test_throughput(kind: type[Contestant], size: int, spec: Spec) -> None:
    """Every message comes, in order and whole, or is counted as lost by one that may lose it."""
    moved = throughput(kind, Spec(spec.name, size, spec.depth, spec.subscribers), 500)
    assert moved
    assert 0 == moved.wrong
    assert kind.loses or 0 == moved.lost
    assert moved.seconds > 0
    assert moved.used > 0


@pytest.mark.parametrize("kind", [marked(kind) for kind in CONTESTANTS if not kind.many])
def test_latency(kind: type[Contestant], spec: Spec) -> None:
    """Each of the messages has a time."""
    times = latency(kind, spec, 20)
    assert times
    assert 20 == len(times)
    assert min(times) > 0


@pytest.mark.contestants
def test_held_up(spec: Spec) -> None:
    """A publisher that does not wait for its subscribers goes on when one is killed."""
    assert held_up(Kickmsg, spec, random.Random(1), 60).after < float("inf")


def test_stopped(spec: Spec) -> None:
    """One that waits for the killed subscriber is said to have stopped."""
    assert float("inf") == held_up(QueueEach, spec, random.Random(1), 0.5).after


@pytest.mark.contestants
def test_command() -> None:
    """The command prints a line for each contestant, for each of what it measures."""
    arguments = "--turns 1 --scale 0.01 --to 2 --size 64 --kills 1 --limit 0.5"
    result = CliRunner().invoke(topics.main, arguments.split(), catch_exceptions=False)
    assert 0 == result.exit_code, result.output
    for kind in CONTESTANTS:
        lines = [
            line for line in result.output.splitlines() if line.startswith(f"  {kind.name:16} ")
        ]
        assert (2 if kind.many else 3) == len(lines), result.output
