# SPDX-License-Identifier: Apache-2.0
"""Modules that annotations name, imported when typing.get_type_hints() asks for what is in them.

`import shmpool` must import neither typing nor numpy, and pool.py imports queue.py, not the other
way round. Type checkers see the modules themselves.
"""

__all__ = ["hints", "np", "npt", "typing"]


class _Later:
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> object:
        from importlib import import_module

        return getattr(import_module(self._name), name)


hints, np, npt, typing = map(_Later, ("shmpool.hints", "numpy", "numpy.typing", "typing"))
