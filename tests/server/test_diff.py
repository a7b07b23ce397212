"""`hotfeast diff`: what it says of an edit, and what a gateway then really does."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import market
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore
from feast.repo_operations import apply_total_with_repo_instance
from feast_versions import CLEARS_TTLS
from processes import eventually
from served import Served, serve, stop
from typer.testing import CliRunner

from hotfeast.clients import HotfeastError
from hotfeast.server.cli import app
from hotfeast.server.diff.changes import Change
from hotfeast.server.diff.comparing import DiffResult, diff
from hotfeast.server.errors import StartFailure
from hotfeast.server.gateway import Settings
from hotfeast.server.lint.linting import lint
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.monitoring.collector import Collector
from hotfeast.server.monitoring.observed import Channel, FeatureColumn, Observation
from hotfeast.server.registry import Definitions, RegistryReader
from hotfeast.server.registry_source import open_source
from hotfeast.server.repo_definitions import load_repo_definitions, registered
from hotfeast.server.settings import MonitorSettings

BASE = """
from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource
from feast import RequestSource, ValueType
from feast.labeling.label_view import LabelView
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int32, Int64, String

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
rows = FileSource(name="rows", path="rows.parquet", timestamp_field="event_timestamp")
pushed = PushSource(name="pushed", batch_source=rows)
stats = FeatureView(
    name="stats",
    entities=[user],
    ttl=timedelta(days=2),
    schema=[
        Field(name="visits", dtype=Int64, description="Visits", tags={"min": "0"}),
        Field(name="spend", dtype=Float64, description="Spend"),
        Field(name="level", dtype=Int64, description="Level"),
    ],
    source=pushed,
    tags={"domain": "users"},
)
facts = FeatureView(
    name="facts",
    entities=[user],
    ttl=timedelta(days=2),
    schema=[Field(name="city", dtype=String)],
    source=rows,
)
hidden = FeatureView(
    name="hidden",
    entities=[user],
    ttl=timedelta(days=2),
    online=False,
    schema=[Field(name="secret", dtype=String)],
    source=rows,
)
labels = LabelView(
    name="labels",
    entities=[user],
    ttl=timedelta(days=2),
    schema=[Field(name="label", dtype=String), Field(name="labeler", dtype=String)],
    labeler_field="labeler",
    source=PushSource(name="labelled", batch_source=rows),
)
cart = RequestSource(name="cart", schema=[Field(name="cart_value", dtype=Float64)])


@on_demand_feature_view(
    sources=[stats[["spend"]], cart],
    schema=[Field(name="cart_share", dtype=Float64)],
    mode="pandas",
)
def share(inputs: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    out = pd.DataFrame()
    out["cart_share"] = inputs["cart_value"] / inputs["spend"]
    return out


scoring = FeatureService(name="scoring", features=[stats[["visits", "spend"]]])
carts = FeatureService(name="carts", features=[share])
places = FeatureService(name="places", features=[facts])
"""

LEVEL = '        Field(name="level", dtype=Int64, description="Level"),\n'
VISITS = '[Field(name="visits", dtype=Int64, description="Visits", tags={"min": "0"})'
FACTS = BASE[BASE.index("facts = FeatureView(") : BASE.index("hidden = FeatureView(")]
SCORING = 'scoring = FeatureService(name="scoring", features=[stats[["visits", "spend"]]])\n'
RENAMED_KEY = "has the join keys household_id (INT64) in place of user_id (INT64)"
TYPED_KEY = "has the join keys user_id (STRING) in place of user_id (INT64)"
Edit = tuple[tuple[str, str], ...]


@dataclass
class Place:
    """A repository whose files can be edited and applied."""

    repo: Path

    @property
    def store(self) -> FeatureStore:
        return FeatureStore(repo_path=str(self.repo))

    def write(self, *edits: tuple[str, str]) -> None:
        """Writes the base, edited."""
        text = BASE
        for old, new in edits:
            assert old in text, old
            text = text.replace(old, new)
        (self.repo / "definitions.py").write_text(text)

    def apply(self) -> None:
        """What `feast apply` does once it has loaded the files."""
        store, defined = self.store, load_repo_definitions(self.repo)
        apply_total_with_repo_instance(
            store, store.project, store.registry, defined.contents, skip_source_validation=True
        )

    def definitions(self) -> Definitions:
        reader = RegistryReader(self.store)
        return reader.define(reader.read())

    def predicted(self) -> Definitions:
        store = self.store
        before = open_source(store, with_versions=True).read()
        becoming = registered(store, load_repo_definitions(self.repo), before)
        return RegistryReader(store).define(becoming)


def make_place(folder: Path, address: str, registry: str | None = None) -> Place:
    project = f"diff_{uuid4().hex[:8]}"
    place = Place(market.write_repository(folder, project, address, registry))
    place.write()
    place.apply()
    return place


@pytest.fixture
def place(redis_server: LocalRedis, tmp_path: Path) -> Place:
    return make_place(tmp_path / "repo", redis_server.address)


def told(result: DiffResult) -> list[tuple[str, str, str]]:
    return [(str(c.severity), c.subject, c.what) for c in result.changes]


EDITS: dict[str, tuple[Edit, list[tuple[str, str, str]]]] = {
    "nothing": ((), []),
    "comment": ((("user = Entity", "# Who shops\nuser = Entity"),), []),
    "feature removed": (
        ((LEVEL, ""),),
        [("breaking", "stats:level", "is removed")],
    ),
    "feature renamed": (
        ((LEVEL, LEVEL.replace('"level"', '"grade"')),),
        [
            ("breaking", "stats:level", "is renamed to grade, it seems"),
            ("safe", "stats:grade", "is new"),
        ],
    ),
    "feature added": (
        ((LEVEL, LEVEL + '        Field(name="rank", dtype=Int64),\n'),),
        [("safe", "stats:rank", "is new")],
    ),
    "type": (
        ((LEVEL, LEVEL.replace("Int64", "Int32")),),
        [("breaking", "stats:level", "has the type INT32 in place of INT64")],
    ),
    "shorter TTL": (
        ((FACTS, FACTS.replace("days=2", "hours=36")),),
        [("risky", "facts", "has a TTL of 36h in place of 2d")],
    ),
    "no TTL": (
        ((FACTS, FACTS.replace("days=2", "days=0")),),
        [("risky", "facts", "has a TTL of none in place of 2d"
          + ("" if CLEARS_TTLS else ", by the files only"))],
    ),
    "view removed": (
        ((FACTS, ""), ('places = FeatureService(name="places", features=[facts])', "")),
        [
            ("breaking", "facts", "is removed"),
            ("breaking", "places", "is removed"),
        ],
    ),
    "view renamed": (
        ((FACTS, FACTS.replace('"facts"', '"truths"')),),
        [
            ("breaking", "facts", "is renamed to truths, it seems"),
            ("breaking", "places", "does not take facts:city any more"),
            ("safe", "places", "takes truths:city"),
            ("safe", "truths", "is new, and looks like facts renamed"),
        ],
    ),
    "join key": (
        (('join_keys=["user_id"]', 'join_keys=["household_id"]'),),
        [
            ("breaking", "facts", RENAMED_KEY),
            ("safe", "hidden", RENAMED_KEY),
            ("risky", "labels",
             f"{RENAMED_KEY}, by the files only"),
            ("breaking", "stats", RENAMED_KEY),
            *(
                ("breaking", service, f"join key {key} {what}")
                for service in ("carts", "places", "scoring")
                for key, what in (
                    ("household_id", "has to be sent"), ("user_id", "is not asked for"),
                )
            ),
        ],
    ),
    "join key type": (
        (("value_type=ValueType.INT64", "value_type=ValueType.STRING"),),
        [
            ("breaking", "facts", TYPED_KEY),
            ("safe", "hidden", TYPED_KEY),
            ("risky", "labels",
             f"{TYPED_KEY}, by the files only"),
            ("breaking", "stats", TYPED_KEY),
            *(("breaking", s, "join key user_id has another type") for s in
              ("carts", "places", "scoring")),
        ],
    ),
    "changed while offline": (
        (('name="secret", dtype=String', 'name="secret", dtype=Int64'),),
        [("safe", "hidden:secret", "has the type INT64 in place of STRING")],
    ),
    "offline": (
        ((FACTS, FACTS.replace("source=rows", "source=rows, online=False")),),
        [
            ("breaking", "facts", "cannot be served any more"),
            ("breaking", "places", "cannot be served any more"),
        ],
    ),
    "online": (
        (("online=False", "online=True"),),
        [("safe", "hidden", "can be served")],
    ),
    "removed while offline": (
        ((BASE[BASE.index("hidden =") : BASE.index("labels =")], ""),),
        [("safe", "hidden", "is removed")],
    ),
    "code": (
        (('inputs["cart_value"] / inputs["spend"]', 'inputs["cart_value"] * inputs["spend"]'),),
        [("risky", "share", "is computed by other code")],
    ),
    "code's comments": (
        (("    return out", "    # All of it\n    return out"),),
        [("safe", "share", "has other comments or layout in its function")],
    ),
    "request data": (
        (('[Field(name="cart_value", dtype=Float64)]',
          '[Field(name="coupon", dtype=String), Field(name="cart_value", dtype=Float64)]'),),
        [
            ("breaking", "share", "needs request data coupon"),
            ("breaking", "carts", "request data coupon has to be sent"),
        ],
    ),
    # Feast compares the fields of two sources of requests as far as the shorter one goes.
    "request data at the end": (
        (('[Field(name="cart_value", dtype=Float64)]',
          '[Field(name="cart_value", dtype=Float64), Field(name="coupon", dtype=String)]'),),
        [("risky", "share", "needs request data coupon, by the files only")],
    ),
    "inputs": (
        (('stats[["spend"]]', 'stats[["spend", "level"]]'),),
        [("risky", "share", "takes stats:level")],
    ),
    "layout": (
        (('tags={"domain": "users"}', 'tags={"domain": "users", "hotfeast.layout": "packed"}'),),
        [("risky", "stats", "has the layout packed in place of feast")],
    ),
    "cache": (
        (('tags={"domain": "users"}', 'tags={"domain": "users", "hotfeast.cache": "5"}'),),
        [("safe", "stats", "may be answered from the cache for 5 s")],
    ),
    "rules": (
        (('tags={"min": "0"}', 'tags={"min": "1", "max": "9"}'),),
        [("risky", "stats:visits", "is held to max=9, min=1")],
    ),
    "words": (
        (('tags={"domain": "users"}', 'tags={"domain": "people"}, owner="a@x", description="d"'),),
        [("safe", "stats", "has another description and owner and tag domain")],
    ),
    "deprecation": (
        (('description="Level"', 'description="Level", tags={"deprecated": "use visits", '
          '"sunset": "2999-01-31"}'),),
        [
            ("safe", "stats:level", "is deprecated (use visits)"),
            ("safe", "stats:level", "is to go on 2999-01-31"),
        ],
    ),
    "personal": (
        ((FACTS, FACTS.replace("source=rows", 'source=rows, tags={"pii": "true"}')),),
        [("safe", "facts", "is marked as personal data")],
    ),
    "push source": (
        (("source=pushed", "source=PushSource(name='other', batch_source=rows)"),),
        [("breaking", "stats", "is pushed to by other in place of pushed")],
    ),
    "no push source": (
        (("source=pushed", "source=rows"),),
        [("risky", "stats",
          "is pushed to by no push source in place of pushed, by the files only")],
    ),
    "batch source": (
        ((FACTS, FACTS.replace("source=rows", "source=FileSource(name='more', "
          "path='more.parquet', timestamp_field='event_timestamp')")),),
        [("risky", "facts", "has another source more")],
    ),
    "time of rows": (
        (('timestamp_field="event_timestamp"', 'timestamp_field="at"'),),
        [
            ("risky", "facts", "has another timestamp_field"),
            ("risky", "stats", "has another timestamp_field"),
            ("safe", "hidden", "has another timestamp_field"),
            ("risky", "labels", "has another timestamp_field, by the files only"),
        ],
    ),
    "service removed": (
        ((SCORING, ""),),
        [("breaking", "scoring", "is removed")],
    ),
    "service takes less": (
        ((SCORING, SCORING.replace('"visits", "spend"', '"spend"')),),
        [("breaking", "scoring", "does not take stats:visits any more")],
    ),
    "service takes more": (
        ((SCORING, SCORING.replace('"spend"]', '"spend", "level"]')),),
        [("safe", "scoring", "takes stats:level")],
    ),
    "order": (
        ((SCORING, SCORING.replace('"visits", "spend"', '"spend", "visits"')),),
        [("risky", "scoring", "has its features in another order")],
    ),
    "alias": (
        (("features=[facts]", 'features=[facts.with_name("home")]'),),
        [("breaking", "places", "calls facts:city home__city in place of facts__city")],
    ),
    "clash": (
        (("features=[facts]", 'features=[facts, facts.with_name("home")]'),),
        [
            ("breaking", "places", "takes two features of one name"),
            ("safe", "places", "takes facts:city"),
        ],
    ),
    "service deprecated": (
        (("features=[facts]", 'features=[facts], tags={"deprecated": "true"}, owner="a@x"'),),
        [
            ("safe", "places", "has another owner and tags"),
            ("safe", "places", "is deprecated"),
        ],
    ),
    "service added": (
        ((SCORING, SCORING + SCORING.replace("scoring", "again")),),
        [("safe", "again", "is new")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_what_is_said_of_an_edit(place: Place, name: str) -> None:
    """And what is predicted is what the registry then has."""
    edits, expected = EDITS[name]
    registry = (place.repo / "registry.db").read_bytes()
    place.write(*edits)
    result = diff(place.repo)
    assert sorted(told(result)) == sorted(expected)
    ranks = [change.severity.rank for change in result.changes]
    assert ranks == sorted(ranks, reverse=True)
    assert (place.repo / "registry.db").read_bytes() == registry
    predicted = place.predicted()
    place.apply()
    assert comparable(predicted) == comparable(place.definitions())
    left = [("risky", s, w) for _, s, w in expected if w.endswith("by the files only")]
    assert told(diff(place.repo)) == left


def comparable(definitions: Definitions) -> dict[str, Any]:
    """All of definitions but the times in them, and Feast's own objects."""
    found = {f.name: getattr(definitions, f.name) for f in fields(definitions)}
    del found["fingerprint"]
    for of in ("views", "versions"):
        found[of] = {
            name: [
                getattr(view, f.name)
                if f.name != "on_demand"
                else getattr(view.on_demand, "feature_transformation", None)
                for f in fields(view)
            ]
            for name, view in found[of].items()
        }
    return found


def fill(place: Place, age: timedelta = timedelta(hours=40)) -> None:
    now = datetime.now(UTC)
    place.store.write_to_online_store(
        "stats",
        pd.DataFrame(
            {
                "user_id": [1], "event_timestamp": [now], "visits": [3], "spend": [4.0],
                "level": [5],
            }
        ),
    )  # fmt: skip
    place.store.write_to_online_store(
        "facts", pd.DataFrame({"user_id": [1], "event_timestamp": [now - age], "city": ["Ulm"]})
    )


@pytest.fixture
def served(place: Place) -> Iterator[Served]:
    fill(place)
    served = serve(place.store, Settings(repo=place.repo, registry_interval=0.1))
    yield served
    stop(served)


def ask(served: Served, *references: str, **keys: Any) -> tuple[Any, Any]:
    """Value and status of the one row of the last feature; a refusal as its code and None."""
    try:
        answer = served.client.get_online_features(
            list(references), keys or {"user_id": [1]}, include_stale_values=True
        )
    except HotfeastError as error:
        return error.code, None
    name = references[-1].split(":")[1]
    return answer.to_dict()[name][0], answer.statuses[name][0]


def changed(place: Place, *edits: tuple[str, str]) -> dict[str, Change]:
    """What is said of an edit, which is then applied."""
    place.write(*edits)
    result = diff(place.repo)
    place.apply()
    return {change.subject: change for change in result.changes}


def test_a_removed_feature_is_not_found(place: Place, served: Served) -> None:
    assert ask(served, "stats:level") == (5, "PRESENT")
    said = changed(place, (LEVEL, LEVEL.replace('"level"', '"grade"')))
    eventually(lambda: ask(served, "stats:level")[0] is grpc.StatusCode.NOT_FOUND)
    assert said["stats:level"].effect == (
        "requests that name it are answered NOT_FOUND; grade is null until rows are written"
    )
    assert ask(served, "stats:grade") == (None, "NULL_VALUE")
    assert said["stats:grade"].effect.startswith("it is null in rows that are stored")
    assert ask(served, "stats:visits") == (3, "PRESENT")


def test_a_type_is_that_of_the_stored_value(place: Place, served: Served) -> None:
    said = changed(place, (LEVEL, LEVEL.replace("Int64", "String")))
    assert said["stats:level"].what == "has the type STRING in place of INT64"
    assert "stored values are answered in the type that they were written in" in (
        said["stats:level"].effect
    )

    def declared() -> bool:
        (view,) = (v for v in served.client.feature_views() if v.name == "stats")
        return bool({f.name: f.value_type for f in view.features}["level"] == 2)

    eventually(declared)
    assert ask(served, "stats:level") == (5, "PRESENT")
    place.store.write_to_online_store(
        "stats",
        pd.DataFrame(
            {
                "user_id": [1], "event_timestamp": [datetime.now(UTC)], "visits": [3],
                "spend": [4.0], "level": ["five"],
            }
        ),
    )  # fmt: skip
    assert ask(served, "stats:level") == ("five", "PRESENT")


def test_a_shorter_ttl_makes_rows_too_old(place: Place, served: Served) -> None:
    assert ask(served, "facts:city") == ("Ulm", "PRESENT")
    said = changed(place, (FACTS, FACTS.replace("days=2", "hours=36")))
    moment = datetime.now(UTC) - timedelta(hours=36)
    assert said["facts"].effect.startswith("rows of before ")
    limit = datetime.strptime(
        said["facts"].effect.removeprefix("rows of before ")[:16], "%Y-%m-%d %H:%M"
    ).replace(tzinfo=UTC)
    assert moment - timedelta(minutes=5) < limit <= moment
    assert limit > moment - timedelta(hours=4), "the row is older than the limit"
    eventually(lambda: ask(served, "facts:city") == ("Ulm", "OUTSIDE_MAX_AGE"))
    assert said["facts"].services == ("places",)
    said = changed(place, (FACTS, FACTS.replace("days=2", "days=3")))
    assert said["facts"].effect == (
        "rows that were OUTSIDE_MAX_AGE, between 36h and 3d, are PRESENT again"
    )
    eventually(lambda: ask(served, "facts:city") == ("Ulm", "PRESENT"))


def test_another_join_key_loses_the_rows(place: Place, served: Served) -> None:
    said = changed(place, ('join_keys=["user_id"]', 'join_keys=["household_id"]'))
    assert "NOT_FOUND until they are written" in said["facts"].effect
    eventually(lambda: ask(served, "facts:city") == (grpc.StatusCode.INVALID_ARGUMENT, None))
    assert ask(served, "facts:city", household_id=[1]) == (None, "NOT_FOUND")


def test_a_renamed_view_is_empty(place: Place, served: Served) -> None:
    said = changed(place, (FACTS, FACTS.replace('"facts"', '"truths"')))
    assert "truths has none until it is filled" in said["facts"].effect
    eventually(lambda: ask(served, "facts:city") == (grpc.StatusCode.NOT_FOUND, None))
    assert ask(served, "truths:city") == (None, "NOT_FOUND")


def test_request_data_that_is_new_is_asked_for(place: Place, served: Served) -> None:
    def ask_carts(**context: Any) -> Any:
        try:
            answer = served.client.get_online_features(
                "carts", {"user_id": [1]}, request_context=context
            )
        except HotfeastError as error:
            return error.code
        return answer.to_dict()["cart_share"]

    assert ask_carts(cart_value=[2.0]) == [0.5]
    edits, _ = EDITS["request data"]
    said = changed(place, *edits)
    assert said["carts"].effect == "requests without it are refused"
    eventually(lambda: ask_carts(cart_value=[2.0]) is grpc.StatusCode.INVALID_ARGUMENT)
    assert ask_carts(cart_value=[2.0], coupon=["x"]) == [0.5]
    place.write()
    back = {change.subject: change for change in diff(place.repo).changes}
    assert back["carts"].effect == "requests that send it are refused"
    place.apply()
    eventually(lambda: ask_carts(cart_value=[2.0]) == [0.5])
    assert ask_carts(cart_value=[2.0], coupon=["x"]) is grpc.StatusCode.INVALID_ARGUMENT


def test_versions_that_are_kept_apart(redis_server: LocalRedis, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    place = make_place(
        repo,
        redis_server.address,
        f"  path: {repo / 'registry.db'}\n  enable_online_feature_view_versioning: true",
    )
    fill(place)
    served = serve(place.store, Settings(repo=repo, registry_interval=0.1))
    try:
        assert ask(served, "stats:visits") == (3, "PRESENT")
        # Another description of a field is another version.
        place.write(('description="Level"', 'description="The level"'))
        predicted = place.predicted()
        said = {change.what: change for change in diff(repo).changes}
        place.apply()
        assert comparable(predicted) == comparable(place.definitions())
        change = said["becomes version 1 and was 0"]
        assert change.severity == "breaking"
        eventually(lambda: ask(served, "stats:visits") == (None, "NOT_FOUND"))
        assert ask(served, "stats@v0:visits") == (3, "PRESENT")
    finally:
        stop(served)


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    """A folder of a gateway that was asked for `scoring` and, by lists, for the city and the share;
    all rows are ten days old."""
    folder = tmp_path / "seen"
    collector = Collector(folder, every=10)
    now = time.time()
    old = pa.array([int((now - 10 * 86400) * 1e6)] * 7).to_numpy()

    def column(view: str, feature: str) -> FeatureColumn:
        return FeatureColumn(view, feature, pa.array([1.0] * 7), None, old)

    for columns, service, caller in (
        ((column("stats", "visits"), column("stats", "spend")), "scoring", "web"),
        ((column("facts", "city"),), None, "batch"),
        ((column("share", "cart_share"),), "carts", "app"),
    ):
        collector.observe(Observation(Channel.served, now, columns, service, caller))
    collector.write()
    return folder


def test_who_reads_what_is_removed(place: Place, seen: Path) -> None:
    place.write(
        ('        Field(name="spend", dtype=Float64, description="Spend"),\n', ""),
        (LEVEL, ""),
        ('[["visits", "spend"]]', '[["visits"]]'),
        ('stats[["spend"]]', 'stats[["visits"]]'),
        ('inputs["spend"]', 'inputs["visits"]'),
        (FACTS, FACTS.replace("days=2", "days=9")),
    )
    result = diff(place.repo, seen)
    changes = {(c.subject, c.what): c for c in result.changes}
    spend = changes["stats:spend", "is removed"]
    assert spend.severity == "breaking"
    assert spend.services == ("carts", "scoring")
    assert spend.read_by is not None
    assert [(by.caller, by.service, by.rows) for by in spend.read_by] == [
        ("web", "scoring", 7),
        ("app", "carts", 7),
    ]
    level = changes["stats:level", "is removed"]
    assert (level.severity, level.read_by) == ("risky", ())
    facts = changes["facts", "has a TTL of 9d in place of 2d"]
    assert [(by.caller, by.service) for by in facts.read_by or ()] == [("batch", "")]
    fewer = changes["scoring", "does not take stats:spend any more"]
    assert [by.caller for by in fewer.read_by or ()] == ["web"]
    assert "one in 10 requests" in result.traffic


def test_a_gateway_says_who_reads(place: Place, tmp_path: Path) -> None:
    fill(place)
    folder = tmp_path / "monitored"
    monitor = MonitorSettings(folder, 1, 300, None, None)
    served = serve(place.store, Settings(repo=place.repo, monitor=monitor))
    try:
        for _ in range(3):
            served.client.get_online_features("scoring", {"user_id": [1, 2]})
        ask(served, "facts:city")
    finally:
        stop(served)
    place.write((LEVEL, ""), (SCORING, SCORING.replace('"visits", "spend"', '"spend"')))
    changes = {change.subject: change for change in diff(place.repo, folder).changes}
    (by,) = changes["scoring"].read_by or ()
    assert (by.service, by.rows) == ("scoring", 6)
    assert by.caller.startswith("grpc-python")
    assert changes["stats:level"].severity == "risky"
    unread = {
        finding.subject
        for finding in lint(place.repo, monitor_dir=folder).findings
        if finding.rule == "feature-unread"
    }
    assert unread == {"share:cart_share", "labels:label", "labels:labeler"}


def test_a_ttl_that_all_rows_are_past(place: Place, seen: Path) -> None:
    place.write((FACTS, FACTS.replace("days=2", "days=20")))
    place.apply()
    place.write((FACTS, FACTS.replace("days=2", "days=11")))
    (change,) = diff(place.repo, seen).changes
    assert change.severity == "risky"
    assert "the newest row that was seen is of" in change.effect
    place.write((FACTS, FACTS.replace("days=2", "days=9")))
    (change,) = diff(place.repo, seen).changes
    assert change.severity == "breaking"


def test_the_command(place: Place, seen: Path, tmp_path: Path) -> None:
    def run(*options: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["diff", "--repo", str(place.repo), *options])
        return done.exit_code, done.stdout, done.stderr

    code, out, _ = run("--fail-on", "safe")
    assert code == 0
    assert "changes nothing that is served" in out
    place.write((FACTS, FACTS.replace("days=2", "days=3")))
    assert run()[0] == 0
    code, out, _ = run("--fail-on", "risky", "--monitor-dir", str(seen))
    assert code == 1
    assert "batch" in out
    assert "1 risky" in out
    place.write((LEVEL, ""))
    code, out, _ = run("--json", "--monitor-dir", str(seen))
    assert code == 0, "nobody reads it"
    code, out, _ = run("--json")
    assert code == 1
    (change,) = json.loads(out)["changes"]
    assert (change["severity"], change["name"], change["field"]) == ("breaking", "stats", "level")
    assert change["read_by"] is None
    (place.repo / "definitions.py").write_text("import nothing_of_this_name")
    assert run()[0] == 2
    assert run("--monitor-dir", str(tmp_path / "none"))[0] == 2
    (place.repo / "registry.db").unlink()
    code, _, err = run()
    assert code == 2
    assert "there is no registry file" in err


def test_a_registry_in_a_database(redis_server: LocalRedis, tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    place = make_place(
        tmp_path / "repo",
        redis_server.address,
        f"  registry_type: sql\n  path: sqlite:///{path}",
    )
    assert told(diff(place.repo)) == []
    place.write((LEVEL, ""))
    assert told(diff(place.repo)) == [("breaking", "stats:level", "is removed")]
    predicted = place.predicted()
    place.apply()
    assert comparable(predicted) == comparable(place.definitions())


def test_what_would_not_be_applied(place: Place) -> None:
    place.write((SCORING, SCORING.replace('"spend"]', '"spend", "none"]')))
    with pytest.raises(StartFailure, match=r"cannot be imported|would not apply"):
        diff(place.repo)
