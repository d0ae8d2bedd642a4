# SPDX-License-Identifier: Apache-2.0
"""What to do next: about an alarm, about no pools. The doctor's advice is in diagnosis.py."""

from collections.abc import Iterable, Iterator

from ..rpc.records import Alarm, AlarmKind, PoolSummary

NO_POOLS = "no pools: shmpool create rx --buffer-size 2048 --capacity 4096 makes one"
STEPS: dict[AlarmKind, str] = {
    "low-water": "shmpool holders {pool} names who has the buffers; or create it larger",
    "queue-full": "shmpool members {pool} shows whether its consumers run; or start more of them",
    "topic-blocked": "shmpool stats {pool} shows who is behind: let it go on, or end it",
    "held-long": "shmpool holders {pool} names the thread; if its process is ended, they come back",
    "link-down": "shmpool stats {pool} shows why: start the other side, or mend the way to it",
    "link-lags": "shmpool stats {pool}, there: its queue is full, or its pool, or the way is slow",
    "stopped": "let the process go on (kill -CONT), or end it: its buffers come back",
}


def of_alarm(pool: str, alarm: Alarm) -> str:
    """What to do about an alarm of a pool."""
    return f"{alarm.kind} {alarm.subject}: {STEPS[alarm.kind].format(pool=pool)}"


def of_list(pools: Iterable[PoolSummary]) -> Iterator[str]:
    """What to do after a listing."""
    pools = list(pools)
    if not pools:
        yield NO_POOLS
    if names := [pool.name for pool in pools if pool.alarms]:
        yield f"alarms: shmpool stats {names[0]} says which, and what to do"
    if any(pool.trouble is not None for pool in pools):
        yield "shmpool doctor says what to do about those that cannot be used"
