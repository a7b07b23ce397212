"""What the client makes of an answer's bytes, beside what protobuf and Feast make of them."""

import math
import struct
import sys
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import (
    GetOnlineFeaturesResponse as FeastResponse,
)
from feast.protos.feast.types.Value_pb2 import Int64List, Map, MapKey, Null, ScalarMapEntry, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import Served

from hotfeast.clients import HotfeastError, MissingPackage, OnlineFeatures
from hotfeast.clients.requests import answer_of
from hotfeast.hotpath.errors import MalformedAnswer
from hotfeast.serving.v1 import serving_pb2

FEAST_NULL = -(2**63)
examples = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
TIMES = st.integers(-(10**9), 10**10) | st.just(FEAST_NULL)
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "bytes": st.binary(max_size=5),
    "string": TEXTS,
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(),
    "float": st.floats(width=32),
    "bool": st.booleans(),
    "unix_timestamp": TIMES,
    "json": TEXTS | st.sampled_from(['{"a": [1, null]}', "3", '"x"']),
    "uuid": st.uuids().map(str),
    "time_uuid": st.uuids().map(str),
    "decimal": st.decimals(allow_nan=False, allow_infinity=False).map(str),
}
NUMBERS = ("int32", "int64", "double", "float", "bool", "unix_timestamp")
MEMBERS = [
    f"{kind}{form}_val"
    for kind in SCALARS
    for form in ("", "_list", "_set")
    if f"{kind}{form}_val" in Value.DESCRIPTOR.fields_by_name
]


def of_member(member: str) -> st.SearchStrategy[Any]:
    """`Value`s with this member, a scalar, list or set."""
    kind = member.removesuffix("_val").removesuffix("_list").removesuffix("_set")
    if member == f"{kind}_val":
        return SCALARS[kind].map(lambda v: Value(**{member: v}))

    def gathered(elements: list[Any]) -> Any:
        value = Value()
        getattr(value, member).SetInParent()
        getattr(value, member).val.extend(elements)
        return value

    return st.lists(SCALARS[kind], max_size=4).map(gathered)


PLAIN = st.sampled_from(MEMBERS).flatmap(of_member)


def mapped(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(TEXTS, values, max_size=3).map(lambda items: Map(val=items))


def _map_value(content: Any) -> Any:
    value = Value()
    value.map_val.CopyFrom(content)
    return value


def _map_list(contents: list[Any]) -> Any:
    value = Value()
    value.struct_list_val.val.extend(contents)
    return value


def _nested(contents: list[Any]) -> Any:
    value = Value()
    value.list_val.val.extend(contents)
    return value


def _scalar_map(keys: list[int]) -> Any:
    value = Value()
    value.scalar_map_val.SetInParent()
    for key in keys:
        entry = ScalarMapEntry(key=MapKey(unix_timestamp_key=key), value=Value(int64_val=key))
        value.scalar_map_val.val.append(entry)
    return value


def _zoned(second: int, zone: str) -> Any:
    value = Value()
    value.zoned_timestamp_val.unix_timestamp = second
    value.zoned_timestamp_val.zone = zone
    return value


MESSAGES = st.one_of(
    mapped(PLAIN).map(_map_value),
    st.lists(mapped(PLAIN), max_size=3).map(_map_list),
    st.lists(of_member("int64_list_val") | of_member("string_set_val"), max_size=3).map(_nested),
    st.lists(st.integers(0, 10**9), unique=True, max_size=3).map(_scalar_map),
    st.builds(
        _zoned,
        TIMES,
        st.sampled_from(["", "UTC", "Europe/Berlin", "UTC-07:00", "+05:30", "+0530", "nowhere"]),
    ),
)
NULLS = st.sampled_from([Value(), Value(null_val=Null.NULL)])


@st.composite
def answers(draw: st.DrawFn, members: tuple[str, ...] | None = None) -> Any:
    """Answers as Feast's message; of these members only, and nulls, where they are given."""
    rows = draw(st.integers(0, 5))
    response: Any = FeastResponse()
    response.metadata.feature_names.SetInParent()
    for number in range(draw(st.integers(1, 4))):
        response.metadata.feature_names.val.append(f"c{number}")
        one = of_member(draw(st.sampled_from(members or MEMBERS)))
        column = one if members or draw(st.integers(0, 3)) else MESSAGES | PLAIN
        vector = response.results.add()
        vector.values.extend(draw(st.lists(column | NULLS, min_size=rows, max_size=rows)))
        vector.statuses.extend(draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows)))
        for _ in range(rows):
            vector.event_timestamps.add(seconds=draw(st.integers(-(10**9), 10**10)), nanos=5000)
    return response


def comparable(value: Any) -> Any:
    """A value with floats by their bits and sets in some order, and types."""
    if isinstance(value, float):
        return ("float", b"nan" if math.isnan(value) else struct.pack("=d", value))
    if isinstance(value, set):
        return ("set", sorted(repr(comparable(v)) for v in value))
    if isinstance(value, list | tuple):
        return [comparable(v) for v in value]
    if isinstance(value, dict):
        return {
            comparable(k) if isinstance(k, float) else k: comparable(v) for k, v in value.items()
        }
    if value is pd.NaT:
        return "NaT"
    if isinstance(value, datetime):
        return ("time", value, value.utcoffset())
    return (type(value).__name__, value)


def feast_response(response: Any) -> OnlineResponse:
    """The same as Feast has it. Of an explicit null it would make 0, so there is none."""
    copy: Any = FeastResponse.FromString(response.SerializeToString())
    for vector in copy.results:
        for value in vector.values:
            value.ClearField("null_val")
    return OnlineResponse(copy)


def decoded(response: Any) -> OnlineFeatures:
    return OnlineFeatures(response.SerializeToString())


@examples
@given(answers(), st.booleans())
def test_dictionaries_are_those_of_feast(response: Any, times: bool) -> None:
    theirs = feast_response(response).to_dict(include_event_timestamps=times)
    ours = decoded(response).to_dict(include_event_timestamps=times)
    assert list(ours) == list(theirs)
    assert comparable(ours) == comparable(theirs)


@examples
@given(answers(), st.booleans())
def test_frames_are_those_of_feast(response: Any, times: bool) -> None:
    theirs = feast_response(response).to_df(include_event_timestamps=times)
    ours = decoded(response).to_df(include_event_timestamps=times)
    assert list(ours.dtypes) == list(theirs.dtypes)
    assert comparable(ours.astype(object).values.tolist()) == comparable(
        theirs.astype(object).values.tolist()
    )


@examples
@given(answers())
def test_statuses_and_times_are_what_protobuf_reads(response: Any) -> None:
    ours = decoded(response)
    name = serving_pb2.FieldStatus.Name
    for column, vector in zip(ours.names, response.results, strict=True):
        assert ours.statuses[column] == [name(s) for s in vector.statuses]
        assert ours.event_timestamps[column] == [
            t.ToDatetime(tzinfo=UTC) for t in vector.event_timestamps
        ]
    assert FeastResponse.FromString(ours.proto.SerializeToString()) == response
    assert [row.values.keys() for row in ours.rows()] == [set(ours.names)] * len(ours)


def _number(value: Any) -> float:
    member = value.WhichOneof("val")
    if member in (None, "null_val"):
        return math.nan
    content = getattr(value, member)
    if member == "unix_timestamp_val" and content == FEAST_NULL:
        return math.nan
    return float(content)


@examples
@given(answers(tuple(f"{kind}_val" for kind in NUMBERS)), st.floats(-1, 1))
def test_matrices_hold_the_numbers(response: Any, null: float) -> None:
    ours = decoded(response)
    wanted = np.array(
        [[_number(v) for v in vector.values] for vector in response.results], np.float64
    ).T.reshape(len(ours), len(ours.names))
    np.testing.assert_array_equal(ours.to_numpy(), wanted)
    np.testing.assert_array_equal(
        ours.to_numpy(null=null), np.where(np.isnan(wanted) & _absent(response), null, wanted)
    )
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(ours.to_numpy(dtype=np.float32), wanted.astype(np.float32))
    flipped = ours.to_numpy(ours.names[::-1])
    np.testing.assert_array_equal(flipped, wanted[:, ::-1])
    objects = ours.to_numpy(dtype=object).T.tolist()
    assert comparable(objects) == comparable(list(ours.to_dict().values()))
    try:
        whole = ours.to_numpy(dtype=np.int64)
    except ValueError:
        # A null, a fraction, or more than 64 bits.
        values = [v for vector in response.results for v in vector.values]
        assert any(
            math.isnan(_number(v)) or not _number(v).is_integer() or abs(_number(v)) >= 2**63
            for v in values
        )
        return
    exact = [[int(getattr(v, v.WhichOneof("val"))) for v in c.values] for c in response.results]
    assert whole.T.tolist() == exact


def _absent(response: Any) -> Any:
    """Which cells have no value, as apart from a NaN that is stored."""
    columns = [
        [
            v.WhichOneof("val") in (None, "null_val")
            or (v.WhichOneof("val") == "unix_timestamp_val" and v.unix_timestamp_val == FEAST_NULL)
            for v in vector.values
        ]
        for vector in response.results
    ]
    return np.array(columns, bool).T.reshape(len(columns[0]), len(columns))


def _for_arrow(value: Any) -> Any:
    """What Arrow is to have of a `Value` with one of MEMBERS."""
    member = value.WhichOneof("val")
    if member in (None, "null_val"):
        return None
    content = getattr(value, member)
    elements = list(content.val) if hasattr(content, "val") else [content]
    if member.startswith("unix_timestamp"):
        elements = [None if v == FEAST_NULL else datetime.fromtimestamp(v, UTC) for v in elements]
    return elements if hasattr(content, "val") else elements[0]


@examples
@given(answers(tuple(MEMBERS)))
def test_arrow_tables_hold_the_values(response: Any) -> None:
    table = decoded(response).to_arrow()
    table.validate(full=True)
    for column, vector in zip(table.columns, response.results, strict=True):
        wanted = [_for_arrow(v) for v in vector.values]
        assert comparable(column.to_pylist()) == comparable(wanted)
        assert column.null_count == wanted.count(None)


@examples
@given(answers(tuple(f"{kind}_val" for kind in (*NUMBERS, "string", "bytes"))))
def test_pandas_keeps_the_types(response: Any) -> None:
    ours = decoded(response)
    frame, values = ours.to_pandas(), ours.to_dict()
    assert list(frame.columns) == ours.names
    for name, vector in zip(ours.names, response.results, strict=True):
        for mine, value in zip(frame[name], values[name], strict=True):
            if value is None:
                assert pd.isna(mine)
            elif isinstance(value, float):
                np.testing.assert_equal(float(mine), value)
            else:
                assert mine == value
        kinds = {v.WhichOneof("val") for v in vector.values} - {None, "null_val"}
        if kinds == {"int64_val"}:
            assert str(frame[name].dtype) == ("Int64" if None in values[name] else "int64")
        elif kinds == {"float_val"}:
            assert frame[name].dtype == np.float32


def test_maps_and_nested_lists_have_arrow_types() -> None:
    response: Any = FeastResponse()
    response.metadata.feature_names.val.extend(["settings", "nested", "mixed"])
    settings_ = [_map_value(Map(val={"a": Value(int64_val=1)})), Value()]
    nested = [_nested([Value(int64_list_val=Int64List(val=numbers)) for numbers in ([1, 2], [])])]
    response.results.add(values=settings_)
    response.results.add(values=[*nested, Value()])
    response.results.add(values=[Value(int64_val=1), Value(string_val="x")])
    ours = decoded(response)
    table = ours.to_arrow(["settings", "nested"])
    assert table.schema.types == [
        pa.map_(pa.string(), pa.int64()),
        pa.list_(pa.list_(pa.int64())),
    ]
    assert table.to_pydict() == {"settings": [[("a", 1)], None], "nested": [[[1, 2], []], None]}
    with pytest.raises(TypeError, match="'mixed' has no Arrow type"):
        ours.to_arrow()
    assert ours.to_dict()["mixed"] == [1, "x"]


def answer_to(served: Served) -> OnlineFeatures:
    entities = {"user_id": [1, 2, 3, 99], "sku": ["a", "bé", "a", ""]}
    return served.client.get_online_features("everything", entities)


def test_an_answer_of_a_gateway_in_every_form(strict: Served) -> None:
    answer = answer_to(strict)
    feast = OnlineResponse(FeastResponse.FromString(answer.proto.SerializeToString()))
    assert answer.to_dict() == feast.to_dict()
    assert set(answer.names) - set(answer.feature_names) == {"user_id", "sku"}
    numbers = ["visits", "spend", "ratio", "active", "since", "price", "stock", "score"]
    matrix = answer.to_numpy(numbers)
    assert matrix[0, :4].tolist() == [10, 1.5, 0.5, 1]
    assert np.isnan(matrix[3, :5]).all()
    table = answer.to_arrow()
    assert table.schema.field("recent").type == pa.list_(pa.int64())
    assert table.schema.field("since").type == pa.timestamp("s", "UTC")
    settings_ = answer.to_dict()["settings"]
    assert table["settings"].to_pylist() == [list(settings_[0].items()), None, None, None]
    frame = answer.to_polars()
    assert isinstance(frame, pl.DataFrame)
    assert frame["visits"].to_list() == [10, None, None, None]
    assert frame["labels"].to_list() == [["a", "ß"], None, None, None]
    assert frame["since"].to_list() == answer.to_dict()["since"]
    assert answer.to_pandas()["visits"].tolist() == [10, pd.NA, pd.NA, pd.NA]


def test_what_cannot_be_a_matrix_is_told(strict: Served) -> None:
    answer = answer_to(strict)
    with pytest.raises(TypeError, match=r"'city' \(STRING\).*columns="):
        answer.to_numpy()
    with pytest.raises(KeyError, match="no column 'citty'"):
        answer.to_numpy(["citty"])
    with pytest.raises(TypeError, match="give a list of names"):
        answer.to_arrow("city")
    with pytest.raises(ValueError, match=r"'visits', row 1: null.*int64"):
        answer.to_numpy(["visits"], dtype=np.int64)
    with pytest.raises(TypeError, match="dtype <U3"):
        answer.to_numpy(["visits"], dtype="U3")
    one = strict.client.get_online_features(["user_stats:spend"], {"user_id": [1]})
    with pytest.raises(ValueError, match=r"'spend', row 0: 1.5 is no int32"):
        one.to_numpy(dtype=np.int32)
    users = strict.client.get_online_features(["user_stats:visits"], {"user_id": [-4]})
    with pytest.raises(ValueError, match=r"'visits', row 0: -40 is no uint64"):
        users.to_numpy(dtype=np.uint64)
    assert users.to_numpy(dtype=np.int16).tolist() == [[-40]]


def test_packages_that_are_missing_are_named(
    strict: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = strict.client.get_online_features("part", {"user_id": [1]})
    for package in ("pandas", "polars", "pyarrow", "torch"):
        # What Python itself has for a module that is not to be found.
        monkeypatch.setitem(sys.modules, package, None)
    methods = {
        "to_df": "pandas",
        "to_pandas": "pandas",
        "to_polars": "polars",
        "to_arrow": "pyarrow",
        "to_torch": "torch",
    }
    for method, package in methods.items():
        with pytest.raises(MissingPackage, match=f"{method} needs {package}: pip install"):
            getattr(answer, method)()
    assert answer.to_numpy().tolist() == [[1.5, 10.0]]
    assert answer.to_dict()["spend"] == [1.5]


def test_tensors(strict: Served) -> None:
    torch = pytest.importorskip("torch")
    answer = strict.client.get_online_features("part", {"user_id": [1, 2]})
    assert answer.to_torch().dtype == torch.float32
    assert answer.to_torch(null=0.0).tolist() == [[1.5, 10.0], [0.0, 0.0]]
    assert answer.to_torch(["user_id"], dtype=torch.int64).tolist() == [[1], [2]]
    assert answer.to_torch(null=0.0, dtype=torch.bfloat16).tolist() == [[1.5, 10.0], [0.0, 0.0]]
    small = answer.to_torch(["user_id"], dtype=torch.int8)
    assert (small.dtype, small.tolist()) == (torch.int8, [[1], [2]])
    with pytest.raises(ValueError, match="row 1: 2 is no bool"):
        answer.to_torch(["user_id"], dtype=torch.bool)


def test_what_is_shown(strict: Served) -> None:
    answer = strict.client.get_online_features("part", {"user_id": [1, 2, 99]})
    assert repr(answer).splitlines() == [
        "OnlineFeatures: 3 rows, 2 features",
        "user_id  spend         visits",
        "1        1.5           10",
        "2        (NULL_VALUE)  (NULL_VALUE)",
        "99       (NOT_FOUND)   (NOT_FOUND)",
    ]
    many = strict.client.get_online_features(
        "everything", {"user_id": [1] * 15, "sku": ["x" * 300] * 15}
    )
    shown = repr(many)
    assert shown.endswith("... 5 more rows and 3 more columns")
    assert max(map(len, shown.splitlines())) < 400
    page = many._repr_html_()
    assert page.count("<tr>") == 11
    response: Any = FeastResponse()
    response.metadata.feature_names.val.append("<b>")
    response.results.add(values=[Value(string_val="<script>")])
    scripted = answer_of(
        response.SerializeToString(),
        (),
        serving_pb2.GetOnlineFeaturesRequest(),
    )
    assert "<script>" not in scripted._repr_html_()
    assert "<b>" not in scripted._repr_html_()
    assert repr(OnlineFeatures(b"")) == "OnlineFeatures: 0 rows, 0 features"


def test_what_is_no_answer_is_an_error() -> None:
    with pytest.raises(HotfeastError, match="INTERNAL: the answer is malformed"):
        answer_of(b"\xff", (), serving_pb2.GetOnlineFeaturesRequest())
    # A number for a column's bytes: told when that column is asked for.
    response: Any = FeastResponse()
    response.metadata.feature_names.val.extend(["a", "b"])
    response.results.add(values=[Value(int64_val=1)])
    bad = response.SerializeToString() + b"\x12\x04\x0a\x02\x29\x01"
    answer = OnlineFeatures(bad)
    assert answer.to_numpy(["a"]).tolist() == [[1.0]]
    with pytest.raises(MalformedAnswer, match="'b'"):
        answer.to_numpy(["b"])
    with pytest.raises(MalformedAnswer, match="'b'"):
        answer.to_dict()
