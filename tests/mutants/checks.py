# SPDX-License-Identifier: Apache-2.0
"""The tests that mutants are shown to, run in a copy of the tree."""

import shlex
import subprocess
import sys
import time
from pathlib import Path

from tests.steer_build import STEER_FLAGS, steer_sources

from .python import ISOLATED
from .table import Mutant, Outcome

SEEDS = 20000
SECONDS = 300  # of one test; a mutant that hangs is found
TOGETHER_SECONDS = 400
KILL_FLAGS = ["-std=gnu11", "-g", "-O2", "-pthread", "-Wl,-z,now"]


class Checks:
    """Runs tests in one tree, for one worker process."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.build = tree / "build" / "mutants"
        self.build.mkdir(parents=True)
        self.steer_whole = False  # whether every object is that of the unbroken core

    def try_mutant(self, mutant: Mutant) -> Outcome:
        """Breaks the tree, runs the mutant's tests until one fails, and mends the tree."""
        path = self.tree / mutant.file
        before = path.read_text()
        outcome = Outcome(mutant)
        began = time.monotonic()
        path.write_text(mutant.apply(before))
        try:
            for test in self._batches(mutant.tests):
                said = self._run(test, mutant.file)
                if said is not None:
                    outcome.found_by = test if len(test) < 80 else test.split(maxsplit=1)[0]
                    outcome.said = said
                    break
        finally:
            path.write_text(before)
        outcome.seconds = time.monotonic() - began
        return outcome

    @staticmethod
    def _batches(tests: tuple[str, ...]) -> list[str]:
        """Tests of pytest's go into one process."""
        names = [test.removeprefix("pytest ") for test in tests if test.startswith("pytest ")]
        others = [test for test in tests if not test.startswith("pytest ")]
        return others + ([f"pytest {shlex.join(names)}"] if names else [])

    def _run(self, test: str, changed: str) -> str | None:
        """None if the test passes, else the last line of what it says."""
        kind, *arguments = shlex.split(test)
        try:
            done = getattr(self, f"_{kind}")(arguments, changed)
        except subprocess.TimeoutExpired:
            return "it hangs"
        if done.returncode == 0:
            return None
        lines = (done.stdout + done.stderr).strip().splitlines()
        lines = [line for line in lines if line.startswith(("FAILED", "ERROR"))] or lines
        return lines[-1][:160] if lines else f"status {done.returncode}"

    def _call(
        self, command: list[str], seconds: float = SECONDS
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.tree,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=seconds,
        )

    def _compile(self, command: list[str]) -> None:
        built = self._call(command)
        if built.returncode:
            message = f"the mutant does not compile; update the table\n{built.stderr}"
            raise RuntimeError(message)

    def _steered(self, name: str, changed: str) -> str:
        """Builds a program that is made of the core under steer.h."""
        header = changed.endswith(".h")
        sources = steer_sources(name)
        for source in sources:
            compiled = self.build / (Path(source).stem + ".o")
            if header or source == changed or not compiled.exists():
                self._compile(["gcc", *STEER_FLAGS, "-w", "-c", source, "-o", str(compiled)])
        program = self.build / name
        objects = [str(self.build / (Path(source).stem + ".o")) for source in sources]
        self._compile(["gcc", *STEER_FLAGS, *objects, "-o", str(program)])
        for compiled in objects:  # those of the broken file must not be used again
            if header or Path(compiled).stem == Path(changed).stem:
                Path(compiled).unlink()
        return str(program)

    def _steer(self, arguments: list[str], changed: str) -> subprocess.CompletedProcess[str]:
        return self._call([self._steered("steer_pool", changed), "--seeds", str(SEEDS), *arguments])

    def _script(self, arguments: list[str], changed: str) -> subprocess.CompletedProcess[str]:
        done = self._call([self._steered("steer_script", changed), *arguments])
        if done.returncode == 2:
            message = f"the table names a scenario that is not there; update it\n{done.stderr}"
            raise RuntimeError(message)
        return done

    def _kill(self, arguments: list[str], _changed: str) -> subprocess.CompletedProcess[str]:
        program = self.build / "kill_points"
        sources = [*(self.tree / "tests" / "native").glob("kill_*.c")]
        sources += (self.tree / "shmpool" / "native").glob("*.c")
        flags = [*KILL_FLAGS, "-w", "-Ishmpool/native"]
        self._compile(["gcc", *flags, *map(str, sources), "-o", str(program)])
        return self._call([str(program), "--most", "400", "--operation", *arguments])

    def _c(self, arguments: list[str], _changed: str) -> subprocess.CompletedProcess[str]:
        program = self.build / arguments[0]
        sources = [f"tests/native/{arguments[0]}.c"]
        if arguments[0] != "test_alf_queue":
            sources += map(str, (self.tree / "shmpool" / "native").glob("*.c"))
        flags = ["-std=gnu11", "-O2", "-w", "-pthread", "-Ishmpool/native"]
        self._compile(["gcc", *flags, *sources, "-o", str(program)])
        return self._call([str(program), *arguments[1:]])

    def _pytest(self, arguments: list[str], _changed: str) -> subprocess.CompletedProcess[str]:
        command = [*ISOLATED, sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        return self._call([*command, "--timeout", "60", *arguments], TOGETHER_SECONDS)
