# SPDX-License-Identifier: Apache-2.0
"""shmpool create."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import click

from .. import errors
from ..options import (
    POOL,
    QUEUE,
    TOPIC,
    Option,
    PoolOptions,
    QueueOptions,
    Refusal,
    TopicOptions,
    queue_refusals,
    topic_refusals,
)
from ..rpc.protocol import Create
from .access import Backend, with_backend
from .describe import show
from .json_output import json_option, print_json
from .output import command_of, working

A = TypeVar("A")
F = TypeVar("F", bound=Callable[..., Any])


class Octal(click.ParamType[int]):
    """Permission bits, from octal digits."""

    name = "octal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; what no option can be is a usage error."""
        try:
            return value if isinstance(value, int) else int(value, 8)
        except ValueError:
            self.fail(f"{value!r} is not octal, for example 0660.", param, ctx)


class ByClass(click.ParamType[int | list[int]]):
    """A number, or one for each size class: 2048,65536."""

    name = "integer[,integer...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the list of numbers; what is neither is a usage error."""
        try:
            numbers = [int(part) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} is neither a number nor several: 2048,65536.", param, ctx)
        return numbers if len(numbers) > 1 else numbers[0]


class NumberOrWord(click.ParamType[int | str]):
    """A number, or a word, such as auto. The pool's options check both."""

    name = "integer or word"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the word."""
        try:
            return int(value)
        except ValueError:
            return value


def pool_options(function: F) -> F:
    """Adds an option for each field of PoolOptions."""
    for field in reversed(fields(PoolOptions)):
        option = POOL[field.name]
        function = click.option(
            f"--{field.name.replace('_', '-')}",
            type=type_of(field.name, option),
            required=field.default is MISSING,
            default=None if field.default is MISSING else field.default,
            help=helped(option, field.default),
        )(function)
    return function


def type_of(name: str, option: Option) -> Any:
    """The type of an option that takes a value."""
    if option.octal:
        return Octal()
    if option.choices:
        return click.Choice(option.choices)
    if option.also is not None or name == "numa_node":
        return NumberOrWord()
    return ByClass() if option.by_class else str if option.least is None else int


def helped(option: Option, default: object) -> str:
    """The sentence of an option, with its range and default."""
    shown = option.default
    if default not in (None, MISSING):
        shown = str(default) if option.choices else option.spelled(default)
    allowed = "" if option.choices else option.allowed()  # the usage lists the choices
    notes = (f"default: {shown}" if shown is not None else "", allowed)
    return f"{option.about}  [{'; '.join(filter(None, notes))}]"


@command_of(
    Create,
    "shmpool create rx --buffer-size 2048 --capacity 65536 --queue work=4096,on_death=requeue",
)
@click.argument("pool")
@pool_options
@click.option(
    "--queue",
    "named_queues",
    multiple=True,
    metavar="NAME=CAPACITY[,OPTION=VALUE...]",
    help=f"A queue to create; may be repeated. Options: {', '.join(list(QUEUE)[1:])}.",
)
@click.option(
    "--topic",
    "named_topics",
    multiple=True,
    metavar="NAME=DEPTH",
    help="A topic to create; may be repeated.",
)
@json_option(Create.answer)
@with_backend
def command(
    backend: Backend,
    pool: str,
    named_queues: tuple[str, ...],
    named_topics: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    request = Create(
        pool,
        PoolOptions(**options),
        parse_all("queue", named_queues, QueueOptions, QUEUE, lambda q: queue_refusals(q, None)),
        parse_all("topic", named_topics, TopicOptions, TOPIC, topic_refusals),
    )
    with working(f"creating {pool}"):
        made = backend.call(request)
    print_json(made) if as_json else show(made)


def parse_all(
    what: str,
    given: Sequence[str],
    kind: Callable[..., A],
    known: dict[str, Option],
    refusals: Callable[[A], Iterable[Refusal]],
) -> dict[str, A]:
    """The queues or topics of a pool, by name. InvalidArgument."""
    found: dict[str, A] = {}
    for text in given:
        name, options = parse(text, f"--{what}", known)
        if name in found:
            raise errors.InvalidArgument(f"--{what} {text}: there is a {what} {name!r} before it")
        found[name] = kind(**options)
        for refusal in refusals(found[name]):
            raise errors.InvalidArgument(f"--{what} {text}: {refusal}")
    return found


def parse(given: str, flag: str, known: dict[str, Option]) -> tuple[str, dict[str, Any]]:
    """The name and the options of NAME=FIRST[,OPTION=VALUE...]; FIRST is the first option that is
    known. InvalidArgument."""
    name, *rest = given.split(",")
    name, _, value = name.partition("=")
    first = next(iter(known))
    if not name or not value:
        raise errors.InvalidArgument(
            f"{flag} needs NAME={first.upper()}, for example work=4096, not {given!r}"
        )
    options: dict[str, Any] = {}
    for part in (f"{first}={value}", *rest):
        key, _, value = part.partition("=")
        if key not in known:
            raise errors.InvalidArgument(
                f"{flag} {given}: unknown option {key!r}; known are {', '.join(known)}"
            )
        try:
            spelled = known[key].least is None or (known[key].also and not value.isdigit())
            options[key] = value if spelled else int(value)
        except ValueError:
            raise errors.InvalidArgument(
                f"{flag} {given}: {key} is {value!r}; it must be an integer"
            ) from None
    return name, options
