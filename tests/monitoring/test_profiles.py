"""Profiles: from Feast's joins to files and back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String
from typer.testing import CliRunner, Result

from hotfeast.server.cli import app
from hotfeast.server.errors import StartFailure
from hotfeast.server.monitoring.drift import compare_all
from hotfeast.server.monitoring.observed import FeatureColumn
from hotfeast.server.monitoring.profile_build import (
    ProfileBuilder,
    profile_store,
    read_entities,
)
from hotfeast.server.monitoring.profiles import (
    Profile,
    ProfileError,
    ProfileStore,
    new_profile,
)
from hotfeast.server.monitoring.statistics import FeatureStatistics

_FIRST = datetime(2026, 1, 1, tzinfo=UTC)
_USERS = 300


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Two rows of each user, a day apart; of every tenth the second has nulls."""
    generator = np.random.default_rng(1)
    frames = []
    for day in range(2):
        frame = pd.DataFrame(
            {
                "uid": np.arange(_USERS),
                "at": _FIRST + timedelta(days=day),
                "spend": generator.normal(10 * (day + 1), 1, _USERS),
                "town": generator.choice(["Ulm", "Bonn"], _USERS),
            }
        )
        if day:
            frame.loc[::10, ["spend", "town"]] = None
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, rows: pd.DataFrame) -> FeatureStore:
    """A repository with one view, whose source has other names, and services on it."""
    folder = tmp_path_factory.mktemp("profiled")
    rows.to_parquet(folder / "users.parquet")
    (folder / "feature_store.yaml").write_text(
        "project: profiled\nregistry: data/registry.db\nprovider: local\n"
        "online_store:\n  type: redis\n  connection_string: 127.0.0.1:1\n"
        "offline_store:\n  type: file\nentity_key_serialization_version: 3\n"
    )
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    users = FeatureView(
        name="users",
        entities=[user],
        ttl=timedelta(days=10),
        schema=[
            Field(name="user_id", dtype=Int64),
            Field(name="spend", dtype=Float64),
            Field(name="city", dtype=String),
        ],
        source=FileSource(
            name="rows",
            path=str(folder / "users.parquet"),
            timestamp_field="at",
            field_mapping={"uid": "user_id", "town": "city"},
        ),
    )
    pairs = FeatureService(
        name="pairs",
        features=[
            users[["spend"]].with_name("buyer").with_join_key_map({"user_id": "buyer_id"}),
            users[["spend"]].with_name("seller").with_join_key_map({"user_id": "seller_id"}),
        ],
    )
    made = FeatureStore(repo_path=str(folder))
    made.apply([user, users, FeatureService(name="people", features=[users]), pairs])
    return made


def test_a_training_set_gives_its_own_statistics(store: FeatureStore, rows: pd.DataFrame) -> None:
    # User 3 three times, one that nobody knows, and one before its first row.
    entities = pd.DataFrame(
        {
            "user_id": [3, 3, 3, 10, 10, 999, 5],
            "event_timestamp": pd.to_datetime(
                [_FIRST + timedelta(days=day) for day in (0.5, 0.5, 1.5, 0.5, 1.5, 1, -1)]
            ),
            "label": range(7),
        }
    )
    profile = ProfileBuilder(store).of_entities("people", entities, "a test")
    spend = profile.features["users", "spend"]
    first, second = (rows[rows.uid.eq(3)].spend.iloc[day] for day in range(2))
    other = rows[rows.uid.eq(10)].spend.iloc[0]
    assert (spend.rows, spend.present) == (7, 4)
    assert spend.mean == pytest.approx(np.mean([first, first, second, other]))
    assert profile.features["users", "city"].present == 4
    assert (profile.service, profile.source, profile.rows) == ("people", "a test", 7)
    assert profile.references() == {("users", "spend"): (spend.mean, spend.std)}


def test_an_alias_counts_for_its_view(store: FeatureStore, rows: pd.DataFrame) -> None:
    entities = pd.DataFrame(
        {"buyer_id": [1, 2], "seller_id": [3, 1], "event_timestamp": [_FIRST, _FIRST]}
    )
    profile = ProfileBuilder(store).of_entities("pairs", entities, "a test")
    assert list(profile.features) == [("users", "spend")]
    spend = profile.features["users", "spend"]
    day = rows[rows["at"].eq(_FIRST)].set_index("uid").spend
    assert spend.mean == pytest.approx(day[[1, 2, 3, 1]].mean())


def test_drawn_rows_are_rows_of_the_source(store: FeatureStore, rows: pd.DataFrame) -> None:
    builder = ProfileBuilder(store)
    profile, left_out = builder.of_samples("people", 10_000, 7, None, None)
    spend = profile.features["users", "spend"]
    assert left_out == []
    assert (spend.rows, spend.null) == (2 * _USERS, _USERS // 10)
    assert spend.mean == pytest.approx(rows.spend.mean())
    top = {value.value: value.count for value in profile.features["users", "city"].top()}
    assert top == rows.town.value_counts().to_dict()
    second = _FIRST + timedelta(days=1)
    later, _ = builder.of_samples("people", 50, 7, second, second)
    assert later.rows == 50
    assert later.features["users", "spend"].mean == pytest.approx(20, abs=1)
    with pytest.raises(StartFailure, match="'users' has no rows at these times"):
        builder.of_samples("people", 50, 7, _FIRST - timedelta(9), _FIRST - timedelta(8))


def test_what_cannot_be_built_is_told(store: FeatureStore, tmp_path: Path) -> None:
    builder = ProfileBuilder(store)
    frame = pd.DataFrame({"event_timestamp": [_FIRST]})
    with pytest.raises(StartFailure, match="no feature service 'peple'; did you mean 'people'"):
        builder.of_entities("peple", frame, "")
    with pytest.raises(StartFailure, match="no column 'user_id', which 'users' needs"):
        builder.of_entities("people", frame, "")
    with pytest.raises(StartFailure, match="cannot be read as Parquet or CSV"):
        read_entities(tmp_path / "nothing.parquet")
    for text, words in (
        ("user_id\n1\n", "has no column event_timestamp"),
        ("event_timestamp\nyesterday\n", "has what is no time"),
        ("event_timestamp\n", "has no rows"),
    ):
        (tmp_path / "rows.csv").write_text(text)
        with pytest.raises(StartFailure, match=words):
            read_entities(tmp_path / "rows.csv")


def _profile(service: str = "service") -> Profile:
    statistics = FeatureStatistics()
    statistics.update(FeatureColumn("v", "f", pa.array(np.arange(200.0))))
    return new_profile(service, "a test", {("v", "f"): statistics})


def test_versions_count_up_and_stay(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "profiles")
    assert store.services() == []
    saved = [store.save(_profile()) for _ in range(3)]
    assert [profile.version for profile in saved] == store.versions("service") == [1, 2, 3]
    store.save(_profile("a/b"))
    assert store.services() == ["a_b", "service"]
    latest, first = store.load("service"), store.load("service", 1)
    assert (latest.version, first.version) == (3, 1)
    assert latest.made_at == saved[2].made_at
    assert latest.features["v", "f"].summary() == saved[2].features["v", "f"].summary()
    (result,) = compare_all(first.features, latest.features)
    assert (result.statistic, result.drifted) == (0.0, False)
    # Nothing half-written is left.
    assert sorted(path.name for path in (tmp_path / "profiles" / "service").iterdir()) == [
        "1.hfp",
        "2.hfp",
        "3.hfp",
    ]


def test_what_is_not_there_or_not_ours_is_told(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    with pytest.raises(ProfileError, match=r"no profile of 'service' .* hotfeast profile build"):
        store.load("service")
    store.save(_profile())
    with pytest.raises(ProfileError, match=r"no version 4 .* there are 1"):
        store.load("service", 4)
    path = tmp_path / "service" / "1.hfp"
    data = path.read_bytes()
    for content, words in (
        (b"", "this is no profile"),
        (b"PAR1" * 20, "this is no profile"),
        (data[:16] + b"\x07" + data[17:], "its format is 7, and this version of Hotfeast reads 1"),
        (data[:-1], "it is damaged"),
        (data[:60], "it is damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(ProfileError, match=words):
            store.load("service")


def test_profiles_are_beside_the_registry(store: FeatureStore, tmp_path: Path) -> None:
    folder = Path(store.repo_path) / "data" / "registry.db.profiles"
    assert profile_store(store).folder == folder
    assert profile_store(store, tmp_path).folder == tmp_path


def test_the_command_line(store: FeatureStore, tmp_path: Path, rows: pd.DataFrame) -> None:
    entities = tmp_path / "training.csv"
    times = [_FIRST.isoformat()] * 2
    pd.DataFrame({"user_id": [1, 2], "event_timestamp": times}).to_csv(entities, index=False)

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, ["profile", *words])

    where = ["--repo", str(store.repo_path), "--profiles", str(tmp_path / "kept")]
    built = run("build", "people", *where, "--entities", str(entities))
    assert built.exit_code == 0, built.stderr
    assert built.stdout.startswith("profile 1 of people: 2 features of 2 rows of training.csv")
    listed = run("list", *where)
    assert listed.exit_code == 0, listed.stderr
    assert "people" in listed.stdout
    shown = run("show", "people", *where)
    assert shown.exit_code == 0, shown.stderr
    assert f"{rows.spend.iloc[[1, 2]].mean():.4g}" in shown.stdout
    missing = run("show", "nobody", *where)
    assert missing.exit_code == 2
    assert missing.stderr.startswith("hotfeast: there is no profile of 'nobody'")
