# SPDX-License-Identifier: Apache-2.0
"""A program: CPython's own tests of multiprocessing's queues, run against shmpool's.

python tests/cpython_queues.py fork|spawn|forkserver
"""

import multiprocessing
import sys
import unittest

import shmpool

# Tests of what shmpool's queues do not have, by name, with the reason. docs/drop-in-queue.md has a
# line for each.
DEVIATIONS = {
    "test_queue_feeder_donot_stop_onexc": "put() raises what pickling raises",
    "test_queue_feeder_on_queue_feeder_error": "there is no feeder thread, and so no hook for it",
}


if __name__ in ("__main__", "__mp_main__"):  # also in the processes that it starts
    from test import _test_multiprocessing as theirs

    def leave_out(case: type[unittest.TestCase]) -> None:
        for name, why in DEVIATIONS.items():
            if hasattr(case, name):
                setattr(case, name, unittest.skip(why)(lambda self: None))

    class TestQueue(theirs._TestQueue, theirs.ProcessesMixin, unittest.TestCase):
        Queue = staticmethod(shmpool.Queue)
        JoinableQueue = staticmethod(shmpool.JoinableQueue)

    class TestSimpleQueue(theirs.TestSimpleQueue):
        pass

    leave_out(TestQueue)
    leave_out(TestSimpleQueue)
    # Some tests, and a module that one of them writes, name the queue of multiprocessing itself.
    multiprocessing.Queue = shmpool.Queue
    multiprocessing.JoinableQueue = shmpool.JoinableQueue
    multiprocessing.SimpleQueue = shmpool.SimpleQueue

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv.pop(1), force=True)
    unittest.main(verbosity=2)
