"""Pushes through the gateway: what Feast's SDK and the gateway read back, and what is refused."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pushing
import pyarrow as pa
import pytest
from feast import FeatureStore, Field
from feast.types import Int64
from figures import scrape
from processes import Process
from pushing import NOW, request
from served import Served, serve, serving, stop

from hotfeast.clients import FeatureClient, HotfeastError, RowsNotWritten
from hotfeast.hotpath.writes import SCRIPT_SHA
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.serving.v1 import push_pb2, push_pb2_grpc

WRITTEN, STALE, REJECTED, FAILED = 1, 2, 3, 4
ONLINE = push_pb2.PUSH_TARGET_ONLINE
OFFLINE = push_pb2.PUSH_TARGET_OFFLINE
BOTH = push_pb2.PUSH_TARGET_ONLINE_AND_OFFLINE


@pytest.fixture(scope="module")
def pushed_store(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("pushed")
    return pushing.write_repository(folder, "pushed", redis_server.address)


@pytest.fixture(scope="module")
def served(pushed_store: FeatureStore) -> Iterator[Served]:
    with serving(pushed_store) as gateway:
        yield gateway


_users = iter(range(1000, 10**9, 100))


@pytest.fixture
def user() -> int:
    """A user that no other test writes."""
    return next(_users)


def push(served: Served, message: push_pb2.PushRequest, timeout: float = 10) -> Any:
    stub: Any = push_pb2_grpc.PushStub(served.channel)  # type: ignore[no-untyped-call]
    return stub.Push(message, timeout=timeout)


def scores(users: list[int], values: list[float | None], times: list[datetime], **to: Any) -> Any:
    columns: dict[str, tuple[str, list[Any]]] = {
        "user_id": ("int64_val", users),
        "score": ("double_val", values),
        "since": ("unix_timestamp_val", [NOW] * len(users)),
    }
    return request(columns, times, **({"feature_view": "scores"} | to))


def read(served: Served, references: list[str], entities: dict[str, list[Any]]) -> dict[str, Any]:
    return served.client.get_online_features(references, entities).to_dict()


def feast_reads(store: FeatureStore, references: list[str], rows: list[dict[str, Any]]) -> Any:
    return store.get_online_features(references, rows).to_dict()


def refused(served: Served, message: push_pb2.PushRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        push(served, message)
    return error.value.code(), error.value.details() or ""


@pytest.mark.parametrize("form", ["protobuf", "arrow"])
def test_feast_reads_every_type_back(served: Served, user: int, form: str) -> None:
    users = [user, user + 1, user + 2]
    values = {n: [first, second, None] for n, (_, first, second) in pushing.TYPES.items()}
    if form == "protobuf":
        columns: dict[str, Any] = {"user_id": ("int64_val", users)}
        columns |= {n: (pushing.MEMBERS[n], v) for n, v in values.items()}
        answer = push(served, request(columns, [NOW] * 3, push_source="anything"))
        assert list(answer.outcomes) == [WRITTEN] * 3
    else:
        values |= {"user_id": users, "event_timestamp": [NOW] * 3}
        result = served.client.push(values, push_source="anything")
        assert result.ok, result.rejections
        assert result.outcomes == ["written"] * 3
    references = [f"everything:{n}" for n in pushing.TYPES]
    theirs = feast_reads(served.store, references, [{"user_id": u} for u in users])
    ours = read(served, references, {"user_id": users})
    for name, (_, first, second) in pushing.TYPES.items():
        expected = [first, second, None]
        assert theirs[name] == expected, name
        assert ours[name] == expected, name


def test_what_feast_has_written_is_compared(served: Served, user: int) -> None:
    served.store.write_to_online_store(
        "scores",
        pd.DataFrame(
            {
                "user_id": [user, user + 1],
                "event_timestamp": [NOW, NOW - timedelta(hours=2)],
                "score": [1.0, 1.0],
                "since": [NOW, NOW],
            }
        ),
    )
    hour_ago = [NOW - timedelta(hours=1)] * 2
    answer = push(served, scores([user, user + 1], [2.0, 2.0], hour_ago))
    assert list(answer.outcomes) == [STALE, WRITTEN]
    assert read(served, ["scores:score"], {"user_id": [user, user + 1]})["score"] == [1.0, 2.0]


def test_a_batch_answers_for_each_row(served: Served, user: int) -> None:
    push(served, scores([user], [1.0], [NOW]))
    users: list[Any] = [user, user + 1, None, user + 2]
    times = [NOW - timedelta(seconds=1), NOW, NOW, NOW + timedelta(days=2)]
    answer = push(served, scores(users, [2.0, 3.0, 4.0, 5.0], times, batch_id="mine"))
    assert answer.batch_id == "mine"
    assert list(answer.outcomes) == [STALE, WRITTEN, REJECTED, REJECTED]
    assert [(r.row, r.feature_view, r.field, r.rule) for r in answer.rejections] == [
        (2, "scores", "user_id", "null_key"),
        (3, "scores", "event_timestamp", "timestamp"),
    ]
    got = read(served, ["scores:score"], {"user_id": [user, user + 1, user + 2]})
    assert got["score"] == [1.0, 3.0, None]


def test_rows_of_one_entity_in_one_batch(served: Served, user: int) -> None:
    times = [NOW, NOW - timedelta(seconds=5), NOW + timedelta(seconds=1)]
    answer = push(served, scores([user] * 3, [1.0, 2.0, 3.0], times))
    assert list(answer.outcomes) == [WRITTEN, STALE, WRITTEN]
    assert read(served, ["scores:score"], {"user_id": [user]})["score"] == [3.0]


def test_nothing_to_push_is_fine(served: Served) -> None:
    empty = request(
        {
            "user_id": ("int64_val", []),
            "score": ("double_val", []),
            "since": ("unix_timestamp_val", []),
            "event_timestamp": ("unix_timestamp_val", []),
        },
        feature_view="scores",
    )
    assert list(push(served, empty).outcomes) == []


@pytest.mark.parametrize(
    ("field", "bad", "good"),
    [
        ("at_least", ("int64_val", 9), ("int64_val", 10)),
        ("at_most", ("double_val", 1.75), ("double_val", 1.5)),
        ("needed", ("string_val", None), ("string_val", "")),
        ("one_of", ("string_val", "blue"), ("string_val", "green")),
        ("short", ("string_val", "äöüß"), ("string_val", "äöü")),
        ("coded", ("string_val", "DEU"), ("string_val", "DE")),
        ("at_least", ("string_val", "ten"), ("int64_val", 11)),
    ],
)
def test_rules_reject_rows_before_anything_is_written(
    served: Served, user: int, field: str, bad: tuple[str, Any], good: tuple[str, Any]
) -> None:
    fine: dict[str, tuple[str, Any]] = {
        "at_least": ("int64_val", 20),
        "at_most": ("double_val", 0.0),
        "needed": ("string_val", "x"),
        "one_of": ("string_val", "red"),
        "short": ("string_val", "a"),
        "coded": ("string_val", "FR"),
    }
    rule = next(iter(pushing.CHECKED[field][1]))
    if bad[0] == "string_val" and good[0] != "string_val":
        rule = "type"
    message = request({"user_id": ("int64_val", [user, user + 1])}, feature_view="checked")
    for name, (member, value) in fine.items():
        column = message.columns.columns[name]
        for given in (bad, good) if name == field else ((member, value),) * 2:
            column.val.append(pushing.proto_value(*given))
    for _ in range(2):
        message.columns.event_timestamps.add().FromDatetime(NOW)
    answer = push(served, message)
    assert list(answer.outcomes) == [REJECTED, WRITTEN]
    [rejection] = answer.rejections
    assert (rejection.row, rejection.feature_view, rejection.field, rejection.rule) == (
        0,
        "checked",
        field,
        rule,
    )
    value = "null" if bad[1] is None else repr(bad[1])
    assert value in rejection.message
    assert field in rejection.message
    got = served.client.get_online_features([f"checked:{field}"], {"user_id": [user, user + 1]})
    assert got.statuses[field] == ["NOT_FOUND", "PRESENT"]


def clicks(
    users: list[Any], n: list[Any], kinds: list[str], times: list[datetime], **to: Any
) -> Any:
    columns: dict[str, tuple[str, list[Any]]] = {
        "user_id": ("int64_val", users),
        "n": ("int64_val", n),
        "kind": ("string_val", kinds),
    }
    created = to.pop("created", [NOW] * len(users))
    return request(columns, times, created, **({"push_source": "clicks"} | to))


CLICKS = ["click_counts:clicks", "click_kinds:kind"]


def test_a_push_source_feeds_all_its_views_or_none(
    served: Served, user: int, redis_server: LocalRedis
) -> None:
    users = [user, user + 1, user + 2]
    before: Any = redis_server.client().dbsize()
    answer = push(served, clicks(users, [1, 2, None], ["view", "steal", "buy"], [NOW] * 3))
    # The unknown kind breaks a rule of one view; the row is in no other either.
    assert list(answer.outcomes) == [WRITTEN, REJECTED, WRITTEN]
    assert [(r.row, r.feature_view, r.rule) for r in answer.rejections] == [
        (1, "click_kinds", "allowed")
    ]
    assert redis_server.client().dbsize() == before + 2
    got = read(served, CLICKS, {"user_id": users})
    assert got["clicks"] == [1, None, None]
    assert got["kind"] == ["view", None, "buy"]


def test_stale_in_one_view_is_stale(served: Served, user: int) -> None:
    later = NOW + timedelta(minutes=1)
    one = request(
        {"user_id": ("int64_val", [user]), "n": ("int64_val", [9])},
        [later],
        feature_view="click_counts",
    )
    assert list(push(served, one).outcomes) == [WRITTEN]
    answer = push(served, clicks([user], [1], ["view"], [NOW]))
    assert list(answer.outcomes) == [STALE]
    got = read(served, CLICKS, {"user_id": [user]})
    assert (got["clicks"], got["kind"]) == ([9], ["view"])


def test_created_time_decides_between_equal_event_times(served: Served, user: int) -> None:
    early, late = [NOW - timedelta(microseconds=2)], [NOW - timedelta(microseconds=1)]
    assert list(push(served, clicks([user], [2], ["buy"], [NOW], created=late)).outcomes) == [1]
    assert list(push(served, clicks([user], [1], ["view"], [NOW], created=early)).outcomes) == [2]
    assert read(served, CLICKS, {"user_id": [user]})["clicks"] == [2]


def test_label_and_entityless_views(served: Served, user: int) -> None:
    labels = request(
        {
            "user_id": ("int64_val", [user]),
            "verdict": ("string_val", ["good"]),
            "labeler": ("string_val", ["ann"]),
        },
        [NOW],
        push_source="verdicts",
    )
    assert list(push(served, labels).outcomes) == [WRITTEN]
    world = request({"rate": ("double_val", [1.25])}, [NOW], feature_view="world")
    assert list(push(served, world).outcomes) == [WRITTEN]
    assert read(served, ["labels:verdict"], {"user_id": [user]})["verdict"] == ["good"]
    theirs = feast_reads(served.store, ["world:rate", "labels:labeler"], [{"user_id": user}])
    assert (theirs["rate"], theirs["labeler"]) == ([1.25], ["ann"])


def test_several_entities(served: Served, user: int) -> None:
    message = request(
        {
            "sku": ("string_val", ["a", "ß"]),
            "user_id": ("int32_val", [user, user]),
            "weight": ("float_val", [0.5, 0.25]),
            "event_timestamp": ("int64_val", [int(NOW.timestamp())] * 2),
        },
        feature_view="affinity",
    )
    assert list(push(served, message).outcomes) == [WRITTEN] * 2
    rows = [{"user_id": user, "sku": sku} for sku in ("ß", "a")]
    assert feast_reads(served.store, ["affinity:weight"], rows)["weight"] == [0.25, 0.5]


def wrong_batches() -> dict[str, tuple[Any, str, str]]:
    """For each batch that is wrong as a whole the status and words of its refusal."""
    nobody = request({"user_id": ("int64_val", [1])}, [NOW])
    no_rows = push_pb2.PushRequest(feature_view="scores")
    extra = scores([1], [1.0], [NOW])
    extra.columns.columns["scorre"].val.add(double_val=1)
    short = scores([1], [1.0], [NOW])
    short.columns.columns["user_id"].val.add(int64_val=2)
    missing = scores([1], [1.0], [NOW])
    del missing.columns.columns["score"]
    no_time = scores([1], [1.0], [])
    twice = scores([1], [1.0], [NOW])
    twice.columns.columns["event_timestamp"].val.add(unix_timestamp_val=1)
    mapped = clicks([1], [1], ["view"], [NOW])
    mapped.columns.columns["clicks"].val.add(int64_val=1)
    created = scores([1], [1.0], [NOW])
    created.columns.created_timestamps.add(seconds=1)
    target = scores([1], [1.0], [NOW])
    target.target = 9
    arrow = push_pb2.PushRequest(feature_view="scores", arrow_ipc=b"not arrow")
    both_names = pa.table([[1], [2]], names=["user_id", "user_id"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, both_names.schema) as writer:
        writer.write(both_names)
    doubled = push_pb2.PushRequest(feature_view="scores", arrow_ipc=sink.getvalue().to_pybytes())
    return {
        "no destination": (nobody, "INVALID_ARGUMENT", "push_source or feature_view"),
        "no payload": (no_rows, "INVALID_ARGUMENT", "columns or arrow_ipc"),
        "unknown column": (extra, "INVALID_ARGUMENT", "'scorre' is not .* did you mean 'score'"),
        "length": (short, "INVALID_ARGUMENT", "'user_id' has 2 rows"),
        "missing column": (missing, "INVALID_ARGUMENT", "missing column 'score'"),
        "no time": (no_time, "INVALID_ARGUMENT", "missing column 'event_timestamp'"),
        "two times": (twice, "INVALID_ARGUMENT", "event_timestamps or the column"),
        "mapped twice": (mapped, "INVALID_ARGUMENT", "'clicks' .* given twice"),
        "no created": (created, "INVALID_ARGUMENT", "created_timestamps"),
        "target": (target, "INVALID_ARGUMENT", "target 9"),
        "no arrow": (arrow, "INVALID_ARGUMENT", "Arrow IPC"),
        "arrow twice": (doubled, "INVALID_ARGUMENT", "'user_id' is given twice"),
        "view": (
            request({}, feature_view="score"),
            "NOT_FOUND",
            "no feature view 'score'; did you mean 'scores'",
        ),
        "source": (
            request({}, push_source="click"),
            "NOT_FOUND",
            "no push source 'click'; did you mean 'clicks'",
        ),
        "offline view": (
            request({}, feature_view="hidden"),
            "FAILED_PRECONDITION",
            "online=False",
        ),
    }


WRONG = wrong_batches()


@pytest.mark.parametrize("what", list(WRONG))
def test_wrong_batches_are_refused_by_name(served: Served, what: str) -> None:
    message, code, words = WRONG[what]
    found = refused(served, message)
    assert found[0].name == code
    assert re.search(words, found[1]), found[1]


def test_hostile_bytes(served: Served) -> None:
    for data in (b"\xff", b"\x0a\x05ab", b"\x2a\x03\x0a\x7f\x00"):
        with pytest.raises(grpc.RpcError) as error:
            served.call("/hotfeast.serving.v1.Push/Push", data)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_unusual_encodings_are_read(served: Served, user: int) -> None:
    # A message in two pieces, which protobuf merges.
    whole = scores([user], [4.0], [NOW])
    first = push_pb2.PushRequest(feature_view="scores")
    first.columns.columns["user_id"].CopyFrom(whole.columns.columns["user_id"])
    second = push_pb2.PushRequest()
    second.columns.CopyFrom(whole.columns)
    del second.columns.columns["user_id"]
    data = first.SerializeToString() + second.SerializeToString()
    answer = push_pb2.PushResponse.FromString(served.call("/hotfeast.serving.v1.Push/Push", data))
    assert list(answer.outcomes) == [WRITTEN]
    assert read(served, ["scores:score"], {"user_id": [user]})["score"] == [4.0]


def test_many_arrow_batches_in_one_stream(served: Served, user: int) -> None:
    schema = pa.schema(
        [
            ("user_id", pa.int64()),
            ("score", pa.dictionary(pa.int8(), pa.float64())),
            ("since", pa.timestamp("ms", "Europe/Berlin")),
            ("event_timestamp", pa.timestamp("ns", "UTC")),
        ]
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for i in range(3):
            plain = [
                pa.array([user + 2 * i, user + 2 * i + 1]),
                pa.array([float(i), float(i)]).dictionary_encode().cast(schema.types[1]),
                pa.array([NOW, NOW], schema.types[2]),
                pa.array([NOW, NOW], schema.types[3]),
            ]
            writer.write_batch(pa.record_batch(plain, schema=schema))
    message = push_pb2.PushRequest(feature_view="scores", arrow_ipc=sink.getvalue().to_pybytes())
    assert list(push(served, message).outcomes) == [WRITTEN] * 6
    got = read(served, ["scores:score"], {"user_id": list(range(user, user + 6))})
    assert got["score"] == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]


def test_offline_rows_are_seen_by_training(served: Served, user: int) -> None:
    times = [NOW - timedelta(hours=1, microseconds=1), NOW, NOW - timedelta(hours=2)]
    message = clicks([user] * 3, [1, 2, 3], ["view", "buy", "steal"], times, target=OFFLINE)
    answer = push(served, message)
    assert list(answer.outcomes) == [WRITTEN, WRITTEN, REJECTED]
    entities = pd.DataFrame(
        {"user_id": [user] * 2, "event_timestamp": [NOW - timedelta(minutes=30), NOW]}
    )
    frame = served.store.get_historical_features(entities, CLICKS).to_df()
    frame = frame.sort_values("event_timestamp")
    assert frame["clicks"].tolist() == [1, 2]
    assert frame["kind"].tolist() == ["view", "buy"]
    stored = pd.read_parquet(Path(str(served.store.repo_path)) / "clicks.parquet")
    assert sorted(stored[stored["user_id"] == user]["n"]) == [1, 2]
    got = served.client.get_online_features(CLICKS, {"user_id": [user]})
    assert got.statuses["clicks"] == ["NOT_FOUND"]


def test_both_targets_keep_stale_rows_as_history_once(served: Served, user: int) -> None:
    folder = Path(str(served.store.repo_path))
    assert list(push(served, clicks([user], [1], ["view"], [NOW], target=BOTH)).outcomes) == [1]
    older = [NOW - timedelta(days=1)]
    assert list(push(served, clicks([user], [2], ["buy"], older, target=BOTH)).outcomes) == [2]
    frame = pd.read_parquet(folder / "clicks.parquet")
    mine = frame[frame["user_id"] == user].sort_values("happened")
    # Two views are fed by the source, and the source has each row once.
    assert mine["n"].tolist() == [2, 1]
    assert mine["happened"].tolist() == [pd.Timestamp(older[0]), pd.Timestamp(NOW)]
    assert read(served, CLICKS, {"user_id": [user]})["clicks"] == [1]


def test_a_view_that_is_not_online_takes_offline_rows(served: Served, user: int) -> None:
    message = scores([user], [7.0], [NOW], feature_view="hidden", target=OFFLINE)
    assert list(push(served, message).outcomes) == [WRITTEN]
    frame = pd.read_parquet(Path(str(served.store.repo_path)) / "plain.parquet")
    mine = frame[frame["user_id"] == user]
    assert mine["score"].tolist() == [7.0]
    assert mine["since"].tolist() == [pd.Timestamp(NOW)]


def test_what_fails_offline_is_told(served: Served, user: int) -> None:
    labels = request(
        {
            "user_id": ("int64_val", [user]),
            "verdict": ("string_val", ["good"]),
            "labeler": ("string_val", ["ann"]),
        },
        [NOW],
        feature_view="labels",
        target=BOTH,
    )
    answer = push(served, labels)
    assert list(answer.outcomes) == [FAILED]
    [failure] = answer.failures
    assert (failure.target, failure.feature_view) == (OFFLINE, "labels")
    assert "nowhere.parquet" in failure.message
    # Online it is.
    assert read(served, ["labels:verdict"], {"user_id": [user]})["verdict"] == ["good"]
    part = request(
        {"user_id": ("int64_val", [user]), "n": ("int64_val", [1])},
        [NOW],
        [NOW],
        feature_view="click_counts",
        target=OFFLINE,
    )
    answer = push(served, part)
    assert list(answer.outcomes) == [FAILED]
    assert "not pushed: 'kind'" in answer.failures[0].message
    # A column that only the batch source has is known there, and nowhere else.
    part.columns.columns["kind"].val.add(string_val="view")
    assert list(push(served, part).outcomes) == [WRITTEN]
    part.target = ONLINE
    assert refused(served, part)[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_offline_writers_take_turns(served: Served, user: int) -> None:
    def one(i: int) -> list[int]:
        message = scores([user + i], [float(i)], [NOW], target=OFFLINE)
        return list(push(served, message, timeout=60).outcomes)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(24))) == [[WRITTEN]] * 24
    frame = pd.read_parquet(Path(str(served.store.repo_path)) / "plain.parquet")
    assert set(range(user, user + 24)) <= set(frame["user_id"])


def test_versions_are_written_where_they_are_read(
    redis_server: LocalRedis, tmp_path: Path, user: int
) -> None:
    store = pushing.write_repository(
        tmp_path, "pushed_versions", redis_server.address, versioned=True
    )
    view = store.get_feature_view("click_counts")
    store.apply(
        [
            pushing.user,
            type(view)(
                name="click_counts",
                entities=[pushing.user],
                ttl=timedelta(days=30),
                schema=[*view.schema, Field(name="taps", dtype=Int64)],
                source=view.stream_source or view.batch_source,
            ),
        ]
    )
    with serving(store) as gateway:
        message = request(
            {
                "user_id": ("int64_val", [user]),
                "n": ("int64_val", [5]),
                "taps": ("int64_val", [6]),
            },
            [NOW],
            feature_view="click_counts",
        )
        assert list(push(gateway, message).outcomes) == [WRITTEN]
        references = ["click_counts:clicks", "click_counts:taps"]
        fresh = FeatureStore(repo_path=str(tmp_path))
        theirs = feast_reads(fresh, references, [{"user_id": user}])
        assert (theirs["clicks"], theirs["taps"]) == ([5], [6])
        assert read(gateway, references, {"user_id": [user]})["taps"] == [6]


def test_another_registry_is_another_plan(
    redis_server: LocalRedis, tmp_path: Path, user: int
) -> None:
    store = pushing.write_repository(tmp_path, "pushed_reload", redis_server.address)
    with serving(store) as gateway:
        message = scores([user], [1.0], [NOW])
        message.columns.columns["extra"].val.add(int64_val=3)
        assert refused(gateway, message)[0] == grpc.StatusCode.INVALID_ARGUMENT
        view = store.get_feature_view("scores")
        view.features.append(Field(name="extra", dtype=Int64))
        store.apply([view])
        gateway.gateway.registry.look()
        assert list(push(gateway, message).outcomes) == [WRITTEN]
        assert read(gateway, ["scores:extra"], {"user_id": [user]})["extra"] == [3]


def test_key_ttl_never_shortens_another_views_life(tmp_path: Path, user: int) -> None:
    with LocalRedis() as redis:
        store = pushing.write_repository(tmp_path, "pushed_ttl", redis.address, ttl=1000)
        client: Any = redis.client()
        with serving(store) as gateway:
            assert list(push(gateway, scores([user], [1.0], [NOW])).outcomes) == [WRITTEN]
            [key] = client.keys()
            assert 0 < client.ttl(key) <= 1000
            client.expire(key, 5000)
            later = [NOW + timedelta(seconds=1)]
            assert list(push(gateway, scores([user], [2.0], later)).outcomes) == [WRITTEN]
            assert client.ttl(key) > 4000
            client.persist(key)
            client.hset(key, mapping={f"of another view {i}": b"" for i in range(20)})
            later = [NOW + timedelta(seconds=2)]
            assert list(push(gateway, scores([user], [3.0], later)).outcomes) == [WRITTEN]
            assert client.ttl(key) == -1


def test_redis_that_forgets_scripts(served: Served, user: int, redis_server: LocalRedis) -> None:
    client: Any = redis_server.client()
    for i in range(5):
        client.script_flush()
        assert client.script_exists(SCRIPT_SHA.decode()) == [False]
        times = [NOW + timedelta(seconds=i)]
        assert list(push(served, scores([user], [float(i)], times)).outcomes) == [WRITTEN]
    assert read(served, ["scores:score"], {"user_id": [user]})["score"] == [4.0]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[LocalRedis, Served]]:
    """A gateway with a Redis of its own, and little patience."""
    with LocalRedis() as redis:
        store = pushing.write_repository(tmp_path, "pushed_own", redis.address)
        gateway = serve(store, Settings(repo=tmp_path, redis_timeout=0.3))
        try:
            yield redis, gateway
        finally:
            stop(gateway)


@pytest.mark.parametrize("fault", ["down", "frozen"])
def test_redis_that_does_not_answer(own: tuple[LocalRedis, Served], user: int, fault: str) -> None:
    redis, gateway = own
    assert list(push(gateway, scores([user], [1.0], [NOW])).outcomes) == [WRITTEN]
    (redis.kill if fault == "down" else redis.freeze)()
    later = [NOW + timedelta(seconds=1)]
    try:
        assert refused(gateway, scores([user], [2.0], later))[0] == grpc.StatusCode.UNAVAILABLE
        answer = push(gateway, scores([user], [2.0], later, target=BOTH))
        assert list(answer.outcomes) == [FAILED]
        assert [(f.target, f.feature_view) for f in answer.failures] == [(ONLINE, "scores")]
        # The other target did not suffer.
        frame = pd.read_parquet(Path(str(gateway.store.repo_path)) / "plain.parquet")
        assert frame[frame["user_id"] == user]["score"].tolist() == [2.0]
        assert list(push(gateway, scores([user], [2.0], later, target=OFFLINE)).outcomes) == [1]
    finally:
        (redis.start if fault == "down" else redis.thaw)()
    assert set(push(gateway, scores([user], [2.0], later)).outcomes) <= {WRITTEN}
    assert read(gateway, ["scores:score"], {"user_id": [user]})["score"] == [2.0]


def test_what_redis_refuses_is_told_in_its_words(own: tuple[LocalRedis, Served], user: int) -> None:
    redis, gateway = own
    client: Any = redis.client()
    push(gateway, scores([user, user + 1], [1.0, 1.0], [NOW, NOW]))
    key = sorted(client.keys())[0]
    client.delete(key)
    client.set(key, "no hash")
    later = [NOW + timedelta(seconds=1)] * 2
    answer = push(gateway, scores([user, user + 1], [2.0, 2.0], later))
    assert sorted(answer.outcomes) == [WRITTEN, FAILED]
    assert "WRONGTYPE" in answer.failures[0].message
    client.config_set("maxmemory", "1")
    answer = push(gateway, scores([user + 2], [2.0], [NOW]))
    assert list(answer.outcomes) == [FAILED]
    assert "OOM" in answer.failures[0].message
    client.config_set("maxmemory", "0")
    assert list(push(gateway, scores([user + 2], [2.0], [NOW])).outcomes) == [WRITTEN]
    client.replicaof("127.0.0.1", "1")
    # As in a failover, after which another server takes it.
    with pytest.raises(grpc.RpcError, match="READONLY") as caught:
        push(gateway, scores([user + 3], [2.0], [NOW]))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_pushes_are_counted(redis_server: LocalRedis, tmp_path: Path, user: int) -> None:
    store = pushing.write_repository(tmp_path, "pushed_counted", redis_server.address)
    gateway = serve(store, Settings(repo=tmp_path, metrics=("127.0.0.1", 0)))
    try:
        users = [user, user + 1, user + 2]
        push(gateway, clicks(users, [1, 2, 3], ["view", "steal", "buy"], [NOW] * 3))
        push(gateway, clicks([user], [1], ["view"], [NOW - timedelta(days=1)]))
        assert gateway.gateway.metrics_page is not None
        figures = scrape(gateway.gateway.metrics_page.url)
        for view in ("click_counts", "click_kinds"):
            for outcome, rows in (("written", 2), ("stale", 1), ("rejected", 1)):
                name = f'feature_view="{view}",outcome="{outcome}"'
                assert figures[f"hotfeast_push_rows_total{{{name}}}"] == rows
    finally:
        stop(gateway)


def test_a_push_is_read_by_every_worker(pushed_store: FeatureStore, user: int) -> None:
    with Process(Path(str(pushed_store.repo_path)), "--workers", "2") as process:
        process.wait_for("with 2 workers")
        address = process.address()
        readers = [FeatureClient(address, timeout=30) for _ in range(8)]
        try:
            with FeatureClient(address, timeout=30) as writer, ThreadPoolExecutor(8) as pool:
                for i in range(50):
                    row = {
                        "user_id": [user],
                        "score": [float(i)],
                        "since": [NOW],
                        "event_timestamp": [NOW + timedelta(seconds=i)],
                    }
                    assert writer.push(row, feature_view="scores").outcomes == ["written"]

                    def seen(client: FeatureClient) -> Any:
                        answer = client.get_online_features(["scores:score"], {"user_id": [user]})
                        return answer.to_dict()["score"][0]

                    assert list(pool.map(seen, readers)) == [float(i)] * 8
        finally:
            for reader in readers:
                reader.close()


def test_the_client_loses_nothing(served: Served, user: int) -> None:
    fine = datetime.now(UTC).replace(microsecond=123456)
    frame = pd.DataFrame(
        {
            "user_id": [user, user + 1],
            "score": [1, None],
            "since": [NOW, pd.NaT],
            "event_timestamp": [fine, fine.replace(microsecond=0)],
        }
    )
    result = served.client.push(frame, push_source="plain")
    assert result.outcomes == ["written"] * 2
    assert result.ok
    assert (len(result), result.counts) == (2, {"written": 2})
    answer = served.client.get_online_features(["scores:score"], {"user_id": [user, user + 1]})
    assert answer.event_timestamps["score"] == [fine, fine.replace(microsecond=0)]
    assert answer.to_dict()["score"] == [1.0, None]
    older = fine - timedelta(microseconds=1)
    row: dict[str, Any] = {"user_id": [user], "score": [2.0], "since": [None]}
    for time in (older, np.array([older.replace(tzinfo=None)], "datetime64[ns]")[0]):
        result = served.client.push(row | {"event_timestamp": [time]}, feature_view="scores")
        assert result.outcomes == ["stale"], time
    whole = np.array([(fine - timedelta(days=1)).replace(tzinfo=None)], "datetime64[ns]")
    result = served.client.push(row | {"event_timestamp": whole}, feature_view="scores")
    assert result.outcomes == ["stale"]


def test_the_client_tells_what_went_wrong(served: Served, user: int) -> None:
    row: dict[str, Any] = {"user_id": [None], "score": [1.0], "since": [NOW]}
    result = served.client.push(row | {"event_timestamp": [NOW]}, feature_view="scores")
    assert result.outcomes == ["rejected"]
    assert not result.ok
    assert result.rejections[0].rule == "null_key"
    with pytest.raises(RowsNotWritten, match=r"1 of 1 rows were not written: .*user_id"):
        result.raise_for_failures()
    with pytest.raises(HotfeastError) as error:
        served.client.push(row, feature_view="scores")
    assert error.value.code == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(ValueError, match="push_source or feature_view"):
        served.client.push(row)
    with pytest.raises(ValueError, match="'onlin' is none of 'online'"):
        served.client.push(row, feature_view="scores", target="onlin")
    with pytest.raises(TypeError, match="cannot send a int"):
        served.client.push(3, feature_view="scores")
