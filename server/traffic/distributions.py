"""How the features that versions share are distributed, beside each other, by what was served.

Monitoring keeps one set of statistics for each feature of a view, whoever reads it. So the columns
of a target are looked up by the view and the feature that they come from:

- Two targets that take a column from different views, or different features, have statistics of
  their own of it, and these are compared.
- Where both take it from the same feature of the same view, be it at different versions of the
  view, all their rows are in the same statistics: there is nothing to compare.
- Rows that others read of the view, be it by another feature service or a list of features, are in
  the statistics, too. Who they are is said.

Of an alias each target is compared with its first one. Columns are those of an answer: they go by
the name of the feature, and with its view where the names of a target would clash.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hotfeast.server.errors import RequestFailure, StartFailure
from hotfeast.server.monitoring.collector import Collected, read_collected
from hotfeast.server.monitoring.drift import DriftResult, compare_all
from hotfeast.server.monitoring.observed import Channel
from hotfeast.server.monitoring.statistics import FeatureStatistics
from hotfeast.server.monitoring.windows import FeatureKey
from hotfeast.server.plan import PlanBook, ServedFeature, ServingPlan
from hotfeast.server.registry import Definitions
from hotfeast.server.traffic.personal import personal_columns

# Of a summary, what tells values.
_VALUES = ("mean", "std", "minimum", "maximum")


@dataclass(frozen=True, slots=True)
class Version:
    """A column of one target.

    Attributes:
        view: The view that it comes from.
        feature: The feature's name there.
        statistics: Of the rows that were seen of it.
    """

    view: str
    feature: str
    statistics: FeatureStatistics


@dataclass(frozen=True, slots=True)
class ColumnComparison:
    """A column that two targets have.

    Attributes:
        name: Its name in their answers.
        first: Of the first target.
        second: Of the second one.
        hidden: Whether it is tagged as personal on either side, so that values are not shown.
        drift: How the second differs from the first; None where both are the same statistics.
    """

    name: str
    first: Version
    second: Version
    hidden: bool
    drift: DriftResult | None

    @property
    def tested(self) -> bool:
        """Whether anything could be tested: the values, or the shares of rows without one."""
        drift = self.drift
        return drift is not None and (
            drift.drifted
            or not math.isnan(drift.adjusted_p)
            or not math.isnan(drift.empty_adjusted_p)
        )

    @property
    def differs(self) -> bool:
        """Whether the two are distributed otherwise, by the drift test at its defaults."""
        return self.drift is not None and self.drift.drifted

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can have it."""
        return {
            "feature": self.name,
            "differs": self.differs,
            "tested": self.tested,
            "same_statistics": self.drift is None,
            "hidden": self.hidden,
            "first": _figures(self.first, self.hidden),
            "second": _figures(self.second, self.hidden),
            "drift": None if self.drift is None else _drift(self.drift),
        }


@dataclass(frozen=True, slots=True)
class TargetComparison:
    """Two targets beside each other.

    Attributes:
        first: The target that is compared with.
        second: The other one.
        columns: What both have, in the order of the first.
        only_first: Columns that only the first has.
        only_second: Columns that only the second has.
        others: Who else has read the views whose statistics are compared in this time, by view:
            names of feature services, and an empty one for lists of features.
    """

    first: str
    second: str
    columns: tuple[ColumnComparison, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    others: Mapping[str, tuple[str, ...]]

    @property
    def differs(self) -> list[str]:
        """Names of the columns that are distributed otherwise."""
        return [column.name for column in self.columns if column.differs]

    @property
    def tested(self) -> list[str]:
        """Names of the columns of which anything could be tested."""
        return [column.name for column in self.columns if column.tested]

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can have it."""
        return {
            "first": self.first,
            "second": self.second,
            "differs": self.differs,
            "features": [column.to_dict() for column in self.columns],
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "others": {view: list(names) for view, names in self.others.items()},
        }


@dataclass(frozen=True, slots=True)
class Distributions:
    """The targets of an alias, each beside the first.

    Attributes:
        seconds: How far back the rows go, at most.
        every: One of how many reads was looked at.
        comparisons: One for each target after the first.
    """

    seconds: int
    every: int
    comparisons: tuple[TargetComparison, ...]

    @property
    def exit_code(self) -> int:
        """1 where a column is distributed otherwise, 2 where no column could be tested, else 0."""
        if any(each.differs for each in self.comparisons):
            return 1
        return 0 if any(each.tested for each in self.comparisons) else 2

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can have it."""
        return {
            "seconds": self.seconds,
            "every": self.every,
            "comparisons": [each.to_dict() for each in self.comparisons],
        }


def compare_targets(
    definitions: Definitions, folder: Path, targets: Sequence[str]
) -> Distributions:
    """Compares what was served of the columns that targets share.

    Args:
        definitions: Those that are served.
        folder: The `--monitor-dir` of a gateway.
        targets: Feature services, or views at a version; each is compared with the first.

    Raises:
        StartFailure: There are not two targets, one cannot be served, the folder is not there, or
            nothing of a target was looked at lately.
    """
    if len(set(targets)) < 2:
        raise StartFailure(f"there is nothing to compare {targets[0]!r} with; name two targets")
    if not folder.is_dir():
        raise StartFailure(f"--monitor-dir: there is no folder {folder}")
    collected = read_collected(folder)
    plans = _plans(definitions, list(dict.fromkeys(targets)))
    seconds = _seconds(collected)
    sides = {name: _Side(name, plan, definitions, collected) for name, plan in plans.items()}
    for side in sides.values():
        if not side.seen:
            raise StartFailure(
                f"--monitor-dir: no answer of the last {seconds / 60:g} minutes with features of "
                f"{side.name!r} was looked at in {folder}; it is the folder of a gateway that "
                "serves with --monitor and this --monitor-dir"
            )
    first, *others = sides.values()
    # Together, so that p-values are adjusted for all that is told at once.
    drifts = {
        (result.view, result.feature): result
        for result in compare_all(
            {
                (side.name, name): first.versions[name].statistics
                for side in others
                for name in first.apart_from(side)
            },
            {
                (side.name, name): side.versions[name].statistics
                for side in others
                for name in first.apart_from(side)
            },
        )
    }
    compared = tuple(_compared(first, side, drifts, collected) for side in others)
    return Distributions(seconds, max(1, collected.every), compared)


class _Side:
    """A target and what was seen of its columns.

    Attributes:
        name: The target.
        service: The feature service that monitoring counts it for; None for a view at a version.
        hidden: Columns that are personal.
        versions: By the column's name.
        seen: Whether there is a row of any column.
    """

    def __init__(
        self, name: str, plan: ServingPlan, definitions: Definitions, collected: Collected
    ) -> None:
        self.name = name
        self.service = plan.service
        self.hidden = personal_columns(definitions, plan)
        self.versions = {
            served.output_name: Version(served.view, served.feature, _served(served, collected))
            for served in plan.served
        }
        self.seen = any(version.statistics.rows for version in self.versions.values())

    def apart_from(self, other: "_Side") -> list[str]:
        """Columns that both have, each with statistics of its own."""
        return [
            name
            for name, version in self.versions.items()
            if name in other.versions and not _same(version, other.versions[name])
        ]


def _compared(
    first: _Side,
    second: _Side,
    drifts: Mapping[tuple[str, str], DriftResult],
    collected: Collected,
) -> TargetComparison:
    columns = tuple(
        ColumnComparison(
            name,
            version,
            second.versions[name],
            name in first.hidden or name in second.hidden,
            drifts.get((second.name, name)),
        )
        for name, version in first.versions.items()
        if name in second.versions
    )
    own: dict[str, set[str | None]] = {}
    for name in first.apart_from(second):
        for side in (first, second):
            own.setdefault(side.versions[name].view, set()).add(side.service)
    others: dict[str, set[str]] = {}
    since = time.time() - _seconds(collected)
    for reader, reading in collected.store.readers().items():
        if reading.last < since:
            continue
        if reader.view in own and reader.service not in own[reader.view]:
            others.setdefault(reader.view, set()).add(reader.service or "")
    return TargetComparison(
        first=first.name,
        second=second.name,
        columns=columns,
        only_first=tuple(name for name in first.versions if name not in second.versions),
        only_second=tuple(name for name in second.versions if name not in first.versions),
        others={view: tuple(sorted(names)) for view, names in sorted(others.items())},
    )


def _plans(definitions: Definitions, targets: Sequence[str]) -> dict[str, ServingPlan]:
    """The plans of targets, with full names where the short ones of one would clash.

    Raises:
        StartFailure: One cannot be served.
    """
    book = PlanBook(definitions, generation=1)
    try:
        try:
            return {target: book.find_target(target, False) for target in targets}
        except RequestFailure:
            return {target: book.find_target(target, True) for target in targets}
    except RequestFailure as failure:
        raise StartFailure(failure.message) from failure


def _served(served: ServedFeature, collected: Collected) -> FeatureStatistics:
    try:
        return collected.store.merged(FeatureKey(Channel.served, served.view, served.feature))
    except KeyError:
        return FeatureStatistics()


def _seconds(collected: Collected) -> int:
    """How far back windows are kept."""
    return collected.store.kept * collected.store.seconds


def _same(one: Version, other: Version) -> bool:
    return (one.view, one.feature) == (other.view, other.feature)


def _figures(version: Version, hidden: bool) -> dict[str, Any]:
    summary = version.statistics.summary()
    if hidden:
        summary.update(dict.fromkeys(_VALUES), quantiles={}, top=[])
    return {"view": version.view, "feature": version.feature, **summary}


def _drift(result: DriftResult) -> dict[str, Any]:
    names = [field.name for field in fields(result) if field.name not in ("view", "feature")]
    return {name: _plain(getattr(result, name)) for name in names}


def _plain(value: Any) -> Any:
    """Without what JSON has no number for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
