"""`hotfeast doctor`: what a Redis is set to and what it holds, and what would be better.

Of the server in question only settings and a sample of entities are read. What each layout would
take is not estimated but measured: the sampled entities are copied to a server of our own with the
same settings, put into each layout there, and asked for their size.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import redis

from hotfeast.hotpath.definition import LAYOUTS, WriteDefinition
from hotfeast.server.doctor_shape import examine_shape
from hotfeast.server.entity_keys import EntityKeys
from hotfeast.server.errors import RequestFailure, StartFailure
from hotfeast.server.findings import ADVICE, FINE, PROBLEM, Finding
from hotfeast.server.key_samples import sample_keys
from hotfeast.server.layouts import schemas_key
from hotfeast.server.local_redis import LocalRedis, NoRedisServer
from hotfeast.server.plan import ServingPlan, plan_service
from hotfeast.server.read_modes import FIELD_COST, SCAN_COST, WHOLE_COST
from hotfeast.server.redis_clients import (
    REDIS_ERRORS,
    Pool,
    answering_clients_of,
    client_of,
    version_of,
)
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.registry import Definitions, read_definitions
from hotfeast.server.repack import repack_views, stored_views
from hotfeast.server.repository import open_repository, reading_registry

# Seconds to connect, and for each answer.
_TIMEOUT = 5.0
SAMPLE = 50
"""Entities of each combination of join keys that are looked at."""
LISTPACK_VALUE = 1024
"""What `hash-max-listpack-value` should be for packed rows, in bytes."""
_VALUE_SETTINGS = ("hash-max-listpack-value", "hash-max-ziplist-value")
_ENTRY_SETTINGS = ("hash-max-listpack-entries", "hash-max-ziplist-entries")


@dataclass(frozen=True, slots=True)
class Entities:
    """What a sample of entities with the same join keys is like.

    Attributes:
        join_keys: Their names; none for views without entities.
        sampled: How many were looked at.
        fields: Median number of hash fields.
        encodings: How many hashes Redis holds in which way.
        bytes_now: Mean bytes of an entity, as the server itself says.
        bytes_by_layout: Mean bytes in each layout with the server's settings; and under
            `packed, lists` with `hash-max-listpack-value` raised. Empty where there is no server
            program to measure with, or what is known of packed rows is on a node that is lost.
    """

    join_keys: tuple[str, ...]
    sampled: int
    fields: int
    encodings: dict[str, int]
    bytes_now: float
    bytes_by_layout: dict[str, float]


@dataclass(frozen=True, slots=True)
class ServiceCost:
    """What reading one entity of a feature service costs Redis, in microseconds by the cost model
    of `hotfeast.server.read_modes`: for comparison with each other.

    Attributes:
        service: Its name.
        fields: Hash fields that are asked for in Feast's layout.
        by_field: With HMGET of Feast's fields.
        whole: With HGETALL.
        packed: With packed rows.
    """

    service: str
    fields: int
    by_field: float
    whole: float
    packed: float


@dataclass
class Report:
    """All that was found.

    Attributes:
        findings: About the server.
        entities: About what it holds.
        services: About what reading it costs.
    """

    findings: list[Finding] = field(default_factory=list)
    entities: list[Entities] = field(default_factory=list)
    services: list[ServiceCost] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """1 where there is a problem, else 0."""
        return 1 if any(finding.kind == PROBLEM for finding in self.findings) else 0


def examine(repo: Path, redis_url: str | None = None) -> Report:
    """Looks at the Redis of a repository.

    Args:
        repo: Folder with `feature_store.yaml`.
        redis_url: Used instead of the repository's connection string.

    Raises:
        StartFailure: The repository or its registry cannot be read, or Redis not be reached.
    """
    store = open_repository(repo)
    with reading_registry(repo):
        definitions = read_definitions(store)
    pool = connection_pool(store.config, redis_url, _TIMEOUT)
    try:
        client = client_of(pool)
        nodes = answering_clients_of(pool)
        report = Report()
        report.findings += examine_shape(pool)
        settings: dict[str, str] = {}
        for node in nodes:
            settings = _settings(node, report)
            found = _server(node.info(), settings)
            if len(nodes) > 1:
                address = "{host}:{port}".format(**node.connection_pool.connection_kwargs)
                found = (replace(each, what=f"{address}: {each.what}") for each in found)
            report.findings += found
        schemas = _recorded(pool, definitions.project)
        for join_keys, views in _by_join_keys(definitions).items():
            entities = _look(client, nodes, definitions, join_keys, views, settings, schemas)
            if entities is not None:
                report.entities.append(entities)
        report.findings += _hashes(report.entities, settings)
        report.services += _services(definitions, report.entities)
        return report
    except REDIS_ERRORS as error:
        raise StartFailure(f"Redis cannot be examined: {error}") from error
    finally:
        pool.disconnect()


def _settings(client: Any, report: Report) -> dict[str, str]:
    try:
        return dict(client.config_get("*"))
    except redis.RedisError as error:
        report.findings.append(
            Finding(
                ADVICE,
                f"its settings cannot be read ({error})",
                "allow the user CONFIG GET, or compare the advice with your provider's console",
            )
        )
        return {}


def _text(settings: dict[Any, Any], *names: str) -> str | None:
    """A setting by the first of its names that the server knows."""
    for name in names:
        for key in (name, name.encode()):
            if key in settings:
                value = settings[key]
                return value.decode() if isinstance(value, bytes) else str(value)
    return None


def _server(info: dict[str, Any], settings: dict[str, str]) -> Iterator[Finding]:
    yield Finding(FINE, version_of(info))
    policy = _text(settings, "maxmemory-policy") or info.get("maxmemory_policy")
    limit = int(info.get("maxmemory", 0))
    if policy not in (None, "noeviction"):
        yield Finding(
            PROBLEM,
            f"maxmemory-policy is {policy}: rows are dropped without a word when memory is short, "
            "and their entities are then NOT_FOUND",
            "set it to noeviction, so that writes fail and somebody is told",
        )
    elif limit == 0:
        yield Finding(
            ADVICE,
            "maxmemory is not set: a full machine kills the server",
            "set it to what the machine can spare, with maxmemory-policy noeviction",
        )
    else:
        used = int(info.get("used_memory", 0))
        kind = PROBLEM if used > 0.9 * limit else FINE
        yield Finding(
            kind,
            f"{used / 2**20:,.0f} of {limit / 2**20:,.0f} MiB are used",
            "raise maxmemory, or put rows into the packed layout" if kind == PROBLEM else "",
        )
    evicted = int(info.get("evicted_keys", 0))
    if evicted:
        yield Finding(
            PROBLEM, f"{evicted:,} keys have been evicted since it started", "materialize again"
        )
    threads = _text(settings, "io-threads")
    if threads == "1":
        yield Finding(
            ADVICE,
            "io-threads is 1: one thread reads, works and writes",
            "on four cores or more, io-threads 2 to 4 lets replies of many rows be written beside "
            "the next request's work; on fewer leave it",
        )
    swapped = int(info.get("used_memory_rss", 0)) < 0.8 * int(info.get("used_memory", 1))
    if swapped and int(info.get("used_memory", 0)) > 2**26:
        yield Finding(
            PROBLEM,
            "part of its memory is swapped out",
            "give the machine memory, or turn swap off",
        )


def _by_join_keys(definitions: Definitions) -> dict[tuple[str, ...], list[WriteDefinition]]:
    """How views are stored, by the join keys of their entities."""
    found: dict[tuple[str, ...], list[WriteDefinition]] = {}
    for view in definitions.views.values():
        if view.stored and view.online and view.features:
            for write in stored_views(definitions, view):
                found.setdefault(tuple(name for name, _ in write.join_keys), []).append(write)
    return found


def _recorded(pool: Pool, project: str) -> dict[bytes, bytes] | None:
    """What is recorded of packed rows; None where it is on a node of a cluster that is lost."""
    try:
        return dict(client_of(pool).hgetall(schemas_key(project)))
    except REDIS_ERRORS:
        if isinstance(pool, redis.ConnectionPool):
            raise
        return None


def _look(
    client: Any,
    nodes: Sequence[Any],
    definitions: Definitions,
    join_keys: tuple[str, ...],
    views: Sequence[WriteDefinition],
    settings: dict[str, str],
    schemas: dict[bytes, bytes] | None,
) -> Entities | None:
    """Looks at some entities; None where there are none."""
    entities = EntityKeys(join_keys, definitions.project)
    keys = sample_keys(
        nodes,
        lambda found: [key for key in found if entities.read(key) is not None],
        SAMPLE,
        _type="hash",
    )
    if not keys:
        return None
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.object("ENCODING", key)
        pipeline.memory_usage(key)
        pipeline.hgetall(key)
    answers = pipeline.execute()
    encodings: dict[str, int] = {}
    for encoding in answers[0::3]:
        name = encoding.decode() if isinstance(encoding, bytes) else str(encoding)
        encodings[name] = encodings.get(name, 0) + 1
    hashes = {key: stored for key, stored in zip(keys, answers[2::3], strict=True) if stored}
    return Entities(
        join_keys,
        len(keys),
        int(statistics.median(len(stored) for stored in hashes.values())) if hashes else 0,
        encodings,
        statistics.fmean(size or 0 for size in answers[1::3]),
        {} if schemas is None else _measure(definitions.project, hashes, schemas, views, settings),
    )


def _measure(
    project: str,
    hashes: dict[bytes, dict[bytes, bytes]],
    schemas: dict[bytes, bytes],
    views: Sequence[WriteDefinition],
    settings: dict[str, str],
) -> dict[str, float]:
    """Mean bytes of the entities in each layout."""
    entries = _text(settings, *_ENTRY_SETTINGS) or "512"
    value = _text(settings, *_VALUE_SETTINGS) or "64"
    sizes: dict[str, float] = {}
    try:
        for name, layout, limit in (
            *((layout, layout, value) for layout in LAYOUTS),
            (f"{LAYOUTS[-1]}, lists", LAYOUTS[-1], str(max(int(value), LISTPACK_VALUE))),
        ):
            # Older names, which newer servers know, too.
            options = ("--hash-max-ziplist-entries", entries, "--hash-max-ziplist-value", limit)
            with LocalRedis(*options) as server:
                local: Any = server.client()
                if schemas:
                    local.hset(schemas_key(project), mapping=schemas)
                for key, stored in hashes.items():
                    local.hset(key, mapping=stored)
                pool = redis.ConnectionPool.from_url(server.url)
                repack_views(pool, views, layout)
                pool.disconnect()
                # Redis does not turn a table back into a list: each hash is made anew.
                for key in hashes:
                    whole = local.hgetall(key)
                    local.delete(key)
                    local.hset(key, mapping=whole)
                sizes[name] = statistics.fmean(local.memory_usage(key) for key in hashes)
    except NoRedisServer:
        return {}
    return sizes


def _hashes(entities: Sequence[Entities], settings: dict[str, str]) -> Iterator[Finding]:
    """What the settings of hashes mean for what is stored."""
    value = int(_text(settings, *_VALUE_SETTINGS) or 64)
    for each in entities:
        of = ", ".join(each.join_keys) or "views without entities"
        lists = sum(n for name, n in each.encodings.items() if name in ("listpack", "ziplist"))
        if lists and each.fields > 128:
            yield Finding(
                ADVICE,
                f"entities of {of}: hashes of {each.fields} fields are lists, which Redis searches "
                "from the start for each field that is asked for",
                "put rows into the packed layout (hotfeast repack); or, with Feast's layout, set "
                f"{_ENTRY_SETTINGS[0]} to 64, for several times the memory",
            )
        now = each.bytes_by_layout.get(LAYOUTS[-1])
        raised = each.bytes_by_layout.get(f"{LAYOUTS[-1]}, lists")
        if now is not None and raised is not None and raised < 0.9 * now:
            yield Finding(
                ADVICE,
                f"entities of {of}: a packed row is longer than {_VALUE_SETTINGS[0]} ({value}), so "
                "that Redis would hold packed entities as tables",
                f"before packing, set {_VALUE_SETTINGS[0]} to {LISTPACK_VALUE}: "
                f"{raised:,.0f} bytes an entity instead of {now:,.0f}",
            )


def _services(definitions: Definitions, entities: Sequence[Entities]) -> Iterator[ServiceCost]:
    """What reading the feature services costs."""
    by_keys = {each.join_keys: each for each in entities}
    for name in sorted(definitions.services):
        try:
            plan = plan_service(definitions, name, full_feature_names=True)
        except RequestFailure:
            # `hotfeast plan` says why it cannot be served.
            continue
        yield _cost(name, plan, by_keys)


def _cost(name: str, plan: ServingPlan, by_keys: dict[tuple[str, ...], Entities]) -> ServiceCost:
    fields = 0
    by_field = whole = packed = 0.0
    definition = plan.compiled.definition
    for number, recipe in enumerate(definition.recipes):
        views = [view for view in definition.views if view.recipe == number]
        asked = sum(len(view.features) + 1 for view in views)
        stored = by_keys.get(tuple(sorted(key for key, _ in recipe.parts)))
        size = stored.fields if stored is not None else asked
        is_list = stored is not None and not stored.encodings.get("hashtable")
        fields += asked
        by_field += asked * (FIELD_COST + (SCAN_COST * size / 2 if is_list else 0.0))
        whole += WHOLE_COST * size
        packed += 2 * len(views) * FIELD_COST
    return ServiceCost(name, fields, by_field, whole, packed)
