"""The page of the metrics, from the places in the code that make them."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

_PREFIX = "hotfeast_"
_CLASSES: dict[str, tuple[type, ...]] = {
    "counter": (Counter, CounterMetricFamily),
    "gauge": (Gauge, GaugeMetricFamily),
    "histogram": (Histogram,),
}
_OPENING = """# Metrics

What `hotfeast serve --metrics HOST:PORT` has at `/metrics`, for Prometheus: the sum over all
workers unless said. Who may see the page is said in [Security](../how-to/security.md).

Histograms of requests go from 0.25 ms to 1 s. Figures of the cache, of aliases and of the feature
log are a second late at most. Those of features, drift and alerts are there with `--monitor`; see
[Monitor features](../how-to/monitor.md).
"""


class Described(NamedTuple):
    """One metric as the code declares it.

    Attributes:
        name: As Prometheus has it.
        kind: counter, gauge or histogram.
        text: What it says of itself.
        labels: Names.
    """

    name: str
    kind: str
    text: str
    labels: tuple[str, ...]


def metrics_page(root: Path) -> str:
    """The page, in Markdown.

    Args:
        root: Of the checkout.

    Raises:
        ValueError: The code makes a metric in a way that is not understood here.
    """
    lines = [_OPENING, "| metric | kind | |", "|---|---|---|"]
    for metric in sorted(set(described_metrics(root / "server"))):
        labels = f"{{{','.join(metric.labels)}}}" if metric.labels else ""
        text = metric.text.replace("|", "\\|")
        lines.append(f"| `{metric.name}{labels}` | {metric.kind} | {text} |")
    return "\n".join([*lines, ""])


def described_metrics(server: Path) -> Iterator[Described]:
    """All metrics that the code below a folder declares: calls, with a metric's name and text, of
    prometheus_client's classes, or of functions that return what such a call makes.

    Args:
        server: The folder that installs as `hotfeast.server`.

    Raises:
        ValueError: What a call says cannot be told without running it.
    """
    for file in sorted(server.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if _PREFIX not in text:
            continue
        parts = file.relative_to(server).with_suffix("").parts
        module = _Module(
            ast.parse(text), vars(import_module(".".join(("hotfeast", "server", *parts))))
        )
        try:
            yield from module.metrics()
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None


_UNKNOWN = object()


class _Module:
    """The calls of a module."""

    def __init__(self, tree: ast.Module, names: dict[str, Any]) -> None:
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        self._names = names
        self._functions = {function.name: function for function in functions}
        # The innermost function that a call is in; `walk` comes to outer ones first.
        self._around = {
            call: function
            for function in functions
            for call in ast.walk(function)
            if isinstance(call, ast.Call) and len(call.args) > 1
        }

    def metrics(self) -> Iterator[Described]:
        """What they declare."""
        for call, function in self._around.items():
            names = {**self._names, **_assigned(function, self._names)}
            name = _value(call.args[0], names)
            if isinstance(name, str) and name.startswith(_PREFIX):
                found = self._describe(call, names)
                if found is not None:
                    yield found

    def _describe(self, call: ast.Call, names: dict[str, Any]) -> Described | None:
        """What a call declares, None if it is of something else."""
        if not isinstance(call.func, ast.Name):
            return None
        made = self._names.get(call.func.id)
        for kind, classes in _CLASSES.items():
            if isinstance(made, type) and issubclass(made, classes):
                return _described(call, kind, names)
        factory = self._functions.get(call.func.id)
        if factory is None:
            return None
        for node in ast.walk(factory):
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Call):
                return self._describe(node.value, {**names, **_bound(factory, call, names)})
        return None


def _described(call: ast.Call, kind: str, names: dict[str, Any]) -> Described:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    labels = given.get("labels", given.get("labelnames"))
    if labels is None and len(call.args) > 2:
        labels = call.args[2]
    name, text = _value(call.args[0], names), _value(call.args[1], names)
    by: Any = () if labels is None else _value(labels, names)
    if not isinstance(name, str) or not isinstance(text, str) or by is _UNKNOWN:
        raise ValueError(f"line {call.lineno}: name, text and labels of a metric must be plain")
    return Described(f"{name}_total" if kind == "counter" else name, kind, text, tuple(by))


def _bound(function: ast.FunctionDef, call: ast.Call, names: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a function as a call has them, where that is plain."""
    values = [_value(argument, names) for argument in call.args]
    known = dict(zip((argument.arg for argument in function.args.args), values, strict=False))
    if function.args.vararg is not None:
        known[function.args.vararg.arg] = values[len(function.args.args) :]
    known |= {k.arg: _value(k.value, names) for k in call.keywords if k.arg is not None}
    return {name: value for name, value in known.items() if value is not _UNKNOWN}


def _assigned(function: ast.FunctionDef, names: dict[str, Any]) -> dict[str, Any]:
    """What plain values a function gives names of its own."""
    found = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = _value(node.value, names)
            if value is not _UNKNOWN:
                found[node.targets[0].id] = value
    return found


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    """What an expression is, where it is made of texts, names, lists and no calls."""
    plain = (ast.Constant, ast.Name, ast.List, ast.Tuple, ast.Starred, ast.JoinedStr)
    parts = (*plain, ast.FormattedValue, ast.Load)
    if isinstance(node, ast.Starred) or not all(isinstance(n, parts) for n in ast.walk(node)):
        return _UNKNOWN
    try:
        return eval(compile(ast.Expression(node), "<metric>", "eval"), dict(names))
    except NameError:
        return _UNKNOWN
