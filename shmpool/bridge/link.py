# SPDX-License-Identifier: Apache-2.0
"""Link: what the engines share. A thread for each, which begins again after an error.

An engine is a module with two classes, Sender and Receiver, subclasses of Link that have work().
The thread of a link is the only one that uses its pool and its figures' counters. Not in here: what
a link takes from and puts into (ends.py).
"""

import importlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

from .. import errors
from ..names import LINE_SHOWN, printable
from ..pool import Pool
from ..rpc.records import LinkState
from .config import ENGINES, LinkOptions
from .stopping import Ending, Stop

log = logging.getLogger("shmpool.bridge")

PAUSE_S = (0.1, 2.0)  # first and longest pause before a link begins again
ASK_S = 1.0  # between two questions whether the pool was replaced
DRAIN_S = 5.0  # for which a sender that ends waits for acknowledgements


@dataclass
class LinkFigures:
    """What a link counts and shows. Counters only grow, also when the link begins again.

    Only its thread writes. A reader sees each field as it is at some instant.
    """

    state: LinkState = "starting"
    since: float = 0.0  # monotonic seconds: of the state
    why: str = ""  # it is not up
    bursts: int = 0  # sent and acknowledged, or put
    packets: int = 0
    bytes: int = 0
    window: int = 0  # bursts that may be unacknowledged now
    unacknowledged: int = 0  # bursts
    oldest_since: float | None = None  # monotonic seconds: of the oldest, or without room
    lag: int = 0  # packets that wait to be sent, or to be put
    reconnects: int = 0
    doubled: int = 0  # bursts that came twice, and were put once
    redelivered: int = 0  # packets that were sent, or put, perhaps for the second time
    returned: int = 0  # packets that the other side refused: nack()

    def enter(self, state: LinkState, why: str = "") -> bool:
        """Enters a state. Returns whether it is another one, or for another reason."""
        if (state, why) == (self.state, self.why):
            return False
        if state != self.state:
            self.since = time.monotonic()
        self.state, self.why = state, why
        return True


class Link(ABC):
    """One link, in one direction. start() runs it in a thread until stop()."""

    def __init__(self, options: LinkOptions) -> None:
        self.options = options
        self.figures = LinkFigures(since=time.monotonic(), window=options.window)
        self.stop = Stop()
        self._pool: Pool | None = None
        self._asked = 0.0
        self._thread = threading.Thread(target=self._run, name=options.shown[-15:])

    @abstractmethod
    def work(self, pool: Pool) -> None:
        """Moves packets until self.stop is set, in the link's thread.

        Calls self.up() and self.down(). What it took and the other side does not have it returns to
        the queue before it ends. Whatever it raises is said in the figures, and the link begins
        again after a pause. ShutDown: its queue or topic was shut down, and all that was in it is
        on the other side.
        """

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def end(self) -> None:
        """Asks it to end: a sender waits for what is unacknowledged, DRAIN_S at most."""
        self.stop.set()

    def join(self, timeout: float | None = None) -> bool:
        """Waits until it has ended. Returns whether it has."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        self.stop.close()
        return True

    def refuse_replaced(self) -> None:
        """Raises PoolReplaced if another pool has the name now. Asks once a second."""
        now = time.monotonic()
        if now - self._asked > ASK_S:
            self._asked = now
            if self._pool is not None:
                self._pool._refuse_replaced()

    def up(self) -> None:
        """Says that the other side is there."""
        self._say("up")

    def down(self, why: str) -> None:
        """Says why the other side is not there."""
        self._say("down", why)

    def _say(self, state: LinkState, why: str = "") -> None:
        if self.figures.enter(state, printable(why, LINE_SHOWN)):
            level = logging.WARNING if state == "down" else logging.INFO
            log.log(level, "link %s: %s", self.options.shown, f"{state}{why and ': '}{why}")

    def _run(self) -> None:
        pause = PAUSE_S[0]
        while not self.stop.is_set:
            began = time.monotonic()
            try:
                with Pool.attach(self.options.local.pool) as pool:
                    self._pool, self._asked = pool, began
                    self.work(pool)
            except Ending:
                break
            except errors.ShutDown:  # the next pool of that name may have another
                self._say("down", f"{self.options.local} was shut down")
            except (errors.ShmpoolError, OSError) as error:
                self._say("down", str(error))
            except BaseException as error:  # also CancelledError: no link ends without an alarm
                log.exception("link %s", self.options.shown)
                self._say("down", repr(error))
            if time.monotonic() - began > PAUSE_S[1]:
                pause = PAUSE_S[0]
            self.stop.wait(pause)
            pause = min(pause * 2, PAUSE_S[1])
        self._say("ended", "the bridge ends")


def link_of(options: LinkOptions) -> Link:
    """Returns the link, by its engine. ModuleNotFoundError if that is not installed."""
    name = ENGINES[options.remotes[0].scheme]
    engine = importlib.import_module(f"shmpool.{name}")
    kind = engine.Sender if options.sends else engine.Receiver
    return cast(Link, kind(options))
