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
from tests.suspending import suspend

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytest.importorskip("aiohttp", reason="shmpool[daemon] is not installed")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
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
        suspend(survivor.pid)  # so that the daemon recovers, not a survivor
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


SIZES = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1440, 900)}

AXE = """
    const done = arguments[arguments.length - 1];
    axe.run().then(found => done(found.violations.map(
        one => one.id + ": " + one.nodes.map(node => node.html).join(" "))));
    """


@pytest.mark.slow
def test_everybody_can_use_it(
    start_daemon: StartDaemon, start: type[Child], browser: Any, new_name: Any, tmp_path: Path
) -> None:
    """axe-core finds nothing, and nothing is wider than the screen: on a phone, a tablet and a
    desktop, light and dark."""
    axe = pytest.importorskip("axe_core_python.selenium", reason="axe-core is not installed")
    topics, queues = new_name(), new_name()
    config = DECLARED.format(topics) + POOLS.format(queues)
    daemon = start_daemon(config, *PORT, options="interval = 0.25")
    subscribe(start, topics, "block", 2, "viewer")
    workers = [start(PRODUCER, queues), start(CONSUMER, queues, 150)]
    assert ["ready"] * 2 == [worker.line() for worker in workers]
    browser.get("http://{}:{}/".format(*address(daemon)))
    wait = WebDriverWait(browser, DEADLINE_S, poll_frequency=0.05)
    browser.execute_script(Path(axe.__file__).with_name("axe.min.js").read_text())
    pictures = Path(os.environ.get("SHMPOOL_PICTURES", tmp_path))
    for size, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
            shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
            drawn = "return document.querySelectorAll('.members tbody tr').length >= 1 " \
                "&& document.querySelectorAll('.alarms li').length >= 1"  # fmt: skip
            wait.until(lambda _, script=drawn: browser.execute_script(script))
            browser.save_screenshot(str(pictures / f"{size}-{scheme}.png"))
            assert [] == browser.execute_async_script(AXE), (size, scheme)
            wider = "return document.documentElement.scrollWidth - window.innerWidth"
            assert 0 >= browser.execute_script(wider), (size, scheme)


@pytest.mark.slow
def test_with_a_keyboard(start_daemon: StartDaemon, browser: Any, new_name: Any) -> None:
    """The filter, the choice of a range and the lists of members are reached and used."""
    names = sorted((new_name(), new_name()))
    config = "".join(POOLS.format(name) for name in names)
    daemon = start_daemon(config, *PORT, options="interval = 0.25")
    with shmpool.Pool.attach(names[0]) as pool, pool.alloc():
        pool.queue("done").send_many([b"x"] * 5)
        browser.get("http://{}:{}/".format(*address(daemon)))
        wait = WebDriverWait(browser, DEADLINE_S, poll_frequency=0.05)
        shown = "return [...document.querySelectorAll('.pool:not([hidden]) h2')].map(" \
            "e => e.textContent)"  # fmt: skip
        wait.until(lambda _: names == browser.execute_script(shown))
        press = ActionChains(browser)
        press.send_keys(Keys.TAB, names[0], Keys.TAB, Keys.ARROW_RIGHT).perform()
        assert names[:1] == browser.execute_script(shown)
        label = "return [...document.querySelectorAll('svg')].map(e => e.ariaLabel || " \
            "e.getAttribute('aria-label'))"  # fmt: skip
        wanted = "depth of done: 5 of 256, at most 5 in the last hour"
        wait.until(lambda _: wanted in browser.execute_script(label))
        members = "return document.querySelector('.pool:not([hidden]) details').open"
        assert browser.execute_script(members)
        focused = "return document.activeElement.tagName"
        while browser.execute_script(focused) != "SUMMARY":
            ActionChains(browser).send_keys(Keys.TAB).perform()
        ActionChains(browser).send_keys(Keys.ENTER).perform()
        wait.until(lambda _: not browser.execute_script(members))


MEMBERS = """
    import sys, threading, shmpool
    pools = [shmpool.Pool.attach(name) for name in sys.argv[1:]]
    there = threading.Barrier(11)
    def hold():
        held = [pool.alloc() for pool in pools]
        there.wait()
        threading.Event().wait()
    for _ in range(10):
        threading.Thread(target=hold, daemon=True).start()
    there.wait()
    print("ready", flush=True)
    sys.stdin.read()
    """

# Which cards are changed while three events are drawn.
CHANGED = """
    const done = arguments[arguments.length - 1], changed = new Set();
    let left = 3;
    const watch = new MutationObserver(changes => {
        for (const change of changes) {
            const at = change.target.nodeType === 1 ? change.target : change.target.parentElement;
            const card = at && at.closest(".pool");
            if (card) changed.add(card.dataset.pool);
            if (at && at.id === "clock" && !--left) { watch.disconnect(); done([...changed]); }
        }
    });
    watch.observe(document.body, {subtree: true, childList: true, characterData: true,
        attributes: true});
    """


# Draws 2,000 recoveries, each twice, as a new connection makes it.
FLOOD = """
    const figures = {seconds: 0, members: 1, buffers: 1, requeued: 0, dead_lettered: 0};
    for (let i = 0; i < 2000; i++)
        for (let twice = 0; twice < 2; twice++)
            drawRecovery({pool: `gone-${i % 40}`, number: i + 1, at: i, ...figures});
    if (newest.size !== 40) throw new Error(`${newest.size} are kept`);
    const last = [...document.querySelectorAll('#events li')].slice(0, 2);
    if (last[0].textContent === last[1].textContent) throw new Error("one was drawn twice");
    """


@pytest.mark.slow
def test_a_hundred_pools_cost_a_screenful(
    start_daemon: StartDaemon, start: type[Child], browser: Any, new_name: Any
) -> None:
    """1,000 members in 100 pools: all pools are there, and those that cannot be seen are not
    drawn."""
    names = sorted(new_name() for _ in range(100))
    small = "[pools.{}]\nbuffer_size = 64\ncapacity = 64\nqueue.work.capacity = 8\n"
    config = "".join(small.format(name) for name in names)
    daemon = start_daemon(config, *PORT, options="interval = 0.5")
    holder = start(MEMBERS, *names)
    assert "ready" == holder.line()
    browser.set_script_timeout(DEADLINE_S)
    browser.get("http://{}:{}/".format(*address(daemon)))
    wait = WebDriverWait(browser, DEADLINE_S, poll_frequency=0.05)
    summary = "return document.getElementById('summary').textContent"
    wait.until(lambda _: "100 pools, 1,000 members" in browser.execute_script(summary))
    for name in names:  # each pool's figures change
        with shmpool.Pool.attach(name) as pool:
            pool.queue("work").send(b"x")
    changed = set(browser.execute_async_script(CHANGED))
    assert 1 <= len(changed) <= 10, sorted(changed)
    rows = "return document.querySelectorAll('.members tbody tr').length"
    assert 10 <= browser.execute_script(rows) <= 100
    browser.execute_script("document.querySelector('.pool:last-of-type').scrollIntoView()")
    drawn = "return [...document.querySelectorAll('.pool:last-of-type tbody tr')].length"
    wait.until(lambda _: browser.execute_script(drawn) == 10)
    shown = "return document.querySelector('.pool:last-of-type').dataset.pool"
    assert names[-1] == browser.execute_script(shown)
    browser.execute_script(FLOOD)  # recoveries of pools that come and go
    lines = "return document.querySelectorAll('#events li').length"
    assert 50 == browser.execute_script(lines)
    wait.until(lambda _: browser.execute_script("return newest.size") == 0)


def picture() -> str | None:
    return os.environ.get("SHMPOOL_SCREENSHOT")
