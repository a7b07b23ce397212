"""The page of a running gateway, and the same from its folder."""

import json
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore
from figures import scrape
from processes import Process, eventually, run_cli

from hotfeast.clients import FeatureClient
from hotfeast.server.monitoring.alerts import Alert, State
from hotfeast.server.monitoring.collector import read_collected
from hotfeast.server.monitoring.report.catalogue import Catalogue
from hotfeast.server.monitoring.report.catalogue_build import catalogue_of
from hotfeast.server.monitoring.report.gateway_reports import GatewayReports, alert_rows
from hotfeast.server.monitoring.rules import Metric
from hotfeast.server.registry import read_definitions

RULES_VALID = 'hotfeast_monitoring_input_valid{input="rules"}'


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def test_a_gateway_serves_its_page(market_store: FeatureStore, tmp_path: Path) -> None:
    repo = Path(market_store.repo_path)
    folder = tmp_path / "seen"
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: []")
    options = (
        *("--monitor", "--monitor-rate", "1", "--monitor-dir", str(folder)),
        *("--alert-rules", str(rules)),
    )
    with Process(repo, "--workers", "2", "--metrics", "127.0.0.1:0", *options) as process:
        url = process.wait_for("features on").split(" on ")[1]
        with FeatureClient(process.address()) as client:
            for user in range(1, 6):
                client.get_online_features("part", {"user_id": [user]})
        assert scrape(f"{url}metrics")[RULES_VALID] == 1
        # The rules before it count on, and whoever looks at the figures sees it.
        rules.write_text("rules: [{name: nulls, above: much}]")

        def rows() -> int:
            found = get(f"{url}api/report.json")["features"]
            spend = next(f for f in found if f["name"] == "spend")
            return spend["figures"].get("served", {}).get("rows", 0)  # type: ignore[no-any-return]

        eventually(lambda: rows() == 5, timeout=90)
        with urllib.request.urlopen(url, timeout=30) as page:
            assert b"<html" in page.read()
        view = next(f["view"] for f in get(f"{url}api/report.json")["features"]
                    if f["name"] == "spend")  # fmt: skip
        details = get(f"{url}api/feature.json?view={view}&feature=spend")
        assert details["readers"][0]["rows"] == 5
        with pytest.raises(urllib.error.HTTPError) as error:
            get(f"{url}api/feature.json?view={view}&feature=unknown")
        assert error.value.code == 404
        # The figures for Prometheus are where they were.
        with urllib.request.urlopen(f"{url}metrics", timeout=30) as figures:
            assert b"hotfeast_feature_rows" in figures.read()
        eventually(lambda: scrape(f"{url}metrics")[RULES_VALID] == 0, timeout=90)
        assert any("the rules before: " in line for line in process.errors)
        assert process.stop() == 0
    assert read_collected(folder).definitions == read_definitions(market_store).fingerprint
    shown = run_cli("monitor", "show", "--repo", str(repo), "--monitor-dir", str(folder))
    assert shown.returncode == 0, shown.stderr
    assert "spend" in shown.stdout
    html = tmp_path / "report.html"
    made = run_cli(
        *("monitor", "report", "--repo", str(repo)),
        *("--monitor-dir", str(folder), "--html", str(html)),
    )
    assert made.returncode == 0, made.stderr
    assert "spend" in html.read_text()


def test_what_to_show_must_be_said(market_store: FeatureStore, tmp_path: Path) -> None:
    repo = ("--repo", str(market_store.repo_path))
    missing = tmp_path / "missing"
    for options, words in (
        ((), "--monitor-dir, --logged or --sample"),
        (("--monitor-dir", str(missing)), "there is no folder"),
        (("--monitor-dir", str(missing), "--logged", str(missing)), "exclude each other"),
    ):
        done = run_cli("monitor", "show", *repo, *options)
        assert done.returncode == 2
        assert words in done.stderr


ALERT = Alert(
    fingerprint="f", rule="lowest", severity="info", state=State.FIRING, view="", feature="spend",
    channel="served", metric=Metric.MINIMUM, value=-3.0, threshold=0.0, since=1.0, fired=2.0,
    resolved=None, seen=3.0, owner="", summary="minimum is -3.0", description="",
)  # fmt: skip


def with_alert(store: FeatureStore) -> tuple[Catalogue, Alert]:
    catalogue = catalogue_of(store)
    view = next(v.name for v in catalogue.views.values() if v.feature("spend"))
    return catalogue, replace(ALERT, view=view)


def test_alerts_that_fire_are_shown(market_store: FeatureStore) -> None:
    catalogue, alert = with_alert(market_store)
    pending = replace(alert, state=State.PENDING, fired=None)
    (row,) = alert_rows([alert, pending], catalogue)
    assert (row.view, row.feature, row.level) == (alert.view, "spend", "warning")
    assert row.message == "minimum is -3.0"
    about_view = replace(alert, feature="", metric=Metric.AGE, severity="critical")
    (row,) = alert_rows([about_view], catalogue)
    assert (row.feature, row.level) == (None, "critical")


def test_a_report_is_made_again_once_it_is_old(market_store: FeatureStore, tmp_path: Path) -> None:
    catalogue, alert = with_alert(market_store)
    at = 0.0
    alerts = [alert]
    reports = GatewayReports(
        tmp_path, lambda: catalogue, dict, lambda: alerts, lambda: at, lambda: 1e9
    )
    first = reports.report()
    assert [a.rule for a in first.alerts] == ["lowest"]
    alerts.clear()
    assert reports.report() is first
    at = 60.0
    assert reports.report().alerts == ()
    with pytest.raises(LookupError):
        reports.details(alert.view, "unknown")
