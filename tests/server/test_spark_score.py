"""`score` in Spark's `mapInArrow`, by the example's script; where pyspark and a JVM are there."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from examples import example_module
from served import Served

pytest.importorskip("pyspark", reason="pyspark is not installed: pip install pyspark")
if shutil.which("java") is None:
    pytest.skip(
        "there is no JVM for Spark: apt-get install default-jre-headless", allow_module_level=True
    )


@pytest.fixture
def spark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from pyspark import cloudpickle
    from pyspark.sql import SparkSession

    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    yield session, cloudpickle
    session.stop()


def test_partitions_are_scored(strict: Served, checkout: Path, spark: Any) -> None:
    session, cloudpickle = spark
    example = example_module(checkout, "spark_score")
    cloudpickle.register_pickle_by_value(example)
    rows = pd.DataFrame({"user_id": [1, 2, 3, 99] * 250, "row": range(1000)})
    frame = session.createDataFrame(rows).repartition(2)
    got = example.score(frame, strict.address, "part", ["user_id"]).toPandas()
    wanted = strict.client.score("part", rows, columns=["user_id"]).to_table().to_pandas()
    got = got.sort_values("row", ignore_index=True)
    pd.testing.assert_frame_equal(got, wanted, check_dtype=False)
