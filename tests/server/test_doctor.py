"""The doctor, against real servers that something is wrong with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lake import END, START, Lake, stats_table, stats_view
from processes import run_cli
from redis import Redis

from hotfeast.server.doctor import Report, examine
from hotfeast.server.errors import StartFailure
from hotfeast.server.findings import ADVICE, FINE, PROBLEM
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.materialize import materialize


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with LocalRedis("--maxmemory", "100mb") as server:
        lake = Lake(tmp_path, server, 0)
        lake.store.apply(
            stats_view(lake.write("t.parquet", stats_table([1, 2], [START] * 2, [5, 6])))
        )
        yield lake


def told(report: Report, word: str) -> str:
    """The kind of the one finding that has a word in it."""
    (kind,) = [finding.kind for finding in report.findings if word in finding.what]
    return kind


def test_a_healthy_server(lake: Lake) -> None:
    assert materialize(lake.folder, START, END).exit_code == 0
    before = lake.stored()
    report = examine(lake.folder)
    assert lake.stored() == before
    assert report.exit_code == 0
    assert told(report, "MiB are used") == FINE
    (entities,) = report.entities
    assert (entities.join_keys, entities.sampled, entities.fields) == (("user_id",), 2, 2)
    assert entities.encodings == {"listpack": 2}
    # Measured on a server of its own, Feast's layout takes what it takes where it is.
    sizes = entities.bytes_by_layout
    assert sizes["feast"] == pytest.approx(entities.bytes_now, rel=0.1)
    assert sizes["dual"] > sizes["feast"]
    assert set(sizes) == {"feast", "dual", "packed", "packed, lists"}


def test_a_server_that_drops_rows(lake: Lake) -> None:
    lake.client.config_set("maxmemory-policy", "allkeys-lru")
    report = examine(lake.folder)
    assert told(report, "allkeys-lru") == PROBLEM
    assert report.exit_code == 1
    assert not report.entities
    shown = run_cli("doctor", "--repo", str(lake.folder))
    assert shown.returncode == 1
    assert "set it to noeviction" in shown.stdout
    assert "no entities of this project are stored" in shown.stdout


def test_settings_that_may_not_be_read(lake: Lake) -> None:
    assert materialize(lake.folder, START, END).exit_code == 0
    lake.client.acl_setuser("ops", enabled=True, passwords=["+p"], keys=["*"],
                            categories=["+@all"], commands=["-config"])  # fmt: skip
    port = lake.client.connection_pool.connection_kwargs["port"]
    report = examine(lake.folder, f"redis://ops:p@127.0.0.1:{port}/0")
    assert told(report, "its settings cannot be read") == ADVICE
    assert report.entities


def test_nothing_to_look_at(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(StartFailure, match="Redis cannot be examined"):
        examine(lake.folder, "redis://127.0.0.1:1")
    shown = run_cli("doctor", "--repo", str(tmp_path / "none"))
    assert shown.returncode == 2
    assert "has no feature_store.yaml" in shown.stderr


def test_long_packed_rows(lake: Lake) -> None:
    """Rows longer than `hash-max-listpack-value` are advised to raise it."""
    wide = Redis(host="127.0.0.1", port=lake.redis.port)
    assert materialize(lake.folder, START, END).exit_code == 0
    for key in wide.scan_iter():
        for name, value in wide.hgetall(key).items():  # type: ignore[union-attr]
            if not name.startswith(b"_ts:"):
                # A value of 62 bytes, which a list can hold and a packed row of it not.
                assert len(value) < 62
                wide.hset(key, name, b"\x12\x3c" + b"x" * 60)  # type: ignore[arg-type]
    report = examine(lake.folder)
    assert told(report, "a packed row is longer than") == ADVICE
