# SPDX-License-Identifier: Apache-2.0
"""Interpreters that shmpool does not support are refused, and other interpreters are not
affected."""

import runpy
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Child, MakePool

import shmpool


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_a_sub_interpreter_is_refused(
    make_pool: MakePool, run: Callable[..., str], kind: str
) -> None:
    """An import in a second interpreter, legacy or isolated, is an ImportError with the reason.

    The objects of the first interpreter work as before. From Python 3.12 on, Python itself refuses
    extensions in an isolated interpreter.
    """
    pool = make_pool()
    pool.create_queue("q", capacity=8)
    printed = run(
        """
        import os, sys, shmpool
        try:
            import _xxsubinterpreters as interpreters
            made = interpreters.create(isolated=sys.argv[2] == "isolated")
        except ImportError:
            import _interpreters as interpreters
            made = interpreters.create(sys.argv[2])
        pool = shmpool.Pool.attach(sys.argv[1])
        queue = pool.queue("q")
        code = f'''
        import sys
        sys.path[:] = {sys.path + [os.getcwd()]!r}
        try:
            import shmpool
        except ImportError as error:
            said = str(error)
            assert "main interpreter" in said or "in subinterpreters" in said, error
        else:
            raise SystemExit("imported")
        '''
        import textwrap
        for _ in range(2):
            interpreters.run_string(made, textwrap.dedent(code))
        interpreters.destroy(made)
        with pool.alloc() as buf:
            assert isinstance(buf, shmpool.Buffer)
        queue.send(b"x")
        assert queue.recv() == b"x"
        try:
            queue.get_nowait()
        except shmpool.Empty:
            pass
        try:
            queue.put(buf)
        except shmpool.BufferReleased:
            print("as before")
        """,
        pool.name,
        kind,
    )
    assert "as before\n" == printed


@pytest.mark.parametrize("fake", ["sys.abiflags = 't'", "sys._is_gil_enabled = lambda: False"])
def test_a_free_threaded_python_is_refused(run: Callable[..., str], fake: str) -> None:
    """The import is refused, with the reason."""
    printed = run(
        f"""
        import sys
        {fake}
        try:
            import shmpool
        except ImportError as error:
            print("Py_GIL_DISABLED" in str(error))
        """
    )
    assert "True\n" == printed


@pytest.mark.parametrize(
    ("fake", "line"),
    [
        ("sys.platform = 'darwin'", "shmpool works on Linux only, and this is darwin"),
        ("sys.implementation.name = 'pypy'", "shmpool works in CPython only, and this is pypy"),
        (
            "sys.maxsize = 2**31 - 1",
            "shmpool works on 64-bit processors only, and this Python is a 32-bit one",
        ),
    ],
)
def test_other_platforms_are_refused(run: Callable[..., str], fake: str, line: str) -> None:
    """The import is refused in one line."""
    printed = run(
        f"""
        import sys
        {fake}
        try:
            import shmpool
        except ImportError as error:
            print(error)
        """
    )
    assert line + "\n" == printed


def test_nothing_is_built_for_a_free_threaded_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder refuses before a compiler runs."""
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: name == "Py_GIL_DISABLED")
    builder = Path(shmpool.__file__).parent / "native" / "build.py"
    with pytest.raises(RuntimeError, match="free-threaded"):
        runpy.run_path(str(builder))


def test_a_second_import(start: Callable[..., Child]) -> None:
    """A program that forgets the modules and imports them again gets an ImportError that says why,
    and what it had goes on to work."""
    child = start(
        """
        import sys, shmpool
        pool = shmpool.Pool.create(None, buffer_size=64, capacity=64)
        for name in [name for name in sys.modules if name.split(".")[0] == "shmpool"]:
            del sys.modules[name]
        try:
            import shmpool as again
        except ImportError as error:
            print(error)
        queue = pool.create_queue("q", capacity=2)
        queue.put(pool.alloc())
        print(len(queue))
        """
    )
    said, counted = child.end().splitlines()
    assert said.startswith("shmpool is imported already in this process")
    assert "1" == counted
