# SPDX-License-Identifier: Apache-2.0
"""What BufferInUse says of the views that are alive: which they are, and what to do."""

import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import MakePool

import shmpool
import shmpool.live_views

kept_in_a_global: Any = None


def said(call: Callable[[], object]) -> str:
    """The message of the BufferInUse that the call raises."""
    with pytest.raises(shmpool.BufferInUse) as caught:
        call()
    text = str(caught.value)
    del caught  # its traceback has frames
    return text


def test_each_kind_is_named(pool: shmpool.Pool) -> None:
    """Local variables of the callers with their names, shapes and dtypes."""
    buf = pool.alloc()
    buf.write(b"01234567")
    img = np.frombuffer(buf, "<u2").reshape(2, 2)
    begin = f"buffer {buf.index} cannot be freed: "
    assert said(buf.free) == begin + (
        "numpy array img of shape (2, 2) and dtype uint16 is alive; delete it first (del img)"
    )
    view = buf.view

    def inner(other: memoryview) -> str:
        return said(buf.free)

    text = inner(view[2:])
    assert text == begin + (
        "memoryview other of 6 bytes, numpy array img of shape (2, 2) and dtype uint16, memoryview "
        "view of 8 bytes are alive; delete them first (del other, img, view)"
    )
    with pytest.raises(shmpool.BufferInUse, match=r"numpy array img of .* are alive"), buf:
        pass
    del view
    assert "numpy array img" in said(lambda: pool.create_queue("q", capacity=2).put(buf))
    del img
    buf.free()


def test_a_global_is_named(pool: shmpool.Pool) -> None:
    """So are global variables of the callers."""
    global kept_in_a_global
    buf = pool.alloc()
    kept_in_a_global = buf.data
    try:
        assert "memoryview kept_in_a_global of 256 bytes is alive" in said(buf.free)
    finally:
        kept_in_a_global = None
    buf.free()


def test_views_in_no_variable_are_counted(pool: shmpool.Pool) -> None:
    """Alone, or besides those that are named."""
    buf = pool.alloc()
    hidden = [buf.data, buf.data]
    assert said(buf.free).endswith(
        "freed: 2 memoryviews or numpy arrays of it are alive; delete them first (del img)"
    )
    view = buf.data
    assert said(buf.free).endswith(
        "memoryview view of 256 bytes and 2 more are alive; delete them first (del view)"
    )
    many = [buf.data for _ in range(9)]
    v1, v2, v3, v4, v5, v6 = many[:6]
    assert v1 is not v2 is not v3 is not v4 is not v5 is not v6
    assert "of 256 bytes and 7 more are alive; delete them first (del view, v1, v2, v3, v4)" in (
        said(buf.free)
    )
    del v1, v2, v3, v4, v5, v6, view
    many.clear()
    hidden.clear()
    buf.free()


def test_a_pool_names_them_too(make_pool: MakePool) -> None:
    """Those of all of its buffers, and of no other pool's."""
    pool, other = make_pool(buffer_size=1024), make_pool(buffer_size=1024)
    theirs = other.array(2, "u1")
    array, buf = pool.array((2, 3), "f4"), pool.alloc()
    data = buf.data
    assert said(pool.close) == (
        f"pool '{pool.name}' cannot be closed: numpy array array of shape (2, 3) and dtype "
        "float32, memoryview data of 1024 bytes are alive; delete them first (del array, data)"
    )
    del theirs, array, data


def test_a_message_keeps_nothing_alive(pool: shmpool.Pool) -> None:
    """What was found in variables ends when they do, although up to CPython 3.12 a frame keeps a
    dict of its variables once it was asked for one."""

    class Thing:
        pass

    buf = pool.alloc()
    view, thing = buf.data, Thing()
    gone = weakref.ref(thing)
    said(buf.free)
    del thing
    assert gone() is None
    del view
    buf.free()


def test_a_program_that_has_its_variables(pool: shmpool.Pool) -> None:
    """A dict from locals() is left alone, and so are the variables of a traced function."""
    buf = pool.alloc()
    view = buf.data
    mine = locals()
    assert "memoryview view" in said(buf.free)
    assert mine["buf"] is buf
    mine.clear()
    before = sys.gettrace()
    sys.settrace(lambda frame, event, _: None)
    try:
        text = said(buf.free)
    finally:
        sys.settrace(before)
    assert "alive; delete it first" in text
    assert (256, True) == (len(view), isinstance(buf, shmpool.Buffer))
    del view
    gc.collect()
    buf.free()


def test_variables_that_raise(pool: shmpool.Pool) -> None:
    """Whatever the classes of a program do, no code of theirs runs, and the message is given."""

    class Odd(np.ndarray[Any, Any]):
        def refuse(self) -> Any:
            raise RuntimeError

        base = shape = dtype = property(refuse)  # type: ignore[assignment]

    class Strange(dict[str, Any]):
        def keys(self) -> Any:
            raise RuntimeError

    class Meta(type):
        @classmethod
        def __prepare__(cls, name: str, bases: tuple[type, ...], /, **_: Any) -> Strange:
            return Strange()

    buf = pool.alloc()
    odd = np.frombuffer(buf.data, "u1").view(Odd)
    text = "numpy array odd of shape (256,) and dtype uint8 is alive; delete it first (del odd)"
    assert said(buf.free).endswith(text)

    class Body(metaclass=Meta):
        text = said(buf.free)

    assert Body.text.endswith(text)
    globals()[1] = buf.view  # type: ignore[index]
    try:
        assert said(buf.free).endswith("and 1 more are alive; delete them first (del odd)")
    finally:
        del globals()[1]  # type: ignore[arg-type]
    del odd
    buf.free()


def test_a_handler_that_raises_while_views_are_named(
    pool: shmpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exception takes the place of BufferInUse; nothing was freed or put."""

    def ring(*_: object) -> str:
        raise KeyboardInterrupt

    queue, buf = pool.create_queue("q", capacity=2), pool.alloc()
    view = buf.data
    monkeypatch.setattr(shmpool.live_views, "text_of", ring)
    for call in (buf.free, lambda: queue.put(buf), pool.close):
        with pytest.raises(KeyboardInterrupt):
            call()
    del view
    buf.free()


def test_an_error_in_flight_is_not_hidden(pool: shmpool.Pool) -> None:
    """In every with block of ours, with views and arrays alive, what is raised goes on."""
    queue = pool.create_queue("q", capacity=8)
    queue.send_many([b"12345678"] * 3)
    views: list[Any] = []

    def block(thing: Any, look: Callable[[Any], object]) -> None:
        with thing as entered:
            views.append(look(entered))
            raise KeyError("in flight")

    for thing, look in (
        (queue.get(), lambda buf: np.frombuffer(buf, "u1")),
        (queue.get_many(2), lambda burst: np.frombuffer(burst[1], "u1")),
        (pool.queue("q"), lambda work: pool.array(8, "u1")),
        (pool, lambda pool: pool.array(8, "u1")),
    ):
        with pytest.raises(KeyError, match="in flight"):
            block(thing, look)
    assert 4 == pool._exports
    views.clear()
    assert (True, {}, 0) == (pool.audit().ok, pool.audit().held, pool._exports)
