# SPDX-License-Identifier: Apache-2.0
"""The daemon: sockets, signals, and the start and end of everything. Not on the data path: killed,
it leaves every worker at work, and started again it adopts what is there.

What it does by itself is in keeper.py, what one client gets in connection.py, HTTP in http.py.
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from . import config as config_
from . import errors, keeper, lean, protocol, systemd, wire
from .alarms import Policy
from .config import Config, ConfigError
from .connection import Connection, Peer
from .keeper import Keeper
from .listening import listening
from .names import LINE_SHOWN, printable, printable_lines
from .registry import Registry
from .segment import group_id

log = logging.getLogger("shmpool")

DRAIN_S = 10.0  # until what was asked before SIGTERM must be answered
DESCRIPTORS_KEPT = 64  # that are not clients
HTTP_PACKAGES = ("aiohttp", "prometheus_client")


class Daemon:
    """The host of every connection. run() is its whole life."""

    def __init__(self, path: Path | None, overrides: dict[str, Any], package: str) -> None:
        """path is of the configuration; overrides are [daemon] options that go before it."""
        self._path, self._overrides = path, overrides
        self.config = self._load()
        self._package = package
        self._registry = Registry(package)
        self._connections: set[Connection] = set()
        self._group = group_id(self.config.daemon.read_group)
        self._uid = os.geteuid()
        self._reloading: asyncio.Task[None] | None = None
        self._reload_again = False
        self._packed: dict[str, tuple[float, bytes]] = {}

    def _load(self) -> Config:
        loaded = config_.load(self._path) if self._path else Config()
        if (http := self._overrides.get("http")) is not None:
            try:
                config_.http_address(http)
            except errors.InvalidArgument as error:
                raise ConfigError(f"--http {http}: {error}") from None
        return replace(loaded, daemon=replace(loaded.daemon, **self._overrides))

    @property
    def socket_path(self) -> Path:
        configured = self.config.daemon.socket
        return Path(configured) if configured else protocol.default_socket()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. ConfigError, CannotListen, OSError."""
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.keeper = Keeper(self._registry)
        async with contextlib.AsyncExitStack() as stack:
            sock = systemd.listening_socket()
            if sock is None:
                sock = stack.enter_context(listening(self.socket_path, self._group))
            sockets = None
            if self.config.daemon.http is not None:
                with (
                    contextlib.suppress(ImportError, AttributeError),
                    lean.parts_of(*HTTP_PACKAGES),
                ):
                    from . import http  # 10 MB that only those pay who want it
                from . import http  # as a whole, if not in parts

                sockets = await stack.enter_async_context(http.bound(self.config.daemon.http))
            self._room_for_clients()
            stack.push_async_callback(self.keeper.close)
            await self.keeper.declare(self.config)
            self.keeper.start()
            server = await self._loop.create_unix_server(lambda: Connection(self), sock=sock)
            if sockets is not None:
                url = await stack.enter_async_context(
                    http.serving(sockets, self.keeper, self._package)
                )
                log.info("live page at %s", url)
            self._handle_signals()
            lean.settle()
            watchdog = self._loop.create_task(_feed_watchdog())
            systemd.notify("READY=1", f"STATUS=listening at {self.socket_path}")
            log.info("listening at %s", self.socket_path)
            await self._stop.wait()
            systemd.notify("STOPPING=1")
            server.close()
            await self._drain()
            watchdog.cancel()

    def _room_for_clients(self) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._clients_max = min(self.config.daemon.max_clients, hard - DESCRIPTORS_KEPT)

    def _handle_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)

    async def _drain(self) -> None:
        log.info("draining %d clients", len(self._connections))
        ends = [connection.finish("the daemon ends") for connection in self._connections]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*ends), DRAIN_S)

    def _reload(self) -> None:
        self._reload_again = True
        if self._reloading is None or self._reloading.done():
            self._reloading = self._loop.create_task(self._read_as_often_as_told())

    async def _read_as_often_as_told(self) -> None:
        while self._reload_again:  # a signal that comes meanwhile is of a file changed meanwhile
            self._reload_again = False
            await self._read_again()

    async def _read_again(self) -> None:
        """Takes up a changed configuration; one that is wrong changes nothing."""
        systemd.reloading()
        try:
            loaded = self._load()
            await self.keeper.declare(loaded)
            for option in ("socket", "http", "read_group", "interval"):
                if getattr(loaded.daemon, option) != getattr(self.config.daemon, option):
                    log.warning("daemon.%s changes with the next start", option)
            self.config = loaded
            self._room_for_clients()
            log.setLevel(loaded.daemon.log_level.upper())
            log.info("configuration read again")
        except (errors.ShmpoolError, OSError) as error:
            for line in str(error).splitlines():
                log.error("configuration not changed: %s", line)
        systemd.notify("READY=1")

    # Host of the connections.

    def admit(self, connection: Connection, peer: Peer) -> str | None:
        self._connections.add(connection)
        if len(self._connections) > self._clients_max:
            return f"{self._clients_max} clients are connected, which is the most"
        if self.may_write(peer) or self._group in peer.groups:
            return None
        return f"user {peer.uid} is not let in"

    def may_write(self, peer: Peer) -> bool:
        return peer.uid in (self._uid, 0)

    def gone(self, connection: Connection) -> None:
        self._connections.discard(connection)

    async def answer(self, request: protocol.AnyRequest) -> Any:
        registry = self._registry
        if not request.slow:
            return registry.answer(request)
        if isinstance(request, protocol.Recover):
            return await self.keeper.run(request)
        result = await self.keeper.run_for_client(request)
        if isinstance(request, protocol.Create):
            try:
                registry.hold(request.pool, Policy())
            except errors.ShmpoolError as error:  # made it is all the same
                log.warning("pool %s not held: %s", request.pool, error)
        elif isinstance(request, protocol.Destroy):
            registry.release(request.pool)
            self._packed.pop(request.pool, None)
        return result

    def packed_stats(self, pool: str) -> bytes:
        """Those of the last few milliseconds do for every watcher."""
        now = self._loop.time()
        at, packed = self._packed.get(pool, (0.0, b""))
        if now - at > protocol.INTERVAL_MIN / 4:
            if len(self._packed) > 1000:
                self._packed.clear()
            stats = self._registry.answer(protocol.GetStats(pool))
            packed = wire.pack_notice(protocol.STATS, [wire.to_wire(stats)])
            self._packed[pool] = now, packed
        return packed


async def _feed_watchdog() -> None:
    period = systemd.watchdog_period()
    while period is not None:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(period)


def run(
    path: Path | None, overrides: dict[str, Any], package: str, only_check: bool = False
) -> int:
    """The process's whole life: its exit status. 2 for a configuration that cannot be used."""
    try:
        daemon = Daemon(path, overrides, package)
        if only_check:
            keeper.refuse_differences(daemon.config)
            return 0
        _log_to_stderr(daemon.config.daemon.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(daemon.run())
    except ConfigError as error:
        _complain(error)
        return 2
    except (errors.ShmpoolError, OSError) as error:
        _complain(error)
        return 1
    return 0


def _complain(error: Exception) -> None:
    for line in printable_lines(error):
        print(f"shmpool: {line}", file=sys.stderr)


class _Lines(logging.Formatter):
    """A message is one line, and a traceback's lines are its own: strangers write none."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record), LINE_SHOWN)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(printable_lines(super().formatException(ei)))


class _Journal(_Lines):
    """With the priority that journald reads from the start of a line."""

    def format(self, record: logging.LogRecord) -> str:
        level = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4}.get(record.levelno, 3)
        return f"<{level}>{super().format(record)}"


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler()
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(_Journal("%(message)s"))
    else:
        handler.setFormatter(_Lines("shmpool: %(message)s"))
    log.addHandler(handler)
    log.setLevel(level.upper())


if __name__ == "__main__":
    from .cli.daemon import command

    command(prog_name="python -m shmpool.daemon")
