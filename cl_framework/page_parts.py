"""What the report page is made of, as plain data: cells, tables, figures, matrices, and the part of one table of runs.

Nothing here is HTML: the template writes it, and escapes every text. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cl_framework.summaries import Matrix

PAGE_FORMATS = ("html", "png", "latex")
"""The formats that are made of these parts, beside those of `report.FORMATS`."""
_MOST_LINES = 50


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is read.
        value: the number behind it as files have it, not rounded; None for words.
        is_marked: it stands out.
    """

    text: str
    value: float | None = None
    is_marked: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table: the first column names the rows.

    Attributes:
        caption: what the table shows, in one line.
        headings: of the columns.
        rows: as many cells each as there are headings.
        notes: sentences below it.
        is_words: its cells are words, and stand on the left.
    """

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    is_words: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure as a Vega-Lite specification.

    Attributes:
        name: part of the name of its file.
        title: what it shows, in one line.
        spec: the specification, data included.
        notes: how it is read.
    """

    name: str
    title: str
    spec: Mapping[str, Any]
    notes: str = ""


@dataclass(frozen=True, kw_only=True)
class Square:
    """The accuracy matrix of one strategy: fractions, the mean over its runs."""

    label: str
    rows: Matrix


@dataclass(frozen=True, kw_only=True)
class Part:
    """What the page says of one table of runs that may be compared.

    Attributes:
        title: scenario, model, order, phase and protocol.
        lines: sentences on its rows.
        grids: tables that are shown.
        figures: by the heading that they stand under.
        squares: accuracy matrices that are small enough to be read.
        folded: tables that are opened when they are asked for.
    """

    title: str
    lines: tuple[str, ...]
    grids: tuple[Grid, ...]
    figures: tuple[Figure, ...]
    squares: tuple[Square, ...]
    folded: tuple[Grid, ...]

    @property
    def has_few_squares(self) -> bool:
        """Whether its matrices are shown at once; else they are opened when they are asked for."""
        return sum(len(square.rows) for square in self.squares) <= _MOST_LINES


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole page.

    Attributes:
        folder: where the runs lie.
        n_runs: how many of them are finished.
        warnings: what a reader must know before the numbers, by kind.
        parts: one for each table of runs.
        contests: what `clf protocol` found below the folder.
        environment: where the runs were made.
    """

    folder: str
    n_runs: int
    warnings: Sequence[tuple[str, str]]
    parts: Sequence[Part]
    contests: Sequence[Part]
    environment: Grid | None
