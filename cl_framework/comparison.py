"""The report beside published numbers: `clf report experiment=hsu2018`, as text, Markdown, CSV or JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

from rich import box
from rich.console import Console
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from cl_framework import csv_tables, markdown
from cl_framework.presets import headline
from cl_framework.published import Comparison

_HEADINGS = ("row", "published", "ours, 95 % interval", "n", "difference", "verdict")


def _published(each: Comparison) -> str:
    row = each.published
    number = f"{row.mean:.2f}" if row.std is None else f"{row.mean:.2f} ± {row.std:.2f}"
    return f"{number} (guide)" if row.is_guide else number


def _cells(each: Comparison, members: Sequence[Comparison]) -> tuple[str, ...]:
    """One line; the metric is named where the table has several."""
    row = each.published.row
    if len({member.published.metric for member in members}) > 1:
        row = f"{row}: {each.published.metric.replace('_', ' ')}"
    if each.ours is None:
        return row, _published(each), "-", "0", "-", each.verdict
    half = each.half_width
    mean = f"{each.ours.mean:.2f}" if half is None else f"{each.ours.mean:.2f} ± {half:.2f}"
    return (row, _published(each), mean, str(each.ours.n),
            f"{each.ours.mean - each.published.mean:+.2f}", each.verdict)


def _tables(found: Sequence[Comparison]) -> Iterator[tuple[str, list[Comparison]]]:
    for title, members in groupby(found, key=lambda each: each.published.table):
        yield title, list(members)


def _counts(found: Sequence[Comparison]) -> str:
    verdicts = [each.verdict for each in found]
    counted = [f"{verdicts.count(name)} {name}" for name in ("inside", "outside", "guide", "one run", "not run")
               if name in verdicts]
    return f"{len(found)} row{'s' * (len(found) > 1)}: {', '.join(counted)}"


_LEGEND = ("published: mean ± standard deviation, as printed; inside: the means differ by at most two standard errors "
           "of their difference (where no deviation was published, theirs is taken to be ours); guide: not read in its "
           "source, no target")


def as_text(found: Sequence[Comparison], width: int | None = None) -> str:
    """A table for each published one, with what is known to differ below it."""
    console = Console(file=io.StringIO(), width=Console().width if width is None else width, color_system=None)
    with console.capture() as capture:
        for title, members in _tables(found):
            table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
            for place, heading in enumerate(_HEADINGS):
                table.add_column(heading, justify="right" if 0 < place < 5 else "left")
            for each in members:
                table.add_row(*(Text(cell) for cell in _cells(each, members)))
            notes = [Text(f"{each.published.row}: {each.published.differs}") for each in members
                     if each.published.differs]
            missing = [Text(f"not run: {headline('experiment', each.published.experiment)}", overflow="fold")
                       for each in members if each.ours is None]
            console.print(Lines(Text(title, style="bold"), table, Text(_counts(members)), *notes, *missing, Text("")))
        console.print(Text(_LEGEND))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def as_markdown(found: Sequence[Comparison]) -> str:
    """A table for each published one, with its source and, in the last column, what is known to differ."""
    lines: list[str] = []
    for title, members in _tables(found):
        lines += [f"### {title}", "", f"{members[0].published.source} {_counts(members)}.", "",
                  "| " + " | ".join([*_HEADINGS, "what differs"]) + " |", "| --- |" + " ---: |" * 4 + " --- | --- |"]
        for each in members:
            cells = (*_cells(each, members), each.published.differs)
            lines.append(markdown.row(cells))
        lines.append("")
    return "\n".join([*lines, f"{_LEGEND[0].upper()}{_LEGEND[1:]}."])


def as_json(found: Sequence[Comparison]) -> str:
    """A list with one object a row; percent, not rounded."""
    return json.dumps([_plain(each) for each in found], indent=2, allow_nan=False)


def as_csv(found: Sequence[Comparison]) -> str:
    """One line a row; percent, not rounded."""
    plain = [_plain(each) for each in found]
    return csv_tables.as_csv([[*plain[0]], *([" ".join(map(str, value)) if isinstance(value, tuple) else value
                                             for value in each.values()] for each in plain)]).rstrip("\n")


def _plain(each: Comparison) -> dict[str, object]:
    row, ours = each.published, each.ours
    return {
        "experiment": row.experiment, "table": row.table, "row": row.row, "metric": row.metric,
        "published_mean": row.mean, "published_std": row.std, "published_n": row.n, "is_guide": row.is_guide,
        "mean": None if ours is None else ours.mean, "std": None if ours is None else ours.std,
        "half_width": each.half_width, "n": 0 if ours is None else ours.n, "seeds": each.seeds,
        "git_commits": each.git_commits, "verdict": each.verdict, "differs": row.differs, "source": row.source,
    }


COMPARISON_FORMATS: Mapping[str, Callable[[Sequence[Comparison]], str]] = {
    "text": as_text, "json": as_json, "csv": as_csv, "markdown": as_markdown,
}
"""How a comparison may be written, and by what."""
