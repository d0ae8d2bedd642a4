# SPDX-License-Identifier: Apache-2.0
"""clients.demo: captures pass through real worker processes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import dpkt
import pytest
from captures import ETHERNET, OTHER, RAW, Section, ethernet, pcap, udp4, udp6
from conftest import MakePool

from clients.tally import LINKS, Tally

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
ONCE = ("--repeat", "1", "--workers", "1")
DOCKER = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && "$@" && ls -A /dev/shm'

ONE4, TWO4 = b"\xc0\0\2\1", b"\xc0\0\2\2"
ONE6, TWO6 = (b"\x20\1\x0d\xb8" + bytes(11) + end for end in (b"\1", b"\2"))
MAPPED = bytes(10) + b"\xff\xff"
FLOWS = {  # of udp4(1), udp4(2), udp6(3)
    MAPPED + ONE4 + b"\0\1" + MAPPED + TWO4 + b"\0\x35\x11",
    MAPPED + ONE4 + b"\0\2" + MAPPED + TWO4 + b"\0\x35\x11",
    ONE6 + b"\0\3" + TWO6 + b"\0\x35\x11",
}

pytestmark = pytest.mark.timeout(600)  # starting 64 Python processes is slow


def demo(*arguments: object, prefix: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    """Runs the demo. Checks that its pool is removed, and ends its processes."""
    command = [*prefix, sys.executable, "-m", "clients.demo", "--quiet", *map(str, arguments)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        segment = Path(f"/dev/shm/shmpool.demo-{process.pid}")
        try:
            out, err = process.communicate(timeout=500)
            assert not segment.exists()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            segment.unlink(missing_ok=True)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def counts(done: "subprocess.CompletedProcess[str]") -> dict[str, int]:
    """What the only worker of a successful run counted, by the table's headings."""
    assert 0 == done.returncode, done.stderr
    assert "packets and bytes in and out are equal" in done.stdout
    rows = [re.split("[│┃]", line)[2:-1] for line in done.stdout.splitlines() if line[:1] in "│┃"]
    headings, numbers = rows
    return {
        head.strip(): int(number.replace(",", ""))
        for head, number in zip(headings, numbers, strict=True)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capture", "flows", "workers", "burst"),
    [("mixed.pcap", 247, 3, 64), ("mixed.pcapng", 36, 1, 256), ("mixed.pcapng", 36, 4, 1)],
)
def test_counts(capture: str, flows: int, workers: int, burst: int) -> None:
    """Packets, bytes and flows are those that dpkt and tshark count in the file."""
    with (DATA / capture).open("rb") as file:
        lengths = [len(packet) for _, packet in dpkt.pcap.UniversalReader(file)]
    done = demo("--repeat", 2, "--workers", workers, "--burst", burst, DATA / capture)
    assert (0, "") == (done.returncode, done.stderr)
    packets, octets = 2 * len(lengths), 2 * sum(lengths)
    assert f"in   {packets:,} packets  {octets:,} bytes\n" in done.stdout
    assert f"out  {packets:,} packets  {octets:,} bytes  {flows:,} flows\n" in done.stdout
    assert "packets and bytes in and out are equal" in done.stdout
    assert "all buffers are free" in done.stdout
    assert workers == done.stdout.count("worker ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"# Recorded packets", "is not a pcap or pcapng file: it begins with 23 20 52 65"),
        (b"", "is not a pcap or pcapng file: it is empty"),
        (pcap([]), "holds no packets"),
        (pcap([b"abc"])[:-1], "truncated at byte 42, in the record at byte 24"),
        (Section().begin()[:20], "truncated at byte 20, in the record at byte 0"),
        (
            Section().begin() + Section().interface(options=Section().option(9, b"")),
            "at byte 28: if_tsresol of 0 bytes; it needs at least 1",
        ),
    ],
)
def test_no_capture(tmp_path: Path, text: bytes, why: str) -> None:
    """A file without a readable packet gives one line and status 1."""
    (tmp_path / "capture").write_bytes(text)
    done = demo(tmp_path / "capture")
    assert (1, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert done.stderr.startswith(f"Error: {tmp_path / 'capture'}")
    assert done.stderr.endswith(f"{why}\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--workers", 0, "1<=x<=64"),
        ("--workers", 65, "1<=x<=64"),
        ("--burst", 0, "1<=x<=4096"),
        ("--burst", 4097, "1<=x<=4096"),
        ("--repeat", 0, "x>=1"),
        ("--queue", 0, "from 1 to 1048576"),
        ("--queue", 2097152, "from 1 to 1048576"),
    ],
)
def test_wrong_options(option: str, value: int, allowed: str) -> None:
    """A wrong option gives status 2, and a line that names the value and what is allowed."""
    done = demo(option, value)
    assert 2 == done.returncode
    assert f"Error: Invalid value for '{option}': {value} is not" in done.stderr
    assert allowed in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--workers", 64, "--queue", 2, "--burst", 4096),
        ("--workers", 1, "--queue", 65536, "--burst", 4096),
        ("--workers", 2, "--queue", 2, "--burst", 1),
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_the_largest_and_smallest_options(tmp_path: Path, options: tuple[object, ...]) -> None:
    """Each option may have its smallest and its largest value, whatever the others are."""
    path = tmp_path / "capture"
    path.write_bytes(pcap([ethernet(udp4(port)) for port in range(5000)]))
    done = demo(*options, "--repeat", 1, path)
    assert (0, "") == (done.returncode, done.stderr)
    assert "5,000 packets  235,000 bytes  5,000 flows\n" in done.stdout
    assert "all buffers are free" in done.stdout


def test_64_mb_of_shared_memory() -> None:
    """64 MB of shared memory, as in Docker, are enough for the defaults; nothing is left there."""
    unshare = ("unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []))
    prefix = (*unshare, "sh", "-c", DOCKER, "sh")
    able = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if able.returncode:
        pytest.skip(f"no file system can be mounted here: {able.stderr.strip()}")
    done = demo("--repeat", 1, prefix=prefix)
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.endswith("all buffers are free\n")


def test_no_room(tmp_path: Path) -> None:
    """A pool that cannot be created gives one line and status 1."""
    path = tmp_path / "capture"
    path.write_bytes(pcap([bytes(16 << 20)]))
    done = demo("--queue", 65536, path)
    assert (1, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines()))
    assert "needs 1.1 TiB at once" in done.stderr
    assert "/dev/shm" in done.stderr


@pytest.mark.parametrize("name", ["mixed.pcap", "mixed.pcapng"])
def test_truncated(tmp_path: Path, name: str) -> None:
    """The whole packets of a truncated file are replayed. A warning says where it ends."""
    with (DATA / name).open("rb") as file:
        packets = [packet for _, packet in dpkt.pcap.UniversalReader(file)]
    path = tmp_path / name
    path.write_bytes((DATA / name).read_bytes()[:100001])
    done = demo(*ONCE, path)
    found = counts(done)
    assert 1 <= found["packets"] < len(packets)
    assert sum(map(len, packets[: found["packets"]])) == found["bytes"]
    assert 1 == len(done.stderr.splitlines())
    assert f"{path}: truncated at byte 100001" in done.stderr
    assert f"replaying the {found['packets']} packets before it" in done.stderr


def test_damaged(tmp_path: Path) -> None:
    """The packets before the damage are replayed. A warning says where it is."""
    path = tmp_path / "capture"
    path.write_bytes(pcap([ethernet(udp4(1))] * 3) + b"\xff" * 100)
    done = demo(*ONCE, path)
    assert {"packets": 3, "bytes": 141, "flows": 1, "IPv4": 3} == counts(done)
    assert f"{path}: at byte 213: a packet of 4294967295 bytes" in done.stderr


def test_every_kind_of_block(tmp_path: Path) -> None:
    """Nothing is dropped: sections of both byte orders, interfaces of several link types, packets
    without a time, packets without bytes, packets of unknown link types."""
    path = tmp_path / "capture"
    data = b""
    for section in (Section("<"), Section(">")):
        data += section.begin() + section.interface(ETHERNET) + section.interface(RAW)
        data += section.interface(OTHER) + section.block(0xBAD, "I", 32473)
        data += section.packet(ethernet(udp4(1)), 0) + section.packet(udp6(2), 1)
        data += section.simple_packet(ethernet(udp4(3))) + section.old_packet(udp4(4), 1)
        data += section.packet(udp4(5), 2) + section.packet(b"", 0) + section.simple_packet(b"")
    path.write_bytes(data)
    done = demo(*ONCE, path)
    octets = 2 * (3 * len(udp4(0)) + 2 * 14 + len(udp6(0)) + len(udp4(0)))
    expected = {"packets": 14, "bytes": octets, "flows": 4, "IPv4": 6, "IPv6": 2, "other": 6}
    assert expected == counts(done)
    assert "" == done.stderr


def frame(link: int, packet: bytes, tag: bytes = b"") -> bytes:
    """An IP packet as it lies in a capture of this link type."""
    kind, family = (b"\x08\0", 2) if packet[0] >> 4 == 4 else (b"\x86\xdd", 30)
    if tag:
        kind, packet = b"\x81\0", tag + kind + packet
    head = {
        1: bytes(12) + kind,
        113: bytes(14) + kind,
        276: kind + bytes(18),
        0: family.to_bytes(4, sys.byteorder),
        108: family.to_bytes(4, "big"),
    }
    return head.get(link, b"") + packet


@pytest.mark.parametrize(
    ("link", "tag"),
    [(link, b"") for link in LINKS] + [(link, b"\0\x14") for link in (1, 113, 276)],
)
def test_link_types(make_pool: MakePool, link: int, tag: bytes) -> None:
    """The same packets give the same flows after the header of each link type.

    A packet that is truncated before its ports is in no flow, whatever the buffer contained before.
    """
    queue = make_pool(capacity=512).create_queue("packets", capacity=512)

    def tally(packets: list[bytes]) -> Tally:
        result = Tally()
        queue.send_many([link.to_bytes(2, "big") + packet for packet in packets], timeout=0)
        with queue.get_many(512) as burst:
            assert 0 == result.add(burst)
        assert (len(packets), sum(map(len, packets))) == (result.packets, result.octets)
        return result

    packets = [frame(link, packet, tag) for packet in (udp4(1), udp4(2), udp6(3))]
    whole = tally(packets * 150)  # nearly every buffer
    assert {"IPv4": 300, "IPv6": 150} == whole.kinds
    assert FLOWS == set(whole.flows)
    after_ports = len(b"lnckhello")
    cut = [packet[:n] for packet in packets for n in range(len(packet) - after_ports)]
    assert {} == tally(cut).flows
    header = len(packets[2]) - len(udp6(3))
    nothing = [packets[2][:n] for n in range(max(header, 1))]
    assert {"other": len(nothing)} == tally(nothing).kinds
