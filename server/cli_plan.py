"""`hotfeast plan`: what a feature service reads and computes, as tables."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hotfeast.server.errors import RequestFailure, StartFailure
from hotfeast.server.kernels import KernelMaker
from hotfeast.server.plan import OnDemandRead, ServingPlan, plan_service
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.registry import RegistryReader
from hotfeast.server.repo_files import load_repo_views
from hotfeast.server.repository import open_repository, reading_registry
from hotfeast.server.stored_rows import StoredRows

# Seconds to connect to Redis, and for each of its answers.
_REDIS_TIMEOUT = 1.0


def show_plan(
    repo: Path,
    service: str,
    console: Console,
    redis_url: str | None = None,
    from_repo: bool = False,
) -> None:
    """Prints the plan of a feature service. Of Redis only a sample of rows is read, to prove
    kernels on; it need not be there.

    Args:
        repo: Folder with `feature_store.yaml`.
        service: The feature service.
        console: Where to print.
        redis_url: Used instead of the repository's connection string.
        from_repo: Whether functions come from the repository's files instead of the registry.

    Raises:
        StartFailure: The repository or its registry cannot be read, or the service cannot be
            served.
    """
    store = open_repository(repo)
    pool = connection_pool(store.config, redis_url, _REDIS_TIMEOUT)
    with reading_registry(repo):
        reader = RegistryReader(store, load_repo_views(repo) if from_repo else None)
        definitions = reader.define(reader.read())
    try:
        try:
            plan = plan_service(definitions, service, full_feature_names=False)
        except RequestFailure:
            # Short names may clash where full ones do not.
            plan = plan_service(definitions, service, full_feature_names=True)
    except RequestFailure as failure:
        raise StartFailure(failure.message) from failure
    plan = KernelMaker(StoredRows(pool)).prepare(definitions, plan)
    pool.disconnect()
    console.print(_reads(plan))
    if plan.on_demand:
        console.print(_computes(plan))


def _reads(plan: ServingPlan) -> Table:
    table = Table(title="Reads from Redis", title_justify="left")
    for heading in ("view", "join keys", "features", "TTL"):
        table.add_column(heading, overflow="fold")
    definition = plan.compiled.definition
    for view in definition.views:
        recipe = definition.recipes[view.recipe]
        keys = ", ".join(definition.join_keys[slot].name for _, slot in recipe.parts)
        ttl = f"{view.ttl_seconds:g} s" if view.ttl_seconds else "none"
        names = ", ".join(feature.output_name for feature in view.features)
        table.add_row(Text(view.name), Text(keys or "none"), Text(names), ttl)
    return table


def _computes(plan: ServingPlan) -> Table:
    table = Table(title="Computes", title_justify="left")
    for heading in ("on-demand view", "features", "inputs", "by", "why"):
        table.add_column(heading, overflow="fold")
    for read in plan.on_demand:
        by = "Python" if read.kernel is None else "kernel"
        table.add_row(
            Text(read.view.name),
            Text(", ".join(read.projection.features)),
            Text(_inputs(read)),
            by,
            Text(_why(read)),
        )
    return table


def _inputs(read: OnDemandRead) -> str:
    if read.kernel is not None:
        return ", ".join(name for name, _ in read.kernel.inputs) or "none"
    names = [name for source in read.view.sources for name in source.features]
    names += [field.name for field in read.view.request_fields]
    return f"all of {', '.join(names)}"


def _why(read: OnDemandRead) -> str:
    if read.kernel is None:
        return read.kernel_refusal
    assert read.proved is not None
    count = read.kernel.case_count
    text = (
        f"proved equal to pandas in {count} {'case' if count == 1 else 'cases'}, "
        f"on {read.proved.generated:,} generated and {read.proved.stored:,} stored rows"
    )
    return f"{text} (no stored rows sampled: {read.proved.note})" if read.proved.note else text
