# SPDX-License-Identifier: Apache-2.0
"""shmpool.net, interrupted wherever CPython runs signal handlers: no packet is lost or doubled."""

import contextlib
import dis
import gzip
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from captures import pcap
from conftest import MakePool

import shmpool
import shmpool.net
from shmpool import net
from shmpool.net import CaptureSink, CaptureSource, UdpSocket

FOLDER = str(Path(shmpool.net.__file__).parent)
# After these CPython asks for signals, but for PRECALL, which is a part of a call.
ASKS = {
    code
    for name, code in dis.opmap.items()
    if name.startswith(("CALL", "RESUME", "JUMP_BACKWARD")) or "_JUMP_BACKWARD_" in name
}


class Interrupted(BaseException):
    """What the handler raises: in which function, behind which line."""


@contextlib.contextmanager
def interrupted_at(step: int) -> Iterator[list[int]]:
    """Raises at place number `step` of shmpool.net. The list has how many there were."""
    ran = [0]
    before: dict[FrameType, int] = {}

    def opcode(frame: FrameType, event: str, _: object) -> Any:
        if event == "opcode":
            code, last = frame.f_code.co_code, before.get(frame, -1)
            before[frame] = frame.f_lasti
            if last >= 0 and code[last] in ASKS:
                ran[0] += 1
                if ran[0] == step:
                    raise Interrupted(frame.f_code.co_name, frame.f_lineno)
        elif event == "return":
            before.pop(frame, None)
        return opcode

    def call(frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return opcode

    outside = sys.gettrace()
    sys.settrace(call)
    try:
        yield ran
    finally:
        sys.settrace(outside)


PACKETS = [random.Random(i).randbytes(2000) for i in range(330)]


@pytest.fixture
def pool(make_pool: MakePool) -> shmpool.Pool:
    return make_pool(buffer_size=2048, capacity=1024)


def at_each_place(once: Any, least: int = 20) -> None:
    """Calls once(1), once(2), ... until one was not interrupted."""
    for _ in range(3):
        once(0)  # from CPython 3.12 on a function's bytecodes are traced from a later call on
    step = 1
    while once(step):
        step += 1
    assert step > least


@pytest.mark.slow
@pytest.mark.parametrize("compressed", [False, True])
def test_read(pool: shmpool.Pool, tmp_path: Path, compressed: bool) -> None:
    """Each packet of a file comes once and in order, whatever call is interrupted."""
    data = pcap(PACKETS)
    (tmp_path / "in").write_bytes(gzip.compress(data, 1) if compressed else data)

    def once(step: int) -> bool:
        found: list[bytes] = []
        interrupted = False
        with CaptureSource(pool, tmp_path / "in") as source, contextlib.ExitStack() as stack:
            stack.enter_context(interrupted_at(step))
            while True:
                try:
                    burst = source.get_many(100)
                except Interrupted:
                    interrupted = True
                    continue
                except shmpool.ShutDown:
                    break
                found += map(bytes, burst)
                burst.free()
        assert PACKETS == found
        return interrupted

    at_each_place(once)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.pcap", "out.pcap.gz"])
@pytest.mark.parametrize("size", [None, 400_000])
def test_write(pool: shmpool.Pool, tmp_path: Path, name: str, size: int | None) -> None:
    """Each packet is in the files once and in order, if an interrupted drain() is repeated."""

    def once(step: int) -> bool:
        interrupted = False
        for path in tmp_path.iterdir():
            path.unlink()
        sink = CaptureSink(tmp_path / name, format="pcap", size=size)
        bursts = []
        for half in (PACKETS[:200], PACKETS[200:]):
            bursts.append(pool.alloc_many(len(half)))
            for buffer, packet in zip(bursts[-1], half, strict=True):
                buffer.write(packet)
        with interrupted_at(step):
            for burst in bursts:
                while True:
                    try:
                        sink.drain(burst)
                    except Interrupted:
                        interrupted = True
                        continue
                    except shmpool.BufferReleased:  # the call was done, but for its return
                        pass
                    break
            while True:
                try:
                    sink.close()
                except Interrupted:
                    interrupted = True
                    continue
                break
        paths = sorted(tmp_path.iterdir())
        assert PACKETS == [packet.data for path in paths for packet in net.packets(path)]
        assert len(PACKETS) == sink.sent().packets
        return interrupted

    at_each_place(once)
    stats = pool.stats()
    assert stats.created == stats.free + stats.cached


@pytest.mark.parametrize("addresses", [False, True])
def test_received(pool: shmpool.Pool, addresses: bool) -> None:
    """Datagrams that a call had received are those of the next call, as many as it wants."""
    with UdpSocket(pool, ("127.0.0.1", 0)) as server:

        def once(step: int) -> bool:
            interrupted = False
            found: list[bytes] = []
            with UdpSocket(pool, peer=server.address) as client:
                burst = pool.alloc_many(5)
                for i, buffer in enumerate(burst):
                    buffer.write(b"%d" % i)
                client.drain(burst)
                most = 5
                with interrupted_at(step):
                    while len(found) < 5:
                        try:
                            if addresses:
                                burst, senders = server.get_many_from(most, timeout=10)
                                ports = set(senders["port"].tolist())
                                assert (len(burst), {client.address[1]}) == (len(senders), ports)
                            else:
                                burst = server.get_many(most, timeout=10)
                        except Interrupted:
                            interrupted = True
                            most = 2
                            continue
                        assert len(burst) <= most
                        found += map(bytes, burst)
                        burst.free()
            assert [b"%d" % i for i in range(5)] == found
            return interrupted

        at_each_place(once, least=1)
