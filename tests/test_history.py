# SPDX-License-Identifier: Apache-2.0
"""The last hour of queues and topics, by a clock of the test's own."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import StartDaemon
from test_http import PORT, events, get
from test_topic_figures import DECLARED

import shmpool
from shmpool.service.history import SERIES_MAX, VALUES, History


def queues(**depths: int) -> Any:
    return [SimpleNamespace(name=name, depth=depth) for name, depth in depths.items()]


def topics(**published: int) -> Any:
    return [SimpleNamespace(name=name, published=n) for name, n in published.items()]


def test_a_step_has_the_highest_depth() -> None:
    history = History()
    for now, depth in ((100.0, 3), (104.0, 9), (109.9, 1), (110.0, 2)):
        history.add(now, queues(work=depth), [])
    assert {"step": 10.0, "queues": {"work": [9, 2]}, "topics": {}} == history.listed()


def test_a_topic_has_the_highest_rate() -> None:
    history = History()
    for now, published in ((100.0, 1000), (101.0, 1050), (103.0, 1051), (111.0, 1051)):
        history.add(now, [], topics(ticks=published))
    assert {"ticks": [50, 0]} == history.listed()["topics"]


def test_what_was_not_measured_is_not_known() -> None:
    history = History()
    assert {"step": 10.0, "queues": {}, "topics": {}} == history.listed()
    history.add(100.0, queues(a=1), [])
    history.add(130.0, queues(a=2, b=5), [])
    assert {"a": [1, None, None, 2], "b": [None, None, None, 5]} == history.listed()["queues"]


def test_an_hour_is_kept() -> None:
    history = History()
    for step in range(2 * VALUES + 7):
        history.add(10.0 * step, queues(work=step), [])
    assert list(range(VALUES + 7, 2 * VALUES + 7)) == history.listed()["queues"]["work"]
    history.add(10.0 * 10**6, queues(work=1), [])  # the daemon was suspended for months
    assert [None] * (VALUES - 1) + [1] == history.listed()["queues"]["work"]


def test_many_queues_take_a_bounded_memory() -> None:
    history = History()
    for _ in range(3):
        history.add(0.0, queues(**{f"q{i}": i for i in range(1000)}), topics(t=1))
    assert SERIES_MAX == len(history.listed()["queues"])


@pytest.mark.slow
def test_the_daemon_keeps_it(start_daemon: StartDaemon, pool_name: str) -> None:
    more = f"[pools.{pool_name}.queue.work]\ncapacity = 16\n"
    daemon = start_daemon(DECLARED.format(pool_name) + more, *PORT, options="interval = 0.1")
    with shmpool.Pool.attach(pool_name) as pool:
        pool.queue("work").send_many([b"x"] * 5)
        for kind, _ in events(daemon):  # at each interval
            assert "pools" == kind
            status, _, text = get(daemon, f"/api/v1/pools/{pool_name}/history")
            past = json.loads(text)
            if past["queues"].get("work", [None])[-1] == 5:
                break
    assert (200, pool_name, 10.0) == (status, past["pool"], past["step"])
    assert ["ticks"] == list(past["topics"])
    assert 404 == get(daemon, "/api/v1/pools/none/history")[0]
