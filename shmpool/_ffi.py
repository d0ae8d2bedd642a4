# SPDX-License-Identifier: Apache-2.0
"""The only way into C: loads shmpool._native, which cffi calls, and shmpool._hot, the C types.

Which calls go which way, and why: hot/hot.h. Any is allowed here and nowhere else.
"""

import importlib.machinery
import importlib.util
import sys

if sys.platform != "linux":
    raise ImportError(f"shmpool works on Linux only, and this is {sys.platform}")
if sys.implementation.name != "cpython":
    raise ImportError(f"shmpool works in CPython only, and this is {sys.implementation.name}")
if sys.maxsize < 2**32:
    raise ImportError("shmpool works on 64-bit processors only, and this Python is a 32-bit one")
if "t" in getattr(sys, "abiflags", "") or not getattr(sys, "_is_gil_enabled", lambda: True)():
    raise ImportError(
        "shmpool does not work in a free-threaded Python (Py_GIL_DISABLED): its C types rely on "
        "the interpreter's lock"
    )

from ._native import __file__ as _file  # type: ignore[import-not-found]
from ._native import ffi, lib

__all__ = ["Native", "ffi", "lib"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Native = Any
else:
    Native = object


def _load_hot() -> None:
    """Loads shmpool._hot from the file of shmpool._native.

    Both modules are in one file because they share one core, whose state is one per process. The
    import system finds a module only under its file's name, so the loader is called here (PEP 489,
    "Multiple modules in one library").
    """
    name = "shmpool._hot"
    loader = importlib.machinery.ExtensionFileLoader(name, _file)
    spec = importlib.machinery.ModuleSpec(name, loader, origin=_file)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[name] = module


_load_hot()
