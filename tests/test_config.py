# SPDX-License-Identifier: Apache-2.0
"""The configuration: what is accepted, and messages that name the line and the value of each
error."""

import os
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmpool.options import QueueOptions, letters_in_a_circle
from shmpool.os_errors import shared_memory, size_text
from shmpool.service import config, config_lines
from shmpool.service.config_values import http_token, read_file

WHOLE = """\
[daemon]
socket = "/run/shmpool/daemon.sock"
http = "127.0.0.1:9464"
[pools.rx]
buffer_size = 2048
capacity = 8192
prealloc = 4096
mode = "0600"
low_water = 100
[pools.rx.queue.work]
capacity = 4096
on_death = "requeue"
"""


def test_a_whole_file() -> None:
    """Every table is read. Missing keys have their defaults."""
    found = config.parse(WHOLE)
    assert "/run/shmpool/daemon.sock" == found.daemon.socket
    assert (1.0, ["*"], True) == (found.daemon.interval, found.daemon.adopt, found.daemon.prune)
    pool = found.pools["rx"]
    assert (2048, 8192, 4096, None, 100) == (
        pool.buffer_size, pool.capacity, pool.prealloc, pool.bulk, pool.low_water,
    )  # fmt: skip
    assert {"work": QueueOptions(4096, on_death="requeue")} == pool.queue


def test_an_empty_file() -> None:
    """An empty file is a valid configuration."""
    assert config.Config() == config.parse("")


HEAD = "[pools.rx]\nbuffer_size = 64\ncapacity = 64\n"
SIZES = "[pools.rx]\nbuffer_size = [64, 4096]\ncapacity = [64, 16]\n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[daemon]\nsockett = "x"\n', 2, ['daemon.sockett = "x"', "unknown key", "socket"]),
        ("[daemon]\nhttp = 9464\n", 2, ["daemon.http = 9464", "string"]),
        ('[daemon]\nhttp = "9464"\n', 2, ['daemon.http = "9464"', "host:port"]),
        ('[daemon]\nadopt = "x"\n', 2, ['daemon.adopt = "x"', "array"]),
        ("[daemon]\nprune = 1\n", 2, ["daemon.prune = 1", "true or false"]),
        ("[daemon]\ninterval = 0\n", 2, ["daemon.interval = 0", "0.05"]),
        ("[daemon]\ninterval = nan\n", 2, ["daemon.interval = nan", "0.05"]),
        ("[daemon]\ninterval = inf\n", 2, ["daemon.interval = inf", "3600"]),
        ('[daemon]\nsocket = ""\n', 2, ['daemon.socket = ""', "path"]),
        ('[daemon]\nhttp = "h:65536"\n', 2, ['daemon.http = "h:65536"', "65535"]),
        ('[daemon]\nhttp = "h:٣"\n', 2, ["daemon.http", "host:port"]),
        ('[daemon]\nhttp = "h:0000000000000000080"\n', 2, ["daemon.http", "host:port"]),
        ('[daemon]\nhttp = "a b:80"\n', 2, ["daemon.http", "name or an address"]),
        ('[daemon]\nhttp = "a\\u0000b:80"\n', 2, ["daemon.http", "name or an address"]),
        ('[daemon]\nhttp = "[::1:80"\n', 2, ["daemon.http", "name or an address"]),
        ('[daemon]\nhttp = "[]:80"\n', 2, ["daemon.http", "name or an address"]),
        (f'[daemon]\nhttp = "{"a" * 64}.x:80"\n', 2, ["daemon.http", "name or an address"]),
        ('[daemon]\nhttp = "-x:80"\n', 2, ["daemon.http", "name or an address"]),
        ('[daemon]\nhttp = "\\uD7FFx:80"\n', 2, ["daemon.http", "name or an address"]),
        ('[daemon]\nhttp = "unix:"\n', 2, ["daemon.http", "path"]),
        (f'[daemon]\nhttp = "unix:/{"x" * 107}"\n', 2, ["daemon.http", "107 bytes"]),
        ('[daemon]\nhttp_hosts = ["x:80"]\n', 2, ["http_hosts", "without a port"]),
        ('[daemon]\nhttp_token_file = "/nowhere"\n', 2, ["http_token_file", "No such file"]),
        ('[daemon]\nhttp_token_file = "/dev/zero"\n', 2, ["http_token_file", "not a regular file"]),
        ('[daemon]\nhttp_token_file = "a\\u0000b"\n', 2, ["http_token_file", "embedded null"]),
        ('[daemon]\nsocket = "a\\u0000b"\n', 2, ["daemon.socket", "path"]),
        ('[daemon]\nsocket = "/"\n', 2, ['daemon.socket = "/"', "not of a directory"]),
        ('[daemon]\nsocket = "."\n', 2, ['daemon.socket = "."', "not of a directory"]),
        ('[daemon]\nsocket = "/tmp/.."\n', 2, ["daemon.socket", "not of a directory"]),
        ('[daemon]\nsocket = "/tmp/"\n', 2, ["daemon.socket", "not of a directory"]),
        ('[daemon]\nhttp = "unix:/"\n', 2, ["daemon.http", "not of a directory"]),
        ('[daemon]\nhttp = "unix:."\n', 2, ["daemon.http", "not of a directory"]),
        (f'[daemon]\nsocket = "/{"é" * 54}"\n', 2, ["daemon.socket", "107 bytes"]),
        ('[daemon]\nread_group = "a\\u0000b"\n', 2, ["read_group", "no such group"]),
        ('[daemon]\nadopt_users = ["no-such"]\n', 2, ["adopt_users", "no such user"]),
        ('[daemon]\nadopt_users = ["a\\u0000b"]\n', 2, ["adopt_users", "no such user"]),
        ('[daemon]\nadopt_users = ["99999999999999999999"]\n', 2, ["adopt_users", "no such user"]),
        (f"[daemon]\ninterval = {'9' * 400}\n", 2, ["daemon.interval", "..."]),
        (f"[daemon]\nmax_clients = -{'9' * 400}\n", 2, ["daemon.max_clients", "at least 1"]),
        (f"[daemon]\nmax_clients = {'9' * 5000}\n", 2, ["max_clients", "too large"]),
        (f"[daemon]\nmax_clients = {'9_' * 5000}9\n", 2, ["max_clients", "too large"]),
        (f"[daemon]\ninterval = 0x{'f' * 6000}\n", 2, ["interval = 0xfff", "too large", "bits"]),
        (f"[daemon]\nhttp = 0o{'7' * 6000}\n", 2, ["daemon.http = 0xfff", "too large"]),
        (f"[daemon]\nadopt = [[0x{'f' * 6000}]]\n", 2, ["daemon.adopt = ...", "too large"]),
        (f"[daemon]\nx = 0b{'1' * 20000}\n", 2, ["daemon.x = 0xfff", "too large"]),
        (f"[daemon]\nadopt = {'[' * 5000}{']' * 5000}\n", 2, ["nested too deeply"]),
        ("[daemon]\nadopt = " + "{ a = " * 5000 + "1" + "}" * 5000, 2, ["nested too deeply"]),
        (f'[daemon]\nadopt = "{"x" * 10000}"\n', 2, ["adopt", "xxx...", "array"]),
        ("\n\n\n\0", 4, ["Invalid statement"]),
        ("[daemon]\na = '\x0b'\nb =\n", 2, ["invalid character"]),
        ('[daemon]\nread_group = "no-such"\n', 2, ['read_group = "no-such"', "no such group"]),
        (
            '[daemon]\nlog_level = "loud"\n',
            2,
            ['log_level = "loud": it must be "debug" or "info" or "warning" or "error"'],
        ),
        (f"[daemon]\ninterval = {2**1500:#x}\n", 2, ["daemon.interval = ", "too large"]),
        ("pools = 3\n", 1, ["pools = 3", "table"]),
        ("[pools]\nrx = 3\n", 2, ["pools.rx = 3", "table"]),
        ("[pools.rx]\nbuffer_size = 64\n", 1, ["pools.rx", "capacity is missing"]),
        ('[pools.rx]\nbuffer_size = 64\ncapacity = "64"\n', 3, ['capacity = "64"', "integer"]),
        ("[pools.rx]\nbuffer_size = 64\ncapacity = 100\n", 3, ["capacity = 100", "power of two"]),
        ("[pools.rx]\nbuffer_size = true\ncapacity = 64\n", 2, ["buffer_size = true", "integer"]),
        (HEAD + "members = 5000\n", 4, ["pools.rx.members = 5000", "4095"]),
        (HEAD + 'mode = "888"\n', 4, ['mode = "888"', "octal"]),
        (HEAD + 'mode = "0066"\n', 4, ['mode = "0066"', "0600"]),
        (HEAD + f"held_s = {'9' * 400}\n", 4, ["held_s", "too large"]),
        (HEAD + f"buffer_size.x = {'9' * 400}\n", 4, ["buffer_size"]),
        (
            HEAD + "[pools.rx.queue.q]\ncapacity = 4\nmax_redeliveries = 65536\n",
            6,
            ["max_redeliveries = 65536", "65535"],
        ),
        (
            HEAD + '[pools.rx.queue.q]\ncapacity=4\non_death="requeue"\nproducers="single"\n',
            6,
            ["on_death", "multi"],
        ),
        (
            HEAD + "queue.d = { capacity = 4, producers = 'single' }\n"
            "queue.q = { capacity = 4, dead_letter = 'd' }\n",
            5,
            ["dead_letter", "multi"],
        ),
        (HEAD + "held_s = -1\n", 4, ["held_s = -1", "from 0"]),
        (HEAD + "held_s = nan\n", 4, ["held_s = nan", "from 0"]),
        (HEAD + "queue_full_s = inf\n", 4, ["queue_full_s = inf", "from 0"]),
        (HEAD + "low_water = 65\n", 4, ["low_water = 65", "capacity, 64"]),
        (HEAD + "trim_to = 65\n", 4, ["trim_to = 65", "capacity, 64"]),
        (SIZES + "low_water = 81\n", 4, ["low_water = 81", "capacity, 80"]),
        (SIZES + "prealloc = [8, 32]\n", 4, ["prealloc = [8, 32]", "prealloc[1] is 32", "16"]),
        (SIZES + "prealloc = [8]\n", 4, ["prealloc = [8]", "one number, or 2"]),
        (SIZES + "bulk = [16, 16]\n", 4, ["bulk = [16, 16]", "an integer"]),
        (SIZES + "queues = 1023\n", 4, ["queues = 1023", "buffer_size has 2 values"]),
        (HEAD.replace("64", "[64]", 1) + "prealloc = [8, 8]\n", 4, ["one number"]),
        ("[pools.rx]\nbuffer_size = []\ncapacity = 64\n", 2, ["from 1 to 8 values"]),
        ("[pools.rx]\nbuffer_size = [64, 1.5]\ncapacity = 64\n", 2, ["buffer_size.1", "integer"]),
        (
            HEAD + "queues = 1\nqueue.a.capacity = 4\nqueue.b.capacity = 4\n",
            6,
            ["queue.b", "1 queues and topics; raise queues"],
        ),
        ("\n[[daemon]]\n", 2, ["daemon = [{}]", "must be a table"]),
        ('[pools."b d"]\nbuffer_size = 64\ncapacity = 64\n', 1, ["b d", "A-Z"]),
        (HEAD + "[pools.rx.topic.t]\ndepth = 9\n", 5, ["topic.t.depth = 9", "power of two from 2"]),
        (HEAD + "topic.t.depth = 65536\n", 4, ["topic.t.depth = 65536", "to 32768"]),
        (HEAD + "topic.t = { depth = 8, x = 8 }\n", 4, ["topic.t.x = 8", "known are depth"]),
        (HEAD + "topic.t.depth = 64\n", 4, ["topic.t.depth = 64", "the pool has 64"]),
        (HEAD + "topic = { a.depth = 32, b.depth = 32 }\n", 4, ["topic.b", "topics keep 32"]),
        (HEAD + "topic._t.depth = 8\n", 4, ["topic._t", "topic name is '_t'"]),
        (
            HEAD + "queue.t.capacity = 8\ntopic.t.depth = 8\n",
            5,
            ["topic.t", "a queue of the same name"],
        ),
        (
            HEAD + "queues = 1\nqueue.a.capacity = 4\ntopic.b.depth = 4\n",
            6,
            ["topic.b", "1 queues and topics; raise queues"],
        ),
        (HEAD + "[pools.rx.queue.q]\ncapacity = 0\n", 5, ["queue.q.capacity = 0", "from 1"]),
        (HEAD + "queue.q.capacity = 0\n", 4, ["queue.q.capacity = 0", "from 1"]),
        (HEAD + "queue = { q = { capacity = 0 } }\n", 4, ["queue.q.capacity = 0", "from 1"]),
        (HEAD + '[pools.rx.queue.q]\ncapacity = 4\non_death = "x"\n', 6, ['on_death = "x"']),
        (HEAD + '[pools.rx.queue.q]\ncapacity = 4\ndead_letter = "z"\n', 6, ["no such queue"]),
        (HEAD + '[pools.rx.queue.q]\ncapacity = 4\non_death = "dead-letter"\n', 6, ["needs"]),
        (
            HEAD + 'queue.a = { capacity = 4, dead_letter = "b" }\n'
            'queue.b = { capacity = 4, dead_letter = "a" }\n',
            4,
            ['queue.a.dead_letter = "b"', "a, b go in a circle"],
        ),
        (HEAD + "[pools.rx]\n", 4, ["[pools.rx]", "twice"]),
        (HEAD + "capacity = 128\n", 4, ["capacity = 128", "overwrite"]),
        (HEAD + "x = \n", 4, ["x =", "Invalid value"]),
        ("x = [1,\n2\n", 2, ["Unclosed array"]),
    ],
)
def test_what_is_wrong_is_named(text: str, line: int, words: list[str]) -> None:
    """The message has one line for each error, with its line and its value."""
    with pytest.raises(config.ConfigError) as caught:
        config.parse(text, "shmpool.toml")
    (message,) = str(caught.value).splitlines()
    assert message.startswith(f"shmpool.toml, line {line}: ")
    for word in words:
        assert word in message


def test_all_errors_are_reported() -> None:
    """Two mistakes are two lines, in the order of the file."""
    with pytest.raises(config.ConfigError) as caught:
        config.parse('[pools.rx]\nbuffer_size = "a"\ncapacity = "b"\n[daemon]\nhttp = 1\n')
    assert ["line 2", "line 3", "line 5"] == [
        line.partition(", ")[2].partition(":")[0] for line in str(caught.value).splitlines()
    ]


def test_as_many_queues_as_there_may_be() -> None:
    """The largest number of queues is allowed."""
    head = "[pools.rx]\nbuffer_size = 64\ncapacity = 64\nqueues = 1\n"
    assert ["a"] == list(config.parse(f"{head}queue.a.capacity = 4\n").pools["rx"].queue)


@pytest.mark.parametrize("mode", ["0600", "0660", "0666", "0777"])
def test_modes(mode: str) -> None:
    """Every mode that lets the owner read and write is accepted."""
    text = f'[pools.rx]\nbuffer_size = 64\ncapacity = 64\nmode = "{mode}"\n'
    assert int(mode, 8) == config.parse(text).pools["rx"].mode


def test_more_than_shared_memory() -> None:
    """The preallocated part must fit, and the message names both sizes. The capacity may be
    larger."""
    room, _ = shared_memory()
    config.parse("[pools.rx]\nbuffer_size = 65536\ncapacity = 16777216\n")
    with pytest.raises(config.ConfigError) as caught:
        config.parse("[pools.rx]\nbuffer_size = 1073741824\ncapacity = 65536\nprealloc = 65536\n")
    assert "line 4: pools.rx.prealloc = 65536" in str(caught.value)
    assert "is 64 TiB;" in str(caught.value)
    assert size_text(room) in str(caught.value)


def test_what_is_no_file_is_closed(tmp_path: Path) -> None:
    """A file that is refused, or cannot be read, leaves no descriptor open."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path, fifo, Path("/dev/zero"), Path("/proc/self/mem")):
        with pytest.raises((ValueError, OSError)):
            read_file(path)
        assert before == len(os.listdir("/proc/self/fd"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The message is one line that names the file."""
    with pytest.raises(config.ConfigError, match="No such file"):
        config.load(tmp_path / "nowhere.toml")


def test_what_is_no_file(tmp_path: Path) -> None:
    """A FIFO without a writer, a directory, an endless device and a huge file give one line at
    once."""
    fifo, huge = tmp_path / "fifo", tmp_path / "huge"
    os.mkfifo(fifo)
    huge.write_bytes(b"#" * (2 << 20))
    for path in (fifo, tmp_path, Path("/dev/zero"), Path("/dev/tty"), huge, Path("a\0b")):
        with pytest.raises(config.ConfigError) as caught:
            config.load(path)
        assert 1 == len(str(caught.value).splitlines())
    file = tmp_path / "c.toml"
    file.write_bytes(b"a = '\xff'\n")
    with pytest.raises(config.ConfigError, match="utf-8"):
        config.load(file)


def test_a_token_that_other_users_can_read(tmp_path: Path) -> None:
    """It is refused, and so is a token that is short or has spaces. A good one is read without its
    newline."""
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    file.chmod(0o644)
    text = f'[daemon]\nhttp_token_file = "{file}"\n'
    with pytest.raises(config.ConfigError, match="everybody can read it"):
        config.parse(text)
    file.chmod(0o600)
    config.parse(text)
    assert b"0123456789abcdef" == http_token(str(file))
    for short in ("", "secret", "0123456789 abcdef", "0123456789abcdeé"):
        file.write_text(short)
        with pytest.raises(config.ConfigError, match="16 or more") as caught:
            config.parse(text)
        assert not short or short not in str(caught.value)


def test_a_long_chain_of_dead_letters() -> None:
    """A chain of as many queues as possible is read once.

    A circle is named without the queues that lead to it.
    """
    last = 1022
    queues = {f"q{n}": QueueOptions(4, dead_letter=f"q{n + 1}") for n in range(last)}
    queues[f"q{last}"] = QueueOptions(4)
    assert [] == letters_in_a_circle(queues)
    queues[f"q{last}"] = QueueOptions(4, dead_letter=f"q{last - 1}")
    assert [f"q{last - 1}", f"q{last}"] == letters_in_a_circle(queues)


@pytest.mark.parametrize(
    "text",
    [
        "x = [\n" + "1,\n" * 50000 + "]\n",
        "[a]\n" + "".join(f"k{n} = 'v'\n" for n in range(50000)),
        'x = """\n' + "a\n" * 50000 + '"""\n',
        "x = [" + "'#', # [\n" * 50000 + "]\n",
        'x = "' + "\\\\" * 200000 + '"\n',
        "\n" * 200000,
        "# [\n" * 100000,
    ],
    ids=["array", "keys", "string", "comments", "escapes", "blank", "only comments"],
)
def test_lines_of_a_long_file(text: str) -> None:
    """Lines are found in one pass: each character is read a few times, however long a value is."""
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    sys.setprofile(count)
    try:
        found = config_lines.key_lines(text + "[last]\nkey = 1\n")
    finally:
        sys.setprofile(None)
    assert text.count("\n") + 2 == found["last", "key"]
    assert steps < 8 * len(text) + 1000


def test_a_number_of_any_base() -> None:
    """Each option refuses a number that Python cannot convert to decimal, on its line."""
    big = "0x" + "f" * 6000
    for table, keys, rest in (
        ("daemon", config.DaemonOptions.__dataclass_fields__, ""),
        ("pools.rx", config.PoolConfig.__dataclass_fields__, ""),
        ("pools.rx.queue.q", QueueOptions.__dataclass_fields__, HEAD),
    ):
        for key in keys:
            with pytest.raises(config.ConfigError) as caught:
                config.parse(f"{rest}[{table}]\n{key} = {big}\n", "c")
            line = rest.count("\n") + 2
            assert str(caught.value).startswith(f"c, line {line}: {table}.{key} = 0xfff")


keys = st.text("abc", min_size=1, max_size=3)
scalars = st.integers(0, 9) | st.booleans() | st.lists(st.integers(0, 9), max_size=3)


@given(st.dictionaries(keys, st.dictionaries(keys, scalars, max_size=4), max_size=4))
def test_every_key_has_the_line_it_stands_on(tables: dict[str, dict[str, object]]) -> None:
    """The line of every key is found, in any document of tables, also after values of several
    lines."""
    lines: list[str] = []
    expected: dict[tuple[str, ...], int] = {}
    for table, items in tables.items():
        lines.append(f"[{table}]  # a comment")
        expected[table,] = len(lines)
        for key, value in items.items():
            expected[table, key] = len(lines) + 1
            if isinstance(value, list):
                lines += [f"{key} = [", *(f"  {item}," for item in value), "]"]
            else:
                lines.append(f"{key} = {str(value).lower()}")
    text = "\n".join(lines)
    assert tables == tomllib.loads(text)
    assert expected == config_lines.key_lines(text)


options = st.sampled_from(
    [*config.DaemonOptions.__dataclass_fields__, *config.PoolConfig.__dataclass_fields__, "x"]
)
values = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from([-1, 0, 1, 63, 64, 2**31, 2**63]).map(str),
    st.sampled_from(["nan", "inf", "-inf", "1e308", "true", "[]", '[""]', "{}", '"0600"', '""']),
    st.sampled_from(['"a:1"', '":"', '"requeue"', '"dead-letter"', "1979-05-27", "[[{}]]"]),
    st.sampled_from(
        ["{a={capacity=8}}", "{a={capacity=8,dead_letter='a'}}", "{a=1}", "{'b d'={}}"]
    ),
)
tables = st.sampled_from(["daemon", "pools.rx", "pools.a", "pools", "pools.rx.queue.q", "x"])


@given(st.dictionaries(tables, st.dictionaries(options, values, max_size=6), max_size=3))
def test_any_file(whole: dict[str, dict[str, str]]) -> None:
    """Any file is a configuration, or every line of the message has a place and an error."""
    lines = []
    for table, items in whole.items():
        lines += [f"[{table}]", *(f"{key} = {value}" for key, value in items.items())]
    try:
        config.parse("\n".join(lines), "f")
    except config.ConfigError as error:
        for line in str(error).splitlines():
            assert line.startswith("f, line ")
            assert int(line.removeprefix("f, line ").partition(":")[0]) <= max(len(lines), 1)
