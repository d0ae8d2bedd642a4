# SPDX-License-Identifier: Apache-2.0
"""packaging/alerts.yml and packaging/grafana.json in a real Prometheus that scrapes the daemon."""

import json
import re
import shutil
import signal
import subprocess
import textwrap
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE_S, DaemonProcess, Eventually, MakePool
from test_http import PORT, address

ROOT = Path(__file__).resolve().parent.parent
ALERTS = ROOT / "packaging" / "alerts.yml"
BOARD = json.loads((ROOT / "packaging" / "grafana.json").read_text())
POOL = "[pools.{}]\nbuffer_size = 64\ncapacity = 64\nmembers = 8\n"
Ask = Callable[..., Any]


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def check(*command: str, text: str = "", folder: Path) -> None:
    (folder / "tests.yml").write_text(text)
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_rules(tmp_path: Path) -> None:
    """promtool accepts every alert, and each has a name, a severity and what to do."""
    check(tool("promtool"), "check", "rules", str(ALERTS), folder=tmp_path)
    text = ALERTS.read_text()
    names = re.findall(r"- alert: (\w+)", text)
    assert len(set(names)) == len(names) >= 10
    for key in ("severity:", "summary:", "description:", "expr:"):
        assert len(names) == text.count(key)
    page = (ROOT / "docs" / "how-to" / "monitoring.md").read_text()
    assert names == re.findall(r"^\| (Shmpool\w+) \|", page, re.MULTILINE)


LINK = '{pool="p",link="to-b",direction="out"}'
# An alert, series that raise it, and the same at which it stays silent.
SERIES = [
    ("ShmpoolDaemonDown", 'up{job="shmpool"}', "0x20", "1x20"),
    ("ShmpoolAlarm", 'shmpool_alarms{pool="p",alarm="queue-full"}', "1x20", "0x20"),
    ("ShmpoolAllocationsFail", 'shmpool_ops_total{pool="p",op="exhausted"}', "0+5x20", "7x20"),
    ("ShmpoolQueueRefuses", 'shmpool_queue_refused_total{pool="p"}', "0+5x20", "7x20"),
    ("ShmpoolMembersDie", 'shmpool_recovered_members_total{pool="p"}', "0+1x20", "0 1x20"),
    ("ShmpoolMessagesLostWithConsumers", 'shmpool_queue_dropped_total{pool="p"}', "0+1x20", "9x20"),
    ("ShmpoolSubscriberMisses", 'shmpool_subscriber_gaps_total{policy="drop-oldest"}', "0+9x20",
     "9x20"),
    ("ShmpoolLinkDown", f"shmpool_link_up{LINK}", "1 0x20", "1 0 1x20"),
    ("ShmpoolPoolRefused", "shmpool_refused_pools", "1x20", "0x20"),
]  # fmt: skip


@pytest.mark.parametrize(("alert", "series", "bad", "good"), SERIES)
def test_an_alert_is_raised(alert: str, series: str, bad: str, good: str, tmp_path: Path) -> None:
    """Prometheus raises it for the bad figures and no alert for the good ones."""
    command = (tool("promtool"), "test", "rules", "tests.yml")
    text = """
    rule_files: [{rules}]
    evaluation_interval: 1m
    tests:
      - interval: 1m
        input_series: [{{series: '{series}', values: "{values}"}}]
        promql_expr_test:
          - expr: sum by (alertname) (ALERTS{{alertstate="firing"}})
            eval_time: 15m
            exp_samples: [{expected}]
    """
    fires = f"{{labels: '{{alertname=\"{alert}\"}}', value: 1}}"
    for values, expected in ((bad, fires), (good, "")):
        filled = text.format(rules=ALERTS, series=series, values=values, expected=expected)
        check(*command, text=textwrap.dedent(filled), folder=tmp_path)


@pytest.mark.parametrize(
    ("oldest", "up", "raised"),
    [("0+60x20", "1x20", True), ("2x20", "1x20", False), ("0+60x20", "0x20", False)],
)
def test_a_link_that_lags(oldest: str, up: str, raised: bool, tmp_path: Path) -> None:
    """A burst that waits raises it while the link is up; one that is down has its own alert."""
    sample = "{labels: '{alertname=\"ShmpoolLinkLags\"}', value: 1}"
    text = f"""
    rule_files: [{ALERTS}]
    evaluation_interval: 1m
    tests:
      - interval: 1m
        input_series:
          - {{series: 'shmpool_link_oldest_seconds{LINK}', values: "{oldest}"}}
          - {{series: 'shmpool_link_up{LINK}', values: "{up}"}}
        promql_expr_test:
          - expr: sum by (alertname) (ALERTS{{alertname="ShmpoolLinkLags",alertstate="firing"}})
            eval_time: 15m
            exp_samples: [{sample if raised else ""}]
    """
    command = (tool("promtool"), "test", "rules", "tests.yml")
    check(*command, text=textwrap.dedent(text), folder=tmp_path)


def test_the_board_is_a_board() -> None:
    """It has what Grafana's schema requires of a dashboard: panels of 24 columns that do not
    overlap, with numbers of their own, a source, and targets with letters of their own."""
    assert BOARD["schemaVersion"] >= 36
    assert {"datasource", "pool"} == {one["name"] for one in BOARD["templating"]["list"]}
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("stat", "table", "timeseries")
        assert panel["description"].endswith(".")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters) >= 1
    units = {
        panel["fieldConfig"]["defaults"]["unit"]
        for panel in BOARD["panels"]
        if "fieldConfig" in panel
    }
    assert units <= {"short", "bytes", "Bps", "ops", "s", "percentunit"}


@pytest.fixture
def scraping(tmp_path: Path) -> Iterator[Callable[[DaemonProcess], Ask]]:
    """scraping(daemon): a Prometheus with the alerts that scrapes it. Returns a function that asks
    its API."""
    servers: list[subprocess.Popen[bytes]] = []

    def begin(daemon: DaemonProcess) -> Ask:
        config = tmp_path / "prometheus.yml"
        config.write_text(
            f"rule_files: [{ALERTS}]\n"
            "scrape_configs:\n"
            "  - job_name: shmpool\n"
            "    scrape_interval: 200ms\n"
            "    scrape_timeout: 200ms\n"
            "    static_configs: [{{targets: ['{}:{}']}}]\n".format(*address(daemon))
        )
        log = tmp_path / "prometheus.log"
        with log.open("wb") as file:
            servers.append(
                subprocess.Popen(
                    [
                        tool("prometheus"), f"--config.file={config}",
                        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                        "--web.listen-address=127.0.0.1:0",
                    ],
                    stderr=file,
                )
            )  # fmt: skip

        def ask(path: str, **query: str) -> Any:
            found = re.search(r'msg="Listening on" address=(\S+)', log.read_text())
            if found is None:
                assert servers[-1].poll() is None, log.read_text()
                return None
            url = f"http://{found[1]}/api/v1/{path}?{urllib.parse.urlencode(query)}"
            try:
                with urllib.request.urlopen(url) as answer:
                    said = json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503:  # it is starting
                    raise
                return None
            except ConnectionError:
                return None
            assert said["status"] == "success", said
            return said["data"]

        return ask

    yield begin
    for server in servers:
        server.send_signal(signal.SIGKILL)
        server.wait()


@pytest.mark.slow
def test_a_prometheus_scrapes_the_daemon(
    start_daemon: Callable[..., DaemonProcess],
    scraping: Callable[[DaemonProcess], Ask],
    make_pool: MakePool,
    eventually: Eventually,
) -> None:
    """It loads the alerts, and each query of the board and of the alerts finds what it asks for,
    with a link whose other side is not there."""
    tool("prometheus")
    pytest.importorskip("zmq", reason="shmpool[bridge] is not installed")
    with make_pool(capacity=64) as pool:
        work = pool.create_queue("work", capacity=8, on_death="requeue")
        topic = pool.create_topic("ticks", depth=8)
        with topic.subscribe():
            work.send(b"packet")
            link = f'[[link]]\nfrom = "{pool.name}/work"\nto = "zmq://127.0.0.1:9/there/work"\n'
            ask = scraping(start_daemon(link, *PORT))
            selector = f'{{pool="{pool.name}"}}'
            eventually(
                lambda: (ask("query", query=f"shmpool_members{selector}") or {}).get("result")
            )
            groups = ask("rules")["groups"]
            assert [12] == [len(group["rules"]) for group in groups]
            assert {"ok", "unknown"} >= {rule["health"] for rule in groups[0]["rules"]}
            for rule in groups[0]["rules"]:
                ask("query", query=rule["query"])
            for panel in BOARD["panels"]:
                for target in panel.get("targets", ()):
                    query = target["expr"].replace("$__rate_interval", "1m")
                    query = query.replace('pool=~"$pool"', f'pool="{pool.name}"')
                    eventually(lambda query=query: ask("query", query=query) is not None)
                    named = re.findall(r"\bshmpool_\w+", query)
                    for name in named:
                        eventually(lambda name=name: ask("query", query=name + selector)["result"])


def test_packaged_scrape_settings(tmp_path: Path) -> None:
    """The page's example is a configuration that Prometheus accepts."""
    page = (ROOT / "docs" / "how-to" / "monitoring.md").read_text()
    (text,) = re.findall(r"^```yaml\n(.+?)^```", page, re.MULTILINE | re.DOTALL)
    shutil.copy(ALERTS, tmp_path / "shmpool-alerts.yml")
    (tmp_path / "prometheus.yml").write_text(text)
    check(tool("promtool"), "check", "config", "prometheus.yml", folder=tmp_path)
