# SPDX-License-Identifier: Apache-2.0
"""Limits of the process, and a /dev/shm that is full, read-only, missing, or no tmpfs.

Each gives an exception of shmpool's hierarchy that names the remedy, and nothing is left. Each test
has a /dev/shm of its own.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., str]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a /dev/shm of its own")

# Before each script: what() makes a call and prints its exception.
WHAT = """
import os, resource, signal, sys
from pathlib import Path
import shmpool
from shmpool.view import View

def what(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except shmpool.ShmpoolError as error:
        print(type(error).__name__, error)
    else:
        print("done")

def create(name="rx", **options):
    return shmpool.Pool.create(name, **{"buffer_size": 4096, "capacity": 1024} | options)
"""


def own(shm: str, *, then: str = "true") -> tuple[str, ...]:
    """Runs a command after the command `shm` has made a /dev/shm for it."""
    return ("unshare", "-m", "sh", "-c", f'{shm} && {then} && exec "$@"', "sh")


TMPFS = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
NO_SHM = "mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3"
A_FILE = f"{NO_SHM} && touch /dev/shm"


@pytest.fixture
def output_of(run: Run) -> Run:
    def output_of(script: str, *arguments: object, shm: str = TMPFS, then: str = "true") -> str:
        return run(WHAT + script, *arguments, prefix=own(shm, then=then))

    return output_of


@pytest.mark.parametrize("action", ["SIG_IGN", "SIG_DFL"])
def test_a_limit_of_files(output_of: Run, action: str) -> None:
    """Over RLIMIT_FSIZE create is refused, also where SIGXFSZ would end the process.

    Existing pools can be attached, and grow.
    """
    lines = output_of(
        f"""
create("small", capacity=64).close()
signal.signal(signal.SIGXFSZ, signal.{action})
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
what(create)
what(shmpool.Pool.create, "a", buffer_size=64, capacity=64)
print(os.listdir("/dev/shm"))
with shmpool.Pool.attach("small") as pool:
    pool.create_queue("q", capacity=65536)
    print(len(pool.alloc_many(64)))
"""
    ).splitlines()
    assert 4 == len(lines)
    for line in lines[:2]:
        assert line.startswith("OutOfSharedMemory pool ")
        assert "ulimit -f" in line
    assert ["['shmpool.small']", "64"] == lines[2:]


def test_a_limit_of_addresses(output_of: Run) -> None:
    """Over RLIMIT_AS create and attach are refused. An open pool continues, and grows."""
    lines = output_of(
        """
create("small", capacity=64).close()
create("large", buffer_size=65536, capacity=16384).close()
pool = shmpool.Pool.attach("small")
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), -1))
what(shmpool.Pool.attach, "large")
what(View, "large")
what(create, "larger", buffer_size=65536, capacity=16384)
print(len(pool.alloc_many(64)), sorted(os.listdir("/dev/shm")))
""",
        shm=TMPFS.replace("64m", "4g"),
    ).splitlines()
    assert 4 == len(lines)
    for line in lines[:3]:
        assert line.startswith("OutOfSharedMemory pool ")
        assert "RLIMIT_AS" in line
    assert "64 ['shmpool.large', 'shmpool.small']" == lines[3]


@pytest.mark.slow
@pytest.mark.parametrize("action", ["attach", "create", "view", "list", "prune"])
def test_a_limit_of_descriptors(output_of: Run, action: str) -> None:
    """However few descriptors are left, the call succeeds or is LimitReached.

    The failure has no later effect: with free descriptors the call succeeds, and others can attach.
    """
    lines = output_of(
        """
import subprocess
child = [sys.executable, "-c", "import shmpool, sys; print(shmpool.Pool.attach(sys.argv[1]))"]
make = "import shmpool; shmpool.Pool.create('rx', buffer_size=64, capacity=64).close()"
subprocess.run([sys.executable, "-c", make], check=True)  # so this process has opened none before
calls = {
    "attach": lambda: shmpool.Pool.attach("rx").close(),
    "create": lambda: create("made", unlink_on_close=True).close(),
    "view": lambda: View("rx").close(),
    "list": shmpool.pool_names,
    "prune": shmpool.prune,
}
call = calls[sys.argv[1]]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))
keep = []
try:
    while True:
        keep.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for free in range(5):
    what(call)
    os.close(keep.pop())
for fd in keep:
    os.close(fd)
what(call)
pool = create("mine")
print(subprocess.run([*child, "mine"], capture_output=True, text=True).stdout, end="")
print(sorted(os.listdir("/dev/shm")), len(pool.alloc_many(8)))
""",
        action,
    ).splitlines()
    done = lines.index("done")
    assert 1 <= done <= 3
    for line in lines[:done]:
        assert line.startswith("LimitReached ")
        assert "ulimit -n" in line
    assert ["done"] * (6 - done) == lines[done:6]
    assert "<shmpool.Pool mine of 1024 x 4096 bytes>" == lines[6]
    assert "['shmpool.mine', 'shmpool.rx'] 8" == lines[7]


def test_read_only(output_of: Run) -> None:
    """In a /dev/shm that is mounted read-only pools can be read.

    A change is AccessDenied that says how to remount it.
    """
    make = "import shmpool; shmpool.Pool.create('rx', buffer_size=64, capacity=64).close()"
    lines = output_of(
        """
with View("rx") as view:
    print(view.geometry.capacity, view.stats().created)
print(shmpool.pool_names(), shmpool.prune())
what(shmpool.Pool.attach, "rx")
what(create, "new")
what(shmpool.Pool.unlink, "rx")
""",
        then=f'"$1" -c "{make}" && mount -o remount,ro /dev/shm',
    ).splitlines()
    assert ["64 0", "['rx'] []"] == lines[:2]
    assert 5 == len(lines)
    for line in lines[2:]:
        assert line.startswith("AccessDenied pool ")
        assert "mount -o remount,rw /dev/shm" in line


@pytest.mark.parametrize("inodes", [1, 2])
def test_no_inodes(output_of: Run, inodes: int) -> None:
    """A tmpfs without a free inode is OutOfSharedMemory that names inodes. Nothing is left."""
    line, left = output_of(
        """
what(create)
print(os.listdir("/dev/shm"))
""",
        shm=f"mount -t tmpfs -o nr_inodes={inodes} tmpfs /dev/shm",
    ).splitlines()
    assert line.startswith("OutOfSharedMemory pool 'rx' cannot be created: ")
    assert "no inodes left" in line
    assert "[]" == left


def test_full(output_of: Run) -> None:
    """On a full tmpfs create, create_queue and growth are OutOfSharedMemory. Existing buffers stay
    usable.

    The audit is clean, and with room the calls succeed.
    """
    lines = output_of(
        """
pool = create(capacity=16384)
held = pool.alloc_many(256)
fill = os.open("/dev/shm/fill", os.O_CREAT | os.O_WRONLY)
try:
    while True:
        os.write(fill, bytes(4096))
except OSError:
    os.close(fill)
what(create, "more")
what(pool.create_queue, "q", capacity=65536)
what(pool.alloc_many, 4096)
held.free()
print(len(pool.alloc_many(256, 0)), pool.audit().ok, sorted(os.listdir("/dev/shm")))
os.unlink("/dev/shm/fill")
queue = pool.create_queue("q", capacity=65536)
queue.put_many(pool.alloc_many(4096))
print(len(queue), pool.audit().ok)
"""
    ).splitlines()
    assert 5 == len(lines)
    for line in lines[:3]:
        assert line.startswith("OutOfSharedMemory ")
    assert ["256 True ['fill', 'shmpool.rx']", "4096 True"] == lines[3:]


@pytest.mark.parametrize("shm", [NO_SHM, A_FILE], ids=["none", "file"])
def test_no_shared_memory(output_of: Run, shm: str) -> None:
    """No /dev/shm, or a file in its place: create says what to mount, and attach finds nothing.

    There is nothing to list or prune.
    """
    lines = output_of(
        """
print(shmpool.pool_names(), shmpool.prune())
what(create)
what(shmpool.Pool.attach, "rx")
what(View, "rx")
what(shmpool.Pool.unlink, "rx")
""",
        shm=shm,
    ).splitlines()
    assert "[] []" == lines[0]
    assert lines[1].startswith("OutOfSharedMemory pool 'rx' cannot be created: ")
    assert "there is no /dev/shm: mkdir -p /dev/shm && mount -t tmpfs" in lines[1]
    assert ["PoolNotFound"] * 3 == [line.split()[0] for line in lines[2:]]


COMMANDS = {
    "ls": ("ls", "--direct"),
    "prune": ("prune", "--direct"),
    "describe": ("describe", "rx", "--direct"),
    "create": ("create", "rx", "--buffer-size", "64", "--capacity", "64", "--direct"),
    "recover": ("recover", "rx", "--direct"),
    "rm": ("rm", "rx", "--direct"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "shm",
    [NO_SHM, A_FILE, f"{TMPFS} && mount -o remount,ro /dev/shm", f"{TMPFS},nr_inodes=1"],
    ids=["none", "file", "read-only", "no inodes"],
)
def test_commands(command: str, shm: str) -> None:
    """Commands end with one line, not with a traceback."""
    pytest.importorskip("click", reason="shmpool[cli] is not installed")
    shm = shm.replace(f"{TMPFS},", "mount -t tmpfs tmpfs /dev/shm -o ")
    code = "import sys; from shmpool.cli import main; main()"
    done = subprocess.run(
        [*own(shm), sys.executable, "-c", code, *COMMANDS[command]],
        capture_output=True,
        text=True,
        timeout=60,
    )
    expected = 0 if command in ("ls", "prune") else 1
    assert expected == done.returncode, done.stderr
    assert expected == len(done.stderr.splitlines())
    assert all(line.startswith("shmpool: ") for line in done.stderr.splitlines())


def test_another_file_system(output_of: Run, tmp_path: Path) -> None:
    """If /dev/shm is on another file system, a pool works if that has the locks and reserves
    memory.

    Otherwise create says so.
    """
    printed = output_of(
        """
def dies(name):
    if not os.fork():
        pool = shmpool.Pool.attach(name)
        held = pool.alloc_many(8)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()

try:
    pool = create()
except shmpool.SegmentInvalid as error:
    print("mount a tmpfs" in str(error))
else:
    dies("rx")
    found = pool.recover()
    pool.alloc_many(1024, 0).free()
    print((found.members, pool.trim() > 0, pool.audit().ok) == (1, True, True))
""",
        shm=f"mount --bind {tmp_path} /dev/shm",
    )
    assert "True\n" == printed
