"""How a consumer stands, for Prometheus."""

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from hotfeast.server.http_pages import HttpPages, page_guard
from hotfeast.server.settings import PageSettings

if TYPE_CHECKING:
    from hotfeast.server.consume_rows import Consumed


class ConsumerFigures:
    """The figures of one consumer."""

    def __init__(self, stream: str, group: str) -> None:
        """
        Args:
            stream: The stream's key, or the topic.
            group: The consumer group.
        """
        self._labels = [stream, group]
        self._consumed: Consumed | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def told(self, consumed: "Consumed") -> None:
        """Takes how the consumer stands."""
        self._consumed = consumed

    def serve(self, address: tuple[str, int], settings: PageSettings) -> HttpPages:
        """Serves a page of them.

        Args:
            address: Host and port.
            settings: Who may see it.

        Raises:
            StartFailure: The address cannot be listened on, or a file of tokens or of certificates
                cannot be used.
        """
        guard = page_guard(settings)
        if guard is not None:
            self._registry.register(guard)
        return HttpPages(make_wsgi_app(self._registry), *address, guard)

    def collect(self) -> list[Metric]:
        """The figures, as Prometheus' client asks for them."""
        names = ["stream", "group"]
        rows = CounterMetricFamily(
            "hotfeast_consumed_rows",
            "Entries that were consumed, by what became of them.",
            labels=[*names, "outcome"],
        )
        claimed = CounterMetricFamily(
            "hotfeast_consumed_claimed", "Entries taken over from other consumers.", labels=names
        )
        lag = GaugeMetricFamily(
            "hotfeast_consume_lag_entries",
            "Entries that the group has not read; of a topic, those in this consumer's partitions.",
            labels=names,
        )
        pending = GaugeMetricFamily(
            "hotfeast_consume_pending_entries",
            "Entries that the group has read and not acknowledged.",
            labels=names,
        )
        partitions = GaugeMetricFamily(
            "hotfeast_consume_partition_lag_entries",
            "Messages of a partition that this consumer has not stored.",
            labels=[*names, "partition"],
        )
        consumed = self._consumed
        if consumed is not None:
            for outcome, count in sorted(consumed.outcomes.items()):
                rows.add_metric([*self._labels, outcome], count)
            claimed.add_metric(self._labels, consumed.claimed)
            pending.add_metric(self._labels, consumed.pending)
            if consumed.lag is not None:
                lag.add_metric(self._labels, consumed.lag)
            for number, left in sorted(consumed.partition_lags.items()):
                partitions.add_metric([*self._labels, str(number)], left)
        return [rows, claimed, lag, pending, partitions]
