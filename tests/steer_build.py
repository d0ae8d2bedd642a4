# SPDX-License-Identifier: Apache-2.0
"""Builds the programs of tests/native/steer_pool.c and steer_script.c. Paths are relative to the
root.

python -m tests.steer_build PROGRAM builds the program that the last part of the path names.
"""

import subprocess
import sys
from pathlib import Path

NATIVE = "shmpool/native"
TESTS = "tests/native"
# steer_kernel.c replaces opening.c, process.c and token.c, which forked.c serves. The other files
# wrap, only observe, or wake event loops from a thread of their own.
LEFT_OUT = ["figures", "forked", "guard", "opening", "process", "shmpool", "token"]
LEFT_OUT += ["helper", "pages", "place", "tend", "uring", "waker"]
WRAPPED = ["syscall", "sched_yield", "clock_gettime"]

STEER_SOURCES = [
    f"{NATIVE}/{path.name}"
    for path in sorted((Path(__file__).resolve().parent.parent / NATIVE).glob("*.c"))
    if path.stem not in LEFT_OUT
]
_STEERED = ["steer", "steer_kernel", "steer_world", "steer_topic"]
# What is compiled into each program, beside the core.
STEER_PROGRAMS = {
    "steer_pool": [*_STEERED, "steer_pool"],
    "steer_script": [
        *_STEERED,
        "steer_script",
        "steer_recovery",
        "steer_slots",
        "steer_caches",
        "steer_waits",
        "steer_chains",
    ],
}
STEER_FLAGS = ["-std=gnu11", "-g", "-O1", f"-I{NATIVE}", f"-I{TESTS}"]
STEER_FLAGS += ["-include", f"{TESTS}/steer.h"]
STEER_FLAGS += ["-Wl," + ",".join(f"--wrap={name}" for name in WRAPPED)]


def steer_sources(program: str) -> list[str]:
    """Returns the sources of the program."""
    return STEER_SOURCES + [f"{TESTS}/{name}.c" for name in STEER_PROGRAMS[program]]


if __name__ == "__main__":
    sources = steer_sources(Path(sys.argv[1]).name)
    command = ["gcc", *STEER_FLAGS, *sources, "-o", sys.argv[1]]
    sys.exit(subprocess.run(command, check=False).returncode)
