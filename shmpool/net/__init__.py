# SPDX-License-Identifier: Apache-2.0
"""Packets from the network and from files into a pool, and out.

A source fills bursts of buffers, a sink drains them: one native call for up to 256 packets, no
Python for each. Nothing here is imported by `import shmpool`.
"""
