# SPDX-License-Identifier: Apache-2.0
"""Corrupted segments: before they are attached, and while they are in use."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MakePool

import shmpool
import shmpool.segment
from shmpool._ffi import ffi, lib
from shmpool.view import View
from tests.fuzz_words import SHARED_OFFSET, Segment

SMALL = {"members": 4, "queues": 1, "prealloc": 64}
SEVERAL = {"buffer_size": [64, 256, 4096], "capacity": 64, "prealloc": 4}  # size classes
CLASSES = pytest.mark.parametrize("classes", [{}, SEVERAL], ids=["one class", "three classes"])


def segment(name: str) -> Path:
    return Path(f"/dev/shm/shmpool.{name}")


@pytest.mark.parametrize("size", [1, 100, 255, 700, 4096, 100_000])
def test_a_file_of_noise(pool_name: str, size: int) -> None:
    """A file of random bytes is SegmentInvalid. create does not touch such a file of another
    program."""
    noise = os.urandom(size)
    segment(pool_name).write_bytes(noise)
    with pytest.raises(shmpool.SegmentInvalid, match=pool_name):
        shmpool.Pool.attach(pool_name)
    with pytest.raises(shmpool.PoolExists, match=pool_name):
        shmpool.Pool.create(pool_name, buffer_size=64, capacity=2)
    assert noise == segment(pool_name).read_bytes()
    shmpool.Pool.unlink(pool_name)


def other_files(name: str) -> dict[str, Callable[[], object]]:
    """How to create each kind of file that is no regular file in /dev/shm."""
    path = segment(name)
    return {
        "fifo": lambda: os.mkfifo(path),
        "directory": lambda: path.mkdir(),
        "link": lambda: path.symlink_to("/etc/passwd"),
        "socket": lambda: socket.socket(socket.AF_UNIX).bind(str(path)),
    }


@pytest.mark.usefixtures("own_pools")
@pytest.mark.filterwarnings("ignore:unclosed")
@pytest.mark.parametrize("kind", ["fifo", "directory", "link", "socket"])
def test_what_is_no_file(pool_name: str, kind: str) -> None:
    """A pool's name that is no regular file is not waited for, not followed, and not removed."""
    other_files(pool_name)[kind]()
    try:
        for call in (shmpool.Pool.attach, View):
            with pytest.raises(shmpool.SegmentInvalid, match="not a pool: remove it"):
                call(pool_name)
        with pytest.raises(shmpool.PoolExists):
            shmpool.Pool.create(pool_name, buffer_size=64, capacity=2)
        assert pool_name not in shmpool.prune()
        assert os.path.lexists(segment(pool_name))
    finally:
        segment(pool_name).rmdir() if kind == "directory" else segment(pool_name).unlink()


@pytest.mark.parametrize("keep", [1, 200, 4096, -4096, -1])
def test_a_truncated_segment(make_pool: MakePool, pool_name: str, keep: int) -> None:
    """A truncated file is SegmentInvalid. attach never accesses memory beyond its end."""
    whole = segment(make_pool(**SMALL).name).read_bytes()
    segment(pool_name).write_bytes(whole[:keep])
    with pytest.raises(shmpool.SegmentInvalid, match=pool_name):
        shmpool.Pool.attach(pool_name)


def test_a_segment_with_a_tail(make_pool: MakePool, pool_name: str) -> None:
    """A file that is longer than its header says is invalid, like one that is shorter."""
    whole = segment(make_pool(**SMALL).name).read_bytes()
    segment(pool_name).write_bytes(whole + bytes(4096))
    with pytest.raises(shmpool.SegmentInvalid, match=str(len(whole))):
        shmpool.Pool.attach(pool_name)


@pytest.mark.parametrize(
    ("offset", "what"),
    [(0, "magic"), (8, "version"), (16, "hash"), (24, "initialised")],
)
def test_foreign_headers(make_pool: MakePool, pool_name: str, offset: int, what: str) -> None:
    """Another magic, version or layout hash is SegmentInvalid that names which."""
    whole = bytearray(segment(make_pool(**SMALL).name).read_bytes())
    whole[offset] ^= 0x55
    segment(pool_name).write_bytes(whole)
    with pytest.raises(shmpool.SegmentInvalid, match=f"{pool_name}.*{what}"):
        shmpool.Pool.attach(pool_name)


@CLASSES
def test_every_byte_of_the_header(
    make_pool: MakePool, pool_name: str, classes: dict[str, Any]
) -> None:
    """No byte of the header can change unnoticed: the checksum covers what no other check does."""
    whole = bytearray(segment(make_pool(**SMALL | classes, headroom=8).name).read_bytes())
    used = max(at for at in range(SHARED_OFFSET) if whole[at]) + 1
    for at in range(used):
        for bit in (0x01, 0x80):
            whole[at] ^= bit
            segment(pool_name).write_bytes(whole)
            with pytest.raises(shmpool.SegmentInvalid, match=pool_name):
                shmpool.Pool.attach(pool_name)
            whole[at] ^= bit
    segment(pool_name).write_bytes(whole)
    shmpool.Pool.attach(pool_name).close()


CHANGED_WORDS = """
    import random, signal, struct, sys
    from pathlib import Path
    import shmpool

    signal.alarm(50)
    whole = Path(f"/dev/shm/shmpool.{sys.argv[1]}").read_bytes()
    path = Path(f"/dev/shm/shmpool.{sys.argv[2]}")
    chance = random.Random(1)
    refused = 0

    def use(pool):
        queue = pool.queues()[0] if pool.queues() else pool.create_queue("q", capacity=8)
        queue.send_many([b"x"] * 4, timeout=0)
        queue.recv_many(4, timeout=0)
        pool.alloc_many(8, timeout=0).free()
        pool.audit(), pool.stats(), pool.members()

    for offset in range(0, int(sys.argv[3]), 8):
        (word,) = struct.unpack_from("<Q", whole, offset)
        for value in (
            0, 1, word ^ 1, word + 1, word - 1, word * 2, word ^ 2**32, word ^ 2**63,
            2**64 - 1, 2**63, 2**32, chance.getrandbits(64), chance.getrandbits(20),
        ):
            value %= 2**64
            if value == word:
                continue
            changed = bytearray(whole)
            struct.pack_into("<Q", changed, offset, value)
            path.write_bytes(changed)
            try:
                with shmpool.Pool.attach(sys.argv[2]) as pool:
                    use(pool)
            except (shmpool.SegmentInvalid, shmpool.PoolNotFound):
                refused += 1
            path.unlink()
    print(refused)
"""


@CLASSES
def test_every_word_of_the_header(
    make_pool: MakePool, pool_name: str, run: Callable[..., str], classes: dict[str, Any]
) -> None:
    """With any word of the header changed attach refuses the pool, or the pool can be used
    safely."""
    pool = make_pool(**SMALL | {"buffer_size": 64} | classes)
    pool.create_queue("q", capacity=8)
    assert int(run(CHANGED_WORDS, pool.name, pool_name, SHARED_OFFSET)) > 200


@pytest.mark.parametrize("ring", ["free", "side", "warm"])
@pytest.mark.parametrize("name", ["capacity", "room", "id", "flags", "backed", "prod", "cons"])
def test_a_damaged_ring_of_free_buffers(make_pool: MakePool, name: str, ring: str) -> None:
    """A ring that is not as the geometry says, or holds more than it has room for, is
    SegmentInvalid that names it."""
    sizes = {"buffer_size": [64, 1 << 20], "capacity": [1024, 4], "prealloc": [1024, 0]}
    pool = make_pool(**SMALL | sizes, bulk=16, cache_size=0, free_rings=3)
    pool.alloc_many(64).free()  # into a side ring
    words = Segment(f"/dev/shm/shmpool.{pool.name}")
    (found,) = [row for row in words.queues if row.name == f"queue.queue.{name}"]
    slot = {"free": 0, "side": found.count - 2, "warm": found.count - 1}[ring]
    word = found.word(slot)
    right = words.read(word)
    for call in (shmpool.Pool.attach, View):
        for value in (right + 2**20, right ^ 1 << 8 * word.width - 1):
            words.write(word, value)
            with pytest.raises(shmpool.SegmentInvalid, match=f"in queue slot {slot} does not"):
                call(pool.name)
        words.write(word, right)
        call(pool.name).close()
    words.close()


@pytest.mark.parametrize("number", [9, 2**32, 2**63, 2**64 - 1])
def test_a_damaged_number_of_size_classes(make_pool: MakePool, number: int) -> None:
    """It is SegmentInvalid that says how many there can be."""
    name = make_pool(**SMALL | SEVERAL).name
    words = Segment(f"/dev/shm/shmpool.{name}")
    words.write(words.named("header.classes"), number)
    words.close()
    said = f"has {number} size classes, .* from 1 to 8"
    for call in (shmpool.Pool.attach, View):
        with pytest.raises(shmpool.SegmentInvalid, match=said):
            call(name)


CORRUPT = """
    import mmap, os, random, signal, sys
    import shmpool

    signal.alarm(50)
    chance = random.Random(int(sys.argv[2]))
    strange = set()
    for round in range(40):
        name = f"{sys.argv[1]}-{round}"
        pool = shmpool.Pool.create(
            name, buffer_size=[64, 256][:1 + round % 2], capacity=256, prealloc=64, members=8,
            queues=2,
        )
        fd = os.open(f"/dev/shm/shmpool.{name}", os.O_RDWR)
        shmpool.Pool.unlink(name)
        raw = mmap.mmap(fd, 0)
        os.close(fd)
        queue = pool.create_queue("q", capacity=16)
        other = pool.create_queue("p", capacity=16, producers="single", consumers="single")
        held = [pool.alloc() for _ in range(3)]
        data = raw.find(b"\\xa5" * 64) if held[0].write(b"\\xa5" * 64) else -1
        data -= data % 4096
        calls = [
            lambda: held.append(pool.alloc(timeout=0, size=chance.choice((0, 64, 200)))),
            lambda: held.pop().free(),
            lambda: queue.put(held[-1], timeout=0),
            lambda: other.put(held[-1], timeout=0),
            lambda: held.append(queue.get(timeout=0)),
            lambda: held.append(other.get(timeout=0)),
            lambda: queue.send(b"x" * chance.choice((40, 200)), timeout=0),
            lambda: queue.recv(timeout=0),
            lambda: queue.send_many([b"a", b"bc"] * 5, timeout=0),
            lambda: queue.recv_many(9, timeout=0),
            lambda: queue.put_many(pool.alloc_many(5, timeout=0), timeout=0),
            lambda: bytes(queue.get_many(9, timeout=0)[0]),
            lambda: queue.get_many(9, timeout=0).column(4, "u4"),
            lambda: setattr(queue.get_many(9, timeout=0), "lengths", 9),
            lambda: held[-1].write(b"y" * 64),
            lambda: bytes(held[-1]),
            lambda: setattr(held[-1], "headroom", 8),
            lambda: held[-1].mark,
            lambda: (len(queue), queue.full(), queue.empty()),
            lambda: pool.queue("q"),
            lambda: pool.queues(),
            lambda: pool.stats(),
            lambda: pool.members(),
            lambda: pool.audit(),
        ]
        whole = chance.random() < 0.3
        for step in range(60):
            n = chance.choice((1, 4, 8, 64, 600))
            at = chance.randrange(int(sys.argv[3]), 5000 if chance.random() < 0.5 else data - n)
            raw[at : at + n] = chance.randbytes(n) if chance.random() < 0.7 else b"\\xff" * n
            for call in chance.sample(calls, 4):
                try:
                    call()
                except (shmpool.ShmpoolError, IndexError, BufferError):  # BufferError: a chain
                    pass
                except Exception as error:
                    strange.add(repr(error))
        held.clear()
        try:
            pool.close()
        except shmpool.ShmpoolError:
            pass
    print(sorted(strange))
"""


@pytest.mark.parametrize("seed", range(3))
def test_corruption_never_crashes(pool_name: str, run: Callable[..., str], seed: int) -> None:
    """Random bytes over rings, headers and caches of a live pool cause exceptions, no crash, no
    hang."""
    assert "[]\n" == run(CORRUPT, pool_name, seed, SHARED_OFFSET)


def corrupt(pool: shmpool.Pool, find: bytes, at: int, write: bytes) -> None:
    """Writes bytes into the pool's segment, counted from a position whose content is unique."""
    whole = segment(pool.name).read_bytes()
    assert 1 == whole.count(find)
    with segment(pool.name).open("r+b") as file:
        file.seek(whole.index(find) + at)
        file.write(write)


def test_a_damaged_queue_name(pool: shmpool.Pool) -> None:
    """It is SegmentInvalid that names the pool. A read-only view sees the part that can be read."""
    pool.create_queue("a-queue", capacity=8)
    corrupt(pool, b"a-queue", 1, b"\xff")
    for call in (pool.queues, pool.audit):
        with pytest.raises(shmpool.SegmentInvalid, match=rf"{pool.name}.* queue 1 .*xffqueue"):
            call()
    with View(pool.name) as view:
        assert [r"a\xffqueue#1"] == [found.name for found in view.queues()]


@pytest.mark.parametrize("number", [2, 64, 65, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_damaged_dead_letter(pool: shmpool.Pool, number: int) -> None:
    """A number that is no queue's is SegmentInvalid that names pool and queue."""
    pool.create_queue("a-queue", capacity=8)
    corrupt(pool, b"a-queue", 64 + 4, number.to_bytes(4, "little"))
    with pytest.raises(shmpool.SegmentInvalid, match=f"{pool.name}.*'a-queue' is queue {number}$"):
        assert pool.queue("a-queue").dead_letter
    with View(pool.name) as view:
        assert [None] == [found.dead_letter for found in view.queues()]


@pytest.mark.parametrize("length", [257, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_damaged_length(pool: shmpool.Pool, length: int) -> None:
    """A length that no buffer can have is treated as 0, in a burst too."""
    burst = pool.alloc_many(2)
    burst[1].timestamp = 0x1122334455667788
    queue = pool.create_queue("q", capacity=8)
    queue.put_many(burst)
    stamp = (0x1122334455667788).to_bytes(8, "little")
    corrupt(pool, stamp, 12 - 32, length.to_bytes(4, "little"))
    burst = queue.get_many(2)
    assert [0, 0] == burst.lengths.tolist()
    assert [b"", b""] == [bytes(buf) for buf in burst]


def test_a_corrupted_headroom_writes_nowhere_else(make_pool: MakePool) -> None:
    """write and lengths stay inside the buffer, whatever its header in shared memory says."""
    pool = make_pool(prealloc=64)
    held = sorted((pool.alloc() for _ in range(8)), key=lambda buf: buf.index)
    for buf in held:
        buf.write(b"%d" % buf.index)
        buf.timestamp = 0x1122334455667788
    raw = bytearray(segment(pool.name).read_bytes())
    header = raw.find((0x1122334455667788).to_bytes(8, "little")) - 32
    first = held[0]
    for headroom in (2**32 - 1, 300, 2**31):
        with segment(pool.name).open("r+b") as file:
            file.seek(header + 16)
            file.write(headroom.to_bytes(4, "little"))
        with pytest.raises(shmpool.ShmpoolError):
            first.write(b"x" * 600)
        with pytest.raises(shmpool.ShmpoolError):
            first.length = 600
    assert [b"%d" % buf.index for buf in held[1:]] == [bytes(buf) for buf in held[1:]]


STAMP = 0x1122334455667788


def stamped(pool: shmpool.Pool, buf: shmpool.Buffer) -> Callable[[int, int], None]:
    """Returns a function that overwrites a 32-bit word of the buffer's header at that offset."""
    buf.timestamp = STAMP
    raw = segment(pool.name).read_bytes()
    header = raw.find(STAMP.to_bytes(8, "little")) - 32
    buf.timestamp = 0

    def overwrite(at: int, word: int) -> None:
        with segment(pool.name).open("r+b") as file:
            file.seek(header + at)
            file.write(word.to_bytes(4, "little"))

    return overwrite


HEADROOM, LENGTH = 16, 12


@pytest.mark.parametrize("which", ["first", "last"])
@pytest.mark.parametrize("headroom", [0, 1, 65, 4032, 4096, 4097, 2**31, 2**32 - 1])
def test_a_corrupted_headroom_leads_nowhere(make_pool: MakePool, which: str, headroom: int) -> None:
    """Another process overwrites the headroom word of a buffer with any value.

    Neither its owner nor the next one, alone or in a burst, reads or writes outside the segment.
    """
    pool = make_pool(buffer_size=4096, capacity=64, headroom=4032, **SMALL)
    queue = pool.create_queue("q", capacity=8)
    held = sorted((pool.alloc() for _ in range(64)), key=lambda buf: buf.index)
    neighbour = held[1]
    neighbour.write(b"n" * 64)
    buf = held[0 if which == "first" else 63]
    buf.write(b"a" * 8)
    overwrite = stamped(pool, buf)
    overwrite(HEADROOM, headroom)
    assert (4032, 64, b"a" * 8) == (buf.headroom, len(buf.data), bytes(buf))
    for call in (lambda: buf.write(bytes(65)), lambda: setattr(buf, "length", 65)):
        with pytest.raises(shmpool.PayloadTooLarge):
            call()
    assert 64 == buf.write(b"b" * 64)
    overwrite(LENGTH, 4096)
    assert (b"b" * 64, 64) == (bytes(buf.view), len(buf))
    queue.put(buf)
    got = queue.get()
    assert got.headroom + len(got) <= 4096
    assert len(got.data) <= 4096
    assert len(got.data) == 4096 - got.headroom
    queue.put(got)
    burst = queue.get_many(1)
    assert burst.lengths[0] <= 4096
    element = burst[0]
    assert element.headroom + len(element) <= 4096
    room = max(4096 - headroom, 0)
    for width in (room, 1):
        for offset in (2**64 - headroom % 4096, 2**64 - 1, room, 2**63):
            with pytest.raises(shmpool.InvalidArgument):
                burst.column(offset, f"V{width + 1}")
            with pytest.raises(shmpool.InvalidArgument):
                burst.set_column(offset, b"x", "S1")
    with pytest.raises(shmpool.ShmpoolError):
        burst.lengths = 4097
    queue.put_many(burst)
    assert len(queue.recv()) <= 4096
    assert b"n" * 64 == bytes(neighbour)
    del held
    assert pool.audit().ok


def planned(buffer_size: int, capacity: int, members: int, queues: int) -> int:
    """Returns the length of a pool's file."""
    geometry, why = ffi.new("struct shmpool_geometry *"), ffi.new("struct shmpool_refusal *")
    for option in ("cache_size", "bulk", "refill_multiplier"):
        setattr(geometry, option, lib.SHMPOOL_DEFAULT)
    geometry.buffer_size, geometry.capacity = buffer_size // 64 * 64, capacity
    geometry.members, geometry.queues = members, queues
    assert 0 == lib.shmpool_plan(geometry, why), why.option
    return int(geometry.size)


def test_a_header_that_changes_while_it_is_attached(make_pool: MakePool) -> None:
    """A pool's geometry is what its header said at one moment.

    Python shows the geometry that C uses, whatever the header says before and after.
    """
    many = make_pool(buffer_size=4096, capacity=4096, members=2, queues=1)
    size = segment(many.name).stat().st_size
    room = next(r for r in range(size // 2, 0, -64) if planned(r, 2, 2, 1) == size)
    few = make_pool(buffer_size=room, capacity=2, members=2, queues=1)
    assert segment(few.name).stat().st_size == segment(many.name).stat().st_size
    headers = [segment(pool.name).read_bytes()[:256] for pool in (few, many)]
    flips = 0
    for was, then in (headers, headers[::-1]):
        with segment(many.name).open("r+b", buffering=0) as file:
            file.write(was)
            opened = shmpool.segment.Segment.attach(many.name)
            file.seek(0)
            file.write(then)
            try:
                pool = shmpool.Pool(opened)
            except shmpool.SegmentInvalid:
                continue
            file.seek(0)
            file.write(was)
            sizes = (pool.buffer_size, pool.capacity)
            assert sizes in ((few.buffer_size, 2), (4096, 4096))
            with pool.alloc(timeout=0) as buf:
                assert buf.index < pool.capacity
                assert pool.buffer_size == len(buf.data)
            flips += 1
            pool.close()
    assert flips


@pytest.mark.parametrize("index", [64, 2**24, 2**32 - 1])
@pytest.mark.parametrize("kind", ["alloc", "alloc_many", "send", "send_many"])
def test_a_corrupted_cache_gives_no_buffer_beyond(
    make_pool: MakePool, index: int, kind: str
) -> None:
    """An invalid number of a free buffer is SegmentInvalid. The other buffers of the bulk are not
    lost."""
    pool = make_pool(cache_size=16, bulk=16, **SMALL)
    queue = pool.create_queue("q", capacity=8)
    pool.alloc_many(8).free()
    last = pool.alloc_many(3)
    handle = last[1].generation + 1 << 32 | last[1].index  # as it is once the buffer is free
    last.free()
    at = (
        segment(pool.name).read_bytes().find(handle.to_bytes(8, "little"))
    )  # the cache is read first
    with segment(pool.name).open("r+b") as file:
        file.seek(at)
        file.write(index.to_bytes(4, "little"))
    calls: dict[str, Callable[[], object]] = {
        "alloc": lambda: [pool.alloc(timeout=0) for _ in range(3)],
        "alloc_many": lambda: pool.alloc_many(3, timeout=0),
        "send": lambda: [queue.send(b"x", timeout=0) for _ in range(3)],
        "send_many": lambda: queue.send_many([b"x"] * 3, timeout=0),
    }
    with pytest.raises(shmpool.SegmentInvalid):
        calls[kind]()
    queue.recv_many(8, timeout=0) if len(queue) else None
    held = pool.audit().held
    assert {} == held or [1] == list(held.values())  # its number was overwritten
