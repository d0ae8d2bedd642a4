# SPDX-License-Identifier: Apache-2.0
"""Buffer, and the base classes of Pool, AlfQueue and Burst: the C types of hot/."""

from . import _ffi as _ffi
from ._hot import Buffer, BurstBase, PoolBase, QueueBase

__all__ = ["Buffer", "BurstBase", "PoolBase", "QueueBase"]
