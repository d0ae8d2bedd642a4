# SPDX-License-Identifier: Apache-2.0
"""CaptureSink: writes bursts to pcapng or pcap files, which it may rotate."""

import contextlib
import io
import itertools
import os
import struct
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .. import errors
from .._hot import encode
from ..burst import Burst
from .capture import Interface
from .content import GZIP_WINDOW
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


def _compressor(path: Path) -> Any:
    """What compresses the file of that name; None for none."""
    if path.suffix == ".gz":
        return zlib.compressobj(1, zlib.DEFLATED, GZIP_WINDOW)
    if path.suffix != ".zst":
        return None
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise errors.InvalidArgument(
            f"{path}: zstd needs Python 3.14; a name with .gz is compressed with gzip"
        ) from None
    return zstd.ZstdCompressor()


class _Part(NamedTuple):
    """What a write adds: bytes before compression, and packets; the burst's position behind it."""

    at: int
    octets: int
    packets: int


TRAILER = _Part(0, 0, 0)  # of a compressed file


class _Plain:
    """A file. A write that fails leaves it as it was."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.parts: deque[tuple[bytes, _Part]] = deque()  # what this call has written

    def begin(self) -> None:
        """Before the writes of a call."""
        self.parts = deque()

    def write(self, data: memoryview, part: _Part) -> None:
        size = self._file.tell()
        left = data
        try:
            while left:
                left = left[self._file.write(left) :]
            self.parts.append((b"", part))
        except BaseException:
            if not self.parts or self.parts[-1][1] is not part:
                with contextlib.suppress(OSError):
                    self._file.truncate(size)
                    self._file.seek(size)
            raise

    def close(self) -> None:
        self._file.close()


class _Compressed:
    """A compressed file. A compressor takes what it is given once and for all, so what it returned
    is kept until the file has it: a write that failed is completed by the next one."""

    def __init__(self, file: io.FileIO, compressor: Any) -> None:
        self._file = file
        self._compressor = compressor
        self.parts: deque[tuple[bytes, _Part]] = (
            deque()
        )  # what the compressor has made in this call
        self._place = (0, 0)  # how many of them the file has, and its size

    def begin(self) -> None:
        self._write_all()
        self.parts, self._place = deque(), (0, self._place[1])

    def write(self, data: memoryview, part: _Part) -> None:
        self._keep(map(self._compressor.compress, (data,)), part)
        self._write_all()

    def _keep(self, made: Iterator[bytes], part: _Part) -> None:
        """All in C: no signal handler raises between the compressor and the store."""
        self.parts.extend(zip(made, (part,), strict=True))

    def _write_all(self) -> None:
        while self._place[0] < len(self.parts):
            done, at = self._place
            left = self.parts[done][0]
            while left:  # again from its place on, if it is interrupted
                n = os.pwrite(self._file.fileno(), left, at)
                left, at = left[n:], at + n
            self._place = done + 1, at

    def close(self) -> None:
        if not self._file.closed:
            if not self.parts or self.parts[-1][1] is not TRAILER:
                self._keep(itertools.islice(iter(self._compressor.flush, None), 1), TRAILER)
            self._write_all()
            self._file.close()


class CaptureSink(Sink):
    """Writes packets to a capture file, with nanoseconds.

    format: "pcapng", or "pcap" (microseconds) or "pcap-ns", which have one interface and no
    comments. interfaces: what the numbers in the packets' marks stand for; CaptureSource has them
    of a file that is read. A name that ends with .gz or .zst is compressed (zstd: Python 3.14).

    size and seconds rotate: a file gets no packet that would make it longer than size bytes (before
    compression), and none after it was open for so many seconds. Then trace.pcapng becomes
    trace-00001.pcapng, trace-00002.pcapng and so on; files= keeps only so many of the last ones.

    If a write fails (a full disk), the file is truncated to whole packets, and those that are not
    in it stay in the burst. A compressed file has taken the packets of the write that failed: they
    are in no burst any more, and the next call, or close(), completes the write. Until it does, the
    end of such a file cannot be read; a sink that is not closed leaves it so.
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
        self._file: _Plain | _Compressed | None = None  # None also after a rotation has failed
        self._written = 0  # bytes of the present file, before compression
        self._at = 0  # of a call: position in the burst behind what is written
        self._counted = 0  # parts of the call, as far as they are counted
        self._full = False  # the file gets no more packets
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
        compressor = _compressor(path)
        opened: list[io.FileIO] = []
        try:
            opened.extend(map(io.FileIO, (path,), ("w",)))  # all in C, as in _Compressed
            raw = opened[0]
            self._file = _Compressed(raw, compressor) if compressor else _Plain(raw)
            self._written = self._counted = 0
            self._full = False
            self._began = time.monotonic()
            header = self._header()
            self._write(memoryview(header), _Part(self._at, len(header), 0))
        except BaseException:  # a full disk, Ctrl-C: the next drain() tries again
            self._file = None
            for raw in opened:
                raw.close()
                path.unlink(missing_ok=True)
            raise
        self.paths.append(path)
        while self._files is not None and len(self.paths) > self._files:
            with contextlib.suppress(FileNotFoundError):
                self.paths.pop(0).unlink()

    def _write(self, data: memoryview, part: _Part) -> None:
        if self._file is not None:
            try:
                self._file.write(data, part)
            finally:
                self._count()

    def _count(self) -> None:
        """Counts the parts of this call that are written, each once."""
        parts = [] if self._file is None else [part for _, part in self._file.parts]
        for part in parts[self._counted :]:
            if part is not TRAILER:
                self._at, self._counted = part.at, self._counted + 1
                self._written += part.octets
                self._packets += part.packets
                self._bytes += part.octets if part.packets else 0

    def _rotate(self) -> None:
        self._full = True
        self._end()
        self._open()

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

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
            OSError: the file could not be written; the burst has the packets that are not in it,
                which are the first ones of comments= then. A repeated call writes each once.
        """
        if self._closed:
            raise errors.ShutDown(f"{self} is closed")
        self._at = self._counted = 0
        if self._file is None:  # a rotation has failed
            self._open()
        elif self._full:
            self._rotate()
        else:
            self._file.begin()
        before = self._packets
        try:
            self._write_packets(burst, None if comments is None else dict(comments))
        except BaseException:
            self._count()
            if self._at:
                burst[: self._at].free()
            raise
        burst.free()
        return self._packets - before

    def _write_packets(self, burst: Burst, notes: dict[int, str] | None) -> None:
        n = len(burst)
        if self._seconds is not None and time.monotonic() >= self._began + self._seconds:
            self._rotate()
        while self._at < n:
            room = len(self._out)
            if self._size is not None:
                room = min(room, max(self._size - self._written, 0))
            with memoryview(self._out) as out:
                at, used, packets = encode(
                    burst,
                    self._at,
                    out[:room],
                    FORMATS[self._format],
                    len(self._interfaces),
                    notes,
                )
                if used:
                    self._write(out[:used], _Part(at, used, packets))
                    continue
                if at == n:
                    return  # the last positions had no packet
            if self._size is not None and self._written > len(self._header()):
                self._rotate()  # none fits behind the others
            elif room < len(self._out):
                self._size_is_too_small()
            elif room >= ROOM_MAX:
                raise errors.PayloadTooLarge(f"a packet has more than {ROOM_MAX} bytes")
            else:
                self._out = bytearray(2 * room)

    def _size_is_too_small(self) -> None:
        raise errors.InvalidArgument(
            f"size is {self._size} bytes, in which not even one packet has room"
        )

    def sent(self) -> Sent:
        return Sent(self._packets, self._bytes, refused=0)

    def close(self) -> None:
        self._closed = True
        self._end()
