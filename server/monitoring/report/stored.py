"""What is stored online, from a sample of it: for stores that no gateway watches."""

import logging
import sys
from collections.abc import Collection
from datetime import datetime

import redis

from hotfeast.hotpath.answer import Answer
from hotfeast.server.errors import RequestFailure, StartFailure
from hotfeast.server.feast_api import FeatureStore
from hotfeast.server.monitoring.audit_online import READ_ERRORS, OnlineStore
from hotfeast.server.monitoring.observed import Channel
from hotfeast.server.monitoring.report.figures import Seen
from hotfeast.server.monitoring.statistics import PROFILE_SIZES, FeatureStatistics
from hotfeast.server.monitoring.tap import served_columns
from hotfeast.server.monitoring.windows import FeatureKey
from hotfeast.server.plan import plan_features
from hotfeast.server.registry import Definitions, RegistryReader, ViewDefinition

logger = logging.getLogger(__name__)


def sample_stored(
    store: FeatureStore,
    count: int,
    as_of: datetime,
    views: Collection[str] = (),
    redis_url: str | None = None,
) -> dict[FeatureKey, Seen]:
    """What would be served of entities that are stored, read as the gateway reads.

    Entities are those that SCAN comes by first, in the order of their keys' hashes; each has a row
    of the view, so that none is missing. On-demand views are left out: their functions are not
    loaded. A view that cannot be read is left out, too, and told in the log.

    Args:
        store: The repository.
        count: How many entities of each view are read, at most.
        as_of: The time that TTLs are judged at.
        views: Names of views; all that are stored if empty.
        redis_url: Used instead of the repository's connection string.

    Returns:
        By feature what was seen; of views without rows nothing.

    Raises:
        StartFailure: The registry or Redis cannot be read, or nothing is stored of the views.
    """
    try:
        # Without functions: none of the repository's own, and the registry's are not loaded.
        reader = RegistryReader(store, repo_views={})
        definitions = reader.define(reader.read())
    except StartFailure:
        raise
    except Exception as error:
        raise StartFailure(f"the registry cannot be read: {error}") from error
    online = OnlineStore(store, definitions, redis_url, as_of)
    seen: dict[FeatureKey, Seen] = {}
    try:
        for name, view in sorted(definitions.views.items()):
            if (views and name not in views) or not view.online or not view.features:
                continue
            try:
                seen |= _sample(online, definitions, view, count)
            except RequestFailure as failure:
                logger.warning("feature view %r is left out: %s", name, failure.message)
            except READ_ERRORS as error:
                logger.warning("feature view %r is left out: %s", name, error)
    except redis.RedisError as error:
        raise StartFailure(f"Redis cannot be sampled: {error}") from error
    finally:
        online.close()
    if not seen:
        raise StartFailure(
            "Redis has no rows to sample of "
            + (", ".join(sorted(views)) or f"the views of project {definitions.project!r}")
        )
    return seen


def _sample(
    online: OnlineStore, definitions: Definitions, view: ViewDefinition, count: int
) -> dict[FeatureKey, Seen]:
    references = [f"{view.name}:{feature.name}" for feature in view.features]
    plan = plan_features(definitions, references, True)
    found: dict[FeatureKey, Seen] = {}
    for payload in online.answers(references, view.join_keys, online.sample(view, count)):
        for columns in served_columns(Answer(payload), plan, sys.maxsize):
            for column in columns:
                key = FeatureKey(Channel.served, column.view, column.feature)
                each = found.setdefault(key, Seen(FeatureStatistics(sizes=PROFILE_SIZES)))
                each.statistics.update(column)
    return found
