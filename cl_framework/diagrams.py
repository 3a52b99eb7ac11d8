"""Pictures of ranks that can go into a paper: the critical-difference diagram, and tuning against evaluation.

Lengths are inches, so that text is as large as it is printed, and a picture is as wide as its names need. Colours are
of Okabe & Ito (2008), each with a line style of its own. A .png has 300 dots an inch; a .pdf carries its fonts.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.typing import LineStyleType

from cl_framework.errors import ConfigError
from cl_framework.files import write_atomic
from cl_framework.ranks import cliques, rank_agreement

_METADATA: Mapping[str, dict[str, None]] = {
    ".png": {}, ".svg": dict.fromkeys(("Date", "Creator", "Format", "Type")), ".pdf": {"CreationDate": None}}
"""The suffixes that there are, and what is left out: dates, and a block of addresses that nothing reads."""
_BETTER: tuple[str, LineStyleType] = ("#0072B2", "-")
_WORSE: tuple[str, LineStyleType] = ("#D55E00", (0, (5, 2)))
_SAME: tuple[str, LineStyleType] = ("0.5", (0, (1, 1.5)))
_GREY = "0.4"
_LINE = 0.19
_MARGIN = 0.1
_TEXT, _SMALL = 9, 7


def critical_difference_diagram(ranks: Mapping[str, float], difference: float, path: Path) -> Figure:
    """Draw mean ranks on an axis, the best on the left, and a bar over each group without a significant difference.

    The diagram of Demsar (JMLR 7, 2006, section 3.2.4): strategies under one bar differ by less than the critical
    difference, whose length stands above the axis.

    Args:
        ranks: strategy -> mean rank, 1 is the best; see `ranks.mean_ranks`.
        difference: see `ranks.critical_difference`.
        path: a .png, .svg or .pdf file, replaced where it is there.

    Returns:
        The figure, as written.

    Raises:
        ConfigError: fewer than two strategies, a rank that is not finite, or another suffix.
    """
    names, groups = sorted(ranks, key=ranks.__getitem__), cliques(ranks, difference)
    _check(names, path)
    k, half = len(names), (len(names) + 1) // 2
    scale = max(3.0, 0.22 * (k - 1)) / (k - 1)
    rows = _rows([(scale * ranks[group[0]], scale * ranks[group[-1]]) for group in groups])
    to_first = 0.1 * (len(set(rows)) + 1) + _LINE
    outside = _width([f"{k}.00"], _SMALL) + 0.08
    left, right = (_width(side, _TEXT) + outside + 0.05 + _MARGIN for side in (names[:half], names[half:]))
    left = max(left, _width(["mean rank"], _SMALL) + 0.15 + _MARGIN)
    height = 0.63 + to_first + _LINE * half
    figure, axes = _page(left + scale * max(k - 1 + right / scale, difference + _MARGIN / scale), height)
    axis = height - 0.65

    def x(rank: float) -> float:
        return left + scale * (rank - 1)

    axes.plot([x(1), x(1 + difference)], [height - 0.28] * 2, "k|-", linewidth=1, markersize=6)
    axes.text(x(1), height - 0.22, f"critical difference {difference:.2f}", va="bottom", fontsize=_SMALL)
    axes.plot([x(1), x(k)], [axis] * 2, "k-", linewidth=1)
    axes.text(x(1) - 0.15, axis + 0.09, "mean rank", ha="right", va="bottom", fontsize=_SMALL)
    for tick in range(1, k + 1):
        axes.plot([x(tick)] * 2, [axis, axis + 0.06], "k-", linewidth=1)
        axes.text(x(tick), axis + 0.09, str(tick), ha="center", va="bottom", fontsize=_SMALL)
    for i, name in enumerate(names):
        sign, end, level = (-1, x(1) - outside, i) if i < half else (1, x(k) + outside, k - 1 - i)
        y = axis - to_first - _LINE * level
        inwards, outwards = ("left", "right") if i < half else ("right", "left")
        axes.plot([x(ranks[name])] * 2 + [end], [axis, y, y], color=_GREY, linewidth=0.7)
        axes.plot([x(ranks[name])], [axis], "ko", markersize=3.5)
        axes.text(end, y + 0.01, f"{ranks[name]:.2f}", ha=inwards, va="bottom", fontsize=_SMALL, color=_GREY)
        axes.text(end + sign * 0.05, y, name, ha=outwards, va="center", fontsize=_TEXT, parse_math=False)
    for group, row in zip(groups, rows, strict=True):
        axes.plot([x(ranks[group[0]]) - 0.04, x(ranks[group[-1]]) + 0.04], [axis - 0.1 * (row + 1)] * 2, "k-",
                  linewidth=3, solid_capstyle="butt")
    return written(figure, path)


def tuning_evaluation_slope(ranks_tuning: Mapping[str, float], ranks_evaluation: Mapping[str, float],
                            path: Path) -> Figure:
    """Draw each strategy's place in tuning and in evaluation, joined by a line, with Kendall's tau-b of the two.

    Solid blue lines rise, dashed vermilion ones fall, dotted grey ones stay.

    Args:
        ranks_tuning, ranks_evaluation: strategy -> rank or mean rank, 1 is the best; places follow from them.
        path: a .png, .svg or .pdf file, replaced where it is there.

    Returns:
        The figure, as written.

    Raises:
        ConfigError: fewer than two strategies, not the same ones, a rank that is not finite, or another suffix.
    """
    agreement = rank_agreement(ranks_tuning, ranks_evaluation, higher_is_better=False)
    _check(list(agreement.ranks), path)
    names, k = list(agreement.ranks), len(agreement.ranks)
    number, elbow = _width([f"{k}.5"], _SMALL) + 0.1, 0.15
    side, between, height = _MARGIN + _width(names, _TEXT) + number + elbow, 1.9, 0.75 + _LINE * k
    figure, axes = _page(2 * side + between, height)
    ends, top = (side, side + between), height - 0.35
    tau = "undefined" if agreement.kendall_tau is None else f"{agreement.kendall_tau:.2f}"
    axes.text(ends[0] + between / 2, _MARGIN, f"Kendall's tau-b {tau}", ha="center", va="bottom", fontsize=_SMALL)
    for phase, (title, end, sign, align) in enumerate((("tuning", ends[0], -1, "right"),
                                                       ("evaluation", ends[1], 1, "left"))):
        axes.text(end, top, title, ha="center", va="bottom", fontsize=_TEXT, fontweight="bold")
        for slot, name in enumerate(sorted(names, key=lambda each: agreement.ranks[each][::1 - 2 * phase]), 1):
            rank, at = agreement.ranks[name][phase], top - _LINE * slot
            axes.plot([end, end + sign * elbow], [top - _LINE * rank, at], color=_GREY, linewidth=0.7, zorder=1)
            axes.text(end + sign * (elbow + 0.05), at, f"{rank:g}", ha=align, va="center", fontsize=_SMALL, color=_GREY)
            axes.text(end + sign * (elbow + number), at, name, ha=align, va="center", fontsize=_TEXT, parse_math=False)
    for before, after in agreement.ranks.values():
        color, style = _BETTER if after < before else _WORSE if after > before else _SAME
        heights = [top - _LINE * before, top - _LINE * after]
        axes.plot(ends, heights, color=color, linestyle=style, linewidth=1.4)
        axes.plot(ends, heights, "o", color="0.2", markersize=3.5)
    return written(figure, path)


def _check(names: Sequence[str], path: Path) -> None:
    if len(names) < 2:
        raise ConfigError(f"a diagram of ranks compares two strategies or more, got {', '.join(names)}")
    check_suffix(path)


def check_suffix(path: Path) -> None:
    """Refuse a file of another kind.

    Raises:
        ConfigError: names the kinds that there are.
    """
    if path.suffix not in _METADATA:
        raise ConfigError(f"cannot draw {path}; expected a file that ends in {', '.join(_METADATA)}")


def _width(texts: Sequence[str], size: float) -> float:
    font = FontProperties(size=size)
    return max(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] for text in texts) / 72


def _rows(spans: Sequence[tuple[float, float]]) -> list[int]:
    """A row for each bar, the first one that is free; bars of a row stand apart."""
    ends: list[float] = []
    rows = []
    for start, end in spans:
        row = next((i for i, taken in enumerate(ends) if start - taken > 0.2), len(ends))
        ends[row:row + 1] = [end]
        rows.append(row)
    return rows


def _page(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=300)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return figure, axes


def written(figure: Figure, path: Path) -> Figure:
    """Write a figure, the same bytes for the same figure; the figure."""
    content = io.BytesIO()
    with rc_context({"pdf.fonttype": 42, "svg.hashsalt": "ranks"}):
        figure.savefig(content, format=path.suffix[1:], metadata=_METADATA[path.suffix])
    write_atomic(path, content.getvalue())
    return figure
