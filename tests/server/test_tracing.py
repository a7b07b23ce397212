"""What a trace records, and what ends it."""

import math
import random
import time
import types
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hotfeast.server.expressions import Constant, Node, Ref, Refused
from hotfeast.server.tracing import trace

COLUMNS = ["a", "b", "s"]
FACTOR = 3
TABLE = {"x": 1}
calls: list[int] = []


def helper(column: Any, power: int = 2) -> Any:
    return column**power * FACTOR


def test_steps_are_recorded_in_their_order() -> None:
    def transform(inputs: Any) -> Any:
        df = pd.DataFrame()
        df["twice"] = inputs["a"] * 2
        df["more"] = df["twice"] + inputs["b"]
        return df

    graph = trace(transform, COLUMNS)
    assert graph.inputs == ["a", "b"]
    assert graph.nodes == [
        Node("input", params=("a",)),
        Node("mul", (Ref(0), Constant(2))),
        Node("input", params=("b",)),
        Node("add", (Ref(1), Ref(2))),
    ]
    assert graph.outputs == {"twice": Ref(1), "more": Ref(3)}


def test_helpers_and_globals_are_followed() -> None:
    def transform(inputs: Any) -> Any:
        return pd.DataFrame({"out": helper(inputs["a"]) + math.pi})

    graph = trace(transform, COLUMNS)
    assert [n.op for n in graph.nodes] == ["input", "pow", "mul", "add"]
    assert graph.nodes[2].args == (Ref(1), Constant(3))
    assert graph.nodes[3].args == (Ref(2), Constant(math.pi))


def test_closures_are_followed() -> None:
    rate = 0.5

    def transform(inputs: Any) -> Any:
        return pd.DataFrame({"out": inputs["a"] * rate})

    assert trace(transform, COLUMNS).nodes[1].args == (Ref(0), Constant(0.5))


def test_the_module_of_a_function_is_left_as_it_is() -> None:
    before = dict(globals())

    def transform(inputs: Any) -> Any:
        TABLE["y"] = 2
        calls.append(1)
        return pd.DataFrame({"out": inputs["s"].map(TABLE)})

    graph = trace(transform, COLUMNS)
    assert graph.nodes[1].params == (("x", "y"), (1, 2))
    assert dict(globals()) == before
    assert TABLE == {"x": 1}
    assert calls == []
    assert pd is types.SimpleNamespace(pd=pd).pd


def no_clock(inputs: Any) -> Any:
    return pd.DataFrame({"out": inputs["a"] - time.time()})


def no_now(inputs: Any) -> Any:
    return pd.DataFrame({"out": inputs["a"] - datetime.now().timestamp()})


def no_chance(inputs: Any) -> Any:
    return pd.DataFrame({"out": inputs["a"] + random.random()})


def no_numpy_chance(inputs: Any) -> Any:
    return pd.DataFrame({"out": inputs["a"] + np.random.rand()})


def no_import(inputs: Any) -> Any:
    import os

    return pd.DataFrame({"out": inputs["a"] + os.getpid()})


def no_file(inputs: Any) -> Any:
    with open("/etc/hostname") as file:
        return pd.DataFrame({"out": inputs["a"] + len(file.read())})


def no_branch(inputs: Any) -> Any:
    return pd.DataFrame({"out": inputs["a"] if inputs["a"] > 0 else inputs["b"]})


def no_and(inputs: Any) -> Any:
    return pd.DataFrame({"out": inputs["a"] > 0 and inputs["b"] > 0})


def no_chained_comparison(inputs: Any) -> Any:
    return pd.DataFrame({"out": 0 < inputs["a"] < 5})


def no_length(inputs: Any) -> Any:
    return pd.DataFrame({"out": inputs["a"] / len(inputs)})


def no_text(inputs: Any) -> Any:
    return pd.DataFrame({"out": np.where(inputs["a"] > 0, f"{inputs['a']}", "b")})


def no_membership(inputs: Any) -> Any:
    return pd.DataFrame({"out": inputs["a"] * (1 if inputs["s"] in ("x", "y") else 2)})


def no_row(inputs: Any) -> Any:
    return pd.DataFrame({"out": inputs["a"] * inputs["b"][0]})


def no_filter(inputs: Any) -> Any:
    return inputs[inputs["a"] > 0]


def no_loc(inputs: Any) -> Any:
    inputs.loc[inputs["a"] > 0, "a"] = 1
    return inputs


def no_element(inputs: Any) -> Any:
    inputs["a"][inputs["a"] > 0] = 1
    return inputs


def no_global(inputs: Any) -> Any:
    global FACTOR
    FACTOR = FACTOR + 1
    return pd.DataFrame({"out": inputs["a"] * FACTOR})


def no_swallowing(inputs: Any) -> Any:
    try:
        ages = inputs["a"] - time.time()
    except:  # noqa: E722
        ages = inputs["a"]
    return pd.DataFrame({"out": ages})


def no_unknown_column(inputs: Any) -> Any:
    return pd.DataFrame({"out": inputs["z"]})


def no_series(inputs: Any) -> Any:
    return inputs["a"]


def no_constant_first(inputs: Any) -> Any:
    df = pd.DataFrame()
    df["one"] = 1
    df["out"] = inputs["a"]
    return df


def no_endless_recursion(inputs: Any) -> Any:
    return no_endless_recursion(inputs)


def no_loop_without_end(inputs: Any) -> Any:
    column = inputs["a"]
    for _ in range(10_000):
        column = column + 1
    return pd.DataFrame({"out": column})


def no_generator(inputs: Any) -> Any:
    yield inputs


def no_other_type(inputs: Any) -> Any:
    return pd.DataFrame({"out": inputs["a"].astype("Int64")})


def no_reduction(inputs: Any) -> Any:
    return pd.DataFrame({"out": inputs["a"] - np.mean(inputs["a"])})


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (no_clock, "uses time.time"),
        (no_now, "uses datetime.now"),
        (no_chance, "uses random.random"),
        (no_numpy_chance, "uses np.random"),
        (no_import, "imports os"),
        (no_file, "name 'open' is not defined"),
        (no_branch, "branches on a column's values"),
        (no_and, "branches on a column's values"),
        (no_chained_comparison, "branches on a column's values"),
        (no_length, "asks for the number of rows"),
        (no_text, "writes a column into a text"),
        (no_membership, "branches on a column's values"),
        (no_row, "takes single rows of a column"),
        (no_filter, "selects rows of a frame"),
        (no_loc, "uses DataFrame.loc"),
        (no_element, "changes some values of a column in place"),
        (no_global, "changes the global 'FACTOR'"),
        (no_swallowing, "uses time.time"),
        (no_unknown_column, "reads the column 'z', which is not there"),
        (no_series, "returns a Column and no DataFrame"),
        (no_constant_first, "assigns a constant to a frame that has no rows yet"),
        (no_endless_recursion, "recurses without an end"),
        (no_loop_without_end, "takes more than 2000 steps"),
        (no_generator, "is a generator"),
        (no_other_type, "uses astype\\('Int64'\\)"),
        (no_reduction, "uses np.mean"),
        (print, "is a builtin_function_or_method and no plain function"),
    ],
)
def test_what_is_not_recorded_is_refused(function: Any, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        trace(function, COLUMNS)
