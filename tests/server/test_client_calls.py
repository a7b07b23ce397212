"""Rows of every form that the client takes, and what calls end with."""

import multiprocessing
import os
import pickle
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import Served

from hotfeast.clients import (
    DeadlineExceeded,
    FailedPrecondition,
    FeatureClient,
    ForkedClient,
    HotfeastError,
    InternalError,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
)
from hotfeast.clients.columns import column, columns_of
from hotfeast.hotpath.sent_values import serialized_values

IDS, SKUS = [1, 2, 1], ["a", "bé", ""]
ROWS = [{"user_id": u, "sku": s} for u, s in zip(IDS, SKUS, strict=True)]
STRUCTURED = np.array(list(zip(IDS, SKUS, strict=True)), [("user_id", "i8"), ("sku", "U5")])
TABLE = pa.table({"user_id": IDS, "sku": SKUS})
FORMS = {
    "columns": {"user_id": IDS, "sku": SKUS},
    "tuples": {"user_id": tuple(IDS), "sku": tuple(SKUS)},
    "rows": ROWS,
    "numpy": {"user_id": np.array(IDS, np.int32), "sku": np.array(SKUS)},
    "objects": {"user_id": np.array(IDS, object), "sku": np.array(SKUS, object)},
    "structured": STRUCTURED,
    "pandas": pd.DataFrame(ROWS),
    "pandas_nullable": pd.DataFrame(ROWS).convert_dtypes(),
    "series": {"user_id": pd.Series(IDS), "sku": pd.Index(SKUS)},
    "polars": pl.DataFrame(ROWS),
    "polars_series": {"user_id": pl.Series(IDS), "sku": pl.Series(SKUS)},
    "table": TABLE,
    "batch": TABLE.to_batches()[0],
    "arrays": {"user_id": pa.array(IDS), "sku": pa.chunked_array([SKUS[:1], SKUS[1:]])},
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_every_form_are_the_same_request(strict: Served, form: str) -> None:
    wanted = strict.client.get_online_features("everything", FORMS["columns"]).to_dict()
    assert wanted["score"] == [0.1, None, None]
    assert strict.client.get_online_features("everything", FORMS[form]).to_dict() == wanted


@pytest.mark.parametrize(
    "request_data",
    [{"cart_value": [3.0, None]}, pd.DataFrame({"cart_value": [3.0, np.nan]})],
    ids=["columns", "pandas"],
)
def test_request_data(strict: Served, request_data: Any) -> None:
    for name in ("request", "request_context"):
        answer = strict.client.get_online_features(
            "cart_service", {"user_id": [1, 1]}, **{name: request_data}
        )
        assert answer.to_dict()["cart_share"] == [2.0, None]
        assert answer.feature_names == ["visits", "cart_share"]
    with pytest.raises(TypeError, match="request or request_context"):
        strict.client.get_online_features("s", request={}, request_context={})


@pytest.mark.parametrize(
    ("rows", "kind", "words"),
    [
        ([{"a": 1}, {"b": 1}], ValueError, "entities: row 1 and row 0 differ in 'a', 'b'"),
        ([1, 2], TypeError, "entities cannot be a list"),
        (5, TypeError, "entities cannot be a int"),
        ({"user_id": 5}, TypeError, "'user_id': give a list of values, one a row, not 5"),
        ({"user_id": "12"}, TypeError, "'user_id': give a list of values, one a row"),
        ({"user_id": np.zeros((2, 2))}, TypeError, "'user_id': an array with 2 dimensions"),
        ({"user_id": ["\ud800"]}, TypeError, "'user_id': .*surrogates not allowed"),
        ({"user_id": [object()]}, TypeError, "'user_id': cannot send a object"),
        ({"user_id": [2**63]}, TypeError, "'user_id': 9223372036854775808 does not fit int64"),
        (pd.DataFrame({"user_id": [[1]]}), TypeError, "'user_id': cannot send a list"),
    ],
)
def test_what_cannot_be_sent_is_named(
    strict: Served, rows: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        strict.client.get_online_features("users", rows)


def test_times_and_missing_values_of_every_library() -> None:
    moment = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
    naive = moment.replace(tzinfo=None)
    forms = {
        "list": [moment, None],
        "naive": [naive, None],
        "numpy": np.array([naive, "NaT"], "datetime64[ns]"),
        "pandas": pd.Series([naive, None]),
        "zone": pd.Series([moment, None]).dt.tz_convert("Asia/Tokyo"),
        "NaT": [pd.Timestamp(moment), pd.NaT],
        "polars": pl.Series([moment, None]),
        "arrow": pa.array([moment, None], pa.timestamp("us", "UTC")),
    }
    for form, values in forms.items():
        sent = column("t", columns_of({"t": values}, "rows")["t"]).val
        kinds = [v.WhichOneof("val") for v in sent]
        assert kinds == ["unix_timestamp_val", None], form
        assert sent[0].unix_timestamp_val == int(moment.timestamp()), form
    nulls = columns_of(pd.DataFrame({"n": pd.array([1, None], "Int64")}), "rows")
    assert nulls == {"n": [1, None]}


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(codec="utf-8")),
    st.text(min_size=50),
    st.binary(),
    st.binary(min_size=130, max_size=300),
)


@settings(deadline=None)
@given(st.lists(PLAIN, max_size=20))
def test_plain_values_are_serialized_as_protobuf_does(values: list[Any]) -> None:
    assert serialized_values(values) == column("c", values).SerializeToString()


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, np.int64(5), datetime.now(UTC), [1]])
def test_other_values_are_left_to_protobuf(value: Any) -> None:
    assert serialized_values([1, value]) is None


def test_errors_have_classes_of_their_own(strict: Served) -> None:
    ask = strict.client.get_online_features
    with pytest.raises(NotFound, match="did you mean 'users'") as error:
        ask("user", {"user_id": [1]})
    assert error.value.code == grpc.StatusCode.NOT_FOUND
    assert "NOT_FOUND" not in error.value.message
    copy = pickle.loads(pickle.dumps(error.value))
    assert (type(copy), copy.code, copy.message) == (
        NotFound,
        error.value.code,
        error.value.message,
    )
    with pytest.raises(InvalidArgument, match="'user_id'"):
        ask("users", {"user_id": ["x"]})
    with pytest.raises(FailedPrecondition, match="online=False"):
        ask("hidden_service", {"user_id": [1]})
    with pytest.raises(InternalError, match="planned by the test"):
        ask("failing_service", {"user_id": [1]})
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        FeatureClient(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.1) as client,
        pytest.raises(DeadlineExceeded),
    ):
        client.get_online_features("users", {"user_id": [1]})
    with FeatureClient("127.0.0.1:1", timeout=10) as nobody, pytest.raises(Unavailable):
        nobody.get_online_features("users", {"user_id": [1]})
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with FeatureClient(f"127.0.0.1:{port}") as other, pytest.raises(Unimplemented):
        other.feature_services()
    server.stop(0)
    assert issubclass(Unimplemented, HotfeastError)


def _use_in_child(client: FeatureClient, results: Any) -> None:
    said = []
    for call in (
        lambda: client.get_online_features("part", {"user_id": [1]}),
        lambda: next(client.push_stream([], push_source="s")),
        client.feature_services,
        client.warm_up,
    ):
        try:
            call()
        except ForkedClient as error:
            said.append(str(error))
    client.close()
    results.put(said)


def test_a_client_is_refused_in_a_forked_process() -> None:
    """Of a client that has not connected, so that the fork is not of gRPC's threads."""
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    client = FeatureClient("127.0.0.1:1")
    child = fork.Process(target=_use_in_child, args=(client, results))
    child.start()
    said = results.get()
    child.join(30)
    assert child.exitcode == 0
    assert len(said) == 4
    assert all(f"made in process {os.getpid()}, off which process {child.pid}" in s for s in said)
    with pytest.raises(Unavailable):
        client.feature_services()
    client.close()


def test_a_closed_client_says_so(strict: Served) -> None:
    client = FeatureClient(strict.address)
    client.warm_up()
    client.close()
    client.close()
    with pytest.raises(ValueError, match="closed"):
        client.feature_services()
