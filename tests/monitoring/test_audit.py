"""The skew audit, on a store with nothing wrong and with faults put into it by hand."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import audited
import pyarrow.parquet as pq
import pytest
from audited import AS_OF, DAY, FIRST, USERS, redis_key
from feast import FeatureStore
from processes import run_cli
from redis import Redis
from typer.testing import CliRunner

from hotfeast.server.cli import app
from hotfeast.server.errors import StartFailure
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.materialize import materialize
from hotfeast.server.monitoring.audit import FAULTS, AuditReport, Example, Outcome, ViewAudit, audit
from hotfeast.server.monitoring.audit_values import same
from hotfeast.server.plan import feature_hash_field
from hotfeast.serving.v1 import value_pb2


@pytest.fixture(scope="module")
def server() -> Iterator[LocalRedis]:
    with LocalRedis() as server:
        yield server


@pytest.fixture(scope="module")
def store(server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return audited.make_repository(tmp_path_factory.mktemp("audited"), server.address)


@pytest.fixture
def client(server: LocalRedis, store: FeatureStore) -> Iterator[Any]:
    """A store that has just what is in the sources."""
    client: Any = Redis(host="127.0.0.1", port=server.port)
    client.flushdb()
    summary = materialize(store, FIRST - 10 * DAY, AS_OF)
    assert summary.exit_code == 0
    yield client
    client.close()


def of(report: AuditReport, view: str) -> ViewAudit:
    (found,) = [each for each in report.views if each.view == view]
    assert not found.error, found.error
    return found


def only(found: ViewAudit, outcome: Outcome) -> Example:
    """The one example of a view in which nothing else is wrong."""
    assert {o: found.counts[o] for o in FAULTS if found.counts[o]} == {outcome: 1}
    (example,) = found.examples
    assert example.outcome is outcome
    return example


def test_a_clean_store(client: Any, store: FeatureStore) -> None:
    before = {key: client.hgetall(key) for key in client.scan_iter()}
    report = audit(store, as_of=AS_OF)
    assert {key: client.hgetall(key) for key in client.scan_iter()} == before
    assert report.exit_code == 0
    assert [view.view for view in report.views] == [
        "cart_share", "mixed", "pairs", "users", "world",
    ]  # fmt: skip
    users = of(report, "users")
    # The one that is too old is stored, and not offered by the offline store either.
    assert (users.online_entities, users.offline_entities) == (USERS, USERS - 1)
    assert users.counts == {Outcome.EQUAL: USERS}
    assert of(report, "pairs").counts == {Outcome.EQUAL: USERS}
    assert of(report, "world").counts == {Outcome.EQUAL: 1}
    # Feast leaves out the pair whose user is too old.
    assert of(report, "mixed").counts == {Outcome.EQUAL: USERS - 1, Outcome.NOT_COMPARED: 1}
    assert "request data" in of(report, "cart_share").skipped


def test_a_changed_value(client: Any, store: FeatureStore) -> None:
    value = value_pb2.Value(double_val=1e6).SerializeToString()
    client.hset(redis_key(user_id=5), feature_hash_field("users", "spend"), value)
    report = audit(store, ["users", "mixed"], as_of=AS_OF)
    example = only(of(report, "users"), Outcome.DIFFERENT)
    assert example.entity == {"user_id": 5}
    assert example.features == {"spend": f"1000000.0 online, {5 + 2 / 3} offline"}
    assert of(report, "users").features == {"spend": 1}
    # What is computed from it differs, too.
    assert only(of(report, "mixed"), Outcome.DIFFERENT).features.keys() == {"weighted"}
    assert report.exit_code == 1
    share = of(report, "users").share
    assert share == 1 / USERS
    assert audit(store, ["users"], as_of=AS_OF, max_share=share).exit_code == 0


def test_a_difference_within_the_tolerance(client: Any, store: FeatureStore) -> None:
    value = value_pb2.Value(double_val=(5 + 2 / 3) * (1 + 1e-10)).SerializeToString()
    client.hset(redis_key(user_id=5), feature_hash_field("users", "spend"), value)
    assert audit(store, ["users"], as_of=AS_OF).exit_code == 1
    assert audit(store, ["users"], as_of=AS_OF, tolerance=1e-9).exit_code == 0


def test_a_null_instead_of_a_value_and_personal_data(client: Any, store: FeatureStore) -> None:
    client.hdel(redis_key(user_id=5), feature_hash_field("users", "city"))
    example = only(of(audit(store, ["users"], as_of=AS_OF), "users"), Outcome.DIFFERENT)
    assert example.features == {"city": "null online, (pii) offline"}


def test_a_deleted_row(client: Any, store: FeatureStore) -> None:
    client.delete(redis_key(shop_id="shop 7", user_id=7))
    example = only(of(audit(store, ["pairs"], as_of=AS_OF), "pairs"), Outcome.MISSING_ONLINE)
    assert example.entity == {"user_id": 7, "shop_id": "shop 7"}
    assert example.online_time is None
    assert example.offline_time == FIRST + 2 * DAY + timedelta(microseconds=250_000)


def test_a_late_materialization(client: Any, store: FeatureStore) -> None:
    client.flushdb()
    assert materialize(store, FIRST - 10 * DAY, AS_OF - DAY).exit_code == 0
    report = audit(store, ["users", "world"], as_of=AS_OF)
    users = of(report, "users")
    assert users.counts == {Outcome.STALE: USERS - 1, Outcome.EQUAL: 1}
    assert len(users.examples) == 3
    assert "1 day, 0:00:00 older than" in users.examples[0].message
    assert of(report, "world").counts == {Outcome.STALE: 1}
    assert report.exit_code == 1


def test_a_row_that_only_the_online_store_has(client: Any, store: FeatureStore) -> None:
    client.rename(redis_key(user_id=5), redis_key(user_id=5_000))
    users = of(audit(store, ["users"], as_of=AS_OF), "users")
    assert {o: users.counts[o] for o in FAULTS} == {
        Outcome.STALE: 0, Outcome.MISSING_ONLINE: 1, Outcome.MISSING_OFFLINE: 1,
        Outcome.DIFFERENT: 0,
    }  # fmt: skip
    assert [e.entity["user_id"] for e in users.examples] == [5_000, 5]


def test_a_row_that_cannot_be_read(client: Any, store: FeatureStore) -> None:
    client.hset(redis_key(user_id=5), feature_hash_field("users", "visits"), b"\x20")
    example = only(of(audit(store, ["users"], as_of=AS_OF), "users"), Outcome.DIFFERENT)
    assert "visits" in example.message


def test_a_row_of_after_the_time_is_not_compared(client: Any, store: FeatureStore) -> None:
    before = AS_OF - DAY
    users = of(audit(store, ["users"], as_of=before), "users")
    assert users.counts == {Outcome.NOT_COMPARED: USERS - 1, Outcome.EQUAL: 1}


def test_rows_of_feasts_own_sdk(client: Any, store: FeatureStore) -> None:
    """Which has whole seconds only; and writes a number for a null time, which is found."""
    client.flushdb()
    store.materialize(FIRST - 10 * DAY, AS_OF, ["users", "pairs"])
    users = of(audit(store, ["users"], as_of=AS_OF), "users")
    assert users.counts == {Outcome.EQUAL: USERS - 6, Outcome.DIFFERENT: 6}
    assert users.features == {"since": 6}
    assert users.examples[0].features["since"].endswith(" online, null offline")


def test_a_small_sample_is_drawn_anew_by_its_seed(client: Any, store: FeatureStore) -> None:
    client.flushdb()

    def missing(seed: int) -> set[int]:
        report = audit(store, ["users"], entities=3, as_of=AS_OF, seed=seed)
        users = of(report, "users")
        assert users.counts == {Outcome.MISSING_ONLINE: 3}
        assert users.offline_entities == 3
        return {example.entity["user_id"] for example in users.examples}

    assert missing(1) == missing(1)
    assert len(set.union(*map(missing, range(12)))) > 12


def test_what_cannot_be_compared(client: Any, store: FeatureStore) -> None:
    path = Path(store.repo_path) / "pairs.parquet"
    kept = path.read_bytes()
    try:
        path.unlink()
        report = audit(store, ["pairs", "world"], as_of=AS_OF)
    finally:
        path.write_bytes(kept)
    broken, _ = report.views
    assert "FileNotFoundError" in broken.error
    assert of(report, "world").counts == {Outcome.EQUAL: 1}
    assert report.exit_code == 1
    with pytest.raises(StartFailure, match="no feature view 'user'; did you mean 'users'"):
        audit(store, ["user"], as_of=AS_OF)
    with pytest.raises(StartFailure, match="Redis cannot be audited"):
        audit(store, ["users"], as_of=AS_OF, redis_url="redis://127.0.0.1:1")


def test_the_command(client: Any, store: FeatureStore) -> None:
    arguments = ("audit", "--repo", store.repo_path, "--as-of", AS_OF.isoformat())
    shown = run_cli(*arguments)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "cart_share: nothing to compare" in shown.stdout
    client.delete(redis_key(user_id=5))
    told = CliRunner().invoke(app, [*arguments, "-v", "users", "--seed", "4"])
    assert told.exit_code == 1
    assert "missing online: users (user_id=5): nothing is stored" in told.stdout
    assert "--seed 4" in told.stdout
    as_json = CliRunner().invoke(app, [*arguments, "-v", "users", "--json"])
    assert as_json.exit_code == 1
    (view,) = json.loads(as_json.stdout)["views"]
    assert view["counts"]["missing_online"] == 1
    assert view["examples"][0]["entity"] == {"user_id": 5}
    none = CliRunner().invoke(app, ["audit", "--repo", str(Path(store.repo_path) / "none")])
    assert none.exit_code == 2
    wrong = CliRunner().invoke(app, [*arguments[:-1], "yesterday"])
    assert wrong.exit_code == 2
    assert "--as-of" in wrong.stderr


def test_sources_are_as_described(store: FeatureStore) -> None:
    """What the counts above rest on."""
    table = pq.read_table(Path(store.repo_path) / "users.parquet")
    assert table.num_rows == (USERS - 1) * audited.DAYS + 1


@pytest.mark.parametrize(
    ("one", "other", "tolerance", "equal"),
    [
        (1.0, 1.0 + 1e-9, 1e-8, True),
        (1.0, 1.0 + 1e-9, 0.0, False),
        (float("nan"), float("nan"), 0.0, True),
        (float("nan"), 1.0, 1.0, False),
        (None, 0, 1.0, False),
        (True, 1, 0.0, False),
        ([1.0, 2.0], [1.0, 2.0 + 1e-9], 1e-8, True),
        ([1.0], [1.0, 2.0], 1.0, False),
        ({"a": 1.0}, {"a": 1.0 + 1e-9}, 1e-8, True),
        ({"a": 1.0}, {"b": 1.0}, 1.0, False),
    ],
)
def test_same(one: Any, other: Any, tolerance: float, equal: bool) -> None:
    assert same(one, other, tolerance) is equal
