# SPDX-License-Identifier: Apache-2.0
"""Buffer, and the bases of Pool, AlfQueue and Burst: C types of hot/, which _ffi loads."""

from . import _ffi as _ffi
from ._hot import Buffer, BurstBase, PoolBase, QueueBase

__all__ = ["Buffer", "BurstBase", "PoolBase", "QueueBase"]
