"""What a registry holds for one project, exactly as Feast stores it: read anew, and read only.

Feast's own registry objects are made for those who define features, and do more than to read. They
make a file or tables that are not there, cache (some by a thread of their own), swallow what goes
wrong in a refresh, and look up what they have made of a message by the message's address in memory,
which the next message can have again. So a registry is read where Feast stores it, by Feast's own
description of the place: a file or an object in a bucket, rows of tables, a registry server.

A look at a registry that has not changed is made often, beside the requests, so it costs little
of what they need: comparing bytes, not parsing them.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import grpc
from google.protobuf.empty_pb2 import Empty
from sqlalchemy import (
    Integer,
    String,
    cast,
    create_engine,
    literal,
    literal_column,
    null,
    select,
    union_all,
)
from sqlalchemy.exc import DBAPIError

from hotfeast.server.feast_api import (
    FeatureStore,
    FileRegistryStore,
    RegistryMessage,
    RegistryServer_pb2,
    RemoteRegistry,
    get_registry_store_class_from_scheme,
    get_registry_store_class_from_type,
    sql_registry,
)

KINDS = (
    "entities",
    "feature_views",
    "stream_feature_views",
    "on_demand_feature_views",
    "label_views",
    "feature_services",
    "permissions",
)
"""What is served, by its name in Feast's registry message; its SQL tables have the same names."""

# Seconds that a registry server has for one answer.
_ANSWER_LIMIT = 10.0
_VERSIONS = "feature_view_version_history"
_METADATA = "feast_metadata"
_SERVER = "/feast.registry.RegistryServer"


class RegistryUnreadable(Exception):
    """Why the registry cannot be read, in words for the operator."""


class StoredVersion(NamedTuple):
    """A view as it was at a version."""

    view: str
    number: int
    kind: str
    """One of `KINDS`."""
    message: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """One state of a project in the registry, as serialized messages of Feast's."""

    messages: dict[str, tuple[bytes, ...]]
    """By kind, in an order of no meaning that stays the same while they do."""
    versions: tuple[StoredVersion, ...] | None
    """None where the registry keeps none, or they were not asked for."""
    updated: datetime | None
    """When the registry was last changed, as it says."""
    fingerprint: str
    """Changes when any of the messages or versions does."""

    @classmethod
    def of(
        cls,
        messages: dict[str, Iterable[bytes]],
        versions: Iterable[StoredVersion] | None,
        updated: datetime | None,
    ) -> "Stored":
        """Sorts, and takes the fingerprint."""
        in_order = {kind: tuple(sorted(messages[kind])) for kind in KINDS}
        versions_in_order = None if versions is None else tuple(sorted(versions))
        content = hashlib.sha256()
        for kind, stored in in_order.items():
            for message in stored:
                content.update(b"%s %d:" % (kind.encode(), len(message)))
                content.update(message)
        for version in versions_in_order or ():
            content.update(repr(version[:3]).encode())
            content.update(version.message)
        return cls(in_order, versions_in_order, updated, content.hexdigest())


class RegistrySource(Protocol):
    """Where a registry is read."""

    def read(self) -> Stored:
        """Reads it anew.

        Raises:
            Exception: It cannot be read; `RegistryUnreadable`, or whatever the library in between
                raises.
        """


def keeps_versions_apart(store: FeatureStore) -> bool:
    """Whether the rows of a view's versions are: Feast's condition for reading any but its last."""
    return bool(getattr(store.config.registry, "enable_online_feature_view_versioning", False))


def open_source(store: FeatureStore, with_versions: bool = False) -> RegistrySource:
    """The place that a repository's registry is read at. Nothing is read yet.

    Args:
        store: The repository.
        with_versions: Whether earlier versions of views are wanted even if their rows are not kept
            apart.

    Raises:
        Exception: Whatever Feast raises where it knows no such place.
    """
    config, project = store.config.registry, store.project
    versioned = with_versions or keeps_versions_apart(store)
    if config.registry_type == "sql":
        return _Tables(config, project, versioned)
    if config.registry_type == "remote":
        return _RegistryServer(store)
    if config.registry_type == "snowflake.registry":
        return _AnyRegistry(store)
    if config.registry_store_type is None:
        kind = get_registry_store_class_from_scheme(config.path)
    else:
        kind = get_registry_store_class_from_type(str(config.registry_store_type))
    place = kind(config, store.repo_path)
    if isinstance(place, FileRegistryStore):
        return _File(place._filepath, project, versioned)
    return _Object(place, project, versioned)


def of_project(registry: Any, project: str, versioned: bool) -> Stored:
    """What a registry message has of one project.

    Args:
        registry: The message.
        project: Feast's project.
        versioned: Whether earlier versions of views are wanted, too.
    """
    history = registry.feature_view_version_history.records if versioned else ()
    return Stored.of(
        {
            kind: [
                thing.SerializeToString(deterministic=True)
                for thing in getattr(registry, kind)
                if thing.spec.project == project
            ]
            for kind in KINDS
        },
        [
            StoredVersion(
                record.feature_view_name,
                record.version_number,
                f"{record.feature_view_type}s",
                record.feature_view_proto,
            )
            for record in history
            if record.project_id == project
        ]
        if versioned
        else None,
        registry.last_updated.ToDatetime(tzinfo=UTC) if registry.HasField("last_updated") else None,
    )


def _check_written_by_feast(registry: Any, place: str) -> None:
    """Tells a registry from bytes that parse as one, such as none at all.

    Feast truncates a file and then writes it, so an empty one is seen now and then.
    """
    if not registry.version_id:
        raise RegistryUnreadable(f"{place} is not a registry that Feast has written")


class _File:
    """A file, as a whole."""

    def __init__(self, path: Path, project: str, versioned: bool) -> None:
        self._path = path
        self._project = project
        self._versioned = versioned
        self._last: tuple[bytes, Stored] | None = None

    def read(self) -> Stored:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            raise RegistryUnreadable(f"there is no registry file {self._path}") from None
        # Reading and hashing leave the interpreter to others; parsing does not. A file's time
        # and size would not do: they can stay the same through a change.
        digest = hashlib.sha256(content).digest()
        if self._last is not None and self._last[0] == digest:
            return self._last[1]
        registry = RegistryMessage.FromString(content)
        _check_written_by_feast(registry, str(self._path))
        stored = of_project(registry, self._project, self._versioned)
        self._last = digest, stored
        return stored


class _Object:
    """An object in a bucket, or whatever else Feast has a `RegistryStore` for."""

    def __init__(self, place: Any, project: str, versioned: bool) -> None:
        self._place = place
        self._project = project
        self._versioned = versioned
        self._last: tuple[tuple[str, bytes], Stored] | None = None

    def read(self) -> Stored:
        registry = self._place.get_registry_proto()
        _check_written_by_feast(registry, "the object")
        # Feast makes a new random version_id each time it writes.
        version = registry.version_id, registry.last_updated.SerializeToString()
        if self._last is not None and self._last[0] == version:
            return self._last[1]
        stored = of_project(registry, self._project, self._versioned)
        self._last = version, stored
        return stored


class _Tables:
    """Feast's tables in an SQL database, in one statement: one round trip, and one state."""

    def __init__(self, config: Any, project: str, versioned: bool) -> None:
        url = config.read_path or config.path
        self._engine = create_engine(url, **config.sqlalchemy_config_kwargs)
        self._versioned = versioned
        self._query = _query(project, versioned)
        self._is_sqlite = self._engine.dialect.name == "sqlite"

    def read(self) -> Stored:
        if self._is_sqlite:
            self._check_file()
        try:
            rows = self._rows()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise RegistryUnreadable(_first_line(error.orig)) from error
            # A pooled connection that the database has ended meanwhile; the pool is empty now.
            try:
                rows = self._rows()
            except DBAPIError as again:
                raise RegistryUnreadable(_first_line(again.orig)) from again
        messages: dict[str, list[bytes]] = {kind: [] for kind in KINDS}
        versions: list[StoredVersion] = []
        updated = 0
        for kind, message, changed, view, number, view_kind in rows:
            updated = max(updated, changed)
            if kind == _VERSIONS:
                versions.append(StoredVersion(view, number, f"{view_kind}s", bytes(message)))
            elif kind != _METADATA:
                messages[kind].append(bytes(message))
        return Stored.of(
            dict(messages),
            versions if self._versioned else None,
            datetime.fromtimestamp(updated, UTC) if updated else None,
        )

    def _rows(self) -> Any:
        try:
            with self._engine.connect() as connection:
                return connection.execute(self._query).all()
        finally:
            if self._is_sqlite:
                # An open connection would go on reading a file that has been replaced.
                self._engine.dispose()

    def _check_file(self) -> None:
        path = self._engine.url.database
        # SQLite makes a file that is not there.
        if path and not path.startswith("file:") and not Path(path).is_file():
            raise RegistryUnreadable(f"there is no registry file {path}")


def _query(project: str, versioned: bool) -> Any:
    """All that is read: kind, message, time of change, and of a version view, number and kind."""

    def rows(kind: str, message: Any, changed: Any, *version: Any) -> Any:
        table = sql_registry.metadata.tables[kind]
        no_version = (cast(null(), String(255)), cast(null(), Integer))
        columns = version or (*no_version, cast(null(), String(50)))
        named = (literal_column(f"'{kind}'"), message, changed, *columns)
        return select(*named).where(table.c.project_id == literal(project))

    tables = sql_registry.metadata.tables
    parts = []
    for kind in KINDS:
        message = next(c for c in tables[kind].c if c.name.endswith("_proto"))
        parts.append(rows(kind, message, tables[kind].c.last_updated_timestamp))
    # The only trace of a deletion.
    metadata = tables[_METADATA]
    parts.append(rows(_METADATA, null(), metadata.c.last_updated_timestamp))
    if versioned:
        history = tables[_VERSIONS]
        parts.append(
            rows(
                _VERSIONS,
                history.c.feature_view_proto,
                history.c.created_timestamp,
                history.c.feature_view_name,
                history.c.version_number,
                history.c.feature_view_type,
            )
        )
    return union_all(*parts)


class _RegistryServer:
    """Feast's registry server, asked for one project.

    Not for the whole registry: in that answer of Feast's no definition says whose it is.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._config = store.config
        self._project = store.project
        self._remote: Any = None
        self._answers: dict[str, tuple[bytes, list[bytes]]] = {}
        self._last: Stored | None = None

    def read(self) -> Stored:
        if self._remote is None:
            self._remote = RemoteRegistry(
                self._config.registry, self._project, None, self._config.auth_config
            )
        try:
            stored = Stored.of({kind: self._messages(kind) for kind in KINDS}, None, None)
            if self._last is None or self._last.fingerprint != stored.fingerprint:
                self._last = replace(stored, updated=self._updated())
        except grpc.RpcError as error:
            # A new channel for the next look: this one would wait ever longer to connect again.
            self._remote.close()
            self._remote = None
            raise RegistryUnreadable(
                f"the registry server at {self._config.registry.path} does not answer "
                f"({error.code().name}: {_first_line(error.details())})"
            ) from error
        return self._last

    def _messages(self, kind: str) -> list[bytes]:
        method = "List" + "".join(word.capitalize() for word in kind.split("_"))
        # Not from the server's cache, which may be ten minutes behind.
        request = getattr(RegistryServer_pb2, f"{method}Request")(
            project=self._project, allow_cache=False
        )
        call = self._remote.channel.unary_unary(f"{_SERVER}/{method}")
        answer: bytes = call(request.SerializeToString(), timeout=_ANSWER_LIMIT)
        known = self._answers.get(kind)
        if known is not None and known[0] == answer:
            return known[1]
        listed = getattr(RegistryServer_pb2, f"{method}Response").FromString(answer)
        messages = []
        for thing in getattr(listed, kind):
            if kind == "on_demand_feature_views":
                _forget_answering_times(thing)
            messages.append(thing.SerializeToString(deterministic=True))
        self._answers[kind] = answer, messages
        return messages

    def _updated(self) -> datetime | None:
        try:
            registry = self._remote.stub.Proto(Empty(), timeout=_ANSWER_LIMIT)
        except grpc.RpcError as error:
            # The registry server of Feast 0.64 does not tell; those before and after it do.
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise
        updated: datetime = registry.last_updated.ToDatetime(tzinfo=UTC)
        return updated if registry.HasField("last_updated") else None


def _forget_answering_times(view: Any) -> None:
    """Feast's server gives request sources the time of its answer as that of their creation."""
    for source in view.spec.sources.values():
        if source.HasField("request_data_source"):
            source.request_data_source.ClearField("meta")


class _AnyRegistry:
    """A registry that only Feast's own object can read."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    def read(self) -> Stored:
        registry = self._store.registry
        registry.refresh(self._store.project)
        return of_project(registry.proto(), self._store.project, versioned=False)


def _first_line(error: object) -> str:
    """An error's own words, without what libraries say about them."""
    return str(error).strip().split("\n", 1)[0]
