# SPDX-License-Identifier: Apache-2.0
"""Market data for subscribers of different speed: python -m clients.ticks.

Two exchanges publish their ticks in bursts into one topic. Each subscriber says by its policy what
happens when it is too slow:

    book    block        the exchanges wait for it: it misses nothing
    screen  drop-oldest  it goes on with the oldest tick that is kept, and misses those before
    quote   latest       it always gets the newest tick

The screen and the quote are slow and delay nobody. Each checks what it received: the ticks of an
exchange are in order, and what it received and what it missed are all ticks.
"""

import json
import os
import time
from typing import Literal

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import shmpool

from .children import children

TICK = np.dtype([("exchange", "<u4"), ("price", "<u4"), ("number", "<u8")])
Policy = Literal["block", "drop-oldest", "latest"]
SUBSCRIBERS: dict[
    str, tuple[Policy, float]
] = {  # its policy, and the seconds that a burst takes it
    "book": ("block", 0.0),
    "screen": ("drop-oldest", 0.020),
    "quote": ("latest", 0.010),
}
EXCHANGES, BURST, DEPTH = 2, 64, 1024
TIMEOUT = 60.0  # s: a process that waits for so long for another one gives up


def exchange(ticks: shmpool.Topic, me: int, count: int) -> None:
    """Publishes so many ticks, numbered from 0."""
    chance = np.random.default_rng(me)
    price = 10_000
    for first in range(0, count, BURST):
        n = min(BURST, count - first)
        fields = np.zeros(n, TICK)
        fields["exchange"], fields["number"] = me, np.arange(first, first + n)
        fields["price"] = price + chance.integers(-1, 2, n).cumsum()
        price = int(fields["price"][-1])
        burst = ticks.pool.alloc_many(n, timeout=TIMEOUT)
        burst.set_column(0, fields)
        burst.lengths = TICK.itemsize
        ticks.publish(burst, timeout=TIMEOUT)


def subscribe(name: str, ticks: shmpool.Topic, reports: shmpool.AlfQueue) -> None:
    """Receives ticks until the topic has ended. Reports what came, and what did not."""
    policy, seconds = SUBSCRIBERS[name]
    received = wrong = 0
    newest = np.full(EXCHANGES, -1)
    with ticks.subscribe(policy=policy) as subscription:
        reports.send(json.dumps({"ready": name}).encode(), timeout=TIMEOUT)
        while True:
            try:
                samples = subscription.get_many(BURST, timeout=TIMEOUT)
            except shmpool.ShutDown:
                break
            with samples:
                fields = np.frombuffer(b"".join(samples), TICK)
            received += len(fields)
            for source in range(EXCHANGES):
                numbers = fields["number"][fields["exchange"] == source].astype(np.int64)
                wrong += int((np.diff(numbers, prepend=newest[source]) <= 0).sum())
                newest[source] = numbers[-1] if len(numbers) else newest[source]
            time.sleep(seconds)
        report = {"name": name, "received": received, "missed": subscription.gaps, "wrong": wrong}
    reports.send(json.dumps(report).encode(), timeout=TIMEOUT)


def run(count: int) -> bool:
    """Returns whether each subscriber received or missed each tick, in order, and the book all."""
    with shmpool.Pool.create(
        f"ticks-{os.getpid()}", buffer_size=64, capacity=16384, unlink_on_close=True
    ) as pool:
        ticks = pool.create_topic("ticks", depth=DEPTH)
        reports = pool.create_queue("reports", capacity=16)
        with children() as start:
            for name in SUBSCRIBERS:
                start(subscribe, name, ticks, reports)
            for _ in SUBSCRIBERS:
                reports.recv(timeout=TIMEOUT)
            for process in [start(exchange, ticks, me, count) for me in range(EXCHANGES)]:
                process.join()
            ticks.shutdown()
            found = [json.loads(reports.recv(timeout=TIMEOUT)) for _ in SUBSCRIBERS]
        audit = pool.audit()
    total = EXCHANGES * count
    table = Table("subscriber", "policy", "received", "missed", "out of order")
    for report in sorted(found, key=lambda report: list(SUBSCRIBERS).index(report["name"])):
        row = [f"{report[key]:,}" for key in ("received", "missed", "wrong")]
        table.add_row(report["name"], SUBSCRIBERS[report["name"]][0], *row)
    Console().print(table)
    all_told = all(r["received"] + r["missed"] == total and not r["wrong"] for r in found)
    none_missed = all(not r["missed"] for r in found if SUBSCRIBERS[r["name"]][0] == "block")
    return all_told and none_missed and audit.ok


@click.command(epilog="Example: python -m clients.ticks --ticks 100000")
@click.option(
    "--ticks",
    type=click.IntRange(1, 100_000_000),
    default=100_000,
    show_default=True,
    help="Of each exchange.",
)
def main(ticks: int) -> None:
    """Publishes ticks of two exchanges to three subscribers, two of which are too slow.

    Exit status 0 if each subscriber received or missed each tick, and the one that blocks missed
    none, 1 if not.
    """
    if not run(ticks):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
