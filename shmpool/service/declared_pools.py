# SPDX-License-Identifier: Apache-2.0
"""The pools that the configuration declares: creates them, adds missing queues and topics, and
refuses other users' files under their names.
"""

import logging
import os
import stat
from collections.abc import Iterator
from typing import Literal

from .. import errors
from ..geometry import Geometry, differences, does_not_fit, planned, taken_at_once
from ..options import QueueOptions, TopicOptions, keywords, queue_slots
from ..os_errors import shared_memory, size_text
from ..pool import Pool
from ..pool_files import path_of, status_of
from ..segment import group_id
from ..view import QueueStats, TopicStats, View
from . import handlers
from .config import Config, ConfigError, PoolConfig

log = logging.getLogger("shmpool")
Kind = Literal["queue", "topic"]


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

    ConfigError if an existing pool differs from its declaration, or has no room for its queues and
    topics.
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
        existing = _existing(view)
    for part, (kind, options) in _declared(pool).items():
        if part not in existing:
            continue
        key, of = ("pools", name, kind, part), f"pool {name!r}, {kind} {part!r}"
        kind_there, figures = existing[part]
        if kind != kind_there:
            yield key, f"{of}: it exists as a {kind_there}"
            continue
        for option, declared in keywords(type(options), options).items():
            if declared != (there := getattr(figures, option)):
                yield (*key, option), text.format(of, option, declared, there)


def _declared(pool: PoolConfig) -> dict[str, tuple[Kind, QueueOptions | TopicOptions]]:
    """Returns the queues and topics that a pool is to have, by name."""
    found: dict[str, tuple[Kind, QueueOptions | TopicOptions]] = {}
    found |= {name: ("queue", options) for name, options in pool.queue.items()}
    return found | {name: ("topic", options) for name, options in pool.topic.items()}


def _existing(view: View) -> dict[str, tuple[Kind, QueueStats | TopicStats]]:
    """Returns those that a pool has, by name."""
    found: dict[str, tuple[Kind, QueueStats | TopicStats]] = {}
    found |= {queue.name: ("queue", queue) for queue in view.queues()}
    return found | {topic.name: ("topic", topic) for topic in view.topics()}


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
    """Creates the declared pools, queues and topics that are missing: all, or none. ConfigError.

    Returns why pools are refused, by name, as refuse_differences().
    """
    there, refused = refuse_differences(config)
    made: list[str] = []
    try:
        for name, pool in config.pools.items():
            if name in there or name in refused:
                continue
            try:
                handlers.create_pool(name, pool, pool.queue, pool.topic)
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


def _missing(view: View, pool: PoolConfig) -> dict[str, Kind]:
    """Returns which declared queues and topics the pool does not have."""
    existing = _existing(view)
    return {part: kind for part, (kind, _) in _declared(pool).items() if part not in existing}


def _refuse_more_queues(name: str, config: Config) -> None:
    """ConfigError if a pool has no room for its missing queues and topics."""
    pool = config.pools[name]
    with View(name) as view:
        missing, room = _missing(view, pool), view.free_queue_slots()
    needed, declared = 0, _declared(pool)
    for part, kind in missing.items():
        needed += queue_slots(declared[part][1])
        if needed <= room:
            continue
        raise config.document.error(
            ("pools", name, kind, part), f"pool {name!r} has room for {room} more queues and topics"
        )


def _complete(name: str, config: Config) -> None:
    declared = config.pools[name]
    with View(name) as view:
        missing = _missing(view, declared)
    if not missing:
        return
    with Pool.attach(name) as pool:
        queues = {part: one for part, one in declared.queue.items() if part in missing}
        topics = {part: one for part, one in declared.topic.items() if part in missing}
        handlers.create_queues(pool, queues)
        handlers.create_topics(pool, topics)
        for part, kind in missing.items():
            log.info("%s %s of pool %s created", kind, part, name)
