# SPDX-License-Identifier: Apache-2.0
"""The live page in a real browser, with real workers.

SHMPOOL_SCREENSHOT=docs/live-page.png makes the picture of the README.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE_S, Child, StartDaemon
from test_http import PORT, address
from test_topic_figures import DECLARED, get, subscribe

import shmpool

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytest.importorskip("aiohttp", reason="shmpool[daemon] is not installed")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

POOLS = """
[pools.{0}]
buffer_size = 2048
capacity = 4096
prealloc = 2048
low_water = 4000
[pools.{0}.queue.packets]
capacity = 1024
on_death = "requeue"
[pools.{0}.queue.done]
capacity = 256
"""

PRODUCER = """
    import sys, time, random, shmpool
    pool = shmpool.Pool.attach(sys.argv[1])
    packets = pool.queue("packets")
    print("ready", flush=True)
    for wave in range(10**9):
        with __import__("contextlib").suppress(shmpool.Full, shmpool.PoolExhausted):
            packets.send_many([b"x" * 64] * random.randrange(20, 120), timeout=0)
        time.sleep(0.04)
    """

CONSUMER = """
    import sys, time, random, shmpool
    pool = shmpool.Pool.attach(sys.argv[1])
    packets, held = pool.queue("packets"), []
    while len(held) < int(sys.argv[2]):
        held.append(packets.get())
    print("ready", flush=True)
    while True:
        packets.get_many(32).free()
        time.sleep(0.02)
    """


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Headless Chromium with a profile of its own."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Debian's chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                     "--window-size=1000,640", f"--user-data-dir={tmp_path / 'profile'}",
                     "--no-first-run", "--disable-background-networking"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.slow
def test_a_death_is_shown(
    start_daemon: StartDaemon, start: type[Child], browser: Any, new_name: Any
) -> None:
    """After a worker is killed its row disappears and the recovery appears, without a reload."""
    name = f"rx-{os.getpid()}" if picture() else new_name()
    daemon = start_daemon(POOLS.format(name), *PORT, options="interval = 0.25")
    producer = start(PRODUCER, name)
    assert "ready" == producer.line()
    workers = [start(CONSUMER, name, held) for held in (7, 150, 40)]
    assert ["ready"] * 3 == [worker.line() for worker in workers]

    browser.get("http://{}:{}/".format(*address(daemon)))
    wait = WebDriverWait(browser, DEADLINE_S, poll_frequency=0.05)

    def texts(selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        found: list[str] = browser.execute_script(script, selector)
        return found

    def holders() -> dict[int, int]:
        rows = browser.execute_script(
            "return [...document.querySelectorAll('.members tbody tr')].map("
            "row => [...row.children].map(cell => cell.textContent))"
        )
        return {int(row[1]): int(row[3]) for row in rows}

    wait.until(lambda _: {worker.pid for worker in workers} <= holders().keys())
    wait.until(lambda _: holders()[workers[1].pid] >= 150)
    assert [name] == texts(".pool h2")
    assert ["packets", "done"] == texts("figcaption b")
    assert [] == texts("#events li")
    legend = " ".join(texts(".legend li"))
    for state in ("free", "cached", "held", "queued", "uncreated"):
        assert state in legend
    wait.until(lambda _: texts(".alarms li"))  # the mark is chosen so that it is exceeded
    script = "return document.querySelector('polyline').getAttribute('points').split(' ').length"
    wait.until(lambda _: browser.execute_script(script) >= (40 if picture() else 3))

    survivors = (producer, workers[0], workers[2])
    for survivor in survivors:
        os.kill(survivor.pid, signal.SIGSTOP)  # so that the daemon recovers, not a survivor
    workers[1].kill()
    wait.until(lambda _: workers[1].pid not in holders())
    wait.until(lambda _: texts("#events li"))
    (event,) = texts("#events li")
    assert f"{name}: 1 dead member, " in event
    assert "requeued" in event
    for survivor in survivors:
        os.kill(survivor.pid, signal.SIGCONT)
    wait.until(lambda _: "1 recovery" in texts(".facts")[0])

    severe = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert [] == [line for line in severe if "favicon" not in line["message"]]
    if picture():
        wait.until(lambda _: browser.execute_script(script) >= 60)
        browser.save_screenshot(picture())
        shmpool.Pool.unlink(name)


@pytest.mark.slow
def test_topics_are_shown(
    start_daemon: StartDaemon, start: type[Child], browser: Any, pool_name: str
) -> None:
    """A topic's rate, and a row for each subscriber, which goes when it is killed. Names are
    text."""
    daemon = start_daemon(DECLARED.format(pool_name), *PORT, options="interval = 0.25")
    killed = subscribe(start, pool_name, "block", 2, "<b>x</b>")
    slow = subscribe(start, pool_name)
    browser.get("http://{}:{}/".format(*address(daemon)))
    wait = WebDriverWait(browser, DEADLINE_S, poll_frequency=0.05)

    def subscribers() -> list[list[str]]:
        found: list[list[str]] = browser.execute_script(
            "return [...document.querySelectorAll('.subscribers tbody tr')].map("
            "row => [...row.children].map(cell => cell.textContent))"
        )
        return found

    def topic() -> str:
        script = "return document.querySelector('figcaption').textContent"
        found: str = browser.execute_script(script)
        return found

    first = ["ticks", "0", str(killed.pid), "<b>x</b>", "block"]
    second = ["ticks", "1", str(slow.pid), "viewer", "drop-oldest"]
    wait.until(
        lambda _: (
            [[*first, "0", "0", "0", "alive"], [*second, "0", "0", "0", "alive"]] == subscribers()
        )
    )
    assert topic().startswith("ticks0 published/s, keeps 0 of 8")
    with shmpool.Pool.attach(pool_name) as pool:
        publisher = pool.topic("ticks")

        def published() -> bool:
            """Publishes one message after the other, so that there is a rate."""
            publisher.send(b"x", timeout=DEADLINE_S)
            get(killed, 1)
            get(slow, 1)
            return "ticks0" not in topic() and topic().endswith("keeps 8 of 8")

        wait.until(lambda _: published())
        publisher.send(b"x")
        wait.until(
            lambda _: (
                [[*first, "1", "0", "2", "alive"], [*second, "1", "0", "0", "alive"]]
                == subscribers()
            )
        )
        killed.kill()
        wait.until(lambda _: [[*second, "1", "0", "0", "alive"]] == subscribers())
    severe = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert [] == [line for line in severe if "favicon" not in line["message"]]


def picture() -> str | None:
    return os.environ.get("SHMPOOL_SCREENSHOT")
