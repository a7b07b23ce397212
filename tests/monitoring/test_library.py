"""The library takes frames of pandas, polars and Arrow alike."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from hotfeast.server.monitoring import detect_feature_drift, monitor_feature_quality
from hotfeast.server.monitoring.drift import DriftSettings

_FORMS: dict[str, Callable[[pa.Table], Any]] = {
    "Arrow": lambda table: table,
    "batch": lambda table: table.combine_chunks().to_batches()[0],
    "pandas": lambda table: table.to_pandas(),
    "polars": pl.from_arrow,
    "stream": lambda table: pa.RecordBatchReader.from_stream(table),
}


def _table(seed: int, shift: float = 0.0, category: str = "a") -> pa.Table:
    generator = np.random.default_rng(seed)
    return pa.table(
        {
            "spend": pa.array(generator.normal(shift, 1, 500), mask=np.arange(500) < 20),
            "city": generator.choice([category, "b"], 500),
            "steady": generator.normal(size=500),
            "active": generator.random(500) < 0.5,
        }
    )


@pytest.mark.parametrize("form", _FORMS)
def test_drift_is_the_same_for_each_form(form: str) -> None:
    make = _FORMS[form]
    report = detect_feature_drift(make(_table(1)), make(_table(2, 1.0, "c")))
    assert report.drifted == ["spend", "city"]
    arrow = detect_feature_drift(_table(1), _table(2, 1.0, "c"))
    for ours, theirs in zip(report, arrow, strict=True):
        assert ours.statistic == pytest.approx(theirs.statistic)
        assert ours.empty_current == theirs.empty_current
    assert report["spend"].empty_reference == 20 / 500
    with pytest.raises(KeyError):
        report["unknown"]


def test_a_report_can_be_read() -> None:
    first = _table(1).append_column("old", pa.array([1] * 500))
    second = _table(2, 1.0).append_column("new", pa.array([1] * 500))
    report = detect_feature_drift(first, second)
    text = repr(report).splitlines()
    assert text[0] == "1 of 4 features have drifted"
    assert text[1].split()[:3] == ["feature", "drifted", "test"]
    assert text[2].split()[:3] == ["spend", "values", "Kolmogorov-Smirnov"]
    assert text[-2:] == ["only in the first frame: old", "only in the second frame: new"]
    frame = report.to_pandas()
    assert frame.index.tolist() == ["spend", "city", "steady", "active"]
    assert frame["drifted"].tolist() == [True, False, False, False]
    assert frame.loc["spend", "p_value"] == report["spend"].p_value
    assert len(report) == 4


def test_thresholds_and_features_can_be_chosen() -> None:
    one, other = _table(1), _table(2, 0.3)
    assert detect_feature_drift(one, other).drifted == ["spend"]
    assert detect_feature_drift(one, other, 1e-12).drifted == []
    strict = DriftSettings(least_distance=0.5)
    assert detect_feature_drift(one, other, settings=strict).drifted == []
    assert len(detect_feature_drift(one, other, features=["city"])) == 1
    with pytest.raises(ValueError, match="historical has no column 'town'"):
        detect_feature_drift(one, other, features=["town"])
    with pytest.raises(ValueError, match="threshold"):
        detect_feature_drift(one, other, 5)


@pytest.mark.parametrize("form", _FORMS)
def test_quality_is_the_same_for_each_form(form: str) -> None:
    table = _table(1)
    report = monitor_feature_quality(_FORMS[form](table))
    assert list(report) == ["spend", "city", "steady", "active"]
    assert len(report) == 4
    spend = table["spend"].drop_null().to_numpy()
    assert report["spend"].null_share == 20 / 500
    assert report["spend"].mean == pytest.approx(spend.mean())
    assert report["spend"].std == pytest.approx(spend.std())
    frame = report.to_pandas()
    assert frame.loc["spend", "q0.5"] == np.quantile(spend, 0.5, method="inverted_cdf")
    assert frame.loc["active", "distinct"] == 2
    line = repr(report).splitlines()[2].split()
    assert line[:4] == ["city", "category", "500", "0.0%"]


def test_an_empty_frame_has_no_figures() -> None:
    report = monitor_feature_quality(pa.table({"a": pa.array([], pa.float64())}))
    assert report["a"].rows == 0
    assert len(repr(report).splitlines()) == 2
    assert monitor_feature_quality(pa.table({})).to_pandas().empty


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(TypeError, match="current is of type list"):
        detect_feature_drift(_table(1), [1, 2])
    with pytest.raises(ValueError, match="frame: a column holds values of several types"):
        monitor_feature_quality(pd.DataFrame({"a": [1, "x", 2.5]}))
