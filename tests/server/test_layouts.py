"""Layouts as an operator meets them: chosen, written, read by gateway and Feast, and changed."""

import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import trustme
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64, String
from processes import eventually, run_cli
from rich.console import Console
from served import Served, serve, stop
from tls import TlsFront
from typer.testing import CliRunner

from hotfeast.clients import HotfeastError
from hotfeast.hotpath.packed import layout_of
from hotfeast.server.cli import app
from hotfeast.server.errors import RequestFailure, StartFailure
from hotfeast.server.gateway import Gateway, Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.materialize import materialize
from hotfeast.server.repack import repack
from hotfeast.server.repack_report import print_summary

NOW = datetime.now(UTC).replace(microsecond=0)
SECOND = timedelta(seconds=1)
FIELDS = {"visits": Int64, "city": String, "score": Float64}

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)


class Repository:
    """A repository whose `stats` has the given features, and `tagged` the tag of a layout."""

    def __init__(self, folder: Path, redis_server: LocalRedis, layout: str | None) -> None:
        self.folder = folder
        self.redis: Any = redis_server.client()
        # Tests share a Redis.
        self.project = "layouts_" + folder.name.replace("-", "_")
        self.source = FileSource(
            name="file", path=str(folder / "stats.parquet"), timestamp_field="event_timestamp"
        )
        self.rows({1: NOW - 60 * SECOND}, 0).to_parquet(folder / "stats.parquet")
        (folder / "feature_store.yaml").write_text(
            f"""project: {self.project}
registry: {folder / "registry.db"}
provider: local
online_store:
  type: redis
  connection_string: {redis_server.address}
offline_store:
  type: file
entity_key_serialization_version: 3
"""
            + (f"hotfeast:\n  layout: {layout}\n" if layout else "")
        )
        self.store = FeatureStore(repo_path=str(folder))
        self.apply()

    def apply(self, *features: str, tag: str = "dual") -> None:
        """Applies the views; `stats` with visits and city unless told otherwise."""
        views = [
            FeatureView(
                name=name,
                entities=[user],
                ttl=timedelta(days=1),
                schema=[
                    Field(name="user_id", dtype=Int64),
                    *(Field(name=f, dtype=FIELDS[f]) for f in features or ("visits", "city")),
                ],
                source=self.source,
                tags={"hotfeast.layout": tag} if name == "tagged" else {},
            )
            for name in ("stats", "tagged")
        ]
        services = [FeatureService(name=f"{view.name}_service", features=[view]) for view in views]
        self.store.apply([user, *views, *services])

    def rows(self, times: dict[int, datetime], visits: int) -> pd.DataFrame:
        """A row for each user: its visits are `visits` plus the user's id."""
        return pd.DataFrame(
            {
                "user_id": list(times),
                "event_timestamp": list(times.values()),
                "visits": [visits + user for user in times],
                "city": [f"city {visits}"] * len(times),
            }
        )

    def key(self, user_id: int) -> bytes:
        """The Redis key of a user."""
        entity = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=user_id)])
        return bytes(serialize_entity_key(entity, 3)) + self.project.encode()

    def stored(self, view: str, user_id: int = 1) -> str:
        """The layout of a row, told by its time and by what is there."""
        fields = self.redis.hgetall(self.key(user_id))
        layout = layout_of(fields[f"_ts:{view}".encode()])
        assert (_mmh3(f"{view}:visits") in fields) == (layout != "packed")
        assert (_mmh3(f"{view}:\0row") in fields) == (layout != "feast")
        return layout

    @contextmanager
    def gateway(self, **options: Any) -> Iterator[Served]:
        """A gateway that looks at the registry ten times a second."""
        options = {"registry_interval": 0.1, **options}
        served = serve(self.store, Settings(repo=self.folder, **options))
        try:
            yield served
        finally:
            stop(served)


@pytest.fixture
def packed(tmp_path: Path, redis_server: LocalRedis) -> Repository:
    """A repository whose feature_store.yaml says `packed`."""
    return Repository(tmp_path, redis_server, "packed")


def push(served: Served, view: str, visits: int, age: int, user_id: int = 1) -> list[str]:
    """Pushes one row. Returns its outcome in a list."""
    columns = {
        "user_id": [user_id],
        "event_timestamp": [NOW - age * SECOND],
        "visits": [visits],
        "city": [f"city {visits}"],
    }
    return list(served.client.push(columns, feature_view=view).outcomes)


def ask(served: Served, *features: str, view: str = "stats") -> list[Any]:
    """Values and statuses of user 1, value by value."""
    references = [f"{view}:{feature}" for feature in features or ("visits", "city")]
    answer = served.client.get_online_features(references, {"user_id": [1]})
    values = answer.to_dict()
    return [(values[name][0], answer.statuses[name][0]) for name in features or ("visits", "city")]


def feast_asks(store: FeatureStore, *features: str) -> list[Any]:
    """Values of user 1 by Feast's SDK."""
    references = [f"stats:{feature}" for feature in features]
    found = store.get_online_features(references, [{"user_id": 1}]).to_dict()
    return [found[feature][0] for feature in features]


def present(visits: int) -> list[Any]:
    return [(visits, "PRESENT"), (f"city {visits}", "PRESENT")]


# ---------------------------------------------------------------- which layout


def test_tag_then_option_then_feature_store_yaml(packed: Repository) -> None:
    with packed.gateway() as served:
        for view, layout in (("stats", "packed"), ("tagged", "dual")):
            assert push(served, view, 1, 9) == ["written"]
            assert packed.stored(view) == layout
            assert ask(served, view=view) == present(1)
    with packed.gateway(layout="feast") as served:
        for view, layout in (("stats", "feast"), ("tagged", "dual")):
            assert ask(served, view=view) == present(1)
            assert push(served, view, 2, 8) == ["written"]
            assert packed.stored(view) == layout
            assert ask(served, view=view) == present(2)


def test_feasts_layout_unless_told(tmp_path: Path, redis_server: LocalRedis) -> None:
    repository = Repository(tmp_path, redis_server, None)
    with repository.gateway() as served:
        assert push(served, "stats", 1, 9) == ["written"]
    assert repository.stored("stats") == "feast"


def test_layouts_that_there_are_not(tmp_path: Path, redis_server: LocalRedis) -> None:
    repository = Repository(tmp_path, redis_server, "flat")
    told = "feature_store.yaml is 'flat'; use one of feast, dual, packed"
    with pytest.raises(StartFailure, match=told):
        Gateway(Settings(repo=tmp_path, port=0))
    with pytest.raises(StartFailure, match=told):
        repack(tmp_path, "packed")
    for command in (["serve", "--repo", str(tmp_path), "--layout", "flat"],
                    ["repack", "--repo", str(tmp_path), "--to", "flat"]):  # fmt: skip
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2
        assert "flat" in result.output
        assert all(layout in result.output for layout in ("feast", "dual", "packed"))
    # An option takes the place of feature_store.yaml's; of a tag nothing does.
    repository.apply(tag="round")
    told = "tag hotfeast.layout='round' names no layout; use one of feast, dual, packed"
    with repository.gateway(layout="packed") as served:
        assert push(served, "stats", 1, 9) == ["written"]
        with pytest.raises(HotfeastError, match=f"FAILED_PRECONDITION.*{told}"):
            ask(served, view="tagged")
        with pytest.raises(HotfeastError, match=f"FAILED_PRECONDITION.*{told}"):
            push(served, "tagged", 1, 9)


# ---------------------------------------------------------------- with Feast


def test_feast_writes_beside_packed_rows(packed: Repository) -> None:
    with packed.gateway() as served:
        assert push(served, "stats", 1, 9) == ["written"]
        packed.store.write_to_online_store("stats", packed.rows({1: NOW - 20 * SECOND}, 50))
        assert ask(served) == present(1)
        packed.store.write_to_online_store("stats", packed.rows({1: NOW - 5 * SECOND}, 60))
        assert ask(served) == [(61, "PRESENT"), ("city 60", "PRESENT")]
        assert push(served, "stats", 3, 7) == ["stale"]
        assert push(served, "stats", 4, 5) == ["written"]
        assert ask(served) == present(4)


def test_materialized_packed_and_back_to_feast(packed: Repository) -> None:
    summary = materialize(packed.store, NOW - 3600 * SECOND, NOW)
    assert summary.exit_code == 0
    assert packed.stored("stats") == "packed"
    row = [(1, "PRESENT"), ("city 0", "PRESENT")]
    with packed.gateway() as served:
        assert ask(served) == row
        # What README says of it: to Feast's SDK such a row is null.
        assert feast_asks(packed.store, "visits", "city") == [None, None]
        for layout, feasts in (("dual", [1, "city 0"]), ("packed", [None] * 2),
                               ("feast", [1, "city 0"])):  # fmt: skip
            result = repack(packed.folder, layout)
            assert result.exit_code == 0
            assert [view.rows for view in result.views] == [1, 1]
            assert packed.stored("stats") == packed.stored("tagged") == layout
            assert ask(served) == ask(served, view="tagged") == row
            assert feast_asks(packed.store, "visits", "city") == feasts
        assert result.written_otherwise == {"stats": "packed", "tagged": "dual"}


def test_features_added_and_dropped(packed: Repository) -> None:
    """Packed rows of an earlier definition: what they have is served, what is new is null."""
    with packed.gateway() as served:
        push(served, "stats", 1, 9)
        packed.apply("score", "visits")
        eventually(lambda: served.gateway.registry.book.definitions.views["stats"].feature("score"))
        row = [(None, "NULL_VALUE"), (1, "PRESENT")]
        assert ask(served, "score", "visits") == row
        for layout, feasts in (("packed", None), ("dual", 1), ("feast", 1)):
            assert repack(packed.folder, layout, ["stats"]).exit_code == 0
            assert packed.stored("stats") == layout
            assert ask(served, "score", "visits") == row
            assert feast_asks(packed.store, "score", "visits") == [None, feasts]
        columns = {"user_id": [1], "event_timestamp": [NOW], "visits": [2], "score": [0.5]}
        assert served.client.push(columns, feature_view="stats").outcomes == ["written"]
        assert ask(served, "score", "visits") == [(0.5, "PRESENT"), (2, "PRESENT")]
        packed.apply("visits")
        eventually(
            lambda: not served.gateway.registry.book.definitions.views["stats"].feature("score")
        )
        assert packed.stored("stats") == "packed"
        assert ask(served, "visits") == [(2, "PRESENT")]


def test_tls_with_a_second_command(
    packed: Repository, redis_server: LocalRedis, authority: tuple[trustme.CA, Path]
) -> None:
    """Rows that are not in the layout that is looked for first."""
    ca, path = authority
    with closing(TlsFront(redis_server.port, ca.issue_cert("127.0.0.1"))) as front:
        url = f"rediss://127.0.0.1:{front.port}?ssl_ca_certs={path}"
        with packed.gateway(redis_url=url) as served:
            packed.store.write_to_online_store("stats", packed.rows({1: NOW - 9 * SECOND}, 0))
            assert packed.stored("stats") == "feast"
            assert ask(served) == [(1, "PRESENT"), ("city 0", "PRESENT")]
            assert push(served, "stats", 2, 8) == ["written"]
        with packed.gateway(redis_url=url, layout="feast") as served:
            assert packed.stored("stats") == "packed"
            assert ask(served) == present(2)
        assert repack(packed.folder, "feast", redis_url=url).views[0].converted == 1
        assert packed.stored("stats") == "feast"


# ---------------------------------------------------------------- the tool


def test_views_that_cannot_be_converted(packed: Repository) -> None:
    with pytest.raises(RequestFailure, match="no feature view 'stat'; did you mean 'stats'"):
        repack(packed.folder, "packed", ["stat"])
    packed.apply(tag="round")
    with pytest.raises(RequestFailure, match="names no layout"):
        repack(packed.folder, "packed")


def test_command_is_interrupted_and_goes_on(packed: Repository) -> None:
    users = dict.fromkeys(range(400), NOW - SECOND)
    packed.store.write_to_online_store("stats", packed.rows(users, 0))
    options = ("--repo", str(packed.folder), "--to", "packed", "--batch", "10")
    first = subprocess.Popen(
        [sys.executable, "-m", "hotfeast.server", "repack", *options, "--rate", "100"],
        stdout=subprocess.PIPE,
        text=True,
    )
    place = f"hotfeast:repack:{packed.project}"
    eventually(lambda: packed.redis.exists(place) or first.poll() is not None)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=30)
    assert first.returncode == 130, output
    assert "Layout packed (interrupted)" in output
    assert "run it again to go on" in output
    assert packed.redis.exists(place)
    second = run_cli("repack", *options)
    assert second.returncode == 0, second.stderr
    assert "those of the interrupted run before it included" in second.stdout
    [line] = [line for line in second.stdout.splitlines() if line.startswith("stats ")]
    assert line.split()[1] == "400"
    assert "tagged: by its tag or feature_store.yaml it is written as 'dual'" in second.stdout
    assert packed.stored("stats", 399) == "packed"
    packed.redis.hset(packed.key(7), _mmh3("stats:\0row"), b"\x01")
    text = io.StringIO()
    print_summary(Console(file=text, width=140), repack(packed.folder, "packed"))
    assert "stats: 1 rows left as they are; the first:" in text.getvalue()
    assert "its row cannot be read (user_id=7)" in text.getvalue()
