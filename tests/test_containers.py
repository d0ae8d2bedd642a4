# SPDX-License-Identifier: Apache-2.0
"""packaging/compose.yaml and packaging/kubernetes.yaml: the commands of their containers, in
namespaces of their own that share /dev/shm, as these files say."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE_S

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
ROOT = Path(__file__).resolve().parent.parent
PACKAGING = ROOT / "packaging"
# Makes the tmpfs that the containers share; each of them then has PIDs, mounts, host name and
# System V IPC of its own. The first word of each container's command is the name it prints with.
SHARED = """
mount -t tmpfs -o size=256m tmpfs /dev/shm
for name in producer consumer; do
    unshare --mount --pid --ipc --uts --fork --kill-child --mount-proc \\
        "$PYTHON" -c "$(cat "$1/$name")" > "$1/$name.out" &
done
wait
"""


def commands() -> dict[str, dict[str, list[str]]]:
    """The containers of both files with their commands."""
    compose = yaml.safe_load((PACKAGING / "compose.yaml").read_text())["services"]
    pod = yaml.safe_load((PACKAGING / "kubernetes.yaml").read_text())["spec"]
    return {
        "compose.yaml": {name: service["command"] for name, service in compose.items()},
        "kubernetes.yaml": {one["name"]: one["command"] for one in pod["containers"]},
    }


@pytest.mark.parametrize("file", ["compose.yaml", "kubernetes.yaml"])
def test_the_containers_share_a_pool(file: str, tmp_path: Path) -> None:
    """The producer's packets reach the consumer, each in PID and mount namespaces of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for namespaces")
    for name in ("producer", "consumer"):
        python, option, program = commands()[file][name]
        assert ("python", "-c") == (python, option)
        (tmp_path / name).write_text(program)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", SHARED, "sh", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable},
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("no permission to make namespaces")
    assert (0, "") == (done.returncode, done.stderr)
    assert "1000 packets\n" == (tmp_path / "consumer.out").read_text()


def test_the_files_match_their_schemas() -> None:
    """Compose's, and that of Kubernetes for each kind of object, with no unknown key."""
    kubernetes = pytest.importorskip("kubernetes_validate")
    pod = yaml.safe_load((PACKAGING / "kubernetes.yaml").read_text())
    kubernetes.validate(pod, kubernetes.latest_version(), strict=True)
    pytest.importorskip("check_jsonschema")
    command = ("-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec")
    done = subprocess.run(
        [sys.executable, *command, str(PACKAGING / "compose.yaml")], capture_output=True, text=True
    )
    assert 0 == done.returncode, done.stdout + done.stderr


def test_the_daemon_understands_its_command() -> None:
    """Its options are options of `shmpool daemon`, and the port is the one that is published."""
    from shmpool.cli.daemon import command

    known = {option for parameter in command.params for option in parameter.opts}
    for containers in commands().values():
        words = containers["daemon"]
        assert words[:2] == ["shmpool", "daemon"]
        assert {word for word in words if word.startswith("--")} <= known
        assert words[words.index("--http") + 1].endswith(":9464")


def test_what_the_files_share() -> None:
    """In Compose the IPC namespace of the daemon; in the pod one volume of memory at /dev/shm."""
    compose = yaml.safe_load((PACKAGING / "compose.yaml").read_text())["services"]
    assert {"daemon": "shareable", "producer": "service:daemon", "consumer": "service:daemon"} == {
        name: service["ipc"] for name, service in compose.items()
    }
    pod: dict[str, Any] = yaml.safe_load((PACKAGING / "kubernetes.yaml").read_text())
    assert ("v1", "Pod") == (pod["apiVersion"], pod["kind"])
    (volume,) = pod["spec"]["volumes"]
    assert "Memory" == volume["emptyDir"]["medium"]
    for container in pod["spec"]["containers"]:
        assert [{"name": volume["name"], "mountPath": "/dev/shm"}] == container["volumeMounts"]
