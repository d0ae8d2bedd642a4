# SPDX-License-Identifier: Apache-2.0
"""Reads pcap and pcapng files, also compressed ones and pipes: CaptureSource, packets().

pcap in both byte orders, with microseconds or nanoseconds. pcapng with any number of sections, each
in its own byte order, and of interfaces, each with its own link type and clock. Whatever the bytes
are, reading yields packets and then ends or raises CaptureError. The records are found by scan.c,
in the bytes that content.py reads.
"""

import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .._hot import Scan
from ..burst import Burst
from ..pool import Pool
from .content import CaptureError, Content
from .ends import Received, Source

COMMENT, NAME, DESCRIPTION = 1, 2, 3  # options of pcapng blocks


class Packet(NamedTuple):
    """One captured packet."""

    time: int | None  # ns since 1970; None if the file does not say
    link: int  # its LINKTYPE_ number: 1 is Ethernet
    data: bytes


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of a capture file."""

    link: int = 1  # LINKTYPE_ number: 1 is Ethernet
    snaplen: int = 0  # bytes; 0: no limit
    name: str = ""
    description: str = ""
    comment: str = ""


def _texts(options: tuple[tuple[int, bytes], ...]) -> dict[int, str]:
    """The options of a block as text; of several comments, all."""
    texts: dict[int, str] = {}
    for code, value in options:
        text = value.rstrip(b"\0").decode("utf-8", "replace")
        texts[code] = f"{texts[code]}\n{text}" if code in texts else text
    return texts


class CaptureSource(Source):
    """The packets of a pcap or pcapng file, or of a pipe, as bursts.

    The time of each packet is in timestamps (0 if the file does not say), and its interface and the
    bytes that it had are in marks. A file that is compressed with gzip or zstd is decompressed.

    Raises CaptureError where the file is damaged, after all packets before that place.

    >>> import shmpool, shmpool.net
    >>> pool = shmpool.Pool.create("doc-capture", buffer_size=2048, capacity=1024)
    >>> with shmpool.net.CaptureSource(pool, "tests/data/mixed.pcapng") as source:
    ...     print(sum(len(burst) for burst in source.bursts()), source.interfaces[0].link)
    385 1
    >>> pool.close(); shmpool.Pool.unlink("doc-capture")
    """

    def __init__(self, pool: Pool, path: str | os.PathLike[str]) -> None:
        self.pool = pool
        self.path = os.fspath(path)
        self._scan, self._content = _open(self.path)

    def __str__(self) -> str:
        return self.path

    def _fill(self, burst: Burst, timeout: float | None) -> int:
        if self._content.closed:
            return -1
        self._content.wait_until(None if timeout is None else time.monotonic() + timeout)
        try:
            got = self._scan.fill(burst, timeout)
        except CaptureError as error:
            self._raise_unless_closed(error)
            return -1
        return got if got or not (self._scan.ended or self._content.closed) else -1

    def _raise_unless_closed(self, error: CaptureError) -> None:
        """Raises the error, unless another thread closed the file within a record."""
        if not self._content.closed:
            raise error

    @property
    def interfaces(self) -> list[Interface]:
        """Those found so far, of all sections; interface_numbers() are positions in here."""
        found = []
        for link, snaplen, _, _, options in self._scan.interfaces:
            texts = _texts(options)
            found.append(
                Interface(
                    link,
                    snaplen,
                    texts.get(NAME, ""),
                    texts.get(DESCRIPTION, ""),
                    texts.get(COMMENT, ""),
                )
            )
        return found

    @property
    def comments(self) -> dict[int, str]:
        """Comments on packets found so far, by the packet's number in the file, from 0 on."""
        texts = ((number, _texts(options)) for number, options in self._scan.comments)
        return {number: text[COMMENT] for number, text in texts if COMMENT in text}

    @property
    def section_comments(self) -> list[str]:
        """The comment of each section found so far."""
        return [_texts(options).get(COMMENT, "") for _, options in self._scan.sections]

    def statistics(self) -> Received:
        return Received(*self._scan.counts, dropped=0)

    def close(self) -> None:
        self._content.close()


def _open(path: str) -> tuple[Scan, Content]:
    file = io.FileIO(path)
    try:
        content = Content(path, file)
    except BaseException:
        file.close()
        raise
    return Scan(content.at, path, CaptureError), content


def packets(path: Path | str) -> Iterator[Packet]:
    """Yields the packets of a file in order, without a pool. Raises CaptureError after all packets
    before the damage."""
    scan, content = _open(os.fspath(path))
    try:
        while found := scan.packets():
            yield from map(Packet._make, found)
    finally:
        content.close()
