# SPDX-License-Identifier: Apache-2.0
"""The pod of packaging/kubernetes.yaml under a real container runtime, runc or crun.

Its containers have namespaces and a file system of their own, and the user that the manifest names.
They share a pool, and one of them is killed.
"""

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import DEADLINE_S

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
ROOT = Path(__file__).resolve().parent.parent
POD = yaml.safe_load((ROOT / "packaging" / "kubernetes.yaml").read_text())["spec"]
# What a container sees of this machine, read-only: its programs, libraries and this Python.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/passwd")


class Container(NamedTuple):
    name: str
    process: "subprocess.Popen[str]"

    def finish(self) -> tuple[int, str, str]:
        out, error = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, out, error


class Pod:
    """Containers that share a /dev/shm and nothing else."""

    def __init__(self, runtime: str, folder: Path, user: int) -> None:
        self.runtime, self.folder, self.user = runtime, folder, user
        self.memory = Path(f"/dev/shm/pod-{uuid.uuid4().hex}")
        self.memory.mkdir()
        os.chown(self.memory, user, user)
        self.started: list[Container] = []

    def command(self, *words: str) -> list[str]:
        return [self.runtime, "--root", str(self.folder / "state"), *words]

    def start(self, name: str, *arguments: str) -> Container:
        """Starts a container that runs this Python with the arguments."""
        bundle = self.folder / name
        (bundle / "rootfs").mkdir(parents=True)
        settings = configuration(arguments, name, self.user, self.memory)
        (bundle / "config.json").write_text(json.dumps(settings))
        identity = f"{self.memory.name}-{name}"
        process = subprocess.Popen(
            self.command("run", "--bundle", str(bundle), identity),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(Container(identity, process))
        return self.started[-1]

    def kill(self, container: Container) -> None:
        """kill -9 of all that runs in it."""
        command = self.command("kill", container.name, "KILL")
        subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)
        container.process.wait(DEADLINE_S)

    def end(self) -> None:
        for container in self.started:
            if container.process.poll() is None:
                self.kill(container)
            for stream in (container.process.stdout, container.process.stderr):
                assert stream is not None
                stream.close()
        shutil.rmtree(self.memory)


def configuration(arguments: tuple[str, ...], name: str, user: int, memory: Path) -> dict[str, Any]:
    """A bundle's config.json: what Docker and containerd give a container, as far as it matters."""

    def bound(path: str) -> dict[str, Any]:
        kind = {"destination": path, "type": "bind", "source": path}
        return {**kind, "options": ["rbind", "ro", "nosuid", "nodev"]}

    seen = [*SYSTEM, sys.prefix, sys.base_prefix, str(ROOT), *filter(None, sys.path)]
    seen = [
        path for path in dict.fromkeys(seen)
        if Path(path).exists() and not any(path.startswith(f"{other}/") for other in seen)
    ]  # fmt: skip
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
        *map(bound, seen),
        {"destination": "/dev/shm", "type": "bind", "source": str(memory), "options": ["rbind"]},
    ]
    environ = [f"PYTHONPATH={ROOT}", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"]
    return {
        "ociVersion": "1.0.2",
        "hostname": name,
        "root": {"path": "rootfs", "readonly": False},
        "process": {
            "args": [sys.executable, *arguments],
            "cwd": "/",
            "env": environ,
            "user": {"uid": user, "gid": user},
            "noNewPrivileges": True,
            "capabilities": {},
        },
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
        },
    }


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    """A pod of the user that the manifest names, with the first runtime that works here."""
    found = [name for name in ("runc", "crun") if shutil.which(name)]
    if not found:
        pytest.skip("neither runc nor crun is installed")
    if os.geteuid() != 0:
        pytest.skip("needs root, for namespaces")
    pod = Pod(found[0], tmp_path, POD["securityContext"]["runAsUser"])
    try:
        first = pod.start("first", "-c", "import shmpool")
        status, _, error = first.finish()
        if status:
            pytest.skip(f"{found[0]} cannot run a container here: {error.strip()}")
        yield pod
    finally:
        pod.end()


def program_of(name: str) -> str:
    (command,) = (one["command"] for one in POD["containers"] if one["name"] == name)
    assert ["python", "-c"] == command[:2]
    text: str = command[2]
    return text


def test_the_pod(pod: Pod) -> None:
    """The producer's packets reach the consumer. Both are process 1 of their containers."""
    producer = pod.start("producer", "-c", program_of("producer"))
    consumer = pod.start("consumer", "-c", program_of("consumer"))
    assert (0, "", "") == producer.finish()
    assert (0, "1000 packets\n", "") == consumer.finish()


TAKE = """
import os, shmpool, time
work = shmpool.Pool.attach("rx", timeout=60).queue("work", timeout=60)
buf = work.get(timeout=60)
print("has", bytes(buf).decode(), "as process", os.getpid(), flush=True)
time.sleep(600)
"""
MAKE = """
import shmpool
pool = shmpool.Pool.create("rx", buffer_size=2048, capacity=64)
pool.create_queue("work", capacity=8, on_death="requeue").send(b"a job")
"""
TAKE_AGAIN = """
import shmpool
pool = shmpool.Pool.attach("rx")
with pool.queue("work").get(timeout=60) as buf:
    print(bytes(buf).decode(), buf.redelivered, pool.audit().ok)
"""


def test_a_container_that_is_killed(pod: Pod) -> None:
    """What its process had taken comes again in another container. Both processes have pid 1."""
    assert (0, "", "") == pod.start("maker", "-c", MAKE).finish()
    worker = pod.start("worker", "-c", TAKE)
    assert worker.process.stdout is not None
    assert "has a job as process 1\n" == worker.process.stdout.readline()
    pod.kill(worker)
    assert (0, "a job 1 True\n", "") == pod.start("heir", "-c", TAKE_AGAIN).finish()
