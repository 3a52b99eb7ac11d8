"""The trials of a `best.yaml` against the run folders of its search, where they are still there.

A digest is sealed again by whoever edits; the summaries of the runs hold each number a second time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_framework.configuration import hash_of
from cl_framework.errors import ConfigError
from cl_framework.plain_files import read_yaml
from cl_framework.runs import RunFolder
from cl_framework.trials import Score
from cl_framework.winner import Made, alike, tree_of, trials_of


@dataclass(frozen=True, kw_only=True)
class Held:
    """What came of comparing numbers with the runs that gave them.

    Attributes:
        faults: every difference, by trial or run.
        n_there: runs that are still there and were compared.
        n_all: runs that were listed.
    """

    faults: list[str]
    n_there: int
    n_all: int


def held_against(made: Made, folder: Path) -> Held:
    """Compare every seed of every trial with its run.

    Args:
        made: the file of the search.
        folder: where it lies; its runs are in `runs/`.
    """
    there, faults, n_there, n_all = _runs_in(folder / "runs"), [], 0, 0
    for trial in trials_of(made):
        for seed, score in trial.scores.items():
            n_all += 1
            run = there.get((hash_of(tree_of(made, trial.values, seed, made["phase"])), seed))
            try:
                summary = None if run is None else run.summary()
            except ConfigError as error:
                faults += error.faults
                continue
            if summary is not None:
                n_there += 1
                faults += [f"trial {trial.number} seed {seed}: {fault}"
                           for fault in _differences(score, made["search"]["metric"], summary)]
            elif run is not None and score.failure is not None:
                n_there += 1  # a run that failed leaves a folder and no summary
    return Held(faults=faults, n_there=n_there, n_all=n_all)


def _runs_in(folder: Path) -> dict[tuple[str, int], RunFolder]:
    """The run folders by the hash of what is written in them, whatever became of the plugins' code, and by seed."""
    found = {}
    for file in folder.glob("*/*/*/seed*/config.yaml"):
        try:
            tree = read_yaml(file)
            found[hash_of(tree), int(tree["seed"])] = RunFolder(file.parent)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue  # a damaged run shows nothing
    return found


def _differences(score: Score, metric: str, summary: Mapping[str, Any]) -> Iterator[str]:
    measured = summary.get("metrics", {})
    value = measured.get(metric)
    is_measured = value is not None and math.isfinite(value)
    if score.failure is not None:
        if is_measured:
            yield f"it is listed as failed ({score.failure}), but its run measured {metric}={value}"
        return
    for name, stated in ((metric, score.value), ("average_accuracy", score.average_accuracy),
                         ("n_parameters", score.n_parameters)):
        own = measured.get(name)
        if (name == metric or own is not None) and not alike(own, stated):
            yield f"its run measured {name}={own}, the file says {stated}"
