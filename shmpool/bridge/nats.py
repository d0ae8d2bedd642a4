# SPDX-License-Identifier: Apache-2.0
"""Links over NATS JetStream.

    sender                           server               receiver
    takes a burst, and owns it
    publishes it              ->     stores it
    frees it                  <-     acknowledges
                                     delivers      ->     puts it into the queue
                                     removes it    <-     acknowledges

If a process is killed or the connection is lost, a burst is where the last arrow has left it:
recovery returns the buffers of a sender to its queue, and the server delivers again what is not
acknowledged.

Not in here: what a sender publishes (nats_sending.py), what a receiver knows of doubles
(nats_receiving.py), connections and streams (nats_stream.py).
"""

import asyncio
import contextlib
import time
from abc import abstractmethod
from random import uniform

import uvloop

from ..pool import Pool
from .ends import Refused, Target, source_of
from .ledger import Ledger
from .link import Link
from .nats_client import LinkClient
from .nats_receiving import Receiving
from .nats_sending import Sending
from .nats_stream import TROUBLE, Place, connected

PAUSE_S = (0.1, 2.0)  # first and longest pause before the next connection
STEADY_S = 5.0  # a connection that held for this long is followed by the first pause again
REFUSED_S = 5.0  # before the next question to a server that refuses


class _NatsLink(Link):
    """A link whose thread runs an event loop."""

    @abstractmethod
    async def serve(self, client: LinkClient, ending: asyncio.Event) -> None:
        """Moves packets over one connection."""

    def run_loop(self) -> None:
        """Runs run() in an event loop of the calling thread."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self.run())

    async def run(self) -> None:
        """Connects again after each end of a connection, until the link ends."""
        loop, ending = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            loop.remove_reader(self.stop.fileno())  # it stays readable
            ending.set()

        loop.add_reader(self.stop.fileno(), end)
        place, pause = Place(self.options), PAUSE_S[0]
        try:
            while True:
                began = time.monotonic()
                try:
                    async with connected(place) as client:
                        await self.serve(client, ending)
                except Refused as error:
                    self.down(str(error))
                    pause = REFUSED_S
                except TROUBLE as error:
                    self.down(str(error) or type(error).__name__)
                    if time.monotonic() - began > STEADY_S:
                        pause = PAUSE_S[0]
                self.stop.check()
                self.refuse_replaced()
                self.figures.reconnects += 1
                with contextlib.suppress(TimeoutError):  # not all links at the same instant
                    await asyncio.wait_for(ending.wait(), uniform(pause / 2, pause))
                self.stop.check()
                pause = min(pause * 2, PAUSE_S[1])
        finally:
            loop.remove_reader(self.stop.fileno())


class Sender(_NatsLink):
    """Takes from a queue or topic here, and publishes into a stream."""

    _sending: Sending

    def work(self, pool: Pool) -> None:
        source = source_of(pool, self.options.local.name)
        self._sending = Sending(Place(self.options), source, self)
        try:
            self.run_loop()
        finally:
            self._sending.give_back()
            source.close()

    async def serve(self, client: LinkClient, ending: asyncio.Event) -> None:
        await self._sending.serve(client, ending)


class Receiver(_NatsLink):
    """Takes out of a stream, and puts into a queue or topic here."""

    _receiving: Receiving

    def work(self, pool: Pool) -> None:
        place = Place(self.options)
        target = Target(pool, self.options.local.name)
        try:
            address = f"{place.remote} {place.consumer} {self.options.shown}"
            ledger = Ledger(pool, address, self.stop)
            try:
                self._receiving = Receiving(place, target, ledger, self)
                self.run_loop()
            finally:
                ledger.close()
        finally:
            target.close()

    async def serve(self, client: LinkClient, ending: asyncio.Event) -> None:
        await self._receiving.serve(client, ending)
