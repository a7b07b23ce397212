"""What the tests share: a real Redis on a free port, and a Feast repository to serve from it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before anything else imports Feast: this is its quick import.
import hotfeast.server.feast_api  # noqa: F401
from hotfeast.server.local_redis import LocalRedis

logging.getLogger("feast").setLevel(logging.WARNING)

# What other processes of this run have to tell at its end.
_sections: list[tuple[str, list[str]]] = []


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes what a process of pytest-xdist has to tell."""
    _sections.extend(getattr(node, "workeroutput", {}).get("sections", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tells it."""
    for title, lines in _sections:
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[LocalRedis]:
    """A Redis server for the whole run; tests keep apart by Feast project."""
    with LocalRedis() as server:
        yield server


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent
