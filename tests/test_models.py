# SPDX-License-Identifier: Apache-2.0
"""The Spin models of tests/models: each is searched completely, and each mutation of them is found.

docs/models.md says what they cover. With SHMPOOL_MODELS=long in the environment the largest are
searched too, for some minutes each, with up to 12 GB of memory.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = Path(__file__).parent / "models"
DEPTH = 40_000  # steps of the longest run; a deeper search reports it and fails
CYCLE_DEPTH = 1_000_000
MEMORY_MB, LONG_MEMORY_MB = 6_000, 12_000


def _queue(n0: int, n1: int, buffers: int, consumers: int, **other: int) -> dict[str, int]:
    """Options of queue.pml: the producers' bulks, all buffers, consumers, and other options."""
    usual = {"MULTI_PRODUCER": 1, "MULTI_CONSUMER": 1, "SIZE": 2, "RECOVERERS": 2, "CRASHES": 2}
    kinds = {"REUSE": 0, "HAND_ON": 0}
    return {"N0": n0, "N1": n1, "BUFFERS": buffers, "CONSUMERS": consumers} | usual | kinds | other


QUEUES = {
    "multi": _queue(2, 1, 3, 1, RECOVERERS=1, CRASHES=1),
    "reserves": _queue(1, 1, 2, 0, CRASHES=3),
    "reserves-bulk": _queue(2, 1, 3, 0, CRASHES=3),
    "bulk": _queue(2, 0, 2, 1),
    "claims": _queue(0, 0, 3, 2, CRASHES=3, SIZE=4),
    "reuse": _queue(1, 0, 2, 1, REUSE=1),
    "single-consumer-bulk": _queue(2, 0, 2, 1, MULTI_CONSUMER=0),
    "single-consumers": _queue(0, 0, 3, 2, SIZE=4, MULTI_CONSUMER=0),
    "single-producers": _queue(1, 1, 2, 1, MULTI_PRODUCER=0),
    "hand-on": _queue(0, 0, 2, 2, MULTI_CONSUMER=0, HAND_ON=1),
}
LONG = {
    "multi-consumers": _queue(2, 1, 3, 2, RECOVERERS=1, CRASHES=1),
    "single-consumer": _queue(2, 1, 3, 1, MULTI_CONSUMER=0),
    "single-producers-bulk": _queue(2, 1, 3, 1, MULTI_PRODUCER=0),
    "two-of-everything": _queue(2, 1, 3, 2, MERGED=1, SEQUENTIAL=1),
}

MUTATIONS = [
    ("OP_AFTER_CAS", QUEUES["multi"]),
    ("OWNER_AFTER_PUBLISH", QUEUES["multi"]),
    ("PUBLISHING_LATE", QUEUES["multi"]),
    ("DONE_BEFORE_OWNER", QUEUES["claims"]),
    ("CERTAIN_WITHOUT_PUBLISH", QUEUES["multi"]),
    ("NEVER_CERTAIN", QUEUES["multi"]),
    ("PUBLISHED_TOO", QUEUES["bulk"]),
    ("NO_OP_COVER", QUEUES["multi"]),
    ("NO_SECOND_READ", _queue(1, 1, 2, 1)),
    ("UNRESERVE_AFTER_TOMBSTONES", LONG["single-consumer"]),
    ("UNRESERVE_TO_DEAD_MEMBER", QUEUES["reserves"]),
    ("TOMBSTONES_OF_POSTPONED_RANGE", LONG["single-consumer"]),
    ("TOMBSTONE_WITHOUT_CAS", QUEUES["multi"]),
    ("TOMBSTONE_FORGOTTEN", QUEUES["multi"]),
    ("OPS_BEFORE_CONS", QUEUES["claims"]),
    ("CLAIM_FORGOTTEN", QUEUES["claims"]),
    ("LIVE_NOW", QUEUES["reserves"]),
    ("NO_IDENTITY_CHECK", QUEUES["reuse"]),
    ("ROLE_BEFORE_PROD", QUEUES["single-producers"]),
    ("CONSUMER_ROLE_FIRST", LONG["single-consumer"]),
    ("ROLES_BEFORE_SWEEP", QUEUES["single-consumers"]),
    ("NO_OP_COVER", LONG["two-of-everything"]),
    ("CLAIM_FORGOTTEN", LONG["two-of-everything"]),
]
CACHE_MUTATIONS = [
    "PURGE_FROM_OUTSIDE",
    "FLUSH_UNCHECKED",
    "NO_GENERATION",
    "BOTTOM_BEFORE_OWNER",
    "STEAL_STORES",
    "STEAL_NO_BARRIER",
]


def _member(**other: int) -> dict[str, int]:
    """Options of member.pml: the processes that use one slot."""
    usual = {"RECOVERERS": 2, "NEWCOMERS": 1, "SAME": 0, "THIEF": 0, "EPOCH_MAX": 4, "RUNS": 1}
    return usual | {"CRASHES": 2} | other


SLOT = {
    "slot": _member(CRASHES=3),
    "two-newcomers": _member(RECOVERERS=1, NEWCOMERS=2),
    "same-process": _member(RECOVERERS=1, NEWCOMERS=2, SAME=1, RUNS=2),
    "last-epoch": _member(RECOVERERS=1, NEWCOMERS=2, EPOCH_MAX=1),
    "thief": _member(THIEF=1),
}
SLOT_MUTATIONS = [
    ("CLEARED_FIRST", SLOT["slot"]),
    ("RAISED_AGAIN", SLOT["slot"]),
    ("FREE_BEFORE_TAG", SLOT["slot"]),
    ("DEAD_STORED", SLOT["slot"]),
    ("IDENTITY_ONCE", SLOT["slot"]),
    ("CLEARED_IGNORED", SLOT["slot"]),
    ("CLEARING_STORED", SLOT["slot"]),
    ("TAG_KEPT", SLOT["slot"]),
    ("STILL_CLEARED", SLOT["slot"]),
    ("LAST_EPOCH_USED", SLOT["last-epoch"]),
    ("EPOCH_ONCE", SLOT["last-epoch"]),
    ("BOTTOM_STORED", SLOT["thief"]),
]


def _abandon(**other: int) -> dict[str, int]:
    """Options of abandon.pml: who returns buffers to a full queue, and who recovers."""
    usual = {"ON_FREE": 0, "RECOVERERS": 2, "NEWCOMER": 0, "NACKS": 1, "PASSES": 1, "CRASHES": 2}
    return usual | other


ABANDONED = {
    "nack": _abandon(),
    "nack-twice": _abandon(NACKS=2, CRASHES=1),
    "nack-on-free": _abandon(ON_FREE=1),
    "newcomer": _abandon(RECOVERERS=1, NEWCOMER=1, NACKS=0),
    "newcomer-and-nack": _abandon(RECOVERERS=1, NEWCOMER=1, CRASHES=1),
    "newcomer-on-free": _abandon(RECOVERERS=1, NEWCOMER=1, NACKS=0, ON_FREE=1),
}
ABANDONED_MUTATIONS = [
    ("LEFT_BY_OTHERS", ABANDONED["nack-twice"]),
    ("LEFT_UNCOUNTED", ABANDONED["nack"]),
    ("NAME_FORGOTTEN", ABANDONED["nack-on-free"]),
    ("WITHOUT_QUEUE", ABANDONED["nack-on-free"]),
    ("COUNTED_BEFORE", ABANDONED["nack"]),
    ("LOST_NOT_READ_AGAIN", ABANDONED["newcomer"]),
]


def _turn(**other: int) -> dict[str, int]:
    """Options of turn.pml: how many wait for one buffer, and how many for two."""
    usual = {"ONES": 3, "MANYS": 1, "BUFFERS": 2, "ROUNDS": 1, "KEEPER": 1, "ROOM": 0, "FAIR": 0}
    return usual | {"CRASHES": 0, "TURNS": 1, "AFTER": 2} | other


TURNS = {
    "buffers": _turn(),
    "room": _turn(ROOM=1, TURNS=0),
    "deaths": _turn(ONES=2, KEEPER=0, CRASHES=1, AFTER=1),
    "two-for-many": _turn(ONES=1, MANYS=2, BUFFERS=3, ROUNDS=2, KEEPER=0, AFTER=1),
}
SERVED = _turn(FAIR=1, KEEPER=0, ROUNDS=0, TURNS=0, AFTER=1)
TURN_MUTATIONS = [
    ("NOT_PASSED_ON", TURNS["buffers"]),
    ("NOT_PASSED_ON", TURNS["room"]),
    ("ONES_NOT_WOKEN", TURNS["buffers"]),
    ("WAIT_FIRST", TURNS["deaths"]),
    ("WANT_NOT_WRITTEN", TURNS["deaths"]),
    ("NO_POLL_BEFORE_SLEEP", TURNS["deaths"]),
    ("SLEEPERS_LEFT", TURNS["deaths"]),
]
SERVED_MUTATIONS = [
    ("NO_TURN", SERVED),
    ("NOTHING_KEPT", SERVED | {"TURNS": 1}),
    ("COUNTED_FROM_EACH_POLL", SERVED | {"AFTER": 2}),
]


def _chain(**other: int) -> dict[str, int]:
    """Options of chain.pml: where the head lies, and whether the chain passes a queue."""
    return {"BUFFERS": 3, "HEAD": 2, "QUEUE": 1, "RECOVERERS": 2, "CRASHES": 3} | other


CHAINS = {
    "queue": _chain(),
    "queue-head-first": _chain(HEAD=0),
    "free": _chain(QUEUE=0),
    "free-head-first": _chain(QUEUE=0, HEAD=0, CRASHES=2),
    "four": _chain(BUFFERS=4, HEAD=1, CRASHES=2),
}
CHAIN_MUTATIONS = [
    "MARKED_LATE",
    "GOT_KEPT",
    "RAISED_FIRST",
    "UNMARKED_FIRST",
    "ONE_SWEEP",
    "MARK_READ_LATE",
    "ORPHAN_BY_MARK",
    "ORPHAN_BY_OWNER",
    "ORPHAN_OF_THE_DEAD",
    "TAKE_STORED",
]


def _topic(**other: int) -> dict[str, int]:
    """Options of topic.pml: who publishes how often, and how often a process subscribes."""
    usual = {"PUBLISHERS": 1, "MESSAGES": 2, "JOINS": 1, "RECOVERERS": 1, "CRASHES": 2}
    return usual | {"SIZE": 1, "BUFFERS": 3} | other


TOPICS = {"two": _topic(), "three": _topic(MESSAGES=3)}
TOPICS_LONG = {
    "subscribers": _topic(JOINS=2, RECOVERERS=2, CRASHES=1),
    "publishers": _topic(PUBLISHERS=2, JOINS=0, CRASHES=1),
    "both-die": _topic(JOINS=2, RECOVERERS=2),
}
TOPIC_MUTATIONS = [
    "EVICTED_ALTHOUGH_HELD",
    "VACATED_FIRST",
    "TOMBSTONE_FIRST",
    "NOT_EVICTED_FOR",
    "FINAL_NOT_TAKEN",
]
TOPIC_LONG_MUTATIONS = {
    "NOT_STILL_DEAD": "subscribers",
    "NOT_BARRED": "subscribers",
    "VACATED_ANY": "both-die",
}


def _warm(**other: int) -> dict[str, int]:
    """Options of warm.pml: how often two members allocate and free, and who may die."""
    usual = {"ROUNDS": 1, "OTHER_ROUNDS": 1, "BUFFERS": 2, "WARM_SIZE": 1, "CHOICE": 0}
    return usual | {"RECOVERERS": 1, "CRASHES": 2} | other


WARM = {
    "deaths": _warm(),
    "recoverers": _warm(BUFFERS=1, RECOVERERS=2),
    "rounds": _warm(ROUNDS=2, CRASHES=1),
    "bypass": _warm(ROUNDS=3, OTHER_ROUNDS=2, WARM_SIZE=2, CHOICE=1, CRASHES=0),
}
WARM_MUTATIONS = [
    ("OTHER_CONS", WARM["rounds"]),
    ("OTHER_OP", WARM["rounds"]),
    ("OTHER_LIMIT", WARM["bypass"]),
    ("NOT_ANNOUNCED", WARM["bypass"]),
    ("CONS_FIRST", WARM["bypass"]),
]


def _lanes(**other: int) -> dict[str, int]:
    """Options of lanes.pml: who puts and gets how often, which lanes there are, and who ends it."""
    usual = {"LANES": 2, "SIZE": 2, "GROW": 0, "PRODUCERS": 1, "PUTS": 1, "FIRST": 1, "SECOND": 1}
    getting = {"CONSUMERS": 1, "GETS": 1, "HELD": 0, "NACKS": 0, "SHUTDOWNS": 0, "CRASHES": 0}
    return usual | getting | {"FIFO": 0} | other


LANES = {
    "order": _lanes(GROW=1, PRODUCERS=2, PUTS=2, GETS=0),
    "sleep": _lanes(PRODUCERS=2, CONSUMERS=2),
    "sleep-apart": _lanes(PRODUCERS=2, FIRST=0, CONSUMERS=2),
    "sleep-grow": _lanes(GROW=1, PUTS=2, CONSUMERS=2),
    "deaths": _lanes(PUTS=2, CONSUMERS=2, NACKS=1, CRASHES=1),
    "end": _lanes(CONSUMERS=2, SHUTDOWNS=1),
    "end-returns": _lanes(CONSUMERS=2, HELD=1, NACKS=1, SHUTDOWNS=1),
    "end-deaths": _lanes(SHUTDOWNS=2, CRASHES=1),
    "three-lanes": _lanes(LANES=3, GROW=1, PUTS=3, FIRST=5, GETS=0),
    "end-three-lanes": _lanes(LANES=3, FIRST=2, NACKS=1, SHUTDOWNS=1, CRASHES=1),
}
LANES_LONG = {
    "claims": _lanes(GROW=1, PUTS=3, CONSUMERS=2, GETS=0),
    "order-deaths": _lanes(GROW=1, PRODUCERS=2, PUTS=2, GETS=0, CRASHES=1),
    "all-deaths": _lanes(PRODUCERS=2, FIRST=0, CONSUMERS=2, NACKS=1, CRASHES=1),
    "end-twice": _lanes(CONSUMERS=2, GETS=2, HELD=1, NACKS=1, SHUTDOWNS=1),
    "two-deaths": _lanes(PUTS=2, CONSUMERS=2, NACKS=1, CRASHES=2),
    "end-all-deaths": _lanes(CONSUMERS=2, SHUTDOWNS=1, CRASHES=1),
    "end-three": _lanes(PRODUCERS=0, CONSUMERS=3, HELD=1, NACKS=1, SHUTDOWNS=1, FIFO=1),
    "three-lanes-claims": _lanes(LANES=3, GROW=1, PUTS=3, FIRST=5, CONSUMERS=2, GETS=0),
}
LANE_MUTATIONS = [
    ("MOVES_AT_ONCE", LANES["order"]),
    ("MOVES_BY_HEAD", LANES["order"]),
    ("EMPTY_BEFORE_ITS_OWN", _lanes(GROW=1, PUTS=3, GETS=0)),
    ("KNOWN_LANES", _lanes(GROW=1, PUTS=2, GETS=0)),
    ("WORD_BEFORE_PROD", LANES["sleep"]),
    ("COUNTED_LATE", LANES["sleep"]),
    ("NO_SHORT_SLEEP", LANES["sleep"]),
    ("SEES_ONE_LANE", LANES["sleep-apart"]),
    ("WAKE_NOT_PASSED_ON", LANES["sleep"]),
    ("DEAD_SLEEPERS_LEFT", LANES["deaths"]),
    ("BACK_NOT_INTO_CLOSED", LANES["end-returns"]),
    ("GET_CLOSES_NOTHING", LANES["end"]),
    ("PROD_READ_ONCE", LANES["end-returns"] | {"GETS": 2}),
    ("SHUTDOWN_CLOSES_NO_LANES", LANES["end"]),
    ("SHUTDOWN_WAKES_NOBODY", _lanes(SHUTDOWNS=1)),
    ("SECOND_RETURNS", LANES["end-deaths"]),
    ("RECOVERY_CLOSES_NOTHING", _lanes(SHUTDOWNS=1, CRASHES=1)),
]
IS_LONG = os.environ.get("SHMPOOL_MODELS") == "long"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("spin"), reason="spin is not installed"),
    pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed"),
    pytest.mark.timeout(600),
]


def _search(
    model: str, options: dict[str, int], where: Path, long: bool = False, cycles: bool = False
) -> str:
    """Generates and compiles the verifier of one model in `where`. Returns its final report.

    With cycles it searches for infinite runs that break the model's claim.
    """
    defines = [f"-D{name}={value}" for name, value in options.items()]
    run = {"cwd": where, "capture_output": True, "text": True}
    made = subprocess.run(["spin", "-a", *defines, MODELS / f"{model}.pml"], **run)  # type: ignore[call-overload]
    assert 0 == made.returncode, made.stdout[-2000:]
    subprocess.run(
        [
            "gcc",
            "-O2" if long else "-O1",
            "-w",
            *([] if cycles else ["-DSAFETY", "-DCOLLAPSE"]),
            f"-DMEMLIM={LONG_MEMORY_MB if long else MEMORY_MB}",
            "-o",
            "pan",
            "pan.c",
        ],
        check=True,
        **run,
    )  # type: ignore[call-overload]
    hashed = "-w26" if long else "-w22"
    sought = ["-a", f"-m{CYCLE_DEPTH}"] if cycles else [f"-m{DEPTH}"]
    found = subprocess.run(["./pan", *sought, hashed], **run)  # type: ignore[call-overload]
    said: str = found.stdout + found.stderr
    states = re.search(r"([\d.e+]+) states, stored", said)
    seconds = re.search(r"elapsed time ([\d.]+)", said)
    assert states, said
    print(f"{model} {options}: {states[1]} states, {seconds[1] if seconds else '?'} s")
    assert "max search depth too small" not in said
    return said


def _whole(said: str) -> None:
    assert "errors: 0" in said, said
    assert "Search not completed" not in said, said
    assert "truncated" not in said, said


@pytest.mark.parametrize("name", QUEUES)
def test_queue(name: str, tmp_path: Path) -> None:
    """No crash at any step loses a buffer, duplicates it, reorders it or blocks the queue."""
    _whole(_search("queue", QUEUES[name], tmp_path))


def test_cache(tmp_path: Path) -> None:
    """A cache whose owner, thief and recoverers may die at any step keeps each buffer once."""
    _whole(_search("cache", {"OPS": 4}, tmp_path))


@pytest.mark.skipif(not IS_LONG, reason="takes minutes: SHMPOOL_MODELS=long")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("model", "options"),
    [
        pytest.param(model, options, id=f"{model}-{name}")
        for model, sizes in (("queue", LONG), ("lanes", LANES_LONG), ("topic", TOPICS_LONG))
        for name, options in sizes.items()
    ],
)
def test_long(model: str, options: dict[str, int], tmp_path: Path) -> None:
    """The same with more members, buffers, messages or deaths at once."""
    _whole(_search(model, options, tmp_path, long=True))


@pytest.mark.parametrize(("mutation", "options"), MUTATIONS, ids=lambda x: x if str(x) == x else "")
def test_queue_mutation(mutation: str, options: dict[str, int], tmp_path: Path) -> None:
    """A step of the queue or of its recovery that is left out or moved breaks an assertion."""
    said = _search("queue", options | {f"MUTATE_{mutation}": 1}, tmp_path)
    assert re.search(r"pan:1: assertion violated", said), said
    assert "errors: 1" in said


@pytest.mark.parametrize("mutation", CACHE_MUTATIONS)
def test_cache_mutation(mutation: str, tmp_path: Path) -> None:
    """A step of the cache or of its recovery that is left out or moved breaks an assertion."""
    said = _search("cache", {"OPS": 4, f"MUTATE_{mutation}": 1}, tmp_path)
    assert re.search(r"pan:1: assertion violated", said), said
    assert "errors: 1" in said


@pytest.mark.parametrize("name", SLOT)
def test_slot(name: str, tmp_path: Path) -> None:
    """A member slot has one owner at a time, counts each death once and is never lost."""
    _whole(_search("member", SLOT[name], tmp_path))


@pytest.mark.parametrize("name", ABANDONED)
def test_abandoned(name: str, tmp_path: Path) -> None:
    """A buffer without an owner reaches its queue or the pool, or is counted as waiting for it."""
    _whole(_search("abandon", ABANDONED[name], tmp_path))


@pytest.mark.parametrize("name", WARM)
def test_warm(name: str, tmp_path: Path) -> None:
    """Free buffers in two rings, also behind a suspended member: none is lost or has two owners."""
    _whole(_search("warm", WARM[name], tmp_path))


@pytest.mark.parametrize("name", LANES)
def test_lanes(name: str, tmp_path: Path) -> None:
    """Lanes keep each producer's order, no member sleeps beside a message, and all of them end."""
    _whole(_search("lanes", LANES[name], tmp_path))


@pytest.mark.parametrize("name", TURNS)
def test_turn(name: str, tmp_path: Path) -> None:
    """No member sleeps while what it waits for is available, one buffer or many."""
    _whole(_search("turn", TURNS[name], tmp_path))


def test_served(tmp_path: Path) -> None:
    """A member that waits for many gets them, although others take one after the other."""
    _whole(_search("turn", SERVED, tmp_path, cycles=True))


@pytest.mark.parametrize(
    ("model", "mutation", "options"),
    [("member", *one) for one in SLOT_MUTATIONS]
    + [("abandon", *one) for one in ABANDONED_MUTATIONS]
    + [("turn", *one) for one in TURN_MUTATIONS]
    + [("warm", *one) for one in WARM_MUTATIONS]
    + [("lanes", *one) for one in LANE_MUTATIONS],
    ids=lambda x: x if str(x) == x else "",
)
def test_mutation(model: str, mutation: str, options: dict[str, int], tmp_path: Path) -> None:
    """A step of these models that is left out or changed breaks an assertion."""
    said = _search(model, options | {f"MUTATE_{mutation}": 1}, tmp_path)
    assert re.search(r"pan:1: assertion violated", said), said
    assert "errors: 1" in said


@pytest.mark.parametrize(("mutation", "options"), SERVED_MUTATIONS, ids=lambda x: str(x)[:12])
def test_served_mutation(mutation: str, options: dict[str, int], tmp_path: Path) -> None:
    """Without a step of its turn a member that waits for many can wait without end."""
    said = _search("turn", options | {f"MUTATE_{mutation}": 1}, tmp_path, cycles=True)
    assert re.search(r"pan:1: acceptance cycle", said), said
    assert "errors: 1" in said


def test_every_mutation_is_listed() -> None:
    """Every MUTATE_ name in the models is in a list here."""
    named = {
        name
        for path in MODELS.glob("*.pml")
        for name in re.findall(r"MUTATE_(\w+)", path.read_text())
    }
    lists = [MUTATIONS, SLOT_MUTATIONS, ABANDONED_MUTATIONS, TURN_MUTATIONS, SERVED_MUTATIONS]
    lists += [WARM_MUTATIONS, LANE_MUTATIONS]
    topics = {*TOPIC_MUTATIONS, *TOPIC_LONG_MUTATIONS, "RESERVED_UNPUBLISHED"}
    listed = {name for one in lists for name, _ in one}
    assert named == listed | set(CACHE_MUTATIONS) | set(CHAIN_MUTATIONS) | topics


@pytest.mark.parametrize("name", CHAINS)
def test_chain(name: str, tmp_path: Path) -> None:
    """A chain whose members die at any step is whole or free, and no segment is left."""
    _whole(_search("chain", CHAINS[name], tmp_path))


@pytest.mark.parametrize("mutation", CHAIN_MUTATIONS)
def test_chain_mutation(mutation: str, tmp_path: Path) -> None:
    """A step of chains or of their recovery that is left out or moved breaks an assertion."""
    said = _search("chain", CHAINS["queue"] | {f"MUTATE_{mutation}": 1}, tmp_path)
    assert re.search(r"pan:1: assertion violated", said), said
    assert "errors: 1" in said


@pytest.mark.parametrize("name", TOPICS)
def test_topic(name: str, tmp_path: Path) -> None:
    """No crash at any step loses a message's buffer, frees it twice or while it is read."""
    _whole(_search("topic", TOPICS[name], tmp_path))


@pytest.mark.parametrize(
    ("mutation", "options"),
    [(name, TOPICS["two"]) for name in TOPIC_MUTATIONS]
    + [("RESERVED_UNPUBLISHED", TOPICS_LONG["publishers"])]
    + [
        pytest.param(
            name,
            TOPICS_LONG[options],
            marks=pytest.mark.skipif(not IS_LONG, reason="takes minutes: SHMPOOL_MODELS=long"),
        )
        for name, options in TOPIC_LONG_MUTATIONS.items()
    ],
    ids=lambda x: x if str(x) == x else "",
)
def test_topic_mutation(mutation: str, options: dict[str, int], tmp_path: Path) -> None:
    """A step of topics or of their recovery that is left out or moved breaks an assertion."""
    said = _search("topic", options | {f"MUTATE_{mutation}": 1}, tmp_path, long=IS_LONG)
    assert re.search(r"pan:1: assertion violated", said), said
    assert "errors: 1" in said
