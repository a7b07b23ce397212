"""A gateway as it is operated: a real Prometheus with the dashboard's queries and the alert rules
of `deploy`, and settings that change while it serves."""

import json
import re
import shutil
import signal
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from feast import FeatureStore
from figures import scrape
from processes import Process, eventually

from hotfeast.clients import FeatureClient, HotfeastError
from hotfeast.server.local_redis import LocalRedis, free_port
from hotfeast.server.security.tokens import Token, add_token, hash_of, new_token

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROMETHEUS = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None, reason="prometheus is not installed (apt-get install prometheus)"
)
SETTINGS = """log_format: json
log_level: error
metrics: 127.0.0.1:0
metrics_token_file: tokens.yaml
max_entities: 100
"""
# Panels of what this gateway does not have; `test_page.py` and `test_deploy.py` know their series.
_WITHOUT = {
    "Refused, of all calls", "Stale and repeated, of pushed rows", "Callers refused",
    "Certificates end", "Lag of consumers", "Consumed entries",
}  # fmt: skip


@dataclass
class Operated:
    """A gateway with a file of settings and a Redis of its own."""

    process: Process
    file: Path
    redis: LocalRedis
    figures: str
    token: str
    address: str = ""

    @property
    def logged(self) -> list[dict[str, Any]]:
        """What is logged as JSON."""
        return [json.loads(line) for line in list(self.process.errors) if line.startswith("{")]

    def page(self, path: str) -> tuple[int, str]:
        """Status and text of a page beside the figures."""
        try:
            with urllib.request.urlopen(
                self.figures.replace("/metrics", path), timeout=10
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def operated(
    market_store: FeatureStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operated]:
    file = tmp_path_factory.mktemp("settings") / "hotfeast.yaml"
    file.write_text(SETTINGS)
    token = new_token()
    add_token(file.with_name("tokens.yaml"), Token(name="prometheus", sha256=hash_of(token)))
    with LocalRedis() as redis:
        options = ("--config", str(file), "--redis", redis.url, "--cache-mb", "1")
        with Process(Path(market_store.repo_path), *options) as process:
            url = process.wait_for("metrics on").split(" on ")[1]
            made = Operated(process, file, redis, url, token)
            assert made.page("/metrics")[0] == 401
            # Alive before it is ready.
            assert made.page("/live") == (200, "liveness: ok\n")
            assert made.page("/ready") == (503, "readiness: no worker is ready\n")
            made.address = process.address()
            assert made.page("/ready") == (200, "readiness: ok\n")
            yield made
            assert process.stop() == 0


class Prometheus:
    """A Prometheus that scrapes a gateway once a second, with the rules of `deploy` sped up."""

    def __init__(self, folder: Path, figures: str, token: str) -> None:
        rules = (DEPLOY / "prometheus" / "hotfeast-alerts.yml").read_text()
        rules = re.sub(r"\bfor: \w+", "for: 0s", rules)
        (folder / "rules.yml").write_text(re.sub(r"\[\d+m\]", "[5s]", rules))
        document = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        document["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        document["rule_files"] = ["rules.yml"]
        scraped, consumers = document["scrape_configs"]
        scraped["authorization"] = {"credentials": token}
        scraped["static_configs"] = [{"targets": [urllib.parse.urlsplit(figures).netloc]}]
        # Nobody consumes here.
        consumers["static_configs"] = []
        (folder / "prometheus.yml").write_text(yaml.safe_dump(document))
        self.url = f"http://127.0.0.1:{free_port()}"
        self._process = subprocess.Popen(
            [
                PROMETHEUS or "",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--log.level=error",
            ]
        )

    def ask(self, path: str, **arguments: str) -> Any:
        """What its API has at a path."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                # It starts.
                raise
            raise ValueError(f"{arguments}: {error.read().decode()}") from None

    def firing(self) -> set[str]:
        """The alerts that fire."""
        with suppress(OSError):
            alerts = self.ask("alerts")["alerts"]
            return {a["labels"]["alertname"] for a in alerts if a["state"] == "firing"}
        return set()

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(30)


def queries() -> list[tuple[str, str]]:
    """The queries of the dashboard by panel, with what Grafana would put in."""
    dashboard = json.loads((DEPLOY / "grafana" / "hotfeast.json").read_text())
    names = {each["name"] for each in dashboard["templating"]["list"]}
    found = []
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$__rate_interval", "10s")
            for name in sorted(names):
                text = text.replace(f"${name}", ".*")
            assert "$" not in text
            found.append((panel["title"], text))
    for each in dashboard["templating"]["list"]:
        if each["type"] == "query":
            metric, _, _ = each["definition"].removeprefix("label_values(").partition(",")
            found.append((each["name"], metric.partition("{")[0]))
    return found


@needs_prometheus
def test_the_dashboard_and_the_alerts_of_a_gateway(operated: Operated, tmp_path: Path) -> None:
    prometheus = Prometheus(tmp_path, operated.figures, operated.token)
    done = threading.Event()

    def ask() -> None:
        """All that the dashboard shows, over and over."""
        rows = {
            "location_id": [7],
            "temperature": [20.5],
            "event_timestamp": [datetime.now(UTC)],
        }
        asked: list[tuple[str | list[str], dict[str, Any], dict[str, Any] | None]] = [
            (["location_stats:temperature"], {"location_id": [7, 8]}, None),
            ("nothing", {"user_id": [1]}, None),
            ("part", {"user_id": list(range(101))}, None),
            ("cart_service", {"user_id": [1]}, {"cart_value": [1.0]}),
        ]
        with FeatureClient(operated.address, retries=None) as client:
            while not done.is_set():
                with suppress(HotfeastError):
                    client.push(rows, feature_view="location_stats")
                for service, entities, request in asked:
                    with suppress(HotfeastError):
                        client.get_online_features(service, entities, request=request)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        missing: list[tuple[str, str]] = []

        def all_there() -> bool:
            with suppress(OSError):
                found = [(q, prometheus.ask("query", query=q[1])["result"]) for q in queries()]
                missing[:] = [q for q, series in found if not series and q[0] not in _WITHOUT]
                return not missing
            return False

        try:
            eventually(all_there)
        except AssertionError:
            raise AssertionError(f"no series for {missing}") from None
        loaded = {
            rule["name"] for group in prometheus.ask("rules")["groups"] for rule in group["rules"]
        }
        assert len(loaded) == 29
        # Two in a hundred of what is asked is not there, which is the asker's fault.
        assert prometheus.firing() == set()
        operated.redis.kill()
        eventually(lambda: prometheus.firing() >= {"HotfeastRedisDown", "HotfeastErrors"})
        operated.redis.start()
        eventually(lambda: prometheus.firing() == set())
    finally:
        done.set()
        asking.join()
        prometheus.stop()


def test_settings_change_while_a_gateway_serves(operated: Operated) -> None:
    process, file = operated.process, operated.file
    url, token = operated.figures, operated.token
    (first,) = process.workers()
    assert scrape(url, token)["hotfeast_config_valid"] == 1
    before = len(operated.logged)
    # What counts at once is told to the workers that there are.
    file.write_text(SETTINGS.replace("error", "info"))
    eventually(lambda: len(operated.logged) > before)
    told = operated.logged[before]
    assert (told["level"], told["logger"]) == ("info", "hotfeast.server.workers")
    assert (told["message"], told["pid"]) == (
        "settings have changed: log_level", process.process.pid,
    )  # fmt: skip
    # What is not valid is told, and changes nothing.
    file.write_text("threads: none\n")
    eventually(lambda: scrape(url, token)["hotfeast_config_valid"] == 0)
    assert f"{file}:1: threads: 'none'" in operated.logged[-1]["message"]
    # What needs new workers has them started; what needs a restart is told to.
    file.write_text(SETTINGS + "status_mode: feast\nlog_levels: hotfeast=info\nworkers: 2\n")
    process.process.send_signal(signal.SIGHUP)
    process.wait_for("reload: done", timeout=90)
    assert process.workers().isdisjoint({first})
    assert len(process.workers()) == 1
    assert scrape(url, token)["hotfeast_config_valid"] == 1
    messages = [line["message"] for line in operated.logged]
    assert "settings that count after a restart have changed: workers" in messages
    with FeatureClient(operated.address) as client:
        assert client.serving_info().status_mode == "feast"
    # They log as they are told, with their number.
    (worker,) = process.workers()
    told_by = {line["worker"] for line in operated.logged if line["pid"] == worker}
    assert told_by == {1}
    # Settings that no worker starts with are not kept.
    file.write_text(SETTINGS + "aliases: nowhere.yaml\n")
    eventually(lambda: scrape(url, token)["hotfeast_config_valid"] == 0, timeout=90)
    with FeatureClient(operated.address) as client:
        assert client.serving_info().status_mode == "feast"
