# SPDX-License-Identifier: Apache-2.0
"""shmpool.net: the packets of pcap and pcapng files, and the errors for damaged ones."""

import random
import struct
from pathlib import Path

import dpkt
import pytest
from captures import ETHERNET, OTHER, RAW, Section, pcap

from shmpool.net import CaptureError, Packet
from shmpool.net import packets as read_packets

DATA = Path(__file__).resolve().parent / "data"
PACKETS = [b"first", b"", b"the third"]
LITTLE, BIG = Section("<"), Section(">")
BEGUN = LITTLE.begin() + LITTLE.interface()


def read(path: Path, data: bytes) -> tuple[list[Packet], str]:
    """The packets of a file with these bytes, and the error message after the file's name."""
    path.write_bytes(data)
    packets = []
    try:
        for packet in read_packets(path):
            packets.append(packet)
    except CaptureError as error:
        return packets, str(error).partition(str(path))[2].lstrip(": ")
    return packets, ""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "capture"


@pytest.mark.parametrize("name", ["mixed.pcap", "mixed.pcapng"])
def test_recorded(name: str) -> None:
    """Every packet and its time are those that dpkt reads."""
    with (DATA / name).open("rb") as file:
        expected = [(float(time), ETHERNET, data) for time, data in dpkt.pcap.UniversalReader(file)]
    actual = [(time, link, data) for time, link, data in read_packets(DATA / name)]
    assert [packet[1:] for packet in expected] == [packet[1:] for packet in actual]
    for (seconds, *_), (time, *_) in zip(expected, actual, strict=True):
        assert time is not None
        assert abs(time / 1e9 - seconds) < 1e-6


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("magic", "tick"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1), (0xA1B2CD34, 1000)]
)
def test_pcap(path: Path, order: str, magic: int, tick: int) -> None:
    """Both byte orders, microseconds, nanoseconds, and the variant with longer headers."""
    expected = [Packet((1 + i) * 10**9 + 2 * i * tick, RAW, p) for i, p in enumerate(PACKETS)]
    assert (expected, "") == read(path, pcap(PACKETS, RAW, order, magic))


def test_pcapng(path: Path) -> None:
    """Two sections with different byte orders, several interfaces, and every type of block with a
    packet. Other blocks are skipped."""
    data = b""
    for section in (LITTLE, BIG):
        data += section.begin() + section.block(4, "HH", 0, 0)
        data += section.interface(OTHER, snaplen=3) + section.interface(RAW)
        data += section.packet(b"a", 1, 5) + section.block(0xBAD, "I", 32473, data=b"custom")
        data += section.simple_packet(b"abc", 3000) + section.simple_packet(b"ab")
        data += section.old_packet(b"abcde", 0, 7 << 32) + section.packet(b"")
    half = [
        Packet(5000, RAW, b"a"),
        Packet(None, OTHER, b"abc"),
        Packet(None, OTHER, b"ab"),
        Packet((7 << 32) * 1000, OTHER, b"abcde"),
        Packet(0, OTHER, b""),
    ]
    assert (half + half, "") == read(path, data)


@pytest.mark.parametrize(
    ("resolution", "time"),
    [
        (None, 3 * 10**9 + 1000),
        (6, 3 * 10**9 + 1000),
        (9, 3 * 10**6 + 1),
        (0, 3000001 * 10**9),
        (0x80 | 20, 3000001 * 10**9 >> 20),
        (127, 0),
    ],
)
@pytest.mark.parametrize("offset", [0, -(2**63), 2**63 - 1])
def test_clocks(path: Path, resolution: int | None, time: int, offset: int) -> None:
    """Times are in units of if_tsresol, decimal or binary, after if_tsoffset."""
    for section in (LITTLE, BIG):
        options = section.option(2, b"eth0") + section.option(
            14, struct.pack(f"{section.order}q", offset)
        )
        if resolution is not None:
            options += section.option(9, bytes([resolution]))
        options += section.option(0, b"")
        data = section.begin() + section.interface(options=options)
        data += section.packet(b"x", time=3000001)
        assert ([Packet(time + offset * 10**9, ETHERNET, b"x")], "") == read(path, data)


@pytest.mark.parametrize(
    "records",
    [
        [pcap([]), *(pcap([packet])[24:] for packet in PACKETS)],
        [BEGUN, *map(LITTLE.packet, PACKETS)],
        [BEGUN, *map(LITTLE.simple_packet, PACKETS)],
    ],
    ids=["pcap", "pcapng", "simple"],
)
def test_truncated(path: Path, records: list[bytes]) -> None:
    """Wherever a file is truncated, its whole packets are read. Then the error names the offset,
    unless it is the end of a record."""
    ends = [sum(map(len, records[: i + 1])) for i in range(len(records))]
    begins = [0, *ends]
    if records[0] == BEGUN:
        begins.append(len(LITTLE.begin()))
    whole = b"".join(records)
    for size in range(4, len(whole) + 1):
        packets, wrong = read(path, whole[:size])
        assert PACKETS[: sum(end <= size for end in ends[1:])] == [p.data for p in packets]
        start = max(begin for begin in begins if begin <= size)
        if start == size:
            assert "" == wrong
        else:
            assert f"truncated at byte {size}, in the record at byte {start}" == wrong


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"", "is not a pcap or pcapng file: it is empty"),
        (b"\n\r\r", "is not a pcap or pcapng file: it begins with 0a 0d 0d"),
        (b"\x1f\x8b\x08\0" * 9, "at byte 0 of what is decompressed: "),
        (pcap([])[:4] + bytes(20), "at byte 0: pcap version is 0.0"),
        (pcap([]) + b"\xff" * 16, "at byte 24: a packet of 4294967295 bytes"),
        (LITTLE.begin()[:8] + bytes(20), "at byte 0: a section with the byte order 00 00 00 00"),
        (LITTLE.begin().replace(b"\1\0\0\0", b"\2\0\3\0"), "at byte 0: pcapng version is 2.3"),
        (LITTLE.block(0x0A0D0D0A, "I", 0x1A2B3C4D), "at byte 0: a section of 4 bytes"),
        (BEGUN + struct.pack("<II", 7, 13), "at byte 48: a block of 13 bytes"),
        (BEGUN + struct.pack("<II", 7, 8), "at byte 48: a block of 8 bytes"),
        (BEGUN + struct.pack("<II", 7, 2**32 - 4), "at byte 48: a block of 4294967292 bytes"),
        (BEGUN + struct.pack("<III", 7, 12, 16), "at byte 48: a block with the size 0c 00 00 00"),
        (LITTLE.begin() + LITTLE.block(1, "I", 1), "at byte 28: an interface of 4 bytes"),
        (LITTLE.begin() + LITTLE.packet(b""), "at byte 28: a packet of interface 0"),
        (LITTLE.begin() + LITTLE.simple_packet(b""), "at byte 28: a packet of interface 0"),
        (BEGUN + LITTLE.block(6, "II", 0, 0), "at byte 48: a packet's block of 8 bytes"),
        (BEGUN + LITTLE.block(3, ""), "at byte 48: a packet's block of 0 bytes"),
        (BEGUN + LITTLE.simple_packet(b"abcd", 5), "at byte 48: a packet of 5 bytes"),
        (
            LITTLE.begin() + LITTLE.interface(options=LITTLE.option(9, b"")),
            "at byte 28: if_tsresol of 0 bytes",
        ),
        (
            LITTLE.begin() + LITTLE.interface(options=LITTLE.option(14, b"1234")),
            "at byte 28: if_tsoffset of 4 bytes",
        ),
        (
            LITTLE.begin() + LITTLE.interface(options=struct.pack("<HH", 9, 200)),
            "at byte 28: option 9 of 200 bytes",
        ),
    ],
)
def test_damaged(path: Path, data: bytes, wrong: str) -> None:
    """The error says what is wrong and where. A size that is only claimed allocates no memory."""
    packets, actual = read(path, data)
    assert [] == packets
    assert actual.startswith(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_anything(path: Path, seed: int) -> None:
    """With bytes changed, removed and inserted, packets are read up to the end or an error."""
    rng = random.Random(seed)
    section = rng.choice([LITTLE, BIG])
    options = section.option(9, b"\6") + section.option(14, bytes(8)) + section.option(0, b"")
    data = bytearray(
        rng.choice(
            [
                pcap(PACKETS * 3, order=section.order),
                section.begin()
                + section.interface(options=options)
                + b"".join(map(section.packet, PACKETS))
                + b"".join(map(section.simple_packet, PACKETS))
                + b"".join(map(section.old_packet, PACKETS)),
            ]
        )
    )
    for _ in range(100):
        mutant = data.copy()
        for _ in range(rng.choice([1, 2, 5])):
            at = rng.randrange(len(mutant))
            some = rng.choice([b"", b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x07", rng.randbytes(1)])
            mutant[at : at + rng.choice([0, 1, 4])] = some
        packets, wrong = read(path, mutant)
        assert sum(len(packet.data) for packet in packets) <= len(mutant)
        assert "\n" not in wrong
