# SPDX-License-Identifier: Apache-2.0
"""Recovery: real processes are killed with SIGKILL, and other processes recover their buffers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

import shmpool
from shmpool.pruning import survey
from tests.conftest import DEADLINE_S, Child, Eventually, MakePool, need_own_stat
from tests.fuzz_words import Segment

Start = Callable[..., Child]

HOLDS = """
    import sys
    import shmpool
    pool = shmpool.Pool.attach(sys.argv[1])
    held = pool.alloc_many(int(sys.argv[2]))
    got = [pool.queue(name).get_many(64, timeout=0) for name in sys.argv[3:]]
    print(len(held), flush=True)
    sys.stdin.readline()
"""


def hold(start: Start, pool: shmpool.Pool, n: int, *queues: str) -> Child:
    """A process that owns n buffers of the pool, or all that are in a queue."""
    child = start(HOLDS, pool.name, n, *queues)
    child.line()
    return child


def all_back(pool: shmpool.Pool) -> bool:
    """True if every buffer is free or queued, and counted once."""
    audit = pool.audit()
    return audit.ok and not audit.held


def test_buffers_of_a_dead_member(make_pool: MakePool, start: Start) -> None:
    """Its buffers, in the local cache and outside, are free again. So is its member slot."""
    pool = make_pool(capacity=256, prealloc=256)
    children = [hold(start, pool, n) for n in (1, 30, 7)]
    assert 3 == len(pool.members())
    for child in children:
        child.kill()
    done = pool.recover()
    assert (3, 0, 0) == (done.members, done.postponed, done.unknown)
    assert done.buffers >= 1 + 30 + 7
    assert all_back(pool)
    assert 256 == len(pool.alloc_many(256, timeout=0))
    assert (1, 3) == (len(pool.members()), pool.stats().recovered)
    assert 0 == pool.recover().members


def test_a_zombie_is_dead(make_pool: MakePool, start: Start) -> None:
    """A killed process that has not been reaped yet owns nothing."""
    pool = make_pool()
    child = hold(start, pool, 5)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert 1 == pool.recover().members
    assert all_back(pool)


def test_a_first_thread_that_ended_is_not_dead(make_pool: MakePool, start: Start) -> None:
    """A process lives while any of its threads does, although the kernel calls it a zombie."""
    need_own_stat()
    pool = make_pool()
    child = start(
        """
        import ctypes, os, sys, threading
        from pathlib import Path
        import shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        def work():
            while b") Z " not in Path("/proc/self/stat").read_bytes():
                pass
            held = pool.alloc_many(5)
            print(flush=True)
            sys.stdin.readline()
        threading.Thread(target=work).start()
        exit = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
        ctypes.CDLL(None).syscall(exit, 0)  # of the first thread alone
        """,
        pool.name,
    )
    child.line()
    assert 0 == pool.recover().members
    assert [("alive", 5)] == [(h.state, h.buffers) for h in pool.holders()]
    child.kill()
    assert 1 == pool.recover().members
    assert all_back(pool)


def test_a_stopped_process_is_alive(make_pool: MakePool, start: Start) -> None:
    """However long it is suspended, it keeps its buffers."""
    need_own_stat()
    pool = make_pool()
    child = hold(start, pool, 5)
    os.kill(child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert (0, 0) == (pool.recover().members, pool.recover().buffers)
    assert [("stopped", 5)] == [(h.state, h.buffers) for h in pool.holders()]
    os.kill(child.pid, signal.SIGCONT)
    child.send()
    child.end()
    assert all_back(pool)


def test_a_recycled_pid_is_not_its_predecessor(make_pool: MakePool, start: Start) -> None:
    """A process that has the pid of a dead member does not keep that member alive."""
    pool = make_pool()
    child = hold(start, pool, 5)
    child.kill()
    try:
        for _ in range(64):  # other programs fork too
            with open("/proc/sys/kernel/ns_last_pid", "w") as last:
                last.write(str(child.pid - 1))
            sleeper = subprocess.Popen(["sleep", "60"])
            if sleeper.pid == child.pid:
                break
            sleeper.kill()
            sleeper.wait()
        else:
            pytest.skip("the pid was not to be had again")
    except OSError as error:
        pytest.skip(f"pids cannot be chosen here: {error}")
    try:
        assert ["dead"] == [h.state for h in pool.holders()]
        assert 1 == pool.recover().members
        assert all_back(pool)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_another_pid_namespace(make_pool: MakePool, start: Start) -> None:
    """A member of another PID namespace counts as live, and is recovered when it dies.

    So is one whose whole namespace is killed. The same holds in the other direction.
    """
    if subprocess.run(["unshare", "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("no permission to make a PID namespace")
    pool = make_pool()
    child = start(
        """
        import os, sys, textwrap
        inside = '''
        import shmpool, signal, sys
        pool = shmpool.Pool.attach(sys.argv[1])
        held = pool.alloc_many(5)
        print(pool.recover().members, flush=True)
        signal.pause()  # the end of stdin is not its end
        '''
        os.execvp("unshare", ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
                              sys.executable, "-c", textwrap.dedent(inside), sys.argv[1]])
        """,
        pool.name,
    )
    mine = pool.alloc()  # a member of this namespace, which the other one must see as live too
    assert "0" == child.line()
    done = pool.recover()
    assert (0, 0) == (done.members, done.unknown)
    assert [("alive", 1), ("alive", 5)] == sorted((h.state, h.buffers) for h in pool.holders())
    child.kill()  # and --kill-child the namespace
    until_recovered(pool)
    mine.free()
    assert all_back(pool)


def until_recovered(pool: shmpool.Pool) -> None:
    """Recovers until one dead member was found. The processes of a namespace end a moment after its
    first."""
    give_up = time.monotonic() + DEADLINE_S
    while not pool.recover().members:
        assert time.monotonic() < give_up, "no member is dead"
        time.sleep(0.001)


def test_exec_is_the_end_of_a_member(make_pool: MakePool, start: Start) -> None:
    """A process that executes another program keeps pid and start time, and is dead as a member."""
    pool = make_pool()
    child = start(
        """
        import os, sys
        import shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        held = pool.alloc_many(5)
        os.execv("/bin/cat", ["cat"])
        """,
        pool.name,
    )
    child.send("here")
    assert "here" == child.line()  # from cat
    assert child.process.poll() is None
    assert 1 == pool.recover().members
    assert all_back(pool)
    child.process.communicate()


def test_exec_and_attach_again(make_pool: MakePool, start: Start) -> None:
    """Buffers that a program left before exec are recovered although the new program attaches
    too."""
    pool = make_pool()
    child = start(
        """
        import os, sys
        import shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        held = pool.alloc_many(5)
        if len(sys.argv) > 2:
            print(len(pool.members()), flush=True)
            sys.stdin.readline()
        else:
            code = open("/proc/self/cmdline").read().split("\\0")[4]
            os.execv(sys.executable, [sys.executable, "-c", code, sys.argv[1], "again"])
        """,
        pool.name,
    )
    assert "2" == child.line()
    assert 1 == pool.recover().members
    assert {5} == set(pool.audit().held.values())
    child.send()
    child.end()
    assert all_back(pool)


def fill(pool: shmpool.Pool, queue: shmpool.AlfQueue, n: int) -> None:
    for i in range(n):
        queue.send(b"%d" % i)


def test_on_death_free(make_pool: MakePool, start: Start) -> None:
    """By default a dead consumer's buffers are freed."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=8)
    assert ("free", None, 0) == (queue.on_death, queue.dead_letter, queue.max_redeliveries)
    fill(pool, queue, 3)
    hold(start, pool, 1, "q").kill()
    done = pool.recover()
    assert (1, 0) == (done.members, done.requeued)
    assert (0, True) == (len(queue), all_back(pool))


def test_on_death_requeue(make_pool: MakePool, start: Start) -> None:
    """They return to the queue they came from, each once, and the redelivery is counted."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=8, on_death="requeue")
    other = pool.create_queue("other", capacity=8)
    fill(pool, queue, 3)
    fill(pool, other, 2)
    for queues in (["q", "other"], ["q"]):
        hold(start, pool, 1, *queues).kill()
        assert 3 == pool.recover().requeued
    assert (3, 0, True) == (len(queue), len(other), all_back(pool))
    got = [queue.get(timeout=0) for _ in range(3)]
    assert {(b"0", 2), (b"1", 2), (b"2", 2)} == {(bytes(b), b.redelivered) for b in got}


def test_a_freed_buffer_is_not_redelivered(make_pool: MakePool, start: Start) -> None:
    """A buffer that a dead member had freed or forwarded is not redelivered."""
    pool = make_pool(capacity=256, prealloc=256)
    queue = pool.create_queue("q", capacity=64, on_death="requeue")
    done = pool.create_queue("done", capacity=64)
    fill(pool, queue, 30)
    child = start(
        """
        import sys
        import shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        q, done = pool.queue("q"), pool.queue("done")
        for i in range(10):
            q.get().free()
            done.put(q.get())
        kept = [q.get() for _ in range(5)] + [pool.alloc() for _ in range(20)]
        print(len(kept), flush=True)
        sys.stdin.readline()
        """,
        pool.name,
    )
    child.line()
    child.kill()
    assert 5 == pool.recover().requeued
    assert (10, 10, True) == (len(queue), len(done), all_back(pool))


def test_dead_letter(make_pool: MakePool, start: Start) -> None:
    """With on_death="dead-letter" they go to the named queue."""
    pool = make_pool()
    letters = pool.create_queue("letters", capacity=8)
    queue = pool.create_queue("q", capacity=8, on_death="dead-letter", dead_letter="letters")
    fill(pool, queue, 3)
    hold(start, pool, 1, "q").kill()
    done = pool.recover()
    assert (3, 0) == (done.dead_lettered, done.requeued)
    assert (0, [b"0", b"1", b"2"]) == (len(queue), sorted(letters.recv_many(8)))
    assert all_back(pool)


def test_a_poison_packet(make_pool: MakePool, start: Start) -> None:
    """A packet that was redelivered max_redeliveries times goes to the dead-letter queue."""
    pool = make_pool()
    letters = pool.create_queue("letters", capacity=8)
    queue = pool.create_queue(
        "q", capacity=8, on_death="requeue", dead_letter=letters, max_redeliveries=2
    )
    queue.send(b"poison")
    for requeued, dead in ((1, 0), (1, 0), (0, 1)):
        hold(start, pool, 1, "q").kill()
        done = pool.recover()
        assert (requeued, dead) == (done.requeued, done.dead_lettered)
    assert (0, b"poison") == (len(queue), letters.recv(timeout=0))
    assert all_back(pool)


def test_requeue_waits_for_room(make_pool: MakePool, start: Start) -> None:
    """A buffer without room is abandoned with its queue's number until there is room: nothing is
    lost.

    The dead member's slot is free at once.
    """
    pool = make_pool()
    queue = pool.create_queue("q", capacity=4, on_death="requeue")
    fill(pool, queue, 4)
    child = hold(start, pool, 1, "q")
    fill(pool, queue, 3)
    child.kill()
    done = pool.recover()
    assert (1, 1, 1) == (done.members, done.requeued, done.postponed)
    assert (True, {}) == (pool.audit().ok, pool.audit().held)
    assert [] == [m for m in pool.members() if m.pid == child.pid]
    assert 4 == len(queue.recv_many(4))
    done = pool.recover()
    assert (0, 3, 0) == (done.members, done.requeued, done.postponed)
    assert (3, True) == (len(queue), all_back(pool))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"on_death": "explode"}, "'explode'"),
        ({"on_death": "requeue", "producers": "single"}, '"multi"'),
        ({"on_death": "dead-letter"}, "dead_letter"),
        (
            {"on_death": "requeue", "dead_letter": "spsc"},
            'spsc.; that queue needs producers="multi"',
        ),
        ({"on_death": "requeue", "max_redeliveries": -1}, "-1"),
        ({"on_death": "requeue", "max_redeliveries": 2**32}, str(2**32)),
    ],
)
def test_policies_refused(pool: shmpool.Pool, options: dict[str, object], word: str) -> None:
    """A policy that cannot be carried out is refused with the reason when the queue is created."""
    pool.create_queue("spsc", capacity=4, producers="single", consumers="single")
    with pytest.raises(shmpool.InvalidArgument, match=word):
        pool.create_queue("q", capacity=4, **options)  # type: ignore[arg-type]
    with pytest.raises(shmpool.QueueNotFound):
        pool.create_queue("q", capacity=4, on_death="requeue", dead_letter="nowhere")
    assert ["spsc"] == [queue.name for queue in pool.queues()]


def test_an_empty_pool_recovers_by_itself(make_pool: MakePool, start: Start) -> None:
    """An allocation that finds no free buffer recovers dead members' buffers, without a request."""
    pool = make_pool(capacity=64, prealloc=64, cache_size=0)
    child = hold(start, pool, 64)
    with pytest.raises(shmpool.PoolExhausted):
        pool.alloc(timeout=0)
    child.kill()
    assert 64 == len(pool.alloc_many(64))
    assert 1 == pool.stats().recovered


@pytest.mark.parametrize("side", ["producer", "consumer"])
def test_a_single_role_of_a_dead_member(
    make_pool: MakePool, start: Start, eventually: Eventually, side: str
) -> None:
    """The next member takes the role of the single producer or consumer."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=8, **{side + "s": "single"})
    queue.pool.alloc().free()
    child = start(
        """
        import sys
        import shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        queue = pool.queue("q")
        queue.send(b"first")
        queue.recv() if sys.argv[2] == "consumer" else None
        print(flush=True)
        sys.stdin.readline()
        """,
        pool.name,
        side,
    )
    child.line()
    use = (lambda: queue.send(b"x", timeout=0)) if side == "producer" else queue.get_nowait
    with pytest.raises(shmpool.QueueBusy):
        use()
    child.kill()

    def taken() -> bool:
        try:
            use()
        except shmpool.QueueBusy:
            return False
        except shmpool.Empty:
            pass
        return True

    eventually(taken)
    assert 1 == pool.stats().recovered


def test_every_slot_of_dead_members(make_pool: MakePool, start: Start) -> None:
    """A pool whose member slots all belong to dead members accepts a new member."""
    pool = make_pool(members=2)
    for child in [hold(start, pool, 3), hold(start, pool, 4)]:
        child.kill()
    pool.alloc().free()
    assert (1, 2) == (len(pool.members()), pool.stats().recovered)
    assert all_back(pool)


def test_holders(make_pool: MakePool, start: Start) -> None:
    """Which member owns how many buffers, and for how long. Cached and queued ones are not
    counted."""
    pool = make_pool(capacity=256, prealloc=256)
    queue = pool.create_queue("q", capacity=8)
    child = hold(start, pool, 5)
    fill(pool, queue, 2)
    assert [(child.pid, "alive", 5)] == [(h.pid, h.state, h.buffers) for h in pool.holders()]
    first = pool.holders()[0].oldest_s
    second = pool.holders()[0].oldest_s
    assert first is not None
    assert second is not None
    assert 0 <= first <= second
    child.kill()
    assert ["dead"] == [h.state for h in pool.holders()]
    pool.recover()
    assert [] == pool.holders()


@pytest.mark.usefixtures("own_pools")
def test_prune(make_pool: MakePool, new_name: Callable[[], str], start: Start) -> None:
    """It removes exactly the pools that no process has open, neither as a member nor otherwise."""
    used = make_pool()
    dead, idle = new_name(), new_name()
    script = """
        import sys
        import shmpool
        pool = shmpool.Pool.create(sys.argv[1], buffer_size=64, capacity=64)
        if sys.argv[2] == "held":
            held = pool.alloc_many(3)
        print(flush=True)
        sys.stdin.readline()
    """
    children = [start(script, dead, "held"), start(script, idle, "idle")]
    for child in children:
        child.line()
    names = {used.name, dead, idle}
    assert names <= set(shmpool.pool_names())
    assert not names & set(shmpool.prune())
    children[0].kill()
    os.kill(children[1].pid, signal.SIGSTOP)
    assert {dead} == names & set(shmpool.prune())
    assert {used.name, idle} == names & set(shmpool.pool_names())
    children[1].kill()
    assert {idle} == names & set(shmpool.prune())
    with pytest.raises(shmpool.PoolNotFound):
        shmpool.Pool.attach(idle)
    used.alloc().free()


ENDS = {  # exit status, and whether the pool is abandoned
    "make(); os.kill(os.getpid(), 9)": (-signal.SIGKILL, True),
    "pool = make(); os.kill(os.getpid(), 9)": (-signal.SIGKILL, True),
    "pool = make(); os._exit(1)": (1, True),
    "make()": (0, False),
    "pool = make()": (0, False),
    "pool = make(); pool.close(); os.kill(os.getpid(), 9)": (-signal.SIGKILL, False),
    "with make(): pass": (0, False),
}


@pytest.mark.usefixtures("own_pools")
@pytest.mark.parametrize("end", ENDS)
def test_what_is_abandoned(pool_name: str, end: str) -> None:
    """A pool whose creator died without closing it and without a normal exit."""
    code = "import os, shmpool\n"
    code += f"make = lambda: shmpool.Pool.create({pool_name!r}, buffer_size=64, capacity=64)\n"
    status, abandoned = ENDS[end]
    assert status == subprocess.run([sys.executable, "-c", code + end]).returncode
    assert pool_name in shmpool.pool_names()
    assert abandoned == (pool_name in shmpool.prune())


@pytest.mark.usefixtures("own_pools")
def test_prune_leaves_what_was_left_on_purpose(make_pool: MakePool, start: Start) -> None:
    """A pool that its creator closed stays, also after a later user was killed, until it is too
    old.

    survey() gives the reason.
    """
    pool = make_pool()
    pool.close()
    child = hold(start, pool, 3)
    child.kill()
    assert pool.name not in shmpool.prune()
    assert "on purpose" in survey()[1][pool.name]
    assert pool.name not in shmpool.prune(age=3600)
    assert pool.name in shmpool.prune(age=0)
    with pytest.raises(shmpool.InvalidArgument, match="-1"):
        shmpool.prune(age=-1)


@pytest.mark.usefixtures("own_pools")
def test_prune_leaves_unknown_files(new_name: Callable[[], str]) -> None:
    """A file of that name that is no pool of this version stays."""
    name = new_name()
    path = f"/dev/shm/shmpool.{name}"
    with open(path, "wb") as file:
        file.write(b"\xa5" * 8192)
    assert name not in shmpool.prune()
    assert os.path.exists(path)
    os.truncate(path, 0)  # left by a creator that died at once
    assert name in shmpool.prune()


@pytest.mark.parametrize("take", ["get", "recv", "try_recv", "get_many", "recv_many"])
def test_a_busy_consumer_recovers(make_pool: MakePool, start: Start, take: str) -> None:
    """A dead consumer's buffers are recovered although no member waits, finds nothing or runs
    dry."""
    pool = make_pool(capacity=64, prealloc=64)
    queue, other = (pool.create_queue(name, capacity=16, on_death="requeue") for name in "qo")
    queue.send(b"job")
    child = start(
        """
        import shmpool, sys
        buf = shmpool.Pool.attach(sys.argv[1]).queue("q").get()
        print("got", flush=True)
        input()
        """,
        pool.name,
    )
    assert "got" == child.line()
    child.kill()
    arguments = [1] if "many" in take else []
    give_up = time.monotonic() + DEADLINE_S
    while not len(queue):
        assert time.monotonic() < give_up, "no member recovers"
        other.send(b"x")
        got = getattr(other, take)(*arguments)
        if hasattr(got, "free"):
            got.free()
    assert b"job" == queue.recv(timeout=0)


def test_a_newcomer_attaches(make_pool: MakePool, start: Start) -> None:
    """Every slot is of a dead member that owned buffers and jobs. Members that came to recover them
    were killed too.

    The next one attaches, and nothing is lost.
    """
    pool = make_pool(members=3, capacity=64, prealloc=64, cache_size=0)
    queue = pool.create_queue("q", capacity=4, on_death="requeue")
    fill(pool, queue, 3)
    pool.close()
    children = [hold(start, pool, 5), hold(start, pool, 5, "q")]
    children.append(hold(start, pool, 5))
    for child in children:
        child.kill()
    for _ in range(4):
        child = start(
            """
            import os, shmpool, sys
            pool = shmpool.Pool.attach(sys.argv[1])
            pool.alloc_many(7, timeout=0)
            os.kill(os.getpid(), 9)
            """,
            pool.name,
        )
        assert -signal.SIGKILL == child.process.wait()
    with shmpool.Pool.attach(pool.name) as again:
        again.recover()
        assert [b"0", b"1", b"2"] == sorted(again.queue("q").recv_many(4, timeout=0))
        assert all_back(again)


def test_a_slot_whose_tags_are_used_up(make_pool: MakePool, start: Start) -> None:
    """Its last member is recovered like any other. No member gets the slot again: no tag is
    reused."""
    pool = make_pool(members=2, capacity=64, cache_size=0)
    pool.alloc().free()  # a member: of the first slot
    segment = Segment(f"/dev/shm/shmpool.{pool.name}")
    tag = next(row for row in segment.members if row.name == "member.tag").word(1)
    segment.write(tag, ((2**19 - 2) << 13) | 2)
    segment.map.close()
    os.close(segment.fd)
    child = hold(start, pool, 3)
    child.kill()
    done = pool.recover()
    assert (1, 3) == (done.members, done.buffers)
    assert all_back(pool)
    failed = start(
        """
        import shmpool, sys
        try:
            shmpool.Pool.attach(sys.argv[1]).alloc()
        except shmpool.LimitReached as error:
            print(error)
        """,
        pool.name,
    )
    assert "member slots" in failed.line()
    failed.end()
