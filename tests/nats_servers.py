# SPDX-License-Identifier: Apache-2.0
"""Real servers of NATS for tests: one, or a cluster, whose processes a test may kill."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network_spaces import Space

DEADLINE_S = 60.0  # a guard against hangs
PORTS = 20  # attempts to find a port that nobody takes in between


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Server:
    """One server, with JetStream in a folder that outlives the process."""

    def __init__(
        self, folder: Path, name: str = "one", more: str = "", space: Space | None = None
    ) -> None:
        """space: the network namespace that it runs in, where it listens at all addresses."""
        self.folder, self.name, self.more, self._space = folder, name, more, space
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self, wait: bool = True) -> "Server":
        """Starts it, and waits until it accepts connections."""
        config = self.folder / "server.conf"
        command, host = ["nats-server", "-c", str(config)], "127.0.0.1"
        if self._space is not None:
            command, host = [*self._space.command, *command], "0.0.0.0"  # noqa: S104
        config.write_text(
            f"server_name: {self.name}\nlisten: {host}:{self.port}\n"
            f'jetstream {{ store_dir: "{self.folder}/store", max_file: 1GB, max_mem: 64MB }}\n'
            f"{self.more}\n"
        )
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        if wait:
            self.wait()
        return self

    def wait(self) -> None:
        give_up = time.monotonic() + DEADLINE_S
        while True:
            try:
                with (
                    self._space.entered() if self._space else contextlib.nullcontext(),
                    socket.create_connection(("127.0.0.1", self.port), 1) as one,
                ):
                    one.settimeout(DEADLINE_S)
                    if one.recv(5) == b"INFO ":
                        return
            except OSError:
                pass
            assert self.process is not None
            assert self.process.poll() is None, self.log
            assert time.monotonic() < give_up, self.log
            time.sleep(0.01)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def one(folder: Path, more: str = "", space: Space | None = None) -> Iterator[Server]:
    """A server by itself. Skips the test where there is none."""
    if not shutil.which("nats-server"):
        pytest.skip("nats-server is not installed; `make tools` as root installs it")
    server = Server(folder / "nats", more=more, space=space)
    try:
        for _ in range(PORTS):
            try:
                server.start()
                break
            except AssertionError:
                server.kill()
                if "address already in use" not in server.log:
                    raise
                server.port = free_port()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def cluster(folder: Path, n: int = 3) -> Iterator[list[Server]]:
    """A cluster. Its servers know each other's ports, so it begins again if one is taken."""
    if not shutil.which("nats-server"):
        pytest.skip("nats-server is not installed; `make tools` as root installs it")
    for attempt in range(PORTS):
        inner = [free_port() for _ in range(n)]
        routes = ", ".join(f"nats://127.0.0.1:{port}" for port in inner)
        servers = [
            Server(
                folder / f"nats-{attempt}-{i}",
                f"n{i}",
                f"cluster {{ name: test, listen: 127.0.0.1:{inner[i]}, routes: [{routes}] }}",
            )
            for i in range(n)
        ]
        try:
            for server in servers:
                server.start(wait=False)
            try:
                for server in servers:
                    server.wait()
            except AssertionError:
                if not any("address already in use" in server.log for server in servers):
                    raise
                continue
            yield servers
            return
        finally:
            for server in servers:
                server.kill()
