"""Redis keys and hash fields against Feast's own functions."""

import struct
from typing import Any

import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Null, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.definition import JoinKey, KeyRecipe, ReadDefinition
from hotfeast.hotpath.errors import InvalidRequest
from hotfeast.hotpath.plan import DUMMY_JOIN_KEY, Plan, key_prefix
from hotfeast.hotpath.request import Request
from hotfeast.server.plan import feature_hash_field, time_hash_field
from tests.hotpath.helpers import (
    BYTES,
    INT32,
    INT64,
    MEMBER_OF_TYPE,
    STRING,
    UNIX_TIMESTAMP,
    delimited,
    entity_values,
    golden_value,
    int64_request,
    one_view,
    parse_commands,
    request_bytes,
    tag,
    view_read,
)

NAMES = st.one_of(
    st.text(min_size=1, max_size=8),
    st.sampled_from(["user_id", "b", "a", "aa", "A", "größe", "顧客", "\U0001f600", "z" * 200]),
)
PROJECTS = st.text(max_size=12)


def bind(definition: ReadDefinition, request: bytes) -> Batch:
    return Batch(Plan(definition), Request(request))


def key_of(definition: ReadDefinition, *ids: Any) -> list[bytes]:
    commands = parse_commands(bind(definition, request_bytes({"id": ids})).command_bytes)
    return [command[1] for command in commands]


@st.composite
def keyed(draw: st.DrawFn) -> tuple[ReadDefinition, dict[str, list[Any]]]:
    """A definition with one recipe, and columns for it in an order of their own."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    kinds = [draw(st.sampled_from(list(MEMBER_OF_TYPE))) for _ in names]
    # The request may know a join key by another name than the store does.
    stored = [f"{n}_stored" if draw(st.booleans()) else n for n in names]
    order = draw(st.permutations(range(len(names))))
    views = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    features = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    definition = ReadDefinition(
        project=draw(PROJECTS),
        join_keys=tuple(
            JoinKey(n, k if draw(st.booleans()) else 0) for n, k in zip(names, kinds, strict=True)
        ),
        recipes=(KeyRecipe(tuple((stored[i], i) for i in order)),),
        views=tuple(view_read(v, features) for v in views),
    )
    rows = draw(st.integers(1, 5))
    columns = {}
    for i in draw(st.permutations(range(len(names)))):
        # Few different values, so that rows repeat.
        pool = draw(st.lists(entity_values(kinds[i]), min_size=1, max_size=3))
        columns[names[i]] = [draw(st.sampled_from(pool)) for _ in range(rows)]
    return definition, columns


@settings(max_examples=300)
@given(keyed())
def test_commands_are_feasts(case: tuple[ReadDefinition, dict[str, list[Any]]]) -> None:
    definition, columns = case
    batch = bind(definition, request_bytes(columns))
    rows = len(next(iter(columns.values())))
    fields = []
    for view in definition.views:
        fields += [_mmh3(f"{view.name}:{f.output_name}") for f in view.features]
        fields.append(f"_ts:{view.name}".encode())
    parts = definition.recipes[0].parts
    expected: list[list[bytes]] = []
    first_rows = []
    for row in range(rows):
        # Feast sorts names and values on its own, so they are given to it unsorted.
        key = EntityKey(
            join_keys=[name for name, _ in parts],
            entity_values=[columns[definition.join_keys[slot].name][row] for _, slot in parts],
        )
        command = [b"HMGET", _redis_key(definition.project, key), *fields]
        if command not in expected:
            expected.append(command)
            first_rows.append(row)
    assert parse_commands(batch.command_bytes) == expected
    assert batch.rows == rows
    assert batch.entity_counts == [len(expected)]
    assert batch.entity_rows == [first_rows]


def test_golden_bytes() -> None:
    batch = bind(one_view(INT64, ["f"]), int64_request(1001))
    assert (
        batch.command_bytes
        == (
            b"*4\r\n$5\r\nHMGET\r\n"
            b"$34\r\n"
            b"\x01\x00\x00\x00"  # join keys
            b"\x02\x00\x00\x00\x02\x00\x00\x00id"
            b"\x04\x00\x00\x00\x08\x00\x00\x00\xe9\x03\x00\x00\x00\x00\x00\x00"
            b"demo\r\n"
            b"$4\r\n" + _mmh3("view:f") + b"\r\n"
            b"$8\r\n_ts:view\r\n"
        )
    )


def test_golden_key_of_two_entities() -> None:
    definition = ReadDefinition(
        project="p",
        join_keys=(JoinKey("user", STRING), JoinKey("item", INT32)),
        recipes=(KeyRecipe((("user", 0), ("item", 1))),),
        views=(view_read("v"),),
    )
    columns = {"user": [Value(string_val="ü")], "item": [Value(int32_val=-2)]}
    key = parse_commands(bind(definition, request_bytes(columns)).command_bytes)[0][1]
    assert key == (
        b"\x02\x00\x00\x00"
        b"\x02\x00\x00\x00\x04\x00\x00\x00item"
        b"\x02\x00\x00\x00\x04\x00\x00\x00user"
        b"\x03\x00\x00\x00\x04\x00\x00\x00\xfe\xff\xff\xff"
        b"\x02\x00\x00\x00\x02\x00\x00\x00\xc3\xbc"
        b"p"
    )


def test_hash_fields() -> None:
    # A literal, so that a change of the hash in both libraries would show.
    assert feature_hash_field("driver_stats", "conv_rate") == _mmh3("driver_stats:conv_rate")
    assert feature_hash_field("driver_stats", "conv_rate").hex() == HASH_OF_CONV_RATE
    assert time_hash_field("größe") == b"_ts:gr\xc3\xb6\xc3\x9fe"


HASH_OF_CONV_RATE = "fa731014"


@given(NAMES, NAMES)
@settings(max_examples=100)
def test_hash_field_is_feasts(view: str, feature: str) -> None:
    assert feature_hash_field(view, feature) == _mmh3(f"{view}:{feature}")


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True))
@settings(max_examples=100)
def test_key_prefix(names: list[str]) -> None:
    key = EntityKey(join_keys=names, entity_values=[Value(int64_val=7)] * len(names))
    rest = golden_value(INT64, 7) * len(names)
    assert key_prefix(tuple(names)) + rest == serialize_entity_key(key, 3)


def test_entityless_views_have_feasts_dummy_key() -> None:
    definition = ReadDefinition("demo", (), (KeyRecipe(()),), (view_read("v"),))
    batch = bind(definition, request_bytes({}))
    dummy = EntityKey(join_keys=[DUMMY_JOIN_KEY], entity_values=[Value(string_val="")])
    assert batch.rows == 1
    assert parse_commands(batch.command_bytes)[0][1] == _redis_key("demo", dummy)
    assert batch.describe_entity(0, 0) == "without entities"


def test_entityless_recipe_beside_another_is_read_once() -> None:
    definition = ReadDefinition(
        "demo",
        (JoinKey("id", INT64), JoinKey(DUMMY_JOIN_KEY, STRING, required=False)),
        (KeyRecipe(()), KeyRecipe((("id", 0),))),
        (view_read("v", recipe=1), view_read("w", recipe=0)),
    )
    for columns in (
        {"id": [Value(int64_val=i) for i in (5, 6, 5)]},
        {
            "id": [Value(int64_val=i) for i in (5, 6, 5)],
            DUMMY_JOIN_KEY: [Value(string_val="")] * 3,
        },
    ):
        batch = bind(definition, request_bytes(columns))
        assert batch.entity_counts == [1, 2]
        assert batch.entity_rows == [[0], [0, 1]]
        commands = parse_commands(batch.command_bytes)
        assert [c[-1] for c in commands] == [b"_ts:w", b"_ts:v", b"_ts:v"]


def test_two_recipes_share_columns() -> None:
    definition = ReadDefinition(
        "demo",
        (JoinKey("user", INT64), JoinKey("item", STRING)),
        (KeyRecipe((("user", 0), ("item", 1))), KeyRecipe((("user", 0),))),
        (view_read("both", recipe=0), view_read("user", recipe=1)),
    )
    users, items = [3, 1, 3, 3, 1], ["b", "b", "a", "b", "b"]
    columns = {
        "item": [Value(string_val=i) for i in items],
        "user": [Value(int64_val=u) for u in users],
    }
    batch = bind(definition, request_bytes(columns))
    assert batch.entity_rows == [[0, 1, 2], [0, 1]]
    keys = [command[1] for command in parse_commands(batch.command_bytes)]
    pairs = [(3, "b"), (1, "b"), (3, "a")]
    expected = [
        EntityKey(
            join_keys=["user", "item"],
            entity_values=[Value(int64_val=u), Value(string_val=i)],
        )
        for u, i in pairs
    ]
    expected += [EntityKey(join_keys=["user"], entity_values=[Value(int64_val=u)]) for u in (3, 1)]
    assert keys == [_redis_key("demo", key) for key in expected]
    assert batch.describe_entity(0, 2) == "item='a', user=3"


def test_strings_are_not_run_together() -> None:
    """("a", "bc") and ("ab", "c") are two entities."""
    definition = ReadDefinition(
        "demo",
        (JoinKey("x", STRING), JoinKey("y", STRING)),
        (KeyRecipe((("x", 0), ("y", 1))),),
        (view_read("v"),),
    )
    columns = {
        "x": [Value(string_val=v) for v in ("a", "ab", "", "abc")],
        "y": [Value(string_val=v) for v in ("bc", "c", "abc", "")],
    }
    assert bind(definition, request_bytes(columns)).entity_counts == [4]


def test_prefixes_are_not_taken_for_each_other() -> None:
    """Long ones first: so many rows meet on the same places of the hash table."""
    batch = bind(
        one_view(STRING),
        request_bytes({"id": [Value(string_val="x" * n) for n in range(1200, -1, -1)]}),
    )
    assert batch.entity_rows == [list(range(1201))]


def test_many_rows_with_duplicates() -> None:
    ids = [(i * 7919) % 1500 for i in range(5000)]
    batch = bind(one_view(), int64_request(*ids))
    unique = list(dict.fromkeys(ids))
    assert batch.entity_counts == [len(unique)] == [1500]
    assert [ids[row] for row in batch.entity_rows[0]] == unique
    keys = [command[1] for command in parse_commands(batch.command_bytes)]
    assert keys[1499] == _redis_key(
        "demo", EntityKey(join_keys=["id"], entity_values=[Value(int64_val=unique[1499])])
    )


@given(st.integers(-(2**31), 2**31 - 1))
@settings(max_examples=60)
def test_integers_of_either_width_find_the_declared_key(number: int) -> None:
    for declared in (INT32, INT64):
        golden = golden_value(declared, number) + b"demo"
        for sent in (Value(int32_val=number), Value(int64_val=number)):
            assert key_of(one_view(declared), sent)[0].endswith(golden)


def test_int64_that_does_not_fit_is_refused() -> None:
    assert key_of(one_view(INT32), Value(int64_val=2**31 - 1), Value(int64_val=-(2**31)))
    for number in (2**31, -(2**31) - 1, 2**63 - 1, 2**32):
        with pytest.raises(InvalidRequest, match=r"'id', row 1.*does not fit its type INT32"):
            key_of(one_view(INT32), Value(int64_val=1), Value(int64_val=number))


def test_undeclared_type_is_taken_as_sent() -> None:
    assert key_of(one_view(0), Value(int32_val=5))[0].endswith(golden_value(INT32, 5) + b"demo")
    assert key_of(one_view(0), Value(int64_val=5))[0].endswith(golden_value(INT64, 5) + b"demo")
    assert key_of(one_view(0), Value(bytes_val=b"x"))[0].endswith(
        golden_value(BYTES, b"x") + b"demo"
    )


_SAMPLES: dict[str, Any] = {
    "bytes_val": b"x",
    "string_val": "x",
    "int32_val": 1,
    "int64_val": 1,
    "double_val": 1.0,
    "float_val": 1.0,
    "bool_val": True,
    "unix_timestamp_val": 1,
    "json_val": "{}",
}


@pytest.mark.parametrize("declared", [0, *MEMBER_OF_TYPE])
@pytest.mark.parametrize("member", _SAMPLES)
def test_other_types_are_refused(declared: int, member: str) -> None:
    value = Value(**{member: _SAMPLES[member]})
    integers = {"int32_val", "int64_val"}
    if declared == 0:
        fits = member in MEMBER_OF_TYPE.values()
    else:
        fits = member == MEMBER_OF_TYPE[declared]
        fits |= declared in (INT32, INT64) and member in integers
    if fits:
        assert len(key_of(one_view(declared), value)) == 1
    else:
        with pytest.raises(InvalidRequest, match="join key 'id', row 0: expected"):
            key_of(one_view(declared), value)


def test_lists_are_refused() -> None:
    value = Value()
    value.int64_list_val.val.append(1)
    with pytest.raises(InvalidRequest, match="expected INT64, got INT64_LIST"):
        key_of(one_view(), value)


def test_null_and_mixed_keys_are_refused() -> None:
    one = Value(int64_val=1)
    for null in (Value(), Value(null_val=Null.NULL)):
        with pytest.raises(InvalidRequest, match="'id' is null in row 1"):
            key_of(one_view(), one, null)
    with pytest.raises(InvalidRequest, match="mixed types: row 2 is INT32"):
        key_of(one_view(), one, one, Value(int32_val=1))


def _raw_request(*raw_values: bytes) -> bytes:
    column = b"".join(delimited(1, v) for v in raw_values)
    return delimited(1, b"s") + delimited(3, delimited(1, b"id") + delimited(2, column))


@pytest.mark.parametrize(
    "raw",
    [
        b"\x20\x07" + tag(49, 2) + b"\x01x",  # a member of a newer Feast behind a known one
        tag(49, 2) + b"\x01x" + b"\x20\x07",
        b"\x20\x05\x20\x07",
        b"\x12\x01x\x20\x07",
        b"\x20\x07\x22\x01x",  # int64_val's number with a length: unknown
        b"\x20\x07" + tag(19, 2) + b"\x00",
        b"\x20\x07" + tag(5, 5) + b"\0\0\0\0",
        b"\x20\x07" + tag(6, 1) + b"\0\0\0\0\0\0\0\0",
        b"\x20\x07" + tag(30, 2) + b"\x00",
        b"\x20\x07" + tag(4, 3) + tag(4, 4),
        tag(4, 0, 5) + b"\x87\x80\x80\x00",
    ],
)
def test_odd_encodings_of_a_key_are_read_as_protobuf_reads_them(raw: bytes) -> None:
    assert Value.FromString(raw).int64_val == 7
    batch = bind(one_view(), _raw_request(b"\x20\x07", raw))
    assert batch.entity_counts == [1]


def test_key_of_a_newer_member_is_refused_as_such() -> None:
    with pytest.raises(InvalidRequest, match="expected INT64, got of Value member 49"):
        bind(one_view(), _raw_request(tag(49, 2) + b"\x01x"))


def test_key_that_is_no_value_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'id', row 1: not a serialized Value"):
        bind(one_view(), _raw_request(b"\x20\x07", b"\x20"))


def test_columns_must_fit_the_plan() -> None:
    definition = ReadDefinition(
        "demo",
        (JoinKey("user_id", INT64, aliases=("user",)), JoinKey("item_id", INT64)),
        (KeyRecipe((("user_id", 0), ("item_id", 1))),),
        (view_read("v"),),
    )
    one, two = [Value(int64_val=1)], [Value(int64_val=1), Value(int64_val=2)]

    def refused(columns: dict[str, list[Any]], match: str) -> None:
        with pytest.raises(InvalidRequest, match=match):
            bind(definition, request_bytes(columns))

    refused({"user_id": one}, "missing join key 'item_id'; this request needs 'user_id', 'item_id'")
    refused({}, "missing join key 'user_id'")
    refused({"user_id": one, "item_id": two}, "same length: '.*_id' has [12], '.*_id' has [12]")
    refused({"user_id": one, "item_id": one, "item": one}, "'item' is no join key.*'item_id'")
    refused({"user_id": one, "user": one, "item_id": one}, "'user_id' is given twice")
    assert bind(definition, request_bytes({"user": two, "item_id": two})).rows == 2
    assert bind(definition, request_bytes({"user_id": [], "item_id": []})).command_bytes == b""


def test_too_many_rows_are_refused() -> None:
    column = b"\x0a\x02\x20\x01" * 1_000_001
    data = delimited(1, b"s") + delimited(3, delimited(1, b"id") + delimited(2, column))
    with pytest.raises(InvalidRequest, match="1000001 rows in one request; at most 1000000"):
        bind(one_view(), data)


def test_unix_timestamp_is_no_integer() -> None:
    with pytest.raises(InvalidRequest, match="expected UNIX_TIMESTAMP, got INT64"):
        key_of(one_view(UNIX_TIMESTAMP), Value(int64_val=1))


def test_plans_that_name_no_column_are_refused() -> None:
    views = (view_read("v"),)
    with pytest.raises(ValueError, match="names column 1, which is none"):
        Plan(ReadDefinition("p", (JoinKey("a", 4),), (KeyRecipe((("a", 1),)),), views))
    # Its cells would be read although no request has to fill them.
    with pytest.raises(ValueError, match="needs column 0, which may be left out"):
        Plan(
            ReadDefinition(
                "p", (JoinKey("a", 4, required=False),), (KeyRecipe((("a", 0),)),), views
            )
        )
    with pytest.raises(IndexError):
        Plan(ReadDefinition("p", (), (), views))


def test_definition_is_kept() -> None:
    definition = one_view()
    plan = Plan(definition)
    request = Request(int64_request(1))
    batch = Batch(plan, request)
    assert plan.definition is definition
    assert batch.plan is plan
    assert batch.request is request


def test_struct_layout_of_lengths() -> None:
    """A key of more than 255 bytes: lengths are 32-bit little-endian."""
    key = key_of(one_view(STRING), Value(string_val="x" * 70_000))[0]
    assert struct.pack("<II", STRING, 70_000) + b"x" * 70_000 + b"demo" in key
