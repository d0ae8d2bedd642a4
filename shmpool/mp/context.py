# SPDX-License-Identifier: Apache-2.0
"""get_context(): a context of multiprocessing whose queues are shmpool's."""

import multiprocessing
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any

from .queues import JoinableQueue, Queue, SimpleQueue


class Context:
    """A context of multiprocessing with the queues of shmpool; all else is multiprocessing's.

    >>> import shmpool
    >>> context = shmpool.get_context("spawn")
    >>> context.get_start_method()
    'spawn'
    """

    Queue = Queue
    JoinableQueue = JoinableQueue
    SimpleQueue = SimpleQueue

    def __init__(self, context: BaseContext) -> None:
        self._context = context

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name == "_context":  # while it is unpickled
                raise AttributeError(name)
            return getattr(self._context, name)

    def get_context(self, method: str | None = None) -> "Context":
        """Returns the context of that start method; None: this one."""
        return self if method is None else get_context(method)

    def __repr__(self) -> str:
        return f"<shmpool.mp.Context of {type(self._context).__name__}>"


def get_context(method: str | None = None) -> Context:
    """As multiprocessing.get_context: method is "fork", "spawn" or "forkserver"; None: the default.

    Raises:
        ValueError: there is no such start method.
    """
    return Context(multiprocessing.get_context(method))
