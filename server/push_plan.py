"""Where a push goes: the views of one destination, planned once for each state of the registry."""

from collections.abc import Collection
from dataclasses import dataclass

import grpc

from hotfeast.server.errors import RequestFailure, invalid
from hotfeast.server.registry import Definitions
from hotfeast.server.write_plan import ViewWrite, plan_write, views_of_push_source, with_features


@dataclass(frozen=True, slots=True)
class Destination:
    """A push source, or a view.

    Attributes:
        definitions: The state of the registry it is of.
        writes: Its views, sorted by name.
        columns: Names that columns may come under, in the source or in the view.
        takes_created: Whether any view has a created timestamp.
    """

    definitions: Definitions
    writes: tuple[ViewWrite, ...]
    columns: frozenset[str]
    takes_created: bool

    @property
    def computed(self) -> bool:
        """Whether it is an on-demand view, whose rows are computed from what is pushed."""
        return any(write.inputs is not None for write in self.writes)

    def of_features(self, given: Collection[str]) -> "Destination":
        """The destination for rows that may have the features of an on-demand view already.

        They have if all its features are among the columns and its inputs are not; then they are
        stored as they are. Feast's SDK leaves it to the caller, who says `transform_on_write`.

        Args:
            given: Names of the columns that came.

        Raises:
            RequestFailure: The inputs came, and features with them.
        """
        if not self.computed:
            return self
        # Nothing else is fed by the same push: push sources do not feed on-demand views.
        [write] = self.writes
        assert write.inputs is not None
        inputs = {field.name for field in write.inputs.fields}
        features = {feature.name for feature in write.view.features}
        named = {write.field_mapping.get(name, name) for name in given}
        if not inputs <= named and features <= named:
            return _destination(self.definitions, (with_features(write),))
        both = sorted((features - inputs) & named)
        if both and inputs <= named:
            raise invalid(
                f"column {both[0]!r} is a feature that on-demand feature view {write.name!r} "
                "computes from the others: send the view's inputs without its features, or its "
                "features without the inputs"
            )
        return self


class Destinations:
    """The destinations of the moment, from any number of threads."""

    def __init__(self, key_ttl_seconds: int) -> None:
        """
        Args:
            key_ttl_seconds: Seconds after which an entity's hash expires; 0 for never.
        """
        self._key_ttl_seconds = key_ttl_seconds
        # Swapped as one, so that no thread pairs the one with the other's.
        self._planned: tuple[
            Definitions | None, dict[tuple[bool, str, bool], Destination | RequestFailure]
        ] = (None, {})

    def find(
        self, definitions: Definitions, by_push_source: bool, name: str, online: bool
    ) -> Destination:
        """The destination of a push.

        Args:
            definitions: The state of the registry.
            by_push_source: Whether the name is a push source's; else a view's.
            name: The name.
            online: Whether rows go to Redis, too.

        Raises:
            RequestFailure: There is no such push source or view, or it cannot be written.
        """
        of, planned = self._planned
        if of is not definitions:
            planned = {}
            self._planned = (definitions, planned)
        key = (by_push_source, name, online)
        found = planned.get(key)
        if found is None:
            try:
                found = self._plan(definitions, *key)
            except RequestFailure as failure:
                if failure.code is grpc.StatusCode.NOT_FOUND:
                    # Unknown names may be any number.
                    raise
                found = failure
            planned[key] = found
        if isinstance(found, RequestFailure):
            # A new exception each time: one object would gather the tracebacks of all threads.
            raise RequestFailure(found.code, found.message)
        return found

    def _plan(
        self, definitions: Definitions, by_push_source: bool, name: str, online: bool
    ) -> Destination:
        names = [name]
        if by_push_source:
            names = [view.name for view in views_of_push_source(definitions, name)]
        writes = tuple(
            plan_write(definitions, view, self._key_ttl_seconds, online=online) for view in names
        )
        return _destination(definitions, writes)


def _destination(definitions: Definitions, writes: tuple[ViewWrite, ...]) -> Destination:
    columns: set[str] = set()
    for write in writes:
        columns |= write.columns
        columns |= {source for source, new in write.field_mapping.items() if new in write.columns}
    return Destination(
        definitions=definitions,
        writes=writes,
        columns=frozenset(columns),
        takes_created=any(write.created_column for write in writes),
    )
