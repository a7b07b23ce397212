"""The main job end to end: raw data to features over gRPC, on this machine.

Data to Parquet, `feast apply`, Redis, materialization, gateway, requests, windows over raw events
beside the batch features, latencies. What is there already is kept: Parquet files of this pipeline,
rows in Redis that were materialized from them, and events that are counted there.

Redis is the one that HOTFEAST_REDIS names (as Feast's connection string: "host:port", options after
commas), else one that is started here and keeps its data in `data/redis`.
"""

import hashlib
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

# Feast first, by its quick import.
import grpc
import pyarrow as pa
import typer
from feast import FeatureStore
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total
from prepare import (
    DAY,
    FIRST_SNAPSHOT,
    LAST_SNAPSHOT,
    prepare,
    print_summary,
    progress_bars,
)
from rich.console import Console
from rich.table import Table
from serving_copy import REDIS_VARIABLE

from bench.measure import Contender, interleave
from bench.processes import Server, echo_method, open_echo
from bench.servers import Prepared
from hotfeast.clients import FeatureClient, HotfeastError, OnlineFeatures
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.materialize import materialize
from hotfeast.server.materialize_report import print_summary as print_materialized
from hotfeast.server.materialize_report import progress_bars as materialize_bars
from hotfeast.server.redis_clients import client_of
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.windows.training import training_set
from hotfeast.serving.v1 import serving_pb2, value_pb2

REPO = Path(__file__).resolve().parent
WINDOWS_REPO = REPO / "windows"
SERVICE = "recommendation"
# The end of the data. Judged at today's clock every row would be years too old.
AS_OF = LAST_SNAPSHOT
METHOD = "/hotfeast.serving.v1.FeatureServing/GetOnlineFeatures"
# Key in Redis that says what was materialized into it.
MARKER = "hotfeast:demo:materialized"

CASES = (
    ("all there", 1453, 1110572),
    ("product too old", 1, 852662),
    ("nulls", 10, 1082185),
    ("unknown", 999_999, 999_999_999),
)
"""What it shows, household, product."""

RANKING_SERVICE = "product_ranking"
RANKING_REQUEST = {
    "cart_value_usd": 42.5,
    "cart_items_count": 9,
    "requested_at": AS_OF,
    "promotion_min_cart_usd": 40.0,
    "promotion_min_baskets_30d": 4,
}
RANKING_COMPUTED = 14
"""How many of its features are computed; they are the last ones."""

WINDOWS_SERVICE, WINDOWS_SOURCE, BATCH_VIEW = (
    "purchase_now",
    "purchase_lines",
    "user_purchase_stats",
)
BATCH_WINDOWS = {
    f"{name}_{days}d"
    for name in ("baskets_count", "units_count", "revenue_usd")
    for days in (7, 30)
}
"""Features that the daily batch view has, too."""
WINDOWS_SHOWN = (1453, 2022)
"""Households of the table: the second one shops in the last hour of the data."""
# How far a window reaches back, its first tile included.
WINDOWS_SPAN = timedelta(days=31)

STATUS_STYLES = {"NULL_VALUE": "yellow", "OUTSIDE_MAX_AGE": "magenta", "NOT_FOUND": "red"}

LATENCY_REQUESTS = 2000
LATENCY_ROUNDS = 20

app = typer.Typer(add_completion=False, help="Hotfeast's demonstration on simulated shopping data.")
console = Console()


@contextmanager
def running_redis() -> Iterator[str]:
    """A Redis for the demo; gives Feast's connection string, which is also put into the
    environment, where feature_store.yaml looks for it."""
    configured = os.environ.get(REDIS_VARIABLE)
    if configured:
        console.print(f"Redis: {configured} ({REDIS_VARIABLE})")
        yield configured
        return
    folder = REPO / "data" / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    with LocalRedis(data_dir=folder) as server:
        console.print(f"Redis: {server.address}, started for this demo ({server.program.name})")
        os.environ[REDIS_VARIABLE] = server.address
        yield server.address


def apply_definitions(repo: Path = REPO) -> FeatureStore:
    """`feast apply`, in this process."""
    # Its files are imported by their names, as if this ran in its folder.
    sys.path.insert(0, str(repo))
    config = load_repo_config(repo, repo / "feature_store.yaml")
    with console.status("feast apply"):
        apply_total(config, repo, skip_source_validation=False)
    return FeatureStore(repo_path=str(repo))


def materialize_features(store: FeatureStore) -> None:
    """Writes the latest rows to Redis, unless that was done from the same data before."""
    client: Any = client_of(connection_pool(store.config, None, timeout=5))
    state = hashlib.sha256((REPO / "data" / "manifest.json").read_bytes())
    for definition in sorted(REPO.glob("**/*.py")):
        state.update(definition.read_bytes())
    if client.get(MARKER) == state.hexdigest().encode():
        console.print("Materialized rows: up to date in Redis")
        return
    started = time.perf_counter()
    with materialize_bars(console) as show:
        summary = materialize(
            store, FIRST_SNAPSHOT - 2 * DAY, LAST_SNAPSHOT + timedelta(seconds=1), progress=show
        )
    seconds = time.perf_counter() - started
    print_materialized(console, summary)
    if summary.exit_code != 0:
        raise typer.Exit(summary.exit_code)
    client.set(MARKER, state.hexdigest())
    rows = sum(view.counts.read for view in summary.views)
    console.print(
        f"{rows:,} rows in {seconds:.1f} s ({rows / seconds:,.0f} a second); "
        f"{client.dbsize() - 1:,} keys in Redis"
    )


@contextmanager
def running_gateway(bind: str, repo: Path = REPO) -> Iterator[str]:
    """`hotfeast serve` for a repository, as of the end of the data; gives its address."""
    host = bind.rpartition(":")[0]
    with (
        console.status("starting the gateway"),
        ExitStack() as stack,
    ):
        server = stack.enter_context(
            Server(
                "hotfeast.server", "serve", "--repo", str(repo), "--bind", bind,
                "--as-of", AS_OF.isoformat(), "--reflection",
                ready=r"(?m)^Hotfeast serves .* on .*:(\d+) .*$",
            )
        )  # fmt: skip
        address = f"{host}:{server.port()}"
        keep = stack.pop_all()
    with keep:
        console.print(f"Gateway: {address}, TTLs judged as of {AS_OF:%Y-%m-%d %H:%M} UTC")
        yield address


@contextmanager
def everything(bind: str) -> Iterator[str]:
    """All that has to be there before requests can be made; gives the gateway's address."""
    with progress_bars(console) as show:
        prepared = prepare(REPO / "data", show)
    print_summary(console, prepared)
    with running_redis():
        materialize_features(apply_definitions())
        with running_gateway(bind) as address:
            yield address


def show_features(client: FeatureClient) -> None:
    """One table: a service's features for known and unknown households and products."""
    answer = client.get_online_features(
        SERVICE,
        {"user_id": [user for _, user, _ in CASES], "product_id": [item for _, _, item in CASES]},
    )
    table = Table(title=f"Feature service '{SERVICE}', by household and product")
    table.add_column("feature", no_wrap=True)
    for (title, user, item), _ in zip(CASES, answer.rows(), strict=True):
        table.add_column(f"{user} /\n{item}\n{title}", justify="right", overflow="fold")
    values, statuses = answer.to_dict(), answer.statuses
    for name in answer.names[2:]:
        cells = [_cell(v, s) for v, s in zip(values[name], statuses[name], strict=True)]
        table.add_row(name, *cells)
    console.print(table)


def _cell(value: Any, status: str) -> str:
    if status != "PRESENT":
        return f"[{STATUS_STYLES[status]}]{status}"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)[:16]


def show_ranking(client: FeatureClient) -> None:
    """What on-demand views make of stored features and of what a request says, for each case."""
    answer = client.get_online_features(
        RANKING_SERVICE,
        {"user_id": [user for _, user, _ in CASES], "product_id": [item for _, _, item in CASES]},
        request_context={name: [value] * len(CASES) for name, value in RANKING_REQUEST.items()},
    )
    said = ", ".join(f"{name} {value}" for name, value in RANKING_REQUEST.items())
    table = Table(title=f"'{RANKING_SERVICE}', computed for {said}")
    table.add_column("feature", no_wrap=True)
    for _, user, item in CASES:
        table.add_column(f"{user} /\n{item}", justify="right")
    values, statuses = answer.to_dict(), answer.statuses
    for name in answer.names[-RANKING_COMPUTED:]:
        cells = [_cell(v, s) for v, s in zip(values[name], statuses[name], strict=True)]
        table.add_row(name, *cells)
    console.print(table)


def show_push(client: FeatureClient) -> None:
    """A push, and the read that follows it: a household that the data does not know goes
    shopping."""
    household = 2_500_001
    counts = {f"{name}_count_{days}d": [1] for name in ("baskets", "units") for days in (7, 30, 90)}
    money = {
        f"{name}_usd_{days}d": [9.5] for name in ("revenue", "avg_basket") for days in (7, 30, 90)
    }
    pushed = client.push(
        {
            "user_id": [household],
            **counts,
            **money,
            "days_since_last_basket": [0],
            "event_timestamp": [AS_OF],
        },
        push_source="user_purchase_stats_push",
    )
    answer = client.get_online_features(
        ["user_purchase_stats:revenue_usd_7d"], {"user_id": [household]}
    )
    read = answer.to_dict()["revenue_usd_7d"][0]
    console.print(
        f"Push for household {household}: {', '.join(pushed.outcomes)}; "
        f"then revenue_usd_7d reads {read}"
    )


def show_windows(batch: FeatureClient) -> None:
    """One table: windows over raw events, pushed line by line, beside what the daily batch view
    serves and what the training set has.

    Args:
        batch: A client of the demo's gateway.
    """
    import polars as pl
    from windows.purchase_events import purchase_lines, write_lines

    lines = purchase_lines().filter(
        pl.col("event_timestamp").is_between(AS_OF - WINDOWS_SPAN, AS_OF, closed="right")
    )
    late = lines.filter(pl.col("event_timestamp") > AS_OF - timedelta(hours=1))
    users = sorted({*late["user_id"], *(user for _, user, _ in CASES)})
    lines = lines.filter(pl.col("user_id").is_in(users))
    write_lines(lines, WINDOWS_REPO)
    store = apply_definitions(WINDOWS_REPO)
    with (
        running_gateway("127.0.0.1:0", WINDOWS_REPO) as address,
        FeatureClient(address) as client,
    ):
        pushed = client.push(lines.to_arrow(), push_source=WINDOWS_SOURCE)
        answer = client.get_online_features(WINDOWS_SERVICE, {"user_id": users})
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in pushed.counts.items())
    console.print(f"{len(pushed):,} purchases of {len(users)} households as events: {counts}")
    times = pa.array([AS_OF] * len(users), pa.timestamp("us", "UTC"))
    trained = training_set(
        store, pa.table({"user_id": users, "event_timestamp": times}), WINDOWS_SERVICE
    )
    names = answer.names[1:]
    both = [name for name in names if name in BATCH_WINDOWS]
    daily = batch.get_online_features(
        [f"{BATCH_VIEW}:{name}" for name in both], {"user_id": users}
    ).to_dict()
    served = answer.to_dict()
    table = Table(title=f"'{WINDOWS_SERVICE}', windows over raw events as of {AS_OF:%Y-%m-%d}")
    table.add_column("feature", no_wrap=True)
    for user in WINDOWS_SHOWN:
        for column in ("served", "daily batch", "training set"):
            table.add_column(f"{user}\n{column}", justify="right")
    different = 0
    for name in names:
        offline = trained[name].to_pylist()
        different += sum(not _same(*pair) for pair in zip(served[name], offline, strict=True))
        if name in both:
            # Who has bought nothing has no row here, and zeros in the daily one.
            pairs = zip(served[name], daily[name], strict=True)
            different += sum(not _same(ours or 0, theirs or 0) for ours, theirs in pairs)
        cells = []
        for row in map(users.index, WINDOWS_SHOWN):
            cells.append(_cell(served[name][row], answer.statuses[name][row]))
            cells.append(_cell(daily[name][row], "PRESENT") if name in both else "")
            cells.append(_cell(offline[row], "NULL_VALUE" if offline[row] is None else "PRESENT"))
        table.add_row(name, *cells)
    console.print(table)
    console.print(
        f"Of {len(users) * len(names)} values beside the training set and {len(users) * len(both)} "
        f"beside the daily batch view, {different} differ."
    )


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two values are one; sums of fractions may be added up in another order."""
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-12)
    return bool(ours == theirs)


def show_refusals(client: FeatureClient) -> None:
    """What a caller who errs is told."""
    mistakes: list[tuple[str, dict[str, list[Any]]]] = [
        ("recomendation", {"user_id": [1], "product_id": [1]}),
        (SERVICE, {"user_id": [1]}),
        (SERVICE, {"user_id": ["one"], "product_id": [1]}),
    ]
    for service, entities in mistakes:
        try:
            client.get_online_features(service, entities)
        except HotfeastError as error:
            console.print(f"  {service} {entities} → [yellow]{error}")


def request_bytes(users: list[int], products: list[int]) -> bytes:
    """A serialized request for the service."""
    columns = {"user_id": users, "product_id": products}
    request = serving_pb2.GetOnlineFeaturesRequest(feature_service=SERVICE)
    for name, ids in columns.items():
        request.entities[name].CopyFrom(
            value_pb2.RepeatedValue(val=[value_pb2.Value(int64_val=i) for i in ids])
        )
    return bytes(request.SerializeToString())


@contextmanager
def echo_of(answers: list[bytes]) -> Iterator[Callable[[bytes], bytes]]:
    """A gRPC server that answers with these bytes in turn; gives a call of it."""
    with tempfile.TemporaryDirectory(prefix="hotfeast-demo-") as folder:
        prepared = {"Demo": [Prepared(answer, None) for answer in answers]}
        with (
            open_echo(Path(folder), prepared) as port,
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            yield partial(channel.unary_unary(echo_method("Demo")), timeout=30)


def show_latencies(address: str) -> None:
    """p50 and p99 beside an echo: the same bytes from the same kind of server, with no work."""
    import polars as pl

    pairs = pl.read_parquet(REPO / "data" / "user_product_interactions.parquet")
    latest = pairs.filter(pl.col("event_timestamp") == LAST_SNAPSHOT).sort("user_id", "product_id")
    users = latest["user_id"].to_list()
    products = latest["product_id"].unique(maintain_order=True).to_list()
    table = Table(title=f"{LATENCY_REQUESTS:,} requests one after another, milliseconds")
    for column in ("rows", "features", "gateway p50", "p99", "echo p50", "p99"):
        table.add_column(column, justify="right")
    channel = grpc.insecure_channel(address)
    call: Callable[[bytes], bytes] = partial(channel.unary_unary(METHOD), timeout=30)
    for rows in (1, 100):
        # A household and candidate products for it, as a recommender asks.
        ring = [
            request_bytes(
                [users[i * 37 % len(users)]] * rows,
                [products[(i * 101 + j) % len(products)] for j in range(rows)],
            )
            for i in range(100)
        ]
        answers = [call(request) for request in ring]
        first = OnlineFeatures(answers[0])
        features = len(first.names) - 2
        with echo_of(answers) as echo:
            calls = LATENCY_REQUESTS // LATENCY_ROUNDS
            measured = interleave(
                [Contender("gateway", call, ring, calls), Contender("echo", echo, ring, calls)],
                LATENCY_ROUNDS,
            )
        ours, floor = measured["gateway"], measured["echo"]
        figures = (ours.p50_ms, ours.p99_ms, floor.p50_ms, floor.p99_ms)
        table.add_row(str(rows), str(features), *(f"{figure:.2f}" for figure in figures))
    channel.close()
    console.print(table)


@app.command()
def run() -> None:
    """Everything from raw data to answered requests; stops what it started."""
    started = time.perf_counter()
    with everything("127.0.0.1:0") as address, FeatureClient(address) as client:
        show_features(client)
        show_ranking(client)
        show_push(client)
        show_windows(client)
        console.print("Errors name what is wrong:")
        show_refusals(client)
        show_latencies(address)
    console.print(
        f"Done in {time.perf_counter() - started:.0f} s. [bold]make serve[/] keeps it up."
    )


@app.command()
def serve(
    bind: Annotated[str, typer.Option(help="Address of the gateway.")] = "127.0.0.1:6570",
) -> None:
    """The demo's gateway until Ctrl-C, with two ways to try it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with everything(bind) as address:
        _, user, item = CASES[0]
        console.print("\nWith grpcurl:\n", style="bold")
        console.print(
            "grpcurl -plaintext -d "
            f'\'{{"feature_service": "{SERVICE}", "entities": '
            f'{{"user_id": {{"val": [{{"int64_val": {user}}}]}}, '
            f'"product_id": {{"val": [{{"int64_val": {item}}}]}}}}}}\' '
            f"{address} hotfeast.serving.v1.FeatureServing/GetOnlineFeatures",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
        console.print("\nWith Python (.venv/bin/python):\n", style="bold")
        console.print(
            "from hotfeast.clients import FeatureClient\n\n"
            f'client = FeatureClient("{address}")\n'
            f'answer = client.get_online_features("{SERVICE}", '
            f'{{"user_id": [{user}], "product_id": [{item}]}})\n'
            "print(answer.to_dict())",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
        console.print("\nCtrl-C stops it.")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            console.print("Stopping.")


if __name__ == "__main__":
    app()
