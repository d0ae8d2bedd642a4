# SPDX-License-Identifier: Apache-2.0
"""The exceptions: one hierarchy, each also the built-in kind that people catch."""

import errno
import pickle
import queue

import pytest

import shmpool
from shmpool import errors

BUILT_IN = {
    "AccessDenied": PermissionError,
    "BufferInUse": BufferError,
    "BufferReleased": ValueError,
    "DaemonUnavailable": ConnectionError,
    "Empty": queue.Empty,
    "ForeignBuffer": ValueError,
    "Full": queue.Full,
    "InvalidArgument": ValueError,
    "LimitReached": Exception,
    "NoArray": TypeError,
    "ShutDown": Exception,
    "OutOfSharedMemory": MemoryError,
    "PayloadTooLarge": ValueError,
    "PoolClosed": ValueError,
    "PoolExhausted": Exception,
    "PoolReplaced": Exception,
    "PoolExists": FileExistsError,
    "PoolNotFound": FileNotFoundError,
    "QueueBusy": Exception,
    "QueueExists": FileExistsError,
    "QueueNotFound": LookupError,
    "RequestRefused": Exception,
    "SegmentInvalid": Exception,
    "WorkerDied": RuntimeError,
}


def test_the_table_is_complete() -> None:
    """Every exception of the module is in the table, and public."""
    defined = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Exception) and name != "ShmpoolError"
    }
    assert set(BUILT_IN) == defined
    assert defined <= set(shmpool.__all__)


@pytest.mark.parametrize(("name", "built_in"), BUILT_IN.items())
def test_each_is_both(name: str, built_in: type[Exception]) -> None:
    """Each is a ShmpoolError and a built-in exception, with an errno that has a name."""
    kind = getattr(shmpool, name)
    assert (True, True) == (issubclass(kind, shmpool.ShmpoolError), issubclass(kind, built_in))
    error = kind("what happened")
    assert (True, "what happened") == (error.errno in errno.errorcode, str(error))


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_pickles(name: str) -> None:
    """An exception of a worker arrives as itself in the process that waits for it."""
    error = getattr(shmpool, name)("what happened")
    again = pickle.loads(pickle.dumps(error))
    assert (type(error), "what happened") == (type(again), str(again))


def test_public_names_are_there() -> None:
    """__all__ is sorted and names what exists."""
    assert sorted(shmpool.__all__) == shmpool.__all__
    assert [] == [name for name in shmpool.__all__ if not hasattr(shmpool, name)]


def test_the_queue_module_catches_ours(pool: shmpool.Pool) -> None:
    """Code written for queue.Queue works: queue.Full and queue.Empty."""
    work = pool.create_queue("q", capacity=2)
    with pytest.raises(queue.Empty):
        work.get_nowait()
    work.send_many([b"1", b"2"])
    with pytest.raises(queue.Full):
        work.put_nowait(pool.alloc())
