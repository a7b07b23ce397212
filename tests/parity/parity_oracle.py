"""Descriptions carried out: repositories applied and filled through Feast, requests asked of both.

Feast writes all rows but those that a test changes on purpose, and its SDK reads them.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import grpc
import pandas as pd
import redis
from feast import (
    BatchFeatureView,
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    StreamFeatureView,
)
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3
from feast.labeling.label_view import LabelView
from feast.protos.feast.serving.GrpcServer_pb2_grpc import GrpcFeatureServerStub
from feast.protos.feast.serving.ServingService_pb2 import (
    GetOnlineFeaturesRequest,
    GetOnlineFeaturesResponse,
)
from feast.protos.feast.serving.ServingService_pb2_grpc import ServingServiceStub
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import from_value_type
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp
from parity_coverage import count
from parity_strategies import (
    DUMMY_JOIN_KEY,
    KEY_MEMBERS,
    BatchSpec,
    DataSpec,
    EditSpec,
    EntitySpec,
    Key,
    ProjectionSpec,
    RepoSpec,
    RequestSpec,
    RowSpec,
    Time,
    ViewSpec,
    in_feasts_order,
)
from parity_values import TYPES
from served import serve, stop

from hotfeast.hotpath.request import Request
from hotfeast.server.clock import Clock
from hotfeast.server.errors import RequestFailure
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.plan import PlanBook
from hotfeast.server.read_modes import ReadModes
from hotfeast.server.redis_io import Lanes, RedisReader
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.registry import read_definitions
from hotfeast.server.servicer import FeatureServicer

DATABASE = 5
"""Redis' database for these tests, which empty it again and again."""


def as_datetime(time: Time) -> datetime:
    """A time as Feast's writer takes it."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
        seconds=time[0], microseconds=time[1] // 1000
    )


def as_timestamp(time: Time) -> Timestamp:
    """A time as it is stored and answered."""
    return Timestamp(seconds=time[0], nanos=time[1])


def value_of(member: str, content: Any) -> Value:
    """A `Value` with one member set."""
    value = Value()
    setattr(value, member, content)
    return value


def key_value(entity: EntitySpec, key: Key) -> Value:
    """A join key's value in the type that its entity is declared with."""
    return value_of(KEY_MEMBERS[entity.value_type], key)


# ---------------------------------------------------------------- definitions


def feast_entities(repo: RepoSpec) -> list[Entity]:
    """Feast's entities."""
    return [
        Entity(
            name=e.name,
            join_keys=[e.join_key],
            value_type=e.value_type if e.declared else ValueType.UNKNOWN,
        )
        for e in repo.entities
    ]


def feast_view(repo: RepoSpec, view: ViewSpec, entities: Sequence[Entity]) -> Any:
    """Feast's own object of a view."""
    schema = [Field(name=f.name, dtype=TYPES[f.member]) for f in view.features]
    if view.keys_in_schema:
        schema += [
            Field(name=e.join_key, dtype=from_value_type(e.value_type))
            for e in repo.view_entities(view)
        ]
    mapping = {"a raw column": view.features[0].name} if view.field_mapping else None
    source: Any = FileSource(
        name=f"source of {view.name}",
        path="nowhere.parquet",
        timestamp_field="event_timestamp",
        field_mapping=mapping,
    )
    if view.kind in ("stream", "label"):
        source = PushSource(name=f"push to {view.name}", batch_source=source)
    make: Any = {
        "feature_view": FeatureView,
        "batch": BatchFeatureView,
        "stream": StreamFeatureView,
        "label": LabelView,
    }[view.kind]
    return make(
        name=view.name,
        entities=[entities[i] for i in view.entities],
        ttl=None if view.ttl is None else timedelta(seconds=view.ttl),
        schema=schema,
        source=source,
        online=True,
    )


def feast_projection(view: Any, projection: ProjectionSpec) -> Any:
    """A view as a feature service takes it."""
    if projection.features is not None:
        view = view[list(projection.features)]
    if projection.alias is not None:
        view = view.with_name(projection.alias)
    if projection.join_key_map:
        view = view.with_join_key_map(dict(projection.join_key_map))
    return view


def write_repository(
    folder: Path, project: str, server: LocalRedis, versioned: bool = False
) -> FeatureStore:
    """Makes a repository without definitions."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(
        # JSON is YAML.
        json.dumps(
            {
                "project": project,
                "provider": "local",
                "registry": {
                    "path": str(folder / "registry.db"),
                    "enable_online_feature_view_versioning": versioned,
                },
                "online_store": {
                    "type": "redis",
                    "connection_string": f"{server.address},db={DATABASE}",
                },
                "offline_store": {"type": "file"},
                "entity_key_serialization_version": 3,
            }
        )
    )
    return FeatureStore(repo_path=str(folder))


def apply(store: FeatureStore, repo: RepoSpec) -> None:
    """Applies all definitions."""
    entities = feast_entities(repo)
    views = [feast_view(repo, view, entities) for view in repo.views]
    services = [
        FeatureService(
            name=service.name,
            features=[feast_projection(views[p.view], p) for p in service.projections],
        )
        for service in repo.services
    ]
    store.apply([*entities, *views, *services])


# ---------------------------------------------------------------- rows


def entity_key(repo: RepoSpec, view: ViewSpec, key: Sequence[int]) -> EntityKey:
    """The key of a row, in the order in which the view declares its entities."""
    entities = repo.view_entities(view)
    if not entities:
        return EntityKey(join_keys=[DUMMY_JOIN_KEY], entity_values=[Value(string_val="")])
    return EntityKey(
        join_keys=[e.join_key for e in entities],
        entity_values=[key_value(e, e.pool[i]) for e, i in zip(entities, key, strict=True)],
    )


def write_batch(store: FeatureStore, repo: RepoSpec, view: Any, batch: BatchSpec) -> None:
    """Has Feast write rows.

    Args:
        store: The store.
        repo: The repository.
        view: Feast's object of the view, as its registry has it.
        batch: The rows.
    """
    spec = repo.views[batch.view]
    if batch.frame:
        store.write_to_online_store(spec.name, _frame(repo, spec, batch.rows))
        return
    rows = [
        (
            entity_key(repo, spec, row.key),
            {name: Value.FromString(value) for name, value in row.values},
            as_datetime(row.time),
            None,
        )
        for row in batch.rows
    ]
    store._get_provider().online_write_batch(store.config, view, rows, progress=None)


_FRAME_DTYPES = {
    ValueType.INT64: "int64",
    ValueType.INT32: "int32",
    ValueType.STRING: "object",
    "int64_val": "int64",
    "double_val": "float64",
}


def _frame(repo: RepoSpec, view: ViewSpec, rows: Sequence[RowSpec]) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    for position, entity in enumerate(repo.view_entities(view)):
        keys = [entity.pool[row.key[position]] for row in rows]
        columns[entity.join_key] = pd.Series(keys, dtype=_FRAME_DTYPES[entity.value_type])
    for feature in view.features:
        cells = [_native(dict(row.values)[feature.name], feature.member) for row in rows]
        columns[feature.name] = pd.Series(cells, dtype=_FRAME_DTYPES.get(feature.member, "object"))
    columns["event_timestamp"] = [as_datetime(row.time) for row in rows]
    return pd.DataFrame(columns)


def _native(stored: bytes, member: str) -> Any:
    value = Value.FromString(stored)
    if value.WhichOneof("val") is None:
        return None
    native = getattr(value, member)
    return list(native.val) if member.endswith("_list_val") else native


def redis_key(repo: RepoSpec, view: ViewSpec, key: Sequence[int], project: str) -> bytes:
    """The Redis key of a row, by Feast's own function."""
    return bytes(serialize_entity_key(entity_key(repo, view, key), 3)) + project.encode()


def edit_row(client: Any, project: str, repo: RepoSpec, edit: EditSpec) -> None:
    """Changes a stored row behind Feast's back."""
    view = repo.views[edit.view]
    key = redis_key(repo, view, edit.key, project)
    storage_name = f"{view.name}_v{view.version}" if view.version else view.name
    time_field = f"_ts:{storage_name}".encode()
    if edit.kind == "drop_time":
        client.hdel(key, time_field)
    elif edit.kind == "set_time":
        client.hset(key, time_field, as_timestamp(edit.time).SerializeToString())
    elif edit.kind == "drop_value":
        client.hdel(key, _mmh3(f"{storage_name}:{edit.feature}"))
    else:
        client.hset(key, _mmh3(f"{storage_name}:{edit.feature}"), edit.value)


# ---------------------------------------------------------------- requests


def request_message(
    repo: RepoSpec, request: RequestSpec, references: Sequence[str]
) -> GetOnlineFeaturesRequest:
    """A request as a client of Feast's protos would make it."""
    message = GetOnlineFeaturesRequest(
        full_feature_names=request.full,
        include_feature_view_version_metadata=request.metadata,
    )
    if request.service is not None:
        message.feature_service = repo.services[request.service].name
    else:
        message.features.val.extend(references)
    for column in request.columns:
        pool = repo.entities[column.entity].pool
        values = message.entities[column.sent_as].val
        values.extend(value_of(column.member, pool[i]) for i in column.rows)
    if request.sends_dummy:
        message.entities[DUMMY_JOIN_KEY].val.extend([Value(string_val="")] * request.rows)
    return message


_STALE = b"\xa8\x06\x01"
"""`include_stale_values` of our request message, which Feast's does not have."""


def references_of(repo: RepoSpec, request: RequestSpec) -> list[str]:
    """The feature list of a request that has one."""
    latest = "@latest" if request.latest else ""
    return [
        f"{repo.views[v].shown()}{'' if repo.views[v].pinned else latest}:{f}"
        for v, f in request.features
    ]


@dataclass(frozen=True)
class Answer:
    """A response, its columns by name."""

    message: Any
    names: list[str]
    columns: dict[str, list[Any]]
    """For each name its columns: more than one where a feature is called as a join key is."""


def read_answer(message: Any) -> Answer:
    """Takes a response apart."""
    names = list(message.metadata.feature_names.val)
    assert len(names) == len(message.results)
    columns: dict[str, list[Any]] = {}
    for name, vector in zip(names, message.results, strict=True):
        columns.setdefault(name, []).append(vector)
    return Answer(message, names, columns)


def ask_feast(store: FeatureStore, repo: RepoSpec, request: RequestSpec, selection: Any) -> Answer:
    """Asks Feast's SDK.

    Args:
        store: The store.
        repo: The repository.
        request: What to ask for; at least one row.
        selection: A feature service of Feast's, or a list of references.
    """
    columns: dict[str, list[Any]] = {}
    for column in in_feasts_order(repo, request.columns):
        pool = repo.entities[column.entity].pool
        columns[column.name] = [pool[i] for i in column.rows]
    # The SDK takes a column of nothing but empty bytes for nulls. One more row, whose answer is
    # thrown away, tells it the type.
    padded = any(not any(keys) for keys in columns.values() if isinstance(keys[0], bytes))
    if padded:
        count("request", "nothing but empty bytes in a column")
        for keys in columns.values():
            keys.append(keys[0] if keys[0] != b"" else b"padding")
    if not columns:
        # Without entities it is a column that the SDK does not know which says how many rows.
        columns["rows of the request"] = [""] * request.rows
    message = store.get_online_features(
        features=selection,
        entity_rows=columns,
        full_feature_names=request.full,
        include_feature_view_version_metadata=request.metadata,
    ).proto
    if padded:
        for vector in message.results:
            del vector.values[-1], vector.statuses[-1], vector.event_timestamps[-1]
    return read_answer(message)


# ---------------------------------------------------------------- the gateway


@dataclass
class Book:
    """Plans as the servicer takes them."""

    book: PlanBook


class Asked(Protocol):
    """Whatever answers as the gateway does."""

    def ask(
        self, message: GetOnlineFeaturesRequest, strict: bool, stale: bool = False
    ) -> Answer: ...


class Ours:
    """The gateway's own parts for one repository, without gRPC."""

    def __init__(
        self,
        store: FeatureStore,
        reader: RedisReader,
        modes: ReadModes,
        now: Time,
        layout: str | None = None,
    ) -> None:
        definitions = read_definitions(store, layout)
        clock = Clock(as_datetime(now))
        self.books = {s: PlanBook(definitions, 1, as_feast=not s) for s in (True, False)}
        self._servicers = {
            strict: FeatureServicer(Book(book), reader, modes, clock, strict)
            for strict, book in self.books.items()
        }

    def ask(self, message: GetOnlineFeaturesRequest, strict: bool, stale: bool = False) -> Answer:
        """Asks twice, once by field and once for whole hashes: both must answer the same.

        Raises:
            RequestFailure, InvalidRequest: The request is refused.
        """
        data = message.SerializeToString() + (_STALE if stale else b"")
        plan = self.books[strict].find(Request(data)).compiled
        answers = []
        for whole in (False, True):
            for recipe in range(len(plan.field_counts)):
                plan.set_read_all(recipe, whole)
            answers.append(self._servicers[strict].answer(data))
        assert answers[0] == answers[1], "HMGET and HGETALL answer differently"
        return read_answer(GetOnlineFeaturesResponse.FromString(answers[0]))


class OverSockets:
    """The gateway as it is run, one for each status mode, seen through Feast's two stubs."""

    def __init__(self, store: FeatureStore, now: Time) -> None:
        self._served = {
            strict: serve(
                store,
                Settings(
                    repo=Path(store.repo_path),
                    redis_timeout=30.0,
                    as_of=as_datetime(now),
                    status_mode="strict" if strict else "feast",
                ),
            )
            for strict in (True, False)
        }

    def ask(self, message: GetOnlineFeaturesRequest, strict: bool, stale: bool = False) -> Answer:
        """Asks through each of Feast's stubs: both must answer the same.

        Raises:
            RequestFailure: The request is refused.
        """
        channel = self._served[strict].channel
        if stale:
            # Feast's class does not know the field, and sends it on.
            message = GetOnlineFeaturesRequest.FromString(message.SerializeToString() + _STALE)
        answers = []
        for stub in (ServingServiceStub(channel), GrpcFeatureServerStub(channel)):
            try:
                answers.append(stub.GetOnlineFeatures(message, timeout=60))
            except grpc.RpcError as error:
                raise RequestFailure(error.code(), error.details() or "") from error
        first, second = (a.SerializeToString(deterministic=True) for a in answers)
        assert first == second
        return read_answer(answers[0])

    def close(self) -> None:
        """Stops both gateways."""
        for served in self._served.values():
            stop(served)


class Bench:
    """What all examples of a run share: connections to Redis, and a place for repositories."""

    def __init__(self, server: LocalRedis, folder: Path) -> None:
        self.server = server
        self.client: Any = redis.Redis(host="127.0.0.1", port=server.port, db=DATABASE)
        self._folder = folder
        store = write_repository(folder / "connection", "connection", server)
        pool = connection_pool(store.config, None, timeout=30.0)
        assert isinstance(pool, redis.ConnectionPool)
        self._lanes = Lanes(pool)
        self.reader = RedisReader(self._lanes, timeout=30.0)
        self.modes = ReadModes(pool)

    def workplace(self) -> "Workplace":
        """An empty database, and a folder for one example's repositories."""
        self.client.flushdb()
        return Workplace(self, Path(tempfile.mkdtemp(dir=self._folder)))

    def close(self) -> None:
        """Closes all connections."""
        self._lanes.close()
        self.client.close()


class Workplace:
    """Where one example works; its repositories are gone afterwards."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench = bench
        self.folder = folder

    def repository(self, project: str, versioned: bool = False) -> FeatureStore:
        """A repository without definitions."""
        return write_repository(self.folder / project, project, self.bench.server, versioned)

    def fill(self, store: FeatureStore, repo: RepoSpec, data: DataSpec) -> None:
        """Stores rows for a project."""
        for batch in data.batches:
            name = repo.views[batch.view].name
            view = store.registry.get_any_feature_view(name, store.project, allow_cache=True)
            write_batch(store, repo, view, batch)
        for edit in data.edits:
            edit_row(self.bench.client, store.project, repo, edit)

    def ours(self, store: FeatureStore, now: Time, layout: str | None = None) -> Ours:
        """The gateway for a repository whose definitions are applied.

        Args:
            store: The repository.
            now: The time that rows are aged against.
            layout: Which of a row's layouts is looked for first; Feast's if None.
        """
        return Ours(store, self.bench.reader, self.bench.modes, now, layout)

    def __enter__(self) -> "Workplace":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
