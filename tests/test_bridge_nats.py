# SPDX-License-Identifier: Apache-2.0
"""Links over real servers of NATS: what arrives, what is marked, and that kills lose no packet."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

nats_py = pytest.importorskip("nats", reason="nats-py is not installed: shmpool[bridge]")

import nats_servers  # noqa: E402
from conftest import Child, Eventually, MakePool, at_rest  # noqa: E402
from nats_servers import Server  # noqa: E402

import shmpool  # noqa: E402
from shmpool.bridge.config import LinkOptions, link_refusals  # noqa: E402
from shmpool.bridge.link import Link, link_of  # noqa: E402
from shmpool.bridge.nats_client import LinkClient  # noqa: E402
from shmpool.bridge.nats_options import NatsOptions  # noqa: E402
from shmpool.bridge.nats_sending import BODY, VERSION  # noqa: E402
from shmpool.bridge.nats_stream import Place, covers, stream_differences  # noqa: E402
from shmpool.bridge.packing import RECORD  # noqa: E402
from shmpool.service.config import parse  # noqa: E402
from tests.suspending import suspend  # noqa: E402

Start = Callable[..., Child]
Run = Callable[..., Link]
DEADLINE_S = 100.0  # without progress: a guard against hangs
SHORT_S = 2.0  # ack_wait_s: for how long a burst of a killed receiver waits
KILLS = int(os.environ.get("NATS_KILLS", "9"))  # `make soak-bridge` has more
SEED = int(os.environ.get("NATS_SEED", "7"))
SMALL: dict[str, Any] = {"window": 8, "burst_bytes": 1024, "ack_wait_s": 1.0}
RUN_LINK = """
    import json, sys
    from shmpool.bridge.config import LinkOptions
    from shmpool.bridge.link import link_of
    from shmpool.bridge.nats_options import NatsOptions
    options = json.loads(sys.argv[1])
    link = link_of(LinkOptions(**options | {"nats": NatsOptions(**options["nats"])}))
    link.start()
    print("runs", flush=True)
    sys.stdin.read()
    link.end()
    link.join()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with nats_servers.one(tmp_path) as server:
        yield server


@pytest.fixture
def run_link() -> Iterator[Run]:
    """run_link(options): runs a link in a thread, which ends with the test."""
    running: list[Link] = []

    def run_link(options: LinkOptions) -> Link:
        link = link_of(options)
        link.start()
        running.append(link)
        return link

    yield run_link
    for link in running:
        link.end()
    assert [True] * len(running) == [link.join(60) for link in running]


@pytest.fixture
def pools(make_pool: MakePool) -> tuple[shmpool.AlfQueue, shmpool.AlfQueue]:
    """Two queues, each in a pool of its own."""
    queues = []
    for _ in range(2):
        pool = make_pool(buffer_size=2048, capacity=1024, queues=8)
        queues.append(pool.create_queue("work", capacity=512, on_death="requeue"))
    return queues[0], queues[1]


def sends(queue: shmpool.AlfQueue | shmpool.Topic, server: Server, **nats: Any) -> LinkOptions:
    return _options(server, nats, from_=f"{queue.pool.name}/{queue.name}")


def receives(queue: shmpool.AlfQueue | shmpool.Topic, server: Server, **nats: Any) -> LinkOptions:
    return _options(server, nats, to=f"{queue.pool.name}/{queue.name}")


def _options(server: Server, nats: dict[str, Any], **end: Any) -> LinkOptions:
    more = {key: nats.pop(key) for key in list(nats) if key in LinkOptions.__dataclass_fields__}
    stream = f"{server.url}/{nats.pop('stream', 'work')}"
    ends: dict[str, Any] = {"from_": stream, "to": stream} | end
    return LinkOptions(**ends, **more, nats=NatsOptions(**{"ack_wait_s": SHORT_S} | nats))


def process(start: Start, options: LinkOptions) -> Child:
    """Runs a link in a process of its own, which a test may kill."""
    fields = {name: getattr(options, name) for name in ("from_", "to", "window", "burst_bytes")}
    child = start(RUN_LINK, json.dumps(fields | {"nats": vars(options.nats)}))
    assert "runs" == child.line()
    return child


def got(queue: shmpool.AlfQueue, n: int, each: Callable[[], object] = lambda: None) -> list[bytes]:
    """Receives n packets."""
    found: list[bytes] = []
    give_up = time.monotonic() + 100
    while len(found) < n:
        each()
        assert time.monotonic() < give_up, f"{len(found)} of {n}"
        with contextlib.suppress(shmpool.Empty):
            found += queue.recv_many(n - len(found), timeout=0.05)
    return found


def nats(server: Server, call: Callable[[Any], Any]) -> Any:
    """Runs call(client) with a connection of its own, and returns its result."""

    async def main() -> Any:
        client = await nats_py.connect(server.url, allow_reconnect=False)
        try:
            return await call(client)
        finally:
            await client.close()

    return asyncio.run(main())


def stream_messages(server: Server, stream: str = "work") -> int:
    async def ask(client: Any) -> int:
        return (await client.jetstream().stream_info(stream)).state.messages

    return nats(server, ask)


def test_everything_of_a_packet_arrives(
    server: Server, pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: Run,
    eventually: Eventually,
) -> None:  # fmt: skip
    """Packets of all sizes, empty ones and chains too, with their marks, times and hashes, once
    each and in order; the sender's buffers are free, and the stream is empty."""
    here, there = pools
    sender, receiver = run_link(sends(here, server)), run_link(receives(there, server))
    rng = random.Random(5)
    sent = []
    for i in range(400):
        size = rng.choice([0, 1, 64, 64, 64, 1500, 2048, 9000])
        with here.pool.alloc(size=size) as buf:
            buf.write(rng.randbytes(size))
            buf.mark, buf.flow_hash, buf.timestamp = i, rng.getrandbits(32), rng.getrandbits(62)
            sent.append((bytes(buf), buf.mark, buf.flow_hash, buf.timestamp, 0))
            here.put(buf)
    found = []
    for _ in range(400):
        with there.get(timeout=60) as buf:
            found.append((bytes(buf), buf.mark, buf.flow_hash, buf.timestamp, buf.redelivered))
    assert sent == found
    eventually(lambda: sender.figures.packets == 400)
    assert 400 == receiver.figures.packets
    assert sum(len(one[0]) for one in sent) == sender.figures.bytes == receiver.figures.bytes
    assert ("up", "up") == (sender.figures.state, receiver.figures.state)
    eventually(lambda: not stream_messages(server))
    for link in (sender, receiver):
        link.end()
        assert link.join(60)
    assert at_rest(here.pool)
    assert at_rest(there.pool)


def test_the_other_side_is_away(
    server: Server, pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: Run,
    eventually: Eventually,
) -> None:  # fmt: skip
    """A queue drains into the stream; a server that is killed keeps it; a receiver that comes later
    gets everything in order."""
    here, there = pools
    sender = run_link(sends(here, server))
    for i in range(2000):
        here.send(b"%d" % i)
    eventually(lambda: sender.figures.packets == 2000)
    assert at_rest(here.pool)
    server.kill()
    server.start()
    run_link(receives(there, server))
    assert [b"%d" % i for i in range(2000)] == got(there, 2000)
    eventually(lambda: sender.figures.state == "up")
    here.send(b"still there")
    assert [b"still there"] == got(there, 1)


def test_a_server_that_is_killed(
    server: Server, pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: Run
) -> None:
    """kill -9 in the middle of traffic, five times: the same processes go on, and as they live,
    nothing is doubled."""
    here, there = pools
    sender, receiver = run_link(sends(here, server)), run_link(receives(there, server))
    n, killed, sent = 3000, 0, 0
    found: list[bytes] = []
    while len(found) < n:
        while sent < n and sent - len(found) < 200:
            here.send(b"%d" % sent)
            sent += 1
        found += got(there, 1)
        if killed < 5 and len(found) > (killed + 1) * n // 7:
            server.kill()
            server.start()
            killed += 1
    assert {b"%d" % i: 1 for i in range(n)} == Counter(found)
    assert sender.figures.reconnects >= 1
    assert receiver.figures.reconnects >= 1


def check_doubles(found: list[tuple[bytes, int]], n: int) -> None:
    """Nothing is lost; of what came several times all but one are marked; and no more than two
    windows for each kill: what is on its way at either side of the server."""
    times = Counter(payload for payload, _ in found)
    assert {b"%d" % i for i in range(n)} == set(times)
    marked = Counter(payload for payload, again in found if again)
    assert [] == [payload for payload, n in times.items() if marked[payload] < n - 1]
    doubles = len(found) - n
    assert doubles <= 2 * KILLS * SMALL["window"] * SMALL["burst_bytes"] // RECORD
    print(f"{n} packets, {KILLS} kills: {doubles} doubles, {sum(marked.values())} marked")


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * KILLS)
def test_everybody_is_killed(
    server: Server, pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue], start: Start
) -> None:
    """Sender, receiver and server are killed at random in the middle of traffic: 0 lost, and
    doubles are marked."""
    n = 300 * KILLS
    check_doubles(rounds(server, pools, start, n), n)


def rounds(
    server: Server, pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue], start: Start, packets: int
) -> list[tuple[bytes, int]]:
    """Sends packets while one of sender, receiver and server is killed again and again. Returns
    what arrived, with its redelivered."""
    here, there = pools
    links = [sends(here, server, **SMALL), receives(there, server, **SMALL)]
    processes = [process(start, link) for link in links]
    rng, sent, killed = random.Random(SEED), 0, 0
    victims = [one for _ in range((KILLS + 2) // 3) for one in rng.sample(range(3), 3)]
    found: list[tuple[bytes, int]] = []
    seen: set[bytes] = set()
    give_up = time.monotonic() + DEADLINE_S
    while len(seen) < packets:
        assert time.monotonic() < give_up, f"{len(seen)} of {packets}, {killed} kills"
        while sent < packets and sent - len(seen) < 200:
            here.send(b"%d" % sent)
            sent += 1
        with contextlib.suppress(shmpool.Empty), there.get_many(64, timeout=0.05) as burst:
            came = [(bytes(buf), buf.redelivered) for buf in burst]
            found += came
            seen.update(payload for payload, _ in came)
            give_up = time.monotonic() + DEADLINE_S
        if killed < KILLS and len(seen) >= (killed + rng.random()) * packets / (KILLS + 1):
            which = victims[killed]
            if which == 2:
                server.kill()
                server.start()
            else:
                processes[which].kill()
                processes[which] = process(start, links[which])
            killed += 1
    for child in processes:
        child.process.stdin.close()  # type: ignore[union-attr]
        assert 0 == child.process.wait(DEADLINE_S)
    with contextlib.suppress(shmpool.Empty):
        while True:
            with there.get_many(64, timeout=0) as burst:
                found += [(bytes(buf), buf.redelivered) for buf in burst]
    assert KILLS == killed
    assert at_rest(here.pool)
    assert at_rest(there.pool)
    return found


@pytest.mark.slow
def test_a_cluster_loses_a_server(
    tmp_path: Path, pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: Run,
    eventually: Eventually,
) -> None:  # fmt: skip
    """Three servers keep the stream. The one that leads it is killed in the middle of traffic, and
    stays away: the links go on with the others."""
    here, there = pools
    with nats_servers.cluster(tmp_path) as servers:
        more = {"replicas": 3, "servers": [server.url for server in servers[1:]]}
        sender = run_link(sends(here, servers[0], **more))
        run_link(receives(there, servers[0], **more))
        eventually(lambda: sender.figures.state == "up")
        found: list[bytes] = []
        for i in range(1500):
            here.send(b"%d" % i)
            if i == 500:
                found += got(there, 100)
                leader(servers).kill()
        found += got(there, 1500 - len(found))
        assert {b"%d" % i: 1 for i in range(1500)} == Counter(found)


def leader(servers: list[Server]) -> Server:
    """The server that leads the stream."""

    async def ask(client: Any) -> str:
        return str((await client.jetstream().stream_info("work")).cluster.leader)

    name = nats(servers[0], ask)
    return next(server for server in servers if server.name == name)


def test_a_stream_with_other_settings(
    server: Server, pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: Run,
    eventually: Eventually,
) -> None:  # fmt: skip
    """The link says what is different, and begins by itself when the stream is changed."""

    async def create(client: Any) -> None:
        await client.jetstream().add_stream(
            name="work", subjects=["other.*"], retention="limits", max_msgs=10
        )

    async def delete(client: Any) -> None:
        await client.jetstream().delete_stream("work")

    nats(server, create)
    here, _ = pools
    here.send(b"waits")
    link = run_link(sends(here, server))
    eventually(lambda: link.figures.state == "down")
    for part in ("retention is limits, not workqueue", "subjects are other.*, without work",
                 "discards old messages beyond max_msgs 10"):  # fmt: skip
        assert part in link.figures.why
    nats(server, delete)
    eventually(lambda: link.figures.packets == 1)


def test_a_stream_that_is_full(
    server: Server, pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: Run,
    eventually: Eventually,
) -> None:  # fmt: skip
    """The sender holds a window and says so; the rest stays in the queue; nothing is discarded."""
    here, there = pools
    more = {"max_bytes": 20_000, "window": 4, "burst_bytes": 2048}
    link = run_link(sends(here, server, **more))
    eventually(lambda: link.figures.state == "up")
    for i in range(100):
        here.send(b"%04d" % i * 250)
    eventually(lambda: "maximum bytes" in link.figures.why)
    assert link.figures.unacknowledged <= 4
    assert 0 < len(here)
    run_link(receives(there, server, **more))
    assert [b"%04d" % i * 250 for i in range(100)] == sorted(got(there, 100))


def test_a_slow_consumer(
    server: Server, pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: Run,
    eventually: Eventually,
) -> None:  # fmt: skip
    """While the queue is full for longer than the server waits, the receiver keeps its window, and
    nothing comes twice."""
    here, there = pools
    run_link(sends(here, server, burst_bytes=1024))
    receiver = run_link(receives(there, server, window=4, ack_wait_s=0.6))
    for i in range(1200):
        here.send(b"%04d" % i)
    eventually(lambda: len(there) > 512 - 1024 // RECORD)  # the next burst may have no room
    eventually(lambda: receiver.figures.unacknowledged)
    at = time.monotonic()
    eventually(lambda: time.monotonic() > at + 1.5)  # more than twice ack_wait_s
    assert 1 <= receiver.figures.unacknowledged <= 4
    found = []
    while len(found) < 1200:
        with there.get_many(64, timeout=60) as burst:
            found += [(bytes(buf), buf.redelivered) for buf in burst]
    assert [(b"%04d" % i, 0) for i in range(1200)] == found
    assert 0 == receiver.figures.doubled


def test_receivers_compete_or_all_get_everything(
    server: Server, make_pool: MakePool, run_link: Run, eventually: Eventually
) -> None:
    """Two receivers of one consumer share what comes; with receivers = "all" each gets all."""
    pool = make_pool(buffer_size=256, capacity=1024, queues=16, members=32)
    made = {
        name: pool.create_queue(name, capacity=256, on_death="requeue")
        for name in ("here", "there", "a", "b", "c", "d")
    }
    for name in ("a", "b"):
        run_link(receives(made[name], server, window=1, name=name))
    run_link(sends(made["here"], server, burst_bytes=1024, name="s"))
    everybody: dict[str, Any] = {"stream": "all", "receivers": "all"}
    links = [
        run_link(receives(made[name], server, consumer=name, name=f"all {name}", **everybody))
        for name in ("c", "d")
    ]
    eventually(lambda: all(link.figures.state == "up" for link in links))
    run_link(sends(made["there"], server, name="all s", **everybody))
    sent = [b"%d" % i for i in range(200)]
    for payload in sent:
        made["here"].send(payload)
        made["there"].send(payload)
    shared: list[bytes] = []
    while len(set(shared)) < 200:
        for name in ("a", "b"):
            with (
                contextlib.suppress(shmpool.Empty),
                made[name].get_many(200, timeout=0.02) as burst,
            ):
                for buf in burst:  # what a receiver was too slow to acknowledge comes twice, marked
                    if bytes(buf) not in shared or not buf.redelivered:
                        shared.append(bytes(buf))
    assert sorted(sent) == sorted(shared)
    assert sent == got(made["c"], 200)
    assert sent == got(made["d"], 200)


def test_a_queue_that_is_shut_down(
    server: Server, pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: Run,
    eventually: Eventually,
) -> None:  # fmt: skip
    """The sender sends what is in it, also over a server that is killed."""
    here, there = pools
    here.send_many([b"%d" % i for i in range(300)])
    here.shutdown()
    server.kill()
    sender = run_link(sends(here, server))
    eventually(lambda: sender.figures.state == "down")
    server.start()
    eventually(lambda: "was shut down" in sender.figures.why)
    run_link(receives(there, server))
    assert [b"%d" % i for i in range(300)] == got(there, 300)


def test_a_pool_that_is_replaced(
    server: Server, make_pool: MakePool, run_link: Run, eventually: Eventually
) -> None:
    """Within a second both ends are at the pools that have the names now."""
    first = [make_pool(capacity=128) for _ in range(2)]
    queues = [pool.create_queue("work", capacity=16, on_death="requeue") for pool in first]
    run_link(sends(queues[0], server))
    run_link(receives(queues[1], server))
    queues[0].send(b"old")
    assert [b"old"] == got(queues[1], 1)
    pools = [make_pool(name=pool.name, replace=True, capacity=128) for pool in first]
    queues = [pool.create_queue("work", capacity=16, on_death="requeue") for pool in pools]
    eventually(lambda: all(len(pool.members()) > 1 for pool in pools))
    queues[0].send(b"new")
    assert [b"new"] == got(queues[1], 1)


def test_a_link_that_ends_without_an_answer(
    server: Server, pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: Run,
    eventually: Eventually,
) -> None:  # fmt: skip
    """While its server is suspended a sender ends all the same, and returns what it holds to the
    queue, as redelivered."""
    here, _ = pools
    sender = run_link(sends(here, server, window=4, burst_bytes=1024))
    eventually(lambda: sender.figures.state == "up")
    assert server.process is not None
    suspend(server.process.pid)
    here.send_many([b"%d" % i for i in range(300)])
    eventually(lambda: sender.figures.unacknowledged == 4)
    sender.end()
    assert sender.join(DEADLINE_S)
    assert 300 == len(here)
    back = [buf.redelivered for buf in here.get_many(300)]
    assert sender.figures.returned == sum(back) > 0
    server.process.send_signal(signal.SIGCONT)
    assert at_rest(here.pool)


def test_a_topic_over_nats(
    server: Server, make_pool: MakePool, run_link: Run, eventually: Eventually
) -> None:
    """A topic is sent and received as a queue is."""
    pool = make_pool(buffer_size=256, capacity=512, queues=8)
    here, there = pool.create_topic("here", depth=64), pool.create_topic("there", depth=64)
    links = run_link(sends(here, server)), run_link(receives(there, server))
    eventually(lambda: all(link.figures.state == "up" for link in links))
    with there.subscribe(policy="block") as subscriber:
        for i in range(200):
            here.send(b"%d" % i)
            with subscriber.get(timeout=60) as sample:
                assert b"%d" % i == bytes(sample)


def body(*payloads: bytes) -> bytes:
    """The body of a message that a sender publishes."""
    table = b"".join(struct.pack("=IIIHHQ", len(one), 0, 0, 0, 0, 0) for one in payloads)
    return BODY.pack(len(payloads)) + table + b"".join(payloads)


def test_what_comes_again(
    server: Server, pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: Run,
    eventually: Eventually,
) -> None:  # fmt: skip
    """A burst that is published again within the duplicate window is stored once. Beyond it, the
    receiver that has it drops it, and a new receiver marks it."""
    _, there = pools
    more = {"duplicate_window_s": 0.1}
    link = run_link(receives(there, server, **more))
    headers = {"Nats-Msg-Id": "sender-1", "Shmpool-Burst": VERSION}

    async def publish(client: Any) -> bool:
        jet = client.jetstream()
        ack = await jet.publish("work", body(b"one", b"two"), headers=dict(headers))
        return bool(ack.duplicate)

    def again() -> None:
        """Publishes again when the server has forgotten the first."""
        headers["Shmpool-Again"] = "1"
        eventually(lambda: not nats(server, publish))

    eventually(lambda: link.figures.state == "up")
    assert not nats(server, publish)
    assert [b"one", b"two"] == got(there, 2)
    again()
    eventually(lambda: link.figures.doubled == 1)
    assert 0 == len(there)
    link.end()
    assert link.join(60)
    run_link(receives(there, server, **more))
    again()
    with there.get(timeout=60) as one, there.get(timeout=60) as two:
        assert [(b"one", 1), (b"two", 1)] == [(bytes(b), b.redelivered) for b in (one, two)]


def forget(server: Server) -> None:
    """Leaves what a server before 2.11 leaves if it is killed while it removes the last message of
    a stream: a stream that begins at 1 again, and a consumer that is further."""
    server.kill()
    for file in (server.folder / "store").glob("jetstream/*/streams/*/msgs/*"):
        file.unlink()
    server.start()


def test_a_server_that_forgets_its_numbers(
    server: Server, pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: Run,
    eventually: Eventually,
) -> None:  # fmt: skip
    """Nothing stays in the stream, whether the new numbers are below the old ones or reach them."""
    here, there = pools
    sender, receiver = run_link(sends(here, server)), run_link(receives(there, server))

    def one_each(n: int) -> None:
        """Sends n bursts of one packet."""
        for _ in range(n):
            before = sender.figures.packets
            here.send(b"%d" % before)
            eventually(lambda before=before: sender.figures.packets > before)  # type: ignore[misc]

    one_each(5)
    got(there, 5)
    eventually(lambda: not stream_messages(server))
    forget(server)
    one_each(3)
    assert [b"5", b"6", b"7"] == got(there, 3)
    receiver.end()
    assert receiver.join(DEADLINE_S)
    eventually(lambda: not stream_messages(server))
    forget(server)
    one_each(9)
    run_link(receives(there, server))
    assert [b"%d" % i for i in range(8, 17)] == sorted(got(there, 9), key=int)
    eventually(lambda: not stream_messages(server))


def test_messages_of_other_programs(
    server: Server, pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: Run,
    eventually: Eventually,
) -> None:  # fmt: skip
    """A plain message is a packet. What claims to be a burst and is none is dropped, said, and
    stops nothing."""
    _, there = pools
    link = run_link(receives(there, server))
    eventually(lambda: link.figures.state == "up")
    broken = [
        b"", b"\1\0\0", BODY.pack(0), BODY.pack(2**32 - 1), BODY.pack(1) + bytes(23),
        body(b"abc")[:-1], body(b"abc") + b"d",
    ]  # fmt: skip

    async def publish(client: Any) -> None:
        jet = client.jetstream()
        for data in broken:
            await jet.publish("work", data, headers={"Shmpool-Burst": VERSION})
        await jet.publish("work", b"plain", headers={"Other": "header"})
        await jet.publish("work", b"")

    nats(server, publish)
    assert [b"plain", b""] == got(there, 2)
    eventually(lambda: not stream_messages(server))


def test_a_packet_that_no_message_holds(
    server: Server, make_pool: MakePool, run_link: Run, eventually: Eventually
) -> None:
    """It goes where the queue's poisonous messages go, and the others pass."""
    pool = make_pool(buffer_size=2048, capacity=2048, queues=8)
    letters = pool.create_queue("letters", capacity=8)
    here = pool.create_queue(
        "here", capacity=64, on_death="requeue", dead_letter="letters", max_redeliveries=2
    )
    link = run_link(sends(here, server))
    here.send(bytes(1_100_000))  # the server takes 1 MiB
    here.send(b"small")
    eventually(lambda: link.figures.packets == 1)
    eventually(lambda: len(letters) == 1)
    assert link.figures.returned >= 2


def test_a_packet_that_no_message_holds_and_a_full_queue(
    server: Server, make_pool: MakePool, run_link: Run, eventually: Eventually
) -> None:
    """While producers keep its queue full it waits for room, the others pass, and in the end it is
    in the queue: nothing stays with the link."""
    pool = make_pool(buffer_size=2048, capacity=2048, queues=8)
    here = pool.create_queue("here", capacity=4, on_death="requeue")
    here.send(bytes(1_100_000))  # the server takes 1 MiB
    link = run_link(sends(here, server))
    for i in range(2000):
        here.send(b"%d" % i)  # waits for room, as a rule
    eventually(lambda: link.figures.packets == 2000)
    eventually(lambda: link.figures.returned >= 2)
    link.end()
    assert link.join(DEADLINE_S)
    assert (1, 0) == (len(here), pool.stats().held)


def test_a_packet_that_the_other_pool_never_holds(
    server: Server, make_pool: MakePool, run_link: Run, eventually: Eventually
) -> None:
    """It stays in the stream, is said, and does not hold up those in its burst, which come once."""
    there = make_pool(buffer_size=64, capacity=128).create_queue("there", capacity=16)
    link = run_link(receives(there, server))
    eventually(lambda: link.figures.state == "up")

    async def publish(client: Any) -> None:
        headers = {"Nats-Msg-Id": "sender-1", "Shmpool-Burst": VERSION}
        burst = body(b"small", bytes(9000), b"also small")
        await client.jetstream().publish("work", burst, headers=headers)

    nats(server, publish)
    assert [b"small", b"also small"] == got(there, 2)
    eventually(lambda: "a packet of 9000 bytes stays in the stream" in link.figures.why)
    link.end()
    assert link.join(DEADLINE_S)
    assert 1 == stream_messages(server)
    assert (1, 2) == (link.figures.returned, link.figures.packets)


def test_users_and_tls(
    tmp_path: Path, pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue], run_link: Run,
    eventually: Eventually,
) -> None:  # fmt: skip
    """A server that wants TLS and a user: without them the link says why it is down."""
    certificate(tmp_path)
    (tmp_path / "password").write_text("secret\n")
    more = (
        f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}\n'
        'authorization { user: bridge, password: "secret" }'
    )
    here, there = pools
    with nats_servers.one(tmp_path, more) as server:
        tls: dict[str, Any] = {"tls": True, "ca": f"{tmp_path}/cert.pem"}
        full = tls | {"user": "bridge", "password_file": f"{tmp_path}/password"}
        link = run_link(sends(here, server, name="no certificate"))
        eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in link.figures.why)
        other = run_link(sends(here, server, name="no user", **tls))
        eventually(lambda: "Authorization Violation" in other.figures.why)
        run_link(sends(here, server, name="both", **full))
        run_link(receives(there, server, name="back", **full))
        here.send(b"secret")
        assert [b"secret"] == got(there, 1)


def certificate(folder: Path) -> None:
    """Writes a key, and a certificate for 127.0.0.1 that signs itself."""
    import shutil
    import subprocess

    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip


def test_which_subjects_a_stream_takes() -> None:
    for pattern, subject, taken in (
        ("a", "a", True), ("a", "b", False), ("a", "a.b", False), ("a.*", "a.b", True),
        ("a.*", "a", False), ("a.*", "a.b.c", False), ("a.>", "a.b.c", True), ("a.>", "a", False),
        (">", "a", True), ("*.b", "a.b", True), ("a.b", "a", False),
    ):  # fmt: skip
        assert taken == covers(pattern, subject), (pattern, subject)


def test_the_options_are_checked() -> None:
    """Each mistake of [link.nats] is named."""
    for change, option in (
        ({"consumer": "a.b"}, "consumer"), ({"subject": "a..b"}, "subject"),
        ({"servers": ["other:4222"]}, "servers"), ({"user": "me"}, "password_file"),
        ({"key": "key.pem"}, "key"), ({"token_file": "a", "nkey_file": "b"}, "credentials"),
        ({"replicas": 6}, "replicas"), ({"storage": "disk"}, "storage"),
        ({"ack_wait_s": 0.1}, "ack_wait_s"),
    ):  # fmt: skip
        link = LinkOptions("rx/work", "nats://host:4222/work", nats=NatsOptions(**change))  # type: ignore[arg-type]
        assert [f"nats.{option}"] == [name for name, _ in link_refusals(link)], change
    link = LinkOptions("nats://host:4222/a.b", "rx/work", receivers="all")
    assert ["from_", "nats.consumer"] == [name for name, _ in link_refusals(link)]
    assert [] == list(link_refusals(LinkOptions("nats://host:4222/work", "rx/work")))


def test_the_configuration_names_the_line() -> None:
    """[link.nats] is of the [[link]] before it."""
    ends = 'from = "rx/work"\nto = "nats://host:4222/{}"\n[link.nats]\n{}\n'
    one, two = ends.format("a", "replicas = 3"), ends.format("b", "replicas = 9")
    links = parse(f"[[link]]\nname = 'a'\n{one}[[link]]\n{ends.format('b', '')}").link
    assert [3, None] == [link.nats.replicas for link in links]
    with pytest.raises(shmpool.InvalidArgument, match=r"line 11: link\.1\.nats\.replicas = 9: it"):
        parse(f"[[link]]\nname = 'a'\n{one}[[link]]\n{two}")


def test_differences_of_streams() -> None:
    """An existing stream may have what the link does not name."""
    place = Place(LinkOptions("rx/work", "nats://host:4222/work"))
    there = place.stream_config(keeps=True)
    assert [] == stream_differences(there, place)
    assert [] == stream_differences(there.evolve(num_replicas=3, duplicate_window=5), place)
    asked = NatsOptions(replicas=3, storage="memory", duplicate_window_s=60)
    other = Place(LinkOptions("rx/work", "nats://host:4222/work", nats=asked))
    assert 3 == len(stream_differences(there, other))
    for change in ({"max_age": 60.0}, {"no_ack": True}, {"max_bytes": 5, "discard": "old"}):
        assert 1 == len(stream_differences(there.evolve(**change), place)), change


def test_a_connection_that_is_reset() -> None:
    """The event loop knows of it before nats-py does; what is sent in between says ConnectionError,
    as everything does afterwards."""

    async def run() -> list[BaseException]:
        connected: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            hello = {"server_id": "x", "version": "2.10.0", "max_payload": 65536, "headers": True}
            writer.write(b"INFO " + json.dumps(hello).encode() + b"\r\n")
            while not (await reader.readline()).startswith(b"PING"):
                pass
            writer.write(b"PONG\r\n")
            await connected.put(writer)

        async def quiet(_: Exception) -> None:
            pass

        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        client = LinkClient(encrypted=False)
        await client.connect([f"nats://127.0.0.1:{port}"], allow_reconnect=False, error_cb=quiet)
        writer = await connected.get()
        reset = struct.pack("ii", 1, 0)  # an end that the other side is told as one
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.transport.abort()
        found: list[BaseException] = []
        while len(found) < 10:
            try:
                client.send("work", "answers.1", b"", b"x")
            except Exception as error:
                found.append(error)
            await asyncio.sleep(0)
        listening.close()
        return found

    for loop in (uvloop.new_event_loop, asyncio.new_event_loop):
        with asyncio.Runner(loop_factory=loop) as runner:
            assert {ConnectionError} == {type(error) for error in runner.run(run())}
