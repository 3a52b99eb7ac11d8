"""What was measured along the stream, as points: accuracy after each experience, or the online error of each.

The accuracy so far is the mean over j <= i of R[i, j] (Lopez-Paz & Ranzato, NeurIPS 2017, at every i). Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from cl_framework.columns import is_labelled
from cl_framework.error_rows import error_curves
from cl_framework.experience_figures import short_name
from cl_framework.groups import Group, Stat
from cl_framework.sheets import Sheet
from cl_framework.summaries import Matrix

SO_FAR = "all experiences so far"
"""What the first curves are measured on."""
MOST_EXPERIENCES = 20
"""Longer streams have no curve for each experience, and no matrix with numbers."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One number of a curve.

    Attributes:
        label: the strategy's row.
        place: the experience that was learned, from 0.
        name: what the stream calls it, else its number.
        on: what was measured on.
        stat: over runs; fractions.
    """

    label: str
    place: int
    name: str
    on: str
    stat: Stat


def points(sheet: Sheet) -> list[Point]:
    """The curves of a table: of each strategy `SO_FAR`, then on each experience where these are few."""
    if not is_labelled(sheet.rows):
        return [Point(label=label, place=place, name=str(place) if name is None else short_name(name), on=SO_FAR,
                      stat=stat)
                for label, curve in error_curves(sheet.labels, sheet.rows).items()
                for place, (name, stat) in enumerate(zip(curve.names, curve.errors, strict=True))]
    return [point for label, each in zip(sheet.labels, sheet.rows, strict=True) for point in _of(label, each)]


def _of(label: str, each: Group) -> Iterator[Point]:
    matrices = [run.accuracy_matrix for run in each.runs]
    n = len(each.accuracy_matrix)
    if n < 2:
        return
    for place in range(n):
        values = [value for matrix in matrices if (value := _so_far(matrix, place)) is not None]
        if values:
            yield Point(label=label, place=place, name=str(place), on=SO_FAR, stat=Stat.of(values))
    for on in range(n if n <= MOST_EXPERIENCES else 0):
        for place in range(n):
            known = [value for matrix in matrices if (value := matrix[place][on]) is not None]
            if known:
                yield Point(label=label, place=place, name=str(place), on=f"experience {on}", stat=Stat.of(known))


def _so_far(matrix: Matrix, place: int) -> float | None:
    """The mean over the experiences learned; None unless all of them were measured."""
    known = [value for value in matrix[place][:place + 1] if value is not None]
    return fmean(known) if len(known) == place + 1 else None
