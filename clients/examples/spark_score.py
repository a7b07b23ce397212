"""Spark: the features of a data frame, a stream to the gateway for each partition.

    spark-submit spark_score.py asked.parquet scored --address 127.0.0.1:6570 \\
        --service recommendation --columns user_id,product_id

Needs pyspark, and `hotfeast[arrow]` on every executor.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from hotfeast.clients import FeatureClient


def score(frame: Any, address: str, service: str, columns: list[str]) -> Any:
    """A data frame with the features behind its columns.

    Args:
        frame: A `pyspark.sql.DataFrame`.
        address: The gateway's.
        service: The feature service.
        columns: What is sent of the rows: join keys and request data.
    """

    def scored(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with FeatureClient(address) as client:
            yield from client.score(service, batches, columns=columns)

    # No rows have the columns of all: features are of the types that they are declared with.
    none = frame.limit(0).toArrow()
    with FeatureClient(address) as client:
        schema = client.score(service, none, columns=columns).to_table().schema
    return frame.mapInArrow(scored, from_arrow_schema(schema))


def main() -> None:
    """Scores Parquet files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", help="Parquet file, or a folder of them")
    parser.add_argument("out", help="folder for the scored ones")
    parser.add_argument("--address", default="127.0.0.1:6570")
    parser.add_argument("--service", required=True)
    parser.add_argument("--columns", required=True, help="what is sent, between commas")
    options = parser.parse_args()
    spark = SparkSession.builder.getOrCreate()
    frame = spark.read.parquet(options.rows)
    columns = options.columns.split(",")
    score(frame, options.address, options.service, columns).write.parquet(options.out)


if __name__ == "__main__":
    main()
