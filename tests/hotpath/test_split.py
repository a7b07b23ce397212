"""Requests divided over targets, by entity."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotfeast.hotpath.request import Request
from hotfeast.hotpath.split import Split, siphash
from hotfeast.hotpath.tally import Tally
from hotfeast.serving.v1 import serving_pb2, value_pb2

KEY = bytes(range(16))
USER = [("user_id",)]
# Targets of users 0 to 39, and of products sku-0 to sku-19.
NUMBERS = "1113211211312222211123132211222121212123"
TEXTS = "22111112222212222222"


def request(**columns: list[value_pb2.Value]) -> Request:
    entities = {name: value_pb2.RepeatedValue(val=values) for name, values in columns.items()}
    message = serving_pb2.GetOnlineFeaturesRequest(feature_service="any", entities=entities)
    return Request(message.SerializeToString())


def of_user(user: int) -> Request:
    return request(user_id=[value_pb2.Value(int64_val=user)])


def sides(split: Split, users: range) -> list[str]:
    return [split.targets[split.choose(of_user(user))] for user in users]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "310e0edd47db6f72"),
        (1, "fd67dc93c539f874"),
        (7, "37d1018bf50002ab"),
        (8, "6224939a79f5f593"),
        (15, "e545be4961ca29a1"),
        (63, "724506eb4c328a95"),
    ],
)
def test_hash_is_its_authors(size: int, expected: str) -> None:
    """Vectors of SipHash-2-4's reference implementation."""
    assert siphash(KEY, bytes(range(size))).to_bytes(8, "little").hex() == expected


def test_hash_needs_a_whole_key() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        siphash(b"short", b"")


def test_entities_stay_where_they_were_in_earlier_versions() -> None:
    """The same on every machine and in every version: a change here moves everybody's users."""
    split = Split("recommendation", [("v1", 50), ("v2", 30), ("v3", 20)], USER)
    text = Split("recommendation", [("v1", 50), ("v2", 50)], [("sku",)])
    skus = [request(sku=[value_pb2.Value(string_val=f"sku-{n}")]) for n in range(20)]
    assert "".join(side[1] for side in sides(split, range(40))) == NUMBERS
    assert "".join(text.targets[text.choose(sku)][1] for sku in skus) == TEXTS


@pytest.mark.parametrize(
    "weights",
    [{"v1": 90, "v2": 10}, {"v1": 1, "v2": 1}, {"v1": 60, "v2": 30, "v3": 9.5, "v4": 0.5}],
)
def test_every_target_has_its_share(weights: dict[str, float]) -> None:
    users = range(50_000)
    found = Counter(sides(Split("any", list(weights.items()), USER), users))
    for target, weight in weights.items():
        assert found[target] / len(users) == pytest.approx(weight / sum(weights.values()), abs=0.01)


@given(
    st.lists(st.integers(1, 100), min_size=2, max_size=5),
    st.integers(0, 4),
    st.integers(1, 100),
    st.text(max_size=5),
)
def test_nobody_leaves_a_target_whose_share_grows(
    weights: list[int], which: int, more: int, name: str
) -> None:
    """Nor does anybody go elsewhere than there."""
    grows = which % len(weights)
    before = [(f"v{n}", float(weight)) for n, weight in enumerate(weights)]
    after = [(t, w + more if n == grows else w) for n, (t, w) in enumerate(before)]
    users = range(200)
    for old, new in zip(
        sides(Split(name, before, USER), users),
        sides(Split(name, after, USER), users),
        strict=True,
    ):
        assert new in (old, f"v{grows}")
        assert old != f"v{grows}" or new == old


def test_order_of_targets_says_nothing() -> None:
    one = Split("any", [("v1", 70), ("v2", 30)], USER)
    other = Split("any", [("v2", 30), ("v1", 70)], USER)
    assert sides(one, range(500)) == sides(other, range(500))


def test_splits_of_other_names_divide_otherwise() -> None:
    """Else those who have one new version have all of them."""
    one = sides(Split("one", [("v1", 50), ("v2", 50)], USER), range(5000))
    other = sides(Split("other", [("v1", 50), ("v2", 50)], USER), range(5000))
    same = sum(a == b for a, b in zip(one, other, strict=True))
    assert same / len(one) == pytest.approx(0.5, abs=0.05)


@given(st.integers(-(2**31), 2**31 - 1))
def test_numbers_are_the_same_in_32_and_64_bits(user: int) -> None:
    split = Split("any", [(f"v{n}", 1) for n in range(50)], USER)
    narrow = request(user_id=[value_pb2.Value(int32_val=user)])
    assert split.choose(of_user(user)) == split.choose(narrow)


def test_first_row_decides() -> None:
    split = Split("any", [(f"v{n}", 1) for n in range(50)], USER)
    values = [value_pb2.Value(int64_val=user) for user in (7, 8, 9)]
    assert split.choose(request(user_id=values)) == split.choose(of_user(7))
    assert len({split.choose(of_user(user)) for user in range(20)}) > 5


def test_only_the_keys_count_whatever_their_order_and_names() -> None:
    targets = [(f"v{n}", 1.0) for n in range(50)]
    split = Split("any", targets, [("user_id", "user"), ("sku",)])
    assert split.keys == ("sku", "user_id")
    user, sku = value_pb2.Value(int64_val=5), value_pb2.Value(string_val="a")
    chosen = split.choose(request(user_id=[user], sku=[sku]))
    assert split.choose(request(sku=[sku], user=[user])) == chosen
    assert split.choose(request(sku=[sku], user=[user], cart=[user])) == chosen
    others = [request(user_id=[user], sku=[value_pb2.Value(string_val=s)]) for s in "bcdefghij"]
    assert {split.choose(other) for other in others} != {chosen}


def test_what_has_no_entity_is_drawn_for() -> None:
    split = Split("any", [("v1", 80), ("v2", 20)], [])
    found = Counter(split.choose(of_user(1)) for _ in range(20_000))
    assert found[1] / found.total() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    "column",
    [
        [],
        [value_pb2.Value()],
        [value_pb2.Value(null_val=value_pb2.NULL)],
        [value_pb2.Value(double_val=1.5)],
    ],
)
def test_requests_that_will_be_refused_are_divided_too(column: list[value_pb2.Value]) -> None:
    split = Split("any", [("v1", 50), ("v2", 50)], USER)
    assert split.choose(request(user_id=column)) in (0, 1)


def test_all_go_to_the_one_with_a_weight() -> None:
    assert set(sides(Split("any", [("v1", 0), ("v2", 100)], USER), range(50))) == {"v2"}


@pytest.mark.parametrize(
    "weights", [[], [("v1", 0)], [("v1", -1), ("v2", 1)], [("v1", float("nan"))]]
)
def test_weights_that_say_nothing_are_refused(weights: list[tuple[str, float]]) -> None:
    with pytest.raises(ValueError, match="weight"):
        Split("any", weights, USER)


def test_tally_counts_by_bucket_and_begins_anew() -> None:
    tally = Tally((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 2.0, 3.0):
        tally.add(seconds)
    tally.add_rows(3)
    tally.add_rows(4)
    counts, seconds, rows = tally.take()
    assert (counts, rows) == ([2, 1, 2], 7)
    assert seconds == pytest.approx(5.65)
    assert tally.take() == ([0, 0, 0], 0.0, 0)
