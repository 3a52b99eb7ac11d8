r"""The report as LaTeX: a `table` for each table of runs, for `\usepackage{booktabs}`.

Every text is escaped. Letters beyond ASCII are left as they are: LaTeX reads UTF-8. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cl_framework.groups import Group
from cl_framework.page_parts import Cell, Grid
from cl_framework.page_tables import leaderboard, ordered
from cl_framework.pairing import DEFAULT, Measure
from cl_framework.sheets import sheets

_SIGNS = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_"}, "<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$",
    "·": r"$\cdot$", "\n": " "})

_MINUS = re.compile(r"-(?=\d)")


def as_latex(found: Sequence[Group], measure: Measure = DEFAULT, against: str | None = None) -> str:
    """The leaderboards: means, deviations, intervals, and differences with Holm's p."""
    return "\n\n".join(_table(leaderboard(ordered(sheet)), sheet.title) for sheet in sheets(found, measure, against))


def escaped(text: str) -> str:
    r"""A text that LaTeX prints as it stands.

    >>> print(escaped("er_ace: 5 % of $x$"))
    er\_ace: 5 \% of \$x\$
    """
    return text.translate(_SIGNS)


def _table(grid: Grid, title: str) -> str:
    rows = [[escaped(name.text), *map(_cell, cells)] for name, *cells in grid.rows]
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escaped(title)}. {escaped('; '.join(grid.notes[:1]))}.}}",
             rf"\begin{{tabular}}{{l{'r' * (len(grid.headings) - 1)}}}", r"\toprule",
             f"{' & '.join(map(escaped, grid.headings))} \\\\", r"\midrule",
             *(f"{' & '.join(row)} \\\\" for row in rows), r"\bottomrule", r"\end{tabular}", r"\end{table}",
             *(f"% {' '.join(note.split())}" for note in grid.notes[1:])]
    return "\n".join(lines)


def _cell(cell: Cell) -> str:
    text = _MINUS.sub("$-$", escaped(cell.text))
    return rf"\textbf{{{text}}}" if cell.is_marked else text
