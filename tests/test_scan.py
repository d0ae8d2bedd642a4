# SPDX-License-Identifier: Apache-2.0
"""The scan of capture files in C, with the sanitizers: no access outside its window."""

import subprocess
import sysconfig
from pathlib import Path

import pytest
from captures import RAW, Section, pcap

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [ROOT / "shmpool" / name for name in ("native", "hot", "net")]
FLAGS = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
PACKETS = [bytes([i]) * (7 * i % 90) for i in range(30)]


def pcapng(section: Section) -> bytes:
    """Every kind of block, with options."""
    options = section.option(2, b"eth0") + section.option(9, b"\x94")
    options += section.option(14, bytes(8)) + section.option(0, b"")
    data = section.begin() + section.interface(RAW, 96, options) + section.interface()
    note = section.option(1, b"a comment") + section.option(0, b"")
    for i, packet in enumerate(PACKETS):
        data += section.packet(packet, i % 2, 10**15 + i) + section.simple_packet(packet)
        data += section.old_packet(packet, i % 2, i)
        data += section.block(6, "IIIII", 0, 0, 1, 4, 99, data=b"abcd" + note)
    return data + section.block(5, "II", 0, 0)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("scan") / "test_scan"
    include = [f"-I{folder}" for folder in FOLDERS]
    sources = [ROOT / "tests" / "native" / "test_scan.c", ROOT / "shmpool" / "net" / "scan.c"]
    command = ["gcc", *FLAGS, *SANITIZERS, *include, "-isystem", sysconfig.get_path("include")]
    command += [*map(str, sources), "-o", str(built)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in done.stderr or "-lasan" in done.stderr:
        pytest.skip("gcc has no sanitizers here")
    assert 0 == done.returncode, done.stderr
    return built


@pytest.mark.parametrize(
    "data",
    [
        pcap(PACKETS, order="<"),
        pcap(PACKETS, order=">", magic=0xA1B2CD34),
        pcapng(Section("<")),
        pcapng(Section(">")),
        pcapng(Section("<")) + pcapng(Section(">")),
    ],
    ids=["pcap", "pcap-big", "pcapng", "pcapng-big", "sections"],
)
def test_damaged(program: Path, tmp_path: Path, data: bytes) -> None:
    """A scan of 5,000 damaged files ends, finds errors, and touches no byte outside."""
    (tmp_path / "capture").write_bytes(data)
    done = subprocess.run(
        [program, tmp_path / "capture", "5000"], capture_output=True, text=True, timeout=100
    )
    assert 0 == done.returncode, done.stderr
    packets, errors, more = map(int, done.stdout.split()[::2])
    assert packets > 1000
    assert errors > 100
    assert more > 10
