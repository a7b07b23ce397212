"""Slots of keys, against redis-py's own computation of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot as oracle

from hotfeast.hotpath.slots import SLOT_COUNT, SlotMap, key_slot

# Braces come up often enough for every combination of them.
_BRACES = st.lists(st.sampled_from([b"{", b"}", b"a", b"\0", b"\xff{"]), max_size=12).map(b"".join)


@given(st.one_of(st.binary(max_size=80), _BRACES))
def test_slots_are_those_of_redis_py(key: bytes) -> None:
    assert key_slot(key) == oracle(key)


def test_a_map_says_who_has_a_slot() -> None:
    slots = SlotMap(("a:1", "b:2"), [(0, 99, 0), (100, 100, 1), (102, 200, 0), (300, 400, 1)])
    assert [slots.node_of_slot(n) for n in (0, 99, 100, 101, 200, 300)] == [
        "a:1", "a:1", "b:2", None, "a:1", "b:2",
    ]  # fmt: skip
    assert slots.slots_of("a:1") == "0-99, 102-200"
    assert slots.slots_of("b:2") == "100, 300-400"
    assert slots.slots_of(None) == f"101, 201-299, 401-{SLOT_COUNT - 1}"
    assert slots.slots_of("c:3") == ""
    with pytest.raises(IndexError):
        slots.node_of_slot(SLOT_COUNT)


@pytest.mark.parametrize("bad", [(0, SLOT_COUNT, 0), (5, 4, 0), (0, 1, 1), (-1, 4, 0)])
def test_ranges_of_another_cluster_are_refused(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="slots"):
        SlotMap(("a:1",), [bad])
