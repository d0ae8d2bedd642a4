# SPDX-License-Identifier: Apache-2.0
"""Error messages: the thing, its value, what is allowed, and the remedy."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Child, MakePool
from test_growth import small_shm

import shmpool
from shmpool import os_errors

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-W", "error", "-c", "from shmpool.cli import main; main()"]


def test_a_pool_that_exists(pool: shmpool.Pool) -> None:
    """The message says how to use the pool and how to remove it."""
    with pytest.raises(shmpool.PoolExists) as caught:
        shmpool.Pool.create(pool.name, buffer_size=64, capacity=64)
    name = pool.name
    assert str(caught.value) == (
        f"pool '{name}' exists already: Pool.attach(\"{name}\") uses it, "
        f'Pool.unlink("{name}") or shmpool.prune() removes it'
    )


OTHER_FILES = """
    import os, shmpool, socket, sys
    from shmpool.pool_files import path_of

    name = sys.argv[1]
    path = path_of(name)

    def refusals(*calls):
        for call in calls:
            try:
                call()
            except shmpool.ShmpoolError as error:
                print(type(error).__name__, error, sep=": ")

    def create(**options):
        shmpool.Pool.create(name, buffer_size=64, capacity=64, **options)

    kinds = {
        "a FIFO": lambda: os.mkfifo(path), "a symbolic link": lambda: os.symlink("/", path),
        "a directory": lambda: os.mkdir(path), "a socket": lambda: os.mknod(path, 0o140600),
    }
    for kind, make in kinds.items():
        make()
        refusals(create)
        if kind == "a directory":
            refusals(lambda: create(replace=True))
            os.rmdir(path)
        else:
            os.unlink(path)
    """


def test_a_name_of_another_file(run: Callable[..., str], pool_name: str) -> None:
    """What is there instead of a pool, and that it must be removed."""
    lines = run(OTHER_FILES, pool_name).splitlines()
    path = f"/dev/shm/shmpool.{pool_name}"
    kinds = ("a FIFO", "a symbolic link", "a directory", "a socket")
    expected = [
        f"PoolExists: pool '{pool_name}' exists already: {path} is {kind}, not a pool: remove it"
        for kind in kinds
    ]
    expected.insert(
        3, f"SegmentInvalid: pool '{pool_name}': {path} is a directory, not a pool: remove it"
    )
    assert expected == lines


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_name_of_another_user(make_pool: MakePool, run: Callable[..., str]) -> None:
    """Who owns it, and who can remove it: create, replace and unlink."""
    script = """
        import os, shmpool, sys
        name = sys.argv[1]
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        options = {"buffer_size": 64, "capacity": 64}
        for call in (lambda: shmpool.Pool.create(name, **options),
                     lambda: shmpool.Pool.create(name, replace=True, **options),
                     lambda: shmpool.Pool.unlink(name)):
            try:
                call()
            except shmpool.ShmpoolError as error:
                print(error)
        """
    name = make_pool().name
    lines = run(script, name).splitlines()
    assert [
        f"pool '{name}' exists already: no permission to create pool '{name}': ",
        f"no permission to replace pool '{name}': ",
        f"no permission to unlink pool '{name}': ",
    ] == [line.partition("it belongs to")[0] for line in lines]
    for line in lines:
        assert line.endswith(
            "mode 0600; you are uid 65534. Only its owner or root can remove it: ask them, or use "
            "another name"
        )


def test_no_daemon(tmp_path: Path) -> None:
    """How to start one, or to be let in."""
    path = tmp_path / "no.sock"
    with pytest.raises(shmpool.DaemonUnavailable) as caught:
        shmpool.Client(path).ping()
    assert str(caught.value) == (
        f"no daemon at {path}: No such file or directory: start one with shmpool daemon --socket "
        f"{path}"
    )
    denied = PermissionError(errno.EACCES, "Permission denied")
    refused = str(shmpool.Client(path)._unavailable(denied))
    assert "Permission denied: ask for read_group" in refused


def test_what_to_do_about_a_pool(make_pool: MakePool) -> None:
    """Other options, no such queue, a file that is short or of another version."""
    from shmpool.view import View

    pool = make_pool(capacity=64)
    with pytest.raises(shmpool.PoolExists, match="capacity 64, not 128: give its options, or"):
        shmpool.Pool.create(pool.name, exist_ok=True, buffer_size=256, capacity=128)
    with View(pool.name) as view, pytest.raises(shmpool.QueueNotFound, match="shmpool describe"):
        view.peek("q", 1, 1)
    path = Path(f"/dev/shm/shmpool.{pool.name}")
    whole = path.read_bytes()
    for text, words in (
        (whole[:100], "100 bytes long; a header has [0-9]+: unlink it"),
        (whole[:8] + bytes([whole[8] ^ 1]) + whole[9:], "unlink it and create it again"),
    ):
        other = path.with_name(f"{path.name}-b")
        other.write_bytes(text)
        try:
            with pytest.raises(shmpool.SegmentInvalid, match=words):
                shmpool.Pool.attach(f"{pool.name}-b")
        finally:
            other.unlink()


def test_a_full_standard_output() -> None:
    """The stream that could not be written to is named."""
    pytest.importorskip("click", reason="shmpool[cli] is not installed")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "ls", "--direct"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    said = "shmpool: standard output: No space left on device\n"
    assert (1, said) == (done.returncode, done.stderr)


def test_a_pool_that_does_not_exist(pool_name: str) -> None:
    """The message says where it was searched for, and why it may be elsewhere."""
    for call in (shmpool.Pool.attach, shmpool.Pool.unlink):
        with pytest.raises(shmpool.PoolNotFound) as caught:
            call(pool_name)
        assert str(caught.value) == (
            f"there is no pool '{pool_name}' in /dev/shm "
            "(in a container: is it the same /dev/shm? --ipc, a shared volume)"
        )


def test_a_buffer_with_views(pool: shmpool.Pool) -> None:
    """The message says how many views there are, and what to do about them."""
    work = pool.create_queue("work", capacity=2)
    buf = pool.alloc()
    one = memoryview(buf)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("freed", buf.free),
        ("put", lambda: work.put(buf)),
        ("freed", lambda: buf.__exit__(None, None, None)),
    ]
    for what, call in calls:
        with pytest.raises(shmpool.BufferInUse) as caught:
            call()
        assert str(caught.value) == (
            f"buffer {buf.index} cannot be {what}: memoryview one of 0 bytes is alive; delete it "
            "first (del one)"
        )
    two = memoryview(buf)
    with pytest.raises(shmpool.BufferInUse) as caught:
        buf.free()
    assert "bytes are alive; delete them first (del one, two)" in str(caught.value)
    with pytest.raises(shmpool.BufferInUse, match="cannot be closed: memoryview one of 0 bytes, "):
        pool.close()
    one.release()
    two.release()
    buf.free()


def test_block_and_timeout(pool: shmpool.Pool) -> None:
    """A user of queue.Queue learns which arguments are missing here."""
    work = pool.create_queue("work", capacity=2)
    with pytest.raises(TypeError) as caught:
        work.get(True, 1)  # type: ignore[call-arg]
    assert "get() takes one optional argument, timeout; there is no block" == str(caught.value)


def test_a_buffer_that_is_gone(pool: shmpool.Pool) -> None:
    """The message says what happened to the buffer."""
    buf = pool.alloc()
    buf.free()
    with pytest.raises(shmpool.BufferReleased) as caught:
        buf.write(b"x")
    assert str(caught.value).endswith(
        "this Buffer was already freed, or put into a queue; it can no longer be used here"
    )


def test_no_slot_for_another_member(
    make_pool: MakePool, start: Callable[..., Child], pool_name: str
) -> None:
    """The message says how many slots there are, and which option raises the number."""
    pool = make_pool(name=pool_name, members=1)
    with pool.alloc():
        child = start(
            """
            import shmpool, sys
            for call in (shmpool.Pool.alloc, lambda pool: pool.alloc_many(2),
                         lambda pool: pool.queue("q").send(b"x")):
                try:
                    call(shmpool.Pool.attach(sys.argv[1]))
                except shmpool.LimitReached as error:
                    print(error)
            """,
            pool.create_queue("q", capacity=2).pool.name,
        )
        said = child.end().splitlines()
    assert 3 == len(said)
    for line in said:
        assert line.endswith(
            "all 1 member slots are taken; create the pool with members= larger, "
            "or see pool.members()"
        )


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOENT, shmpool.PoolNotFound, "there is no pool 'x'"),
        (errno.EACCES, shmpool.AccessDenied, "you are uid "),
        (errno.EPERM, shmpool.AccessDenied, "Create it with mode= and group="),
        (errno.EROFS, shmpool.AccessDenied, "mount -o remount,rw /dev/shm"),
        (errno.EAGAIN, shmpool.AccessDenied, "lease"),
        (errno.ETXTBSY, shmpool.SegmentInvalid, "program that is running"),
        (errno.ELOOP, shmpool.SegmentInvalid, "not a pool: remove it"),
        (errno.EISDIR, shmpool.SegmentInvalid, "not a pool: remove it"),
        (errno.ENXIO, shmpool.SegmentInvalid, "not a pool: remove it"),
        (errno.EMFILE, shmpool.LimitReached, "ulimit -n"),
        (errno.ENFILE, shmpool.LimitReached, "fs.file-max"),
        (errno.ENOMEM, shmpool.OutOfSharedMemory, "Cannot allocate memory"),
        (errno.EIO, shmpool.ShmpoolError, "Input/output error"),
    ],
)
def test_a_file_that_cannot_be_opened(
    number: int, kind: type[shmpool.ShmpoolError], words: str
) -> None:
    """Every error of the kernel is a shmpool exception that names the pool and the remedy."""
    error = os_errors.cannot_open("x", "/dev/shm/shmpool.x", OSError(number, ""))
    assert (kind, True, True) == (type(error), "pool 'x'" in str(error), words in str(error))


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EACCES, shmpool.AccessDenied, "chmod 1777 /dev/shm"),
        (errno.EROFS, shmpool.AccessDenied, "mount -o remount,rw /dev/shm"),
        (errno.ENOENT, shmpool.OutOfSharedMemory, "mount -t tmpfs"),
        (errno.ENOSPC, shmpool.OutOfSharedMemory, "shmpool prune"),
        (errno.EFBIG, shmpool.OutOfSharedMemory, "ulimit -f unlimited"),
        (errno.EMFILE, shmpool.LimitReached, "ulimit -n"),
        (errno.EDQUOT, shmpool.OutOfSharedMemory, "quota"),
        (errno.EIO, shmpool.ShmpoolError, "Input/output error"),
    ],
)
def test_a_file_that_cannot_be_made(
    number: int, kind: type[shmpool.ShmpoolError], words: str
) -> None:
    """The same for its creation."""
    error = os_errors.failure("pool 'x' cannot be created", OSError(number, ""))
    assert (kind, True, True) == (type(error), "pool 'x'" in str(error), words in str(error))


def test_every_code_from_c() -> None:
    """Each code has its own message, and an unknown code is named."""
    from shmpool.codes import EXCEPTIONS, fail

    for number, (kind, _) in EXCEPTIONS.items():
        with pytest.raises(kind, match="what it was about"):
            fail(-number, "what it was about")
    with pytest.raises(shmpool.ShmpoolError, match="what it was about: Input/output error"):
        fail(-errno.EIO, "what it was about")


def test_a_pool_that_outgrows_shared_memory(run: Callable[..., str]) -> None:
    """A container's 64 MiB: the message has both sizes, and how to get more."""
    printed = run(
        """
        import shmpool
        pool = shmpool.Pool.create("rx", buffer_size=2048, capacity=65536)
        queue = pool.create_queue("q", capacity=2)
        held = []
        for call in (lambda: held.append(pool.alloc_many(4096)), lambda: held.append(pool.alloc()),
                     lambda: queue.send(b"x")):
            try:
                while True:
                    call()
                    if call is not None and len(queue):
                        queue.recv()
            except shmpool.OutOfSharedMemory as error:
                print(error)
        """,
        prefix=small_shm("64m"),
    )
    assert [
        "pool 'rx' can grow to 128 MiB, but /dev/shm has only 64 MiB: lower capacity or enlarge "
        "it (mount -o remount,size=256m /dev/shm; container: --shm-size=256m)"
    ] * 3 == printed.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["watch"], "Prints a pool's statistics every INTERVAL seconds until Ctrl-C."),
        (
            ["trim"],
            "Returns the memory of free buffers to the system, keeping --keep of them, and prints "
            "how many bytes.",
        ),
        (
            ["prune"],
            "Removes every abandoned pool that no process has open, with what is in its queues, "
            "and prints the names.",
        ),
        (["audit"], "Checks by two independent counts that no buffer is lost or counted twice."),
        (["create"], "Permission bits of the pool's file, for example 0660."),
        (["watch"], "[default: 1.0; from 0.1 to 3600]"),
        (["trim"], "[default: 0; from 0 on]"),
        (["rm"], "Removes a pool, with what is in its queues."),
        (["bench"], "Measures shmpool against other libraries"),
        (["create"], "Group that owns the file, by name or number."),
    ],
)
def test_help(arguments: list[str], words: str) -> None:
    """The help consists of sentences that a new user can understand."""
    pytest.importorskip("click", reason="shmpool[cli] is not installed")
    done = subprocess.run([*COMMAND, *arguments, "--help"], capture_output=True, text=True)
    assert words in " ".join(done.stdout.split())


@pytest.mark.parametrize("given", ["work", "=5", "work=", ""])
def test_queues_on_the_command_line(pool_name: str, given: str) -> None:
    """The message says what is expected, with an example."""
    pytest.importorskip("click", reason="shmpool[cli] is not installed")
    size = ["--buffer-size", "64", "--capacity", "64", "--direct"]
    done = subprocess.run(
        [*COMMAND, "create", pool_name, *size, "--queue", given], capture_output=True, text=True
    )
    assert 2 == done.returncode
    assert "--queue needs NAME=CAPACITY, for example work=4096" in done.stderr
    assert not os.path.exists(f"/dev/shm/shmpool.{pool_name}")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("a=4,on_death=xx", "--queue a=4,on_death=xx: on_death is 'xx'; it must be \"free\""),
        ("a=4,max_redeliveries=-1", "max_redeliveries is -1; it must be from 0 to 65535"),
        ("a=4.5", "--queue a=4.5: capacity is '4.5'; it must be an integer"),
        ("a=-4", "capacity is -4; it must be from 1 to 1048576"),
    ],
)
def test_options_of_queues_on_the_command_line(pool_name: str, given: str, words: str) -> None:
    """The message has the option, its value and what is allowed. The pool is not created."""
    pytest.importorskip("click", reason="shmpool[cli] is not installed")
    size = ["--buffer-size", "64", "--capacity", "64", "--direct"]
    done = subprocess.run(
        [*COMMAND, "create", pool_name, *size, "--queue", given], capture_output=True, text=True
    )
    assert words in done.stderr
    assert done.returncode in (1, 2)
    assert not os.path.exists(f"/dev/shm/shmpool.{pool_name}")


def test_words_of_the_pages() -> None:
    """The configuration, the README and the docstrings mention the most frequent questions."""
    config = (ROOT / "docs" / "config.md").read_text()
    assert "Members of this group may use the read-only requests (ls, stats, ...)" in config
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert "what happens to buffers that a consumer had taken when it died" in readme
    said, _, _ = (shmpool.AlfQueue.dead_letter.__doc__ or "").partition("\n")  # Raises: follows
    assert "The queue for buffers that were returned max_redeliveries times, or None." == said
    assert (shmpool.Pool.audit.__doc__ or "").startswith(
        "Checks by two independent counts that no buffer is lost or counted twice."
    )
