# SPDX-License-Identifier: Apache-2.0
"""Replays a capture through one producer and several worker processes that count its flows.

The producer copies packets, each preceded by its link type, into the pool with send_many. Each
worker takes bursts from the queue, reads their columns (flows.py) and frees them. At the end each
worker sends its tally through its own queue. Packets and bytes in and out must be equal, and every
buffer must be free again.
"""

import os
import pickle
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import shmpool
from shmpool.net import CaptureError
from shmpool.net import packets as read_packets

from .children import children
from .tally import LINK, Tally

CAPTURE = Path(__file__).resolve().parent.parent / "tests" / "data" / "mixed.pcap"
TIMEOUT = 300.0  # s: a worker that receives nothing for so long exits
ANSWER = 64  # capacity of the queue for a worker's answer


def read_capture(path: Path) -> list[bytes]:
    """Every packet, preceded by its link type; of a damaged file, all packets before the damage."""
    packets = []
    try:
        for _, link, data in read_packets(path):
            packets.append(link.to_bytes(LINK, "big") + data)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
    except CaptureError as error:
        if not packets:
            raise click.ClickException(str(error)) from None
        click.echo(f"Warning: {error}; replaying the {len(packets)} packets before it", err=True)
    if not packets:
        raise click.ClickException(f"{path} holds no packets")
    return packets


def in_flight(depth: int, burst: int, workers: int) -> int:
    """The most buffers in use at once: queued, held by the producer and the workers, and for each
    worker's answer, in its queue and on the way there."""
    return depth + burst + workers * (burst + 2 * ANSWER)


def work(packets: shmpool.AlfQueue, answer: shmpool.AlfQueue, burst_size: int) -> None:
    """One worker: counts until it receives an empty payload."""
    answer.send(b"ready")
    tally = Tally()
    ends = 0
    while not ends:
        with packets.get_many(burst_size, timeout=TIMEOUT) as burst:
            ends = tally.add(burst)
    packets.send_many([b""] * (ends - 1), TIMEOUT)  # for the other workers
    text = pickle.dumps((tally, time.monotonic()))
    room = answer.pool.buffer_size
    answer.send_many([text[at : at + room] for at in range(0, len(text), room)] + [b""], TIMEOUT)


def receive_answer(answer: shmpool.AlfQueue) -> tuple[Tally, float]:
    """A worker's tally, and the time at which it was done."""
    text = b""
    while chunk := answer.recv(timeout=TIMEOUT):
        text += chunk
    result: tuple[Tally, float] = pickle.loads(text)
    return result


def replay(
    queue: shmpool.AlfQueue, packets: list[bytes], burst_size: int, repeat: int, quiet: bool
) -> None:
    """The producer: sends the capture repeat times, in bursts."""
    bursts = [packets[at : at + burst_size] for at in range(0, len(packets), burst_size)]
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task("replaying", total=len(packets) * repeat)
        for _ in range(repeat):
            for burst in bursts:
                queue.send_many(burst, timeout=TIMEOUT)
            progress.advance(task, len(packets))


def report(
    tallies: list[Tally], packets: int, octets: int, seconds: float, pool: shmpool.Pool
) -> bool:
    """Prints what was sent and counted. True if both are equal and every buffer is free."""
    console = Console()
    counted = sum(tally.packets for tally in tallies)
    received = sum(tally.octets for tally in tallies)
    kinds = sorted({"IPv4"}.union(*(tally.kinds for tally in tallies)))
    table = Table("", "packets", "bytes", "flows", *kinds)
    for number, tally in enumerate(tallies):
        counts = [tally.packets, tally.octets, len(tally.flows)]
        counts += [tally.kinds[kind] for kind in kinds]
        table.add_row(f"worker {number}", *(f"{count:,}" for count in counts))
    console.print(table)
    flows = set[bytes]().union(*(tally.flows for tally in tallies))
    console.print(f"in   {packets:,} packets  {octets:,} bytes")
    console.print(f"out  {counted:,} packets  {received:,} bytes  {len(flows):,} flows")
    console.print(f"{counted / seconds:,.0f} packets/s  {received * 8 / seconds / 1e9:.2f} Gbit/s")
    stats, audit = pool.stats(), pool.audit()
    console.print(
        f"pool  created {stats.created:,}  free {stats.free:,}  cached {stats.cached:,}  "
        f"held {stats.held:,}  queued {stats.queued:,}  audit {'ok' if audit.ok else 'NOT OK'}"
    )
    free = audit.ok and stats.free + stats.cached == stats.created
    same = (packets, octets) == (counted, received)
    console.print("packets and bytes in and out are " + ("equal" if same else "NOT EQUAL"))
    console.print("all buffers are free" if free else "NOT ALL buffers are free")
    return same and free


def run(
    packets: list[bytes], workers: int, burst: int, repeat: int, depth: int, quiet: bool
) -> bool:
    """Replays the capture in a pool that is removed at the end. True if report() finds no error."""
    name = f"demo-{os.getpid()}"
    with (
        shmpool.Pool.create(
            name,
            buffer_size=max(map(len, packets)),
            capacity=1 << (in_flight(depth, burst, workers) - 1).bit_length(),
            prealloc=depth,
            queues=workers + 1,
            unlink_on_close=True,
        ) as pool,
        children() as start,
    ):
        queue = pool.create_queue("packets", capacity=depth)
        answers = [
            pool.create_queue(f"answer-{i}", capacity=ANSWER, producers="single")
            for i in range(workers)
        ]
        processes = [start(work, queue, answer, burst) for answer in answers]
        for answer in answers:
            answer.recv(timeout=TIMEOUT)
        begin = time.monotonic()
        replay(queue, packets, burst, repeat, quiet or not sys.stderr.isatty())
        queue.send_many([b""] * workers, timeout=TIMEOUT)
        results = [receive_answer(answer) for answer in answers]
        for process in processes:
            process.join(TIMEOUT)
        seconds = max(done for _, done in results) - begin
        octets = (sum(map(len, packets)) - LINK * len(packets)) * repeat
        tallies = [tally for tally, _ in results]
        return report(tallies, len(packets) * repeat, octets, seconds, pool)


def queue_capacity(context: click.Context, parameter: click.Parameter, value: int) -> int:
    """Checks the capacity of a queue."""
    if not 1 <= value <= 1 << 20:
        raise click.BadParameter(f"{value} is not from 1 to 1048576.")
    return value


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: python -m clients.demo --workers 4 --burst 256 trace.pcapng",
)
@click.argument(
    "capture", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=CAPTURE
)
@click.option("--workers", type=click.IntRange(1, 64), default=3, show_default=True)
@click.option("--burst", type=click.IntRange(1, 4096), default=256, show_default=True)
@click.option(
    "--repeat",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="How often to replay it.",
)
@click.option(
    "--queue",
    "depth",
    callback=queue_capacity,
    default=4096,
    show_default=True,
    help="Capacity of the queue, from 1 to 1048576.",
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
def main(capture: Path, workers: int, burst: int, repeat: int, depth: int, quiet: bool) -> None:
    """Replay CAPTURE (pcap or pcapng) through worker processes that count its flows."""
    packets = read_capture(capture)
    try:
        good = run(packets, workers, burst, repeat, depth, quiet)
    except (shmpool.Empty, shmpool.Full, shmpool.PoolExhausted) as error:
        raise click.ClickException(f"a worker did not answer in {TIMEOUT:g} s: {error}") from None
    except (shmpool.InvalidArgument, shmpool.OutOfSharedMemory) as error:
        raise click.ClickException(f"{error} (a smaller --queue or --burst needs less)") from None
    except (shmpool.ShmpoolError, OSError) as error:
        raise click.ClickException(str(error)) from None
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
