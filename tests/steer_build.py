# SPDX-License-Identifier: Apache-2.0
"""How tests/native/steer_pool.c is built. Paths are from the root of the tree.

python -m tests.steer_build PROGRAM builds it.
"""

import subprocess
import sys
from pathlib import Path

NATIVE = "shmpool/native"
TESTS = "tests/native"
# steer_kernel.c takes the place of process.c and token.c; others wrap, or are about one process.
LEFT_OUT = ["bulk", "copy", "guard", "letters", "local", "look", "process", "shmpool", "token"]
WRAPPED = ["syscall", "sched_yield", "clock_gettime"]

STEER_SOURCES = [
    f"{NATIVE}/{path.name}"
    for path in sorted((Path(__file__).resolve().parent.parent / NATIVE).glob("*.c"))
    if path.stem not in LEFT_OUT
]
STEER_TESTS = [f"{TESTS}/{name}.c" for name in ("steer", "steer_kernel", "steer_pool")]
STEER_FLAGS = ["-std=gnu11", "-g", "-O1", f"-I{NATIVE}", f"-I{TESTS}"]
STEER_FLAGS += ["-include", f"{TESTS}/steer.h"]
STEER_FLAGS += ["-Wl," + ",".join(f"--wrap={name}" for name in WRAPPED)]

if __name__ == "__main__":
    command = ["gcc", *STEER_FLAGS, *STEER_SOURCES, *STEER_TESTS, "-o", sys.argv[1]]
    sys.exit(subprocess.run(command, check=False).returncode)
