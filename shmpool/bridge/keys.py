# SPDX-License-Identifier: Apache-2.0
"""CURVE keys of one end of a link: a file with both, which only its user can read."""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

import zmq

from .ends import Refused

SIZE_MAX = 4096  # bytes of a key file


@dataclass(frozen=True)
class Keys:
    """A key pair, each half 40 characters of Z85."""

    public: bytes
    secret: bytes


def make(path: Path) -> str:
    """Writes new keys into a new file, with mode 0600. Returns the public one. OSError."""
    public, secret = zmq.curve_keypair()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        file.write(f"# Of a link of shmpool bridge. The public key is for the other end.\n"
                   f"public = '{public.decode()}'\nsecret = '{secret.decode()}'\n")  # fmt: skip
    return str(public.decode())


def read(path: str) -> Keys:
    """Reads a key file. Refused."""
    try:
        with open(path, "rb") as file:
            mode, text = os.fstat(file.fileno()).st_mode, file.read(SIZE_MAX)
        values = tomllib.loads(text.decode())
        keys = Keys(values["public"].encode(), values["secret"].encode())
        fits = zmq.curve_public(keys.secret) == keys.public
    except (OSError, ValueError, KeyError, AttributeError, zmq.ZMQError) as error:
        raise Refused(
            f"key_file {path!r} cannot be used: {error}; `shmpool bridge --make-keys` writes one"
        ) from None
    if mode & 0o077:
        raise Refused(f"key_file {path!r} has mode {mode & 0o777:04o}; it must be 0600")
    if not fits:
        raise Refused(f"key_file {path!r} has a public key that is not that of its secret key")
    return keys
