"""Which entities are stored online, and what is served of them: for audits, and for reports.

What is served is read through the gateway's own path, from the request's bytes to the response's,
kernels of on-demand views included; only gRPC is left out.
"""

import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from hotfeast.hotpath.errors import CorruptRow, InvalidRequest, ProtocolError, ReplyError
from hotfeast.hotpath.plan import key_prefix
from hotfeast.server.clock import Clock
from hotfeast.server.cluster_io import open_servers, reader_of
from hotfeast.server.entity_keys import EntityKeys
from hotfeast.server.errors import RedisUnavailable, RequestFailure
from hotfeast.server.feast_api import FeatureStore, ValueType
from hotfeast.server.kernels import KernelMaker
from hotfeast.server.key_samples import sample_keys
from hotfeast.server.plan import PlanBook, plan_features
from hotfeast.server.read_modes import ReadModes
from hotfeast.server.redis_clients import client_of, node_clients_of
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.registry import Definitions, FieldDefinition, ViewDefinition
from hotfeast.server.servicer import FeatureServicer
from hotfeast.server.stored_rows import StoredRows, escaped
from hotfeast.serving.v1 import serving_pb2, value_pb2

PRESENT = serving_pb2.PRESENT
NULL_VALUE = serving_pb2.NULL_VALUE
NOT_FOUND = serving_pb2.NOT_FOUND
OUTSIDE_MAX_AGE = serving_pb2.OUTSIDE_MAX_AGE
INVALID = serving_pb2.INVALID

# Seconds to connect to Redis, and for each of its answers.
_TIMEOUT = 5.0
# Seconds to look for the keys of a view.
_SCAN_SECONDS = 30.0
# Entities of one request.
_REQUEST_ROWS = 200

READ_ERRORS = (
    RequestFailure,
    InvalidRequest,
    CorruptRow,
    ProtocolError,
    ReplyError,
    RedisUnavailable,
)
"""What a read can end with."""


@dataclass(frozen=True, slots=True)
class ServedRow:
    """What is served of one entity.

    Attributes:
        status: The row's `FieldStatus`: PRESENT (whether values are null or not), NOT_FOUND,
            OUTSIDE_MAX_AGE or INVALID.
        time: The row's event time in nanoseconds since 1970; 0 where it has none.
        values: A `Value` for each feature, empty where it is null; values that are too old, too.
        problem: Why the row cannot be read.
    """

    status: int
    time: int
    values: tuple[Any, ...]
    problem: str = ""


class OnlineStore:
    """One repository's Redis."""

    def __init__(
        self, store: FeatureStore, definitions: Definitions, redis_url: str | None, as_of: datetime
    ) -> None:
        """
        Args:
            store: The repository.
            definitions: The state of its registry.
            redis_url: Used instead of the repository's connection string.
            as_of: The time that TTLs are judged at.
        """
        self._pool = connection_pool(store.config, redis_url, _TIMEOUT)
        self._servers = open_servers(self._pool)
        self._definitions = definitions
        # No service is asked for, so none need be planned.
        self.book = PlanBook(
            replace(definitions, services={}), 1, kernels=KernelMaker(StoredRows(self._pool))
        )
        self._servicer = FeatureServicer(
            self, reader_of(self._servers, _TIMEOUT), ReadModes(self._pool), Clock(as_of)
        )

    def close(self) -> None:
        """Closes the connections."""
        self._servers.close()

    def sample(self, view: ViewDefinition, count: int) -> list[tuple[Any, ...]]:
        """Entities that have a row of a view, as SCAN comes by them: in the order of their keys'
        hashes. Fewer than `count` where there are no more, or they are not found in time.

        Returns:
            Values of the join keys, in the order of the view's.

        Raises:
            redis.RedisError: Redis did not answer, or does not allow it.
            RequestFailure: The view cannot be served.
        """
        plan = plan_features(self._definitions, [f"{view.name}:{view.features[0].name}"], True)
        (read,) = plan.compiled.definition.views
        names = [key.name for key in view.join_keys]
        entities = EntityKeys(names, self._definitions.project)
        order = [entities.join_keys.index(name) for name in names]
        pattern = escaped(key_prefix(entities.join_keys)) + b"*"

        def having_rows(keys: list[bytes]) -> list[bytes]:
            mine = [key for key in keys if entities.read(key) is not None]
            pipeline = client_of(self._pool).pipeline(transaction=False)
            for key in mine:
                pipeline.hexists(key, read.time_field)
            # An exception stands for a key that is no hash.
            answers = pipeline.execute(raise_on_error=False)
            return [key for key, there in zip(mine, answers, strict=True) if there is True]

        # Time is what bounds it: a view's rows may be few among many keys.
        found = sample_keys(
            node_clients_of(self._pool),
            having_rows,
            count,
            _SCAN_SECONDS,
            sys.maxsize,
            match=pattern,
        )
        values = [entities.read(key) or () for key in found]
        return [tuple(entity[i] for i in order) for entity in values]

    def read(
        self,
        references: Sequence[str],
        keys: Sequence[FieldDefinition],
        entities: Sequence[tuple[Any, ...]],
    ) -> list[ServedRow]:
        """What is served of entities, in their order.

        Args:
            references: Features of one view, as `view:feature`.
            keys: The join keys.
            entities: Values of the join keys, in their order.

        Raises:
            Exception: One of `READ_ERRORS`.
        """
        served: list[ServedRow] = []
        for answer in self.answers(references, keys, entities):
            served += _rows(serving_pb2.GetOnlineFeaturesResponse.FromString(answer), references)
        return served

    def answers(
        self,
        references: Sequence[str],
        keys: Sequence[FieldDefinition],
        entities: Sequence[tuple[Any, ...]],
    ) -> Iterator[bytes]:
        """The serialized answers to requests for entities, each for some of them; with names as
        `view__feature`, values that are too old, and rows that cannot be read as INVALID.

        Args:
            references: As for `read`.
            keys: As for `read`.
            entities: As for `read`.

        Raises:
            Exception: One of `READ_ERRORS`.
        """
        # Kernels are made of it now, where a request would leave that to a thread.
        self.book.plan_ahead([(tuple(references), True)])
        for start in range(0, len(entities), _REQUEST_ROWS):
            part = entities[start : start + _REQUEST_ROWS]
            request = serving_pb2.GetOnlineFeaturesRequest(
                full_feature_names=True, include_stale_values=True, allow_partial_response=True
            )
            request.features.val.extend(references)
            for i, key in enumerate(keys):
                request.entities[key.name].val.extend(_value(key, entity[i]) for entity in part)
            yield self._servicer.answer(request.SerializeToString())


def _rows(answer: Any, references: Sequence[str]) -> list[ServedRow]:
    columns = answer.results[-len(references) :]
    problems = {row: error.message for error in answer.metadata.row_errors for row in error.rows}
    rows = []
    for row in range(len(columns[0].statuses)):
        statuses = {column.statuses[row] for column in columns}
        at = columns[0].event_timestamps[row] if columns[0].event_timestamps else None
        rows.append(
            ServedRow(
                _row_status(statuses),
                at.seconds * 1_000_000_000 + at.nanos if at is not None else 0,
                tuple(column.values[row] for column in columns),
                problems.get(row, ""),
            )
        )
    return rows


def _row_status(statuses: Collection[int]) -> int:
    for status in (INVALID, NOT_FOUND, OUTSIDE_MAX_AGE):
        if status in statuses:
            return status
    return PRESENT


def _value(key: FieldDefinition, value: Any) -> value_pb2.Value:
    if key.value_type == ValueType.UNIX_TIMESTAMP.value:
        return value_pb2.Value(unix_timestamp_val=value)
    if isinstance(value, bytes):
        return value_pb2.Value(bytes_val=value)
    if isinstance(value, str):
        return value_pb2.Value(string_val=value)
    return value_pb2.Value(int64_val=value)
