# SPDX-License-Identifier: Apache-2.0
"""shmpool doctor: containers, control groups, logind, and machines without optional features."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from test_growth import small_shm

from shmpool import memory
from shmpool.cli import container, diagnosis
from shmpool.cli.container import Limit
from shmpool.os_errors import SHM, shared_memory

pytest.importorskip("click", reason="shmpool[cli] is not installed")

V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n"
V1 = "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n"
NO_LIMIT_V1 = 0x7FFFFFFFFFFFF000


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"proc/self/mounts": V2, "proc/self/cgroup": "0::/\n"}, None),
        (
            {
                "proc/self/mounts": V2,
                "proc/self/cgroup": "0::/a.slice/b.service\n",
                "sys/fs/cgroup/a.slice/memory.max": "1000000\n",
                "sys/fs/cgroup/a.slice/b.service/memory.max": "max\n",
            },
            Limit(1000000, 2, "/a.slice"),
        ),
        (  # a container with a namespace of its own
            {
                "proc/self/mounts": V2,
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "67108864\n",
            },
            Limit(67108864, 2, "/"),
        ),
        (
            {
                "proc/self/mounts": V1,
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/1\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{NO_LIMIT_V1}\n",
                "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "5000000\n",
            },
            Limit(5000000, 1, "/docker/1"),
        ),
        (  # a container of v1: the path is the machine's, the mount the container's
            {
                "proc/self/mounts": V1,
                "proc/self/cgroup": "4:memory:/docker/1\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000000\n",
            },
            Limit(5000000, 1, "/"),
        ),
        ({"proc/self/mounts": "x\n\n a b", "proc/self/cgroup": "::\nz\n0::"}, None),
    ],
)
def test_memory_limits(tmp_path: Path, files: dict[str, str], limit: Limit | None) -> None:
    """The lowest limit of a control group and those above it, in both versions."""
    assert limit == container.memory_limit(machine(tmp_path, files))


@pytest.mark.parametrize(
    ("files", "removed"),
    [
        ({}, True),
        ({"etc/systemd/logind.conf": "[Login]\n#RemoveIPC=no\n"}, True),
        ({"etc/systemd/logind.conf": "[Login]\nRemoveIPC=no\n"}, False),
        ({"usr/lib/systemd/logind.conf": "[Login]\nRemoveIPC = no\n"}, False),
        (
            {
                "usr/lib/systemd/logind.conf": "RemoveIPC=no\n",
                "etc/systemd/logind.conf": "[Login]\n",
            },
            True,
        ),
        (
            {
                "etc/systemd/logind.conf": "RemoveIPC=no\n",
                "etc/systemd/logind.conf.d/a.conf": "RemoveIPC=yes\n",
                "run/systemd/logind.conf.d/b.conf": "RemoveIPC=off\n",
            },
            False,
        ),
        ({"var/lib/systemd/linger/54321": ""}, False),
    ],
)
def test_logind(tmp_path: Path, files: dict[str, str], removed: bool) -> None:
    """logind removes an ordinary user's pools at logout, unless it is configured not to."""
    root = machine(tmp_path, files)
    assert container.removed_at_logout(root, 54321) is None  # no logind
    (root / "run/systemd/users").mkdir(parents=True)
    assert ("54321" if removed else None) == container.removed_at_logout(root, 54321)
    assert container.removed_at_logout(root, 999) is None


def test_file_systems(tmp_path: Path) -> None:
    """The file system is that of the longest mount point, and of the last mount on it."""
    mounts = "overlay / overlay rw 0 0\ntmpfs /dev tmpfs rw 0 0\nshm /dev/shm tmpfs rw 0 0\n"
    root = machine(tmp_path, {"proc/self/mounts": mounts})
    assert "tmpfs" == container.file_system("/dev/shm", root)
    assert "overlay" == container.file_system("/devices", root)
    machine(tmp_path, {"proc/self/mounts": f"{mounts}/dev/sda /dev/shm ext4 rw 0 0\n"})
    assert "ext4" == container.file_system("/dev/shm", root)


def test_namespaces(tmp_path: Path) -> None:
    """The machine's own namespace, another one, and a /proc that does not show it."""
    assert container.own_pid_namespace(tmp_path) is None
    link = tmp_path / "proc/self/ns/pid"
    link.parent.mkdir(parents=True)
    link.symlink_to(container.FIRST_PID_NAMESPACE)
    assert container.own_pid_namespace(tmp_path) is False
    link.unlink()
    link.symlink_to("pid:[4026532201]")
    assert container.own_pid_namespace(tmp_path) is True


EXAMINE = """
    import json
    from shmpool.cli import diagnosis
    print(json.dumps([(f.subject, f.state, f.found, f.advice) for f in diagnosis.examine()]))
"""


def examined(text: str) -> dict[str, list[str]]:
    return {subject: rest for subject, *rest in json.loads(text)}


NO_DEV = "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to unmount things")
@pytest.mark.parametrize(
    ("before", "subject", "state", "words"),
    [
        (NO_DEV, SHM, "bad", ["does not exist", "mount -t tmpfs -o mode=1777"]),
        (f"mount -t tmpfs none {SHM} && umount -l /proc", SHM, "note", ["mount -t proc proc"]),
        (
            f"mount -t tmpfs -o size=64m none {SHM}",
            f"size of {SHM}",
            "note",
            ["64 MiB", "remount,size=", "--shm-size="],
        ),
        (f"mount -t ramfs none {SHM}", SHM, "bad", ["it is on ramfs"]),
        (
            f"mount -t tmpfs -o ro none {SHM}",
            f"permission to {SHM}",
            "bad",
            ["read-only", f"mount -o remount,rw {SHM}"],
        ),
    ],
    ids=["no /dev/shm", "no /proc", "64 MiB", "another file system", "read-only"],
)
def test_a_machine_that_lacks_things(
    run: Callable[..., str], before: str, subject: str, state: str, words: list[str]
) -> None:
    """Each missing feature is reported with a remedy, and the exit status is 0."""
    prefix = ("unshare", "-m", "--propagation", "private", "sh", "-c", f'{before} && exec "$@"')
    able = subprocess.run([*prefix, "sh", "true"], capture_output=True, check=False)
    if able.returncode:
        pytest.skip(f"cannot: {able.stderr.decode()}")
    found = examined(run(EXAMINE, prefix=(*prefix, "sh")))
    assert state == found[subject][0], found
    for word in words:
        assert word in " ".join(found[subject]), found[subject]
    assert {"open files", "daemon"} <= found.keys()
    assert not [rest for rest in found.values() if "cannot be examined" in rest[1]]


def test_a_pool_that_may_outgrow_memory(run: Callable[..., str]) -> None:
    """It is a note with both sizes, not a fault.

    So is a file whose name no pool can have; the shell command that the note advises removes it.
    """
    script = """
        import json, os, subprocess, shmpool
        from shmpool.cli import diagnosis
        pool = shmpool.Pool.create("rx", buffer_size=2048, capacity=65536)
        for name in (b"\\xff", b"a'b\\\\c \\n\\x1b[2J", b"$(touch x)"):
            os.close(os.open(b"/dev/shm/shmpool." + name, os.O_CREAT))
        print(json.dumps([(f.subject, f.state, f.found, f.advice) for f in diagnosis.examine()]))
        for finding in diagnosis.examine():
            if finding.subject.startswith("file "):
                subprocess.run(["bash", "-c", finding.advice.partition(": ")[2]], check=True)
        print(sorted(os.listdir(b"/dev/shm")))
        """
    first, last = run(script, prefix=small_shm("64m")).splitlines()
    found = examined(first)
    assert ["note", "it can grow to 128 MiB, but /dev/shm has only 64 MiB"] == found["pool rx"][:2]
    assert "note" == found[r"file shmpool.\xff"][0]
    assert f"rm -r -- {SHM}/$'shmpool.\\xff'" in found[r"file shmpool.\xff"][2]
    assert "[b'shmpool.rx']" == last


@pytest.mark.parametrize(
    ("link", "state", "found", "advice"),
    [
        (None, "note", "/proc/self/ns cannot be read", "mount -t proc proc /proc"),
        (container.FIRST_PID_NAMESPACE, "ok", "the host's", ""),
        ("pid:[4026532201]", "ok", "not the host's", "docker run --pid=host"),
    ],
)
def test_note_of_the_namespace(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    link: str | None,
    state: str,
    found: str,
    advice: str,
) -> None:
    """In another PID namespace a note says how pids are shown; on the machine itself there is
    none."""
    if link is not None:
        (tmp_path / "proc/self/ns").mkdir(parents=True)
        (tmp_path / "proc/self/ns/pid").symlink_to(link)
    monkeypatch.setattr(diagnosis, "ROOT", tmp_path)
    (said,) = [f for f in diagnosis.examine() if f.subject == "PID namespace"]
    assert (state, found) == (said.state, said.found)
    assert advice in said.advice
    assert bool(advice) == bool(said.advice)


def test_a_kernel_without_membarrier(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a note that says what the lack costs."""
    monkeypatch.setattr(diagnosis, "has_membarrier", lambda: False)
    (said,) = [f for f in diagnosis.examine() if f.subject == "membarrier"]
    assert ("note", "missing") == (said.state, said.found)
    assert "Linux 4.16 or newer" in said.advice


@pytest.mark.parametrize("heeded", [True, False])
def test_an_emulator(monkeypatch: pytest.MonkeyPatch, heeded: bool) -> None:
    """One whose madvise(2) does nothing is a note, with what to fork by."""
    monkeypatch.setattr(diagnosis, "forks_by_kernel", lambda: heeded)
    said = [(f.state, f.advice) for f in diagnosis.examine() if f.subject == "madvise"]
    assert heeded == (not said)
    assert heeded or (said[0][0] == "note" and "os.fork" in said[0][1])


@pytest.mark.parametrize(("more", "state"), [(-1, "note"), (0, "ok"), (1, "ok")])
def test_memory_of_the_control_group(
    monkeypatch: pytest.MonkeyPatch, more: int, state: str
) -> None:
    """A limit is good if a pool can fill shared memory without reaching it."""
    total, _ = shared_memory()
    monkeypatch.setattr(container, "memory_limit", lambda root: Limit(total + more, 2, "/x"))
    (said,) = [f for f in diagnosis.examine() if f.subject == "memory of the control group"]
    assert state == said.state
    assert "(cgroup v2, /x)" in said.found


def test_a_check_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that raises is a note, and the other checks run."""

    def broken(root: Path) -> None:
        raise RuntimeError("\x1b[2J")

    monkeypatch.setattr(container, "memory_limit", broken)
    found = {finding.subject: finding for finding in diagnosis.examine(Path("/nonexistent\udcff"))}
    assert r"cannot be examined: RuntimeError('\x1b[2J')" == (
        found["memory of the control group"].found
    )
    assert "pools" in found
    assert all(f.found and f.found.isprintable() for f in found.values())


@pytest.mark.parametrize(
    ("why", "state", "found"),
    [("", "ok", "made on request"), ("the kernel makes none", "note", "not made")],
)
def test_huge_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str, state: str, found: str
) -> None:
    """What the kernel answers to a try, its mode, and pages that hugetlbfs keeps from pools."""
    files = {memory.SHMEM_ENABLED: "always [advise] never\n"}
    files |= {f"{memory.HUGETLB}/{key}_hugepages": n for key, n in (("nr", "8\n"), ("free", "5\n"))}
    monkeypatch.setattr(diagnosis, "ROOT", machine(tmp_path, files))
    monkeypatch.setattr(memory, "huge_pages", lambda: why)
    said = {finding.subject: finding for finding in diagnosis.examine()}
    pages = said["huge pages"]
    assert (state, f"{found} (shmem_enabled advise)") == (pages.state, pages.found)
    assert 'huge_pages="auto"' in pages.advice
    assert bool(why) == ("populate=True" in pages.advice)
    assert ("note", "5 free of 8") == (
        said["pages of hugetlbfs"].state,
        said["pages of hugetlbfs"].found,
    )


@pytest.mark.parametrize(("capabilities", "limited"), [("0", True), (f"{1 << 14:x}", False)])
def test_locked_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capabilities: str, limited: bool
) -> None:
    """The limit, and how to raise it; none for a process that may lock what it likes."""
    status = f"Name:\tx\nCapEff:\t{capabilities}\n"
    monkeypatch.setattr(diagnosis, "ROOT", machine(tmp_path, {"proc/self/status": status}))
    monkeypatch.setattr(memory.resource, "getrlimit", lambda which: (8 << 20, 8 << 20))
    (said,) = [f for f in diagnosis.examine() if f.subject == "limit of locked memory"]
    assert ("ok", "8 MiB" if limited else "none") == (said.state, said.found)
    assert limited == ("ulimit -l" in said.advice)


@pytest.mark.parametrize(("online", "advised"), [("0\n", False), ("0-1\n", True)])
def test_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: str, advised: bool) -> None:
    """Where there are several, it says what numa_node brings."""
    monkeypatch.setattr(diagnosis, "ROOT", machine(tmp_path, {memory.NODES: online}))
    (said,) = [f for f in diagnosis.examine() if f.subject == "NUMA nodes"]
    assert advised == ("numa_node=" in said.advice)
