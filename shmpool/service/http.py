# SPDX-License-Identifier: Apache-2.0
"""HTTP, read-only: /metrics, /healthz, /api/v1, and the live page with its events.

Imported only if HTTP is on. Requests are answered by the same handler as those at the socket;
admission.py decides who gets an answer.
"""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from .. import errors
from ..rpc import wire
from ..rpc.protocol import AnyRequest, Describe, GetHolders, GetMembers, GetStats, List, RunAudit
from ..rpc.records import PoolStats
from ..stats import Member
from .admission import Admission
from .config import DaemonOptions
from .config_values import http_address, http_token
from .listening import Acceptor, listening, tcp_sockets
from .metrics import exposition, format_for
from .supervisor import Supervisor
from .watched_pool import RecoveryEvent

log = logging.getLogger("shmpool")

IDLE_S = 20.0  # a connection without a complete request is closed after this long
STREAMS_MAX = 32  # event streams open at once
UNREAD_S = 10.0  # an event stream whose client reads nothing is closed after this long
BUSY_S = 5.0  # /healthz is not ok if the thread that recovers is busy for longer
SLOW_MAX = 8  # audits and lists of holders in progress at once
WEB = Path(__file__).parent / "web"
PAGE = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
MEMBERS_SHOWN = 200
MEMBER_FIELDS = ("number", "pid", "tid", "held", "cached", "operation")
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


@contextlib.contextmanager
def bound(address: str, group: int) -> Iterator[list[socket.socket]]:
    """Sockets that listen at host:port, or at unix:PATH for a group unless it is -1.

    CannotListen, in one line.
    """
    where = http_address(address)
    if isinstance(where, Path):
        with listening(where, group) as sock:
            yield [sock]
    else:
        with tcp_sockets(*where) as sockets:
            yield sockets


@contextlib.asynccontextmanager
async def serving(
    sockets: list[socket.socket],
    supervisor: Supervisor,
    package: str,
    options: DaemonOptions,
    connections_max: int,
) -> AsyncIterator[str]:
    """Serves at these sockets until the block ends. Yields the URL of the live page."""
    pages = Pages(supervisor, package, admission(sockets, options))
    runner = web.AppRunner(
        pages.application(),
        access_log=None,
        logger=log,
        shutdown_timeout=1.0,
        keepalive_timeout=IDLE_S,
    )
    await runner.setup()
    server = runner.server
    assert server is not None  # noqa: S101
    acceptors: list[Acceptor] = []

    def has_room() -> bool:
        pending = sum(acceptor.pending for acceptor in acceptors)
        return len(server.connections) + pending < connections_max

    def connection() -> asyncio.BaseProtocol:
        return server() if len(server.connections) < connections_max else _Refusal()

    try:
        for sock in sockets:
            acceptors.append(Acceptor(sock, connection, has_room))
        yield _url(sockets[0])
    finally:
        for acceptor in acceptors:
            acceptor.close()
        pages.close()
        await runner.cleanup()


def admission(sockets: list[socket.socket], options: DaemonOptions) -> Admission:
    """The admission rules of a service at these sockets. InvalidArgument."""
    token = None if options.http_token_file is None else http_token(options.http_token_file)
    where = http_address(options.http or "")
    if isinstance(where, Path):  # pages of other sites cannot reach a Unix socket
        return Admission(hosts=None, token=token)
    names = [where[0], socket.gethostname(), *options.http_hosts]
    return Admission.at([sock.getsockname()[0] for sock in sockets], names, token)


def _url(sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class _Refusal(asyncio.Protocol):
    """Answers 503 to a connection beyond the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sink = cast(asyncio.WriteTransport, transport)
        sink.write(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n")
        sink.close()


class Pages:
    """The handlers of all paths."""

    def __init__(self, supervisor: Supervisor, package: str, admission: Admission) -> None:
        self._supervisor, self._handler = supervisor, supervisor.handler
        self._package, self._admission = package, admission
        self._streams: set[asyncio.Queue[RecoveryEvent | None]] = set()
        self._pools_event = 0.0, b""  # when it was made, by the loop's clock
        self._recovery_count = 0
        self._answering: dict[tuple[str, str], asyncio.Future[Any]] = {}
        supervisor.on_recovery.add(self._recovered)

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._admitted, _errors])
        application.on_response_prepare.append(_add_headers)
        application.add_routes(
            [
                web.get("/metrics", self.metrics),
                web.get("/healthz", self.healthz),
                web.get("/api/v1/pools", self.pools),
                web.get("/api/v1/pools/{pool}", self.describe),
                web.get(
                    "/api/v1/pools/{pool}/{what:stats|members|history|holders|audit}", self.pool
                ),
                web.get("/api/v1/events", self.events),
                web.get("/{name:|page.js|page.css}", self.page),
            ]
        )
        return application

    @web.middleware
    async def _admitted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = self._admission.refusal(request.headers, page=request.path == "/")
        if refusal is not None:
            return web.Response(status=refusal.status, text=refusal.text, headers=refusal.headers)
        return await handler(request)

    def close(self) -> None:
        """Ends every event stream."""
        for stream in self._streams:
            stream.put_nowait(None)

    async def metrics(self, request: web.Request) -> web.Response:
        kind = format_for(",".join(request.headers.getall("Accept", [])) or None)
        text = await self._once(("", kind), lambda: exposition(self._handler, self._package, kind))
        return web.Response(body=text, headers={"Content-Type": kind, "Vary": "Accept"})

    async def healthz(self, request: web.Request) -> web.Response:
        """200 if the event loop and the thread that recovers are not blocked."""
        check = self._supervisor.check_recovery_thread
        try:
            await asyncio.wait_for(self._once(("", "health"), check), BUSY_S)
        except TimeoutError:
            return _json({"status": "the thread that recovers is busy"}, 503)
        watched = self._handler.watched
        alarms = sum(len(pool.alarms.active()) for pool in watched.values())
        return _json({"status": "ok", "pools": len(watched), "alarms": alarms})

    async def pools(self, request: web.Request) -> web.Response:
        return _json_text(await self._once(("", "list"), lambda: self._slow(List())))

    async def describe(self, request: web.Request) -> web.Response:
        return _json(self._handler.answer(Describe(request.match_info["pool"])))

    async def pool(self, request: web.Request) -> web.Response:
        name, what = request.match_info["pool"], request.match_info["what"]
        if what == "stats":
            return _json(self._handler.answer(GetStats(name)))
        if what == "members":
            return _json(self._handler.answer(GetMembers(name)))
        if name not in self._handler.watched:
            raise errors.PoolNotFound(f"pool {name!r} is not watched by the daemon")
        if what == "history":
            return _json({"pool": name} | self._handler.watched[name].history.listed())
        busy = sum(pool != "" for pool, _ in self._answering)
        if (name, what) not in self._answering and busy >= SLOW_MAX:
            raise web.HTTPServiceUnavailable(text=f"{SLOW_MAX} audits are in progress\n")
        slow: AnyRequest = GetHolders(name) if what == "holders" else RunAudit(name)
        return _json_text(await self._once((name, what), lambda: self._slow(slow)))

    async def _slow(self, request: AnyRequest) -> str:
        """Answers a request in a thread, which also makes the JSON: the answer may be long."""
        answer = await self._supervisor.run_for_client(request)
        text: str = await self._supervisor.call_for_client(_text, answer)
        return text

    async def _once(self, what: tuple[str, str], make: Callable[[], Awaitable[Any]]) -> Any:
        """Makes an answer once for all who ask for it until it is ready, so that many requests
        cost no more than one."""
        task = self._answering.get(what)
        if task is None:
            task = self._answering[what] = asyncio.ensure_future(make())
            task.add_done_callback(lambda _: self._answering.pop(what, None))
        return await asyncio.shield(task)

    async def page(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        text = (WEB / (name or "page.html")).read_text(encoding="utf-8")
        return web.Response(text=text, content_type=PAGE[name])

    # Events.

    def _recovered(self, event: RecoveryEvent) -> None:
        self._recovery_count += 1
        self._pools_event = 0.0, b""
        for stream in self._streams:
            stream.put_nowait(event)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: "pools" at the daemon's interval, "recovery" after each recovery.
        A new stream begins with the recoveries that are remembered."""
        kind = {"Content-Type": "text/event-stream"}
        if request.method == "HEAD":
            return web.Response(headers=kind)
        if len(self._streams) >= STREAMS_MAX:
            raise web.HTTPServiceUnavailable(text=f"{STREAMS_MAX} event streams are open\n")
        response = web.StreamResponse(headers=kind)
        await response.prepare(request)
        stream: asyncio.Queue[RecoveryEvent | None] = asyncio.Queue()
        for pool in self._handler.watched.values():
            for event in pool.events:
                stream.put_nowait(event)
        self._streams.add(stream)
        try:
            while True:
                if stream.empty():  # after a recovery: an event that was begun after it
                    key = "", f"event {self._recovery_count}"
                    await self._send(response, await self._once(key, self._all_pools))
                try:
                    news = await asyncio.wait_for(stream.get(), self._supervisor.interval)
                except TimeoutError:
                    continue
                if news is None:
                    return response
                await self._send(response, _event("recovery", wire.to_wire(news)))
        except (ConnectionResetError, TimeoutError):
            return response
        finally:
            self._streams.discard(stream)

    async def _send(self, response: web.StreamResponse, event: bytes) -> None:
        async with asyncio.timeout(UNREAD_S):
            await response.write(event)

    async def _all_pools(self) -> bytes:
        """The event with every pool. One that was made within half an interval serves every
        stream. Other tasks of the event loop run after each pool that is read."""
        now, count = asyncio.get_running_loop().time(), self._recovery_count
        at, event = self._pools_event
        if not event or now - at > self._supervisor.interval / 2:
            found = []
            for name, pool in sorted(self._handler.watched.items()):
                await asyncio.sleep(0)
                if self._handler.watched.get(name) is pool:
                    with contextlib.suppress(errors.SegmentInvalid):  # it will be released
                        found.append(live_pool(pool.stats(), pool.view.members()))
            event = _event("pools", found)
            if count == self._recovery_count:
                self._pools_event = now, event
        return event


def live_pool(stats: PoolStats, members: list[Member]) -> dict[str, Any]:
    """A pool for the live page. Of many members, those with the most buffers."""
    most = sorted(members, key=lambda m: m.held + m.cached, reverse=True)[:MEMBERS_SHOWN]
    shown = [
        {field: getattr(member, field) for field in MEMBER_FIELDS}
        for member in sorted(most, key=lambda m: m.number)
    ]
    return wire.to_wire(stats) | {"members": shown}  # type: ignore[no-any-return]


def _json(value: Any, status: int = 200) -> web.Response:
    return _json_text(_text(value), status)


def _text(value: Any) -> str:
    return json.dumps(wire.to_wire(value)) + "\n"


def _json_text(text: str, status: int = 200) -> web.Response:
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
