# SPDX-License-Identifier: Apache-2.0
"""python -m shmpool.daemon: the same as shmpool daemon. The daemon itself is service/daemon.py."""

from .cli.daemon import command

if __name__ == "__main__":
    command(prog_name="python -m shmpool.daemon")
