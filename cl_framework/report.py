"""What runs say: one run's table, a product's table, and the report over seeds as text, JSON, CSV or Markdown.

Imports no torch. Accuracies are fractions in files and JSON, percent in tables.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.console import Group as Lines
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cl_framework.errors import ConfigError
from cl_framework.summaries import Group, Matrix, Runs, Stat, Summary, group, parse_summary, read_runs

_MAIN = {"average_accuracy": "average\naccuracy", "average_incremental_accuracy": "incremental\naccuracy",
         "forgetting/max": "forgetting\n/max", "backward_transfer": "backward\ntransfer",
         "learning_accuracy": "learning\naccuracy"}
_FEW_SEEDS = 3
_LARGEST_MATRIX = 20
_LONGEST_NAME = 24


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


def report(path: Path, style: str = "text") -> None:
    """Print the report on the runs below a folder; what is left out is named, on stderr for formats that programs read.

    Raises:
        ConfigError: there is no finished run, or no such format.
    """
    if style not in FORMATS:
        raise ConfigError(f"unknown format '{style}'; there are {', '.join(FORMATS)}")
    runs = read_runs(path)
    found = _finished(path, runs)
    print(FORMATS[style](found))
    label, stream = ("Note", sys.stdout) if style == "text" else ("clf", sys.stderr)
    for note in runs.notes():
        print(f"{label}: {note}", file=stream)


def product_table(summaries: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The table of several finished runs in the order they were asked for, a row for each group of seeds.

    Args:
        summaries: contents of `summary.json`, each with its run folder under "path".
    """
    given = [_given(summary) for summary in summaries]
    asked = [run.key for run in given]
    found = sorted(group(given), key=lambda each: next(i for i, key in enumerate(asked) if key[-1] == each.config_hash))
    folder = os.path.commonpath([path for each in found for path in each.folders])
    return Lines(*_tables(found), *_warnings(found), _path_line("run folders", folder))


def run_table(summary: Mapping[str, Any]) -> RenderableType:
    """What one finished run shows at its end: accuracy matrix, main metrics, run folder.

    Args:
        summary: content of its `summary.json`, with its run folder under "path".
    """
    run = _given(summary)
    only = group([run])[0]
    rows = [*((_MAIN[name].replace("\n", " ").replace(" /", "/"), _percent(stat.mean) + " %")
              for name, stat in _main(only)), ("seconds", _plain(run.seconds or 0.0))]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    title = f"{only.scenario} · {only.strategy} · {only.model} · seed {run.seed} · {_conditions(only)}"
    return Lines(Text(title, style="bold"), _MatrixTable(run.accuracy_matrix, run.folder), table, Text(""),
                 _path_line("run folder", str(run.folder)))


def _given(summary: Mapping[str, Any]) -> Summary:
    return parse_summary(dict(summary), Path(str(summary.get("path", "."))))


def _main(each: Group) -> list[tuple[str, Stat]]:
    return [(name, each.metrics[name]) for name in _MAIN if name in each.metrics]


def _path_line(label: str, path: str) -> Text:
    """Begins a line of its own where it would be broken; nothing of it is lost."""
    return Text(f"{label}: {path}", overflow="fold")


def _conditions(each: Group) -> str:
    phase = "" if each.phase == "single" else f"{each.phase} phase · "
    order = "natural order" if each.order_seed is None else f"order seed {each.order_seed}"
    return f"{order} · {phase}{each.protocol}"


def _percent(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:.1f}"


def _plain(value: float) -> str:
    return f"{value:.1f}"


def _cell(stat: Stat | None, n: int, write: Callable[[float], str], gap: str = " ") -> str:
    """Mean ± deviation; (n=...) where fewer runs have the number than the group has."""
    if stat is None:
        return "-"
    parts = [write(stat.mean), *([] if stat.std is None else [f"± {write(stat.std)}"]),
             *([] if stat.n == n else [f"(n={stat.n})"])]
    return gap.join(parts)


def _cells(each: Group, gap: str) -> list[str]:
    return [*(_cell(each.metrics.get(name), each.n, _percent, gap) for name in _MAIN),
            _cell(each.seconds, each.n, _plain, gap)]


class _GroupsTable:
    """Strategies side by side, at full width, with deviations on a second line, or as lists, whichever fits."""

    def __init__(self, rows: Sequence[Group]) -> None:
        self._rows = rows
        twice = len({each.strategy for each in rows}) < len(rows)
        self._labels = [f"{each.strategy} {each.config_hash[:8]}" if twice else each.strategy for each in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        unlimited = options.update(max_width=10_000)
        for gap in (" ", "\n"):
            table = self._table(gap)
            if Measurement.get(console, unlimited, table).maximum <= options.max_width:
                yield table
                return
        headings = [*(name.replace("\n", " ").replace(" /", "/") for name in _MAIN.values()), "seconds"]
        for label, each in zip(self._labels, self._rows, strict=True):
            yield Text(f"{label} (n={each.n})")
            for heading, cell in zip(headings, _cells(each, " "), strict=True):
                yield Text(f"  {heading}: {cell}")

    def _table(self, gap: str) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        table.add_column("strategy", max_width=_LONGEST_NAME, overflow="fold")
        table.add_column("n", justify="right")
        for heading in (*_MAIN.values(), "seconds"):
            table.add_column(heading, justify="right")
        for label, each in zip(self._labels, self._rows, strict=True):
            name = label.replace(" ", gap)
            table.add_row(Text(name), Text(str(each.n)), *(Text(cell) for cell in _cells(each, gap)))
        return table


class _MatrixTable:
    """The lower triangle of R in percent, in blocks of columns that fit; a large one is only pointed to."""

    def __init__(self, matrix: Matrix, folder: Path) -> None:
        self._matrix, self._folder = matrix, folder

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        n = len(self._matrix)
        if n > _LARGEST_MATRIX:
            yield _path_line(f"accuracy of {n} x {n} experiences", str(self._folder / "accuracy.csv"))
            yield Text("")
        elif n:
            yield Text("accuracy in %: on experience (columns) after learning experience (rows)")
            size = max((options.max_width - 8) // 7, 1)
            for start in range(0, n, size):
                yield self._block(start, min(start + size, n))
                yield Text("")

    def _block(self, start: int, stop: int) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column("after", justify="right")
        for column in range(start, stop):
            table.add_column(str(column), justify="right")
        for index, row in enumerate(self._matrix[start:], start):
            cells = ["" if value is None or column > index else _percent(value)
                     for column, value in enumerate(row[start:stop], start)]
            table.add_row(str(index), *cells)
        return table


def _tables(found: Sequence[Group]) -> Iterator[RenderableType]:
    def conditions(each: Group) -> tuple[str, str, int, str, str]:
        order_seed = -1 if each.order_seed is None else each.order_seed
        return each.scenario, each.model, order_seed, each.phase, each.protocol

    for _, members in groupby(sorted(found, key=conditions), key=conditions):
        rows = list(members)
        yield Text(f"{rows[0].scenario} · {rows[0].model} · {_conditions(rows[0])}", style="bold")
        yield _GroupsTable(rows)
        yield Text("")
    yield Text("accuracies in %, mean ± sample standard deviation over n seeds")


def _warnings(found: Sequence[Group]) -> list[Text]:
    few = [f"{each.strategy} on {each.scenario} (n={each.n})" for each in found if each.n < _FEW_SEEDS]
    mixed = [f"{each.strategy} on {each.scenario}" for each in found if len(each.git_commits) > 1]
    warnings = [f"few seeds (under {_FEW_SEEDS}): {', '.join(few)}"] if few else []
    if mixed:
        warnings.append(f"runs of different commits in one group: {', '.join(mixed)}")
    return [Text(f"Warnings: {'; '.join(warnings)}")] if warnings else []


def as_text(found: Sequence[Group], width: int | None = None) -> str:
    """Tables with the main metrics, `width` columns wide: those of the terminal when None, 80 where there is none."""
    console = Console(file=io.StringIO(), width=Console().width if width is None else width, color_system=None)
    with console.capture() as capture:
        console.print(Lines(*_tables(found), *_warnings(found)))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def as_json(found: Sequence[Group]) -> str:
    """A list with one object a group; numbers are not rounded."""
    def plain(stat: Stat) -> dict[str, float | int | None]:
        return {"mean": stat.mean, "std": stat.std, "n": stat.n}

    return json.dumps([{
        "scenario": each.scenario, "strategy": each.strategy, "model": each.model, "order_seed": each.order_seed,
        "phase": each.phase, "protocol": each.protocol, "config_hash": each.config_hash,
        "git_commits": each.git_commits, "n": each.n, "seeds": each.seeds,
        "metrics": {name: plain(stat) for name, stat in each.metrics.items()},
        "seconds": None if each.seconds is None else plain(each.seconds), "accuracy_matrix": each.accuracy_matrix,
    } for each in found], indent=2, allow_nan=False)


def as_csv(found: Sequence[Group]) -> str:
    """One line a group; three columns a metric: its mean, its standard deviation (`/std`) and its `/n`."""
    names = sorted({name for each in found for name in each.metrics})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["scenario", "strategy", "model", "order_seed", "phase", "protocol", "config_hash", "git_commits",
                     "n", "seeds", *(name + part for name in [*names, "seconds"] for part in ("", "/std", "/n"))])
    for each in found:
        stats = [*(each.metrics.get(name) for name in names), each.seconds]
        writer.writerow([each.scenario, each.strategy, each.model, each.order_seed, each.phase, each.protocol,
                         each.config_hash, " ".join(each.git_commits), each.n, " ".join(map(str, each.seeds)),
                         *(value for stat in stats
                           for value in (("", "", 0) if stat is None else (stat.mean, stat.std, stat.n)))])
    return text.getvalue().rstrip("\n")


def as_markdown(found: Sequence[Group]) -> str:
    """A table with the main metrics in percent."""
    heading = ["scenario", "strategy", "model", "protocol", "config", "n",
               *(name.replace("\n", " ").replace(" /", "/") for name in _MAIN.values()), "seconds"]
    rows = [[each.scenario, each.strategy, each.model, _conditions(each), each.config_hash[:8], str(each.n),
             *_cells(each, " ")] for each in found]
    lines = [heading, ["---"] * 6 + ["---:"] * (len(heading) - 6), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


FORMATS: Mapping[str, Callable[[Sequence[Group]], str]] = {
    "text": as_text, "json": as_json, "csv": as_csv, "markdown": as_markdown,
}
"""How a report may be written, and by what."""
