"""The live page over real HTTP, beside the figures for Prometheus."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection, HTTPResponse
from urllib.parse import urlsplit

import pytest
import report_samples as samples
from prometheus_client import CollectorRegistry, Counter

from hotfeast.server.metrics import Page
from hotfeast.server.monitoring.report.build import build_details, build_report
from hotfeast.server.monitoring.report.live import PATHS, LivePage
from hotfeast.server.monitoring.report.model import FeatureDetails, Report


class Changing:
    """A report that changes when it is told to."""

    def __init__(self) -> None:
        self._catalogue, self._evidence = samples.catalogue(), samples.evidence()
        self._report = build_report(self._catalogue, self._evidence, interval=0.2)

    def report(self) -> Report:
        return self._report

    def details(self, view: str, feature: str) -> FeatureDetails:
        return build_details(self._catalogue, self._evidence, view, feature)

    def change(self) -> None:
        """Time goes on by a minute."""
        self._report = replace(self._report, made_at=self._report.made_at + 60)


@pytest.fixture
def reports() -> Changing:
    return Changing()


@pytest.fixture
def page(reports: Changing) -> Iterator[Page]:
    registry = CollectorRegistry()
    Counter("seen", "Of the test.", registry=registry).inc()
    served = Page([registry], "127.0.0.1", 0, dict.fromkeys(PATHS, LivePage(reports)))
    yield served
    served.stop()


def _get(page: Page, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection(urlsplit(page.url).netloc, timeout=10)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=names)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_the_page_stands_beside_the_figures(page: Page) -> None:
    answer, body = _get(page, "/")
    assert answer.getheader("Content-Type") == "text/html; charset=utf-8"
    assert body.startswith(b"<!doctype html>")
    assert b"seen_total 1.0" in _get(page, "/metrics")[1]
    assert _get(page, "/api/nothing")[0].status == 404
    assert _get(page, "/", "POST")[0].status == 405
    answer, body = _get(page, "/", "HEAD")
    assert (answer.status, body) == (200, b"")


def test_figures_are_packed_and_sent_only_when_they_changed(page: Page, reports: Changing) -> None:
    answer, body = _get(page, "/api/report.json", Accept_Encoding="gzip")
    assert answer.getheader("Content-Encoding") == "gzip"
    assert json.loads(gzip.decompress(body))["project"] == "shop"
    tag = answer.getheader("ETag")
    assert tag is not None
    same, empty = _get(page, "/api/report.json", If_None_Match=tag)
    assert (same.status, empty) == (304, b"")
    reports.change()
    changed, body = _get(page, "/api/report.json", If_None_Match=tag)
    assert changed.status == 200
    assert json.loads(body)["made_at"] == samples.NOW + 60


def test_one_feature_is_asked_for_by_name(page: Page) -> None:
    _, body = _get(page, "/api/feature.json?view=user_stats&feature=spend")
    assert json.loads(body)["channels"]["served"]["values"] > 1000
    answer, body = _get(page, "/api/feature.json?view=user_stats&feature=no")
    assert (answer.status, body) == (404, b"the registry has no feature user_stats:no")
    answer, body = _get(page, "/api/feature.json?view=user_stats")
    assert (answer.status, body) == (404, b"the parameters view and feature are needed")
