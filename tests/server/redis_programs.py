"""Which servers the tests of Redis' shapes run on: Redis itself, and Valkey."""

import os
import subprocess
from pathlib import Path

import pytest

from hotfeast.server.local_redis import PROGRAMS, NoRedisServer, find_server

# The environment variable with which continuous integration has no test skipped.
_REQUIRED = "HOTFEAST_REQUIRE_REDIS"

BOTH = pytest.mark.parametrize("name", PROGRAMS)
"""Has a test run on each of them, whose `name` it gets."""


def program(name: str) -> Path:
    """A server's program.

    Where it is not installed it skips the test, or fails it where both are required.
    """
    try:
        return find_server(name)
    except NoRedisServer as error:
        if os.environ.get(_REQUIRED):
            pytest.fail(str(error))
        pytest.skip(str(error))


def program_with_tls(name: str) -> Path:
    """The same, of a build that speaks TLS; the Valkey of the wheel does not, which is a skip."""
    found = program(name)
    # It ends at once: with TLS for want of a certificate, without for want of TLS.
    said = subprocess.run(
        [found, "--port", "0", "--tls-port", "1"], capture_output=True, timeout=30, check=False
    )
    if b"Failed to configure TLS" not in said.stdout + said.stderr:
        pytest.skip(f"{found} is built without TLS")
    return found
