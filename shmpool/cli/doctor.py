# SPDX-License-Identifier: Apache-2.0
"""shmpool doctor."""

import sys
from pathlib import Path

import click

from .diagnosis import Finding, examine
from .json_output import json_option, print_json
from .output import hint, print_table


@click.command(name="doctor", epilog="Example: shmpool doctor")
@click.option("--socket", type=click.Path(path_type=Path), help="Path of the daemon's socket.")
@json_option(list[Finding])
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
        hint(next_step(findings))
    sys.exit(1 if any(finding.state == "bad" for finding in findings) else 0)


def next_step(findings: list[Finding]) -> str:
    """What to do after these findings."""
    count = {state: sum(f.state == state for f in findings) for state in ("bad", "note")}
    if count["bad"]:
        return f"{count['bad']} bad: do first what stands behind them, then shmpool doctor again"
    if count["note"]:
        said = "note says" if count["note"] == 1 else "notes say"
        return f"shmpool works here; {count['note']} {said} what could be better"
    return "shmpool works here; shmpool demo shows it, shmpool bench --quick says how fast"
