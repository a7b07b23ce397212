"""Aliases, shadow reads and their figures, of one gateway process."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prometheus_client import CollectorRegistry

from hotfeast.server.monitoring.turns import Turns
from hotfeast.server.plan import PlanBook, PlanSource
from hotfeast.server.settings import TrafficSettings
from hotfeast.server.traffic.aliases import Alias
from hotfeast.server.traffic.comparison import Comparisons
from hotfeast.server.traffic.figures import AliasFigures, DeprecatedReads
from hotfeast.server.traffic.routes import Side, SideMaker
from hotfeast.server.traffic.service import TrafficService, shadows_of
from hotfeast.server.traffic.shadow import Reader, ShadowReads
from hotfeast.server.traffic.store import Stored
from hotfeast.server.traffic.watch import AliasState, AliasWatch

# Seconds between two times that figures are brought to Prometheus'.
_FLUSH = 1.0


class Traffic:
    """All that a gateway process has of it.

    Attributes:
        aliases: The aliases; None where there is no file of them.
        reads: Counts reads of what is deprecated; None without figures.
        service: Answers `Traffic`.
    """

    def __init__(
        self,
        settings: TrafficSettings | None,
        plans: PlanSource,
        shadow_reader: Reader,
        caller_of: Callable[[Any], bytes | None],
        registry: CollectorRegistry | None,
    ) -> None:
        """
        Args:
            settings: Where the aliases are; None for no aliases.
            plans: The plans of the moment.
            shadow_reader: Answers requests for shadow reads.
            caller_of: Says who makes a call, of its context.
            registry: Where figures are kept; there are none if None.

        Raises:
            StartFailure: The file of aliases is not valid.
        """
        self.reads = DeprecatedReads(registry) if registry is not None else None
        self.aliases: AliasWatch | None = None
        self._figures: AliasFigures | None = None
        self._shadows: ShadowReads | None = None
        self._own_folder: TemporaryDirectory[str] | None = None
        folder: Path | None = None
        if settings is not None:
            folder = settings.folder
            if folder is None:
                self._own_folder = TemporaryDirectory(prefix="hotfeast-traffic-")
                folder = Path(self._own_folder.name)
            if registry is not None:
                self._figures = AliasFigures(registry)
            self._shadows = ShadowReads(
                shadow_reader, Comparisons(folder), self._shadowed, self._figures
            )
            self.aliases = AliasWatch(settings.aliases, plans, self._side_maker, self._loaded)
        self.service = TrafficService(self.aliases, folder, caller_of)
        self._turns: Turns | None = None
        if registry is not None:
            self._turns = Turns("traffic-figures", self._flush, _FLUSH)

    def start(self) -> None:
        """Starts the threads."""
        if self.aliases is not None:
            self.aliases.start()
        if self._shadows is not None:
            self._shadows.start()
        if self._turns is not None:
            self._turns.start()

    def stop(self) -> None:
        """Ends them."""
        if self.aliases is not None:
            self.aliases.stop()
        if self._shadows is not None:
            self._shadows.stop()
        if self._turns is not None:
            self._turns.stop()
            self._turns.attempt(lambda: self._flush(lambda: None))
        if self._own_folder is not None:
            self._own_folder.cleanup()

    def _shadowed(self) -> list[tuple[str, str, int]]:
        assert self.aliases is not None
        return list(shadows_of(self.aliases.state.stored))

    def _side_maker(self, stored: Stored) -> SideMaker:
        def make(alias: Alias, target: str, book: PlanBook, full_feature_names: bool) -> Side:
            figures = self._figures
            return Side(
                alias,
                target,
                book,
                full_feature_names,
                figures.of(alias.name, target) if figures is not None else None,
                self.reads,
                self._shadows,
                stored.record.shadowed_since(alias),
            )

        return make

    def _loaded(self, state: AliasState) -> None:
        if self._figures is not None:
            self._figures.loaded(state.stored.aliases.values(), not state.error)

    def _flush(self, pace: Callable[[], None]) -> None:
        if self.reads is not None:
            self.reads.flush(pace)
        if self._figures is not None:
            self._figures.flush(pace)
