"""`client.score`: every row answered as by a unary read, whatever its form, size and order."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import market
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from feast.protos.feast.types.Value_pb2 import Map, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from served import Served

from hotfeast.clients import (
    AsyncFeatureClient,
    DataLoss,
    DeadlineExceeded,
    FeatureClient,
    InternalError,
    InvalidArgument,
    NotFound,
    Resume,
    Scored,
    Unavailable,
)
from hotfeast.clients.score_input import record_batches, record_batches_of
from hotfeast.serving.v1 import serving_pb2, value_pb2

USERS = [1, 2, 3, -4, 2**40, 99]
NOWHERE = "127.0.0.1:1"


def unary(served: Served, features: Any, columns: dict[str, list[Any]], **more: Any) -> Any:
    """What a unary read has; the oracle of all that is streamed."""
    return served.client.get_online_features(features, columns, **more)


def without_maps(table: pa.Table) -> pa.Table:
    """What is no map: those are serialized on a stream, and maps in the client's own tables."""
    return table.select([f.name for f in table.schema if f.name != "settings"])


@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from([*market.SKUS, "-"]))),
    size=st.integers(1, 7),
    ahead=st.integers(1, 5),
)
def test_rows_are_answered_as_by_a_unary_read(
    strict: Served, rows: list[tuple[int, str]], size: int, ahead: int
) -> None:
    columns: dict[str, list[Any]] = {
        "user_id": [u for u, _ in rows],
        "sku": [s for _, s in rows],
    }
    table = pa.table(
        {
            "user_id": pa.array(columns["user_id"], pa.int64()),
            "sku": pa.array(columns["sku"], pa.string()),
        }
    )
    scores = strict.client.score(
        "everything", table, batch_size=size, ahead=ahead, statuses=True, event_timestamps=True
    )
    got = scores.to_table()
    assert scores.rows == len(rows)
    wanted = unary(strict, "everything", columns)
    names = wanted.feature_names
    assert got.column_names == [
        "user_id", "sku", *(f"{n}{suffix}" for n in names for suffix in ("", "__status", "__ts")),
    ]  # fmt: skip
    for name in names:
        assert got[f"{name}__status"].to_pylist() == wanted.statuses[name]
        assert got[f"{name}__ts"].to_pylist() == wanted.event_timestamps[name]
    if rows:
        theirs = without_maps(wanted.to_arrow(names))
        for name in theirs.column_names:
            assert got[name].to_pylist() == theirs[name].to_pylist(), name
    maps = [None if v is None else Value.FromString(v) for v in got["settings"].to_pylist()]
    for made, theirs in zip(maps, wanted.to_dict()["settings"], strict=True):
        expected = theirs and {k: Value(string_val=v) for k, v in theirs.items()}
        assert (made and dict(made.map_val.val)) == expected


def test_feasts_sdk_has_the_same_values(strict: Served, market_store: FeatureStore) -> None:
    columns = {"user_id": [3, 1, 99, 1], "sku": ["a", "bé", "a", "a"]}
    got = strict.client.score("everything", columns, include_stale_values=True, keep=False)
    service = market_store.get_feature_service("everything")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    theirs = market_store.get_online_features(service, rows).to_dict()
    table = got.to_table()
    assert sorted(table.column_names) == sorted(theirs.keys() - columns.keys())
    for name in set(table.column_names) - {"settings", "since"}:
        assert table[name].to_pylist() == theirs[name], name


def test_types_are_those_that_are_declared_whatever_a_batch_has(strict: Served) -> None:
    batches = list(strict.client.score("users", {"user_id": [99, 1, 2, 98]}, batch_size=1))
    assert len({batch.schema for batch in batches}) == 1
    types = {field.name: field.type for field in batches[0].schema}
    assert types == {
        "user_id": pa.int64(),
        "visits": pa.int64(),
        "spend": pa.float64(),
        "ratio": pa.float32(),
        "city": pa.string(),
        "active": pa.bool_(),
        "since": pa.timestamp("s", "UTC"),
        "recent": pa.list_(pa.int64()),
        "labels": pa.list_(pa.string()),
        "photo": pa.binary(),
        "settings": pa.binary(),
    }


@pytest.fixture(scope="module")
def other_types(strict: Served) -> list[int]:
    """Users whose `visits` are of other types than the view declares."""
    stored = {
        500: Value(int32_val=7),
        501: Value(double_val=8.0),
        502: Value(double_val=0.5),
        503: Value(map_val=Map()),
    }
    for user, visits in stored.items():
        market.write_values(
            strict.store, "user_stats", {"user_id": Value(int64_val=user)}, {"visits": visits},
            market.NOW,
        )  # fmt: skip
    return list(stored)


def test_values_of_other_types_are_converted_or_refused_by_name(
    strict: Served, other_types: list[int]
) -> None:
    def visits(*users: int) -> list[Any]:
        rows = {"user_id": list(users)}
        table = strict.client.score(["user_stats:visits"], rows).to_table()
        assert table.schema.field("visits").type == pa.int64()
        made: list[Any] = table["visits"].to_pylist()
        return made

    assert visits(500) == [7]
    assert visits(501, 99) == [8, None]
    assert visits(1, 500, 501, 2) == [10, 7, 8, None]
    for user in (502, 503):
        with pytest.raises(DataLoss, match="'visits' of view 'user_stats' is declared INT64"):
            visits(user)


TABLE = pa.table({"user_id": USERS * 3, "label": list(range(18))})
PIECES = [TABLE.slice(0, 7), TABLE.slice(7, 1), TABLE.slice(8, 0), TABLE.slice(8)]
FORMS: dict[str, Any] = {
    "table": TABLE,
    "chunked": pa.concat_tables(PIECES),
    "batch": TABLE.to_batches()[0],
    "reader": lambda: TABLE.to_reader(max_chunksize=5),
    "pandas": TABLE.to_pandas(),
    "polars": pl.from_arrow(TABLE),
    "columns": TABLE.to_pydict(),
    "numpy": {"user_id": np.array(USERS * 3), "label": np.arange(18)},
    "iterator": lambda: iter(PIECES),
    "mixed": lambda: iter([PIECES[0].to_pandas(), pl.from_arrow(PIECES[1]), PIECES[3].to_pydict()]),
}


@pytest.mark.parametrize("form", [*FORMS, "parquet"])
def test_rows_of_every_form(strict: Served, form: str, tmp_path: Path) -> None:
    if form == "parquet":
        rows: Any = tmp_path / "rows.parquet"
        pq.write_table(TABLE, rows, row_group_size=5)
    else:
        rows = FORMS[form]() if callable(FORMS[form]) else FORMS[form]
    told: list[Scored] = []
    batches = list(
        strict.client.score("part", rows, columns=["user_id"], batch_size=8, progress=told.append)
    )
    assert [batch.num_rows for batch in batches] == [8, 8, 2]
    table = pa.Table.from_batches(batches)
    assert table.column_names == ["user_id", "label", "spend", "visits"]
    assert table["label"].to_pylist() == list(range(18))
    assert table["spend"].to_pylist() == [1.5, None, None, -0.0, 1e300, None] * 3
    known = None if form in ("reader", "iterator", "mixed") else 18
    assert told == [Scored(rows, known) for rows in (0, 8, 16, 18)]


def test_batches_are_cut_without_a_copy() -> None:
    """So that memory does not grow by what is sent."""
    (column,) = pa.table({"a": np.arange(1000)}).to_batches()[0].columns
    address = column.buffers()[1].address
    for batch in record_batches(pa.table({"a": column}), 100):
        assert batch.column(0).buffers()[1].address == address


@settings(deadline=None)
@given(st.lists(st.integers(0, 9)), st.integers(1, 5))
def test_batches_have_one_size(sizes: list[int], size: int) -> None:
    numbers = itertools.count()
    parts = [{"a": pa.array([next(numbers) for _ in range(n)], pa.int64())} for n in sizes]
    batches = list(record_batches(map(pa.table, parts), size))
    assert [n for batch in batches for n in batch["a"].to_pylist()] == list(range(sum(sizes)))
    if sum(sizes):
        assert all(batch.num_rows == size for batch in batches[:-1])
        assert 0 < batches[-1].num_rows <= size
    else:
        assert [batch.num_rows for batch in batches] == [0] * bool(sizes)

    async def parts_of() -> AsyncIterator[Any]:
        for part in parts:
            yield part

    async def collected() -> list[Any]:
        return [batch async for batch in record_batches_of(parts_of(), size)]

    assert asyncio.run(collected()) == batches


def test_what_is_kept_of_the_rows(strict: Served) -> None:
    rows = pa.table({"user_id": [1, 2], "label": ["a", "b"], "other": [0, 1]})

    def names(**keep: Any) -> list[str]:
        table = strict.client.score("part", rows, columns=["user_id"], **keep).to_table()
        made: list[str] = table.column_names
        return made

    assert names() == ["user_id", "label", "other", "spend", "visits"]
    assert names(keep=False) == ["spend", "visits"]
    assert names(keep=["label"]) == ["label", "spend", "visits"]
    assert names(keep=["label"], full_feature_names=True) == [
        "label", "user_stats__spend", "user_stats__visits",
    ]  # fmt: skip
    clash = {"user_id": [1], "spend": [0.0]}
    with pytest.raises(ValueError, match="the rows have a column 'spend', and so has the answer"):
        strict.client.score("part", clash, columns=["user_id"]).to_table()
    empty = strict.client.score("part", rows.slice(0, 0), columns=["user_id"]).to_table()
    assert (empty.num_rows, empty.column_names) == (
        0,
        ["user_id", "label", "other", "spend", "visits"],
    )
    assert strict.client.score("part", iter([])).to_table().num_columns == 0


def test_keys_of_every_arrow_type(strict: Served) -> None:
    keys = [
        pa.array([1, 3], pa.int32()),
        pa.array([1, 3], pa.uint8()),
        pa.array([1.0, 3.0]),
        pa.array([1, 3]).dictionary_encode(),
        pa.chunked_array([[1], [3]]),
    ]
    for key in keys:
        got = strict.client.score(["user_stats:visits"], pa.table({"user_id": key}), keep=False,
                                  include_stale_values=True)  # fmt: skip
        if pa.types.is_floating(key.type):
            with pytest.raises(InvalidArgument, match="'user_id'"):
                got.to_table()
        else:
            assert got.to_table()["visits"].to_pylist() == [10, 30], key.type
    for kind in (
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
    ):
        table = pa.table({"sku": pa.array(["bé", "a"], kind)})
        got = strict.client.score(["product_stats:stock"], table)
        assert got.to_table()["stock"].to_pylist() == [0, 5], kind


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([2**63], pa.uint64()), "column 'user_id', row 0: it does not fit the type"),
        (pa.array([{"a": 1}]), "column 'user_id' of Arrow type struct"),
        (pa.array(["x"]), "'user_id'"),
        (pa.array([None], pa.int64()), "'user_id' is null in row 0"),
    ],
)
def test_columns_that_cannot_be_sent_are_named(strict: Served, column: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as error:
        strict.client.score("users", pa.table({"user_id": column})).to_table()
    assert error.value.message.startswith("batch 0, rows 0 to 0: ")


def test_request_data_and_transforms(strict: Served) -> None:
    carts = [3.0, None, float("nan"), 6.0]
    columns: dict[str, list[Any]] = {"user_id": [1, 1, 1, 3], "cart_value": carts}
    table = pa.table({"user_id": columns["user_id"], "cart_value": pa.array(carts)})
    batches = strict.client.score("cart_service", table, batch_size=4, statuses=True)
    got = batches.to_table()
    wanted = unary(strict, "cart_service", {"user_id": columns["user_id"]},
                   request={"cart_value": carts})  # fmt: skip
    np.testing.assert_equal(got["cart_share"].to_pylist(), wanted.to_dict()["cart_share"])
    assert got["cart_share__status"].to_pylist() == wanted.statuses["cart_share"]
    assert got["cart_share"].to_pylist()[0] == 2.0


def test_what_cannot_be_computed(strict: Served) -> None:
    rows = {"user_id": [1, 2]}
    with pytest.raises(InternalError, match=r"batch 0, rows 0 to 1: .*planned by the test"):
        strict.client.score("failing_service", rows).to_table()
    scores = strict.client.score(
        "failing_service", rows, allow_partial_response=True, statuses=True
    )
    assert scores.to_table()["failing__status"].to_pylist() == ["INVALID"] * 2
    (said,) = scores.row_errors
    assert (said.feature_view, list(said.rows), said.code) == ("failing", [0, 1], 13)


def test_batches_before_a_refused_one_are_given(strict: Served) -> None:
    users = pa.array([1, 2, None, 3], pa.int64())
    scores = strict.client.score("part", pa.table({"user_id": users}), batch_size=2)
    assert next(scores)["spend"].to_pylist() == [1.5, None]
    words = r"batch 1, rows 2 to 3: .*'user_id' is null in row 0"
    with pytest.raises(InvalidArgument, match=words):
        next(scores)
    assert scores.rows == 2
    assert list(scores) == []
    with pytest.raises(NotFound, match="no feature service 'usrs'; did you mean 'users'"):
        strict.client.score("usrs", {"user_id": [1]}).to_table()


def test_rows_that_cannot_be_read_end_it(strict: Served) -> None:
    def rows() -> Iterator[Any]:
        yield {"user_id": [1, 2]}
        raise LookupError("planned by the test")

    scores = strict.client.score("part", rows(), batch_size=2)
    assert next(scores).num_rows == 2
    with pytest.raises(LookupError, match="planned by the test"):
        next(scores)
    with pytest.raises(KeyError, match="no column 'sku'; they have user_id"):
        strict.client.score("part", {"user_id": [1]}, columns=["sku"]).to_table()
    with pytest.raises(KeyError, match="no column 'label'"):
        strict.client.score("part", {"user_id": [1]}, keep=["label"]).to_table()
    parts = iter([{"user_id": [1]}, {"user": [1]}])
    with pytest.raises(ValueError, match="their parts differ in their columns"):
        strict.client.score("part", parts).to_table()
    with pytest.raises(TypeError, match="rows cannot be a int"):
        strict.client.score("part", 5).to_table()
    with pytest.raises(FileNotFoundError):
        strict.client.score("part", "no such file.parquet")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"ahead": 0}, ValueError, "ahead is 0"),
        ({"columns": "user_id"}, TypeError, "columns='user_id': give a list"),
        ({"keep": "user_id"}, TypeError, "keep='user_id': give a list"),
    ],
)
def test_options_without_a_meaning(
    strict: Served, options: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        strict.client.score("part", {"user_id": [1]}, **options)
    with pytest.raises(ValueError, match="seconds is 0"):
        Resume(seconds=0)
    with pytest.raises(ValueError, match="backoff must be above 0"):
        Resume(backoff=2, longest_backoff=1)


def test_a_bar_is_drawn(strict: Served, capsys: pytest.CaptureFixture[str]) -> None:
    strict.client.score("part", {"user_id": USERS}, progress=True).to_table()
    assert "6/6" in capsys.readouterr().out


def test_nobody_there(strict: Served) -> None:
    resume = Resume(seconds=0.3, backoff=0.05)
    with FeatureClient(NOWHERE) as client:
        with pytest.raises(Unavailable, match=r"more streams were tried within 0.3 s; answered: 0"):
            client.score("part", {"user_id": [1]}, resume=resume).to_table()
        with pytest.raises(Unavailable, match="answered: 0 batches, 0 rows"):
            client.score("part", {"user_id": [1]}, resume=None).to_table()


def test_a_gateway_that_says_nothing() -> None:
    async def ask(address: str) -> None:
        async with AsyncFeatureClient(address) as client:
            await client.score("part", {"user_id": [1]}, timeout=0.1).to_table()

    words = "batch 0, rows 0 to 0: no answer in 0.1 s"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with FeatureClient(address) as client, pytest.raises(DeadlineExceeded, match=words):
            client.score("part", {"user_id": [1]}, timeout=0.1).to_table()
        with pytest.raises(DeadlineExceeded, match=words):
            asyncio.run(ask(address))


def test_for_asyncio(strict: Served) -> None:
    async def rows() -> AsyncIterator[Any]:
        for user in USERS:
            yield {"user_id": [user]}

    async def failing() -> AsyncIterator[Any]:
        yield {"user_id": [1, 2]}
        raise LookupError("planned by the test")

    async def main() -> None:
        wanted = strict.client.score("part", {"user_id": USERS}).to_table()
        async with AsyncFeatureClient(strict.address) as client:
            told: list[Scored] = []
            scores = client.score("part", rows(), batch_size=4, progress=told.append)
            assert [batch.num_rows async for batch in scores] == [4, 2]
            assert told == [Scored(n, None) for n in (0, 4, 6)]
            assert scores.rows == 6
            tables = [
                client.score("part", form, batch_size=2).to_table()
                for form in (rows(), {"user_id": USERS}, pd.DataFrame({"user_id": USERS}))
            ]
            assert [table.equals(wanted) for table in await asyncio.gather(*tables)] == [True] * 3
            async with client.score("part", failing(), batch_size=2) as scores:
                assert (await anext(scores)).num_rows == 2
                with pytest.raises(LookupError, match="planned by the test"):
                    await anext(scores)
            with pytest.raises(InvalidArgument, match=r"batch 0, rows 0 to 0: .*'nonsense'"):
                await client.score("part", {"nonsense": [1]}).to_table()
            with pytest.raises(KeyError, match="no column 'sku'"):
                await client.score("part", {"user_id": [1]}, columns=["sku"]).to_table()
        async with AsyncFeatureClient(NOWHERE) as nobody:
            resume = Resume(seconds=0.3, backoff=0.05)
            with pytest.raises(Unavailable, match="more streams were tried"):
                await nobody.score("part", {"user_id": [1]}, resume=resume).to_table()

    asyncio.run(main())


# ------------------------------------------------------------ the stream itself


def ipc(**columns: Any) -> bytes:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def streamed(served: Served, *messages: Any) -> list[Any]:
    """The answers to messages."""
    call: Any = served.channel.stream_stream(
        "/hotfeast.serving.v1.FeatureServing/GetOnlineFeaturesStream"
    )
    data = (m if isinstance(m, bytes) else m.SerializeToString() for m in messages)
    return [
        serving_pb2.GetOnlineFeaturesStreamResponse.FromString(a) for a in call(data, timeout=30)
    ]


def message(batch: int, service: str = "", **fields: Any) -> Any:
    made: Any = serving_pb2.GetOnlineFeaturesStreamRequest(batch=batch, **fields)
    if service:
        made.read.request.feature_service = service
    return made


def test_a_refused_batch_does_not_end_the_stream(strict: Served) -> None:
    columns: Any = message(6, "part", arrow_ipc=ipc(user_id=[1]))
    columns.read.request.entities["user_id"].CopyFrom(value_pb2.RepeatedValue())
    answers = streamed(
        strict,
        message(3, arrow_ipc=ipc(user_id=[1])),
        message(4, "part", arrow_ipc=b"no arrow"),
        b"\xff",
        message(5, arrow_ipc=ipc(user_id=[1, 2, 3])),
        columns,
        message(7, "world_service", arrow_ipc=b""),
        message(8, arrow_ipc=ipc(user_id=[1])),
        message(9, "part", arrow_ipc=ipc(user_id=[2])),
    )
    assert [a.batch for a in answers] == [3, 4, 0, 5, 6, 7, 8, 9]
    said = [(a.error.code, a.error.message.partition(":")[0]) for a in answers]
    bad = grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert said[0] == (bad, "set read in the first message of a stream")
    assert said[1] == (bad, "arrow_ipc is not an Arrow IPC stream")
    assert said[2] == (bad, "the message is not a GetOnlineFeaturesStreamRequest")
    assert said[4] == (bad, "read.request has columns")
    assert said[5] == (bad, "arrow_ipc is not an Arrow IPC stream")
    assert said[6][0] == bad
    assert "'user_id' is no join key" in answers[6].error.message
    for answer, rows in ((answers[3], 3), (answers[7], 1)):
        assert not answer.HasField("error")
        with pa.ipc.open_stream(answer.arrow_ipc) as reader:
            table = reader.read_all()
        assert table.column_names == ["spend", "visits"]
        assert table.num_rows == rows


def test_metadata_of_versions(strict: Served) -> None:
    asked = message(0, "part", arrow_ipc=ipc(user_id=[1]))
    asked.read.request.include_feature_view_version_metadata = True
    (answer,) = streamed(strict, asked)
    assert [v.name for v in answer.metadata.feature_view_metadata] == ["user_stats"]
    assert not answer.metadata.HasField("feature_names")
