# SPDX-License-Identifier: Apache-2.0
"""Classes that annotations name in modules that these classes' own modules import. later.py says
when this one is imported."""

from typing import TYPE_CHECKING, Literal

from ._hot import Buffer
from .net.headers import Checksums, Headers
from .pool import Pool
from .queue import AlfQueue

if TYPE_CHECKING:
    from typing_extensions import Buffer as BytesLike
else:  # without typing_extensions, which shmpool does not require, there is no type for it
    BytesLike = bytes | bytearray | memoryview

Order = Literal["C", "F"]  # of the elements of an array: rows first, columns first

__all__ = ["AlfQueue", "Buffer", "BytesLike", "Checksums", "Headers", "Order", "Pool"]
