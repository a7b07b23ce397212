"""Ray Data: the features of a data set, read by workers that have a connection each.

    python ray_score.py asked.parquet scored --address 127.0.0.1:6570 \\
        --service recommendation --columns user_id,product_id

Needs `ray[data]`, and `hotfeast[arrow]` on every worker.
"""

import argparse
from typing import Any

import pyarrow as pa
import ray.data

from hotfeast.clients import FeatureClient


class Score:
    """Scores blocks of rows; one for each worker."""

    def __init__(self, address: str, service: str, columns: list[str]) -> None:
        self._client = FeatureClient(address)
        self._service = service
        self._columns = columns

    def __call__(self, rows: pa.Table) -> pa.Table:
        return self._client.score(self._service, rows, columns=self._columns).to_table()


def score(rows: Any, address: str, service: str, columns: list[str], workers: int = 2) -> Any:
    """A data set with the features behind its columns.

    Args:
        rows: A `ray.data.Dataset`.
        address: The gateway's.
        service: The feature service.
        columns: What is sent of the rows: join keys and request data.
        workers: How many have a connection.
    """
    return rows.map_batches(
        Score,
        fn_constructor_args=(address, service, columns),
        batch_format="pyarrow",
        batch_size=20_000,
        concurrency=workers,
    )


def main() -> None:
    """Scores Parquet files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", help="Parquet file, or a folder of them")
    parser.add_argument("out", help="folder for the scored ones")
    parser.add_argument("--address", default="127.0.0.1:6570")
    parser.add_argument("--service", required=True)
    parser.add_argument("--columns", required=True, help="what is sent, between commas")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    scored = score(
        ray.data.read_parquet(options.rows), options.address, options.service,
        options.columns.split(","), options.workers,
    )  # fmt: skip
    scored.write_parquet(options.out)


if __name__ == "__main__":
    main()
