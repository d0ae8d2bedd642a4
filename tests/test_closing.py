# SPDX-License-Identifier: Apache-2.0
"""The end of a pool during calls of other threads, at exit, in forked children, and in cycles.

No unmapped memory is accessed, and no buffer is lost.
"""

import gc
import os
import platform
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest
from conftest import DEADLINE_S, Child, MakePool, need_wiped_memory

import shmpool

RACE = """
    import random, sys, threading, shmpool
    name, kinds = sys.argv[1], sys.argv[2:]
    sys.setswitchinterval(1e-6)

    def calls(pool, queue, other, burst):
        return {
            "alloc": lambda: pool.alloc(timeout=1),
            "alloc_many": lambda: pool.alloc_many(3, timeout=1),
            "get": lambda: queue.get(timeout=1),
            "get_many": lambda: queue.get_many(4, timeout=1),
            "recv": lambda: queue.recv(timeout=1),
            "recv_many": lambda: queue.recv_many(4, timeout=1),
            "put": lambda: queue.put(pool.alloc(timeout=1), timeout=1),
            "put_many": lambda: queue.put_many(pool.alloc_many(3, timeout=1), timeout=1),
            "send": lambda: queue.send(b"x", timeout=1),
            "large": lambda: other.send(bytes(60000), timeout=1) or other.recv(timeout=1),
            "send_many": lambda: queue.send_many([b"x"] * 300, timeout=1),
            "audit": pool.audit,
            "stats": lambda: (pool.stats(), pool.members(), pool.holders()),
            "recover": pool.recover,
            "trim": pool.trim,
            "queues": lambda: (len(queue), queue.full(), pool.queue("q"), pool.queues()),
            "fields": lambda: [(len(b), b.mark, bytes(b), b.write(b"y")) for b in burst],
            "columns": lambda: (burst.column(0, "u1"), burst.lengths, burst.set_column(0, 1)),
        }

    with shmpool.Pool.attach(name) as kept:
        for number in range(40):
            pool = shmpool.Pool.attach(name)
            queue, other, burst = pool.queue("q"), pool.queue("other"), pool.alloc_many(2)
            every = calls(pool, queue, other, burst)
            started = threading.Barrier(len(kinds) + 1)

            def loop(call):
                started.wait()
                while True:
                    try:
                        call()
                    except shmpool.PoolClosed:
                        return
                    except shmpool.ShmpoolError:
                        pass

            threads = [threading.Thread(target=loop, args=(every[kind],)) for kind in kinds]
            for thread in threads:
                thread.start()
            started.wait()
            for _ in range(random.randrange(2000)):
                pass
            while True:
                try:
                    pool.close()
                    break
                except shmpool.BufferInUse:
                    pass
            for thread in threads:
                thread.join()
            del every, burst
            audit = kept.audit()
            assert audit.ok and not audit.held, audit
"""


@pytest.mark.parametrize(
    "kinds",
    [
        ["get", "get_many", "send", "put_many"],
        ["recv", "recv_many", "put", "send_many"],
        ["alloc", "alloc_many", "large", "trim"],
        ["audit", "stats", "recover", "queues"],
        ["fields", "columns", "send_many", "get"],
    ],
    ids=" ".join,
)
def test_a_close_under_every_call(
    make_pool: MakePool, run: Callable[..., str], kinds: list[str]
) -> None:
    """close() in one thread ends calls of other threads, wherever they are, and the process goes
    on.

    The buffers of those threads are returned.
    """
    pool = make_pool(buffer_size=65536, capacity=64, prealloc=8, members=64, cache_size=0)
    pool.create_queue("q", capacity=8)
    pool.create_queue("other", capacity=8)
    assert "" == run(RACE, pool.name, *kinds)
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_a_long_send_does_not_outlive_its_pool(
    make_pool: MakePool, run: Callable[..., str]
) -> None:
    """send_many keeps the interpreter's lock for longer than a switch interval and then releases
    it.

    The other thread then runs at once and closes the pool.
    """
    pool = make_pool(buffer_size=64, capacity=1 << 16, prealloc=1 << 16)
    pool.create_queue("q", capacity=65536)
    run(
        """
        import shmpool, sys, threading
        pool = shmpool.Pool.attach(sys.argv[1])
        queue, mine = pool.queue("q"), pool.alloc_many(30_000)
        payloads, begun, ends = [b"x"] * 500_000, threading.Event(), []

        def work():
            begun.set()
            try:
                queue.send_many(payloads, timeout=60)
            except (shmpool.PoolClosed, shmpool.PoolExhausted) as error:
                ends.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        begun.wait()
        pool.close()
        thread.join()
        assert len(ends) == 1
        """,
        pool.name,
    )
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_daemon_threads_at_exit(make_pool: MakePool, run: Callable[..., str]) -> None:
    """Buffers that daemon threads own when the interpreter ends are returned."""
    pool = make_pool(buffer_size=64, capacity=1024, prealloc=1024, members=64)
    pool.create_queue("q", capacity=64)
    members = pool.stats().members
    for _ in range(5):
        run(
            """
            import shmpool, sys, threading
            pool = shmpool.Pool.attach(sys.argv[1])
            queue, started = pool.queue("q"), threading.Barrier(5)

            def work(call):
                started.wait()
                try:
                    while True:
                        call()
                except shmpool.PoolClosed:
                    pass

            for call in (
                lambda: queue.put_many(pool.alloc_many(8), timeout=60),
                lambda: queue.get_many(8).free(),
                lambda: queue.send_many([b"x"] * 50),
                lambda: [queue.get() for _ in range(4)],
            ):
                threading.Thread(target=work, args=(call,), daemon=True).start()
            started.wait()
            """,
            pool.name,
        )
        audit = pool.audit()
        assert (True, {}, members) == (audit.ok, audit.held, pool.stats().members)
        assert 1024 == audit.free + audit.cached + sum(audit.queued.values())


AT_EXIT = """
    import multiprocessing.util, sys, threading
    import shmpool

    def waits(kind):
        queue = shmpool.JoinableQueue(1)
        if kind != "get":
            queue.put("never done")
        call = {"get": queue.get, "put": lambda: queue.put("no room"), "join": queue.join}[kind]
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        if sys.argv[2] == "child":  # which would end before the thread can print
            multiprocessing.util.Finalize(None, thread.join, exitpriority=-1)
        while not queue._queue.pool.stats().counters["sleep"]:
            pass

    if sys.argv[2] == "main":
        waits(sys.argv[1])
    else:
        child = multiprocessing.get_context("fork").Process(target=waits, args=(sys.argv[1],))
        child.start()
        child.join()
        assert child.exitcode == 0
"""


def at_exit(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script that must succeed. Its errors are about the end of the process."""
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert (0, "") == (done.returncode, done.stdout), done.stderr
    return done


@pytest.mark.parametrize("where", ["main", "child"])
@pytest.mark.parametrize("kind", ["get", "put", "join"])
def test_daemon_threads_end_silently(kind: str, where: str) -> None:
    """Daemon threads that wait in a drop-in queue when the process ends print nothing, as those of
    multiprocessing do."""
    assert "" == at_exit(AT_EXIT, kind, where).stderr


def test_other_exceptions_at_exit_are_shown() -> None:
    """One of another kind, or of a thread that is no daemon, is shown by the program's hook."""
    script = """
        import atexit, sys, threading

        @atexit.register
        def late():  # registered before shmpool's own handler, so it runs after that
            for daemon, error in ((True, KeyError), (False, shmpool.PoolClosed),
                                  (True, shmpool.PoolClosed)):
                thread = threading.Thread(daemon=daemon)
                raised = error, error("x"), None, thread
                threading.excepthook(threading.ExceptHookArgs(raised))

        def hook(args):
            print(args.exc_type.__name__, args.thread.daemon, file=sys.stderr)

        import shmpool
        threading.excepthook = hook
    """
    assert "KeyError True\nPoolClosed False\n" == at_exit(script).stderr


def test_a_child_of_a_raw_fork_closes(make_pool: MakePool, run: Callable[..., str]) -> None:
    """The child is forked without any hook of the C library while other threads wait in the pool.
    Its close() ends."""
    need_wiped_memory()
    clone = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
    if clone is None:
        pytest.skip(f"the number of clone on {platform.machine()} is not listed here")
    pool = make_pool()
    pool.create_queue("q", capacity=8)
    printed = run(
        """
        import ctypes, os, sys, threading, shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        queue, kept = pool.queue("q"), pool.alloc()
        threads = [threading.Thread(target=queue.recv) for _ in range(3)]
        for thread in threads:
            thread.start()
        while pool.stats().counters["sleep"] < 3:
            pass
        child = ctypes.PyDLL(None).syscall(int(sys.argv[2]), 17, 0, 0, 0, 0)
        if not child:
            pool.alloc().free()
            pool.close()
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), kept.released)
        for _ in range(3):
            queue.send(b"")
        for thread in threads:
            thread.join()
        """,
        pool.name,
        clone,
    )
    assert "7 False\n" == printed
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_a_view_taken_while_the_pool_is_closed(
    make_pool: MakePool, run: Callable[..., str]
) -> None:
    """Either the view is refused or the close is. There is never a view of unmapped memory."""
    pool = make_pool(buffer_size=4096, members=16)
    run(
        """
        import random, sys, threading, shmpool
        sys.setswitchinterval(1e-6)
        for _ in range(40):
            pool = shmpool.Pool.attach(sys.argv[1])
            held = [pool.alloc(), pool.alloc_many(1)[0]]

            def look(buf):
                try:
                    while True:
                        view = buf.data
                        view[0] = view[4095] = 1
                        del view
                        for _ in range(random.randrange(300)):
                            pass
                except shmpool.PoolClosed:
                    pass

            threads = [threading.Thread(target=look, args=(buf,)) for buf in held]
            for thread in threads:
                thread.start()
            while True:
                try:
                    pool.close()
                    break
                except shmpool.BufferInUse:
                    pass
            for thread in threads:
                thread.join()
        """,
        pool.name,
    )
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


@pytest.mark.slow
def test_a_handler_closes_the_pool(make_pool: MakePool, run: Callable[..., str]) -> None:
    """A signal handler that closes the pool ends the wait of its own thread in that pool."""
    pool = make_pool(buffer_size=64)
    pool.create_queue("q", capacity=4)
    printed = run(
        """
        import signal, sys, threading, shmpool
        pool = None
        signal.signal(signal.SIGUSR1, lambda number, frame: pool.close())

        def interrupt(main):
            while pool.stats().counters["sleep"] <= slept:
                pass
            signal.pthread_kill(main, signal.SIGUSR1)

        for kind in ("get", "get_many", "recv", "recv_many", "put", "put_many", "alloc_many"):
            pool = shmpool.Pool.attach(sys.argv[1])
            queue = pool.queue("q")
            if "put" in kind:
                queue.send_many([b"x"] * 4)
            buf, burst = pool.alloc(), pool.alloc_many(2)
            rest = pool.alloc_many(61) if "alloc" in kind else None
            call = {
                "get": queue.get,
                "recv": queue.recv,
                "get_many": lambda: queue.get_many(2),
                "recv_many": lambda: queue.recv_many(2),
                "put": lambda: queue.put(buf),
                "put_many": lambda: queue.put_many(burst),
                "alloc_many": lambda: pool.alloc_many(2),
            }[kind]
            slept = pool.stats().counters["sleep"]
            thread = threading.Thread(target=interrupt, args=(threading.main_thread().ident,))
            thread.start()
            try:
                call()
            except shmpool.PoolClosed:
                print(kind, buf.released)
            thread.join()
            with shmpool.Pool.attach(sys.argv[1]) as pool:
                while len(pool.queue("q")):
                    pool.queue("q").recv()
        """,
        pool.name,
    )
    kinds = ("get", "get_many", "recv", "recv_many", "put", "put_many", "alloc_many")
    assert "".join(f"{kind} True\n" for kind in kinds) == printed
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


@pytest.mark.parametrize("call", ["the same", "a number", "another"])
def test_a_pool_is_initialised_once(make_pool: MakePool, call: str) -> None:
    """__init__ of an open pool is refused, and the pool stays open."""
    pool, other = make_pool(), make_pool()
    buf = pool.alloc()
    again: Any = {"the same": pool._segment, "a number": 5, "another": other._segment}[call]
    with pytest.raises(TypeError, match=r"Pool\.create"):
        pool.__init__(again)  # type: ignore[misc]
    buf.write(b"still here")
    assert b"still here" == bytes(buf)
    buf.free()
    pool.close()
    with pytest.raises(TypeError, match=r"Pool\.create"):
        pool.__init__(again)  # type: ignore[misc]
    assert other.audit().ok


CYCLES: dict[str, Callable[[Any, shmpool.AlfQueue], object]] = {
    "itself": lambda pool, queue: pool,
    "queue": lambda pool, queue: queue,
    "buffer": lambda pool, queue: pool.alloc(),
    "got": lambda pool, queue: (queue.send(b"x"), queue.get()),
    "burst": lambda pool, queue: pool.alloc_many(2),
    "element": lambda pool, queue: pool.alloc_many(2)[1],
    "burst and element": lambda pool, queue: [burst := pool.alloc_many(2), burst[0]],
    "view": lambda pool, queue: pool.alloc().data,
    "method": lambda pool, queue: queue.put,
    "iterator": lambda pool, queue: iter(pool.alloc_many(2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CYCLES)
def test_a_reference_cycle_is_collected(make_pool: MakePool, kind: str) -> None:
    """A pool in a reference cycle ends with the next collection, with its mapping, descriptor and
    members."""
    made = make_pool(members=4)
    made.create_queue("q", capacity=2)
    gc.collect()
    before = len(os.listdir("/proc/self/fd")), made.stats().members
    for _ in range(5):
        pool: Any = shmpool.Pool.attach(made.name)
        pool.alloc().free()
        pool.cycle = CYCLES[kind](pool, pool.queue("q"))
        del pool
        gc.collect()
        gc.collect()
    assert before == (len(os.listdir("/proc/self/fd")), made.stats().members)
    assert (True, {}) == (made.audit().ok, made.audit().held)


def test_an_ended_thread_has_no_role(make_pool: MakePool) -> None:
    """A thread that was a queue's single producer or consumer releases the role when it ends.

    It does so although other threads have a buffer that it got.
    """
    pool = make_pool()
    queue = pool.create_queue("q", capacity=8, producers="single", consumers="single")
    kept: list[shmpool.Buffer] = []

    def work() -> None:
        queue.send(b"1")
        queue.recv()
        kept.append(pool.alloc())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    queue.send(b"2")
    assert b"2" == queue.recv()
    assert not kept[0].released


def test_views_at_the_end_of_a_process(make_pool: MakePool, start: Callable[..., Child]) -> None:
    """A daemon thread writes through a view while its process ends: nobody else gets the buffer
    before the process is gone."""
    pool = make_pool(capacity=2, prealloc=2, cache_size=0)
    child = start(
        """
        import atexit, sys, threading
        # Registered before shmpool's own handler, so it runs after that.
        atexit.register(lambda: (print("left", flush=True), sys.stdin.readline()))
        import shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        view = pool.alloc().data
        def write():
            while True:
                view[:] = b"X" * len(view)
        threading.Thread(target=write, daemon=True).start()
        """,
        pool.name,
    )
    assert "left" == child.line()
    with pytest.raises(shmpool.PoolExhausted):
        pool.alloc_many(2, timeout=0)
    child.send()
    child.end()
    pool.alloc_many(2, timeout=DEADLINE_S).free()  # recovers what the process had
