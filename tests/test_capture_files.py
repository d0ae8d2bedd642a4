# SPDX-License-Identifier: Apache-2.0
"""shmpool.net.CaptureSource and CaptureSink: files into bursts, and bursts into files."""

import gzip
import itertools
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import dpkt
import pytest
from captures import ETHERNET, OTHER, RAW, Section, pcap
from conftest import MakePool

import shmpool
from shmpool import net
from shmpool.net import CaptureError, CaptureSink, CaptureSource, Interface

DATA = Path(__file__).resolve().parent / "data"
LITTLE, BIG = Section("<"), Section(">")
Read = tuple[int, int, int, bytes]


def read(pool: shmpool.Pool, path: Path | str, n: int = 256) -> list[Read]:
    """Each packet: time, interface, bytes that it had, and its bytes. Frees them."""
    found: list[Read] = []
    with CaptureSource(pool, path) as source:
        for burst in source.bursts(n):
            times, numbers = burst.timestamps.tolist(), net.interface_numbers(burst).tolist()
            lengths = net.original_lengths(burst).tolist()
            found += zip(times, numbers, lengths, map(bytes, burst), strict=True)
            del burst
    return found


@pytest.fixture
def pool(make_pool: MakePool) -> shmpool.Pool:
    return make_pool(buffer_size=2048, capacity=1024)


@pytest.mark.parametrize("name", ["mixed.pcap", "mixed.pcapng"])
@pytest.mark.parametrize("n", [1, 7, 256])
def test_recorded(pool: shmpool.Pool, name: str, n: int) -> None:
    """Bursts of any size have the packets, in order, and no buffer is left."""
    expected = [packet.data for packet in net.packets(DATA / name)]
    found = read(pool, DATA / name, n)
    assert expected == [data for *_, data in found]
    assert [packet.time for packet in net.packets(DATA / name)] == [time for time, *_ in found]
    stats = pool.stats()
    assert stats.created == stats.free + stats.cached


def test_interfaces_and_comments(pool: shmpool.Pool, tmp_path: Path) -> None:
    """Interfaces of all sections are numbered through; comments have their packet's number."""
    data = b""
    for section in (LITTLE, BIG):
        named = section.option(2, b"eth0") + section.option(1, b"up\xc3\xbc") + bytes(4)
        data += section.begin() + section.interface(RAW, 96, named) + section.interface(OTHER)
        note = section.option(1, b"look") + section.option(1, b"twice") + bytes(4)
        body = (0, 0, 5, 4, 1500)
        data += section.block(6, "IIIII", *body, data=b"abcd" + note)
        data += section.packet(b"efg", 1, 7)
    (tmp_path / "in").write_bytes(data)
    found = read(pool, tmp_path / "in")
    assert [
        (5000, 0, 1500, b"abcd"),
        (7000, 1, 3, b"efg"),
        (5000, 2, 1500, b"abcd"),
        (7000, 3, 3, b"efg"),
    ] == found
    with CaptureSource(pool, tmp_path / "in") as source:
        for burst in source.bursts():
            commented = (burst.marks & net.COMMENTED != 0).tolist()
        assert [True, False, True, False] == commented
        assert {0: "look\ntwice", 2: "look\ntwice"} == source.comments
        eth0 = Interface(RAW, 96, "eth0", comment="upü")
        assert [eth0, Interface(OTHER), eth0, Interface(OTHER)] == source.interfaces


def test_too_long(make_pool: MakePool, tmp_path: Path) -> None:
    """A packet that no buffer holds is truncated, as by a snaplen, and counted."""
    pool = make_pool(buffer_size=64, capacity=64)
    (tmp_path / "in").write_bytes(pcap([b"x" * 64, b"y" * 65, b"z" * 100_000]))
    with CaptureSource(pool, tmp_path / "in") as source:
        (burst,) = source.bursts()
        assert [64, 64, 64] == burst.lengths.tolist()
        assert [64, 65, 100_000] == net.original_lengths(burst).tolist()
        assert (3, 192, 2, 0) == (
            source.statistics().packets,
            source.statistics().bytes,
            source.statistics().truncated,
            source.statistics().dropped,
        )
        burst.free()


def test_size_classes(make_pool: MakePool, tmp_path: Path) -> None:
    """Each packet gets a buffer of the smallest class that holds it."""
    pool = make_pool(buffer_size=[64, 2048], capacity=[64, 64])
    (tmp_path / "in").write_bytes(pcap([b"x" * 64, b"y" * 65, b"z"]))
    with CaptureSource(pool, tmp_path / "in") as source:
        (burst,) = source.bursts()
        assert [64, 2048, 64] == [len(buffer.data) for buffer in burst]
        burst.free()


def test_no_buffer(make_pool: MakePool, tmp_path: Path) -> None:
    """Without a free buffer the call waits and raises; packets stay, and none is skipped."""
    pool = make_pool(buffer_size=64, capacity=64, cache_size=0)
    (tmp_path / "in").write_bytes(pcap([bytes([i]) for i in range(10)]))
    held = pool.alloc_many(pool.stats().capacity - 3)
    with CaptureSource(pool, tmp_path / "in") as source:
        first = source.get_many()
        assert 3 == len(first)
        with pytest.raises(shmpool.PoolExhausted):
            source.get_many(timeout=0.01)
        assert [b"\0", b"\1", b"\2"] == list(map(bytes, first))
        timer = threading.Timer(0.05, held.free)
        timer.start()
        rest = list(itertools.chain.from_iterable(map(list, source.bursts())))
        assert [bytes([i]) for i in range(3, 10)] == list(map(bytes, rest))
        timer.join()
        first.free()


def test_damaged(pool: shmpool.Pool, tmp_path: Path) -> None:
    """The packets before the damage come first; then each call names the place."""
    (tmp_path / "in").write_bytes(pcap([b"one", b"two"])[:-1])
    with CaptureSource(pool, tmp_path / "in") as source:
        with source.get_many() as burst:
            assert [b"one"] == list(map(bytes, burst))
        for _ in range(2):
            with pytest.raises(CaptureError, match=r"in: truncated at byte 61, in .* at byte 43"):
                source.get_many()


def test_gzip(pool: shmpool.Pool, tmp_path: Path) -> None:
    """gzip is decompressed on the way. If it is damaged the error says where."""
    whole = gzip.compress((DATA / "mixed.pcap").read_bytes())
    (tmp_path / "in.gz").write_bytes(whole)
    assert read(pool, DATA / "mixed.pcap") == read(pool, tmp_path / "in.gz")
    (tmp_path / "in.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CaptureError, match=r"at byte \d+ of what is decompressed"):
        read(pool, tmp_path / "in.gz")


def test_zstd(pool: shmpool.Pool, tmp_path: Path) -> None:
    """zstd too, where the standard library has it; elsewhere the error says what to do."""
    path = tmp_path / "out.pcapng.zst"
    if sys.version_info < (3, 14):
        path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
        with pytest.raises(CaptureError, match="needs Python 3"):
            read(pool, path)
        with pytest.raises(shmpool.InvalidArgument, match="needs Python 3"):
            CaptureSink(path)
        assert 24 == path.stat().st_size
    else:
        with CaptureSink(path) as sink, CaptureSource(pool, DATA / "mixed.pcap") as source:
            for burst in source.bursts():
                sink.drain(burst)
        assert read(pool, DATA / "mixed.pcap") == read(pool, path)


def test_pipe(pool: shmpool.Pool, tmp_path: Path) -> None:
    """A pipe is read as it fills. Timeouts and close() from another thread end the wait."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    data = pcap([b"one", b"two"])
    with path.open("r+b", buffering=0) as end:
        end.write(data[:-1])
        source = CaptureSource(pool, path)
        with source.get_many(timeout=5) as burst:
            assert [b"one"] == list(map(bytes, burst))
        with pytest.raises(shmpool.Empty):
            source.get_many(timeout=0.01)
        end.write(data[-1:])
        with source.get_many(timeout=5) as burst:
            assert [b"two"] == list(map(bytes, burst))
        timer = threading.Timer(0.05, source.close)
        timer.start()
        assert [] == list(source.bursts())
        timer.join()
        with pytest.raises(shmpool.ShutDown):
            source.get_many()


@pytest.mark.parametrize("form", ["pcapng", "pcap", "pcap-ns"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_written(pool: shmpool.Pool, tmp_path: Path, form: str, suffix: str) -> None:
    """What was read and written is the same, and dpkt reads the same packets."""
    path = tmp_path / f"out.{form}{suffix}"
    with (
        CaptureSink(path, format=form) as sink,  # type: ignore[arg-type]
        CaptureSource(pool, DATA / "mixed.pcap") as source,
    ):
        for burst in source.bursts():
            sink.drain(burst)
        assert (3825, 0) == (sink.sent().packets, sink.sent().refused)
    assert read(pool, DATA / "mixed.pcap") == read(pool, path)
    with gzip.open(path) if suffix else path.open("rb") as file:
        packets = [data for _, data in dpkt.pcap.UniversalReader(file)]
    assert [packet.data for packet in net.packets(DATA / "mixed.pcap")] == packets
    stats = pool.stats()
    assert stats.created == stats.free + stats.cached


def test_written_interfaces_and_comments(pool: shmpool.Pool, tmp_path: Path) -> None:
    """Interfaces, their numbers, truncated lengths, and comments are written and read again."""
    interfaces = [Interface(RAW, 96, "a", "first", "note"), Interface(ETHERNET, 0, "b")]
    burst = pool.alloc_many(2)
    for buffer, text in zip(burst, (b"abc", b"defgh"), strict=True):
        buffer.write(text)
    burst.timestamps = [10**18 + 1, 2**63 - 1]
    burst.marks = [1 << 22 | 1500, 4]
    path = tmp_path / "out"
    with CaptureSink(path, interfaces=interfaces, comment="all") as sink:
        sink.drain(burst, comments={1: "why: ü"})
        with pytest.raises(shmpool.BufferReleased):
            len(burst)
    assert [(10**18 + 1, 1, 1500, b"abc"), (2**63 - 1, 0, 5, b"defgh")] == read(pool, path)
    with CaptureSource(pool, path) as source:
        for burst in source.bursts():
            burst.free()
        assert {1: "why: ü"} == source.comments
        assert interfaces == source.interfaces
        assert ["all"] == source.section_comments


def test_freed_elements(pool: shmpool.Pool, tmp_path: Path) -> None:
    """A Buffer that was freed by itself is not written; comments stay with their positions."""
    for freed in ([1], [0], [2], [0, 1, 2]):
        burst = pool.alloc_many(3)
        for i, buffer in enumerate(burst):
            buffer.write(b"%d" % i)
        for i in freed:
            burst[i].free()
        left = [i for i in range(3) if i not in freed]
        with CaptureSink(tmp_path / "out") as sink:
            assert len(left) == sink.drain(burst, comments={2: "last"}) == sink.sent().packets
        assert [b"%d" % i for i in left] == [data for *_, data in read(pool, tmp_path / "out")]
        with CaptureSource(pool, tmp_path / "out") as source:
            for found in source.bursts():
                found.free()
            assert {left.index(2): "last"} == source.comments if 2 in left else not source.comments


def test_chains_are_written_whole(make_pool: MakePool, tmp_path: Path) -> None:
    """A message of several buffers is one packet."""
    pool = make_pool(buffer_size=64, capacity=64)
    with pool.alloc(size=500) as chain:
        chain.write(bytes(range(250)) * 2)
        burst = pool.burst([chain])
    with CaptureSink(tmp_path / "out") as sink:
        sink.drain(burst)
    assert [bytes(range(250)) * 2] == [packet.data for packet in net.packets(tmp_path / "out")]


def numbered(pool: shmpool.Pool, first: int, n: int) -> shmpool.Burst:
    """Packets of 100 bytes, each with its number."""
    burst = pool.alloc_many(n)
    for i, buffer in enumerate(burst, first):
        buffer.write(struct.pack(">I", i) + bytes(96))
    return burst


def test_rotates_by_size(pool: shmpool.Pool, tmp_path: Path) -> None:
    """No file is longer than size; together they have every packet; only the last are kept."""
    with CaptureSink(tmp_path / "t.pcapng", size=1000) as sink:
        for first in range(0, 100, 20):
            sink.drain(numbered(pool, first, 20))
        paths = sink.paths
    assert [f"t-{i:05}.pcapng" for i in range(1, len(paths) + 1)] == [p.name for p in paths]
    assert all(path.stat().st_size <= 1000 for path in paths)
    numbers = [int.from_bytes(p.data[:4], "big") for path in paths for p in net.packets(path)]
    assert list(range(100)) == numbers
    with CaptureSink(tmp_path / "u.pcapng", size=1000, files=2) as sink:
        sink.drain(numbered(pool, 0, 100))
    assert len(list(tmp_path.glob("u-*"))) == 2 == len(sink.paths)
    with (
        CaptureSink(tmp_path / "v.pcapng", size=200) as sink,
        pytest.raises(shmpool.InvalidArgument, match="not even one packet"),
    ):
        sink.drain(burst := numbered(pool, 0, 1))
    burst.free()


def test_rotates_by_time(
    pool: shmpool.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many seconds the next burst begins a file."""
    now = [0.0]
    monkeypatch.setattr("shmpool.net.recording.time.monotonic", lambda: now[0])
    with CaptureSink(tmp_path / "t.pcap", format="pcap", seconds=60) as sink:
        for second in (0, 59, 60, 61, 121):
            now[0] = float(second)
            sink.drain(numbered(pool, second, 1))
    found = [
        [int.from_bytes(packet.data[:4], "big") for packet in net.packets(path)]
        for path in sink.paths
    ]
    assert [[0, 59], [60, 61], [121]] == found


def test_a_rotation_fails(pool: shmpool.Pool, tmp_path: Path) -> None:
    """The burst stays with the caller, and the next drain() tries again."""
    folder = tmp_path / "captures"
    folder.mkdir()
    with CaptureSink(folder / "out.pcap", format="pcap", size=400) as sink:
        for data in (b"a" * 200, b"b" * 200):
            burst = pool.alloc_many(1)
            burst[0].write(data)
            if data[:1] == b"b":
                shutil.rmtree(folder)
                for _ in range(2):
                    with pytest.raises(FileNotFoundError):
                        sink.drain(burst)
                assert 1 == len(burst)
                folder.mkdir()
            assert 1 == sink.drain(burst)
        assert [b"b" * 200] == [packet.data for packet in net.packets(sink.paths[-1])]
    with pytest.raises(shmpool.ShutDown):
        sink.drain(pool.alloc_many(1))


def test_full_disk(pool: shmpool.Pool, tmp_path: Path) -> None:
    """A write that fails leaves whole packets in the file and the burst with the caller."""
    program = (
        "import resource, shmpool, signal, sys\n"
        "from shmpool.net import CaptureSink\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "pool = shmpool.Pool.attach(sys.argv[1])\n"
        "sink = CaptureSink(sys.argv[2])\n"
        "burst = pool.alloc_many(1); burst[0].write(bytes(2048)); sink.drain(burst)\n"
        "burst = pool.alloc_many(200); burst.lengths = 2048\n"
        "try:\n    sink.drain(burst)\n"
        "except OSError as error:\n    print(error.errno, len(burst))\n"
    )
    segment = pool.name
    done = subprocess.run(
        [sys.executable, "-c", program, segment, tmp_path / "out"], capture_output=True, text=True
    )
    if "OutOfSharedMemory" in done.stderr or "limit" in done.stderr.lower():
        pytest.skip("the limit of a file's size hits the pool first")
    assert "27 200\n" == done.stdout, done.stderr
    assert [bytes(2048)] == [packet.data for packet in net.packets(tmp_path / "out")]


@pytest.mark.parametrize(
    "options",
    [{"format": "erf"}, {"interfaces": []}, {"size": 0}, {"seconds": -1}, {"files": 0}],
)
def test_bad_options(tmp_path: Path, options: dict[str, object]) -> None:
    """An option that is not allowed leaves no file."""
    with pytest.raises(shmpool.InvalidArgument):
        CaptureSink(tmp_path / "out", **options)  # type: ignore[arg-type]
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", range(20))
def test_bursts_of_anything(pool: shmpool.Pool, tmp_path: Path, seed: int) -> None:
    """Of damaged bytes, bursts have the same packets as tuples, and the same error follows."""
    rng = random.Random(seed)
    section = rng.choice([LITTLE, BIG])
    data = bytearray(section.begin() + section.interface())
    for i in range(20):
        data += section.packet(rng.randbytes(rng.randrange(70)), 0, i)
    for _ in range(3):
        data[rng.randrange(len(data))] = rng.randrange(256)
    (tmp_path / "in").write_bytes(data)
    expected, actual, errors = [], [], []
    try:
        for packet in net.packets(tmp_path / "in"):
            expected.append(packet.data)
    except CaptureError as error:
        errors.append(str(error))
    try:
        with CaptureSource(pool, tmp_path / "in") as source:
            for burst in source.bursts(rng.choice([1, 3, 256])):
                actual += map(bytes, burst)
                burst.free()
    except CaptureError as error:
        errors.append(str(error))
    assert expected == actual
    assert len(set(errors)) <= 1
    assert len(errors) in (0, 2)


def test_compressed_pipe(pool: shmpool.Pool, tmp_path: Path) -> None:
    """What has come through a compressed pipe is read; timeouts end a wait within a record."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH) for data in HALVES]
    with path.open("r+b", buffering=0) as end:
        end.write(parts[0][:2])
        timer = threading.Timer(0.05, end.write, (parts[0][2:],))
        timer.start()
        source = CaptureSource(pool, path)
        timer.join()
        with source.get_many(timeout=5) as burst:
            assert [b"one"] == list(map(bytes, burst))
        for _ in range(2):
            with pytest.raises(shmpool.Empty):
                source.get_many(timeout=0.01)
        end.write(parts[1])
        with source.get_many(timeout=5) as burst:
            assert [b"two"] == list(map(bytes, burst))
        timer = threading.Timer(0.05, source.close)
        timer.start()
        assert [] == list(source.bursts())
        timer.join()


HALVES = (pcap([b"one", b"two"])[:-1], pcap([b"one", b"two"])[-1:])


@pytest.mark.parametrize("size", [1, 1 << 16, 1 << 18, (1 << 18) + 1, 10**6])
def test_gzip_streams(pool: shmpool.Pool, tmp_path: Path, size: int) -> None:
    """Several streams of gzip behind each other, padded with zeros, are one file; so is one that
    becomes a thousand times as long. What follows that is no stream, or half of one, is damage."""
    data = pcap([bytes(2000)] * 500)
    parts = [data[i : i + size] for i in range(0, len(data), size)] if size > 1 else [data]
    streams = b"".join(gzip.compress(part) + bytes(len(part) % 7) for part in parts)
    (tmp_path / "in.gz").write_bytes(streams)
    assert 500 == len(read(pool, tmp_path / "in.gz"))
    for more in (b"no stream", gzip.compress(b"")[:-1]):
        (tmp_path / "in.gz").write_bytes(streams + more)
        found = 0
        with CaptureSource(pool, tmp_path / "in.gz") as source:
            while found < 500:
                with source.get_many() as burst:
                    found += len(burst)
            with pytest.raises(CaptureError, match=rf"at byte {len(data)} of what is decomp"):
                source.get_many()


FILL = """
import resource, shmpool, signal, sys
from shmpool.net import CaptureSink
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
pool = shmpool.Pool.attach(sys.argv[1])
queue = pool.queue("work")
sink = CaptureSink(sys.argv[2], **eval(sys.argv[4]))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), hard))
failed = 0
try:
    while True:
        burst = queue.get_many(256)
        try:
            sink.drain(burst)
        except OSError:
            failed += 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            try:
                sink.drain(burst)
            except shmpool.BufferReleased:
                pass
except shmpool.ShutDown:
    pass
sink.close()
print(failed, sink.sent().packets, flush=True)
"""


@pytest.mark.parametrize("name", ["out.pcapng", "out.pcapng.gz"])
@pytest.mark.parametrize("options", [{}, {"size": 300_000}])
def test_repeated_writes(
    make_pool: MakePool, tmp_path: Path, name: str, options: dict[str, int]
) -> None:
    """A burst that takes several writes, of which one fails, can be drained again: each packet is
    in the files once and in order, compressed or not."""
    pool = make_pool(buffer_size=2048, capacity=2048)
    queue = pool.create_queue("work", capacity=1024)
    rng = random.Random(1)
    packets = [rng.randbytes(2000) for _ in range(700)]
    for first in range(0, 700, 100):
        burst = pool.alloc_many(100)
        for buffer, data in zip(burst, packets[first : first + 100], strict=True):
            buffer.write(data)
        queue.put_many(burst)
    queue.shutdown()
    done = subprocess.run(
        [sys.executable, "-c", FILL, pool.name, tmp_path / name, "270000", repr(options)],
        capture_output=True,
        text=True,
    )
    assert "1 700\n" == done.stdout, done.stderr
    paths = sorted(tmp_path.glob("out*"))
    assert (len(paths) == 1) == (not options)
    assert packets == [packet.data for path in paths for packet in net.packets(path)]
