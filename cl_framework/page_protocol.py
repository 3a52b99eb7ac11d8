"""What `clf protocol` found, for the report page: each `comparison.json` below a folder, its table and its ranks.

Phases are compared by ranks, never by their raw difference: their data differ in difficulty (Cha & Cho, TMLR 2025).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_framework.columns import percent
from cl_framework.compared import FILE, read_comparison
from cl_framework.errors import ConfigError
from cl_framework.page_figures import ranks
from cl_framework.page_parts import Cell, Grid, Part
from cl_framework.page_theme import Theme
from cl_framework.pairing_table import sentences, title

_OTHERS = {"wandb", "checkpoints", "tensorboard"}


def contests(path: Path, theme: Theme) -> tuple[list[Part], list[tuple[str, str]]]:
    """Every comparison below a folder, a part for each stream that it reports on; and what is wrong with some.

    Args:
        path: a folder.
        theme: how figures look.
    """
    parts, faults = [], []
    for name, folders, files in os.walk(path):
        folders[:] = sorted(set(folders) - _OTHERS)
        if FILE not in files:
            continue
        try:
            made = read_comparison(Path(name))
        except ConfigError as error:
            faults.append(("left out", str(error)))
            continue
        parts += [_part(made, scenario, theme) for scenario in made["ranks"]]
        if made["broken"]:
            rules = dict.fromkeys(broken.split()[0] for broken in made["broken"])
            faults.append(("non-compliant", f"{Path(name) / FILE} breaks {', '.join(rules)} of its protocol"))
    return parts, faults


def _part(made: Mapping[str, Any], scenario: str, theme: Theme) -> Part:
    agreement, metric = made["ranks"][scenario], str(made["metric"]).replace("_", " ")
    tests = made.get("tests", {}).get(scenario)
    heading = f"{made['protocol']} · tuned on {made['scenario']} · reported on {scenario}"
    ordered = sorted(made["rows"], key=lambda row: agreement["ranks"][row["strategy"]][1])
    lines = [f"status: {made['status']}", *_broken(made["verdicts"])]
    agreed = ", ".join(f"{name} {'undefined' if agreement[key] is None else format(agreement[key], '.2f')}"
                       for name, key in (("Kendall's tau-b", "kendall_tau"), ("Spearman's correlation", "spearman")))
    grid = Grid(caption="tuning and evaluation", headings=(
        "strategy", "tuned", "rank", "reported", "95 %", "rank", "with defaults", "forgetting", "search seconds"),
        rows=tuple(_row(row, scenario, agreement["ranks"]) for row in ordered),
        notes=(f"{metric} in %; ranks compare the phases, as their data differ in difficulty",
               f"agreement of the ranks: {agreed}", *([] if tests is None else [title(tests), *sentences(tests)])))
    drawn = ranks({row["strategy"]: agreement["ranks"][row["strategy"]] for row in ordered},
                  "rank in tuning and in evaluation", theme)
    return Part(title=heading, lines=tuple(lines), grids=(grid,), figures=(drawn,), squares=(), folded=())


def _broken(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each rule and reason, with the strategies that it is said of."""
    said: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        if verdict["kept"] is False:
            rule, _, strategy = verdict["rule"].partition(" ")
            said.setdefault((rule, verdict["reason"]), []).append(strategy)
    return [f"{rule} is broken by {', '.join(filter(None, names)) or 'the comparison'}: {reason}"
            for (rule, reason), names in said.items()]


def _row(row: Mapping[str, Any], scenario: str, places: Mapping[str, Any]) -> tuple[Cell, ...]:
    own, (before, after) = row["evaluation"][scenario], places[row["strategy"]]
    ends = own["result"]["interval"]
    return (Cell(row["strategy"]), _share(row["tuning"]["mean"]), Cell(f"{before:g}", before),
            _share(own["result"]["mean"]),
            Cell("-" if ends is None else f"{percent(ends[0])} to {percent(ends[1])}"), Cell(f"{after:g}", after),
            _share(own["default"]), _share(own["forgetting"]),
            Cell(f"{row['tuning_cost']['train_seconds']:.1f}", row["tuning_cost"]["train_seconds"]))


def _share(value: float | None) -> Cell:
    return Cell("-") if value is None else Cell(percent(value), value)
