"""A bar on the terminal that shows how far `score` has come."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hotfeast.clients.optional import needed
from hotfeast.clients.scoring import Progress, Scored


@contextmanager
def shown(progress: bool | Progress) -> Iterator[Progress]:
    """What is to be told of progress, for as long as it is shown.

    Args:
        progress: True for a bar, False for nothing, or what is told in its place.

    Raises:
        MissingPackage: rich is not installed, which draws the bar.
    """
    if callable(progress):
        yield progress
    elif progress:
        with _bar() as tell:
            yield tell
    else:
        yield lambda _: None


@contextmanager
def _bar() -> Iterator[Callable[[Scored], object]]:
    rich = needed("rich.progress", "progress=True")
    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("rows"),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns) as bar:
        task = bar.add_task("scoring", total=None)
        yield lambda scored: bar.update(task, completed=scored.rows, total=scored.total)
