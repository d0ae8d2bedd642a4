# SPDX-License-Identifier: Apache-2.0
"""Random kills of workers, and of whole namespaces, in three PID namespaces that share a pool.

python -m tests.storm_namespaces --kills 1000 --seed 1
"""

import argparse
import ctypes
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import time

import shmpool
from shmpool.view import View

NAMESPACES = 3
WORKERS = 3  # of each namespace, one of each kind
KINDS = ("plain", "blind", "filtered")
MESSAGES = 12
GUARD_S = 60.0  # against a hang, not a measurement
QUEUES = ("there", "back")


# Runs in a namespace.


def _without_proc() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newns, mnt_detach = 0x20000, 2
    if libc.unshare(clone_newns) or libc.umount2(b"/proc", mnt_detach):
        raise OSError(ctypes.get_errno(), "umount /proc")


def _filtered() -> None:
    """Installs a seccomp(2) filter: pidfd_open and membarrier give EPERM."""
    refuse = {"x86_64": (434, 324), "aarch64": (434, 283)}[os.uname().machine]
    load, equal, allow, deny = 0x20, 0x15, 0x7FFF0000, 0x00050000 | 1
    code = [(load, 0, 0, 0)]
    for i, number in enumerate(refuse):
        code.append((equal, len(refuse) - i, 0, number))
    code += [(0x06, 0, 0, allow), (0x06, 0, 0, deny)]
    text = b"".join(struct.pack("HBBI", *line) for line in code)
    raw = ctypes.create_string_buffer(text)
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(raw))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(
        set_seccomp, mode_filter, ctypes.create_string_buffer(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


def _work(name: str, kind: str, seed: int) -> None:
    """Moves messages from queue to queue until it is killed."""
    dice = random.Random(seed)
    {"plain": lambda: None, "blind": _without_proc, "filtered": _filtered}[kind]()
    pool = shmpool.Pool.attach(name)
    queues = [pool.queue(queue) for queue in QUEUES]
    stamp = struct.pack("=QQ", os.getpid(), seed)
    while True:
        come = dice.randrange(2)
        buf = queues[come].get(timeout=None)
        kept = pool.alloc()
        for mine in (buf, kept):
            mine.data[8:24] = stamp
        if dice.random() < 0.5:
            time.sleep(dice.random() * 0.002)
        if bytes(buf.data[8:24]) != stamp or bytes(kept.data[8:24]) != stamp:
            print("disturbed", flush=True)
            os._exit(3)
        kept.free()
        queues[1 - come].put(buf)


def _namespace(name: str) -> None:
    """The first process of a namespace: starts and kills workers as requested."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    workers: dict[str, int] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        what, kind, seed = line.split()
        if what == "kill":
            os.kill(workers.pop(kind), signal.SIGKILL)
        elif not (pid := os.fork()):
            try:
                _work(name, kind, int(seed))
            finally:
                os._exit(4)
        else:
            workers[kind] = pid
        print("done", flush=True)


# The driver, which kills.


class Namespace:
    def __init__(self, name: str) -> None:
        command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable]
        self.process = subprocess.Popen(
            [*command, "-m", "tests.storm_namespaces", "--inside", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.heard: list[str] = []
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline().strip()) == "disturbed":
            self.heard.append(line)
        return line

    def send(self, *what: object) -> None:
        assert self.process.stdin is not None
        print(*what, file=self.process.stdin, flush=True)
        assert self.line() == "done"

    def end(self) -> None:
        self.process.kill()
        rest, _ = self.process.communicate()
        self.heard += [line for line in rest.splitlines() if line == "disturbed"]


def storm(kills: int, seed: int) -> bool:
    """Runs the storm. Returns whether all checks passed."""
    dice = random.Random(seed)
    name = f"test-{os.getpid()}-namespaces"
    pool = shmpool.Pool.create(name, buffer_size=64, capacity=256, members=64)
    took: list[float] = []
    disturbed = whole = 0
    spaces: list[Namespace] = []
    try:
        for queue in QUEUES:
            pool.create_queue(queue, capacity=64, on_death="requeue")
        for number in range(MESSAGES):
            pool.queue(QUEUES[number % 2]).send(struct.pack("=Q", number))
        pool.close()  # the driver is no member and recovers no member

        def fill(space: Namespace) -> None:
            for kind in KINDS:
                space.send("start", kind, dice.getrandbits(60))

        spaces = [Namespace(name) for _ in range(NAMESPACES)]
        for space in spaces:
            fill(space)
        with View(name) as view:
            done = 0
            while done < kills:
                time.sleep(dice.random() * 0.02)
                i = dice.randrange(NAMESPACES)
                if dice.random() < 0.1:
                    spaces[i].end()
                    disturbed += len(spaces[i].heard)
                    whole += 1
                    done += WORKERS
                else:
                    kind = dice.choice(KINDS)
                    spaces[i].send("kill", kind, 0)
                    spaces[i].send("start", kind, dice.getrandbits(60))
                    done += 1
                began = time.monotonic()
                while view.dead():
                    assert time.monotonic() < began + GUARD_S, "no member recovers"
                    time.sleep(0.001)
                took.append(time.monotonic() - began)
                if spaces[i].process.poll() is not None:
                    spaces[i] = Namespace(name)
                    fill(spaces[i])
    finally:
        for space in spaces:
            space.end()
            disturbed += len(space.heard)
        with shmpool.Pool.attach(name) as last:
            ended = time.monotonic()
            # A killed process closes its output before its token.
            while last.recover().members or len(last.members()) > 1:
                assert time.monotonic() < ended + GUARD_S, "a killed process has not ended"
            found = []
            for queue in QUEUES:
                while (message := last.queue(queue).try_recv()) is not None:
                    found.append(struct.unpack_from("=Q", message)[0])
            audit = last.audit()
        shmpool.Pool.unlink(name)
    lost = set(range(MESSAGES)) - set(found)
    doubled = len(found) - len(set(found))
    well = not disturbed and not lost and not doubled and audit.ok and not audit.held
    print(
        f"{done} kills, {whole} whole namespaces; {disturbed} live members disturbed, "
        f"{len(lost)} messages lost, {doubled} doubled, audit {'clean' if audit.ok else 'WRONG'}; "
        f"recovered after {statistics.median(took) * 1e3:.0f} ms in the median, "
        f"{sorted(took)[int(len(took) * 0.99)] * 1e3:.0f} ms at 99 %, {max(took) * 1e3:.0f} at most"
    )
    return well


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inside", metavar="POOL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        _namespace(options.inside)
    elif not storm(options.kills, options.seed):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
