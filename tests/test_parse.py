# SPDX-License-Identifier: Apache-2.0
"""The readers of headers by themselves, in C: no packet leads them outside of it."""

import struct
from pathlib import Path

import pytest
from packets import combinations
from test_native import BUILDS, CROSS, NET, SANITIZERS, TESTS, run_c

pytestmark = pytest.mark.timeout(300)
SOURCES = [NET / f"{name}.c" for name in ("parse", "checksum", "toeplitz")]


@pytest.mark.parametrize(
    ("compiler", "flags"),
    [build for build in BUILDS if build.values[1][-1] in ("-O2", "-fsanitize=address,undefined")],
)
def test_damaged_packets(compiler: str, flags: list[str], tmp_path: Path) -> None:
    """Every combination of headers, truncated after each byte, and damaged at random: nothing
    outside is read, offsets lie inside, and checksums that were set are right."""
    made = list(combinations())[:: 40 if flags[-1] in SANITIZERS or compiler == CROSS else 10]
    text = b"".join(struct.pack("=II", m.link, len(m.data)) + m.data for m in made)
    (tmp_path / "packets").write_bytes(text)
    rounds = 50
    flags = [*flags, f"-I{NET}"]
    ran = run_c(
        tmp_path,
        compiler,
        flags,
        [TESTS / "test_parse.c", *SOURCES],
        str(tmp_path / "packets"),
        str(rounds),
    )
    assert f"{sum(len(m.data) + 1 + rounds for m in made)} packets\n" == ran
