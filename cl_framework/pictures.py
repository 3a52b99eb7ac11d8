"""Writes diagrams of ranks and curves of errors, each as .svg, .pdf and .png.

Matplotlib is imported when the first one is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cl_framework.error_rows import ErrorCurve

_SUFFIXES = (".svg", ".pdf", ".png")


def draw_ranks(ranks: Mapping[str, float], difference: float, folder: Path, stem: str) -> list[Path]:
    """Write a critical-difference diagram; the files.

    Args:
        ranks: strategy -> mean rank.
        difference: the critical one.
        folder: where.
        stem: what the files are called; signs that no file name should have become underscores.
    """
    from cl_framework.diagrams import critical_difference_diagram

    paths = _paths(folder, stem)
    for path in paths:
        critical_difference_diagram(ranks, difference, path)
    return paths


def draw_slopes(ranks: Mapping[str, Sequence[float]], folder: Path, stem: str) -> list[Path]:
    """Write the places of strategies in tuning and in evaluation; the files.

    Args:
        ranks: strategy -> rank in tuning, rank in evaluation.
        folder: where.
        stem: what the files are called; signs that no file name should have become underscores.
    """
    from cl_framework.diagrams import tuning_evaluation_slope

    before, after = ({name: pair[phase] for name, pair in ranks.items()} for phase in (0, 1))
    paths = _paths(folder, stem)
    for path in paths:
        tuning_evaluation_slope(before, after, path)
    return paths


def draw_errors(curves: Mapping[str, ErrorCurve], folder: Path, stem: str) -> list[Path]:
    """Write the online error over the stream; the files.

    Args:
        curves: by strategy.
        folder: where.
        stem: what the files are called; signs that no file name should have become underscores.
    """
    from cl_framework.error_curve import error_curve

    paths = _paths(folder, stem)
    for path in paths:
        error_curve(curves, path)
    return paths


def _paths(folder: Path, stem: str) -> list[Path]:
    name = re.sub(r"[^\w.=+-]+", "_", stem).strip("_")
    return [folder / f"{name}{suffix}" for suffix in _SUFFIXES]
