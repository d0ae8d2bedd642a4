# SPDX-License-Identifier: Apache-2.0
"""Other libraries read a buffer in place, and their arrays can be put: DLPack, Arrow."""

from typing import Any

import numpy as np
import pytest
from conftest import at_rest

import shmpool


def test_numpy_reads_a_buffer_through_dlpack(pool: shmpool.Pool) -> None:
    """In place, as bytes; the array is a view like any other."""
    buf = pool.alloc()
    assert (1, 0) == buf.__dlpack_device__()
    assert 0 == np.from_dlpack(buf).size  # type: ignore[arg-type]
    buf.write(b"hello")
    array = np.from_dlpack(buf)  # type: ignore[arg-type]
    buf.view[0] = ord("j")
    assert (b"jello", np.dtype("u1")) == (array.tobytes(), array.dtype)
    with pytest.raises(shmpool.BufferInUse):
        buf.free()
    del array
    buf.free()
    with pytest.raises((shmpool.BufferReleased, BufferError)):
        np.from_dlpack(buf)  # type: ignore[arg-type]


def test_the_options_of_dlpack_are_numpys(pool: shmpool.Pool) -> None:
    """copy=True gives memory of its own; another device, or a stream, is refused."""
    buf = pool.alloc()
    buf.write(b"hello")
    for options in ({"stream": 1}, {"nonsense": 1}):
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            buf.__dlpack__(**options)
    if np.lib.NumpyVersion(np.__version__) >= "2.1.0":
        copy = np.from_dlpack(buf, copy=True)  # type: ignore[arg-type]
        buf.view[0] = ord("j")
        assert b"hello" == copy.tobytes()
        assert buf.__dlpack__(max_version=(1, 0), dl_device=(1, 0)) is not None
    buf.free()


def test_a_capsule_that_nobody_takes(pool: shmpool.Pool) -> None:
    """It keeps the buffer for as long as it is there."""
    buf = pool.alloc()
    buf.write(b"hello")
    capsule = buf.__dlpack__()
    with pytest.raises(shmpool.BufferInUse, match="1 memoryview or numpy array of it is alive"):
        buf.free()
    del capsule
    buf.free()


class Tensor:
    """What put_array sees of a tensor: DLPack, and nothing else."""

    def __init__(self, array: Any, device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def test_a_tensor_is_copied(queue: shmpool.AlfQueue) -> None:
    """From the CPU; one on another device, or that cannot be read, is refused and named."""
    source = np.arange(6, dtype="f4").reshape(2, 3).T
    queue.put_array(Tensor(source))
    got = queue.get_array()
    assert (source.tolist(), source.dtype) == (got.tolist(), got.dtype)
    with pytest.raises(
        shmpool.InvalidArgument, match=r"Tensor on the DLPack device \(2, 1\); copy"
    ):
        queue.put_array(Tensor(source, (2, 1)))
    with pytest.raises(shmpool.InvalidArgument, match="Tensor that cannot be read"):
        queue.put_array(Tensor(source.astype(">f4")))

    class Unknown(Tensor):
        def __dlpack_device__(self) -> tuple[int, int]:
            raise ValueError("Unknown device type meta for Dlpack")

    with pytest.raises(shmpool.InvalidArgument, match="that cannot be read: Unknown device type"):
        queue.put_array(Unknown(source))
    with pytest.raises(TypeError, match="put\\(\\) moves a Buffer"):
        queue.put_array(queue.pool.alloc())


def test_torch(queue: shmpool.AlfQueue) -> None:
    """A tensor over a buffer or an array of the pool is in place, and keeps it; tensors can be
    put."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    buf = queue.pool.alloc()
    buf.write(b"hello")
    tensor = torch.from_dlpack(buf)
    buf.view[0] = 5
    assert (5, torch.uint8, True) == (tensor[0].item(), tensor.dtype, tensor.is_contiguous())
    with pytest.raises(shmpool.BufferInUse):
        buf.free()
    del tensor
    buf.free()

    source = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    for tensor in (source, source.T, source[:, 1]):
        queue.put_array(tensor)
        assert tensor.tolist() == queue.get_array().tolist()
    meta = torch.empty(3, device="meta")
    for wrong in (source.to(torch.bfloat16), source.clone().requires_grad_(), meta):
        with pytest.raises(shmpool.InvalidArgument, match="Tensor that cannot be read"):
            queue.put_array(wrong)

    for over in (torch.from_numpy, torch.from_dlpack):
        array = queue.pool.array((2, 3), "f4")
        tensor = over(array)
        tensor.copy_(source)
        with pytest.raises(shmpool.BufferInUse, match="or a view or tensor of it, is alive"):
            queue.put_array(array)
        del tensor
        queue.put_array(array)
        tensor = over(queue.get_array())
        assert source.tolist() == tensor.tolist()
        assert 1 == queue.pool._exports
        del tensor, array
    assert at_rest(queue.pool)


def test_arrow(queue: shmpool.AlfQueue) -> None:
    """py_buffer() is in place, and an Arrow array over it keeps the buffer; both can be put."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    buf = queue.pool.alloc()
    buf.write(np.arange(8, dtype="<i4"))
    arrow = pyarrow.py_buffer(buf)
    column = pyarrow.Array.from_buffers(pyarrow.int32(), 8, [None, arrow])
    buf.view[0] = 9
    assert [9, *range(1, 8)] == column.to_pylist()
    with pytest.raises(shmpool.BufferInUse):
        buf.free()
    queue.put_array(column)
    queue.put_array(arrow)
    assert column.to_pylist() == queue.get_array().tolist()
    assert arrow.to_pybytes() == queue.get_array().tobytes()
    del arrow
    with pytest.raises(shmpool.BufferInUse):
        buf.free()
    del column
    buf.free()
