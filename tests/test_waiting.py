# SPDX-License-Identifier: Apache-2.0
"""Blocking calls: what wakes them, what interrupts them, and that without sleepers they cost
nothing."""

import contextlib
import mmap
import os
import platform
import signal
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import DEADLINE_S, Child, Eventually, MakePool, join

import shmpool

Call = Callable[[shmpool.Pool, shmpool.AlfQueue], object]

BLOCKING: dict[str, Call] = {
    "get": lambda pool, queue: queue.get(),
    "recv": lambda pool, queue: queue.recv(timeout=60),
    "get_many": lambda pool, queue: queue.get_many(5),
    "recv_many": lambda pool, queue: queue.recv_many(5, timeout=None),
    "put": lambda pool, queue: queue.put(pool.alloc()),
    "send": lambda pool, queue: queue.send(b"x"),
    "put_many": lambda pool, queue: queue.put_many(pool.alloc_many(2), timeout=60),
    "put_many of a list": lambda pool, queue: queue.put_many([pool.alloc(), pool.alloc()]),
    "spread": lambda pool, queue: pool.alloc_many(2).spread([queue], [0, 0]),
    "send_many": lambda pool, queue: queue.send_many([b"x", b"y"]),
    "alloc": lambda pool, queue: pool.alloc(),
    "alloc_many": lambda pool, queue: pool.alloc_many(2, timeout=60),
}


def blocked(pool: shmpool.Pool, kind: str) -> tuple[shmpool.AlfQueue, object]:
    """A queue on which that call must wait, and the buffers that make it wait."""
    queue = pool.create_queue("q", capacity=4)
    if kind.startswith(("put", "send", "spread")):
        queue.send_many([b"full"] * 4)
    return queue, pool.alloc_many(pool.capacity) if "alloc" in kind else None


BEYOND: dict[str, Call] = {
    "get": lambda pool, queue: queue.get(10**400),
    "recv": lambda pool, queue: queue.recv(10**400),
    "get_many": lambda pool, queue: queue.get_many(5, 10**400),
    "recv_many": lambda pool, queue: queue.recv_many(5, 10**400),
    "put": lambda pool, queue: queue.put(pool.alloc(), 10**400),
    "send": lambda pool, queue: queue.send(b"x", 10**400),
    "put_many": lambda pool, queue: queue.put_many(pool.alloc_many(2), 10**400),
    "put_many of a list": lambda pool, queue: queue.put_many([pool.alloc()], 10**400),
    "spread": lambda pool, queue: pool.alloc_many(2).spread([queue], [0, 0], 10**400),
    "send_many": lambda pool, queue: queue.send_many([b"x", b"y"], 10**400),
    "alloc": lambda pool, queue: pool.alloc(10**400),
    "alloc_many": lambda pool, queue: pool.alloc_many(2, 10**400),
}


@pytest.mark.parametrize("calls", [BLOCKING, BEYOND], ids=["no timeout", "beyond all time"])
@pytest.mark.parametrize("kind", BLOCKING)
def test_close_ends_every_wait(
    pool: shmpool.Pool, eventually: Eventually, kind: str, calls: dict[str, Call]
) -> None:
    """close() in one thread makes a call that waits without limit in another raise PoolClosed."""
    queue, held = blocked(pool, kind)
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            calls[kind](pool, queue)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: pool.stats().counters["sleep"] >= 1)
    pool.close()
    join(thread)
    assert [shmpool.PoolClosed] == [type(error) for error in caught]
    del held


@pytest.mark.parametrize("kind", BLOCKING)
def test_every_wait_ends_when_it_can(pool: shmpool.Pool, eventually: Eventually, kind: str) -> None:
    """Each call that sleeps is woken by what it waits for."""
    queue, held = blocked(pool, kind)
    done = threading.Event()

    def wait() -> None:
        BLOCKING[kind](pool, queue)
        done.set()

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: pool.stats().counters["sleep"] >= 1)
    if "alloc" in kind:
        held.free()  # type: ignore[attr-defined]
    elif kind.startswith(("put", "send", "spread")):
        queue.get_many(2).free()
    else:
        queue.send(b"x")
    join(thread)
    assert done.is_set()


INTERRUPTED = """
    import os, signal, sys, threading, time
    import shmpool

    class Interrupted(Exception):
        pass

    def handler(number, frame):
        raise Interrupted

    kind, how = sys.argv[2:]
    if how == "handler":
        signal.signal(signal.SIGINT, handler)
    pool = shmpool.Pool.attach(sys.argv[1])
    queue = pool.queue("q")
    buf = burst = None
    if kind.startswith(("put", "send", "spread")):
        queue.send_many([b"full"] * 4)
        buf, burst = pool.alloc(), pool.alloc_many(2)
    if "alloc" in kind:
        burst = pool.alloc_many(64)
    call = {
        "get": lambda: queue.get(),
        "recv": lambda: queue.recv(timeout=60),
        "get_many": lambda: queue.get_many(5),
        "recv_many": lambda: queue.recv_many(5),
        "put": lambda: queue.put(buf),
        "send": lambda: queue.send(b"x"),
        "put_many": lambda: queue.put_many(burst),
        "put_many of a list": lambda: queue.put_many([buf, burst]),
        "spread": lambda: burst.spread([queue], [0, 0]),
        "send_many": lambda: queue.send_many([b"x", b"y"]),
        "alloc": lambda: pool.alloc(),
        "alloc_many": lambda: pool.alloc_many(2, timeout=60),
    }[kind]

    def interrupt():
        while pool.stats().counters["sleep"] < 1:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        call()
    except (KeyboardInterrupt, Interrupted) as error:
        print(type(error).__name__)
    thread.join()
    while os.path.exists(f"/proc/self/task/{thread.native_id}"):
        pass
    assert buf is None or not buf.released
    assert burst is None or len(burst)
    audit = pool.audit()
    held = sum(audit.held.values())
    assert audit.ok and held == (buf is not None) + (len(burst) if burst else 0), audit
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", BLOCKING)
@pytest.mark.parametrize(
    ("how", "expected"), [("", "KeyboardInterrupt"), ("handler", "Interrupted")]
)
def test_a_signal_interrupts(
    pool: shmpool.Pool, run: Callable[..., str], kind: str, how: str, expected: str
) -> None:
    """Ctrl-C, or a handler that raises, ends the wait. Nothing was moved and nothing is lost."""
    pool.create_queue("q", capacity=4)
    assert f"{expected}\n" == run(INTERRUPTED, pool.name, kind, how)
    assert {} == pool.audit().held


def test_a_handler_that_returns(
    make_pool: MakePool, start: Callable[..., Child], eventually: Eventually
) -> None:
    """After the handler the call continues to wait, and gets what arrives later."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=4)
    child = start(
        """
        import shmpool, signal, sys
        signal.signal(signal.SIGUSR1, lambda number, frame: print("handled", flush=True))
        with shmpool.Pool.attach(sys.argv[1]) as pool:
            print("ready", flush=True)
            print(pool.queue("q").recv(timeout=None), flush=True)
        """,
        pool.name,
    )
    assert "ready" == child.line()
    for _ in range(3):
        sleeps = pool.stats().counters["sleep"]
        eventually(lambda: pool.stats().counters["sleep"] > sleeps)  # noqa: B023
        child.process.send_signal(signal.SIGUSR1)
        assert "handled" == child.line()
    queue.send(b"at last")
    assert "b'at last'\n" == child.end()


@pytest.mark.slow
def test_no_signal_is_missed(pool: shmpool.Pool, run: Callable[..., str]) -> None:
    """A signal at any moment while the call goes to sleep ends the wait."""
    pool.create_queue("q", capacity=4)
    printed = run(
        """
        import shmpool, signal, sys, time

        class Interrupted(Exception):
            pass

        def handler(number, frame):
            raise Interrupted

        signal.signal(signal.SIGALRM, handler)
        queue = shmpool.Pool.attach(sys.argv[1]).queue("q")
        missed = 0
        for i in range(60):
            end = time.monotonic() + 20
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + i % 80))
                queue.get(timeout=20)
            except Interrupted:
                missed += time.monotonic() >= end  # it was the timeout that ended the wait
            if missed:
                break
        print(missed)
        """,
        pool.name,
    )
    assert "0\n" == printed


def test_a_timeout_outlives_signals(pool: shmpool.Pool, run: Callable[..., str]) -> None:
    """Signals neither end nor prolong a timeout: at its end Empty is raised."""
    pool.create_queue("q", capacity=4)
    printed = run(
        """
        import shmpool, signal, sys
        signal.signal(signal.SIGALRM, lambda number, frame: None)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        queue = shmpool.Pool.attach(sys.argv[1]).queue("q")
        for call in (queue.get, queue.recv, lambda timeout: queue.get_many(3, timeout)):
            try:
                call(timeout=0.2)
            except shmpool.Empty:
                print("Empty")
        signal.setitimer(signal.ITIMER_REAL, 0)
        """,
        pool.name,
    )
    assert "Empty\n" * 3 == printed


SYSCALLS = {  # calls that Python's memory management and the end of the script need
    "x86_64": {"write": 1, "mmap": 9, "munmap": 11, "brk": 12, "mremap": 25, "madvise": 28}
    | {"exit_group": 231},
    "aarch64": {"write": 64, "exit_group": 94, "brk": 214, "munmap": 215, "mremap": 216}
    | {"mmap": 222, "madvise": 233},
}

NO_SYSCALLS = """
    import ctypes, os, resource, struct, sys
    import shmpool

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    allowed = [int(number) for number in sys.argv[3].split(",")]
    pool = shmpool.Pool.attach(sys.argv[1])
    queue = pool.queue("q")

    def work(n):
        for i in range(n):
            buf = pool.alloc()
            buf.write(b"payload")
            queue.put(buf)
            buf = queue.get()
            assert bytes(buf) == b"payload"
            buf.free()
            queue.put_nowait(pool.alloc(timeout=0))
            queue.get_nowait().free()
            queue.send(b"payload")
            assert queue.recv() == b"payload"
            queue.send_many([b"a", b"b"])
            assert queue.recv_many(2) == [b"a", b"b"]
            queue.put_many(pool.alloc_many(8))
            queue.get_many(8).free()

    work(200)
    ALLOW, KILL = 0x7FFF0000, 0x80000000
    program = [(0x20, 0, 0, 0)]  # load the number of the call
    for k, number in enumerate(allowed):
        program.append((0x15, len(allowed) - k, 0, number))
    program += [(0x06, 0, 0, KILL), (0x06, 0, 0, ALLOW)]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code)
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    assert libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero) == 0
    if libc.prctl(22, ctypes.c_ulong(2), header, zero, zero):
        os.write(1, b"no seccomp")
        os._exit(0)
    work(2000)
    if sys.argv[2] == "sleep":
        try:
            queue.get(timeout=0.01)
        except shmpool.Empty:
            pass
    os.write(1, b"done")
    os._exit(0)
"""


@pytest.mark.parametrize("sleep", ["", "sleep"])
def test_no_sleepers_no_system_call(
    make_pool: MakePool, start: Callable[..., Child], sleep: str
) -> None:
    """Under a filter that kills at any system call put, get and the others survive. A wait does
    not."""
    allowed = SYSCALLS.get(platform.machine())
    if allowed is None:
        pytest.skip(f"system call numbers of {platform.machine()} are not listed here")
    pool = make_pool(capacity=256, prealloc=256)
    pool.create_queue("q", capacity=64)
    child = start(NO_SYSCALLS, pool.name, sleep, ",".join(map(str, allowed.values())))
    printed, _ = child.process.communicate(timeout=60)
    if printed == "no seccomp":
        pytest.skip("the kernel has no seccomp filters")
    expected = (-signal.SIGSYS, "") if sleep else (0, "done")
    assert expected == (child.process.returncode, printed)


WAITING_FOR_MORE = """
    import os, signal, sys, threading, time
    import shmpool

    pool = shmpool.Pool.attach(sys.argv[1])
    queue = pool.queue("q")
    if sys.argv[2] == "alloc_many":  # 56 of 64 are free
        held = pool.alloc_many(8)
        call = lambda: pool.alloc_many(60)
    elif sys.argv[2] == "send_many":  # there is room for 1 of 4
        held = None
        call = lambda: queue.send_many([b"x"] * 4)
    else:
        held = pool.alloc_many(4)
        call = lambda: queue.put_many(held)
    signal.signal(signal.SIGALRM, lambda number, frame: 1 // 0)

    def interrupt():
        while pool.stats().counters["sleep"] < 1:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGALRM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        call()
    except ZeroDivisionError:
        print("interrupted")
    thread.join()
    assert pool.audit().ok
"""


@pytest.mark.parametrize("kind", ["alloc_many", "send_many", "put_many"])
def test_a_signal_interrupts_a_wait_for_many(
    pool: shmpool.Pool, run: Callable[..., str], kind: str
) -> None:
    """It ends the wait although some buffers are free, but not enough."""
    pool.create_queue("q", capacity=4).send_many([b"full"] * 3)
    assert "interrupted\n" == run(WAITING_FOR_MORE, pool.name, kind)
    assert {} == pool.audit().held


def test_a_wait_for_many_takes_none(pool: shmpool.Pool, eventually: Eventually) -> None:
    """While a call waits for 60 of 64 buffers with 56 free, calls for fewer find them.

    The call sleeps, and gets its 60 when that many are free.
    """
    held = pool.alloc_many(8)
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(len(pool.alloc_many(60))))
    thread.start()
    eventually(lambda: pool.stats().counters["sleep"] >= 1)
    before = pool.stats().counters["sleep"]
    for i in range(20000):
        pool.alloc_many(1 + i % 56, timeout=0).free()
        pool.alloc(timeout=0).free()
    assert pool.stats().counters["sleep"] - before < 1000
    held.free()
    join(thread)
    assert [60] == got


def test_send_many_sends_what_it_can(pool: shmpool.Pool) -> None:
    """It does not wait for a bulk of buffers, or for room for a bulk. Full says how many were
    sent."""
    queue = pool.create_queue("q", capacity=128)
    with pytest.raises(shmpool.PoolExhausted) as exhausted:
        queue.send_many([b"x"] * 100, timeout=0)
    assert (64, 64) == (exhausted.value.sent, len(queue))
    small = pool.create_queue("small", capacity=4)
    queue.recv_many(64)
    with pytest.raises(shmpool.Full) as full:
        small.send_many([b"%d" % i for i in range(9)], timeout=0)
    assert 4 == full.value.sent
    assert [b"0", b"1", b"2", b"3"] == small.recv_many(9)


def test_behind_a_position_that_is_never_published(make_pool: MakePool) -> None:
    """A call that does not wait finds nothing, or no room, however often it is made."""
    pool = make_pool(capacity=64)
    queue = pool.create_queue("q", capacity=16)
    path = Path(f"/dev/shm/shmpool.{pool.name}")
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        head = struct.pack("<III", 16, 1, 0)  # struct alf_queue: capacity, number, flags
        at = next(i for i in range(0, len(memory), 64) if memory[i : i + 12] == head)
        prod = at + 64
        assert 16 == int.from_bytes(memory[prod : prod + 8], "little")
        memory[prod : prod + 8] = (17).to_bytes(8, "little")
    queue.send_many([b"x"] * 15)
    for _ in range(600):
        assert (None, None) == (queue.try_get(), queue.try_recv())
        for get in (queue.get, queue.recv):
            with pytest.raises(shmpool.Empty):
                get(timeout=0)
        for many in (queue.get_many, queue.recv_many):
            with pytest.raises(shmpool.Empty):
                many(5, timeout=0)
    with pool.alloc() as buf, pytest.raises(shmpool.Full):
        queue.put(buf, timeout=0)
    for payloads in ([b"x"], [b"x"] * 2):
        with pytest.raises(shmpool.Full):
            queue.send_many(payloads, timeout=0)
    with pytest.raises(shmpool.Full):
        queue.send(b"x", timeout=0)
    with pytest.raises(shmpool.Full):
        queue.put_many(pool.alloc_many(2), timeout=0)
    assert 15 == len(queue) - 1


def test_a_timer_does_not_keep_a_sleeper_from_recovery(
    make_pool: MakePool, start: Callable[..., Child]
) -> None:
    """A consumer that waits gets a dead one's message, although signals end each of its sleeps."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=8, on_death="requeue")
    queue.send(b"job")
    child = start(
        """
        import sys, shmpool
        buf = shmpool.Pool.attach(sys.argv[1]).queue("q").get()
        print("got", flush=True)
        sys.stdin.readline()
        """,
        pool.name,
    )
    assert "got" == child.line()

    def kill() -> None:
        while not pool.stats().counters["sleep"]:  # until the receiver sleeps
            time.sleep(0.01)
        child.process.kill()

    killer = threading.Thread(target=kill)
    handler = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        killer.start()
        assert b"job" == queue.recv(timeout=DEADLINE_S)
        join(killer)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


@pytest.fixture
def sharers(make_pool: MakePool, start: Callable[..., Child]) -> shmpool.Pool:
    """A pool of 8 buffers, which 12 processes share: each holds one for 0.2 s, again and again."""
    pool = make_pool(capacity=8, prealloc=8, cache_size=0)
    for _ in range(12):
        start(
            """
            import sys, time, shmpool
            pool = shmpool.Pool.attach(sys.argv[1])
            while True:
                with pool.alloc():
                    time.sleep(0.2)
                time.sleep(0.01)
            """,
            pool.name,
        )
    while pool.stats().held < 8:
        time.sleep(0.01)
    return pool


@pytest.mark.slow
@pytest.mark.parametrize("timer", [0, 0.02])
def test_an_allocation_of_many_has_its_turn(sharers: shmpool.Pool, timer: float) -> None:
    """It gets 6 of 8 buffers although others always hold some: its turn comes and lasts, in
    whatever number of slices the wait is made, and whatever signals come."""
    handler = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, timer, timer)
    try:
        sharers.alloc_many(6, timeout=DEADLINE_S).free()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


@pytest.mark.slow
def test_a_turn_that_ends_with_an_exception(sharers: shmpool.Pool) -> None:
    """A signal handler in the middle of a turn that raises leaves no buffer behind. One that forks
    leaves the parent's buffers to the parent: the child goes on with none of them."""
    parent, children, raised = os.getpid(), list[int](), 0

    def held() -> int:
        return sum(m.held for m in sharers.members() if m.pid == os.getpid())

    def handle(*_: object) -> None:
        if not held():
            return
        if not children:
            children.append(os.fork())
            if not children[0]:
                return  # timers are not inherited
        raise TimeoutError

    handler = signal.signal(signal.SIGALRM, handle)
    try:
        while raised < 3:
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            with contextlib.suppress(TimeoutError):
                burst = sharers.alloc_many(7, timeout=DEADLINE_S)
                if os.getpid() != parent:
                    os._exit(not sharers.audit().ok or held() != 7)
                burst.free()
                continue
            raised += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert 0 == held()
    finally:
        if os.getpid() != parent:
            os._exit(2)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])
    assert sharers.audit().ok
