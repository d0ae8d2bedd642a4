# SPDX-License-Identifier: Apache-2.0
"""shmpool bench: runs shmpool.bench, a client of the package like any other."""

from . import needs_extra

try:
    from shmpool.bench.command import bench as command
except ModuleNotFoundError as error:
    needs_extra(error, "bench")

__all__ = ["command"]
