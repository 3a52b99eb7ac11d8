"""Reads the `diagnostics.json` of runs, and puts runs of one configuration together. Imports no torch.

Entries whose signal is not defined (null in the file) are NaN. What an experience lost when a later one was learned is
R[t-1, i] - R[t, i], of answers over all classes ("all"), and of answers within the classes of experience i ("within");
of texts also L[t, i] - L[t-1, i], L being the mean -log p of a token ("nats").
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cl_framework.errors import ConfigError
from cl_framework.experience_figures import is_figure
from cl_framework.groups import group
from cl_framework.plain_files import read_json
from cl_framework.row_labels import labels_of
from cl_framework.summaries import Runs, Summary, read_runs

_FILE = "diagnostics.json"
_HOW = ("give its command again with track.diagnostics=true and another out=DIR (a finished run is skipped, and one "
        "that was begun without diagnostics goes on without them)")

Numbers = Mapping[str, float]
Kind = Literal["all", "within", "nats"]
"""How what was lost is counted."""


class Layer(NamedTuple):
    """The signals of one weight matrix in one experience; of `pairs`, one for each experience before."""

    shape: tuple[int, ...]
    signals: Numbers
    pairs: tuple[Numbers, ...]


class Step(NamedTuple):
    """The signals of one experience: over layers, and of each layer."""

    signals: Numbers
    pairs: tuple[Numbers, ...]
    layers: Mapping[str, Layer]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """One run with diagnostics.

    Attributes:
        label: its strategy, with what tells configurations apart.
        run: its summary; None of a run that is not finished.
        steps: one for each experience.
        accuracy, task_accuracy: R, NaN where not measured; empty of a run that is not finished.
        loss: L in nats, the same; empty of a run without texts.
    """

    folder: Path
    label: str
    run: Summary | None
    steps: tuple[Step, ...]
    accuracy: tuple[tuple[float, ...], ...] = ()
    task_accuracy: tuple[tuple[float, ...], ...] = ()
    loss: tuple[tuple[float, ...], ...] = ()

    def lost(self, earlier: int, learned: int, kind: Kind = "all") -> float:
        """What experience `earlier` lost when `learned` was; NaN where not measured."""
        matrix = {"all": self.accuracy, "within": self.task_accuracy, "nats": self.loss}[kind]
        if not matrix:
            return math.nan
        fell = matrix[learned - 1][earlier] - matrix[learned][earlier]
        return -fell if kind == "nats" else fell


@dataclass(frozen=True)
class Diagnoses:
    """Runs with diagnostics, those of one label beside each other, and what was left out."""

    runs: tuple[Diagnosis, ...]
    notes: tuple[str, ...]

    def by_label(self) -> dict[str, list[Diagnosis]]:
        """The runs of each label."""
        found: dict[str, list[Diagnosis]] = {}
        for each in self.runs:
            found.setdefault(each.label, []).append(each)
        return found


def read_diagnoses(path: Path) -> Diagnoses:
    """The diagnostics of a run, or of every run below a folder.

    Raises:
        ConfigError: there is no such folder, no run below it, a damaged file, or no run with diagnostics.
    """
    try:
        runs = read_runs(path)
    except ConfigError:
        raise ConfigError(f"there are no runs at {path}; name the folder of a run, or one with runs below it, as "
                          "run=PATH") from None
    known = _labels(runs)
    places = [*((run.folder, run) for run in runs.finished), *((folder, None) for folder in runs.unfinished)]
    lacking = [folder for folder, _ in places if not (folder / _FILE).is_file()]
    found = [_read(folder, run, known.get(folder) or f"{folder} (not finished)") for folder, run in places
             if folder not in lacking]
    if runs.damaged and not places:
        raise ConfigError(runs.damaged)
    if not found:
        others = f"{path} has no run with diagnostics, for example {(lacking or runs.failed or [path])[0]}"
        raise ConfigError(f"{others if len(places) != 1 else f'{places[0][0]} has no {_FILE}'}; {_HOW}")
    notes = [f"left out: {fault}" for fault in runs.damaged]
    if lacking:
        notes.append(f"{len(lacking)} of {len(places)} runs have no diagnostics and are left out, for example "
                     f"{lacking[0]}; {_HOW}")
    notes += [f"{each.folder} has diagnostics of {len(each.steps)} of {len(each.accuracy)} experiences"
              for each in found if each.run is not None and len(each.steps) < len(each.accuracy)]
    return Diagnoses(tuple(sorted(found, key=lambda each: each.label)), tuple(notes))


def _labels(runs: Runs) -> dict[Path, str]:
    """What each finished run is called; a scenario and a model stand before it where there are several."""
    groups = group(runs.finished)
    kinds = {(each.scenario, each.model) for each in groups}
    labels = dict[Path, str]()
    for kind in kinds:
        rows = [each for each in groups if (each.scenario, each.model) == kind]
        for each, label in zip(rows, labels_of(rows), strict=True):
            labels |= dict.fromkeys(each.folders, label if len(kinds) == 1 else " ".join([*kind, label]))
    return labels


def _read(folder: Path, run: Summary | None, label: str) -> Diagnosis:
    file = folder / _FILE
    try:
        content = read_json(file)
        steps = tuple(_step(entry) for entry in content["experiences"])
        summary = {} if run is None else read_json(folder / "summary.json")
        matrices = {name: _matrix(summary.get(f"{name}_matrix", []))
                    for name in ("accuracy", "task_accuracy", "perplexity")}
        loss = tuple(tuple(math.log(value) for value in row) for row in matrices.pop("perplexity"))
        if run is not None and len(steps) > len(matrices["accuracy"]):
            raise ValueError(f"it has {len(steps)} experiences, and summary.json has {len(matrices['accuracy'])}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file} is damaged ({type(error).__name__}: {error}); remove it to leave this run out, or "
                          f"{_HOW}") from None
    return Diagnosis(folder=folder, label=label, run=run, steps=steps, loss=loss, **matrices)


def kinds_of(runs: Sequence[Diagnosis]) -> list[Kind]:
    """How what some runs lost is counted: in nats where they have texts, whose answers have no classes."""
    known = [run for run in runs if run.run is not None]
    kinds: list[Kind] = ["all"]
    if any(not run.loss for run in known):
        kinds.append("within")
    return [*kinds, "nats"] if any(run.loss for run in known) else kinds


def _step(entry: Mapping[str, Any]) -> Step:
    layers = {name: Layer(tuple(layer["shape"]), _numbers(layer["signals"]), _pairs(layer["pairs"]))
              for name, layer in entry["layers"].items()}
    return Step(_numbers(entry["signals"]), tuple(_numbers(pair["signals"]) for pair in entry["pairs"]), layers)


def _pairs(pairs: Iterable[Mapping[str, float | None]]) -> tuple[Numbers, ...]:
    return tuple(_numbers({name: value for name, value in pair.items() if name != "earlier"}) for pair in pairs)


def _numbers(values: Mapping[str, float | None]) -> Numbers:
    return {name: math.nan if value is None or not is_figure(value) else float(value) for name, value in values.items()}


def _matrix(rows: Sequence[Sequence[float | None]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(math.nan if value is None else float(value) for value in row) for row in rows)


def mean_of(values: Iterable[float]) -> float:
    """The mean of what is defined; NaN of nothing.

    >>> mean_of([1.0, math.nan, 3.0])
    2.0
    """
    found = [value for value in values if not math.isnan(value)]
    return statistics.fmean(found) if found else math.nan
