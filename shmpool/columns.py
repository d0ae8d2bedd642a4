# SPDX-License-Identifier: Apache-2.0
"""What the columns of a burst are given, as arrays that C reads; refusals name the value.

numpy is imported by the first call.
"""

from __future__ import annotations

from . import errors
from .options import integer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike, NDArray

UINT32_MAX = 2**32 - 1
INT64_MAX = 2**63 - 1
SIZE_MAX = 2**64 - 1


def offset_of(offset: int, what: str = "offset") -> int:
    """Clamps to uint64: C rejects the limit as it would the value."""
    number = integer(offset, what)
    if number < 0:
        raise errors.InvalidArgument(f"{what} is {offset} bytes; it cannot be negative")
    return min(number, SIZE_MAX)


def bytes_of(values: NDArray[Any]) -> NDArray[Any]:
    kind = values.dtype
    if kind.kind in "biufc":
        return values
    if kind.hasobject:
        raise errors.InvalidArgument(f"dtype is {kind}; a packet cannot hold Python objects")
    # As bytes: numpy is slow to export a structure's format, and cannot export that of a time.
    return values.view("u1") if values.nbytes else values[:0].astype("u1")


def column_values(
    value: ArrayLike, dtype: DTypeLike | None, n: int
) -> tuple[NDArray[Any], bool, int]:
    """Returns a contiguous array, whether its one value is for all buffers, and bytes per value."""
    import numpy as np

    kind = None if dtype is None else np.dtype(dtype)
    inner: tuple[int, ...] = () if kind is None else kind.shape
    try:
        values = np.asarray(value, None if kind is None else kind.base, order="C")
    except (OverflowError, ValueError) as error:
        raise errors.InvalidArgument(f"values do not fit the dtype: {error}") from None
    if values.shape not in (inner, (n, *inner)):
        raise errors.InvalidArgument(
            f"values have shape {values.shape}; allowed are {inner} and {(n, *inner)}"
        )
    one = values.shape == inner
    return values.reshape(-1), one, values.nbytes // (1 if one else n or 1)


def int_values(value: ArrayLike, n: int, what: str) -> tuple[NDArray[Any], bool]:
    """Returns integers of any type, of object too, as a contiguous array, and whether its one value
    is for all buffers."""
    import numpy as np

    values, one, _ = column_values(value, None, n)
    if values.dtype.kind == "f":  # what numpy makes of ints beside one of 64 bits
        values = np.asarray(value, object).reshape(-1)
    if values.dtype.kind not in "iu" and not all(isinstance(v, int) for v in values.flat):
        raise TypeError(f"{what} are {value!r:.80}; they must be ints")
    return values, one


def refuse_outside(values: NDArray[Any], most: int, what: str) -> None:
    """Raises InvalidArgument unless all values are from 0 to most."""
    if values.dtype.kind == "u" and 2 ** (8 * values.itemsize) - 1 <= most:
        return  # quicker: the type has no other values
    for extreme in (values.min(initial=0), values.max(initial=0)):
        if not 0 <= extreme <= most:
            raise errors.InvalidArgument(f"{what} are {extreme}; allowed are 0 to {most}")


def keys_of(keys: ArrayLike, n: int) -> NDArray[np.uint64]:
    """Returns the keys of n buffers as C reads them."""
    import numpy as np

    values, one = int_values(keys, n, "keys")
    if one:
        raise errors.InvalidArgument(f"keys have shape (); allowed is {(n,)}")
    refuse_outside(values, SIZE_MAX, "keys")
    return values.astype(np.uint64, copy=False)


def length_values(value: ArrayLike, n: int, room: int) -> tuple[NDArray[Any], bool]:
    """Returns lengths as a contiguous array, and whether its one value is for all buffers."""
    import numpy as np

    values, one = int_values(value, n, "lengths")
    if values.dtype != np.uint32:
        least, most = values.min(initial=0), values.max(initial=0)
        if least < 0:
            raise errors.InvalidArgument(f"lengths are {least} bytes; they cannot be negative")
        if most > UINT32_MAX:
            raise errors.PayloadTooLarge(f"lengths go up to {most} bytes; a buffer holds {room}")
        values = values.astype(np.uint32)
    return values, one


def boolean_mask(mask: ArrayLike, n: int) -> NDArray[np.bool_]:
    """Returns the mask of n buffers."""
    import numpy as np

    values = np.asarray(mask)
    if values.dtype != np.bool_ and (values.size or n):
        raise TypeError(f"mask is {mask!r:.80}; it must have a bool for each packet")
    return values.astype(np.bool_, copy=False)


def sort_keys(by: ArrayLike, n: int) -> NDArray[Any]:
    """Returns the values by which n buffers are sorted."""
    import numpy as np

    values = np.asarray(by)
    if values.shape != (n,):
        raise errors.InvalidArgument(f"by has shape {values.shape}; allowed is {(n,)}")
    return values
