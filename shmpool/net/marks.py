# SPDX-License-Identifier: Apache-2.0
"""What a source writes into the mark of each buffer, as columns.

| bits | meaning |
|---|---|
| 0 to 17 | bytes that the packet had, of which the buffer may have fewer (up to 262,143) |
| 18 | CHECKSUM_MISSING: a sender on this machine left the checksum to the hardware |
| 19 | CHECKSUM_GOOD: the kernel or the hardware has checked it |
| 20 | OUTGOING: sent by this machine |
| 21 | COMMENTED: the capture file has a comment on it |
| 22 to 31 | number of the interface in the file, or of the system, up to 1,023 |

The same as in net.h.
"""

from typing import TYPE_CHECKING

from ..burst import Burst

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    from ..later import np, npt

LENGTH = (1 << 18) - 1
CHECKSUM_MISSING = 1 << 18
CHECKSUM_GOOD = 1 << 19
OUTGOING = 1 << 20
COMMENTED = 1 << 21
INTERFACE_SHIFT = 22


def original_lengths(burst: Burst) -> "npt.NDArray[np.uint32]":
    """Bytes that each packet had before it was truncated: shape (n,).

    >>> import shmpool, shmpool.net
    >>> with shmpool.Pool.create("doc-marks", buffer_size=64, capacity=64) as pool:
    ...     burst = pool.alloc_many(2)
    ...     burst.marks = [60, shmpool.net.CHECKSUM_GOOD | 1514]
    ...     print(shmpool.net.original_lengths(burst), shmpool.net.interface_numbers(burst))
    [  60 1514] [0 0]
    >>> shmpool.Pool.unlink("doc-marks")
    """
    import numpy as np

    return burst.marks & np.uint32(LENGTH)


def interface_numbers(burst: Burst) -> "npt.NDArray[np.uint32]":
    """The interface that each packet came from: shape (n,). 1,023 stands for all from there on."""
    import numpy as np

    return burst.marks >> np.uint32(INTERFACE_SHIFT)
