# SPDX-License-Identifier: Apache-2.0
"""clients.service: requests over real sockets, while processes of the service are killed."""

import asyncio
import contextlib
import hashlib
import io
import os
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.programs import Program

PATIENCE = aiohttp.ClientTimeout(total=300)


class Service(Program):
    """The service, on a port that is free."""

    def __init__(self) -> None:
        super().__init__("service", "--port", 0)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"serving on (http://127\.0\.0\.1:\d+/digest)\n", line)
        assert found, (line, self.finish())
        self.url = found.group(1)

    def children(self) -> list[int]:
        """The pids of web processes and workers."""
        own = self.process.pid
        pids = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        return [int(p) for p in pids if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]

    def end(self) -> tuple[int, str]:
        """Ends it as Ctrl-C does. Returns its exit status, and what it wrote to stderr."""
        self.interrupt()
        code, _, err = self.finish()
        return code, err


@pytest.fixture
def service() -> Iterator[Service]:
    """A service of two web processes and two workers."""
    running = Service()
    yield running
    if running.process.returncode is None:
        running.end()


async def ask(session: aiohttp.ClientSession, url: str, body: bytes) -> int:
    """Asks for a body's digest until the service answers. Returns which process computed it."""
    while True:
        try:
            async with session.post(url, data=io.BytesIO(body)) as response:
                assert 200 == response.status, await response.text()
                answer = await response.json()
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.05)  # no web process listens yet, or its process was killed
            continue
        assert hashlib.sha256(body).hexdigest() == answer["sha256"]
        assert len(body) == answer["bytes"]
        worker: int = answer["worker"]
        return worker


def test_bodies(service: Service) -> None:
    """Bodies of any size, also over many buffers, come back as their digests."""
    chance = random.Random(1)

    async def main() -> None:
        async with aiohttp.ClientSession(timeout=PATIENCE) as session:
            for size in (0, 1, 1024, 1025, 65536, 65537, 3_000_000):
                await ask(session, service.url, chance.randbytes(size))
        port = int(service.url.split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /digest HTTP/1.1\r\nHost: x\r\nContent-Length: 80000000\r\n\r\n")
        assert b"413" in await reader.readline()
        writer.close()

    asyncio.run(main())
    code, err = service.end()
    assert (0, "") == (code, err)


def test_killed_workers(service: Service) -> None:
    """Each request is answered, although the workers that answer are killed all the time."""
    chance = random.Random(2)
    killed: set[int] = set()

    async def client(session: aiohttp.ClientSession) -> None:
        for _ in range(25):
            worker = await ask(session, service.url, chance.randbytes(chance.randrange(200_000)))
            if len(killed) < 8 and worker not in killed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
                killed.add(worker)

    async def main() -> None:
        async with aiohttp.ClientSession(timeout=PATIENCE) as session:
            await asyncio.gather(*(client(session) for _ in range(8)))

    asyncio.run(main())
    assert len(killed) >= 3
    code, err = service.end()
    assert 0 == code
    assert "Traceback" not in err


def test_killed_web_process(service: Service) -> None:
    """When a process is killed, whichever it is, another one takes its place."""

    async def main() -> None:
        async with aiohttp.ClientSession(timeout=PATIENCE) as session:
            await ask(session, service.url, b"first")
            for pid in service.children():
                os.kill(pid, signal.SIGKILL)
                await ask(session, service.url, b"again")

    asyncio.run(main())
    code, err = service.end()
    assert 0 == code
    assert 4 == err.count("has ended (-9)")


def test_no_such_host() -> None:
    """A host that is not this machine's is named."""
    code, _, err = Program("service", "--host", "192.0.2.1").finish()
    assert 1 == code
    assert "cannot listen on 192.0.2.1:8080: Cannot assign requested address" in err
