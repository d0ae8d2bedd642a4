# SPDX-License-Identifier: Apache-2.0
"""Benchmarks that are not shipped: the C core beside other C libraries (native/), and its
instruction counts (instructions.py). What people who choose a library run is shmpool.bench.
"""
