# SPDX-License-Identifier: Apache-2.0
"""clients.demo: the recorded captures through real worker processes."""

import subprocess
import sys
from pathlib import Path

import dpkt
import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"


def demo(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "clients.demo", "--quiet", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.parametrize(
    ("capture", "flows", "workers", "burst"),
    [("mixed.pcap", 247, 3, 64), ("mixed.pcapng", 36, 1, 256), ("mixed.pcapng", 36, 4, 1)],
)
def test_what_goes_in_comes_out(capture: str, flows: int, workers: int, burst: int) -> None:
    """Packets, bytes and flows are those of the file as dpkt and tshark count them."""
    with (DATA / capture).open("rb") as file:
        lengths = [len(packet) for _, packet in dpkt.pcap.UniversalReader(file)]
    done = demo(
        *("--repeat", "2", "--workers", str(workers), "--burst", str(burst)), str(DATA / capture)
    )
    assert 0 == done.returncode, done.stderr
    packets, octets = 2 * len(lengths), 2 * sum(lengths)
    assert f"in   {packets:,} packets  {octets:,} bytes\n" in done.stdout
    assert f"out  {packets:,} packets  {octets:,} bytes  {flows:,} flows\n" in done.stdout
    assert "packets and bytes in and out are equal" in done.stdout
    assert "all buffers are back home" in done.stdout
    assert workers == done.stdout.count("worker ")


def test_no_capture() -> None:
    """A file that is no capture is one clear line and status 1; a wrong option is status 2."""
    done = demo(str(DATA / "README.md"))
    assert (1, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert "is no pcap or pcapng file" in done.stderr
    assert 2 == demo("--workers", "0").returncode
