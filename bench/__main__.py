"""`python -m bench`: see the package."""

import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.data import ENTITIES, LAYOUTS, MANY_ENTITIES, Layout

app = typer.Typer(
    help="Benchmarks of the gateway, side by side with Feast and with a floor of grpcio and Redis.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
console = Console(log_path=False)

Entities = Annotated[
    int, typer.Option(min=1000, help="Entities in Redis; a request takes up to 1,000 of them.")
]


@app.callback()
def _root() -> None:
    # So that `with` blocks stop the servers on a SIGTERM, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    warnings.simplefilter("ignore")


@app.command()
def stages() -> None:
    """Each stage of the hot path on its own, in nanoseconds per row and per value."""
    from bench.stages import run, stage_table

    try:
        results = run()
    except subprocess.CalledProcessError as error:
        raise typer.Exit(error.returncode) from None
    console.print(stage_table(results))


@app.command()
def counts(
    update: Annotated[bool, typer.Option("--update", help="Keep the counts of this run.")] = False,
) -> None:
    """Instructions of each stage, beside those that are kept; exit code 1 past 3% more."""
    from bench import counts as gate

    try:
        counted = gate.count()
        if update:
            gate.update(counted)
        comparisons, toolchain = gate.compare(counted, gate.read())
    except gate.CannotCount as error:
        console.print(f"bench: {error}", style="bold red", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    console.print(gate.table(comparisons))
    if toolchain != counted.toolchain:
        console.print(
            f"{gate.FILE.name} has no counts for {counted.toolchain}: held against {toolchain}, "
            f"within {gate.TOLERANCE_ACROSS_TOOLCHAINS:.0%}. {gate.UPDATE} adds them.",
            style="yellow", highlight=False, soft_wrap=True,
        )  # fmt: skip
    if not all(comparison.passed for comparison in comparisons):
        console.print(f"Meant to be so? {gate.UPDATE}", highlight=False)
        raise typer.Exit(1)


@app.command()
def full(
    entities: Annotated[
        int, typer.Option(min=1000, help="Entities in Redis: 100,000 take 2.5 GiB.")
    ] = MANY_ENTITIES,
    layouts: Annotated[
        list[Layout] | None,
        typer.Option("--layout", help="Again for each; feast and packed unless given."),
    ] = None,
) -> None:
    """Reads, from every side, beside Feast and the floor; exit code 1 past a budget.

    Tables, pictures and JSON in bench/out.
    """
    from bench.full import run
    from bench.verdict import verdict_table

    try:
        text, verdicts = run(entities, layouts or list(LAYOUTS), console.log)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--layout") from error
    print(text)
    console.print(verdict_table(verdicts, "Budgets"))
    if not all(verdict.kept for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def quick(entities: Entities = ENTITIES) -> None:
    """Every budget with its verdict; exit code 1 past one."""
    from bench.quick import latency_table, run
    from bench.verdict import verdict_table

    results, verdicts = run(entities, console.log)
    console.print(latency_table(results))
    console.print()
    console.print(verdict_table(verdicts, "Budgets; ratios of p50, floor = echo + raw read"))
    if not all(verdict.kept for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def read_modes(entities: Entities = ENTITIES) -> None:
    """The costs that the gateway's choice between HMGET and HGETALL rests on."""
    from bench.data import Rows
    from bench.read_modes import measure, table

    console.print(table(measure(Rows.make(entities), console.log)))


@app.command()
def service_rows(entities: Entities = ENTITIES) -> None:
    """What one field for all views of a feature service would gain over one a view."""
    from bench.service_rows import run, table

    console.print(table(run(entities, console.log)))


@app.command()
def packed_forms() -> None:
    """What other forms of packed rows would take of Redis' memory."""
    from bench.packed_forms import measure, table

    console.print(table(measure()))


@app.command()
def shared_reads(entities: Entities = ENTITIES) -> None:
    """Requests in flight on connections of their own, and in one pipeline."""
    from bench.shared_reads import run, table

    console.print(table(run(entities, console.log)))


@app.command()
def reload(
    entities: Entities = ENTITIES,
    rounds: Annotated[int, typer.Option(min=1, help="How often the four changes are made.")] = 2,
) -> None:
    """Latency around changes of definitions, at 1,000 requests a second, with a picture."""
    from bench.reload import run, table

    console.print(table(run(entities, rounds, console.log)))


@app.command()
def rolling(
    times: Annotated[int, typer.Option(min=1, help="How often each is done.")] = 5,
    workers: Annotated[int, typer.Option(min=1, help="Of each gateway.")] = 2,
) -> None:
    """Workers and gateways replaced under load: exit code 1 if a call fails."""
    from bench.rolling import run, table

    parts, verdicts = run(times, workers, console.log)
    console.print(table(parts))
    for part in parts:
        for why, count in part.failed.items():
            console.print(f"{count} x {why}", style="red", highlight=False)
    if not all(verdict.kept for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def soak(
    minutes: Annotated[float, typer.Option(min=1, help="How long.")] = 30.0,
) -> None:
    """Mixed load for long: exit code 1 if memory, descriptors or threads rise, or a call fails."""
    from bench.soak import run, table
    from bench.verdict import verdict_table

    courses, verdicts = run(minutes, console.log)
    console.print(table(courses))
    console.print(verdict_table(verdicts, "Soak; what the lines rise by"))
    if not all(verdict.kept for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def cache(
    entities: Annotated[int, typer.Option(min=1000, help="Entities in Redis.")] = 10 * ENTITIES,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each gateway has.")] = 20,
) -> None:
    """Requests for popular entities with and without a cache: hit rate, p50 and p99."""
    from bench.cache import run, table

    console.print(table(run(entities, rounds, console.log)))


@app.command()
def cluster(
    entities: Annotated[int, typer.Option(min=200, help="Entities in Redis.")] = ENTITIES,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each gateway has.")] = 20,
) -> None:
    """Requests of 100 rows from three masters, beside one server."""
    from bench.cluster import run, table

    console.print(table(run(entities, rounds, console.log)))


@app.command()
def client(
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each contender has.")] = 10,
) -> None:
    """What the Python client makes of answers, beside Feast's SDK, and what it adds to a call."""
    from bench.client import run, table

    console.print(table(run(rounds, console.log)))


@app.command()
def score(
    rows: Annotated[int, typer.Option(min=1000, help="Rows that are scored in one pass.")] = (
        1_000_000
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each contender has.")] = 40,
) -> None:
    """Many rows over one stream, beside unary calls and the SDK; exit code 1 if memory grows."""
    from bench.score import run, tables
    from bench.verdict import verdict_table

    results, verdicts = run(rows, rounds, console.log)
    for table in tables(results):
        console.print(table)
    console.print(verdict_table(verdicts, "Memory of a pass over all rows"))
    if not all(verdict.kept for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def tls(
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each contender has.")] = 10,
) -> None:
    """What TLS and the look at a caller's token cost, by either server."""
    from bench.tls import run, table

    console.print(table(run(rounds, console.log)))


@app.command()
def transforms() -> None:
    """What on-demand views add to a request, beside Feast's SDK; exit code 1 past a budget."""
    from bench.transforms import run, table

    results = run(console.log)
    console.print(table(results))
    if not all(added.kept for added in results):
        raise typer.Exit(1)


@app.command()
def slow_transforms(
    entities: Entities = ENTITIES,
    rounds: Annotated[int, typer.Option(min=1, help="How often each function is measured.")] = 3,
) -> None:
    """Plain requests beside on-demand views that take 5 ms; exit code 1 past the budget."""
    from bench.slow_transforms import LONGEST_P99_MS, run, table

    results = run(entities, rounds, console.log)
    console.print(table(results))
    if max(result.p99_ms for result in results) > LONGEST_P99_MS:
        raise typer.Exit(1)


@app.command()
def monitoring(
    entities: Entities = ENTITIES,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each gateway has.")] = 60,
) -> None:
    """What watching the features costs a request; exit code 1 past a budget."""
    from bench.monitoring import run
    from bench.verdict import verdict_table

    _, verdicts = run(entities, rounds, console.log)
    console.print(verdict_table(verdicts, "Monitoring; ratios to a gateway without it"))
    if not all(verdict.kept for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def aliases(
    entities: Entities = ENTITIES,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each contender has.")] = 60,
    seconds: Annotated[
        float, typer.Option(min=4.0, help="How long each share is in force, under load.")
    ] = 20.0,
) -> None:
    """What aliases cost, and changes of shares under load; exit code 1 past a budget."""
    from bench.aliases import run, table
    from bench.verdict import verdict_table

    steps, verdicts = run(entities, rounds, seconds, console.log)
    console.print(table(steps))
    console.print(verdict_table(verdicts, "Aliases; ratios to a gateway without them"))
    if not all(verdict.kept for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def chaos(
    only: Annotated[
        list[str] | None, typer.Argument(help="Words of the faults' names; all unless given.")
    ] = None,
) -> None:
    """Faults of Redis, links, workers, clock and machine under load; exit code 1 where an answer
    was wrong, an acknowledged push was lost or the gateway did not recover.
    """
    from bench.chaos.run import run, table

    trials = run(only or [], console.log)
    console.print(table(trials))
    for trial in trials:
        for example in trial.examples:
            console.print(f"{trial.name}: {example}", highlight=False)
    if not all(trial.kept for trial in trials):
        raise typer.Exit(1)


@app.command()
def overload(
    rows: Annotated[
        list[int] | None, typer.Option(help="Rows of a request; 1 and 100 unless given.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each point is measured.")] = 3,
) -> None:
    """Goodput and p99 at up to 10 times what can be answered; exit code 1 past a budget.

    Tables, a picture and JSON in bench/out.
    """
    from bench.overload import NoCompiler, run, table
    from bench.verdict import verdict_table

    try:
        points, verdicts = run(rows or [1, 100], rounds, console.log)
    except NoCompiler as error:
        typer.echo(f"bench: {error}", err=True)
        raise typer.Exit(2) from None
    console.print(table(points))
    console.print(verdict_table(verdicts, "Beyond capacity"))
    if not all(verdict.kept for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def writes(
    parts: Annotated[
        list[str] | None, typer.Argument(help="materialize, push, mixed; all unless given.")
    ] = None,
) -> None:
    """Materialization, pushes, and both beside reads; exit code 1 past a budget."""
    from bench.verdict import verdict_table
    from bench.writes import PARTS, notes, run

    chosen = parts or list(PARTS)
    if unknown := sorted(set(chosen) - set(PARTS)):
        raise typer.BadParameter(f"there is no part {unknown[0]!r}", param_hint="PARTS")
    verdicts = run(chosen, console.log)
    console.print(verdict_table(verdicts, "Writes"))
    for note in notes(verdicts):
        console.print(note, style="dim", highlight=False)
    if not all(verdict.kept for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def faults() -> None:
    """Which alerts fire for faults in the demonstration's data, and which in its year without any;
    exit code 1 where a fault is missed, or fires others.
    """
    from bench.faults import fault_table, month_table, run

    results, months = run(console.log)
    console.print(fault_table(results))
    console.print(month_table(months))
    if not all(result.passed for result in results):
        raise typer.Exit(1)


@app.command()
def fault_pictures(
    folder: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("docs/faults"),
) -> None:
    """Pictures of the report's page with each of these faults; needs Chromium."""
    from bench.chromium import NoChromium
    from bench.fault_pictures import take_pictures

    try:
        take_pictures(folder, console.log)
    except NoChromium as error:
        typer.echo(f"bench: no pictures: {error}", err=True)
        raise typer.Exit(2) from None


@app.command()
def windows(
    times: Annotated[int, typer.Option(min=2, help="Times that are asked about.")] = 1000,
    users: Annotated[int, typer.Option(min=1, help="Households at each of them.")] = 100,
    households: Annotated[
        int | None, typer.Option(min=100, help="Of the data; all unless given.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Turns of reading.")] = 30,
) -> None:
    """Windows over the year of purchases: served beside trained, and beside rows that are stored;
    exit code 1 where a value differs or a budget is missed."""
    from bench.verdict import verdict_table
    from bench.windows import run, table

    results, verdicts = run(times, users, households, rounds, console.log)
    console.print(table(results))
    console.print(verdict_table(verdicts, "Windowed features"))
    if not all(verdict.kept for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def drift_alarms(
    rows: Annotated[
        int, typer.Option(min=400, help="Rows of each view and month at most.")
    ] = 50_000,
    seed: Annotated[int, typer.Option(help="Of drawing them.")] = 1,
) -> None:
    """How often drift is called in the demonstration's year, which nobody has touched."""
    from bench.drift_alarms import run, tables

    for table in tables(run(rows, seed, console.log)):
        console.print(table)


if __name__ == "__main__":
    app()
