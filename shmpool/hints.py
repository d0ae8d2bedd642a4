# SPDX-License-Identifier: Apache-2.0
"""Classes that annotations name in modules that these classes' own modules import. later.py says
when this one is imported."""

from typing import TYPE_CHECKING, Literal

from ._hot import Buffer
from .pool import Pool
from .queue import AlfQueue

if TYPE_CHECKING:
    from typing_extensions import Buffer as BytesLike

    from .net.headers import Checksums, Headers
else:  # without typing_extensions, which shmpool does not require, there is no type for it
    BytesLike = bytes | bytearray | memoryview

    def __getattr__(name: str) -> object:
        """The classes of net.headers, which need numpy."""
        if name not in ("Checksums", "Headers"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .net import headers

        return getattr(headers, name)


Order = Literal["C", "F"]  # of the elements of an array: rows first, columns first

__all__ = ["AlfQueue", "Buffer", "BytesLike", "Checksums", "Headers", "Order", "Pool"]
