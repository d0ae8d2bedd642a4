# SPDX-License-Identifier: Apache-2.0
"""Runs a page of the documentation: all its code, in order, as one program.

Blocks of `python` run in one process, one after the other. Blocks of `sh` run in a shell where they
stand, with `shmpool` on its path. A block of `text` is what the block before it printed; `...` in
it stands for anything. The program has a /dev/shm of its own, of 64 MiB as in
a container, so the names of its pools are its own.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from conftest import DEADLINE_S
from test_growth import small_shm

ROOT = Path(__file__).resolve().parent.parent
SEPARATOR = "-- end of a block --"


def blocks(page: Path) -> list[tuple[str, str]]:
    """The blocks of code with their languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [(language, code) for language, code in found]


def program(page: Path) -> tuple[str, list[str | None]]:
    """The text of the program, and what the page says that each block prints, if it says so."""
    lines: list[str] = ["import subprocess as _subprocess"]
    said: list[str | None] = []
    for language, code in blocks(page):
        if language == "text":
            said[-1] = code
        elif language in ("python", "sh"):
            shell = f"_subprocess.run(['sh', '-ec', {code!r}], check=True)"
            lines += [shell if language == "sh" else code, f"print({SEPARATOR!r}, flush=True)"]
            said.append(None)
    return "\n".join(lines), said


def matches(said: str, printed: str) -> bool:
    """Whether that was printed, with `...` for anything.

    >>> matches("a ... c\\n", "a b c\\n"), matches("a\\n", "a\\nb\\n")
    (True, False)
    """
    pattern = ".*".join(re.escape(part.strip(" ")) for part in said.split("..."))
    return re.fullmatch(pattern, re.sub(r"[ \t]+$", "", printed, flags=re.M), re.DOTALL) is not None


def run_page(page: Path, folder: Path) -> None:
    """Runs the page's program in a folder, and compares what it prints."""
    code, said = program(page)
    (folder / "program.py").write_text(code)
    command = folder / "bin" / "shmpool"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m shmpool "$@"\n')
    command.chmod(0o755)
    setting = [
        "env", f"PYTHONPATH={ROOT}", "PYTHONUNBUFFERED=1", f"XDG_RUNTIME_DIR={folder}",
        "COLUMNS=120",
    ]  # fmt: skip
    path = f"PATH={command.parent}:{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin"
    with open(folder / "printed", "w+") as out, open(folder / "said", "w+") as errors:
        process = subprocess.Popen(
            [*small_shm("64m"), *setting, path, sys.executable, "program.py"],
            stdout=out,
            stderr=errors,
            cwd=folder,
            start_new_session=True,
        )
        try:
            status = process.wait(DEADLINE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what a page that failed has left
            process.wait()
        out.seek(0)
        errors.seek(0)
        printed = out.read()
        assert status == 0, printed + errors.read()
    for expected, part in zip(said, printed.split(f"{SEPARATOR}\n")[:-1], strict=True):
        if expected is not None and not matches(expected, part):
            raise AssertionError(f"{page.name} says\n{expected}\nand this is printed\n{part}")
