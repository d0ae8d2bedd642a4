# SPDX-License-Identifier: Apache-2.0
"""What the programs with packets have in common: live rates, and an end on Ctrl-C."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import click

import shmpool
from shmpool.net import Source

SECOND = 1.0
LATENCY_S = 0.001
latency_option = click.option(
    "--latency",
    type=click.FloatRange(0.001, 10),
    default=LATENCY_S,
    show_default=True,
    help="Seconds for which the kernel keeps packets back (interface). With more seconds this "
    "program may pause for longer before the kernel drops packets.",
)
HANDED_OVER = 0.05  # s: the kernel's clock for it is not more exact
WAIT_S = 0.1  # for packets, until the rates are printed


class Rates:
    """Once a second says on stderr how many packets and bytes passed."""

    def __init__(self, quiet: bool = False) -> None:
        self.packets = self.bytes = 0
        self.note: Callable[[], str] = str  # more to say, such as what was dropped
        self._quiet = quiet
        self._began = self._at = time.monotonic()
        self._before = (0, 0)

    def add(self, packets: int, octets: int) -> None:
        self.packets += packets
        self.bytes += octets

    def tick(self) -> None:
        """Prints, if a second has passed."""
        now = time.monotonic()
        if now < self._at + SECOND:
            return
        packets, octets = self.packets - self._before[0], self.bytes - self._before[1]
        self._print(packets, octets, now - self._at)
        self._at, self._before = now, (self.packets, self.bytes)

    def _print(self, packets: int, octets: int, seconds: float, total: str = "") -> None:
        if self._quiet and not total:
            return
        rate, bits = packets / max(seconds, 1e-9), octets * 8 / max(seconds, 1e-9)
        line = f"{rate:12,.0f} packets/s {bits / 1e6:10,.1f} Mbit/s {self.note()}{total}"
        end = "\r" if sys.stderr.isatty() and not total else "\n"
        click.echo(line + end, err=True, nl=False)

    def summary(self) -> None:
        """Says what passed in all."""
        took = time.monotonic() - self._began
        total = f"  total {self.packets:,} packets, {self.bytes:,} bytes in {took:.1f} s"
        self._print(self.packets, self.bytes, took, total)


class Ending:
    """When a program ends that was asked to: once it has what the kernel keeps back. Without that
    it closes its source at once."""

    def __init__(self, source: Source, latency: float) -> None:
        self._source, self._latency = source, latency
        self._asked: float | None = None

    def ask(self) -> None:
        self._asked = time.monotonic()
        if not self._latency:
            self._source.close()

    def over(self, waiting: bool) -> bool:
        """True if no more is taken. waiting: there was a packet just now. If there always is one it
        ends, too."""
        if self._asked is None:
            return False
        took = time.monotonic() - self._asked - self._latency
        return took > (SECOND if waiting else HANDED_OVER)


@contextlib.contextmanager
def ended_by_ctrl_c(source: Source, latency: float = 0.0) -> Iterator[Ending]:
    """Lets Ctrl-C end the loop: no packet is lost between its parts of the program, as with an
    exception in the middle. A second Ctrl-C is KeyboardInterrupt, wherever the program is. latency:
    seconds for which the kernel keeps packets back."""
    ending = Ending(source, latency)
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    before = signal.getsignal(signal.SIGINT)

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        ending.ask()

    signal.signal(signal.SIGINT, end)
    try:
        yield ending
    finally:
        signal.signal(signal.SIGINT, before)


def received(
    source: Source, rates: Rates, most: int | None = None, latency: float = 0.0
) -> Iterator[shmpool.Burst]:
    """Yields bursts until the source ends, Ctrl-C, or most packets came; counts them."""
    rates.note = lambda: f"{source.statistics().dropped:,} dropped"
    with ended_by_ctrl_c(source, latency) as ending:
        while most is None or rates.packets < most:
            n = 256 if most is None else min(256, most - rates.packets)
            try:
                burst = source.get_many(n, timeout=WAIT_S)
            except shmpool.Empty:
                rates.tick()
                if ending.over(waiting=False):
                    return
                continue
            except shmpool.ShutDown:
                return
            rates.add(len(burst), int(burst.lengths.sum()))
            yield burst
            del burst
            rates.tick()
            if ending.over(waiting=True):
                return


@contextlib.contextmanager
def running(rates: Rates) -> Iterator[None]:
    """Runs a program's loop: Ctrl-C ends it, and trouble becomes a message."""
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    except (shmpool.ShmpoolError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    finally:
        rates.summary()


@contextlib.contextmanager
def pool_of(name: str | None, size: int = 2048, capacity: int = 65536) -> Iterator[shmpool.Pool]:
    """The pool of that name; without a name, one that ends with this program."""
    try:
        pool = (
            shmpool.Pool.attach(name)
            if name
            else shmpool.Pool.create(
                f"net-{os.getpid()}", buffer_size=size, capacity=capacity, unlink_on_close=True
            )
        )
    except shmpool.ShmpoolError as error:
        raise click.ClickException(str(error)) from None
    with pool:
        yield pool
