"""Kernels of small transforms, for tests of what runs them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from feast.protos.feast.types.Value_pb2 import Value

from hotfeast.hotpath.kernel import Kernel, Kind
from hotfeast.server.lowering import Wanted, lower
from hotfeast.server.tracing import trace

DOUBLE, FLOAT, BOOL = 5, 6, 7
MEMBER_OF_KIND = {
    Kind.INT64: "int64_val",
    Kind.FLOAT64: "double_val",
    Kind.BOOL: "bool_val",
    Kind.TEXT: "string_val",
    Kind.TIME: "unix_timestamp_val",
}


def lowered(
    function: Callable[[Any], Any], inputs: Mapping[str, Kind], wanted: Mapping[str, int]
) -> tuple[list[tuple[str, Kind]], Any, Any]:
    """What the kernel of a function is made from.

    Args:
        function: The transform.
        inputs: Its columns and their types.
        wanted: The outputs to take and the numbers of their types.
    """
    graph = trace(function, list(inputs))
    kinds = {name: inputs[name] for name in graph.inputs}
    made = lower(graph, kinds, [Wanted(name, kind) for name, kind in wanted.items()])
    assert made.by_states, made.problem
    return list(kinds.items()), made.programs, made.by_states


def kernel_of(
    function: Callable[[Any], Any], inputs: Mapping[str, Kind], wanted: Mapping[str, int]
) -> Kernel:
    """The kernel of a function, not proved; arguments as for `lowered`."""
    return Kernel(*lowered(function, inputs, wanted))


def column(kind: int, values: Sequence[Any]) -> list[bytes]:
    """Serialized values; None for a null."""
    member = MEMBER_OF_KIND[Kind(kind)]
    return [b"" if v is None else Value(**{member: v}).SerializeToString() for v in values]


def every_operation(inputs: Any) -> Any:
    """Has instructions of every kind."""
    import numpy as np
    import pandas as pd

    df = pd.DataFrame()
    ratio = (inputs["i"] / inputs["x"].replace(0, np.nan)).fillna(0.0)
    known = inputs["b"].fillna(False) & (inputs["s"] != "none") & inputs["x"].notna()
    df["number"] = np.where(known, ratio, np.log1p(inputs["x"].abs())).round(3)
    days = (inputs["u"] - inputs["v"]).dt.total_seconds() // 86400
    df["mapped"] = inputs["s"].map({"a": 1, "bb": 2}).fillna(days).clip(-5, 40)
    df["flag"] = (
        inputs["s"].isin(["a", "bb", "ccc"])
        | inputs["s"].str.contains("é", na=False)
        | (inputs["u"].dt.hour > 6)
        | (pd.to_datetime(inputs["k"], unit="s").dt.year == 2020)
    )
    filled = inputs["s"].fillna("none")
    df["text"] = np.where(filled.str.len() > 2, filled.str.upper(), "short")
    df["single"] = inputs["x"].astype("float32") * 2
    return df


EVERY_INPUT = {
    "i": Kind.INT64,
    "k": Kind.INT64,
    "x": Kind.FLOAT64,
    "b": Kind.BOOL,
    "s": Kind.TEXT,
    "u": Kind.TIME,
    "v": Kind.TIME,
}
EVERY_OUTPUT = {"number": DOUBLE, "mapped": DOUBLE, "flag": BOOL, "text": 2, "single": FLOAT}
