"""Distributions of what the targets of an alias serve, by a gateway that is watched."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import scipy
from aliased import dividing, make_repo, users
from feast import FeatureService, FeatureStore
from market import NOW
from processes import eventually
from typer.testing import CliRunner, Result

from hotfeast.server.cli import app
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.monitoring.collector import Collector, read_all
from hotfeast.server.monitoring.observed import Channel, FeatureColumn, Observation
from hotfeast.server.monitoring.windows import FeatureKey
from hotfeast.server.settings import MonitorSettings
from hotfeast.server.traffic.comparison import HIDDEN

# Not those that are there already: of two rows with one event time Feast keeps the first.
MANY = range(10, 310)
CITIES = ("Ulm", "Bonn", "Jena")
SHIFT = 25.0


def spend(user: int) -> float:
    """What a user has spent, by the first version."""
    return float(user % 50)


@dataclass
class Watched:
    """A gateway that divides users, and what it has seen.

    Attributes:
        store: Its repository.
        folder: The monitoring's.
        aliases: The file of aliases.
        address: The gateway's.
        sides: Which target each user's request went to.
    """

    store: FeatureStore
    folder: Path
    aliases: Path
    address: str
    sides: dict[int, str]

    def run(self, *arguments: str) -> Result:
        """Runs the command on it."""
        options = ("--repo", str(self.store.repo_path), "--monitor-dir", str(self.folder))
        return CliRunner().invoke(app, ["traffic", "distributions", *arguments, *options])

    def told(self, *arguments: str) -> Any:
        """What it tells in JSON of the one comparison there is."""
        done = self.run(*arguments, "--json")
        (comparison,) = json.loads(done.stdout)["comparisons"]
        return comparison

    def of_side(self, target: str) -> list[int]:
        """The users that went to a target."""
        return [user for user, side in self.sides.items() if side == target]


@pytest.fixture(scope="module")
def watched(
    redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """`spend` is higher in the second version, and `city` is distributed as in the first."""
    folder = tmp_path_factory.mktemp("distributions")
    store = make_repo(folder / "repo", redis_server, "distributions")
    first, second = (store.get_feature_view(f"stats_{number}") for number in (1, 2))
    store.apply(
        [
            FeatureService(name="again", features=[first]),
            FeatureService(name="cities_v1", features=[first[["city"]]]),
            FeatureService(name="cities_v2", features=[second[["city"]]]),
        ]
    )
    for view, more in (("stats_1", 0.0), ("stats_2", SHIFT)):
        rows = users(
            user_id=list(MANY),
            event_timestamp=[NOW] * len(MANY),
            spend=[spend(user) + more for user in MANY],
            city=[CITIES[user % len(CITIES)] for user in MANY],
        )
        store.write_to_online_store(view, rows)
    seen = folder / "seen"
    monitor = MonitorSettings(seen, every=1, interval=1.0)
    text = "users: {users_v1: 50, users_v2: 50}\nonly: {users_v1: 100}\n"
    aliases = folder / "aliases.yaml"
    with dividing(store, aliases, text, monitor=monitor) as (served, traffic):
        sides = traffic.sides("users", MANY)
        eventually(lambda: served_rows(seen) == len(MANY))
        yield Watched(store, seen, aliases, served.address, sides)


def served_rows(folder: Path) -> int:
    """How many rows of `spend` were seen, of both versions."""
    state = read_all(folder)
    keys = [FeatureKey(Channel.served, view, "spend") for view in ("stats_1", "stats_2")]
    return sum(state.merged(key).rows for key in keys if key in state.keys())  # noqa: SIM118


def test_exactly_the_feature_that_is_shifted_is_found(watched: Watched) -> None:
    told = watched.told("users", "--aliases", str(watched.aliases))
    assert (told["first"], told["second"]) == ("users_v1", "users_v2")
    assert told["differs"] == ["spend"]
    by_name = {feature["feature"]: feature for feature in told["features"]}
    assert list(by_name) == ["spend", "city"]
    assert all(feature["tested"] for feature in by_name.values())
    # What each has is of the users that went there.
    values = {
        "first": [spend(user) for user in watched.of_side("users_v1")],
        "second": [spend(user) + SHIFT for user in watched.of_side("users_v2")],
    }
    for place, numbers in values.items():
        found = by_name["spend"][place]
        assert found["rows"] == len(numbers)
        assert found["mean"] == pytest.approx(sum(numbers) / len(numbers))
    # So few numbers that each is kept: the test is SciPy's on all of them.
    test = scipy.stats.ks_2samp(values["first"], values["second"])
    drift = by_name["spend"]["drift"]
    assert drift["effect"] == pytest.approx(test.statistic)
    assert drift["p_value"] == pytest.approx(test.pvalue)
    assert test.pvalue <= drift["adjusted_p"] < 0.05


def test_values_that_are_tagged_as_personal_are_not_shown(watched: Watched) -> None:
    told = watched.told("users", "--aliases", str(watched.aliases))
    spends, cities = told["features"]
    assert (spends["hidden"], cities["hidden"]) == (False, True)
    # It is tagged in the second version only.
    for place in ("first", "second"):
        assert cities[place]["top"] == []
        assert spends[place]["top"]
        assert cities[place]["rows"] == spends[place]["rows"]
    shown = watched.run("users", "--aliases", str(watched.aliases)).stdout
    assert HIDDEN in shown
    assert not any(city in shown for city in CITIES)


def test_the_table_says_what_differs(watched: Watched) -> None:
    # The targets are those of the running gateway.
    done = watched.run("users", "--address", watched.address)
    assert done.exit_code == 1, done.stderr
    assert "users_v2 beside users_v1" in done.stdout
    assert "values: Kolmogorov-Smirnov" in done.stdout
    assert "no: chi-square" in done.stdout
    assert "1 of 2 shared features differ, 2 were tested." in done.stdout


def test_equal_distributions_pass_and_who_else_reads_is_said(watched: Watched) -> None:
    done = watched.run("--targets", "cities_v1", "cities_v2")
    assert done.exit_code == 0, done.stderr
    assert "0 of 1 shared features differ, 1 were tested." in done.stdout
    told = watched.told("--targets", "cities_v1", "cities_v2")
    assert told["others"] == {"stats_1": ["users_v1"], "stats_2": ["users_v2"]}
    # Whoever is compared is no other.
    assert watched.told("--targets", "users_v1", "users_v2")["others"] == {}


def test_features_of_one_target_are_named(watched: Watched) -> None:
    told = watched.told("--targets", "users_v1", "cities_v2")
    assert [feature["feature"] for feature in told["features"]] == ["city"]
    assert (told["only_first"], told["only_second"]) == (["spend"], [])
    told = watched.told("--targets", "cities_v2", "users_v1")
    assert (told["only_first"], told["only_second"]) == ([], ["spend"])


def test_what_has_the_same_statistics_is_not_compared(watched: Watched) -> None:
    done = watched.run("--targets", "users_v1", "again")
    assert done.exit_code == 2
    assert "no feature could be tested" in done.stderr
    assert "not compared: both read stats_1:spend" in " ".join(done.stdout.split())
    told = watched.told("--targets", "users_v1", "again")
    assert all(feature["same_statistics"] for feature in told["features"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name an alias, or two targets"),
        (("users", "--targets", "users_v1", "users_v2"), "name an alias, or two targets"),
        (("--targets", "users_v1", "users_v9"), "no feature service 'users_v9'; did you mean"),
        (("--targets", "users_v1", "users_v1"), "nothing to compare 'users_v1' with"),
        (("--targets", "users_v1", "products"), "features of 'products' was looked at"),
        (("nobody", "--aliases", "{aliases}"), "has no alias 'nobody'"),
        (("only", "--aliases", "{aliases}"), "alias 'only' has one target, 'users_v1'"),
        (("users", "--aliases", "{aliases}.missing"), "No such file"),
        (("--targets", "users_v1", "users_v2", "--aliases", "{aliases}"), "without --targets"),
    ],
)
def test_what_cannot_be_compared_is_an_error(
    watched: Watched, arguments: tuple[str, ...], words: str
) -> None:
    done = watched.run(*(each.format(aliases=watched.aliases) for each in arguments))
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.replace("│", " ").split())


def test_there_must_be_a_folder(watched: Watched, tmp_path: Path) -> None:
    missing = replace(watched, folder=tmp_path / "missing")
    done = missing.run("--targets", "users_v1", "users_v2")
    assert done.exit_code == 2
    assert "there is no folder" in done.stderr


def test_every_target_is_compared_with_the_first(watched: Watched, tmp_path: Path) -> None:
    aliases = tmp_path / "three.yaml"
    aliases.write_text("users: {users_v1: 50, cities_v2: 25, users_v2: 25}\n")
    done = watched.run("users", "--aliases", str(aliases), "--json")
    assert done.exit_code == 1, done.stderr
    made = json.loads(done.stdout)
    assert [(each["first"], each["second"], each["differs"]) for each in made["comparisons"]] == [
        ("users_v1", "cities_v2", []),
        ("users_v1", "users_v2", ["spend"]),
    ]


def observed(view: str, spends: pa.Array, cities: pa.Array, service: str) -> Observation:
    """Rows of a view that were served just now."""
    columns = (FeatureColumn(view, "spend", spends), FeatureColumn(view, "city", cities))
    return Observation(Channel.served, time.time(), columns, service)


def test_nulls_kinds_and_other_readers_are_told(watched: Watched, tmp_path: Path) -> None:
    collector = Collector(tmp_path / "made")
    numbers, texts = pa.array([1.5] * 200), pa.array(["Ulm"] * 200)
    with_nulls = pa.array(["Ulm", None] * 100)
    collector.observe(observed("stats_1", numbers, texts, "users_v1"))
    collector.observe(observed("stats_2", texts, with_nulls, "users_v2"))
    # Long ago, and so not in the statistics that are compared.
    long_ago = replace(observed("stats_1", numbers, texts, "gone"), time=time.time() - 7200)
    collector.observe(long_ago)
    collector.store.advance(time.time())
    collector.write()
    made = replace(watched, folder=tmp_path / "made")
    told = made.told("--targets", "users_v1", "users_v2")
    assert told["differs"] == ["spend", "city"]
    spends, cities = (feature["drift"] for feature in told["features"])
    assert (spends["values_drifted"], spends["p_value"]) == (True, None)
    assert (cities["values_drifted"], cities["empty_drifted"]) == (False, True)
    assert told["others"] == {}
    shown = " ".join(made.run("--targets", "users_v1", "users_v2").stdout.split())
    assert "values are of kind category, and were of kind number" in shown
    assert "rows without a value: 0.0% to 50.0%" in shown
