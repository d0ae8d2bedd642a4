# SPDX-License-Identifier: Apache-2.0
"""Which cores the benchmark uses, and which of them each process gets.

The benchmark uses the cores of its affinity mask, as many of them as the CPU quota of its control
groups allows. Of a core with several hardware threads the first ones come first. In a run with no
more processes than cores each process has cores of its own, an equal number of them, so that the
threads that some libraries start have cores too. In a larger run all cores serve all processes.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LEAST = 2  # cores that the benchmark needs
SYS, PROC = Path("/sys"), Path("/proc")


@dataclass(frozen=True)
class Choice:
    """The cores that are used, and why, in words."""

    cores: tuple[int, ...]
    why: str


def choose(wanted: str | None, sys: Path = SYS, proc: Path = PROC) -> Choice:
    """The cores to use. wanted is a number of cores, or a list of them with a comma or hyphen as
    in "0,2,4-7"; None for all. Raises ValueError if they cannot be had."""
    mine = sorted(os.sched_getaffinity(0), key=lambda core: (_thread(core, sys), core))
    limit = quota(sys, proc)
    why = f"{len(mine)} in the affinity mask"
    most = len(mine)
    if limit is not None:
        why += f", a CPU quota of {limit:g}"
        most = min(most, max(int(limit), LEAST))
    if wanted is None:
        chosen = mine[:most]
    elif wanted.isdecimal():
        if int(wanted) > len(mine):
            raise ValueError(f"{wanted} cores are more than the {len(mine)} of the affinity mask")
        chosen = mine[: int(wanted)]
        why += f", {wanted} chosen"
    else:
        chosen = numbers(wanted)
        if missing := sorted(set(chosen) - set(mine)):
            raise ValueError(f"this process may not use the cores {ranges(missing)}")
        why += ", chosen by a list"
    if len(chosen) < LEAST:
        raise ValueError(f"the benchmark needs two cores; it would have {len(chosen)} ({why})")
    return Choice(tuple(chosen), why)


def share(cores: Sequence[int], processes: int, slot: int) -> set[int]:
    """The cores of one of so many processes."""
    return set(cores[slot % processes :: processes] if processes <= len(cores) else cores)


def numbers(text: str) -> list[int]:
    """Reads a list as the kernel writes it: "0,2,4-7". Raises ValueError."""
    found: dict[int, None] = {}
    for part in text.split(","):
        if not (match := re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())):
            raise ValueError(f"{text!r}; give a number of cores, or a list like 0,2,4-7")
        found |= dict.fromkeys(range(int(match[1]), int(match[2] or match[1]) + 1))
    return list(found)


def ranges(cores: Sequence[int]) -> str:
    """Writes a list of cores as numbers() reads it."""
    parts: list[list[int]] = []
    for core in sorted(cores):
        if parts and core == parts[-1][1] + 1:
            parts[-1][1] = core
        else:
            parts.append([core, core])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def quota(sys: Path = SYS, proc: Path = PROC) -> float | None:
    """How many processors' time the control groups of this process allow it, of version 1 or 2;
    None if they set no limit."""
    limits = []
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            files = _upwards(sys / "fs" / "cgroup", group)
            limits += [_text(folder / "cpu.max").split() for folder in files]
        elif "cpu" in controllers.split(","):
            for root in ("cpu", "cpu,cpuacct"):
                for folder in _upwards(sys / "fs" / "cgroup" / root, group):
                    pair = (folder / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
                    limits.append([_text(path).strip() for path in pair])
    found = [int(a) / int(b) for a, b in filter(_is_limit, limits) if int(b)]
    return min(found, default=None)


def _is_limit(words: list[str]) -> bool:
    """Version 2 has the word max where there is no limit, version 1 has -1."""
    return len(words) == 2 and all(word.isdecimal() for word in words)


def _upwards(root: Path, group: str) -> Iterator[Path]:
    """The folders of a control group and of those above it. In a container the root is the
    container's own group, and the path of the group may not exist below it."""
    folder = root / group.strip("/")
    while folder != root:
        yield folder
        folder = folder.parent
    yield root


def _thread(core: int, sys: Path) -> int:
    """The place of a core among the hardware threads of its physical core; 0 if unknown."""
    folder = sys / "devices" / "system" / "cpu" / f"cpu{core}" / "topology"
    text = _text(folder / "thread_siblings_list").strip()
    return numbers(text).index(core) if text else 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
