# SPDX-License-Identifier: Apache-2.0
"""A camera, three workers and a viewer: python -m clients.camera.

The camera publishes each frame once. Every reader sees it in place, as a numpy array, and always
the newest one: the policy is "latest". A reader that is slower than the camera misses frames and
knows which; it delays neither the camera nor the others. A frame's buffer is free again when a
newer frame has taken its place and the last reader has let it go.
"""

import json
import os
import time
from itertools import pairwise

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import shmpool

from .children import children

HEIGHT, WIDTH, SIDE = 480, 640, 48  # of a frame, and of the square that moves in it
READERS = {"worker 1": 0.0, "worker 2": 0.010, "worker 3": 0.025, "viewer": 0.100}
TIMEOUT = 60.0  # s: a process that waits for so long for another one gives up


def place(number: int) -> tuple[int, int]:
    """Where the square of a frame is: its row and column."""
    return 3 * number % (HEIGHT - SIDE), 7 * number % (WIDTH - SIDE)


def draw(frame: NDArray[np.uint8], number: int) -> None:
    """What the camera sees."""
    row, column = place(number)
    frame[:] = 16
    frame[row : row + SIDE, column : column + SIDE] = 255


def find(frame: NDArray[np.uint8]) -> tuple[int, int]:
    """What a reader makes of a frame: the row and the column of the square."""
    row, column = divmod(int(frame.argmax()), WIDTH)
    return row, column


def as_frame(view: memoryview) -> NDArray[np.uint8]:
    return np.frombuffer(view, np.uint8).reshape(HEIGHT, WIDTH)


def read(name: str, frames: shmpool.Topic, reports: shmpool.AlfQueue) -> None:
    """A reader, until the camera has ended. Reports what it saw."""
    seen: list[int] = []
    wrong = 0
    with frames.subscribe(policy="latest") as newest:
        reports.send(json.dumps({"ready": name}).encode(), timeout=TIMEOUT)
        while True:
            try:
                frame = newest.get(timeout=TIMEOUT)
            except shmpool.ShutDown:
                break
            with frame:
                wrong += find(as_frame(frame.view)) != place(frame.sequence)
                seen.append(frame.sequence)
            time.sleep(READERS[name])
        gaps = [(a + 1, b - 1) for a, b in pairwise(seen) if b > a + 1]
        report = {"reader": name, "frames": len(seen), "missed": newest.gaps, "wrong": wrong}
        report |= {"last": seen[-1] if seen else -1, "gaps": gaps[:2]}
    reports.send(json.dumps(report).encode(), timeout=TIMEOUT)


def film(frames: shmpool.Topic, count: int, rate: float) -> None:
    """The camera: publishes so many frames, rate of them a second, and ends the topic."""
    begin = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begin + number / rate - time.monotonic()))
        with frames.pool.alloc(timeout=TIMEOUT) as buf:
            buf.length = HEIGHT * WIDTH
            draw(as_frame(buf.data), number)
            frames.publish(buf, timeout=TIMEOUT)
    frames.shutdown()


def run(count: int, rate: float) -> bool:
    """Returns whether each reader saw whole frames, the last one too, and no buffer leaked."""
    name = f"camera-{os.getpid()}"
    size = HEIGHT * WIDTH
    with shmpool.Pool.create(name, buffer_size=size, capacity=32, unlink_on_close=True) as pool:
        frames = pool.create_topic("frames", depth=4)
        reports = pool.create_queue("reports", capacity=16)
        with children() as start:
            for reader in READERS:
                start(read, reader, frames, reports)
            for _ in READERS:
                reports.recv(timeout=TIMEOUT)
            camera = start(film, frames, count, rate)
            found = [json.loads(reports.recv(timeout=TIMEOUT + count / rate)) for _ in READERS]
            camera.join()
        audit = pool.audit()
    table = Table("reader", "frames", "missed", "the first gaps", "wrong")
    for report in sorted(found, key=lambda report: str(report["reader"])):
        gaps = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in report["gaps"])
        row = [f"{report[key]:,}" for key in ("frames", "missed", "wrong")]
        table.add_row(report["reader"], row[0], row[1], gaps, row[2])
    Console().print(table)
    good = [r["last"] == count - 1 and not r["wrong"] for r in found]
    whole = [r["frames"] + r["missed"] == count for r in found]
    return all(good) and all(whole) and audit.ok


@click.command(epilog="Example: python -m clients.camera --frames 300 --rate 60")
@click.option("--frames", type=click.IntRange(1, 1_000_000), default=300, show_default=True)
@click.option(
    "--rate", type=click.FloatRange(1, 1000), default=60.0, show_default=True, help="A second."
)
def main(frames: int, rate: float) -> None:
    """Publishes frames to three workers and a viewer, each of which sees the newest one.

    Exit status 0 if each frame that a reader saw was whole, and the last one that it saw was the
    camera's last, 1 if not.
    """
    if not run(frames, rate):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
