# SPDX-License-Identifier: Apache-2.0
"""The tests that are run against a mutant, in a copy of the tree."""

import json
import os
import re
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
FIRST = 6  # tests that are run before the others
FAILED = re.compile(r"(?:FAILED|ERROR) (\S+::[\w.]+(?:\[.*?\])?)(?: - |$)")  # as pytest prints it
KILL_FLAGS = ["-std=gnu11", "-g", "-O2", "-pthread", "-Wl,-z,now"]


class Checks:
    """Runs tests in one tree, for one worker process."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.build = tree / "build" / "mutants"
        self.build.mkdir(parents=True)
        self.stamp = 1_000_000_000
        self.warm: subprocess.Popen[str] | None = None  # warm.py
        self.unfit: set[str] = set()  # tests of pytest's that fail sometimes without the mutant

    def try_mutant(self, mutant: Mutant) -> Outcome:
        """Breaks the tree, runs the mutant's tests until one fails, and restores the tree."""
        path = self.tree / mutant.file
        before = path.read_text()
        outcome = Outcome(mutant)
        began = time.monotonic()
        try:
            batches = self._batches(mutant.tests)
            while batches:
                self._write(path, mutant.apply(before))
                said = self._run(batches[0], mutant.file)
                if said is None:
                    batches = batches[1:]
                elif self._is_because(said, batches[0], path, before, mutant.file):
                    outcome.found_by = batches[0] if len(batches[0]) < 80 else batches[0].split()[0]
                    outcome.said = said
                    break
                else:
                    batches = self._batches(mutant.tests)  # without that test
        finally:
            self._write(path, before)
        outcome.seconds = time.monotonic() - began
        return outcome

    def _write(self, path: Path, text: str) -> None:
        """Gives each version of a file another date: otherwise Python uses its old bytecode."""
        path.write_text(text)
        self.stamp += 1
        os.utime(path, (self.stamp, self.stamp))

    def _is_because(self, said: str, batch: str, path: Path, unbroken: str, changed: str) -> bool:
        """True if a test failed because of the mutant: it fails again, and passes without it.

        A test of pytest's that does not is not used any more. Raises RuntimeError if the tests
        cannot run even without the mutant.
        """
        if not batch.startswith("pytest "):
            return True
        test = FAILED.match(said)
        if not test:  # no test failed: they could not be collected, or it hangs
            self._write(path, unbroken)
            otherwise = self._run(" ".join(["pytest", "--collect-only", batch[7:]]), changed)
            if otherwise is not None:
                raise RuntimeError(f"the tests cannot be run: {otherwise}")
            return True
        alone = f"pytest {shlex.quote(test[1])}"
        again = self._run(alone, changed)
        self._write(path, unbroken)
        if again is not None and self._run(alone, changed) is None:
            return True
        self.unfit.add(test[1])
        return False

    def _batches(self, tests: tuple[str, ...]) -> list[str]:
        """Tests of pytest's run in two processes: first a few whose files import quickly."""
        names = [test.removeprefix("pytest ") for test in tests if test.startswith("pytest ")]
        names = [name for name in names if name not in self.unfit]
        others = [test for test in tests if not test.startswith("pytest ")]
        parts = [part for part in (names[:FIRST], names[FIRST:]) if part]
        return others + [f"pytest {shlex.join(part)}" for part in parts]

    def _run(self, test: str, changed: str) -> str | None:
        """Returns None if the test passes, otherwise the last line of its output."""
        kind, *arguments = shlex.split(test)
        try:
            done = getattr(self, f"_{kind}")(arguments, changed)
        except subprocess.TimeoutExpired:
            return "it hangs"
        if done.returncode == 0:
            return None
        lines = (done.stdout + done.stderr).strip().splitlines()
        lines = [line for line in lines if line.startswith(("FAILED", "ERROR"))] or lines
        return lines[-1] if lines else f"status {done.returncode}"

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
        """Builds a program from the core under steer.h."""
        header = changed.endswith(".h")
        sources = steer_sources(name)
        for source in sources:
            compiled = self.build / (Path(source).stem + ".o")
            if header or source == changed or not compiled.exists():
                self._compile(["gcc", *STEER_FLAGS, "-w", "-c", source, "-o", str(compiled)])
        program = self.build / name
        objects = [str(self.build / (Path(source).stem + ".o")) for source in sources]
        self._compile(["gcc", *STEER_FLAGS, *objects, "-o", str(program)])
        for made in objects:  # objects of the broken file must not be used again
            if header or Path(made).stem == Path(changed).stem:
                Path(made).unlink()
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
        if self.warm is None:
            command = [*ISOLATED, sys.executable, "tests/mutants/warm.py"]
            if ISOLATED:
                command.append("alone")
            self.warm = subprocess.Popen(
                command, cwd=self.tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self.warm.stdin is not None
        assert self.warm.stdout is not None
        output = self.build / "pytest"
        run = {
            "arguments": ["-q", "-x", "-p", "no:cacheprovider", "--timeout", "60", *arguments],
            "seconds": TOGETHER_SECONDS,
            "output": str(output),
        }
        print(json.dumps(run), file=self.warm.stdin, flush=True)
        status = json.loads(self.warm.stdout.readline())
        if status is None:
            raise subprocess.TimeoutExpired("pytest", TOGETHER_SECONDS)
        return subprocess.CompletedProcess([], status, output.read_text(errors="replace"), "")

    def close(self) -> None:
        """Ends the process that runs pytest."""
        if self.warm is not None:
            self.warm.communicate()
