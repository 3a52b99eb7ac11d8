"""The tables of the report page: leaderboard, balance and cost, curves, every run, and what configurations differ in.

Numbers are shown as `clf report` shows them, and kept as files have them beside what is shown. Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cl_framework.columns import columns, flat, is_labelled, is_percent, percent
from cl_framework.error_rows import error_rows
from cl_framework.error_table import title as error_title
from cl_framework.estimates import estimate
from cl_framework.groups import Group, Stat
from cl_framework.page_curves import SO_FAR, Point
from cl_framework.page_parts import Cell, Grid
from cl_framework.pairing import ALPHA
from cl_framework.pairing_table import sentences
from cl_framework.pairing_table import title as pairing_title
from cl_framework.row_labels import text
from cl_framework.sheets import Sheet

_NONE = Cell("-")
Write = Callable[[float], str]


def ordered(sheet: Sheet) -> Sheet:
    """The table with the best mean first; strategies without the metric come last."""
    stats = [each.metrics.get(sheet.measure.name) for each in sheet.rows]
    sign = -1 if sheet.measure.is_higher_better else 1
    scores = [math.inf if stat is None else sign * stat.mean for stat in stats]
    places = sorted(range(len(scores)), key=scores.__getitem__)
    return replace(sheet, labels=tuple(sheet.labels[place] for place in places),
                   rows=tuple(sheet.rows[place] for place in places))


def leaderboard(sheet: Sheet) -> Grid:
    """Strategies side by side, with intervals and what their shared pairs say."""
    measure, shown = sheet.measure, columns(sheet.rows, sheet.measure)
    write = percent if measure.is_percent else _plain
    headings = ["strategy", "n"]
    for name, heading in shown.items():
        headings += [flat(heading), *(["95 %"] if name == measure.name else [])]
    headings += ["seconds"]
    compared, plain = sheet.compared(), None if sheet.pairing is None else sheet.pairing.plain()
    if plain is not None:
        headings += [f"d: less {plain['reference']}", "95 % of d", "Holm", "d_z", "mean rank"]
    rows = []
    for label, each, beside in zip(sheet.labels, sheet.rows, compared, strict=True):
        row = [Cell(label), Cell(str(each.n), each.n)]
        for name in shown:
            row.append(_stat(each.metrics.get(name), each.n, percent if is_percent(name, measure) else _plain))
            row += [_interval(each, name, write)] if name == measure.name else []
        row.append(_stat(each.seconds, each.n, _tenths))
        row += [] if plain is None or beside is None else _test(beside, write)
        rows.append(tuple(row))
    what = "accuracies" if is_labelled(sheet.rows) else "errors and forgetting"
    notes = [f"{what} in %, mean ± sample standard deviation over n runs; 95 %: Student's interval of the mean"]
    notes += [] if plain is None else [
        f"{pairing_title(plain)}; bold: Holm is at most {ALPHA}", *sentences(plain)]
    notes += [f"not compared: {sheet.reason}"] if sheet.reason else []
    return Grid(caption="leaderboard", headings=tuple(headings), rows=tuple(rows),
                notes=tuple(notes))


def balance(sheet: Sheet) -> Grid:
    """What strategies keep, learn and cost."""
    shares = ("stability", "learning_accuracy", "forgetting/max") if is_labelled(sheet.rows) else (
        "online_error", "source_forgetting", "calibration_error")
    rows = []
    for label, each in zip(sheet.labels, sheet.rows, strict=True):
        row = [Cell(label), *(_stat(each.metrics.get(name), each.n, percent) for name in shares),
               _stat(each.seconds, each.n, _tenths), _stat(each.metrics.get("memory_bytes"), each.n, _kilobytes),
               _stat(each.metrics.get("n_parameters"), each.n, _whole)]
        rows.append(tuple(row))
    return Grid(caption="stability, plasticity and cost", rows=tuple(rows), headings=(
        "strategy", *(f"{name.replace('_', ' ')} in %" for name in shares), "training seconds", "memory kept, kB",
        "parameters"))


def errors(sheet: Sheet) -> Grid | None:
    """The online error by domain, or by round; None of labelled streams, and where runs do not tell."""
    found = None if is_labelled(sheet.rows) else error_rows(sheet.labels, sheet.rows)
    if found is None:
        return None
    rows = tuple((Cell(label), *(_NONE if value is None else Cell(percent(value), value) for value in row))
                 for label, row in found.rows.items())
    return Grid(caption=error_title(found), headings=("strategy", *found.headings), rows=rows)


def along(found: Sequence[Point]) -> Grid | None:
    """The curves over all experiences so far as numbers; None where there are none."""
    first = [point for point in found if point.on == SO_FAR]
    places = {point.place: point.name for point in first}
    cells = {(point.label, point.place): point.stat for point in first}
    if not places:
        return None
    rows = tuple((Cell(label), *(_stat(cells.get((label, place)), 0, percent, is_counted=False) for place in places))
                 for label in dict.fromkeys(point.label for point in first))
    return Grid(caption="the curves as numbers, in %", headings=("strategy", *places.values()), rows=rows)


def every_run(sheet: Sheet) -> Grid:
    """Each run with every metric of its `summary.json`, as the file has them."""
    names = sorted({name for each in sheet.rows for name in each.metrics})
    rows = tuple(
        (Cell(label), Cell("natural" if run.order_seed is None else str(run.order_seed)), Cell(str(run.seed), run.seed),
         *(_NONE if name not in run.metrics else Cell(f"{run.metrics[name]:.4g}", run.metrics[name])
           for name in names),
         _NONE if run.seconds is None else Cell(f"{run.seconds:.1f}", run.seconds),
         Cell(run.config_hash), Cell(run.git_commit[:10] + "-dirty" * run.git_commit.endswith("-dirty")),
         Cell(str(run.folder)))
        for label, each in zip(sheet.labels, sheet.rows, strict=True) for run in each.runs)
    return Grid(caption="every run, numbers as in summary.json (shares are fractions)", rows=rows, headings=(
        "strategy", "order seed", "seed", *names, "seconds", "configuration", "commit", "folder"))


def differences(sheet: Sheet) -> Grid | None:
    """The keys in which the configurations of a table differ, with the value of each; None where none does."""
    fields = [each.fields for each in sheet.rows]
    keys = [key for key in _keys(fields) if len({text(own[key]) if key in own else None for own in fields}) > 1]
    if not keys:
        return None
    rows = tuple((Cell(key), *(Cell(text(own[key])) if key in own else _NONE for own in fields)) for key in keys)
    unknown = [label for label, own in zip(sheet.labels, fields, strict=True) if not own]
    notes = ("-: the strategy has no such key", *(
        [f"config.yaml does not tell the configuration of {', '.join(unknown)}"] if unknown else []))
    return Grid(caption="what configurations differ in", headings=("key", *sheet.labels), rows=rows, notes=notes,
                is_words=True)


def shared(sheet: Sheet) -> Grid | None:
    """The keys that all configurations of a table share, scenario included."""
    fields = [each.fields for each in sheet.rows]
    scenario: Mapping[str, Any] = json.loads(sheet.rows[0].scenario_fields or "{}")
    values = {f"scenario.{key}": text(value) for key, value in scenario.items()}
    values |= {key: text(fields[0][key]) for key in _keys(fields)
               if all(key in own for own in fields) and len({text(own[key]) for own in fields}) == 1}
    rows = tuple((Cell(key), Cell(value)) for key, value in sorted(values.items()))
    return Grid(caption="what all configurations share", headings=("key", "value"), rows=rows,
                is_words=True) if rows else None


def _keys(fields: Sequence[Mapping[str, object]]) -> list[str]:
    return sorted({key for own in fields for key in own if not key.endswith(".name") and key != "order_seed"})


def _test(beside: Mapping[str, Any], write: Write) -> list[Cell]:
    """Mean difference, its interval, p and mean rank of one row."""
    test, rank = beside["test"], beside["mean_rank"]
    place = _NONE if rank is None else Cell(f"{rank:.2f}", rank)
    if test is None:
        return [_NONE, _NONE, _NONE, _NONE, place]
    ends, p = test["interval"], test["p_holm"]
    difference = test["mean_difference"]
    return [Cell(f"{'+' if difference > 0 else ''}{write(difference)}", difference),
            _NONE if ends is None else Cell(f"{write(ends[0])} to {write(ends[1])}"),
            Cell("<0.0001" if p < 1e-4 else f"{p:.4f}", p, is_marked=p <= ALPHA),
            _NONE if test["d_z"] is None else Cell(f"{test['d_z']:.2f}", test["d_z"]), place]


def _stat(stat: Stat | None, n: int, write: Write, *, is_counted: bool = True) -> Cell:
    """Mean ± deviation; (n=...) where fewer runs have the number than the group has."""
    if stat is None:
        return _NONE
    has_none = stat.std == 0 and write in (_kilobytes, _whole)
    parts = [write(stat.mean), *([] if stat.std is None or has_none else [f"± {write(stat.std)}"]),
             *([f"(n={stat.n})"] if is_counted and stat.n != n else [])]
    return Cell(" ".join(parts), stat.mean)


def _interval(each: Group, name: str, write: Write) -> Cell:
    found = estimate(each, name)
    if found is None or found.interval is None:
        return _NONE
    return Cell(f"{write(found.interval[0])} to {write(found.interval[1])}")


def _plain(value: float) -> str:
    return f"{value:.3f}"


def _tenths(value: float) -> str:
    return f"{value:.1f}"


def _kilobytes(value: float) -> str:
    return f"{value / 1000:.1f}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"
