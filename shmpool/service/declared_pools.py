# SPDX-License-Identifier: Apache-2.0
"""The pools that the configuration declares: creates them, adds missing queues, and refuses other
users' files under their names.
"""

import logging
import os
import stat
from collections.abc import Iterator

from .. import errors
from ..geometry import Geometry, differences, does_not_fit, planned, taken_at_once
from ..options import QueueOptions, keywords
from ..os_errors import shared_memory, size_text
from ..pool import Pool
from ..pool_files import path_of, status_of
from ..segment import group_id
from ..view import QueueStats, View
from . import handlers
from .config import Config, ConfigError, PoolConfig

log = logging.getLogger("shmpool")


def unlike(name: str, status: os.stat_result, pool: PoolConfig) -> str | None:
    """Returns why a file cannot be the declared pool, whatever it holds; None if it can."""
    mode, declared = stat.S_IMODE(status.st_mode), pool.mode
    if not stat.S_ISREG(status.st_mode):
        return "what has its name is not a regular file"
    if status.st_uid not in (os.geteuid(), 0):
        return f"what has its name belongs to user {status.st_uid}; it is refused until it is gone"
    if mode & ~declared & 0o022:
        return f"its mode is {mode:04o}, which lets others write than the declared {declared:04o}"
    if pool.group is not None and mode & 0o020 and status.st_gid != group_id(pool.group):
        return f"its group is {status.st_gid}, which may write to it, and not {pool.group}"
    if not os.access(path_of(name), os.R_OK | os.W_OK, effective_ids=True):
        return "the daemon's user may not write to it"
    return None


def refuse_differences(config: Config) -> tuple[set[str], dict[str, str]]:
    """Returns the names of declared pools that exist, and why others are refused, by name.

    ConfigError if an existing pool differs from its declaration, or has no room for its queues.
    """
    there, refused, wrong = set(), {}, []
    for name, pool in config.pools.items():
        status = status_of(name)
        why = None if status is None else unlike(name, status, pool)
        if why is not None:
            refused[name] = why
        elif status is not None:
            there.add(name)
            for key, text in _differences(name, pool):
                wrong.append(config.document.said(config.document.line(key), text))
            _refuse_more_queues(name, config)
    if wrong:
        raise ConfigError("\n".join(wrong))
    _refuse_too_many(config, [name for name in config.pools if name not in there | set(refused)])
    return there, refused


def _differences(name: str, pool: PoolConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields each key of the configuration that differs from the existing pool, and how.
    PoolNotFound, SegmentInvalid, AccessDenied."""
    asked = Geometry.of(planned(name, pool))  # rounded as the pool's own is
    text = "{}: {} is declared {} and exists as {}"
    with View(name) as view:
        for option, declared, there in differences(pool, asked, view.geometry):
            yield ("pools", name, option), text.format(f"pool {name!r}", option, declared, there)
        existing = {queue.name: queue for queue in view.queues()}
    for queue_name in [name for name in pool.queue if name in existing]:
        of = f"pool {name!r}, queue {queue_name!r}"
        for option, declared in keywords(QueueOptions, pool.queue[queue_name]).items():
            if declared != (there := getattr(existing[queue_name], option)):
                key = "pools", name, "queue", queue_name, option
                yield key, text.format(of, option, declared, there)


def _refuse_too_many(config: Config, missing: list[str]) -> None:
    """ConfigError if the missing pools together do not fit into what is free of /dev/shm."""
    (total, free), needed = shared_memory(), 0
    for name in missing:
        geometry = planned(name, config.pools[name])
        needed += sum(taken_at_once(geometry))
        if total and needed > free:
            message = str(does_not_fit(name, geometry))
            if name != missing[0]:
                message += f"; with the missing pools before it, {size_text(needed, up=True)}"
            raise config.document.error(("pools", name, "prealloc"), message)


def make(config: Config) -> dict[str, str]:
    """Creates the declared pools and queues that are missing: all, or none. ConfigError.

    Returns why pools are refused, by name, as refuse_differences().
    """
    there, refused = refuse_differences(config)
    made: list[str] = []
    try:
        for name, pool in config.pools.items():
            if name in there or name in refused:
                continue
            try:
                handlers.create_pool(name, pool, pool.queue)
            except errors.PoolExists as error:  # another process was faster
                refused[name] = str(error)
                continue
            except errors.OutOfSharedMemory as error:
                raise config.document.error(("pools", name, "prealloc"), str(error)) from None
            made.append(name)
            log.info("pool %s created", name)
        for name in there:
            _complete(name, config)
    except BaseException:
        for name in made:
            Pool.unlink(name)
            log.info("pool %s removed again", name)
        raise
    return refused


def _missing(
    queues: list[QueueStats], declared: dict[str, QueueOptions]
) -> dict[str, QueueOptions]:
    there = {queue.name for queue in queues}
    return {name: queue for name, queue in declared.items() if name not in there}


def _refuse_more_queues(name: str, config: Config) -> None:
    """ConfigError if a pool has no room for its missing queues."""
    with View(name) as view:
        queues = view.queues()
        missing, room = (
            _missing(queues, config.pools[name].queue),
            view.geometry.queues - len(queues),
        )
    if len(missing) > room:
        first = list(missing)[room]
        raise config.document.error(
            ("pools", name, "queue", first), f"pool {name!r} has room for {room} more queues"
        )


def _complete(name: str, config: Config) -> None:
    with View(name) as view:
        missing = _missing(view.queues(), config.pools[name].queue)
    if not missing:
        return
    with Pool.attach(name) as pool:
        handlers.create_queues(pool, missing)
        for queue_name in missing:
            log.info("queue %s of pool %s created", queue_name, name)
