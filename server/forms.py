"""Values of settings that are more than a number, a text or a path: how they are written."""

import os
from datetime import UTC, datetime

from hotfeast.server.options import Form

LEVELS = ("debug", "info", "warning", "error")
"""What can be logged at least."""


def parse_address(text: str) -> tuple[str, int]:
    """Splits `HOST:PORT`; an IPv6 host stands in brackets.

    Raises:
        ValueError: It is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} must have the form HOST:PORT, for example 127.0.0.1:6570")
    return host, int(port)


def parse_cpus(text: str) -> tuple[int, ...]:
    """Numbers of CPUs from a list as taskset takes it, such as 1 or 2-5,7.

    Raises:
        ValueError: It is none, or one of them cannot be used here.
    """
    # Only Linux has it.
    usable = getattr(os, "sched_getaffinity", lambda _: set[int]())(0)
    cpus: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"{text!r} is no list of CPUs such as 1 or 2-5,7")
        cpus += range(int(first), int(last or first) + 1)
    if unusable := sorted(set(cpus) - usable):
        raise ValueError(
            f"CPU {unusable[0]} cannot be used here; those that can are "
            f"{', '.join(map(str, sorted(usable))) or 'not known on this system'}"
        )
    if not cpus:
        raise ValueError(f"{text!r} names no CPU")
    return tuple(cpus)


def parse_time(text: str) -> datetime:
    """Reads an ISO 8601 time; one without a zone is UTC.

    Raises:
        ValueError: It is none.
    """
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def check_window(seconds: int) -> None:
    """Judges how long a window of statistics is.

    Raises:
        ValueError: An hour has no whole number of them.
    """
    if 3600 % seconds:
        raise ValueError(f"{seconds} s do not divide an hour; 300 do")


def parse_loggers(text: str) -> tuple[tuple[str, str], ...]:
    """Levels of loggers by name, such as `hotfeast.server.watch=debug,feast=error`.

    Raises:
        ValueError: It is no list of them.
    """
    found = {}
    for part in text.split(","):
        name, equals, level = map(str.strip, part.partition("="))
        if not name or not equals or level not in LEVELS:
            raise ValueError(
                f"{part.strip()!r} must have the form LOGGER=LEVEL, with one of {', '.join(LEVELS)}"
            )
        found[name] = level
    return tuple(found.items())


ADDRESS = Form("HOST:PORT", parse_address, lambda address: f"{address[0]}:{address[1]}")
CPUS = Form("LIST", parse_cpus, lambda cpus: ",".join(map(str, cpus)))
TIME = Form("TIME", parse_time, datetime.isoformat)
LOGGERS = Form(
    "LOGGER=LEVEL,...",
    parse_loggers,
    lambda levels: ",".join(f"{name}={level}" for name, level in levels),
)
