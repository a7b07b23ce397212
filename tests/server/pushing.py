"""A Feast repository to push to: sources fed by pushes, rules, and batch sources in files."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    ValueType,
)
from feast.labeling.label_view import LabelView
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    Map,
    String,
    UnixTimestamp,
)

from hotfeast.serving.v1 import push_pb2, value_pb2

NOW = datetime.now(UTC).replace(microsecond=0)
"""Event time of fresh rows."""

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
product = Entity(name="product", join_keys=["sku"], value_type=ValueType.STRING)

TYPES: dict[str, tuple[Any, Any, Any]] = {
    "a_bytes": (Bytes, b"\x00\xff", b""),
    "a_string": (String, "Köln", ""),
    "an_int32": (Int32, -(2**31), 0),
    "an_int64": (Int64, 2**62 + 1, 0),
    "a_double": (Float64, -0.1, 1e300),
    "a_float": (Float32, 0.5, -3.25),
    "a_bool": (Bool, True, False),
    "a_time": (UnixTimestamp, NOW, NOW - timedelta(days=900)),
    "some_bytes": (Array(Bytes), [b"a", b""], []),
    "some_strings": (Array(String), ["a", "ß", ""], []),
    "some_int32": (Array(Int32), [1, -2], []),
    "some_int64": (Array(Int64), [2**62, -1], []),
    "some_doubles": (Array(Float64), [0.1, -2.5], []),
    "some_floats": (Array(Float32), [0.5, 0.25], []),
    "some_bools": (Array(Bool), [True, False], []),
    "some_times": (Array(UnixTimestamp), [NOW, NOW - timedelta(days=1)], []),
    "a_map": (Map, {"k": "v"}, {}),
}
"""Of each type a feature, with two values."""

MEMBERS = {
    "a_bytes": "bytes_val",
    "a_string": "string_val",
    "an_int32": "int32_val",
    "an_int64": "int64_val",
    "a_double": "double_val",
    "a_float": "float_val",
    "a_bool": "bool_val",
    "a_time": "unix_timestamp_val",
    "some_bytes": "bytes_list_val",
    "some_strings": "string_list_val",
    "some_int32": "int32_list_val",
    "some_int64": "int64_list_val",
    "some_doubles": "double_list_val",
    "some_floats": "float_list_val",
    "some_bools": "bool_list_val",
    "some_times": "unix_timestamp_list_val",
    "a_map": "map_val",
}
"""What holds each of them in a `Value`."""

CHECKED: dict[str, tuple[Any, dict[str, str]]] = {
    "at_least": (Int64, {"min": "10"}),
    "at_most": (Float64, {"max": "1.5"}),
    "needed": (String, {"not_null": "true"}),
    "one_of": (String, {"allowed": "red, green"}),
    "short": (String, {"max_length": "3"}),
    "coded": (String, {"regex": "[A-Z]{2}"}),
}
"""Features with a rule each."""


def write_repository(
    folder: Path, project: str, connection_string: str, *, versioned: bool = False, ttl: int = 0
) -> FeatureStore:
    """Writes and applies the repository; its files have one old row each."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(
        f"""project: {project}
registry:
  path: {folder / "registry.db"}
  enable_online_feature_view_versioning: {str(versioned).lower()}
provider: local
online_store:
  type: redis
  connection_string: {connection_string}
  {f"key_ttl_seconds: {ttl}" if ttl else ""}
offline_store:
  type: file
entity_key_serialization_version: 3
"""
    )
    store = FeatureStore(repo_path=str(folder))
    store.apply(definitions(folder))
    return store


def definitions(folder: Path) -> list[Any]:
    """All that is applied, and the files behind it."""
    clicks_file = FileSource(
        name="clicks_file",
        path=str(folder / "clicks.parquet"),
        timestamp_field="happened",
        created_timestamp_column="created",
        field_mapping={"n": "clicks"},
    )
    plain_file = FileSource(
        name="plain_file", path=str(folder / "plain.parquet"), timestamp_field="event_timestamp"
    )
    nowhere = FileSource(
        name="nowhere", path=str(folder / "nowhere.parquet"), timestamp_field="event_timestamp"
    )
    old = NOW - timedelta(days=30)
    pd.DataFrame(
        {"user_id": [1], "n": [0], "kind": ["old"], "happened": [old], "created": [old]}
    ).to_parquet(folder / "clicks.parquet")
    pd.DataFrame(
        {"user_id": [1], "score": [0.0], "event_timestamp": [old], "since": [old]}
    ).to_parquet(folder / "plain.parquet")
    clicks = PushSource(name="clicks", batch_source=clicks_file)
    plain = PushSource(name="plain", batch_source=plain_file)
    anything = PushSource(name="anything", batch_source=nowhere)
    ttl = timedelta(days=365)

    def view(name: str, source: Any, entities: list[Entity], **types: Any) -> FeatureView:
        keys = [Field(name=e.join_key, dtype=Int64 if e is user else String) for e in entities]
        fields = [Field(name=n, dtype=t) for n, t in types.items()]
        return FeatureView(
            name=name, entities=entities, ttl=ttl, schema=keys + fields, source=source
        )

    checked = FeatureView(
        name="checked",
        entities=[user],
        ttl=ttl,
        schema=[
            Field(name="user_id", dtype=Int64),
            *(Field(name=n, dtype=t, tags=tags) for n, (t, tags) in CHECKED.items()),
        ],
        source=nowhere,
    )
    strict = FeatureView(
        name="click_kinds",
        entities=[user],
        ttl=ttl,
        schema=[
            Field(name="user_id", dtype=Int64),
            Field(name="kind", dtype=String, tags={"allowed": "view, buy"}),
        ],
        source=clicks,
    )
    hidden = FeatureView(
        name="hidden",
        entities=[user],
        ttl=ttl,
        online=False,
        schema=[
            Field(name="user_id", dtype=Int64),
            Field(name="score", dtype=Float64),
            Field(name="since", dtype=UnixTimestamp),
        ],
        source=plain_file,
    )
    labels = LabelView(
        name="labels",
        entities=[user],
        schema=[
            Field(name="user_id", dtype=Int64),
            Field(name="verdict", dtype=String),
            Field(name="labeler", dtype=String),
        ],
        source=PushSource(name="verdicts", batch_source=nowhere),
    )
    views = [
        view("click_counts", clicks, [user], clicks=Int64),
        strict,
        view("scores", plain, [user], score=Float64, since=UnixTimestamp),
        view("everything", anything, [user], **{n: t for n, (t, _, _) in TYPES.items()}),
        view("affinity", nowhere, [user, product], weight=Float64),
        view("world", nowhere, [], rate=Float64),
        checked,
        hidden,
        labels,
    ]
    services = [FeatureService(name="click_service", features=views[:2])]
    return [user, product, clicks, plain, anything, *views, *services]


def column(member: str, values: list[Any]) -> value_pb2.RepeatedValue:
    """A column of values of one type; None is null."""
    made = value_pb2.RepeatedValue()
    for value in values:
        made.val.append(proto_value(member, value))
    return made


def proto_value(member: str, value: Any) -> value_pb2.Value:
    """A `Value` with one member set; None is null."""
    if value is None:
        return value_pb2.Value()
    if member == "map_val":
        inner = {k: value_pb2.Value(string_val=v) for k, v in value.items()}
        return value_pb2.Value(map_val=value_pb2.Map(val=inner))
    if member.startswith("unix_timestamp"):
        value = (
            [int(v.timestamp()) for v in value]
            if isinstance(value, list)
            else int(value.timestamp())
        )
    made = value_pb2.Value()
    if member.endswith("_list_val"):
        inner_list = getattr(made, member)
        inner_list.val.extend(value)
        inner_list.SetInParent()
    else:
        setattr(made, member, value)
    return made


def request(
    columns: dict[str, tuple[str, list[Any]]],
    times: list[datetime] | None = None,
    created: list[datetime] | None = None,
    **fields: Any,
) -> push_pb2.PushRequest:
    """A push of protobuf columns, each given as the member of its values and the values."""
    made = push_pb2.PushRequest(**fields)
    made.columns.SetInParent()
    for name, (member, values) in columns.items():
        made.columns.columns[name].CopyFrom(column(member, values))
    for time in times or ():
        made.columns.event_timestamps.add().FromDatetime(time)
    for time in created or ():
        made.columns.created_timestamps.add().FromDatetime(time)
    return made
