"""Sets hypothesis up, and says at the end what a run has covered and how to repeat it."""

from collections.abc import Iterator

import parity_coverage
import pytest
from hypothesis import HealthCheck, Phase, settings
from parity_oracle import Bench

from hotfeast.server.local_redis import LocalRedis

_PHASES = (Phase.explicit, Phase.reuse, Phase.generate)

# No deadline: two cores, shared with whatever else runs, make single examples slow at times. No
# database of failures: the seed repeats a run, and other seeds are not what was asked for.
settings.register_profile(
    "parity",
    deadline=None,
    database=None,
    print_blob=True,
    report_multiple_bugs=False,
    phases=(*_PHASES, Phase.shrink) if parity_coverage.SHRINK else _PHASES,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)


@pytest.fixture(scope="session")
def bench(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Connections and a folder for all examples."""
    made = Bench(redis_server, tmp_path_factory.mktemp("parity"))
    yield made
    made.close()


def _sections() -> list[tuple[str, list[str]]]:
    """The seed and the counts, if a test of this folder has run."""
    lines = parity_coverage.summary()
    if not lines:
        return []
    repeat = (
        f"repeat with HOTFEAST_PARITY_SEED={parity_coverage.SEED} "
        f"HOTFEAST_PARITY_REPOS={parity_coverage.REPOS}"
    )
    return [("parity with Feast", [repeat, *lines])]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hands what is to be told to the process that tells it, where that is another one."""
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["sections"] = _sections()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tells it."""
    for title, lines in _sections():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.line(line)
