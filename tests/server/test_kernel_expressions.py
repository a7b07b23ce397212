"""Kernels of generated transforms against pandas, through Feast's own code."""

import os
import random
from collections import Counter
from typing import Any

import feast.types
import numpy as np
import pandas as pd
from expression_strategies import COLUMNS, transforms
from feast import Field, RequestSource
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.transformation.pandas_transformation import PandasTransformation
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from hotfeast.hotpath.kernel import Kernel, Kind, State
from hotfeast.server.expressions import Refused
from hotfeast.server.lowering import Wanted, lower
from hotfeast.server.proof import Original, compare, sample_column
from hotfeast.server.registry import FieldDefinition
from hotfeast.server.tracing import trace

EVALUATIONS = int(os.environ.get("HOTFEAST_KERNEL_EXAMPLES", "600"))
"""Sets of columns that kernels are compared on; each transform has up to `SETS` of them."""
SETS = 12
_FEAST_TYPES = {
    Kind.INT64: feast.types.Int64,
    Kind.FLOAT64: feast.types.Float64,
    Kind.BOOL: feast.types.Bool,
    Kind.TEXT: feast.types.String,
    Kind.TIME: feast.types.UnixTimestamp,
}
counts: Counter[str] = Counter()
refusals: Counter[str] = Counter()


def original_of(function: Any, source: str, outputs: dict[str, str]) -> Original:
    schema = [Field(name=n, dtype=getattr(feast.types, t)) for n, t in outputs.items()]
    request = RequestSource(
        name="request",
        schema=[Field(name=n, dtype=_FEAST_TYPES[k]) for n, k in COLUMNS.items()],
    )
    view = OnDemandFeatureView(
        name="view",
        sources=[request],
        schema=schema,
        mode="pandas",
        feature_transformation=PandasTransformation(function, source),
    )
    features = [FieldDefinition(f.name, f.dtype.to_value_type().value) for f in schema]
    columns = {n: _FEAST_TYPES[k].to_value_type().value for n, k in COLUMNS.items()}
    return Original(view, features, columns)


def evaluate(source: str, outputs: dict[str, str], chance: random.Random, sets: int) -> int:
    """Compares a transform's kernel with pandas; returns on how many sets of columns."""
    space: dict[str, Any] = {"np": np, "pd": pd}
    exec(source, space)
    function = space["f"]
    try:
        graph = trace(function, list(COLUMNS))
    except Refused as refused:
        counts["not traced"] += 1
        refusals[str(refused)] += 1
        return 0
    original = original_of(function, source, outputs)
    wanted = [Wanted(f.name, f.value_type) for f in original.features]
    lowered = lower(graph, {name: COLUMNS[name] for name in graph.inputs}, wanted)
    if not lowered.by_states:
        counts["not compiled"] += 1
        refusals[lowered.problem] += 1
        return 0
    counts["compiled"] += 1
    kernel = Kernel(
        [(name, COLUMNS[name]) for name in graph.inputs], lowered.programs, lowered.by_states
    )
    compared = 0
    for number in range(sets):
        states = chance.choice(list(lowered.by_states))
        rows = chance.choice((1, 1, 2, 5, 17, 40))
        columns = [
            sample_column(chance, kind, State(state), rows, number, [0, 1, "a", "Ab c", "Zürich"])
            for (_, kind), state in zip(kernel.inputs, states, strict=True)
        ]
        if compare(kernel, original, columns, rows):
            compared += 1
        else:
            counts["sets left to pandas"] += 1
    counts["sets compared"] += compared
    return compared


def test_kernels_of_generated_transforms_equal_pandas() -> None:
    done = 0
    start = int(os.environ.get("HOTFEAST_KERNEL_SEED", "1"))
    while done < EVALUATIONS:
        budget = max(20, min(2000, (EVALUATIONS - done) // 4))

        @seed(start)
        @settings(
            max_examples=budget,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(transforms(), st.integers(0, 2**32))
        def run(transform: tuple[str, dict[str, str]], data_seed: int) -> None:
            nonlocal done
            done += evaluate(*transform, random.Random(data_seed), SETS)

        run()
        start += 1
    print(dict(counts), refusals.most_common(12))
    assert counts["compiled"] * 4 > counts["not compiled"] + counts["not traced"]
