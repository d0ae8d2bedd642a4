# SPDX-License-Identifier: Apache-2.0
"""Decides which pools the daemon watches, and which files it leaves alone.

The daemon watches the pools that the configuration declares, if their file belongs to the daemon's
user or root and gives no more rights to write than declared. It also watches pools that match
[daemon] adopt, if config_values.Owners includes their owner. Files of other users are counted and
never opened, whatever their names.

What is remembered of files that are not watched is bounded: anybody may create files in /dev/shm.

    a name is    a file of its name                           until
    watched      is open and watched                          it is gone, replaced or given away
    refused      cannot be the declared pool                  it changes, or REFUSED_RETRY_S passed
    skipped      could not be opened, or there is no place    RETRY_S passed, or a place is free
    foreign      belongs to a user who is not adopted         it changes
    unmatched    matches no pattern of [daemon] adopt         it changes
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from .. import errors
from ..names import is_name
from ..pool_files import TEMPORARY, status_of
from ..view import View
from .alarms import Policy
from .config import Config
from .config_values import Owners
from .declared_pools import unlike
from .handlers import RequestHandler
from .watched_pool import Rank, WatchedPool

log = logging.getLogger("shmpool")

SKIPPED_MAX = 1024  # names that are remembered as skipped
LISTED_MAX = 1024  # names that are remembered as foreign, and as unmatched
RETRY_S = (0.05, 30.0)  # first and longest pause until a skipped file is tried again
REFUSED_RETRY_S = 10.0  # until a declared pool that could not be created is tried again

FileId = tuple[int, int, int, int]  # inode, user, group and mode


@dataclass
class _Skipped:
    """A file that could not be watched."""

    why: str
    at: float  # when it is tried again, in seconds of the monotonic clock
    pause: float  # s, before that
    no_place: bool  # the reason is that watched_max pools are watched


class Adoption:
    """Decides about each name whose file is created, changed or removed. For one thread."""

    def __init__(self, handler: RequestHandler, declare_again: Callable[[str], object]) -> None:
        """declare_again(name) is called when a refused declared pool may have become possible."""
        self._handler, self._declare_again = handler, declare_again
        self._config = Config()
        self._owners = Owners.named([])
        self._skipped: dict[str, _Skipped] = {}
        self._refused: dict[str, tuple[str, FileId | None, float]] = {}  # why, file, retry at
        self._foreign: dict[str, None] = {}
        self._unmatched: dict[str, None] = {}
        self._unfinished: dict[str, None] = {}  # temporary names of pools in creation
        self._logged_foreign = False
        handler.names = self.names

    def configure(self, config: Config) -> None:
        """Applies a configuration. Releases the pools that it neither declares nor adopts."""
        self._config, self._owners = config, Owners.named(config.daemon.adopt_users)
        self._skipped.clear()
        self._foreign.clear()
        self._unmatched.clear()
        self._logged_foreign = False
        self._refused.clear()  # each refusal is logged again
        for name in list(self._handler.watched):
            if name not in config.pools and not config.daemon.adopts(name):
                self._release(name, "the configuration does not name it")
            elif name not in config.pools:
                self._check_watched(name)

    def declared(self, name: str, why: str | None) -> None:
        """Records that a declared pool exists (None), or why it cannot be had."""
        pool = self._config.pools.get(name)
        if why is None or pool is None:
            self._refused.pop(name, None)
        else:
            self._handler.release(name)
            status = status_of(name)
            squatted = status is not None and unlike(name, status, pool) is not None
            retry = float("inf") if squatted else time.monotonic() + REFUSED_RETRY_S
            if self._refused.get(name, ("",))[0] != why:
                log.error("pool %s refused: %s", name, why)
            self._refused[name] = why, _file_id(name), retry
        self._count()

    @property
    def refused(self) -> dict[str, str]:
        """The declared pools that are refused, and why."""
        return {name: why for name, (why, _, _) in self._refused.items()}

    def own_names(self) -> list[str]:
        """Names of files whose owners' pools are watched, whether these are or not."""
        return [*self._handler.watched, *self._skipped, *self._unmatched, *self._unfinished]

    def names(self) -> list[str]:
        """All names that are remembered."""
        known = (
            self._handler.watched, self._refused, self._skipped, self._unmatched, self._foreign,
        )  # fmt: skip
        return sorted({name for names in known for name in list(names)})

    def watch(self, name: str, policy: Policy, rank: Rank) -> WatchedPool:
        """As RequestHandler.watch. Releases a less important pool if there is no place left."""
        watched = self._handler.watched
        if name not in watched and len(watched) >= self._handler.watched_max:
            evicted = self._to_evict(name, rank)
            if evicted is not None:
                self._release(evicted.view.name, f"pool {name} takes its place")
                self._skip(evicted.view.name, "", RETRY_S[1], no_place=True)
        return self._handler.watch(name, policy, rank)

    def _to_evict(self, name: str, rank: Rank) -> WatchedPool | None:
        """A watched pool of a higher rank. Or, if the new pool has members, one of the same rank
        without members."""
        watched = self._handler.watched.values()
        last = max(watched, key=lambda pool: pool.rank)
        if last.rank > rank:
            return last
        with contextlib.suppress(errors.ShmpoolError, OSError), View(name) as view:
            if view.stats().members:
                return next((pool for pool in watched if pool.rank >= rank and is_idle(pool)), None)
        return None

    def changed(self, name: str) -> None:
        """Decides again about a name whose file was created, changed or removed."""
        if name.startswith(TEMPORARY):
            self._unfinished.pop(name, None)
            status = status_of(name)
            known = len(self._unfinished)
            if status is not None and self._owners.include(status) and known < LISTED_MAX:
                self._unfinished[name] = None
        if not is_name(name):
            return
        if name in self._refused:
            self._retry_refused(name)
        elif name in self._handler.watched:
            self._check_watched(name)
        else:
            self._consider(name)

    def damaged(self, name: str, why: str) -> None:
        """Releases a pool that cannot be read, and retries it after the longest pause."""
        self._handler.release(name)
        log.warning("pool %s released: %s", name, why)
        self._skip(name, why, RETRY_S[1])

    def rescan(self) -> None:
        """Checks every watched pool, and retries the refused and skipped names that are due."""
        for name in list(self._handler.watched):
            self._check_watched(name)
        for name in list(self._refused):
            self._retry_refused(name)
        now = time.monotonic()
        for name in [name for name, skipped in self._skipped.items() if skipped.at <= now]:
            self._consider(name)

    def _retry_refused(self, name: str) -> None:
        why, file_id, retry = self._refused[name]
        if _file_id(name) != file_id or time.monotonic() >= retry:
            self._refused[name] = why, _file_id(name), float("inf")  # until declared() is called
            self._declare_again(name)

    def _check_watched(self, name: str) -> None:
        """Releases a watched pool that is gone, replaced, or no longer this user's to watch."""
        watched = self._handler.watched[name]
        status = status_of(name)
        if status is None or status.st_ino != watched.inode:
            self._release(name, "its file was removed or replaced")
            self._consider(name)
            return
        pool = self._config.pools.get(name)
        if pool is not None:
            why = unlike(name, status, pool)
            if why is not None:
                self.declared(name, why)
                return
        elif not self._owners.include(status):
            self._release(name, f"it belongs to user {status.st_uid} now")
            return
        rank = Rank.DECLARED if pool is not None else self._rank(status)
        watched.use(pool or Policy(), rank)

    def _release(self, name: str, why: str) -> None:
        self._handler.release(name)
        log.info("pool %s released: %s", name, why)
        for skipped in self._skipped.values():
            if skipped.no_place:
                skipped.at = 0.0

    def _rank(self, status: os.stat_result) -> Rank:
        return Rank.OWN if self._owners.own(status) else Rank.OTHER

    def _consider(self, name: str) -> None:
        """Decides about a name that is not watched."""
        status = status_of(name)
        pool = self._config.pools.get(name)
        self._foreign.pop(name, None)
        self._unmatched.pop(name, None)
        if status is not None and pool is not None:
            why = unlike(name, status, pool)
            if why is None:
                self._adopt(name, pool, Rank.DECLARED, status)
            else:
                self.declared(name, why)
        elif status is not None and not self._owners.include(status):
            self._skipped.pop(name, None)
            if len(self._foreign) < LISTED_MAX:
                self._foreign[name] = None
        elif status is not None and self._config.daemon.adopts(name):
            self._adopt(name, Policy(), self._rank(status), status)
        else:
            self._skipped.pop(name, None)
            if status is not None and len(self._unmatched) < LISTED_MAX:
                self._unmatched[name] = None
        self._count()

    def _adopt(self, name: str, policy: Policy, rank: Rank, status: os.stat_result) -> None:
        """Watches a pool, or skips it and logs why."""
        try:
            watched = self.watch(name, policy, rank)
            if watched.inode != status.st_ino:  # it was replaced: changed() will be called
                self._handler.release(name)
                return
        except (errors.ShmpoolError, OSError) as error:
            if (skipped := self._skipped.get(name)) is None or skipped.why != str(error):
                log.warning("pool %s not adopted: %s", name, error)
            pause = RETRY_S[0] if skipped is None else min(skipped.pause * 2, RETRY_S[1])
            self._skip(name, str(error), pause, isinstance(error, errors.LimitReached))
            return
        self._skipped.pop(name, None)
        if watched.writable:
            log.info("pool %s adopted", name)
        else:
            log.warning("pool %s is watched but not recovered: this user cannot write to it", name)

    def _skip(self, name: str, why: str, pause: float, no_place: bool = False) -> None:
        """Remembers a file that could not be watched. pause is in seconds."""
        if name in self._skipped or len(self._skipped) < SKIPPED_MAX:
            self._skipped[name] = _Skipped(why, time.monotonic() + pause, pause, no_place)

    def _count(self) -> None:
        """Updates the figures for /metrics."""
        if self._foreign and not self._logged_foreign:
            self._logged_foreign = True
            log.info("pools of other users are not watched, except those that adopt_users names")
        self._handler.foreign = len(self._foreign)
        self._handler.refused = len(self._refused)


def is_idle(pool: WatchedPool) -> bool:
    """True if the pool is not declared, and has no members or is damaged."""
    try:
        return pool.rank != Rank.DECLARED and not pool.view.stats().members
    except errors.ShmpoolError:
        return True


def _file_id(name: str) -> FileId | None:
    """What identifies the file and its rights, or None if there is no file."""
    status = status_of(name)
    if status is None:
        return None
    return status.st_ino, status.st_uid, status.st_gid, status.st_mode
