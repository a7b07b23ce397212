"""What features are watched by, while it changes: definitions, rules, profiles."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import audited
import pyarrow as pa
import pytest
from feast import FeatureStore, FeatureView, Field, FileSource
from feast.types import Float64

from hotfeast.server.apart import run_apart
from hotfeast.server.errors import StartFailure
from hotfeast.server.monitoring.inputs import REREAD, Inputs, read_defined
from hotfeast.server.monitoring.observed import FeatureColumn
from hotfeast.server.monitoring.profiles import Profile, ProfileStore
from hotfeast.server.monitoring.rules import RULES_FILE
from hotfeast.server.monitoring.statistics import FeatureStatistics
from hotfeast.server.registry import read_definitions

LOW = "rules:\n  - {name: low, metric: mean, below: 5, features: 'users:spend'}\n"
LATER = "rules:\n  - {name: low, metric: mean, below: 5, features: 'later:price'}\n"
WRONG = "rules:\n  - {name: low, metric: mean, below: 5, features: 'users:spent'}\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Redis is not needed."""
    return audited.make_repository(tmp_path_factory.mktemp("changing"), "127.0.0.1:1")


def profile(mean: float) -> Profile:
    statistics = FeatureStatistics()
    statistics.update(FeatureColumn("users", "spend", pa.array([mean] * 200)))
    made = datetime.now(UTC)
    return Profile("people", 0, made, "a test", 200, {("users", "spend"): statistics})


def test_what_changes_is_taken_and_what_is_not_valid_is_not(
    store: FeatureStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = Path(store.repo_path) / RULES_FILE
    kept = ProfileStore(tmp_path)
    now = 0.0
    inputs = Inputs(Path(store.repo_path), profiles=tmp_path, clock=lambda: now)
    served = read_definitions(store).fingerprint
    assert "low" not in inputs.rules.rules
    assert inputs.references == {}
    # The registry is as it was read, by what the gateways call its state.
    now = REREAD
    catalogue = inputs.catalogue
    assert not inputs.look(served)
    assert not inputs.look("")
    assert inputs.catalogue is catalogue

    # A file is taken once it is the same as at the look before.
    file.write_text(LOW)
    assert not inputs.look(served)
    assert inputs.look(served)
    assert inputs.rules.rules["low"].threshold == 5
    assert not inputs.look(served)

    file.write_text(WRONG)
    for _ in range(3):
        assert not inputs.look(served)
    assert inputs.rules.rules["low"].features == ("users:spend",)
    assert inputs.valid() == {"definitions": True, "rules": False, "profiles": True}
    told = [r.message for r in caplog.records if "the rules before" in r.message]
    assert len(told) == 1
    assert "no feature 'users:spent'; did you mean 'users:spend'" in told[0]
    file.write_text(LATER)
    inputs.look(served)
    assert not inputs.look(served)

    kept.save(profile(10.0))
    assert inputs.look(served)
    assert inputs.references["users", "spend"].mean == 10.0
    kept.save(profile(20.0))
    assert inputs.look(served)
    assert inputs.references["users", "spend"].mean == 20.0
    broken = tmp_path / "people" / "3.hfp"
    broken.write_bytes(b"no profile")
    assert not inputs.look(served)
    assert inputs.references["users", "spend"].mean == 20.0
    assert not inputs.valid()["profiles"]
    broken.unlink()
    assert inputs.look(served)
    assert inputs.valid()["profiles"]

    # The rules name a view that comes only now; the registry is not read again and again.
    source = FileSource(name="later", path="later.parquet", timestamp_field="event_timestamp")
    schema = [Field(name="price", dtype=Float64)]
    store.apply([FeatureView(name="later", entities=[], schema=schema, source=source)])
    store.refresh_registry()
    changed = read_definitions(store).fingerprint
    assert changed != served
    now = REREAD - 1
    assert not inputs.look(changed)
    now = REREAD
    assert inputs.look(changed)
    assert "later" in inputs.catalogue.views
    assert inputs.rules.rules["low"].features == ("later:price",)
    assert all(inputs.valid().values())
    # A worker that is behind tells nothing new.
    now = 2 * REREAD
    assert not inputs.look(changed)

    file.unlink()
    inputs.look(changed)
    assert inputs.look(changed)
    assert "low" not in inputs.rules.rules


def test_who_watches_does_without_feast_and_what_compares() -> None:
    words = "import sys; import hotfeast.server.monitoring.watching; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "hotfeast.server.monitoring.drift" in loaded
    assert not loaded & {"feast", "pandas", "pyarrow.dataset", "scipy.stats", "sqlalchemy"}


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(StartFailure, match="process of _exit has ended with exit code 3"):
        run_apart(os._exit, 3)
    with pytest.raises(StartFailure, match=r"has no feature_store\.yaml"):
        run_apart(read_defined, tmp_path, None)
