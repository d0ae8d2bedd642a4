# SPDX-License-Identifier: Apache-2.0
"""Frames: decoding a stream of bytes, whatever it contains and however it is cut."""

import json
import tracemalloc
from dataclasses import dataclass, field
from typing import Any, Literal

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmpool import errors
from shmpool.rpc import protocol, wire
from shmpool.stats import Audit

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
msgids = st.integers(0, wire.MSGID_MAX)
frames = (
    st.builds(wire.Call, msgids, st.text(), st.lists(values, max_size=4))
    | st.builds(wire.Reply, msgids, values, st.none())
    | st.builds(wire.Reply, msgids, st.none(), values)
    | st.builds(wire.Notice, st.text(), st.lists(values, max_size=4))
)


def packed(frame: wire.Frame) -> bytes:
    match frame:
        case wire.Call(msgid, method, params):
            return wire.pack_call(msgid, method, params)
        case wire.Reply(msgid, None, result):
            return wire.pack_result(msgid, result)
        case wire.Reply(msgid, error, _):
            return wire.pack_error(msgid, error)
        case wire.Notice(method, params):
            return wire.pack_notice(method, params)


@given(st.lists(frames, max_size=5), st.lists(st.integers(1, 40)))
def test_frames_survive_any_cut(sent: list[wire.Frame], cuts: list[int]) -> None:
    """Frames come out unchanged, wherever the stream is cut, and nothing is left over."""
    data = b"".join(map(packed, sent))
    stream = wire.Frames(wire.REQUEST_MAX)
    got: list[wire.Frame] = []
    for cut in [*cuts, len(data)]:
        stream.feed(data[:cut])
        data = data[cut:]
        got += stream
    assert sent == got
    assert 0 == stream.unread


@given(st.binary(max_size=200), st.lists(st.integers(1, 40)))
def test_garbage_is_refused_or_waits(data: bytes, cuts: list[int]) -> None:
    """Any bytes give frames, a FrameError, or a wait for more; never another exception."""
    stream = wire.Frames(wire.REQUEST_MAX)
    try:
        for cut in [*cuts, len(data)]:
            stream.feed(data[:cut])
            data = data[cut:]
            for frame in stream:
                assert isinstance(frame, wire.Frame)
    except wire.FrameError:
        pass


@given(values)
def test_what_is_no_frame_is_refused(value: Any) -> None:
    """A whole MessagePack value that is no frame of the specification is a FrameError."""
    stream = wire.Frames(wire.REQUEST_MAX)
    stream.feed(msgpack.packb([3, value]))
    with pytest.raises(wire.FrameError):
        list(stream)


@given(frames, st.data())
def test_a_request_out_of_any_call(frame: wire.Frame, data: st.DataObject) -> None:
    """Any call gives a request or one of shmpool's exceptions."""
    method = data.draw(st.sampled_from([kind.method for kind in protocol.REQUESTS]) | st.text())
    params = data.draw(st.lists(values | st.just("rx"), max_size=4))
    try:
        request = protocol.request_of(wire.Call(1, method, params))
    except (protocol.errors.InvalidArgument, protocol.errors.RequestRefused):
        return
    assert method == request.method


@pytest.mark.parametrize(
    "claim",
    [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
     b"\xc6\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff" * 400],
    ids=["array", "map", "string", "bytes", "nested"],
)  # fmt: skip
def test_a_claimed_length_costs_nothing(claim: bytes) -> None:
    """A claim of four gigabytes allocates no memory, and no more than the limit is accepted."""
    stream = wire.Frames(wire.REQUEST_MAX)
    tracemalloc.start()
    stream.feed(claim)
    assert [] == list(stream)
    stream.feed(bytes(wire.REQUEST_MAX))
    with pytest.raises(wire.FrameError, match="longer than"):
        list(stream)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * wire.REQUEST_MAX


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"\xc1", "not MessagePack: [A-Z][a-z]+Error"), (b"\xd4\x01\x00", "exceeds max_ext_len")],
)
def test_why_a_frame_is_refused(data: bytes, words: str) -> None:
    """The message has the codec's reason, or the kind of its exception if it has no text."""
    stream = wire.Frames(wire.REQUEST_MAX)
    stream.feed(data)
    with pytest.raises(wire.FrameError, match=words):
        list(stream)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ({"kind": "PoolNotFound", "message": "gone"}, errors.PoolNotFound, "gone"),
        ({"kind": "FromTheFuture", "message": "gone"}, errors.RequestRefused, "gone"),
        ({"kind": "errno", "message": "gone"}, errors.RequestRefused, "gone"),
        ({"kind": 5, "message": "gone"}, errors.RequestRefused, "gone"),
        ("gone", errors.RequestRefused, "gone"),
        ({"reason": 7}, errors.RequestRefused, "{'reason': 7}"),
    ],
)
def test_errors_of_any_daemon(value: Any, kind: type[errors.ShmpoolError], message: str) -> None:
    """An unknown error, of another version or program, is a RequestRefused with its text."""
    error = protocol.error_of(value)
    assert (kind, message) == (type(error), str(error))


def test_depth_is_bounded() -> None:
    """Endlessly nested arrays are refused."""
    stream = wire.Frames(wire.REQUEST_MAX)
    stream.feed(b"\x91" * 10_000)
    with pytest.raises(wire.FrameError):
        list(stream)


def test_a_frame_up_to_the_limit_is_accepted() -> None:
    """The limit is on the whole frame: a frame of that size is accepted, one byte more is
    refused."""
    room = wire.REQUEST_MAX - len(wire.pack_notice("x", [""])) - 4
    for extra, fits in ((0, True), (100, False)):
        stream = wire.Frames(wire.REQUEST_MAX)
        stream.feed(wire.pack_notice("x", ["y" * (room + extra)]))
        if fits:
            assert 1 == len(list(stream))
        else:
            with pytest.raises(wire.FrameError):
                list(stream)


@dataclass(frozen=True)
class Inner:
    n: int
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    inner: list[Inner]
    table: dict[int, float] = field(default_factory=dict)
    maybe: str | None = None
    either: str | int | None = None


def test_records_round_trip() -> None:
    """A record is equal after MessagePack and after JSON. Unknown newer fields are left out."""
    outer = Outer("x", [Inner(1), Inner(2, "b")], {3: 1.5}, None, 7)
    sent = wire.to_wire(outer)
    assert outer == wire.from_wire(
        Outer, msgpack.unpackb(msgpack.packb(sent), strict_map_key=False)
    )
    assert {"name": "x"}.items() <= json.loads(json.dumps(sent)).items()
    assert outer == wire.from_wire(Outer, sent | {"added": 1})


@pytest.mark.parametrize(
    ("change", "where"),
    [({"either": 1.5}, "result.either is 1.5; it must be a str or an int or nil"),
     ({"name": 1}, "result.name"), ({"inner": {}}, "result.inner"), ({"maybe": 2}, "result.maybe"),
     ({"inner": [{"n": True}]}, "result.inner[0].n"), ({"table": {"3": 1}}, "key of result.table"),
     ({"inner": [{"n": 1, "kind": "c"}]}, "result.inner[0].kind"),
     ({"inner": [{}]}, "result.inner[0].n is missing")],
)  # fmt: skip
def test_a_wrong_shape_says_where(change: dict[str, Any], where: str) -> None:
    """A wrong value is a ShapeError that names its place."""
    good = wire.to_wire(Outer("x", [Inner(1)], {}, None))
    with pytest.raises(wire.ShapeError) as caught:
        wire.from_wire(Outer, good | change)
    assert where in str(caught.value)


def test_an_audit_with_numbers_as_keys() -> None:
    """Numbers as keys reach a client that trusts its daemon, and are refused by the daemon."""
    audit = Audit(True, 8, 7, 0, {3: 1}, {"work": 0})
    data = wire.pack_result(1, wire.to_wire(audit))
    stream = wire.Frames(wire.ANSWER_MAX, trusted=True)
    stream.feed(data)
    (frame,) = stream
    assert isinstance(frame, wire.Reply)
    assert audit == protocol.RunAudit("rx").answer_of(frame.result)
    stream = wire.Frames(wire.REQUEST_MAX)
    stream.feed(data)
    with pytest.raises(wire.FrameError):
        list(stream)
