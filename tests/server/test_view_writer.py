"""The worker for engines: pickled, in several processes, and under Ray Data."""

import pickle
import random
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from examples import example_module
from lake import DAY, END, START, Lake, stats_table, stats_view
from served import Served

from hotfeast.server.errors import RequestFailure
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.materialize import materialize
from hotfeast.server.view_writer import InvalidRow, ViewWriter


@pytest.fixture
def lake(tmp_path: Path, redis_server: LocalRedis) -> Lake:
    return Lake(tmp_path, redis_server, 6)


def history(users: int, rows: int) -> pa.Table:
    """Rows in no order, several for each user, no two of one time for one user."""
    rng = random.Random(users)
    pairs = rng.sample([(u, d) for u in range(users) for d in range(30)], rows)
    return stats_table(
        [user for user, _ in pairs],
        [START + day * DAY for _, day in pairs],
        [1000 * user + day for user, day in pairs],
    )


def write_part(job: tuple[ViewWriter, pa.Table]) -> int:
    writer, rows = job
    return writer.write_arrow(rows).read


def expected(lake: Lake) -> dict[bytes, dict[bytes, bytes]]:
    """What materialization makes of the same rows."""
    assert materialize(lake.folder, START, END).exit_code == 0
    return lake.taken()


def test_counts_and_columns(lake: Lake) -> None:
    path = lake.write("t.parquet", stats_table([1], [START], [1]))
    lake.store.apply(stats_view(path, tags={"min": "0"}))
    writer = ViewWriter(lake.folder, "stats")
    table = stats_table([1, 2, 2, 3], [START, START, START + DAY, START], [1, 2, 3, -4])
    counts = writer.write_arrow(table.append_column("more", pa.nulls(4)))
    assert counts.to_arrow().to_pylist() == [
        {"read": 4, "written": 2, "stale": 0, "superseded": 1, "rejected": 1, "failed": 0}
    ]
    assert counts.rules == {("amount", "min"): 1}
    batches = list(writer.write_batches(table.slice(0, 2).to_batches(max_chunksize=1)))
    assert [batch.to_pylist()[0]["stale"] for batch in batches] == [0, 1]
    with pytest.raises(InvalidRow, match=r"min wants at least 0 \(user_id=3\)"):
        ViewWriter(lake.folder, "stats", on_invalid="fail").write_arrow(table)
    with pytest.raises(RequestFailure, match="missing column 'amount'"):
        writer.write_arrow(table.drop_columns("amount"))
    with pytest.raises(ValueError, match="on_invalid"):
        ViewWriter(lake.folder, "stats", on_invalid="ignore")
    assert writer.write_arrow(table.slice(0, 0)).read == 0


def test_processes_share_the_rows(lake: Lake) -> None:
    """Parts in any order, each in another process: the same as one run over all of them."""
    table = history(40, 600)
    lake.store.apply(stats_view(lake.write("t.parquet", table)))
    wanted = expected(lake)
    writer = ViewWriter(lake.folder, "stats")
    # Also one that has connections already.
    writer.write_arrow(table.slice(0, 1))
    writer = pickle.loads(pickle.dumps(writer))
    with get_context("spawn").Pool(2) as pool:
        parts = [(writer, table.slice(start, 60)) for start in range(0, 600, 60)]
        assert sum(pool.map(write_part, parts, chunksize=1)) == 600
    assert lake.taken() == wanted


@pytest.fixture(scope="module")
def ray_two_workers() -> Iterator[Any]:
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=100 * 2**20,
    )
    yield ray
    ray.shutdown()


def test_ray_data_drives_it(lake: Lake, ray_two_workers: Any) -> None:
    """Two workers write the blocks of a file."""
    import ray.data

    table = history(200, 4000)
    path = lake.write("t.parquet", table)
    lake.store.apply(stats_view(path))
    wanted = expected(lake)
    writer = ViewWriter(lake.folder, "stats")
    counts = (
        ray.data.from_arrow([table.slice(start, 1000) for start in range(0, 4000, 1000)])
        .map_batches(
            lambda rows: writer.write_arrow(rows).to_arrow(),
            batch_format="pyarrow",
            batch_size=1000,
            concurrency=2,
        )
        .to_pandas()
    )
    assert counts["read"].sum() == 4000
    assert counts["failed"].sum() == counts["rejected"].sum() == 0
    assert lake.taken() == wanted


def test_ray_data_scores(strict: Served, checkout: Path, ray_two_workers: Any) -> None:
    """Two workers read the features of a data set, by the example's script."""
    import ray.data

    example = example_module(checkout, "ray_score")
    ray_two_workers.cloudpickle.register_pickle_by_value(example)
    table = pa.table({"user_id": [1, 2, 3, 99] * 250, "row": list(range(1000))})
    rows = ray.data.from_arrow([table.slice(start, 100) for start in range(0, 1000, 100)])
    got = example.score(rows, strict.address, "part", ["user_id"]).to_pandas()
    wanted = strict.client.score("part", table, columns=["user_id"]).to_table().to_pandas()
    got = got.sort_values("row", ignore_index=True)
    pd.testing.assert_frame_equal(got, wanted, check_dtype=False)
