# SPDX-License-Identifier: Apache-2.0
"""shmpool recover."""

from dataclasses import asdict

from ..rpc.protocol import Recover
from ..stats import Recovery
from .access import query
from .output import print_table


def show(recovery: Recovery) -> None:
    found = {name.replace("_", " "): count for name, count in asdict(recovery).items()}
    print_table(list(found), [list(found.values())])


command = query(Recover, "shmpool recover rx", show, "recovering {pool}")
