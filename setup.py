# SPDX-License-Identifier: Apache-2.0
"""Only what pyproject.toml has no word for: the module that cffi builds."""

from setuptools import setup

setup(cffi_modules=["shmpool/native/build.py:ffibuilder"])
