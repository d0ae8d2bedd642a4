# SPDX-License-Identifier: Apache-2.0
"""The bytes of a capture file or pipe, decompressed, each asked for by its offset.

A call may be repeated: it gives the same bytes until it is asked for those behind them. So an
exception between a read and the use of what was read (Ctrl-C) loses nothing. What a call changes it
stores with the result, and no bytecode runs in between, at which a signal handler could raise:
`deque.extend(map(function, (argument,)))` calls and stores in C.
"""

import io
import os
import select
import stat
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

from ..locks import renewed

GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"
GZIP_WINDOW = 31  # for zlib: with the header of gzip
COMPRESSED = 1 << 16  # bytes that are decompressed at once
SLICE_S = 0.2  # after which a reader of a pipe sees that it was closed


class CaptureError(ValueError):
    """Names the file, the offset in it, and what is wrong there."""


class _Raw:
    """The bytes as they are in the file. Of a pipe, those that were read last can be had again."""

    def __init__(self, file: io.FileIO) -> None:
        self.closed = False
        self.deadline: float | None = None  # of a read of a pipe
        self._file = file
        self._lock = renewed(self, "_lock", threading.RLock)
        self._pipe = not stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        self._poll = select.poll()
        self._poll.register(file, select.POLLIN)
        self._read: deque[bytes] = deque(maxlen=1)
        self._begin = 0  # offset of what was read
        self.head = b""
        while len(self.head) < 4 and (more := self.at(len(self.head), 4 - len(self.head))):
            self.head += more

    def at(self, offset: int, size: int) -> bytes | None:
        """Up to size bytes; none at the end of the file, or when it is closed. None when the time
        is up."""
        try:
            return self._at(offset, size)
        except ValueError:
            if self.closed:  # by a signal handler, between the question and the read
                return b""
            raise

    def _at(self, offset: int, size: int) -> bytes | None:
        if not self._pipe:
            with self._lock:
                return b"" if self.closed else os.pread(self._file.fileno(), size, offset)
        if offset < len(self.head):
            return self.head[offset:]
        if self._read and self._begin <= offset < self._begin + len(self._read[0]):
            return self._read[0][offset - self._begin :]
        while not self.closed:
            if not self._poll.poll(self._slice() * 1000):
                if self.deadline is not None and time.monotonic() >= self.deadline:
                    return None
                continue
            with self._lock:
                if not self.closed:
                    self._read.clear()
                    self._begin = offset
                    self._read.extend(map(self._file.read, (size,)))
                    return self._read[0]
        return b""

    def _slice(self) -> float:
        left = SLICE_S if self.deadline is None else self.deadline - time.monotonic()
        return max(0.0, min(SLICE_S, left))

    def close(self) -> None:
        self.closed = True
        with self._lock:
            self._file.close()


class _Codec:
    """How the bytes are compressed: makes decompressors, which raise error."""

    def __init__(self, make: Callable[[], Any], error: type[Exception]) -> None:
        self.make = make
        self.error = error


def _codec(path: str, head: bytes) -> _Codec | None:
    if head[:2] == GZIP:
        return _Codec(lambda: zlib.decompressobj(GZIP_WINDOW), zlib.error)
    if head != ZSTD:
        return None
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise CaptureError(
            f"{path} is compressed with zstd, which needs Python 3.14; zstd -d decompresses it"
        ) from None
    return _Codec(zstd.ZstdDecompressor, zstd.ZstdError)


class Content:
    """The bytes of a file or pipe. One thread reads, and any thread may close it."""

    def __init__(self, path: str, file: io.FileIO) -> None:
        self.path = path
        self._raw = _Raw(file)
        self._codec = _codec(path, self._raw.head)
        # The next byte to decompress; the decompressor, None between two of the file's streams; and
        # the byte behind those that it was given. They were given if there is a result.
        self._state: tuple[int, Any, int] = (0, None, 0)
        self._result: deque[bytes] = deque(maxlen=1)
        self._begin = 0  # offset of the result

    @property
    def closed(self) -> bool:
        return self._raw.closed

    def wait_until(self, deadline: float | None) -> None:
        """Sets when a read of a pipe ends without bytes, on the monotonic clock."""
        self._raw.deadline = deadline

    def at(self, offset: int, size: int) -> bytes | None:
        """Up to size bytes from offset on, which is that of the last call or behind its bytes; none
        at the end, or when it is closed. None when the time is up. Scan calls it.

        Raises:
            CaptureError: what is compressed is damaged.
        """
        if self._codec is None:
            return self._raw.at(offset, size)
        if self._result and self._begin == offset and self._result[0]:
            return self._result[0]
        while True:
            more = bool(self._result) and len(self._result[0]) == size
            self._settle()
            at, stream, _ = self._state
            more = stream is not None and (more or not getattr(stream, "needs_input", True))
            data = b"" if more else self._raw.at(at, COMPRESSED)
            if data is None or self.closed:
                return None if data is None else b""
            if stream is None:
                begins = data.lstrip(b"\0") if at else data  # gzip pads with zeros
                if not data or not begins:
                    self._state = (at + len(data), None, 0)
                    if data:
                        continue
                    return b""
                at, data, stream = at + len(data) - len(begins), begins, self._codec.make()
            self._result.clear()
            self._begin = offset
            self._state = (at, stream, at + len(data))
            try:
                self._result.extend(map(stream.decompress, (data,), (size,)))
            except self._codec.error as error:
                raise self._damaged(offset, str(error)) from None
            if self._result[0]:
                return self._result[0]
            if not (data or more or stream.eof):
                raise self._damaged(offset, "the compressed stream is truncated")

    def _settle(self) -> None:
        """Notes what the decompressor has used, if it was called."""
        _, stream, end = self._state
        if not end or not self._result:
            return
        at = end - len(stream.unused_data) - len(getattr(stream, "unconsumed_tail", b""))
        self._state = (at, None if stream.eof else stream, 0)

    def _damaged(self, offset: int, why: str) -> CaptureError:
        return CaptureError(f"{self.path}: at byte {offset} of what is decompressed: {why}")

    def close(self) -> None:
        self._raw.close()
