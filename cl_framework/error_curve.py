"""The online error over an unlabelled stream: a line a strategy, with a band of one deviation over its runs.

The order of the stream is what tells adapting from collapsing (Hoang et al., NeurIPS 2024, figure 1). Colours are of
Okabe & Ito (2008), each with a line style and a mark of its own, so that lines are told apart without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import LineStyleType

from cl_framework.diagrams import check_suffix, written
from cl_framework.error_rows import ErrorCurve
from cl_framework.errors import ConfigError
from cl_framework.experience_figures import domain_of

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES: tuple[LineStyleType, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
_MARKS = "osD^vPXd*"
_TEXT, _SMALL = 9, 7
_MOST_NAMES = 20
_MOST_MARKS = 40


def error_curve(curves: Mapping[str, ErrorCurve], path: Path) -> Figure:
    """Draw the online error of each experience in the order of the stream, in percent.

    Args:
        curves: by strategy, in the order of the legend.
        path: a .png, .svg or .pdf file, replaced where it is there.

    Returns:
        The figure, as written.

    Raises:
        ConfigError: nothing to draw, or another suffix.
    """
    if not curves:
        raise ConfigError("a picture of errors takes one strategy or more; run some on an unlabelled stream first")
    check_suffix(path)
    n = max(len(curve.errors) for curve in curves.values())
    figure = Figure(figsize=(min(4.2 + 0.18 * n, 9.0), 3.2), dpi=300, layout="constrained")
    axes = figure.add_subplot()
    for number, (label, curve) in enumerate(curves.items()):
        _draw(axes, label, curve, number)
    axes.set_ylabel("online error in %", fontsize=_TEXT)
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.5, n - 0.5)
    axes.tick_params(labelsize=_SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    _name(axes, _shared([curve.names for curve in curves.values()]))
    legend = figure.legend(fontsize=_SMALL, frameon=False, loc="outside right upper", handlelength=3.2)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return written(figure, path)


def _draw(axes: Axes, label: str, curve: ErrorCurve, number: int) -> None:
    means = [100 * stat.mean for stat in curve.errors]
    deviations = [100 * (stat.std or 0.0) for stat in curve.errors]
    places, colour = range(len(means)), _COLOURS[number % len(_COLOURS)]
    lower = [max(mean - width, 0) for mean, width in zip(means, deviations, strict=True)]
    upper = [min(mean + width, 100) for mean, width in zip(means, deviations, strict=True)]
    axes.fill_between(places, lower, upper, color=colour, alpha=0.18, linewidth=0)
    axes.plot(places, means, color=colour, linestyle=_STYLES[number % len(_STYLES)], linewidth=1.3, label=label,
              marker=_MARKS[number % len(_MARKS)] if len(means) <= _MOST_MARKS else "", markersize=3.5)


def _shared(names: Sequence[Sequence[str | None]]) -> list[str | None]:
    """What all strategies met at each place."""
    longest = max(names, key=len)
    return [name if all(name in other[index:index + 1] for other in names) else None
            for index, name in enumerate(longest)]


def _name(axes: Axes, names: Sequence[str | None]) -> None:
    """Domains below the axis where they are few, with a line between two that are met for longer; else numbers."""
    domains = [name and domain_of(name) for name in names]
    spans, start = [], 0
    for domain, members in groupby(domains):
        stop = start + len(list(members))
        spans.append((domain, start, stop))
        start = stop
    if len(spans) > _MOST_NAMES or not all(domains):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("experience", fontsize=_TEXT)
        return
    labels = axes.set_xticks([(first + stop - 1) / 2 for _, first, stop in spans],
                             [str(domain) for domain, _, _ in spans], rotation=45, ha="right", rotation_mode="anchor")
    for tick in labels:
        tick.label1.set_parse_math(False)
    if len(spans) < len(names):
        for _, first, _ in spans[1:]:
            axes.axvline(first - 0.5, color="0.85", linewidth=0.7, zorder=0)
