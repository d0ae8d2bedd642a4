# SPDX-License-Identifier: Apache-2.0
"""What limits this process or separates it from the rest of the machine: control groups,
namespaces, logind. Reads /proc, /sys and /etc below a root, which tests change. Files that are
missing are taken as unknown; nothing raises.
"""

import contextlib
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

FIRST_PID_NAMESPACE = "pid:[4026531836]"  # linux/proc_ns.h: PROC_PID_INIT_INO
UNLIMITED = 1 << 60  # cgroup v1 writes a large number for "no limit"
SYSTEM_UID_MAX = 999
LOGIND = ("usr/lib/systemd", "usr/local/lib/systemd", "run/systemd", "etc/systemd")


@dataclass(frozen=True)
class Limit:
    """The memory limit of a control group. Pools count towards it."""

    octets: int
    version: int  # of cgroups
    group: str  # path of the group that sets it


def text_of(path: Path) -> str:
    """The text of a file, with bytes that are not UTF-8 as surrogates. "" if it cannot be read."""
    try:
        return path.read_bytes().decode(errors="surrogateescape")
    except OSError:
        return ""


def file_system(path: str, root: Path) -> str:
    """The type of the file system at a path. "" if it is unknown."""
    real = os.path.realpath(path)
    best, found = "", ""
    for _, point, kind, _ in _mounts(root):
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of equal points, the last mount is on top
            best, found = point, kind
    return found


def memory_limit(root: Path) -> Limit | None:
    """The lowest limit of this process's control group and its parents. None without a limit."""
    groups = [line.split(":", 2) for line in text_of(root / "proc/self/cgroup").splitlines()]
    limits: list[Limit] = []
    for _, point, kind, options in _mounts(root):
        for group in groups:
            if len(group) != 3:
                continue
            if kind == "cgroup2" and group[0] == "0":
                limits += _limits_of(root, point, group[2], "memory.max", 2)
            elif kind == "cgroup" and {"memory"} <= {*options.split(",")} & {*group[1].split(",")}:
                limits += _limits_of(root, point, group[2], "memory.limit_in_bytes", 1)
    return min(limits, key=lambda limit: limit.octets, default=None)


def _limits_of(root: Path, point: str, group: str, file: str, version: int) -> list[Limit]:
    """The limits of a group and its parents. In a container the group's path may be that of the
    host while the mount begins at the group itself: then only the mount's own limit is found."""
    below = root / point.lstrip("/")
    parts = [part for part in group.split("/") if part not in ("", "..")]
    found = []
    for depth in range(len(parts) + 1):
        path = below.joinpath(*parts[:depth], file)
        with contextlib.suppress(ValueError):  # "max", or nothing
            octets = int(text_of(path))
            if octets < UNLIMITED:
                found.append(Limit(octets, version, "/" + "/".join(parts[:depth])))
    return found


def own_pid_namespace(root: Path) -> bool | None:
    """True if this process is not in the host's first PID namespace. None if unknown."""
    try:
        return os.readlink(root / "proc/self/ns/pid") != FIRST_PID_NAMESPACE
    except OSError:
        return None


def removed_at_logout(root: Path, uid: int | None = None) -> str | None:
    """The user's name, if systemd-logind removes the user's files in /dev/shm at logout."""
    uid = os.geteuid() if uid is None else uid
    if uid <= SYSTEM_UID_MAX or not (root / "run/systemd/users").is_dir():
        return None
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    if (root / "var/lib/systemd/linger" / user).exists():
        return None  # a lingering user never logs out
    return user if _remove_ipc(root) else None


def _remove_ipc(root: Path) -> bool:
    """RemoveIPC= as logind reads it: the last value in the order of its files."""
    files = [root / base / "logind.conf" for base in LOGIND]
    drop_ins: dict[str, Path] = {}
    for base in LOGIND:
        with contextlib.suppress(OSError):
            for path in (root / base / "logind.conf.d").iterdir():
                if path.suffix == ".conf":
                    drop_ins[path.name] = path  # /etc overrides /run, /run overrides /usr
    main = [path for path in files if path.exists()][-1:]
    remove = True
    for path in [*main, *(drop_ins[name] for name in sorted(drop_ins))]:
        for line in text_of(path).splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "RemoveIPC":
                remove = value.strip().lower() in ("", "1", "yes", "y", "true", "t", "on")
    return remove


def _mounts(root: Path) -> list[tuple[str, str, str, str]]:
    """Device, mount point, type and options of each mount, in order."""
    found = []
    for line in text_of(root / "proc/self/mounts").splitlines():
        fields = line.split(" ")
        if len(fields) >= 4:
            point = fields[1].replace("\\040", " ").replace("\\011", "\t")
            found.append((fields[0], point, fields[2], fields[3]))
    return found
