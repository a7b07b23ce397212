"""Feast's `Permission` objects, as Feast judges them: matching ones allow if any of them does.

One difference: Feast looks for `required_tags` where its definitions have none, so that they
restrict nothing; here they are held against the tags of what is asked for.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hotfeast.server.feast_api import (
    BatchFeatureView,
    FeastPermissionObject,
    FeastUser,
    FeatureService,
    FeatureView,
    LabelView,
    OnDemandFeatureView,
    PermissionMessage,
    StreamFeatureView,
)
from hotfeast.server.security.principals import Principal

logger = logging.getLogger(__name__)

READ_ONLINE = "READ_ONLINE"
WRITE_ONLINE = "WRITE_ONLINE"
WRITE_OFFLINE = "WRITE_OFFLINE"
DESCRIBE = "DESCRIBE"

SERVICE = "feature_service"
"""The kind of a feature service; views have those of their definitions."""

_CLASSES: dict[str, type] = {
    SERVICE: FeatureService,
    "feature_view": FeatureView,
    "batch_feature_view": BatchFeatureView,
    "stream_feature_view": StreamFeatureView,
    "on_demand_feature_view": OnDemandFeatureView,
    "label_view": LabelView,
}


class FeastPermission(NamedTuple):
    """One of them.

    Attributes:
        name: Its name.
        kinds: What it is about.
        patterns: What a name matches as a whole; none for all names.
        tags: Which must be there.
        actions: Which it allows.
        policy: Feast's, which knows whom; None for nobody.
    """

    name: str
    kinds: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]
    tags: Mapping[str, str]
    actions: frozenset[str]
    policy: Any

    def is_about(self, kind: str, name: str, tags: Mapping[str, str], action: str) -> bool:
        """Whether it has a say in something."""
        return (
            action in self.actions
            and kind in self.kinds
            and (not self.patterns or any(each.fullmatch(name) for each in self.patterns))
            and all(tags.get(tag) == value for tag, value in self.tags.items())
        )

    def allows(self, principal: Principal) -> bool:
        """Whether it allows somebody what it is about."""
        if self.policy is None:
            return False
        user = FeastUser(
            principal.name,
            list(principal.roles),
            list(principal.groups),
            list(principal.namespaces),
        )
        return bool(self.policy.validate_user(user)[0])


def read_permission(message: bytes) -> FeastPermission:
    """A permission as the registry has it.

    One that cannot be read allows nobody, and is told of by the log.
    """
    stored = PermissionMessage.FromString(message)
    name = stored.spec.name
    try:
        made = FeastPermissionObject.from_proto(stored)
        return FeastPermission(
            name,
            frozenset(kind for kind, of in _CLASSES.items() if issubclass(of, tuple(made.types))),
            tuple(re.compile(pattern) for pattern in made.name_patterns),
            dict(made.required_tags or {}),
            frozenset(action.name for action in made.actions),
            made.policy,
        )
    except Exception as error:
        logger.error("Feast's permission %r allows nobody: it cannot be read: %s", name, error)
        return FeastPermission(name, frozenset(), (), {}, frozenset(), None)


def allowed_by(
    permissions: Sequence[FeastPermission],
    principal: Principal,
    kind: str,
    name: str,
    tags: Mapping[str, str],
    action: str,
) -> bool:
    """Whether any permission allows somebody something.

    Args:
        permissions: Those of the registry.
        principal: Who.
        kind: `SERVICE`, or the kind of a view's definition.
        name: The service's or view's.
        tags: Likewise.
        action: Feast's name of what is to be done, such as `READ_ONLINE`.
    """
    return any(
        each.is_about(kind, name, tags, action) and each.allows(principal) for each in permissions
    )
