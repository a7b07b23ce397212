"""A training set of features as they were served, beside the offline store's answer."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pandas as pd
import polars as pl
import pytest
from feast import FeatureStore
from feast.feature_logging import LOG_TIMESTAMP_FIELD, REQUEST_ID_FIELD
from typer.testing import CliRunner

# A Tuesday: products that were not sold for a week are as old as their TTL at its start, and too
# old by its first basket.
DAY = datetime(2017, 11, 14, tzinfo=UTC)


def test_logged_features_are_the_offline_stores_when_they_were_served(
    logged_training: ModuleType, training: ModuleType, applied_repo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "set.parquet"
    options = ["--day", f"{DAY:%Y-%m-%d}", "--rows", "200", "--seed", "3", "--out", str(out)]
    registry = (applied_repo / "data" / "registry.db").read_bytes()
    variables = dict(os.environ)
    done = CliRunner().invoke(
        logged_training.app, ["--repo", str(applied_repo), *options], env={"COLUMNS": "120"}
    )
    assert done.exit_code == 0, done.output
    served, later = (
        [cell.strip() for cell in line.strip("│").split("│")][1:]
        for line in done.output.splitlines()
        if line.startswith("│")
    )
    assert served == ["200", "100.00%", "5,000", "100.00%", "0", "0", "0"]
    assert later[0] == "200"
    assert int(later[4]) > 0
    assert later[5:] == ["0", "0"]
    assert "not in the log" not in done.output
    frame = pd.read_parquet(out)
    assert frame["label"].value_counts().to_dict() == {0: 100, 1: 100}
    assert frame["event_timestamp"].between(DAY, DAY + timedelta(days=1), inclusive="left").all()
    # By a way of its own: one row after another, by their keys.
    rows = frame[["user_id", "product_id"]].assign(event_timestamp=pd.Timestamp(DAY))
    answer = training.point_in_time_features(
        FeatureStore(repo_path=str(applied_repo)), rows, "purchase_propensity"
    )
    names = list(answer.columns[3:])
    assert len(names) == 25
    pd.testing.assert_frame_equal(frame[names], answer[names], check_dtype=False)
    assert 0 < frame["pair_baskets_count_90d"].notna().sum() < 200
    # Nothing of the repository is changed, nor of this process' environment.
    assert (applied_repo / "data" / "registry.db").read_bytes() == registry
    assert not (applied_repo / "data" / "logged").exists()
    assert dict(os.environ) == variables


def labels_and_log() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two labels, of which one is logged twice and the other once."""
    time = pd.Timestamp(DAY) + pd.Timedelta("10h")
    labels = pd.DataFrame(
        {
            "user_id": [1, 1],
            "product_id": [5, 6],
            "event_timestamp": [time, time],
            "basket_id": [9, 9],
            "label": [1, 0],
            "request_id": ["basket-9", "basket-9"],
        }
    )
    log = pd.DataFrame(
        {
            "user_id": [1, 1, 1],
            "product_id": [6, 5, 5],
            REQUEST_ID_FIELD: ["basket-9"] * 3,
            LOG_TIMESTAMP_FIELD: [time, time + pd.Timedelta("1s"), time],
            "stats__visits": [6, 52, 51],
            "stats__visits__timestamp": [pd.Timestamp(DAY)] * 3,
        }
    )
    return labels, log


def test_the_last_answer_to_a_request_counts(logged_training: ModuleType) -> None:
    labels, log = labels_and_log()
    joined = logged_training.join_labels(labels, log)
    assert joined["stats__visits"].tolist() == [52, 6]
    assert joined["label"].tolist() == [1, 0]
    others = log.assign(**{REQUEST_ID_FIELD: ["basket-9", "basket-8", "basket-8"]})
    assert logged_training.join_labels(labels, others)["product_id"].tolist() == [6]


def test_a_feature_that_is_newer_than_its_label_is_refused(logged_training: ModuleType) -> None:
    labels, log = labels_and_log()
    log.loc[0, "stats__visits__timestamp"] = pd.Timestamp(DAY) + pd.Timedelta("11h")
    with pytest.raises(ValueError, match="stats__visits is newer than its label"):
        logged_training.join_labels(labels, log)


def test_differences_are_counted_by_their_cause(
    skew: ModuleType, training: ModuleType, applied_repo: Path
) -> None:
    """Served rows that are made from the offline store's answer, and then changed."""
    store = FeatureStore(repo_path=str(applied_repo))
    service = store.get_feature_service("purchase_propensity")
    rows = pd.DataFrame({"user_id": [1, 1], "product_id": [1082185, 852662]})
    rows["event_timestamp"] = pd.Timestamp(DAY)
    answer = training.point_in_time_features(store, rows, "purchase_propensity")
    logged = rows.copy()
    for view in service.feature_view_projections:
        for feature in view.features:
            logged[f"{view.name}__{feature.name}"] = answer[feature.name]
            logged[f"{view.name}__{feature.name}__timestamp"] = pd.Timestamp(DAY)
    counted, pair = "user_purchase_stats__baskets_count_90d", "user_product_interactions__"
    assert pd.isna(answer["pair_baskets_count_90d"][1])
    logged.loc[0, counted] += 1
    logged.loc[1, f"{pair}pair_baskets_count_90d"] = 4.0
    logged.loc[1, f"{pair}pair_baskets_count_90d__timestamp"] -= pd.Timedelta("9d")
    known = skew.known_at(store, "purchase_propensity", rows)
    changed = skew.compare(store, "purchase_propensity", logged, known, DAY, "then")
    assert (changed.rows, changed.equal_rows) == (2, 0)
    assert (changed.values, changed.equal_values) == (50, 48)
    assert (changed.expired, changed.late) == (1, 0)
    assert changed.unexplained == {"baskets_count_90d": 1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--day", "2017-03-31"], "must be from 2017-04-01 to 2017-12-31"),
        (["--rows", "5"], "must be even"),
        (["--rows", "200000"], "fewer than 100000"),
    ],
)
def test_what_cannot_be_built(
    logged_training: ModuleType, applied_repo: Path, options: list[str], words: str
) -> None:
    done = CliRunner().invoke(logged_training.app, ["--repo", str(applied_repo), *options])
    assert done.exit_code == 1
    assert words in done.output


def test_a_repository_that_is_not_prepared_or_applied(
    serving_copy: ModuleType, applied_repo: Path, tmp_path: Path
) -> None:
    with (
        pytest.raises(ValueError, match=r"run prepare\.py first"),
        serving_copy.copied_repository(tmp_path),
    ):
        pass
    (tmp_path / "data").mkdir()
    for file in (applied_repo / "data").glob("*.parquet"):
        (tmp_path / "data" / file.name).symlink_to(file)
    with (
        pytest.raises(ValueError, match="run `feast apply`"),
        serving_copy.copied_repository(tmp_path),
    ):
        pass


def test_labels_are_of_the_day(logged_training: ModuleType, prep: ModuleType) -> None:
    lines: pl.DataFrame = prep.load_lines()
    labels = logged_training.labels_of_day(lines, DAY, 100, seed=1)
    assert labels["event_timestamp"].dt.date.unique().tolist() == [DAY.date()]
    assert (labels["request_id"] == "basket-" + labels["basket_id"].astype(str)).all()
