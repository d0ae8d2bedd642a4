# SPDX-License-Identifier: Apache-2.0
"""What a machine with many cores, or a GPU, is asked: python3 clients/bench/big_machine.py OUT NAME

Within five minutes: builds the package in this tree, checks and measures pinned memory if there is
an NVIDIA GPU, and runs the scenario scaling of shmpool bench. Needs Linux, CPython 3.11 or newer
with headers, and gcc. Packages that this interpreter lacks are installed into build/big_machine,
with PIP_NO_INDEX and PIP_FIND_LINKS from a folder of wheels. What cannot be had is left out.

Writes into OUT, each as soon as it is known:

    scaling.json   results; `shmpool bench --from OUT/scaling.json --report docs` adds them to
                   docs/benchmarks.md, and the words on pinned memory with them
    pinned.json    the state of a pinned pool, and what clients/gpu_frames.py printed
    log.txt        the output of every step

Exit status 1 if a step failed; the others are done all the same.
"""

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 285.0  # of everything
SCALING_S, PINNED_S = 150.0, 60.0  # of these steps; the first one is told, the second one is ended
WIDTH = 120  # of a command in the output
SLACK_S = 20.0  # what scaling may take beyond the limit that it was told
SITE = ROOT / "build" / "big_machine"  # packages that the interpreter lacks
NEEDED = ("cffi", "posix_ipc", "msgpack", "uvloop", "numpy", "click", "rich")
SETUPTOOLS = 77  # the version that pyproject.toml needs
PEERS = (
    "faster-fifo", "iceoryx2", "kickmsg", "cloudtoid-interprocess", "zeroq", "subetha-ipc",
    "membridge", "pyzmq", "pynng", "sniffio", "flatbuffers", "horus-robotics", "pyaeron",
)  # fmt: skip
# In a process of its own: a driver that fails must not end the script.
PIN = """
import json, shmpool
with shmpool.Pool.create(None, buffer_size=1 << 20, capacity=64, prealloc=64, cache_size=0) as pool:
    found = pool.pin(timeout=30)
    names = "state", "bytes", "total", "reason"
    print(json.dumps({name: getattr(found, name) for name in names}))
"""


class Steps:
    """Runs commands within the time that is left, and keeps their output."""

    def __init__(self, log: TextIO) -> None:
        self.log, self.failed = log, False
        self.end = time.monotonic() + LIMIT_S
        self.env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{SITE}"}

    def left(self) -> float:
        return self.end - time.monotonic()

    def say(self, text: str) -> None:
        print(text, flush=True)
        print(text, file=self.log, flush=True)

    def run(self, *command: str, most: float = LIMIT_S, needed: bool = True) -> str | None:
        """The output of a command; None if it failed or took too long. needed: that is a
        failure of the whole."""
        seconds = min(most, self.left())
        line = " ".join(shlex.join(command).split())
        self.say(f"[{LIMIT_S - self.left():3.0f} s] {line[:WIDTH]}{'...' if line[WIDTH:] else ''}")
        if seconds <= 0:
            self.say("no time is left for it")
            self.failed |= needed
            return None
        with subprocess.Popen(
            command, cwd=ROOT, env=self.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                text, _ = process.communicate(timeout=seconds)
            except BaseException as error:
                process.terminate()  # the benchmark removes what it made
                try:
                    text, _ = process.communicate(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    text, _ = process.communicate()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                text += f"\nended after {seconds:.0f} s"
        self.log.write(text + "\n")
        if process.returncode:
            self.say(f"exit status {process.returncode}: {text.strip().splitlines()[-1:]}")
            self.failed |= needed
            return None
        return text


def install(steps: Steps) -> None:
    """Installs what the interpreter lacks, and the contestants that can be had. It keeps the
    versions that it has: its torch needs its numpy."""
    pip = (
        sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet",
        "--no-deps", "--only-binary", ":all:", "--target", str(SITE),
    )  # fmt: skip
    lacks = [name for name in NEEDED if not importlib.util.find_spec(name)]
    if "cffi" in lacks:
        lacks.append("pycparser")
    if "rich" in lacks:
        lacks += ["markdown-it-py", "mdurl", "pygments"]
    if _setuptools() < SETUPTOOLS:
        lacks.append(f"setuptools>={SETUPTOOLS}")
    if lacks:
        steps.run(*pip, *lacks, most=60)
    peers = [name for name in PEERS if not _installed(name)]
    if peers and steps.run(*pip, *peers, most=40, needed=False) is None:
        for peer in peers:  # one by one, without the one that cannot be had
            if steps.left() > SCALING_S + SLACK_S + 30:
                steps.run(*pip, peer, most=15, needed=False)


def _setuptools() -> int:
    try:
        return int(metadata.version("setuptools").split(".")[0])
    except (metadata.PackageNotFoundError, ValueError):
        return 0


def _installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def pinned(steps: Steps, out: Path) -> str:
    """Checks and measures pinned memory. Returns in words what was found."""
    state = steps.run(sys.executable, "-c", PIN, most=40)
    found: dict[str, object] = json.loads(state.splitlines()[-1]) if state else {}
    text = f"{found.get('state', 'failed')}, {found.get('bytes', 0)} bytes"
    if reason := found.get("reason"):
        text += f": {reason}"
    if found.get("state") == "registered":
        frames = steps.run(sys.executable, "-m", "clients.gpu_frames", most=PINNED_S)
        found["gpu_frames"] = frames
        lines = (frames or "the measurement failed").strip().splitlines()
        text += "; " + "; ".join(" ".join(line.split()) for line in lines[-4:])
    (out / "pinned.json").write_text(json.dumps(found, indent=1) + "\n")
    return text


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    out, name = Path(sys.argv[1]).resolve(), sys.argv[2]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.txt").open("w") as log:
        steps = Steps(log)
        install(steps)
        built = steps.run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", most=110)
        if built is None:
            return 1
        words = pinned(steps, out)
        steps.say(f"pinned memory: {words}")
        result = out / "scaling.json"
        seconds = min(SCALING_S, steps.left() - SLACK_S)
        steps.run(
            sys.executable, "-m", "shmpool.bench", "--only", "scaling", "--limit", f"{seconds:.0f}",
            "--machine", name, "--json", str(result), most=seconds + SLACK_S,
        )  # fmt: skip
        if result.exists():
            found = json.loads(result.read_text())
            found["machine"]["pinned memory"] = words
            result.write_text(json.dumps(found, indent=1) + "\n")
        steps.say(f"[{LIMIT_S - steps.left():3.0f} s] done; results are in {out}")
        return int(steps.failed)


if __name__ == "__main__":
    sys.exit(main())
