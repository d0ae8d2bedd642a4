# SPDX-License-Identifier: Apache-2.0
"""HTTP, for looking only: /metrics, /healthz, /api/v1, and the live page with its events.

Imported only when it is asked for. Every answer is made by the registry, as for the socket; who
gets one is in admission.py.
"""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from . import errors, wire
from .admission import Admission
from .answers import PoolStats
from .config import DaemonOptions
from .held import RecoveryEvent
from .keeper import Keeper
from .listening import BACKLOG, Acceptor, CannotListen, listening
from .metrics import Exposition
from .protocol import AnyRequest, Describe, GetHolders, GetMembers, GetStats, List, RunAudit
from .stats import Member
from .values import http_address, http_token

log = logging.getLogger("shmpool")

SILENT_S = 10.0  # until a new connection must have asked something
KEEP_ALIVE_S = 30.0
STREAMS_MAX = 32  # live pages open at once
UNREAD_S = 10.0  # until a page must have read some of what was sent
SLOW_MAX = 8  # audits and lists of holders that are waited for at once
WEB = Path(__file__).parent / "web"  # not by importlib.resources, which is 0.7 MB
PAGE = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
MEMBERS_SHOWN = 200
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "shmpool",
}


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def bound(address: str, group: int) -> AsyncIterator[list[socket.socket]]:
    """Sockets that listen at host:port; or at unix:PATH, for a group unless it is -1.
    CannotListen, in one line."""
    where = http_address(address)
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        if isinstance(where, Path):
            yield [stack.enter_context(listening(where, group))]
            return
        host, port = where
        try:
            infos = await loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            found = [stack.enter_context(_listening(*info)) for info in infos]
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CannotListen(f"cannot serve http://{address}: {reason}") from None
        yield found


def _listening(family: int, kind: int, proto: int, _: str, where: Any) -> socket.socket:
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.asynccontextmanager
async def serving(
    sockets: list[socket.socket],
    keeper: Keeper,
    package: str,
    options: DaemonOptions,
    connections_max: int,
) -> AsyncIterator[str]:
    """Serves at these sockets; the URL of the live page."""
    pages = Pages(keeper, package, admission(sockets, options), connections_max)
    runner = web.AppRunner(
        pages.application(),
        access_log=None,
        logger=log,
        shutdown_timeout=1.0,
        keepalive_timeout=KEEP_ALIVE_S,
    )
    await runner.setup()
    handlers = runner.server
    assert handlers is not None  # noqa: S101
    acceptors: list[Acceptor] = []

    def has_room() -> bool:
        pending = sum(acceptor.pending for acceptor in acceptors)
        return len(handlers.connections) + pending < connections_max

    try:
        for sock in sockets:
            acceptors.append(Acceptor(sock, lambda: pages.connection(handlers), has_room))
        yield _url(sockets[0])
    finally:
        for acceptor in acceptors:
            acceptor.close()
        pages.close()
        await runner.cleanup()


def admission(sockets: list[socket.socket], options: DaemonOptions) -> Admission:
    """Who is let in by a service at these sockets. InvalidArgument."""
    token = None if options.http_token_file is None else http_token(options.http_token_file)
    where = http_address(options.http or "")
    if isinstance(where, Path):  # no page of another site gets there
        return Admission(hosts=None, token=token)
    names = [where[0], socket.gethostname(), *options.http_hosts]
    return Admission.at([sock.getsockname()[0] for sock in sockets], names, token)


def _url(sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class _Refusal(asyncio.Protocol):
    """Says to one connection too many that it is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sink = cast(asyncio.WriteTransport, transport)
        sink.write(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n")
        sink.close()


class Pages:
    """The handlers."""

    def __init__(
        self, keeper: Keeper, package: str, admission: Admission, connections_max: int
    ) -> None:
        self._keeper, self._admission = keeper, admission
        self._connections_max = connections_max
        self._exposition = Exposition(keeper.registry, package)
        self._streams: set[asyncio.Queue[RecoveryEvent | None]] = set()
        self._silent: dict[web.RequestHandler, float] = {}  # no request yet: since when
        self._next_look: asyncio.TimerHandle | None = None  # at these
        self._pools_event = 0.0, b""  # when it was made
        self._slow: dict[tuple[str, str], asyncio.Future[Any]] = {}  # being answered
        keeper.watchers.add(self._recovered)

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._admitted, _errors])
        application.on_response_prepare.append(_add_headers)
        application.add_routes(
            [
                web.get("/metrics", self.metrics),
                web.get("/healthz", self.healthz),
                web.get("/api/v1/pools", self.pools),
                web.get("/api/v1/pools/{pool}", self.describe),
                web.get("/api/v1/pools/{pool}/{what:stats|members|holders|audit}", self.pool),
                web.get("/api/v1/events", self.events),
                web.get("/{name:|page.js|page.css}", self.page),
            ]
        )
        return application

    @web.middleware
    async def _admitted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._silent.pop(request.protocol, None)
        refusal = self._admission.refusal(request.headers, page=request.path == "/")
        if refusal is not None:
            return web.Response(status=refusal.status, text=refusal.text, headers=refusal.headers)
        return await handler(request)

    def connection(self, server: web.Server) -> asyncio.BaseProtocol:
        """For a new connection. It has a while to ask something."""
        if len(server.connections) >= self._connections_max:
            return _Refusal()
        made: web.RequestHandler = server()
        loop = asyncio.get_running_loop()
        self._silent[made] = loop.time()
        if self._next_look is None:
            self._next_look = loop.call_later(SILENT_S / 4, self._end_the_silent, server)
        return made

    def _end_the_silent(self, server: web.Server) -> None:
        loop, there = asyncio.get_running_loop(), set(server.connections)
        for connection, since in list(self._silent.items()):
            late = loop.time() - since >= SILENT_S
            if late or connection not in there:
                del self._silent[connection]
            if late:
                connection.force_close()
        self._next_look = None
        if self._silent:
            self._next_look = loop.call_later(SILENT_S / 4, self._end_the_silent, server)

    def close(self) -> None:
        """Ends every stream."""
        for stream in self._streams:
            stream.put_nowait(None)

    async def metrics(self, request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", [])) or None
        kind, text = self._exposition.answer(accept)
        return web.Response(body=text, headers={"Content-Type": kind, "Vary": "Accept"})

    async def healthz(self, request: web.Request) -> web.Response:
        """200 while the event loop and the keeper's thread are at work."""
        try:
            await asyncio.wait_for(self._shared(("", "idle"), self._keeper.idle), 5.0)
        except TimeoutError:
            return _json({"status": "the keeper is busy"}, 503)
        alarms = sum(len(held.alarms.active()) for held in self._keeper.registry.held.values())
        return _json({"status": "ok", "pools": len(self._keeper.registry.held), "alarms": alarms})

    async def pools(self, request: web.Request) -> web.Response:
        return _json(await self._shared(("", "list"), lambda: self._keeper.run_for_client(List())))

    async def describe(self, request: web.Request) -> web.Response:
        return _json(self._answer(Describe(request.match_info["pool"])))

    async def pool(self, request: web.Request) -> web.Response:
        name = request.match_info["pool"]
        what = request.match_info["what"]
        if what == "stats":
            return _json(self._answer(GetStats(name)))
        if what == "members":
            return _json(self._answer(GetMembers(name)))
        if name not in self._keeper.registry.held:
            raise errors.PoolNotFound(f"pool {name!r} is not watched over by the daemon")
        slow: AnyRequest = GetHolders(name) if what == "holders" else RunAudit(name)
        return _json(await self._shared((name, what), lambda: self._keeper.run_for_client(slow)))

    async def _shared(self, what: tuple[str, str], make: Callable[[], Awaitable[Any]]) -> Any:
        """The answer that is being made, for all that ask meanwhile: however many ask how often,
        each pool is gone through once at a time."""
        task = self._slow.get(what)
        if task is None:
            if len(self._slow) >= SLOW_MAX:
                raise web.HTTPServiceUnavailable(text=f"{SLOW_MAX} audits are being made\n")
            task = self._slow[what] = asyncio.ensure_future(make())
            task.add_done_callback(lambda done: self._answered(what, done))
        return await asyncio.shield(task)

    def _answered(self, what: tuple[str, str], task: "asyncio.Future[Any]") -> None:
        self._slow.pop(what, None)
        if not task.cancelled():
            task.exception()  # whoever still waits for the answer gets it

    def _answer(self, request: AnyRequest) -> Any:
        return self._keeper.registry.answer(request)

    async def page(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        text = (WEB / (name or "page.html")).read_text(encoding="utf-8")
        return web.Response(text=text, content_type=PAGE[name])

    # Events.

    def _recovered(self, event: RecoveryEvent) -> None:
        self._pools_event = 0.0, b""
        for stream in self._streams:
            stream.put_nowait(event)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: "pools" at the daemon's interval, "recovery" when there is one."""
        if len(self._streams) >= STREAMS_MAX:
            raise web.HTTPServiceUnavailable(text=f"{STREAMS_MAX} live pages are open\n")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        stream: asyncio.Queue[RecoveryEvent | None] = asyncio.Queue()

        async def send(event: bytes) -> None:
            async with asyncio.timeout(UNREAD_S):  # who does not read is dropped
                await response.write(event)

        self._streams.add(stream)
        try:
            for held in self._keeper.registry.held.values():
                for event in held.events:
                    await send(_event("recovery", wire.to_wire(event)))
            while True:
                await send(self._everything())
                try:
                    news = await asyncio.wait_for(stream.get(), self._keeper.interval)
                except TimeoutError:
                    continue
                if news is None:
                    return response
                await send(_event("recovery", wire.to_wire(news)))
        except (ConnectionResetError, TimeoutError):
            return response
        finally:
            self._streams.discard(stream)

    def _everything(self) -> bytes:
        """The event with every pool: one of the last half interval does for every page."""
        now = asyncio.get_running_loop().time()
        at, event = self._pools_event
        if not event or now - at > self._keeper.interval / 2:
            found = []
            for _, held in sorted(self._keeper.registry.held.items()):
                with contextlib.suppress(errors.SegmentInvalid):  # the keeper will release it
                    found.append(live_pool(held.stats(), held.view.members()))
            event = _event("pools", found)
            self._pools_event = now, event
        return event


def live_pool(stats: PoolStats, members: list[Member]) -> dict[str, Any]:
    """A pool as the live page takes it; of many members those that hold most."""
    most = sorted(members, key=lambda m: m.held + m.cached, reverse=True)[:MEMBERS_SHOWN]
    shown = [
        {
            "number": member.number,
            "pid": member.pid,
            "tid": member.tid,
            "held": member.held,
            "cached": member.cached,
            "operation": member.operation,
        }
        for member in sorted(most, key=lambda m: m.number)
    ]
    return wire.to_wire(stats) | {"members": shown}  # type: ignore[no-any-return]


def _json(value: Any, status: int = 200) -> web.Response:
    text = json.dumps(wire.to_wire(value)) + "\n"
    return web.Response(text=text, content_type="application/json", status=status)


def _event(kind: str, data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (errors.PoolNotFound, errors.InvalidArgument) as error:
        return _json({"error": str(error)}, 404)
    except errors.ShmpoolError as error:
        return _json({"error": str(error)}, 503)
