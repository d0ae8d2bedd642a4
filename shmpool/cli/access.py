# SPDX-License-Identifier: Apache-2.0
"""Who answers a subcommand's requests: the daemon, or without one a registry in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import click
from click.shell_completion import CompletionItem

from .. import __version__, errors
from ..pool_files import path_of, pool_names
from ..rpc import protocol
from ..rpc.client import Client
from ..service.handlers import RequestHandler

A = TypeVar("A")
F = TypeVar("F", bound=Callable[..., Any])


class Asker(Protocol):
    """Whom a subcommand sends its requests to."""

    def call(self, request: protocol.Request[A]) -> A:
        """The answer. ShmpoolError."""


class Direct:
    """Answers requests in this process, by working on the pools itself."""

    def __init__(self) -> None:
        self._handler = RequestHandler(__version__)

    def call(self, request: protocol.Request[A]) -> A:
        answer: A = self._handler.answer(request)
        return answer


def asker(path: Path | None, direct: bool) -> Asker:
    """The daemon at the path; without one, the daemon at the default path if there is one."""
    if direct:
        return Direct()
    client = Client(path)
    try:
        client.ping()
    except errors.DaemonUnavailable:
        if path is not None:
            raise
        return Direct()
    return client


def from_whom(function: F) -> F:
    """Adds --direct and --socket; the command gets an Asker as `ask`."""

    def wrapper(*args: Any, socket: Path | None, direct: bool, **rest: Any) -> Any:
        return function(*args, ask=asker(socket, direct), **rest)

    wrapper.__doc__ = function.__doc__
    wrapper.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    wrapper.__name__ = function.__name__
    for option in (
        click.option("--direct", is_flag=True, help="Work on the pool itself; ask no daemon."),
        click.option(
            "--socket",
            type=click.Path(path_type=Path),
            help="Ask the daemon at this socket; fail if it does not answer.",
        ),
    ):
        wrapper = option(wrapper)
    return cast(F, wrapper)


def complete_pool(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The names of pools that begin so."""
    try:
        names = pool_names()
    except (errors.ShmpoolError, OSError):
        return []  # a message would land in the middle of the user's command line
    return [
        CompletionItem(name)
        for name in names
        if name.startswith(incomplete) and Path(path_of(name)).is_file()
    ]


pool_argument = click.argument("pool", shell_complete=complete_pool)
