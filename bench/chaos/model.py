"""Rows that tell whose and which they are, and what an answer may say of them."""

import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

PROJECT = "chaos"
VIEW = "steps"
SERVICE = "steps_service"
USERS = 20
TTL = timedelta(days=1)

_COLUMNS = ("user", "step", "check", "text", "ratio")
_START = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=12)


def write_repository(folder: Path, connection_string: str, redis_type: str = "redis") -> None:
    """A repository with one view, applied.

    Args:
        folder: Where.
        connection_string, redis_type: Of the online store.
    """
    (folder / "feature_store.yaml").write_text(
        f"project: {PROJECT}\nprovider: local\n"
        f"registry:\n  path: {folder / 'registry.db'}\n"
        f"online_store:\n  type: redis\n  redis_type: {redis_type}\n"
        f"  connection_string: {connection_string}\n"
        "offline_store:\n  type: file\nentity_key_serialization_version: 3\n"
    )
    user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
    view = FeatureView(
        name=VIEW,
        entities=[user],
        ttl=TTL,
        schema=[
            Field(name="user", dtype=Int64),
            Field(name="step", dtype=Int64),
            Field(name="check", dtype=Int64),
            Field(name="text", dtype=String),
            Field(name="ratio", dtype=Float64),
        ],
        source=FileSource(path=str(folder / "none.parquet"), timestamp_field="event_timestamp"),
    )
    FeatureStore(repo_path=str(folder)).apply(
        [user, view, FeatureService(name=SERVICE, features=[view])]
    )


def row(user: int, step: int) -> dict[str, Any]:
    """A user's row of a step, which no other row is like."""
    return {
        "user": user,
        "step": step,
        "check": user * 1_000_003 + step * 7919,
        "text": f"{user}/{step}/" + "t" * (step % 40),
        "ratio": step / 7 + user,
        "event_timestamp": _START + timedelta(seconds=step),
    }


class Findings(NamedTuple):
    """What judging answers has found.

    Attributes:
        rows: That were judged.
        wrong: Of them with values that nobody has pushed, or another's.
        lost: Of them older than what had been acknowledged before they were asked for.
        examples: Of both.
    """

    rows: int
    wrong: int
    lost: int
    examples: tuple[str, ...]


class Model:
    """What has been pushed and acknowledged, and judges answers by it; for several threads."""

    def __init__(self) -> None:
        self.tried = dict.fromkeys(range(USERS), 0)
        self.acknowledged = dict.fromkeys(range(USERS), 0)
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Begins to count anew."""
        self._rows = self._wrong = self._lost = 0
        self._examples: list[str] = []

    @property
    def findings(self) -> Findings:
        """So far."""
        return Findings(self._rows, self._wrong, self._lost, tuple(self._examples))

    def next_rows(self, users: Sequence[int]) -> dict[str, list[Any]]:
        """Rows to push, each the next of its user."""
        rows = []
        for user in users:
            self.tried[user] += 1
            rows.append(row(user, self.tried[user]))
        return {name: [each[name] for each in rows] for name in rows[0]}

    def judge(
        self,
        asked: Sequence[int],
        before: Mapping[int, int],
        values: Mapping[str, Sequence[Any]],
        statuses: Mapping[str, Sequence[str]],
    ) -> None:
        """Judges an answer.

        Args:
            asked: The users.
            before: What had been acknowledged when it was asked for.
            values, statuses: The answer, by column.
        """
        with self._lock:
            for columns in (values, statuses):
                if any(len(columns.get(name, ())) != len(asked) for name in _COLUMNS):
                    self._rows += len(asked)
                    self._found("wrong", f"columns { ({n: len(c) for n, c in columns.items()}) }")
                    return
            for i, user in enumerate(asked):
                self._rows += 1
                told = {name: values[name][i] for name in _COLUMNS[1:]}
                status = {statuses[name][i] for name in told}
                if values["user"][i] != user or len(status) != 1:
                    self._found("wrong", f"user {user}: {values['user'][i]}, {status}")
                elif status == {"NOT_FOUND"}:
                    if before[user]:
                        self._found("lost", f"user {user}: nothing, {before[user]} acknowledged")
                elif status == {"PRESENT"}:
                    step = told["step"]
                    expected = row(user, step) if isinstance(step, int) else {}
                    if told != {name: expected.get(name) for name in told} or (
                        step > self.tried[user]
                    ):
                        self._found("wrong", f"user {user}: {told}")
                    elif step < before[user]:
                        self._found("lost", f"user {user}: {step}, {before[user]} acknowledged")
                elif status != {"OUTSIDE_MAX_AGE"} or any(v is not None for v in told.values()):
                    self._found("wrong", f"user {user}: {status} {told}")

    def _found(self, what: str, example: str) -> None:
        if what == "wrong":
            self._wrong += 1
        else:
            self._lost += 1
        if len(self._examples) < 5:
            self._examples.append(f"{what}: {example}")
