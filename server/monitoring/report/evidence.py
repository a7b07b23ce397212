"""What was seen, from a gateway's state, and beside its references."""

from collections.abc import Mapping

from hotfeast.server.monitoring.drift import DriftResult, compare_all
from hotfeast.server.monitoring.observed import Channel
from hotfeast.server.monitoring.report.build import Readers
from hotfeast.server.monitoring.report.figures import Seen, known
from hotfeast.server.monitoring.report.model import DriftFigures
from hotfeast.server.monitoring.statistics import FeatureStatistics
from hotfeast.server.monitoring.windows import FeatureKey, MonitoringStore


def seen_of_state(
    state: MonitoringStore, references: Mapping[tuple[str, str], FeatureStatistics], name: str
) -> dict[FeatureKey, Seen]:
    """What a gateway has seen of each feature.

    Args:
        state: Its state.
        references: By view and feature.
        name: How the references are called.
    """
    return {
        key: Seen(
            state.merged(key),
            state.history(key),
            references.get((key.view, key.feature)),
            name,
        )
        for key in state.keys()  # noqa: SIM118
    }


def readers_of_state(state: MonitoringStore) -> list[Readers]:
    """Who reads what."""
    return [
        Readers(reader.view, reader.service or "", reader.caller or "", reading.rows)
        for reader, reading in state.readers().items()
    ]


def compared(seen: Mapping[FeatureKey, Seen]) -> dict[FeatureKey, Seen]:
    """With the drift of each feature that has a reference, by the rules of `drift`, which corrects
    for how many there are in each channel."""
    found = dict(seen)
    for channel in Channel:
        with_reference = {
            (key.view, key.feature): each
            for key, each in seen.items()
            if key.channel is channel and each.reference is not None
        }
        results = compare_all(
            {name: each.reference for name, each in with_reference.items() if each.reference},
            {name: each.statistics for name, each in with_reference.items()},
        )
        for result in results:
            key = FeatureKey(channel, result.view, result.feature)
            found[key] = found[key]._replace(drift=_drift(result))
    return found


def _drift(result: DriftResult) -> DriftFigures:
    return DriftFigures(
        test=str(result.test),
        statistic=known(result.statistic),
        p_value=known(result.p_value),
        adjusted_p=known(result.adjusted_p),
        effect=known(result.effect),
        psi=known(result.psi),
        wasserstein=known(result.wasserstein),
        drifted=result.drifted,
        values_drifted=result.values_drifted,
        empty=known(result.empty_current),
        empty_reference=known(result.empty_reference),
    )
