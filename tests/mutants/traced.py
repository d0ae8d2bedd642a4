# SPDX-License-Identifier: Apache-2.0
"""Notes which lines of the package run: in a test's process, and in each process it starts.

lines.py copies this file into a folder of its own as sitecustomize.py, which Python imports when it
starts. A child appends each line to a file at once, because a test may kill it at any moment. It
imports nothing of the package, and the child ignores any error in it.
"""

import os
import sys
import threading
from types import FrameType
from typing import Any

FOLDER = "SHMPOOL_LINES"  # the folder of the notes, in the environment
PACKAGE = "SHMPOOL_LINES_OF"  # the folder of the package, with its last slash
NOW = "now"  # the file with the number of the running test

# A test may replace the functions of os by ones that fail.
_open, _read, _write, _close = os.open, os.read, os.write, os.close


class Tracer:
    """Notes lines in memory, or in a file where the process is a child."""

    def __init__(self, folder: str, package: str, child: bool) -> None:
        self.folder, self.package, self.child = folder, package, child
        self.seen: set[tuple[str, int]] = set()
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.child = True
        self.seen = set()

    def start(self) -> None:
        """Traces this thread and all that are started later."""
        threading.settrace(self._call)
        sys.settrace(self._call)

    def stop(self) -> None:
        """Stops tracing."""
        sys.settrace(None)
        threading.settrace(None)

    def _call(self, frame: FrameType, _event: str, _argument: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(self.package) else None

    def _line(self, frame: FrameType, event: str, _argument: object) -> Any:
        at = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and at not in self.seen:
            self.seen.add(at)
            if self.child:
                self._append(f"{at[0][len(self.package) :]}:{at[1]}\n".encode())
        return self._line

    def _append(self, text: bytes) -> None:
        """Appends to a file that the test's process created: a child may be another user, or may
        not write."""
        try:
            fd = _open(f"{self.folder}/{NOW}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                number = _read(fd, 20).decode()
            finally:
                _close(fd)
            fd = _open(f"{self.folder}/{number}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                _write(fd, text)
            finally:
                _close(fd)
        except OSError:
            pass


if __name__ == "sitecustomize" and FOLDER in os.environ:
    Tracer(os.environ[FOLDER], os.environ[PACKAGE], child=True).start()
