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
workers unless said. The page has no authentication, so use a loopback or private address.

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
    prometheus_client's classes or of functions that have a kind of metric in their names.

    Args:
        server: The folder that installs as `hotfeast.server`.

    Raises:
        ValueError: What a call says cannot be told without running it.
    """
    for file in sorted(server.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if _PREFIX not in text:
            continue
        tree = ast.parse(text)
        # The innermost function that a call is in; `walk` comes to outer ones first.
        around = {
            call: function
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for call in ast.walk(function)
            if isinstance(call, ast.Call) and len(call.args) > 1
        }
        if not around:
            continue
        parts = file.relative_to(server).with_suffix("").parts
        names = vars(import_module(".".join(("hotfeast", "server", *parts))))
        for call, function in around.items():
            kind = _kind(call, names)
            if kind and _value(call.args[0], names) is not _UNKNOWN:
                yield _describe(call, kind, {**names, **_assigned(function, names)}, file)


_UNKNOWN = object()


def _kind(call: ast.Call, names: dict[str, Any]) -> str | None:
    """What a call makes, None if no metric."""
    if not isinstance(call.func, ast.Name):
        return None
    made = names.get(call.func.id)
    for kind, classes in _CLASSES.items():
        if (isinstance(made, type) and issubclass(made, classes)) or kind in call.func.id:
            return kind
    return None


def _describe(call: ast.Call, kind: str, names: dict[str, Any], file: Path) -> Described:
    labels = next((k.value for k in call.keywords if k.arg in ("labels", "labelnames")), None)
    if labels is None and len(call.args) > 2:
        labels = call.args[2]
    name, text = _value(call.args[0], names), _value(call.args[1], names)
    by: Any = () if labels is None else _value(labels, names)
    if not isinstance(name, str) or not isinstance(text, str) or by is _UNKNOWN:
        raise ValueError(f"{file}:{call.lineno}: name, text and labels of a metric must be plain")
    suffix = "_total" if kind == "counter" else ""
    return Described(f"{name}{suffix}", kind, text, () if isinstance(by, str) else tuple(by))


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
    if not all(isinstance(part, parts) for part in ast.walk(node)):
        return _UNKNOWN
    try:
        return eval(compile(ast.Expression(node), "<metric>", "eval"), dict(names))
    except NameError:
        return _UNKNOWN
