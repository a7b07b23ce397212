"""Pushes to on-demand views whose results are stored, read back by RPC and by Feast's SDK."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pandas as pd
import pytest
import written
from feast.protos.feast.serving.GrpcServer_pb2 import PushRequest, WriteToOnlineStoreRequest
from feast.protos.feast.serving.GrpcServer_pb2_grpc import GrpcFeatureServerStub
from feast.protos.feast.types.Value_pb2 import Value
from lake import Lake
from processes import run_cli
from pushing import request
from served import Served, serve, serving, stop

from hotfeast.clients import HotfeastError
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.serving.v1 import push_pb2

NOW = datetime.now(UTC).replace(microsecond=0)
_users = iter(range(10_000, 10**9, 100))


@pytest.fixture(scope="module")
def lake(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    online = "  key_ttl_seconds: 1000\n"
    lake = Lake(tmp_path_factory.mktemp("written_push"), redis_server, 9, online)
    written.fill_files(lake)
    lake.store.apply(written.definitions(lake.folder))
    return lake


@pytest.fixture(scope="module")
def served(lake: Lake) -> Iterator[Served]:
    with serving(lake.fresh()) as gateway:
        yield gateway


@pytest.fixture
def user() -> int:
    """A user that no other test writes."""
    return next(_users)


def inputs(*rows: dict[str, Any], **same: Any) -> dict[str, list[Any]]:
    """Columns of the inputs of `in_pandas`."""
    base = {
        "amount": 4, "score": 2.0, "city": "Ulm", "active": True, "since": NOW, "recent": [1],
        "event_timestamp": NOW,
    }  # fmt: skip
    names = ["user_id", *base]
    return {name: [{**base, **same, **row}[name] for row in rows] for name in names}


def both_read(served: Served, features: list[str], *rows: dict[str, Any]) -> dict[str, Any]:
    """Features as our RPC gives them, which must be what Feast's SDK reads."""
    entities = {name: [row[name] for row in rows] for name in rows[0]}
    answer = served.client.get_online_features(features, entities).to_dict()
    feast = served.store.get_online_features(features, list(rows)).to_dict()
    names = [feature.split(":")[1] for feature in features]
    assert {name: list(answer[name]) for name in names} == {name: feast[name] for name in names}
    return {name: feast[name] for name in names}


IN_PANDAS = ["in_pandas:twice", "in_pandas:ratio", "in_pandas:label", "in_pandas:often"]


def test_rows_are_computed_and_judged_one_by_one(served: Served, user: int) -> None:
    columns = inputs(
        {"user_id": user},
        {"user_id": user + 1, "amount": None, "city": None},
        {"user_id": None},
        {"user_id": user + 2, "event_timestamp": NOW + timedelta(days=9)},
        {"user_id": user + 3, "amount": 6, "score": None},
    )
    result = served.client.push(columns, feature_view="in_pandas")
    assert result.outcomes == ["written", "written", "rejected", "rejected", "written"]
    assert [(r.row, r.field, r.rule) for r in result.rejections] == [
        (2, "user_id", "null_key"),
        (3, "event_timestamp", "timestamp"),
    ]
    read = both_read(served, IN_PANDAS, *({"user_id": user + i} for i in range(4)))
    assert read == {
        "twice": [8, None, None, 12],
        "ratio": [0.5, None, None, None],
        "label": ["Ulm!", None, None, "Ulm!"],
        "often": [True, False, None, True],
    }
    answer = served.client.get_online_features(IN_PANDAS[:1], {"user_id": [user, user + 2]})
    assert answer.statuses["twice"] == ["PRESENT", "NOT_FOUND"]
    service = served.client.get_online_features("written", {"user_id": [user]}).to_dict()
    assert (service["twice"][0], service["sum"][0]) == (8, None)


def test_the_pushed_event_time_decides(lake: Lake, served: Served, user: int) -> None:
    def push(amount: int, back: int) -> list[str]:
        row = {"user_id": user, "amount": amount, "event_timestamp": NOW - timedelta(hours=back)}
        return list(served.client.push(inputs(row), feature_view="in_pandas").outcomes)

    assert [push(5, 1), push(6, 2), push(7, 1)] == [["written"], ["stale"], ["written"]]
    assert both_read(served, IN_PANDAS[:1], {"user_id": user}) == {"twice": [14]}
    [key] = [key for key in lake.stored() if user.to_bytes(8, "little") in key]
    assert 0 < lake.client.ttl(key) <= 1000


@pytest.mark.parametrize(
    ("view", "columns", "features", "expected"),
    [
        (
            "in_python",
            {"amount": 3, "city": "Köln", "recent": [7], "since": NOW},
            ["py_twice", "py_city", "py_recent"],
            [6, "KÖLN", [7, 1]],
        ),
        ("both", {"amount": 3, "city": "Köln", "level": 2}, ["sum", "place"], [5.0, "Köln"]),
        ("one_name", {"stats__score": 3.0, "profile__score": 0.5}, ["gap"], [2.5]),
        ("asked", {"amount": 4, "cart_value": 10.0}, ["asked_share"], [2.5]),
        ("only_asked", {"cart_value": 10.4}, ["rounded"], [10.0]),
        ("at_shop", {"shop_id": "x", "visits": 1, "amount": 2}, ["share"], [0.5]),
        ("of_mapped", {"n": 4, "happened": NOW, "created": NOW}, ["more"], [5]),
        ("of_mapped", {"clicks": 4, "happened": NOW}, ["more"], [5]),
    ],
)
def test_every_kind_of_view(
    served: Served,
    user: int,
    view: str,
    columns: dict[str, Any],
    features: list[str],
    expected: list[Any],
) -> None:
    columns = {"user_id": user, "event_timestamp": NOW} | columns
    if "happened" in columns:
        del columns["event_timestamp"]
    pushed = {name: [value] for name, value in columns.items()}
    assert served.client.push(pushed, feature_view=view).outcomes == ["written"]
    keys = {"user_id": user} | ({"shop_id": "x"} if view == "at_shop" else {})
    read = both_read(served, [f"{view}:{name}" for name in features], keys)
    assert read == {name: [value] for name, value in zip(features, expected, strict=True)}


def test_the_bytes_are_those_of_feasts_sdk(lake: Lake, served: Served, user: int) -> None:
    """The same rows by both ways; Feast takes the time of writing."""

    def taken() -> dict[bytes, dict[bytes, bytes]]:
        parts = [(user + i).to_bytes(8, "little") for i in (0, 1)]
        mine = {key for key in lake.stored() if any(part in key for part in parts)}
        rows = {key: lake.client.hgetall(key) for key in mine}
        lake.client.delete(*mine)
        return {
            key: {f: v for f, v in row.items() if not f.startswith(b"_ts:")}
            for key, row in rows.items()
        }

    columns = inputs({"user_id": user}, {"user_id": user + 1, "amount": 7, "city": ""})
    for view in ("in_pandas", "in_python"):
        served.store.write_to_online_store(view, pd.DataFrame(columns))
        theirs = taken()
        assert len(theirs) == 2
        names = {"user_id", "event_timestamp", "amount", "city", "recent", "since"}
        mine = {n: c for n, c in columns.items() if view == "in_pandas" or n in names}
        served.client.push(mine, feature_view=view)
        assert taken() == theirs


def test_rows_that_are_computed_already(served: Served, user: int) -> None:
    """As with `transform_on_write=False` of Feast's SDK: the features come, and the inputs not."""
    features = {
        "user_id": [user, user + 1],
        "event_timestamp": [NOW, NOW],
        "twice": [1, 2],
        "ratio": [0.5, None],
        "label": ["a", "b"],
        "often": [True, False],
    }
    served.client.push(features, feature_view="in_pandas").raise_for_failures()
    read = both_read(served, IN_PANDAS, {"user_id": user}, {"user_id": user + 1})
    assert read == {name.split(":")[1]: features[name.split(":")[1]] for name in IN_PANDAS}
    both = inputs({"user_id": user}) | {"twice": [3]}
    with pytest.raises(HotfeastError, match=r"'twice' is a feature that .* 'in_pandas' computes"):
        served.client.push(both, feature_view="in_pandas")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"amount": 13}, "INTERNAL", "'in_pandas' failed: ZeroDivisionError: planned by the test"),
        ({"amount": 14}, "INTERNAL", "'in_pandas': feature 'often' is missing from its output"),
        ({"amount": 15}, "INTERNAL", "'in_pandas': feature 'twice' is declared as INT64"),
    ],
)
def test_functions_that_fail(
    served: Served, user: int, change: dict[str, Any], code: str, words: str
) -> None:
    """Nothing of the batch is written; on a stream, the next one is."""
    bad = inputs({"user_id": user}, {"user_id": user + 1, **change})
    with pytest.raises(HotfeastError, match=words) as error:
        served.client.push(bad, feature_view="in_pandas")
    assert error.value.code.name == code
    assert both_read(served, IN_PANDAS[:1], {"user_id": user}) == {"twice": [None]}
    answers = served.client.push_stream([inputs({"user_id": user}), bad], feature_view="in_pandas")
    assert next(answers).outcomes == ["written"]
    with pytest.raises(HotfeastError, match=words):
        next(answers)


def test_what_is_wrong_with_a_batch(served: Served, user: int) -> None:
    def refused(columns: dict[str, list[Any]], code: str, words: str, **more: Any) -> None:
        with pytest.raises(HotfeastError, match=words) as error:
            served.client.push(columns, feature_view=more.pop("view", "in_pandas"), **more)
        assert error.value.code.name == code

    row = inputs({"user_id": user})
    lacking = {name: column for name, column in row.items() if name not in ("city", "score")}
    refused(lacking, "INVALID_ARGUMENT", "'in_pandas': missing columns 'city', 'score'")
    refused(row | {"town": [1]}, "INVALID_ARGUMENT", "column 'town' is not one of feature view")
    refused(row | {"amount": ["many"]}, "INVALID_ARGUMENT", "'amount' of Arrow type string cannot")
    for target in ("offline", "online_and_offline"):
        refused(
            row, "FAILED_PRECONDITION", "'in_pandas' has no batch source of its own", target=target
        )
    faulty = request(
        {
            "user_id": ("int64_val", [user, user]),
            "amount": ("int64_val", [1, 2]),
            "cart_value": ("double_val", [1.0, 2.0]),
        },
        times=[NOW, NOW],
        feature_view="asked",
    )
    faulty.columns.columns["cart_value"].val[1].string_val = "much"
    answer = push_pb2.PushResponse.FromString(
        served.call("/hotfeast.serving.v1.Push/Push", faulty.SerializeToString())
    )
    assert list(answer.outcomes) == [1, 3]
    assert answer.rejections[0].field == "cart_value"
    assert both_read(served, ["asked:asked_share"], {"user_id": user}) == {"asked_share": [1.0]}


def test_feasts_own_methods(served: Served, user: int) -> None:
    stub = GrpcFeatureServerStub(served.channel)
    texts = {
        "user_id": str(user), "amount": "21", "score": "0.5", "city": "Ulm", "active": "true",
        "since": NOW.isoformat(), "recent": "[1]", "extra": "x",
    }  # fmt: skip
    before = datetime.now(UTC)
    write = WriteToOnlineStoreRequest(features=texts, feature_view_name="in_pandas")
    assert stub.WriteToOnlineStore(write).status
    assert both_read(served, IN_PANDAS[:1], {"user_id": user}) == {"twice": [42]}
    answer = served.client.get_online_features(IN_PANDAS[:1], {"user_id": [user]})
    written_at = answer.event_timestamps["twice"][0]
    assert written_at is not None
    assert before <= written_at <= datetime.now(UTC)
    # An event time that is given counts.
    old = texts | {"amount": "1", "event_timestamp": (NOW - timedelta(days=1)).isoformat()}
    stub.WriteToOnlineStore(WriteToOnlineStoreRequest(features=old, feature_view_name="in_pandas"))
    typed = {
        "user_id": Value(int64_val=user),
        "amount": Value(int64_val=2),
        "cart_value": Value(double_val=3.0),
    }
    write = WriteToOnlineStoreRequest(typed_features=typed, feature_view_name="asked")
    assert stub.WriteToOnlineStore(write).status
    read = both_read(served, [IN_PANDAS[0], "asked:asked_share"], {"user_id": user})
    assert read == {"twice": [42], "asked_share": [1.5]}
    lacking = {name: text for name, text in texts.items() if name != "city"}
    write = WriteToOnlineStoreRequest(features=lacking, feature_view_name="in_pandas")
    with pytest.raises(grpc.RpcError, match="missing column 'city'") as error:
        stub.WriteToOnlineStore(write)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    write.features.update(texts | {"amount": "13"})
    with pytest.raises(grpc.RpcError, match="planned by the test") as error:
        stub.WriteToOnlineStore(write)
    assert error.value.code() == grpc.StatusCode.INTERNAL
    with pytest.raises(grpc.RpcError, match="no push source"):
        stub.Push(PushRequest(features=texts, stream_feature_view="in_pandas", to="online"))


def test_the_plan_shows_it_as_read(lake: Lake) -> None:
    shown = run_cli("plan", "written", "--repo", str(lake.folder))
    assert shown.returncode == 0, shown.stderr
    reads, computes, _ = shown.stdout.partition("Computes")
    assert "Reads from Redis" in reads
    assert "in_pandas" in reads
    assert "twice, ratio, label, often" in " ".join(reads.split())
    assert not computes


def test_functions_of_the_registry_are_not_run_where_files_decide(lake: Lake, user: int) -> None:
    """`--transforms-from repo`: no file defines the view, so it is refused by name."""
    settings = Settings(repo=lake.folder, transforms_from="repo")
    served = serve(lake.fresh(), settings)
    try:
        with pytest.raises(HotfeastError, match="in_pandas") as error:
            served.client.push(inputs({"user_id": user}), feature_view="in_pandas")
        assert error.value.code.name == "FAILED_PRECONDITION"
    finally:
        stop(served)
