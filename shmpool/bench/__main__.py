# SPDX-License-Identifier: Apache-2.0
"""python -m shmpool.bench: the same as shmpool bench."""

from .command import bench

if __name__ == "__main__":
    bench(prog_name="python -m shmpool.bench")
