# SPDX-License-Identifier: Apache-2.0
"""Burst.headers(): every column of every packet, against what the packets were made of, dpkt and
scapy."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dpkt
import pytest
from conftest import MakePool
from header_oracles import by_dpkt, by_scapy
from packets import NETS, Made, arp, combinations, frame, linked, packet, tcp, udp

import shmpool

np = pytest.importorskip("numpy", reason="shmpool[numpy] is not installed")

from shmpool.net.headers import COLUMNS, RECORD, Headers, Layer, Link  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
ALL = list(combinations())
ON_ETHERNET = [made.data for made in ALL if made.link == Link.ETHERNET]
Filled = Callable[[list[bytes]], shmpool.Burst]


@pytest.fixture
def filled(make_pool: MakePool) -> Filled:
    """Makes a burst of these packets."""
    pool = make_pool(buffer_size=2048, capacity=8192)
    queue = pool.create_queue("packets", capacity=8192)

    def fill(packets: list[bytes]) -> shmpool.Burst:
        queue.send_many(packets, timeout=0)
        return queue.get_many(8192)

    return fill


def captured() -> list[bytes]:
    """The recorded packets."""
    packets = []
    for name in ("mixed.pcap", "mixed.pcapng"):
        with (DATA / name).open("rb") as file:
            packets += [data for _, data in dpkt.pcap.UniversalReader(file)]
    return packets


def assert_columns(headers: Headers, wanted: list[dict[str, Any]]) -> None:
    """Every column is what is wanted, or 0."""
    for name, kind, *_ in COLUMNS:
        values = [columns.get(name, 0) for columns in wanted]
        if kind == "(16,)u1":
            values = [list(value or bytes(16)) for value in values]
        np.testing.assert_array_equal(getattr(headers, name), np.array(values), name)


@pytest.mark.parametrize("link", Link)
def test_every_combination(filled: Filled, link: Link) -> None:
    """Every column of every combination of headers, and of the packet in a tunnel, is right."""
    made = [packet for packet in ALL if packet.link == link]
    assert len(made) > 150
    headers = filled([packet.data for packet in made]).headers(link, inner=True)
    assert headers.inner is not None
    assert_columns(headers, [packet.columns for packet in made])
    assert_columns(headers.inner, [packet.inner for packet in made])


def test_packets_behind_an_offset(filled: Filled) -> None:
    """Packets may begin behind bytes of the application: offsets are the packet's own."""
    made = [frame(net, tcp(net.version)) for net in NETS]
    burst = filled([b"\x08\x00" * 3 + packet.data for packet in made])
    assert_columns(burst.headers(at=6), [packet.columns for packet in made])
    beyond = burst.headers(at=1 << 40)
    assert_columns(beyond, [{"layers": Layer.TRUNCATED}] * len(made))


def agree(filled: Filled, packets: list[bytes], oracle: Callable[[bytes], Any]) -> int:
    """Compares all packets that are whole. Returns how many these are.

    Left out are packets with the tag 0x9100, which neither tool knows, and for dpkt those with
    labels, of which it gives the last one.
    """
    headers = filled(packets).headers(inner=True)
    assert headers.inner is not None
    wrong = Layer.BAD | Layer.TRUNCATED | (Layer.MPLS if oracle is by_dpkt else 0)
    count = 0
    for i, data in enumerate(packets):
        if (headers.layers[i] | headers.inner.layers[i]) & wrong:
            continue
        if headers.vlans[i] and b"\x91\x00" in (data[12:14], data[16:18], data[20:22]):
            continue
        count += 1
        found = oracle(data)
        pairs = (
            [(headers, found)]
            if isinstance(found, dict)
            else zip((headers, headers.inner), found, strict=True)
        )
        for ours, theirs in pairs:
            for name, value in theirs.items():
                got = ours.records[name][i]
                assert value == (got.tobytes() if got.shape else got), (name, data.hex())
    return count


def flipped(packets: list[bytes], n: int, seed: int) -> list[bytes]:
    """n of the packets with 1 to 4 bits changed in their headers, half of them truncated too."""
    chance = random.Random(seed)
    made = []
    for _ in range(n):
        data = bytearray(chance.choice(packets))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(min(len(data), 90))] ^= 1 << chance.randrange(8)
        made.append(bytes(data[: chance.choice((len(data), chance.randint(0, len(data))))]))
    return made


def test_as_dpkt(filled: Filled) -> None:
    """dpkt reads the same from recorded, made and damaged packets."""
    packets = captured()
    assert len(packets) == agree(filled, packets, by_dpkt)
    assert agree(filled, ON_ETHERNET, by_dpkt) > 450
    assert agree(filled, flipped(packets + ON_ETHERNET, 4000, 1), by_dpkt) > 1500


@pytest.mark.filterwarnings("ignore")  # scapy's own imports
def test_as_scapy(filled: Filled) -> None:
    """scapy reads the same from recorded, made and damaged packets, and from those in tunnels."""
    pytest.importorskip("scapy", reason="shmpool[dev] is not installed")
    packets = captured()
    assert len(packets[::20]) == agree(filled, packets[::20], by_scapy)
    assert agree(filled, ON_ETHERNET[::4], by_scapy) > 300
    assert agree(filled, flipped(packets + ON_ETHERNET, 1500, 2), by_scapy) > 500


def test_truncated(filled: Filled) -> None:
    """A packet that is truncated anywhere is read as far as it is there, and says so.

    The buffers hold the whole packet; only their length says where it ends.
    """
    made = [
        linked(
            packet(net, tcp(net.version)), 0x0800 if net.version == 4 else 0x86DD, 1, (0x8100,), 1
        )
        for net in NETS
    ]
    made += [frame(net, udp(net.version)) for net in NETS]
    for whole in made:
        n = len(whole.data)
        burst = filled([whole.data] * n)
        burst.lengths = range(n)
        headers = burst.headers()
        layers = headers.layers.tolist()
        assert all(layer & Layer.TRUNCATED for layer in layers)
        assert not any(layer & ~(whole.columns["layers"] | Layer.TRUNCATED) for layer in layers)
        assert (headers.extensions <= whole.columns.get("extensions", 0)).all()
        counted = {"layers", "payload_length", "protocol", "ethertype", "extensions"}
        for name in set(RECORD.names) - counted:
            value = whole.columns.get(name, 0)
            for got in headers.records[name]:
                assert (got.tobytes() if got.shape else got) in (value, 0, bytes(16)), name
        burst.free()


def patched(made: Made, at: int, value: bytes) -> bytes:
    return made.data[:at] + value + made.data[at + len(value) :]


FOUR, SIX = frame(NETS[0], tcp(4)), frame(NETS[5], tcp(6))
UDP4 = frame(NETS[0], udp(4))
END = bytes([60, 0]) + bytes(6)  # an extension header before another one


@pytest.mark.parametrize(
    ("data", "layers"),
    [
        (patched(FOUR, 14, b"\x55"), Layer.ETHERNET),
        (patched(FOUR, 14, b"\x44"), Layer.ETHERNET),
        (patched(FOUR, 16, b"\0\x13"), Layer.ETHERNET),
        (patched(FOUR, 16, b"\0\x27"), Layer.ETHERNET | Layer.IPV4),
        (patched(FOUR, 46, b"\x40"), Layer.ETHERNET | Layer.IPV4 | Layer.TCP),
        (patched(FOUR, 46, b"\xf0"), Layer.ETHERNET | Layer.IPV4 | Layer.TCP),
        (patched(UDP4, 38, b"\0\x07"), Layer.ETHERNET | Layer.IPV4 | Layer.UDP),
        (patched(UDP4, 38, b"\1\0"), Layer.ETHERNET | Layer.IPV4 | Layer.UDP),
        (patched(SIX, 14, b"\x50"), Layer.ETHERNET),
        (patched(SIX, 18, b"\0\x13"), Layer.ETHERNET | Layer.IPV6),
        (SIX.data[:12] + b"\x81\0\0\1" * 9 + SIX.data[12:], Layer.ETHERNET | Layer.VLAN),
        (SIX.data[:12] + b"\x88\x47" + bytes(4 * 17), Layer.ETHERNET | Layer.MPLS),
        (
            patched(SIX, 18, b"\0\x50\x3c")[:54] + END * 9 + bytes(8),
            Layer.ETHERNET | Layer.IPV6 | Layer.OPTIONS,
        ),
    ],
    ids=range(13),
)
def test_headers_that_contradict_themselves(filled: Filled, data: bytes, layers: Layer) -> None:
    """A header that contradicts itself is BAD, and nothing behind it is read."""
    headers = filled([data]).headers()
    assert layers | Layer.BAD == headers.layers[0]
    assert headers.payload_length[0] == 0 or layers & Layer.UDP


def test_lengths_of_zero_are_the_rest(filled: Filled) -> None:
    """Network cards that divide large packets get an IP length of 0: the packet is the rest."""
    headers = filled([patched(FOUR, 16, b"\0\0"), patched(SIX, 18, b"\0\0")]).headers()
    assert [25, 25] == headers.payload_length.tolist()
    assert not (headers.layers & (Layer.BAD | Layer.TRUNCATED)).any()


def test_padding_is_no_payload(filled: Filled) -> None:
    """What follows the IP packet in the frame is not counted as its payload."""
    headers = filled([FOUR.data + bytes(9), SIX.data + bytes(9), UDP4.data + bytes(9)]).headers()
    assert [25, 25, 25] == headers.payload_length.tolist()


def test_a_selection_of_headers(filled: Filled) -> None:
    """Headers are selected as their burst is, tunnels too; columns are views of the records."""
    burst = filled([made.data for made in (FOUR, SIX, arp(), UDP4)])
    headers = burst.headers(inner=True)
    four = headers.has(Layer.IPV4)
    assert [True, False, False, True] == four.tolist()
    assert [443, 5353] == headers[four].port_src.tolist() == headers.port_src[four].tolist()
    assert 2 == len(headers[four].inner) == len(burst[four])
    assert 1 == len(headers[0])
    assert np.shares_memory(headers.ttl, headers.records)
    assert {"port_dst", "has", "records"} <= set(dir(headers))
    assert "<shmpool.net.headers.Headers of 4 packets>" == repr(headers)
    with pytest.raises(AttributeError, match="headers have no column 'sport'"):
        headers.sport  # noqa: B018


def test_flow_names(filled: Filled) -> None:
    """flow is equal for packets of one flow and direction, and no others."""
    flows = filled([FOUR.data, SIX.data, FOUR.data + b"x", UDP4.data]).headers().flow
    assert 38 == flows.dtype.itemsize
    assert [True, False, True, False] == (flows == flows[0]).tolist()
    assert 3 == len(np.unique(flows))
    assert flows[0].tobytes()[:16] == bytes(10) + b"\xff\xff\xc0\0\2\1"


def test_of_a_chain_the_first_buffer(make_pool: MakePool) -> None:
    """A packet in several buffers is read as far as the first one has it."""
    queue = make_pool(buffer_size=64, capacity=64).create_queue("packets", capacity=4)
    long = frame(NETS[0], tcp(4, payload=bytes(500)))
    queue.send(long.data)
    with queue.get_many(1) as burst:
        headers = burst.headers()
        assert long.columns["layers"] | Layer.TRUNCATED == headers.layers[0]
        assert (54, 10) == (headers.payload[0], headers.payload_length[0])
        assert [0] == burst.checksums().transport.tolist()


def test_wrong_arguments(filled: Filled) -> None:
    """What is wrong is refused with the values that are allowed."""
    burst = filled([FOUR.data])
    for link in (2, -1, 1 << 40):
        with pytest.raises(
            shmpool.InvalidArgument, match=rf"link is {link}; allowed are 0 \(NULL\), 1 \(ETHER"
        ):
            burst.headers(link)
    with pytest.raises(shmpool.InvalidArgument, match="at is -1 bytes"):
        burst.headers(at=-1)
    with pytest.raises(TypeError):
        burst.headers("ethernet")  # type: ignore[arg-type]
    buffer = burst[0]
    buffer.free()
    with pytest.raises(shmpool.BufferReleased):
        burst.headers()
    burst.free()
    for call in (burst.headers, burst.checksums, burst.set_checksums, burst.decrement_ttl):
        with pytest.raises(shmpool.BufferReleased):
            call()


def test_an_empty_burst(filled: Filled) -> None:
    """A burst that has given its buffers away has headers of no packets."""
    burst = filled([FOUR.data])
    rest = burst[:]
    assert 0 == len(burst.headers(inner=True)) == len(burst.flow_hash())
    assert 0 == len(burst.checksums().ip) == len(burst.decrement_ttl())
    rest.free()


def test_one_declaration_in_two_languages() -> None:
    """The fields and numbers of parse.h and checksum.h are those of headers.py."""
    text = (ROOT / "shmpool" / "net" / "parse.h").read_text()
    struct = re.search(r"struct parse_record \{\n(.*?)\n\};", text, re.DOTALL)
    assert struct is not None
    fields = re.findall(r"uint(\d+)_t (\w+)(?:\[(\d+)\])?;", struct[1])
    ours = [
        (name, f"({n},)u{int(bits) // 8}" if n else f"u{int(bits) // 8}")
        for bits, name, n in fields
    ]
    assert [(column.name, column.dtype) for column in COLUMNS] == ours
    assert 128 == RECORD.itemsize
    layers = re.findall(r"PARSE_L_(\w+) = 1 << (\d+),", text)
    assert {layer.name: int(layer) for layer in Layer} == {
        name: 1 << int(bit) for name, bit in layers
    }
    links = re.findall(r"PARSE_LINK_(\w+) = (\d+),", text)
    assert {link.name: int(link) for link in Link} == {name: int(number) for name, number in links}
