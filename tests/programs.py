# SPDX-License-Identifier: Apache-2.0
"""Programs of clients/ as processes: what a test starts must end, and leave no pool."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Program:
    """A program in a session of its own. Its pool has its name and its pid."""

    def __init__(self, name: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"clients.{name}", *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.segment = Path(f"/dev/shm/shmpool.{name}-{self.process.pid}")

    def interrupt(self) -> None:
        """Ctrl-C once its pool is there."""
        while not self.segment.exists() and self.process.poll() is None:
            pass
        os.killpg(self.process.pid, signal.SIGINT)

    def finish(self) -> tuple[int, str, str]:
        """Waits until it and all its processes have ended. Returns its exit status, and what it
        wrote. Checks that its pool is gone, and ends what it left.
        """
        try:
            out, err = self.process.communicate(timeout=500)
            assert not self.segment.exists()
            while self.exists():  # the last one is multiprocessing's, which ends by itself
                time.sleep(0.01)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.segment.unlink(missing_ok=True)
        return self.process.returncode, out, err

    def exists(self) -> bool:
        """True if one of its processes is there."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True
