"""Rows that a run of batches need not send: the store must be as if all had been sent."""

import dataclasses
import itertools
import random
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.hotpath.latest import LatestRows
from hotfeast.hotpath.writes import WritePlan
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.redis_io import Lanes, RedisWriter
from tests.hotpath.helpers import parse_commands
from tests.hotpath.write_helpers import (
    Model,
    Row,
    definition,
    make_batch,
    outcomes,
    stored_row,
    without_created,
)

PLAN = WritePlan(definition())
PLAIN = WritePlan(definition(created=False))


@pytest.fixture(scope="module")
def writer(server: LocalRedis) -> RedisWriter:
    return RedisWriter(Lanes(redis.ConnectionPool.from_url(server.url)), 30)


def random_rows(chance: random.Random, count: int) -> list[Row]:
    """Rows of few entities and times, so that many meet."""
    return [
        Row(
            chance.randrange(3), chance.choice([-1, 0, 1, 10**9]),
            chance.choice([None, 0, 1, 10**9, 5 * 10**9]), chance.randrange(10**6), "x",
        )
        for _ in range(count)
    ]  # fmt: skip


@given(
    seed=st.integers(0, 2**32),
    limit=st.sampled_from([0, 1, 2, 100]),
    created=st.booleans(),
    check=st.booleans(),
)
@settings(max_examples=500)
def test_the_store_is_as_if_all_were_sent(
    client: Any, writer: RedisWriter, seed: int, limit: int, created: bool, check: bool
) -> None:
    client.flushdb()
    chance = random.Random(seed)
    plan = PLAN if created else PLAIN
    # Without comparison the store is empty at first.
    before = random_rows(chance, chance.randrange(5)) if check else []
    run = [random_rows(chance, chance.randint(1, 12)) for _ in range(chance.randint(1, 5))]
    model = Model()
    for row in [*before, *itertools.chain(*run)]:
        model.write(row if created else dataclasses.replace(row, created=None))
    writer.write(make_batch(plan, before))
    latest = LatestRows(limit)
    batches = []
    for rows in run:
        batch = make_batch(plan, rows, check)
        superseded = latest.sift(batch)
        assert superseded == batch.counts["superseded"]
        writer.write(batch)
        assert set(outcomes(batch)) <= {"written", "stale", "superseded"}
        batches.append((batch, rows))
    assert len(latest) <= limit
    for batch, rows in batches:
        for i, row in enumerate(rows):
            wanted = model.rows[row.id]
            assert without_created(client.hgetall(batch.key(i))) == stored_row(wanted)


def test_one_row_of_each_entity_is_left() -> None:
    latest = LatestRows()
    rows = [Row(i % 10, i, None, i) for i in range(1000)]
    batch = make_batch(PLAIN, rows, check=False)
    assert latest.sift(batch) == 990
    assert outcomes(batch) == ["superseded"] * 990 + ["pending"] * 10
    older = make_batch(PLAIN, [Row(3, 5), Row(3, 2000), Row(11, 0)], check=False)
    assert latest.sift(older) == 1
    assert outcomes(older) == ["superseded", "pending", "pending"]
    assert len(latest) == 11


def test_what_the_table_cannot_hold_is_compared_in_redis() -> None:
    latest = LatestRows(2)
    batch = make_batch(PLAIN, [Row(1, 5), Row(2, 5), Row(3, 5), Row(1, 6), Row(3, 4)], check=False)
    latest.sift(batch)
    assert outcomes(batch) == ["superseded", "pending", "pending", "pending", "pending"]
    batch.begin()
    names = [command[0] for command in parse_commands(batch.next_portion())]
    assert names == [b"HSET", b"EVALSHA", b"HSET", b"EVALSHA"]
    assert len(latest) == 2


def test_a_table_grows() -> None:
    latest = LatestRows()
    rows = [Row(i, i) for i in range(20_000)]
    assert latest.sift(make_batch(PLAIN, rows)) == 0
    assert len(latest) == 20_000
    again = make_batch(PLAIN, [Row(i, i - 1) for i in range(20_000)])
    assert latest.sift(again) == 20_000


def test_rejected_rows_supersede_nothing() -> None:
    latest = LatestRows()
    batch = make_batch(PLAIN, [Row(1, 5), Row(1, 9)])
    batch.reject(1)
    assert latest.sift(batch) == 0
    assert outcomes(batch) == ["pending", "rejected"]


def test_keys_of_any_length() -> None:
    """Keys that differ in one byte, at any place, are of different entities."""
    plan = WritePlan(definition(project="p" * 3000, created=False))
    latest = LatestRows()
    assert latest.sift(make_batch(plan, [Row(1 << bit, 5) for bit in range(63)])) == 0
    assert len(latest) == 63


def test_the_successor_of_a_row_that_redis_must_judge_is_judged_too(
    client: Any, writer: RedisWriter
) -> None:
    client.flushdb()
    latest = LatestRows()
    first = make_batch(PLAN, [Row(1, 5, 9, 1)], check=False)
    latest.sift(first)
    writer.write(first)
    second = make_batch(PLAN, [Row(1, 5, 3, 2), Row(1, 5, 4, 3)], check=False)
    latest.sift(second)
    writer.write(second)
    assert outcomes(second) == ["superseded", "stale"]
