# SPDX-License-Identifier: Apache-2.0
"""Requests to the daemon: the wire format, each request with its answer, and the clients.

Nothing here listens or works on a pool; what a request does is in shmpool/service/handlers.py.
"""
