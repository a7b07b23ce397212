"""What is logged, and how, by each process of a gateway."""

import logging
import sys


def set_up_logs() -> None:
    """Has all be logged on standard error, less what Feast says of every look at a registry."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("feast").setLevel(logging.WARNING)
    # Of a registry server that is away it tells, wrongly, as of a malformed answer.
    logging.getLogger("feast.errors").setLevel(logging.ERROR)
