"""`hotfeast alerts`, on a repository that was applied."""

from datetime import UTC, datetime
from pathlib import Path

import audited
import pyarrow as pa
import pytest
import yaml
from feast import FeatureStore
from typer.testing import CliRunner

from hotfeast.server.cli import app
from hotfeast.server.monitoring.alert_watch import AlertWatch
from hotfeast.server.monitoring.alerts import AlertEngine
from hotfeast.server.monitoring.inputs import Inputs
from hotfeast.server.monitoring.known import known_of
from hotfeast.server.monitoring.observed import Channel, FeatureColumn, Observation
from hotfeast.server.monitoring.profile_build import profile_store
from hotfeast.server.monitoring.profiles import Profile
from hotfeast.server.monitoring.report.catalogue_build import catalogue_of
from hotfeast.server.monitoring.rules import RULES_FILE
from hotfeast.server.monitoring.statistics import PROFILE_SIZES, FeatureStatistics
from hotfeast.server.monitoring.windows import MonitoringStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Redis is not needed."""
    return audited.make_repository(tmp_path_factory.mktemp("ruled"), "127.0.0.1:1")


def run(store: FeatureStore, command: str, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["alerts", command, "--repo", store.repo_path, *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_what_rules_may_name(store: FeatureStore) -> None:
    known = known_of(catalogue_of(store))
    assert set(known.views) == {"users", "pairs", "world", "mixed", "cart_share"}
    users = known.views["users"]
    assert users.features["city"] == {"pii": "true"}
    assert users.ttl_seconds == 172800.0
    assert known.allowed_age("users") == 86400.0
    assert known.allowed_age("world") is None


def test_check_says_what_each_rule_is_for(store: FeatureStore) -> None:
    code, out, _ = run(store, "check")
    assert code == 0
    assert "Default rules" in out
    assert "null_share above 0.1 beyond the reference" in " ".join(out.split())
    assert "12 features of 5 views" in out


def test_a_file_in_the_repository_counts(store: FeatureStore) -> None:
    path = Path(store.repo_path) / RULES_FILE
    path.write_text("rules:\n  - {name: low, metric: mean, below: 5, features: 'users:spend'}\n")
    try:
        code, out, _ = run(store, "check")
        assert code == 0
        assert "1 features of 1 views" in out
        code, out, err = run(store, "prometheus")
        assert code == 0
        assert "rule 'low' is left out" in err
        assert len(yaml.safe_load(out)["groups"][0]["rules"]) == 4
        path.write_text(
            "rules:\n  - {name: low, metric: mean, below: 5, features: 'users:spent'}\n"
        )
        code, _, err = run(store, "check")
        assert code == 2
        assert f"{RULES_FILE}:2: there is no feature 'users:spent'; did you mean" in err
    finally:
        path.unlink()


def test_files_that_are_named(store: FeatureStore, tmp_path: Path) -> None:
    code, _, err = run(store, "check", "--rules", str(tmp_path / "none.yaml"))
    assert code == 2
    assert "none.yaml" in err
    written = tmp_path / "rules.yml"
    assert run(store, "prometheus", "--out", str(written))[0] == 0
    assert "hotfeast_feature_null_share" in written.read_text()
    none = CliRunner().invoke(app, ["alerts", "check", "--repo", str(tmp_path)])
    assert none.exit_code == 2
    assert "has no feature_store.yaml" in none.stderr


def test_profiles_beside_the_registry_count(store: FeatureStore) -> None:
    spend = FeatureStatistics(sizes=PROFILE_SIZES)
    values = pa.array([None if row % 4 == 0 else float(row) for row in range(1000)])
    spend.update(FeatureColumn("users", "spend", values))
    kept = profile_store(store)
    kept.save(Profile("s", 0, datetime.now(UTC), "a test", 1000, {("users", "spend"): spend}))
    code, out, _ = run(store, "prometheus")
    assert code == 0
    # A quarter is null in training.
    assert 'feature_view="users", feature="spend"} > 0.35' in " ".join(out.split())
    inputs = Inputs(Path(store.repo_path))
    watch = AlertWatch(AlertEngine(inputs.rules, inputs.known), inputs.known, inputs.references)
    seen = MonitoringStore()
    seen.observe(Observation(Channel.served, 1.7e9, (FeatureColumn("users", "spend", values),)))
    for time in (1.7e9, 1.7e9 + 600):
        watch.look(seen, time)
    assert watch.firing() == ()
    ((_, view, feature, p_value, _),) = watch.drifts()
    assert (view, feature, p_value) == ("users", "spend", 1.0)
    (kept.folder / "s" / "1.hfp").write_bytes(b"no profile")
    code, _, err = run(store, "prometheus")
    assert code == 2
    assert "1.hfp cannot be read" in err
    assert run(store, "prometheus", "--profiles", str(kept.folder / "none"))[0] == 0
