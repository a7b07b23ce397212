"""Every refusal has the right code and names what is wrong; nothing takes the gateway down."""

from collections.abc import Iterator

import grpc
import pytest
import redis
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from served import Served

from hotfeast.clients import HotfeastError
from hotfeast.server.local_redis import LocalRedis
from hotfeast.serving.v1 import serving_pb2, value_pb2

METHOD = "/hotfeast.serving.v1.FeatureServing/GetOnlineFeatures"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
INTERNAL = grpc.StatusCode.INTERNAL
USER_1 = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=1)])

CASES = [
    ("evrything", {"user_id": [1]}, NOT_FOUND, ["'evrything'", "'everything'"]),
    (["user_stat:city"], {"user_id": [1]}, NOT_FOUND, ["'user_stat'", "'user_stats'"]),
    (["user_stats:citty"], {"user_id": [1]}, NOT_FOUND, ["'citty'", "'city'", "'user_stats'"]),
    (["city"], {"user_id": [1]}, INVALID, ["'city'", "view:feature"]),
    (["user_stats:"], {"user_id": [1]}, INVALID, ["'user_stats:'", "view:feature"]),
    (["user_stats:city"] * 2, {"user_id": [1]}, INVALID, ["user_stats:city", "twice"]),
    ([], {"user_id": [1]}, INVALID, ["feature"]),
    ("users", {}, INVALID, ["missing", "'user_id'"]),
    ("everything", {"user_id": [1]}, INVALID, ["missing", "'sku'"]),
    ("users", {"userid": [1]}, INVALID, ["'userid'", "'user_id'"]),
    ("users", {"user_id": [1], "sku": ["a"]}, INVALID, ["'sku'", "'user_id'"]),
    ("users", {"user_id": [1], "user": [1]}, INVALID, ["'user_id'", "'user'", "twice"]),
    ("users", {"user_id": [1, None]}, INVALID, ["'user_id'", "null", "row 1"]),
    ("users", {"user_id": ["1"]}, INVALID, ["'user_id'", "INT64", "STRING"]),
    ("users", {"user_id": [1.0]}, INVALID, ["'user_id'", "INT64", "DOUBLE"]),
    ("users", {"user_id": [1, "1"]}, INVALID, ["'user_id'", "mixed", "row 1"]),
    ("everything", {"user_id": [1], "sku": [5]}, INVALID, ["'sku'", "STRING", "INT64"]),
    ("everything", {"user_id": [1, 2], "sku": ["a"]}, INVALID, ["'user_id' has 2", "'sku' has 1"]),
    ("route", {"origin_id": [2**40], "destination_id": [1]}, INVALID, ["'origin_id'", "INT32"]),
    ("hidden_service", {"user_id": [1]}, PRECONDITION, ["'hidden'", "online=False"]),
    (["hidden:secret"], {"user_id": [1]}, PRECONDITION, ["'hidden'", "online=False"]),
    ("cart_service", {"user_id": [1]}, INVALID, ["'cart_value'", "missing request data"]),
    ("failing_service", {"user_id": [1]}, INTERNAL, ["'failing'", "planned by the test"]),
]


@pytest.mark.parametrize(("features", "entities", "code", "parts"), CASES)
def test_refusals_name_what_is_wrong(
    strict: Served,
    features: str | list[str],
    entities: dict[str, list[object]],
    code: grpc.StatusCode,
    parts: list[str],
) -> None:
    full = features == "route"
    with pytest.raises(HotfeastError) as error:
        strict.client.get_online_features(features, entities, full_feature_names=full)
    assert error.value.code == code, error.value.message
    for part in parts:
        assert part in error.value.message


@pytest.mark.parametrize(
    ("context", "parts"),
    [
        ({"cart_valu": [1.0]}, ["'cart_value'"]),
        ({"cart_value": [1.0], "extra": [1.0]}, ["'extra'", "'cart_value'"]),
        ({"cart_value": [1.0, 2.0]}, ["'cart_value' has 2", "'user_id' has 1"]),
    ],
)
def test_request_context_refusals(
    strict: Served, context: dict[str, list[float]], parts: list[str]
) -> None:
    with pytest.raises(HotfeastError) as error:
        strict.client.get_online_features("cart_service", {"user_id": [1]}, request_context=context)
    assert error.value.code == INVALID
    for part in parts:
        assert part in error.value.message


def test_request_context_where_none_is_needed(strict: Served) -> None:
    with pytest.raises(HotfeastError, match="'x', but this request needs no request data"):
        strict.client.get_online_features("users", {"user_id": [1]}, request_context={"x": [1]})


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"\x0a\x05abc", b"\x0a\x03abc\x1a\xff\xff\xff\xff\x0f", b"\x0a\x01\xff"],
)
def test_hostile_bytes_are_refused(strict: Served, data: bytes) -> None:
    with pytest.raises(grpc.RpcError) as error:
        strict.call(METHOD, data)
    assert error.value.code() == INVALID


def test_unusual_but_valid_encodings_are_served(strict: Served) -> None:
    """A map key twice (the last wins) and unknown fields within a column."""
    column = value_pb2.RepeatedValue(val=[value_pb2.Value(int64_val=1)]).SerializeToString()
    other = value_pb2.RepeatedValue(val=[value_pb2.Value(int64_val=99)]).SerializeToString()
    unknown = column + b"\x12\x03abc"

    def entry(values: bytes) -> bytes:
        body = b"\x0a\x07user_id\x12" + bytes([len(values)]) + values
        return b"\x1a" + bytes([len(body)]) + body

    answer = strict.call(METHOD, b"\x0a\x04part" + entry(other) + entry(unknown))
    message = serving_pb2.GetOnlineFeaturesResponse.FromString(answer)
    assert [v.values[0].int64_val for v in message.results if v.values[0].int64_val] == [1, 10]


def test_empty_columns_give_no_rows(strict: Served) -> None:
    answer = strict.client.get_online_features("part", {"user_id": []})
    assert answer.to_dict() == {"user_id": [], "spend": [], "visits": []}


def test_ten_thousand_entities(strict: Served) -> None:
    ids = [i % 5000 for i in range(10_000)]
    answer = strict.client.get_online_features("part", {"user_id": ids}, timeout=30)
    assert len(answer) == 10_000
    spend = answer.to_dict()["spend"]
    assert [spend[1], spend[5001], spend[2], spend[3], spend[4]] == [1.5, 1.5, None, None, None]


@pytest.mark.parametrize("field", ["visits", "_ts"])
def test_corrupt_rows_are_data_loss(strict: Served, redis_server: LocalRedis, field: str) -> None:
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=777)])
    name = b"_ts:user_stats" if field == "_ts" else _mmh3("user_stats:visits")
    raw = redis_server.client()
    time = raw.hget(_redis_key("market", USER_1), "_ts:user_stats")
    raw.hset(_redis_key("market", key), mapping={b"_ts:user_stats": time, name: b"\xff\xff"})
    try:
        with pytest.raises(HotfeastError) as error:
            strict.client.get_online_features("users", {"user_id": [1, 777]})
        assert error.value.code == grpc.StatusCode.DATA_LOSS
        for part in ("'user_stats'", "user_id=777", "timestamp" if field == "_ts" else "'visits'"):
            assert part in error.value.message
        assert strict.client.get_online_features("users", {"user_id": [1]}).to_dict()["visits"]
    finally:
        raw.delete(_redis_key("market", key))


@pytest.fixture
def corrupt_user(redis_server: LocalRedis) -> Iterator[int]:
    """A user whose `user_stats` row cannot be read, and whose `affinity` row for "a" can."""
    raw = redis_server.client()
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=779)])
    time = raw.hget(_redis_key("market", USER_1), "_ts:user_stats")
    raw.hset(
        _redis_key("market", key),
        mapping={b"_ts:user_stats": time, _mmh3("user_stats:spend"): b"\xff\xff"},
    )
    yield 779
    raw.delete(_redis_key("market", key))


def test_a_partial_answer_has_the_other_rows(strict: Served, corrupt_user: int) -> None:
    answer = strict.client.get_online_features(
        ["user_stats:visits", "user_stats:spend", "affinity:score"],
        {"user_id": [1, corrupt_user, 1, corrupt_user], "sku": ["a"] * 4},
        allow_partial_response=True,
    )
    values = answer.to_dict()
    assert values["visits"] == [10, None, 10, None]
    assert values["score"] == [0.1, None, 0.1, None]
    assert answer.statuses["visits"] == ["PRESENT", "INVALID", "PRESENT", "INVALID"]
    assert answer.statuses["score"] == ["PRESENT", "NOT_FOUND", "PRESENT", "NOT_FOUND"]
    (error,) = answer.row_errors
    assert (error.feature_view, list(error.rows)) == ("user_stats", [1, 3])
    assert error.code == grpc.StatusCode.DATA_LOSS.value[0]
    assert "user_id=779: the stored feature 'spend'" in error.message
    whole = strict.client.get_online_features("part", {"user_id": [1]}, allow_partial_response=True)
    assert whole.row_errors == []


def test_nothing_is_computed_from_what_cannot_be_read(strict: Served, corrupt_user: int) -> None:
    request = ("cart_service", {"user_id": [1, corrupt_user]})
    context = {"cart_value": [3.0, 3.0]}
    with pytest.raises(HotfeastError, match="DATA_LOSS"):
        strict.client.get_online_features(*request, request_context=context)
    answer = strict.client.get_online_features(
        *request, request_context=context, allow_partial_response=True
    )
    assert answer.to_dict()["cart_share"] == [2.0, None]
    assert answer.statuses["cart_share"] == ["PRESENT", "INVALID"]
    assert [list(e.rows) for e in answer.row_errors] == [[1]]


def test_stale_values_are_sent_when_asked_for(strict: Served) -> None:
    fresh = strict.client.get_online_features("part", {"user_id": [1, 3]})
    assert fresh.to_dict()["spend"] == [1.5, None]
    stale = strict.client.get_online_features(
        "part", {"user_id": [1, 3]}, include_stale_values=True
    )
    assert stale.to_dict()["spend"] == [1.5, 3.0]
    for answer in (fresh, stale):
        assert answer.statuses["spend"] == ["PRESENT", "OUTSIDE_MAX_AGE"]


def test_redis_errors_are_told_and_the_connection_goes_on(
    strict: Served, redis_server: LocalRedis
) -> None:
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=778)])
    raw: redis.Redis = redis_server.client()
    raw.set(_redis_key("market", key), "a string, not a hash")
    try:
        for _ in range(3):
            with pytest.raises(HotfeastError, match="INTERNAL: Redis: WRONGTYPE"):
                strict.client.get_online_features("users", {"user_id": [1, 778, 2]})
            assert strict.client.get_online_features("part", {"user_id": [1]}).to_dict() == {
                "user_id": [1],
                "spend": [1.5],
                "visits": [10],
            }
    finally:
        raw.delete(_redis_key("market", key))
