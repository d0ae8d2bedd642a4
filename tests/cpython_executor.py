# SPDX-License-Identifier: Apache-2.0
"""A program: CPython's own tests of its process pools, run against shmpool's executor.

python tests/cpython_executor.py fork|spawn|forkserver [test ...]

Not every installation of Python has these tests. PYTHONPATH may name a folder with a package "test"
that has them: borrow() makes one of what Debian has, which `make tools` installs.
"""

import concurrent.futures
import concurrent.futures.process
import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import unittest
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import shmpool

MODULES = (
    "test_process_pool",
    "test_shutdown",
    "test_deadlock",
    "test_init",
    "test_wait",
    "test_as_completed",
)
# Tests of what shmpool's executor does not do, by name, with the reason, and tests in which another
# exception than BrokenProcessPool is right. docs/executor.md has a line for each.
DEVIATIONS = {
    "test_killed_child": "a killed worker does not break the executor",
    "test_max_workers_too_large": "the limit is that of Windows",
}
INSTEAD: dict[str, type[BaseException]] = {
    "test_crash_at_task_unpickle": shmpool.WorkerDied,
    "test_crash_during_func_exec_on_worker": shmpool.WorkerDied,
    "test_crash_during_result_pickle_on_worker": shmpool.WorkerDied,
    "test_crash_big_data": shmpool.WorkerDied,
    "test_shutdown_deadlock": shmpool.WorkerDied,
    "test_error_at_task_unpickle": UnpicklingError,
    "test_exit_at_task_unpickle": SystemExit,
    "test_error_during_result_unpickle_in_result_handler": UnpicklingError,
    "test_exit_during_result_unpickle_in_result_handler": SystemExit,
}
# They give a few seconds to tasks: workers start before, which takes longer on a busy machine.
TIMED = ("test_map_timeout", "test_timeout")


DEBIAN = Path("/usr/lib/python{}.{}/test".format(*sys.version_info))
PACKAGE = "test_concurrent_futures"


def installed() -> bool:
    """Whether this Python has the tests, or can borrow them from Debian's of the same version."""
    found = importlib.util.find_spec("test")
    return found is not None and (
        importlib.util.find_spec(f"test.{PACKAGE}") is not None or any(DEBIAN.glob(f"{PACKAGE}*"))
    )


def borrow(folder: Path) -> None:
    """Makes a package "test" in the folder, of this Python's and Debian's tests."""
    (folder / "test").mkdir()
    found = importlib.util.find_spec("test")
    assert found is not None
    for place in (*map(Path, found.submodule_search_locations or ()), DEBIAN):
        for path in place.glob("*" if place != DEBIAN else f"{PACKAGE}*"):
            with contextlib.suppress(FileExistsError):
                (folder / "test" / path.name).symlink_to(path)


def tests_of_cpython() -> list[ModuleType]:
    """Returns the modules: several, or one in older versions; none where they are not installed."""
    try:
        package = importlib.import_module(f"test.{PACKAGE}")
    except ModuleNotFoundError:
        return []
    if not hasattr(package, "__path__"):
        return [package]
    return [importlib.import_module(f"{package.__name__}.{name}") for name in MODULES]


class ProcessPoolExecutor(shmpool.ProcessPoolExecutor):
    """With the private names that the tests read."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._call_queue = shmpool.Queue()

    @property
    def _executor_manager_thread(self) -> object:
        return self._manager.collector

    @property
    def _broken(self) -> bool:
        return (self._manager.refusal or (None,))[0] is BrokenProcessPool


class Ours:
    """A mixin for a test case."""

    def setUp(self: Any) -> None:
        super().setUp()  # type: ignore[misc]
        if self._testMethodName in TIMED:
            concurrent.futures.wait([self.executor.submit(abs, i) for i in range(5)])

    def assertRaises(self: Any, expected: Any, *args: Any, **options: Any) -> Any:  # noqa: N802
        if expected is BrokenProcessPool:
            expected = INSTEAD.get(self._testMethodName, expected)
        return super().assertRaises(expected, *args, **options)  # noqa: PT027


def python_with_ours(run: Any, *args: str) -> Any:
    """Runs a test's program with shmpool's executor in place of the standard one."""
    ours = [arg.replace("concurrent.futures import", "shmpool import") for arg in args[1:]]
    return run(args[0], *ours, PYTHONPATH=os.pathsep.join(sys.path))


def suite(modules: list[ModuleType], method: str, names: list[str]) -> unittest.TestSuite:
    """Returns the tests with that start method; all, or those of these names."""
    found = unittest.TestSuite()
    for module in modules:
        if hasattr(module, "assert_python_ok"):
            module.assert_python_ok = functools.partial(python_with_ours, module.assert_python_ok)
        for case in list(vars(module).values()):
            if not isinstance(case, type) or not issubclass(case, unittest.TestCase):
                continue
            named = unittest.defaultTestLoader.getTestCaseNames(case)
            if case.__name__ == "FailingInitializerResourcesTest":
                named = [f"test_{method}"] if method != "fork" else []
            elif getattr(case, "ctx", None) != method:
                continue
            ours = type(case.__name__, (Ours, case), {"__module__": module.__name__})
            setattr(module, case.__name__, ours)
            for name in named:
                if names and name not in names:
                    continue
                if name in DEVIATIONS:
                    setattr(ours, name, unittest.skip(DEVIATIONS[name])(lambda self: None))
                found.addTest(ours(name))
    return found


if __name__ in ("__main__", "__mp_main__"):  # also in the processes that it starts
    concurrent.futures.ProcessPoolExecutor = ProcessPoolExecutor  # type: ignore[misc]
    MODULES_FOUND = tests_of_cpython()

if __name__ == "__main__":
    tests = suite(MODULES_FOUND, sys.argv[1], sys.argv[2:])
    done = unittest.TextTestRunner(verbosity=2).run(tests)
    sys.exit(not done.wasSuccessful())
