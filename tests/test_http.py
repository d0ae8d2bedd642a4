# SPDX-License-Identifier: Apache-2.0
"""HTTP: metrics, health, JSON, the page and its events. It is off by default."""

import asyncio
import contextlib
import gc
import http.client
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Child, DaemonProcess, Eventually, MakePool, StartDaemon, open_files
from test_daemon import POOL, WORKER
from test_topic_figures import DECLARED, subscribe
from test_topic_figures import get as get_messages

import shmpool
from shmpool.stats import Recovery

pytest.importorskip("aiohttp", reason="shmpool[daemon] is not installed")
parser = pytest.importorskip("prometheus_client.openmetrics.parser")
older_parser = pytest.importorskip("prometheus_client.parser")
metrics_core = pytest.importorskip("prometheus_client.metrics_core")
metrics = pytest.importorskip("shmpool.service.metrics")
service = pytest.importorskip("shmpool.service.http")
handlers = pytest.importorskip("shmpool.service.handlers")
alarms = pytest.importorskip("shmpool.service.alarms")
admission = pytest.importorskip("shmpool.service.admission")

PORT = ("--http", "127.0.0.1:0")


def address(daemon: DaemonProcess) -> tuple[str, int]:
    """The address of a daemon that was started with PORT."""
    (url,) = re.findall(r"live page at http://([\d.]+):(\d+)/", daemon.output())
    return url[0], int(url[1])


def get(daemon: DaemonProcess, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of an answer. In the names of the headers _ stands for -."""
    connection = http.client.HTTPConnection(*address(daemon), timeout=60)
    try:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers=given)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read().decode()
    finally:
        connection.close()


def events(daemon: DaemonProcess) -> Iterator[tuple[str, Any]]:
    """The server-sent events."""
    connection = http.client.HTTPConnection(*address(daemon), timeout=60)
    try:
        connection.request("GET", "/api/v1/events")
        response = connection.getresponse()
        assert "text/event-stream" == response.getheader("Content-Type")
        kind = ""
        while line := response.readline().decode().rstrip("\n"):
            kind = line.removeprefix("event: ")
            yield kind, json.loads(response.readline().decode().removeprefix("data: "))
            assert "\n" == response.readline().decode()
    finally:
        connection.close()


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(families: Iterable[Any]) -> Samples:
    """Every sample of what one of Prometheus's own parsers has read."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def samples(daemon: DaemonProcess) -> Samples:
    """Every sample of /metrics."""
    _, headers, text = get(daemon, "/metrics")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    return parsed(parser.text_string_to_metric_families(text))


def test_off_unless_asked(start_daemon: StartDaemon) -> None:
    """Without --http the daemon does not listen at TCP, and does not load aiohttp."""
    daemon = start_daemon()
    with open(f"/proc/{daemon.pid}/maps") as maps:
        assert "aiohttp" not in maps.read()
    with open("/proc/net/tcp") as table:
        inodes = {line.split()[9] for line in table}
    assert not {f"socket:[{inode}]" for inode in inodes} & open_files(daemon.pid)


def test_metrics(start_daemon: StartDaemon, pool_name: str) -> None:
    """Each sample is present with its name and labels, and has the pool's figure."""
    daemon = start_daemon(POOL.format(pool_name), *PORT)
    with shmpool.Pool.attach(pool_name) as pool:
        work = pool.queue("work")
        work.send_many([b"x"] * 5)
        work.recv_many(2)
        with pool.alloc_many(4):
            found = samples(daemon)
    of = ("pool", pool_name)
    for state, count in {"held": 4, "queued": 3, "cached": 0}.items():
        assert count == found["shmpool_buffers", (of, ("state", state))]
    states = [v for (name, labels), v in found.items() if name == "shmpool_buffers"]
    assert 64 == sum(states)
    queue = ("queue", "work")
    assert 3 == found["shmpool_queue_depth", (of, queue)]
    assert 16 == found["shmpool_queue_capacity", (of, queue)]
    assert 5 == found["shmpool_ops_total", (("op", "enqueue"), of, queue)]
    assert 2 == found["shmpool_ops_total", (("op", "dequeue"), of, queue)]
    assert 9 == found["shmpool_ops_total", (("op", "alloc"), of, ("queue", ""))]
    assert 1 == found["shmpool_members", (of,)]
    assert 0 == found["shmpool_recoveries_total", (of,)]
    assert 0 == found["shmpool_alarms", (("alarm", "low-water"), of)]
    assert 256 == found["shmpool_buffer_size_bytes", (of,)]


def test_metrics_of_size_classes(start_daemon: StartDaemon, pool_name: str) -> None:
    """Each class of a declared pool has its own samples, labelled with its size; the pool's are
    their sums."""
    daemon = start_daemon(
        f"[pools.{pool_name}]\nbuffer_size = [64, 4096]\ncapacity = [64, 16]\n"
        "prealloc = [8, 0]\ncache_size = 0\nbulk = 16\nrefill_multiplier = 1\n",
        *PORT,
    )
    with shmpool.Pool.attach(pool_name) as pool, pool.alloc(size=1), pool.alloc(size=65):
        found = samples(daemon)
    sums: dict[str, float] = {}
    for size, states in {
        "64": {"free": 7, "cached": 0, "in-use": 1, "uncreated": 56},
        "4096": {"free": 15, "cached": 0, "in-use": 1, "uncreated": 0},
    }.items():
        for state, count in states.items():
            labels = (("buffer_size", size), ("pool", pool_name), ("state", state))
            assert count == found["shmpool_size_class_buffers", labels]
            sums[state] = sums.get(state, 0) + count
    of = ("pool", pool_name)
    for state, name in {"free": "free", "held": "in-use", "uncreated": "uncreated"}.items():
        assert sums[name] == found["shmpool_buffers", (of, ("state", state))]
    assert 4096 == found["shmpool_buffer_size_bytes", (of,)]


def test_metrics_of_topics(
    start_daemon: StartDaemon, start: Callable[..., Child], pool_name: str
) -> None:
    """A topic's samples, and those of each subscriber with its place, process, name and policy. The
    events of the page have the same figures."""
    daemon = start_daemon(DECLARED.format(pool_name), *PORT)
    child = subscribe(start, pool_name, "latest", 1, name='\x1b"<b>\\')
    with shmpool.Pool.attach(pool_name) as pool:
        topic = pool.topic("ticks")
        for _ in range(3):
            topic.send(b"x")
        get_messages(child, 1)
        topic.send(b"x")
    found = samples(daemon)
    of = ("pool", pool_name)
    ticks = (of, ("topic", "ticks"))
    assert {"depth": 8, "kept": 4, "published_total": 4, "waiting": 0} == {
        figure: found[f"shmpool_topic_{figure}", ticks]
        for figure in ("depth", "kept", "published_total", "waiting")
    }
    assert {"alive": 1, "closing": 0, "dead": 0} == {
        state: found["shmpool_topic_subscribers", (of, ("state", state), ticks[1])]
        for state in ("alive", "closing", "dead")
    }
    who = tuple(sorted([
        *ticks, ("subscriber", "0"), ("pid", str(child.pid)), ("name", r'\x1b"<b>' + "\\"),
        ("policy", "latest"),
    ]))  # fmt: skip
    assert {"lag": 1, "gaps_total": 2, "held": 1} == {
        figure: found[f"shmpool_subscriber_{figure}", who]
        for figure in ("lag", "gaps_total", "held")
    }
    assert 0 == found["shmpool_recovered_subscribers_total", (of,)]
    assert not [labels for name, labels in found if name == "shmpool_queue_depth"]
    kind, pools = next(events(daemon))
    assert "pools" == kind
    (told,) = [pool for pool in pools if pool["pool"] == pool_name]
    ((shown,),) = [topic["subscribers"] for topic in told["topics"]]
    assert (child.pid, 1, 2, 1) == (shown["pid"], shown["lag"], shown["gaps"], shown["held"])
    assert json.loads(get(daemon, f"/api/v1/pools/{pool_name}/stats")[2])["topics"]


def test_metrics_of_a_recovery(
    start_daemon: StartDaemon, start: type[Child], eventually: Eventually, pool_name: str
) -> None:
    """Counters and the histogram include a recovery."""
    daemon = start_daemon(POOL.format(pool_name), *PORT)
    worker = start(WORKER, pool_name)
    assert "ready" == worker.line()
    of = ("pool", pool_name)
    assert 0 == samples(daemon)["shmpool_recovery_seconds_count", (of,)]
    with shmpool.Client(daemon.socket) as client:
        eventually(lambda: client.stats(pool_name).buffers.members == 1)
        worker.kill()
        eventually(lambda: client.stats(pool_name).recoveries.count == 1)
    found = samples(daemon)
    assert 1 == found["shmpool_recoveries_total", (of,)]
    assert 1 == found["shmpool_recovered_members_total", (of,)]
    assert 5 == found["shmpool_recovered_buffers_total", (("outcome", "freed"), of)]
    assert 1 == found["shmpool_recovery_seconds_count", (of,)]
    assert 1 == found["shmpool_recovery_seconds_bucket", (("le", "+Inf"), of)]
    assert 0 < found["shmpool_recovery_seconds_sum", (of,)] < 60


def test_metrics_of_every_outcome(pool: shmpool.Pool) -> None:
    """A recovered buffer counts as freed, as requeued, or as a dead letter."""
    handler = handlers.RequestHandler("0")
    done = Recovery(2, buffers=12, requeued=4, dead_lettered=5, postponed=0, unknown=0)
    try:
        handler.watch(pool.name, alarms.Policy()).recovered(done, 0.1)
        text = asyncio.run(metrics.exposition(handler, "0", metrics.TEXT)).decode()
    finally:
        handler.release(pool.name)
    found = dict(re.findall(r'shmpool_recovered_buffers_total{outcome="([a-z-]+)",.*} (\S+)', text))
    assert {"freed": "3.0", "requeued": "4.0", "dead-lettered": "5.0"} == found


def test_json(start_daemon: StartDaemon, pool_name: str) -> None:
    """The API answers as the socket does. An unknown name is 404 with a reason."""
    daemon = start_daemon(POOL.format(pool_name), *PORT)

    def ask(path: str) -> Any:
        status, headers, text = get(daemon, path)
        assert (200, "application/json") == (status, headers["Content-Type"].split(";")[0])
        return json.loads(text)

    assert {"status": "ok", "pools": 1, "alarms": 0} == ask("/healthz")
    (listed,) = [pool for pool in ask("/api/v1/pools") if pool["name"] == pool_name]
    assert listed["watched"]
    path = f"/api/v1/pools/{pool_name}"
    assert 64 == ask(path)["geometry"]["capacity"]
    assert 64 == ask(f"{path}/stats")["buffers"]["capacity"]
    assert [] == ask(f"{path}/members") == ask(f"{path}/holders")
    assert ask(f"{path}/audit")["ok"]
    for wrong in ("/api/v1/pools/nope", "/api/v1/pools/nope/stats", "/api/v1/pools/.../audit"):
        status, _, text = get(daemon, wrong)
        assert 404 == status
        assert json.loads(text)["error"]
    for wrong in ("/api/v1/nonsense", f"{path}/destroy", "/page.py", "/..%2fpage.js"):
        assert 404 == get(daemon, wrong)[0]
    assert pool_name in shmpool.pool_names()


def test_the_page_needs_no_other_host(start_daemon: StartDaemon) -> None:
    """The daemon serves everything that the page names, and its policy forbids other sources."""
    daemon = start_daemon("", *PORT)
    status, headers, page = get(daemon, "/")
    assert (200, "text/html") == (status, headers["Content-Type"].split(";")[0])
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    for name in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert 200 == get(daemon, f"/{name}")[0]
    for name in ("", "page.js", "page.css"):
        assert "://" not in get(daemon, f"/{name}")[2]


def test_events(start_daemon: StartDaemon, start: type[Child], pool_name: str) -> None:
    """Events carry the pools at each interval, and recoveries, also those before the connection."""
    daemon = start_daemon(POOL.format(pool_name), *PORT, options="interval = 0.1")
    worker = start(WORKER, pool_name)
    assert "ready" == worker.line()
    stream = events(daemon)
    for kind, data in stream:
        assert "pools" == kind
        (pool,) = data
        if pool["members"]:
            break
    assert [(worker.pid, 5)] == [(m["pid"], m["held"]) for m in pool["members"]]
    assert ["work"] == [queue["name"] for queue in pool["queues"]]
    worker.kill()
    recovery = next(data for kind, data in stream if kind == "recovery")
    assert (pool_name, 1, 5) == (recovery["pool"], recovery["members"], recovery["buffers"])
    assert [] == next(data for kind, data in stream if kind == "pools")[0]["members"]
    stream.close()  # type: ignore[attr-defined]
    assert ("recovery", recovery) == next(events(daemon))


def test_head_of_the_events(start_daemon: StartDaemon) -> None:
    """HEAD is answered with headers, and takes none of the streams."""
    daemon = start_daemon("", *PORT)
    connection = http.client.HTTPConnection(*address(daemon), timeout=60)
    with contextlib.closing(connection):
        for _ in range(service.STREAMS_MAX + 1):
            connection.request("HEAD", "/api/v1/events")
            response = connection.getresponse()
            assert (200, b"") == (response.status, response.read())
            assert "text/event-stream" == response.getheader("Content-Type")
    assert "pools" == next(events(daemon))[0]


def test_streams_end_with_the_daemon(start_daemon: StartDaemon) -> None:
    """SIGTERM ends the event streams and the daemon."""
    daemon = start_daemon("", *PORT)
    streams = [events(daemon) for _ in range(5)]
    for stream in streams:
        next(stream)
    assert 0 == daemon.end()
    for stream in streams:
        assert all(kind == "pools" for kind, _ in stream)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_both_kinds_of_addresses() -> None:
    """A socket for IPv6 leaves the same port of IPv4 to another socket, as for localhost."""
    try:
        socket.create_server(("::", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6: {error}")
    with service.bound("[::]:0", -1) as (six,):
        assert 1 == six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        assert 1 == six.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_port_in_use(start_daemon: StartDaemon, pool_name: str) -> None:
    """One line, exit status 1, and no pool is created."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        name = other.getsockname()
        where = f"127.0.0.1:{name[1]}"
        daemon = start_daemon(POOL.format(pool_name), "--http", where, ready=False)
        assert 1 == daemon.process.wait(60)
    assert [
        f"shmpool: cannot serve http://{where}: Address already in use"
    ] == daemon.output().splitlines()
    assert pool_name not in shmpool.pool_names()


def test_a_busy_pool_does_not_delay_health(start_daemon: StartDaemon, make_pool: MakePool) -> None:
    """/healthz answers while a client audits a large pool."""
    pool = make_pool(capacity=65536, prealloc=65536, buffer_size=64)
    daemon = start_daemon("", *PORT)
    with shmpool.Client(daemon.socket) as client:
        watch = client.watch(pool.name, 0.1)
        next(watch)
        for _ in range(5):
            assert client.audit(pool.name).ok
            assert 200 == get(daemon, "/healthz")[0]
        watch.close()  # type: ignore[attr-defined]


def test_another_name_for_this_machine(start_daemon: StartDaemon) -> None:
    """A request with a foreign Host is refused, whatever its path."""
    daemon = start_daemon("", *PORT)
    for path in ("/", "/api/v1/pools", "/metrics", "/api/v1/events"):
        connection = http.client.HTTPConnection(*address(daemon), timeout=60)
        connection.request("GET", path, headers={"Host": "evil.example"})
        assert 403 == connection.getresponse().status
        connection.close()


@pytest.mark.slow
def test_too_many_connections(start_daemon: StartDaemon, eventually: Eventually) -> None:
    """Connections without a complete request are closed after a while, and there are at most 128.

    The daemon's socket is not affected.
    """
    daemon = start_daemon("", *PORT)
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(address(daemon))) for _ in range(300)
        ]
        for sock in silent[:128:2]:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x")
        with shmpool.Client(daemon.socket) as client:
            client.ping()
        ends = [sock.recv(100) for sock in silent]  # none stays
        assert 128 * [b""] == ends[:128]
        # One that arrived after the first were closed may have had a place, and is closed too.
        assert b"HTTP/1.1 503 Service Una" in {end[:24] for end in ends[128:]}
        assert {end[:24] for end in ends[128:]} <= {b"HTTP/1.1 503 Service Una", b""}

        def served() -> bool:
            try:
                return get(daemon, "/healthz")[0] == 200
            except ConnectionResetError:
                return False

        eventually(served)


def test_no_versions_in_answers(start_daemon: StartDaemon) -> None:
    """No answer names the version of Python or of a library."""
    daemon = start_daemon("", *PORT)
    _, headers, _ = get(daemon, "/healthz")
    assert not re.search(r"aiohttp/\d", headers.get("Server", ""))


PATHS = ("/", "/page.js", "/metrics", "/healthz", "/api/v1/pools", "/api/v1/events", "/nowhere")


def test_pages_of_other_sites(start_daemon: StartDaemon) -> None:
    """Requests by pages of other sites are refused. A link to the live page is allowed."""
    daemon = start_daemon("", *PORT)
    host, port = address(daemon)
    for path in PATHS:
        assert 403 == get(daemon, path, Origin="https://evil.example")[0]
        assert 403 == get(daemon, path, Origin=f"http://{host}:{port + 1}")[0]
        assert 403 == get(daemon, path, Sec_Fetch_Site="cross-site")[0]
        assert 403 == get(daemon, path, Host=f"evil.example:{port}")[0]
    assert 200 == get(daemon, "/metrics", Origin=f"http://{host}:{port}")[0]
    assert 200 == get(daemon, "/metrics", Host=f"localhost:{port}")[0]
    link = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert 200 == get(daemon, "/", Sec_Fetch_Site="cross-site", **link)[0]
    assert 403 == get(daemon, "/metrics", Sec_Fetch_Site="cross-site", **link)[0]


def test_other_names_of_the_service(start_daemon: StartDaemon) -> None:
    """http_hosts lists further names of the service."""
    daemon = start_daemon("", *PORT, options='http_hosts = ["shm.example"]')
    assert 200 == get(daemon, "/metrics", Host="shm.example")[0]
    assert 200 == get(daemon, "/metrics", Host="SHM.example:80")[0]
    assert 403 == get(daemon, "/metrics", Host="x.shm.example")[0]


def test_every_answer_has_its_headers(start_daemon: StartDaemon) -> None:
    """Every answer, refusals and errors included, has the headers that restrict a browser."""
    daemon = start_daemon("", *PORT)
    for path in (*PATHS[:-2], "/nowhere", "/api/v1/pools/nope"):
        for host in ("localhost", "evil.example"):
            _, headers, _ = get(daemon, path, Host=host)
            assert headers["Content-Security-Policy"].startswith("default-src 'self'")
            assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
            assert ("nosniff", "DENY", "no-store", "no-referrer") == (
                headers["X-Content-Type-Options"], headers["X-Frame-Options"],
                headers["Cache-Control"], headers["Referrer-Policy"],
            )  # fmt: skip
            assert "Access-Control-Allow-Origin" not in headers


def test_nothing_can_be_changed(start_daemon: StartDaemon, pool_name: str) -> None:
    """Every method but GET and HEAD is refused at every path."""
    daemon = start_daemon(POOL.format(pool_name), *PORT)
    connection = http.client.HTTPConnection(*address(daemon), timeout=60)
    with contextlib.closing(connection):
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            for path in (*PATHS, f"/api/v1/pools/{pool_name}", f"/api/v1/pools/{pool_name}/audit"):
                connection.request(method, path, body=b"{}")
                response = connection.getresponse()
                response.read()
                assert response.status in (404, 405), (method, path)
    assert pool_name in shmpool.pool_names()


def test_a_token(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """With http_token_file every path needs the token, and a browser prompts for it."""
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    file.chmod(0o600)
    daemon = start_daemon("", *PORT, options=f'http_token_file = "{file}"')
    for path in PATHS:
        status, headers, _ = get(daemon, path)
        assert 401 == status
        assert "Basic" in headers["WWW-Authenticate"]
        assert 401 == get(daemon, path, Authorization="Bearer 0123456789abcdeX")[0]
    for path in ("/metrics", "/healthz", "/", "/api/v1/pools"):
        assert 200 == get(daemon, path, Authorization="Bearer 0123456789abcdef")[0]
    assert "0123456789abcdef" not in daemon.output()


def test_at_a_unix_socket(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """The socket is for the daemon's user, has no host names, and is removed at the end."""
    path = tmp_path / "http.sock"
    daemon = start_daemon("", "--http", f"unix:{path}")
    assert 0o600 == path.stat().st_mode & 0o777
    for host, expected in (("localhost", b"200"), ("proxy.example", b"200")):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(f"GET /healthz HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            assert expected == sock.recv(100).split()[1]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b"GET /healthz HTTP/1.0\r\nHost: a\r\nOrigin: http://b\r\n\r\n")
        assert b"403" == sock.recv(100).split()[1]
    assert 0 == daemon.end()
    assert not path.exists()


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, metrics.OPENMETRICS),
        ("*/*", metrics.TEXT),
        ("text/plain", metrics.TEXT),
        ("text/plain;version=0.0.4", metrics.TEXT),
        ("application/openmetrics-text", metrics.OPENMETRICS),
        ("Application/OpenMetrics-Text; version=1.0.0; charset=utf-8", metrics.OPENMETRICS),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,"
            "application/openmetrics-text;version=0.0.1;q=0.4,"
            "text/plain;version=1.0.0;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            metrics.OPENMETRICS,
        ),
        ("application/openmetrics-text;q=0.1,text/plain;q=0.9", metrics.TEXT),
        ("application/openmetrics-text;q=0,*/*", metrics.TEXT),
        ("application/openmetrics-text;q=0.000, text/plain", metrics.TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", metrics.TEXT),
        ("application/json", metrics.TEXT),
        ("", metrics.TEXT),
        (";;;,,,;q=x", metrics.TEXT),
        ("a," * 100000 + "application/openmetrics-text", metrics.TEXT),
    ],
)
def test_which_format(accept: str | None, kind: str) -> None:
    """The format that Accept prefers; the older if it names neither; OpenMetrics without it."""
    assert kind == metrics.format_for(accept)


def test_both_formats_say_the_same(start_daemon: StartDaemon, pool_name: str) -> None:
    """Both formats are read by their own parsers and have the same samples."""
    daemon = start_daemon(POOL.format(pool_name), *PORT)
    _, headers, text = get(daemon, "/metrics", Accept="text/plain")
    assert ("text/plain; version=0.0.4; charset=utf-8", "Accept") == (
        headers["Content-Type"], headers["Vary"],
    )  # fmt: skip
    assert samples(daemon) == parsed(older_parser.text_string_to_metric_families(text))
    assert text.endswith("\n")
    assert "# EOF" not in text


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\nb", "\\n", "é"])
def test_any_label(value: str) -> None:
    """Any text of a label is read back from the older format unchanged."""
    family = metrics_core.GaugeMetricFamily("x", f"Help with {value}.", labels=("label",))
    family.add_metric((value,), 1.5)
    (read,) = older_parser.text_string_to_metric_families(
        metrics.written(family, metrics.TEXT).decode()
    )
    assert f"Help with {value}." == read.documentation
    assert [({"label": value}, 1.5)] == [(s.labels, s.value) for s in read.samples]


def test_pools_are_read_one_at_a_time(make_pool: MakePool) -> None:
    """Other tasks of the event loop run between any two pools that /metrics or an event reads."""
    from shmpool.service import handlers
    from shmpool.service.admission import Admission
    from shmpool.service.alarms import Policy
    from shmpool.service.http import Pages

    handler = handlers.RequestHandler("0")
    names = [make_pool().name for _ in range(5)]
    for name in names:
        handler.watch(name, Policy())
    read = list[str]()

    async def note(reading: Awaitable[bytes]) -> str:
        """The order of reads. A dot is one or more turns of other tasks."""
        turns = asyncio.create_task(dots())
        text = await reading
        turns.cancel()
        assert all(name.encode() in text for name in names)
        order, read[:] = "".join(read), []
        return re.sub(r"\.+", ".", order).strip(".")

    async def dots() -> None:
        while True:
            read.append(".")
            await asyncio.sleep(0)

    async def go() -> None:
        supervisor = SimpleNamespace(handler=handler, interval=1.0, on_recovery=set())
        pages = Pages(supervisor, "0", Admission(None))  # type: ignore[arg-type]
        for watched in handler.watched.values():
            stats = watched.view.stats
            watched.view.stats = lambda stats=stats: (read.append("x"), stats())[1]  # type: ignore
        assert "x.x.x.x.x" == await note(pages._all_pools())
        assert "x.x.x.x.x" == await note(metrics.exposition(handler, "0", metrics.TEXT))

    asyncio.run(go())
    for name in names:
        handler.release(name)


def test_a_failure_that_nobody_waits_for() -> None:
    """An answer that fails after all who asked for it have gone is not reported as forgotten."""
    reported: list[dict[str, Any]] = []

    async def go() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
        supervisor = SimpleNamespace(handler=None, on_recovery=set())
        pages = service.Pages(supervisor, "0", admission.Admission(None))
        fails = asyncio.Event()

        async def make() -> None:
            await fails.wait()
            raise RuntimeError

        asked = asyncio.create_task(pages._once(("rx", "audit"), make))
        await asyncio.sleep(0)
        asked.cancel()
        fails.set()
        while pages._answering:
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(go())
    gc.collect()
    assert [] == reported


def test_audits_of_many_pools() -> None:
    """So many are in progress at once and no more. Those who ask for one of them share it."""

    async def go() -> None:
        watched = {f"pool-{number}": None for number in range(service.SLOW_MAX + 1)}
        supervisor = SimpleNamespace(handler=SimpleNamespace(watched=watched), on_recovery=set())
        pages = service.Pages(supervisor, "0", admission.Admission(None))
        ends = asyncio.Event()

        async def slow(request: object) -> str:
            await ends.wait()
            return "{}"

        pages._slow = slow

        def ask(name: str) -> "asyncio.Task[Any]":
            request = SimpleNamespace(match_info={"pool": name, "what": "audit"})
            return asyncio.create_task(pages.pool(request))

        *names, last = watched
        asked = [ask(name) for name in (*names, names[0])]
        await asyncio.sleep(0)
        with pytest.raises(service.web.HTTPServiceUnavailable):
            await ask(last)
        ends.set()
        assert [200] * len(asked) == [(await answer).status for answer in asked]
        assert 200 == (await ask(last)).status

    asyncio.run(go())


def test_promtool(start_daemon: StartDaemon, pool_name: str) -> None:
    """Prometheus's own checker accepts names, types and help."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    daemon = start_daemon(POOL.format(pool_name), *PORT)
    with shmpool.Pool.attach(pool_name) as pool:
        pool.queue("work").send(b"x")
        text = get(daemon, "/metrics", Accept="*/*")[2]
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_audits_by_many(start_daemon: StartDaemon, make_pool: MakePool, pool_name: str) -> None:
    """Any number of readers may ask for audits. They delay neither recovery nor each other.

    A pool that the daemon does not watch is not opened for them.
    """
    pool = make_pool(name=pool_name, capacity=65536, prealloc=65536, buffer_size=64)
    daemon = start_daemon("", *PORT, options="interval = 0.05")
    with shmpool.Client(daemon.socket) as client:
        while not any(p.watched for p in client.list() if p.name == pool.name):
            pass
    path = f"/api/v1/pools/{pool.name}/audit"
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(contextlib.closing(http.client.HTTPConnection(*address(daemon))))
            for _ in range(50)
        ]
        for connection in connections:
            connection.request("GET", path)
        for connection in connections:
            response = connection.getresponse()
            assert 200 == response.status
            assert json.loads(response.read())["ok"]
    assert 404 == get(daemon, "/api/v1/pools/test-not-watched/audit")[0]


def test_bad_requests_are_not_logged_without_end(start_daemon: StartDaemon) -> None:
    """What is not HTTP is answered with 400. It cannot fill the log."""
    daemon = start_daemon("", *PORT)
    before = daemon.output()
    for _ in range(200):
        with socket.create_connection(address(daemon)) as sock:
            sock.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
            assert sock.recv(100).startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert 200 == get(daemon, "/healthz")[0]
    assert len(daemon.output()) - len(before) < 100_000
