"""What shadow reads found: cells of two answers compared, and the counts of all workers.

Each worker keeps its counts in a file of a folder that all share, replaced as a whole, so that any
of them can tell of all.
"""

import json
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hotfeast.serving.v1 import serving_pb2

logger = logging.getLogger(__name__)

EQUAL, DIFFERENT, MISSING, ADDED = "equal", "different", "missing", "added"
COMPARED, CHANGED, FAILED, DROPPED = "compared", "changed", "failed", "dropped"
HIDDEN = "(not shown: pii)"
"""In place of a value that is personal."""

# Of one feature.
_MOST_EXAMPLES = 3
# Characters of a value in an example.
_LONGEST = 120
_SUFFIX = ".shadow.json"
_PRESENT = serving_pb2.PRESENT


class Key(NamedTuple):
    """What is compared with what."""

    alias: str
    target: str
    shadow: str
    since: int
    """The alias's revision from which on it has had this shadow."""


class Example(NamedTuple):
    """A cell in which two answers differ."""

    entity: dict[str, str]
    answer: str
    shadow: str
    time: float


@dataclass
class FeatureCounts:
    """The cells of one feature.

    Attributes:
        cells: By outcome.
        examples: A few that are not equal, the newest last.
    """

    cells: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)

    def add(self, other: "FeatureCounts") -> None:
        """Adds those of another count."""
        self.cells.update(other.cells)
        newest = sorted([*self.examples, *other.examples], key=lambda example: example.time)
        self.examples = newest[-_MOST_EXAMPLES:]


@dataclass
class Comparison:
    """One version beside another.

    Attributes:
        requests: By outcome.
        features: By name, in the order of the answers.
        last_error: Of the last request that failed.
    """

    requests: Counter[str] = field(default_factory=Counter)
    features: dict[str, FeatureCounts] = field(default_factory=dict)
    last_error: str = ""

    def add(self, other: "Comparison") -> None:
        """Adds those of another worker."""
        self.requests.update(other.requests)
        self.last_error = other.last_error or self.last_error
        self.add_features(other.features)

    def add_features(self, features: dict[str, FeatureCounts]) -> None:
        """Adds cells."""
        for name, counts in features.items():
            self.features.setdefault(name, FeatureCounts()).add(counts)


def compare(
    answer: bytes,
    shadow: bytes,
    join_keys: Iterable[str],
    hidden: frozenset[str] = frozenset(),
) -> dict[str, FeatureCounts]:
    """Compares two answers to one request, feature by feature and row by row.

    Event times are not looked at: another version may have other ones for the same values.

    Args:
        answer: A serialized `GetOnlineFeaturesResponse`.
        shadow: The other one.
        join_keys: Columns that are no features.
        hidden: Features whose values are not shown in examples.
    """
    keys = set(join_keys)
    mine, theirs = _columns(answer), _columns(shadow)
    rows = max((len(vector.statuses) for vector in mine.values()), default=0)
    entities = {name: vector for name, vector in mine.items() if name in keys}
    found: dict[str, FeatureCounts] = {}
    for name in dict.fromkeys([*mine, *theirs]):
        if name in keys:
            continue
        counts = found[name] = FeatureCounts()
        one, other = mine.get(name), theirs.get(name)
        if one is None or other is None:
            counts.cells[MISSING if other is None else ADDED] = rows
        elif _cells(one) == _cells(other):
            counts.cells[EQUAL] = rows
        else:
            _compare_rows(one, other, entities, counts, name in hidden)
    return found


def _columns(data: bytes) -> dict[str, Any]:
    answer = serving_pb2.GetOnlineFeaturesResponse.FromString(data)
    return dict(zip(answer.metadata.feature_names.val, answer.results, strict=True))


def _cells(vector: Any) -> bytes:
    """A column without its event times; bytes, since NaN is not equal to itself."""
    del vector.event_timestamps[:]
    data: bytes = vector.SerializeToString(deterministic=True)
    return data


def _compare_rows(
    one: Any, other: Any, entities: dict[str, Any], counts: FeatureCounts, hidden: bool
) -> None:
    now = time.time()
    for row in range(len(one.statuses)):
        ours, theirs = one.values[row], other.values[row]
        has, shadow_has = _has_value(ours), _has_value(theirs)
        if has != shadow_has:
            outcome = MISSING if has else ADDED
        elif one.statuses[row] == other.statuses[row] and (
            ours.SerializeToString(deterministic=True)
            == theirs.SerializeToString(deterministic=True)
        ):
            outcome = EQUAL
        else:
            outcome = DIFFERENT
        counts.cells[outcome] += 1
        if outcome != EQUAL and len(counts.examples) < _MOST_EXAMPLES:
            entity = {name: _text(vector.values[row]) for name, vector in entities.items()}
            answer = _told(ours, one.statuses[row], hidden)
            shadow = _told(theirs, other.statuses[row], hidden)
            counts.examples.append(Example(entity, answer, shadow, now))


def _has_value(value: Any) -> bool:
    return value.WhichOneof("val") not in (None, "null_val")


def _told(value: Any, status: int, hidden: bool) -> str:
    name = serving_pb2.FieldStatus.Name(status) if status in _STATUSES else str(status)
    if not _has_value(value):
        return name
    text = HIDDEN if hidden else _text(value)
    return text if status == _PRESENT else f"{text} ({name})"


def _text(value: Any) -> str:
    kind = value.WhichOneof("val")
    text = "" if kind is None else str(getattr(value, kind)).strip().replace("\n", " ")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


_STATUSES = frozenset(serving_pb2.FieldStatus.values())


class Comparisons:
    """The counts of one worker, and its file."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: Where all workers have theirs.
        """
        self._path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
        self._counts: dict[Key, Comparison] = {}
        self._written = True

    def add(self, key: Key, comparison: Comparison) -> None:
        """Adds counts; always by one thread."""
        self._counts.setdefault(key, Comparison()).add(comparison)
        self._written = False

    def keep(self, keys: Iterable[tuple[str, str, int]]) -> None:
        """Forgets all but what is still compared; by the same thread.

        Args:
            keys: Alias, shadow, and since when.
        """
        wanted = set(keys)
        gone = [k for k in self._counts if (k.alias, k.shadow, k.since) not in wanted]
        for key in gone:
            del self._counts[key]
            self._written = False

    def write(self) -> None:
        """Writes the file, where something is new; by the same thread."""
        if self._written:
            return
        self._written = True
        said = [
            {
                "key": key,
                "requests": comparison.requests,
                "last_error": comparison.last_error,
                "features": {
                    name: [counts.cells, counts.examples]
                    for name, counts in comparison.features.items()
                },
            }
            for key, comparison in self._counts.items()
        ]
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        try:
            temporary.write_text(json.dumps(said), encoding="utf-8")
            temporary.replace(self._path)
        except OSError as error:
            logger.warning("what shadow reads found cannot be written: %s", error)


def read_comparisons(folder: Path, keys: Sequence[tuple[str, str, int]]) -> dict[Key, Comparison]:
    """The counts of all workers, also of those that have ended.

    Args:
        folder: Where they are.
        keys: Alias, shadow and since when, of those that are wanted.
    """
    wanted = set(keys)
    found: dict[Key, Comparison] = {}
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            logger.warning("%s is left out: %s", path, error)
            continue
        for each in said:
            key = Key(*each["key"])
            if (key.alias, key.shadow, key.since) not in wanted:
                continue
            features = {
                name: FeatureCounts(Counter(cells), [Example(*example) for example in examples])
                for name, (cells, examples) in each["features"].items()
            }
            comparison = Comparison(Counter(each["requests"]), features, each["last_error"])
            found.setdefault(key, Comparison()).add(comparison)
    return found
