# SPDX-License-Identifier: Apache-2.0
"""What a burst does with packets: flow hashes, checksums, TTLs, and its division by columns."""

import ipaddress
import random
import struct

import pytest
from conftest import MakePool
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import NETS, Made, checksum, combinations, frame, packet, tcp, udp
from test_headers import Filled, captured, filled  # noqa: F401  # the fixture

import shmpool

np = pytest.importorskip("numpy", reason="shmpool[numpy] is not installed")

from shmpool.net.headers import RSS_KEY, Checksum, Layer, Link, flow_hashes  # noqa: E402

# Microsoft, "Verifying the RSS hash calculation": target, sender, hash of addresses, with ports.
VECTORS = [
    ("161.142.100.80", 1766, "66.9.149.187", 2794, 0x323E8FC2, 0x51CCC178),
    ("65.69.140.83", 4739, "199.92.111.2", 14230, 0xD718262A, 0xC626B0EA),
    ("12.22.207.184", 38024, "24.19.198.95", 12898, 0xD2D0A5DE, 0x5C2B394A),
    ("209.142.163.6", 2217, "38.27.205.30", 48228, 0x82989176, 0xAFC7327F),
    ("202.188.127.2", 1303, "153.39.163.191", 44251, 0x5D1809C5, 0x10E828A2),
    ("3ffe:2501:200:3::1", 1766, "3ffe:2501:200:1fff::7", 2794, 0x2CC18CD5, 0x40207D3D),
    ("ff02::1", 4739, "3ffe:501:8::260:97ff:fe40:efab", 14230, 0x0F0C461C, 0xDDE51BBF),
    (
        "fe80::200:f8ff:fe21:67cf",
        38024,
        "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
        44251,
        0x4B61E985,
        0x02D1FEEF,
    ),
]


def segment(target: str, port: int, sender: str, sender_port: int) -> bytes:
    """An IP packet with a TCP header."""
    to, by = (ipaddress.ip_address(text).packed for text in (target, sender))
    above = struct.pack(">HHIIHHHH", sender_port, port, 0, 0, 0x5000, 0, 0, 0)
    if len(to) == 4:
        return struct.pack(">BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + by + to + above
    return struct.pack(">IHBB", 6 << 28, 20, 6, 64) + by + to + above


def toeplitz(key: bytes, data: bytes) -> int:
    """The hash, bit by bit as Microsoft defines it."""
    window, result = int.from_bytes(key, "big"), 0
    for i in range(8 * len(data)):
        if data[i // 8] >> (7 - i % 8) & 1:
            result ^= window >> (8 * len(key) - 32 - i) & 0xFFFFFFFF
    return result


def test_microsofts_vectors(filled: Filled) -> None:  # noqa: F811
    """The hashes of Microsoft's packets are Microsoft's, with and without ports."""
    burst = filled([segment(*row[:4]) for row in VECTORS])
    headers = burst.headers(Link.IP)
    assert [row[5] for row in VECTORS] == burst.flow_hash(headers).tolist()
    assert [row[4] for row in VECTORS] == burst.flow_hash(headers, ports=False).tolist()
    assert [0] * len(VECTORS) == burst.flow_hashes.tolist()
    hashes = burst.flow_hash(headers, store=True)
    np.testing.assert_array_equal(hashes, burst.flow_hashes)


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=40, max_size=40), st.randoms(use_true_random=False))
def test_any_key(key: bytes, chance: random.Random) -> None:
    """The hash with any key is that of the definition."""
    rows = []
    for _ in range(8):
        four = chance.random() < 0.5
        bits, kind = (32, ipaddress.IPv4Address) if four else (128, ipaddress.IPv6Address)
        ends = [str(kind(chance.getrandbits(bits))) for _ in range(2)]
        rows.append((ends[0], chance.getrandbits(16), ends[1], chance.getrandbits(16)))
    with shmpool.Pool.create(None, buffer_size=128, capacity=64) as pool:
        queue = pool.create_queue("packets", capacity=8)
        queue.send_many([segment(*row) for row in rows])
        with queue.get_many(8) as burst:
            headers = burst.headers(Link.IP)
            got = burst.flow_hash(headers, key=key).tolist()
    for (target, port, sender, sender_port), value in zip(rows, got, strict=True):
        ends = ipaddress.ip_address(sender).packed + ipaddress.ip_address(target).packed
        assert toeplitz(key, ends + struct.pack(">HH", sender_port, port)) == value


def test_symmetric(filled: Filled) -> None:  # noqa: F811
    """With symmetric=True both directions have one hash; otherwise they have two."""
    there = [segment(*row[:4]) for row in VECTORS]
    back = [segment(*row[2:4], *row[:2]) for row in VECTORS]
    headers = filled(there + back).headers(Link.IP)
    for same, hashes in (
        (True, flow_hashes(headers, symmetric=True)),
        (False, flow_hashes(headers)),
    ):
        n = len(VECTORS)
        assert same == (hashes[:n] == hashes[n:]).all()
        assert n == len(np.unique(hashes[:n]))


def test_what_is_hashed(filled: Filled) -> None:  # noqa: F811
    """Fragments are hashed by addresses alone, so that they stay together; what is not IP is 0."""
    first, later = (frame(net, udp(4)).data for net in NETS[2:4])
    whole, route = frame(NETS[0], udp(4)).data, frame(NETS[4], udp(4)).data
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    hashes = filled([first, later, whole, route, arp, b""]).flow_hash().tolist()
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]
    assert [0, 0] == hashes[4:]


def test_the_flow_in_a_tunnel(filled: Filled) -> None:  # noqa: F811
    """headers.inner are hashed as headers are."""
    made = [m for m in combinations() if m.link == Link.ETHERNET and m.inner]
    burst = filled([m.data for m in made])
    headers = burst.headers(inner=True)
    inner = burst.flow_hash(headers.inner)
    assert 3 == len(np.unique(inner))
    assert 2 == len(np.unique(burst.flow_hash(headers, ports=False)))


def test_wrong_hash_arguments(filled: Filled) -> None:  # noqa: F811
    """A key of another length, two keys, and headers of another burst are refused."""
    burst = filled([segment(*row[:4]) for row in VECTORS])
    headers = burst.headers(Link.IP)
    with pytest.raises(shmpool.InvalidArgument, match="key has 39 bytes; it must have 40"):
        burst.flow_hash(headers, key=RSS_KEY[1:])
    with pytest.raises(shmpool.InvalidArgument, match="symmetric is for a hash without a key"):
        burst.flow_hash(headers, key=RSS_KEY, symmetric=True)
    with pytest.raises(shmpool.InvalidArgument, match="those of 2 packets; the burst has 8"):
        burst.flow_hash(headers[:2])
    strided = headers[::-1]
    assert flow_hashes(headers).tolist()[::-1] == flow_hashes(strided).tolist()


def states(made: Made) -> tuple[int, int]:
    """What is known of the checksums of a packet."""
    return (
        int(made.columns.get("ip_version") == 4) * Checksum.RIGHT,
        int(made.checked) * Checksum.RIGHT,
    )


@pytest.mark.parametrize("link", Link)
def test_checksums_of_every_combination(filled: Filled, link: Link) -> None:  # noqa: F811
    """Right checksums are RIGHT, and WRONG when a bit that they cover changes; set_checksums()
    makes the packet what it was."""
    made = [m for m in combinations() if m.link == link]
    burst = filled([m.data for m in made])
    ip, transport = burst.checksums(link)
    assert [states(m) for m in made] == list(zip(ip.tolist(), transport.tolist(), strict=True))
    for i, m in enumerate(made):
        at = m.columns["transport"] if m.checked else m.columns.get("network", 0)
        data = burst[i].view
        if m.checked:
            data[len(data) - 1] ^= 1  # of the payload, or of the header if there is none
        elif ip[i]:
            data[at + 1] ^= 1  # type of service
        data.release()
    wrong_ip, wrong_transport = burst.checksums(link)
    checked = np.array([m.checked for m in made])
    assert (wrong_transport[checked] == Checksum.WRONG).all()
    assert (wrong_ip[~checked & (ip == 1)] == Checksum.WRONG).all()
    set_ip, set_transport = burst.set_checksums(link)
    np.testing.assert_array_equal(set_ip, ip == 1)
    np.testing.assert_array_equal(set_transport, checked)
    again = burst.checksums(link)
    np.testing.assert_array_equal(ip, again.ip)
    np.testing.assert_array_equal(transport, again.transport)


def test_recorded_checksums(filled: Filled) -> None:  # noqa: F811
    """All checksums of the recordings are right, and are what set_checksums() writes."""
    packets = captured()
    burst = filled(packets)
    ip, transport = burst.checksums()
    headers = burst.headers()
    np.testing.assert_array_equal(ip == 1, headers.has(Layer.IPV4))
    np.testing.assert_array_equal(
        transport == 1, ~headers.has(Layer.FRAGMENT) & (headers.protocol > 0)
    )
    places = {Layer.TCP: 16, Layer.UDP: 6, Layer.ICMP: 2, Layer.ICMP6: 2}
    for i in np.nonzero(transport == 1)[0].tolist():
        field = next(at for layer, at in places.items() if headers.layers[i] & layer)
        with memoryview(burst[i]) as data:
            at = int(headers.transport[i]) + field
            data[at : at + 2] = b"\xab\xcd"
            if ip[i]:
                at = int(headers.network[i]) + 10
                data[at : at + 2] = b"\xab\xcd"
    some = np.arange(len(packets)) % 3 == 0
    done = burst.set_checksums(ip=False, where=some)[1]
    np.testing.assert_array_equal(done, some & (transport == 1))
    np.testing.assert_array_equal(burst.checksums(ip=False).transport == 1, done)
    assert not burst.checksums(ip=False).ip.any()
    for wrong in (some[1:], some[:, None]):
        with pytest.raises(shmpool.InvalidArgument, match="where has the shape"):
            burst.set_checksums(where=wrong)
    burst.set_checksums(ip=False, where=~some)
    assert not (burst.checksums().ip[(transport == 1) & (ip == 1)] == 1).any()
    burst.set_checksums(transport=False)
    assert not burst.checksums(transport=False).transport.any()
    assert packets == [bytes(burst[i]) for i in range(len(burst))]


def test_checksums_in_tunnels(filled: Filled) -> None:  # noqa: F811
    """With inner=True the checksums of the packet in the tunnel are meant."""
    made = [m for m in combinations() if m.link == Link.ETHERNET and m.inner]
    whole = [m.data for m in made]
    burst = filled(whole)
    ip, transport = burst.checksums(inner=True)
    assert (transport == Checksum.RIGHT).all()
    np.testing.assert_array_equal(ip == 1, [m.inner["ip_version"] == 4 for m in made])
    for i in range(len(burst)):
        with memoryview(burst[i]) as data:
            data[len(data) - 1] ^= 1
    assert (burst.checksums(inner=True).transport == Checksum.WRONG).all()
    burst.set_checksums(inner=True)
    assert (burst.checksums(inner=True).transport == Checksum.RIGHT).all()


def test_udp_without_a_checksum(filled: Filled) -> None:  # noqa: F811
    """0 says that a sender over IPv4 computed none; over IPv6 it is wrong. A sum of 0 is 0xffff."""
    made = []
    for net in (NETS[0], NETS[5]):
        payload = bytearray(b"\0\0payload")
        zero = udp(net.version, bytes(payload))
        payload[:2] = zero.data[6:8]  # makes the sum 0
        made += [frame(net, udp(net.version, bytes(payload)))] * 2
    burst = filled([m.data for m in made])
    fields = [m.columns["transport"] + 6 for m in made]
    for i in (1, 3):
        with memoryview(burst[i]) as data:
            assert b"\xff\xff" == data[fields[i] : fields[i] + 2]
            data[fields[i] : fields[i] + 2] = b"\0\0"
    right, none, wrong = Checksum.RIGHT, Checksum.NOT_SET, Checksum.WRONG
    assert [right, none, right, wrong] == burst.checksums().transport.tolist()
    burst.set_checksums()
    assert [m.data for m in made] == [bytes(burst[i]) for i in range(4)]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([4, 6]))
def test_any_payload(payload: bytes, version: int) -> None:
    """A checksum of any payload is that of RFC 1071, word by word."""
    net = NETS[0] if version == 4 else NETS[5]
    made = [frame(net, tcp(version, payload=payload)), frame(net, udp(version, payload))]
    with shmpool.Pool.create(None, buffer_size=512, capacity=64) as pool:
        queue = pool.create_queue("packets", capacity=8)
        queue.send_many([m.data for m in made])
        with queue.get_many(8) as burst:
            assert [1, 1] == burst.checksums().transport.tolist()
            for i, m in enumerate(made):
                at = m.columns["transport"] + (16 if i == 0 else 6)
                with memoryview(burst[i]) as data:
                    data[at : at + 2] = b"\x55\xaa"
            burst.set_checksums()
            assert [m.data for m in made] == [bytes(burst[i]) for i in range(2)]


@pytest.mark.parametrize("net", [NETS[0], NETS[1], NETS[5], NETS[7]], ids=lambda net: net.name)
def test_a_lower_ttl(filled: Filled, net: object) -> None:  # noqa: F811
    """decrement_ttl() changes the TTL and the IPv4 checksum to what it is then, for each TTL.

    A packet whose TTL is 0 or 1 stays as it is, and may not be forwarded.
    """
    made = packet(net, udp(net.version))  # type: ignore[arg-type, attr-defined]
    four = made.columns["ip_version"] == 4

    def with_ttl(ttl: int, number: int) -> bytes:
        data = bytearray(made.data)
        if not four:
            data[7] = ttl
            return bytes(data)
        size = made.columns["transport"]
        data[4:6], data[8], data[10:12] = number.to_bytes(2, "big"), ttl, b"\0\0"
        data[10:12] = checksum(bytes(data[:size])).to_bytes(2, "big")
        return bytes(data)

    numbers = [random.Random(7).randrange(65536) for _ in range(16)]
    cases = [(ttl, number) for ttl in range(256) for number in numbers]
    burst = filled([with_ttl(*case) for case in cases])
    alive = burst.decrement_ttl(Link.IP)
    assert [ttl > 1 for ttl, _ in cases] == alive.tolist()
    for i, (ttl, number) in enumerate(cases):
        assert with_ttl(ttl - 1 if ttl > 1 else ttl, number) == bytes(burst[i])


def test_what_is_not_forwarded(filled: Filled) -> None:  # noqa: F811
    """What is no IP packet, or whose header is truncated, keeps its bytes."""
    packets = [
        b"",
        bytes(14),
        bytes(12) + b"\x08\x06" + bytes(28),
        frame(NETS[0], udp(4)).data[:33],
    ]
    burst = filled(packets)
    assert not burst.decrement_ttl().any()
    assert packets == [bytes(burst[i]) for i in range(len(packets))]


def numbered(make_pool: MakePool, n: int) -> shmpool.Burst:
    burst = make_pool(capacity=256).alloc_many(n)
    burst.marks = range(n)
    return burst


def test_select(make_pool: MakePool) -> None:
    """select() moves what the mask says into a new burst."""
    burst = numbered(make_pool, 10)
    odd = burst.select(burst.marks % 2 == 1)
    assert ([1, 3, 5, 7, 9], [0, 2, 4, 6, 8]) == (odd.marks.tolist(), burst.marks.tolist())
    with pytest.raises(TypeError, match="it must have a bool for each packet"):
        burst.select([0, 1])
    with pytest.raises(IndexError, match="the mask has 3 entries; the burst has 5 buffers"):
        burst.select([True] * 3)
    rest = burst[:]
    assert 0 == len(burst.select([]))
    rest.free()


def test_sort(make_pool: MakePool) -> None:
    """sort() moves all buffers into a new burst, by any values; equal ones keep their order."""
    burst = numbered(make_pool, 6)
    ordered = burst.sort([2, 0, 1, 0, 2, 1])
    assert [1, 3, 2, 5, 0, 4] == ordered.marks.tolist()
    assert 0 == len(burst)
    assert [4, 0, 5, 2, 3, 1] == ordered.sort(["a", "b", "c", "d", "e", "f"][::-1]).marks.tolist()
    with pytest.raises(shmpool.InvalidArgument, match=r"by has shape \(2,\); allowed is \(0,\)"):
        ordered.sort([1, 2])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), max_size=40))
def test_partition(keys: list[int]) -> None:
    """partition() makes a burst for each value, in their order, and packets keep theirs."""
    with shmpool.Pool.create(None, buffer_size=64, capacity=64) as pool:
        burst = pool.alloc_many(max(len(keys), 1))[: len(keys)]
        burst.marks = range(len(keys))
        parts = burst.partition(keys)
        assert sorted(set(keys)) == list(parts)
        for key, part in parts.items():
            assert [i for i, k in enumerate(keys) if k == key] == part.marks.tolist()
        assert 0 == len(burst)
        for part in parts.values():
            part.free()
        stats = pool.stats()
        assert stats.held == 0


def test_partition_by_flow(filled: Filled) -> None:  # noqa: F811
    """Names of flows are keys too: each flow of a recording becomes a burst."""
    burst = filled(captured()[:500])
    headers = burst.headers()
    count = len(burst)
    parts = burst.partition(headers.flow)
    assert count == sum(map(len, parts.values()))
    assert len(np.unique(headers.flow)) == len(parts)
    for name, part in parts.items():
        assert {name} == {flow.tobytes() for flow in part.headers().flow}
