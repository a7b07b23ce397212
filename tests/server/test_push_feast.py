"""Feast's own `Push` and `WriteToOnlineStore`, called with Feast's generated stubs."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pandas as pd
import pushing
import pytest
from feast import FeatureStore
from feast.protos.feast.serving.GrpcServer_pb2 import PushRequest, WriteToOnlineStoreRequest
from feast.protos.feast.serving.GrpcServer_pb2_grpc import GrpcFeatureServerStub
from feast.protos.feast.types.Value_pb2 import Value
from pushing import NOW
from served import Served, serving

from hotfeast.hotpath.columns import ValueColumn
from hotfeast.server.local_redis import LocalRedis

TIME = NOW.isoformat()


@pytest.fixture(scope="module")
def served(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("feast_pushed")
    with serving(pushing.write_repository(folder, "feast_pushed", redis_server.address)) as gateway:
        yield gateway


@pytest.fixture
def stub(served: Served) -> Any:
    return GrpcFeatureServerStub(served.channel)


_users = iter(range(1000, 10**9, 100))


@pytest.fixture
def user() -> int:
    """A user that no other test writes."""
    return next(_users)


def clicks(user: int, **more: str) -> dict[str, str]:
    row = {"user_id": str(user), "n": "3", "kind": "view", "happened": TIME, "created": TIME}
    return row | more


def feast_reads(store: FeatureStore, references: list[str], user: int) -> dict[str, Any]:
    answer = store.get_online_features(references, [{"user_id": user}]).to_dict()
    return {name: values[0] for name, values in answer.items()}


CLICKS = ["click_counts:clicks", "click_kinds:kind"]


def test_texts_become_what_the_fields_are(served: Served, stub: Any, user: int) -> None:
    texts = {
        "a_bytes": "ab",
        "a_string": "12",
        "an_int32": "-7",
        "an_int64": str(2**62 + 1),
        "a_double": "1e300",
        "a_float": "0.5",
        "a_bool": "True",
        "a_time": TIME,
        "some_bytes": "[]",
        "some_strings": '["a", "ß"]',
        "some_int32": "[1, -2]",
        "some_int64": "[4611686018427387904]",
        "some_doubles": "[0.1, 2]",
        "some_floats": "[0.5]",
        "some_bools": "[true, false]",
        "some_times": "[]",
        "a_map": '{"k": "v"}',
    }
    assert texts.keys() == pushing.TYPES.keys()
    row = texts | {"user_id": str(user), "event_timestamp": TIME, "nobody's": "x"}
    answer = stub.Push(PushRequest(features=row, stream_feature_view="anything", to="online"))
    assert answer.status
    assert feast_reads(served.store, [f"everything:{n}" for n in texts], user) == {
        "user_id": user,
        "a_bytes": b"ab",
        "a_string": "12",
        "an_int32": -7,
        "an_int64": 2**62 + 1,
        "a_double": 1e300,
        "a_float": 0.5,
        "a_bool": True,
        "a_time": NOW,
        "some_bytes": [],
        "some_strings": ["a", "ß"],
        "some_int32": [1, -2],
        "some_int64": [2**62],
        "some_doubles": [0.1, 2.0],
        "some_floats": [0.5],
        "some_bools": [True, False],
        "some_times": [],
        "a_map": {"k": "v"},
    }


def test_typed_features(served: Served, stub: Any, user: int) -> None:
    later = pd.Timestamp(NOW) + pd.Timedelta(1500, "ns")
    row = {
        "user_id": Value(int64_val=user),
        "n": Value(int32_val=4),
        "kind": Value(),
        "happened": Value(string_val=later.isoformat()),
        "created": Value(unix_timestamp_val=int(NOW.timestamp())),
        "extra": Value(bool_val=True),
    }
    request = PushRequest(typed_features=row, stream_feature_view="clicks", to="online")
    assert stub.Push(request).status
    assert feast_reads(served.store, CLICKS, user) == {"user_id": user, "clicks": 4, "kind": None}
    # To the nanosecond: what is a microsecond older is stale, and that is no error.
    request.typed_features["n"].int64_val = 5
    request.typed_features["happened"].string_val = (later - pd.Timedelta(1, "ns")).isoformat()
    assert stub.Push(request).status
    assert feast_reads(served.store, CLICKS, user)["clicks"] == 4


def test_write_to_online_store(served: Served, stub: Any, user: int) -> None:
    row = {"user_id": str(user), "n": "8", "happened": TIME, "kind": "ignored"}
    request = WriteToOnlineStoreRequest(features=row, feature_view_name="click_counts")
    assert stub.WriteToOnlineStore(request).status
    assert feast_reads(served.store, CLICKS, user) == {"user_id": user, "clicks": 8, "kind": None}
    typed = {
        "user_id": Value(int64_val=user),
        "n": Value(int64_val=9),
        "happened": Value(unix_timestamp_val=int(NOW.timestamp()) + 1),
    }
    request = WriteToOnlineStoreRequest(typed_features=typed, feature_view_name="click_counts")
    assert stub.WriteToOnlineStore(request).status
    assert feast_reads(served.store, CLICKS, user)["clicks"] == 9


@pytest.mark.parametrize("to", ["offline", "online_and_offline"])
def test_offline(served: Served, stub: Any, user: int, to: str) -> None:
    features = clicks(user, happened=(NOW - timedelta(hours=1)).isoformat())
    assert stub.Push(PushRequest(features=features, stream_feature_view="clicks", to=to)).status
    frame = pd.read_parquet(Path(str(served.store.repo_path)) / "clicks.parquet")
    [row] = frame[frame["user_id"] == user].to_dict("records")
    assert (row["n"], row["kind"]) == (3, "view")
    assert row["happened"] == pd.Timestamp(NOW - timedelta(hours=1))
    stored = feast_reads(served.store, CLICKS, user)["clicks"]
    assert stored == (None if to == "offline" else 3)


@pytest.mark.parametrize(
    ("change", "to", "code", "words"),
    [
        ({}, "nowhere", "INVALID_ARGUMENT", "to is 'nowhere'; use one of 'online'"),
        ({"n": "three"}, "online", "INVALID_ARGUMENT", "'n' is 'three'.* INT64"),
        ({"happened": "soon"}, "online", "INVALID_ARGUMENT", "'happened' is 'soon'"),
        ({"happened": ""}, "online", "INVALID_ARGUMENT", "'happened' is missing"),
        ({"happened": "2999-01-01"}, "online", "INVALID_ARGUMENT", "future"),
        ({"kind": "steal"}, "online_and_offline", "INVALID_ARGUMENT", "'steal'.* view, buy"),
    ],
)
def test_what_is_wrong_is_told(
    served: Served, stub: Any, user: int, change: dict[str, str], to: str, code: str, words: str
) -> None:
    features = clicks(user) | change
    with pytest.raises(grpc.RpcError, match=words) as error:
        stub.Push(PushRequest(features=features, stream_feature_view="clicks", to=to))
    assert error.value.code().name == code
    assert feast_reads(served.store, CLICKS, user)["clicks"] is None


def test_unknown_sources_and_both_maps(stub: Any, user: int) -> None:
    with pytest.raises(grpc.RpcError, match="no push source 'click'; did you mean") as error:
        stub.Push(PushRequest(features=clicks(user), stream_feature_view="click", to="online"))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError, match="no feature view 'click'") as error:
        stub.WriteToOnlineStore(
            WriteToOnlineStoreRequest(features=clicks(user), feature_view_name="click")
        )
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    both = PushRequest(
        features=clicks(user),
        typed_features={"user_id": Value(int64_val=user)},
        stream_feature_view="clicks",
        to="online",
    )
    with pytest.raises(grpc.RpcError, match="not both") as error:
        stub.Push(both)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError, match="missing column") as error:
        stub.Push(PushRequest(stream_feature_view="clicks", to="online"))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_an_offline_failure_is_told(served: Served, stub: Any, user: int) -> None:
    row = {"user_id": str(user), "verdict": "good", "labeler": "ann", "event_timestamp": TIME}
    request = PushRequest(features=row, stream_feature_view="verdicts", to="online_and_offline")
    with pytest.raises(grpc.RpcError, match=r"'labels'.*nowhere\.parquet") as error:
        stub.Push(request)
    assert error.value.code() == grpc.StatusCode.INTERNAL


def test_values_have_the_same_bytes_in_both_protocols() -> None:
    # What typed features rely on.
    data = Value(string_val="a").SerializeToString()
    column = ValueColumn.from_values(2, b"\x0a" + bytes([len(data)]) + data)
    assert column.values == [data]
