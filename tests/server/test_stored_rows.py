"""Rows that are stored, as a sample that kernels are proved on."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import redis
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RequestSource,
    ValueType,
)
from feast.infra.online_stores.helpers import _redis_key
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64, String
from processes import run_cli
from rich.console import Console

from hotfeast.hotpath.packed import layout_of
from hotfeast.server import key_samples
from hotfeast.server.cli_plan import show_plan
from hotfeast.server.kernels import KernelMaker
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.plan import (
    feature_hash_field,
    plan_service,
    row_hash_field,
    time_hash_field,
)
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.registry import Definitions, read_definitions
from hotfeast.server.stored_rows import SAMPLE_ROWS, StoredRows, StoredView, StoreUnreadable
from hotfeast.server.view_writer import ViewWriter

NOW = datetime.now(UTC).replace(microsecond=0)
PROJECT = "sample"
ROWS = 40
SPENT = 777_123.25
"""What one row has, and neither generated columns nor the transforms."""

nowhere = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.STRING)
users = FeatureView(
    name="users",
    entities=[user],
    ttl=timedelta(days=2),
    schema=[
        Field(name="user_id", dtype=Int64),
        Field(name="spend", dtype=Float64),
        Field(name="visits", dtype=Int64),
    ],
    source=nowhere,
)
shops = FeatureView(
    name="shops",
    entities=[user, shop],
    ttl=timedelta(days=2),
    schema=[
        Field(name="user_id", dtype=Int64),
        Field(name="shop_id", dtype=String),
        Field(name="stock", dtype=Int64),
    ],
    source=nowhere,
)
empty = FeatureView(
    name="empty",
    entities=[shop],
    ttl=timedelta(days=2),
    schema=[Field(name="shop_id", dtype=String), Field(name="score", dtype=Float64)],
    source=nowhere,
)
many = [
    FeatureView(
        name=f"many_{letter}",
        entities=[entity],
        ttl=timedelta(days=2),
        schema=[
            Field(name=key, dtype=dtype),
            *(Field(name=f"{letter}{number}", dtype=Int64) for number in range(1, 5)),
        ],
        source=nowhere,
    )
    for letter, entity, key, dtype in (
        ("a", user, "user_id", Int64),
        ("b", shop, "shop_id", String),
    )
]
counted = RequestSource(name="counted", schema=[Field(name="c", dtype=Int64)])
cart = RequestSource(name="cart", schema=[Field(name="amount", dtype=Float64)])


def right(inputs: pd.DataFrame) -> pd.DataFrame:
    out = pd.DataFrame()
    out["right"] = inputs["spend"] * 2 + inputs["visits"].fillna(0) + inputs["stock"]
    out["share"] = inputs["amount"] / inputs["spend"]
    return out


def wrong(inputs: pd.DataFrame) -> pd.DataFrame:
    """Is traced without what it does to one value, so that its kernel is wrong for that value."""
    out = pd.DataFrame()
    out["wrong"] = inputs["spend"] * 2
    if inputs.__class__.__name__ == "DataFrame":
        out["wrong"] = out["wrong"].mask(inputs["spend"] == 777_123.25, -1.0)
    return out


def not_stored(inputs: pd.DataFrame) -> pd.DataFrame:
    out = pd.DataFrame()
    out["not_stored"] = inputs["amount"] * 2
    return out


def of_empty(inputs: pd.DataFrame) -> pd.DataFrame:
    out = pd.DataFrame()
    out["of_empty"] = inputs["score"] * 2
    return out


def of_many(inputs: pd.DataFrame) -> pd.DataFrame:
    out = pd.DataFrame()
    first = inputs["a1"] + inputs["a2"] + inputs["a3"] + inputs["a4"]
    out["of_many"] = (
        first + inputs["b1"] + inputs["b2"] + inputs["b3"] + inputs["b4"] + inputs["c"]
    ) * 0.5
    return out


def view_of(function: Any, sources: list[Any], *outputs: str) -> Any:
    schema = [Field(name=name, dtype=Float64) for name in outputs]
    return on_demand_feature_view(sources=sources, schema=schema, mode="pandas")(function)


def key_of(project: str, **values: Any) -> bytes:
    """A key as Feast makes it, of integers and strings."""
    message = EntityKey(
        join_keys=list(values),
        entity_values=[
            Value(int64_val=v) if isinstance(v, int) else Value(string_val=v)
            for v in values.values()
        ],
    )
    return bytes(_redis_key(project, message, entity_key_serialization_version=3))


@pytest.fixture(scope="module")
def server() -> Iterator[LocalRedis]:
    """A server of its own, so that every key in it is known."""
    with LocalRedis() as server:
        yield server


@pytest.fixture(scope="module")
def store(server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("sample")
    (folder / "feature_store.yaml").write_text(
        f"""project: {PROJECT}
registry: {folder / "registry.db"}
provider: local
online_store:
  type: redis
  connection_string: "{server.address}"
entity_key_serialization_version: 3
"""
    )
    views = [
        view_of(right, [users, shops, cart], "right", "share"),
        view_of(wrong, [users], "wrong"),
        view_of(not_stored, [cart], "not_stored"),
        view_of(of_empty, [empty], "of_empty"),
        view_of(of_many, [*many, counted], "of_many"),
    ]
    made = FeatureStore(repo_path=str(folder))
    services = [FeatureService(name=f"serve_{v.name}", features=[v]) for v in views]
    made.apply([user, shop, users, shops, empty, *many, *views, *services])
    made.write_to_online_store(
        "users",
        pd.DataFrame(
            {
                "user_id": range(ROWS),
                "event_timestamp": [NOW] * ROWS,
                "spend": [SPENT if i == 7 else i / 4 for i in range(ROWS)],
                "visits": pd.array([None if i % 5 == 0 else i for i in range(ROWS)], "Int64"),
            }
        ),
    )
    made.write_to_online_store(
        "shops",
        pd.DataFrame(
            {
                "user_id": [1, 2, 3],
                "shop_id": ["a", "b", PROJECT],
                "event_timestamp": [NOW] * 3,
                "stock": [3, 4, 5],
            }
        ),
    )
    return made


@pytest.fixture(scope="module")
def definitions(store: FeatureStore) -> Definitions:
    return read_definitions(store)


@pytest.fixture
def rows(store: FeatureStore) -> Iterator[StoredRows]:
    pool = connection_pool(store.config, None, 1.0)
    yield StoredRows(pool)
    pool.disconnect()


USERS = StoredView(
    ("user_id",),
    time_hash_field("users"),
    (feature_hash_field("users", "spend"), feature_hash_field("users", "visits")),
)


def test_rows_are_what_was_written(rows: StoredRows) -> None:
    found = [tuple(map(Value.FromString, row)) for row in rows.sample(PROJECT, USERS)]
    spent = {spend.double_val: visits for spend, visits in found}
    assert sorted(spent) == sorted(SPENT if i == 7 else i / 4 for i in range(ROWS))
    assert spent[0.0].WhichOneof("val") is None
    assert spent[SPENT].int64_val == 7


@pytest.mark.parametrize("layout", ["packed", "dual"])
def test_kernels_are_proved_on_rows_of_every_layout(
    server: LocalRedis, store: FeatureStore, definitions: Definitions, layout: str
) -> None:
    """Rows that our own writer stores, beside Feast's: newer ones of the first entities."""
    replaced = 10
    table = pa.table(
        {
            "user_id": pa.array(range(replaced), pa.int64()),
            "event_timestamp": pa.array([NOW + timedelta(seconds=1)] * replaced),
            # One more of the value that the other kernel is wrong for.
            "spend": pa.array([SPENT, *(1000.5 + i for i in range(1, replaced))]),
            "visits": pa.array([None, *range(1, replaced)], pa.int64()),
        }
    )
    with LocalRedis() as other, server.client() as first, other.client() as client:
        # The same rows of Feast's in a store of this test's own.
        for key in first.scan_iter():
            client.restore(key, 0, first.dump(key))
        writer = ViewWriter(
            store.repo_path, "users", redis_url=other.url, layout=layout, patience=1
        )
        assert writer.write_arrow(table).written == replaced
        marked = client.hgetall(key_of(PROJECT, user_id=1))
        assert layout_of(marked[USERS.time_field]) == layout
        pool = connection_pool(store.config, other.url, 1.0)
        sampled = StoredRows(pool)
        found = {
            spend.double_val: visits
            for spend, visits in (
                map(Value.FromString, row) for row in sampled.sample(PROJECT, USERS)
            )
        }
        # A packed row counts, not the fields that Feast wrote before it, and with its nulls.
        assert set(found) == {*table["spend"].to_pylist(), *(i / 4 for i in range(replaced, ROWS))}
        assert found[SPENT].WhichOneof("val") is None
        assert found[1001.5].int64_val == 1
        made = KernelMaker(sampled)
        (right_read,) = made.prepare(
            definitions, plan_service(definitions, "serve_right", False)
        ).on_demand
        assert right_read.proved is not None
        assert right_read.proved.stored == ROWS
        (wrong_read,) = made.prepare(
            definitions, plan_service(definitions, "serve_wrong", False)
        ).on_demand
        assert wrong_read.kernel_refusal.startswith("proof failed on stored rows: wrong is")
        # Without the record of what packed rows hold, or with bytes that are none, they are left
        # out; those in Feast's fields stay.
        client.delete(f"hotfeast:schemas:{PROJECT}")
        left = ROWS - replaced if layout == "packed" else ROWS
        assert len(StoredRows(pool).sample(PROJECT, USERS)) == left
        client.hset(key_of(PROJECT, user_id=1), row_hash_field("users"), b"\x01\x02")
        assert len(StoredRows(pool).sample(PROJECT, USERS)) == left
        pool.disconnect()


def test_only_keys_of_the_project_and_the_entity_count(
    server: LocalRedis, rows: StoredRows
) -> None:
    """Other projects may end alike, and values of keys may look like the project's name."""
    view = StoredView(("shop_id",), time_hash_field("shops"), (feature_hash_field("shops", "s"),))
    field = view.fields[0]
    one = Value(int64_val=1).SerializeToString()
    row = {field: one, view.time_field: b"\x08\x01"}
    others = [
        key_of("ple", shop_id="x"),
        key_of("my" + "ple", shop_id="x"),
        key_of("ple2", shop_id="x"),
        key_of("", shop_id="ple"),
        key_of("ple", shop_id="x", user_id=1),
        key_of("ple", user_id=1),
    ]
    with server.client() as client:
        for number, key in enumerate(others):
            stored = Value(int64_val=1 if number == 0 else 2).SerializeToString()
            client.hset(key, mapping={**row, field: stored})
        # No row of the view; no field of it; no value; no hash.
        client.hset(key_of("ple", shop_id="a"), mapping={field: one})
        client.hset(key_of("ple", shop_id="b"), mapping={view.time_field: b"\x08\x01"})
        client.hset(key_of("ple", shop_id="c"), mapping={**row, field: b"\x20"})
        client.set(key_of("ple", shop_id="d"), b"text")
        assert rows.sample("ple", view) == [[one]]
        # Characters with a meaning in Redis' patterns.
        client.hset(key_of("[a-z]*?", shop_id="x"), mapping=row)
        assert rows.sample("[a-z]*?", view) == [[one]]
        assert rows.sample("[a-z]*", view) == []


def test_a_sample_is_bounded(
    server: LocalRedis, rows: StoredRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = StoredView(("user_id",), time_hash_field("many"), (b"f",))
    with server.client() as client:
        pipeline = client.pipeline()
        for number in range(4 * SAMPLE_ROWS):
            row = {b"f": Value(int64_val=number).SerializeToString(), view.time_field: b"\x08\x01"}
            pipeline.hset(key_of("many", user_id=number), mapping=row)
        pipeline.execute()
        sample = rows.sample("many", view)
        assert len(sample) == len({row[0] for row in sample}) == SAMPLE_ROWS
        # Where nothing is found, it ends after its steps all the same.
        monkeypatch.setattr(key_samples, "MOST_STEPS", 3)
        monkeypatch.setattr(key_samples, "_COUNT", 10)
        client.config_resetstat()
        assert rows.sample("none", view) == []
        stats: Any = client.info("commandstats")
        assert stats["cmdstat_scan"]["calls"] == 3


def test_a_store_that_is_down_is_told_and_not_asked_again_at_once() -> None:
    with LocalRedis() as server:
        pool = redis.ConnectionPool.from_url(server.url, socket_connect_timeout=1)
    rows = StoredRows(pool)
    for _ in range(2):
        with pytest.raises(StoreUnreadable, match=r"Redis: .*refused"):
            rows.sample(PROJECT, USERS)
    with LocalRedis(port=server.port), pytest.raises(StoreUnreadable):
        rows.sample(PROJECT, USERS)


def test_a_kernel_that_is_wrong_for_a_stored_value_alone_is_refused(
    definitions: Definitions, rows: StoredRows
) -> None:
    plan = plan_service(definitions, "serve_wrong", False)
    (without,) = KernelMaker().prepare(definitions, plan).on_demand
    assert without.kernel is not None
    assert without.proved is not None
    assert without.proved.generated > 100
    assert (without.proved.stored, without.proved.note) == (0, "no store was asked")
    (read,) = KernelMaker(rows).prepare(definitions, plan).on_demand
    assert read.kernel is None
    assert read.kernel_refusal.startswith(
        "proof failed on stored rows: wrong is double_val: 1554246.5 and not double_val: -1"
    )


@pytest.mark.parametrize(
    ("name", "stored", "note"),
    [
        ("right", ROWS, ""),
        ("not_stored", 0, "its inputs are not stored"),
        ("of_empty", 0, "its sources have no rows yet"),
    ],
)
def test_what_a_kernel_was_proved_on(
    definitions: Definitions, rows: StoredRows, name: str, stored: int, note: str
) -> None:
    plan = plan_service(definitions, f"serve_{name}", False)
    (read,) = KernelMaker(rows).prepare(definitions, plan).on_demand
    assert read.kernel is not None
    assert read.proved is not None
    assert read.proved.generated > 100
    assert (read.proved.stored, read.proved.note) == (stored, note)


def test_many_inputs_may_be_null_view_by_view(definitions: Definitions) -> None:
    """More whole numbers than there are programs for all mixtures of their nulls."""
    plan = plan_service(definitions, "serve_of_many", False)
    (read,) = KernelMaker().prepare(definitions, plan).on_demand
    assert read.kernel is not None
    names = [name for name, _ in read.kernel.inputs]
    assert len(names) == 9

    def answers(nulls: set[str]) -> bool:
        assert read.kernel is not None
        one = Value(int64_val=1).SerializeToString()
        columns = [[b"" if name in nulls else one] for name in names]
        return read.kernel.run_columns(columns, True) is not None

    first, second = {"a1", "a2", "a3", "a4"}, {"b1", "b2", "b3", "b4"}
    for nulls in (set(), {"a2"}, {"b4"}, first, second, first | {"c"}, first | second | {"c"}):
        assert answers(nulls), nulls
    assert not answers({"a1", "b1"})


def test_plan_command_says_what_kernels_were_proved_on(store: FeatureStore) -> None:
    repo = Path(store.repo_path)
    console = Console(file=io.StringIO(), width=400, record=True)
    show_plan(repo, "serve_right", console)
    assert f"generated and {ROWS} stored rows" in console.export_text()
    process = run_cli("plan", "serve_right", "--repo", str(repo), "--redis", "redis://127.0.0.1:1")
    assert process.returncode == 0, process.stderr
    # What is folded into lines, put together again: the last column of the last table.
    cells = [line.split("│")[-2].strip() for line in process.stdout.splitlines() if "│" in line]
    assert "and 0 stored rows (no stored rows sampled: Redis: Error 111" in " ".join(cells)
