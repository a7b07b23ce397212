"""Answers against Feast's own: the values that its SDK reads, the messages that its stubs read."""

import itertools
from typing import Any

import market
import pytest
from feast.protos.feast.serving.GrpcServer_pb2_grpc import GrpcFeatureServerStub
from feast.protos.feast.serving.ServingService_pb2 import (
    FieldStatus,
    GetFeastServingInfoRequest,
    GetOnlineFeaturesRequest,
    GetOnlineFeaturesResponse,
)
from feast.protos.feast.serving.ServingService_pb2_grpc import ServingServiceStub
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
from served import Served

from hotfeast.serving.v1 import serving_pb2

USERS = [1, 2, 3, -4, 2**40, 99, 1, 3]
ROWS = [{"user_id": u, "sku": k} for u, k in itertools.product(USERS, [*market.SKUS, "none"])]

# Selection, full feature names, rows. The two aliases of `route` clash without full names.
SELECTIONS: list[tuple[str | list[str], bool, list[dict[str, Any]]]] = [
    ("everything", False, ROWS),
    ("everything", True, ROWS),
    ("users", False, [{"user_id": u} for u in USERS]),
    ("part", False, [{"user_id": u} for u in USERS]),
    (
        "route",
        True,
        [{"origin_id": a, "destination_id": b} for a in (7, -8, 5) for b in (7, -8)],
    ),
    (["user_stats:city", "affinity:score", "user_stats:visits"], False, ROWS),
    (["product_stats:price"], True, [{"sku": s} for s in market.SKUS]),
]


def sdk_answer(served: Served, selection: str | list[str], rows: Any, full: bool) -> Any:
    features: Any = selection
    if isinstance(selection, str):
        features = served.store.get_feature_service(selection)
    return served.store.get_online_features(
        features=features, entity_rows=rows, full_feature_names=full
    ).proto


def request_for(
    selection: str | list[str], rows: list[dict[str, Any]], full: bool
) -> GetOnlineFeaturesRequest:
    """The request as Feast's own stubs make it; locations are int32 in the registry."""
    request = GetOnlineFeaturesRequest(full_feature_names=full)
    if isinstance(selection, str):
        request.feature_service = selection
    else:
        request.features.val.extend(selection)
    for name in rows[0]:
        if isinstance(rows[0][name], str):
            values = [Value(string_val=row[name]) for row in rows]
        elif name in ("origin_id", "destination_id"):
            values = [Value(int32_val=row[name]) for row in rows]
        else:
            values = [Value(int64_val=row[name]) for row in rows]
        request.entities[name].CopyFrom(RepeatedValue(val=values))
    return request


def columns(proto: Any) -> dict[str, Any]:
    names = list(proto.metadata.feature_names.val)
    assert len(names) == len(set(names)) == len(proto.results)
    return dict(zip(names, proto.results, strict=True))


@pytest.mark.parametrize(("selection", "full", "rows"), SELECTIONS)
def test_feast_mode_is_the_sdk_answer(
    lenient: Served, selection: str | list[str], full: bool, rows: list[dict[str, Any]]
) -> None:
    stub = GrpcFeatureServerStub(lenient.channel)
    ours = columns(stub.GetOnlineFeatures(request_for(selection, rows, full)))
    feast = columns(sdk_answer(lenient, selection, rows, full))
    assert set(ours) == set(feast)
    for name, vector in feast.items():
        assert ours[name] == vector, name


@pytest.mark.parametrize(("selection", "full", "rows"), SELECTIONS)
def test_strict_mode_has_the_sdk_values_where_they_may_be_served(
    strict: Served, selection: str | list[str], full: bool, rows: list[dict[str, Any]]
) -> None:
    stub = ServingServiceStub(strict.channel)
    ours = columns(stub.GetOnlineFeatures(request_for(selection, rows, full)))
    feast = columns(sdk_answer(strict, selection, rows, full))
    assert set(ours) == set(feast)
    seen = set()
    for name, vector in feast.items():
        mine = ours[name]
        assert len(mine.values) == len(mine.statuses) == len(mine.event_timestamps) == len(rows)
        for i, value in enumerate(vector.values):
            seen.add(mine.statuses[i])
            time = vector.event_timestamps[i]
            if name in rows[0]:
                assert (mine.statuses[i], mine.values[i]) == (FieldStatus.PRESENT, value)
            elif time.seconds == 0:
                assert mine.statuses[i] == FieldStatus.NOT_FOUND
                assert mine.values[i] == Value()
            elif (
                time.seconds == int(market.OLD.timestamp())
                and "price" not in name
                and ("stock" not in name)
            ):
                assert mine.statuses[i] == FieldStatus.OUTSIDE_MAX_AGE
                assert mine.values[i] == Value()
                assert mine.event_timestamps[i] == time
            else:
                null = value.WhichOneof("val") is None
                expected = FieldStatus.NULL_VALUE if null else FieldStatus.PRESENT
                assert (mine.statuses[i], mine.values[i]) == (expected, value)
                assert mine.event_timestamps[i] == time
    if selection == "everything" and not full:
        assert seen == {
            FieldStatus.PRESENT,
            FieldStatus.NULL_VALUE,
            FieldStatus.NOT_FOUND,
            FieldStatus.OUTSIDE_MAX_AGE,
        }


def test_join_keys_come_first_then_views_in_order(strict: Served) -> None:
    references = ["affinity:score", "user_stats:city", "product_stats:stock", "user_stats:visits"]
    answer = strict.client.get_online_features(references, {"sku": ["a"], "user_id": [1]})
    assert set(answer.names[:2]) == {"sku", "user_id"}
    # Features of one view stand together, as Feast groups them.
    assert answer.names[2:] == ["score", "city", "visits", "stock"]


def test_int32_and_int64_keys_find_the_same_row(strict: Served) -> None:
    stub = ServingServiceStub(strict.channel)
    for name, other in (("int32_val", "int64_val"), ("int64_val", "int32_val")):
        request = GetOnlineFeaturesRequest(feature_service="part")
        request.entities["user_id"].val.add(**{name: 1})
        assert columns(stub.GetOnlineFeatures(request))["visits"].values[0].int64_val == 10
        request = GetOnlineFeaturesRequest(feature_service="route", full_feature_names=True)
        request.entities["origin_id"].val.add(**{other: 7})
        request.entities["destination_id"].val.add(**{name: -8})
        answer = columns(stub.GetOnlineFeatures(request))
        temperatures = [answer[f"{a}__temperature"] for a in ("origin", "destination")]
        assert [t.values[0].double_val for t in temperatures] == [20.5, -3.0]


def test_service_needs_full_names_where_aliases_share_features(strict: Served) -> None:
    rows = {"origin_id": [7], "destination_id": [-8]}
    with pytest.raises(Exception, match="'origin:temperature' and 'destination:temperature'"):
        strict.client.get_online_features("route", rows)
    answer = strict.client.get_online_features("route", rows, full_feature_names=True)
    assert answer.to_dict()["origin__temperature"] == [20.5]


def test_entityless_view(strict: Served, lenient: Served) -> None:
    alone = strict.client.get_online_features("world_service")
    assert alone.to_dict() == {"exchange_rate": [1.08]}
    # Feast's clients send the dummy key to say how many rows they want.
    dummy = lenient.client.get_online_features("world_service", {"__dummy_id": ["", ""]})
    assert dummy.to_dict() == {"exchange_rate": [1.08, 1.08]}
    mixed = strict.client.get_online_features("mixed", {"user_id": [1, 99]})
    assert mixed.to_dict() == {
        "user_id": [1, 99],
        "exchange_rate": [1.08, 1.08],
        "spend": [1.5, None],
    }


def test_deprecated_entity_name_is_understood(strict: Served) -> None:
    answer = strict.client.get_online_features("part", {"user": [1]})
    assert answer.to_dict() == {"user_id": [1], "spend": [1.5], "visits": [10]}


def test_version_metadata(strict: Served) -> None:
    stub = ServingServiceStub(strict.channel)
    request = GetOnlineFeaturesRequest(
        feature_service="part", include_feature_view_version_metadata=True
    )
    request.entities["user_id"].val.add(int64_val=1)
    sdk = strict.store.get_online_features(
        strict.store.get_feature_service("part"),
        [{"user_id": 1}],
        include_feature_view_version_metadata=True,
    ).proto
    ours = stub.GetOnlineFeatures(request)
    assert list(ours.metadata.feature_view_metadata) == list(sdk.metadata.feature_view_metadata)
    assert ours.metadata.feature_view_metadata[0].name == "user_stats"


def test_our_messages_and_feasts_are_one_wire_format(strict: Served) -> None:
    request = request_for("everything", ROWS, False)
    data = serving_pb2.GetOnlineFeaturesRequest.FromString(request.SerializeToString())
    assert GetOnlineFeaturesRequest.FromString(data.SerializeToString()) == request
    answer = strict.call(
        "/hotfeast.serving.v1.FeatureServing/GetOnlineFeatures", data.SerializeToString()
    )
    theirs = GetOnlineFeaturesResponse.FromString(answer)
    ours = serving_pb2.GetOnlineFeaturesResponse.FromString(answer)
    # Maps inside values have no order, so bytes are compared in protobuf's deterministic form.
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(
        deterministic=True
    )


def test_feasts_serving_info(strict: Served) -> None:
    info = ServingServiceStub(strict.channel).GetFeastServingInfo(GetFeastServingInfoRequest())
    assert info.version == strict.client.serving_info().version
