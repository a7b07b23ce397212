"""HGETALL replies: the same fields as HMGET's, from whole hashes with much else in them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.definition import JoinKey, KeyRecipe, ReadDefinition
from hotfeast.hotpath.errors import ProtocolError, ReplyError
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from tests.hotpath.helpers import (
    INT64,
    array_reply,
    int64_request,
    parse_commands,
    view_read,
)


def make_plan() -> Plan:
    """Three views of one entity; `again` is a second alias of `v`, so its fields come twice."""
    again = view_read("v", ["f", "h"])
    return Plan(
        ReadDefinition(
            "demo",
            (JoinKey("id", INT64),),
            (KeyRecipe((("id", 0),)),),
            (view_read("v", ["f", "g"]), view_read("w", "xyz"), again),
        )
    )


PLAN = make_plan()
WANTED = parse_commands(Batch(PLAN, Request(int64_request(1))).command_bytes)[0][2:]
NAMES = st.one_of(
    st.sampled_from(WANTED),
    st.binary(min_size=4, max_size=4),
    st.text(max_size=6).map(lambda view: f"_ts:{view}".encode()),
    st.binary(max_size=12),
)
HASHES = st.dictionaries(NAMES, st.binary(max_size=20), max_size=20)


def whole_batch(count: int, plan: Plan = PLAN) -> Batch:
    plan.set_read_all(0, True)
    try:
        return Batch(plan, Request(int64_request(*range(count))))
    finally:
        plan.set_read_all(0, False)


def hash_reply(content: dict[bytes, bytes], resp3: bool = False) -> bytes:
    flat = array_reply([part for item in content.items() for part in item])
    if not resp3:
        return flat
    return b"%%%d\r\n" % len(content) + flat.partition(b"\r\n")[2]


def expected(hashes: list[dict[bytes, bytes]]) -> list[bytes | None]:
    return [content.get(name) for content in hashes for name in WANTED]


def test_commands_are_one_hgetall_an_entity() -> None:
    ones = parse_commands(Batch(PLAN, Request(int64_request(0, 1, 0))).command_bytes)
    wholes = parse_commands(whole_batch(2).command_bytes)
    assert [command[1] for command in wholes] == [command[1] for command in ones]
    assert all(command == [b"HGETALL", command[1]] for command in wholes)
    assert all(command[0] == b"HMGET" and command[2:] == WANTED for command in ones)
    assert WANTED.count(WANTED[0]) == 2, "the alias is there to ask for a field twice"


@given(hashes=st.lists(HASHES, min_size=1, max_size=5), resp3=st.booleans(), data=st.data())
@settings(deadline=None)
def test_whole_hashes_give_the_fields_that_were_asked_for(
    hashes: list[dict[bytes, bytes]], resp3: bool, data: st.DataObject
) -> None:
    batch = whole_batch(len(hashes))
    stream = b"".join(hash_reply(content, resp3) for content in hashes)
    cut = data.draw(st.integers(0, len(stream) - 1))
    reply = Reply()
    reply.start(batch)
    assert not reply.feed(stream[:cut])
    assert reply.feed(stream[cut:])
    assert reply.field_values == expected(hashes)


def test_every_split_point() -> None:
    hashes = [
        {WANTED[0]: b"1", b"else": b"$5\r\n", WANTED[2]: b"\x08\x01", b"_ts:other": b""},
        {},
        {name: b"x" * i for i, name in enumerate(dict.fromkeys(WANTED))},
    ]
    batch = whole_batch(3)
    stream = b"".join(map(hash_reply, hashes))
    reply = Reply()
    for cut in range(len(stream)):
        reply.start(batch)
        assert not reply.feed(stream[:cut])
        assert reply.feed(stream[cut:])
        assert reply.field_values == expected(hashes)
    reply.start(batch)
    assert [reply.feed(stream[i : i + 1]) for i in range(len(stream))].count(True) == 1
    assert reply.field_values == expected(hashes)


def test_an_error_takes_the_place_of_a_hash() -> None:
    batch = whole_batch(3)
    full = dict.fromkeys(WANTED, b"v")
    reply = Reply()
    reply.start(batch)
    assert reply.feed(hash_reply(full) + b"-WRONGTYPE no hash\r\n" + hash_reply(full))
    with pytest.raises(ReplyError, match="WRONGTYPE no hash"):
        reply.raise_error()
    assert reply.field_values == expected([full, {}, full])


@pytest.mark.parametrize(
    "stream",
    [
        b"*1\r\n$1\r\na\r\n",
        b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
        b"*-1\r\n",
        b"%-1\r\n",
        b"*2\r\n$-1\r\n",
        b"*2\r\n$1\r\na\r\n$-1\r\n",
        b"*2\r\n$1\r\na\r\n_\r\n",
        b"*2\r\n$1\r\na\r\n:5\r\n",
        b"*2\r\n*0\r\n",
        b"%99999999999\r\n",
        b"*0\r\n*0\r\n",
        b"$1\r\na\r\n",
    ],
)
def test_what_is_no_hash_is_refused(stream: bytes) -> None:
    reply = Reply()
    reply.start(whole_batch(1))
    with pytest.raises(ProtocolError):
        reply.feed(stream)


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=300)
def test_random_bytes_are_refused_or_waited_for(stream: bytes) -> None:
    reply = Reply()
    reply.start(whole_batch(2))
    try:
        reply.feed(stream)
    except ProtocolError:
        return
    assert len(reply.field_values) % len(WANTED) == 0


def test_a_batch_keeps_the_way_it_was_made_for() -> None:
    plan = make_plan()
    batch = whole_batch(1, plan)
    assert plan.read_all == [False]
    reply = Reply()
    reply.start(batch)
    assert reply.feed(hash_reply({WANTED[1]: b"g"}))
    assert reply.field_values == expected([{WANTED[1]: b"g"}])
    with pytest.raises(IndexError):
        plan.set_read_all(1, True)


def test_field_counts() -> None:
    assert PLAN.field_counts == [len(WANTED)] == [10]
