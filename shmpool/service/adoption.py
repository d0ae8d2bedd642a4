# SPDX-License-Identifier: Apache-2.0
"""Which pools the daemon watches over, and which files it leaves alone.

Whose pools: those that the configuration declares, if their file is of the daemon's user or root
and lets no others write than declared; and, where [daemon] adopt names them, those of the owners
that config.Owners says. Files of other users are counted and not opened, whatever they are called.

Nothing here grows with what others do: of names that are not held, so many are remembered.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from .. import errors
from ..names import is_name
from ..pool_files import TEMPORARY
from ..view import View
from .alarms import Policy
from .config import Config
from .config_values import Owners
from .declared_pools import status_of, unlike
from .handlers import RequestHandler
from .watched_pool import DECLARED, OTHERS, OWN, WatchedPool

log = logging.getLogger("shmpool")

LEFT_MAX = 1024  # files of the daemon's owners that are no pools, or that there is no room for
OTHERS_MAX = 1024  # files that are only listed: of others, and that adopt does not name
AGAIN_S = (0.05, 30.0)  # first and longest pause until such a file is tried again
REFUSED_S = 10.0  # until a declared pool that could not be made is tried again

Seen = tuple[int, int, int, int]  # inode, user, group and mode of a file


@dataclass
class _Left:
    """A file that is not held."""

    why: str
    at: float  # when it is tried again
    pause: float
    full: bool  # for want of room


class Adoption:
    """Decides for each name that comes, changes or goes."""

    def __init__(self, pools: RequestHandler, declared_again: Callable[[str], object]) -> None:
        """declared_again(name): a declared pool that was refused can perhaps be had now."""
        self._pools, self._declared_again = pools, declared_again
        self._config = Config()
        self._owners = Owners.named([])
        self._left: dict[str, _Left] = {}
        self._refused: dict[str, tuple[str, Seen | None, float]] = {}  # why, which file, until when
        self._strangers: dict[str, None] = {}
        self._unnamed: dict[str, None] = {}
        self._unfinished: dict[str, None] = {}  # temporary names of pools that are being made
        self._said_strangers = False
        pools.names = self.names

    def configure(self, config: Config) -> None:
        """From now on by this configuration. What it does not name is released."""
        self._config, self._owners = config, Owners.named(config.daemon.adopt_users)
        self._left.clear()
        self._strangers.clear()
        self._unnamed.clear()
        self._said_strangers = False
        self._refused.clear()  # each is said again
        for name in list(self._pools.held):
            if name not in config.pools and not config.daemon.adopts(name):
                self._release(name, "the configuration does not name it")
            elif name not in config.pools:
                self._check_held(name)

    def declare(self, name: str, why: str | None) -> None:
        """What came of a declared pool: None, or why it cannot be had."""
        pool = self._config.pools.get(name)
        if why is None or pool is None:
            self._refused.pop(name, None)
        else:
            self._pools.release(name)
            status = status_of(name)
            squatted = status is not None and unlike(name, status, pool) is not None
            again = float("inf") if squatted else time.monotonic() + REFUSED_S
            if self._refused.get(name, ("",))[0] != why:
                log.error("pool %s refused: %s", name, why)
            self._refused[name] = why, _seen(name), again
        self._count()

    @property
    def refused(self) -> dict[str, str]:
        """The declared pools that are refused, and why."""
        return {name: why for name, (why, _, _) in self._refused.items()}

    def own_names(self) -> list[str]:
        """The files of those whose pools are watched over, whether these are or not."""
        return [*self._pools.held, *self._left, *self._unnamed, *self._unfinished]

    def names(self) -> list[str]:
        """The pools that are known: those held, and so many of the others."""
        known = (self._pools.held, self._refused, self._left, self._unnamed, self._strangers)
        return sorted({name for names in known for name in list(names)})

    def hold(self, name: str, policy: Policy, rank: int) -> WatchedPool:
        """Holds a pool; where there is no room another one makes room. As RequestHandler.hold."""
        held = self._pools.held
        if name not in held and len(held) >= self._pools.held_max:
            last = self._gives_way(name, rank)
            if last is not None:
                self._release(last.view.name, f"pool {name} needs its place")
                self._leave(last.view.name, "", AGAIN_S[1], full=True)
        return self._pools.hold(name, policy, rank)

    def _gives_way(self, name: str, rank: int) -> WatchedPool | None:
        """Who makes room for a pool: one of a later rank; or one without members, for one that has
        some."""
        held = self._pools.held.values()
        last = max(held, key=lambda other: other.rank)
        if last.rank > rank:
            return last
        with contextlib.suppress(errors.ShmpoolError, OSError), View(name) as view:
            if view.stats().members:
                return next((other for other in held if other.rank >= rank and idle(other)), None)
        return None

    def changed(self, name: str) -> None:
        """A file came, changed or went."""
        if name.startswith(TEMPORARY):
            self._unfinished.pop(name, None)
            status = status_of(name)
            known = len(self._unfinished)
            if status is not None and self._owners.include(status) and known < OTHERS_MAX:
                self._unfinished[name] = None
        if not is_name(name):
            return
        if name in self._refused:
            self._reconsider(name)
        elif name in self._pools.held:
            self._check_held(name)
        else:
            self._consider(name)

    def damaged(self, name: str, why: str) -> None:
        """A held pool cannot be read: it is released, and not tried again at once."""
        self._pools.release(name)
        log.warning("pool %s released: %s", name, why)
        self._leave(name, why, AGAIN_S[1])

    def look(self) -> None:
        """What is due: pools that are gone, and files that are tried again."""
        for name in list(self._pools.held):
            self._check_held(name)
        for name in list(self._refused):
            self._reconsider(name)
        now = time.monotonic()
        for name in [name for name, left in self._left.items() if left.at <= now]:
            self._consider(name)

    def _reconsider(self, name: str) -> None:
        _, seen, again = self._refused[name]
        if _seen(name) != seen or time.monotonic() >= again:
            why = self._refused[name][0]
            self._refused[name] = why, _seen(name), float("inf")  # until there is an answer
            self._declared_again(name)

    def _check_held(self, name: str) -> None:
        held = self._pools.held[name]
        status = status_of(name)
        if status is None or status.st_ino != held.inode:
            self._release(name, "its name stands for another, or for none")
            self._consider(name)
            return
        pool = self._config.pools.get(name)
        if pool is not None:
            why = unlike(name, status, pool)
            if why is not None:
                self.declare(name, why)
                return
        elif not self._owners.include(status):
            self._release(name, f"it belongs to user {status.st_uid} now")
            return
        rank = DECLARED if pool is not None else self._rank(status)
        held.use(pool or Policy(), rank)

    def _release(self, name: str, why: str) -> None:
        self._pools.release(name)
        log.info("pool %s released: %s", name, why)
        for left in self._left.values():
            if left.full:
                left.at = 0.0

    def _rank(self, status: os.stat_result) -> int:
        return OWN if self._owners.own(status) else OTHERS

    def _consider(self, name: str) -> None:
        """Holds a pool that is not held, or says why not."""
        status = status_of(name)
        pool = self._config.pools.get(name)
        self._strangers.pop(name, None)
        self._unnamed.pop(name, None)
        if status is not None and pool is not None:
            why = unlike(name, status, pool)
            if why is None:
                self._hold(name, pool, DECLARED, status)
            else:
                self.declare(name, why)
        elif status is not None and not self._owners.include(status):
            self._left.pop(name, None)
            if len(self._strangers) < OTHERS_MAX:
                self._strangers[name] = None
        elif status is not None and self._config.daemon.adopts(name):
            self._hold(name, Policy(), self._rank(status), status)
        else:
            self._left.pop(name, None)
            if status is not None and len(self._unnamed) < OTHERS_MAX:
                self._unnamed[name] = None
        self._count()

    def _hold(self, name: str, policy: Policy, rank: int, status: os.stat_result) -> None:
        try:
            held = self.hold(name, policy, rank)
            if held.inode != status.st_ino:  # another has come in between: it will be told of
                self._pools.release(name)
                return
        except (errors.ShmpoolError, OSError) as error:
            if (left := self._left.get(name)) is None or left.why != str(error):
                log.warning("pool %s not adopted: %s", name, error)
            pause = AGAIN_S[0] if left is None else min(left.pause * 2, AGAIN_S[1])
            self._leave(name, str(error), pause, isinstance(error, errors.LimitReached))
            return
        self._left.pop(name, None)
        if held.writable:
            log.info("pool %s adopted", name)
        else:
            log.warning("pool %s is only watched: this user cannot write to it", name)

    def _leave(self, name: str, why: str, pause: float, full: bool = False) -> None:
        """Remembers a file that is not held, to try it again after a pause."""
        if name in self._left or len(self._left) < LEFT_MAX:
            self._left[name] = _Left(why, time.monotonic() + pause, pause, full)

    def _count(self) -> None:
        if self._strangers and not self._said_strangers:
            self._said_strangers = True
            log.info("files of other users are not watched over, but for those of adopt_users")
        self._pools.strangers = len(self._strangers)
        self._pools.refused = len(self._refused)


def idle(held: WatchedPool) -> bool:
    """Whether a pool that is not declared has no members."""
    try:
        return held.rank != DECLARED and not held.view.stats().members
    except errors.ShmpoolError:
        return True  # it is damaged


def _seen(name: str) -> Seen | None:
    status = status_of(name)
    if status is None:
        return None
    return status.st_ino, status.st_uid, status.st_gid, status.st_mode
