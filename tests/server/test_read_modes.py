"""HMGET and HGETALL give the same answers, and the cheaper one is chosen by what is stored."""

from pathlib import Path
from typing import Any

import pytest
import redis
from served import Served, serve, stop
from test_parity import ROWS, request_for

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.request import Request
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.read_modes import StoredHash, choose, probe, whole_is_cheaper

METHOD = "/hotfeast.serving.v1.FeatureServing/GetOnlineFeatures"


def plan_of(served: Served, request: bytes) -> Plan:
    return served.gateway.registry.book.find(Request(request)).compiled


@pytest.mark.parametrize("mode", ["strict", "lenient"])
def test_both_commands_give_the_same_answer(mode: str, request: pytest.FixtureRequest) -> None:
    served: Served = request.getfixturevalue(mode)
    rows = [{"user_id": row["user_id"]} for row in ROWS]
    for asked in (
        request_for("everything", ROWS, False),
        request_for("part", rows, True),
        request_for("users", rows, False),
    ):
        data = asked.SerializeToString()
        plan = plan_of(served, data)
        answers = []
        for read_all in (False, True, False):
            plan.probe_due = False
            for recipe in range(len(plan.read_all)):
                plan.set_read_all(recipe, read_all)
            commands = Batch(plan, Request(data)).command_bytes
            assert (b"HGETALL" in commands) == read_all
            assert (b"HMGET" in commands) != read_all
            answers.append(served.call(METHOD, data))
        assert answers[0] == answers[1] == answers[2]


def test_keys_that_are_looked_at_are_the_keys_that_are_read(strict: Served) -> None:
    data = request_for("everything", ROWS, False).SerializeToString()
    batch = Batch(plan_of(strict, data), Request(data))
    for recipe, count in enumerate(batch.entity_counts):
        keys = batch.sample_keys(recipe, 1000)
        assert len(set(keys)) == count
        assert all(key in batch.command_bytes for key in keys)
        assert batch.sample_keys(recipe, 2) == keys[:2]


@pytest.mark.parametrize(
    ("asked", "encoding", "fields", "whole"),
    [
        (55, b"listpack", 275, True),
        (11, b"listpack", 275, False),
        (2, b"listpack", 11, False),
        (11, b"ziplist", 12, True),
        (55, b"hashtable", 275, False),
    ],
)
def test_choice_follows_the_measured_costs(
    asked: int, encoding: bytes, fields: int, whole: bool
) -> None:
    assert whole_is_cheaper(asked, [StoredHash(encoding, fields)] * 3) is whole


def test_nothing_known_means_hmget() -> None:
    assert not whole_is_cheaper(1000, [])
    mixed = [StoredHash(b"listpack", 500), StoredHash(b"hashtable", 500)]
    assert not whole_is_cheaper(400, mixed)


def test_probe_sees_what_redis_holds(redis_server: LocalRedis) -> None:
    client: Any = redis_server.client()
    small, large = b"probe:small", b"probe:large"
    client.hset(small, mapping={f"f{i}": i for i in range(20)})
    client.hset(large, mapping={f"f{i}": "x" * 100 for i in range(30)})
    client.set(b"probe:other", 1)
    try:
        found = probe(client, [small, large, b"probe:absent", b"probe:other"])
        assert [h.fields for h in found] == [20, 30]
        assert found[0].encoding in (b"listpack", b"ziplist")
        assert found[1].encoding == b"hashtable"
    finally:
        client.delete(small, large, b"probe:other")


class _Refusing:
    """Redis for a user who may not look: a real server with an ACL rule."""

    def __init__(self, server: LocalRedis) -> None:
        self._admin: Any = server.client()
        self._admin.execute_command(  # type: ignore[no-untyped-call]
            *["ACL", "SETUSER", "reader", "on", "nopass", "~*", "+hmget", "+hgetall", "+ping"]
        )
        self.client = redis.Redis(port=server.port, username="reader", password="x")

    def close(self) -> None:
        self.client.close()
        self._admin.execute_command("ACL", "DELUSER", "reader")


def test_a_user_who_may_not_look(redis_server: LocalRedis, strict: Served) -> None:
    refusing = _Refusing(redis_server)
    try:
        data = request_for("part", [{"user_id": 1}], True).SerializeToString()
        batch = Batch(plan_of(strict, data), Request(data))
        with pytest.raises(redis.exceptions.NoPermissionError):
            choose(refusing.client, batch.plan, [batch.sample_keys(0, 8)])
    finally:
        refusing.close()


def test_a_plan_in_use_is_looked_at(market_store: Any) -> None:
    """The gateway asks for 11 of the 12 fields of small hashes, and comes to read them whole."""
    served = serve(market_store, Settings(repo=Path(market_store.repo_path)))
    try:
        ids = [{"user_id": 1}, {"user_id": 2}, {"user_id": 3}]
        data = request_for("users", ids, True).SerializeToString()
        plan = plan_of(served, data)
        due = [plan.probe_due]
        assert served.call(METHOD, data)
        due.append(plan.probe_due)
        assert due == [True, False]
        # The look is finished before the gateway is.
        served.gateway.stop(drain=1)
        assert plan.read_all == [True]
    finally:
        stop(served)
