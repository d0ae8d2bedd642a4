# SPDX-License-Identifier: Apache-2.0
"""The API against a model of plain lists: any order of calls in one process."""

import itertools
import os
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import shmpool

CAPACITY, ROOM = 128, 8
_numbers = itertools.count()
payloads = st.binary(max_size=64)


class Model(RuleBasedStateMachine):
    """held: Buffers and their contents; bursts: the same for Bursts; queued: the payloads in the
    queue."""

    def __init__(self) -> None:
        super().__init__()
        name = f"test-{os.getpid()}-property-{next(_numbers)}"
        self.pool = shmpool.Pool.create(
            name, buffer_size=64, capacity=CAPACITY, cache_size=16, bulk=16, queues=1, members=2
        )
        shmpool.Pool.unlink(name)
        self.queue = self.pool.create_queue("q", capacity=ROOM)
        self.held: list[tuple[shmpool.Buffer, bytes]] = []
        self.bursts: list[tuple[shmpool.Burst, list[bytes]]] = []
        self.queued: list[bytes] = []
        self.released_buffers: list[shmpool.Buffer] = []
        self.refused = 0

    def out(self) -> int:
        return len(self.held) + sum(len(data) for _, data in self.bursts)

    def left(self) -> int:
        return CAPACITY - self.out() - len(self.queued)

    @rule(data=payloads)
    def alloc(self, data: bytes) -> None:
        if self.left():
            buf = self.pool.alloc(timeout=0)
            assert buf.write(data) == len(data)
            self.held.append((buf, data))
        else:
            with pytest.raises(shmpool.PoolExhausted):
                self.pool.alloc(timeout=0)

    @rule(n=st.integers(1, 70), data=payloads)
    def alloc_many(self, n: int, data: bytes) -> None:
        if n <= self.left():
            burst = self.pool.alloc_many(n, timeout=0)
            for buf in burst:
                buf.write(data)
            self.bursts.append((burst, [data] * n))
        else:
            with pytest.raises(shmpool.PoolExhausted):
                self.pool.alloc_many(n, timeout=0)

    @precondition(lambda self: self.held)
    @rule(i=st.integers(0), data=payloads)
    def write(self, i: int, data: bytes) -> None:
        i %= len(self.held)
        self.held[i][0].write(data)
        self.held[i] = (self.held[i][0], data)

    @precondition(lambda self: self.held)
    @rule(i=st.integers(0), how=st.sampled_from(["free", "drop", "with"]))
    def free(self, i: int, how: str) -> None:
        buf, data = self.held.pop(i % len(self.held))
        assert data == bytes(buf)
        if how == "drop":
            return
        if how == "free":
            buf.free()
        else:
            with buf:
                pass
        self.released_buffers.append(buf)

    @precondition(lambda self: self.held)
    @rule(i=st.integers(0))
    def put(self, i: int) -> None:
        i %= len(self.held)
        buf, data = self.held[i]
        if len(self.queued) < ROOM:
            self.queue.put_nowait(buf)
            del self.held[i]
            self.queued.append(data)
            self.released_buffers.append(buf)
        else:
            with pytest.raises(shmpool.Full):
                self.queue.put_nowait(buf)
            self.refused += 1

    @precondition(lambda self: self.held)
    @rule(i=st.integers(0))
    def nack(self, i: int) -> None:
        i %= len(self.held)
        buf, data = self.held[i]
        if not buf.queue_number:
            with pytest.raises(shmpool.InvalidArgument):
                buf.nack(timeout=0)
        elif len(self.queued) < ROOM:
            self.queue.requeue(buf, timeout=0)
            del self.held[i]
            self.queued.append(data)
            self.released_buffers.append(buf)
        else:
            with pytest.raises(shmpool.Full):
                buf.nack(timeout=0)
            self.refused += 1

    @rule(receive=st.booleans())
    def get(self, receive: bool) -> None:
        if not self.queued:
            with pytest.raises(shmpool.Empty):
                self.queue.recv(timeout=0) if receive else self.queue.get_nowait()
        elif receive:
            assert self.queued.pop(0) == self.queue.recv(timeout=0)
        else:
            buf, data = self.queue.get(timeout=0), self.queued.pop(0)
            assert data == bytes(buf)
            self.held.append((buf, data))

    @rule(data=st.lists(payloads, max_size=ROOM))
    def send(self, data: list[bytes]) -> None:
        if len(data) <= min(ROOM - len(self.queued), self.left()):
            self.queue.send_many(data, timeout=0)
            self.queued += data

    @rule(n=st.integers(1, 2 * ROOM), receive=st.booleans())
    def get_many(self, n: int, receive: bool) -> None:
        if not self.queued:
            with pytest.raises(shmpool.Empty):
                self.queue.recv_many(n, timeout=0) if receive else self.queue.get_many(n, timeout=0)
            return
        data, self.queued = self.queued[:n], self.queued[n:]
        if receive:
            assert data == self.queue.recv_many(n, timeout=0)
        else:
            burst = self.queue.get_many(n, timeout=0)
            assert data == [bytes(buf) for buf in burst]
            self.bursts.append((burst, data))

    @precondition(lambda self: self.bursts)
    @rule(i=st.integers(0), how=st.sampled_from(["free", "drop", "put"]))
    def end_burst(self, i: int, how: str) -> None:
        i %= len(self.bursts)
        burst, data = self.bursts[i]
        assert [len(payload) for payload in data] == burst.lengths.tolist()
        if how == "put":
            if len(data) > ROOM - len(self.queued):
                with pytest.raises(shmpool.Full):
                    self.queue.put_many(burst, timeout=0)
                self.refused += len(data)
                return
            self.queue.put_many(burst, timeout=0)
            self.queued += data
        elif how == "free":
            burst.free()
        del self.bursts[i]

    @precondition(lambda self: self.bursts)
    @rule(i=st.integers(0), how=st.sampled_from(["slice", "mask", "indices"]), seed=st.randoms())
    def divide(self, i: int, how: str, seed: random.Random) -> None:
        """The part is what numpy takes of an array; the rest stays, in its order."""
        burst, data = self.bursts[i % len(self.bursts)]
        at = np.arange(len(data))
        ends = [None, *range(-len(data) - 1, len(data) + 2)]
        index: Any = slice(seed.choice(ends), seed.choice(ends), seed.choice([None, 1, -1, 2, -3]))
        if how == "mask":
            index = np.array([seed.random() < 0.5 for _ in data], bool)
        elif how == "indices":
            index = seed.sample(range(len(data)), seed.randint(0, len(data)))
        taken = at[index].tolist()
        part = burst[index]
        assert [data[j] for j in taken] == [bytes(buf) for buf in part]
        self.bursts.append((part, [data[j] for j in taken]))
        data[:] = [payload for j, payload in enumerate(data) if j not in taken]
        assert len(data) == len(burst)

    @rule(bufs=st.integers(0, 3), bursts=st.integers(0, 2), put=st.booleans(), twice=st.booleans())
    def together(self, bufs: int, bursts: int, put: bool, twice: bool) -> None:
        """A list is put, or made one burst, as a whole or not at all."""
        held, owned = self.held[:bufs], self.bursts[:bursts]
        items = [burst for burst, _ in owned] + [buf for buf, _ in held]
        data = [payload for _, inside in owned for payload in inside] + [d for _, d in held]
        if twice and items:
            with pytest.raises(shmpool.InvalidArgument):
                self.pool.burst([*items, items[0]])
            with pytest.raises(shmpool.InvalidArgument):
                self.queue.put_many([*items, items[-1]], timeout=0)
        if put and len(data) > ROOM - len(self.queued):
            with pytest.raises(shmpool.Full):
                self.queue.put_many(items, timeout=0)
            self.refused += len(data)
            return
        if put:
            self.queue.put_many(items, timeout=0)
            self.queued += data
        else:
            self.bursts.append((self.pool.burst(items), data))
        self.released_buffers += [buf for buf, _ in held]
        del self.held[:bufs]
        self.bursts[:bursts] = []

    @precondition(lambda self: self.bursts)
    @rule(i=st.integers(0), seed=st.randoms())
    def spread(self, i: int, seed: random.Random) -> None:
        """What the queue has no room for stays in the burst; a queue may be in the table twice."""
        i %= len(self.bursts)
        burst, data = self.bursts[i]
        room = ROOM - len(self.queued)
        keys = [seed.randrange(100) for _ in data]
        self.queued += data[:room]
        sent = len(data)
        try:
            burst.spread([self.queue, self.queue], keys, timeout=0)
        except shmpool.Full as error:  # pytest.raises() would keep this frame, and so the burst
            sent = error.sent
        assert min(room, len(data)) == sent
        if sent == len(data):
            del self.bursts[i]
            return
        del data[:room]
        self.refused += len(data)
        assert data == [bytes(buf) for buf in burst]

    @precondition(lambda self: self.released_buffers)
    @rule(i=st.integers(0))
    def use_after_the_end(self, i: int) -> None:
        buf = self.released_buffers[i % len(self.released_buffers)]
        for call in (buf.free, lambda: bytes(buf), lambda: self.queue.put(buf)):
            with pytest.raises(shmpool.BufferReleased):
                call()

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.queued) == len(self.queue)
        assert self.queued == [m.payload for m in self.queue.peek(ROOM)]
        assert self.refused == self.pool.stats().refused
        audit = self.pool.audit()
        assert (True, self.out(), len(self.queued)) == (
            audit.ok,
            sum(audit.held.values()),
            audit.queued["q"],
        )
        assert audit.total == audit.free + audit.cached + self.out() + len(self.queued)

    def teardown(self) -> None:
        self.held.clear()
        self.bursts.clear()
        self.pool.close()


def test_any_order_of_calls() -> None:
    """Whatever calls are made in whatever order, contents, counts and exceptions equal the
    model's."""
    from hypothesis.stateful import run_state_machine_as_test

    bounds = settings(max_examples=60, stateful_step_count=40, deadline=None, database=None)
    run_state_machine_as_test(Model, settings=bounds)
