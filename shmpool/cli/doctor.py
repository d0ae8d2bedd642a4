# SPDX-License-Identifier: Apache-2.0
"""shmpool doctor."""

import sys
from pathlib import Path

import click

from .diagnosis import examine
from .output import json_option, print_json, print_table


@click.command(name="doctor", epilog="Example: shmpool doctor")
@click.option("--socket", type=click.Path(path_type=Path), help="Path of the daemon's socket.")
@json_option
def command(socket: Path | None, as_json: bool) -> None:
    """Checks this machine for what shmpool needs, and prints what to do about each problem.

    The exit status is 1 if something is bad.
    """
    findings = examine(socket)
    if as_json:
        print_json(findings)
    else:
        rows = [(f.subject, f.state, f.found, f.advice) for f in findings]
        print_table(("", "", "found", "what to do"), rows)
    sys.exit(1 if any(finding.state == "bad" for finding in findings) else 0)
