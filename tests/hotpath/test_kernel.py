"""What runs kernels: decoding, cases, encoding, and the response that they are part of."""

import gc
import sys
from random import Random
from typing import Any

import pytest
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.kernel import Computation, Kernel, Kind
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.splice import build_computed, build_response
from hotfeast.serving.v1 import serving_pb2
from tests.hotpath.helpers import RANDOMS, Store, answer, mutant, one_view, request_bytes
from tests.hotpath.kernels import (
    BOOL,
    DOUBLE,
    EVERY_INPUT,
    EVERY_OUTPUT,
    MEMBER_OF_KIND,
    column,
    every_operation,
    kernel_of,
)

PRESENT, NULL_VALUE = serving_pb2.PRESENT, serving_pb2.NULL_VALUE
TYPE_OF_KIND = {Kind.INT64: 4, Kind.FLOAT64: DOUBLE, Kind.BOOL: BOOL, Kind.TEXT: 2}


def identity(inputs: Any) -> Any:
    return inputs.assign(out=lambda frame: frame["a"])


IDENTITIES = {k: kernel_of(identity, {"a": k}, {"out": t}) for k, t in TYPE_OF_KIND.items()}
EVERY = kernel_of(every_operation, EVERY_INPUT, EVERY_OUTPUT)


def results(data: bytes | None) -> list[Any]:
    assert data is not None
    return list(GetOnlineFeaturesResponse.FromString(data).results)


def one_value(kernel: Kernel, value: bytes) -> Value | None:
    found = kernel.run_columns([[value]], True)
    if found is None:
        return None
    (vector,) = results(found)
    assert len(vector.values) == len(vector.statuses) == len(vector.event_timestamps) == 1
    value_: Value = vector.values[0]
    return value_


@pytest.mark.parametrize("kind", IDENTITIES)
@given(random=RANDOMS, number=st.integers(-(2**63), 2**63 - 1), changes=st.integers(0, 3))
def test_bytes_are_taken_as_protobuf_takes_them_or_left(
    kind: Kind, random: Random, number: int, changes: int
) -> None:
    member = MEMBER_OF_KIND[kind]
    values: dict[Kind, Any] = {
        Kind.INT64: number,
        Kind.FLOAT64: float(number),
        Kind.BOOL: number > 0,
        Kind.TEXT: chr(abs(number) % 0xD000) * (abs(number) % 5),
    }
    data = Value(**{member: values[kind]}).SerializeToString()
    for _ in range(changes):
        data = mutant(random, data)
    found = one_value(IDENTITIES[kind], data)
    if changes == 0:
        assert found is not None
    if found is None:
        return
    try:
        expected = Value.FromString(data)
    except DecodeError:
        raise AssertionError(f"took {data!r}, which protobuf does not") from None
    name = expected.WhichOneof("val")
    assert found.WhichOneof("val") in (member, None)
    if name is None or getattr(expected, name) != getattr(expected, name):
        assert found.WhichOneof("val") is None
    else:
        assert getattr(found, member) == getattr(expected, name)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Kind.INT64, Value(double_val=1.0)),
        (Kind.INT64, Value(string_val="1")),
        (Kind.INT64, Value(bool_val=True)),
        (Kind.FLOAT64, Value(int64_val=1)),
        (Kind.BOOL, Value(int32_val=1)),
        (Kind.TEXT, Value(bytes_val=b"a")),
        (Kind.TEXT, Value(uuid_val="a")),
        (Kind.INT64, Value.FromString(b"\x98\x01\x00")),
    ],
)
def test_values_of_another_type_are_left_to_pandas(kind: Kind, value: Value) -> None:
    assert one_value(IDENTITIES[kind], value.SerializeToString()) is None


def test_no_rows_are_left_to_pandas() -> None:
    assert IDENTITIES[Kind.INT64].run_columns([[]], True) is None


def test_nulls_have_their_status_only_if_strict() -> None:
    values = column(Kind.FLOAT64, [1.5, None, float("nan")])
    for strict, status in ((True, NULL_VALUE), (False, PRESENT)):
        (vector,) = results(IDENTITIES[Kind.FLOAT64].run_columns([values], strict))
        assert list(vector.statuses) == [PRESENT, status, status]
        assert [v.WhichOneof("val") for v in vector.values] == ["double_val", None, None]


def random_columns(random: Random, rows: int, null: float) -> list[list[bytes]]:
    makers: dict[str, Any] = {
        "i": lambda: random.randrange(-5, 50),
        "k": lambda: random.choice((0, 1_600_000_000, 1_577_836_800, -1)),
        "x": lambda: random.choice((0.0, 1.5, -2.0, 1e10, 0.1)),
        "b": lambda: random.random() < 0.5,
        "s": lambda: random.choice(("a", "bb", "none", "", "ccc", "abc" * 30)),
        "u": lambda: random.randrange(10**9),
        "v": lambda: random.randrange(10**9),
    }
    return [
        column(
            kind,
            [
                # No program makes times of numbers that are floats for their nulls.
                None if name != "k" and random.random() < null else makers[name]()
                for _ in range(rows)
            ],
        )
        for name, kind in EVERY.inputs
    ]


@pytest.mark.parametrize("null", [0.0, 0.3])
@given(random=RANDOMS)
def test_rows_do_not_depend_on_each_other(null: float, random: Random) -> None:
    """But for their types: with the same nulls everywhere, each row has what it has alone."""
    rows = random.choice((2, 3, 17))
    columns = random_columns(random, rows, null)
    # pandas' types differ with a column's nulls, so that these are put last into every set.
    nulls = [
        b"" if name != "k" else c[0] for (name, _), c in zip(EVERY.inputs, columns, strict=True)
    ]
    together = EVERY.run_columns([[*c, n] for c, n in zip(columns, nulls, strict=True)], True)
    assert together is not None
    for row in range(rows):
        alone = EVERY.run_columns([[c[row], n] for c, n in zip(columns, nulls, strict=True)], True)
        for whole, single in zip(results(together), results(alone), strict=True):
            assert whole.values[row] == single.values[0]


def test_many_rows() -> None:
    """With this many the interpreter is let go."""
    random = Random(1)
    few = random_columns(random, 100, 0.0)
    once = results(EVERY.run_columns(few, True))
    often = results(EVERY.run_columns([c * 50 for c in few], True))
    assert [list(v.values) * 50 for v in once] == [list(v.values) for v in often]


def test_columns_have_to_fit() -> None:
    with pytest.raises(ValueError, match="2 columns for 1 inputs"):
        IDENTITIES[Kind.INT64].run_columns([[], []], True)
    with pytest.raises(ValueError, match="different lengths"):
        EVERY.run_columns([[b""], *[[]] * 6], True)


# ---- within a response


def share(inputs: Any) -> Any:
    import pandas as pd

    df = pd.DataFrame()
    df["share"] = inputs["price"] / inputs["total"]
    return df


SHARE = kernel_of(share, {"price": Kind.FLOAT64, "total": Kind.FLOAT64}, {"share": DOUBLE})
DEFINITION = one_view(features=["a", "price", "z"], ttl=3600)
PLAN = Plan(DEFINITION)
NOW = (1_750_000_000, 0)


def computation(sent: tuple[bool, bool, bool], plan: Plan = PLAN) -> Computation:
    return Computation(
        plan, [(SHARE, [(0, 1), "total"])], [("total", DOUBLE, Kind.FLOAT64)], sent, ["share"]
    )


def request_of(ids: list[int], totals: list[Any], **settings: Any) -> bytes:
    message = serving_pb2.GetOnlineFeaturesRequest.FromString(
        request_bytes({"id": [Value(int64_val=i) for i in ids]})
    )
    for name, value in settings.items():
        setattr(message, name, value)
    message.request_context["total"].SetInParent()
    for total in totals:
        value = message.request_context["total"].val.add()
        if total is not None:
            value.double_val = total
    return message.SerializeToString()


def store_of(ages: dict[int, int], price: Any = 3.0) -> Store:
    """Rows of some ids, so many seconds old."""
    from feast.infra.online_stores.helpers import _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from google.protobuf.timestamp_pb2 import Timestamp

    view = DEFINITION.views[0]
    store: Store = {}
    for number, age in ages.items():
        key = EntityKey(join_keys=["id"], entity_values=[Value(int64_val=number)])
        stored = [Value(int64_val=number), Value(double_val=price), Value(string_val="z" * number)]
        fields = {
            f.hash_field: v.SerializeToString() for f, v in zip(view.features, stored, strict=True)
        }
        fields[view.time_field] = Timestamp(seconds=NOW[0] - age).SerializeToString()
        store[_redis_key("demo", key, entity_key_serialization_version=3)] = fields
    return store


def read(data: bytes, store: Store, plan: Plan = PLAN) -> tuple[Batch, Reply]:
    batch = Batch(plan, Request(data))
    reply = Reply()
    reply.start(batch)
    reply.feed(answer(batch.command_bytes, store))
    return batch, reply


@pytest.mark.parametrize("sent", [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("stale", [False, True])
def test_what_was_asked_for_is_sent(sent: Any, rows: int, stale: bool) -> None:
    random = Random(rows)
    store = store_of({1: 10, 2: 10_000, 3: 5, 4: 0})
    ids = [random.randrange(1, 6) for _ in range(rows)]
    totals = [random.choice((1.0, 8.0, 0.0, None)) for _ in range(rows)]
    data = request_of(ids, totals, include_stale_values=stale)
    whole = build_response(*read(data, store), *NOW, True)
    parse = serving_pb2.GetOnlineFeaturesResponse.FromString
    for keep in (False, True):
        computed, stored, parts = build_computed(
            *read(data, store), *NOW, True, computation(sent), keep
        )
        assert stored == (whole if keep else None)
        assert computed is not None
        assert parts is not None
        assert len(parts) == 1
        answer_, expected = parse(computed), parse(whole)
        names = dict(zip(expected.metadata.feature_names.val, expected.results, strict=True))
        wanted = ["id", *(n for n, flag in zip(("a", "price", "z"), sent, strict=True) if flag)]
        assert list(answer_.metadata.feature_names.val) == [*wanted, "share"]
        assert list(answer_.results[:-1]) == [names[n] for n in wanted]
        for row, value in enumerate(answer_.results[-1].values):
            price = names["price"].values[row]
            total = totals[row]
            if total is None or not price.HasField("double_val"):
                assert value.WhichOneof("val") is None
                assert answer_.results[-1].statuses[row] == NULL_VALUE
            else:
                share_ = price.double_val / total if total else float("inf")
                assert value.double_val == share_
                assert answer_.results[-1].statuses[row] == PRESENT


def test_views_without_a_kernel_are_left_to_python() -> None:
    """Nothing is sent before they are computed; what the kernels computed is given beside it."""
    store, data = store_of({1: 10, 2: 10_000}), request_of([1, 2], [1.0, 8.0])
    bound: Any = (SHARE, [(0, 1), "total"])
    fields = [("total", DOUBLE, Kind.FLOAT64)]
    names = ["before", "share", "between", "again"]
    made = Computation(PLAN, [None, bound, None, bound], fields, [False] * 3, names)
    whole = build_response(*read(data, store), *NOW, True)
    computed, stored, parts = build_computed(*read(data, store), *NOW, True, made, False)
    assert (computed, stored) == (None, whole)
    assert parts is not None
    assert [part is None for part in parts] == [True, False, True, False]
    assert parts[1] == parts[3]
    (share_,) = serving_pb2.GetOnlineFeaturesResponse.FromString(parts[1] or b"").results
    assert [v.WhichOneof("val") for v in share_.values] == ["double_val", None]
    assert share_.values[0].double_val == 3.0


def test_request_data_that_kernels_do_not_look_at() -> None:
    """It has to be there, and is left to Python whatever it is."""
    store = store_of({1: 10})
    fields = [("total", DOUBLE, Kind.FLOAT64), ("tags", 0, -1)]
    bound: Any = (SHARE, [(0, 1), "total"])
    made = Computation(PLAN, [bound, None], fields, [False] * 3, ["share", "other"])
    request = serving_pb2.GetOnlineFeaturesRequest.FromString(request_of([1], [1.0]))
    for name, computes in ((None, False), ("others", False), ("tags", True)):
        if name is not None:
            request.request_context[name].val.add(string_val="x")
        batch, reply = read(request.SerializeToString(), store)
        parts = build_computed(batch, reply, *NOW, True, made, False)[2]
        assert (parts is not None) == computes
        assert parts is None or (parts[0] is not None and parts[1] is None)
        request.request_context.pop("others", None)


def test_a_computation_belongs_to_its_plan() -> None:
    other = computation((True, True, True), Plan(DEFINITION))
    with pytest.raises(ValueError, match="another plan's"):
        build_computed(*read(request_of([1], [1.0]), {}), *NOW, True, other, False)


@pytest.mark.parametrize("binding", [(1, 0), (-1, 0), (0, 3)])
def test_bindings_are_to_what_is_read(binding: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="binding"):
        Computation(PLAN, [(SHARE, [binding, "total"])], [], [True] * 3, ["share"])


def test_references_are_given_back() -> None:
    data, store = request_of([1, 2], [1.0, 2.0]), store_of({1: 10, 2: 10})
    made = computation((True, False, True))
    watched = [made, SHARE, PLAN, data]
    build_computed(*read(data, store), *NOW, True, made, True)
    gc.collect()
    before = [sys.getrefcount(o) for o in watched]
    for _ in range(500):
        build_computed(*read(data, store), *NOW, True, made, True)
    gc.collect()
    assert [sys.getrefcount(o) for o in watched] == before
