"""Who reads which feature, as the folder of a monitored gateway has it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hotfeast.server.errors import StartFailure
from hotfeast.server.monitoring.collector import read_collected
from hotfeast.server.monitoring.observed import Channel
from hotfeast.server.monitoring.windows import Reader, Reading


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was seen of reads.

    Attributes:
        served: By view and feature, when it was last in an answer that was looked at: the end of
            the window or hour, in seconds since 1970.
        readers: Who has read which view.
        since: When the first look was, in seconds since 1970.
        until: When the last one was.
        every: One of how many requests was looked at.
        complete: Whether all features that were served are among `served`; the monitoring refuses
            those past its limit.
        newest_events: By view, the newest event time in rows that were served or written, in
            seconds since 1970.
    """

    served: Mapping[tuple[str, str], float]
    readers: Mapping[Reader, Reading]
    since: float
    until: float
    every: int
    complete: bool = True
    newest_events: Mapping[str, float] = field(default_factory=dict)

    @property
    def days(self) -> float:
        """How many days were looked at."""
        return (self.until - self.since) / 86400

    @property
    def words(self) -> str:
        """What was looked at, for messages."""
        one = "all requests" if self.every == 1 else f"one in {self.every} requests"
        return f"{one} of {self.days:.1f} days"

    def readers_of(self, view: str, services: frozenset[str]) -> list[tuple[Reader, Reading]]:
        """Who reads a view through one of the services, or by a list of features; most first.

        Args:
            view: The view.
            services: Names of services.
        """
        found = [
            (reader, reading)
            for reader, reading in self.readers.items()
            if reader.view == view and (reader.service is None or reader.service in services)
        ]
        return sorted(found, key=lambda pair: -pair[1].rows)


def read_traffic(folder: Path) -> Traffic:
    """Reads what a gateway has seen.

    Args:
        folder: Its `--monitor-dir`.

    Raises:
        StartFailure: There is no such folder, or no request was looked at.
    """
    if not folder.is_dir():
        raise StartFailure(f"--monitor-dir: there is no folder {folder}")
    collected = read_collected(folder)
    store = collected.store
    served: dict[tuple[str, str], float] = {}
    newest: dict[str, float] = {}
    starts = []
    for key in store.keys():  # noqa: SIM118
        points = store.history(key)
        for point in points:
            # NaN where no event time is known.
            if point.newest_event > newest.get(key.view, 0.0) * 1e6:
                newest[key.view] = point.newest_event / 1e6
        if key.channel is Channel.served and points:
            served[key.view, key.feature] = max(p.start + p.seconds for p in points)
            starts.append(min(p.start for p in points))
    if not served:
        raise StartFailure(
            f"--monitor-dir: no read was looked at in {folder}; it is the folder of a gateway that "
            "serves with --monitor and this --monitor-dir"
        )
    readers = store.readers()
    return Traffic(
        served,
        readers,
        min(starts),
        max(served.values()),
        max(1, collected.every),
        complete=store.refused == 0,
        newest_events=newest,
    )
