# SPDX-License-Identifier: Apache-2.0
"""docs/layout.md, from the structs and comments of the C headers. docs/generate.py writes it.

Offsets and sizes are those of a program that gcc compiles with these headers.
"""

import inspect
import re
import subprocess
import tempfile
import textwrap
from pathlib import Path

NATIVE = Path(__file__).resolve().parent.parent / "shmpool" / "native"
# The first one that matches: a comment, the beginning or the end of an inner struct or union, or a
# declaration of a field.
TOKENS = re.compile(
    r"/\*(?P<note>.*?)\*/|(?P<open>(?:struct|union)\s*\w*\s*\{)|\}(?P<close>[^;]*);"
    r"|(?P<type>\w[\w ]*?)\s+(?P<name>\w+)(?P<size>\[[^\]]*\])?;",
    re.DOTALL,
)
PADDING = re.compile(r"pad\d*|pad_\w+")
# Structs of the segment, in the order in which they lie there.
STRUCTS = (
    "segment_header", "pool_shared", "member", "queue_slot", "alf_queue", "lane_table", "topic",
    "topic_subscriber", "buffer",
)  # fmt: skip
LIMITS = (
    "LAYOUT_VERSION", "CAPACITY_MAX", "BUFFER_SIZE_MAX", "MEMBERS_MAX", "QUEUES_MAX", "CLASSES_MAX",
    "NAME_MAX_BYTES", "CACHE_SIZE_MAX", "LANES_MAX", "SUBSCRIBERS_MAX", "TOPIC_DEPTH_MAX",
)  # fmt: skip
# Words that have several parts: the header, and how its explanation begins.
WORDS = (
    ("Slots of a ring", "alf_queue.h", "A slot is"),
    ("Tags", "owner.h", "A tag names"),
    ("Owner words", "owner.h", "An owner word tells"),
    ("Handles", "owner.h", "A handle is"),
    ("Op records", "alf_op.h", "Each member has one op record"),
    ("Identities of members", "member.h", "A slot's identity is"),
    ("Cache words", "cache.h", "cache_bottom is one word"),
    ("Wait words", "wait.h", "A wait word is"),
    ("Roles", "role.h", "word        meaning"),
    ("Holders words", "topic.h", "No counter says"),
)
HEAD = """
    One pool is one file, `/dev/shm/shmpool.NAME`, in the machine's byte order. Programs in other
    languages that only read figures need this page; who writes needs the rules at the head of each
    header in `shmpool/native/` too. Another version of the layout is refused
    at `attach`: `magic`, `version`, `layout_hash` and `checksum` are compared, and every offset is
    computed again from the geometry. So are the capacities of the rings of free buffers.
"""


def one_line(comment: str) -> str:
    return " ".join(re.sub(r"^\s*\* ?", "", comment, flags=re.MULTILINE).split())


def fields_of(name: str) -> list[list[str]]:
    """Name, type and comment of each field of a struct, those of an inner one with its name."""
    source = (NATIVE / "layout.h").read_text() + (NATIVE / "alf_queue.h").read_text()
    (body,) = re.findall(rf"^struct {name} \{{\n(.*?)^\}};", source, re.MULTILINE | re.DOTALL)
    levels: list[list[list[str]]] = [[]]
    before, end = "", 0  # a comment above the next field; where the last token ended
    for found in TOKENS.finditer(body):
        here = levels[-1]
        if (note := found["note"]) is not None:
            if here and "\n" not in body[end : found.start()]:
                here[-1][2] = one_line(note)
            else:
                before = one_line(note)
        elif found["open"]:
            levels.append([])
        elif (close := found["close"]) is not None:
            inner, place = levels.pop(), close.partition("[")[0].strip()
            prefix = f"{place}[0]." if place else ""
            levels[-1] += [[prefix + field, *more] for field, *more in inner]
        else:
            here.append([found["name"], found["type"] + (found["size"] or ""), before])
            before = ""
        end = found.end()
    return [field for field in levels[0] if not PADDING.fullmatch(field[0])]


def values(expressions: list[str]) -> list[int]:
    """The values of integer expressions of C."""
    calls = "".join(f'printf("%llu\\n", (unsigned long long)({one}));' for one in expressions)
    source = f'#include <stdio.h>\n#include "layout.h"\nint main(void) {{ {calls} }}'
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/program"
        command = ["gcc", "-std=gnu11", f"-I{NATIVE}", "-x", "c", "-", "-o", program]
        subprocess.run(command, input=source, text=True, check=True)
        done = subprocess.run([program], capture_output=True, text=True, check=True)
    return list(map(int, done.stdout.split()))


def explained(header: str, beginning: str) -> str:
    """What a comment of a header says from there on, up to its end or to the rules for callers."""
    text = (NATIVE / header).read_text()
    start = text.index(beginning)
    start = text.rindex("\n", 0, start) + 1
    text = re.sub(r"^(?: \* ?|/\* )", "", text[start:].partition("*/")[0], flags=re.MULTILINE)
    text = re.split(r"^(?:Ordering|Progress|Who may call)", text, flags=re.MULTILINE)[0]
    return textwrap.dedent(text).strip("\n").rstrip()


def shown(text: str) -> list[str]:
    return ["```text", text, "```"]


def table_of(name: str) -> list[str]:
    fields = fields_of(name)
    whole, *offsets = values(
        [f"sizeof(struct {name})", *(f"offsetof(struct {name}, {field})" for field, *_ in fields)]
    )
    lines = ["", f"## struct {name}", "", f"{whole} bytes.", "", "| at | field | type | |"]
    lines.append("|---|---|---|---|")
    for (field, kind, about), at in zip(fields, offsets, strict=True):
        lines.append(f"| {at} | `{field}` | `{kind}` | {about.replace('|', chr(92) + '|')} |")
    return lines


def text(written: str) -> str:
    """The page. written is the remark that it was generated."""
    lines = ["# The layout of a segment", "", written, inspect.cleandoc(HEAD), ""]
    lines += shown(explained("layout.h", "header     struct"))
    lines += ["", "## Limits", "", "| | |", "|---|---|"]
    for name, value in zip(LIMITS, values(list(LIMITS)), strict=True):
        lines.append(f"| `{name}` | {value:,} |")
    for name in STRUCTS:
        lines += table_of(name)
    lines += ["", "## Words", "", "Words of 64 or 32 bits that have several parts, highest first."]
    for title, header, beginning in WORDS:
        lines += ["", f"### {title}", "", f"`shmpool/native/{header}`", ""]
        lines += shown(explained(header, beginning))
    return "\n".join(lines) + "\n"
