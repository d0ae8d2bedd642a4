# SPDX-License-Identifier: Apache-2.0
"""Parts of a bridge: packets as bytes, the ledger, both ends of a ZeroMQ link in one process."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from conftest import Eventually, MakePool, RunLink, at_rest

import shmpool

pytest.importorskip("zmq", reason="shmpool[bridge] is not installed")

import zmq

from shmpool.bridge import keys, messages
from shmpool.bridge.config import LinkOptions
from shmpool.bridge.ends import Batch, Refused, Returns, Target, source_of
from shmpool.bridge.ledger import ENTRIES, Ledger
from shmpool.bridge.link import Link
from shmpool.bridge.messages import Message
from shmpool.bridge.packing import RECORD, BadMessage, checked, fitting, pack, unpack
from shmpool.bridge.process import stats_of
from shmpool.bridge.stopping import Ending, Stop
from shmpool.bridge.zeromq_outlet import new_sender
from shmpool.service.links import down
from tests.bridge_storm import free_port


class SenderByHand:
    """A sender that says what the test says."""

    def __init__(self, port: int) -> None:
        self._port, self._id, self._turn, self._sent = port, new_sender(), 0, False

    @contextlib.contextmanager
    def connection(self) -> Iterator[zmq.Socket[bytes]]:
        with zmq.Context() as ctx, ctx.socket(zmq.DEALER) as sock:
            sock.linger, sock.rcvtimeo = 0, 60_000
            sock.setsockopt(zmq.ROUTING_ID, self._id)
            sock.connect(f"tcp://127.0.0.1:{self._port}")
            yield sock

    def hello(self, sock: zmq.Socket[bytes], newest: int) -> int:
        """Says HELLO. Returns how far the receiver is."""
        self._turn += 1
        hello = Message(messages.HELLO, self._id, newest, 1, self._turn)
        sock.send_multipart([hello.packed(), b"x"])
        kind, last = self.answer(sock)
        assert messages.WELCOME == kind
        return last

    def send(self, sock: zmq.Socket[bytes], number: int, n: int, table: bytes, data: bytes) -> None:
        """Sends a burst of n packets."""
        head = Message(messages.BURST, self._id, number, 0, 0, 0, n)
        sock.send_multipart([head.packed() + table, data])

    def answer(self, sock: zmq.Socket[bytes]) -> tuple[int, int]:
        """The next answer, but no ACK of less than two bursts: its kind and number."""
        while True:
            message = messages.message_of(sock.recv())
            if (message.kind, message.number) not in ((messages.ACK, 0), (messages.ACK, 1)):
                return message.kind, message.number


class ReceiversByHand:
    """Receivers that take nothing, and say what the test says besides WELCOME."""

    def __init__(self, n: int, largest: int = 4 << 20) -> None:
        self._ports, self._largest = [free_port() for _ in range(n)], largest
        self.addresses = [f"zmq://127.0.0.1:{port}/x" for port in self._ports]
        self._routes = [b""] * n

    def __enter__(self) -> Self:
        self._ctx, self._poller = zmq.Context(), zmq.Poller()
        self._socks = [self._ctx.socket(zmq.ROUTER) for _ in self._ports]
        self._found: list[deque[Message]] = [deque() for _ in self._ports]
        for port, sock in zip(self._ports, self._socks, strict=True):
            sock.bind(f"tcp://127.0.0.1:{port}")
            self._poller.register(sock, zmq.POLLIN)
        return self

    def __exit__(self, *error: object) -> None:
        self._ctx.destroy(linger=0)

    def burst(self, i: int = 0) -> tuple[int, int, int]:
        """The next burst for number i: its number, how many packets it has, and its flags. Says
        WELCOME to each HELLO."""
        while not self._found[i]:
            ready = dict(self._poller.poll(60_000))
            assert ready, "no burst came"
            for j, sock in enumerate(self._socks):
                if sock in ready:
                    self._take(j)
        message = self._found[i].popleft()
        return message.number, message.packets, message.flags

    def _take(self, j: int) -> None:
        self._routes[j], head, *_ = self._socks[j].recv_multipart()
        message = messages.message_of(head)
        if message.kind == messages.BURST:
            assert message.packets * RECORD == len(head) - messages.HEAD
            self._found[j].append(message)
        elif message.kind == messages.HELLO:
            self.say(messages.WELCOME, 0, j, message.turn)

    def say(self, kind: int, number: int = 0, i: int = 0, turn: int = 0) -> None:
        """Says something to the sender, as number i."""
        route = self._routes[i]
        message = Message(kind, route, number, 64, turn, 0, self._largest)
        self._socks[i].send_multipart([route, message.packed()])


@pytest.fixture
def stop() -> Iterator[Stop]:
    made = Stop()
    yield made
    made.close()


def ends(make_pool: MakePool, **options: object) -> tuple[shmpool.Pool, shmpool.Pool]:
    """Two pools, each with a queue `work` that requeues."""
    made = [make_pool(buffer_size=64, capacity=1024, **options) for _ in range(2)]
    for pool in made:
        pool.create_queue("work", capacity=256, on_death="requeue")
    return made[0], made[1]


def test_packets_travel_with_their_headers(make_pool: MakePool) -> None:
    """Lengths, marks, hashes, times and contents are the same on the other side; redelivered is
    one more if it is said so. A packet that needs a chain arrives too."""
    here, there = make_pool(buffer_size=512, capacity=64), make_pool(buffer_size=128, capacity=256)
    with here.alloc_many(5) as burst:
        burst.lengths = [0, 1, 64, 128, 500]  # the last one is a chain there
        burst.marks, burst.flow_hashes = range(5), range(10, 15)
        burst.timestamps = [2**40 + i for i in range(5)]
        for i, buf in enumerate(burst):
            buf.view[:] = bytes([65 + i]) * len(buf)
        table, data = pack(burst[:])
    assert 5 == checked(table, bytes(data)) == len(table) // RECORD
    first, at, found = 0, 0, []
    while first < 5:
        got, at = unpack(there, table, bytes(data), first, at, 2, True, 0)
        first += len(got)
        found += [
            (len(one), one.mark, one.flow_hash, one.timestamp, one.redelivered, bytes(one))
            for one in got
        ]
        got.free()
    lengths = [0, 1, 64, 128, 500]
    assert found == [
        (n, i, 10 + i, 2**40 + i, 1, bytes([65 + i]) * n) for i, n in enumerate(lengths)
    ]


def test_a_large_buffer_is_sent_as_it_lies(make_pool: MakePool) -> None:
    """A single large buffer is not copied into bytes."""
    pool = make_pool(buffer_size=8192, capacity=64)
    with pool.alloc_many(1) as burst:
        burst.lengths = 8192
        table, data = pack(burst)
        assert data is burst[0]
        assert 1 == checked(table, bytes(data))


def test_tables_that_lie(make_pool: MakePool) -> None:
    """A table whose lengths are not those of the data is refused, wherever it lies; no buffer is
    lost."""
    pool = make_pool(buffer_size=64, capacity=64)
    with pool.alloc_many(3) as burst:
        burst.lengths = 10
        table, data = pack(burst[:])
    record = np.frombuffer(table, "u4").reshape(3, -1).copy()
    for wrong in (table[:-1], table[:RECORD], b""):
        with pytest.raises(BadMessage):
            checked(wrong, bytes(data))
    record[0, 0], record[1, 0] = 2**32 - 1, 2**32 - 10  # their sum is that of the data, in 32 bits
    with pytest.raises(BadMessage):
        checked(record.tobytes(), bytes(data))
    with pytest.raises(BadMessage):  # as if nobody had checked
        unpack(pool, table, bytes(data)[:5], 0, 0, 3, False, 0)
    assert (2, 1) == (fitting(table, 25), fitting(table, 5))
    assert at_rest(pool)


def test_the_ledger_outlives_its_receiver(make_pool: MakePool, stop: Stop) -> None:
    """A receiver that is killed leaves its ledger to the next one: the last number of each sender,
    which the one before noted. Only the number after it may have been put."""
    pool = make_pool(buffer_size=64, capacity=256)
    one, two = b"\1" * 16, b"\2" * 16
    if os.fork() == 0:
        ledger = Ledger(pool, "5555/x", stop)
        ledger.note(one, 7)
        ledger.note(two, 1)
        ledger.note(one, 8)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    ledger = Ledger(pool, "5555/x", stop)
    assert (8, 1, None) == (ledger.last(one), ledger.last(two), ledger.last(b"\3" * 16))
    assert [True, False] == [ledger.is_next(one, n) for n in (9, 10)]
    ledger.note(one, 9)
    assert not ledger.is_next(one, 10)
    ledger.close()
    with contextlib.closing(Ledger(pool, "5555/x", stop)) as again:
        assert 9 == again.last(one)
    assert at_rest(pool)


def test_the_ledger_forgets_the_silent(make_pool: MakePool, stop: Stop) -> None:
    """A new sender takes the place of the one that has been silent for longest."""
    pool = make_pool(buffer_size=64, capacity=256)
    with contextlib.closing(Ledger(pool, "x", stop)) as ledger:
        senders = [b"%08d%08d" % (i, i) for i in range(ENTRIES + 1)]
        for sender in senders[:-1]:
            ledger.note(sender, 1)
        ledger.note(senders[0], 2)
        ledger.note(senders[-1], 5)
        found = [ledger.last(senders[i]) for i in (0, 1, 2, -1)]
    assert [2, None, 1, 5] == found
    with contextlib.closing(Ledger(pool, "x", stop)) as ledger:
        assert found == [ledger.last(senders[i]) for i in (0, 1, 2, -1)]


def test_one_receiver_has_the_ledger(make_pool: MakePool, stop: Stop) -> None:
    """A second receiver at the same address waits for the first one's, and makes none."""
    pool = make_pool(buffer_size=64, capacity=256)
    ledger = Ledger(pool, "x", stop)
    ledger._make()
    (queue,) = pool.queues()
    assert 0 == len(queue)
    ledger.close()
    assert 1 == len(queue)


def test_what_is_sent_must_requeue(make_pool: MakePool) -> None:
    """A queue that would lose what the bridge holds is refused."""
    pool = make_pool(buffer_size=64, capacity=64)
    pool.create_queue("loses", capacity=8)
    with pytest.raises(Refused, match='must have on_death="requeue"'):
        source_of(pool, "loses")


def test_what_is_given_back_is_marked(make_pool: MakePool) -> None:
    """A batch that is given back is in its queue again, redelivered once more."""
    pool = make_pool(buffer_size=64, capacity=64)
    queue = pool.create_queue("work", capacity=8, on_death="requeue")
    queue.send_many([b"a", b"b", b"c"])
    batch = source_of(pool, "work").take(8, 0)
    assert batch is not None
    assert 3 == batch.n
    first, rest = batch.split(1)
    rest.give_back()
    first.give_back()
    assert [(b"b", 1), (b"c", 1), (b"a", 1)] == [(m.payload, m.redelivered) for m in queue.peek(3)]
    assert isinstance(first, Batch)


def test_nobody_waits_for_room_in_a_full_queue(make_pool: MakePool) -> None:
    """What cannot return to a full queue does so as soon as something was taken, and at the end of
    a link all of it together has one deadline, after which recovery has it."""
    pool = make_pool(buffer_size=64, capacity=64)
    queue = pool.create_queue("work", capacity=2, on_death="requeue")
    source, returns = source_of(pool, "work"), Returns()
    queue.send_many([b"a", b"b"])
    refused = source.take(2, 0)
    assert refused is not None
    queue.send(b"c")
    returns.add(refused)  # the one finds room, the other does not
    assert [(b"c", 0), (b"a", 1)] == [(m.payload, m.redelivered) for m in queue.peek(2)]
    returns.place()
    assert (2, 1) == (len(queue), pool.stats().held)
    assert b"c" == queue.recv(0)
    returns.place()
    assert [(b"a", 1), (b"b", 1)] == [(m.payload, m.redelivered) for m in queue.peek(2)]
    last = source.take(1, 0)
    assert last is not None
    queue.send(b"d")
    assert 1 == returns.end([last])
    assert (2, 1) == (len(queue), pool.stats().held)


def test_a_full_queue_of_dead_letters_ends_the_taking(make_pool: MakePool) -> None:
    """What is to become a dead letter makes no room for itself: a link takes no more until some of
    it has a place."""
    pool = make_pool(buffer_size=64, capacity=256)
    dead = pool.create_queue("dead", capacity=2)
    queue = pool.create_queue(
        "work", capacity=64, on_death="requeue", dead_letter="dead", max_redeliveries=1
    )
    queue.send_many([b"%d" % i for i in range(60)])
    with queue.get_many(60) as burst:
        burst.nack()  # once more, and each is a dead letter
    source, returns = source_of(pool, "work"), Returns()
    n = 0
    while not returns.crowded:
        refused = source.take(1, 0)
        assert refused is not None
        returns.add(refused)
        n += 1
    assert (len(dead), pool.stats().held) == (dead.capacity, n - dead.capacity)
    assert n < 30
    assert b"0" == dead.recv(0)
    returns.place()
    assert not returns.crowded
    assert n - dead.capacity - 1 == pool.stats().held
    dead.drain()
    returns.end([])


def test_a_full_queue_holds_a_receiver_up(make_pool: MakePool, stop: Stop) -> None:
    """place() waits for room; if the link ends in that time, nothing is lost but what it held."""
    here, there = ends(make_pool)
    small = there.create_queue("small", capacity=2)
    with here.alloc_many(3) as burst:
        burst.lengths = 1
        table, data = pack(burst[:])
    stop.set()
    target = Target(there, "small")
    assert 2 == target.room()
    with pytest.raises(Ending):
        target.place(memoryview(table), memoryview(bytes(data)), False, stop)
    assert at_rest(there)
    assert len(small) <= 2


def test_a_link_moves_packets(
    make_pool: MakePool, run_link: RunLink, eventually: Eventually
) -> None:
    """What is put into a queue here is in a queue there, in its order; the figures of both links
    say how much."""
    here, there = ends(make_pool)
    address = f"zmq://127.0.0.1:{free_port()}/x"
    receiver = run_link(address, f"{there.name}/work")
    sender = run_link(f"{here.name}/work", address)
    payloads = [b"%d" % i for i in range(100)]
    here.queue("work").send_many(payloads)
    found: list[bytes] = []
    while len(found) < 100:
        found += there.queue("work").recv_many(100, 30)
    assert payloads == found
    eventually(lambda: sender.figures.packets == receiver.figures.packets == 100)
    assert ("up", "up") == (sender.figures.state, receiver.figures.state)
    assert here.stats().held == 0


def made_again(pool: shmpool.Pool) -> shmpool.Pool:
    """Another pool of the same name, as a program that starts again makes it. The caller closes
    it, and its name goes with the first pool's."""
    found = shmpool.Pool.create(pool.name, buffer_size=64, capacity=1024, replace=True)
    found.create_queue("work", capacity=256, on_death="requeue")
    found.create_topic("ticks", depth=64)
    return found


@pytest.mark.parametrize("name", ["work", "ticks"])
def test_a_source_that_is_shut_down(
    make_pool: MakePool, run_link: RunLink, eventually: Eventually, name: str
) -> None:
    """What is in it still arrives. Then the link is down, which is an alarm, until a program has
    made it again."""
    here, there = ends(make_pool)
    here.create_topic("ticks", depth=64)
    incoming, address = there.queue("work"), f"zmq://127.0.0.1:{free_port()}/x"
    run_link(address, f"{there.name}/work")
    n = 20 if name == "work" else 0
    if n:
        here.queue("work").send_many([b"%d" % i for i in range(n)])
        here.queue("work").shutdown()
    sender = run_link(f"{here.name}/{name}", address, burst_bytes=1024)
    if not n:
        eventually(lambda: sender.figures.state == "up")
        here.topic("ticks").shutdown()
    eventually(lambda: "was shut down" in sender.figures.why)
    assert (n, 0) == (len(incoming), here.stats().held)
    alarm = down(stats_of(sender), stats_of(sender).since + 5.1)
    assert f"down for more than 5 s: {here.name}/{name} was shut down" in alarm
    with made_again(here) as again:
        eventually(lambda: sender.figures.state == "up")
        (again.queue("work") if n else again.topic("ticks")).send(b"new")
        assert b"new" == [incoming.recv(30) for _ in range(n + 1)][-1]
        eventually(lambda: sender.figures.packets == n + 1)


def test_a_target_that_is_shut_down(
    make_pool: MakePool, run_link: RunLink, eventually: Eventually
) -> None:
    """The link is down, which is an alarm, until a program has made it again. What was put into it
    before is not put again, and all else arrives."""
    here, there = ends(make_pool)
    address = f"zmq://127.0.0.1:{free_port()}/x"
    receiver = run_link(address, f"{there.name}/work")
    sender = run_link(f"{here.name}/work", address)
    here.queue("work").send(b"first")
    assert b"first" == there.queue("work").recv(30)
    eventually(lambda: sender.figures.packets == 1)
    there.queue("work").shutdown()
    here.queue("work").send(b"second")
    eventually(lambda: "was shut down" in receiver.figures.why)
    alarm = down(stats_of(receiver), stats_of(receiver).since + 5.1)
    assert f"down for more than 5 s: {there.name}/work was shut down" in alarm
    with made_again(there) as again:
        assert b"second" == again.queue("work").recv(30)
    eventually(lambda: ("up", 2) == (sender.figures.state, sender.figures.packets))


def test_a_link_that_fails(make_pool: MakePool, eventually: Eventually) -> None:
    """Whatever ends the work of a link, the link is down, and begins again."""
    here, _ = ends(make_pool)
    failures: list[BaseException] = [asyncio.CancelledError(), SystemExit(3), KeyError("x")]

    class Fails(Link):
        def work(self, pool: shmpool.Pool) -> None:
            if failures:
                raise failures.pop()
            self.up()
            self.stop.wait(30)

    link = Fails(LinkOptions(f"{here.name}/work", "zmq://127.0.0.1:9/x", name="fails"))
    assert "" == link.figures.why
    link.start()
    eventually(lambda: link.figures.state == "up")
    link.end()
    assert link.join(30)
    assert [] == failures


def test_topics_travel(make_pool: MakePool, run_link: RunLink, eventually: Eventually) -> None:
    """A topic here is a topic there."""
    here, there = ends(make_pool)
    ticks, shown = here.create_topic("ticks", depth=64), there.create_topic("ticks", depth=64)
    address = f"zmq://127.0.0.1:{free_port()}/x"
    run_link(address, f"{there.name}/ticks")
    sender = run_link(f"{here.name}/ticks", address)
    eventually(lambda: sender.figures.state == "up" and ticks.subscribers())
    with shown.subscribe() as subscriber:
        for i in range(5):
            ticks.send(b"%d" % i)
        assert [b"%d" % i for i in range(5)] == [bytes(subscriber.get(30)) for _ in range(5)]


@pytest.mark.parametrize("receivers", ["competing", "all"])
def test_several_receivers(
    make_pool: MakePool, run_link: RunLink, eventually: Eventually, receivers: str
) -> None:
    """Competing receivers get each packet once between them, and all receivers each get each."""
    here, there = ends(make_pool)
    other = make_pool(buffer_size=64, capacity=1024)
    other.create_queue("work", capacity=256, on_death="requeue")
    addresses = [f"zmq://127.0.0.1:{free_port()}/x" for _ in range(2)]
    for address, pool in zip(addresses, (there, other), strict=True):
        run_link(address, f"{pool.name}/work")
    sender = run_link(f"{here.name}/work", addresses, receivers=receivers)
    eventually(lambda: sender.figures.state == "up")
    queues = [pool.queue("work") for pool in (there, other)]
    here.queue("work").send_many([b"%d" % i for i in range(64)])
    wanted = 64 if receivers == "competing" else 128
    eventually(lambda: wanted == sum(map(len, queues)))
    found = [sorted(int(m.payload) for m in queue.peek(64)) for queue in queues if len(queue)]
    if receivers == "all":
        assert [list(range(64))] * 2 == found
    else:
        assert list(range(64)) == sorted(number for numbers in found for number in numbers)


def test_a_receiver_that_is_away_loses_its_bursts(
    make_pool: MakePool, run_link: RunLink, eventually: Eventually
) -> None:
    """What a competing receiver has not acknowledged for failover_s goes to the others, marked."""
    here, there = ends(make_pool)
    other = make_pool(buffer_size=64, capacity=1024)
    full = other.create_queue("work", capacity=256, on_death="requeue")
    addresses = [f"zmq://127.0.0.1:{free_port()}/x" for _ in range(2)]
    away = run_link(addresses[1], f"{other.name}/work")
    sender = run_link(f"{here.name}/work", addresses, failover_s=0.1)
    eventually(lambda: sender.figures.state == "up")
    full.send_many([b"" for _ in range(256)])  # it takes what its credit allows, and stops there
    here.queue("work").send_many([b"%d" % i for i in range(20)])
    eventually(lambda: sender.figures.unacknowledged > 0)
    away.end()
    run_link(addresses[0], f"{there.name}/work")
    found: dict[bytes, int] = {}
    while len(found) < 20:
        with there.queue("work").get(30) as buf:
            found[bytes(buf)] = buf.redelivered
    assert any(found.values())


def test_a_packet_that_has_no_room_there(
    make_pool: MakePool, run_link: RunLink, eventually: Eventually
) -> None:
    """A packet that the other pool never has room for is returned to its queue, and after some
    tries to its dead letters; what comes behind it arrives."""
    here = make_pool(buffer_size=65536, capacity=64)
    letters = here.create_queue("letters", capacity=8)
    here.create_queue(
        "work", capacity=64, on_death="requeue", dead_letter="letters", max_redeliveries=2
    )
    there = make_pool(buffer_size=64, capacity=128)
    there.create_queue("work", capacity=64)
    address = f"zmq://127.0.0.1:{free_port()}/x"
    run_link(address, f"{there.name}/work")
    sender = run_link(f"{here.name}/work", address, burst_bytes=1024)
    eventually(lambda: sender.figures.state == "up")
    here.queue("work").send_many([b"one", bytes(65536), b"two"])
    eventually(lambda: len(letters) == 1)
    here.queue("work").send(b"three")
    found = [there.queue("work").recv(30) for _ in range(3)]
    assert [b"one", b"three", b"two"] == sorted(found)
    assert 3 == sender.figures.returned


def test_a_rejection_that_is_lost(make_pool: MakePool, run_link: RunLink) -> None:
    """A burst with a packet that the pool never has room for is not taken. A sender that does not
    get to know is told so again, and can send the other packets."""
    here, there = make_pool(buffer_size=65536, capacity=64), make_pool(buffer_size=64, capacity=128)
    work = there.create_queue("work", capacity=64)
    port = free_port()
    run_link(f"zmq://127.0.0.1:{port}/x", f"{there.name}/work")
    with here.alloc_many(3) as burst:
        burst.lengths = [1, 65536, 2]
        table, data = pack(burst[:])
    hands = SenderByHand(port)
    for turn in (1, 2):  # the first one behaves as if it had not read the rejection
        with hands.connection() as sock:
            assert 0 == hands.hello(sock, turn - 1)
            hands.send(sock, 1, 3, table, bytes(data))
            assert (messages.REJECTED, 1) == hands.answer(sock)
            if turn == 2:
                hands.send(sock, 1, 0, b"", b"")
                hands.send(sock, 2, 1, table[:RECORD], b"a")
                assert (messages.ACK, 2) == hands.answer(sock)
    assert [(b"a", 0)] == [(m.payload, m.redelivered) for m in work.peek(64)]


@pytest.mark.parametrize("receivers", ["competing", "all"])
def test_what_was_in_a_burst_that_is_rejected(
    make_pool: MakePool, run_link: RunLink, eventually: Eventually, receivers: str
) -> None:
    """Its number comes again without packets, and they come behind it, each alone. To a receiver
    that may have put them, as it has not rejected them, they are marked."""
    here, _ = ends(make_pool)
    here.queue("work").send_many([b"one", b"two", b"three"])
    n = 1 + (receivers == "all")
    marked = messages.DOUBTFUL * (receivers == "all")
    with ReceiversByHand(n) as hands:
        sender = run_link(f"{here.name}/work", hands.addresses, receivers=receivers)
        assert [(1, 3, 0)] * n == [hands.burst(i) for i in range(n)]
        hands.say(messages.REJECTED, 1)
        assert (1, 0, messages.AGAIN) == hands.burst()
        assert [(i, 1, marked) for i in (2, 3, 4)] == [hands.burst() for _ in range(3)]
        if n == 2:
            assert [(i, 1, marked) for i in (2, 3, 4)] == [hands.burst(1) for _ in range(3)]
            hands.say(messages.WHO, i=1)  # it has lost all of them
            again = [(i, i > 1, messages.AGAIN | marked * (i > 1)) for i in (1, 2, 3, 4)]
            assert again == [hands.burst(1) for _ in range(4)]
        for i in range(n):
            hands.say(messages.ACK, 4, i)
        eventually(lambda: sender.figures.packets == 3)
    assert (3, 0, 0) == (sender.figures.bursts, sender.figures.returned, sender.figures.reconnects)
    assert 0 == here.stats().held + len(here.queue("work"))


def test_a_message_that_no_receiver_takes(
    make_pool: MakePool, run_link: RunLink, eventually: Eventually
) -> None:
    """A packet that is larger than a message may be is returned, and the link stays."""
    here = make_pool(buffer_size=1 << 20, capacity=16)
    letters = here.create_queue("letters", capacity=8)
    here.create_queue(
        "work", capacity=8, on_death="requeue", dead_letter="letters", max_redeliveries=1
    )
    there = make_pool(buffer_size=64, capacity=256)
    there.create_queue("work", capacity=64)
    address = f"zmq://127.0.0.1:{free_port()}/x"
    run_link(address, f"{there.name}/work")
    sender = run_link(f"{here.name}/work", address)
    here.queue("work").send(bytes(6 << 20))
    eventually(lambda: len(letters) == 1)
    here.queue("work").send(b"small")
    assert b"small" == there.queue("work").recv(30)
    assert (2, 0) == (sender.figures.returned, sender.figures.reconnects)


@pytest.mark.parametrize("others", [0, 1])
def test_a_receiver_that_takes_less_than_the_one_before(
    make_pool: MakePool, run_link: RunLink, eventually: Eventually, others: int
) -> None:
    """A packet on its way to a receiver that is gone is returned if the next one at that address,
    or the other one, never takes so much. With several it goes to one that does once it is there,
    though another is ready."""
    here, small = make_pool(buffer_size=1 << 20, capacity=32), make_pool(capacity=256)
    letters = here.create_queue("letters", capacity=8)
    limit = {} if others else {"dead_letter": "letters", "max_redeliveries": 1}
    work = here.create_queue("work", capacity=8, on_death="requeue", **limit)
    small.create_queue("work", capacity=8)
    large = make_pool(buffer_size=1 << 20, capacity=32)
    incoming = large.create_queue("work", capacity=8)
    with ReceiversByHand(1, 16 << 20) as hands:
        first = hands.addresses[0]
        addresses = [first, *(f"zmq://127.0.0.1:{free_port()}/x" for _ in range(others))]
        sender = run_link(f"{here.name}/work", addresses, failover_s=0.1)
        work.send(bytes(6 << 20))
        assert (1, 1, 0) == hands.burst()
    receiver = run_link(addresses[-1], f"{small.name}/work")
    eventually(lambda: sender.figures.returned)
    eventually(lambda: receiver.figures.state == "up")
    assert sender.figures.reconnects <= 1
    if others:
        run_link(first, f"{large.name}/work", name="large")
        with incoming.get(60) as buf:
            assert 6 << 20 == len(buf)
            assert buf.redelivered
        eventually(lambda: sender.figures.packets == 1)
    else:
        eventually(lambda: len(letters) == 1)
        work.send(b"small")
        assert b"small" == small.queue("work").recv(60)
        eventually(lambda: sender.figures.packets == 1)


def test_a_burst_that_is_sent_again_is_as_old(
    make_pool: MakePool, run_link: RunLink, eventually: Eventually
) -> None:
    """What lags is measured from the first time, or a burst that comes again and again is no
    alarm."""
    here, _ = ends(make_pool)
    here.queue("work").send(b"one")
    with ReceiversByHand(1) as hands:
        sender = run_link(f"{here.name}/work", hands.addresses)
        assert (1, 1, 0) == hands.burst()
        eventually(lambda: sender.figures.oldest_since)
        first = sender.figures.oldest_since
        hands.say(messages.WHO)
        assert (1, 1, messages.AGAIN) == hands.burst()
        sender.figures.oldest_since = None  # its thread says so again
        eventually(lambda: sender.figures.oldest_since)
        assert first == sender.figures.oldest_since
        hands.say(messages.ACK, 1)
        eventually(lambda: sender.figures.packets == 1)


def test_a_pool_that_is_replaced(
    new_name: Callable[[], str], make_pool: MakePool, run_link: RunLink, eventually: Eventually
) -> None:
    """A link goes on with the pool that has taken its pool's name."""
    _, there = ends(make_pool)
    name = new_name()
    address = f"zmq://127.0.0.1:{free_port()}/x"
    run_link(address, f"{there.name}/work")
    sender = run_link(f"{name}/work", address)
    eventually(lambda: name in sender.figures.why)  # there is no such pool
    for payload in (b"first", b"second"):
        with shmpool.Pool.create(name, buffer_size=64, capacity=64, replace=True) as pool:
            pool.create_queue("work", capacity=8, on_death="requeue").send(payload)
            assert payload == there.queue("work").recv(30)
    shmpool.Pool.unlink(name)


def test_keys(
    make_pool: MakePool, run_link: RunLink, eventually: Eventually, tmp_path: Path
) -> None:
    """With keys a link works between those that know each other, and no other sender gets in."""
    here, there = ends(make_pool)
    files = [tmp_path / name for name in ("here", "there", "stranger")]
    mine, theirs, _ = (keys.make(file) for file in files)
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    address = f"zmq://127.0.0.1:{free_port()}/x"
    run_link(address, f"{there.name}/work", key_file=str(files[1]), allow_keys=[mine])
    stranger = run_link(
        f"{here.name}/work", address, key_file=str(files[2]), peer_key=theirs, name="stranger"
    )
    eventually(lambda: "refuses the key" in stranger.figures.why)
    here.queue("work").send(b"secret")
    stranger.end()
    run_link(f"{here.name}/work", address, key_file=str(files[0]), peer_key=theirs)
    assert b"secret" == there.queue("work").recv(30)
    files[0].chmod(0o644)
    with pytest.raises(Refused, match="mode 0644; it must be 0600"):
        keys.read(str(files[0]))


def test_strangers_at_the_port(
    make_pool: MakePool, run_link: RunLink, eventually: Eventually
) -> None:
    """Bytes of any kind, and messages that no bridge sends, change nothing for a link."""
    here, there = ends(make_pool)
    port = free_port()
    receiver = run_link(f"zmq://127.0.0.1:{port}/x", f"{there.name}/work")
    sender = run_link(f"{here.name}/work", f"zmq://127.0.0.1:{port}/x")
    wrong = run_link(f"{here.name}/work", f"zmq://127.0.0.1:{port}/other", name="wrong path")
    eventually(lambda: "'other' is not received here; 'x' is" in wrong.figures.why)
    wrong.end()
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(os.urandom(1000))
    with zmq.Context() as ctx, ctx.socket(zmq.DEALER) as sock:
        sock.linger = 1000
        sock.connect(f"tcp://127.0.0.1:{port}")
        for frames in ([b""], [b"x" * 52], [b"", b"", b""], [bytes(range(60)), b"y" * 9]):
            sock.send_multipart(frames)
        eventually(lambda: sender.figures.state == "up")
        here.queue("work").send(b"good")
        assert b"good" == there.queue("work").recv(30)
    assert "up" == receiver.figures.state


def test_import_shmpool_imports_no_bridge() -> None:
    """The package costs nothing where it is not used."""
    code = "import shmpool, sys; print([m for m in sys.modules if 'bridge' in m or m == 'zmq'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout
