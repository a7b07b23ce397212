"""Batches split by node, against the same batch read from one server.

Nodes answer with the bytes that a cluster sends: values, MOVED and ASK, words that pass, errors; or
not at all.
"""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from random import Random

import hiredis
import pytest
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from redis.crc import key_slot

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.definition import JoinKey, KeyRecipe, ReadDefinition
from hotfeast.hotpath.errors import CorruptRow, ProtocolError, ReplyError, RowsUnread
from hotfeast.hotpath.judge import judge_early
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.scatter import Part, Scatter, exchange_parts
from hotfeast.hotpath.slots import SLOT_COUNT, SlotMap
from hotfeast.hotpath.splice import build_response
from hotfeast.server.cluster_io import redirection
from hotfeast.serving.v1 import serving_pb2
from tests.hotpath.helpers import (
    INT64,
    RANDOMS,
    STRING,
    Store,
    answer,
    array_reply,
    int64_request,
    mutant,
    one_view,
    parse_commands,
    request_bytes,
    view_read,
)

NOW = (1_750_000_000, 0)
ASKING = [b"ASKING"]
TWO_KINDS = ReadDefinition(
    project="demo",
    join_keys=(JoinKey("id", INT64), JoinKey("name", STRING)),
    recipes=(KeyRecipe((("id", 0),)), KeyRecipe((("id", 0), ("name", 1)))),
    views=(
        view_read("one", ("a", "b"), 0),
        view_read("two", ("c",), 1),
        view_read("three", ("d", "e", "f"), 0),
    ),
)


@dataclass
class Nodes:
    """A cluster, as its nodes answer.

    Attributes:
        store: All hashes.
        home: Which node has which slot.
        asked: Slots on their way, and the node that they go to.
        busy: Slots that are answered with a word that passes, for as many times.
        seen: How often each key was answered with its values.
    """

    store: Store
    home: dict[int, str]
    asked: dict[int, str] = field(default_factory=dict)
    busy: dict[int, int] = field(default_factory=dict)
    seen: dict[bytes, int] = field(default_factory=dict)

    def answer(self, node: str, commands: bytes) -> bytes:
        """What a node answers to the commands of a part."""
        replies = []
        announced = False
        for command in parse_commands(commands):
            if command == ASKING:
                replies.append(b"+OK\r\n")
                announced = True
                continue
            key = command[1]
            slot = key_slot(key)
            if self.busy.get(slot):
                self.busy[slot] -= 1
                replies.append(b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n")
            elif slot in self.asked and self.home[slot] == node:
                replies.append(b"-ASK %d %s\r\n" % (slot, self.asked[slot].encode()))
            elif self.home[slot] == node or (announced and self.asked.get(slot) == node):
                self.seen[key] = self.seen.get(key, 0) + 1
                values = [self.store.get(key, {}).get(name) for name in command[2:]]
                replies.append(array_reply(values))
            else:
                replies.append(b"-MOVED %d %s\r\n" % (slot, self.home[slot].encode()))
            announced = False
        return b"".join(replies)


def exchange(part: Part, sent: bytes, reply: Reply, step: int) -> None:
    """Feeds a part's replies, some bytes at a time."""
    for at in range(0, len(sent), step):
        done = reply.feed(sent[at : at + step])
        assert done == (at + step >= len(sent))


def fill(rng: Random, definition: ReadDefinition, batch: Batch) -> Store:
    """Rows for most of the keys of a batch."""
    store: Store = {}
    for number in range(len(definition.recipes)):
        for key in batch.sample_keys(number, 1000):
            for view in definition.views:
                if view.recipe == number and rng.random() < 0.8:
                    stored = store.setdefault(key, {})
                    stored[view.time_field] = Timestamp(seconds=NOW[0]).SerializeToString()
                    for feature in view.features:
                        text = "x" * rng.choice([0, 5, 200])
                        stored[feature.hash_field] = Value(string_val=text).SerializeToString()
    return store


def redirections(scatter: Scatter) -> dict[int, tuple[str, bool]]:
    found = {}
    for number, _, said in scatter.put_off:
        if words := re.fullmatch(r"(MOVED|ASK) \d+ (\S+)", said):
            found[number] = words[2], words[1] == "ASK"
    return found


@settings(max_examples=60, deadline=None)
@given(RANDOMS)
def test_answers_are_those_of_one_server(rng: Random) -> None:
    rows = rng.choice([1, 2, 7, 40])
    ids = [rng.randrange(30) for _ in range(rows)]
    names = [rng.choice(["a", "{b}", "{}", "c{d}e", "{{"]) for _ in range(rows)]
    data = request_bytes(
        {
            "id": [Value(int64_val=i) for i in ids],
            "name": [Value(string_val=name) for name in names],
        }
    )
    plan = Plan(TWO_KINDS)
    whole = Batch(plan, Request(data))
    store = fill(rng, TWO_KINDS, whole)
    reply = Reply()
    reply.start(whole)
    assert reply.feed(answer(whole.command_bytes, store))
    expected = build_response(whole, reply, *NOW, True)

    addresses = [f"n:{number}" for number in range(rng.choice([1, 2, 5]))]
    home = {slot: rng.choice(addresses) for slot in range(SLOT_COUNT)}
    keys = [key for number in (0, 1) for key in whole.sample_keys(number, 1000)]
    nodes = Nodes(store, home)
    believed = dict(home)
    for key in keys:
        chance, slot = rng.random(), key_slot(key)
        if chance < 0.2:
            believed[slot] = rng.choice(addresses)
        elif chance < 0.4:
            nodes.asked[slot] = rng.choice(addresses)
            if nodes.asked[slot] == home[slot]:
                del nodes.asked[slot]
        elif chance < 0.5:
            nodes.busy[slot] = rng.choice([1, 2])
    slots = SlotMap(
        addresses, [(slot, slot, addresses.index(node)) for slot, node in believed.items()]
    )
    batch = Batch(plan, Request(data), later=True, scattered=True)
    if rng.random() < 0.5:
        judge_early(batch, *NOW)
    scatter = Scatter(batch, Reply())
    scatter.begin(slots)
    rounds = 0
    while True:
        parts = scatter.taken_up()
        rng.shuffle(parts)
        for part in parts:
            theirs = Reply()
            sent = nodes.answer(part.node, part.start(theirs))
            exchange(part, sent, theirs, rng.choice([1, 13, 1 << 20]))
            scatter.take(part, theirs)
        if not scatter.put_off:
            break
        rounds += 1
        assert rounds < 10
        scatter.ask_again(slots, redirections(scatter))
    assert scatter.settle(slots)
    assert build_response(batch, scatter.reply, *NOW, True) == expected
    # Nothing is asked for again that has been answered.
    assert set(nodes.seen.values()) == {1}


def split(partial: bool = False) -> tuple[Scatter, SlotMap, list[Part]]:
    """A batch of twenty rows over two nodes, the last of which asks for what the first one does."""
    message = serving_pb2.GetOnlineFeaturesRequest.FromString(int64_request(*range(19), 0))
    message.allow_partial_response = partial
    batch = Batch(
        Plan(one_view()), Request(message.SerializeToString()), later=True, scattered=True
    )
    slots = SlotMap(("a:1", "b:2"), [(0, 8191, 0), (8192, SLOT_COUNT - 1, 1)])
    scatter = Scatter(batch, Reply())
    scatter.begin(slots)
    parts = scatter.taken_up()
    assert [part.node for part in parts] == ["a:1", "b:2"]
    assert sum(part.count for part in parts) == 19
    return scatter, slots, parts


def test_rows_of_a_node_that_does_not_answer_are_named() -> None:
    for partial in (False, True):
        scatter, slots, (here, gone) = split(partial)
        reply = Reply()
        exchange(here, answer(here.start(reply), {}), reply, 1 << 20)
        scatter.take(here, reply)
        scatter.fail(gone, "it is gone")
        with pytest.raises(ValueError, match="have not been answered"):
            scatter.settle(slots)
        numbers = [number for number, _, _ in scatter.put_off]
        lost = {number for number in numbers if scatter.slot(number) >= 8192}
        assert len(lost) == len(numbers) == gone.count
        scatter.give_up(dict.fromkeys(numbers, "node b:2: it is gone"))
        assert scatter.settle(slots)
        # The last row is the first one's entity.
        rows = sorted(lost | ({19} if 0 in lost else set()))
        if not partial:
            with pytest.raises(RowsUnread) as caught:
                build_response(scatter.batch, scatter.reply, *NOW, True)
            assert str(caught.value) == (
                f"{len(rows)} of 20 rows could not be read: node b:2: it is gone. These are, "
                f"counted from 0: {', '.join(map(str, rows))}"
            )
            continue
        data = build_response(scatter.batch, scatter.reply, *NOW, True)
        response = serving_pb2.GetOnlineFeaturesResponse.FromString(data)
        statuses = response.results[1].statuses
        assert [i for i, status in enumerate(statuses) if status == serving_pb2.INVALID] == rows
        assert set(statuses) == {serving_pb2.INVALID, serving_pb2.NOT_FOUND}
        named = [row for error in response.metadata.row_errors for row in error.rows]
        assert sorted(named) == rows
        assert {error.code for error in response.metadata.row_errors} == {14}


def test_slots_that_nobody_serves() -> None:
    batch = Batch(Plan(one_view()), Request(int64_request(1, 2)), later=True, scattered=True)
    scatter = Scatter(batch, Reply())
    scatter.begin(SlotMap((), ()))
    assert scatter.parts == []
    assert [node for _, node, _ in scatter.put_off] == ["", ""]
    for number, _, why in scatter.put_off:
        assert why == f"no node serves slot {scatter.slot(number)}"


def test_errors_are_told() -> None:
    scatter, slots, parts = split()
    for part in parts:
        reply = Reply()
        part.start(reply)
        reply.feed(b"-WRONGTYPE Operation against a key\r\n" * part.count)
        scatter.take(part, reply)
    assert scatter.put_off == []
    assert scatter.settle(slots)
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        scatter.reply.raise_error()


@pytest.mark.parametrize("first", [b"-ERR unknown command\r\n", b"+PONG\r\n", b"*1\r\n$-1\r\n"])
def test_asking_is_confirmed_first(first: bytes) -> None:
    scatter, slots, (here, there) = split()
    scatter.fail(here, "ASK")
    scatter.fail(there, "ASK")
    numbers = [number for number, _, _ in scatter.put_off]
    scatter.ask_again(slots, dict.fromkeys(numbers, ("c:3", True)))
    (part,) = scatter.taken_up()
    assert (part.node, part.asking, part.count) == ("c:3", True, 19)
    reply = Reply()
    commands = parse_commands(part.start(reply))
    assert commands[::2] == [ASKING] * 19
    assert ASKING not in commands[1::2]
    with pytest.raises(ProtocolError):
        reply.feed(first)


def test_what_is_misused_is_refused() -> None:
    with pytest.raises(ValueError, match="for one server"):
        Scatter(Batch(Plan(one_view()), Request(int64_request(1))), Reply())
    scatter, _, (here, there) = split()
    reply = Reply()
    here.start(reply)
    with pytest.raises(ValueError, match="not the complete replies"):
        scatter.take(here, reply)
    exchange(here, answer(here.start(reply), {}), reply, 1 << 20)
    with pytest.raises(ValueError, match="not the complete replies"):
        scatter.take(there, reply)


_HALF = SlotMap(("a:1", "b:2"), [(0, 8191, 0), (8192, SLOT_COUNT - 1, 1)])
_WORDS = (
    "MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN"
)  # fmt: skip


def answer_with(data: bytes, compare: bool = False) -> None:
    """A batch of six rows whose nodes say any bytes: in each of three rounds each node what stands
    behind a byte with its length, and nothing where there is none. What they put off is asked for
    again as the gateway does; it ends with an answer, or with an error.

    Args:
        data: What they say.
        compare: Whether what they put off is compared with what hiredis makes of their bytes.
    """
    batch = Batch(Plan(one_view()), Request(int64_request(*range(6))), later=True, scattered=True)
    scatter = Scatter(batch, Reply())
    scatter.begin(_HALF)
    for _ in range(3):
        for part in scatter.taken_up():
            size = data[0] if data else 0
            said, data = data[1 : 1 + size], data[1 + size :]
            reply = Reply()
            part.start(reply)
            before = len(scatter.put_off)
            try:
                complete = reply.feed(said)
            except ProtocolError as error:
                scatter.fail(part, str(error))
                continue
            if not complete:
                scatter.fail(part, "it is cut")
                continue
            scatter.take(part, reply)
            # A carriage return by itself is no text for hiredis.
            if compare and not re.search(rb"\r(?!\n)", said):
                put_off = [each[2] for each in scatter.put_off[before:]]
                assert put_off == put_off_by_hiredis(said, part)
        if not scatter.put_off:
            break
        targets = {n: redirection(said, node) for n, node, said in scatter.put_off}
        scatter.ask_again(_HALF, {n: to for n, to in targets.items() if to is not None})
    for part in scatter.taken_up():
        scatter.fail(part, "asked too often")
    scatter.give_up({number: said for number, _, said in scatter.put_off})
    assert scatter.settle(_HALF)
    try:
        scatter.reply.raise_error()
        made = build_response(scatter.batch, scatter.reply, *NOW, True)
    except (ReplyError, RowsUnread, CorruptRow):
        return
    GetOnlineFeaturesResponse.FromString(made)


def put_off_by_hiredis(said: bytes, part: Part) -> list[str]:
    """What a node that has answered all its commands has put off."""
    reader = hiredis.Reader()
    reader.feed(said)
    replies = []
    while (reply := reader.gets()) is not False:
        replies.append(reply)
    if part.asking:
        assert replies[::2] == [b"OK"] * part.count
        replies = replies[1::2]
    assert len(replies) == part.count
    errors = [str(reply) for reply in replies if isinstance(reply, hiredis.ReplyError)]
    return [error for error in errors if error.startswith(_WORDS)]


def in_turn(*said: bytes) -> bytes:
    """Bytes for `answer_with`."""
    return b"".join(bytes([len(each)]) + each for each in said)


_ROW = array_reply([Value(int64_val=1).SerializeToString(), b"\x08\x01"])
SOME_SAID = [
    in_turn(_ROW * 3, _ROW * 3),
    in_turn(b"-MOVED 1 c:3\r\n" + _ROW * 2, b"-ASK 9000 :4\r\n-TRYAGAIN x\r\n" + _ROW, _ROW * 2),
    in_turn(b"-MOVED 1\r\n-ASK\r\n-MOVED x y:z:0\r\n", b"-LOADING\r\n-ERR no\r\n" + _ROW),
    in_turn(b"-ASK 1 c:3\r\n" * 3, b"-ASK 1 c:3\r\n" * 3, b"+OK\r\n" + _ROW, b"+OK\r\n"),
]
"""Things that nodes say, for the four rows of the one and the two of the other."""


@settings(max_examples=200)
@given(RANDOMS)
def test_whatever_nodes_say_there_is_an_answer_or_an_error(generator: Random) -> None:
    data = generator.choice(SOME_SAID)
    for _ in range(generator.randrange(4)):
        data = mutant(generator, data)
    answer_with(data, compare=True)


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_exchange_over_sockets() -> None:
    """One node answers, one hangs up, and one says nothing until the time is up."""
    message = int64_request(*range(200))
    batch = Batch(Plan(one_view()), Request(message), later=True, scattered=True)
    slots = SlotMap(
        ("a:1", "b:2", "c:3"), [(0, 5000, 0), (5001, 10000, 1), (10001, SLOT_COUNT - 1, 2)]
    )
    scatter = Scatter(batch, Reply())
    scatter.begin(slots)
    parts = scatter.taken_up()
    with ExitStack() as stack:
        pairs = [stack.enter_context(pair()) for _ in parts]
        replies = [Reply() for _ in parts]
        pairs[0][1].sendall(answer(parts[0].start(Reply()), {}))
        pairs[1][1].close()
        links = [
            (part, ours.fileno(), reply)
            for part, (ours, _), reply in zip(parts, pairs, replies, strict=True)
        ]
        failures = exchange_parts(links, 0.05)
    assert failures[0] is None
    assert isinstance(failures[1], OSError)
    assert isinstance(failures[2], TimeoutError)
    scatter.take(parts[0], replies[0])
