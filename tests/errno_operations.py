# SPDX-License-Identifier: Apache-2.0
"""The operations in which errno_sweep.py makes system calls fail.

Each says what it needs, what it does, and what must be true afterwards.
"""

import contextlib
import ctypes
import io
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import shmpool
import shmpool.service.daemon
from shmpool.cli.main import shmpool as program
from shmpool.view import View

NAME = "rx"
FUTEX = ("202 ", "98 ")  # as /proc/PID/syscall begins: x86-64, aarch64
OPTIONS = {"buffer_size": 256, "capacity": 64, "cache_size": 0, "members": 4, "queues": 4}


class Operation:
    """One operation on the pool rx. This base class does nothing."""

    repeats = True  # whether it may fail; it is then repeated
    arms_itself = False  # whether it marks by itself where the counting of calls begins and ends
    kept: tuple[str, ...] = ("/dev/urandom",)  # descriptors that libraries keep open: Python's

    def __init__(self) -> None:
        self.pool: shmpool.Pool | None = None
        self.arm: Callable[[], object] = lambda: None  # begins to count calls
        self.disarm: Callable[[], object] = lambda: None

    def set_up(self) -> None:
        """Creates what the operation needs."""

    def act(self) -> None:
        """Does the operation. Called again after a failure."""

    def judge(self) -> None:
        """What must be true afterwards. By default: all buffers are free and usable."""
        if self.pool is None:
            self.pool = shmpool.Pool.attach(NAME)
        self.pool.recover()
        audit = self.pool.audit()
        assert audit.ok, audit
        assert {} == audit.held, audit
        assert 0 == sum(audit.queued.values()), audit
        with self.pool.alloc_many(self.pool.capacity, 0) as burst:
            assert self.pool.capacity == len(burst)

    def tear_down(self) -> None:
        if self.pool is not None:
            self.pool.close()
        with contextlib.suppress(shmpool.PoolNotFound):
            shmpool.Pool.unlink(NAME)

    def create(self, **options: object) -> shmpool.Pool:
        self.pool = shmpool.Pool.create(NAME, **OPTIONS | options)  # type: ignore[arg-type]
        return self.pool


def in_child(what: Callable[[], object]) -> None:
    """Does it in a child, which is killed afterwards."""
    pid = os.fork()
    if pid == 0:
        what()
        os.kill(os.getpid(), signal.SIGKILL)
    assert -signal.SIGKILL == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Create(Operation):
    def act(self) -> None:
        self.create()


class CreateAll(Operation):
    """Creates a pool with every option that makes a system call of its own."""

    def act(self) -> None:
        self.create(
            prealloc=64, mode=0o660, group=os.getgid(), huge_pages="auto", populate=True,
            core_dump=True,
        )  # fmt: skip


class CreateSecond(Operation):
    """Creates a pool in a process that has opened a pool before."""

    def set_up(self) -> None:
        self.create()
        assert self.pool
        self.pool.close()
        shmpool.Pool.unlink(NAME)

    def act(self) -> None:
        self.create()


class CreateUnlinked(Operation):
    """Creates a pool whose name ends with its first close, in place of another pool."""

    def set_up(self) -> None:
        in_child(lambda: self.create().close())

    def act(self) -> None:
        self.create(replace=True, unlink_on_close=True)


class CreateAnonymous(Operation):
    def act(self) -> None:
        self.pool = shmpool.Pool.create(None, **OPTIONS)  # type: ignore[arg-type]


class CreateTaken(Operation):
    """Creates a pool whose name exists. PoolExists, or the error that failed; the pool stays."""

    def set_up(self) -> None:
        self.create(prealloc=64)
        assert self.pool
        self.pool.close()
        self.pool = None

    def act(self) -> None:
        try:
            shmpool.Pool.create(NAME, buffer_size=64, capacity=64)
        except shmpool.PoolExists:
            return
        raise AssertionError("it was made")


class Made(Operation):
    """An operation on a pool that exists and that no process has open."""

    def set_up(self) -> None:
        self.create().close()
        self.pool = None


class FirstAttach(Operation):
    """Attaches in a process that has not opened any pool."""

    def set_up(self) -> None:
        in_child(lambda: self.create().close())

    def act(self) -> None:
        self.pool = shmpool.Pool.attach(NAME)


class Attach(Made):
    def act(self) -> None:
        self.pool = shmpool.Pool.attach(NAME)

    def judge(self) -> None:
        """As many pools as a process can open can be opened: a failure has lost no place."""
        super().judge()
        with contextlib.ExitStack() as stack:
            for _ in range(63):
                stack.enter_context(shmpool.Pool.attach(NAME))


class ReadView(Made):
    """Reads everything that a View shows."""

    def act(self) -> None:
        with View(NAME) as view:
            view.stats()
            view.queues()
            view.members()
            view.dead()
            view.file()
            view.stale()


class Unlink(Made):
    def act(self) -> None:
        shmpool.Pool.unlink(NAME)

    def judge(self) -> None:
        assert [] == shmpool.pool_names()


class Opened(Operation):
    """An operation on a pool that this process has opened and not used yet."""

    def set_up(self) -> None:
        self.create()

    @property
    def opened(self) -> shmpool.Pool:
        assert self.pool is not None
        return self.pool


class FirstCall(Opened):
    """The first call of a thread: it becomes a member. The pool grows."""

    def act(self) -> None:
        self.opened.alloc().free()


class Grow(Opened):
    def set_up(self) -> None:
        super().set_up()
        self.opened.alloc().free()
        self.opened.trim()

    def act(self) -> None:
        self.opened.alloc_many(64, 0).free()


class Fork(Opened):
    """A child gets its own token and does what its parent does."""

    def act(self) -> None:
        pid = os.fork()
        if pid:
            _, status = os.waitpid(pid, 0)
            os._exit(os.waitstatus_to_exitcode(status) % 256)  # the child has reported
        self.opened.alloc().free()


class CreateQueue(Opened):
    def act(self) -> None:
        self.opened.create_queue("q", capacity=4)

    def judge(self) -> None:
        super().judge()
        queue = self.opened.queue("q")
        queue.send(b"x", timeout=0)
        assert b"x" == queue.recv(timeout=0)


class PutOnDemand(Opened):
    """Puts into a queue that must reserve memory for it."""

    def set_up(self) -> None:
        super().set_up()
        self.queue = self.opened.create_queue("q", capacity=1024, memory="on-demand")
        for _ in range(384):
            self.queue.send(b"x")
            self.queue.recv()

    def act(self) -> None:
        self.queue.send(b"x", timeout=0)

    def judge(self) -> None:
        assert [b"x"] == self.queue.recv_many(2)
        super().judge()


class FindQueue(Operation):
    """Finds a queue that another process created, and reads what is in it."""

    def set_up(self) -> None:
        def make() -> None:
            self.create().create_queue("q", capacity=4)
            assert self.pool
            self.pool.queue("q").send(b"x")
            self.pool.close()

        in_child(make)
        self.pool = shmpool.Pool.attach(NAME)

    def act(self) -> None:
        assert self.pool
        queue = self.pool.queue("q")
        if len(queue):
            assert b"x" == queue.recv(timeout=0)


class Waits(Opened):
    """Waits for room and for buffers that never arrive, and for a message that does."""

    def set_up(self) -> None:
        super().set_up()
        self.queue = self.opened.create_queue("q", capacity=2)

    def act(self) -> None:
        self.queue.send_many([b"1", b"2"], timeout=0)
        for wait, ends in (
            (lambda: self.queue.send(b"3", timeout=0.002), shmpool.Full),
            (lambda: self.queue.recv_many(2) and self.queue.get(timeout=0.002), shmpool.Empty),
        ):
            try:
                wait()
            except ends:
                continue
            raise AssertionError("it did not wait")


class Wakes(Opened):
    """Wakes another thread that sleeps."""

    def set_up(self) -> None:
        super().set_up()
        self.queue = self.opened.create_queue("q", capacity=2)
        self.got: list[bytes] = []
        self.thread = threading.Thread(target=lambda: self.got.append(self.queue.recv()))
        self.thread.start()
        asleep = Path(f"/proc/self/task/{self.thread.native_id}/syscall")
        while not asleep.read_text().startswith(FUTEX):
            pass

    def act(self) -> None:
        self.queue.send(b"x")

    def judge(self) -> None:
        self.thread.join()
        assert [b"x"] == self.got
        super().judge()


class Dead(Operation):
    """Recovers a dead member that owned buffers."""

    def set_up(self) -> None:
        def dies() -> None:
            pool = shmpool.Pool.attach(NAME)
            queue = pool.queue("q")
            self.held = [pool.alloc(), queue.get()]

        self.create().create_queue("q", capacity=4, on_death="requeue").send(b"x")
        in_child(dies)

    def judge(self) -> None:
        assert self.pool
        self.pool.recover()
        assert b"x" == self.pool.queue("q").recv(timeout=0)
        super().judge()


class Recover(Dead):
    def act(self) -> None:
        assert self.pool
        self.pool.recover()


class Nack(Opened):
    """Returns a buffer to the queue that it was got from."""

    def set_up(self) -> None:
        super().set_up()
        self.queue = self.opened.create_queue("q", capacity=4, on_death="requeue")
        self.queue.send(b"x")
        self.buf = self.queue.get()

    def act(self) -> None:
        self.buf.nack()

    def judge(self) -> None:
        assert b"x" == self.queue.recv(timeout=0)
        super().judge()


class TakeOver(Operation):
    """Attaches to a pool whose member slots all belong to dead members."""

    def set_up(self) -> None:
        def dies() -> None:
            pool = self.create(members=1)
            self.held = pool.alloc_many(3)

        in_child(dies)
        self.pool = shmpool.Pool.attach(NAME)

    def act(self) -> None:
        assert self.pool
        self.pool.alloc(timeout=0).free()


class Trim(Opened):
    def set_up(self) -> None:
        super().set_up()
        self.opened.alloc_many(64).free()

    def act(self) -> None:
        self.opened.trim()


class Inspect(Opened):
    def act(self) -> None:
        self.opened.alloc().free()
        self.opened.stats()
        self.opened.members()
        self.opened.holders()
        self.opened.queues()
        assert self.opened.audit().ok


class Close(Opened):
    """Closes a pool. This cannot fail."""

    repeats = False

    def set_up(self) -> None:
        super().set_up()
        self.held = self.opened.alloc()

    def act(self) -> None:
        self.opened.close()
        self.pool = None


class Prune(Operation):
    """Prunes a pool of a dead creator, a temporary name, and a pool that was left on purpose."""

    def set_up(self) -> None:
        in_child(self.create)
        Path("/dev/shm/shmpool.~left").touch()

        def keep() -> None:
            shmpool.Pool.create("kept", buffer_size=64, capacity=64).close()

        in_child(keep)
        self.pool = None

    def act(self) -> None:
        shmpool.prune()

    def judge(self) -> None:
        shmpool.prune()
        assert ["shmpool.kept"] == os.listdir("/dev/shm")
        shmpool.Pool.unlink("kept")


def run_command(*arguments: str) -> tuple[object, str]:
    """Runs a subcommand in this process. Returns its exit status and its stderr."""
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["shmpool", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            program()
        except SystemExit as end:
            return end.code, err.getvalue()
    return None, err.getvalue()


class Command(Dead):
    """Runs a subcommand on a pool with a dead member."""

    arguments: tuple[str, ...]

    def act(self) -> None:
        status, said = run_command(*self.arguments)
        assert status in (None, 0, 1), said
        assert said or not status


class Doctor(Command):
    """Its findings are on stdout."""

    arguments = ("doctor",)

    def act(self) -> None:
        status, said = run_command("doctor")
        assert status in (0, 1)
        assert "" == said


def command(*arguments: str) -> type[Command]:
    """Returns the operation that runs this subcommand."""

    class This(Command):
        pass

    This.arguments = (*arguments, "--direct")
    return This


COMMANDS = {
    "shmpool-ls": command("ls"),
    "shmpool-describe": command("describe", NAME),
    "shmpool-stats": command("stats", NAME),
    "shmpool-members": command("members", NAME),
    "shmpool-holders": command("holders", NAME),
    "shmpool-audit": command("audit", NAME),
    "shmpool-recover": command("recover", NAME),
    "shmpool-trim": command("trim", NAME),
    "shmpool-prune": command("prune"),
}


class Daemon(Operation):
    """Runs the daemon: start, adoption, recovery of a dead member, an answered client, and the end.

    The daemon is this process. A child acts as the worker and the client, and ends the daemon.
    """

    arms_itself = True
    kept = ("/dev/urandom", "pipe:")  # libuv's

    def set_up(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.config = self.directory / "shmpool.toml"
        self.config.write_text(f'[daemon]\nadopt = ["{NAME}"]\ninterval = 0.05\n')
        self.socket = self.directory / "daemon.sock"
        in_child(lambda: self.create().close())
        self.client = os.fork()
        if self.client == 0:
            self.play()

    def play(self) -> NoReturn:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # when the parent ends
        pool = shmpool.Pool.attach(NAME)
        in_child(self.hold)
        done = False
        while not done:
            time.sleep(0.005)
            with contextlib.suppress(shmpool.ShmpoolError), shmpool.Client(self.socket) as client:
                done = bool(pool.stats().recovered) and NAME in [p.name for p in client.list()]
        pool.close()
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(0)

    async def run(self, daemon: shmpool.service.daemon.Daemon, run: Callable[..., Any]) -> None:
        """Daemon.run, without the work around it in the event loop."""
        self.arm()
        try:
            await run(daemon)
        finally:
            self.disarm()

    def hold(self) -> None:
        self.pool = shmpool.Pool.attach(NAME)
        self.held = self.pool.alloc()

    def act(self) -> None:
        kept, said, run = os.dup(2), os.memfd_create("said"), shmpool.service.daemon.Daemon.run
        os.dup2(said, 2)
        shmpool.service.daemon.Daemon.run = lambda daemon: self.run(daemon, run)  # type: ignore
        try:
            status = shmpool.service.daemon.run(self.config, {"socket": str(self.socket)}, "test")
        finally:
            shmpool.service.daemon.Daemon.run = run  # type: ignore[method-assign]
            os.dup2(kept, 2)
            os.close(kept)
            text = os.pread(said, 1 << 20, 0).decode()
            os.close(said)
            logging.getLogger("shmpool").handlers.clear()
        assert "Traceback" not in text, text
        ended, self.ended = os.waitpid(self.client, os.WNOHANG)
        if status and not ended:  # a failure at the end is not repeated
            raise shmpool.ShmpoolError(text or "nothing said")
        if not ended:
            _, self.ended = os.waitpid(self.client, 0)

    def judge(self) -> None:
        assert 0 == self.ended
        super().judge()

    def tear_down(self) -> None:
        super().tear_down()
        shutil.rmtree(self.directory)


def warm_up() -> None:
    """Imports all that the operations import, but opens no pool."""
    for operation in COMMANDS.values():
        run_command(*operation.arguments)
    run_command(*CreateByCommand.arguments[:-1], "--group", "-1")
    run_command("doctor")


class CreateByCommand(Operation):
    arguments = (
        "create", "made", "--buffer-size", "64", "--capacity", "64", "--queue", "q=4", "--direct"
    )  # fmt: skip

    def act(self) -> None:
        status, said = run_command(*self.arguments)
        assert status in (None, 0, 1), said
        assert said or not status

    def judge(self) -> None:
        if "made" not in shmpool.pool_names():
            self.act()
        with shmpool.Pool.attach("made") as pool:
            assert pool.audit().ok
            assert ["q"] == [queue.name for queue in pool.queues()]
        shmpool.Pool.unlink("made")


OPERATIONS: dict[str, type[Operation]] = {
    "create": Create,
    "create-all": CreateAll,
    "create-second": CreateSecond,
    "create-unlinked": CreateUnlinked,
    "create-anonymous": CreateAnonymous,
    "create-taken": CreateTaken,
    "first-attach": FirstAttach,
    "attach": Attach,
    "view": ReadView,
    "unlink": Unlink,
    "first-call": FirstCall,
    "grow": Grow,
    "fork": Fork,
    "create-queue": CreateQueue,
    "put-on-demand": PutOnDemand,
    "find-queue": FindQueue,
    "waits": Waits,
    "wakes": Wakes,
    "recover": Recover,
    "nack": Nack,
    "take-over": TakeOver,
    "trim": Trim,
    "inspect": Inspect,
    "close": Close,
    "prune": Prune,
    "daemon": Daemon,
    "shmpool-create": CreateByCommand,
    "shmpool-doctor": Doctor,
    **COMMANDS,
}
