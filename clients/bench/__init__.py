# SPDX-License-Identifier: Apache-2.0
"""Benchmarks that are not shipped: the C core against other C libraries (native/), its instruction
counts, recovery, how costs grow, and the daemon. Users who choose a library run shmpool.bench
instead.
"""
