# SPDX-License-Identifier: Apache-2.0
"""shmpool.bench: what its adapters do with a full channel, and what is then counted as lost.

A sender is told that there is no room, or waits. What it was not told to repeat arrives, whole and
in order. Each contestant runs in a process of its own, because libraries keep state in it. Those
that need another library have the marker contestants; `make test-bench` runs them.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shmpool.bench import message
from shmpool.bench.contestants import TRANSPORTS
from shmpool.bench.scoreboard import PREFIX
from shmpool.bench.transport import OneByOne, Spec

ROOT = Path(__file__).resolve().parent.parent
REFUSALS = 200  # in a row: there is no room. Some libraries refuse now and then for other reasons
# By title: the most messages that are sent. The sends of shmpool, torch and loky wait for room.
MOST = {
    "shmpool send, recv": 1000,
    "shmpool send, recv, lanes": 1000,
    "shmpool send, recv, a queue each": 1000,
    "shared_memory ring by hand": 10_000,
    "ring with flags by hand": 10_000,
    "horus-robotics Topic": 10_000,
    "pyaeron offer, poll": 10_000,
    "torch.multiprocessing.Queue": 20,
    "loky Queue": 1000,
}


def kind_of(title: str) -> type[OneByOne]:
    return next(t for t in TRANSPORTS if t.title() == title and issubclass(t, OneByOne))


def fill_and_drain(title: str, name: str, size: int) -> dict[str, int]:
    """In a process of its own: sends until there is no room, then receives until nothing is left.
    Returns how many messages were accepted, and what the harness says of those that arrived."""
    transport = kind_of(title)(Spec(name, size))
    accepted, log = 0, []
    try:
        transport.create()
        receive, send = transport.receiver(0, 0.5), transport.sender(0)
        check = message.edges_checker()
        edges = message.edges(size)
        for packet in message.maker(size, MOST[title])(message.base(0) + message.STEP):
            patience = REFUSALS if accepted else 100 * REFUSALS  # until the receiver is known
            while patience and not sent(transport, send, packet):
                patience -= 1
                time.sleep(0 if accepted else 0.001)
            if not patience:
                break
            accepted += 1
        quiet = 0
        while quiet < (REFUSALS if transport.polls else 1):
            try:
                got = receive()
            except transport.empty:
                got = None
            quiet = 0 if got is not None else quiet + 1
            if got is not None:
                log.append(check([*edges(got)]))
        del receive, send
        transport.close()
    finally:
        transport.remove()
    import numpy as np

    last = message.base(0) + accepted * message.STEP
    words = np.concatenate(log) if log else np.empty(0, np.uint64)
    return {"accepted": accepted, **vars(message.check({0: last}, [words]))}


def sent(transport: OneByOne, send: object, packet: bytes) -> bool:
    assert callable(send)
    try:
        return send(packet) is not False
    except transport.full:
        return False


def case(title: str) -> object:
    ours = kind_of(title).package in (None, "shmpool")
    return pytest.param(title, marks=[] if ours else [pytest.mark.contestants])


@pytest.mark.parametrize("size", [64, 1500])
@pytest.mark.parametrize("title", [case(title) for title in MOST])
def test_full_channel_loses_nothing(title: str, size: int) -> None:
    """Every message that a sender got rid of arrives once, whole and in order."""
    if kind_of(title).version() is None:
        pytest.skip(f"{kind_of(title).package} is not installed")
    name = f"{PREFIX}{os.getpid()}-{time.monotonic_ns()}"
    done = subprocess.run(
        [sys.executable, __file__, title, name, str(size)],
        capture_output=True, text=True, check=False, timeout=110, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    accepted = found.pop("accepted")
    assert 10 < accepted <= MOST[title]
    if MOST[title] == 10_000:
        assert accepted < 10_000, "the channel never became full"
    assert dict.fromkeys(found, 0) == found
    left = [path.name for path in Path("/dev/shm").iterdir() if name in path.name.replace("_", "-")]
    assert [] == left


if __name__ == "__main__":
    print(json.dumps(fill_and_drain(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
