# SPDX-License-Identifier: Apache-2.0
"""A million objects there and back, of which some are arrays: python tests/mp_growth.py.

Prints, as JSON, what there is before that million and after it: how many names in /dev/shm and open
files, the private memory of both processes, and the pool's, in bytes. Before, as many have passed
as a queue holds: its ring has got its memory.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
from conftest import DEADLINE_S, open_files

import shmpool

TURN = 1000  # objects


def private(pid: int) -> int:
    """The resident memory of a process that it shares with nobody, in bytes."""
    return int(re.findall(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0]) << 10


def relay(there: shmpool.Queue, back: shmpool.Queue) -> None:
    """Sends back what it gets."""
    while (obj := there.get()) is not None:
        back.put(obj)


def exchange(there: shmpool.Queue, back: shmpool.Queue, n: int) -> None:
    array = np.ones(2000)
    for i in range(0, n, TURN):
        there.put_many([i] * (TURN - 10) + [array] * 10)
        got = 0
        while got < TURN:
            got += len(back.get_many(TURN - got, timeout=DEADLINE_S))


def main() -> None:
    context = shmpool.get_context("fork")
    there, back = context.Queue(), context.Queue()
    process = context.Process(target=relay, args=(there, back), daemon=True)
    process.start()
    pids = os.getpid(), process.pid or 0
    measured = []
    for n in (1_100_000, 1_000_000):
        exchange(there, back, n)
        measured.append(
            {
                "names": len(os.listdir("/dev/shm")),
                "files": sum(len(open_files(pid)) for pid in pids),
                "private": sum(map(private, pids)),
                "pool": os.fstat(there._queue.pool._opened().fd).st_blocks * 512,
            }
        )
    there.put(None)
    process.join()
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
