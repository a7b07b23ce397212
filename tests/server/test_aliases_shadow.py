"""Shadow reads: another version is read beside the answer, and compared."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import market
import pandas as pd
import pytest
import redis
from aliased import USERS, Traffic, dividing, make_repo, request, users
from feast import FeatureStore
from figures import scrape
from processes import eventually
from served import Served

from hotfeast.hotpath.request import Request
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.plan import PlanBook, ServingPlan
from hotfeast.server.registry import read_definitions
from hotfeast.server.servicer import FeatureServicer
from hotfeast.server.traffic.aliases import Alias, Shadow
from hotfeast.server.traffic.comparison import (
    ADDED,
    CHANGED,
    DIFFERENT,
    DROPPED,
    EQUAL,
    MISSING,
    Comparisons,
    compare,
    read_comparisons,
)
from hotfeast.server.traffic.routes import Side
from hotfeast.server.traffic.shadow import ShadowReads
from hotfeast.serving.v1 import serving_pb2, value_pb2

Gate = tuple[Served, Traffic]
ALIAS = Alias("users", (("users_v1", 100.0),), (), Shadow("users_v2", 100.0))
TEXT = "users: {targets: {users_v1: 100}, shadow: {target: users_v2, share: 100%}}\n"
SINCE = ("users", "users_v2", 1)


@pytest.fixture
def store(redis_server: LocalRedis, tmp_path: Path) -> FeatureStore:
    project = f"shadow_{tmp_path.parent.name}_{tmp_path.name}".replace("-", "_").lower()
    return make_repo(tmp_path / "repo", redis_server, project)


@pytest.fixture
def gate(store: FeatureStore, tmp_path: Path) -> Iterator[Gate]:
    path = tmp_path / "aliases.yaml"
    with dividing(store, path, TEXT, metrics=("127.0.0.1", 0)) as gate:
        yield gate


def compared(traffic: Traffic, requests: int) -> Any:
    """What was found once so many requests have been looked at."""
    found: list[Any] = []

    def there() -> bool:
        found[:] = traffic.comparisons("users")
        return bool(sum(c.compared + c.changed + c.failed for c in found) >= requests)

    eventually(there)
    return found


def test_differences_are_found_by_feature(gate: Gate) -> None:
    served, traffic = gate
    for user in USERS:
        traffic.read("users", user, 999)
    (found,) = compared(traffic, 3)
    assert (found.target, found.shadow) == ("users_v1", "users_v2")
    assert (found.compared, found.changed, found.failed, found.dropped) == (3, 0, 0, 0)
    spend, city = found.features
    assert (spend.name, spend.equal, spend.different, spend.missing) == ("spend", 5, 1, 0)
    assert (city.name, city.equal, city.different, city.missing) == ("city", 5, 0, 1)
    (example,) = spend.examples
    assert (dict(example.entity), example.answer, example.shadow) == (
        {"user_id": "3"}, "3.5", "99.0"
    )  # fmt: skip
    (example,) = city.examples
    # In one of the two it is tagged as personal.
    assert (example.answer, example.shadow) == ("(not shown: pii)", "NULL_VALUE")
    page = served.gateway.metrics_page
    assert page is not None
    figures = scrape(page.url)
    of = 'alias="users",feature="spend",outcome="%s",shadow="users_v2"'
    assert figures[f"hotfeast_shadow_values_total{{{of % 'different'}}}"] == 1
    assert figures[f"hotfeast_shadow_values_total{{{of % 'equal'}}}"] == 5
    of = 'alias="users",outcome="compared",shadow="users_v2",target="users_v1"'
    assert figures[f"hotfeast_shadow_requests_total{{{of}}}"] == 3


def test_only_the_other_targets_have_a_shadow(gate: Gate) -> None:
    _, traffic = gate
    traffic.set("users", {"users_v1": 50, "users_v2": 50}, shadow=("users_v2", 100))
    sides = traffic.sides("users", range(40))
    first = sum(side == "users_v1" for side in sides.values())
    assert 0 < first < 40
    (found,) = compared(traffic, first)
    assert (found.target, found.compared) == ("users_v1", first)


def test_a_new_shadow_counts_anew_and_none_is_none(gate: Gate) -> None:
    _, traffic = gate
    traffic.read("users", 3)
    compared(traffic, 1)
    traffic.set("users", {"users_v1": 100})
    assert traffic.comparisons() == []
    traffic.read("users", 3)
    traffic.set("users", {"users_v1": 100}, shadow=("users_v2", 100))
    traffic.read("users", 1)
    (found,) = compared(traffic, 1)
    assert (found.compared, found.features[0].different) == (1, 0)
    with pytest.raises(grpc.RpcError) as failed:
        traffic.comparisons("nobody")
    error: Any = failed.value
    assert error.code() is grpc.StatusCode.NOT_FOUND


def test_a_shadow_that_fails_is_counted_and_harms_nobody(
    gate: Gate, store: FeatureStore, redis_server: LocalRedis
) -> None:
    _, traffic = gate
    before = traffic.read("users_v1", 2).answer.results
    # The first version's rows are others of the same hash.
    database: Any = redis.Redis(port=redis_server.port)
    (key,) = [
        key for key in database.scan_iter(f"*{store.project}") if b"\x02\0\0\0\0\0\0\0" in key
    ]
    assert database.hset(key, "_ts:stats_2", b"\xff") == 0
    assert traffic.read("users", 2).answer.results == before
    (found,) = compared(traffic, 1)
    assert (found.compared, found.failed) == (0, 1)
    assert found.last_error.startswith("DATA_LOSS: ")


class Shadowing:
    """Shadow reads by a gateway's own reader, whose thread is started where a test wants it."""

    def __init__(self, store: FeatureStore, servicer: FeatureServicer, folder: Path) -> None:
        self.folder = folder
        self.servicer = servicer
        self.before_read: Callable[[], None] = lambda: None
        self.reads = ShadowReads(self, Comparisons(folder), lambda: [SINCE])
        self.book = PlanBook(read_definitions(store), 1)
        self.side = Side(ALIAS, "users_v1", self.book, False, None, None, self.reads, 1)

    def answer_by(self, book: PlanBook, plan: ServingPlan, request: Request) -> bytes:
        """Reads, once something has happened."""
        self.before_read()
        return self.servicer.answer_by(book, plan, request)

    def answer(self, *users: int) -> None:
        """Answers a request by the first version."""
        asked = Request(request("users", *users))
        answer = self.servicer.answer_by(self.book, self.side.plan, asked)
        self.side.answered(asked, len(users), answer)

    def outcomes(self) -> dict[str, int]:
        """Requests by outcome, once there are any."""
        eventually(lambda: read_comparisons(self.folder, [SINCE]))
        (found,) = read_comparisons(self.folder, [SINCE]).values()
        return dict(found.requests)


@pytest.fixture
def shadowing(gate: Gate, store: FeatureStore, tmp_path: Path) -> Iterator[Shadowing]:
    gateway = gate[0].gateway
    folder = tmp_path / "found"
    folder.mkdir()
    native: Any = gateway._native
    made = Shadowing(store, native._servicer, folder)
    yield made
    made.reads.stop()


def test_a_row_that_is_written_meanwhile_is_no_difference(
    shadowing: Shadowing, store: FeatureStore
) -> None:
    def write() -> None:
        later = market.NOW + pd.Timedelta(seconds=1)
        for view in ("stats_1", "stats_2"):
            store.write_to_online_store(
                view, users(spend=[7.0, 8.0, 9.0], event_timestamp=[later] * 3)
            )

    shadowing.before_read = write
    shadowing.answer(2)
    shadowing.reads.start()
    assert shadowing.outcomes() == {CHANGED: 1}


def test_what_finds_the_queue_full_is_dropped_and_counted(shadowing: Shadowing) -> None:
    for _ in range(300):
        shadowing.answer(1)
    shadowing.reads.start()
    eventually(lambda: shadowing.outcomes().get("compared") == 256)
    assert shadowing.outcomes()[DROPPED] == 44


def _answer(**columns: Sequence[tuple[float | None, int]]) -> bytes:
    message = serving_pb2.GetOnlineFeaturesResponse()
    for name, cells in columns.items():
        message.metadata.feature_names.val.append(name)
        column = message.results.add()
        for value, status in cells:
            column.values.append(
                value_pb2.Value() if value is None else value_pb2.Value(double_val=value)
            )
            column.statuses.append(status)  # type: ignore[arg-type]
    return message.SerializeToString()


PRESENT, NULL, NOT_FOUND = (
    serving_pb2.PRESENT, serving_pb2.NULL_VALUE, serving_pb2.NOT_FOUND
)  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"),
    [
        ((1.0, PRESENT), (1.0, PRESENT), EQUAL),
        ((float("nan"), PRESENT), (float("nan"), PRESENT), EQUAL),
        ((None, NULL), (None, NULL), EQUAL),
        ((1.0, PRESENT), (2.0, PRESENT), DIFFERENT),
        ((0.0, PRESENT), (-0.0, PRESENT), DIFFERENT),
        ((None, NULL), (None, NOT_FOUND), DIFFERENT),
        ((1.0, PRESENT), (None, NULL), MISSING),
        ((None, NOT_FOUND), (1.0, PRESENT), ADDED),
    ],
)
def test_cells_are_compared_by_value_and_status(
    ours: tuple[float | None, int], theirs: tuple[float | None, int], outcome: str
) -> None:
    other = (5.0, PRESENT)
    key = [(1.0, PRESENT), (2.0, PRESENT)]
    found = compare(_answer(k=key, f=[ours, other]), _answer(k=key, f=[theirs, other]), ["k"])
    wanted = {EQUAL: 2} if outcome == EQUAL else {EQUAL: 1, outcome: 1}
    assert found["f"].cells == wanted
    assert list(found) == ["f"]


def test_features_of_one_side_only() -> None:
    cells = [(1.0, PRESENT)] * 3
    found = compare(_answer(k=cells, old=cells), _answer(k=cells, new=cells), ["k"])
    assert {name: dict(counts.cells) for name, counts in found.items()} == {
        "old": {MISSING: 3}, "new": {ADDED: 3}
    }  # fmt: skip
