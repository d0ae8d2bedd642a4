# SPDX-License-Identifier: Apache-2.0
"""Buffer: one buffer in this process's hands. A C type (hot/), made when _ffi is imported; and the
bases of the classes that move buffers."""

from . import _ffi as _ffi
from ._hot import Buffer, BurstBase, PoolBase, QueueBase

__all__ = ["Buffer", "BurstBase", "PoolBase", "QueueBase"]
