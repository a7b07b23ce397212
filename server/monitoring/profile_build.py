"""Profiles out of Feast's offline store: of the rows that a model was, or would be, trained on.

Each view is asked for on its own, for the distinct keys that it has, and its values count once for
each row of the entity frame: asked for several views at once, Feast's file offline store drops
rows.
"""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from hotfeast.server.errors import StartFailure, unknown_name
from hotfeast.server.feast_api import FeatureStore, FileRegistryStore
from hotfeast.server.feast_api import get_registry_store_class_from_scheme as store_class
from hotfeast.server.monitoring.observed import FeatureColumn
from hotfeast.server.monitoring.profiles import Profile, ProfileStore, new_profile
from hotfeast.server.monitoring.statistics import PROFILE_SIZES, FeatureStatistics
from hotfeast.server.registry import (
    Definitions,
    Projection,
    RegistryReader,
    ViewDefinition,
    feast_view,
)
from hotfeast.server.registry_source import Stored
from hotfeast.server.repository import reading_registry

TIME = "event_timestamp"
"""The column of an entity frame with the time of each row."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WEIGHT = "__rows"


def profile_store(store: FeatureStore, folder: Path | None = None) -> ProfileStore:
    """Where the profiles of a repository are.

    Args:
        store: The repository.
        folder: Where they are; beside the registry's file, with `.profiles` at the end of its name,
            if None.

    Raises:
        StartFailure: The registry is no file, and there is no folder.
    """
    if folder is not None:
        return ProfileStore(folder)
    config = store.config.registry
    if config.registry_type == "file" and config.registry_store_type is None:
        place = store_class(config.path)(config, store.repo_path)
        if isinstance(place, FileRegistryStore):
            path = Path(place._filepath)
            return ProfileStore(path.with_name(f"{path.name}.profiles"))
    raise StartFailure(
        "the registry is no file that profiles could be stored beside; --profiles says where they "
        "are instead"
    )


def read_entities(path: Path) -> pd.DataFrame:
    """Reads an entity frame: the rows of a training set by key and time.

    Args:
        path: Parquet, or CSV if its name ends so. Times without a zone are UTC.

    Raises:
        StartFailure: It cannot be read, or has no column `event_timestamp` of times.
    """
    try:
        frame = pd.read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    except Exception as error:
        raise StartFailure(f"{path} cannot be read as Parquet or CSV: {error}") from error
    if TIME not in frame.columns:
        raise StartFailure(f"{path} has no column {TIME}; it says when each row is of")
    try:
        frame[TIME] = pd.to_datetime(frame[TIME], utc=True)
    except (ValueError, TypeError) as error:
        raise StartFailure(f"{path}: {TIME} has what is no time: {error}") from error
    if not len(frame):
        raise StartFailure(f"{path} has no rows")
    return frame


class ProfileBuilder:
    """Makes profiles of a repository's feature services."""

    def __init__(self, store: FeatureStore) -> None:
        """
        Raises:
            StartFailure: The registry cannot be read.
        """
        self._store = store
        with reading_registry(store):
            reader = RegistryReader(store)
            self._stored: Stored = reader.read()
            self._definitions: Definitions = reader.define(self._stored)

    def of_entities(self, service: str, entities: pd.DataFrame, source: str) -> Profile:
        """A profile of a feature service at the rows of an entity frame.

        Args:
            service: The feature service.
            entities: Join keys, request data and `event_timestamp`.
            source: What it is made of, for people.

        Raises:
            StartFailure: There is no such service, a column is missing, or Feast cannot join.
        """
        made: dict[tuple[str, str], FeatureStatistics] = {}
        for projection, view in self._projections(service):
            if view.on_demand is None:
                _add(made, view.name, projection, self._joined(projection, view, entities))
            else:
                _add(made, view.name, projection, self._asked(projection, view, entities))
        return new_profile(service, source, made)

    def of_samples(
        self, service: str, rows: int, seed: int, start: datetime | None, end: datetime | None
    ) -> tuple[Profile, list[str]]:
        """A profile of a feature service at rows that are drawn from the batch source of each view.

        Args:
            service: The feature service.
            rows: How many rows to draw of each view at most.
            seed: The same gives the same rows.
            start: The first event time, inclusive; that of the first row if None.
            end: The last event time, inclusive; that of the last row if None.

        Returns:
            The profile, and the on-demand views that are not in it, since nothing says which rows
            of their sources belong together.

        Raises:
            StartFailure: There is no such service, there are no rows, or Feast cannot join.
        """
        made: dict[tuple[str, str], FeatureStatistics] = {}
        left_out = []
        for projection, view in self._projections(service):
            if view.on_demand is not None:
                left_out.append(view.name)
                continue
            entities = self._sampled(view, rows, seed, start, end)
            plain = Projection(view.name, None, projection.features, {}, projection.version)
            _add(made, view.name, projection, self._joined(plain, view, entities))
        if not made:
            raise StartFailure(
                f"{service!r} has on-demand views only, of which rows cannot be drawn; give an "
                "entity frame with --entities"
            )
        source = f"{rows:,} rows of each batch source, seed {seed}"
        source += f", from {start.isoformat()}" if start else ""
        source += f", until {end.isoformat()}" if end else ""
        return new_profile(service, source, made), left_out

    def _projections(self, service: str) -> list[tuple[Projection, ViewDefinition]]:
        definition = self._definitions.services.get(service)
        if definition is None:
            failure = unknown_name("feature service", service, self._definitions.services)
            raise StartFailure(failure.message)
        projections = []
        for projection in definition.projections:
            view = self._definitions.views.get(projection.view)
            if view is None:
                raise StartFailure(
                    f"{service!r} takes features of {projection.view!r}, which the registry does "
                    "not have"
                )
            projections.append((projection, view))
        return projections

    def _joined(
        self, projection: Projection, view: ViewDefinition, entities: pd.DataFrame
    ) -> pa.Table:
        """A view's features, a row for each row. One that Feast leaves out, as it does where a key
        has rows but none within reach, has nulls."""
        keys = [key.name for key in view.join_keys if view.entities]
        names = {key: projection.join_key_map.get(key, key) for key in keys}
        _need(entities, [*names.values(), TIME], view.name)
        frame = entities[[*names.values(), TIME]].rename(
            columns={name: key for key, name in names.items()}
        )
        counted = frame.groupby([*keys, TIME], sort=False, dropna=False).size()
        distinct = counted.rename(_WEIGHT).reset_index()
        table = self._ask(view.name, projection, distinct)
        counts = table[_WEIGHT].to_numpy()
        values = table.select(list(projection.features))
        values = values.take(np.repeat(np.arange(len(counts)), counts))
        absent = [pa.nulls(len(entities) - len(values), each) for each in values.schema.types]
        return pa.concat_tables([values, pa.Table.from_arrays(absent, schema=values.schema)])

    def _asked(
        self, projection: Projection, view: ViewDefinition, entities: pd.DataFrame
    ) -> pa.Table:
        """An on-demand view's features, a row for each row that Feast gives."""
        keys = {
            source.join_key_map.get(key.name, key.name)
            for source in view.sources
            for key in self._definitions.views[source.view].join_keys
            if self._definitions.views[source.view].entities
        }
        columns = [*sorted(keys), *(field.name for field in view.request_fields), TIME]
        _need(entities, columns, view.name)
        return self._ask(view.name, projection, entities[columns])

    def _ask(self, view: str, projection: Projection, entities: pd.DataFrame) -> pa.Table:
        name = view if projection.version is None else f"{view}@v{projection.version}"
        refs = [f"{name}:{feature}" for feature in projection.features]
        try:
            job = self._store.get_historical_features(entity_df=entities, features=refs)
            return job.to_arrow()
        except Exception as error:
            raise StartFailure(
                f"Feast cannot join {view!r} to the entity frame: {type(error).__name__}: {error}"
            ) from error

    def _sampled(
        self,
        view: ViewDefinition,
        rows: int,
        seed: int,
        start: datetime | None,
        end: datetime | None,
    ) -> pd.DataFrame:
        """Keys and times of some rows of a view's batch source."""
        source = feast_view(self._stored, view.name).batch_source
        mapping = {name: column for column, name in source.field_mapping.items()}
        keys = [key.name for key in view.join_keys if view.entities]
        columns = [mapping.get(key, key) for key in keys]
        try:
            job = self._store._get_provider().offline_store.pull_all_from_table_or_query(
                config=self._store.config,
                data_source=source,
                join_key_columns=columns,
                feature_name_columns=[],
                timestamp_field=source.timestamp_field,
                created_timestamp_column=source.created_timestamp_column or None,
                start_date=start or _EPOCH,
                end_date=end or datetime.now(UTC),
            )
            frame = job.to_df()[[*columns, source.timestamp_field]]
        except Exception as error:
            raise StartFailure(
                f"the batch source of {view.name!r} cannot be read: {type(error).__name__}: {error}"
            ) from error
        if not len(frame):
            raise StartFailure(f"the batch source of {view.name!r} has no rows at these times")
        frame.columns = [*keys, TIME]
        drawn = frame.sample(min(rows, len(frame)), random_state=seed)
        drawn[TIME] = pd.to_datetime(drawn[TIME], utc=True)
        return drawn


def _need(entities: pd.DataFrame, columns: list[str], view: str) -> None:
    missing = [column for column in columns if column not in entities.columns]
    if missing:
        raise StartFailure(
            f"the entity frame has no column {missing[0]!r}, which {view!r} needs; it has "
            f"{', '.join(map(str, entities.columns))}"
        )


def _add(
    made: dict[tuple[str, str], FeatureStatistics],
    view: str,
    projection: Projection,
    table: pa.Table,
) -> None:
    """Adds rows to the statistics of a view's features."""
    for feature in projection.features:
        statistics = made.setdefault((view, feature), FeatureStatistics(sizes=PROFILE_SIZES))
        for chunk in table[feature].chunks:
            statistics.update(FeatureColumn(view, feature, chunk))
