# SPDX-License-Identifier: Apache-2.0
"""How a subcommand gets its answers: from the daemon, or without a daemon from this process."""

import functools
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
from .json_output import json_option, print_json
from .output import command_of, working

A = TypeVar("A")
F = TypeVar("F", bound=Callable[..., Any])


class Backend(Protocol):
    """What answers a subcommand's requests."""

    def call(self, request: protocol.Request[A]) -> A:
        """Returns the answer. ShmpoolError."""


class Direct:
    """Answers requests in this process, without a daemon."""

    def __init__(self) -> None:
        self._handler = RequestHandler(__version__)

    def call(self, request: protocol.Request[A]) -> A:
        answer: A = self._handler.answer(request)
        return answer


def choose_backend(path: Path | None, direct: bool) -> Backend:
    """The daemon at the path. Without a path, the daemon at the default path, or this process if
    no daemon answers there. DaemonUnavailable."""
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


def with_backend(function: F) -> F:
    """Adds the options --direct and --socket. The command gets the chosen Backend as `backend`."""

    @functools.wraps(function)
    def wrapper(*args: Any, socket: Path | None, direct: bool, **rest: Any) -> Any:
        return function(*args, backend=choose_backend(socket, direct), **rest)

    for option in (
        click.option("--direct", is_flag=True, help="Use the pool itself, not the daemon."),
        click.option(
            "--socket",
            type=click.Path(path_type=Path),
            help="Use the daemon at this socket; fail if it does not answer.",
        ),
    ):
        wrapper = option(wrapper)
    return cast(F, wrapper)


def complete_pool(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The names of pools that begin with `incomplete`."""
    try:
        names = pool_names()
    except (errors.ShmpoolError, OSError):
        return []  # a message would be printed into the user's command line
    return [
        CompletionItem(name)
        for name in names
        if name.startswith(incomplete) and Path(path_of(name)).is_file()
    ]


pool_argument = click.argument("pool", shell_complete=complete_pool)


def query(
    request: Any, example: str, show: Callable[[Any], None], doing: str = ""
) -> click.Command:
    """Makes the subcommand that sends a request about a pool. It prints the answer by show(), or
    with --json as JSON. doing is shown on a terminal until then."""

    @command_of(request, example)
    @pool_argument
    @json_option(request.answer)
    @with_backend
    def command(backend: Backend, pool: str, as_json: bool) -> None:
        with working(doing.format(pool=pool)):
            answer = backend.call(request(pool))
        print_json(answer) if as_json else show(answer)

    found: click.Command = command
    return found
