# SPDX-License-Identifier: Apache-2.0
"""What others see of a topic: figures, subscribers, dead ones, who holds publishers up."""

import threading
from collections.abc import Callable

import pytest
from conftest import Child, Eventually, MakePool, StartDaemon, join

import shmpool
from shmpool import view as view_module
from shmpool.view import View

Start = Callable[..., Child]
DEPTH = 8
DECLARED = """
[pools.{0}]
buffer_size = 256
capacity = 64
queue_full_s = 0.1
[pools.{0}.topic.ticks]
depth = 8
"""

# Subscribes, then for each line gets so many messages; of all it holds the newest ones.
SUBSCRIBER = """
    import os, sys, shmpool
    pool, policy, keep, name = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    with open("/proc/self/comm", "wb") as file:
        file.write(os.fsencode(name))
    sub = shmpool.Pool.attach(pool).topic("ticks").subscribe(policy=policy)
    held = []
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            held.append(sub.get(timeout=60))
            if len(held) > keep:
                held.pop(0).free()
        print("got", flush=True)
"""


def subscribe(
    start: Start, pool: str, policy: str = "drop-oldest", keep: int = 0, name: str = "viewer"
) -> Child:
    """Starts a process that subscribes to the topic."""
    child = start(SUBSCRIBER, pool, policy, keep, name)
    assert "ready" == child.line()
    return child


def get(child: Child, n: int) -> None:
    """Lets the process get n messages."""
    child.send(n)
    assert "got" == child.line()


def publish(topic: shmpool.Topic, n: int) -> None:
    for _ in range(n):
        topic.send(b"x", timeout=0)


def test_subscribers_of_several_policies(pool: shmpool.Pool, start: Start) -> None:
    """Each subscriber's figures are those of its own process, wherever they are read."""
    topic = pool.create_topic("ticks", depth=DEPTH)
    blocking = subscribe(start, pool.name, "block", 1, "recorder")
    slow = subscribe(start, pool.name, "drop-oldest")
    latest = subscribe(start, pool.name, "latest", 2)
    publish(topic, 6)
    get(blocking, 4)
    get(latest, 1)
    publish(topic, 6)
    get(slow, 1)
    with View(pool.name) as view:
        (found,) = view.topics()
        assert [] == view.queues()
        with pytest.raises(shmpool.QueueNotFound, match="shmpool describe"):
            view.peek("ticks", 1, 0)
    assert ("ticks", DEPTH, 12, DEPTH, 0) == (
        found.name, found.depth, found.published, found.kept, found.waiting,
    )  # fmt: skip
    assert (12, DEPTH) == (topic.published, topic.kept)
    assert [
        (0, blocking.pid, "recorder", "block", 8, 0, 1, "alive"),
        (1, slow.pid, "viewer", "drop-oldest", 7, 4, 0, "alive"),
        (2, latest.pid, "viewer", "latest", 6, 5, 1, "alive"),
    ] == [
        (one.number, one.pid, one.name, one.policy, one.lag, one.gaps, one.held, one.state)
        for one in found.subscribers
    ]
    assert found.subscribers == topic.subscribers()
    held = [(one.topic, one.pid, one.buffers, one.state) for one in pool.holders()]
    assert ("ticks", blocking.pid, 1, "alive") in held
    assert ("ticks", latest.pid, 1, "alive") in held
    assert slow.pid not in [pid for topic_name, pid, _, _ in held if topic_name]


def test_a_killed_subscriber_is_dead_and_then_gone(pool: shmpool.Pool, start: Start) -> None:
    """It is shown as dead before anybody recovers it, and is gone after that."""
    topic = pool.create_topic("ticks", depth=DEPTH)
    killed, other = subscribe(start, pool.name, keep=3), subscribe(start, pool.name)
    publish(topic, 5)
    get(killed, 5)
    with View(pool.name) as view:
        killed.kill()
        (found,) = view.topics()
        assert [(killed.pid, 3, "dead"), (other.pid, 0, "alive")] == [
            (one.pid, one.held, one.state) for one in found.subscribers
        ]
        done = pool.recover()
        assert (1, 1, 0) == (done.members, done.subscribers, done.postponed)
        (found,) = view.topics()
        assert [other.pid] == [one.pid for one in found.subscribers]


def test_a_closed_subscriber_that_holds_messages(pool: shmpool.Pool) -> None:
    """It is shown as closing until it holds none."""
    topic = pool.create_topic("ticks", depth=DEPTH)
    sub = topic.subscribe()
    publish(topic, 1)
    sample = sub.get(timeout=0)
    sub.close()
    (found,) = topic.subscribers()
    assert ("closing", 1) == (found.state, found.held)
    sample.free()
    assert [] == topic.subscribers()


def test_names_are_printable(pool: shmpool.Pool, start: Start) -> None:
    """A process may call itself what it likes."""
    topic = pool.create_topic("ticks", depth=DEPTH)
    subscribe(start, pool.name, name="\x1b[2J\udcff<b>")
    (found,) = topic.subscribers()
    assert r"\x1b[2J\xff<b>" == found.name


def test_how_many_are_read(
    pool: shmpool.Pool, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view lists so many subscribers of a pool, and asks about so many whether they are alive."""
    monkeypatch.setattr(view_module, "SUBSCRIBERS_LISTED", 3)
    monkeypatch.setattr(view_module, "SUBSCRIBERS_ASKED", 2)
    topics = [pool.create_topic(name, depth=DEPTH) for name in ("ticks", "other")]
    killed = subscribe(start, pool.name)
    subs = [topics[i].subscribe() for i in (0, 1, 1)]
    killed.kill()
    with View(pool.name) as view:
        assert [["dead", "alive"], ["alive"]] == [
            [one.state for one in topic.subscribers] for topic in view.topics()
        ]
        monkeypatch.setattr(view_module, "SUBSCRIBERS_ASKED", 0)
        assert ["alive", "alive"] == [one.state for one in view.topics()[0].subscribers]
    for sub in subs:
        sub.close()


# With a daemon.


def test_a_declared_topic(start_daemon: StartDaemon, pool_name: str) -> None:
    """The daemon creates it, and describes it to its clients, who may create topics too."""
    daemon = start_daemon(DECLARED.format(pool_name))
    with shmpool.Client(daemon.socket) as client, client.pool(pool_name) as pool:
        assert DEPTH == pool.topic("ticks").depth
        described = client.describe(pool_name)
        assert ([], ["ticks"]) == (described.queues, [topic.name for topic in described.topics])
        (listed,) = [one for one in client.list() if one.name == pool_name]
        assert (0, 1) == (listed.queues, listed.topics)
        with pool.topic("ticks").subscribe():
            publish(pool.topic("ticks"), 3)
            (topic,) = client.stats(pool_name).topics
            assert (3, 3, [3]) == (topic.published, topic.kept, [s.lag for s in topic.subscribers])


def test_a_client_creates_topics(start_daemon: StartDaemon, new_name: Callable[[], str]) -> None:
    """All of a pool, or nothing."""
    daemon, name = start_daemon(), new_name()
    options = shmpool.PoolOptions(buffer_size=64, capacity=64)
    with shmpool.Client(daemon.socket) as client:
        wrong = {"ticks": shmpool.TopicOptions(8), "more": shmpool.TopicOptions(9)}
        with pytest.raises(shmpool.InvalidArgument, match="depth is 9; it must be a power of two"):
            client.create(name, options, {}, wrong)
        assert name not in shmpool.pool_names()
        made = client.create(name, options, {}, {"ticks": shmpool.TopicOptions(8)})
        assert [("ticks", 8)] == [(topic.name, topic.depth) for topic in made.topics]


def test_who_holds_publishers_up(
    start_daemon: StartDaemon, start: Start, eventually: Eventually, pool_name: str
) -> None:
    """An alarm names the subscriber that blocks and is a whole depth behind, or behind where a
    publisher waits; until it goes on."""
    daemon = start_daemon(DECLARED.format(pool_name), options="interval = 0.05")
    with shmpool.Client(daemon.socket) as client, client.pool(pool_name) as pool:
        topic = pool.topic("ticks")

        def alarms() -> list[tuple[str, str]]:
            return [(alarm.kind, alarm.subject) for alarm in client.stats(pool_name).alarms]

        publish(topic, 3 * DEPTH)  # nobody blocks, so the topic is not full
        subscribe(start, pool_name)
        child = subscribe(start, pool_name, "block", name="recorder")
        publish(topic, DEPTH)
        eventually(lambda: alarms() == [("topic-blocked", "ticks")])
        (alarm,) = client.stats(pool_name).alarms
        assert (
            f"subscriber 1 (process {child.pid}, recorder), 8 messages behind, has held publishers "
            "up for more than 0.1 s"
        ) == alarm.message
        get(child, 2)
        eventually(lambda: alarms() == [])

        burst = pool.alloc_many(3)
        publisher = threading.Thread(target=topic.publish, args=(burst, 60))
        publisher.start()
        eventually(lambda: alarms() == [("topic-blocked", "ticks")])
        eventually(lambda: client.stats(pool_name).topics[0].waiting == 1)
        assert 6 == client.stats(pool_name).topics[0].subscribers[1].lag
        get(child, 1)
        join(publisher)
        get(child, 8)
        eventually(lambda: alarms() == [])
    log = daemon.output()
    assert f"alarm topic-blocked: pool {pool_name}: ticks: subscriber 1 " in log
    assert "queue-full" not in log


LONELY = """
    import sys, threading, shmpool
    topic = shmpool.Pool.attach(sys.argv[1]).topic("ticks")
    subs = []
    thread = threading.Thread(target=lambda: subs.append(topic.subscribe()))
    thread.start()
    thread.join()
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_dead_subscriber_without_a_member(
    start_daemon: StartDaemon, start: Start, eventually: Eventually, pool_name: str
) -> None:
    """The thread that had subscribed has ended. The daemon recovers its process all the same."""
    daemon = start_daemon(DECLARED.format(pool_name))
    child = start(LONELY, pool_name)
    assert "ready" == child.line()
    with shmpool.Client(daemon.socket) as client:
        stats = client.stats(pool_name)
        assert (0, [child.pid]) == (
            stats.buffers.members, [one.pid for one in stats.topics[0].subscribers],
        )  # fmt: skip
        child.kill()
        eventually(lambda: client.stats(pool_name).recoveries.count == 1)
        stats = client.stats(pool_name)
        assert (0, 1) == (stats.recoveries.members, stats.recoveries.subscribers)
        assert [] == stats.topics[0].subscribers
    assert "0 members, 1 subscribers, 0 buffers" in daemon.output()


def test_declared_topics_that_differ(
    start_daemon: StartDaemon, make_pool: MakePool, pool_name: str
) -> None:
    """A topic of another depth, and a queue of a topic's name: both values, and exit status 2."""
    pool = make_pool(name=pool_name)
    pool.create_topic("ticks", depth=16)
    pool.create_queue("state", capacity=8)
    more = f"[pools.{pool_name}.topic.state]\ndepth = 8\n"
    daemon = start_daemon(DECLARED.format(pool_name) + more, ready=False)
    assert 2 == daemon.process.wait(60)
    where = f"shmpool: {daemon.config}, line"
    assert [
        f"{where} 11: pool '{pool_name}', topic 'ticks': depth is declared 8 and exists as 16",
        f"{where} 12: pool '{pool_name}', topic 'state': it exists as a queue",
    ] == daemon.output().splitlines()


def test_a_declared_topic_is_added(
    start_daemon: StartDaemon, make_pool: MakePool, pool_name: str
) -> None:
    """A topic that an existing pool lacks is created."""
    pool = make_pool(name=pool_name)
    daemon = start_daemon(DECLARED.format(pool_name))
    assert DEPTH == pool.topic("ticks").depth
    assert f"topic ticks of pool {pool_name} created" in daemon.output()
