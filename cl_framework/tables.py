"""Tables of runs in a terminal: one run's accuracies or errors and its metrics, and strategies side by side.

Accuracies and errors are fractions in files, percent in tables. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.console import Group as Lines
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cl_framework.columns import columns, flat, is_percent, measure_of, percent
from cl_framework.error_table import run_errors
from cl_framework.estimates import estimate
from cl_framework.groups import Group, Stat, group
from cl_framework.pairing import DEFAULT, Measure
from cl_framework.row_labels import changed
from cl_framework.summaries import Matrix, Summary

_LARGEST_MATRIX = 20
_LONGEST_NAME = 24


def one_run(run: Summary) -> RenderableType:
    """What one finished run shows at its end: accuracies, or errors without labels; main metrics; run folder."""
    only = group([run])[0]
    measure = measure_of([only], DEFAULT)
    rows = [(flat(heading), f"{percent(only.metrics[name].mean)} %" if is_percent(name, measure) else
             _raw(only.metrics[name].mean))
            for name, heading in columns([only], measure).items() if name in only.metrics]
    rows += [("seconds", _plain(run.seconds or 0.0))]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    title = f"{only.scenario} · {only.strategy} · {only.model} · seed {run.seed} · {conditions([only])}"
    measured = [_MatrixTable(run.accuracy_matrix, run.folder)] if only.is_labelled else (
        [Text("in %"), run_errors(run.experiences), Text("")] if run.experiences else [])
    fields = [Text(line) for line in [changed(only, only.strategy)] if line]
    return Lines(Text(title, style="bold"), *fields, *measured, table, Text(""),
                 path_line("run folder", str(run.folder)))


def path_line(label: str, path: str) -> Text:
    """Begins a line of its own where it would be broken; nothing of it is lost."""
    return Text(f"{label}: {path}", overflow="fold")


def orders(groups: Sequence[Group]) -> str:
    """How the classes of some groups were ordered: "natural order", "order seed 3" or "5 order seeds"."""
    seeds = {seed for each in groups for seed in _seeds(each)}
    if not seeds:
        return "natural order"
    return f"{len(seeds)} order seeds" if len(seeds) > 1 else f"order seed {seeds.pop()}"


def uneven_orders(labels: Sequence[str], groups: Sequence[Group]) -> str:
    """Which order seeds each group has, where they have not all the same; else nothing."""
    if len({_seeds(each) for each in groups}) == 1:
        return ""
    return "order seeds: " + "; ".join(f"{label} {', '.join(map(str, _seeds(each)))}"
                                       for label, each in zip(labels, groups, strict=True))


def _seeds(each: Group) -> tuple[int, ...]:
    return each.order_seed if isinstance(each.order_seed, tuple) else (
        () if each.order_seed is None else (each.order_seed,))


def conditions(groups: Sequence[Group]) -> str:
    """Order, phase and protocol of groups that share phase and protocol."""
    phase = "" if groups[0].phase == "single" else f"{groups[0].phase} phase · "
    return f"{orders(groups)} · {phase}{groups[0].protocol}"


def cells(each: Group, shown: Iterable[str], measure: Measure, gap: str = " ") -> list[str]:
    """The metrics that are shown, and seconds."""
    def write(name: str) -> Callable[[float], str]:
        return percent if is_percent(name, measure) else _raw

    return [*(_cell(each.metrics.get(name), each.n, write(name), gap) for name in shown),
            _cell(each.seconds, each.n, _plain, gap)]


def interval_cell(each: Group, measure: Measure, gap: str = " ") -> str:
    """Student's 95 % interval of the metric that is compared; empty where there is none."""
    found = estimate(each, measure.name)
    if found is None or found.interval is None:
        return ""
    write = percent if measure.is_percent else _raw
    return f"{write(found.interval[0])}{gap}to {write(found.interval[1])}"


def sources(label: str, each: Group, measure: Measure) -> str:
    """Where the deviation of a group comes from; empty where not both seeds vary."""
    found = estimate(each, measure.name)
    if found is None or found.split is None:
        return ""
    write = percent if measure.is_percent else _raw
    return (f"{label}: deviation of {measure.name.replace('_', ' ')} {write(found.split.between)} between orders, "
            f"{write(found.split.within)} within an order (training seed); {len(_seeds(each))} orders, {each.n} runs")


def _plain(value: float) -> str:
    return f"{value:.1f}"


def _raw(value: float) -> str:
    return f"{value:.3f}"


def _cell(stat: Stat | None, n: int, write: Callable[[float], str], gap: str = " ") -> str:
    """Mean ± deviation; (n=...) where fewer runs have the number than the group has."""
    if stat is None:
        return "-"
    parts = [write(stat.mean), *([] if stat.std is None else [f"± {write(stat.std)}"]),
             *([] if stat.n == n else [f"(n={stat.n})"])]
    return gap.join(parts)


class GroupsTable:
    """Strategies side by side, at full width, with deviations on a second line, or as lists, whichever fits.

    The interval of the metric that is compared stands behind it where there is room, else below the table.
    """

    def __init__(self, labels: Sequence[str], rows: Sequence[Group], measure: Measure) -> None:
        self._labels, self._rows, self._measure = labels, rows, measure
        self._shown = columns(rows, measure)
        self._has_interval = any(interval_cell(each, measure) for each in rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        unlimited = options.update(max_width=10_000)
        for has_interval in (True, False) if self._has_interval else (False,):
            for gap in (" ", "\n"):
                table = self._table(gap, has_interval)
                if Measurement.get(console, unlimited, table).maximum <= options.max_width:
                    yield table
                    yield from () if has_interval else self._below()
                    return
        for label, each in zip(self._labels, self._rows, strict=True):
            yield Text(f"{label} (n={each.n})")
            for heading, cell in zip(self._headings(self._has_interval), self._cells(each, " ", self._has_interval),
                                     strict=True):
                yield Text(f"  {flat(heading)}: {cell}")

    def _below(self) -> Iterator[Text]:
        ends = [(label, interval_cell(each, self._measure)) for label, each in
                zip(self._labels, self._rows, strict=True)]
        listed = "; ".join(f"{label} {interval}" for label, interval in ends if interval)
        if listed:
            yield Text(f"95 % of {self._measure.name.replace('_', ' ')}: {listed}")

    def _headings(self, has_interval: bool) -> list[str]:
        return [text for name, heading in self._shown.items()
                for text in ((heading, "95 %") if has_interval and name == self._measure.name else (heading,))] + [
                    "seconds"]

    def _cells(self, each: Group, gap: str, has_interval: bool) -> list[str]:
        found = cells(each, self._shown, self._measure, gap)
        if has_interval:
            found.insert([*self._shown].index(self._measure.name) + 1, interval_cell(each, self._measure, gap))
        return found

    def _table(self, gap: str, has_interval: bool) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        table.add_column("strategy", max_width=_LONGEST_NAME, overflow="fold")
        table.add_column("n", justify="right")
        for heading in self._headings(has_interval):
            table.add_column(heading, justify="right")
        for label, each in zip(self._labels, self._rows, strict=True):
            name = label.replace(" ", gap)
            table.add_row(Text(name), Text(str(each.n)),
                          *(Text(cell) for cell in self._cells(each, gap, has_interval)))
        return table


class _MatrixTable:
    """The lower triangle of R in percent, in blocks of columns that fit; a large one is only pointed to."""

    def __init__(self, matrix: Matrix, folder: Path) -> None:
        self._matrix, self._folder = matrix, folder

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        n = len(self._matrix)
        if n > _LARGEST_MATRIX:
            yield path_line(f"accuracy of {n} x {n} experiences", str(self._folder / "accuracy.csv"))
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
            cells = ["" if value is None or column > index else percent(value)
                     for column, value in enumerate(row[start:stop], start)]
            table.add_row(str(index), *cells)
        return table
