# SPDX-License-Identifier: Apache-2.0
"""Reads pcap and pcapng files, also compressed ones and pipes: CaptureSource, packets().

pcap in both byte orders, with microseconds or nanoseconds. pcapng with any number of sections, each
in its own byte order, and of interfaces, each with its own link type and clock. Whatever the bytes
are, reading yields packets and then ends or raises CaptureError. The records are found by scan.c.
"""

import gzip
import io
import os
import select
import stat
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .._hot import Scan
from ..burst import Burst
from ..locks import renewed
from ..pool import Pool
from .ends import Received, Source

GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"
SLICE_S = 0.2  # after which a reader of a pipe sees that it was closed
COMMENT, NAME, DESCRIPTION = 1, 2, 3  # options of pcapng blocks


class CaptureError(ValueError):
    """Names the file, the offset in it, and what is wrong there."""


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


class _Bytes:
    """The bytes of a file or pipe, decompressed. One thread reads, and any thread may close it."""

    def __init__(self, path: str, file: io.FileIO) -> None:
        self.path = path
        self.closed = False
        self.deadline: float | None = None  # of a read of a pipe that is not compressed
        self._file = file
        self._lock = renewed(self, "_lock", threading.RLock)
        self._ready = b""
        self._pipe = not stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        self._poll = select.poll()
        self._poll.register(file, select.POLLIN)
        self._given = 0
        self._whole: Any = None  # reads decompressed bytes
        while len(self._ready) < 4 and (more := self._raw(4 - len(self._ready), first=True)):
            self._ready += more
        if self._ready[:2] == GZIP:
            self._whole = gzip.GzipFile(fileobj=self)  # type: ignore[call-overload]
        elif self._ready == ZSTD:
            self._whole = _zstd(path)(self)

    def _raw(self, size: int, first: bool = False) -> bytes | None:
        """Up to size bytes of the file; none at its end, or when it is closed. None when the time
        of a read is up."""
        while not self.closed:
            if self._pipe and not self._poll.poll(self._slice() * 1000):
                late = self.deadline is not None and time.monotonic() >= self.deadline
                if late and self._whole is None and not first:
                    return None
                continue
            with self._lock:
                if not self.closed:
                    return self._file.read(size)
        return b""

    def _slice(self) -> float:
        left = SLICE_S if self.deadline is None else self.deadline - time.monotonic()
        return max(0.0, min(SLICE_S, left))

    def read(self, size: int = -1) -> bytes:
        """Bytes as they are in the file: what the decompressor reads."""
        if self._ready:
            end = len(self._ready) if size < 0 else size
            ready, self._ready = self._ready[:end], self._ready[end:]
            return ready
        return self._raw(size if size > 0 else 1 << 16) or b""

    def next(self, size: int) -> bytes | None:
        """What Scan calls."""
        if self._whole is None:
            if self._ready:
                return self.read()
            return self._raw(size)
        try:
            data: bytes = self._whole.read(size)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            if self.closed:
                return b""
            raise CaptureError(
                f"{self.path}: at byte {self._given} of what is decompressed: {error}"
            ) from None
        except Exception as error:
            if "zstd" not in type(error).__module__:
                raise
            raise CaptureError(
                f"{self.path}: at byte {self._given} of what is decompressed: {error}"
            ) from None
        self._given += len(data)
        return data

    def close(self) -> None:
        self.closed = True
        with self._lock:
            self._file.close()


def _zstd(path: str) -> Callable[[Any], Any]:
    """The standard library's reader of zstd, which Python has from 3.14 on."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise CaptureError(
            f"{path} is compressed with zstd, which needs Python 3.14; zstd -d decompresses it"
        ) from None
    reader: Callable[[Any], Any] = zstd.ZstdFile
    return reader


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
        self._scan, self._bytes = _open(self.path)

    def __str__(self) -> str:
        return self.path

    def _fill(self, burst: Burst, timeout: float | None) -> int:
        if self._bytes.closed:
            return -1
        self._bytes.deadline = None if timeout is None else time.monotonic() + timeout
        try:
            got = self._scan.fill(burst, timeout)
        except CaptureError as error:
            self._raise_unless_closed(error)
            return -1
        return got if got or not (self._scan.ended or self._bytes.closed) else -1

    def _raise_unless_closed(self, error: CaptureError) -> None:
        """Raises the error, unless another thread closed the file within a record."""
        if not self._bytes.closed:
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
        self._bytes.close()


def _open(path: str) -> tuple[Scan, _Bytes]:
    file = io.FileIO(path)
    try:
        content = _Bytes(path, file)
    except BaseException:
        file.close()
        raise
    return Scan(content.next, path, CaptureError), content


def packets(path: Path | str) -> Iterator[Packet]:
    """Yields the packets of a file in order, without a pool. Raises CaptureError after all packets
    before the damage."""
    scan, content = _open(os.fspath(path))
    try:
        while found := scan.packets():
            yield from map(Packet._make, found)
    finally:
        content.close()
