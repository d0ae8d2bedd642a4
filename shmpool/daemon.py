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
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from . import declared, errors, lean, logs, protocol, systemd, wire
from .alarms import Policy
from .config import Config, ConfigError, load
from .connection import Connection, Peer
from .held import OWN
from .keeper import Keeper
from .listening import Acceptor, CannotListen, give_to_group, listening
from .names import LINE_SHOWN, printable, printable_lines
from .registry import HELD_MAX, Registry
from .segment import group_id
from .values import SHOWN, http_address, socket_path

log = logging.getLogger("shmpool")

DRAIN_S = 5.0  # until what was asked before SIGTERM must be answered
DESCRIPTORS_KEPT = 96  # for what is neither a client nor a pool: recovery never waits for one
DESCRIPTORS_A_POOL = 3
HTTP_MAX = 128  # connections
HTTP_PACKAGES = ("aiohttp", "prometheus_client")
AT_START = ("socket", "http", "http_hosts", "http_token_file", "read_group", "interval")


class Daemon:
    """The host of every connection. run() is its whole life."""

    def __init__(self, path: Path | None, overrides: dict[str, Any], package: str) -> None:
        """path is of the configuration; overrides are [daemon] options that go before it."""
        self._path, self._overrides = path, overrides
        self.config = self._started = self._load()
        self._package = package
        self._registry = Registry(package)
        self._connections: set[Connection] = set()
        self._group = group_id(self.config.daemon.read_group)
        self._uid = os.geteuid()
        self._reloading: asyncio.Task[None] | None = None
        self._reload_again = False
        self._acceptor: Acceptor | None = None
        self._packed: dict[str, tuple[float, bytes]] = {}

    def _load(self) -> Config:
        loaded = load(self._path) if self._path else Config()
        for option, check in (("http", http_address), ("socket", socket_path)):
            given = self._overrides.get(option)
            try:
                if given is not None:
                    check(given)
            except errors.InvalidArgument as error:
                raise ConfigError(f"--{option} {printable(given, SHOWN)}: {error}") from None
        return replace(loaded, daemon=replace(loaded.daemon, **self._overrides))

    @property
    def socket_path(self) -> Path:
        configured = self.config.daemon.socket
        return Path(configured) if configured else protocol.default_socket()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. ConfigError, CannotListen, OSError."""
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            sock = self._activated()
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

                sockets = await stack.enter_async_context(
                    http.bound(self.config.daemon.http, self._group)
                )
            self._share_descriptors()
            self.keeper = Keeper(self._registry)
            stack.push_async_callback(self.keeper.close)
            await self.keeper.declare(self.config)
            self.keeper.start()
            acceptor = Acceptor(sock, lambda: Connection(self), self._has_room)
            self._acceptor = acceptor
            if sockets is not None:
                url = await stack.enter_async_context(
                    http.serving(
                        sockets, self.keeper, self._package, self.config.daemon, self._http_max
                    )
                )
                log.info("live page at %s", url)
            self._handle_signals()
            lean.settle()
            watchdog = self._loop.create_task(_feed_watchdog())
            systemd.notify("READY=1", self._status())
            log.info("listening at %s", self.socket_path)
            await self._stop.wait()
            systemd.notify("STOPPING=1")
            acceptor.close()
            await self._drain()
            watchdog.cancel()
        if self.keeper.stuck:  # the interpreter would wait for the thread
            log.error("a thread does not end: the daemon ends without it")
            logging.shutdown()
            os._exit(0)

    def _activated(self) -> socket.socket | None:
        """The socket that systemd listens at for us, if it does; given to read_group, as one of our
        own would be."""
        sock = systemd.listening_socket()
        if sock is None:
            return None
        if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
            raise CannotListen("the socket that the service manager gave is no Unix stream socket")
        path = sock.getsockname()
        if self._group != -1:
            try:
                give_to_group(Path(os.fsdecode(path)), self._group)
            except (OSError, ValueError) as error:
                log.warning(
                    "read_group cannot connect to the service manager's socket: %s; set "
                    "SocketGroup= and SocketMode=0660 in shmpool.socket", error,
                )  # fmt: skip
        return sock

    def _share_descriptors(self) -> None:
        """Says how many clients and pools there may be, so that there is always a descriptor for
        what must not fail."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        room = hard - DESCRIPTORS_KEPT  # which Linux never lets be infinite
        third = max(room // 3, 1)  # where there are few
        pools = min(HELD_MAX, max(third // DESCRIPTORS_A_POOL, 1))
        self._registry.held_max = pools
        self._http_max = min(HTTP_MAX, third)
        rest = room - pools * DESCRIPTORS_A_POOL - self._http_max
        self._clients_max = min(self.config.daemon.max_clients, max(rest, 1))

    def _has_room(self) -> bool:
        pending = self._acceptor.pending if self._acceptor is not None else 0
        return len(self._connections) + pending < self._clients_max

    def _status(self, trouble: str = "") -> str:
        """What `systemctl status` shows."""
        parts = [trouble, f"listening at {self.socket_path}"]
        parts += [
            f"pool {name} refused: {why}" for name, why in self.keeper.adoption.refused.items()
        ]
        return systemd.status("; ".join(printable(part, LINE_SHOWN) for part in parts if part))

    def _handle_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)

    async def _drain(self) -> None:
        log.info("draining %d clients", len(self._connections))
        ends = [connection.finish("the daemon ends") for connection in self._connections]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*ends), DRAIN_S)
        for connection in list(self._connections):  # whose requests take longer
            connection.drop("the daemon ends")
        await asyncio.sleep(0)

    def _reload(self) -> None:
        self._reload_again = True
        if self._reloading is None or self._reloading.done():
            self._reloading = self._loop.create_task(self._read_as_often_as_told())

    async def _read_as_often_as_told(self) -> None:
        while self._reload_again:  # a signal that comes meanwhile is of a file changed meanwhile
            self._reload_again = False
            await self._read_again()

    async def _read_again(self) -> None:
        """Takes up a changed configuration; one that is wrong changes nothing, and says so."""
        systemd.reloading()
        trouble = ""
        try:
            loaded = self._load()
            await self.keeper.declare(loaded)
            started = self._started.daemon
            late = [o for o in AT_START if getattr(loaded.daemon, o) != getattr(started, o)]
            for option in late:
                log.warning("daemon.%s changes with the next start", option)
            if late:
                trouble = f"{', '.join(late)}: with the next start"
            self.config = loaded
            self._share_descriptors()
            log.setLevel(loaded.daemon.log_level.upper())
            log.info("configuration read again")
        except (errors.ShmpoolError, OSError) as error:
            for line in str(error).splitlines():
                log.error("configuration not changed: %s", line)
            trouble = f"configuration not changed: {error}"
        except Exception as error:
            log.exception("configuration not changed")
            trouble = f"configuration not changed: {error!r}"
        systemd.notify("READY=1", self._status(trouble))

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
        if self._acceptor is not None:
            self._acceptor.has_room_again()

    async def answer(self, request: protocol.AnyRequest) -> Any:
        registry = self._registry
        if not request.slow:
            return registry.answer(request)
        if isinstance(request, protocol.Recover):
            return await self.keeper.run(request)
        result = await self.keeper.run_for_client(request)
        if isinstance(request, protocol.Create):
            try:
                self.keeper.adoption.hold(request.pool, Policy(), OWN)
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
            _check(daemon.config)
            return 0
        logs.to_stderr(daemon.config.daemon.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(daemon.run())
    except ConfigError as error:
        _complain(error)
        return 2
    except (errors.ShmpoolError, OSError) as error:
        _complain(error)
        return 1
    return 0


def _check(config: Config) -> None:
    """Refuses what a start would refuse. ShmpoolError, OSError."""
    _, refused = declared.refuse_differences(config)
    for name, why in refused.items():  # which a start would do without
        print(f"shmpool: pool {name} refused: {why}", file=sys.stderr)
    if config.daemon.http is not None:
        where = http_address(config.daemon.http)
        if not isinstance(where, Path):
            try:
                socket.getaddrinfo(*where, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            except (OSError, UnicodeError) as error:
                reason = getattr(error, "strerror", None) or error
                raise CannotListen(f"cannot serve http://{config.daemon.http}: {reason}") from None


def _complain(error: Exception) -> None:
    for line in printable_lines(error):
        print(f"shmpool: {line}", file=sys.stderr)


if __name__ == "__main__":
    from .cli.daemon import command

    command(prog_name="python -m shmpool.daemon")
