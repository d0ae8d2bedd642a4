# SPDX-License-Identifier: Apache-2.0
"""The bridge that the daemon runs for the [[link]] tables of its configuration: a process of its
own, `shmpool bridge`, so that what an engine does cannot hold the daemon up.

A bridge that ends is started again. If the daemon is killed its bridge ends too, as on SIGTERM.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from pathlib import Path

from ..bridge.config import LinkOptions

log = logging.getLogger("shmpool")

PAUSE_S = (1.0, 30.0)  # first and longest pause before a bridge that has ended is started again
END_S = 12.0  # that a bridge has to end: its links wait for acknowledgements


class BridgeProcess:
    """Runs a bridge while the configuration has links."""

    def __init__(self, config: Path | None, socket: Path) -> None:
        """config is the file that the bridge reads; socket is where it reports."""
        self._config, self._socket = config, socket
        self._links: list[LinkOptions] = []
        self._task: asyncio.Task[None] | None = None

    async def apply(self, links: list[LinkOptions]) -> None:
        """Starts, ends or restarts the bridge, if the links are others than before."""
        if links == self._links:
            return
        await self.close()
        self._links = links
        if links and self._config is not None:
            self._task = asyncio.get_running_loop().create_task(self._run(self._config))

    async def close(self) -> None:
        """Ends the bridge."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self, config: Path) -> None:
        command = [sys.executable, "-m", "shmpool", "bridge", "--config", str(config)]
        command += ["--socket", str(self._socket), "--with-parent", str(os.getpid())]
        pause = PAUSE_S[0]
        while True:
            began = time.monotonic()
            try:
                process = await asyncio.create_subprocess_exec(*command)
            except OSError as error:
                log.error("the bridge cannot be started: %s", error)
            else:
                log.info("the bridge is process %d", process.pid)
                try:
                    status = await process.wait()
                except asyncio.CancelledError:
                    await _end(process)
                    raise
                log.error("the bridge has ended with status %d; it is started again", status)
            if time.monotonic() - began > PAUSE_S[1]:
                pause = PAUSE_S[0]
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_S[1])


async def _end(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), END_S)
    except TimeoutError:
        log.error("the bridge did not end in %g s, and is killed", END_S)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
