# SPDX-License-Identifier: Apache-2.0
"""Records of arrays: messages that have none, corrupted records, texts written to do harm."""

import contextlib
import gc
import pickle
import signal
import threading
from typing import Any

import numpy as np
import pytest
from conftest import at_rest
from numpy.typing import NDArray

import shmpool
from shmpool import arrays

Array = NDArray[Any]


def test_a_message_that_is_no_array(queue: shmpool.AlfQueue) -> None:
    """It goes back to the queue, counted as redelivered, or to the dead letters."""
    queue.send(b"no array")
    with pytest.raises(shmpool.NoArray) as caught:
        queue.get_array()
    assert str(caught.value).startswith("queue 'q': buffer ")
    assert str(caught.value).endswith(" holds no array; it went back to the queue, as by nack()")
    assert caught.value.buffer is None
    with queue.get() as buf:
        assert (b"no array", 1) == (bytes(buf), buf.redelivered)
    pool = queue.pool
    letters = pool.create_queue("letters", capacity=2)
    work = pool.create_queue("work", capacity=2, on_death="dead-letter", dead_letter=letters)
    work.send(b"no array")
    with pytest.raises(shmpool.NoArray):
        work.get_array()
    assert b"no array" == letters.recv()
    with pytest.raises(shmpool.Empty):
        work.get_array(timeout=0)
    assert at_rest(pool)


def test_bytes_between_fields(queue: shmpool.AlfQueue) -> None:
    """A copy with gaps between its fields has zeros there, not bytes of earlier messages."""
    for buf in queue.pool.alloc_many(queue.pool.capacity):
        buf.write(b"\xff" * len(buf.data))
    gc.collect()
    kind = np.dtype({"names": ["a", "b"], "formats": ["u1", "<u2"], "offsets": [1, 4]})
    queue.put_array(np.array([(1, 2), (3, 4), (5, 6)], kind)[::2])
    with queue.get() as buf:
        assert b"\0\1\0\0\2\0" + b"\0\5\0\0\6\0" == bytes(buf)


def test_a_queue_that_takes_none_back(pool: shmpool.Pool) -> None:
    """Then the exception has the Buffer; it pickles without it."""
    queue = pool.create_queue("q", capacity=2, producers="single")
    queue.send(b"no array")
    with pytest.raises(shmpool.NoArray, match="it is this exception's attribute buffer") as caught:
        queue.get_array()
    assert caught.value.buffer is not None
    assert b"no array" == bytes(caught.value.buffer)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(caught.value), None) == (str(again), again.buffer)
    caught.value.buffer.free()


def test_a_record_of_an_earlier_message(queue: shmpool.AlfQueue) -> None:
    """It is not taken for one of this message: not after a free, nor for another length."""
    pool = queue.pool
    array = pool.array(16, "u1")
    queue.put_array(array)
    with queue.get() as buf:
        index, headroom = buf.index, buf.headroom
    held = []
    while (buf := pool.alloc()).index != index:
        held.append(buf)
    buf.headroom = headroom  # the old record lies where one of this message would
    buf.length = 16
    queue.put(buf)
    with pytest.raises(shmpool.NoArray, match="holds no array"):
        queue.get_array()
    queue.drain()
    queue.put_array(np.arange(16))
    buf = queue.get()
    buf.write(b"shorter")
    queue.put(buf)
    with pytest.raises(shmpool.NoArray, match="holds no array"):
        queue.get_array()


def test_every_corrupted_bit(queue: shmpool.AlfQueue) -> None:
    """A record with any bit changed is no array's: an exception, and no access outside."""
    pool = queue.pool
    source = np.arange(12, dtype="<f4").reshape(3, 4)
    other = np.arange(12, dtype="<i4").reshape(3, 4)  # a text that differs in little, and is kept
    queue.put_array(other)
    queue.get_array()
    queue.put_array(source)
    buf = queue.get()
    headroom, length = buf.headroom, len(buf)
    size = 32 + 64
    buf.headroom = 0
    record = bytes(buf.data[headroom - size : headroom])
    assert record.startswith(b"{'descr': '<f4'")
    for bit in range(8 * size):
        wrong = bytearray(record)
        wrong[bit // 8] ^= 1 << bit % 8
        buf.headroom, buf.length = 0, headroom + length
        buf.data[headroom - size : headroom] = wrong
        buf.length, buf.headroom = 0, headroom
        buf.length = length
        queue.put(buf)
        with pytest.raises(shmpool.NoArray):
            queue.get_array()
        buf = queue.get()
    buf.free()
    assert at_rest(pool)


def seal(text: bytes, handle: int, length: int) -> bytes:
    """A record with a hash that is right, as an attacker can write it."""

    def mix(h: int, word: int) -> int:
        h = (h ^ word) * 0x9E3779B97F4A7C15 % 2**64
        return h ^ h >> 29

    magic, sizes, hashed = (
        int.from_bytes(b"shmarr01", "little"),
        len(text) << 32 | length,
        len(text),
    )
    for i in range(0, len(text), 8):
        hashed = mix(hashed, int.from_bytes(text[i : i + 8], "little"))
    words = (magic, handle, sizes, hashed ^ mix(mix(magic, handle), sizes))
    return text + b"".join(word.to_bytes(8, "little") for word in words)


def received(queue: shmpool.AlfQueue, text: bytes, length: int) -> Array:
    """What get_array() makes of a message with that text."""
    buf = queue.pool.alloc()
    text += b" " * (-len(text) % 8)
    record = seal(text, buf.generation << 32 | buf.index, length)
    buf.headroom = len(record) + -len(record) % 64
    at, buf.headroom = buf.headroom, 0
    buf.data[at - len(record) : at] = record
    buf.headroom, buf.length = at, length
    queue.put(buf)
    try:
        return queue.get_array()
    finally:
        queue.drain()


HARM = [
    "{'descr': '<f8', 'fortran_order': False, 'shape': (5,)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -4)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (True, 4)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (4.0,)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': [4]}",
    "{'descr': '<f8', 'fortran_order': 0, 'shape': (4,)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (4,), 'more': 1}",
    "{'descr': '<f8', 'fortran_order': False}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (4,)}",
    "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (4,)}",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (4,)}",
    "{'descr': '|S0', 'fortran_order': False, 'shape': (32,)}",
    "{'descr': 'nonsense', 'fortran_order': False, 'shape': (4,)}",
    "{'descr': ('<f8', (4,)), 'fortran_order': False, 'shape': ()}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1, " * 70 + "4)}",
    f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**70}, {2**70}, 0)}}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 8)}",
    f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**62}, {2**62}, 0)}}",
    "__import__('os').system('true')",
    "[" * 400,
    "-" * 400 + "1",
    "\xff\xfe",
    "",
    "1",
]


@pytest.mark.parametrize("text", HARM)
def test_records_written_to_do_harm(queue: shmpool.AlfQueue, text: str) -> None:
    """Whatever the text says, it is NoArray, and nothing of it is run."""
    good = received(queue, b"{'descr': '<f8', 'fortran_order': False, 'shape': (4,)}", 32)
    assert (4,) == good.shape
    with pytest.raises(shmpool.NoArray, match="has a corrupted array record"):
        received(queue, text.encode("latin-1"), 32)
    del good
    assert at_rest(queue.pool)


# What is more than literals; Python's parser needs a frame of the C stack for each of them.
DEEP = ["-" * 5900 + "1", "not " * 4000 + "1", "lambda:" * 2300 + "1", "1**" * 5400 + "1"]


@pytest.mark.parametrize("text", DEEP, ids=["minus", "not", "lambda", "power"])
def test_a_text_that_is_code(text: str) -> None:
    """It is refused before Python's parser sees it, which would run out of a small stack."""
    failed: list[BaseException] = []

    def parse() -> None:
        try:
            arrays.parse(text.encode())
        except ValueError as error:
            failed.append(error)

    before = threading.stack_size(256 << 10)
    try:
        thread = threading.Thread(target=parse)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert 1 == len(failed)


def test_what_a_text_may_have() -> None:
    """Names of fields with quotes, brackets and other scripts, titles, offsets and sub-arrays."""
    kinds = [
        np.dtype([("(" * 40, "u1"), ("it's", "<f8"), ('"', ">i2"), ("größe", "U3")]),
        np.dtype([(("a title", "a"), "u1", (2, 3))]),
        np.dtype({"names": ["a"], "formats": ["u1"], "offsets": [8], "itemsize": 24}),
    ]
    for kind in kinds:
        assert kind == arrays.parse(arrays.record_text(kind, (2, 0), False))[0]


def test_a_handler_that_raises_while_a_text_is_read(queue: shmpool.AlfQueue) -> None:
    """Its exception comes out, and not NoArray."""
    kind = np.dtype([("a", [("b", "u1")])])  # nested: parsed each time

    class StopError(Exception):
        pass

    def stop(*_: object) -> None:
        raise StopError

    handler, stops = signal.signal(signal.SIGALRM, stop), 0
    gc.disable()  # an exception of the handler in a finalizer would come out of no call
    try:
        for i in range(2000):
            with contextlib.suppress(StopError, shmpool.Empty):
                if not len(queue):
                    queue.put_array(np.zeros(2, kind))
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + i % 20))
                queue.get_array(timeout=0)
                signal.setitimer(signal.ITIMER_REAL, 0)
                continue
            stops += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        gc.enable()
    assert stops
