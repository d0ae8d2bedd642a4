# SPDX-License-Identifier: Apache-2.0
"""Builds shmpool._native: the C core, its cffi declarations, and the C types (../hot, ../net).

The declarations are shmpool.h itself, read here, so that each stands once. cffi would release the
interpreter's lock around every function. Here a function keeps the lock, unless its name ends in
_wait: another thread must not unmap the pool during a call, so a call either keeps the lock or is
counted before it releases it (opening.h), and cffi has no place for code before the release. The
functions named _wait release it in the wrappers made below. cffi has no option for this, so the
generated file, and no other, redefines the macros that release the lock. It also skips saving
errno, which no caller reads. Both take a call from 97 to about 20 ns.
"""

import re
import sysconfig
from pathlib import Path

import cffi

NATIVE = Path(__file__).resolve().parent
PACKAGE = NATIVE.parent
ROOT = PACKAGE.parent
FOLDERS = [NATIVE, PACKAGE / "hot", PACKAGE / "net"]
SOURCES = [path for folder in FOLDERS for path in sorted(folder.glob("*.c"))]
HEADERS = [path for folder in FOLDERS for path in sorted(folder.glob("*.h"))]

# The native benchmark is built with the same. Loops are aligned: by their place alone the same
# instructions take 1.2 or 1.9 ns. -fwrapv and -fPIC are CPython's own.
FLAGS = NATIVE / "flags"

KEEP_THE_LOCK = """
#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }
#undef _cffi_restore_errno
#undef _cffi_save_errno
#define _cffi_restore_errno() ((void)0)
#define _cffi_save_errno() ((void)0)
"""


def declarations(header: str) -> str:
    """The header without its preprocessor lines and comments."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def releasing_wrappers(text: str) -> str:
    """For each NAME_wait(...): a macro that calls it without the interpreter's lock, counted if it
    names an open pool.

    The generated code calls the functions by name, so a macro of the same name gets in between.
    """
    macros = []
    for result, name, arguments in re.findall(r"(\w+) (shmpool_\w+_wait)\(([^)]*)\)", text):
        names = ", ".join(argument.split()[-1].lstrip("*") for argument in arguments.split(","))
        counted = arguments.split(",")[0].strip() == "int pool"
        macros.append(
            f"static {result} {name}_unlocked({' '.join(arguments.split())})\n{{\n"
            + ("\topening_thread_ready();\n" if counted else "")
            + ("\tuint32_t *at = opening_begin((uint32_t)pool);\n" if counted else "")
            + "\tPyThreadState *state = PyEval_SaveThread();\n"
            f"\t{result} r = {name}({names});\n"
            + ("\topening_end(at);\n" if counted else "")
            + "\tPyEval_RestoreThread(state);\n\treturn r;\n}\n"
            f"#define {name} {name}_unlocked\n"
        )
    return "\n".join(macros)


def builder() -> cffi.FFI:
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise RuntimeError(
            "shmpool cannot be built for a free-threaded Python: its C types rely on the "
            "interpreter's lock; use a standard build of Python"
        )
    header = (NATIVE / "shmpool.h").read_text()
    ffi = cffi.FFI()
    text = declarations(header)
    ffi.cdef(text + "\n#define SHMPOOL_DEFAULT ...\n")
    ffi.set_source(
        "shmpool._native",
        '#include "lookup.h"\n' + KEEP_THE_LOCK + releasing_wrappers(text),
        sources=[str(path.relative_to(ROOT)) for path in SOURCES],
        include_dirs=[str(folder.relative_to(ROOT)) for folder in FOLDERS],
        extra_compile_args=[*FLAGS.read_text().split(), "-Wall", "-Wextra"],
        depends=[str(path.relative_to(ROOT)) for path in (*HEADERS, FLAGS)],
        define_macros=[("_CFFI_NO_LIMITED_API", None)],  # hot/ reads objects directly
        py_limited_api=False,
    )
    return ffi


ffibuilder = builder()
