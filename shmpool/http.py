# SPDX-License-Identifier: Apache-2.0
"""HTTP, for looking only: /metrics, /healthz, /api/v1, and the live page with its events.

Imported only when it is asked for. Every answer is made by the registry, as for the socket.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from . import errors, wire
from .answers import PoolStats
from .config import http_address
from .held import RecoveryEvent
from .keeper import Keeper
from .listening import CannotListen
from .metrics import CONTENT_TYPE, Exposition
from .protocol import AnyRequest, Describe, GetHolders, GetMembers, GetStats, List, RunAudit
from .stats import Member

CONNECTIONS_MAX = 128
SILENT_S = 10.0  # until a new connection must have asked something
KEEP_ALIVE_S = 30.0
STREAMS_MAX = 32  # live pages open at once
UNREAD_S = 10.0  # until a page must have read some of what was sent
LOOPBACK = ("localhost", "127.0.0.1", "::1")
WEB = Path(__file__).parent / "web"  # not by importlib.resources, which is 0.7 MB
PAGE = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
MEMBERS_SHOWN = 200
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def bound(address: str) -> AsyncIterator[list[socket.socket]]:
    """Sockets that listen at host:port. CannotListen, in one line."""
    host, port = http_address(address)
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        try:
            infos = await loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            found = [stack.enter_context(_listening(*info)) for info in infos]
        except OSError as error:
            reason = error.strerror or error
            raise CannotListen(f"cannot serve http://{address}: {reason}") from None
        yield found


def _listening(family: int, kind: int, proto: int, _: str, where: Any) -> socket.socket:
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen()
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.asynccontextmanager
async def serving(sockets: list[socket.socket], keeper: Keeper, package: str) -> AsyncIterator[str]:
    """Serves at these sockets; the URL of the live page."""
    local = all(sock.getsockname()[0] in LOOPBACK for sock in sockets)
    pages = Pages(keeper, package, local)
    runner = web.AppRunner(
        pages.application(), access_log=None, shutdown_timeout=1.0, keepalive_timeout=KEEP_ALIVE_S
    )
    await runner.setup()
    handlers = runner.server
    assert handlers is not None  # noqa: S101
    loop = asyncio.get_running_loop()
    servers = []
    try:
        for sock in sockets:
            servers.append(await loop.create_server(lambda: pages.connection(handlers), sock=sock))
        host, port = sockets[0].getsockname()[:2]
        yield f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    finally:
        for server in servers:
            server.close()
        pages.close()
        await runner.cleanup()


class _Refusal(asyncio.Protocol):
    """Says to one connection too many that it is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sink = cast(asyncio.WriteTransport, transport)
        sink.write(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n")
        sink.close()


class Pages:
    """The handlers."""

    def __init__(self, keeper: Keeper, package: str, local: bool) -> None:
        """local: only this machine is served, so nobody may ask for it under another name."""
        self._keeper, self._local = keeper, local
        self._exposition = Exposition(keeper.registry, package)
        self._streams: set[asyncio.Queue[RecoveryEvent | None]] = set()
        self._silent: dict[web.RequestHandler, float] = {}  # no request yet: since when
        self._next_look: asyncio.TimerHandle | None = None  # at these
        self._pools_event = 0.0, b""  # when it was made
        keeper.watchers.add(self._recovered)

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._only_us, _errors])
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
    async def _only_us(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A page of another site whose name was made to mean this machine gets nothing."""
        self._silent.pop(request.protocol, None)
        if self._local and request.url.host not in LOOPBACK:
            raise web.HTTPForbidden(text="this is served to the machine itself\n")
        return await handler(request)

    def connection(self, server: web.Server) -> asyncio.BaseProtocol:
        """For a new connection. It has a while to ask something."""
        if len(self._silent.keys() | set(server.connections)) >= CONNECTIONS_MAX:
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
        self._keeper.watchers.discard(self._recovered)
        for stream in self._streams:
            stream.put_nowait(None)

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=self._exposition.text(), headers=HEADERS | {"Content-Type": CONTENT_TYPE}
        )

    async def healthz(self, request: web.Request) -> web.Response:
        """200 while the event loop and the keeper's thread are at work."""
        try:
            await asyncio.wait_for(self._keeper.idle(), 5.0)
        except TimeoutError:
            return _json({"status": "the keeper is busy"}, 503)
        alarms = sum(len(held.alarms.active()) for held in self._keeper.registry.held.values())
        return _json({"status": "ok", "pools": len(self._keeper.registry.held), "alarms": alarms})

    async def pools(self, request: web.Request) -> web.Response:
        return _json(self._answer(List()))

    async def describe(self, request: web.Request) -> web.Response:
        return _json(self._answer(Describe(request.match_info["pool"])))

    async def pool(self, request: web.Request) -> web.Response:
        name = request.match_info["pool"]
        what = request.match_info["what"]
        if what == "stats":
            return _json(self._answer(GetStats(name)))
        if what == "members":
            return _json(self._answer(GetMembers(name)))
        slow: AnyRequest = GetHolders(name) if what == "holders" else RunAudit(name)
        return _json(await self._keeper.run_for_client(slow))

    def _answer(self, request: AnyRequest) -> Any:
        return self._keeper.registry.answer(request)

    async def page(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        text = (WEB / (name or "page.html")).read_text(encoding="utf-8")
        return web.Response(text=text, content_type=PAGE[name], headers=HEADERS)

    # Events.

    def _recovered(self, event: RecoveryEvent) -> None:
        self._pools_event = 0.0, b""
        for stream in self._streams:
            stream.put_nowait(event)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: "pools" at the daemon's interval, "recovery" when there is one."""
        if len(self._streams) >= STREAMS_MAX:
            raise web.HTTPServiceUnavailable(text=f"{STREAMS_MAX} live pages are open\n")
        response = web.StreamResponse(headers=HEADERS | {"Content-Type": "text/event-stream"})
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
    return web.Response(text=text, content_type="application/json", status=status, headers=HEADERS)


def _event(kind: str, data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (errors.PoolNotFound, errors.InvalidArgument) as error:
        return _json({"error": str(error)}, 404)
    except errors.ShmpoolError as error:
        return _json({"error": str(error)}, 503)
