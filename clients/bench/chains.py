# SPDX-License-Identifier: Apache-2.0
"""Chains against one memcpy(3), and a size class against a pool of that size alone.

Each round does all of it once, so that what disturbs the machine disturbs all; the medians of the
ratios are printed. In: alloc(size=n), write(), put(). Out: get(), readinto(), free().
Through: both, against two copies.
"""

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable

import shmpool

MEBI = 1 << 20
BUFFER_SIZES = (MEBI, 65536, 2048)


def seconds(call: Callable[[], object]) -> float:
    """Returns how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def memcpy_of(target: bytearray, source: bytearray) -> Callable[[], object]:
    """Returns a call that copies all of source by the C library."""
    kind = ctypes.c_char * len(source)
    to, given = kind.from_buffer(target), kind.from_buffer(source)
    return lambda: ctypes.memmove(to, given, len(source))


def in_and_out(
    pool: shmpool.Pool, queue: shmpool.AlfQueue, source: bytearray, target: bytearray
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Returns the two calls: source into the queue, and out of it into target."""

    def put() -> None:
        buf = pool.alloc(size=len(source))
        buf.write(source)
        queue.put(buf)

    def get() -> None:
        with queue.get() as buf:
            buf.readinto(target)

    return put, get


def chains(size: int, rounds: int) -> None:
    """Prints the speed of a chain, for each size of its buffers, relative to memcpy."""
    source, target = bytearray(b"0123456789abcdef" * (size // 16)), bytearray(size)
    memcpy = memcpy_of(target, source)
    print(f"{size / MEBI:g} MiB through a chain, relative to memcpy (1 = as fast)")
    for buffer_size in BUFFER_SIZES:
        capacity = 1 << (2 * size // buffer_size - 1).bit_length()
        with shmpool.Pool.create(
            None, buffer_size=buffer_size, capacity=capacity, prealloc=capacity
        ) as pool:
            put, get = in_and_out(pool, pool.create_queue("q", capacity=2), source, target)
            ratios: list[tuple[float, ...]] = []
            for _ in range(rounds + 2):  # the first two touch the memory
                plain, into, out = (seconds(call) for call in (memcpy, put, get))
                ratios.append((plain / into, plain / out, 2 * plain / (into + out)))
            medians = [statistics.median(column) for column in zip(*ratios[2:], strict=True)]
            if target != source:
                raise SystemExit("what came out is not what went in")
            print(
                "  buffers of {:>7} bytes: in {:.2f}, out {:.2f}, through {:.2f}".format(
                    buffer_size, *medians
                )
            )


def classes(rounds: int) -> None:
    """Prints what 1 MiB costs in a size class relative to a pool that has only that size."""
    source, target = bytearray(MEBI), bytearray(MEBI)
    with (
        shmpool.Pool.create(None, buffer_size=MEBI, capacity=16, prealloc=16) as alone,
        shmpool.Pool.create(
            None, buffer_size=[2048, 65536, MEBI], capacity=[1024, 64, 16], prealloc=[0, 0, 16]
        ) as mixed,
    ):
        pairs = [
            in_and_out(p, p.create_queue("q", capacity=2), source, target) for p in (alone, mixed)
        ]
        ratios = []
        for _ in range(20 * rounds):
            one, other = ([seconds(call) for call in pair] for pair in pairs)
            ratios.append(sum(other) / sum(one))
        ratio = statistics.median(ratios)
        print(f"1 MiB in a size class: {ratio:.2f} x the time of a pool of that size alone")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m clients.bench.chains --mib 64 --rounds 15",
    )
    parser.add_argument("--mib", type=int, default=64, help="size of the message (default: 64)")
    parser.add_argument("--rounds", type=int, default=15, help="default: 15")
    given = parser.parse_args()
    chains(given.mib * MEBI, given.rounds)
    classes(given.rounds)


if __name__ == "__main__":
    main()
