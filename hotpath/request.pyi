from collections.abc import Collection

class Request:
    """One parsed `GetOnlineFeaturesRequest`."""

    def __init__(self, data: bytes) -> None:
        """Raises InvalidRequest where the bytes are no such message or ask for nothing."""

    def take_as_context(self, names: Collection[str]) -> None:
        """Makes request context of those entity columns whose names are among `names`.

        Raises InvalidRequest where the request context has a column of that name already."""

    @property
    def by_service(self) -> bool:
        """A feature service was named; otherwise a feature list was."""

    @property
    def full_feature_names(self) -> bool:
        """As in the request."""

    @property
    def version_metadata(self) -> bool:
        """`include_feature_view_version_metadata` of the request."""

    @property
    def stale_values(self) -> bool:
        """`include_stale_values` of the request."""

    @property
    def partial(self) -> bool:
        """`allow_partial_response` of the request."""

    @property
    def canonical(self) -> bool:
        """Whether the spans can be used; if not, rewrite the bytes and parse again."""

    @property
    def selection_bytes(self) -> bytes:
        """The feature service's name in UTF-8, or the serialized `FeatureList`: a cache key."""

    @property
    def features(self) -> list[str]:
        """The feature references of the list; empty where a feature service was named."""

    @property
    def entity_columns(self) -> dict[str, bytes]:
        """The entity columns: for each name its column as a serialized `RepeatedValue`."""

    @property
    def rows(self) -> int:
        """Elements of the first column, of which all columns should have as many; 0 without one."""

    @property
    def has_context(self) -> bool:
        """Whether there is a request context."""

    @property
    def context_columns(self) -> dict[str, bytes]:
        """The request context: for each name its column as a serialized `RepeatedValue`."""

    @property
    def column_names(self) -> list[str]:
        """Names of the entity columns, in the order of the bytes."""
