# SPDX-License-Identifier: Apache-2.0
"""Queue, JoinableQueue and SimpleQueue in place of multiprocessing's."""

import copy
import importlib.util
import json
import multiprocessing
import os
import pickle
import queue
import re
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import cpython_queues
import mp_growth
import numpy as np
import pytest
from conftest import (
    DEADLINE_S,
    METHODS,
    Begin,
    Eventually,
    MakePool,
    at_rest,
    descriptors,
)

import shmpool
from shmpool import _hot
from shmpool.mp import objects, program
from shmpool.options import QUEUE_MAX

DOCS = Path(__file__).resolve().parent.parent / "docs" / "drop-in-queue.md"


pytestmark = pytest.mark.usefixtures("own_memory")


def echo(source: shmpool.Queue, sink: shmpool.Queue) -> None:
    """Puts into sink what it gets from source, until it gets None."""
    while (obj := source.get()) is not None:
        sink.put(obj)


# CPython's own tests.


@pytest.mark.parametrize("method", METHODS)
def test_cpythons_own_tests(method: str) -> None:
    """CPython's tests of its queues pass, except those of what shmpool's do not have."""
    if importlib.util.find_spec("test._test_multiprocessing") is None:
        pytest.skip("CPython's own tests are not installed: Debian's libpython3-testsuite")
    done = subprocess.run(
        [sys.executable, cpython_queues.__file__, method],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert 0 == done.returncode, done.stderr
    lines = [line for line in done.stderr.splitlines() if " ... " in line]
    skipped = {line.split()[0] for line in lines if "skipped" in line}
    assert set(cpython_queues.DEVIATIONS) >= skipped
    assert len(lines) - len(skipped) >= 10
    assert "resource_tracker" not in done.stderr


@pytest.mark.parametrize("name", cpython_queues.DEVIATIONS)
def test_each_deviation_is_documented(name: str) -> None:
    """docs/drop-in-queue.md names each test of CPython that is left out."""
    assert f"`{name}`" in DOCS.read_text()


# Objects.


def test_objects_of_every_kind(context: shmpool.mp.Context, begin: Begin) -> None:
    """What a child process sends back equals what it was sent, in the order of the puts."""
    there, back = context.Queue(), context.Queue()
    process = begin(context, echo, there, back)
    objects: list[Any] = [
        0,
        "text",
        {"a": [1, 2.5, b"x"]},
        b"x" * 70_000,
        [b"y" * 200_000, "z" * 200_000],
        np.arange(10),
        np.arange(100_000).reshape(100, 1000),
        np.asfortranarray(np.eye(500)),
        (np.zeros(3), [np.ones(50_000), np.ones(2_000)], bytearray(9000)),
        np.array(["text", None], object),
    ]
    for obj in objects:
        there.put(obj)
    for obj in objects:
        got = back.get(timeout=DEADLINE_S)
        assert type(obj) is type(got)
        if isinstance(obj, np.ndarray):
            assert np.array_equal(obj, got)
            assert obj.dtype == got.dtype
        else:
            assert repr(obj) == repr(got)
        del got
    there.put(None)
    process.join()
    assert 0 == process.exitcode


def test_an_array_is_read_in_place() -> None:
    """An array that was got has the memory of a buffer, which is in use until its last view dies.

    With copy=True its memory is its own.
    """
    for private in (False, True):
        q = shmpool.Queue(copy=private)
        pool = q._queue.pool
        sent = np.arange(1000)
        q.put((sent, sent[::2].copy()))
        array, half = q.get()
        assert np.array_equal(sent, array)
        assert array.flags.writeable
        assert array.ctypes.data % 64 == 0 or private
        assert private == at_rest(pool)
        view = array[10:20]
        del array, half
        assert private == at_rest(pool)
        view[:] = 7
        del view
        assert at_rest(pool)


def test_one_write_for_each_byte() -> None:
    """The memory that pickle passes out of band is not copied before it is in the buffer."""
    message = shmpool.mp.objects.dumps(sent := np.zeros(1000))
    assert isinstance(message, list)
    views = [part for part in message if isinstance(part, memoryview)]
    assert [sent.ctypes.data] == [np.asarray(view).ctypes.data for view in views]


def test_what_multiprocessing_can_pickle(context: shmpool.mp.Context, begin: Begin) -> None:
    """A Connection goes through the queue, as through multiprocessing's."""
    there, back = context.Queue(), context.Queue()
    begin(context, echo, there, back)
    near, far = multiprocessing.Pipe()
    there.put(far)
    back.get(timeout=DEADLINE_S).send("x")
    assert near.poll(DEADLINE_S)
    assert "x" == near.recv()
    near.close()
    far.close()


def test_a_queue_goes_through_a_queue(context: shmpool.mp.Context, begin: Begin) -> None:
    """A reply queue can be sent to a process that has another queue of the program."""
    there, back = context.Queue(), context.Queue()
    begin(context, answer, there)
    there.put(back)
    assert "here" == back.get(timeout=DEADLINE_S)


def answer(requests: shmpool.Queue) -> None:
    requests.get().put("here")


def test_a_process_without_the_memory(run: Callable[..., str]) -> None:
    """A queue that comes to a process without any queue of the program is an error."""
    import pickle

    q = shmpool.Queue()
    data = pickle.dumps(q)
    copied = pickle.loads(data)
    copied.put(1)
    assert 1 == q.get()
    printed = run(
        """
        import pickle, sys
        try:
            pickle.loads(bytes.fromhex(sys.argv[1]))
        except RuntimeError as error:
            print(error)
        """,
        data.hex(),
    )
    assert "does not have its memory" in printed


# Methods.


def test_maxsize() -> None:
    """A queue holds exactly maxsize objects, whatever number that is."""
    for maxsize in (1, 2, 3, 1000):
        q = shmpool.Queue(maxsize)
        for i in range(maxsize):
            assert not q.full()
            q.put_nowait(i)
        assert q.full()
        assert maxsize == q.qsize()
        for put in (q.put_nowait, lambda obj, q=q: q.put(obj, timeout=0.01)):
            with pytest.raises(queue.Full):
                put(0)
        assert list(range(maxsize)) == q.get_many()
    assert QUEUE_MAX == shmpool.Queue(10**9)._queue.capacity


@pytest.mark.parametrize("number", [int, np.int64, np.uint8, lambda n: n == 1])
def test_numbers_of_any_type(number: Any) -> None:
    """maxsize and timeouts may be numpy's, or other numbers."""
    q = shmpool.Queue(number(1))
    assert 1 == q._queue.capacity
    for obj in (1, np.zeros(5000)):
        for seconds in (Fraction(1, 1000), Decimal("0.001"), np.float32(0.001), np.int8(0)):
            q.put(obj, timeout=seconds)
            with pytest.raises(shmpool.Full):
                q.put(obj, timeout=seconds)
            with pytest.raises(shmpool.Full):
                q.put_many([obj], timeout=seconds)
            q.get(timeout=seconds)
            with pytest.raises(shmpool.Empty):
                q.get(timeout=seconds)


@pytest.mark.parametrize("maxsize", [None, "3", 3.0, np.float64(3), float("nan"), [3]])
def test_no_maxsize(maxsize: Any) -> None:
    """It must be an integer, also while a queue of that size is kept to be used again."""
    shmpool.Queue(3)
    with pytest.raises(TypeError, match=r"^maxsize is "):
        shmpool.Queue(maxsize)


def test_empty_and_negative_timeouts() -> None:
    """get() raises queue.Empty; a negative timeout is 0, as in multiprocessing."""
    q = shmpool.Queue(1)
    assert q.empty()
    for options in ({"block": False}, {"timeout": 0}, {"timeout": -5}, {"timeout": 0.01}):
        with pytest.raises(queue.Empty):
            q.get(**options)
    q.put(1)
    with pytest.raises(queue.Full):
        q.put(2, timeout=-5)


def test_a_full_memory_is_full(make_pool: MakePool) -> None:
    """put() raises Full when no buffer is free, and waits for one until there is one."""
    pool = make_pool(buffer_size=8192, capacity=2)
    q = shmpool.Queue(pool=pool)
    q.put(1)
    q.put(np.zeros(800))
    for obj in (2, np.zeros(800)):
        with pytest.raises(queue.Full):
            q.put(obj, block=False)
        with pytest.raises(queue.Full):
            q.put(obj, timeout=0.01)
    with pytest.raises(shmpool.Full) as caught:
        q.put_many([3, 4], timeout=0.01)
    assert 0 == caught.value.sent
    waiting = threading.Thread(target=q.put, args=(np.ones(800),))
    waiting.start()
    assert 1 == q.get()
    waiting.join(DEADLINE_S)
    assert [0.0, 1.0] == [float(q.get()[0]) for _ in range(2)]


def test_an_object_that_no_buffer_holds(make_pool: MakePool) -> None:
    """It goes into several; what the whole pool has no room for is PayloadTooLarge."""
    q = shmpool.Queue(pool=make_pool())
    for obj in (b"x" * 300, b"x" * 5000, np.arange(1000), [np.arange(700), "and", np.arange(600)]):
        q.put(obj)
        assert pickle.dumps(obj) == pickle.dumps(q.get())
    room = q._queue.pool.geometry.room
    for obj in (b"x" * room, np.zeros(room)):
        with pytest.raises(shmpool.PayloadTooLarge):
            q.put(obj)
    assert q.empty()
    assert at_rest(q._queue.pool)


def test_many_at_once() -> None:
    """put_many() and get_many() move small and large objects together, in order."""
    q = shmpool.Queue()
    objects: list[Any] = [1, "two", np.arange(2000), b"4" * 5000, np.arange(3000), 6]
    q.put_many(objects)
    q.put_many([])
    got = q.get_many(3)
    assert [1, "two"] == got[:2]
    assert 2000 == len(got[2])
    assert [5000, 3000] == [len(obj) for obj in q.get_many(2)]
    assert [6] == q.get_many(100)
    with pytest.raises(queue.Empty):
        q.get_many(1, block=False)
    small = shmpool.Queue(3)
    with pytest.raises(shmpool.Full) as caught:
        small.put_many(range(5), block=False)
    assert 3 == caught.value.sent
    assert [0, 1, 2] == small.get_many()


@pytest.mark.parametrize("n", [0, -1, "2", 2.5, None])
def test_no_number_of_objects(n: Any) -> None:
    """get_many() refuses it, and takes nothing."""
    q = shmpool.Queue()
    q.put(1)
    with pytest.raises((shmpool.InvalidArgument, TypeError), match="n is"):
        q.get_many(n, False)
    assert [1] == q.get_many(np.int64(2), False)


def test_a_closed_queue() -> None:
    """close() is for this object only: another one of the queue goes on."""
    q = shmpool.Queue()
    other = copy.copy(q)
    q.put(1)
    q.close()
    q.join_thread()
    q.cancel_join_thread()
    for call in (lambda: q.put(1), q.get, q.get_nowait, lambda: q.put(np.zeros(1000))):
        with pytest.raises(ValueError, match="is closed"):
            call()
    for call in (lambda: q.put_many([1]), q.get_many):
        with pytest.raises(ValueError, match="is closed"):
            call()
    with pytest.raises(OSError, match="is closed"):
        q.empty()
    assert 1 == other.get()


def test_a_context_has_the_rest_of_multiprocessing() -> None:
    """A context is multiprocessing's but for the queues."""
    context = shmpool.get_context("spawn")
    assert context.Queue is shmpool.Queue
    assert context.Process is multiprocessing.get_context("spawn").Process
    assert "spawn" == context.get_start_method()
    assert "fork" == context.get_context("fork").get_start_method()
    assert context is context.get_context()
    assert repr(context).startswith("<shmpool.mp.Context of Spawn")
    with pytest.raises(ValueError, match="cannot find context"):
        shmpool.get_context("none")
    with context.Pool(1) as pool:
        assert [1, 2] == pool.map(abs, [-1, 2])


def test_subclasses_and_generic_aliases() -> None:
    """A class of the program's own passes through a process; Queue[int] is an annotation."""
    assert shmpool.Queue == shmpool.Queue[int].__origin__
    q = Own()
    q.put(1)
    assert 1 == copy.copy(q).get()
    assert "<shmpool.Own" in repr(q)


class Own(shmpool.Queue):
    pass


# Tasks.


def work(tasks: shmpool.JoinableQueue, stuck: Any, fail_at: int) -> None:
    """Does tasks. Stops at one number, and says so, for the parent to kill it."""
    while True:
        if tasks.get() == fail_at:
            stuck.set()
            signal.pause()
        tasks.task_done()


def test_join_waits_for_every_task(context: shmpool.mp.Context, begin: Begin) -> None:
    """join() returns when all tasks are done, and what is unfinished is exact until then."""
    tasks = context.JoinableQueue()
    for i in range(100):
        tasks.put(i)
    assert 100 == tasks.unfinished
    assert not tasks.join(timeout=0)
    never = context.Event()
    begin(context, work, tasks, never, -1)
    begin(context, work, tasks, never, -1)
    tasks.join()
    assert 0 == tasks.unfinished
    assert tasks.join(timeout=0)


@pytest.mark.parametrize("on_death", ["requeue", "free"])
def test_tasks_of_a_worker_that_is_killed(
    context: shmpool.mp.Context, begin: Begin, on_death: shmpool.OnDeath
) -> None:
    """Its unfinished tasks go to another worker, or count as done; join() returns either way."""
    tasks, stuck = context.JoinableQueue(on_death=on_death), context.Event()
    for i in range(10):
        tasks.put(i)
    killed = begin(context, work, tasks, stuck, 4)
    assert stuck.wait(DEADLINE_S)
    assert 6 == tasks.unfinished
    killed.kill()
    killed.join()
    left = []
    if on_death == "requeue":
        for _ in range(6):
            left.append(tasks.get())
            assert not tasks.join(timeout=0)
            tasks.task_done()
        assert [5, 6, 7, 8, 9, 4] == left
    else:
        for _ in range(5):
            left.append(tasks.get())
            tasks.task_done()
    tasks.join()
    assert 0 == tasks.unfinished


def leave_tasks(queues: list[shmpool.JoinableQueue], said: shmpool.Queue, how: str) -> None:
    """Gets an object of each and ends, in one way or another, without task_done()."""
    kept.extend(tasks.get() for tasks in queues)
    said.put("got")
    if how == "the queues live longest":
        kept.extend(queues)
    if how == "exit":
        sys.exit(3)
    if how == "exception":
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - it is written at the end
        raise ValueError


kept: list[Any] = []


@pytest.mark.parametrize("how", ["return", "the queues live longest", "exit", "exception"])
@pytest.mark.parametrize("method", METHODS)
def test_a_worker_that_ends(begin: Begin, make_pool: MakePool, method: str, how: str) -> None:
    """Its unfinished tasks are another worker's, or done, as when it is killed."""
    pool = make_pool(buffer_size=256, capacity=1024)  # for chains
    objs = ["small", np.arange(10_000), b"chain" * 1000] * 2
    queues = [
        shmpool.JoinableQueue(pool=pool if type(obj) is bytes else None, on_death=on_death)
        for obj, on_death in zip(objs, ["requeue"] * 3 + ["free"] * 3, strict=True)
    ]
    said = shmpool.Queue()
    for tasks, obj in zip(queues, objs, strict=True):
        tasks.put(obj)
    worker = begin(shmpool.get_context(method), leave_tasks, queues, said, how)
    assert "got" == said.get(timeout=DEADLINE_S)
    worker.join()
    for tasks, obj in zip(queues[:3], objs, strict=False):
        assert not tasks.join(0)
        assert np.array_equal(obj, tasks.get(timeout=DEADLINE_S))
        tasks.task_done()
    for tasks in queues:
        assert tasks.join(DEADLINE_S)
        assert tasks.empty()


def test_tasks_are_the_process_s() -> None:
    """Whichever object of the queue has got an object, any of them may say that it is done."""
    tasks = shmpool.JoinableQueue()
    carrier = shmpool.Queue()
    carrier.put(tasks)
    same = carrier.get()
    tasks.put("one")
    tasks.put("two")
    same.get()
    del same
    assert 2 == tasks.unfinished
    carrier.put(tasks)
    same = carrier.get()
    tasks.task_done()
    tasks.get()
    same.task_done()
    with pytest.raises(ValueError, match="too many times"):
        same.task_done()
    assert tasks.join(0)


def test_task_done_too_often() -> None:
    """task_done() raises ValueError if this process has got nothing that is not done."""
    tasks = shmpool.JoinableQueue()
    with pytest.raises(ValueError, match="too many times"):
        tasks.task_done()
    tasks.put(1)
    tasks.get()
    tasks.task_done()
    with pytest.raises(ValueError, match="too many times"):
        tasks.task_done()


def test_a_task_is_done_while_its_array_lives() -> None:
    """task_done() counts at once; the memory is free when the array is gone."""
    tasks = shmpool.JoinableQueue()
    tasks.put(np.ones(1000))
    array = tasks.get()
    assert 1 == tasks.unfinished
    tasks.task_done()
    assert 0 == tasks.unfinished
    assert tasks.join(timeout=0)
    assert 1000.0 == array.sum()
    assert not at_rest(tasks._queue.pool)
    del array
    assert at_rest(tasks._queue.pool)


def test_a_forked_child_has_no_tasks_of_its_parent(begin: Begin) -> None:
    """A child cannot finish a task that its parent got."""
    context = shmpool.get_context("fork")
    tasks, said = context.JoinableQueue(), context.Queue()
    tasks.put(1)
    tasks.get()
    begin(context, finish_another, tasks, said)
    assert "too many" == said.get(timeout=DEADLINE_S)
    assert 1 == tasks.unfinished
    tasks.task_done()


def finish_another(tasks: shmpool.JoinableQueue, said: shmpool.Queue) -> None:
    try:
        tasks.task_done()
    except ValueError:
        said.put("too many")


# The memory.


def test_what_put_returned_from_is_in_the_queue(
    context: shmpool.mp.Context, begin: Begin, eventually: Eventually
) -> None:
    """A putter that is killed right after put() has put everything."""
    q = context.Queue()
    process = begin(context, put_and_die, q)
    process.join()
    assert -signal.SIGKILL == process.exitcode
    assert list(range(1000)) == [q.get_nowait() for _ in range(1000)]


def put_and_die(q: shmpool.Queue) -> None:
    for i in range(1000):
        q.put(i)
    os.kill(os.getpid(), signal.SIGKILL)


def test_queues_share_memory() -> None:
    """Queues of a program are in one pool; one that nobody else knows is used again."""
    first = shmpool.Queue()
    queues = [shmpool.Queue(8) for _ in range(300)]
    pools = {id(q._queue.pool) for q in queues}
    assert {id(first._queue.pool)} == pools
    before = descriptors(os.getpid())
    for _ in range(3 * program.QUEUES):
        q = shmpool.Queue(77)
        q.put(b"left in it")
        del q
    assert before == descriptors(os.getpid())
    assert shmpool.Queue(77).empty()


@pytest.mark.parametrize("first", [shmpool.Queue, shmpool.JoinableQueue])
def test_a_queue_used_again_has_no_tasks(first: type[shmpool.Queue]) -> None:
    """An object that outlives the queue it came from is no task of a later queue."""
    on_death = first()._on_death
    kept = []
    for done in (False, True):
        q = first()
        q.put(np.zeros(10_000))
        kept.append(q.get())
        if done and isinstance(q, shmpool.JoinableQueue):
            q.task_done()
        name = q._queue.name
        del q
        later = shmpool.JoinableQueue(on_death=on_death)
        assert name == later._queue.name
        assert 0 == later.unfinished
        assert later.join(0)
        later.put("task")
        assert 1 == later.unfinished
        later.get()
        later.task_done()
        assert later.join(0)
        del later


def test_queues_of_many_capacities(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept to be used again keeps no pool but the newest."""
    monkeypatch.setattr(program, "QUEUES", 8)
    shmpool.Queue()
    before = descriptors(os.getpid())
    kept = [shmpool.Queue(capacity) for capacity in range(1, 60)]
    del kept
    for capacity in range(60, 200):
        shmpool.Queue(capacity)
    assert before == descriptors(os.getpid())


def test_a_signal_handler_makes_a_queue() -> None:
    """Also while its thread makes one."""
    made: list[shmpool.Queue] = []

    def interrupt(frame: types.FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_name == "create_queue":
            sys.setprofile(None)
            made.append(shmpool.Queue(3))

    def make() -> None:
        sys.setprofile(interrupt)
        made.append(shmpool.Queue(4))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    for q in made:
        q.put(1)
    assert [3, 4] == [q._queue.capacity for q in made]


def test_thousands_of_queues() -> None:
    """Several thousand queues at once, each with its own objects."""
    queues = [shmpool.Queue(4) for _ in range(4096)]
    for i, q in enumerate(queues):
        q.put(i)
    assert list(range(4096)) == [q.get() for q in queues]


def test_a_large_object_leaves_nothing_behind() -> None:
    """The table of its parts, which a pickler never makes smaller, is gone after put()."""
    made = []

    def make() -> tuple[Any, ...]:
        made.append(objects._pickler())
        return made[-1]

    _hot.use_pickler(make, objects._message)
    try:
        q = shmpool.Queue()
        for obj in ([str(i) for i in range(10_000)], [(str(i),) for i in range(1000)], "a", "b"):
            q.put(obj)
            assert obj == q.get()
    finally:
        _hot.use_pickler(objects._pickler, objects._message)
    assert 2 == len(made)  # one after each of the large ones, used again for what follows


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a /dev/shm of its own")
def test_nothing_grows() -> None:
    """A million objects there and back, of which some are arrays, leave no name and no descriptor,
    and less than a byte of memory each, in both processes together. The pool grows by two extents
    of arrays at most, as the processes happen to cache free buffers."""
    mount = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, mp_growth.__file__],
        capture_output=True,
        text=True,
        timeout=20 * DEADLINE_S,
    )
    assert (0, "") == (done.returncode, done.stderr)
    first, last = json.loads(done.stdout)
    assert first["names"] == last["names"] == 0
    assert first["files"] == last["files"]
    assert last["private"] - first["private"] < 1_000_000, (first, last)
    assert last["pool"] - first["pool"] < 3_000_000, (first, last)


PROGRAM = """
import os, signal, sys, time
import shmpool

def work(q, done):
    q.put(b"x" * 100_000)
    done.put(os.getpid())
    signal.pause()

if __name__ == "__main__":
    context = shmpool.get_context(sys.argv[1])
    q, done = context.Queue(), context.Queue()
    children = [context.Process(target=work, args=(q, done)) for _ in range(2)]
    for child in children:
        child.start()
    print(*[done.get() for _ in children], flush=True)
    if sys.argv[2] == "wait":
        signal.pause()
    for child in children:
        child.kill()
        child.join()
"""


@pytest.mark.parametrize("end", ["exit", "wait"])
@pytest.mark.parametrize("method", METHODS)
def test_the_memory_ends_with_its_last_user(
    method: str, end: str, tmp_path: Path, eventually: Eventually
) -> None:
    """Nothing is left in /dev/shm at any time, no descriptor or process is left, and the resource
    tracker warns of nothing; also if every process is killed."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, script, method, end],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    children = [int(pid) for pid in process.stdout.readline().split()]
    named = ""
    if end == "wait":
        for pid in (process.pid, *children):
            named += "".join(
                re.findall("/dev/shm/shmpool.*", Path(f"/proc/{pid}/maps").read_text())
            )
        process.kill()
        for pid in children:
            os.kill(pid, signal.SIGKILL)
    _, said = process.communicate(timeout=DEADLINE_S)
    assert "" == said == named
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in children))
