# SPDX-License-Identifier: Apache-2.0
"""shmpool bench: the benchmark, which is a client like any other (shmpool.bench)."""

from . import needs_extra

try:
    from shmpool.bench.command import bench as command
except ModuleNotFoundError as error:
    needs_extra(error, "bench")

__all__ = ["command"]
