"""On-demand views of every mode give what Feast's SDK gives, for generated requests.

The SDK is asked in such a way that it computes what its own documentation says. A row in which all
columns have values is added to each request and taken off its answer, since Feast leaves a column
that is null throughout without a type, and arithmetic on it fails. Singleton functions are asked
row by row, since Feast runs them for the first row only. Views of two sources with a feature of one
name are asked with full names, since Feast takes one source's feature for the other's without.
Python mode is asked without full names, since Feast then leaves its features out.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import on_demand_repo as repo
import pytest
from feast import FeatureStore
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from parity_coverage import SEED, count
from served import Served, serving

from hotfeast.server.local_redis import LocalRedis

Row = dict[str, Any]

REQUEST_DATA = {
    "in_pandas": ("amount", "count", "code"),
    "over_two_views": ("asked_at",),
    "in_python": ("amount", "count", "code"),
    "in_python_singleton": ("amount", "count", "code"),
    "without_a_view": ("amount", "count", "code"),
    "with_input_schema": ("limit",),
}
FILLER: Row = {
    **repo.FILLER,
    "amount": 1.5,
    "count": 2,
    "code": "c",
    "asked_at": datetime(2024, 2, 29, 23, tzinfo=UTC),
    "limit": 0.0,
}
FEATURES = {view.name: tuple(f.name for f in view.features) for view in repo.computed}
SETS = {"py_numbers", "py_words"}
STALE_USER = 4
MISSING_USER = 5


@dataclass(frozen=True)
class Asked:
    """A request for features of one or more on-demand views."""

    views: tuple[tuple[str, tuple[str, ...]], ...]
    service: str | None
    rows: tuple[Row, ...]
    full: bool
    among_entities: tuple[str, ...]

    @property
    def keys(self) -> list[str]:
        """The join keys that it needs."""
        names = [name for name, _ in self.views]
        keys = ["user_id"] if set(names) != {"without_a_view"} else []
        return keys + (["shop_id"] if "over_two_views" in names else [])

    @property
    def data(self) -> list[str]:
        """The request data that it needs."""
        needed = [field for name, _ in self.views for field in REQUEST_DATA[name]]
        return list(dict.fromkeys(needed))


SERVICES = {
    "renamed": (("in_pandas", FEATURES["in_pandas"]),),
    "parts": (("in_python", ("py_city",)), ("in_pandas", ("label",))),
}
ALIASES = {("renamed", "in_pandas"): "other", ("parts", "in_python"): "spoken"}

rows = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(repo.USERS),
        "shop_id": st.sampled_from(repo.SHOPS),
        "amount": st.none() | st.floats(allow_nan=False, width=32) | st.just(0.0),
        "count": st.none() | st.integers(-(2**40), 2**40),
        "code": st.none() | st.text(max_size=3),
        "asked_at": st.none()
        | st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)).map(
            lambda t: t.replace(microsecond=0, tzinfo=UTC)
        ),
        "limit": st.none() | st.floats(allow_nan=False),
    }
)


@st.composite
def requests(draw: st.DrawFn) -> Asked:
    """Any features of any views, or a service."""
    service = draw(st.none() | st.sampled_from(sorted(SERVICES)))
    if service is None:
        names = draw(
            st.lists(st.sampled_from(sorted(FEATURES)), min_size=1, max_size=3, unique=True)
        )
        views = tuple(
            (
                name,
                tuple(draw(st.lists(st.sampled_from(FEATURES[name]), min_size=1, unique=True))),
            )
            for name in names
        )
    else:
        views = SERVICES[service]
    asked = Asked(
        views, service, tuple(draw(st.lists(rows, min_size=1, max_size=4))), draw(st.booleans()), ()
    )
    moved = draw(st.lists(st.sampled_from(asked.data), unique=True))
    return Asked(asked.views, service, asked.rows, asked.full, tuple(moved))


@pytest.fixture(scope="module")
def store(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """The repository, applied and filled."""
    folder = tmp_path_factory.mktemp("on_demand")
    (folder / "feature_store.yaml").write_text(
        json.dumps(
            {
                "project": "on_demand",
                "provider": "local",
                "registry": str(folder / "registry.db"),
                "online_store": {
                    "type": "redis",
                    "connection_string": f"{redis_server.address},db=6",
                },
                "offline_store": {"type": "file"},
                "entity_key_serialization_version": 3,
            }
        )
    )
    made = FeatureStore(repo_path=str(folder))
    made.apply([repo.user, repo.shop, *repo.views, *repo.computed, *repo.services()])
    repo.fill(made)
    return made


@pytest.fixture(scope="module")
def strict(store: FeatureStore) -> Iterator[Served]:
    with serving(store) as served:
        yield served


@pytest.fixture(scope="module")
def lenient(store: FeatureStore) -> Iterator[Served]:
    with serving(store, "feast") as served:
        yield served


def feasts_values(store: FeatureStore, asked: Asked, sent: Sequence[Row]) -> dict[str, list[Any]]:
    """What Feast's SDK computes, by the names that the answer should have."""
    values: dict[str, list[Any]] = {}
    for name, features in asked.views:
        full = name == "over_two_views" or (asked.full and not name.startswith("in_python"))
        references = [f"{name}:{feature}" for feature in features]
        columns = [*Asked(((name, features),), None, (), False, ()).keys, *REQUEST_DATA[name]]
        if name == "in_python_singleton":
            batches: list[list[Row]] = [[row] for row in sent]
        else:
            batches = [[*sent, FILLER]]
        alias = ALIASES.get((asked.service or "", name), name)
        for batch in batches:
            answer = store.get_online_features(
                references,
                [{column: row[column] for column in columns} for row in batch],
                full_feature_names=full,
            ).to_dict()
            for feature in features:
                column = answer[f"{name}__{feature}" if full else feature]
                shown = f"{alias}__{feature}" if asked.full else feature
                values.setdefault(shown, []).extend(column[: len(sent)])
    return values


def ask(served: Served, asked: Asked) -> Any:
    """The gateway's answer."""
    columns = {name: [row[name] for row in asked.rows] for name in [*asked.keys, *asked.data]}
    entities = {n: c for n, c in columns.items() if n in asked.keys or n in asked.among_entities}
    return served.client.get_online_features(
        asked.service or [f"{name}:{f}" for name, features in asked.views for f in features],
        entities,
        request_context={n: c for n, c in columns.items() if n not in entities},
        full_feature_names=asked.full,
    )


def shown(answer: Any, names: Iterable[str]) -> dict[str, list[Any]]:
    """Columns of an answer as Feast's SDK shows them: sets as sets, which came as lists."""
    columns = {name: column for name, column in answer.to_dict().items() if name in names}
    for name, column in columns.items():
        if name.rpartition("__")[2] in SETS:
            assert all(len(set(value)) == len(value) for value in column if value is not None)
            columns[name] = [None if value is None else set(value) for value in column]
    return columns


@seed(SEED)
@settings(settings.get_profile("parity"), max_examples=120)
@given(asked=requests())
def test_every_mode_gives_what_the_sdk_gives(
    store: FeatureStore, lenient: Served, strict: Served, asked: Asked
) -> None:
    expected = feasts_values(store, asked, asked.rows)
    answer = ask(lenient, asked)
    assert shown(answer, expected) == expected
    stored = {"people__visits" if asked.full else "visits"} if asked.service == "renamed" else set()
    assert set(answer.names) == {*asked.keys, *expected, *stored}
    assert all(s == "PRESENT" for n in expected for s in answer.statuses[n])

    # A row that is too old counts as none, as it does in a training set.
    aged = [
        {**row, "user_id": MISSING_USER} if row["user_id"] == STALE_USER else row
        for row in asked.rows
    ]
    expected = feasts_values(store, asked, aged)
    answer = ask(strict, asked)
    assert shown(answer, expected) == expected
    for name, column in expected.items():
        statuses = ["NULL_VALUE" if value is None else "PRESENT" for value in column]
        assert answer.statuses[name] == statuses
    for name, _ in asked.views:
        count("on-demand views", name, "full names" if asked.full else "short names")
    count("on-demand requests", "service" if asked.service else "list")
    if asked.among_entities:
        count("on-demand requests", "data among entities")
    count("on-demand values", "compared", times=sum(map(len, expected.values())))
