"""`hotfeast get`, `services`, `describe` and `push` against a gateway."""

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from market import NOW
from processes import run_cli
from served import Served
from typer.testing import CliRunner, Result

from hotfeast.server.cli import app

KEYS = ["user_id=1,2,99", "sku=a,a,bé"]


@pytest.fixture
def hotfeast(strict: Served) -> Any:
    def run(*arguments: str, code: int = 0) -> Result:
        command = [arguments[0], "--address", strict.address, *arguments[1:]]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == code, result.output
        return result

    return run


def words(result: Result) -> list[list[str]]:
    return [line.split() for line in result.stdout.splitlines()]


def test_one_row_has_statuses_and_times(strict: Served) -> None:
    """In a process of its own, as it is called."""
    result = run_cli("get", "part", "user_id=1", "--address", strict.address)
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines == [
        ["value", "status", "event", "time"],
        ["user_id", "1", "PRESENT"],
        ["spend", "1.5", "PRESENT", NOW.isoformat()],
        ["visits", "10", "PRESENT", NOW.isoformat()],
    ]


def test_several_rows_have_a_column_each(hotfeast: Any) -> None:
    lines = words(hotfeast("get", "everything", *KEYS))
    assert lines[0] == ["row", "0", "row", "1", "row", "2"]
    assert ["user_id", "1", "2", "99"] in lines
    assert ["score", "0.1", "(OUTSIDE_MAX_AGE)", "(NOT_FOUND)"] in lines
    many = hotfeast("get", "part", "user_id=" + ",".join(["1"] * 13))
    assert "3 more rows" in many.stdout


def test_references_and_request_data(hotfeast: Any) -> None:
    lines = words(hotfeast("get", "user_stats:city,user_stats:spend", "user_id=3", "--stale"))
    assert [line[:3] for line in lines[1:]] == [
        ["user_id", "3", "PRESENT"],
        ["city", "Köln", "OUTSIDE_MAX_AGE"],
        ["spend", "3.0", "OUTSIDE_MAX_AGE"],
    ]
    lines = words(hotfeast("get", "cart_service", "user_id=1,1", "cart_value=3,"))
    assert ["cart_share", "2.0", "(NULL_VALUE)"] in lines
    full = hotfeast("get", "cart_share:cart_share", "user_id=1", "cart_value=3", "--json",
                    "--full-feature-names")  # fmt: skip
    assert json.loads(full.stdout)[0]["values"]["cart_share__cart_share"] == 2.0


def test_json_has_everything(hotfeast: Any, strict: Served) -> None:
    rows = json.loads(hotfeast("get", "everything", *KEYS, "--json").stdout)
    answer = strict.client.get_online_features(
        "everything", {"user_id": [1, 2, 99], "sku": ["a", "a", "bé"]}
    )
    for row, wanted in zip(rows, answer.rows(), strict=True):
        assert row["statuses"] == wanted.statuses
        for name in ("user_id", "sku", "visits", "spend", "labels", "settings", "score"):
            assert row["values"][name] == wanted.values[name]
    assert rows[0]["values"]["photo"] == "AP8="
    assert rows[0]["values"]["since"] == rows[0]["event_timestamps"]["city"] == NOW.isoformat()


def test_csv_has_the_values(hotfeast: Any) -> None:
    out = hotfeast("get", "everything", *KEYS, "--csv").stdout
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["score"] for row in rows] == ["0.1", "", ""]
    assert [row["sku"] for row in rows] == ["a", "a", "bé"]
    assert json.loads(rows[0]["labels"]) == ["a", "ß"]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_rows_of_files(hotfeast: Any, tmp_path: Path, ending: str) -> None:
    # A text that looks like a number stays one, since the definition says so.
    frame = pd.DataFrame({"user_id": [1, 2], "sku": ["007", "a"]})
    path = tmp_path / f"rows{ending}"
    match ending:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".jsonl":
            frame.to_json(path, orient="records", lines=True)
        case _:
            frame.to_parquet(path)
    rows = json.loads(hotfeast("get", "everything", "--rows", str(path), "--json").stdout)
    assert [row["values"]["sku"] for row in rows] == ["007", "a"]
    assert [row["values"]["visits"] for row in rows] == [10, None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["get", "usrs", "user_id=1"], "NOT_FOUND: no feature service 'usrs'; did you mean"),
        (["get", "users", "user_id=x"], "user_id=x: this is no INT64"),
        (["get", "users", "user_id"], "'user_id' must have the form KEY=VALUE"),
        (["get", "users", "user_id=1", "user_id=2"], "'user_id' is given twice"),
        (["get", "users", "--rows", "rows.xlsx"], "must end in .csv, .jsonl"),
        (["get", "users", "--rows", "nowhere.csv"], "nowhere.csv"),
        (["get", "users", "user_id=1", "--token", "x"], "a token is sent over TLS only"),
        (["get", "users", "user_id=1", "--ca", "nowhere.pem"], "nowhere.pem"),
        (["get", "users", "user_id=1", "--json", "--csv"], "give --json or --csv"),
        (["describe", "user_stat"], "did you mean 'user_stats'"),
        (["push", "nowhere", "--rows", __file__], "must end in .csv"),
    ],
)
def test_what_is_wrong_is_told(hotfeast: Any, arguments: list[str], message: str) -> None:
    assert message in hotfeast(*arguments, code=2).stderr


def test_no_gateway_is_told() -> None:
    result = CliRunner().invoke(app, ["services", "--address", "127.0.0.1:1"])
    assert result.exit_code == 2
    assert result.stderr.startswith("hotfeast: UNAVAILABLE: ")


def test_services(hotfeast: Any, strict: Served) -> None:
    result = hotfeast("services")
    lines = {line[0]: line[1:] for line in words(result)}
    assert set(lines) >= {s.name for s in strict.client.feature_services()}
    assert lines["cart_service"][:3] == ["user_id", "cart_value", "2"]
    assert "cannot be served: feature view 'hidden'" in result.stdout
    listed = json.loads(hotfeast("services", "--json").stdout)
    assert listed[0]["name"] == strict.client.feature_services()[0].name


def test_describe(hotfeast: Any) -> None:
    lines = words(hotfeast("describe", "user_stats"))
    assert ["feature", "view", "user_stats"] in lines
    assert ["owner", "users@example.com"] in lines
    assert ["TTL", "2", "days,", "0:00:00"] in lines
    assert ["user_id", "join", "key", "INT64"] in lines
    assert ["visits", "feature", "INT64", "Visits", "so", "far", "unit=visits"] in lines
    lines = words(hotfeast("describe", "cart_service"))
    assert ["feature", "service", "cart_service"] in lines
    assert ["cart_value", "request", "data", "DOUBLE"] in lines
    described = json.loads(hotfeast("describe", "user_stats", "--json").stdout)
    assert [d["kind"] for d in described] == ["feature_view"]


def test_push(hotfeast: Any, strict: Served, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    count = 1001
    frame = pd.DataFrame(
        {
            "user_id": range(5000, 5000 + count),
            "sku": ["007"] * count,
            "score": [0.25] * count,
            "event_timestamp": [datetime.now(UTC).isoformat(timespec="seconds")] * count,
        }
    )
    frame.to_csv(path, index=False)
    done = hotfeast("push", "affinity", "--view", "--rows", str(path))
    assert done.stdout == "affinity: 1,001 written\n"
    read = strict.client.get_online_features(
        ["affinity:score"], {"user_id": [5000, 6000, 6001], "sku": ["007"] * 3}
    )
    assert read.to_dict()["score"] == [0.25, 0.25, None]
    frame.loc[1000, "sku"] = None
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"])
    frame.to_parquet(tmp_path / "rows.parquet")
    some = hotfeast("push", "affinity", "--view", "--rows", str(tmp_path / "rows.parquet"), code=1)
    assert "1 rejected" in some.stdout
    assert "row 1000: " in some.stderr
    none = hotfeast("push", "affinity", "--rows", str(path), code=2)
    assert "push source" in none.stderr
