# SPDX-License-Identifier: Apache-2.0
"""Frames from worker processes to a GPU: python -m clients.gpu_frames.

Cameras (processes) write frames into the buffers of a pool that this process has pinned. It starts
the copy of each frame to the device and goes on; a frame's buffer is freed when its copy is done.
Then measures the copies: from memory that is not registered, through a pinned bounce buffer, from
the pinned pool, and from memory that torch has pinned. The four take turns; medians are compared.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

import click
import numpy as np

import shmpool

from .children import children

LEAST = 0.95  # of the speed from memory that torch has pinned: promised
WAYS = ("not registered", "bounce buffer", "registered", "torch's own pinned")


class Device(Protocol):
    """What copies frames."""

    def copy(self, buf: shmpool.Buffer, row: int) -> Any:
        """Starts the copy of a frame into a row of the device's memory. Returns its event."""

    def first_bytes(self, rows: int) -> list[int]:
        """Returns the first byte of each of so many rows, when all copies are done."""


class Cuda:
    """The GPU, through torch."""

    def __init__(self, torch: Any, rows: int, size: int) -> None:
        self.torch = torch
        self.rows = torch.zeros((rows, size), dtype=torch.uint8, device="cuda")

    def copy(self, buf: shmpool.Buffer, row: int) -> Any:
        self.rows[row].copy_(self.torch.from_dlpack(buf), non_blocking=True)
        event = self.torch.cuda.Event()
        event.record()
        return event

    def first_bytes(self, rows: int) -> list[int]:
        found: list[int] = self.rows[:rows, 0].cpu().tolist()
        return found


def camera(frames: shmpool.AlfQueue, first: int, step: int, count: int, size: int) -> None:
    """Writes the frames first, first + step, ... below count: each has its number in every byte."""
    for number in range(first, count, step):
        with frames.pool.alloc() as buf:
            buf.length = size
            np.asarray(buf.view)[:] = number % 256
            buf.mark = number
            frames.put(buf)


def show(frames: shmpool.AlfQueue, device: Device, count: int) -> None:
    """Copies count frames to the device, each into the row of its number.

    Raises:
        click.ClickException: a frame is not what its camera wrote.
    """
    for _ in range(count):
        buf = frames.get(timeout=60)
        buf.free_after(device.copy(buf, buf.mark))  # the frame waits for its copy; we do not
    wrong = [row for row, byte in enumerate(device.first_bytes(count)) if byte != row % 256]
    if wrong:
        raise click.ClickException(f"frames {wrong[:5]} did not arrive as they were written")


@contextmanager
def cameras(frames: shmpool.AlfQueue, workers: int, count: int, size: int) -> Iterator[None]:
    """Runs the cameras. They are started by spawn: a forked child cannot use CUDA."""
    with children() as start:
        for i in range(workers):
            start(camera, frames, i, workers, count, size)
        yield


def pin(pool: shmpool.Pool) -> None:
    """Pins the pool.

    Raises:
        click.ClickException: not all of it is registered; the message says why.
    """
    pinned = pool.pin(timeout=None)
    if pinned.state != "registered" or pinned.bytes != pinned.total:
        raise click.ClickException(
            f"{pinned.bytes} of {pinned.total} bytes are registered: {pinned.reason}"
        )


def sources(torch: Any, pool: shmpool.Pool, count: int, size: int) -> list[Any]:
    """Returns tensors over buffers of the pool, which live as long as their tensors."""
    found = []
    for _ in range(count):
        buf = pool.alloc()
        buf.length = size
        buf.view[:] = bytes(size)
        found.append(torch.from_dlpack(buf))
    return found


def ways(torch: Any, rows: Any, plain: list[Any], pinned: list[Any]) -> list[Callable[[], None]]:
    """Returns functions that copy all frames to the device, in the order of WAYS."""

    def empty() -> Any:
        return torch.empty(plain[0].shape, dtype=torch.uint8, pin_memory=True)

    own, bounces = [empty().fill_(0) for _ in plain], [empty() for _ in range(2)]
    free = [torch.cuda.Event() for _ in bounces]

    def copy(frames: list[Any]) -> None:
        for row, frame in zip(rows, frames, strict=True):
            row.copy_(frame, non_blocking=True)

    def bounce() -> None:
        for i, (row, frame) in enumerate(zip(rows, plain, strict=True)):
            free[i % 2].synchronize()  # its last copy is done
            bounces[i % 2].copy_(frame)
            row.copy_(bounces[i % 2], non_blocking=True)
            free[i % 2].record()

    return [lambda: copy(plain), bounce, lambda: copy(pinned), lambda: copy(own)]


def measure(torch: Any, copies: list[Callable[[], None]], turns: int) -> list[float]:
    """Returns the median of the seconds that each way takes, after a turn that does not count."""
    seconds: list[list[float]] = [[] for _ in copies]
    for turn in range(turns + 1):
        for copy, into in zip(copies, seconds, strict=True):
            torch.cuda.synchronize()
            start = time.perf_counter()
            copy()
            torch.cuda.synchronize()
            if turn:
                into.append(time.perf_counter() - start)
    return [statistics.median(of) for of in seconds]


def report(seconds: list[float], moved: int) -> float:
    """Prints each way's speed. Returns that of the pinned pool, relative to torch's own."""
    for way, median in zip(WAYS, seconds, strict=True):
        click.echo(
            f"{way:20} {moved / median / 1e9:6.1f} GB/s, {seconds[-1] / median:5.2f} of torch's own"
        )
    return seconds[-1] / seconds[WAYS.index("registered")]


def new_pool(size: int, buffers: int) -> shmpool.Pool:
    """Returns a pool without a name, whose buffers all exist."""
    return shmpool.Pool.create(
        None, buffer_size=size, capacity=buffers, prealloc=buffers, cache_size=0
    )


def cuda() -> Any:
    """Returns torch.

    Raises:
        click.ClickException: there is no torch, or no GPU that it can use.
    """
    try:
        torch: Any = import_module("torch")
    except ImportError as error:
        raise click.ClickException(
            f"this needs torch, built with CUDA, and an NVIDIA GPU ({error})"
        ) from None
    if not torch.cuda.is_available():
        raise click.ClickException(f"torch {torch.__version__} finds no NVIDIA GPU here")
    return torch


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--frames", default=256, show_default=True, help="A turn copies so many.")
@click.option("--size", default=1 << 20, show_default=True, help="Bytes of a frame.")
@click.option("--cameras", "workers", default=2, show_default=True, help="Processes.")
@click.option("--turns", default=15, show_default=True, help="Of each way.")
def main(frames: int, size: int, workers: int, turns: int) -> None:
    """Copy frames of worker processes to a GPU, and measure the ways to do that.

    Fails if copies from the pinned pool are slower than 0.95 of those from memory that torch has
    pinned.
    """
    torch = cuda()
    torch.zeros(1, device="cuda")  # the GPU's context is now this thread's, for pin()
    buffers = 1 << max(frames - 1, 1).bit_length()
    with new_pool(size, buffers) as pool, new_pool(size, buffers) as other:
        pin(pool)
        device = Cuda(torch, frames, size)
        queue = pool.create_queue("frames", capacity=buffers)
        with cameras(queue, workers, frames, size):
            show(queue, device, frames)
        click.echo(f"{frames} frames of {size} bytes from {workers} processes have arrived")
        while pool.audit().held:  # the last events complete in the background
            time.sleep(0.001)
        plain, pinned = (sources(torch, of, frames, size) for of in (other, pool))
        click.echo(f"is_pinned: {plain[0].is_pinned()} without pin(), {pinned[0].is_pinned()} with")
        medians = measure(torch, ways(torch, list(device.rows), plain, pinned), turns)
        del plain, pinned  # their buffers are freed before the pools are closed
        ratio = report(medians, frames * size)
    if ratio < LEAST:
        raise click.ClickException(f"the ratio is {ratio:.2f}; promised is {LEAST}")


if __name__ == "__main__":
    main()
