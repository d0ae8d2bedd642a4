# SPDX-License-Identifier: Apache-2.0
"""Limits of the process, and a /dev/shm that is full, read-only, missing, or no tmpfs: exceptions
of shmpool's hierarchy that name the remedy, and nothing left. Each test has a /dev/shm of its own.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., str]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a /dev/shm of its own")

# In front of each script: what() makes a call and prints its exception.
TELL = """
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
    """Runs what follows where the command shm has made a /dev/shm."""
    return ("unshare", "-m", "sh", "-c", f'{shm} && {then} && exec "$@"', "sh")


TMPFS = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
NO_SHM = "mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3"
A_FILE = f"{NO_SHM} && touch /dev/shm"


@pytest.fixture
def tell(run: Run) -> Run:
    def tell(script: str, *arguments: object, shm: str = TMPFS, then: str = "true") -> str:
        return run(TELL + script, *arguments, prefix=own(shm, then=then))

    return tell


@pytest.mark.parametrize("action", ["SIG_IGN", "SIG_DFL"])
def test_a_limit_of_files(tell: Run, action: str) -> None:
    """Over RLIMIT_FSIZE create is refused, also where SIGXFSZ would end the process; pools that
    there are can be attached, and grow."""
    lines = tell(
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


def test_a_limit_of_addresses(tell: Run) -> None:
    """Over RLIMIT_AS neither create nor attach; what was open goes on, and grows."""
    lines = tell(
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
@pytest.mark.parametrize("action", ["attach", "create", "look", "list", "prune"])
def test_a_limit_of_descriptors(tell: Run, action: str) -> None:
    """However few descriptors are left, the call succeeds or is LimitReached; nothing is remembered
    of it: once some are free it succeeds, and others can attach what this process has made."""
    lines = tell(
        """
import subprocess
child = [sys.executable, "-c", "import shmpool, sys; print(shmpool.Pool.attach(sys.argv[1]))"]
make = "import shmpool; shmpool.Pool.create('rx', buffer_size=64, capacity=64).close()"
subprocess.run([sys.executable, "-c", make], check=True)  # so this process has opened none before
calls = {
    "attach": lambda: shmpool.Pool.attach("rx").close(),
    "create": lambda: create("made", unlink_on_close=True).close(),
    "look": lambda: View("rx").close(),
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


def test_read_only(tell: Run) -> None:
    """In a /dev/shm that is mounted read-only pools are looked at; what changes them is
    AccessDenied that says how to mount it."""
    make = "import shmpool; shmpool.Pool.create('rx', buffer_size=64, capacity=64).close()"
    lines = tell(
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
def test_no_inodes(tell: Run, inodes: int) -> None:
    """A tmpfs with no inode left: OutOfSharedMemory that names them, and nothing is left."""
    line, left = tell(
        """
what(create)
print(os.listdir("/dev/shm"))
""",
        shm=f"mount -t tmpfs -o nr_inodes={inodes} tmpfs /dev/shm",
    ).splitlines()
    assert line.startswith("OutOfSharedMemory pool 'rx' cannot be created: ")
    assert "no inodes left" in line
    assert "[]" == left


def test_full(tell: Run) -> None:
    """A tmpfs that is full: create, create_queue and growth are OutOfSharedMemory; what there was
    is used on, the audit is clean, and with room again they succeed."""
    lines = tell(
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
def test_no_shared_memory(tell: Run, shm: str) -> None:
    """No /dev/shm, or a file in its place: create says what to mount, attach finds nothing, and
    there is nothing to list or prune."""
    lines = tell(
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
    """Commands end with a line, not with a traceback."""
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


def test_another_file_system(tell: Run, tmp_path: Path) -> None:
    """Where /dev/shm is a directory of another file system, a pool works if that has the locks and
    reserves memory; else create says so."""
    printed = tell(
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
