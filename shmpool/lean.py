# SPDX-License-Identifier: Apache-2.0
"""How a process that runs for months holds only what it uses of the packages it uses.

`import aiohttp.web` first runs aiohttp/__init__.py, which brings the whole client along. For the
time of the import an empty package stands in its place: its parts come from where they are, and the
rest never does. Who imports the package afterwards gets it whole. What this comes to is in
docs/decisions/0012-under-forty-megabytes.md.
"""

import contextlib
import ctypes
import gc
import mmap
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType


@contextlib.contextmanager
def parts_of(*packages: str) -> Iterator[None]:
    """In here `import package.part` runs only that part. Where that raises, nothing of it stays."""
    stands_in = {}
    for name in packages:
        if name not in sys.modules and (spec := find_spec(name)) is not None:
            stands_in[name] = sys.modules[name] = _empty(spec)
    try:
        yield
    except BaseException:
        for name in stands_in:
            for module in [m for m in sys.modules if m.startswith(f"{name}.")]:
                del sys.modules[module]
        raise
    finally:
        for name, package in stands_in.items():
            if sys.modules.get(name) is package:
                del sys.modules[name]


def settle() -> None:
    """After the start: what only the start needed goes back to the kernel, and the collector of
    garbage does not look at what stays any more.

    Memory that is free; and code that was run once: it is dropped from this process, which costs a
    minor fault for each page of it that is run again.
    """
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):  # another libc has no such thing
        libc.malloc_trim(0)
    for start, size in _code():
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def _code() -> Iterator[tuple[int, int]]:
    """Where the executable pages of files are mapped: what nobody can have written to."""
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        where, permissions, _, _, inode = line.split()[:5]
        if permissions == "r-xp" and inode != "0":
            start, _, end = where.partition("-")
            yield int(start, 16), int(end, 16) - int(start, 16)


def _empty(spec: ModuleSpec) -> ModuleType:
    package = ModuleType(spec.name)
    package.__spec__ = spec
    package.__path__ = list(spec.submodule_search_locations or ())
    package.__version__ = "-"  # type: ignore[attr-defined] # aiohttp asks, for its Server header
    return package
