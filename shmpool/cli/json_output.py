# SPDX-License-Identifier: Apache-2.0
"""--json. Apart from tables, because the daemon's process shall not import rich."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from ..rpc import wire

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Checked:
    """Whether the daemon, or a bridge, could start with a configuration."""

    ok: bool
    messages: list[str]  # what is wrong, and the pools that the daemon would start without


class JsonOption(click.Option):
    """--json, and the types of what it prints: of each a value or an array (docs/cli.md)."""

    def __init__(self, *names: Any, answers: tuple[Any, ...] = (), **more: Any) -> None:
        super().__init__(*names, **more)
        self.answers = answers


def json_option(*answers: Any, about: str = "Print JSON.") -> Callable[[F], F]:
    """Adds --json to a command that prints one of these types."""
    return click.option(
        "--json", "as_json", cls=JsonOption, answers=answers, is_flag=True, help=about
    )


def print_json(answer: Any) -> None:
    click.echo(json.dumps(wire.to_wire(answer), indent=2))
