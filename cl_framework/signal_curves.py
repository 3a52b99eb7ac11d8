"""A picture of signals by experience: a panel a signal, a line a strategy, with a band of one deviation over its runs.

Colours are of Okabe & Ito (2008), each with a line style and a mark of its own, so that lines are told apart without
colour.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import LineStyleType

from cl_framework.diagnosis import Diagnosis, mean_of
from cl_framework.diagrams import check_suffix, written

_PANELS: Mapping[str, str] = {
    "update_norm": "update norm", "conflict/before": "conflict with the state", "cosine/before": "cosine to the state",
    "angle/left_mean": "rotation of outputs (mean, rad)", "spectral_shift": "spectral shift",
    "state_gap": "state gap", "lambda": "lambda (grey: sqrt t)",
}
_LOST = {"all": "lost by earlier ones (points)", "nats": "lost by earlier ones (nats a token)"}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES: tuple[LineStyleType, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
_MARKS = "osD^vPXd*"
_TEXT, _SMALL, _COLUMNS = 8, 7, 4


def signal_curves(runs: Mapping[str, Sequence[Diagnosis]], path: Path) -> Figure:
    """Draw signals and what earlier experiences lost, by experience.

    Args:
        runs: by label, in the order of the legend.
        path: a .png, .svg or .pdf file, replaced where it is there.

    Returns:
        The figure, as written.

    Raises:
        ConfigError: another suffix.
    """
    check_suffix(path)
    panels: dict[str, Callable[[Diagnosis, int], float]] = {title: _signal(name) for name, title in _PANELS.items()}
    finished = [run for members in runs.values() for run in members if run.run is not None]
    if finished and all(run.loss for run in finished):
        panels[_LOST["nats"]] = lambda run, t: mean_of(run.lost(i, t, "nats") for i in range(t))
    else:
        panels[_LOST["all"]] = lambda run, t: 100 * mean_of(run.lost(i, t) for i in range(t))
    n_rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(9.6, 2.1 * n_rows + 0.5), dpi=300, layout="constrained")
    grid = figure.subplots(n_rows, _COLUMNS, squeeze=False)
    longest = max(len(run.steps) for members in runs.values() for run in members)
    for axes, (title, value) in zip(grid.flat, panels.items(), strict=True):
        axes.set_title(title, fontsize=_TEXT)
        if title == _PANELS["lambda"]:
            axes.plot(range(longest), [math.sqrt(t + 1) for t in range(longest)], color="0.6", linewidth=1)
        for number, (label, members) in enumerate(runs.items()):
            _draw(axes, label, members, value, number)
        axes.set_xlim(-0.3, longest - 0.7)
        axes.tick_params(labelsize=_SMALL)
        axes.yaxis.get_offset_text().set_fontsize(_SMALL)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("experience", fontsize=_TEXT)
    lines, labels = grid[0][0].get_legend_handles_labels()
    legend = figure.legend(lines, labels, fontsize=_SMALL, frameon=False, loc="outside lower center",
                           ncols=min(len(labels), 5), handlelength=3.2)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return written(figure, path)


def _signal(name: str) -> Callable[[Diagnosis, int], float]:
    return lambda run, t: run.steps[t].signals.get(name, math.nan)


def _draw(axes: Axes, label: str, members: Sequence[Diagnosis], value: Callable[[Diagnosis, int], float],
          number: int) -> None:
    columns = [[found for run in members if t < len(run.steps) and not math.isnan(found := value(run, t))]
               for t in range(max(len(run.steps) for run in members))]
    places = [t for t, column in enumerate(columns) if column]
    means = [statistics.fmean(columns[t]) for t in places]
    widths = [statistics.stdev(columns[t]) if len(columns[t]) > 1 else 0.0 for t in places]
    colour = _COLOURS[number % len(_COLOURS)]
    axes.fill_between(places, [m - w for m, w in zip(means, widths, strict=True)],
                      [m + w for m, w in zip(means, widths, strict=True)], color=colour, alpha=0.18, linewidth=0)
    axes.plot(places, means, color=colour, linestyle=_STYLES[number % len(_STYLES)], linewidth=1.2, label=label,
              marker=_MARKS[number % len(_MARKS)], markersize=3)
