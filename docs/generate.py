# SPDX-License-Identifier: Apache-2.0
"""Writes the pages of docs/ that are named in TEXTS from what is declared in the code.

python docs/generate.py
"""

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import click

from shmpool.bridge.nats_options import NatsOptions
from shmpool.cli.json_output import JsonOption
from shmpool.cli.main import MODULES, shmpool
from shmpool.net import headers
from shmpool.options import Option, QueueOptions, TopicOptions, options_of
from shmpool.rpc import protocol, records, wire
from shmpool.service import config, metrics
from shmpool.stats import COUNTERS

DOCS = Path(__file__).resolve().parent
WRITTEN = "<!-- Written by docs/generate.py: change what it is made from. -->\n"


def remarks(kind: Any) -> dict[str, str]:
    """The comment behind each field in the source of a record, and of those it is made from."""
    found: dict[str, str] = {}
    for base in reversed([b for b in kind.__mro__ if is_dataclass(b)]):
        source = inspect.getsource(base)
        found |= re.findall(r"^    (\w+): [^#\n]*?(?:\(\n[^#\n]*?)?  # (.+)$", source, re.MULTILINE)
    return found


def default(field: "Field[Any]") -> str:
    """As it would stand in a TOML file or in a request; a dash for none."""
    value = field.default
    if value is MISSING and field.default_factory is not MISSING:
        value = field.default_factory()
    if value is MISSING:
        return "required"
    if value is None or value == {}:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value!r}`".replace("'", '"')


def spelled(kind: Any) -> str:
    """A type, without the articles that a message has."""
    return re.sub(r"\b(?:a|an) (?=int|str|number|bool)", "", wire.spelled(kind))


def fields_table(kind: Any) -> Iterator[str]:
    """The fields of a record of the protocol."""
    said, types = remarks(kind), wire.hints(kind)
    meant = {name: option.about for name, option in options_of(kind).items()}
    yield "| field | type | |"
    yield "|---|---|---|"
    for name in types:
        yield f"| `{name}` | {spelled(types[name])} | {meant.get(name) or said.get(name, '')} |"


def options_table(kind: Any) -> Iterator[str]:
    """The options of a table in the configuration."""
    said, types, meant = remarks(kind), wire.hints(kind), options_of(kind)
    yield "| option | | allowed | unit | default |"
    yield "|---|---|---|---|---|"
    for field in fields(kind):
        name, option = field.name, meant.get(field.name) or Option(said.get(field.name, ""))
        if option.octal:
            allowed, shown = f'"{option.allowed()}"', f'"{option.spelled(field.default)}"'
            allowed = allowed.replace(" to ", '" to "').replace('"from ', 'from "')
        else:
            allowed = option.allowed() or spelled(types[name]).removesuffix(" or nil")
            given = option.default
            shown = default(field) or (f"`{given}`" if isinstance(given, int) else given or "")
        name = config.as_written(name)
        yield f"| `{name}` | {option.about} | {allowed} | {option.unit} | {shown} |"


def enter_records(kind: Any, seen: dict[str, Any]) -> None:
    """Enters every record that a type is made of."""
    if is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in seen:
            seen[kind.__name__] = kind
            for inner in wire.hints(kind).values():
                enter_records(inner, seen)
    else:
        for inner in get_args(kind):
            enter_records(inner, seen)


def protocol_text() -> str:
    lines = [
        "# The daemon's protocol",
        "",
        WRITTEN,
        inspect.cleandoc(PROTOCOL_HEAD).format(
            request_max=wire.REQUEST_MAX >> 10, version=protocol.PROTOCOL
        ),
        "",
        "## Methods",
        "",
        "| method | answer | |",
        "|---|---|---|",
    ]
    seen: dict[str, Any] = {}
    for kind in protocol.REQUESTS:
        text = " ".join((inspect.getdoc(kind) or "").split())
        marks = " Only the daemon's user." if kind.writes else ""
        lines.append(f"| `{protocol.usage(kind)}` | {spelled(kind.answer)} | {text}{marks} |")
        enter_records(kind.answer, seen)
        for inner in wire.hints(kind).values():
            enter_records(inner, seen)
    lines += ["", "## Notifications", "", "| | parameters | |", "|---|---|---|"]
    for name, params, text in NOTIFICATIONS:
        lines.append(f"| `{name}` | {params} | {text} |")
    lines += ["", "## Records", "", "Each is a map. nil stands for what is not known or not given."]
    for name, kind in sorted(seen.items()):
        doc = " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())
        lines += ["", f"### {name}", "", doc, "", *fields_table(kind)]
    return "\n".join(lines) + "\n"


PROTOCOL_HEAD = """
    MessagePack-RPC, by its public specification, over a Unix stream socket: a request is `[0,
    msgid, method, params]`, an answer `[1, msgid, error, result]`, a notification `[2, method,
    params]`. Parameters are positional, the pool's name first; those with a default may be left
    out from the end. Answers come in the order of the requests. A client in another language
    needs a MessagePack library and nothing else.

    The socket is `$SHMPOOL_SOCKET`, or `daemon.sock` in `$XDG_RUNTIME_DIR/shmpool` or in
    `/run/shmpool`. The kernel says who has connected (SO_PEERCRED): the daemon's own user and
    root may do everything, members of `read_group` may read, and no other user is admitted.

    A connection speaks protocol {version}; `version` settles on another if there is one. Maps may
    get new keys, methods new parameters at the end: leave out what you do not know.

    An error is a map: `kind` is the name of the exception the Python library raises, `message` is
    a sentence, `errno` a number. A request may be {request_max} KiB long and must be whole 10 s
    after it began. A client that sends an invalid frame, or does not read for 10 s, gets the
    reason with `closing` and is disconnected.
"""
NOTIFICATIONS = (
    (protocol.STATS, "`[PoolStats]`", "for each watch, at its interval"),
    (protocol.ENDED, "`[pool, reason]`", "a watch is over: its pool is gone"),
    (protocol.CLOSING, "`[reason]`", "the daemon ends the connection"),
)


def cli_text() -> str:
    lines = ["# The shmpool command", "", WRITTEN]
    sizes: dict[str, Any] = {"terminal_width": 100, "max_content_width": 100}
    sizes |= shmpool.context_settings
    root = click.Context(shmpool, info_name="shmpool", **sizes)
    lines += ["```", shmpool.get_help(root), "```"]
    for name in MODULES:
        command = shmpool.get_command(root, name)
        assert command is not None  # noqa: S101
        context = click.Context(command, parent=root, info_name=name, **sizes)
        lines += ["", f"## shmpool {name}", "", "```", command.get_help(context), "```"]
    lines += [
        "",
        "## JSON",
        "",
        inspect.cleandoc(JSON_HEAD),
        "",
        "| command | prints |",
        "|---|---|",
    ]
    own: dict[str, Any] = {}
    for name, answers in json_answers().items():
        lines.append(f"| `{name}` | {'; '.join(map(answer_link, answers))} |")
        for answer in answers:
            if (kind := record_of(answer)).__module__.startswith("shmpool.cli"):
                own[kind.__name__] = kind
    for name, kind in sorted(own.items()):
        lines += ["", f"### {name}", "", inspect.getdoc(kind) or "", "", *fields_table(kind)]
    return "\n".join(lines) + "\n"


JSON_HEAD = """
    `--json` prints these records to stdout, and nothing else; where there may be several, an array
    of them. The fields are those of the Python records and of the protocol. They are stable:
    fields may be added, and none is renamed or removed without a new major version. The exit
    status says what it says without `--json`.

    Tables are as wide as the terminal; a table that does not fit has a line for each value. In a
    pipe they have 160 columns, or `COLUMNS`. `NO_COLOR=1` prints no colours, `FORCE_COLOR=1` prints
    them in a pipe too. What to do next is said at a terminal only, on stderr.
"""


def json_answers() -> dict[str, tuple[Any, ...]]:
    """The types that each command prints with --json."""
    found = {}
    for name in MODULES:
        command = shmpool.get_command(click.Context(shmpool), name)
        for option in command.params if command else ():
            if isinstance(option, JsonOption):
                found[name] = option.answers
    return found


def record_of(answer: Any) -> Any:
    """The record that an answer is, or is an array of."""
    return (get_args(answer) or (answer,))[0]


def answer_link(answer: Any) -> str:
    """An answer, with a link to its fields."""
    kind = record_of(answer)
    page = "" if kind.__module__.startswith("shmpool.cli") else "protocol.md"
    several = kind is not answer
    return f"{'array of ' * several}[{kind.__name__}]({page}#{kind.__name__.lower()})"


def config_text() -> str:
    lines = ["# The daemon's configuration", "", WRITTEN, inspect.cleandoc(CONFIG_HEAD)]
    for title, kind in (
        ("[daemon]", config.DaemonOptions),
        ("[pools.NAME]", config.PoolConfig),
        ("[pools.NAME.queue.NAME]", QueueOptions),
        ("[pools.NAME.topic.NAME]", TopicOptions),
        ("[[link]]", config.LinkOptions),
        ("[link.nats]", NatsOptions),
    ):
        lines += ["", f"## {title}", "", *options_table(kind)]
    lines += [
        "",
        "The options of a pool, a queue and a topic mean what they mean to `Pool.create`,",
        "`Pool.create_queue` and `Pool.create_topic`, have the same names there and in",
        "`shmpool create`, and the same ranges and defaults. A range can be narrower beside other",
        "options; the message says so. In a pool of several size classes `buffer_size` is an array",
        "in ascending order, and `capacity`, `prealloc` and `cache_size` are arrays of that",
        "length, or one value for all.",
        "",
        inspect.cleandoc(CONFIG_TAIL),
    ]
    return "\n".join(lines) + "\n"


CONFIG_HEAD = """
    TOML; `packaging/shmpool.toml` is an example. `shmpool daemon --check --config FILE` says
    whether a file can be used; what is wrong is said with its line and value, and then nothing is
    made.

    At start and with SIGHUP the daemon makes the pools, queues and topics that are declared and
    missing.
    One that exists with other values is refused, with both. A pool that is no longer declared
    stays. Where the file under a declared pool's name is not of the daemon's user or root, or lets
    others write who may not by its mode, that pool is refused, the daemon starts without it, and
    makes it when the file is gone. A reload that is refused is said in the log and in
    `systemctl status`, and changes nothing.
"""
CONFIG_TAIL = """
    ## Which pools are watched over

    /dev/shm is everybody's. The daemon watches over the pools that `adopt` names, if they belong to
    its own user or root, or if they are for a group that it is in (their mode lets that group
    write); and to the users in `adopt_users`. Those of the latter never take the place of the
    former; at most 248 pools are watched. Files of others are counted (`shmpool_foreign_files`)
    and not opened. To watch a pool is not to use it: it can be pruned. A pool that is declared
    cannot. One that the daemon's user may only read is watched, and not recovered.

    ## Who may read over HTTP

    HTTP answers GET and HEAD and changes nothing. It answers requests under the addresses that it
    listens on, the host in `http`, this machine's name, localhost if that leads to it, and the
    names in `http_hosts`; and none from pages of other sites (Origin, Sec-Fetch-Site). At a TCP
    port every client that reaches it may read. To admit fewer:

    - `http = "unix:/run/shmpool/http.sock"`: the daemon's user, and the members of `read_group`.
    - `http_token_file = "/etc/shmpool.token"`: clients that send the token in it, 16 or more
      printable characters, as a bearer token, or as the password of any user, which a browser
      asks for. The file is read at the start, and no other user may be able to read it.

    In Prometheus:

    ```yaml
    scrape_configs:
      - job_name: shmpool
        static_configs: [{targets: ["127.0.0.1:9464"]}]
        authorization: {type: Bearer, credentials_file: /etc/shmpool.token}
    ```

    `/metrics` is OpenMetrics or the text format 0.0.4, as Accept asks; for `*/*` the latter.

    ## Under systemd

    `read_group` also holds for the socket of `packaging/shmpool.socket`. Where the daemon cannot
    change that socket it says so; set `SocketGroup=` and `SocketMode=0660` in the unit then.
"""


def members_table(kind: Any) -> Iterator[str]:
    """The members of an enumeration, with the comments behind them."""
    said = dict(re.findall(r"^    (\w+) = [^#\n]+  # (.+)$", inspect.getsource(kind), re.MULTILINE))
    yield "| | value | |"
    yield "|---|---|---|"
    for member in kind:
        about = said.get(member.name, "")
        yield f"| `{kind.__name__}.{member.name}` | {member.value:#x} | {about} |"


def headers_text() -> str:
    """The page as it is, up to its tables, which are written again."""
    before = (DOCS / "headers.md").read_text().partition(WRITTEN)[0]
    lines = [before + WRITTEN, "## Columns", "", "| column | dtype | unit | |", "|---|---|---|---|"]
    for name, dtype, unit, about in headers.COLUMNS:
        lines.append(f"| `{name}` | `{dtype}` | {unit} | {about} |")
    for kind in (headers.Layer, headers.Link, headers.Checksum):
        doc = " ".join((inspect.getdoc(kind) or "").split())
        lines += ["", f"## {kind.__name__}", "", doc, "", *members_table(kind)]
    return "\n".join(lines) + "\n"


def metrics_text() -> str:
    lines = ["# Metrics", "", WRITTEN, inspect.cleandoc(METRICS_HEAD), ""]
    lines += ["| metric | type | labels | |", "|---|---|---|---|"]
    for family, name, about, labels in metrics.FAMILIES:
        kind = family.__name__.removesuffix("MetricFamily").lower()
        end = {"counter": "_total", "info": "_info"}.get(kind, "")
        marked = ", ".join(f"`{label}`" for label in labels)
        lines.append(f"| `shmpool_{name}{end}` | {kind} | {marked} | {about} |")
    for title, values in (
        ("`op` of `shmpool_ops_total`", COUNTERS),
        ("`alarm` of `shmpool_alarms`", get_args(records.AlarmKind)),
    ):
        lines += ["", f"## {title}", "", ", ".join(f"`{value}`" for value in values)]
    return "\n".join(lines) + "\n"


METRICS_HEAD = """
    The daemon answers `/metrics` at the address of `--http`, in OpenMetrics 1.0 or in the text
    format 0.0.4. [Monitoring](how-to/monitoring.md) has the configuration of Prometheus, the
    alerts and the board of Grafana that come with the package.
"""


def layout_text() -> str:
    sys.path.insert(0, str(DOCS))
    import layout_page

    return layout_page.text(WRITTEN)


TEXTS = {
    "protocol.md": protocol_text,
    "cli.md": cli_text,
    "config.md": config_text,
    "headers.md": headers_text,
    "metrics.md": metrics_text,
    "layout.md": layout_text,
}

if __name__ == "__main__":
    for name, text in TEXTS.items():
        (DOCS / name).write_text(text())
