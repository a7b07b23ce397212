"""What is logged, and how, by each process of a gateway."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hotfeast.server.settings import LogSettings

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# What Feast says of every look at a registry; and of a registry server that is away it tells,
# wrongly, as of a malformed answer.
_QUIET = {"feast": "warning", "feast.errors": "error"}
# What every record has; what one has beside that was given as `extra`.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_set: set[str] = set()
_now = LogSettings()


def log_settings() -> LogSettings:
    """How this process logs, for another one that is to log so, too."""
    return _now


def set_up_logs(settings: LogSettings | None = None, worker: int | None = None) -> None:
    """Has all be logged on standard error; again and again, for settings that change.

    Args:
        settings: How; as by default if None.
        worker: The process's number, which is told with each line in JSON; None for a supervisor.
    """
    global _now
    _now = settings = settings or LogSettings()
    handler = logging.StreamHandler(sys.stderr)
    as_json = settings.format == "json"
    handler.setFormatter(JsonFormatter(worker) if as_json else logging.Formatter(_TEXT))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    levels = {**_QUIET, **dict(settings.levels)}
    for name in _set - set(levels):
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level.upper())
    _set.clear()
    _set.update(levels)


class JsonFormatter(logging.Formatter):
    """A JSON object a line: time, level, logger, message, process and, of a worker, its number;
    then what the line is about, and the traceback of an error."""

    def __init__(self, worker: int | None) -> None:
        """
        Args:
            worker: As for `set_up_logs`.
        """
        super().__init__()
        self._process: Mapping[str, Any] = {"pid": os.getpid()}
        if worker is not None:
            self._process = {**self._process, "worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        time = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._process,
        }
        line |= {name: value for name, value in vars(record).items() if name not in _USUAL}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)
