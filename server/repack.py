"""Puts the rows of a live store into another layout, in the background of its traffic.

Redis is asked for its keys portion by portion (SCAN), and a script converts the rows of those that
are the project's (`hotpath/repack_rows.lua`). Each row is one step inside Redis, so whoever writes
meanwhile loses nothing, and readers find each row in one layout or the other. Rows that are written
after their key was looked at are in whatever layout their writer has: tell the writers first.

How far it has come is kept in Redis, in `hotfeast:repack:<project>`, so that a run that was
interrupted goes on where it stopped. Rows that are converted already are left alone, so running
again does no harm.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import redis

from hotfeast.hotpath.definition import LAYOUTS, FeatureWrite, WriteDefinition, schema_number
from hotfeast.hotpath.scripts import load_script
from hotfeast.server.entity_keys import EntityKeys
from hotfeast.server.errors import StartFailure, not_servable, unknown_name
from hotfeast.server.feast_api import FeatureStore
from hotfeast.server.layouts import Schemas, view_layout
from hotfeast.server.plan import (
    feature_hash_field,
    row_hash_field,
    storage_name_at,
    time_hash_field,
)
from hotfeast.server.redis_clients import REDIS_ERRORS, Pool, client_of, node_clients_of
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.registry import Definitions, ViewDefinition, read_definitions
from hotfeast.server.repository import open_repository
from hotfeast.server.view_writer import PATIENCE, REDIS_TIMEOUT

SCRIPT = load_script("repack_rows.lua")
"""The script that converts rows, as SCRIPT LOAD wants it."""

ProgressCallback = Callable[[int, int, int], None]
"""Called with the keys that were looked at, those that there are, and the rows converted so far."""

KEYS_AT_ONCE = 256
"""Keys that Redis is asked for at once, unless said otherwise."""

# Keys of one call of the script, and calls that are sent in one go: what other clients of Redis may
# have to wait for, about a millisecond.
_KEYS_A_CALL = 16
_CALLS_AT_ONCE = 4
# Seconds for which Redis keeps how far a run has come.
_REMEMBERED = 24 * 3600
# Seconds between two tries to reach Redis, the first and the longest.
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 2.0
_MOST_EXAMPLES = 5
# What the script answers for a row.
_CONVERTED, _ALREADY, _ABSENT, _UNKNOWN = b"1=-U"
# What passes where Redis is away for a while, or a node of a cluster is.
_AWAY = (
    redis.ConnectionError, redis.TimeoutError, redis.exceptions.ClusterDownError,
    redis.exceptions.RedisClusterException,
)  # fmt: skip
# What redis-py makes of a node's word that a key is elsewhere.
_ELSEWHERE = (redis.exceptions.AskError, redis.exceptions.TryAgainError)
_REASONS = {
    ord("B"): "its row cannot be read",
    ord("U"): "its packed row has features that are recorded nowhere",
    ord("T"): "its key holds no hash",
}

T = TypeVar("T")


class _Stopped(Exception):
    """The run was asked to stop."""


@dataclass
class ViewRepack:
    """What became of the rows of one view, or one of its versions.

    Attributes:
        name: Its name in the store.
        converted: Rows that are in the layout now, and were not.
        already: Rows that were in the layout.
        unreadable: Rows that could not be read, and were left as they are.
        examples: The first of those, with why.
    """

    name: str
    converted: int = 0
    already: int = 0
    unreadable: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """All rows that were there."""
        return self.converted + self.already + self.unreadable


@dataclass
class RepackSummary:
    """What became of a run, and of the one that it goes on with.

    Attributes:
        layout: The layout that rows were put into.
        views: For each view what became of its rows.
        keys: Keys of any kind that were looked at.
        entities: Those of them that are entities of these views.
        resumed: Whether it went on with a run that was interrupted.
        state: `done`, `failed` or `interrupted`.
        seconds: How long this run took.
        error: Why it failed.
        written_otherwise: For views whose rows are written in another layout by default, that
            layout.
        left_out: Views that were left out, and why.
    """

    layout: str
    views: list[ViewRepack]
    keys: int = 0
    entities: int = 0
    resumed: bool = False
    state: str = "interrupted"
    seconds: float = 0.0
    error: str = ""
    written_otherwise: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 where all rows are in the layout; 130 after an interruption; else 1."""
        if self.state == "interrupted":
            return 130
        lost = any(view.unreadable for view in self.views)
        return 1 if lost or self.state != "done" else 0


def repack(
    repo: FeatureStore | Path | str,
    layout: str,
    views: Sequence[str] | None = None,
    *,
    redis_url: str | None = None,
    keys_at_once: int = KEYS_AT_ONCE,
    rate: float | None = None,
    restart: bool = False,
    progress: ProgressCallback | None = None,
    stop: threading.Event | None = None,
) -> RepackSummary:
    """Puts all stored rows of views into a layout.

    Args:
        repo: The repository: its folder, or Feast's store of it.
        layout: One of `LAYOUTS`.
        views: Names of views, of which all versions are converted; None for all.
        redis_url: Used instead of the repository's connection string.
        keys_at_once: Keys that Redis is asked for at once.
        rate: Rows a second that are looked at, at most; None for no limit.
        restart: Whether to begin anew where a run was interrupted.
        progress: Is told of each portion of keys.
        stop: Ends the run once it is set.

    Returns:
        What became of the rows. A Redis that failed is in it as `error`.

    Raises:
        StartFailure: The repository cannot be opened, or its online store is no Redis.
        RequestFailure: There is no such view, it has no rows, or its tags name no layout.
        ValueError: An argument makes no sense.
    """
    _check(layout, keys_at_once, rate)
    store = repo if isinstance(repo, FeatureStore) else open_repository(Path(repo))
    definitions = read_definitions(store)
    left_out: dict[str, str] = {}
    chosen = list(_chosen(definitions, views, left_out))
    if not chosen:
        raise StartFailure(f"project {definitions.project!r} has no views with rows in Redis")
    written_otherwise = {
        view.name: written
        for view in chosen
        if (written := view_layout(view.name, view.tags, definitions.layout)) != layout
    }
    pool = connection_pool(store.config, redis_url, REDIS_TIMEOUT)
    try:
        summary = repack_views(
            pool,
            [write for view in chosen for write in stored_views(definitions, view)],
            layout,
            keys_at_once=keys_at_once,
            rate=rate,
            restart=restart,
            progress=progress,
            stop=stop,
        )
    finally:
        pool.disconnect()
    summary.written_otherwise = written_otherwise
    summary.left_out = left_out
    return summary


def repack_views(
    pool: Pool,
    views: Sequence[WriteDefinition],
    layout: str,
    *,
    keys_at_once: int = KEYS_AT_ONCE,
    rate: float | None = None,
    restart: bool = False,
    progress: ProgressCallback | None = None,
    stop: threading.Event | None = None,
) -> RepackSummary:
    """Puts all stored rows of views into a layout; for callers without a repository.

    Args:
        pool: Connections.
        views: How the views are stored, at least one; all of one project. Their own layouts are
            not looked at.
        layout, keys_at_once, rate, restart, progress, stop: As for `repack`.

    Raises:
        ValueError: An argument makes no sense.
    """
    _check(layout, keys_at_once, rate)
    run = _Run(pool, views, layout, stop or threading.Event())
    return run.go(keys_at_once, rate, restart, progress or (lambda *_: None))


def _check(layout: str, keys_at_once: int, rate: float | None) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"the layout is {layout!r}; use one of {', '.join(LAYOUTS)}")
    if keys_at_once < 1 or (rate is not None and rate <= 0):
        raise ValueError("keys_at_once and rate must be above 0")


def _chosen(
    definitions: Definitions, names: Sequence[str] | None, left_out: dict[str, str]
) -> Iterator[ViewDefinition]:
    """The views that have rows."""
    for name in dict.fromkeys(definitions.views if names is None else names):
        view = definitions.views.get(name)
        if view is None:
            raise unknown_name("feature view", name, definitions.views)
        problem = ""
        if not view.stored:
            problem = f"feature view {name!r} is computed when it is asked for: it has no rows"
        elif not view.online or not view.features:
            problem = view.problem or f"feature view {name!r} has no features"
        if not problem:
            yield view
        elif names is not None:
            raise not_servable(problem)
        elif view.stored and view.online:
            left_out[name] = problem


def stored_views(definitions: Definitions, view: ViewDefinition) -> Iterator[WriteDefinition]:
    """How a view is stored, and each of its versions where these are kept apart.

    After Feast has put an earlier version back, the view may be stored where that version is, with
    the features of a later one: rows there are then packed with the features of both, since each
    is asked for.
    """
    sharing: dict[tuple[str, tuple[tuple[str, int], ...]], dict[str, FeatureWrite]] = {}
    stored = [(view.name, view)]
    if definitions.versioned_storage:
        stored = [(storage_name_at(view.name, view.version), view)]
        stored += [
            (storage_name_at(name, number), version)
            for (name, number), version in definitions.versions.items()
            if name == view.name and version.features
        ]
    for storage, version in stored:
        join_keys = tuple(sorted((key.name, key.value_type) for key in version.join_keys))
        features = sharing.setdefault((storage, join_keys), {})
        for each in version.features:
            hash_field = feature_hash_field(storage, each.name)
            write = FeatureWrite(each.name, each.value_type, hash_field)
            features.setdefault(each.name, write)
    for (storage, join_keys), features in sharing.items():
        yield WriteDefinition(
            project=definitions.project,
            join_keys=join_keys,
            features=tuple(features.values()),
            time_field=time_hash_field(storage),
            created_field=b"",
            key_ttl_seconds=0,
            row_field=row_hash_field(storage),
        )


def _name(view: WriteDefinition) -> str:
    return view.time_field.decode().removeprefix("_ts:")


def _portions(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


class _Run:
    """One call of `repack_views`."""

    def __init__(
        self,
        pool: Pool,
        views: Sequence[WriteDefinition],
        layout: str,
        stop: threading.Event,
    ) -> None:
        self.summary = RepackSummary(layout, [ViewRepack(_name(view)) for view in views])
        self._pool = pool
        # Of a cluster, keys are looked for node by node, and a call has those of one slot.
        self._is_cluster = not isinstance(pool, redis.ConnectionPool)
        self._number = 0
        self._schemas = Schemas(pool)
        self._recorded: dict[str, dict[int, bytes]] = {}
        self._project = views[0].project
        self._views = views
        self._stop = stop
        self._place = f"hotfeast:repack:{self._project}"
        self._sha = ""
        # The views of each kind of entity, by their places.
        kinds: dict[tuple[str, ...], list[int]] = {}
        for i, view in enumerate(views):
            kinds.setdefault(tuple(name for name, _ in view.join_keys), []).append(i)
        self._kinds = [(EntityKeys(names, self._project), of) for names, of in kinds.items()]

    @cached_property
    def _client(self) -> Any:
        return client_of(self._pool)

    @property
    def _nodes(self) -> list[Any]:
        """Whoever has keys now: a replica may have taken over from a node that is lost."""
        return node_clients_of(self._pool)

    @property
    def _node(self) -> Any:
        """The one whose keys are being converted, or whose place it has."""
        nodes = self._nodes
        return nodes[min(self._number, len(nodes) - 1)]

    def go(
        self, keys_at_once: int, rate: float | None, restart: bool, progress: ProgressCallback
    ) -> RepackSummary:
        started = time.monotonic()
        try:
            self._scan(keys_at_once, rate, restart, progress)
            self.summary.state = "done"
        except _Stopped:
            self.summary.state = "interrupted"
        except REDIS_ERRORS as error:
            self.summary.state = "failed"
            self.summary.error = f"Redis: {error}"
        self.summary.seconds = time.monotonic() - started
        return self.summary

    def _scan(
        self, keys_at_once: int, rate: float | None, restart: bool, progress: ProgressCallback
    ) -> None:
        server = self._patiently(self._server)
        self._number, cursor = 0, 0
        if not restart:
            self._number, cursor = self._patiently(lambda: self._resume(server))
        self._recorded = self._patiently(lambda: self._schemas.recorded(self._project))
        while True:
            cursor, keys, total = self._patiently(partial(self._keys, cursor, keys_at_once))
            looked = time.monotonic()
            rows = self._convert(keys)
            self.summary.keys += len(keys)
            progress(self.summary.keys, max(total, self.summary.keys), self._converted())
            if cursor == 0:
                self._number += 1
            if self._number >= self._patiently(lambda: len(self._nodes)):
                now = self._patiently(self._server)
                if now == server:
                    break
                # A cursor means nothing to another server, such as one that was started again; and
                # keys may have come to a node that was done.
                server, self._number = now, 0
            self._patiently(partial(self._remember, server, cursor))
            if rate is not None:
                self._pause(looked + rows / rate - time.monotonic())
        self._patiently(lambda: self._client.delete(self._place))

    def _keys(self, cursor: int, count: int) -> tuple[int, list[bytes], int]:
        cursor, keys = self._node.scan(cursor, count=count)
        return cursor, keys, sum(node.dbsize() for node in self._nodes)

    def _convert(self, keys: list[bytes]) -> int:
        """Converts the rows of keys. Returns how many rows there were."""
        before = sum(view.rows for view in self.summary.views)
        for entities, views in self._kinds:
            found = [key for key in keys if entities.read(key) is not None]
            self.summary.entities += len(found)
            for i in views:
                self._convert_view(i, entities, found)
        return sum(view.rows for view in self.summary.views) - before

    def _convert_view(self, index: int, entities: EntityKeys, keys: list[bytes]) -> None:
        view, counts = self._views[index], self.summary.views[index]
        outcomes = self._call(view, keys)
        if _UNKNOWN in outcomes.values():
            # Of features that were recorded since: somebody writes by a newer definition.
            self._recorded = self._patiently(lambda: self._schemas.recorded(self._project))
            unknown = [key for key, outcome in outcomes.items() if outcome == _UNKNOWN]
            outcomes |= self._call(view, unknown)
        for key, outcome in outcomes.items():
            if outcome == _CONVERTED:
                counts.converted += 1
            elif outcome == _ALREADY:
                counts.already += 1
            elif outcome != _ABSENT:
                counts.unreadable += 1
                if len(counts.examples) < _MOST_EXAMPLES:
                    counts.examples.append(f"{_REASONS[outcome]} ({entities.describe(key)})")

    def _call(self, view: WriteDefinition, keys: list[bytes]) -> dict[bytes, int]:
        """What the script says of each key."""
        fields = [feature.hash_field for feature in view.features]
        number = schema_number(fields)
        schemas = {number: b"".join(fields), **self._recorded.get(_name(view), {})}
        arguments = [
            LAYOUTS.index(self.summary.layout),
            view.time_field,
            view.row_field,
            *(n.to_bytes(4, "little") + schema for n, schema in schemas.items()),
        ]
        outcomes: dict[bytes, int] = {}
        calls = _portions(keys, 1 if self._is_cluster else _KEYS_A_CALL)
        at_once = _CALLS_AT_ONCE * (_KEYS_A_CALL if self._is_cluster else 1)
        for portion in _portions(calls, at_once):
            answers = self._patiently(partial(self._run_script, view, portion, arguments))
            for group, answer in zip(portion, answers, strict=True):
                outcomes.update(zip(group, answer, strict=True))
        return outcomes

    def _run_script(
        self, view: WriteDefinition, calls: Sequence[Sequence[bytes]], arguments: list[Any]
    ) -> list[bytes]:
        if self.summary.layout != LAYOUTS[0]:
            # Before there is a row that cannot be read without it.
            self._schemas.record(view)
        while True:
            loaded = not self._sha
            if loaded:
                # On all nodes, if there are more than one.
                self._sha = self._client.script_load(SCRIPT)
            pipeline = self._node.pipeline(transaction=False)
            for group in calls:
                pipeline.evalsha(self._sha, len(group), *group, *arguments)
            answers: list[Any] = pipeline.execute(raise_on_error=False)
            for i, group in enumerate(calls):
                if isinstance(answers[i], _ELSEWHERE):
                    # The key has gone to another node meanwhile, which redis-py finds.
                    answers[i] = self._client.evalsha(self._sha, len(group), *group, *arguments)
            error = next((a for a in answers if isinstance(a, Exception)), None)
            if error is None:
                return answers
            if loaded or not isinstance(error, redis.exceptions.NoScriptError):
                raise error
            self._sha = ""

    def _server(self) -> str:
        """What servers there are, and who has which keys."""
        runs = [str(node.info("server")["run_id"]) for node in self._nodes]
        if not self._is_cluster:
            return runs[0]
        slots = sorted((at, who["primary"]) for at, who in self._client.cluster_slots().items())
        return hashlib.sha256(repr((sorted(runs), slots)).encode()).hexdigest()

    def _described(self, server: str) -> dict[str, str]:
        """What a run must be like for another one to go on with it."""
        return {
            "layout": self.summary.layout,
            "views": json.dumps([view.name for view in self.summary.views]),
            "server": server,
        }

    def _resume(self, server: str) -> tuple[int, int]:
        """Takes up an interrupted run. Returns the number of the node that it was at and its cursor
        there; zeros where there is none like this one."""
        stored: dict[str, str] = {
            name.decode(): value.decode()
            for name, value in self._client.hgetall(self._place).items()
        }
        wanted = self._described(server)
        if {name: stored.get(name) for name in wanted} != wanted:
            return 0, 0
        counts = json.loads(stored["counts"])
        self.summary.views = [ViewRepack(**view) for view in counts["views"]]
        self.summary.keys = counts["keys"]
        self.summary.entities = counts["entities"]
        self.summary.resumed = True
        return int(stored.get("node", 0)), int(stored["cursor"])

    def _remember(self, server: str, cursor: int) -> None:
        counts = {
            "views": [asdict(view) for view in self.summary.views],
            "keys": self.summary.keys,
            "entities": self.summary.entities,
        }
        pipeline = self._client.pipeline()
        pipeline.hset(
            self._place,
            mapping={
                **self._described(server),
                "node": self._number,
                "cursor": cursor,
                "counts": json.dumps(counts),
            },
        )
        pipeline.expire(self._place, _REMEMBERED)
        pipeline.execute()

    def _converted(self) -> int:
        return sum(view.converted for view in self.summary.views)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(max(seconds, 0)):
            raise _Stopped

    def _patiently(self, act: Callable[[], T]) -> T:
        """Does something that may be done twice, and again for a while where Redis is away."""
        end = time.monotonic() + PATIENCE
        wait = _FIRST_WAIT
        while True:
            self._pause(0)
            try:
                return act()
            except _AWAY:
                left = end - time.monotonic()
                if left <= 0:
                    raise
                self._pause(min(wait, left))
                wait = min(2 * wait, _LONGEST_WAIT)
                self._find_nodes_again()

    def _find_nodes_again(self) -> None:
        if not isinstance(self._pool, redis.ConnectionPool):
            # Where nobody answers, the next try says so.
            with suppress(*REDIS_ERRORS):
                self._pool.find_again()
