"""From a transform's graph to typed programs for the kernel, one for each case of the data.

Types follow pandas and NumPy: NumPy's own type resolution decides for its functions, and pandas'
rules are written out here. Where a type depends on the data, a step is a *choice*: the program
checks for the common case and names the program to go to in the other.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from hotfeast.hotpath.kernel import DateField, Kind, Op, State
from hotfeast.server.expressions import Argument, Constant, Graph, Node, Ref, Refused
from hotfeast.server.feast_api import ValueType

GIVE_UP = -2
"""In place of a program's number: the data is left to pandas."""

_MAX_PROGRAMS = 96
_MAX_STATES = 64
_EXACT = 2**53
# pandas makes a column integers again where nothing in it is further than this from being whole.
_ROUNDED_AWAY = 1e-8

_KIND_OF = {
    np.dtype(np.bool_): Kind.BOOL,
    np.dtype(np.int32): Kind.INT32,
    np.dtype(np.int64): Kind.INT64,
    np.dtype(np.float32): Kind.FLOAT32,
    np.dtype(np.float64): Kind.FLOAT64,
}
_DTYPE_OF = {kind: dtype for dtype, kind in _KIND_OF.items()}
_NUMBERS = frozenset(_DTYPE_OF)
_FLOATS = frozenset((Kind.FLOAT32, Kind.FLOAT64))
_INTEGERS = frozenset((Kind.INT32, Kind.INT64))
# The declared types that pandas' columns are written as; others raise, or go through text.
_WRITABLE: dict[Kind, tuple[int, ...]] = {
    Kind.BOOL: (
        ValueType.BOOL.value,
        ValueType.INT32.value,
        ValueType.INT64.value,
        ValueType.FLOAT.value,
    ),
    Kind.INT32: (ValueType.INT32.value, ValueType.INT64.value, ValueType.FLOAT.value),
    Kind.INT64: (
        ValueType.INT64.value,
        ValueType.INT32.value,
        ValueType.DOUBLE.value,
        ValueType.FLOAT.value,
    ),
    Kind.FLOAT32: (ValueType.FLOAT.value, ValueType.INT32.value, ValueType.INT64.value),
    Kind.FLOAT64: (
        ValueType.DOUBLE.value,
        ValueType.FLOAT.value,
        ValueType.INT32.value,
        ValueType.INT64.value,
    ),
    Kind.TEXT: (ValueType.STRING.value,),
}
_COMPARISONS = {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater",
    "ge": "greater_equal",
}  # fmt: skip
_ARITHMETIC = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide",
    "floordiv": "floor_divide", "mod": "remainder",
}  # fmt: skip
_LOGIC = {"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"}
# What ndarray's ** does for these exponents instead of calling power.
_POWERS = {2: "square", 0.5: "sqrt", -1: "reciprocal", 1: "positive"}
_DATE_FIELDS = {
    "year": DateField.YEAR, "month": DateField.MONTH, "day": DateField.DAY,
    "hour": DateField.HOUR, "minute": DateField.MINUTE, "second": DateField.SECOND,
    "quarter": DateField.QUARTER, "dayofweek": DateField.DAY_OF_WEEK,
    "day_of_week": DateField.DAY_OF_WEEK, "weekday": DateField.DAY_OF_WEEK,
    "dayofyear": DateField.DAY_OF_YEAR, "day_of_year": DateField.DAY_OF_YEAR,
}  # fmt: skip
_SPAN_FIELDS = {"days": DateField.DAYS, "seconds": DateField.SECONDS}
_FIELD_BITS = 8


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; see `Op` for its fields' meanings."""

    op: Op
    target: int
    sources: tuple[int, ...] = ()
    param: int = 0
    extra: Any = None


@dataclass(frozen=True, slots=True)
class OutputDefinition:
    """A register that is written as a feature."""

    register: int
    value_type: int


@dataclass(frozen=True, slots=True)
class ProgramDefinition:
    """What a `Program` is made from.

    Attributes:
        kinds: Type of each register.
        constants: Registers that hold one value for all rows.
        instructions: In order.
        outputs: In the order of the answer.
    """

    kinds: tuple[Kind, ...]
    constants: Mapping[int, Any]
    instructions: tuple[Instruction, ...]
    outputs: tuple[OutputDefinition, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A feature to compute: the frame's column, and the `ValueType` to write, 0 to infer it."""

    column: str
    value_type: int


@dataclass(frozen=True, slots=True)
class Lowered:
    """All programs of a transform, and where to begin for each combination of the inputs' states.

    Attributes:
        programs: They go on to one another by place in this list.
        by_states: One byte a State, in the order of the graph's inputs.
        problem: Why the first case has no program; empty where it has.
    """

    programs: tuple[ProgramDefinition, ...]
    by_states: Mapping[bytes, int]
    problem: str


@dataclass(frozen=True, slots=True)
class _Operand:
    """A value within a program.

    Attributes:
        kind: None for a scalar, whose type depends on what it meets.
        register: Where it is, unless it is a scalar.
        constant: The scalar, if it is one.
        is_constant: Whether it is.
        missing: Of an object column of bools the register that tells its nulls.
        unit: Of a time or a difference of times its ticks per second.
        zone: Of a time whether it has one (UTC); of a difference None.
    """

    kind: Kind | None
    register: int = -1
    constant: Any = None
    is_constant: bool = False
    missing: int | None = None
    unit: int = 0
    zone: bool | None = None

    @property
    def is_time(self) -> bool:
        return self.kind is Kind.TIME and self.zone is not None

    @property
    def is_span(self) -> bool:
        return self.kind is Kind.TIME and self.zone is None


class _Lowering:
    """Makes one program."""

    def __init__(
        self,
        graph: Graph,
        kinds: Mapping[str, Kind],
        states: Mapping[str, State],
        choices: Mapping[int, int],
    ) -> None:
        self._graph = graph
        self._kinds_of_inputs = kinds
        self._states = states
        self._choices = choices
        self._node = 0
        self._registers: list[Kind] = []
        self._constants: dict[int, Any] = {}
        self._instructions: list[Instruction] = []
        self._values: list[_Operand] = []
        self._known_constants: dict[tuple[Kind, str], int] = {}
        self._chosen: set[int] = set()
        self.alternatives: dict[int, int] = {}
        """For each check with another case: its instruction's place to the choice's key."""

    def lower(self, wanted: Sequence[Wanted]) -> ProgramDefinition:
        for number, node in enumerate(self._graph.nodes):
            self._node = number
            rule = _RULES.get(node.op)
            if rule is None:
                raise Refused(f"uses {node.op}")
            self._values.append(rule(self, node))
        outputs = [self._output(w) for w in wanted]
        return ProgramDefinition(
            tuple(self._registers), self._constants, tuple(self._instructions), tuple(outputs)
        )

    # -- parts

    def _register(self, kind: Kind) -> int:
        self._registers.append(kind)
        return len(self._registers) - 1

    def _emit(
        self, op: Op, kind: Kind, sources: Iterable[int] = (), param: int = 0, extra: Any = None
    ) -> int:
        target = self._register(kind)
        self._instructions.append(Instruction(op, target, tuple(sources), param, extra))
        return target

    def _constant(self, kind: Kind, value: Any) -> int:
        known = self._known_constants.get((kind, repr(value)))
        if known is None:
            known = self._register(kind)
            self._constants[known] = value
            self._known_constants[kind, repr(value)] = known
        return known

    def _operand(self, argument: Argument) -> _Operand:
        if isinstance(argument, Constant):
            return _Operand(None, constant=argument.value, is_constant=True)
        return self._values[argument.node]

    def _operands(self, node: Node) -> list[_Operand]:
        return [self._operand(a) for a in node.args]

    def _give_up_if(self, mask: int) -> None:
        """Leaves the data to pandas where any value of a mask is true."""
        self._instructions.append(Instruction(Op.UNLESS, 0, (mask,), GIVE_UP))

    def _choose_by(self, mask: int, key: int | None = None) -> bool:
        """Whether this program is for the case that some value of a mask is true.

        Args:
            mask: A register.
            key: What the choice is known by, for steps that choose by the same mask; this step's
                node if None.
        """
        key = self._node if key is None else key
        if self._choices.get(key, 0):
            return True
        if key not in self._chosen:
            self._chosen.add(key)
            self.alternatives[len(self._instructions)] = key
            self._instructions.append(Instruction(Op.UNLESS, 0, (mask,), GIVE_UP))
        return False

    def _ufunc(self, name: str, *args: _Operand) -> _Operand:
        """A NumPy function, with the types that NumPy gives it."""
        ufunc = getattr(np, name)
        asked: list[Any] = []
        for arg in args:
            if arg.is_constant:
                if type(arg.constant) not in (bool, int, float):
                    raise Refused(f"uses {name} with {arg.constant!r}")
                is_bool = type(arg.constant) is bool
                asked.append(np.dtype(np.bool_) if is_bool else type(arg.constant))
            else:
                self._number(arg, name)
                asked.append(_DTYPE_OF[arg.kind])  # type: ignore[index]
        try:
            dtypes = ufunc.resolve_dtypes((*asked, None))
        except TypeError as error:
            raise Refused(f"NumPy has no {name} for these types") from error
        if any(dtype not in _KIND_OF for dtype in dtypes):
            raise Refused(f"{name} gives a type that is not compiled: {dtypes[-1]}")
        place = _loop(ufunc, dtypes)
        sources = [self._as(arg, _KIND_OF[d]) for arg, d in zip(args, dtypes[:-1], strict=True)]
        kind = _KIND_OF[dtypes[-1]]
        return _Operand(kind, self._emit(Op.LOOP, kind, sources, len(args), (ufunc, place)))

    def _time_ufunc(self, name: str, result: Kind, *args: _Operand) -> int:
        ufunc = getattr(np, name)
        letter = "M" if args[0].is_time else "m"
        signature = letter * len(args) + "->"
        for place, types in enumerate(ufunc.types):
            if types.startswith(signature):
                sources = [a.register for a in args]
                return self._emit(Op.LOOP, result, sources, len(args), (ufunc, place))
        raise Refused(f"NumPy has no {name} for times")

    def _number(self, operand: _Operand, what: str) -> None:
        if operand.kind is None or operand.missing is not None or operand.kind not in _NUMBERS:
            raise Refused(f"uses {what} of a column that is not numeric here")

    def _as(self, operand: _Operand, kind: Kind) -> int:
        """The register of a number in another type."""
        if operand.is_constant:
            value = operand.constant
            if kind in _INTEGERS:
                bits = 32 if kind is Kind.INT32 else 64
                if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
                    raise Refused(f"uses {value}, which is no {bits}-bit integer")
                return self._constant(kind, int(value))
            if kind is Kind.FLOAT32:
                with np.errstate(over="ignore"):
                    return self._constant(kind, float(np.float32(value)))
            if kind is Kind.FLOAT64:
                return self._constant(kind, float(value))
            return self._constant(kind, bool(value))
        if operand.kind is kind:
            return operand.register
        return self._emit(Op.CAST, kind, (operand.register,))

    def _bool(self, operand: _Operand, what: str) -> int:
        if operand.kind is not Kind.BOOL or operand.missing is not None:
            raise Refused(f"uses {what} of a column that is no bool here")
        return operand.register

    def _not(self, mask: int) -> int:
        return self._ufunc("logical_not", _Operand(Kind.BOOL, mask)).register

    def _missing(self, operand: _Operand) -> int:
        if operand.missing is not None:
            return operand.missing
        return self._emit(Op.MISSING, Kind.BOOL, (operand.register,))

    def _select(self, kind: Kind, condition: int, yes: int, no: int) -> int:
        return self._emit(Op.SELECT, kind, (condition, yes, no))

    def _filled(self, value: Any) -> _Operand:
        """A column of one value."""
        kind = _kind_of_scalar(value)
        return _Operand(kind, self._constant(kind, value))

    def _text(self, operand: _Operand) -> int:
        if operand.is_constant:
            if not isinstance(operand.constant, str):
                raise Refused(f"puts {operand.constant!r} among strings")
            return self._constant(Kind.TEXT, operand.constant)
        if operand.kind is not Kind.TEXT:
            raise Refused("puts a column of another type among strings")
        return operand.register

    # -- rules

    def _input(self, node: Node) -> _Operand:
        (name,) = node.params
        assert isinstance(name, str)
        place = self._graph.inputs.index(name)
        declared, state = self._kinds_of_inputs[name], self._states[name]
        kind = declared
        if declared is Kind.INT64 and state is State.SOME_NULL:
            kind = Kind.FLOAT64
        register = self._emit(Op.LOAD, kind, param=place, extra=int(declared))
        if declared is Kind.BOOL and state is State.SOME_NULL:
            missing = self._emit(Op.LOAD_MISSING, Kind.BOOL, param=place)
            return _Operand(kind, register, missing=missing)
        if declared is Kind.TIME:
            return _Operand(kind, register, unit=1_000_000, zone=True)
        return _Operand(kind, register)

    def _fill(self, node: Node) -> _Operand:
        return self._filled(self._operand(node.args[0]).constant)

    def _arithmetic(self, node: Node) -> _Operand:
        left, right = self._operands(node)
        name = _ARITHMETIC[node.op]
        if node.op == "sub" and left.is_time and right.is_time:
            if (left.unit, left.zone) != (right.unit, right.zone):
                raise Refused("subtracts times of different units or zones")
            register = self._time_ufunc("subtract", Kind.TIME, left, right)
            return _Operand(Kind.TIME, register, unit=left.unit)
        if node.series and node.op in ("floordiv", "mod"):
            self._refuse_zero_divisors(node.op, left, right)
        return self._ufunc(name, left, right)

    def _refuse_zero_divisors(self, op: str, left: _Operand, right: _Operand) -> None:
        """pandas puts inf and NaN in place of what NumPy says, and changes types for it."""
        kinds = {o.kind for o in (left, right) if not o.is_constant}
        whole = not kinds & _FLOATS and not any(
            type(o.constant) is float for o in (left, right) if o.is_constant
        )
        if op == "mod" and not whole:
            return
        if right.is_constant:
            if right.constant == 0:
                raise Refused("divides by the constant 0")
            return
        self._number(right, op)
        zero = _Operand(None, constant=0, is_constant=True)
        self._give_up_if(self._ufunc("equal", right, zero).register)

    def _power(self, node: Node) -> _Operand:
        base, exponent = self._operands(node)
        if not exponent.is_constant:
            return self._float_power(base, exponent)
        self._number(base, "power")
        value = exponent.constant
        if type(value) not in (int, float):
            raise Refused(f"raises to {value!r}")
        if base.kind in _FLOATS:
            if value in _POWERS:
                return self._ufunc(_POWERS[value], base)
            if value == 0:
                raise Refused("raises to 0")
            return self._ufunc("power", base, exponent)
        if base.kind not in _INTEGERS or type(value) is not int or value < 0:
            raise Refused(f"raises integers to {value!r}")
        if value == 2:
            return self._ufunc("square", base)
        return self._ufunc("power", base, exponent)

    def _float_power(self, base: _Operand, exponent: _Operand) -> _Operand:
        result = self._ufunc("power", base, exponent)
        if result.kind not in _FLOATS:
            # NumPy raises for negative ones among them.
            raise Refused("raises integers to a column of integers")
        return result

    def _comparison(self, node: Node) -> _Operand:
        left, right = self._operands(node)
        equal = node.op in ("eq", "ne")
        if Kind.TEXT in (left.kind, right.kind):
            if not equal:
                raise Refused("orders strings")
            sources = (self._text(left), self._text(right))
            return _Operand(
                Kind.BOOL, self._emit(Op.TEXT_EQUAL, Kind.BOOL, sources, node.op == "ne")
            )
        if Kind.TIME in (left.kind, right.kind):
            if (left.kind, left.unit, left.zone) != (right.kind, right.unit, right.zone):
                raise Refused("compares times of different units or zones")
            register = self._time_ufunc(_COMPARISONS[node.op], Kind.BOOL, left, right)
            return _Operand(Kind.BOOL, register)
        return self._ufunc(_COMPARISONS[node.op], left, right)

    def _logic(self, node: Node) -> _Operand:
        left, right = self._operands(node)
        kinds = {bool if type(o.constant) is bool else o.kind for o in (left, right)}
        if not kinds <= {bool, Kind.BOOL} or any(o.missing is not None for o in (left, right)):
            raise Refused(f"uses {node.op} of columns that are no bools here")
        return self._ufunc(_LOGIC[node.op], left, right)

    def _invert(self, node: Node) -> _Operand:
        (operand,) = self._operands(node)
        return _Operand(Kind.BOOL, self._not(self._bool(operand, "~")))

    def _apply(self, node: Node) -> _Operand:
        (name,) = node.params
        assert isinstance(name, str)
        operands = self._operands(node)
        if name == "power":
            return self._float_power(*operands)
        return self._ufunc(name, *operands)

    def _astype(self, node: Node) -> _Operand:
        (operand,) = self._operands(node)
        (name,) = node.params
        if name in ("str", "object", "string"):
            if operand.kind is Kind.TEXT and name == "str":
                self._give_up_if(self._missing(operand))
                return operand
            raise Refused(f"uses astype({name})")
        self._number(operand, f"astype({name})")
        kind = _KIND_OF.get(np.dtype(str(name)))
        if kind is None:
            raise Refused(f"uses astype({name})")
        return _Operand(kind, self._as(operand, kind))

    def _round(self, node: Node) -> _Operand:
        (operand,) = self._operands(node)
        (decimals,) = node.params
        assert isinstance(decimals, int)
        self._number(operand, "round")
        if operand.kind in _INTEGERS and decimals >= 0:
            return operand
        if operand.kind is not Kind.FLOAT64 or not -22 <= decimals <= 22:
            raise Refused(f"rounds a {operand.kind!r} to {decimals} decimals")
        if decimals == 0:
            return self._ufunc("rint", operand)
        scale = _Operand(None, constant=float(10 ** abs(decimals)), is_constant=True)
        there, back = ("multiply", "true_divide")
        if decimals < 0:
            there, back = back, there
        scaled = self._ufunc("rint", self._ufunc(there, operand, scale))
        return self._ufunc(back, scaled, scale)

    def _fillna(self, node: Node) -> _Operand:
        operand, value = self._operands(node)
        if operand.missing is not None:
            if type(value.constant) is not bool:
                raise Refused("fills a bool column with something else")
            filler = self._constant(Kind.BOOL, value.constant)
            return _Operand(
                Kind.BOOL,
                self._select(Kind.BOOL, operand.missing, filler, operand.register),
            )
        if operand.kind in (Kind.BOOL, *_INTEGERS):
            return operand
        if operand.kind is Kind.TEXT:
            filler = self._text(value)
        elif operand.kind is Kind.FLOAT64:
            filler = self._float_filler(value)
        else:
            raise Refused("fills a column of a type that is not compiled")
        register = self._select(operand.kind, self._missing(operand), filler, operand.register)
        return _Operand(operand.kind, register)

    def _float_filler(self, value: _Operand) -> int:
        """A value that goes into a float64 column as it is."""
        if value.is_constant:
            if type(value.constant) not in (int, float):
                raise Refused(f"puts {value.constant!r} into a float column")
            if type(value.constant) is int and abs(value.constant) > _EXACT:
                raise Refused(f"puts {value.constant} into a float column")
            return self._constant(Kind.FLOAT64, float(value.constant))
        if value.kind is not Kind.FLOAT64:
            raise Refused("puts a column of another type into a float column")
        return value.register

    def _isna(self, node: Node) -> _Operand:
        (operand,) = self._operands(node)
        return _Operand(Kind.BOOL, self._missing(operand))

    def _where(self, node: Node) -> _Operand:
        operand, condition, other = self._operands(node)
        keep = self._bool(condition, "where")
        return self._put(operand, self._not(keep), other)

    def _put(self, operand: _Operand, mask: int, value: _Operand) -> _Operand:
        """Puts a value where a mask is true, with pandas' rules for what a column can hold."""
        kind = operand.kind
        if kind is None or operand.missing is not None:
            raise Refused("replaces values of an object column")
        if kind is Kind.TEXT:
            filler = self._text(value)
        elif kind is Kind.FLOAT64:
            filler = self._float_filler(value)
        elif kind is Kind.BOOL:
            if type(value.constant) is bool:
                filler = self._constant(Kind.BOOL, value.constant)
            else:
                filler = self._bool(value, "where")
        elif kind is Kind.INT64:
            constant = value.constant
            if not value.is_constant:
                if value.kind is not Kind.INT64:
                    raise Refused("puts a column of another type into an integer column")
                filler = value.register
            elif type(constant) is int or (type(constant) is float and constant.is_integer()):
                if abs(constant) > _EXACT and type(constant) is float:
                    raise Refused(f"puts {constant!r} into an integer column")
                filler = self._constant(Kind.INT64, int(constant))
            elif type(constant) is float:
                if 0 < abs(constant - np.trunc(constant)) <= _ROUNDED_AWAY:
                    raise Refused(f"puts {constant!r} into an integer column")
                # pandas makes it a float column, but only if there is something to put.
                if not self._choose_by(mask):
                    return operand
                kind = Kind.FLOAT64
                filler = self._constant(kind, constant)
                operand = _Operand(kind, self._as(operand, kind))
            else:
                raise Refused(f"puts {constant!r} into an integer column")
        else:
            raise Refused(f"replaces values of a {kind.name} column")
        return _Operand(kind, self._select(kind, mask, filler, operand.register))

    def _choose(self, node: Node) -> _Operand:
        condition, *values = self._operands(node)
        kind, registers = self._common(values, "np.where")
        mask = self._bool(condition, "np.where")
        return _Operand(kind, self._select(kind, mask, *registers))

    def _choose_many(self, node: Node) -> _Operand:
        operands = self._operands(node)
        count = (len(operands) - 1) // 2
        kind, registers = self._common(operands[count:], "np.select")
        result = registers[-1]
        for condition, register in reversed(
            list(zip(operands[:count], registers[:-1], strict=True))
        ):
            result = self._select(kind, self._bool(condition, "np.select"), register, result)
        return _Operand(kind, result)

    def _common(self, values: Sequence[_Operand], what: str) -> tuple[Kind, list[int]]:
        """The type that NumPy gives to several values, and their registers in it."""
        if any(v.kind is Kind.TEXT or type(v.constant) is str for v in values):
            for value in values:
                if type(value.constant) is str and value.constant.endswith("\0"):
                    raise Refused("uses a string that ends with a zero character")
            return Kind.TEXT, [self._text(v) for v in values]
        asked: list[Any] = []
        for value in values:
            if value.is_constant:
                if type(value.constant) not in (bool, int, float):
                    raise Refused(f"uses {what} with {value.constant!r}")
                asked.append(
                    np.bool_(value.constant) if type(value.constant) is bool else value.constant
                )
            else:
                self._number(value, what)
                asked.append(_DTYPE_OF[value.kind])  # type: ignore[index]
        kind = _KIND_OF.get(np.result_type(*asked))
        if kind is None:
            raise Refused(f"{what} gives a type that is not compiled")
        return kind, [self._as(v, kind) for v in values]

    def _isin(self, node: Node) -> _Operand:
        (operand,) = self._operands(node)
        (keys,) = node.params
        assert isinstance(keys, tuple)
        if operand.kind is Kind.INT32:
            operand = _Operand(Kind.INT64, self._as(operand, Kind.INT64))
        place = self._find(operand, keys, "isin")
        zero = _Operand(None, constant=0, is_constant=True)
        return self._ufunc("greater_equal", place, zero)

    def _find(self, operand: _Operand, keys: Sequence[Any], what: str) -> _Operand:
        """Places among the sorted keys."""
        types = {type(k) for k in keys}
        if operand.missing is not None or not keys:
            raise Refused(f"uses {what} of an object column, or with nothing to find")
        if operand.kind is Kind.TEXT and types == {str}:
            table: list[Any] = sorted(set(keys), key=lambda k: (len(k.encode()), k.encode()))
        elif operand.kind is Kind.INT64 and types == {int}:
            table = sorted(set(keys))
        elif operand.kind is Kind.FLOAT64 and types <= {int, float}:
            if any(not math.isfinite(k) or abs(k) > _EXACT for k in keys):
                raise Refused(f"uses {what} with numbers that are not exact")
            table = sorted({float(k) for k in keys})
        else:
            raise Refused(f"uses {what} with keys of other types than the column's")
        register = self._emit(Op.FIND, Kind.INT64, (operand.register,), extra=tuple(table))
        return _Operand(Kind.INT64, register)

    def _map(self, node: Node) -> _Operand:
        (operand,) = self._operands(node)
        keys, values = node.params
        assert isinstance(keys, tuple)
        assert isinstance(values, tuple)
        if operand.kind not in (Kind.TEXT, Kind.INT64, Kind.FLOAT64):
            raise Refused("uses map of a column that has neither strings nor numbers here")
        if operand.kind is Kind.FLOAT64 and {type(k) for k in keys} != {int}:
            raise Refused("uses map with keys of other types than the column's")
        places = self._find(operand, keys, "map")
        found: dict[Any, Any] = dict(zip(keys, values, strict=True))
        table = self._instructions[-1].extra
        ordered = [found[key] for key in table]
        types = {type(v) for v in ordered}
        zero = _Operand(None, constant=0, is_constant=True)
        absent = self._ufunc("less", places, zero).register
        if types == {str}:
            return self._taken(Kind.TEXT, places, [*ordered, None])
        if types == {bool}:
            self._give_up_if(absent)
            return self._taken(Kind.BOOL, places, [*ordered, False])
        if types == {int}:
            if any(abs(v) > _EXACT for v in ordered):
                raise Refused("maps to integers that are no floats")
            if not self._choose_by(absent):
                return self._taken(Kind.INT64, places, [*ordered, 0])
        elif types != {float} and types != {int, float}:
            raise Refused("maps to values of different types")
        return self._taken(Kind.FLOAT64, places, [*map(float, ordered), math.nan])

    def _taken(self, kind: Kind, places: _Operand, table: Sequence[Any]) -> _Operand:
        return _Operand(kind, self._emit(Op.TAKE, kind, (places.register,), extra=tuple(table)))

    def _replace(self, node: Node) -> _Operand:
        operand, value = self._operands(node)
        (old,) = node.params
        assert isinstance(old, tuple)
        if operand.kind is None or operand.missing is not None:
            raise Refused("uses replace of an object column")
        masks = []
        for constant in old:
            if operand.kind is Kind.TEXT:
                if type(constant) is not str:
                    raise Refused(f"replaces {constant!r} in a column of strings")
                sources = (operand.register, self._constant(Kind.TEXT, constant))
                masks.append(self._emit(Op.TEXT_EQUAL, Kind.BOOL, sources))
            elif type(constant) not in (int, float):
                raise Refused(f"replaces {constant!r} in a column of numbers")
            elif constant != constant:
                masks.append(self._missing(operand))
            elif operand.kind is Kind.INT64 and type(constant) is float:
                if constant.is_integer():
                    raise Refused("replaces a float in a column of integers")
            else:
                wanted = _Operand(None, constant=constant, is_constant=True)
                masks.append(self._ufunc("equal", operand, wanted).register)
        if not masks:
            return operand
        mask = masks[0]
        for other in masks[1:]:
            mask = self._ufunc(
                "logical_or", _Operand(Kind.BOOL, mask), _Operand(Kind.BOOL, other)
            ).register
        return self._put(operand, mask, value)

    def _date_field(self, node: Node) -> _Operand:
        (operand,) = self._operands(node)
        (name,) = node.params
        fields = _DATE_FIELDS if operand.is_time else _SPAN_FIELDS if operand.is_span else {}
        if name not in fields:
            raise Refused(f"uses .dt.{name} of a column that has none here")
        kind = Kind.INT64 if name == "days" else Kind.INT32
        mask = self._missing(operand)
        # All fields of one time have the same nulls.
        (times,) = node.args
        assert isinstance(times, Ref)
        has_missing = self._choose_by(mask, times.node)
        param = operand.unit << _FIELD_BITS | fields[str(name)]
        register = self._emit(Op.DATE_FIELD, kind, (operand.register,), param)
        if not has_missing:
            return _Operand(kind, register)
        wide = self._as(_Operand(kind, register), Kind.FLOAT64)
        nan = self._constant(Kind.FLOAT64, math.nan)
        return _Operand(Kind.FLOAT64, self._select(Kind.FLOAT64, mask, nan, wide))

    def _total_seconds(self, node: Node) -> _Operand:
        (operand,) = self._operands(node)
        if not operand.is_span:
            raise Refused("uses total_seconds of a column that is no difference of times here")
        unit = _Operand(None, constant=operand.unit, is_constant=True)
        seconds = self._ufunc("true_divide", _Operand(Kind.INT64, operand.register), unit)
        nan = self._constant(Kind.FLOAT64, math.nan)
        register = self._select(Kind.FLOAT64, self._missing(operand), nan, seconds.register)
        return _Operand(Kind.FLOAT64, register)

    def _to_datetime(self, node: Node) -> _Operand:
        (operand,) = self._operands(node)
        unit, utc = node.params
        if operand.is_time and unit is None:
            if utc and not operand.zone:
                return _Operand(Kind.TIME, operand.register, unit=operand.unit, zone=True)
            return operand
        if operand.kind is not Kind.INT64 or unit is None:
            raise Refused("makes times of something other than integers")
        factor = 10**9 if unit == "s" else 10**6
        register = self._emit(Op.MULTIPLY_TIME, Kind.TIME, (operand.register,), factor)
        return _Operand(Kind.TIME, register, unit=10**9, zone=bool(utc))

    def _text_length(self, node: Node) -> _Operand:
        (operand,) = self._operands(node)
        if operand.kind is not Kind.TEXT:
            raise Refused("uses .str of a column that has no strings here")
        # With nulls its type depends on whether there is anything else.
        self._give_up_if(self._missing(operand))
        return _Operand(Kind.INT64, self._emit(Op.TEXT_LENGTH, Kind.INT64, (operand.register,)))

    def _text_find(self, node: Node) -> _Operand:
        (operand,) = self._operands(node)
        how, pattern, na = node.params
        if operand.kind is not Kind.TEXT:
            raise Refused("uses .str of a column that has no strings here")
        mask = self._missing(operand)
        param = ("startswith", "endswith", "contains").index(str(how))
        if na is None:
            self._give_up_if(mask)
        register = self._emit(Op.TEXT_FIND, Kind.BOOL, (operand.register,), param, pattern)
        if na is not None:
            filler = self._constant(Kind.BOOL, na)
            register = self._select(Kind.BOOL, mask, filler, register)
        return _Operand(Kind.BOOL, register)

    def _text_case(self, node: Node) -> _Operand:
        (operand,) = self._operands(node)
        if operand.kind is not Kind.TEXT:
            raise Refused("uses .str of a column that has no strings here")
        register = self._emit(
            Op.TEXT_CASE, Kind.TEXT, (operand.register,), node.params == ("upper",)
        )
        return _Operand(Kind.TEXT, register)

    # -- the end

    def _output(self, wanted: Wanted) -> OutputDefinition:
        operand = self._operand(self._graph.outputs[wanted.column])
        if operand.is_constant:
            operand = self._filled(operand.constant)
        if operand.missing is not None or operand.kind not in _WRITABLE:
            raise Refused(f"returns times, or bools with nulls, in {wanted.column!r}")
        types = _WRITABLE[operand.kind]
        value_type = wanted.value_type or types[0]
        if value_type not in types:
            raise Refused(
                f"returns {operand.kind.name} in {wanted.column!r}, which is declared as another "
                "type"
            )
        return OutputDefinition(operand.register, value_type)


_Rule = Callable[[_Lowering, Node], _Operand]
_RULES: dict[str, _Rule] = {
    "input": _Lowering._input, "fill": _Lowering._fill, "pow": _Lowering._power,
    "invert": _Lowering._invert, "ufunc": _Lowering._apply, "astype": _Lowering._astype,
    "round": _Lowering._round, "fillna": _Lowering._fillna, "isna": _Lowering._isna,
    "where": _Lowering._where, "choose": _Lowering._choose, "select": _Lowering._choose_many,
    "isin": _Lowering._isin, "map": _Lowering._map, "replace": _Lowering._replace,
    "date_field": _Lowering._date_field, "total_seconds": _Lowering._total_seconds,
    "to_datetime": _Lowering._to_datetime, "text_length": _Lowering._text_length,
    "text_find": _Lowering._text_find, "text_case": _Lowering._text_case,
    **dict.fromkeys(_ARITHMETIC, _Lowering._arithmetic),
    **dict.fromkeys(_COMPARISONS, _Lowering._comparison),
    **dict.fromkeys(_LOGIC, _Lowering._logic),
}  # fmt: skip


def _kind_of_scalar(value: Any) -> Kind:
    kinds = {bool: Kind.BOOL, int: Kind.INT64, float: Kind.FLOAT64, str: Kind.TEXT}
    kind = kinds.get(type(value))
    if kind is None:
        raise Refused(f"makes a column of {value!r}")
    return kind


def _loop(ufunc: np.ufunc, dtypes: Sequence[np.dtype[Any]]) -> int:
    """The place of NumPy's loop for these types; where there are several, NumPy takes the first."""
    for place, types in enumerate(ufunc.types):
        letters = types.replace("->", "")
        if "O" not in letters and [np.dtype(c) for c in letters] == list(dtypes):
            return place
    raise Refused(f"NumPy has no loop of {ufunc.__name__} for these types")


def _state_combinations(
    kinds: Sequence[Kind], together: Sequence[Sequence[int]]
) -> list[tuple[State, ...]]:
    """Combinations of the inputs' states, the commonest first; not all where there are many."""
    depends = {place for place, kind in enumerate(kinds) if kind in (Kind.INT64, Kind.BOOL)}
    groups = [group for group in (depends.intersection(places) for places in together) if group]
    chosen = [set(), *({place} for place in sorted(depends)), depends]
    if 2 ** len(depends) <= _MAX_STATES:
        chosen += _unions([{place} for place in depends])
    elif 2 ** len(groups) <= _MAX_STATES:
        chosen += _unions(groups)
    chosen.sort(key=len)
    combinations = [
        tuple(State.SOME_NULL if i in nulls else State.FULL for i in range(len(kinds)))
        for nulls in chosen
    ]
    return list(dict.fromkeys(combinations))


def _unions(groups: Sequence[set[int]]) -> list[set[int]]:
    return [
        set().union(*(group for group, flag in zip(groups, flags, strict=True) if flag))
        for flags in product((False, True), repeat=len(groups))
    ]


def lower(
    graph: Graph,
    kinds: Mapping[str, Kind],
    wanted: Sequence[Wanted],
    together: Sequence[Sequence[int]] = (),
) -> Lowered:
    """Makes the programs of a transform.

    Args:
        graph: What is computed.
        kinds: For each input its type.
        wanted: What is taken of the result.
        together: Places of inputs that are null together, as those of one view are for an entity
            without a row. This counts where there are too many inputs for all combinations.
    """
    definitions: list[tuple[ProgramDefinition, dict[int, tuple[Any, ...]]]] = []
    places: dict[tuple[Any, ...], int] = {}
    waiting: deque[tuple[Any, ...]] = deque()
    by_states: dict[bytes, tuple[Any, ...]] = {}
    for states in _state_combinations([kinds[n] for n in graph.inputs], together):
        by_states[bytes(states)] = (states, ())
        waiting.append((states, ()))
    problem = ""
    while waiting and len(definitions) < _MAX_PROGRAMS:
        case = waiting.popleft()
        if case in places:
            continue
        states, choices = case
        lowering = _Lowering(
            graph, kinds, dict(zip(graph.inputs, states, strict=True)), dict(choices)
        )
        try:
            made = lowering.lower(wanted)
        except Refused as refused:
            problem = problem or str(refused)
            places[case] = GIVE_UP
            continue
        further = {
            place: (states, tuple(sorted({**dict(choices), key: 1}.items())))
            for place, key in lowering.alternatives.items()
        }
        places[case] = len(definitions)
        definitions.append((made, further))
        waiting.extend(further.values())
    programs = []
    for made, further in definitions:
        steps = list(made.instructions)
        for place, case in further.items():
            steps[place] = Instruction(
                Op.UNLESS, 0, steps[place].sources, places.get(case, GIVE_UP)
            )
        programs.append(ProgramDefinition(made.kinds, made.constants, tuple(steps), made.outputs))
    begins = {s: places.get(case, GIVE_UP) for s, case in by_states.items()}
    return Lowered(tuple(programs), {s: p for s, p in begins.items() if p != GIVE_UP}, problem)


def without(lowered: Lowered, unproven: set[int]) -> Lowered:
    """The same without some programs: their data is left to pandas."""
    programs = tuple(
        ProgramDefinition(
            p.kinds,
            p.constants,
            tuple(
                Instruction(i.op, i.target, i.sources, GIVE_UP)
                if i.op is Op.UNLESS and i.param in unproven
                else i
                for i in p.instructions
            ),
            p.outputs,
        )
        for p in lowered.programs
    )
    by_states = {s: p for s, p in lowered.by_states.items() if p not in unproven}
    return Lowered(programs, by_states, lowered.problem)
