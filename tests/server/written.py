"""A repository of on-demand views whose results are stored, of every mode and kind of source."""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Float64, Int32, Int64, String, UnixTimestamp
from lake import DAY, START, Lake

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.STRING)
_KEYS = {"user": Field(name="user_id", dtype=Int64), "shop": Field(name="shop_id", dtype=String)}


def _source_view(
    name: str, path: Path, entities: list[Entity], days: int = 0, **types: Any
) -> FeatureView:
    return FeatureView(
        name=name,
        entities=entities,
        ttl=days * DAY,
        schema=[_KEYS[e.name] for e in entities]
        + [Field(name=name, dtype=dtype) for name, dtype in types.items()],
        source=FileSource(path=str(path), timestamp_field="event_timestamp"),
    )


def _written(
    sources: list[Any], mode: str, *fields: Field, **options: Any
) -> Callable[[Callable[..., Any]], Any]:
    decorate: Callable[[Callable[..., Any]], Any] = on_demand_feature_view(
        sources=sources,
        entities=options.pop("entities", [user]),
        schema=list(fields),
        mode=mode,
        write_to_online_store=True,
        **options,
    )
    return decorate


def definitions(folder: Path) -> list[Any]:
    """All that is applied; the files must be there."""
    stats = _source_view(
        "stats", folder / "stats.parquet", [user], amount=Int64, score=Float64, city=String,
        active=Bool, since=UnixTimestamp, recent=Array(Int64),
    )  # fmt: skip
    profile = _source_view(
        "profile", folder / "profile.parquet", [user], level=Int32, score=Float64
    )
    short = _source_view("short", folder / "profile.parquet", [user], days=3, level=Int32)
    visits = _source_view("visits", folder / "visits.parquet", [user, shop], visits=Int64)
    mapped = FeatureView(
        name="mapped",
        entities=[user],
        ttl=timedelta(0),
        schema=[_KEYS["user"], Field(name="clicks", dtype=Int64)],
        source=FileSource(
            path=str(folder / "mapped.parquet"),
            timestamp_field="happened",
            created_timestamp_column="created",
            field_mapping={"n": "clicks"},
        ),
    )
    cart = RequestSource(name="cart", schema=[Field(name="cart_value", dtype=Float64)])

    @_written(
        [stats],
        "pandas",
        Field(name="twice", dtype=Int64),
        Field(name="ratio", dtype=Float64),
        Field(name="label", dtype=String),
        Field(name="often", dtype=Bool),
    )
    def in_pandas(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        if (inputs["amount"] == 13).any():
            raise ZeroDivisionError("planned by the test")
        out = pd.DataFrame()
        out["twice"] = inputs["amount"] * 2
        out["ratio"] = inputs["score"] / inputs["amount"]
        out["label"] = inputs["city"] + "!"
        out["often"] = inputs["amount"] > 3
        if (inputs["amount"] == 14).any():
            return out.drop(columns="often")
        if (inputs["amount"] == 15).any():
            out["twice"] = "much"
        return out

    @_written(
        [stats[["amount", "city", "recent", "since"]]],
        "python",
        Field(name="py_twice", dtype=Int64),
        Field(name="py_city", dtype=String),
        Field(name="py_recent", dtype=Array(Int64)),
    )
    def in_python(inputs: dict[str, Any]) -> dict[str, Any]:
        amounts = [None if a is None or a != a else int(a) for a in inputs["amount"]]
        return {
            "py_twice": [None if a is None else 2 * a for a in amounts],
            "py_city": [c.upper() if isinstance(c, str) else "none" for c in inputs["city"]],
            "py_recent": [[*([] if r is None else r), 1] for r in inputs["recent"]],
        }

    @_written([stats], "python", Field(name="one_label", dtype=String), singleton=True)
    def singleton(inputs: dict[str, Any]) -> dict[str, Any]:
        # As Feast tries it out while applying it, without join keys.
        return {"one_label": [f"{inputs.get('user_id')}/{inputs['city']}"]}

    @_written(
        [stats[["amount", "city"]], profile[["level"]]],
        "pandas",
        Field(name="sum", dtype=Float64),
        Field(name="place", dtype=String),
    )
    def both(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        out = pd.DataFrame()
        out["sum"] = inputs["amount"] * 1.0 + inputs["level"].fillna(-1)
        out["place"] = inputs["city"].fillna("nowhere")
        return out

    @_written([stats[["amount"]], short], "pandas", Field(name="recent_level", dtype=Float64))
    def in_time(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        out = pd.DataFrame()
        out["recent_level"] = inputs["level"] * 1.0
        return out

    @_written([stats[["score"]], profile[["score"]]], "pandas", Field(name="gap", dtype=Float64))
    def one_name(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        out = pd.DataFrame()
        out["gap"] = inputs["stats__score"] - inputs["profile__score"]
        return out

    @_written(
        [stats[["amount"]], visits],
        "pandas",
        Field(name="share", dtype=Float64),
        entities=[user, shop],
    )
    def at_shop(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        out = pd.DataFrame()
        out["share"] = inputs["visits"] / inputs["amount"]
        return out

    @_written([mapped], "pandas", Field(name="more", dtype=Int64))
    def of_mapped(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        out = pd.DataFrame()
        out["more"] = inputs["clicks"] + 1
        return out

    @_written([stats[["amount"]], cart], "pandas", Field(name="asked_share", dtype=Float64))
    def asked(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        out = pd.DataFrame()
        out["asked_share"] = inputs["cart_value"] / inputs["amount"]
        return out

    @_written([cart], "pandas", _KEYS["user"], Field(name="rounded", dtype=Float64))
    def only_asked(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        out = pd.DataFrame()
        out["rounded"] = inputs["cart_value"].round()
        return out

    return [
        user, shop, stats, profile, short, visits, mapped, in_pandas, in_python, singleton, both,
        in_time, one_name, at_shop, of_mapped, asked, only_asked,
        FeatureService(name="written", features=[in_pandas, both]),
    ]  # fmt: skip


def stats_rows(users: int, days: int, seed: int) -> pa.Table:
    """Rows of `stats`: several of each user, no two at one time, with nulls everywhere."""
    rng = random.Random(seed)
    pairs = [(u, d) for u in range(users) for d in rng.sample(range(days), min(days, 3))]
    rng.shuffle(pairs)

    def some(value: Any) -> Any:
        return None if rng.random() < 0.3 else value

    rows = [
        {
            "user_id": u,
            "event_timestamp": START + d * DAY,
            "amount": some(rng.randrange(16, 99)),
            "score": some(rng.uniform(-5, 5)),
            "city": some(rng.choice(["Ulm", "Köln", ""])),
            "active": some(rng.random() < 0.5),
            "since": some(START - d * DAY),
            "recent": some([d, u]),
        }
        for u, d in pairs
    ]
    return pa.Table.from_pylist(rows, STATS)


_TIME = ("event_timestamp", pa.timestamp("us", "UTC"))
STATS = pa.schema(
    [
        ("user_id", pa.int64()), _TIME, ("amount", pa.int64()), ("score", pa.float64()),
        ("city", pa.string()), ("active", pa.bool_()), ("since", pa.timestamp("us", "UTC")),
        ("recent", pa.list_(pa.int64())),
    ]
)  # fmt: skip
PROFILE = pa.schema(
    [("user_id", pa.int64()), _TIME, ("level", pa.int32()), ("score", pa.float64())]
)
VISITS = pa.schema(
    [("user_id", pa.int64()), ("shop_id", pa.string()), _TIME, ("visits", pa.int64())]
)
MAPPED = pa.schema(
    [
        ("user_id", pa.int64()), ("n", pa.int64()), ("happened", pa.timestamp("us", "UTC")),
        ("created", pa.timestamp("us", "UTC")),
    ]
)  # fmt: skip


def newest_rows(table: pa.Table) -> dict[int, dict[str, Any]]:
    """The newest row of each user."""
    rows = sorted(table.to_pylist(), key=lambda row: row["event_timestamp"])
    return {row["user_id"]: row for row in rows}


def day(number: int) -> datetime:
    """The event time of a day, from START on."""
    return START + number * DAY


def fill_files(lake: Lake) -> None:
    """Writes the files of all sources."""
    stats = stats_rows(40, 12, 7)
    lake.write("stats.parquet", stats)
    newest = newest_rows(stats)
    # Some users are in one source only. Where both have one, the newest times agree: of several
    # times Feast leaves any.
    profile = [
        {
            "user_id": user,
            "event_timestamp": (newest[user]["event_timestamp"] if user < 40 else day(5))
            - back * DAY,
            "level": None if user % 5 == 0 else 10 * user + back,
            "score": float(user),
        }
        for user in range(20, 60)
        for back in (1, 0)
    ]
    lake.write("profile.parquet", pa.Table.from_pylist(profile, PROFILE))
    visits = [
        {"user_id": u, "shop_id": s, "event_timestamp": day(12 + d), "visits": d}
        for u, s in ((0, "a"), (0, "b"), (1, "a"), (999, "b"), (None, "b"))
        for d in range(2)
    ]
    lake.write("visits.parquet", pa.Table.from_pylist(visits, VISITS))
    mapped = [
        {"user_id": u, "n": n, "happened": day(1), "created": day(created)}
        for u in range(3) for n, created in ((5, 3), (7, 2))
    ]  # fmt: skip
    lake.write("mapped.parquet", pa.Table.from_pylist(mapped, MAPPED))
