# SPDX-License-Identifier: Apache-2.0
"""CaptureSink: writes bursts to pcapng or pcap files, which it may rotate."""

import contextlib
import gzip
import itertools
import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from .. import errors
from .._hot import encode
from ..burst import Burst
from .capture import Interface
from .ends import Sent, Sink

ROOM = 1 << 18  # bytes encoded before they are written; they stay in the second cache
ROOM_MAX = 1 << 28
SNAPLEN = 262144
FORMATS = {"pcapng": 0, "pcap": 1, "pcap-ns": 2}
MAGIC = {"pcap": 0xA1B2C3D4, "pcap-ns": 0xA1B23C4D}
COMMENT, NAME, DESCRIPTION, APPLICATION, RESOLUTION = 1, 2, 3, 4, 9  # options


def _option(code: int, value: bytes) -> bytes:
    value = value[:0xFFFF]
    return struct.pack("=HH", code, len(value)) + value + bytes(-len(value) % 4) if value else b""


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("=I", 12 + len(body))
    return struct.pack("=I", kind) + size + body + size


def _compressor(path: Path) -> Callable[[Any], Any] | None:
    """What compresses the file of that name; None for none."""
    if path.suffix == ".gz":
        return lambda raw: gzip.GzipFile("", "wb", 1, raw)
    if path.suffix != ".zst":
        return None
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise errors.InvalidArgument(
            f"{path}: zstd needs Python 3.14; a name with .gz is compressed with gzip"
        ) from None
    return lambda raw: zstd.ZstdFile(raw, "w")


class CaptureSink(Sink):
    """Writes packets to a capture file, with nanoseconds.

    format: "pcapng", or "pcap" (microseconds) or "pcap-ns", which have one interface and no
    comments. interfaces: what the numbers in the packets' marks stand for; CaptureSource has them
    of a file that is read. A name that ends with .gz or .zst is compressed (zstd: Python 3.14).

    size and seconds rotate: a file gets no packet that would make it longer than size bytes (before
    compression), and none after it was open for so many seconds. Then trace.pcapng becomes
    trace-00001.pcapng, trace-00002.pcapng and so on; files= keeps only so many of the last ones.

    If a write fails (a full disk), the file is truncated to whole packets and the burst remains the
    caller's.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        format: Literal["pcapng", "pcap", "pcap-ns"] = "pcapng",
        interfaces: Sequence[Interface] = (Interface(),),
        comment: str = "",
        size: int | None = None,
        seconds: float | None = None,
        files: int | None = None,
    ) -> None:
        if format not in FORMATS:
            raise errors.InvalidArgument(
                f"format is {format!r}; it must be one of {', '.join(FORMATS)}"
            )
        if not interfaces or (format != "pcapng" and len(interfaces) > 1):
            raise errors.InvalidArgument(
                f"{len(interfaces)} interfaces: a pcap file has one, a pcapng file 1 or more"
            )
        for name, value in (("size", size), ("seconds", seconds), ("files", files)):
            if value is not None and not value > 0:
                raise errors.InvalidArgument(f"{name} is {value}; it must be above 0")
        self.path = Path(path)
        self.paths: list[Path] = []  # written and kept, the last one at the end
        self._format = format
        self._interfaces = tuple(interfaces)
        self._comment = comment
        self._size, self._seconds, self._files = size, seconds, files
        self._numbers = itertools.count(1)
        self._out = bytearray(ROOM)
        self._closed = False
        self._file: Any = None  # None also after a rotation that has failed
        self._raw: Any = None
        self._written = 0  # bytes of the present file, before compression
        self._began = 0.0
        self._packets = self._bytes = 0
        self._open()

    def __str__(self) -> str:
        return str(self.path)

    def _header(self) -> bytes:
        first = self._interfaces[0]
        if self._format != "pcapng":
            snaplen = first.snaplen or SNAPLEN
            return struct.pack(
                "=IHHiIII", MAGIC[self._format], 2, 4, 0, 0, snaplen, first.link & 0xFFFF
            )
        options = _option(COMMENT, self._comment.encode()) + _option(APPLICATION, b"shmpool")
        blocks = _block(0x0A0D0D0A, struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1) + options + bytes(4))
        for interface in self._interfaces:
            options = (
                _option(COMMENT, interface.comment.encode())
                + _option(NAME, interface.name.encode())
                + _option(DESCRIPTION, interface.description.encode())
                + _option(RESOLUTION, b"\x09")
                + bytes(4)
            )
            blocks += _block(1, struct.pack("=HHI", interface.link, 0, interface.snaplen) + options)
        return blocks

    def _open(self) -> None:
        path = self.path
        if self._size is not None or self._seconds is not None:
            kept = 2 if path.suffix in (".gz", ".zst") else 1
            suffixes = "".join(path.suffixes[-kept:])
            stem = path.name[: len(path.name) - len(suffixes)]
            path = path.with_name(f"{stem}-{next(self._numbers):05}{suffixes}")
        compressed = _compressor(path)
        self._raw = path.open("wb", buffering=0)
        try:
            self._file = compressed(self._raw) if compressed else self._raw
            self._written = 0
            self._began = time.monotonic()
            self._write(memoryview(self._header()))
        except BaseException:  # a full disk, Ctrl-C: the next drain() tries again
            with contextlib.suppress(OSError):
                self._end()
            path.unlink(missing_ok=True)
            raise
        self.paths.append(path)
        while self._files is not None and len(self.paths) > self._files:
            with contextlib.suppress(FileNotFoundError):
                self.paths.pop(0).unlink()

    def _write(self, data: memoryview) -> None:
        """Writes all of it, or truncates the file to what it had."""
        left = data
        try:
            while left:
                left = left[self._file.write(left) :]
        except BaseException:
            if self._file is self._raw:
                with contextlib.suppress(OSError):
                    self._raw.truncate(self._written)
                    self._raw.seek(self._written)
            raise
        self._written += len(data)

    def _rotate(self) -> None:
        self._end()
        self._open()

    def _end(self) -> None:
        file, raw, self._file, self._raw = self._file, self._raw, None, None
        try:
            if file is not None:
                file.close()
        finally:
            if raw is not None:
                raw.close()

    def drain(
        self,
        burst: Burst,
        timeout: float | None = None,
        comments: Mapping[int, str] | None = None,
    ) -> int:
        """Writes every packet and frees the burst. Returns how many.

        comments: of packets, by their position in the burst. timeout is there for other sinks.

        Raises:
            BufferInUse: a view of one of the buffers is alive; none was written.
            BufferReleased: the burst was freed or put before.
            ShutDown: the sink is closed.
            OSError: the file could not be written; the burst remains the caller's.
        """
        if self._closed:
            raise errors.ShutDown(f"{self} is closed")
        if self._file is None:  # a rotation has failed
            self._open()
        notes = None if comments is None else dict(comments)
        at, n, written = 0, len(burst), 0
        if self._seconds is not None and time.monotonic() >= self._began + self._seconds:
            self._rotate()
        while at < n:
            room = len(self._out)
            if self._size is not None:
                room = min(room, max(self._size - self._written, 0))
            with memoryview(self._out) as out:
                at, used, packets = encode(
                    burst,
                    at,
                    out[:room],
                    FORMATS[self._format],
                    len(self._interfaces),
                    notes,
                )
                if used:
                    self._write(out[:used])
                    self._bytes += used
                    self._packets += packets
                    written += packets
                    continue
                if at == n:
                    break  # the last positions had no packet
            if self._size is not None and self._written > len(self._header()):
                self._rotate()  # none fits behind the others
            elif room < len(self._out):
                self._size_is_too_small()
            elif room >= ROOM_MAX:
                raise errors.PayloadTooLarge(f"a packet has more than {ROOM_MAX} bytes")
            else:
                self._out = bytearray(2 * room)
        burst.free()
        return written

    def _size_is_too_small(self) -> None:
        raise errors.InvalidArgument(
            f"size is {self._size} bytes, in which not even one packet has room"
        )

    def sent(self) -> Sent:
        return Sent(self._packets, self._bytes, refused=0)

    def close(self) -> None:
        self._closed = True
        self._end()
