"""Which alerts fire when features of real data go wrong, and which do while nothing is wrong.

The demonstration's year of shopping passes day by day: each day a random share of each view's
newest rows is served, and what is new is materialized, as the gateway would see it. The reference
of a month is a profile of the month before, and rules are the default ones. In the untouched months
every alert that fires is a false one. (In the first ones windows of 30 and 90 days are still
filling, since the data begin with the year: that is a drift.) Then, for one day, faults are put
into the data: each must fire an alert that names it, and none of another view or channel.

Writes `faults.json`.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
from rich.table import Table

from bench import OUT
from bench.measure import machine, write_json
from hotfeast.server.monitoring.alerts import Alert, AlertEngine, State
from hotfeast.server.monitoring.measure import measure
from hotfeast.server.monitoring.observed import Channel, FeatureColumn, Observation
from hotfeast.server.monitoring.rules import Known, KnownView, default_rules
from hotfeast.server.monitoring.statistics import PROFILE_SIZES, FeatureStatistics
from hotfeast.server.monitoring.windows import MonitoringStore

REPO = Path(__file__).resolve().parents[1] / "feature_repo"
# The programs of the repository are scripts beside its definitions, not an installed package.
sys.path.insert(0, str(REPO))

from conventions import DAILY_TTL, STATIC_TTL, WEEKLY_TTL, fresh_within  # noqa: E402
from prepare import KEYS, prepare  # noqa: E402

FAULT_DAY = datetime(2017, 9, 14, tzinfo=UTC)
FIRST_MONTH, LAST_MONTH = 2, 12
ROWS = 2_000
"""That are served of each view and day."""
PROFILE_ROWS = 20_000
"""Of a profile, of each view."""
SERVED_AT = timedelta(hours=18)
"""When rules are looked at, on each day: and once more after `LASTING`."""
LASTING = timedelta(minutes=10)
_TIME = "event_timestamp"
_TTLS = {
    "user_purchase_stats": DAILY_TTL,
    "user_demographics": STATIC_TTL,
    "product_attributes": STATIC_TTL,
    "product_popularity": WEEKLY_TTL,
    "user_product_interactions": WEEKLY_TTL,
}

Frames = Mapping[str, pl.DataFrame]
"""The rows that pass on a day, by view."""

References = dict[tuple[str, str], FeatureStatistics]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        key: A word for it.
        name: What it is.
        view: The view that it befalls.
        feature: The feature; empty for the view as a whole.
        rule: The rule that must fire.
        spoil: Makes of a day's rows those that pass instead.
        channel: Where they pass.
    """

    key: str
    name: str
    view: str
    feature: str
    rule: str
    spoil: Callable[[pl.DataFrame], pl.DataFrame]
    channel: Channel = Channel.served


@dataclass
class FaultResult:
    """What a fault has fired.

    Attributes:
        name: The fault.
        expected: The rule and what it must name.
        fired: Summaries of the alerts that name it.
        also: Those of other alerts in its view and channel, which it may bring with it.
        others: Those of all other alerts.
    """

    name: str
    expected: str
    fired: list[str] = field(default_factory=list)
    also: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether it was found, and nothing elsewhere."""
        return bool(self.fired) and not self.others


@dataclass
class Month:
    """A month without a fault.

    Attributes:
        month: As `2017-02`.
        judged: Features and views that were looked at, each channel and day.
        alerts: Summaries of the alerts that fired.
    """

    month: str
    judged: int = 0
    alerts: list[str] = field(default_factory=list)


def _nulls(rows: pl.DataFrame) -> pl.DataFrame:
    lost = pl.int_range(pl.len()) % 10 < 3
    return rows.with_columns(
        pl.when(lost).then(None).otherwise(pl.col("revenue_usd_30d")).alias("revenue_usd_30d")
    )


def _cents(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("avg_basket_usd_90d") * 100)


def _renamed(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("department").str.replace("^GROCERY$", "Grocery"))


def _late(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col(_TIME) - timedelta(days=1))


def _heavy(rows: pl.DataFrame) -> pl.DataFrame:
    least = pl.col("units_count_30d").quantile(0.8)
    return rows.filter(pl.col("units_count_30d") >= least)


_USERS = "user_purchase_stats"
FAULTS = (
    Fault("nulls", "3 of 10 values are null", _USERS, "revenue_usd_30d", "nulls", _nulls),
    Fault("unit", "cents instead of dollars", _USERS, "avg_basket_usd_90d", "drift", _cents),
    Fault("category", "a category changes", "product_attributes", "department", "drift", _renamed),
    Fault("late", "a day's snapshot does not come", _USERS, "", "freshness", _late),
    Fault(
        *("skew", "only heavy shoppers pushed", _USERS, "units_count_30d", "drift", _heavy),
        channel=Channel.pushed,
    ),
)
"""One of each kind."""


class Year:
    """The year's rows of all views."""

    def __init__(self) -> None:
        prepare(REPO / "data")
        self.rows = {
            view: pl.read_parquet(REPO / "data" / f"{view}.parquet").sort(_TIME) for view in KEYS
        }
        self._times = {view: rows[_TIME].unique().sort() for view, rows in self.rows.items()}
        self.known = Known(
            {
                view: KnownView(
                    {name: {} for name in self.features(view)},
                    fresh_within(_TTLS[view]),
                    _TTLS[view].total_seconds(),
                )
                for view in KEYS
            }
        )

    def features(self, view: str) -> list[str]:
        """Names of a view's features."""
        return [name for name in self.rows[view].columns if name not in (*KEYS[view], _TIME)]

    def snapshot(self, view: str, at: datetime) -> tuple[datetime, pl.DataFrame]:
        """The time of the newest rows of a view, and they."""
        times = self._times[view]
        past, rows = times.filter(times <= at), self.rows[view]
        if past.is_empty():
            return at, rows.clear()
        newest = past[-1]
        first, last = (rows[_TIME].search_sorted(newest, side) for side in ("left", "right"))
        return newest, rows.slice(first, last - first)

    def references(self, month: datetime) -> References:
        """The profile of the days of a month, each as likely as the others."""
        made: References = {}
        days = list(days_of(month))
        for view in KEYS:
            parts = []
            for number, day in enumerate(days):
                _, rows = self.snapshot(view, day)
                parts.append(rows.sample(min(PROFILE_ROWS // len(days), rows.height), seed=number))
            rows = pl.concat(parts)
            for name in self.features(view):
                statistics = FeatureStatistics(sizes=PROFILE_SIZES)
                statistics.update(FeatureColumn(view, name, _arrow(rows[name])))
                made[view, name] = statistics
        return made


def days_of(month: datetime) -> Iterator[datetime]:
    """The days of a month, each at midnight, from the first of the data on."""
    day = max(month, datetime(2017, 1, 2, tzinfo=UTC))
    while day.month == month.month:
        yield day
        day += timedelta(days=1)


class Gateway:
    """What monitoring makes of the days, as in a gateway.

    Attributes:
        references: The profile that features are compared with.
        store: What was seen.
    """

    def __init__(self, year: Year, references: References) -> None:
        self._year = year
        self.references = references
        self.store = MonitoringStore()
        self.store.set_references(
            {name: (figures.mean, figures.std) for name, figures in references.items()}
        )
        self._engine = AlertEngine(default_rules(), year.known)
        self._judged = 0

    @property
    def judged(self) -> int:
        """Features and views that were looked at so far."""
        return self._judged

    def pass_day(self, day: datetime, fault: Fault | None = None) -> list[Alert]:
        """Has a day's rows pass, and says which alerts fire then."""
        at = day + SERVED_AT
        for view in KEYS:
            newest, rows = self._year.snapshot(view, day)
            served = rows.sample(min(ROWS, rows.height), seed=day.toordinal())
            if fault is not None and fault.view == view:
                if fault.channel is not Channel.served:
                    self._observe(fault.channel, view, at, fault.spoil(rows))
                else:
                    served = fault.spoil(served)
            self._observe(Channel.served, view, at, served)
            if newest == day and (fault is None or fault.view != view):
                self._observe(Channel.materialized, view, at, rows)
        fired: list[Alert] = []
        for moment in (at, at + LASTING):
            measured = measure(self.store, self._year.known, moment.timestamp(), self.references)
            fired = self._engine.evaluate(measured, moment.timestamp())
        self._judged += len(measured)
        return [alert for alert in fired if alert.state is State.FIRING]

    def _observe(self, channel: Channel, view: str, at: datetime, rows: pl.DataFrame) -> None:
        times = rows[_TIME].dt.epoch("us").to_numpy()
        columns = tuple(
            FeatureColumn(view, name, _arrow(rows[name]), None, times)
            for name in self._year.features(view)
        )
        self.store.observe(Observation(channel, at.timestamp(), columns))


def _arrow(column: pl.Series) -> pa.Array:
    array = column.to_arrow()
    return array.cast(pa.large_string()) if array.type == pa.string_view() else array


def run(say: Callable[[str], None]) -> tuple[list[FaultResult], list[Month]]:
    """Both studies; progress goes to `say`."""
    year = Year()
    faults = [_with_fault(year, fault) for fault in FAULTS]
    months = []
    for number in range(FIRST_MONTH, LAST_MONTH + 1):
        months.append(_untouched(year, number))
        say(f"{months[-1].month}: {len(months[-1].alerts)} alerts")
    write_json(
        OUT / "faults.json",
        {
            "machine": machine(),
            "faults": [asdict(result) for result in faults],
            "months": [asdict(month) for month in months],
        },
    )
    return faults, months


def month_before(year: Year) -> References:
    """What the day of the faults is compared with."""
    return year.references(FAULT_DAY.replace(month=FAULT_DAY.month - 1, day=1))


def _with_fault(year: Year, fault: Fault) -> FaultResult:
    gateway = Gateway(year, month_before(year))
    result = FaultResult(
        fault.name, f"{fault.rule} of {fault.view}{':' if fault.feature else ''}{fault.feature}"
    )
    for alert in gateway.pass_day(FAULT_DAY, fault):
        named = (alert.rule, alert.view, alert.feature) == (fault.rule, fault.view, fault.feature)
        near = alert.view == fault.view and alert.channel in ("", fault.channel)
        told = result.fired if named else result.also if near else result.others
        told.append(f"{alert.rule}: {alert.summary}")
    return result


def _untouched(year: Year, number: int) -> Month:
    month = datetime(2017, number, 1, tzinfo=UTC)
    gateway = Gateway(year, year.references(datetime(2017, number - 1, 1, tzinfo=UTC)))
    result = Month(f"{month:%Y-%m}")
    known: set[str] = set()
    for day in days_of(month):
        firing = {alert.fingerprint: alert for alert in gateway.pass_day(day)}
        # One that goes on firing is counted once.
        result.alerts += [
            f"{day:%Y-%m-%d} {alert.rule}: {alert.summary}"
            for key, alert in firing.items()
            if key not in known
        ]
        known = set(firing)
    result.judged = gateway.judged
    return result


def fault_table(results: list[FaultResult]) -> Table:
    """What each fault has fired."""
    table = Table(title="Faults of one day, and the alerts that fire", title_justify="left")
    for heading in ("fault", "expected", "fired"):
        table.add_column(heading, overflow="fold")
    for heading in ("also", "elsewhere"):
        table.add_column(heading, justify="right")
    for result in results:
        fired = "\n".join(result.fired) or "[red]nothing"
        also, others = str(len(result.also)), "\n".join(result.others) or "0"
        table.add_row(result.name, result.expected, fired, also, others)
    return table


def month_table(months: list[Month]) -> Table:
    """False alarms, month by month."""
    table = Table(title="Alerts in months without a fault", title_justify="left")
    table.add_column("month")
    for heading in ("looked at", "alerts"):
        table.add_column(heading, justify="right")
    table.add_column("which", overflow="fold")
    for month in months:
        table.add_row(
            month.month, f"{month.judged:,}", str(len(month.alerts)), "\n".join(month.alerts)
        )
    return table
