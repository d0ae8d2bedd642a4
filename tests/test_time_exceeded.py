# SPDX-License-Identifier: Apache-2.0
"""clients.time_exceeded: which packets are answered, and with which bytes."""

from pathlib import Path

import dpkt
import numpy as np
import pytest
from conftest import MakePool

from clients.forward import Counts, forward
from clients.routes import Table
from clients.time_exceeded import Allowance, TimeExceeded
from shmpool.net import CaptureSink, CaptureSource
from shmpool.net.headers import Checksum

OWN, NEIGHBOUR = b"\x02\0\0\0\0\xfe", b"\x02\0\0\0\0\x01"
SOURCES = {4: bytes([192, 0, 2, 254]), 6: bytes.fromhex("20010db80001000000000000000000fe")}
CLIENT6, SERVER6 = (bytes.fromhex(f"20010db8000{n}0000000000000000000{n}") for n in (1, 2))
UDP = bytes(dpkt.udp.UDP(sport=33434, dport=33435, ulen=48, data=b"u" * 40))


def four(data: bytes, protocol: int = 17, **fields: int) -> bytes:
    ip = dpkt.ip.IP(
        src=bytes([192, 0, 2, 1]), dst=bytes([198, 51, 100, 1]), p=protocol, ttl=1,
        len=20 + len(data), data=data,
    )  # fmt: skip
    for name, value in fields.items():
        setattr(ip, name, value)
    ip.data = data
    return OWN + NEIGHBOUR + b"\x08\0" + bytes(ip)


def six(data: bytes, protocol: int = 17) -> bytes:
    head = (6 << 28).to_bytes(4, "big") + len(data).to_bytes(2, "big") + bytes([protocol, 1])
    return OWN + NEIGHBOUR + b"\x86\xdd" + head + CLIENT6 + SERVER6 + data


def icmp(kind: int) -> bytes:
    return bytes([kind, 0, 0, 0, 0, 1, 0, 1]) + b"data"


def answers(make_pool: MakePool, path: Path, frames: list[bytes], **options: object) -> list[bytes]:
    """What is sent for packets that a router cannot forward, with right checksums."""
    pool = make_pool(buffer_size=2048, capacity=256)
    given = {"addresses": SOURCES, **options}
    with CaptureSink(path, format="pcap-ns") as sink, CaptureSink(path.with_name("out")) as out:
        one = TimeExceeded(pool, sink, OWN, **given)  # type: ignore[arg-type]
        burst = pool.alloc_many(len(frames))
        for buffer, frame in zip(burst, frames, strict=True):
            buffer.write(frame)
        burst.marks = [len(frame) for frame in frames]
        routes = ("0.0.0.0/0=02:00:00:00:00:02", "::/0=02:00:00:00:00:02")
        counts = Counts()
        forward(burst, Table(routes, OWN), out, counts, answers=one)
        assert (0, len(frames)) == (counts.forwarded, counts.expired), counts
        assert not pool.stats().held
    sent: list[bytes] = []
    with CaptureSource(pool, path) as source:
        for burst in source.bursts():
            states = burst.checksums()
            four = burst.headers().ip_version == 4
            assert (states.ip == np.where(four, Checksum.RIGHT, Checksum.NONE)).all()
            assert (states.transport == Checksum.RIGHT).all()
            sent += map(bytes, burst)
    assert one.sent == len(sent)
    return sent


CASES = {
    "udp": (four(UDP), True),
    "echo": (four(icmp(8), 1), True),
    "echo reply": (four(icmp(0), 1), True),
    "first fragment": (four(UDP, _flags_offset=0x2000), True),
    "later fragment": (four(UDP, _flags_offset=0x0010), False),
    "later fragment of an echo": (four(icmp(8), 1, _flags_offset=0x0010), False),
    **{f"icmp {kind}": (four(icmp(kind), 1), False) for kind in (3, 4, 5, 11, 12, 200)},
    "udp6": (six(UDP), True),
    "echo6": (six(icmp(128), 58), True),
    "echo reply6": (six(icmp(129), 58), True),
    **{f"icmp6 {kind}": (six(icmp(kind), 58), False) for kind in (1, 2, 3, 4, 100)},
    "later fragment6": (six(bytes([17, 0, 0, 9, 0, 0, 0, 1]) + UDP, 44), False),
    "first fragment6": (six(bytes([17, 0, 0, 1, 0, 0, 0, 1]) + UDP, 44), True),
}


@pytest.mark.parametrize(("frame", "answered"), CASES.values(), ids=CASES)
def test_answered(make_pool: MakePool, tmp_path: Path, frame: bytes, answered: bool) -> None:
    """ICMP errors, unknown types, and later fragments are not answered; all else is."""
    assert answered == bool(answers(make_pool, tmp_path / "sent", [frame]))


@pytest.mark.parametrize("size", [40, 1400])
def test_bytes(make_pool: MakePool, tmp_path: Path, size: int) -> None:
    """An answer goes to the sender, from the interface's address, and quotes the packet as it came,
    up to 576 bytes in all for IPv4 and 1280 for IPv6."""
    data = UDP[:8] + bytes(i % 251 for i in range(size))
    first, second = answers(make_pool, tmp_path / "sent", [four(data), six(data)])
    assert NEIGHBOUR + OWN == first[:12] == second[:12]
    ip = dpkt.ethernet.Ethernet(first).data
    assert (SOURCES[4], bytes([192, 0, 2, 1]), 64, 1) == (ip.src, ip.dst, ip.ttl, ip.p)
    assert (11, 0) == (ip.data.type, ip.data.code)
    assert four(data)[14:][: 576 - 28] == first[14 + 28 :]
    assert ip.len == len(first) - 14
    ip = dpkt.ethernet.Ethernet(second).data
    assert (SOURCES[6], CLIENT6, 64, 58) == (ip.src, ip.dst, ip.hlim, ip.nxt)
    assert (3, 0) == tuple(second[54:56])
    assert six(data)[14:][: 1280 - 48] == second[14 + 48 :]


def test_tagged(make_pool: MakePool, tmp_path: Path) -> None:
    """The answer has the VLAN tag of the packet."""
    frame = four(UDP)
    (sent,) = answers(make_pool, tmp_path / "sent", [frame[:12] + b"\x81\0\0\x07" + frame[12:]])
    assert b"\x81\0\0\x07\x08\0" == sent[12:18]


def test_limit(make_pool: MakePool, tmp_path: Path) -> None:
    """No more are sent than is allowed."""
    frames = [four(UDP)] * 10
    assert 3 == len(answers(make_pool, tmp_path / "a", frames, allowance=Allowance(0, 3)))
    assert 10 == len(answers(make_pool, tmp_path / "b", frames, allowance=Allowance(0, 10)))


def test_allowance() -> None:
    """It grows with time, up to its most."""
    allowance = Allowance(1e-9, 2)
    assert [True, True, False] == [allowance.take() for _ in range(3)]
    allowance.rate = 1e9
    while not allowance.take():
        pass
    allowance.rate = 0
    assert sum(allowance.take() for _ in range(5)) <= 2


def test_no_address(make_pool: MakePool, tmp_path: Path) -> None:
    """An interface without an address of the packet's version answers nothing."""
    frames = [four(UDP), six(UDP)]
    sent = answers(make_pool, tmp_path / "sent", frames, addresses={6: SOURCES[6]})
    assert [b"\x86\xdd"] == [frame[12:14] for frame in sent]


def test_no_buffer(make_pool: MakePool, tmp_path: Path) -> None:
    """Without a free buffer there is no answer, and no exception."""
    pool = make_pool(buffer_size=256, capacity=64)
    burst = pool.alloc_many(64)
    burst[0].write(four(UDP))
    with CaptureSink(tmp_path / "sent") as sink:
        one = TimeExceeded(pool, sink, OWN, SOURCES)
        one.answer(burst, burst.headers())
        assert 0 == one.sent
    burst.free()
