"""Traces, the access log and figures by feature service, of a gateway in this process."""

import json
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import market
import pytest
from feast import FeatureStore
from figures import scrape
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2
from processes import eventually
from served import Served, serve, stop

from hotfeast.server.gateway import Settings
from hotfeast.server.logs import JsonFormatter
from hotfeast.server.settings import LogSettings, RequestLimits, TraceSettings
from hotfeast.server.telemetry import access_log, calls, records
from hotfeast.server.telemetry.access_log import AccessLog
from hotfeast.server.telemetry.traceparent import parse_traceparent
from hotfeast.serving.v1 import serving_pb2

METHOD = "hotfeast.serving.v1.FeatureServing/GetOnlineFeatures"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans over OTLP, as a collector does."""

    def __init__(self) -> None:
        self.spans: list[trace_pb2.Span] = []
        self.resources: list[dict[str, Any]] = []

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        for each in request.resource_spans:
            self.resources.append(attributes(each.resource))
            self.spans += [span for scope in each.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str) -> list[trace_pb2.Span]:
        return [span for span in self.spans if span.name == name]


def attributes(of: Any) -> dict[str, Any]:
    found = {}
    for each in of.attributes:
        found[each.key] = getattr(each.value, each.value.WhichOneof("value"))
    return found


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, str]]:
    taking = Receiver()
    server = grpc.server(ThreadPoolExecutor(2))
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(taking, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield taking, f"http://127.0.0.1:{port}"
    server.stop(0).wait()


@contextmanager
def serving(store: FeatureStore, **settings: Any) -> Iterator[Served]:
    served = serve(store, replace(Settings(repo=Path(store.repo_path)), **settings))
    try:
        yield served
    finally:
        stop(served)


def ask(served: Served, service: str, metadata: tuple[tuple[str, str], ...] = ()) -> bytes:
    request = serving_pb2.GetOnlineFeaturesRequest(feature_service=service)
    for user in (1, 2, 99):
        request.entities["user_id"].val.add(int64_val=user)
    if service == "cart_service":
        request.request_context["cart_value"].val.add(double_val=1.0)
        del request.entities["user_id"].val[1:]
    call: Any = served.channel.unary_unary(f"/{METHOD}")
    return bytes(call(request.SerializeToString(), metadata=metadata, timeout=10))


def parent(sampled: bool) -> tuple[str, str]:
    return "traceparent", f"00-{TRACE}-{SPAN}-{int(sampled):02}"


# ------------------------------------------------------------ traces


@pytest.mark.parametrize("server", ["native", "grpcio"])
def test_calls_are_traced_if_their_callers_are(
    market_store: FeatureStore, receiver: tuple[Receiver, str], server: str
) -> None:
    taking, endpoint = receiver
    with serving(
        market_store, server=server, traces=TraceSettings(endpoint), transforms="python"
    ) as served:
        plain = ask(served, "users")
        ask(served, "users", (parent(sampled=False),))
        with_id = (parent(sampled=True), ("x-request-id", "r-1"), ("x-caller", "ranker"))
        assert ask(served, "users", with_id) == plain
        ask(served, "cart_service", (parent(sampled=True),))
        with pytest.raises(grpc.RpcError):
            ask(served, "failing_service", (parent(sampled=True),))
        with pytest.raises(grpc.RpcError):
            ask(served, "nothing", (parent(sampled=True),))
    # What was under way is sent before the end.
    read, cart, failed, unknown = taking.named(METHOD)
    assert {span.trace_id.hex() for span in taking.spans} == {TRACE}
    assert {span.parent_span_id.hex() for span in taking.named(METHOD)} == {SPAN}
    assert read.kind == trace_pb2.Span.SPAN_KIND_SERVER
    said = attributes(read)
    assert said.pop("hotfeast.caller") == "ranker"
    assert said == {
        "rpc.system": "grpc",
        "rpc.service": "hotfeast.serving.v1.FeatureServing",
        "rpc.method": "GetOnlineFeatures",
        "rpc.grpc.status_code": 0,
        "hotfeast.feature_service": "users",
        "hotfeast.rows": 3,
        "hotfeast.request_id": "r-1",
    }

    def stages(span: trace_pb2.Span) -> list[str]:
        inside = [s for s in taking.spans if s.parent_span_id == span.span_id]
        times = [span.start_time_unix_nano]
        for each in inside:
            # One after the other, none outside of the call.
            assert times[-1] <= each.start_time_unix_nano <= each.end_time_unix_nano
            times.append(each.end_time_unix_nano)
        assert times[-1] <= span.end_time_unix_nano
        return [s.name for s in inside]

    assert stages(read) == ["parse", "redis", "encode"]
    assert stages(cart) == ["parse", "redis", "encode", "transform"]
    assert stages(failed) == ["parse", "redis", "encode"]
    assert stages(unknown) == []
    assert read.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert failed.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    # The caller's fault.
    assert unknown.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert taking.resources[0]["service.name"] == "hotfeast"


def test_a_share_is_traced_of_calls_without_a_trace(
    market_store: FeatureStore,
    receiver: tuple[Receiver, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "features-eu")
    taking, endpoint = receiver
    with serving(market_store, traces=TraceSettings(endpoint, ratio=1.0)) as served:
        ask(served, "users")
        ask(served, "users", (parent(sampled=False),))
        served.client.serving_info()
    (read,) = taking.named(METHOD)
    assert read.parent_span_id == b""
    assert read.trace_id.hex() != TRACE
    assert len(taking.named("hotfeast.serving.v1.FeatureServing/GetServingInfo")) == 1
    assert taking.resources[0]["service.name"] == "features-eu"


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"01-{TRACE}-{SPAN}-01-more", True),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        ("", None),
    ],
)
def test_traceparent(text: str, sampled: bool | None) -> None:
    """As the W3C's recommendation has it."""
    found = parse_traceparent(text.encode())
    assert (found.sampled if found is not None else None) == sampled
    assert parse_traceparent(None) is None


# ------------------------------------------------------------ the access log


@pytest.mark.parametrize("server", ["native", "grpcio"])
def test_access_log(
    market_store: FeatureStore, caplog: pytest.LogCaptureFixture, server: str
) -> None:
    caplog.set_level(logging.INFO, "hotfeast.access")
    metadata = (("x-request-id", "r-7"), ("x-caller", "ranker"), parent(sampled=False))
    with serving(market_store, server=server, logs=LogSettings(access=1.0)) as served:
        ask(served, "users", metadata)
        with pytest.raises(grpc.RpcError):
            ask(served, "nothing", metadata)
        eventually(lambda: len(lines(caplog)) == 2)
    answered, failed = lines(caplog)
    line = json.loads(JsonFormatter(3).format(answered))
    times = {name: line.pop(name) for name in ("ms", "parse_ms", "redis_ms", "encode_ms")}
    assert times["ms"] >= times["parse_ms"] + times["redis_ms"] + times["encode_ms"] - 0.01
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line.pop("pid")
    assert line.pop("message").startswith(f"method={METHOD} code=OK ms=")
    assert line == {
        "level": "info", "logger": "hotfeast.access", "worker": 3, "method": METHOD, "code": "OK",
        "caller": "ranker", "request_id": "r-7", "trace_id": TRACE, "feature_service": "users",
        "rows": 3,
    }  # fmt: skip
    assert " code=NOT_FOUND " in failed.getMessage()


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "hotfeast.access"]


def test_failures_are_logged_beside_the_share(
    market_store: FeatureStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "MOST_FAILURES", 2)
    # All in one second.
    monkeypatch.setattr(AccessLog, "clock", staticmethod(lambda: 5.0))
    caplog.set_level(logging.INFO, "hotfeast.access")
    with serving(market_store, logs=LogSettings(access=0.0)) as served:
        for service in ("users", "nothing", "nothing", "nothing", "nothing"):
            try:
                ask(served, service)
            except grpc.RpcError:
                continue
        eventually(lambda: len(lines(caplog)) == 2)
        monkeypatch.setattr(AccessLog, "clock", staticmethod(lambda: 6.0))
        with pytest.raises(grpc.RpcError):
            ask(served, "nothing")
        eventually(lambda: len(lines(caplog)) == 3)
    assert all("code=NOT_FOUND" in record.getMessage() for record in lines(caplog))
    assert "left_out=2" in lines(caplog)[2].getMessage()


def test_nothing_is_kept_of_a_call_unless_it_is_asked_for(strict: Served) -> None:
    assert strict.gateway._telemetry.calls is None
    assert strict.gateway._telemetry.services is None


# ------------------------------------------------------------ figures


@pytest.mark.parametrize("server", ["native", "grpcio"])
def test_figures_by_feature_service_and_view(
    market_store: FeatureStore, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    # Every call is looked at.
    monkeypatch.setattr(calls, "_gap", lambda: 1)
    monkeypatch.setattr("hotfeast.server.traffic.figures._gap", lambda: 1)
    # None is refused, and asked again, where the machine is busy.
    limits = RequestLimits(delay=0)
    with serving(market_store, server=server, metrics=("127.0.0.1", 0), limits=limits) as served:
        assert served.gateway.metrics_page is not None
        url = served.gateway.metrics_page.url
        for _ in range(3):
            ask(served, "part")
        served.client.get_online_features(["user_stats:city"], {"user_id": [1]})
        with pytest.raises(grpc.RpcError):
            ask(served, "failing_service")
        service = 'hotfeast_service_%s{feature_service="%s"}'
        eventually(lambda: scrape(url).get(service % ("rows_total", "(features)")) == 1)
        figures = scrape(url)
        stage = 'hotfeast_stage_seconds_count{stage="%s"}'
        # A request may be looked at once more where it has to wait.
        assert figures[stage % records.PARSE] >= 5
        assert [figures.get(stage % name) for name in records.STAGES[1:]] == [5, 5, None]
    by_code = 'hotfeast_service_requests_total{code="%s",feature_service="%s"}'
    assert figures[by_code % ("OK", "part")] == 3
    assert figures[by_code % ("OK", "(features)")] == 1
    assert figures[by_code % ("INTERNAL", "failing_service")] == 1
    assert figures[service % ("rows_total", "part")] == 9
    assert figures[service % ("request_seconds_count", "part")] == 3
    view = 'hotfeast_view_%s{feature_view="user_stats"}'
    assert figures[view % "rows_total"] == 10
    assert figures[view % "newest_event_timestamp_seconds"] == market.NOW.timestamp()
    assert figures[view % "ttl_seconds"] == 2 * 86400
    values = 'hotfeast_view_values_total{feature_view="user_stats",status="%s"}'
    # Spend and visits of user 1 are there, those of user 2 are null, and 99 has no row.
    assert [figures[values % status] for status in ("PRESENT", "NULL_VALUE", "NOT_FOUND")] == [
        3 * 2 + 1, 3 * 2, 3 * 2,
    ]  # fmt: skip
    assert figures["hotfeast_redis_up"] == 1
    assert figures['hotfeast_worker_resident_bytes{worker="0"}'] > 2**20
    assert figures['hotfeast_worker_descriptors{worker="0"}'] > 3
