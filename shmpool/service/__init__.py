# SPDX-License-Identifier: Apache-2.0
"""What the daemon does: answers requests, watches pools and their members, recovers, trims, serves
HTTP. daemon.py starts and stops it.
"""
