# SPDX-License-Identifier: Apache-2.0
"""What links over NATS do with servers, streams and consumers that are not as they leave them."""

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats", reason="nats-py is not installed: shmpool[bridge]")

import nats_servers
from conftest import Eventually
from nats_servers import Server
from test_bridge_nats import (  # noqa: F401  # the fixtures
    DEADLINE_S,
    Run,
    certificate,
    got,
    nats,
    pools,
    receives,
    run_link,
    sends,
    server,
    stream_messages,
)

import shmpool
from shmpool.bridge import nats_consumer, nats_receiving, nats_stream
from shmpool.bridge.link import Link
from shmpool.bridge.nats_stream import first_of


@dataclass
class Rig:
    """A server, two queues, and links between them."""

    server: Server
    here: shmpool.AlfQueue
    there: shmpool.AlfQueue
    run: Run
    eventually: Eventually

    def sender(self, **nats: Any) -> Link:
        return self.run(sends(self.here, self.server, **nats))

    def receiver(self, **nats: Any) -> Link:
        """A receiver that is up."""
        link = self.run(receives(self.there, self.server, **nats))
        self.eventually(lambda: link.figures.state == "up")
        return link

    def ask(self, call: Callable[[Any], Any]) -> Any:
        """Runs call(jetstream) with a connection of its own."""
        return nats(self.server, lambda client: call(client.jetstream()))

    def refused(self, link: Link, *parts: str) -> None:
        """The link says why it is down."""
        self.eventually(lambda: link.figures.state == "down")
        for part in parts:
            assert part in link.figures.why


@pytest.fixture
def rig(
    server: Server,  # noqa: F811
    pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue],  # noqa: F811
    run_link: Run,  # noqa: F811
    eventually: Eventually,
) -> Rig:
    return Rig(server, *pools, run_link, eventually)


def keeps_all(rig: Rig) -> bool:
    """Whether the server drops nothing of a limited stream when it is started again."""

    async def ask(client: Any) -> bool:
        return nats_stream.keeps_all(client)

    return nats(rig.server, ask)


def test_a_receiver_that_joins_under_load(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another receiver gets while this one asks for the stream and the consumer is no sign of
    a server that has forgotten: the shared consumer stays as it is."""
    link = rig.receiver()

    async def created(jet: Any) -> object:
        return (await jet.consumer_info("work", "shmpool")).created

    before = rig.ask(created)
    prepare = nats_receiving.prepare_consumer
    passed = []

    async def after_a_message(jet: Any, *more: Any) -> Any:
        await jet.publish("work", b"between")
        passed.append(b"between")
        while not rig.there or (await jet.stream_info("work")).state.messages:
            await asyncio.sleep(0.01)
        return await prepare(jet, *more)

    monkeypatch.setattr(nats_receiving, "prepare_consumer", after_a_message)
    other = rig.run(receives(rig.here, rig.server, name="other"))
    rig.eventually(lambda: other.figures.state == "up")
    assert [b"between"] == passed == got(rig.there, 1)
    assert before == rig.ask(created)
    assert "up" == link.figures.state


def test_a_consumer_that_is_made_again_keeps_what_waits(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that keeps messages for its consumers has them still."""
    options: dict[str, Any] = {"receivers": "all", "consumer": "one"}
    link = rig.receiver(**options)
    link.end()
    assert link.join(60)

    async def publish(jet: Any) -> None:
        for i in range(3):
            await jet.publish("work", b"%d" % i)

    rig.ask(publish)
    for module in (nats_consumer, nats_receiving):
        monkeypatch.setattr(module, "began_again", lambda *_: True)
    rig.receiver(**options)
    assert [b"0", b"1", b"2"] == got(rig.there, 3)

    async def names(jet: Any) -> list[str]:
        return [one.name for one in await jet.consumers_info("work")]

    assert ["one"] == rig.ask(names)


def test_a_password_is_not_sent_in_clear(
    tmp_path: Path,
    pools: tuple[shmpool.AlfQueue, shmpool.AlfQueue],  # noqa: F811
    run_link: Run,  # noqa: F811
    eventually: Eventually,
) -> None:
    """Who demands TLS in any way says nothing to a server that offers none."""
    (tmp_path / "password").write_text("secret\n")
    certificate(tmp_path)
    more = 'trace: true\nauthorization { user: bridge, password: "secret" }'
    with nats_servers.one(tmp_path, more) as server:  # noqa: F811
        user: dict[str, Any] = {"user": "bridge", "password_file": f"{tmp_path}/password"}
        away = Server(tmp_path / "away")  # never started
        links = [
            run_link(sends(pools[0], at, name=f"{i}", **user, **options))
            for i, (at, options) in enumerate((
                (server, {"tls": True}),
                (server, {"ca": f"{tmp_path}/cert.pem"}),
                (away, {"tls": True, "servers": [server.url]}),
                (away, {"servers": [server.url.replace("nats:", "tls:")]}),
            ))
        ]  # fmt: skip
        for link in links:
            eventually(lambda link=link: "offers no TLS" in link.figures.why)  # type: ignore[misc]
        assert "CONNECT" not in server.log
        run_link(sends(pools[0], server, name="in clear", **user))
        eventually(lambda: "CONNECT" in server.log)


def test_a_stream_with_a_limit_for_each_subject(rig: Rig) -> None:
    """It drops the oldest message of the subject, unless it refuses new ones."""

    async def create(jet: Any) -> None:
        await jet.add_stream(
            name="work", subjects=["work"], retention="workqueue", discard="new",
            max_msgs_per_subject=2,
        )  # fmt: skip

    async def refuse_new(jet: Any) -> None:
        config = (await jet.stream_info("work")).config
        await jet.update_stream(config.evolve(discard_new_per_subject=True))

    rig.ask(create)
    link = rig.sender(window=4, burst_bytes=1024)
    rig.refused(link, "it discards old messages beyond max_msgs_per_subject 2")
    rig.ask(refuse_new)
    if not keeps_all(rig):
        rig.refused(link, "drops messages of a stream with max_msgs_per_subject 2 when it is")
        return
    sent = [b"%d" % i * 500 for i in range(6)]
    rig.here.send_many(sent)
    rig.eventually(lambda: "maximum messages per subject" in link.figures.why)
    rig.receiver()
    assert sent == sorted(got(rig.there, 6))


def test_a_stream_that_takes_only_small_messages(rig: Rig) -> None:
    """Bursts are as small as the stream wants them."""

    async def create(jet: Any) -> None:
        await jet.add_stream(
            name="work", subjects=["work"], retention="workqueue", max_msg_size=2500
        )

    rig.ask(create)
    sent = [b"%03d" % i * 300 for i in range(20)]
    rig.here.send_many(sent)
    link = rig.sender()
    rig.eventually(lambda: link.figures.packets == 20)
    rig.receiver()
    assert sent == got(rig.there, 20)


def test_an_existing_consumer(rig: Rig) -> None:
    """The link says what it cannot use of it, and begins when that has changed."""

    async def create(jet: Any) -> None:
        await jet.add_stream(name="work", subjects=["work", "site.*"], retention="workqueue")
        await jet.add_consumer(
            "work", durable_name="shmpool", ack_policy="explicit", filter_subject="site.*",
            headers_only=True,
        )  # fmt: skip

    async def delete(jet: Any) -> None:
        await jet.delete_consumer("work", "shmpool")

    rig.ask(create)
    link = rig.run(receives(rig.there, rig.server))
    rig.refused(link, "max_ack_pending 1000", "headers_only", "it gets site.*, not all subjects")
    rig.ask(delete)
    rig.eventually(lambda: link.figures.state == "up")


def test_a_receiver_gets_its_subject(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other messages of the stream wait for others, and are no sign that a server has forgotten
    what was done; one without a subject gets all."""
    checks = []
    left_behind = nats_receiving.left_behind

    async def counted(*more: Any) -> int:
        checks.append(await left_behind(*more))
        return checks[-1]

    monkeypatch.setattr(nats_receiving, "left_behind", counted)
    monkeypatch.setattr(nats_receiving, "CHECK_S", 0.05)

    async def create(jet: Any) -> None:
        await jet.add_stream(name="work", subjects=["site.*"], retention="workqueue")

    async def publish(jet: Any) -> None:
        for subject in ("site.b", "site.a", "site.c"):
            await jet.publish(subject, subject.encode())

    rig.ask(create)
    first = rig.receiver(subject="site.a", name="a")
    rig.ask(publish)
    assert [b"site.a"] == got(rig.there, 1)
    rig.eventually(lambda: stream_messages(rig.server) == 2)
    before = len(checks)
    rig.eventually(lambda: len(checks) > before + 3)
    assert {0} == set(checks[before:])
    second = rig.run(receives(rig.here, rig.server, subject="site.b", name="b", consumer="b"))
    assert [b"site.b"] == got(rig.here, 1)
    third = rig.run(receives(rig.here, rig.server, subject="site.c", name="c"))
    rig.refused(third, "it gets site.a, not site.c")
    assert 0 == len(rig.there)
    for link in (first, second, third):
        link.end()
        assert link.join(60)

    async def delete(jet: Any) -> None:
        for name in ("shmpool", "b"):
            await jet.delete_consumer("work", name)

    rig.ask(delete)
    rig.receiver(name="all")
    rig.ask(publish)
    assert [b"site.a", b"site.b", b"site.c", b"site.c"] == sorted(got(rig.there, 4))


def test_a_sender_whose_subject_nobody_receives(rig: Rig) -> None:
    """A stream for all receivers would drop what it sends."""

    async def create(jet: Any) -> None:
        await jet.add_stream(name="work", subjects=["site.*"], retention="interest")

    rig.ask(create)
    options: dict[str, Any] = {"receivers": "all", "consumer": "a"}
    rig.receiver(subject="site.a", **options)
    rig.here.send(b"kept")
    link = rig.sender(subject="site.b", receivers="all")
    rig.refused(link, "no receiver of site.b yet")
    other = options | {"consumer": "b", "subject": "site.b", "name": "b"}
    rig.run(receives(rig.there, rig.server, **other))
    assert [b"kept"] == got(rig.there, 1)


def test_calls_that_swallow_a_cancellation() -> None:
    """They end all the same, as a link must."""

    async def swallows() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(DEADLINE_S)
        await asyncio.sleep(DEADLINE_S)

    async def ends() -> None:
        await asyncio.sleep(0)

    began = time.monotonic()
    asyncio.run(first_of(ends(), swallows()))
    assert time.monotonic() < began + DEADLINE_S


def test_a_server_forgets_what_another_receiver_has(rig: Rig) -> None:
    """A receiver was behind, and another one has what a killed server forgets to have delivered.
    The first one gets that and marks it: it has seen that there are others."""
    slow = rig.receiver(window=4)
    other = rig.run(receives(rig.here, rig.server, window=4))

    def publish(*payloads: bytes) -> None:
        async def call(jet: Any) -> None:
            for payload in payloads:
                await jet.publish("work", payload)

        rig.ask(call)

    def one_each() -> bool:
        publish(b"first", b"first")
        return slow._receiving._others  # type: ignore[attr-defined,no-any-return]

    rig.eventually(one_each)
    rig.eventually(lambda: not stream_messages(rig.server))
    for queue in (rig.here, rig.there):
        with contextlib.suppress(shmpool.Full):
            while True:
                queue.send(b"first", timeout=0)
    sent = [b"%d" % i for i in range(40)]
    publish(*sent)
    rig.eventually(lambda: min(slow.figures.unacknowledged, other.figures.unacknowledged) > 2)
    rig.server.kill()
    store, kept = rig.server.folder / "store", rig.server.folder / "kept"
    shutil.copytree(store, kept)
    rig.server.start()
    has: dict[bytes, int] = {}

    def take() -> None:
        """What the other receiver has put, and whether it is marked."""
        with contextlib.suppress(shmpool.Empty), rig.here.get_many(64, timeout=0) as burst:
            has.update((bytes(buf), buf.redelivered) for buf in burst)

    def others_are_there() -> bool:
        take()
        return stream_messages(rig.server) <= 4

    rig.eventually(others_are_there)
    other.end()
    assert other.join(DEADLINE_S)
    while len(rig.here):
        take()
    rig.server.kill()
    shutil.rmtree(store)
    kept.rename(store)
    rig.server.start()
    found: dict[bytes, int] = {}
    while found.keys() < {b"first", *sent}:
        with rig.there.get(timeout=60) as buf:
            found[bytes(buf)] = buf.redelivered
    both = [payload for payload in sent if payload in has]
    assert len(both) >= 36
    assert [] == [payload for payload in both if not has[payload] and not found[payload]]


def uvarints(data: bytes) -> Iterator[int]:
    """Yields the numbers that encoding/binary of Go has written."""
    value = shift = 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield value
            value = shift = 0


def uvarint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize(("n", "newer"), [(6, False), (2, False), (2, True)])
def test_a_server_that_forgot_what_was_on_its_way(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, n: int, newer: bool
) -> None:
    """A killed server may know that messages were delivered, and not that nobody has acknowledged
    them, while it waits for one that is gone. It never delivers them again. The link makes another
    consumer if they are more than what is waited for, or do not come for long, and all come."""
    monkeypatch.setattr(nats_receiving, "RETRY_S", 0.1)
    if newer:  # by what it counts as delivered again, as those from 2.10 on
        monkeypatch.setattr(nats_receiving, "keeps_all", lambda client: True)
    link = rig.receiver(ack_wait_s=1)
    link.end()
    assert link.join(60)

    async def fetch(jet: Any) -> None:
        for i in range(n):
            await jet.publish("work", b"%d" % i)
        there = await jet.pull_subscribe_bind("shmpool", "work")
        got = []
        while len(got) < n:
            got += await there.fetch(n, timeout=60)

    async def remove(jet: Any) -> None:
        await jet.delete_msg("work", 2)

    async def state(jet: Any) -> tuple[int, int, int]:
        consumer = await jet.consumer_info("work", "shmpool")
        stream = await jet.stream_info("work")
        return stream.state.messages, consumer.num_ack_pending, consumer.num_pending

    rig.ask(fetch)
    (path,) = rig.server.folder.rglob("o.dat")  # of the only consumer
    # Magic number and version; then the numbers of ack floor and delivered; how many messages
    # nobody has acknowledged, a time, and three numbers for each of them; how many came again.
    rig.eventually(lambda: path.exists() and [n] == list(uvarints(path.read_bytes()[2:]))[4:5])
    rig.ask(remove)
    rig.server.kill()
    head, numbers = path.read_bytes()[:2], list(uvarints(path.read_bytes()[2:]))
    (kept,) = (numbers[at : at + 3] for at in range(6, 6 + 3 * n, 3) if numbers[at] == 2)
    path.write_bytes(head + b"".join(uvarint(n) for n in [*numbers[:4], 1, numbers[5], *kept, 0]))
    rig.server.start()
    messages, pending, _ = rig.ask(state)
    assert n - 1 == messages
    assert pending <= 1  # one before 2.10 waits for the message that is gone
    link = rig.receiver(ack_wait_s=1)
    assert {b"%d" % i for i in range(n) if i != 1} == set(got(rig.there, n - 1))
    rig.eventually(lambda: rig.ask(state)[0] == 0)
    rig.eventually(lambda: link.figures.state == "up")


def test_a_message_that_a_stream_has_just_room_for(rig: Rig) -> None:
    """A server before 2.10.5 counts less for it than it takes, and makes room by dropping the
    oldest one."""
    options: dict[str, Any] = {"window": 1, "burst_bytes": 128}
    before = rig.sender(**options)
    rig.here.send(b"000")
    rig.eventually(lambda: before.figures.packets == 1)
    before.end()
    assert before.join(60)

    async def delete(jet: Any) -> int:
        size = (await jet.stream_info("work")).state.bytes
        await jet.delete_stream("work")
        return size

    n, size = 9, rig.ask(delete)  # all with a number of one digit
    limit = n * size - 10  # without what it adds, a few tens of bytes, the last one is below
    link = rig.sender(max_bytes=limit, **options)
    sent = [b"%03d" % i for i in range(2 * n)]
    for one in sent:
        rig.here.send(one)
    rig.refused(link, "maximum bytes")
    assert stream_messages(rig.server) < n
    rig.receiver()
    assert sent == sorted(got(rig.there, len(sent)))


def test_a_full_stream_that_nobody_waits_for(rig: Rig) -> None:
    """The link is up while nothing waits, and says how much does."""
    if keeps_all(rig):
        pytest.skip("this server refuses what its stream has no room for: that burst waits")
    link = rig.sender(max_bytes=4000, window=1, burst_bytes=128)
    rig.here.send_many([b"%03d" % i for i in range(100)])
    rig.refused(link, "maximum bytes")
    rig.eventually(lambda: link.figures.lag == len(rig.here) > 0)
    got(rig.here, len(rig.here))
    rig.eventually(lambda: (link.figures.state, link.figures.lag) == ("up", 0))
    rig.here.send(b"more")
    rig.refused(link, "maximum bytes")
    rig.eventually(lambda: link.figures.lag == 1)


def test_a_burst_that_is_larger_than_the_stream(rig: Rig) -> None:
    """It is divided, and the stream never has more than max_bytes."""
    limit = 20_000
    link = rig.sender(max_bytes=limit)
    sent = [b"%03d" % i * 300 for i in range(100)]
    rig.here.send_many(sent)
    rig.refused(link, "maximum bytes")

    async def stored(jet: Any) -> int:
        return int((await jet.stream_info("work")).state.bytes)

    assert 0 < rig.ask(stored) <= limit
    rig.receiver()
    assert sent == sorted(got(rig.there, len(sent)))


def test_a_consumer_that_another_receiver_made_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link finds out, and marks all that was in the stream: another one may get it, too."""
    monkeypatch.setattr(nats_receiving, "CHECK_S", 0.05)
    link = rig.receiver()
    rig.there.send_many([b"full"] * rig.there.capacity)

    async def publish(jet: Any) -> None:
        for i in range(3):
            await jet.publish("work", b"%d" % i)

    async def make_again(jet: Any) -> None:
        config = (await jet.consumer_info("work", "shmpool")).config
        await jet.delete_consumer("work", "shmpool")
        await jet.add_consumer("work", config)

    rig.ask(publish)
    rig.eventually(lambda: link.figures.unacknowledged == 3)
    rig.ask(make_again)
    rig.eventually(lambda: link.figures.reconnects == 1)
    assert [b"full"] * rig.there.capacity == got(rig.there, rig.there.capacity)
    found = {}
    while len(found) < 3:
        with rig.there.get(timeout=60) as buf:
            found[bytes(buf)] = buf.redelivered
    assert {b"0": 1, b"1": 1, b"2": 1} == found


def test_a_consumer_of_all_subjects(rig: Rig) -> None:
    """A link that receives one subject does not take what others wait for."""

    async def create(jet: Any) -> None:
        await jet.add_stream(name="work", subjects=["work", "other"], retention="workqueue")
        await jet.add_consumer(
            "work", durable_name="shmpool", ack_policy="explicit", max_ack_pending=-1
        )

    rig.ask(create)
    link = rig.run(receives(rig.there, rig.server, subject="work"))
    rig.refused(link, "it gets all subjects, not work")
