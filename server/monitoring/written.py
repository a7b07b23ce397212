"""Rows that a materialization writes, as the monitoring sees them."""

import time
from pathlib import Path

from hotfeast.server.monitoring.collector import Collector, window_seconds
from hotfeast.server.monitoring.observed import Channel
from hotfeast.server.monitoring.tap import Written, written_rows
from hotfeast.server.rows import EncodedRows
from hotfeast.server.write_plan import ViewWrite


class WriteObserver:
    """Describes batches in a folder that a gateway reads, too."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: The `--monitor-dir` of the gateway.

        Raises:
            OSError: It cannot be made.
        """
        self._collector = Collector(folder, window_seconds(folder))

    def wrote(self, write: ViewWrite, encoded: EncodedRows) -> None:
        """Takes a batch that has been written; of more than a thousand rows some, evenly."""
        written = Written(time.time(), write, encoded, encoded.batch.outcomes)
        self._collector.observe(written_rows(Channel.materialized, [written]))
        self._collector.write_if_due()

    def close(self) -> None:
        """Writes the rest."""
        self._collector.write()
