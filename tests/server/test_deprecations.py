"""What tags say of features that end: warnings, figures, and refusals after the sunset."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import market
import pandas as pd
import pytest
from aliased import Traffic, metadata_of, request
from feast import FeatureService, FeatureStore, FeatureView, Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64
from figures import scrape
from processes import eventually
from served import Served, serve, stop

from hotfeast.clients import FailedPrecondition, FeatureClient, HotfeastError
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.settings import Settings, TrafficSettings
from hotfeast.server.traffic.deprecation import MOST_WARNINGS, deprecations, ending

WARNING = "hotfeast-warning"
FUTURE = "2999-12-31"


def view(name: str, tags: dict[str, str] | None = None, **features: dict[str, str]) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[market.user],
        ttl=timedelta(0),
        schema=[
            Field(name="user_id", dtype=Int64),
            *(Field(name=f, dtype=Float64, tags=of) for f, of in features.items()),
        ],
        source=market._source,
        tags=tags,
    )


@pytest.fixture(scope="module")
def store(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("deprecated")
    market.write_repository(folder, "deprecated", redis_server.address)
    store = FeatureStore(repo_path=str(folder))
    some = view(
        "some",
        kept={},
        old={"deprecated": "it is rounded", "replaced_by": "some:kept"},
        ending={"deprecated": "true", "sunset": FUTURE},
        gone={"sunset": "2020-01-31", "replaced_by": "some:kept"},
        back={"deprecated": "false"},
    )
    whole = view("whole", {"deprecated": "näher: 100%", "sunset": "soon"}, value={})

    @on_demand_feature_view(  # type: ignore[untyped-decorator]
        sources=[some], schema=[Field(name="doubled", dtype=Float64)], mode="pandas"
    )
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        out = pd.DataFrame()
        out["doubled"] = inputs["kept"] * 2
        return out

    store.apply(
        [
            market.user,
            some,
            whole,
            doubled,
            FeatureService(name="fine", features=[some[["kept", "back"]]]),
            FeatureService(name="aging", features=[some[["kept", "old", "ending"]]]),
            FeatureService(name="past", features=[some[["kept", "gone"]]]),
            FeatureService(name="computed", features=[doubled]),
            FeatureService(name="of_view", features=[whole]),
            FeatureService(name="service", features=[some[["kept"]]], tags={"deprecated": "true"}),
        ]
    )
    rows = pd.DataFrame({"user_id": [1], "event_timestamp": [market.NOW]})
    store.write_to_online_store(
        "some", rows.assign(kept=1.5, old=2.5, ending=3.5, gone=4.5, back=5.5)
    )
    store.write_to_online_store("whole", rows.assign(value=6.5))
    return store


@pytest.fixture(scope="module", params=["native", "grpcio"])
def gate(
    request: pytest.FixtureRequest, store: FeatureStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, Traffic]]:
    aliases = tmp_path_factory.mktemp("aliases") / "aliases.yaml"
    aliases.write_text("model: {aging: 100}\n")
    settings = Settings(
        repo=Path(store.repo_path),
        server=request.param,
        metrics=("127.0.0.1", 0),
        traffic=TrafficSettings(aliases),
    )
    served = serve(store, settings)
    with Traffic(served.address) as traffic:
        yield served, traffic
    stop(served)


OLD = "feature 'some:old' is deprecated, replaced by 'some:kept': it is rounded"
ENDING = f"feature 'some:ending' is deprecated, sunset {FUTURE}"
GONE = "feature 'some:gone' is deprecated, sunset 2020-01-31, replaced by 'some:kept'"


@pytest.mark.parametrize(
    ("service", "warnings"),
    [
        ("fine", []),
        ("aging", [OLD, ENDING]),
        ("past", [GONE]),
        # Feast's on-demand views take all of a source: what it reads beside is read, too.
        ("computed", [OLD, ENDING, GONE]),
        ("service", ["feature service 'service' is deprecated"]),
    ],
)
def test_answers_warn_of_what_they_read(
    gate: tuple[Served, Traffic], service: str, warnings: list[str]
) -> None:
    read = gate[1].read(service, 1)
    assert read.said(WARNING) == warnings
    assert len(read.metadata) == len(warnings)
    with FeatureClient(gate[0].address) as client:
        answer = client.get_online_features(service, {"user_id": [1]})
    assert answer.warnings == warnings
    assert answer.feature_service is None


def test_words_that_are_no_ascii_go_encoded(gate: tuple[Served, Traffic]) -> None:
    warning = "feature view 'whole' is deprecated, sunset soon: näher: 100%"
    encoded = warning.replace("%", "%25").replace("ä", "%C3%A4")
    assert gate[1].read("of_view", 1).said(WARNING) == [encoded]
    with FeatureClient(gate[0].address) as client:
        assert client.get_online_features("of_view", {"user_id": [1]}).warnings == [warning]


def test_lists_of_features_warn_too_by_what_they_name(gate: tuple[Served, Traffic]) -> None:
    with FeatureClient(gate[0].address) as client:
        for names, warnings in ((["some:kept"], []), (["some:old", "some:kept"], [OLD])):
            assert client.get_online_features(names, {"user_id": [1]}).warnings == warnings


def test_an_alias_warns_for_its_target(gate: tuple[Served, Traffic]) -> None:
    with FeatureClient(gate[0].address) as client:
        answer = client.get_online_features("model", {"user_id": [1]})
    assert (answer.feature_service, answer.warnings) == ("aging", [OLD, ENDING])


def test_large_answers_and_failures_warn_too(gate: tuple[Served, Traffic]) -> None:
    assert gate[1].read("aging", *range(20_000)).said(WARNING) == [OLD, ENDING]
    with pytest.raises(grpc.RpcError) as failed:
        gate[1].send(request("aging", 1, beside="nothing"))
    assert [value for _, value in metadata_of(failed.value)] == [OLD, ENDING]


def test_reads_are_counted_by_caller(gate: tuple[Served, Traffic]) -> None:
    served, traffic = gate
    page = served.gateway.metrics_page
    assert page is not None
    for service, calls in (("past", 3), ("model", 2), ("fine", 5)):
        for _ in range(calls):
            traffic.read(service, 1, metadata=(("x-caller", "ranking"),))
    with pytest.raises(grpc.RpcError):
        traffic.send(request("past", 1, beside="nothing"), metadata=(("x-caller", "ranking"),))

    def reads(name: str, outcome: str = "served") -> float:
        of = f'caller="ranking",kind="feature",name="{name}",outcome="{outcome}"'
        return scrape(page.url).get(f"hotfeast_deprecated_reads_total{{{of}}}", 0)

    eventually(lambda: reads("some:ending") == 2)
    assert (reads("some:gone"), reads("some:gone", "failed"), reads("some:old")) == (3, 1, 2)
    assert reads("some:kept") == reads("some:back") == 0


def test_batches_on_a_stream_warn_and_count_too(gate: tuple[Served, Traffic]) -> None:
    served = gate[0]
    page = served.gateway.metrics_page
    assert page is not None
    method = "hotfeast.serving.v1.FeatureServing/GetOnlineFeaturesStream"

    def figures() -> list[float]:
        counted = scrape(page.url)
        reads = (
            value
            for name, value in counted.items()
            if name.startswith("hotfeast_deprecated_reads_total{") and 'name="some:old"' in name
        )
        calls = [
            counted.get(f'hotfeast_requests_total{{code="{code}",method="{method}"}}', 0)
            for code in ("OK", "INVALID_ARGUMENT")
        ]
        return [*calls, sum(reads)]

    before = figures()
    with FeatureClient(served.address) as client:
        scores = client.score("model", {"user_id": [1, 2, 3]}, batch_size=1)
        assert scores.to_table()["kept"].to_pylist() == [1.5, None, None]
        assert (scores.feature_service, scores.warnings) == ("aging", [OLD, ENDING])
        with client.score("aging", {"user_id": [1], "nothing": [1]}) as refused:
            with pytest.raises(HotfeastError, match="'nothing' is no join key"):
                next(refused)
            assert refused.warnings == [OLD, ENDING]
        fine = client.score("fine", {"user_id": [1]})
        fine.to_table()
        assert (fine.feature_service, fine.warnings) == (None, [])
    eventually(lambda: [a - b for a, b in zip(figures(), before, strict=True)] == [4, 1, 4])


@pytest.mark.parametrize("server", ["native", "grpcio"])
def test_after_the_sunset_requests_are_refused_if_that_is_asked_for(
    store: FeatureStore, server: str
) -> None:
    settings = Settings(repo=Path(store.repo_path), server=server, refuse_sunset=True)
    served = serve(store, replace(settings, metrics=("127.0.0.1", 0)))
    try:
        with FeatureClient(served.address) as client:
            for service in ("fine", "aging", "of_view", "service"):
                client.get_online_features(service, {"user_id": [1]})
            for asked in ("past", "computed", ["some:kept", "some:gone"]):
                with pytest.raises(HotfeastError) as failed:
                    client.get_online_features(asked, {"user_id": [1]})
                assert failed.value.code is grpc.StatusCode.FAILED_PRECONDITION
                assert failed.value.message == (
                    "feature 'some:gone' had its sunset on 2020-01-31; use 'some:kept'"
                )
            with pytest.raises(FailedPrecondition, match="had its sunset on 2020-01-31"):
                client.score("past", {"user_id": [1]}).to_table()
        page = served.gateway.metrics_page
        assert page is not None

        def refused() -> float:
            of = 'name="some:gone",outcome="refused"'
            counted = scrape(page.url).items()
            return sum(value for name, value in counted if "_total{" in name and of in name)

        eventually(lambda: refused() == 4)
    finally:
        stop(served)


def test_a_day_begins_at_midnight_utc_and_times_have_zones() -> None:
    day = ending("feature", "v:f", {"sunset": "2027-01-31"})
    time = ending("feature", "v:f", {"sunset": "2027-01-31T12:00:00+02:00"})
    assert day is not None
    assert time is not None
    midnight = datetime(2027, 1, 31, tzinfo=UTC).timestamp()
    assert (day.ends, time.ends) == (midnight, midnight + 10 * 3600)
    both = deprecations([day, time])
    assert both is not None
    both.refuse(midnight - 1)
    for now, said in ((midnight, "2027-01-31;"), (time.ends, "2027-01-31T12:00:00+02:00;")):
        with pytest.raises(Exception, match="had its sunset on") as failed:
            both.refuse(now)
        assert said in str(failed.value)


def test_a_sunset_that_is_no_date_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            found = ending("feature view", "a_view", {"sunset": "31/01/2027"})
    assert found is not None
    assert found.ends == float("inf")
    (record,) = caplog.records
    assert "feature view 'a_view' has the tag sunset: 31/01/2027" in record.getMessage()


def test_warnings_are_bounded() -> None:
    many = [ending("feature", f"v:{n}", {"deprecated": "x" * 1000}) for n in range(100)]
    # What is read twice is told once.
    made = deprecations([*many, *many, None])
    assert made is not None
    assert len(made.metadata) == MOST_WARNINGS + 1
    assert made.metadata[-1][1] == b"84 more are deprecated"
    assert all(len(value) <= 240 for _, value in made.metadata)
    assert deprecations([None, None]) is None


@pytest.mark.parametrize("said", ["", "false", "False", "no", "0"])
def test_tags_that_say_no(said: str) -> None:
    assert ending("feature", "v:f", {"deprecated": said}) is None
    assert ending("feature", "v:f", {"pii": "true"}) is None
