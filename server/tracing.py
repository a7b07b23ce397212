"""Runs a transform's function once on stand-ins, which record what it computes.

The function is not changed: a copy of it runs, whose globals are copies in which pandas, NumPy and
`math` stand-ins take the real ones' places. What is neither known to be pure nor recorded ends the
trace with `Refused`: branching on data, loops over rows, clocks, files, other modules.
"""

import builtins
import dis
import math
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from hotfeast.server.expressions import Argument, Constant, Graph, Node, Parameter, Ref, Refused

_MAX_NODES = 2000

_UNARY_UFUNCS = frozenset(
    [
        "absolute",
        "fabs",
        "sign",
        "negative",
        "positive",
        "sqrt",
        "square",
        "cbrt",
        "reciprocal",
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "sin",
        "cos",
        "tan",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "arcsinh",
        "arccosh",
        "arctanh",
        "degrees",
        "radians",
        "deg2rad",
        "rad2deg",
        "floor",
        "ceil",
        "trunc",
        "rint",
        "isnan",
        "isfinite",
        "isinf",
        "signbit",
        "logical_not",
        "invert",
    ]
)
_BINARY_UFUNCS = frozenset(
    [
        "add",
        "subtract",
        "multiply",
        "divide",
        "true_divide",
        "floor_divide",
        "remainder",
        "mod",
        "fmod",
        "power",
        "float_power",
        "maximum",
        "minimum",
        "fmax",
        "fmin",
        "hypot",
        "arctan2",
        "copysign",
        "heaviside",
        "logaddexp",
        "greater",
        "greater_equal",
        "less",
        "less_equal",
        "equal",
        "not_equal",
        "logical_and",
        "logical_or",
        "logical_xor",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
    ]
)
_SAME_UFUNC = {"abs": "absolute", "bitwise_not": "invert", "asin": "arcsin", "acos": "arccos",
               "atan": "arctan", "atan2": "arctan2", "pow": "power"}  # fmt: skip
# NumPy's names for what pandas hands on to its own operators.
_OPERATOR_OF_UFUNC = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "truediv",
    "true_divide": "truediv", "floor_divide": "floordiv", "remainder": "mod", "mod": "mod",
    "power": "pow", "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le",
    "equal": "eq", "not_equal": "ne", "bitwise_and": "and", "bitwise_or": "or",
    "bitwise_xor": "xor",
}  # fmt: skip
_NUMPY_CONSTANTS = frozenset(["nan", "inf", "pi", "e", "euler_gamma"])
_NUMPY_TYPES = frozenset(["float64", "float32", "int64", "int32", "bool_", "double", "single"])
_SAFE_BUILTINS = frozenset(
    [
        "abs",
        "min",
        "max",
        "round",
        "len",
        "range",
        "float",
        "int",
        "str",
        "bool",
        "dict",
        "list",
        "tuple",
        "set",
        "frozenset",
        "zip",
        "enumerate",
        "sorted",
        "reversed",
        "sum",
        "any",
        "all",
        "pow",
        "divmod",
        "map",
        "filter",
        "True",
        "False",
        "None",
        "Exception",
        "ValueError",
        "TypeError",
        "KeyError",
        "ZeroDivisionError",
        "ArithmeticError",
    ]
)
_DATE_FIELDS = frozenset(
    [
        "year",
        "month",
        "day",
        "hour",
        "minute",
        "second",
        "quarter",
        "dayofweek",
        "day_of_week",
        "weekday",
        "dayofyear",
        "day_of_year",
        "days",
        "seconds",
    ]
)
_SCALARS = (bool, int, float, str, type(None))


class Trace:
    """One run: the graph so far, and the first refusal, even if the function swallowed it."""

    def __init__(self, columns: Iterable[str]) -> None:
        self.graph = Graph()
        self.columns = frozenset(columns)
        self.refusal: str | None = None

    def refuse(self, reason: str) -> NoReturn:
        """Ends the trace."""
        if self.refusal is None:
            self.refusal = reason
        raise Refused(reason)

    def argument(self, value: Any) -> Argument:
        """A value as an operand.

        Raises:
            Refused: It is neither a column nor a plain scalar.
        """
        if isinstance(value, Column):
            return value.ref
        return Constant(self.scalar(value))

    def scalar(self, value: Any) -> Any:
        """A plain scalar; NumPy's 64-bit ones become Python's.

        Raises:
            Refused: It is none.
        """
        if isinstance(value, np.float64 | np.int64 | np.bool_):
            return value.item()
        if type(value) not in _SCALARS:
            self.refuse(f"uses a {type(value).__name__} in place of a column or a number")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            self.refuse(f"uses {value}, which is no 64-bit integer")
        return value

    def make(
        self, op: str, *args: Any, params: tuple[Parameter, ...] = (), series: bool | None = None
    ) -> "Column":
        """Records a step."""
        if len(self.graph.nodes) >= _MAX_NODES:
            self.refuse(f"takes more than {_MAX_NODES} steps")
        if series is None:
            series = any(isinstance(a, Column) and a.series for a in args)
        operands = tuple(self.argument(a) for a in args)
        return Column(self, self.graph.add(Node(op, operands, params, series)), series)


def _refusing(what: str) -> Callable[..., Any]:
    def refuse(self: Any, *_: Any, **__: Any) -> Any:
        self._trace.refuse(what)

    return refuse


class Column:
    """In place of a Series, or of an array of its length."""

    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, trace: Trace, ref: Ref, series: bool) -> None:
        self._trace = trace
        self.ref = ref
        self.series = series

    def _binary(self, op: str, left: Any, right: Any) -> "Column":
        return self._trace.make(op, left, right)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("values", "_values") and self.series:
            return self._as_array()
        if name in ("dt", "str") and self.series:
            return Dates(self) if name == "dt" else Texts(self)
        method = _SERIES_METHODS.get(name) if self.series else _ARRAY_METHODS.get(name)
        if method is None:
            kind = "Series" if self.series else "array"
            self._trace.refuse(f"uses .{name} of a {kind}")
        return method.__get__(self)

    def _as_array(self) -> "Column":
        return Column(self._trace, self.ref, series=False)

    def _only(self, kwargs: Mapping[str, Any], **defaults: Any) -> None:
        """Refuses keyword arguments that change what is computed."""
        for name, value in kwargs.items():
            if name not in defaults or value is not defaults[name]:
                self._trace.refuse(f"uses the argument {name}={value!r}")

    def __neg__(self) -> "Column":
        return self._trace.make("ufunc", self, params=("negative",))

    def __pos__(self) -> "Column":
        return self._trace.make("ufunc", self, params=("positive",))

    def __abs__(self) -> "Column":
        return self._trace.make("ufunc", self, params=("absolute",))

    def __invert__(self) -> "Column":
        return self._trace.make("invert", self)

    def __round__(self, decimals: int = 0) -> "Column":
        return self._round(decimals)

    @property
    def index(self) -> "Index":
        return Index()

    def _copy(self, deep: bool = True) -> "Column":
        return self

    def _to_numpy(self) -> "Column":
        return self._as_array()

    def _astype(self, dtype: Any, copy: bool = True) -> "Column":
        return self._trace.make("astype", self, params=(self._trace_dtype(dtype),))

    def _trace_dtype(self, dtype: Any) -> str:
        if isinstance(dtype, TypeStandIn):
            return str(dtype.name)
        if dtype in (str, "str", "string", object, "object"):
            return str(getattr(dtype, "__name__", dtype))
        if dtype in (float, int, bool) or isinstance(dtype, str):
            try:
                return str(np.dtype(dtype).name)
            except TypeError:
                pass
        return self._trace.refuse(f"uses astype({dtype!r})")

    def _round(self, decimals: int = 0) -> "Column":
        if type(decimals) is not int:
            self._trace.refuse("rounds to a number of decimals that is no int")
        return self._trace.make("round", self, params=(decimals,))

    def _fillna(self, value: Any = None, **kwargs: Any) -> "Column":
        self._only(kwargs, inplace=False, axis=None, limit=None)
        if value is None:
            self._trace.refuse("uses fillna without a value")
        if isinstance(value, Column) and not value.series:
            self._trace.refuse("uses fillna with an array")
        return self._trace.make("fillna", self, value)

    def _isna(self) -> "Column":
        return self._trace.make("isna", self)

    def _notna(self) -> "Column":
        return self._trace.make("invert", self._isna())

    def _where(self, cond: Any, other: Any = math.nan, **kwargs: Any) -> "Column":
        self._only(kwargs, inplace=False, axis=None)
        return self._trace.make("where", self, self._condition(cond), other)

    def _mask(self, cond: Any, other: Any = math.nan, **kwargs: Any) -> "Column":
        self._only(kwargs, inplace=False, axis=None)
        return self._trace.make("where", self, ~self._condition(cond), other)

    def _condition(self, cond: Any) -> "Column":
        if not isinstance(cond, Column):
            self._trace.refuse(f"uses a {type(cond).__name__} as a condition")
        return cond

    def _clip(self, lower: Any = None, upper: Any = None, **kwargs: Any) -> "Column":
        self._only(kwargs, inplace=False, axis=None)
        for bound in (lower, upper):
            if bound is not None and not isinstance(bound, int | float):
                self._trace.refuse("clips to something that is no plain number")
            if isinstance(bound, float) and math.isnan(bound):
                self._trace.refuse("clips to NaN")
        if lower is not None and upper is not None:
            lower, upper = min(lower, upper), max(lower, upper)
        result, missing = self, self._isna()
        if lower is not None:
            result = result._where(missing | (self >= lower), lower)
        if upper is not None:
            result = result._where(missing | (self <= upper), upper)
        return result

    def _between(self, left: Any, right: Any, inclusive: str = "both") -> "Column":
        if inclusive not in ("both", "neither", "left", "right"):
            self._trace.refuse(f"uses between(inclusive={inclusive!r})")
        low = self >= left if inclusive in ("both", "left") else self > left
        high = self <= right if inclusive in ("both", "right") else self < right
        return self._binary("and", low, high)

    def _isin(self, values: Any) -> "Column":
        if not isinstance(values, list | tuple | set | frozenset):
            self._trace.refuse("uses isin with something that is no list of constants")
        constants = tuple(self._trace.scalar(v) for v in values)
        return self._trace.make("isin", self, params=(constants,))

    def _map(self, mapper: Any, na_action: None = None) -> "Column":
        if type(mapper) is not dict:
            self._trace.refuse("uses map with something that is no dict")
        keys = tuple(self._trace.scalar(k) for k in mapper)
        values = tuple(self._trace.scalar(v) for v in mapper.values())
        return self._trace.make("map", self, params=(keys, values))

    def _replace(self, to_replace: Any = None, value: Any = None, **kwargs: Any) -> "Column":
        self._only(kwargs, inplace=False, regex=False)
        if value is None or isinstance(to_replace, dict) or isinstance(value, Column):
            self._trace.refuse("uses replace other than of constants by one constant")
        old = to_replace if isinstance(to_replace, list | tuple) else [to_replace]
        constants = tuple(self._trace.scalar(v) for v in old)
        return self._trace.make("replace", self, value, params=(constants,))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._trace.refuse("changes some values of a column in place")

    __bool__ = _refusing("branches on a column's values")
    __iter__ = _refusing("loops over a column's values")
    __len__ = _refusing("asks for the number of rows")
    __contains__ = _refusing("asks whether a column has a value")
    __float__ = __int__ = __index__ = _refusing("takes a column as one number")
    __getitem__ = _refusing("takes single rows of a column")
    __array__ = _refusing("hands a column to a function that is not known")
    __str__ = __repr__ = __format__ = _refusing("writes a column into a text")


def _operator(op: str) -> tuple[Callable[..., Column], Callable[..., Column]]:
    return (
        lambda self, other: self._binary(op, self, other),
        lambda self, other: self._binary(op, other, self),
    )


def _combine(op: str) -> Callable[..., Column]:
    def method(self: Column, other: Any, **kwargs: Any) -> Column:
        self._only(kwargs, level=None, fill_value=None, axis=0)
        return self._binary(op, self, other)

    return method


_OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
for _op in _OPERATORS:
    _plain, _reflected = _operator(_op)
    setattr(Column, f"__{_op}__", _plain)
    setattr(Column, f"__r{_op}__", _reflected)
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
for _op in _COMPARISONS:
    setattr(Column, f"__{_op}__", _operator(_op)[0])

_SERIES_METHODS: dict[str, Any] = {
    "abs": Column.__abs__, "copy": Column._copy, "to_numpy": Column._to_numpy,
    "astype": Column._astype, "round": Column._round, "fillna": Column._fillna,
    "isna": Column._isna, "isnull": Column._isna, "notna": Column._notna,
    "notnull": Column._notna, "where": Column._where, "mask": Column._mask,
    "clip": Column._clip, "between": Column._between, "isin": Column._isin, "map": Column._map,
    "replace": Column._replace,
}  # fmt: skip
for _name, _op in (
    ("add", "add"), ("sub", "sub"), ("subtract", "sub"), ("mul", "mul"), ("multiply", "mul"),
    ("div", "truediv"), ("divide", "truediv"), ("truediv", "truediv"), ("floordiv", "floordiv"),
    ("mod", "mod"), ("pow", "pow"), *((op, op) for op in _COMPARISONS),
):  # fmt: skip
    _SERIES_METHODS[_name] = _combine(_op)
_ARRAY_METHODS: dict[str, Any] = {
    "astype": Column._astype, "copy": Column._copy, "round": Column._round,
}  # fmt: skip


class Index:
    """In place of a frame's index, which is the same for all columns."""


class Dates:
    """In place of `Series.dt`."""

    def __init__(self, column: Column) -> None:
        self._column = column
        self._trace = column._trace

    def __getattr__(self, name: str) -> Any:
        if name == "total_seconds":
            return lambda: self._trace.make("total_seconds", self._column)
        if name not in _DATE_FIELDS:
            self._trace.refuse(f"uses .dt.{name}")
        return self._trace.make("date_field", self._column, params=(name,))


class Texts:
    """In place of `Series.str`."""

    def __init__(self, column: Column) -> None:
        self._column = column
        self._trace = column._trace

    def __getattr__(self, name: str) -> Any:
        self._trace.refuse(f"uses .str.{name}")

    def len(self) -> Column:
        return self._trace.make("text_length", self._column)

    def lower(self) -> Column:
        return self._trace.make("text_case", self._column, params=("lower",))

    def upper(self) -> Column:
        return self._trace.make("text_case", self._column, params=("upper",))

    def _find(self, how: str, pattern: Any, na: Any) -> Column:
        if not isinstance(pattern, str):
            self._trace.refuse(f"uses .str.{how} with something that is no string")
        if na is not None and type(na) is not bool:
            self._trace.refuse(f"uses .str.{how}(na={na!r})")
        return self._trace.make("text_find", self._column, params=(how, pattern, na))

    def startswith(self, pat: Any, na: Any = None) -> Column:
        return self._find("startswith", pat, na)

    def endswith(self, pat: Any, na: Any = None) -> Column:
        return self._find("endswith", pat, na)

    def contains(
        self, pat: Any, case: bool = True, flags: int = 0, na: Any = None, regex: bool = True
    ) -> Column:
        special = isinstance(pat, str) and any(c in pat for c in r".^$*+?{}[]\|()")
        if case is not True or flags != 0 or (regex and special):
            self._trace.refuse("uses a regular expression")
        return self._find("contains", pat, na)


class Frame:
    """In place of a DataFrame."""

    def __init__(self, trace: Trace, columns: dict[str, Any], open_: bool, sized: bool) -> None:
        """
        Args:
            trace: The run.
            columns: What has been assigned so far.
            open_: Whether other columns are those of the input.
            sized: Whether it has the input's rows; a fresh frame has none.
        """
        object.__setattr__(self, "_trace", trace)
        object.__setattr__(self, "_columns", columns)
        object.__setattr__(self, "_open", open_)
        object.__setattr__(self, "_sized", sized)

    _trace: Trace
    _columns: dict[str, Any]
    _open: bool
    _sized: bool

    def _read(self, name: str) -> Column:
        if name in self._columns:
            column = self._columns[name]
            if not isinstance(column, Column):
                column = self._trace.make("fill", column, series=True)
                self._columns[name] = column
            assert isinstance(column, Column)
            # A frame's column is a Series, whatever was assigned.
            return Column(self._trace, column.ref, series=True)
        if not self._open or name not in self._trace.columns:
            self._trace.refuse(f"reads the column {name!r}, which is not there")
        return Column(self._trace, self._trace.graph.read(name), series=True)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self._read(key)
        if isinstance(key, list) and all(isinstance(k, str) for k in key):
            return Frame(self._trace, {k: self._read(k) for k in key}, False, self._sized)
        return self._trace.refuse("selects rows of a frame")

    def get(self, key: Any, default: Any = None) -> Any:
        """`DataFrame.get`."""
        if not isinstance(key, str):
            self._trace.refuse("uses get with something that is no column's name")
        known = key in self._columns or (self._open and key in self._trace.columns)
        return self._read(key) if known else default

    def __contains__(self, key: Any) -> bool:
        return key in self._columns or (self._open and key in self._trace.columns)

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, str):
            self._trace.refuse("assigns to something that is no column's name")
        if isinstance(value, Column):
            self._columns[key] = value
            object.__setattr__(self, "_sized", True)
            return
        value = self._trace.scalar(value)
        if not self._sized:
            self._trace.refuse("assigns a constant to a frame that has no rows yet")
        if value is None:
            self._trace.refuse("assigns None to a column")
        self._columns[key] = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if hasattr(pd.DataFrame, name):
            self._trace.refuse(f"uses DataFrame.{name}")
        return self._read(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._trace.refuse("assigns to an attribute of a frame")

    @property
    def index(self) -> Index:
        if not self._sized:
            self._trace.refuse("uses the index of a frame that has no rows yet")
        return Index()

    def copy(self, deep: bool = True) -> "Frame":
        """`DataFrame.copy`."""
        return Frame(self._trace, dict(self._columns), self._open, self._sized)

    def assign(self, **columns: Any) -> "Frame":
        """`DataFrame.assign`."""
        made = self.copy()
        for name, value in columns.items():
            made[name] = value(made) if isinstance(value, types.FunctionType) else value
        return made

    __bool__ = _refusing("branches on a frame")
    __iter__ = _refusing("loops over a frame")
    __len__ = _refusing("asks for the number of rows")
    __hash__ = None  # type: ignore[assignment]
    __str__ = __repr__ = __format__ = _refusing("writes a frame into a text")
    __eq__ = _refusing("compares a whole frame")


class StandIn:
    """In place of a module."""

    def __init__(self, trace: Trace, name: str, known: Mapping[str, Any]) -> None:
        self._trace = trace
        self._name = name
        self._known = dict(known)

    def __getattr__(self, name: str) -> Any:
        if name in self._known:
            return self._known[name]
        if name.startswith("__"):
            raise AttributeError(name)
        return self._trace.refuse(f"uses {self._name}.{name}")


class TypeStandIn:
    """In place of a NumPy type, which can be named but also called."""

    def __init__(self, trace: Trace, name: str) -> None:
        self._trace = trace
        self.name = np.dtype(getattr(np, name)).name

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Column):
            return value.astype(self)
        if self.name not in ("float64", "int64", "bool"):
            self._trace.refuse(f"makes a {self.name} number")
        return np.dtype(self.name).type(self._trace.scalar(value)).item()


def _numpy(trace: Trace) -> StandIn:
    known: dict[str, Any] = {name: getattr(np, name) for name in _NUMPY_CONSTANTS}
    known.update({name: TypeStandIn(trace, name) for name in _NUMPY_TYPES})

    def ufunc(name: str) -> Callable[..., Any]:
        name = _SAME_UFUNC.get(name, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if kwargs:
                trace.refuse(f"uses np.{name} with {', '.join(kwargs)}")
            real = getattr(np, name)
            if len(args) != real.nin:
                trace.refuse(f"uses np.{name} with {len(args)} arguments")
            if not any(isinstance(a, Column) for a in args):
                return real(*(trace.scalar(a) for a in args)).item()
            series = any(isinstance(a, Column) and a.series for a in args)
            if series and name in _OPERATOR_OF_UFUNC:
                return trace.make(_OPERATOR_OF_UFUNC[name], *args)
            if series and name == "invert":
                return ~args[0]
            return trace.make("ufunc", *args, params=(name,))

        return call

    for name in (*_UNARY_UFUNCS, *_BINARY_UFUNCS, *_SAME_UFUNC):
        if hasattr(np, name):
            known[name] = ufunc(name)

    def where(*args: Any) -> Any:
        if len(args) != 3 or not isinstance(args[0], Column):
            trace.refuse("uses np.where other than with a condition on columns and two values")
        return trace.make("choose", *args, series=False)

    def select(condlist: Any, choicelist: Any, default: Any = 0) -> Any:
        if not isinstance(condlist, list) or not isinstance(choicelist, list):
            trace.refuse("uses np.select with something that is no list")
        if len(condlist) != len(choicelist) or not condlist:
            trace.refuse("uses np.select with lists of different lengths")
        if not all(isinstance(c, Column) for c in condlist):
            trace.refuse("uses np.select with a condition that is no column")
        return trace.make("select", *condlist, *choicelist, default, series=False)

    def clip(a: Any, a_min: Any = None, a_max: Any = None) -> Any:
        if not isinstance(a, Column) or not a.series:
            trace.refuse("uses np.clip of something that is no Series")
        return a.clip(a_min, a_max)

    def rounded(a: Any, decimals: int = 0) -> Any:
        return a.round(decimals) if isinstance(a, Column) else round(trace.scalar(a), decimals)

    known.update({"where": where, "select": select, "clip": clip})
    known.update({"round": rounded, "around": rounded})
    return StandIn(trace, "np", known)


def _pandas(trace: Trace) -> StandIn:
    def frame(data: Any = None, index: Any = None) -> Frame:
        if index is not None and not isinstance(index, Index):
            trace.refuse("makes a DataFrame with an index of its own")
        made = Frame(trace, {}, False, index is not None)
        if data is None:
            return made
        if isinstance(data, Frame):
            return data.copy()
        if type(data) is not dict:
            trace.refuse("makes a DataFrame of something that is no dict")
        columns = {}
        for name, value in data.items():
            if isinstance(value, Column):
                object.__setattr__(made, "_sized", True)
            columns[name] = value
        for name, value in columns.items():
            made[name] = value
        return made

    def series(data: Any = None, index: Any = None, **kwargs: Any) -> Column:
        if not isinstance(data, Column) or kwargs.keys() - {"name"}:
            trace.refuse("makes a Series of something that is no column")
        if index is not None and not isinstance(index, Index):
            trace.refuse("makes a Series with an index of its own")
        return Column(trace, data.ref, series=True)

    def isna(value: Any) -> Any:
        if isinstance(value, Column):
            return trace.make("isna", value)
        return bool(pd.isna(trace.scalar(value)))

    def notna(value: Any) -> Any:
        return ~isna(value) if isinstance(value, Column) else not isna(value)

    def to_datetime(arg: Any, unit: Any = None, utc: bool = False) -> Column:
        if not isinstance(arg, Column) or not arg.series or unit not in (None, "s", "ms"):
            trace.refuse("uses pd.to_datetime other than of a Series, in s or ms")
        if type(utc) is not bool:
            trace.refuse("uses pd.to_datetime with a utc that is no bool")
        return trace.make("to_datetime", arg, params=(unit, utc))

    known = {
        "DataFrame": frame, "Series": series, "isna": isna, "isnull": isna, "notna": notna,
        "notnull": notna, "to_datetime": to_datetime,
    }  # fmt: skip
    return StandIn(trace, "pd", known)


def _math(trace: Trace) -> StandIn:
    def pure(name: str) -> Callable[..., Any]:
        return lambda *args: getattr(math, name)(*(trace.scalar(a) for a in args))

    known: dict[str, Any] = {name: getattr(math, name) for name in ("pi", "e", "inf", "nan", "tau")}
    known.update(
        {
            name: pure(name)
            for name in dir(math)
            if not name.startswith("_") and name not in known and callable(getattr(math, name))
        }
    )
    return StandIn(trace, "math", known)


class _World:
    """The copies that a traced function and what it calls see."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._modules = {"pandas": _pandas(trace), "numpy": _numpy(trace), "math": _math(trace)}
        self._functions: dict[int, types.FunctionType] = {}
        self._builtins = {n: getattr(builtins, n) for n in _SAFE_BUILTINS}
        self._builtins["__import__"] = self._import
        self._builtins["__name__"] = "builtins"

    def _import(
        self,
        name: str,
        _globals: Any = None,
        _locals: Any = None,
        fromlist: Any = (),
        level: int = 0,
    ) -> Any:
        if level == 0 and name in self._modules:
            return self._modules[name]
        return self._trace.refuse(f"imports {name}")

    def value(self, value: Any, name: str) -> Any:
        """The stand-in for a global, or a copy of it.

        Unknown ones are refused when they are used, since a module has many that are not.
        """
        if type(value) in _SCALARS:
            return value
        if isinstance(value, types.ModuleType):
            return self._modules.get(value.__name__) or StandIn(self._trace, value.__name__, {})
        if value is pd.DataFrame:
            return self._modules["pandas"].DataFrame
        if value is pd.Series:
            return self._modules["pandas"].Series
        if isinstance(value, types.FunctionType):
            return self.function(value)
        if isinstance(value, np.ufunc) and hasattr(self._modules["numpy"], value.__name__):
            return getattr(self._modules["numpy"], value.__name__)
        if type(value) in (list, tuple, set, frozenset):
            return type(value)(self.value(v, name) for v in value)
        if type(value) is dict:
            return {self.value(k, name): self.value(v, name) for k, v in value.items()}
        return StandIn(self._trace, name, {})

    def function(self, original: types.FunctionType) -> types.FunctionType:
        """A copy of a function that sees stand-ins."""
        known = self._functions.get(id(original))
        if known is not None:
            return known
        code = original.__code__
        self._check(code)
        names = _global_names(code)
        space: dict[str, Any] = {"__builtins__": self._builtins, "__name__": "traced"}
        cells = tuple(types.CellType() for _ in original.__closure__ or ())
        copied = types.FunctionType(code, space, original.__name__, None, cells or None)
        self._functions[id(original)] = copied
        for name in sorted(names):
            if name in original.__globals__:
                space[name] = self.value(original.__globals__[name], name)
        for cell, made, name in zip(
            original.__closure__ or (), cells, code.co_freevars, strict=True
        ):
            try:
                made.cell_contents = self.value(cell.cell_contents, name)
            except ValueError:
                continue
        defaults = original.__defaults__
        if defaults is not None:
            copied.__defaults__ = tuple(self.value(v, "a default") for v in defaults)
        if original.__kwdefaults__:
            copied.__kwdefaults__ = {
                n: self.value(v, n) for n, v in original.__kwdefaults__.items()
            }
        return copied

    def _check(self, code: types.CodeType) -> None:
        if code.co_flags & 0x2A0:
            self._trace.refuse("is a generator or asynchronous")
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                self._trace.refuse(f"changes the global {instruction.argval!r}")
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType) and not constant.co_flags & 0x20:
                self._check(constant)


def _global_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def trace(function: Any, columns: Iterable[str]) -> Graph:
    """Records what a transform computes.

    Args:
        function: Takes a DataFrame and returns one.
        columns: Names of the columns that it is given.

    Raises:
        Refused: It does something that no kernel is made for.
    """
    run = Trace(columns)
    if not isinstance(function, types.FunctionType):
        run.refuse(f"is a {type(function).__name__} and no plain function")
    try:
        result = _World(run).function(function)(Frame(run, {}, True, True))
    except Refused:
        raise
    except RecursionError:
        run.refuse("recurses without an end")
    except Exception as error:
        raise Refused(
            f"fails without data: {type(error).__name__}: {str(error).splitlines()[:1]}"
        ) from error
    if run.refusal is not None:
        raise Refused(run.refusal)
    if not isinstance(result, Frame):
        run.refuse(f"returns a {type(result).__name__} and no DataFrame")
    for name in result._columns:
        run.graph.outputs[name] = run.argument(result._columns[name])
    return run.graph
