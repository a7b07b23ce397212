"""A headless Chromium for tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bench import chromium

# The environment variable with which continuous integration has no test skipped.
_REQUIRED = "HOTFEAST_REQUIRE_CHROMIUM"


@contextmanager
def open_chromium() -> Iterator[Any]:
    """A browser with a profile of its own.

    Where none is installed it skips the test, or fails it where one is required.
    """
    try:
        with chromium.open_chromium() as opened:
            yield opened
    except chromium.NoChromium as error:
        if os.environ.get(_REQUIRED):
            pytest.fail(str(error))
        pytest.skip(str(error))
