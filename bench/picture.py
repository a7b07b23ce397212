"""The pictures: latency against rows and against time, throughput against p99, shares of stages."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

_INK = "#2b2b2b"
_FAINT = "#d9d9d9"
# Colour, line style and marker, in the order of the series.
_STYLES = (("#c2410c", "-", "s"), ("#1d4ed8", "-", "o"), ("#6b7280", "--", "^"))
_SHARE_COLOURS = ("#9ca3af", "#d1d5db", "#93c5fd", "#3b82f6", "#1d4ed8", "#1e3a8a")
_PANEL_TITLES = {
    "listpack": "Hashes as listpacks (Redis' default)",
    "hash table": "Hashes as hash tables (hash-max-listpack-entries 64)",
    "dual": "Packed rows beside Feast's fields",
    "packed": "Packed rows",
}
_COLOURS = ("#1d4ed8", "#c2410c", "#047857", "#7c3aed", "#6b7280", "#b45309", "#0891b2")

Series = Mapping[str, Mapping[int, float]]


def draw_latency(panels: Mapping[str, Series], path: Path) -> None:
    """Writes `path` with .png and .svg.

    Args:
        panels: By store and name the median milliseconds by rows. The first series is the slow
            one, the second ours, the third the floor.
        path: Without a suffix.
    """
    figure, axes = _panels(len(panels))
    for axis, (store, series) in zip(axes, panels.items(), strict=True):
        _panel(axis, _PANEL_TITLES[store], series)
    axes[0].set_ylabel("median latency seen by one client, ms", color=_INK)
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].legend(handles, labels, loc="upper left", frameon=False, labelcolor=_INK)
    figure.suptitle(
        "50 features over 5 views: latency against rows in a request", color=_INK, fontsize=13
    )
    _save(figure, path)


def _panel(axis: Axes, title: str, series: Series) -> None:
    slow, ours, _ = series.values()
    for (name, points), (colour, line, marker) in zip(series.items(), _STYLES, strict=True):
        axis.plot(
            list(points), list(points.values()), color=colour, linestyle=line, marker=marker,
            markersize=5.5, linewidth=1.8, label=name,
            zorder=2 if line == "--" else 3,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    for rows, latency in ours.items():
        middle = (latency * slow[rows]) ** 0.5
        axis.annotate(
            "", xy=(rows, latency * 1.15), xytext=(rows, slow[rows] / 1.15),
            arrowprops={"arrowstyle": "<->", "color": "#9ca3af", "linewidth": 0.8},
        )  # fmt: skip
        axis.text(
            rows, middle, f"{slow[rows] / latency:.1f} x", color=_INK, fontsize=9,
            ha="center", va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
    axis.set_title(title, color=_INK, fontsize=11)
    axis.set_xlabel("rows in the request", color=_INK)
    axis.xaxis.set_major_locator(FixedLocator(list(ours)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_xlim(min(ours) / 1.7, max(ours) * 1.7)
    axis.grid(True, which="minor", color=_FAINT, linewidth=0.3)
    _plain(axis)


def draw_throughput(series: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> None:
    """Writes `path` with .png and .svg: how the slowest 1% fare as the rate is raised.

    Args:
        series: By server its answers a second and its p99 in milliseconds, for each rate.
        path: Without a suffix.
    """
    figure = Figure(figsize=(9, 5.2), facecolor="white", layout="constrained")
    axis = figure.subplots()
    for i, (name, points) in enumerate(series.items()):
        rates, p99 = zip(*points, strict=True)
        axis.plot(
            rates, p99, color=_COLOURS[i % len(_COLOURS)], marker="o", markersize=4.5,
            linewidth=1.6, label=name,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_xlabel("answers a second", color=_INK)
    axis.set_ylabel("p99 from the time a request was due, ms", color=_INK)
    axis.legend(frameon=False, labelcolor=_INK)
    _plain(axis)
    figure.suptitle("Single rows at fixed rates: throughput against p99", color=_INK, fontsize=13)
    _save(figure, path)


def draw_overload(
    panels: Mapping[int, Mapping[str, Sequence[tuple[float, float, float]]]], path: Path
) -> None:
    """Writes `path` with .png and .svg: goodput and p99 against what is offered.

    Args:
        panels: By rows of a request and by gateway the offered load in parts of what can be
            answered, good answers a second, and the p99 in milliseconds.
        path: Without a suffix.
    """
    figure = Figure(figsize=(5.5 * len(panels), 8), facecolor="white", layout="constrained")
    axes = figure.subplots(2, len(panels), sharex=True, squeeze=False)
    for column, (rows, series) in enumerate(panels.items()):
        for i, (name, points) in enumerate(series.items()):
            times, good, p99 = zip(*points, strict=True)
            for axis, values in ((axes[0][column], good), (axes[1][column], p99)):
                axis.plot(
                    times, values, color=_COLOURS[i], marker="o", markersize=4.5, linewidth=1.6,
                    label=f"{name} what is too much" if i == 0 else name,
                )  # fmt: skip
        axes[0][column].set_title(
            f"{rows} row{'s' * (rows > 1)} a request", color=_INK, fontsize=11
        )
        axes[0][column].set_ylim(bottom=0)
        axes[1][column].set_yscale("log")
        axes[1][column].set_xscale("log")
        axes[1][column].xaxis.set_major_locator(FixedLocator([0.5, 1, 2, 5, 10]))
        axes[1][column].xaxis.set_minor_locator(NullLocator())
        axes[1][column].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} x"))
        axes[1][column].set_xlabel("offered, in parts of what can be answered", color=_INK)
        for axis in (axes[0][column], axes[1][column]):
            _plain(axis)
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} x"))
    axes[0][0].set_ylabel("answers a second within 1 s", color=_INK)
    axes[1][0].set_ylabel("p99 of answers from the time they were due, ms", color=_INK)
    axes[0][0].legend(frameon=False, labelcolor=_INK)
    figure.suptitle("Beyond capacity: 50 features, packed rows", color=_INK, fontsize=13)
    _save(figure, path)


def draw_stages(panels: Mapping[str, Mapping[int, Mapping[str, float]]], path: Path) -> None:
    """Writes `path` with .png and .svg: the share of each stage, a bar for each number of rows.

    Args:
        panels: By store, rows and stage the milliseconds, in the order in which they are drawn.
        path: Without a suffix.
    """
    figure, axes = _panels(len(panels))
    for axis, (store, by_rows) in zip(axes, panels.items(), strict=True):
        places = range(len(by_rows))
        sums = [sum(parts.values()) for parts in by_rows.values()]
        below = np.zeros(len(by_rows))
        for i, stage in enumerate(next(iter(by_rows.values()))):
            shares = [
                100 * parts[stage] / total
                for parts, total in zip(by_rows.values(), sums, strict=True)
            ]
            axis.bar(places, shares, 0.6, below, color=_SHARE_COLOURS[i], label=stage)
            below += shares
        axis.set_xticks(
            list(places),
            [
                f"{rows:,} row{'s' * (rows > 1)}\n{total:.3g} ms"
                for rows, total in zip(by_rows, sums, strict=True)
            ],
        )
        axis.set_title(_PANEL_TITLES[store], color=_INK, fontsize=11)
        _plain(axis)
    axes[0].set_ylabel("share of the sum, %", color=_INK)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False,
        labelcolor=_INK,
    )  # fmt: skip
    figure.suptitle(
        "50 features over 5 views: what the time of a request is made of", color=_INK, fontsize=13
    )
    _save(figure, path)


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    """A figure with panels side by side."""
    figure = Figure(figsize=(5.5 * count, 5.2), facecolor="white", layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    return figure, axes


def draw_times(
    due: npt.NDArray[np.float64],
    latency: npt.NDArray[np.float64],
    marks: Sequence[tuple[str, float, float]],
    title: str,
    path: Path,
) -> None:
    """Writes `path` with .png and .svg: every request at its time, and what happened meanwhile.

    Args:
        due: Seconds since the start, of each request.
        latency: Milliseconds that it took.
        marks: What happened, from when and to when, in seconds since the start.
        title: Of the picture.
        path: Without a suffix.
    """
    figure = Figure(figsize=(11, 5.2), facecolor="white", layout="constrained")
    axis = figure.subplots()
    axis.scatter(due, latency, s=2, color=_STYLES[1][0], linewidths=0, rasterized=True, zorder=3)
    axis.set_yscale("log")
    for name, start, end in marks:
        axis.axvspan(start, end, color=_STYLES[0][0], alpha=0.15, linewidth=0, zorder=1)
        axis.annotate(
            name, xy=((start + end) / 2, 0.99), xycoords=("data", "axes fraction"),
            rotation=90, ha="center", va="top", fontsize=8, color=_INK, zorder=4,
        )  # fmt: skip
    axis.set_xlabel("seconds", color=_INK)
    axis.set_ylabel("from the time a request was due to its answer, ms", color=_INK)
    axis.set_xlim(0, due.max())
    _plain(axis)
    figure.suptitle(title, color=_INK, fontsize=13)
    _save(figure, path)


def _plain(axis: Axes) -> None:
    """What all panels have in common: numbers in full, a faint grid behind, two of four sides."""
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.grid(True, which="major", color=_FAINT, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=_INK, which="both")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#9ca3af")


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=160)
