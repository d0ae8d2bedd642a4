# SPDX-License-Identifier: Apache-2.0
"""The bridge as a process: its links, its signals, and what it reports to the daemon.

The daemon runs one for the [[link]] tables of its own configuration; `shmpool bridge` runs one by
itself. A link that fails stops no other.
"""

import contextlib
import ctypes
import logging
import os
import resource
import secrets
import signal
import time
from pathlib import Path
from types import FrameType

from .. import errors
from ..rpc.client import Client
from ..rpc.protocol import ReportLinks
from ..rpc.records import LinkStats
from .config import LinkOptions
from .link import DRAIN_S, Link, link_of
from .stopping import Stop

log = logging.getLogger("shmpool.bridge")

REPORT_S = 1.0
ANSWER_S = 2.0  # for the daemon to answer in: a bridge that ends does not wait for it longer
RETRY_S = 5.0  # after which a daemon that did not answer is asked again
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
PR_SET_PDEATHSIG = 1  # prctl.h
KEPT = 16 << 20  # bytes
END_S = DRAIN_S + 5.0  # for the links to end in


def run(links: list[LinkOptions], socket: Path, parent: int | None = None) -> None:
    """Runs the links until SIGTERM or SIGINT. ModuleNotFoundError: an engine is not installed.

    socket is the daemon's; the bridge works without a daemon too. It ends with the process
    parent, which has started it.
    """
    _keep_memory()
    _raise_file_limit()
    made = [link_of(options) for options in links]
    stop = Stop()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    if parent is not None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            return
    for link in made:
        link.start()
    reports = Reports(made, socket)
    try:
        while not stop.wait(REPORT_S):
            reports.send()
    finally:
        late = end_links(made, reports)
        if late:  # recovery returns what they own
            log.error("%d links are blocked; the bridge ends without them", len(late))
            logging.shutdown()
            os._exit(1)


def end_links(links: list[Link], reports: "Reports") -> list[Link]:
    """Ends the links, those that send first: one of those that receive may have what they wait
    for. Returns those that have not ended in END_S. The daemon is told all the time, or it would
    take the bridge for a silent one."""
    senders = [link for link in links if link.options.sends]
    for link in senders:
        link.end()
    began = time.monotonic()
    _joined(senders, began + DRAIN_S, reports)
    for link in links:
        link.end()
    late = _joined(links, began + END_S, reports)
    reports.send(last=True)
    return late


def _joined(links: list[Link], deadline: float, reports: "Reports") -> list[Link]:
    """Waits for links until the deadline. Returns those that have not ended."""
    while links and (left := deadline - time.monotonic()) > 0:
        if not links[0].join(min(left, REPORT_S)):
            reports.send()
        links = [link for link in links if not link.join(0)]
    return links


def _keep_memory() -> None:
    """Lets the C library keep the memory of bursts that were sent, instead of giving it back to the
    kernel for each and having its pages cleared again: 10 faults a burst."""
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):  # a C library without it
        for option in (M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD):
            libc.mallopt(option, KEPT)


def _raise_file_limit() -> None:
    """Lets this process have as many descriptors as it may: each link has 10, and 3 for each
    receiver. ZeroMQ aborts the process, and with it all links, where it finds none."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Reports:
    """What the daemon is told, once a second, if there is one."""

    def __init__(self, links: list[Link], socket: Path) -> None:
        self._links, self._socket = links, socket
        self._client: Client | None = None
        self._bridge = secrets.token_hex(8)
        self._again = 0.0
        self._refused = ""

    def send(self, last: bool = False) -> None:
        """Reports every link. A daemon that is away is asked again later, and at the end."""
        if time.monotonic() < self._again and not last:
            return
        try:
            if self._client is None:
                self._client = Client(self._socket, ANSWER_S)
            stats = [stats_of(one) for one in self._links]
            self._client.call(ReportLinks(self._bridge, os.getpid(), stats))
        except (errors.ShmpoolError, OSError) as error:
            self._again = time.monotonic() + RETRY_S
            if self._client is not None:
                with contextlib.suppress(errors.ShmpoolError, OSError):
                    self._client.close()
            self._client = None
            if isinstance(error, errors.RequestRefused) and str(error) != self._refused:
                self._refused = str(error)
                log.warning("the daemon shows no links: %s", error)


def stats_of(link: Link) -> LinkStats:
    """Returns what a link shows."""
    figures, options = link.figures, link.options
    oldest, now = figures.oldest_since, time.monotonic()
    to = options.to if isinstance(options.to, str) else ", ".join(options.to)
    return LinkStats(
        name=options.shown,
        pid=os.getpid(),
        pool=options.local.pool,
        source=options.from_,
        target=to,
        sends=options.sends,
        state=figures.state,
        since=time.time() - (now - figures.since),
        why=figures.why,
        bursts=figures.bursts,
        packets=figures.packets,
        bytes=figures.bytes,
        window=figures.window,
        unacknowledged=figures.unacknowledged,
        oldest_s=None if oldest is None else max(now - oldest, 0.0),
        lag=figures.lag,
        reconnects=figures.reconnects,
        doubled=figures.doubled,
        redelivered=figures.redelivered,
        returned=figures.returned,
        down_s=options.down_s,
        lag_s=options.lag_s,
    )
