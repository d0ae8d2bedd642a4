# SPDX-License-Identifier: Apache-2.0
"""shmpool audit."""

import sys

from ..rpc.protocol import RunAudit
from .access import Backend, pool_argument, with_backend
from .json_output import json_option, print_json
from .output import command_of, print_table, working

HELP = """Checks by two independent counts that no buffer is lost or counted twice.

The exit status is 1 if one is."""


@command_of(RunAudit, "shmpool audit rx", help_text=HELP)
@pool_argument
@json_option(RunAudit.answer)
@with_backend
def command(backend: Backend, pool: str, as_json: bool) -> None:
    with working(f"counting the buffers of {pool}"):
        audit = backend.call(RunAudit(pool))
    if as_json:
        print_json(audit)
    else:
        rows: list[tuple[str, int]] = [("free", audit.free), ("cached", audit.cached)]
        rows += [(f"held by member {number}", count) for number, count in audit.held.items()]
        rows += [(f"in {name}", count) for name, count in audit.queued.items()]
        rows += [("in chains, behind their heads", audit.chained)] * bool(audit.chained)
        rows += [("unaccounted", audit.unaccounted), ("total", audit.total)]
        verdict = "ok" if audit.ok else "NOT OK" if audit.complete else "NOT ALL COUNTED"
        print_table(("buffers", verdict), rows)
    sys.exit(0 if audit.ok else 1)
