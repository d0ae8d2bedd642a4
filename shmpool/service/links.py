# SPDX-License-Identifier: Apache-2.0
"""What bridges have reported of their links, and for how long it counts."""

import os
import time
from collections.abc import Callable
from dataclasses import replace

from .. import errors
from ..rpc.records import LinkStats

SILENT_S = 5.0  # without a report: the bridge has gone
FORGET_S = 3600.0  # after which a silent bridge is not shown any more
ENDED_S = 10.0  # the same for one that has said that it ends
LINKS_MAX = 256  # of all bridges


class Links:
    """The links of all bridges that report to this daemon. For one thread.

    Two bridges may have links of one name, on one queue. The one that reports second gets its
    process into the name, while the first is there: else each would be shown in turn.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """clock is in seconds and monotonic, wall in seconds since 1970."""
        self._clock, self._wall = clock, wall
        # By pool and name. since is on the monotonic clock.
        self._found: dict[tuple[str, str], tuple[float, str, LinkStats]] = {}

    def report(self, bridge: str, pid: int, links: list[LinkStats]) -> None:
        """Takes a bridge's report in place of its last one. LimitReached.

        Not by process: in containers that share a pool each bridge may be process 1.
        """
        now = self._clock()
        kept = {
            key: (at, other, link)
            for key, (at, other, link) in self._found.items()
            if other != bridge and now - at < (ENDED_S if link.state == "ended" else FORGET_S)
        }
        if len(kept) + len(links) > LINKS_MAX:
            raise errors.LimitReached(
                f"{len(kept)} links are reported by other bridges; all together may have "
                f"{LINKS_MAX}"
            )
        taken = {key for key, (at, _, link) in kept.items() if self._runs(link, now - at)}
        ahead = now - self._wall()  # the wall clock may jump until it is shown
        for link in links:
            name = link.name
            if (link.pool, name) in taken:
                name = f"{name} ({pid})"
            kept[link.pool, name] = (
                now,
                bridge,
                replace(
                    link,
                    name=name,
                    pid=pid,
                    since=link.since + ahead,
                    rate=self._rate((link.pool, name), bridge, link.packets, now),
                ),
            )
        self._found = kept

    def of(self, pool: str) -> list[LinkStats]:
        """Returns the links of a pool, by name."""
        now = self._clock()
        found = [
            self._shown(link, now - at)
            for (of, _), (at, _, link) in sorted(self._found.items())
            if of == pool and now - at < FORGET_S
        ]
        return [link for link in found if link is not None]

    def _rate(self, key: tuple[str, str], bridge: str, packets: int, now: float) -> int:
        """Returns the packets a second since that bridge's last report. A client that asks more
        often than a bridge reports would see none at times, and at others too many."""
        at, whose, before = self._found.get(key, (now, "", None))
        if before is None or whose != bridge or now <= at:
            return 0
        return max(round((packets - before.packets) / (now - at)), 0)

    def _runs(self, link: LinkStats, age: float) -> bool:
        """Whether the bridge of that report is still there. A bridge in another PID namespace is
        not found, and its name is not kept for it."""
        if link.state == "ended" or age >= SILENT_S:
            return False
        try:
            os.kill(link.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass
        return True

    def _shown(self, link: LinkStats, age: float) -> LinkStats | None:
        link = replace(link, since=link.since + self._wall() - self._clock())
        if link.state == "ended":
            return link if age < ENDED_S else None
        if age < SILENT_S:
            return link
        return replace(link, state="silent", rate=0, why=f"no report from process {link.pid}")


def down(link: LinkStats, wall: float) -> str:
    """Says for how long a link has been down, if that is an alarm; else "". wall is in seconds
    since 1970."""
    if link.state == "silent":
        return f"the bridge has not reported for more than {SILENT_S:g} s: {link.why}"
    if link.state in ("down", "starting") and wall - link.since >= link.down_s:
        return f"the link has been down for more than {link.down_s:g} s: {link.why}"
    return ""


def lags(link: LinkStats) -> str:
    """Says how far a link lags, if that is an alarm; else ""."""
    if link.state != "up" or link.oldest_s is None or link.oldest_s < link.lag_s:
        return ""
    if link.unacknowledged:
        return (
            f"a burst has not been acknowledged for more than {link.lag_s:g} s; "
            f"{link.unacknowledged} bursts are on their way, and {link.lag} packets wait"
        )
    whose = "the other side" if link.sends else "the pool, or the queue or topic,"
    return f"{whose} has had no room for more than {link.lag_s:g} s; {link.lag} packets wait"
