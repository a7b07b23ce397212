"""Responses against a model that is written with protobuf's classes and knows only the rules."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Null, Value
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.definition import JoinKey, KeyRecipe, ReadDefinition, ViewRead
from hotfeast.hotpath.errors import CorruptRow
from hotfeast.hotpath.judge import judge_arrived, judge_early
from hotfeast.hotpath.plan import DUMMY_JOIN_KEY, Plan
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.splice import build_response
from hotfeast.serving.v1 import serving_pb2
from tests.hotpath.helpers import (
    INT64,
    RANDOMS,
    STRING,
    Store,
    answer,
    delimited,
    one_view,
    values,
    view_read,
    wire_soup,
)

Response = serving_pb2.GetOnlineFeaturesResponse
PRESENT, NULL_VALUE = serving_pb2.PRESENT, serving_pb2.NULL_VALUE
NOT_FOUND, OUTSIDE_MAX_AGE = serving_pb2.NOT_FOUND, serving_pb2.OUTSIDE_MAX_AGE
INVALID = serving_pb2.INVALID

NOW = (1_750_000_000, 500_000_000)
ARRIVALS = (7, 61, 1 << 20)
"""How many bytes of a reply come at a time."""
TTL = 3600

Columns = Mapping[str, Sequence[Any]]


@dataclass
class Case:
    """One request over one store."""

    definition: ReadDefinition
    columns: Columns
    store: Store = field(default_factory=dict)
    rows: int = 1
    versions: bool = False
    stale: bool = False
    partial: bool = False
    now: tuple[int, int] = NOW

    def key(self, recipe: int, row: int) -> bytes:
        """The Redis key of a row, by Feast's own function."""
        parts = self.definition.recipes[recipe].parts
        if not parts:
            key = EntityKey(join_keys=[DUMMY_JOIN_KEY], entity_values=[Value(string_val="")])
        else:
            key = EntityKey(
                join_keys=[name for name, _ in parts],
                entity_values=[
                    self.columns[self.definition.join_keys[slot].name][row] for _, slot in parts
                ],
            )
        return bytes(_redis_key(self.definition.project, key))

    def put(self, view: ViewRead, row: int, time: bytes | None, *cells: bytes | None) -> None:
        """Stores a row of a view; None leaves a field out."""
        stored = self.store.setdefault(self.key(view.recipe, row), {})
        if time is not None:
            stored[view.time_field] = time
        for feature, cell in zip(view.features, cells, strict=True):
            if cell is not None:
                stored[feature.hash_field] = cell

    def request(self) -> bytes:
        # By hand, for the order of the columns: protobuf's maps have one of their own.
        out = delimited(1, b"service")
        for name, column in self.columns.items():
            payload = b"".join(delimited(1, v.SerializeToString()) for v in column)
            out += delimited(3, delimited(1, name.encode()) + delimited(2, payload))
        if self.versions:
            out += b"\x30\x01"
        options = serving_pb2.GetOnlineFeaturesRequest(
            include_stale_values=self.stale, allow_partial_response=self.partial
        )
        return out + bytes(options.SerializeToString())

    def read(self) -> tuple[Batch, Reply]:
        batch = Batch(Plan(self.definition), Request(self.request()))
        reply = Reply()
        reply.start(batch)
        assert reply.feed(answer(batch.command_bytes, self.store))
        return batch, reply

    def respond(self, strict: bool) -> bytes:
        batch, reply = self.read()
        return build_response(batch, reply, *self.now, strict)

    def respond_on_arrival(self, step: int) -> bytes:
        """Has the rows judged as they arrive, `step` bytes at a time."""
        batch = Batch(Plan(self.definition), Request(self.request()))
        judge_early(batch, *self.now)
        reply = Reply()
        reply.start(batch)
        replies = answer(batch.command_bytes, self.store)
        judged = [0]
        for at in range(0, len(replies) or 1, step):
            reply.feed(replies[at : at + step])
            judged.append(judge_arrived(batch, reply))
        assert judged == sorted(judged)
        assert judged[-1] == sum(batch.entity_counts)
        return build_response(batch, reply, *self.now, True)

    def check(self) -> None:
        for strict in (True, False):
            expected = self.model(strict)
            if expected.metadata.row_errors and not self.partial:
                with pytest.raises(CorruptRow) as error:
                    self.respond(strict)
                for step in ARRIVALS if strict else ():
                    with pytest.raises(CorruptRow, match=f"^{re.escape(str(error.value))}$"):
                        self.respond_on_arrival(step)
            else:
                response = self.respond(strict)
                assert_same(response, expected)
                for step in ARRIVALS if strict else ():
                    assert self.respond_on_arrival(step) == response

    # ------------------------------------------------------------ the model

    def model(self, strict: bool) -> Any:
        response = Response()
        response.metadata.feature_names.SetInParent()
        names = response.metadata.feature_names.val
        if self.versions:
            for name, version in self.definition.view_versions:
                response.metadata.feature_view_metadata.add(name=name, version=version)
        for name, column in self.columns.items():
            names.append(name)
            vector = response.results.add()
            for value in column:
                vector.values.add().ParseFromString(value.SerializeToString())
                vector.statuses.append(PRESENT)
                vector.event_timestamps.add()
        for view in self.definition.views:
            bad: dict[bytes, list[int]] = {}
            rows = []
            for row in range(self.rows):
                key = self.key(view.recipe, row)
                try:
                    cells = row_cells(view, self.store.get(key, {}), self.now, strict, self.stale)
                except (DecodeError, ValueError):
                    cells = [(b"", INVALID, b"")] * len(view.features)
                    bad.setdefault(key, []).append(row)
                rows.append(cells)
            for asking in bad.values():
                response.metadata.row_errors.add(feature_view=view.name, rows=asking, code=15)
            for i, feature in enumerate(view.features):
                names.append(feature.output_name)
                vector = response.results.add()
                for cells in rows:
                    value, status, time = cells[i]
                    vector.values.add().ParseFromString(value)
                    vector.statuses.append(status)
                    vector.event_timestamps.add().ParseFromString(time)
        return response


Cells = list[tuple[bytes, Any, bytes]]
"""Value, status and time of each cell of a row."""


def row_cells(
    view: ViewRead, stored: Mapping[bytes, bytes], now: tuple[int, int], strict: bool, stale: bool
) -> Cells:
    """The cells of a row of the answer.

    Raises:
        DecodeError, ValueError: The row is corrupt.
    """
    time = stored.get(view.time_field)
    values = [stored.get(f.hash_field) for f in view.features]
    event = Timestamp.FromString(time or b"")
    # Raises outside the years that there are.
    event.ToDatetime()
    old = False
    if strict and time is None:
        if all(v is None for v in values):
            return [(b"", NOT_FOUND, b"")] * len(values)
        old = bool(view.ttl_seconds)
    elif strict and view.ttl_seconds:
        age = (now[0] - event.seconds) * 10**9 + now[1] - event.nanos
        old = age > view.ttl_seconds * 10**9
    if old and not stale:
        return [(b"", OUTSIDE_MAX_AGE, time or b"")] * len(values)
    members = [Value.FromString(v or b"").WhichOneof("val") for v in values]
    if not strict:
        sent = time_as_feast_reads_it(event) if event.nanos else time or b""
        return [(v or b"", PRESENT, sent) for v in values]
    return [
        (
            value or b"",
            OUTSIDE_MAX_AGE if old
            else NULL_VALUE if not value or member == "null_val"
            else PRESENT,
            time or b"",
        )
        for value, member in zip(values, members, strict=True)
    ]  # fmt: skip


def time_as_feast_reads_it(event: Timestamp) -> bytes:
    """Source: `RedisOnlineStore._get_features_for_entity`."""
    rounded = Timestamp()
    rounded.FromDatetime(datetime.fromtimestamp(event.seconds + event.nanos / 1e9, tz=UTC))
    return bytes(rounded.SerializeToString())


def assert_same(data: bytes, expected: Any) -> None:
    ours = Response.FromString(data)
    for error, told in zip(expected.metadata.row_errors, ours.metadata.row_errors, strict=True):
        assert told.message.startswith(f"view {error.feature_view!r}, ")
        error.message = told.message
    # As bytes: NaNs are unequal to themselves.
    assert ours.SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )
    # As long as protobuf would write it: nothing twice, nothing that is not needed.
    assert len(data) == expected.ByteSize()


def timestamp(seconds: int, nanos: int = 0) -> bytes:
    return bytes(Timestamp(seconds=seconds, nanos=nanos).SerializeToString())


def aged(nanos: int) -> bytes:
    """The time of a row that is so many nanoseconds old at NOW."""
    total = NOW[0] * 10**9 + NOW[1] - nanos
    return timestamp(total // 10**9, total % 10**9)


def text(size: int) -> bytes:
    """A Value of `size` bytes, or of one fewer where no string gives just so many."""
    for overhead in (2, 3, 4):
        data = bytes(Value(string_val="x" * max(size - overhead, 0)).SerializeToString())
        if len(data) <= size:
            break
    return data


def ids(*numbers: int) -> list[Any]:
    return [Value(int64_val=n) for n in numbers]


def one_view_case(
    *numbers: int, features: Sequence[str] = ("f", "g"), ttl: int = TTL, versions: bool = False
) -> Case:
    definition = one_view(features=features, ttl=ttl)
    return Case(definition, {"id": ids(*numbers)}, rows=len(numbers), versions=versions)


TIMES = st.one_of(
    st.none(),
    st.sampled_from([aged(0), aged(-(10**9)), aged(TTL * 10**9), b"", timestamp(-1, 5)]),
    st.integers(-5, 5).map(lambda n: aged(TTL * 10**9 + n)),
    st.integers(-(10**13), 10**13).map(aged),
)
CELLS = st.one_of(
    st.none(),
    st.sampled_from([0, 1, 2, 14, 15, 16, 17, 31, 32, 33, 126, 127, 128, 129, 16_383, 16_384]).map(
        text
    ),
    values(2).map(lambda v: v.SerializeToString()),
    st.sampled_from([b"", Value(null_val=Null.NULL).SerializeToString(), delimited(200, b"newer")]),
)

CORRUPT_TIMES = st.sampled_from([b"\xff", b"\x08", timestamp(0, -1), timestamp(2**40)])
CORRUPT_CELLS = st.sampled_from([b"\xff", b"\x12\x05x", b"\x12\x01\xff", b"\x20", b"\x00"])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    recipes = (
        KeyRecipe((("user", 0),)),
        KeyRecipe((("user", 0), ("item", 1))),
        KeyRecipe(()),
    )
    # Views of one recipe need not stand together; a recipe may have none beside a used one.
    used = draw(st.lists(st.integers(0, 2), min_size=1, max_size=4))
    numbering = {recipe: i for i, recipe in enumerate(dict.fromkeys(used))}
    definition = ReadDefinition(
        project="demo",
        join_keys=(JoinKey("user", INT64), JoinKey("item", STRING)),
        recipes=tuple(recipes[r] for r in numbering),
        views=tuple(
            view_read(
                f"v{i}",
                [f"f{k}" for k in range(draw(st.integers(0, 4)))],
                numbering[recipe],
                draw(st.sampled_from([0, TTL])),
                full=draw(st.booleans()),
            )
            for i, recipe in enumerate(used)
        ),
        view_versions=(("v0", 0), ("größe", 3), ("v1", 300)),
    )
    # From 16 rows on, values are copied in whole words.
    rows = draw(st.sampled_from([0, 1, 2, 3, 5, 9, 15, 16, 17, 40]))
    users = [draw(st.integers(0, 2)) for _ in range(rows)]
    items = [draw(st.sampled_from(["", "a", "ü" * 70])) for _ in range(rows)]
    columns: dict[str, list[Any]] = {
        "user": ids(*users),
        "item": [Value(string_val=i) for i in items],
    }
    if draw(st.booleans()):
        columns = dict(reversed(columns.items()))
    case = Case(
        definition,
        columns,
        rows=rows,
        versions=draw(st.booleans()),
        stale=draw(st.booleans()),
        partial=draw(st.booleans()),
    )
    # Else most of the larger cases would have a corrupt row, and be nothing but refused.
    times = draw(st.sampled_from([TIMES, TIMES, CORRUPT_TIMES | TIMES]))
    stored_cells = draw(st.sampled_from([CELLS, CELLS, CORRUPT_CELLS | CELLS]))
    for view in definition.views:
        for row in range(rows):
            if draw(st.integers(0, 4)):
                case.put(view, row, draw(times), *(draw(stored_cells) for _ in view.features))
    return case


@settings(max_examples=250)
@given(cases())
def test_responses_are_the_models(case: Case) -> None:
    case.check()


@settings(max_examples=40)
@given(RANDOMS)
def test_many_rows(random: Random) -> None:
    case = one_view_case(*(random.randrange(150) for _ in range(300)), features="abc")
    (view,) = case.definition.views
    sizes = [0, 2, 15, 16, 17, 40, 127, 128, 300]
    for row in range(0, case.rows, 2):
        cells = [text(random.choice(sizes)) if random.random() < 0.9 else None for _ in "abc"]
        case.put(view, row, aged(random.randrange(2 * TTL) * 10**9), *cells)
    case.check()


@pytest.mark.parametrize("size", [*range(2, 40), *range(120, 140), 16_383, 16_384, 16_385])
def test_values_of_every_length(size: int) -> None:
    """Short values are copied as whole words: neighbours and the column's end must not suffer."""
    case = one_view_case(1, 2, 3, 1, features="abc")
    (view,) = case.definition.views
    for row, other in enumerate((2, 16, 33)):
        case.put(view, row, aged(row), text(size), text(other), text(max(size - 1, 2)))
    assert len(text(size)) in (size, size - 1)
    case.check()


@pytest.mark.parametrize(
    ("nanos", "status"),
    [
        (0, PRESENT),
        (-(10**9), PRESENT),
        (TTL * 10**9 - 1, PRESENT),
        (TTL * 10**9, PRESENT),
        (TTL * 10**9 + 1, OUTSIDE_MAX_AGE),
        (TTL * 10**9 + 10**9, OUTSIDE_MAX_AGE),
        (TTL * 10**9 + 499_999_999, OUTSIDE_MAX_AGE),
        (TTL * 10**9 + 500_000_001, OUTSIDE_MAX_AGE),
        (TTL * 10**9 - 500_000_000, PRESENT),
    ],
)
def test_age_is_judged_to_the_nanosecond(nanos: int, status: int) -> None:
    case = one_view_case(1)
    (view,) = case.definition.views
    case.put(view, 0, aged(nanos), text(5), None)
    vector = Response.FromString(case.respond(strict=True)).results[1]
    assert list(vector.statuses) == [status]
    assert vector.values[0].string_val == ("xxx" if status == PRESENT else "")
    assert vector.event_timestamps[0].SerializeToString() == aged(nanos)
    vector = Response.FromString(case.respond(strict=False)).results[1]
    assert list(vector.statuses) == [PRESENT]
    assert vector.values[0].string_val == "xxx"
    case.check()


@pytest.mark.parametrize(
    ("ttl", "nanos", "status"),
    [
        (0.5, 500_000_000, PRESENT),
        (0.5, 500_000_001, OUTSIDE_MAX_AGE),
        (1.500001, 1_500_001_000, PRESENT),
        (1.500001, 1_500_001_001, OUTSIDE_MAX_AGE),
        (0.000001, 0, PRESENT),
        (0.000001, 1001, OUTSIDE_MAX_AGE),
    ],
)
def test_a_ttl_may_have_a_fraction(ttl: float, nanos: int, status: int) -> None:
    case = one_view_case(1)
    (view,) = case.definition.views
    case.definition = replace(case.definition, views=(replace(view, ttl_seconds=ttl),))
    case.put(view, 0, aged(nanos), text(5), None)
    assert list(Response.FromString(case.respond(strict=True)).results[1].statuses) == [status]


def test_a_response_in_full() -> None:
    """The model's rules once more, spelled out."""
    case = one_view_case(1, 2, 3, 1)
    (view,) = case.definition.views
    case.put(view, 0, timestamp(NOW[0]), Value(int64_val=7).SerializeToString(), None)
    case.put(view, 1, timestamp(5), text(9), text(9))
    response = Response.FromString(case.respond(strict=True))
    assert list(response.metadata.feature_names.val) == ["id", "f", "g"]
    assert [v.int64_val for v in response.results[0].values] == [1, 2, 3, 1]
    assert list(response.results[0].statuses) == [PRESENT] * 4
    f, g = response.results[1:]
    assert list(f.statuses) == [PRESENT, OUTSIDE_MAX_AGE, NOT_FOUND, PRESENT]
    assert list(g.statuses) == [NULL_VALUE, OUTSIDE_MAX_AGE, NOT_FOUND, NULL_VALUE]
    assert [v.WhichOneof("val") for v in f.values] == ["int64_val", None, None, "int64_val"]
    assert [t.seconds for t in g.event_timestamps] == [NOW[0], 5, 0, NOW[0]]


def test_rows_without_a_time() -> None:
    for ttl, status in ((0, PRESENT), (TTL, OUTSIDE_MAX_AGE)):
        case = one_view_case(1, ttl=ttl)
        case.put(case.definition.views[0], 0, None, text(9), b"")
        response = Response.FromString(case.respond(strict=True))
        assert response.results[1].statuses == [status]
        assert response.results[2].statuses == [NULL_VALUE if ttl == 0 else status]
        case.check()


def test_no_rows() -> None:
    case = one_view_case(versions=True)
    response = Response.FromString(case.respond(strict=True))
    assert len(response.results) == 3
    assert not any(vector.ByteSize() for vector in response.results)
    case.check()


def test_versions_are_sent_when_asked_for() -> None:
    case = one_view_case(1)
    case.definition = replace(case.definition, view_versions=(("view", 300), ("other", 0)))
    assert not Response.FromString(case.respond(True)).metadata.feature_view_metadata
    case.versions = True
    sent = Response.FromString(case.respond(True)).metadata.feature_view_metadata
    assert [(m.name, m.version) for m in sent] == [("view", 300), ("other", 0)]


def test_join_key_has_the_plans_name() -> None:
    """A column may come under a deprecated name; the answer has the one of today."""
    case = one_view_case(4)
    case.definition = replace(
        case.definition, join_keys=(JoinKey("id", INT64, aliases=("old name",)),)
    )
    batch = Batch(
        Plan(case.definition), Request(case.request().replace(b"\x0a\x02id", b"\x0a\x08old name")
        .replace(b"\x1a\x0a", b"\x1a\x10"))
    )  # fmt: skip
    assert batch.request.column_names == ["old name"]
    reply = Reply()
    reply.start(batch)
    assert reply.feed(answer(batch.command_bytes, {}))
    response = Response.FromString(build_response(batch, reply, *NOW, True))
    assert list(response.metadata.feature_names.val) == ["id", "f", "g"]


@pytest.mark.parametrize("first", [True, False])
def test_the_dummy_key_is_not_sent_back(first: bool) -> None:
    case = one_view_case(4, 4, versions=True)
    case.put(case.definition.views[0], 0, aged(0), text(20), text(3))
    expected = case.respond(True)
    case.definition = replace(
        case.definition,
        join_keys=(JoinKey("id", INT64), JoinKey(DUMMY_JOIN_KEY, STRING, required=False)),
    )
    assert case.respond(True) == expected
    dummy = {DUMMY_JOIN_KEY: [Value(string_val="")] * 2}
    case.columns = dummy | dict(case.columns) if first else dict(case.columns) | dummy
    assert case.respond(True) == expected


def test_values_are_passed_on_byte_for_byte() -> None:
    """Also what this version of the protocol has no name for, and unusual encodings."""
    case = one_view_case(1)
    newer, padded = delimited(4711, b"newer"), b"\x20\x87\x00"
    case.put(case.definition.views[0], 0, aged(0), newer, padded)
    data = case.respond(strict=True)
    assert delimited(1, newer) in data
    assert delimited(1, padded) in data
    response = Response.FromString(data)
    assert [list(vector.statuses) for vector in response.results[1:]] == [[PRESENT], [PRESENT]]


@settings(max_examples=300)
@given(
    st.one_of(
        st.integers(-62_135_596_800, 253_402_300_798),
        st.integers(-3, 3),
        st.integers(1_600_000_000, 1_900_000_000),
    ),
    st.one_of(st.integers(0, 999_999_999), st.sampled_from([499, 500, 501, 1500, 999_999_500])),
)
def test_feasts_times_are_rounded_as_feast_reads_them(seconds: int, nanos: int) -> None:
    case = one_view_case(1, 2)
    (view,) = case.definition.views
    case.put(view, 0, timestamp(seconds, nanos), text(5), None)
    case.check()
    # Two views of one row share the bytes of its time.
    case.definition = replace(case.definition, views=(view, replace(view, name="again")))
    case.check()


def test_stale_values_are_sent_when_asked_for() -> None:
    case = one_view_case(1, 2, 3)
    (view,) = case.definition.views
    case.put(view, 0, timestamp(5), text(5), None)
    case.put(view, 1, None, text(5), text(6))
    case.put(view, 2, aged(0), text(5), None)
    case.stale = True
    response = Response.FromString(case.respond(strict=True))
    f, g = response.results[1:]
    assert [v.string_val for v in f.values] == ["xxx", "xxx", "xxx"]
    assert [v.string_val for v in g.values] == ["", "xxxx", ""]
    assert list(f.statuses) == [OUTSIDE_MAX_AGE, OUTSIDE_MAX_AGE, PRESENT]
    assert list(g.statuses) == [OUTSIDE_MAX_AGE, OUTSIDE_MAX_AGE, NULL_VALUE]
    assert [t.seconds for t in f.event_timestamps] == [5, 0, NOW[0]]
    case.check()


# ---------------------------------------------------------------- corrupt rows


def test_a_partial_response_has_the_other_rows() -> None:
    case = one_view_case(7, 8, 9, 8)
    (view,) = case.definition.views
    for row in (0, 1, 2):
        case.put(view, row, aged(row), text(5), text(6))
    case.put(view, 1, None, None, b"\x20")
    case.put(view, 2, b"\xff", None, None)
    case.partial = True
    response = Response.FromString(case.respond(strict=True))
    f, g = response.results[1:]
    assert list(f.statuses) == list(g.statuses) == [PRESENT, INVALID, INVALID, INVALID]
    assert [v.string_val for v in f.values] == ["xxx", "", "", ""]
    assert [t.ByteSize() > 0 for t in g.event_timestamps] == [True, False, False, False]
    value, time = response.metadata.row_errors
    assert (value.feature_view, list(value.rows), value.code) == ("view", [1, 3], 15)
    assert value.message.startswith("view 'view', id=8: the stored feature 'g' is not what Feast")
    assert (time.feature_view, list(time.rows), time.code) == ("view", [2], 15)
    assert time.message.startswith("view 'view', id=9: the stored event timestamp is not what")
    case.check()


@pytest.mark.parametrize("bad", [1, 2, 3, 4, 5, 8, 9, 300])
def test_many_corrupt_rows_are_all_named(bad: int) -> None:
    case = one_view_case(*range(300), features="f")
    (view,) = case.definition.views
    for row in range(300):
        case.put(view, row, aged(0), b"\x20" if row < bad else text(5))
    case.partial = True
    errors = Response.FromString(case.respond(strict=True)).metadata.row_errors
    assert [list(e.rows) for e in errors] == [[row] for row in range(bad)]
    case.check()


@settings(max_examples=100)
@given(
    st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from(
        [b"\xff", b"\x12\x05x", b"\x12\x01\xff", b"\x20", b"\x00", b"\x62\x02\x0a\x05"]
    ),
    st.booleans(),
)
def test_corrupt_values_are_named(row: int, position: int, junk: bytes, strict: bool) -> None:
    case = one_view_case(7, 8, 7, 9, features="abc")
    (view,) = case.definition.views
    for other in range(4):
        case.put(view, other, aged(other), text(4), text(20), text(200))
    cells: list[bytes | None] = [None, None, None]
    cells[position] = junk
    case.put(view, row, None, *cells)
    number = (7, 8, 7, 9)[row]
    message = f"^view 'view', id={number}: the stored feature '{'abc'[position]}' is not what Feast"
    with pytest.raises(CorruptRow, match=message):
        case.respond(strict)


@pytest.mark.parametrize(
    "time", [b"\xff", b"\x08", b"\x10\x80\x94\xeb\xdc\x03", timestamp(0, -1), timestamp(2**40)]
)
@pytest.mark.parametrize("strict", [True, False])
def test_corrupt_times_are_named(time: bytes, strict: bool) -> None:
    case = one_view_case(7, 8)
    (view,) = case.definition.views
    case.put(view, 1, time, text(4), None)
    message = "^view 'view', id=8: the stored event timestamp is not what Feast writes"
    with pytest.raises(CorruptRow, match=message):
        case.respond(strict)


def test_the_corrupt_view_is_named() -> None:
    definition = ReadDefinition(
        "demo",
        (JoinKey("user", INT64), JoinKey("item", STRING)),
        (KeyRecipe((("user", 0),)), KeyRecipe((("user", 0), ("item", 1))), KeyRecipe(())),
        (
            view_read("first", "ab", 0),
            view_read("second", "cd", 1),
            view_read("third", "ef", 0),
            view_read("fourth", "gh", 2),
        ),
    )
    columns = {"user": ids(1, 2), "item": [Value(string_val=s) for s in ("x", "ü")]}
    entities = {
        "first": "user=2",
        "second": "item='ü', user=2",
        "third": "user=2",
        "fourth": "without entities",
    }
    for view in definition.views:
        case = Case(definition, columns, rows=2)
        for fine in definition.views:
            case.put(fine, 0, aged(0), text(3), text(3))
        case.put(view, 1, aged(0), text(3), b"\x20")
        name = view.features[1].output_name
        expected = f"^view '{view.name}', {entities[view.name]}: the stored feature '{name}'"
        with pytest.raises(CorruptRow, match=expected):
            case.respond(True)


def test_corrupt_values_that_are_not_sent_do_no_harm() -> None:
    case = one_view_case(1)
    case.put(case.definition.views[0], 0, timestamp(5), b"\xff", None)
    assert Response.FromString(case.respond(True)).results[1].statuses == [OUTSIDE_MAX_AGE]
    with pytest.raises(CorruptRow):
        case.respond(False)


@settings(max_examples=60)
@given(RANDOMS)
def test_whatever_is_stored_the_client_can_parse(random: Random) -> None:
    fields = [f.number for f in Value.DESCRIPTOR.fields]
    for _ in range(20):
        case = one_view_case(1, 2, 1, ttl=random.choice((0, TTL)))
        (view,) = case.definition.views
        for row in (0, 1):
            case.put(view, row, *(wire_soup(random, fields, 2) for _ in range(3)))
        for strict in (True, False):
            try:
                data = case.respond(strict)
            except CorruptRow:
                continue
            Response.FromString(data)


# ---------------------------------------------------------------- misuse


def test_a_reply_of_something_else_is_refused() -> None:
    batch, reply = one_view_case(1).read()
    other, incomplete = one_view_case(1, 2).read()[0], Reply()
    with pytest.raises(ValueError, match="complete replies to this batch"):
        build_response(other, reply, *NOW, True)
    with pytest.raises(ValueError, match="complete replies to this batch"):
        build_response(batch, incomplete, *NOW, True)
    incomplete.start(batch)
    assert not incomplete.feed(b"*3\r\n")
    with pytest.raises(ValueError, match="complete replies to this batch"):
        build_response(batch, incomplete, *NOW, True)
    assert build_response(batch, reply, *NOW, True)


def test_rows_are_judged_once_and_in_one_way() -> None:
    case = one_view_case(1)
    case.put(case.definition.views[0], 0, timestamp(NOW[0]), text(3), text(3))
    batch, reply = case.read()
    with pytest.raises(ValueError, match="no batch of judge_early"):
        judge_arrived(batch, reply)
    judge_early(batch, *NOW)
    for now, strict in (((NOW[0], 0), True), ((0, NOW[1]), True), (NOW, False)):
        with pytest.raises(ValueError, match="judged on arrival, in another way"):
            build_response(batch, reply, *now, strict)
    assert judge_arrived(batch, reply) == 1
    with pytest.raises(ValueError, match="no batch of judge_early"):
        judge_arrived(case.read()[0], reply)
    assert build_response(batch, reply, *NOW, True) == case.respond(True)


def test_a_batch_can_be_read_again_after_half_a_reply() -> None:
    """A connection may die in the middle."""
    case = one_view_case(1, 2, 3, ttl=TTL)
    (view,) = case.definition.views
    for row, age in enumerate((0, TTL + 1, 0)):
        case.put(view, row, aged(age), text(row + 1), text(3))
    batch = Batch(Plan(case.definition), Request(case.request()))
    judge_early(batch, *NOW)
    replies = answer(batch.command_bytes, case.store)
    for size in range(len(replies)):
        reply = Reply()
        reply.start(batch)
        assert not reply.feed(replies[:size])
        judge_arrived(batch, reply)
    reply.start(batch)
    assert reply.feed(replies)
    assert build_response(batch, reply, *NOW, True) == case.respond(True)
