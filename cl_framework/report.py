"""The report over seeds: means, intervals, and strategies compared on shared pairs, as tables of a terminal.

Imports no torch, unless another metric than average accuracy is compared. Accuracies are in percent.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.console import Group as Lines
from rich.text import Text

from cl_framework.columns import is_labelled, parts
from cl_framework.configuration import Configuration
from cl_framework.error_rows import curves_as_csv, error_curves, error_rows
from cl_framework.error_table import ErrorTable
from cl_framework.errors import ConfigError, printable
from cl_framework.files import write_atomic
from cl_framework.groups import Group, group
from cl_framework.pairing import DEFAULT, ONLINE_ERROR, Measure
from cl_framework.pairing_table import PairingTable
from cl_framework.registry import unknown
from cl_framework.report_files import as_csv, as_json, as_markdown
from cl_framework.row_labels import changed
from cl_framework.sheets import Sheet, sheets
from cl_framework.summaries import Runs, Summary, parse_summary, read_runs, with_configuration
from cl_framework.tables import (
    GroupsTable,
    one_run,
    path_line,
    sources,
    uneven_orders,
)

_FEW_SEEDS = 3


def groups(path: Path) -> list[Group]:
    """Finished runs below a folder, grouped over seeds.

    Raises:
        ConfigError: there is none.
    """
    return _finished(path, read_runs(path))


def _finished(path: Path, runs: Runs) -> list[Group]:
    if not runs.finished:
        raise ConfigError([f"there is no finished run below {path}", *runs.notes()])
    return group(runs.finished)


def report(path: Path, style: str = "text", metric: str = DEFAULT.name, against: str | None = None,
           out: Path | None = None) -> None:
    """Print the report on the runs below a folder; what is left out is named, on stderr for formats that programs read.

    Args:
        path: a folder with run folders below it.
        style: one of `FORMATS`.
        metric: what strategies are compared by.
        against: the strategy that the others are compared with; the best when None.
        out: a folder for critical-difference diagrams.

    Raises:
        ConfigError: there is no finished run, or no such format, metric or strategy.
    """
    if style not in FORMATS:
        raise ConfigError(f"unknown format '{style}'; there are {', '.join(FORMATS)}")
    runs = read_runs(path)
    found = _finished(path, runs)
    measure = measure_named(metric, found)
    print(FORMATS[style](found, measure, against))
    label, stream = ("Note", sys.stdout) if style == "text" else ("clf", sys.stderr)
    for note in runs.notes():
        print(f"{label}: {printable(note)}", file=stream)
    for line in [] if out is None else _drawn(sheets(found, measure, against), out):
        print(f"{label}: {line}", file=stream)


def measure_named(name: str, found: Sequence[Group]) -> Measure:
    """What is known of a metric; its plugin is imported, but for those that are compared without being named.

    Raises:
        ConfigError: no run has it, or nothing says which way is up.
    """
    for known in (DEFAULT, ONLINE_ERROR):
        if name == known.name:
            return known
    names = {known for each in found for known in each.metrics}
    if name not in names:
        raise ConfigError(unknown("metric", name, names))
    from cl_framework.metric_plugins import installed_metrics

    for metric in installed_metrics():
        if metric.name == name:
            return Measure(name=name, is_higher_better=metric.higher_is_better,
                           is_percent=metric.is_share and metric.axis not in ("cost", "drift"))
    raise ConfigError(f"nothing says whether more of '{name}' is better; compare a metric of `clf list kind=metric`")


def _drawn(found: Sequence[Sheet], folder: Path) -> Iterator[str]:
    """Draw the ranks of each table, and errors over its stream; a line for each file, and for a table without ranks."""
    from cl_framework.pictures import draw_errors, draw_ranks

    for sheet in found:
        curves = {} if is_labelled(sheet.rows) else error_curves(sheet.labels, sheet.rows)
        if curves:
            stem = "online_error" if len(found) == 1 else f"online_error {sheet.title}"
            files = draw_errors(curves, folder, stem)
            table = files[0].with_suffix(".csv")
            write_atomic(table, curves_as_csv(curves))
            yield from (f"wrote {file}" for file in (*files, table))
        ranking = None if sheet.pairing is None else sheet.pairing.ranking
        if ranking is None:
            yield f"no diagram of {sheet.title}: it takes two strategies with two shared pairs"
            continue
        stem = "critical_difference" if len(found) == 1 else f"critical_difference {sheet.title}"
        yield from (f"wrote {file}" for file in
                    draw_ranks(ranking.mean_ranks, ranking.critical_difference, folder, stem))


def product_table(summaries: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The table of several finished runs in the order they were asked for, a row for each group of seeds.

    Args:
        summaries: contents of `summary.json`, each with its run folder under "path".
    """
    known: dict[str, Configuration] = {}
    given = [with_configuration(_given(summary), known) for summary in summaries]
    asked = [run.key for run in given]
    found = sorted(group(given), key=lambda each: asked.index(each.runs[0].key))
    folder = os.path.commonpath([path for each in found for path in each.folders])
    return Lines(*_tables(found, DEFAULT, None, is_compared=False), *_warning_line(found),
                 path_line("run folders", folder))


def run_table(summary: Mapping[str, Any]) -> RenderableType:
    """What one finished run shows at its end.

    Args:
        summary: content of its `summary.json`, with its run folder under "path".
    """
    return one_run(_given(summary))


def _given(summary: Mapping[str, Any]) -> Summary:
    return parse_summary(dict(summary), Path(str(summary.get("path", "."))))


def _tables(found: Sequence[Group], measure: Measure, against: str | None, *, is_compared: bool = True
            ) -> Iterator[RenderableType]:
    for sheet in sheets(found, measure, against):
        yield Text(sheet.title, style="bold")
        yield GroupsTable(sheet.labels, sheet.rows, sheet.measure)
        named = [*zip(sheet.labels, sheet.rows, strict=True)]
        lines = [*(changed(each, label) for label, each in named), uneven_orders(sheet.labels, sheet.rows),
                 *(sources(label, each, sheet.measure) for label, each in named)]
        yield from (Text(line) for line in lines if line)
        yield Text("")
        errors = None if is_labelled(sheet.rows) else error_rows(sheet.labels, sheet.rows)
        yield from () if errors is None else (ErrorTable(errors), Text(""))
        if is_compared and sheet.pairing is not None:
            yield PairingTable(sheet.pairing.plain())
            yield Text("")
        elif is_compared and sheet.reason:
            yield Text(f"not compared: {sheet.reason}")
            yield Text("")
    over = "runs" if any(isinstance(each.order_seed, tuple) for each in found) else "seeds"
    what = " and ".join("accuracies" if is_labelled(part) else "errors and forgetting" for part in parts(found))
    interval = "; 95 %: Student's interval of the mean" if any(each.n > 1 for each in found) else ""
    yield Text(f"{what} in %, mean ± sample standard deviation over n {over}{interval}")


def warnings(found: Sequence[Group]) -> list[str]:
    """Kind and names of what makes numbers weaker: few seeds, and runs of different commits in one group."""
    few = [f"{each.strategy} on {each.scenario} (n={each.n})" for each in found if each.n < _FEW_SEEDS]
    mixed = [f"{each.strategy} on {each.scenario}" for each in found if len(each.git_commits) > 1]
    listed = [f"few seeds (under {_FEW_SEEDS}): {', '.join(few)}"] if few else []
    return [*listed, *([f"runs of different commits in one group: {', '.join(mixed)}"] if mixed else [])]


def _warning_line(found: Sequence[Group]) -> list[Text]:
    listed = warnings(found)
    return [Text(f"Warnings: {'; '.join(listed)}")] if listed else []


def as_text(found: Sequence[Group], measure: Measure = DEFAULT, against: str | None = None,
            width: int | None = None) -> str:
    """Tables with the main metrics, `width` columns wide: those of the terminal when None, 80 where there is none."""
    console = Console(file=io.StringIO(), width=Console().width if width is None else width, color_system=None,
                      markup=False)
    with console.capture() as capture:
        console.print(Lines(*_tables(found, measure, against), *_warning_line(found)))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


FORMATS: Mapping[str, Callable[[Sequence[Group], Measure, str | None], str]] = {
    "text": as_text, "json": as_json, "csv": as_csv, "markdown": as_markdown,
}
"""How a report may be written, and by what."""
