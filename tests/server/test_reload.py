"""Definitions change while requests are under way: each answer is of one state, old or new."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import market
from feast import FeatureService, FeatureStore, FeatureView, Field
from feast.types import Float64, Int64, String
from processes import eventually
from served import Served, serve, stop

from hotfeast.clients import FeatureClient, HotfeastError
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis

THREADS = 4
# Rounds of all requests that each thread makes in each state of the definitions.
ROUNDS = 3

# User 3 has an old row: what becomes of it depends on the TTL, for all its features alike.
ENTITIES: dict[str, Any] = {"user_id": [1, 3, 77]}
REQUESTS: dict[str, str | list[str]] = {
    "service": "people",
    "renamed": "persons",
    "list": ["user_stats:visits", "user_stats:city", "user_stats:spend"],
    "feature that is dropped": ["user_stats:city"],
    "feature that stays": ["user_stats:spend"],
    "new view": ["extra_stats:bonus", "user_stats:spend"],
}

Outcome = str


def _users(days: int, *features: str) -> FeatureView:
    types = {"visits": Int64, "spend": Float64, "city": String}
    return FeatureView(
        name="user_stats",
        entities=[market.user],
        ttl=timedelta(days=days),
        schema=[Field(name="user_id", dtype=Int64)]
        + [Field(name=name, dtype=types[name]) for name in features],
        source=market.user_stats.batch_source,
    )


def _people(view: FeatureView, name: str = "people") -> FeatureService:
    return FeatureService(name=name, features=[view])


extra = FeatureView(
    name="extra_stats",
    entities=[market.user],
    ttl=timedelta(days=2),
    schema=[Field(name="user_id", dtype=Int64), Field(name="bonus", dtype=Float64)],
    source=market.user_stats.batch_source,
)


def _ask(client: FeatureClient, what: str | list[str]) -> Outcome:
    try:
        answer = client.get_online_features(what, ENTITIES)
    except HotfeastError as error:
        return str(error)
    return repr((answer.to_dict(), answer.statuses))


@dataclass
class Load:
    """Threads that ask for everything, over and over.

    Attributes:
        seen: What each thread was answered, by request, without repetitions.
        rounds: How often each thread has asked for everything.
    """

    address: str
    seen: list[dict[str, list[Outcome]]] = field(
        default_factory=lambda: [{name: [] for name in REQUESTS} for _ in range(THREADS)]
    )
    rounds: list[int] = field(default_factory=lambda: [0] * THREADS)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(THREADS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        with FeatureClient(self.address, retries=None) as client:
            while not self._stop.is_set():
                for name, what in REQUESTS.items():
                    outcome = _ask(client, what)
                    seen = self.seen[number][name]
                    if not seen or seen[-1] != outcome:
                        seen.append(outcome)
                self.rounds[number] += 1

    def await_rounds(self) -> None:
        """Waits until each thread has asked for everything a few times more."""
        before = list(self.rounds)
        eventually(
            lambda: all(now >= then + ROUNDS for now, then in zip(self.rounds, before, strict=True))
        )


def _changes(store: FeatureStore) -> dict[str, Callable[[], object]]:
    old = _users(2, "visits", "spend", "city")
    longer = _users(30, "visits", "spend", "city")
    # Both in one step: an answer with the new TTL and the old features, or the reverse, is mixed.
    less = _users(2, "visits", "spend")
    people = _people(old)
    return {
        "new view": lambda: store.apply([extra]),
        "TTL": lambda: store.apply([longer]),
        "dropped feature": lambda: store.apply([less, _people(less)]),
        "renamed service": lambda: store.apply(
            [_people(less, "persons")], objects_to_delete=[people], partial=False
        ),
    }


def test_answers_while_definitions_change(redis_server: LocalRedis, tmp_path: Path) -> None:
    repo = market.write_repository(tmp_path, "reload", redis_server.address)
    writer = FeatureStore(repo_path=str(repo))
    view = _users(2, "visits", "spend", "city")
    writer.apply([market.user, view, _people(view)])
    columns = ["user_id", "event_timestamp", "visits", "spend", "city"]
    writer.write_to_online_store("user_stats", market._users()[columns])
    served = serve(writer, Settings(repo=repo, registry_interval=0.1))
    try:
        states = _run_changes(served, writer)
    finally:
        stop(served)
    missing = {
        name: [_not_found(outcome) for outcome in outcomes] for name, outcomes in states.items()
    }
    # NOT_FOUND is for what is not there yet or no more, by name, and for nothing else.
    assert missing == {
        "service": ["", "", "", "", "people"],
        "renamed": ["persons", "persons", "persons", "persons", ""],
        "list": ["", "", "", "city", "city"],
        "feature that is dropped": ["", "", "", "city", "city"],
        "feature that stays": [""] * 5,
        "new view": ["extra_stats", "", "", "", ""],
    }
    # What a change is for has come about.
    assert "OUTSIDE_MAX_AGE" in states["service"][1]
    assert "OUTSIDE_MAX_AGE" not in states["service"][2]
    assert "city" in states["service"][2]
    assert "city" not in states["service"][3]
    assert "OUTSIDE_MAX_AGE" in states["service"][3]


def _run_changes(served: Served, writer: FeatureStore) -> dict[str, list[Outcome]]:
    """Makes the changes under load, and checks what was answered.

    Returns:
        For each request what it is answered in each state of the definitions.
    """
    info = served.client.serving_info
    states = {name: [_ask(served.client, what)] for name, what in REQUESTS.items()}
    with Load(served.address) as load:
        load.await_rounds()
        for number, change in enumerate(_changes(writer).values(), start=2):
            before = info().registry_updated.ToNanoseconds()
            change()
            eventually(lambda number=number: info().plan_generation >= number)
            assert info().plan_generation == number
            assert info().registry_updated.ToNanoseconds() > before
            assert info().registry_error == ""
            for name, what in REQUESTS.items():
                states[name].append(_ask(served.client, what))
            load.await_rounds()
    for seen in load.seen:
        for name, outcomes in seen.items():
            # Every state's answer, in the order of the states, and no other.
            expected = [o for i, o in enumerate(states[name]) if i == 0 or o != states[name][i - 1]]
            assert outcomes == expected, name
    return states


def _not_found(outcome: Outcome) -> str:
    """What an error names as missing; empty for an answer."""
    if outcome.startswith("("):
        return ""
    assert "NOT_FOUND" in outcome, outcome
    return outcome.split("'")[3 if "called" in outcome else 1]
