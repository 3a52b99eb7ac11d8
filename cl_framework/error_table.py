"""Online errors as tables: of one run by domain, and of strategies side by side as papers print them.

Rows are strategies, columns domains in the order of the stream, the last column their mean, in percent (Wang et al.,
CVPR 2022, table 2). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cl_framework import markdown
from cl_framework.columns import percent
from cl_framework.error_rows import ErrorRows, pool
from cl_framework.experience_figures import Figures, short_name

_LONGEST_LIST = 20
_LONGEST_NAME = 24
_SHORT = 4


class ErrorTable:
    """One table where it fits, with headings that are broken or cut in a narrow console; else blocks of columns."""

    def __init__(self, errors: ErrorRows) -> None:
        self._errors = errors

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        unlimited, places = options.update(max_width=10_000), range(len(self._errors.headings))

        def fits(table: Table) -> bool:
            return Measurement.get(console, unlimited, table).maximum <= options.max_width

        yield Text(title(self._errors))
        headings = self._errors.headings
        for shown in (headings, *_shortened(headings)):
            table = self._table(shown, places)
            if fits(table):
                yield table
                return
        for size in range(len(places) - 1, 0, -1):
            blocks = [self._table(shown, places[start:start + size]) for start in range(0, len(places), size)]
            if size == 1 or all(map(fits, blocks)):
                for table in blocks:
                    yield from (table, Text(""))
                return

    def _table(self, shown: Sequence[str], places: Sequence[int]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        table.add_column("strategy", max_width=_LONGEST_NAME, overflow="fold")
        for place in places:
            table.add_column(shown[place], justify="right")
        for label, row in self._errors.rows.items():
            table.add_row(Text(label), *(Text(_cell(row[place])) for place in places))
        return table


def _shortened(headings: Sequence[str]) -> list[list[str]]:
    """Headings broken between words; and with their words cut, if they can still be told apart."""
    broken = [heading.replace("_", "\n").replace(" ", "\n") for heading in headings]
    cut = ["\n".join(word[:_SHORT] for word in heading.split("\n")) for heading in broken]
    return [broken, cut] if len(set(cut)) == len(cut) and not headings[0].startswith("round ") else [broken]


def title(errors: ErrorRows) -> str:
    """What the numbers are."""
    what = "the mean of each round and " if errors.is_by_round else (
        f"the mean of up to {errors.n_pooled} experiences each and " if errors.n_pooled > 1 else "the mean ")
    return f"online error in %, {what}over runs"


def error_markdown(errors: ErrorRows) -> list[str]:
    """The lines of a Markdown table, with its title above."""
    rows = [["strategy", *errors.headings], ["---"] + ["---:"] * len(errors.headings),
            *([label, *map(_cell, row)] for label, row in errors.rows.items())]
    return [title(errors) + ".", "", *map(markdown.row, rows)]


def run_errors(experiences: Sequence[Figures]) -> Table:
    """What one run met: errors, and the accuracy on clean rows after it; a row a round or a domain where it is long."""
    is_by_round = any(each.round > 1 for each in experiences)
    if is_by_round or len(experiences) > _LONGEST_LIST:
        rows = [*pool(experiences, is_by_round=is_by_round).items()]
    else:
        rows = [(str(index) if each.name is None else short_name(each.name), [each])
                for index, each in enumerate(experiences)]
    table = Table(box=None, pad_edge=False)
    table.add_column("round" if is_by_round else "met")
    for heading in ("error", "calibration\nerror", "clean accuracy\nafter it"):
        table.add_column(heading, justify="right")
    for name, members in rows:
        table.add_row(Text(name.removeprefix("round ")), _mean([each.online_error for each in members]),
                      _mean([each.calibration_error for each in members]), _cell(members[-1].accuracy))
    return table


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return _cell(sum(known) / len(known) if known else None)


def _cell(value: float | None) -> str:
    return "-" if value is None else percent(value)
