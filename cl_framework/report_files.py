"""The report as JSON, CSV and Markdown: for programs, and for documents. Imports no torch.

Accuracies are fractions in JSON and CSV, percent in Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cl_framework import csv_tables, markdown
from cl_framework.columns import columns, flat, is_labelled, measure_of, parts
from cl_framework.error_rows import error_rows
from cl_framework.error_table import error_markdown
from cl_framework.estimates import Estimate, estimate
from cl_framework.groups import Group
from cl_framework.pairing import DEFAULT, Measure
from cl_framework.pairing_table import as_markdown as pairing_markdown
from cl_framework.row_labels import by_hash, changed
from cl_framework.sheets import sheets
from cl_framework.tables import cells, conditions, interval_cell, sources


def as_json(found: Sequence[Group], measure: Measure = DEFAULT, against: str | None = None) -> str:
    """A list with one object a group; numbers are not rounded."""
    compared = {id(each): row for sheet in sheets(found, measure, against)
                for each, row in zip(sheet.rows, sheet.compared(), strict=True)}
    return json.dumps([{
        "scenario": each.scenario, "strategy": each.strategy, "model": each.model, "order_seed": each.order_seed,
        "phase": each.phase, "protocol": each.protocol, "config_hash": each.config_hash,
        "git_commits": each.git_commits, "n": each.n, "seeds": each.seeds,
        "blocks": [run.block for run in each.runs], "config_hashes": [run.config_hash for run in each.runs],
        "metrics": {name: _plain(each, name) for name in each.metrics},
        "seconds": None if each.seconds is None else {
            "mean": each.seconds.mean, "std": each.seconds.std, "n": each.seconds.n},
        "accuracy_matrix": each.accuracy_matrix, "compared": compared[id(each)],
    } for each in found], indent=2, allow_nan=False)


def _plain(each: Group, name: str) -> dict[str, Any]:
    """A metric: its statistics, and its value in each run of the group, null where a run lacks it."""
    known = estimate(each, name)
    assert known is not None
    split = known.split
    return {"mean": known.stat.mean, "std": known.stat.std, "n": known.stat.n, "t_interval": known.interval,
            "bootstrap_interval": known.bootstrap, "std_between_orders": None if split is None else split.between,
            "std_within_order": None if split is None else split.within,
            "values": [known.values.get(run.block) for run in each.runs]}


def as_csv(found: Sequence[Group], measure: Measure = DEFAULT, against: str | None = None) -> str:
    """One line a group; columns a metric: mean, standard deviation (`/std`), `/n`, and the ends of its intervals."""
    names = sorted({name for each in found for name in each.metrics})
    parts = ("", "/std", "/n", "/t_low", "/t_high", "/bootstrap_low", "/bootstrap_high")
    rows: list[list[object]] = [[
        "scenario", "strategy", "model", "order_seed", "phase", "protocol", "config_hash", "git_commits", "n", "seeds",
        *(name + part for name in names for part in parts), *(f"seconds{part}" for part in parts[:3])]]
    for each in found:
        order = " ".join(map(str, each.order_seed)) if isinstance(each.order_seed, tuple) else each.order_seed
        seconds = ("", "", 0) if each.seconds is None else (each.seconds.mean, each.seconds.std, each.seconds.n)
        rows.append([each.scenario, each.strategy, each.model, order, each.phase, each.protocol,
                     each.config_hash, " ".join(each.git_commits), each.n, " ".join(map(str, each.seeds)),
                     *(value for name in names for value in _line(estimate(each, name))), *seconds])
    return csv_tables.as_csv(rows).rstrip("\n")


def _line(known: Estimate | None) -> tuple[object, ...]:
    if known is None:
        return ("", "", 0, "", "", "", "")
    return (known.stat.mean, known.stat.std, known.stat.n, *(known.interval or ("", "")),
            *(known.bootstrap or ("", "")))


def as_markdown(found: Sequence[Group], measure: Measure = DEFAULT, against: str | None = None) -> str:
    """The main metrics in percent, a table for each kind of stream; then the comparison of each table of strategies."""
    text: list[str] = []
    tables = sheets(found, measure, against)
    names = {id(each): each.strategy if label == by_hash(each) else label for sheet in tables
             for label, each in zip(sheet.labels, sheet.rows, strict=True)}
    for part in parts(found):
        text += [*([""] if text else []), *_markdown(part, names, measure_of(part, measure))]
    for sheet in tables:
        named = [*zip(sheet.labels, sheet.rows, strict=True)]
        lines = [line for label, each in named for line in (changed(each, label), sources(label, each, sheet.measure))]
        errors = None if is_labelled(sheet.rows) else error_rows(sheet.labels, sheet.rows)
        sections = [[f"- {markdown.escaped(line)}" for line in lines if line],
                    [] if errors is None else error_markdown(errors),
                    [] if sheet.pairing is None else pairing_markdown(sheet.pairing.plain())]
        if any(sections):
            text += ["", f"### {markdown.escaped(sheet.title)}"]
            text += [line for section in sections if section for line in ("", *section)]
    return "\n".join(text).rstrip()


def _markdown(found: Sequence[Group], names: Mapping[int, str], measure: Measure) -> list[str]:
    """One table, of groups that all learned from labels, or all without; names by the identity of a group."""
    shown = columns(found, measure)
    place = [*shown].index(measure.name) + 1
    heading = ["scenario", "strategy", "model", "protocol", "config", "n", *map(flat, shown.values()), "seconds"]
    heading.insert(6 + place, "95 %")
    rows = []
    for each in found:
        own = cells(each, shown, measure)
        own.insert(place, interval_cell(each, measure) or "-")
        rows.append([each.scenario, names[id(each)], each.model, conditions([each]), each.config_hash[:8], str(each.n),
                     *own])
    lines = [heading, ["---"] * 6 + ["---:"] * (len(heading) - 6), *rows]
    return [*map(markdown.row, lines)]
