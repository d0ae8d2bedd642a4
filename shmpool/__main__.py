# SPDX-License-Identifier: Apache-2.0
"""python -m shmpool: the same as the command shmpool."""

from .cli import main

if __name__ == "__main__":
    main()
