# SPDX-License-Identifier: Apache-2.0
"""Burst.spread: each buffer into the queue that its key names, in one call."""

import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Child, Eventually, MakePool, join

import shmpool


def marked(pool: shmpool.Pool, n: int) -> shmpool.Burst:
    """A burst whose marks are 0 to n - 1."""
    burst = pool.alloc_many(n)
    burst.marks = range(n)
    return burst


def queues_of(pool: shmpool.Pool, n: int, capacity: int = 64) -> list[shmpool.AlfQueue]:
    return [pool.create_queue(f"q{i}", capacity=capacity) for i in range(n)]


def marks_in(queue: shmpool.AlfQueue) -> list[int]:
    return [message.mark for message in queue.peek(queue.capacity)]


@pytest.mark.parametrize("dtype", ["u1", "i4", ">u2", "u8", "i8", object])
def test_each_queue_gets_its_own_in_order(pool: shmpool.Pool, dtype: Any) -> None:
    """Key k goes to queues[k % len(queues)]; the burst is released."""
    queues = queues_of(pool, 3)
    keys = np.random.default_rng(1).integers(0, 100, 50)
    burst = marked(pool, 50)
    burst.spread(queues, keys.astype(dtype))
    for i, queue in enumerate(queues):
        assert np.flatnonzero(keys % 3 == i).tolist() == marks_in(queue)
    with pytest.raises(shmpool.BufferReleased):
        len(burst)
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_keys_of_64_bits(pool: shmpool.Pool) -> None:
    """As a list, too, of which numpy alone would make floats."""
    queues = queues_of(pool, 3)
    marked(pool, 4).spread(queues, [2**64 - 1, 2**63, 0, 2**64 - 2])
    assert [[0, 2], [], [1, 3]] == [marks_in(queue) for queue in queues]


def test_an_indirection_table(pool: shmpool.Pool) -> None:
    """A queue that is in the table more than once keeps the order of all its buffers; two objects
    for one queue are that queue."""
    one, two = queues_of(pool, 2)
    burst = marked(pool, 8)
    burst.flow_hashes = np.array([0, 1, 2, 3, 2**32 - 1, 6, 5, 4], "u4")
    burst.spread((one, two, pool.queue("q0"), one), burst.flow_hashes)
    assert ([0, 2, 3, 4, 5, 7], [1, 6]) == (marks_in(one), marks_in(two))


@pytest.mark.parametrize("timeout", [0, 0.03])
def test_what_has_no_room_stays(pool: shmpool.Pool, timeout: float) -> None:
    """Full says how many went; the rest is in the burst, in order, with its elements."""
    queues = queues_of(pool, 3, capacity=2)
    burst = marked(pool, 9)
    elements = [burst[i] for i in (0, 6)]
    hole = burst[3]
    hole.free()
    keys = np.arange(9) % 3
    with pytest.raises(shmpool.Full) as caught:
        burst.spread(queues[:2], keys, timeout=timeout)
    assert (4, "no room in queue 'q0', 'q1': 4 buffers were put, 4 are still in the burst") == (
        caught.value.sent,
        str(caught.value),
    )
    assert ([0, 2], [1, 4]) == (marks_in(queues[0]), marks_in(queues[1]))
    assert [True, False] == [buf.released for buf in elements]
    assert 5 == len(burst)
    assert (4, 4) == (pool.stats().refused, pool.stats().held)
    rest = burst[:]
    assert ([5, 6, 7, 8], True) == (rest.marks.tolist(), rest[1] is elements[1])
    with pytest.raises(shmpool.Full) as caught:
        rest.spread(queues, [2, 2, 1, 2], timeout=timeout)
    assert (2, [7, 8], [5, 6]) == (caught.value.sent, rest.marks.tolist(), marks_in(queues[2]))
    rest.free()
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_more_than_a_queue_ever_holds(pool: shmpool.Pool) -> None:
    """What fits is put: a spread is no bulk."""
    (queue,) = queues_of(pool, 1, capacity=4)
    burst = marked(pool, 10)
    with pytest.raises(shmpool.Full):
        burst.spread([queue], np.zeros(10, int), timeout=0)
    assert ([0, 1, 2, 3], 6) == (marks_in(queue), len(burst))


@pytest.mark.parametrize(
    ("queues", "keys", "kind", "words"),
    [
        ("all", [0, 1], ValueError, "values have shape (2,); allowed are () and (3,)"),
        ("all", 1, ValueError, "keys have shape (); allowed is (3,)"),
        ("all", [0, -1, 1], ValueError, f"keys are -1; allowed are 0 to {2**64 - 1}"),
        ("all", [0, 2**64, 1], ValueError, f"keys are {2**64}; allowed are 0 to {2**64 - 1}"),
        ("all", [0.0, 1.0, 1.0], TypeError, "keys are [0.0, 1.0, 1.0]; they must be ints"),
        ("all", [True, False, True], TypeError, "they must be ints"),
        ("all", "abc", TypeError, "keys are 'abc'; they must be ints"),
        ("none", [0, 1, 2], ValueError, "queues is empty; it must have at least one queue"),
        ("name", [0, 1, 2], TypeError, "'q0' is not a queue of the burst's pool"),
        ("other", [0, 1, 2], TypeError, "is not a queue of the burst's pool"),
        ("one", [0, 1, 2], TypeError, "not iterable"),
        ("closed", [0, 1, 2], ValueError, "queue 'closed' is closed"),
    ],
)
def test_what_is_refused(
    pool: shmpool.Pool, make_pool: MakePool, queues: str, keys: Any, kind: type, words: str
) -> None:
    """Nothing was put then."""
    there = queues_of(pool, 2)
    closed = pool.create_queue("closed", capacity=2)
    closed.close()
    tables: dict[str, Any] = {
        "all": there,
        "none": [],
        "name": [there[0], "q0"],
        "other": [*there, make_pool().create_queue("q0", capacity=2)],
        "one": there[0],
        "closed": [there[0], closed],
    }
    burst = marked(pool, 3)
    with pytest.raises(kind, match=re.escape(words)):
        burst.spread(tables[queues], keys)
    assert (3, 0, 0) == (len(burst), len(there[0]), len(there[1]))
    with pytest.raises(shmpool.InvalidArgument, match="timeout is -1 seconds"):
        burst.spread(there, [0, 0, 0], timeout=-1)


def test_views_and_released_bursts(pool: shmpool.Pool) -> None:
    """Refused before anything is put."""
    queues = queues_of(pool, 2)
    burst = marked(pool, 3)
    view = memoryview(burst[2])
    with pytest.raises(shmpool.BufferInUse):
        burst.spread(queues, [0, 1, 0])
    view.release()
    assert (3, 0) == (len(burst), len(queues[0]))
    burst.free()
    with pytest.raises(shmpool.BufferReleased):
        burst.spread(queues, [0, 1, 0])
    pool.alloc_many(1)[[]].spread(queues, [])


def test_a_full_queue_does_not_delay_the_others(pool: shmpool.Pool, eventually: Eventually) -> None:
    """While the call waits for a queue that nobody reads, the others go on taking."""
    queues = queues_of(pool, 3, capacity=2)
    for queue in queues:
        queue.send_many([b"x"] * 2)
    burst = marked(pool, 6)
    element = burst[0]
    done = threading.Event()

    def spread() -> None:
        burst.spread(queues, [0, 1, 2, 0, 1, 2])
        done.set()

    thread = threading.Thread(target=spread)
    thread.start()
    eventually(lambda: pool.stats().counters["sleep"] >= 1)
    assert (True, "<shmpool.Burst released>") == (element.released, repr(burst))
    for i in (2, 1):
        queues[i].recv_many(2)
        eventually(lambda: 2 == len(queues[i]))  # noqa: B023
        assert [i, i + 3] == marks_in(queues[i])
        assert not done.is_set()
    queues[0].recv_many(2)
    join(thread)
    assert ([0, 3], True) == (marks_in(queues[0]), done.is_set())


def test_a_single_producer_that_is_another_thread(
    pool: shmpool.Pool, start: Callable[..., Child], eventually: Eventually
) -> None:
    """QueueBusy; what other queues have got is gone from the burst, the rest is in it."""
    free = pool.create_queue("free", capacity=8)
    taken = pool.create_queue("taken", capacity=8, producers="single")
    child = start(
        """
        import shmpool, sys
        with shmpool.Pool.attach(sys.argv[1]) as pool:
            pool.queue("taken").send(b"mine")
            print("ready", flush=True)
            sys.stdin.readline()
        """,
        pool.name,
    )
    assert "ready" == child.line()
    burst = marked(pool, 4)
    with pytest.raises(shmpool.QueueBusy, match="queue 'taken' has a single producer: process"):
        burst.spread([free, taken], [0, 1, 0, 1], timeout=0)
    assert ([0, 2], [1, 3], 1) == (marks_in(free), burst.marks.tolist(), len(taken))
    child.kill()

    def spread() -> bool:
        try:
            burst.spread([free, taken], [1, 1], timeout=0)
        except shmpool.QueueBusy:
            return False
        return True

    eventually(spread)  # until it is time to ask for dead members, and the role is free
    assert 3 == len(taken)
