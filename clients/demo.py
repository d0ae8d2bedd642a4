# SPDX-License-Identifier: Apache-2.0
"""Replays a capture through one producer and several worker processes that count its flows.

The producer copies packets, each behind its link type, into the pool with send_many; each worker
takes bursts from the queue, reads their columns (flows.py) and frees them; at the end each sends
its tally back through a queue of its own. Packets and bytes in and out must be equal, and every
buffer back home.
"""

import multiprocessing
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

from .capture import CaptureError, read
from .flows import LINK, Tally

CAPTURE = Path(__file__).resolve().parent.parent / "tests" / "data" / "mixed.pcap"
TIMEOUT = 300.0  # s: a worker that gets nothing for so long gives up, so that none is left behind
ANSWER = 64  # capacity of the queue that a worker answers through


def read_capture(path: Path) -> list[bytes]:
    """Every packet, behind its link type; in a damaged file, all before the damage."""
    packets = []
    try:
        for _, link, data in read(path):
            packets.append(link.to_bytes(LINK, "big") + data)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
    except CaptureError as error:
        if not packets:
            raise click.ClickException(str(error)) from None
        click.echo(f"Warning: {error}; replaying the {len(packets)} packets before", err=True)
    if not packets:
        raise click.ClickException(f"{path} holds no packets")
    return packets


def in_flight(depth: int, burst: int, workers: int) -> int:
    """The most buffers that are in use at once: in the queue, in the hands of the producer and of
    the workers, and for each worker's answer, in its queue and on the way there."""
    return depth + burst + workers * (burst + 2 * ANSWER)


def work(packets: shmpool.AlfQueue, answer: shmpool.AlfQueue, burst_size: int) -> None:
    """One worker: counts until an empty payload tells it that this is the end."""
    answer.send(b"ready")
    tally = Tally()
    ends = 0
    while not ends:
        with packets.get_many(burst_size, timeout=TIMEOUT) as burst:
            ends = tally.add(burst)
    packets.send_many([b""] * (ends - 1), TIMEOUT)  # those meant for the others
    text = pickle.dumps((tally, time.monotonic()))
    room = answer.pool.buffer_size
    answer.send_many([text[at : at + room] for at in range(0, len(text), room)] + [b""], TIMEOUT)


def answer_of(answer: shmpool.AlfQueue) -> tuple[Tally, float]:
    """What a worker sent back: its tally, and when it was done."""
    text = b""
    while chunk := answer.recv(timeout=TIMEOUT):
        text += chunk
    result: tuple[Tally, float] = pickle.loads(text)
    return result


def replay(
    queue: shmpool.AlfQueue, packets: list[bytes], burst_size: int, repeat: int, quiet: bool
) -> None:
    """The producer: the whole capture, repeat times, in bursts."""
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
    """Prints what went in and came out; whether that is the same, and every buffer home."""
    console = Console()
    counted = sum(tally.packets for tally in tallies)
    read = sum(tally.octets for tally in tallies)
    kinds = sorted({"IPv4"}.union(*(tally.kinds for tally in tallies)))
    table = Table("", "packets", "bytes", "flows", *kinds)
    for number, tally in enumerate(tallies):
        counts = [tally.packets, tally.octets, len(tally.flows)]
        counts += [tally.kinds[kind] for kind in kinds]
        table.add_row(f"worker {number}", *(f"{count:,}" for count in counts))
    console.print(table)
    flows = set[bytes]().union(*(tally.flows for tally in tallies))
    console.print(f"in   {packets:,} packets  {octets:,} bytes")
    console.print(f"out  {counted:,} packets  {read:,} bytes  {len(flows):,} flows")
    console.print(f"{counted / seconds:,.0f} packets/s  {read * 8 / seconds / 1e9:.2f} Gbit/s")
    stats, audit = pool.stats(), pool.audit()
    console.print(
        f"pool  created {stats.created:,}  free {stats.free:,}  cached {stats.cached:,}  "
        f"held {stats.held:,}  queued {stats.queued:,}  audit {'ok' if audit.ok else 'NOT OK'}"
    )
    home = audit.ok and stats.free + stats.cached == stats.created
    same = (packets, octets) == (counted, read)
    console.print("packets and bytes in and out are " + ("equal" if same else "NOT EQUAL"))
    console.print("all buffers are back home" if home else "NOT ALL buffers are back home")
    return same and home


def run(
    packets: list[bytes], workers: int, burst: int, repeat: int, depth: int, quiet: bool
) -> bool:
    """The whole of it, in a pool that is gone afterwards; whether all went well."""
    name = f"demo-{os.getpid()}"
    context = multiprocessing.get_context("spawn")
    processes = []
    with shmpool.Pool.create(
        name,
        buffer_size=max(map(len, packets)),
        capacity=1 << (in_flight(depth, burst, workers) - 1).bit_length(),
        prealloc=depth,
        queues=workers + 1,
    ) as pool:
        try:
            queue = pool.create_queue("packets", capacity=depth)
            answers = [
                pool.create_queue(f"answer-{i}", capacity=ANSWER, producers="single")
                for i in range(workers)
            ]
            for answer in answers:
                process = context.Process(target=work, args=(queue, answer, burst), daemon=True)
                process.start()
                processes.append(process)
            for answer in answers:
                answer.recv(timeout=TIMEOUT)
            start = time.monotonic()
            replay(queue, packets, burst, repeat, quiet or not sys.stderr.isatty())
            queue.send_many([b""] * workers, timeout=TIMEOUT)
            results = [answer_of(answer) for answer in answers]
            for process in processes:
                process.join(TIMEOUT)
            seconds = max(done for _, done in results) - start
            octets = (sum(map(len, packets)) - LINK * len(packets)) * repeat
            tallies = [tally for tally, _ in results]
            return report(tallies, len(packets) * repeat, octets, seconds, pool)
        finally:
            for process in processes:
                process.terminate()
            shmpool.Pool.unlink(name)


def power_of_two(context: click.Context, parameter: click.Parameter, value: int) -> int:
    """What a queue can hold."""
    if not 2 <= value <= 65536 or value & value - 1:
        raise click.BadParameter(f"{value} is not a power of two from 2 to 65536.")
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
@click.option("--repeat", type=click.IntRange(1), default=100, show_default=True, help="Replays.")
@click.option(
    "--queue",
    "depth",
    callback=power_of_two,
    default=4096,
    show_default=True,
    help="Capacity of the queue, a power of two from 2 to 65536.",
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
