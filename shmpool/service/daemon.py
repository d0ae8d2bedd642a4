# SPDX-License-Identifier: Apache-2.0
"""The daemon: sockets, signals, start and stop. It is not on the data path: workers go on when it
is killed, and a new daemon adopts their pools.

What it does by itself is in supervisor.py, clients are in connection.py, HTTP is in http.py.
"""

import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from .. import errors, os_errors
from ..names import LINE_SHOWN, printable, printable_lines
from ..rpc import protocol, wire
from ..segment import group_id
from . import declared_pools, logs, systemd
from .alarms import Policy
from .bridge_process import BridgeProcess
from .config import Config, ConfigError, load
from .config_values import SHOWN, http_address, share_a_file, socket_path
from .connection import Connection, Peer
from .handlers import WATCHED_MAX, RequestHandler
from .listening import Acceptor, check_path, give_to_group, listening, tcp_sockets
from .supervisor import Supervisor
from .watched_pool import Rank

log = logging.getLogger("shmpool")

DRAIN_S = 5.0  # for the requests that were read before SIGTERM
DESCRIPTORS_KEPT = 96  # for everything but clients and pools, so that recovery always has one
DESCRIPTORS_A_POOL = 3
HTTP_MAX = 128  # HTTP connections
START_OPTIONS = ("socket", "http", "http_hosts", "http_token_file", "read_group", "interval")


class Daemon:
    """The daemon, and the host of its connections. For one call of run()."""

    def __init__(self, path: Path | None, overrides: dict[str, Any], package: str) -> None:
        """Loads the configuration at path. overrides replace its [daemon] options. package is the
        version that clients get. ConfigError."""
        self._path, self._overrides = path, overrides
        self.config = self._started = self._load()
        self._address = str(self.socket_path)  # that the log shows
        self._package = package
        self._handler = RequestHandler(package)
        self._connections: set[Connection] = set()
        self._group = group_id(self.config.daemon.read_group)
        self._uid = os.geteuid()
        self._reloading: asyncio.Task[None] | None = None
        self._reload_again = False
        self._acceptor: Acceptor | None = None
        self._packed_stats: dict[str, tuple[float, bytes]] = {}  # notifications, and when made

    def _load(self) -> Config:
        loaded = load(self._path) if self._path else Config()
        for option, check in (("http", http_address), ("socket", socket_path)):
            given = self._overrides.get(option)
            try:
                if given is not None:
                    check(given)
            except errors.InvalidArgument as error:
                raise ConfigError(f"--{option} {printable(given, SHOWN)}: {error}") from None
        whole = replace(loaded, daemon=replace(loaded.daemon, **self._overrides))
        if (why := _same_place(whole)) is not None:
            if "http" in self._overrides:
                raise ConfigError(f"--http {printable(whole.daemon.http, SHOWN)}: {why}")
            raise loaded.document.error(("daemon", "http"), why)
        return whole

    @property
    def socket_path(self) -> Path:
        return _socket_path(self.config)

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT. ConfigError, CannotListen, OSError."""
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            sock = self._inherited_socket()
            if sock is None:
                sock = stack.enter_context(listening(self.socket_path, self._group))
            sockets = None
            if self.config.daemon.http is not None:
                from . import http  # aiohttp takes 15 MB: imported only if HTTP is on

                sockets = stack.enter_context(http.bound(self.config.daemon.http, self._group))
            self._divide_descriptors()
            self.supervisor = Supervisor(self._handler)
            stack.push_async_callback(self.supervisor.close)
            await self.supervisor.declare(self.config)
            self.supervisor.start()
            acceptor = Acceptor(sock, lambda: Connection(self), self._has_room)
            self._acceptor = acceptor
            if sockets is not None:
                url = await stack.enter_async_context(
                    http.serving(
                        sockets, self.supervisor, self._package, self.config.daemon, self._http_max
                    )
                )
                log.info("live page at %s", url)
            self._bridge = BridgeProcess(self._path, self.socket_path)
            stack.push_async_callback(self._bridge.close)
            await self._bridge.apply(self.config.link)
            self._handle_signals()
            _release_memory_of_the_start()
            watchdog = self._loop.create_task(_feed_watchdog())
            systemd.notify("READY=1", self._status())
            log.info("listening at %s", self._address)
            await self._stop.wait()
            systemd.notify("STOPPING=1")
            acceptor.close()
            await self._drain()
            watchdog.cancel()
        if self.supervisor.stuck:  # the interpreter would wait for the thread
            log.error("a thread is blocked; the daemon ends without waiting for it")
            logging.shutdown()
            os._exit(0)

    def _inherited_socket(self) -> socket.socket | None:
        """The socket that systemd passed to the daemon, or None. read_group may connect to it.
        InvalidArgument."""
        sock = systemd.listening_socket()
        if sock is None:
            return None
        path = sock.getsockname()
        self._address = printable(os.fsdecode(path).replace("\0", "@", 1), LINE_SHOWN)
        if self._group != -1:
            try:
                give_to_group(Path(os.fsdecode(path)), self._group)
            except (OSError, ValueError) as error:
                log.warning(
                    "read_group cannot connect to the service manager's socket: %s; set "
                    "SocketGroup= and SocketMode=0660 in shmpool.socket", error,
                )  # fmt: skip
        return sock

    def _divide_descriptors(self) -> None:
        """Limits the numbers of clients and pools, so that a descriptor is left for what must not
        fail."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        room = hard - DESCRIPTORS_KEPT  # Linux allows no infinite limit
        third = max(room // 3, 1)  # at least one of each, however few there are
        pools = min(WATCHED_MAX, max(third // DESCRIPTORS_A_POOL, 1))
        self._handler.watched_max = pools
        self._http_max = min(HTTP_MAX, third)
        rest = room - pools * DESCRIPTORS_A_POOL - self._http_max
        self._clients_max = min(self.config.daemon.max_clients, max(rest, 1))

    def _has_room(self) -> bool:
        pending = self._acceptor.pending if self._acceptor is not None else 0
        return len(self._connections) + pending < self._clients_max

    def _status(self, trouble: str = "") -> str:
        """The text for `systemctl status`."""
        parts = [trouble, f"listening at {self._address}"]
        parts += [
            f"pool {name} refused: {why}" for name, why in self.supervisor.adoption.refused.items()
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
        for connection in list(self._connections):  # those that took longer
            connection.drop("the daemon ends")
        await asyncio.sleep(0)

    def _reload(self) -> None:
        self._reload_again = True
        if self._reloading is None or self._reloading.done():
            self._reloading = self._loop.create_task(self._reload_until_current())

    async def _reload_until_current(self) -> None:
        while self._reload_again:  # a SIGHUP during a reload may be for a newer file
            self._reload_again = False
            await self._reload_once()

    async def _reload_once(self) -> None:
        """Applies the configuration file. If the file is wrong, logs why and changes nothing."""
        systemd.reloading()
        trouble = ""
        try:
            loaded = self._load()
            await self.supervisor.declare(loaded)
            await self._bridge.apply(loaded.link)
            started = self._started.daemon
            late = [o for o in START_OPTIONS if getattr(loaded.daemon, o) != getattr(started, o)]
            for option in late:
                log.warning("daemon.%s changes at the next start", option)
            if late:
                trouble = f"{', '.join(late)}: changed at the next start"
            self.config = loaded
            self._divide_descriptors()
            log.setLevel(loaded.daemon.log_level.upper())
            log.info("configuration reloaded")
        except (errors.ShmpoolError, OSError) as error:
            for line in str(error).splitlines():
                log.error("configuration not changed: %s", line)
            trouble = f"configuration not changed: {error}"
        except Exception as error:
            log.exception("configuration not changed")
            trouble = f"configuration not changed: {error!r}"
        systemd.notify("READY=1", self._status(trouble))

    # Called by the connections.

    def admit(self, connection: Connection, peer: Peer) -> str | None:
        self._connections.add(connection)
        if len(self._connections) > self._clients_max:
            return f"{self._clients_max} clients are connected already"
        if self.may_write(peer) or self._group in peer.groups:
            return None
        return (
            f"user {peer.uid} may not connect; the daemon's user, root and the members of "
            "read_group may"
        )

    def may_write(self, peer: Peer) -> bool:
        return peer.uid in (self._uid, 0)

    def disconnected(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self._acceptor is not None:
            self._acceptor.has_room_again()

    async def answer(self, request: protocol.AnyRequest) -> Any:
        handler = self._handler
        if not request.slow:
            return handler.answer(request)
        if isinstance(request, protocol.Recover):
            return await self.supervisor.run(request)
        result = await self.supervisor.run_for_client(request)
        if isinstance(request, protocol.Create):
            try:
                self.supervisor.adoption.watch(request.pool, Policy(), Rank.OWN)
            except errors.ShmpoolError as error:  # the pool exists nevertheless
                log.warning("pool %s not watched: %s", request.pool, error)
        elif isinstance(request, protocol.Destroy):
            handler.release(request.pool)
            self._packed_stats.pop(request.pool, None)
        return result

    async def in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await self.supervisor.call_for_client(call, *arguments)

    def packed_stats(self, pool: str) -> bytes:
        """Returns the notification of a watch. One of the last 25 ms serves every watch."""
        now = self._loop.time()
        at, packed = self._packed_stats.get(pool, (0.0, b""))
        if now - at > protocol.INTERVAL_MIN / 4:
            if len(self._packed_stats) > 1000:
                self._packed_stats.clear()
            stats = self._handler.answer(protocol.GetStats(pool))
            packed = wire.pack_notice(protocol.STATS, [wire.to_wire(stats)])
            self._packed_stats[pool] = now, packed
        return packed


async def _feed_watchdog() -> None:
    period = systemd.watchdog_period()
    while period is not None:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(period)


def run(
    path: Path | None, overrides: dict[str, Any], package: str, only_check: bool = False
) -> int:
    """Runs the daemon and returns the exit status: 0, 2 for a wrong configuration, or 1 for another
    error. only_check checks the configuration instead."""
    try:
        daemon = Daemon(path, overrides, package)
        if only_check:
            _check(daemon.config)
            return 0
        logs.to_stderr(daemon.config.daemon.log_level)
        with _runner() as runner:
            runner.run(daemon.run())
    except ConfigError as error:
        _complain(error)
        return 2
    except (errors.ShmpoolError, OSError) as error:
        _complain(error)
        return 1
    return 0


def _runner() -> asyncio.Runner:
    """Returns an event loop that runs. Ends the process with status 1 if it cannot run, for want of
    descriptors or of a system call: uvloop can neither run nor close such a loop."""
    noise = logging.getLogger("asyncio")  # uvloop reports that a loop which it did not make is open
    noise.disabled = True
    try:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        runner.run(asyncio.sleep(0))
        noise.disabled = False
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            _complain(os_errors.failure("the event loop cannot run", error))
        else:
            reason = f"the event loop cannot run: {error.strerror or error}"
            _complain(f"{reason}: let the seccomp filter or container allow the system call")
        os._exit(1)
    return runner


def _socket_path(config: Config) -> Path:
    configured = config.daemon.socket
    return Path(configured) if configured else protocol.default_socket()


def _same_place(config: Config) -> str | None:
    """Why the two sockets, each with its lock file, cannot have their paths; None if they can."""
    http = config.daemon.http
    where = None if http is None else http_address(http)
    if isinstance(where, Path) and share_a_file(where, _socket_path(config)):
        return "the daemon's socket, or a lock file PATH.lock, is there; it must be another path"
    return None


def _check(config: Config) -> None:
    """Raises what a start with this configuration would raise. ShmpoolError, OSError."""
    _, refused = declared_pools.refuse_differences(config)
    for name, why in refused.items():  # a start would go on without them
        print(f"shmpool: pool {name} refused: {why}", file=sys.stderr)
    check_path(_socket_path(config))
    if config.daemon.http is not None:
        where = http_address(config.daemon.http)
        if isinstance(where, Path):
            check_path(where)
        else:
            with tcp_sockets(*where, only_check=True):
                pass


def _complain(error: Exception | str) -> None:
    for line in printable_lines(error):
        print(f"shmpool: {line}", file=sys.stderr)


def _release_memory_of_the_start() -> None:
    gc.collect()
    gc.freeze()  # these objects live as long as the daemon
    with contextlib.suppress(AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)
