"""Which on-demand views of a plan get a kernel: traced, compiled, proved, and bound to the plan.

A kernel depends on the view alone, so that it is made once for all plans and, where the definition
stays the same, for all later states of the registry.
"""

import logging
import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

from hotfeast.hotpath.kernel import Computation, Kernel, Kind
from hotfeast.server.expressions import Refused
from hotfeast.server.feast_api import ValueType
from hotfeast.server.lowering import Lowered, Wanted, lower, without
from hotfeast.server.plan import OnDemandRead, ServingPlan, find_view
from hotfeast.server.proof import (
    Differs,
    Original,
    Proof,
    ProvedRows,
    prove,
    prove_on_stored,
)
from hotfeast.server.registry import Definitions
from hotfeast.server.stored_rows import StoredRows, StoredView, StoreUnreadable
from hotfeast.server.tracing import trace
from hotfeast.server.transforms import feast_projection

logger = logging.getLogger(__name__)

_CACHED = 1024

_KINDS = {
    ValueType.INT32.value: Kind.INT64,
    ValueType.INT64.value: Kind.INT64,
    ValueType.DOUBLE.value: Kind.FLOAT64,
    ValueType.FLOAT.value: Kind.FLOAT64,
    ValueType.BOOL.value: Kind.BOOL,
    ValueType.STRING.value: Kind.TEXT,
    ValueType.UNIX_TIMESTAMP.value: Kind.TIME,
}
"""What pandas makes of a type's values; other types have no kernels."""

Source = tuple[int, int] | str
"""An input: view and feature among what the plan reads, or the name of a column of the request."""


@dataclass(frozen=True)
class Made:
    """What became of a view: a kernel and what it was proved on, or why there is none."""

    kernel: Kernel | None
    refusal: str = ""
    proved: ProvedRows | None = None


@dataclass(frozen=True)
class Sample:
    """Stored values of a kernel's inputs.

    Attributes:
        columns: For each input its values, equally many; None for one that is not stored.
        rows: How many; 0 where there is no sample.
        note: Why there is none.
    """

    columns: list[list[bytes] | None]
    rows: int
    note: str = ""


class KernelMaker:
    """Makes the kernels of plans, and remembers them."""

    def __init__(self, stored: StoredRows | None = None) -> None:
        """
        Args:
            stored: The rows that kernels are proved on beside generated ones; none if None.
        """
        self._stored = stored
        self._known: OrderedDict[Any, Made] = OrderedDict()
        self._lock = threading.Lock()
        self._waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def prepare(
        self,
        definitions: Definitions,
        plan: ServingPlan,
        pause: Callable[[], None] = lambda: None,
    ) -> ServingPlan:
        """A plan with its kernels. This runs Python transforms many times: not for a request's
        thread.

        Args:
            definitions: What the plan was made from.
            plan: The plan.
            pause: Is called now and then, to let others have their turn.
        """
        if not plan.on_demand:
            return plan
        reads: list[OnDemandRead] = []
        bound: list[tuple[Kernel, Sequence[Source]] | None] = []
        for read in plan.on_demand:
            try:
                kernel, sources, proved = self._make(definitions, plan, read, pause)
            except Refused as refused:
                reads.append(replace(read, kernel_refusal=str(refused)))
                bound.append(None)
            else:
                reads.append(replace(read, kernel=kernel, proved=proved))
                bound.append((kernel, sources))
        made = replace(plan, on_demand=tuple(reads))
        if not any(bound):
            return made
        computed = [plan.output_name(r.projection, f) for r in reads for f in r.projection.features]
        computation = Computation(
            plan.compiled,
            bound,
            [(f.name, f.value_type, _KINDS.get(f.value_type, -1)) for f in plan.request_fields],
            _sent(plan),
            computed,
        )
        return replace(made, computation=computation)

    def later(self, work: Callable[[], None]) -> None:
        """Has work done in a thread of its own, one after the other."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="kernel-maker", daemon=True)
                self._thread.start()
        self._waiting.put(work)

    def _work(self) -> None:
        while True:
            work = self._waiting.get()
            try:
                work()
            except Exception:
                logger.exception("a kernel could not be made")

    def _make(
        self,
        definitions: Definitions,
        plan: ServingPlan,
        read: OnDemandRead,
        pause: Callable[[], None],
    ) -> tuple[Kernel, list[Source], ProvedRows | None]:
        view = read.view.on_demand
        if view.mode != "pandas":
            raise Refused(f"mode is {view.mode}; kernels are made of pandas functions")
        # Values of other types are judged by Python, which then has to run for each request.
        for field in read.view.request_fields:
            if field.value_type not in _KINDS:
                raise Refused(f"request data {field.name!r} is of a type no kernel is made for")
        given = _given_columns(definitions, plan, read)
        kinds = {name: _KINDS[t] for name, (_, t) in given.items() if t in _KINDS}
        function = view.feature_transformation.udf
        # Feast adds the other form of each feature's name, which is the same column.
        aliases = _aliases(read, given)
        graph = trace(function, [*given, *aliases])
        for name in graph.inputs:
            if aliases.get(name, name) not in kinds:
                raise Refused(f"reads {name!r}, whose type no kernel is made for")
        wanted = _wanted(read, view, list(graph.outputs), aliases)
        inputs = {name: kinds[aliases.get(name, name)] for name in graph.inputs}
        sources = [given[aliases.get(name, name)][0] for name in graph.inputs]
        features = [f for f in read.view.features if f.name in read.projection.features]
        features.sort(key=lambda f: read.projection.features.index(f.name))
        columns_of = _stored_columns(plan, sources)
        key = (
            columns_of,
            view.feature_transformation.udf_string,
            code_key(function),
            repr(graph),
            tuple(inputs.items()),
            tuple(wanted),
        )
        with self._lock:
            known = self._known.get(key)
        if known is None:
            columns = {name: value_type for name, (_, value_type) in given.items()}
            original = Original(
                view.with_projection(feast_projection(read)), tuple(features), columns
            )
            sample = self._sample(plan.compiled.definition.project, columns_of, len(sources))
            together = [places for _, places in columns_of]
            together += [(place,) for place, s in enumerate(sources) if isinstance(s, str)]
            lowered = lower(graph, inputs, wanted, together)
            known = _proved(graph, inputs, lowered, original, aliases, sample, pause)
            with self._lock:
                self._known[key] = known
                while len(self._known) > _CACHED:
                    self._known.popitem(last=False)
        if known.kernel is None:
            raise Refused(known.refusal)
        return known.kernel, sources, known.proved

    def _sample(
        self, project: str, views: Sequence[tuple[StoredView, tuple[int, ...]]], inputs: int
    ) -> Sample:
        """Stored values of a kernel's inputs. Each view's rows are taken in their own order: which
        entity of one comes beside which of another does not matter to a transform."""
        sample = Sample([None] * inputs, 0, "its inputs are not stored" if not views else "")
        if self._stored is None:
            return replace(sample, note="no store was asked")
        rows_of = []
        for view, _ in views:
            try:
                rows_of.append(self._stored.sample(project, view))
            except StoreUnreadable as error:
                return replace(sample, note=str(error))
        rows = max(map(len, rows_of), default=0)
        if rows == 0:
            return replace(sample, note=sample.note or "its sources have no rows yet")
        for (_, places), stored in zip(views, rows_of, strict=True):
            for column, place in enumerate(places):
                sample.columns[place] = [
                    stored[row % len(stored)][column] if stored else b"" for row in range(rows)
                ]
        return replace(sample, rows=rows)


def _proved(
    graph: Any,
    inputs: dict[str, Kind],
    lowered: Lowered,
    original: Original,
    aliases: dict[str, str],
    sample: Sample,
    pause: Callable[[], None],
) -> Made:
    """The kernel of a graph, or why there is none."""
    if not lowered.by_states:
        return Made(None, lowered.problem)
    # The function is given its inputs under the names that are not Feast's additions.
    named = [(aliases.get(name, name), kind) for name, kind in inputs.items()]
    try:
        kernel = Kernel(named, lowered.programs, lowered.by_states)
        proof = prove(kernel, list(lowered.by_states), original, graph, pause)
    except Differs as difference:
        return Made(None, f"proof failed: {difference}")
    stored = Proof()
    if sample.rows:
        try:
            stored = prove_on_stored(kernel, original, graph, sample.columns, sample.rows, pause)
        except Differs as difference:
            return Made(None, f"proof failed on stored rows: {difference}")
    compared = proof.programs | stored.programs
    if not compared:
        return Made(None, "no data could be compared with pandas")
    unproven = set(range(len(lowered.programs))) - compared
    if unproven:
        lowered = without(lowered, unproven)
        if not lowered.by_states:
            return Made(None, "no data of the common cases could be compared with pandas")
        kernel = Kernel(named, lowered.programs, lowered.by_states)
    note = sample.note
    if sample.rows and not stored.rows:
        note = "those that there are are left to pandas"
    return Made(kernel, proved=ProvedRows(proof.rows, stored.rows, note))


def _stored_columns(
    plan: ServingPlan, sources: Sequence[Source]
) -> tuple[tuple[StoredView, tuple[int, ...]], ...]:
    """The views that a kernel's inputs are stored in, each with the inputs' places."""
    places: dict[int, dict[int, bytes]] = {}
    definition = plan.compiled.definition
    for place, source in enumerate(sources):
        if not isinstance(source, str):
            view, feature = source
            field = definition.views[view].features[feature].hash_field
            places.setdefault(view, {})[place] = field
    return tuple(
        (
            StoredView(
                tuple(name for name, _ in definition.recipes[definition.views[v].recipe].parts),
                definition.views[v].time_field,
                tuple(fields.values()),
            ),
            tuple(fields),
        )
        for v, fields in places.items()
    )


def _given_columns(
    definitions: Definitions, plan: ServingPlan, read: OnDemandRead
) -> dict[str, tuple[Source, int]]:
    """The columns that a view's function is given: where they are, and their types.

    As `hotfeast.server.transforms` gives them.

    Raises:
        Refused: Two of them have one name.
    """
    given: dict[str, tuple[Source, int]] = {}

    def add(name: str, source: Source, value_type: int) -> None:
        if name in given:
            raise Refused(f"has two inputs that are called {name!r}")
        given[name] = (source, value_type)

    for key in plan.compiled.definition.join_keys:
        if key.required:
            add(key.name, key.name, key.value_type)
    for field in plan.request_fields:
        add(field.name, field.name, field.value_type)
    places = {
        (view.name, feature.output_name): (v, f)
        for v, view in enumerate(plan.compiled.definition.views)
        for f, feature in enumerate(view.features)
    }
    names = [name for source in read.view.sources for name in source.features]
    if len(set(names)) < len(names):
        raise Refused("has two inputs of one name, from different views")
    for source in read.view.sources:
        view = find_view(definitions, source)
        for name in source.features:
            field_of_view = view.feature(name)
            place = places[source.name, plan.output_name(source, name)]
            add(name, place, field_of_view.value_type if field_of_view is not None else 0)
    return given


def _aliases(read: OnDemandRead, given: dict[str, Any]) -> dict[str, str]:
    """The names that Feast's code adds, each with the column that it stands for."""
    aliases = {}
    for source in read.view.on_demand.source_feature_view_projections.values():
        for feature in source.features:
            full = f"{source.name}__{feature.name}"
            if full in given or full in aliases:
                raise Refused(f"has two inputs that are called {full!r}")
            if feature.name in given:
                aliases[full] = feature.name
    return aliases


def _wanted(
    read: OnDemandRead, view: Any, outputs: list[str], aliases: dict[str, str]
) -> list[Wanted]:
    """What is taken of a function's output, as Feast's code and `functions.compute` take it.

    Raises:
        Refused: A feature is not there, or goes by a name that Feast's code changes.
    """
    wanted = []
    for name in read.projection.features:
        field = read.view.feature(name)
        if name in aliases or field is None:
            raise Refused(f"has an output that is called {name!r}, as Feast calls an input")
        if name not in outputs:
            raise Refused(f"does not return {name!r}")
        wanted.append(Wanted(name, field.value_type))
    for feature in view.features:
        if f"{view.projection.name_to_use()}__{feature.name}" in outputs:
            raise Refused(f"returns {feature.name!r} under its full name")
    return wanted


def _sent(plan: ServingPlan) -> list[bool]:
    """For each feature that a plan reads whether it was asked for."""
    computed = {read.projection.name for read in plan.on_demand}
    asked = set()
    for reference in plan.references:
        view, _, feature = reference.partition(":")
        if view not in computed:
            name = f"{view}__{feature}" if plan.full_feature_names else feature
            asked.add((view, name))
    return [
        (view.name, feature.output_name) in asked
        for view in plan.compiled.definition.views
        for feature in view.features
    ]


def code_key(function: Any) -> Any:
    """Tells a function's code from another's, whatever its source text is said to be."""
    if not isinstance(function, types.FunctionType):
        return None
    return _code_of(function.__code__)


def _code_of(code: types.CodeType) -> tuple[Any, ...]:
    constants = tuple(
        _code_of(c) if isinstance(c, types.CodeType) else (type(c).__name__, repr(c))
        for c in code.co_consts
    )
    return code.co_code, constants, code.co_names, code.co_varnames
