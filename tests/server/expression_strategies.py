"""Source text of transforms, made of typed expressions over columns."""

from hypothesis import strategies as st

from hotfeast.hotpath.kernel import Kind

COLUMNS = {
    "i": Kind.INT64,
    "j": Kind.INT64,
    "x": Kind.FLOAT64,
    "y": Kind.FLOAT64,
    "b": Kind.BOOL,
    "c": Kind.BOOL,
    "s": Kind.TEXT,
    "t": Kind.TEXT,
    "u": Kind.TIME,
    "v": Kind.TIME,
}
"""The inputs of every transform."""

_UNARY = [
    "np.log",
    "np.log1p",
    "np.log2",
    "np.log10",
    "np.exp",
    "np.expm1",
    "np.sqrt",
    "np.square",
    "np.cbrt",
    "np.sin",
    "np.cos",
    "np.tan",
    "np.arcsin",
    "np.arccos",
    "np.arctan",
    "np.sinh",
    "np.cosh",
    "np.tanh",
    "np.radians",
    "np.degrees",
    "np.deg2rad",
    "np.floor",
    "np.ceil",
    "np.trunc",
    "np.rint",
    "np.sign",
    "np.abs",
    "np.fabs",
    "np.negative",
    "np.positive",
    "abs",
    "round",
    "-",
    "+",
    "np.reciprocal",
    "np.exp2",
    "np.arcsinh",
]
_BINARY = [
    "np.maximum",
    "np.minimum",
    "np.fmax",
    "np.fmin",
    "np.hypot",
    "np.arctan2",
    "np.power",
    "np.add",
    "np.subtract",
    "np.multiply",
    "np.divide",
    "np.floor_divide",
    "np.mod",
    "np.fmod",
    "np.copysign",
    "np.logaddexp",
    "np.heaviside",
]
_NUMBERS = ("0", "1", "2", "-1", "3", "10", "100", "0.5", "-0.0", "1.5", "2.0", "1e-9", "100.0",
            "np.pi", "7", "-3", "0.1", "1e300")  # fmt: skip
_TEXTS = ("'a'", "'Ab c'", "''", "'Zürich'", "'x'", "'0'")
_TEST_TYPES = ("float", "int", "'float32'", "'int32'", "'float64'", "np.int64", "bool")
_DATE_FIELDS = [
    "hour",
    "day",
    "month",
    "year",
    "minute",
    "second",
    "dayofweek",
    "quarter",
    "dayofyear",
    "weekday",
]

texts = st.sampled_from(_TEXTS)
numbers = st.sampled_from(_NUMBERS)
thresholds = st.sampled_from(("0", "1", "2.5", "10", "-1", "0.5", "100"))


def _series(expression: str) -> str:
    return f"pd.Series({expression})"


@st.composite
def number(draw: st.DrawFn, depth: int) -> str:
    """A numeric column."""
    if depth <= 0:
        return f'inputs["{draw(st.sampled_from("ijxy"))}"]'
    form = draw(st.integers(0, 27))
    sub = number(depth - 1)
    if form <= 3:
        op = draw(st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "+", "-", "*", "/"]))
        left = draw(sub)
        right = draw(st.one_of(numbers, sub))
        if draw(st.integers(0, 4)) == 0:
            left, right = right, left
        return f"({left} {op} {right})"
    if form <= 6:
        name = draw(st.sampled_from(_UNARY))
        return f"{name}({draw(sub)})"
    if form <= 8:
        name = draw(st.sampled_from(_BINARY))
        return f"{name}({draw(sub)}, {draw(st.one_of(numbers, sub))})"
    if form == 9:
        low, high = draw(thresholds), draw(thresholds)
        return f"{draw(sub)}.clip({low}, {high})"
    if form == 10:
        side = draw(st.sampled_from(("lower", "upper")))
        return f"{draw(sub)}.clip({side}={draw(thresholds)})"
    if form <= 12:
        return f"{draw(sub)}.fillna({draw(st.one_of(numbers, sub))})"
    if form == 13:
        how = draw(st.sampled_from(("where", "mask")))
        other = draw(st.one_of(st.none(), numbers, sub))
        arguments = "" if other is None else f", {other}"
        return f"{draw(sub)}.{how}({draw(boolean(depth - 1))}{arguments})"
    if form <= 15:
        chosen = (
            f"np.where({draw(boolean(depth - 1))}, {draw(st.one_of(numbers, sub))}, "
            f"{draw(st.one_of(numbers, sub))})"
        )
        return draw(st.sampled_from((chosen, _series(chosen))))
    if form == 16:
        return f"{draw(boolean(depth - 1))}.astype({draw(st.sampled_from(('int', 'float')))})"
    if form == 17:
        return f"{draw(text(depth - 1))}.str.len()"
    if form == 18:
        values = draw(
            st.sampled_from(
                (
                    "{'a': 1, 'Ab c': 2, 'x': 3}",
                    "{'a': 1.5, 'Zürich': 2.0}",
                    "{'': 0, 'a': 1.5}",
                    "{'a': 1, '': 2, 'A': 3, 'Ab c': 4, 'Zürich': 5, 'x': 6, '0': 7}",
                )
            )
        )
        return f"{draw(text(depth - 1))}.map({values})"
    if form == 19:
        return f"{draw(number(0))}.map({draw(st.sampled_from(('{0: 1, 1: 0, 2: 5}', '{1: 0.5}')))})"
    if form == 20:
        return f'inputs["{draw(st.sampled_from("uv"))}"].dt.{draw(st.sampled_from(_DATE_FIELDS))}'
    if form == 21:
        ends = draw(st.sampled_from((".dt.days", ".dt.total_seconds()", ".dt.seconds")))
        return f'(inputs["u"] - inputs["v"]){ends}'
    if form == 22:
        return f"{draw(sub)}.round({draw(st.integers(-2, 6))})"
    if form == 23:
        return f"{draw(sub)}.astype({draw(st.sampled_from(_TEST_TYPES))})"
    if form <= 25:
        old = draw(
            st.sampled_from(("0", "[0, 1]", "np.inf", "[np.inf, -np.inf]", "-1", "np.nan", "2.5"))
        )
        new = draw(st.sampled_from(("np.nan", "0", "1", "0.5", "-1.0")))
        return f"{draw(sub)}.replace({old}, {new})"
    if form == 26:
        count = draw(st.integers(1, 3))
        conditions = ", ".join(draw(boolean(depth - 1)) for _ in range(count))
        choices = ", ".join(draw(st.one_of(numbers, sub)) for _ in range(count))
        default = draw(st.one_of(numbers, sub))
        chosen = f"np.select([{conditions}], [{choices}], default={default})"
        return draw(st.sampled_from((chosen, _series(chosen))))
    unit = draw(st.sampled_from(("s", "ms")))
    field = draw(st.sampled_from(_DATE_FIELDS))
    return f"pd.to_datetime(inputs[\"i\"], unit='{unit}').dt.{field}"


@st.composite
def boolean(draw: st.DrawFn, depth: int) -> str:
    """A column of bools."""
    form = draw(st.integers(0, 13 if depth > 0 else 3))
    sub = boolean(depth - 1)
    if form == 0:
        return f'inputs["{draw(st.sampled_from("bc"))}"].fillna({draw(st.booleans())})'
    if form <= 2:
        op = draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]))
        left = draw(number(depth - 1))
        return f"({left} {op} {draw(st.one_of(thresholds, number(depth - 1)))})"
    if form == 3:
        return f"({draw(text(depth - 1))} {draw(st.sampled_from(('==', '!=')))} {draw(texts)})"
    if form <= 5:
        op = draw(st.sampled_from(["&", "|", "^"]))
        return f"({draw(sub)} {op} {draw(sub)})"
    if form == 6:
        return f"(~{draw(sub)})"
    if form == 7:
        how = draw(st.sampled_from(("isna", "notna", "isnull")))
        column = draw(st.one_of(number(depth - 1), text(depth - 1), st.just('inputs["b"]')))
        return f"{column}.{how}()"
    if form == 8:
        values = draw(st.sampled_from(("['a', 'x']", "['Zürich', '']", "('a',)")))
        return f"{draw(text(depth - 1))}.isin({values})"
    if form == 9:
        values = draw(st.sampled_from(("[0, 1, 2]", "[10, 100]", "[0.5, 1]", "[-1]")))
        return f"{draw(number(depth - 1))}.isin({values})"
    if form == 10:
        how = draw(st.sampled_from(("startswith", "endswith", "contains")))
        na = draw(st.sampled_from(("", ", na=False", ", na=True")))
        return f"{draw(text(depth - 1))}.str.{how}({draw(texts)}{na})"
    if form == 11:
        low, high = draw(thresholds), draw(thresholds)
        how = draw(st.sampled_from(("both", "neither", "left", "right")))
        return f"{draw(number(depth - 1))}.between({low}, {high}, inclusive='{how}')"
    if form == 12:
        op = draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]))
        return f'(inputs["u"] {op} inputs["v"])'
    name = draw(st.sampled_from(("np.isnan", "np.isfinite", "np.isinf", "pd.isna", "pd.notna")))
    return f"{name}({draw(number(depth - 1))})"


@st.composite
def text(draw: st.DrawFn, depth: int) -> str:
    """A column of strings."""
    if depth <= 0:
        return f'inputs["{draw(st.sampled_from("st"))}"]'
    form = draw(st.integers(0, 7))
    sub = text(depth - 1)
    if form <= 1:
        return f"{draw(sub)}.fillna({draw(texts)})"
    if form == 2:
        return f"{draw(sub)}.str.{draw(st.sampled_from(('lower', 'upper')))}()"
    if form == 3:
        how = draw(st.sampled_from(("where", "mask")))
        return f"{draw(sub)}.{how}({draw(boolean(depth - 1))}, {draw(st.one_of(texts, sub))})"
    if form == 4:
        return f"{draw(sub)}.map({{'a': 'x', 'Zürich': '', 'x': 'a'}})"
    if form == 5:
        return f"{draw(sub)}.replace({draw(texts)}, {draw(texts)})"
    chosen = (
        f"np.where({draw(boolean(depth - 1))}, {draw(st.one_of(texts, sub))}, "
        f"{draw(st.one_of(texts, sub))})"
    )
    return draw(st.sampled_from((chosen, _series(chosen))))


@st.composite
def transforms(draw: st.DrawFn) -> tuple[str, dict[str, str]]:
    """The source of a function `f`, and Feast's type of each of its outputs."""
    lines = ["def f(inputs):", "    df = pd.DataFrame()"]
    outputs = {}
    for name in "mn"[: draw(st.integers(1, 2))]:
        kind = draw(st.sampled_from(("number", "number", "number", "bool", "text")))
        depth = draw(st.integers(1, 4))
        if kind == "number":
            expression = draw(number(depth))
            outputs[name] = draw(
                st.sampled_from(("Float64", "Float64", "Int64", "Float32", "Int32"))
            )
        elif kind == "bool":
            expression = draw(boolean(depth))
            outputs[name] = "Bool"
        else:
            expression = draw(text(depth))
            outputs[name] = "String"
        if "m" in outputs and name == "n":
            expression = expression.replace('inputs["x"]', 'df["m"]')
        lines.append(f'    df["{name}"] = {expression}')
    lines.append("    return df")
    return "\n".join(lines), outputs
