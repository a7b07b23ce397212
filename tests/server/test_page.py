"""Who may see the page of figures: tokens, certificates, and a real Prometheus that has both."""

import http.client
import json
import shutil
import socket
import ssl
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from processes import eventually
from secured import Pair
from typer.testing import CliRunner

from hotfeast.server.cli import app
from hotfeast.server.errors import StartFailure
from hotfeast.server.health import health_pages
from hotfeast.server.http_pages import page_guard
from hotfeast.server.local_redis import free_port
from hotfeast.server.metrics import Page, WorkerFigures
from hotfeast.server.security.exposure import check_exposure
from hotfeast.server.security.tokens import Token, add_token, hash_of, new_token
from hotfeast.server.settings import PageSettings, PageTls, Settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
PROMETHEUS = shutil.which("prometheus")
HOST = "127.0.0.1"
PAGES = ("/metrics", "/", "/anything")
PROBES = ("/live", "/ready")


class Asked:
    """A page, asked from outside."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.port = urllib.parse.urlsplit(page.url).port or 0

    def get(
        self, path: str, authorization: str | None = None, context: ssl.SSLContext | None = None
    ) -> tuple[int, str]:
        """Status and text; raises OSError where there is no answer."""
        connection: http.client.HTTPConnection
        if context is None:
            connection = http.client.HTTPConnection(HOST, self.port, timeout=20)
        else:
            connection = http.client.HTTPSConnection(HOST, self.port, timeout=20, context=context)
        headers = {} if authorization is None else {"Authorization": authorization}
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            if answer.status == 401:
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            return answer.status, answer.read().decode()
        finally:
            connection.close()


def serve(settings: PageSettings) -> Asked:
    beside = health_pages(lambda: "", lambda: "nobody is ready")
    return Asked(Page([WorkerFigures()], HOST, 0, beside, page_guard(settings)))


def enter(file: Path, name: str, expires: datetime | None = None) -> str:
    token = new_token()
    add_token(file, Token(name=name, sha256=hash_of(token), expires=expires))
    return token


@pytest.fixture
def pair(authority: tuple[trustme.CA, Path], tmp_path: Path) -> Pair:
    return Pair.write(tmp_path / "page", authority[0].issue_cert(HOST))


def context_of(ca: Path, pair: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


# ---------------------------------------------------------------- tokens


def test_without_a_token_only_probes_are_answered(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    token = enter(file, "prometheus")
    ended = enter(file, "before", datetime.now(UTC) - timedelta(seconds=1))
    asked = serve(PageSettings(tokens=file))
    try:
        assert asked.get("/live") == (200, "liveness: ok\n")
        assert asked.get("/ready") == (503, "readiness: nobody is ready\n")
        for path in (*PAGES, "/live/", "/metrics?name[]=hotfeast_reloads_total"):
            assert asked.get(path) == (401, "send the header 'Authorization: Bearer TOKEN'\n")
            for wrong in (f"Bearer {token}x", f"Basic {token}", token, "Bearer ", "Bearer \xff"):
                assert asked.get(path, wrong) == (401, "the token is not known\n")
        assert asked.get("/metrics", f"Bearer {ended}") == (401, "the token has expired\n")
        for spelling in ("Bearer", "bearer"):
            status, text = asked.get("/metrics", f"{spelling} {token}")
            assert status == 200
            assert 'hotfeast_reloads_total{outcome="done"} 0.0' in text
        assert 'hotfeast_page_refusals_total{reason="credentials_missing"} 5.0' in text
        assert 'hotfeast_page_refusals_total{reason="credentials_invalid"} 26.0' in text
        assert 'hotfeast_page_input_valid{input="tokens"} 1.0' in text
    finally:
        asked.page.stop()


def test_tokens_that_change_count_at_once(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    first = enter(file, "first")
    guard = page_guard(PageSettings(tokens=file))
    assert guard is not None
    asked = Asked(Page([], HOST, 0, None, guard))
    try:
        second = enter(file, "second")
        assert asked.get("/metrics", f"Bearer {second}")[0] == 401
        guard.look()
        assert asked.get("/metrics", f"Bearer {second}")[0] == 200
        # What is not valid, or would keep everybody out, leaves those before in force.
        text = file.read_text()
        for broken in ("- name: [", "[]"):
            file.write_text(broken)
            guard.look()
            status, figures = asked.get("/metrics", f"Bearer {first}")
            assert status == 200
            assert 'hotfeast_page_input_valid{input="tokens"} 0.0' in figures
        file.write_text(text[: text.index("- name: second")])
        guard.look()
        assert asked.get("/metrics", f"Bearer {second}")[0] == 401
        assert 'valid{input="tokens"} 1.0' in asked.get("/metrics", f"Bearer {first}")[1]
    finally:
        asked.page.stop()


def test_files_that_cannot_be_used(tmp_path: Path, pair: Pair) -> None:
    missing, empty = tmp_path / "none.yaml", tmp_path / "empty.yaml"
    empty.write_text("")
    for settings, said in (
        (PageSettings(tokens=missing), r"--metrics-token-file: .*none.yaml cannot be read"),
        (PageSettings(tokens=empty), r"empty.yaml has no token: 'hotfeast token new NAME --file"),
        (PageSettings(tls=PageTls(missing, pair.key)), r"--metrics-tls-cert .* cannot be read"),
        (PageSettings(tls=PageTls(pair.certificate, pair.certificate)), "--metrics-tls-key"),
        (PageSettings(tls=PageTls(*astuple(pair), empty)), "--metrics-tls-client-ca .* in PEM"),
    ):
        with pytest.raises(StartFailure, match=said):
            page_guard(settings)


def astuple(pair: Pair) -> tuple[Path, Path]:
    return pair.certificate, pair.key


# ---------------------------------------------------------------- TLS


def test_certificates_of_clients(
    authority: tuple[trustme.CA, Path], pair: Pair, tmp_path: Path
) -> None:
    ca, path = authority
    asked = serve(PageSettings(tls=PageTls(*astuple(pair), path)))
    mine = context_of(path, Pair.write(tmp_path / "mine", ca.issue_cert("prometheus.test")))
    nobody = context_of(path)
    stranger = context_of(path, Pair.write(tmp_path, trustme.CA().issue_cert("prometheus.test")))
    try:
        assert asked.page.url.startswith("https://")
        for probe in PROBES:
            assert asked.get(probe, context=nobody)[0] in (200, 503)
        for each in PAGES:
            status, text = asked.get(each, context=nobody)
            assert (status, text) == (403, "a client certificate is needed (tls_config)\n")
            # A header is no certificate.
            assert asked.get(each, "hotfeast.certificate: 1", context=nobody)[0] == 403
        with pytest.raises(OSError, match=r"(?i)unknown ca|reset|closed|EOF"):
            asked.get("/live", context=stranger)
        with pytest.raises((OSError, http.client.HTTPException)):
            asked.get("/live")
        status, text = asked.get("/metrics", context=mine)
        assert status == 200
        assert 'hotfeast_page_refusals_total{reason="tls"} 2.0' in text
        assert 'hotfeast_page_input_valid{input="certificate"} 1.0' in text
        assert "hotfeast_page_certificate_end_timestamp_seconds" in text
    finally:
        asked.page.stop()


def test_a_changed_certificate_is_for_new_connections(
    authority: tuple[trustme.CA, Path], pair: Pair
) -> None:
    path = authority[1]
    asked = serve(PageSettings(tls=PageTls(*astuple(pair), interval=0.05)))
    try:
        assert asked.get("/live", context=context_of(path))[0] == 200
        other = trustme.CA()
        pair.replace(other.issue_cert(HOST))
        new = path.with_name("other.pem")
        other.cert_pem.write_to_path(str(new))

        def is_new() -> bool:
            with suppress(ssl.SSLError):
                return asked.get("/live", context=context_of(new))[0] == 200
            return False

        eventually(is_new)
        with pytest.raises(ssl.SSLError):
            asked.get("/live", context=context_of(path))
    finally:
        asked.page.stop()


def test_silent_clients_keep_nobody_waiting(authority: tuple[trustme.CA, Path], pair: Pair) -> None:
    asked = serve(PageSettings(tls=PageTls(*astuple(pair))))
    silent = [socket.create_connection((HOST, asked.port)) for _ in range(20)]
    try:
        assert asked.get("/live", context=context_of(authority[1]))[0] == 200
    finally:
        for each in silent:
            each.close()
        asked.page.stop()


# ---------------------------------------------------------------- Prometheus


@pytest.fixture
def prometheus(
    authority: tuple[trustme.CA, Path], pair: Pair, tmp_path: Path
) -> Iterator[tuple[str, Asked]]:
    """A Prometheus with the example of `deploy` that scrapes a page which wants all there is."""
    if PROMETHEUS is None:
        pytest.skip("prometheus is not installed (apt-get install prometheus)")
    ca, path = authority
    tokens, secret = tmp_path / "tokens.yaml", tmp_path / "token"
    secret.write_text(enter(tokens, "prometheus"))
    mine = Pair.write(tmp_path / "mine", ca.issue_cert("prometheus.test"))
    asked = serve(PageSettings(tokens=tokens, tls=PageTls(*astuple(pair), path)))
    document = yaml.safe_load((DEPLOY / "prometheus-guarded.yml").read_text())
    document["global"] = {"scrape_interval": "500ms"}
    del document["rule_files"]
    (job,) = document["scrape_configs"]
    assert job["authorization"] == {"credentials_file": "/etc/prometheus/hotfeast.token"}
    job["authorization"] = {"credentials_file": str(secret)}
    assert set(job["tls_config"]) == {"ca_file", "cert_file", "key_file", "server_name"}
    job["tls_config"] = {
        "ca_file": str(path),
        "cert_file": str(mine.certificate),
        "key_file": str(mine.key),
        "server_name": HOST,
    }
    job["static_configs"] = [{"targets": [f"{HOST}:{asked.port}"]}]
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump(document))
    address = f"{HOST}:{free_port()}"
    process = subprocess.Popen(
        [
            PROMETHEUS,
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=error",
        ]
    )
    yield f"http://{address}", asked
    process.terminate()
    process.wait(30)
    asked.page.stop()


def test_prometheus_with_a_token_and_a_certificate(
    prometheus: tuple[str, Asked], tmp_path: Path
) -> None:
    url, _ = prometheus
    target: dict[str, Any] = {}

    def health() -> Any:
        with suppress(OSError), urllib.request.urlopen(f"{url}/api/v1/targets") as answer:
            for found in json.load(answer)["data"]["activeTargets"]:
                target.update(found)
                return found["health"]
        return None

    eventually(lambda: health() == "up")
    (tmp_path / "token").write_text("another")
    eventually(lambda: health() == "down")
    assert "401" in target["lastError"]


# ---------------------------------------------------------------- addresses


def exposed() -> Iterator[tuple[PageSettings, str]]:
    tls = PageTls(Path("a"), Path("b"))
    yield PageSettings(), "--metrics-token-file .*--metrics-allow-unauthenticated"
    yield PageSettings(tls=tls), "--metrics-allow-unauthenticated"
    yield PageSettings(tls=tls._replace(client_ca=Path("c"))), ""
    yield PageSettings(tokens=Path("d")), "--metrics-allow-plaintext"
    yield PageSettings(tokens=Path("d"), tls=tls), ""
    yield PageSettings(tokens=Path("d"), allow_plaintext=True), ""
    yield PageSettings(allow_unauthenticated=True), ""


def test_addresses_that_others_reach_have_to_be_meant() -> None:
    for page, why in exposed():
        made = Settings(repo=Path("."), metrics=("0.0.0.0", 9100), page=page)
        check_exposure(replace(made, metrics=("127.0.0.1", 9100)))
        if why:
            with pytest.raises(StartFailure, match=why):
                check_exposure(made)
            # Who lets everybody write lets everybody look on.
            check_exposure(replace(made, allow_unauthenticated=True))
        else:
            check_exposure(made)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metrics", "0.0.0.0:0"], "--metrics-allow-unauthenticated"),
        (["--metrics", "127.0.0.1:0", "--metrics-tls-cert", "a"], "--metrics-tls-key"),
        (["--metrics-token-file", "a"], "goes with --metrics"),
    ],
)
def test_consumers_keep_to_the_same(options: list[str], said: str, tmp_path: Path) -> None:
    stream = ["--stream", "s", "--from", "redis://127.0.0.1:1", "--repo", str(tmp_path)]
    done = CliRunner().invoke(app, ["consume", "events", *stream, *options])
    assert done.exit_code == 2
    assert said in done.output.replace("\n", " ")
