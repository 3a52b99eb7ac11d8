"""What the report page says: runs below a folder become its parts, warnings and environment. Imports no torch.

The page and the pictures have the same figures, in another theme.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from cl_framework.columns import is_labelled
from cl_framework.errors import ConfigError
from cl_framework.groups import Group, group
from cl_framework.page_curves import MOST_EXPERIENCES, points
from cl_framework.page_environment import environment_grid, environments, mixed
from cl_framework.page_figures import heat_map, of_sheet
from cl_framework.page_parts import Figure, Page, Part, Square
from cl_framework.page_prompts import prompt_tables
from cl_framework.page_protocol import contests
from cl_framework.page_rewards import along_rewards, reward_figures, reward_table, rewards
from cl_framework.page_tables import along, balance, differences, errors, every_run, leaderboard, ordered, shared
from cl_framework.page_theme import Theme
from cl_framework.page_warnings import warned
from cl_framework.report import measure_named
from cl_framework.row_labels import changed
from cl_framework.sheets import Sheet, sheets
from cl_framework.summaries import Runs, read_runs
from cl_framework.tables import sources, uneven_orders


def content(path: Path, metric: str, against: str | None, theme: Theme) -> Page:
    """Read the runs and the comparisons below a folder.

    Args:
        path: a folder with run folders below it, or with what `clf protocol` wrote.
        metric: what strategies are compared by.
        against: the strategy that the others are compared with; the best when None.
        theme: how figures look.

    Raises:
        ConfigError: there is neither a finished run nor a comparison, or no such metric or strategy.
    """
    contested, faults = contests(path, theme)
    runs, found = _runs(path, is_needed=not contested)
    folders = [run.folder for each in found for run in each.runs]
    made = environments(folders)
    tables = sheets(found, measure_named(metric, found), against) if found else []
    others = [*(("environment", text) for text in mixed(made)), *faults]
    return Page(folder=str(path), n_runs=len(folders), warnings=warned(runs, found, others),
                parts=[_part(ordered(sheet), theme) for sheet in tables], contests=contested,
                environment=environment_grid(made, len(folders)))


def _runs(path: Path, *, is_needed: bool) -> tuple[Runs, list[Group]]:
    """The runs below a folder and their groups; none is an error only where there is nothing else to show."""
    try:
        runs = read_runs(path)
    except ConfigError:
        if is_needed:
            raise
        return Runs(), []
    if is_needed and not runs.finished:
        raise ConfigError([f"there is no finished run below {path}", *runs.notes()])
    return runs, group(runs.finished)


def _part(sheet: Sheet, theme: Theme) -> Part:
    found, paid = points(sheet), rewards(sheet)
    named = [*zip(sheet.labels, sheet.rows, strict=True)]
    lines = [*(changed(each, label) for label, each in named), uneven_orders(sheet.labels, sheet.rows),
             *(sources(label, each, sheet.measure) for label, each in named)]
    squares = matrices(sheet)
    is_small = all(len(square.rows) <= MOST_EXPERIENCES for square in squares)
    figures = (*of_sheet(sheet, found, theme), *reward_figures(sheet, paid, theme),
               *(() if is_small else (heat_map(square, theme) for square in squares)))
    grids = (leaderboard(sheet), reward_table(sheet, paid), errors(sheet), balance(sheet))
    folded = (along(found), along_rewards(paid), *prompt_tables(sheet), differences(sheet), shared(sheet),
              every_run(sheet))
    return Part(title=sheet.title, lines=tuple(filter(None, lines)), figures=tuple(filter(None, figures)),
                grids=tuple(filter(None, grids)), squares=squares if is_small else (),
                folded=tuple(filter(None, folded)))


def matrices(sheet: Sheet) -> tuple[Square, ...]:
    """The mean accuracy matrix of each strategy with two experiences or more; none of unlabelled streams."""
    if not is_labelled(sheet.rows):
        return ()
    return tuple(Square(label=label, rows=each.accuracy_matrix)
                 for label, each in zip(sheet.labels, sheet.rows, strict=True) if len(each.accuracy_matrix) > 1)


def figures(page: Page, theme: Theme) -> Iterator[tuple[str, Figure]]:
    """Every figure of a page with the title that it stands under; matrices, too."""
    several: Sequence[Part] = [*page.parts, *page.contests]
    for part in several:
        drawn = (*part.figures, *(heat_map(square, theme) for square in part.squares))
        yield from ((part.title if len(several) > 1 else "", figure) for figure in drawn)
