# SPDX-License-Identifier: Apache-2.0
"""Uses an installed shmpool: a put and a get, a worker that is killed, what the import loads.

    python tests/try_wheel.py

tests/test_install.py runs it in an empty environment, and cibuildwheel with each wheel.
"""

import importlib.metadata
import multiprocessing
import os
import signal
import sys

import shmpool

LATER = ("aiohttp", "asyncio", "msgpack", "numpy", "uvloop")
loaded = [name for name in LATER if name in sys.modules]


def die_with_a_message(work: shmpool.AlfQueue) -> None:
    with work.get(timeout=60):
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    if not shmpool.__file__.startswith(sys.prefix):
        raise SystemExit(f"{shmpool.__file__} is not the installed package")
    if loaded:
        raise SystemExit(f"import shmpool imports {loaded}")
    with shmpool.Pool.create(None, buffer_size=64, capacity=64) as pool:
        work = pool.create_queue("work", capacity=8, on_death="requeue")
        buf = pool.alloc()
        buf.write(b"hello")
        work.put(buf)
        worker = multiprocessing.get_context("spawn").Process(
            target=die_with_a_message, args=(work,)
        )
        worker.start()
        worker.join()
        with work.get(timeout=60) as again:
            print(bytes(again), again.redelivered, importlib.metadata.version("shmpool"))
        print("balanced" if pool.audit().ok else "not balanced")


if __name__ == "__main__":
    main()
