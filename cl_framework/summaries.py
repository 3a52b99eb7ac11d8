"""Reads the `summary.json` of finished runs and groups runs that differ in the seed alone. Imports no torch."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cl_framework.errors import ConfigError, DataError

Matrix = tuple[tuple[float | None, ...], ...]
"""R[i][j]; None where not measured."""

Key = tuple[str, str, str, int | None, str, str, str]
"""Scenario, strategy, model, order_seed, phase, protocol, config_hash: what runs of one group share."""

_KINDS: Mapping[str, tuple[type, ...]] = {
    "scenario": (str,), "strategy": (str,), "model": (str,), "seed": (int,),
    "order_seed": (int, type(None)), "phase": (str,), "protocol": (str,), "config_hash": (str,),
    "git_commit": (str, type(None)), "metrics": (dict,),
    "accuracy_matrix": (list, type(None)), "seconds": (int, float, type(None)), "status": (str,),
}


@dataclass(frozen=True)
class Summary:
    """What one run says of itself; see `docs/run-folder.md`. Metrics that are no finite number are left out."""

    key: Key
    seed: int
    git_commit: str
    metrics: Mapping[str, float]
    accuracy_matrix: Matrix
    seconds: float | None
    status: str
    folder: Path


@dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation (divisor n - 1; None for n = 1) over the runs that have the number.

    >>> Stat.of([1.0, 2.0, 3.0])
    Stat(mean=2.0, std=1.0, n=3)
    """

    mean: float
    std: float | None
    n: int

    @staticmethod
    def of(values: Sequence[float]) -> Stat:
        """The statistics of at least one value."""
        return Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Group:
    """Finished runs that differ in the seed alone."""

    scenario: str
    strategy: str
    model: str
    order_seed: int | None
    phase: str
    protocol: str
    config_hash: str
    git_commits: tuple[str, ...]
    seeds: tuple[int, ...]
    metrics: Mapping[str, Stat]
    seconds: Stat | None
    accuracy_matrix: Matrix
    folders: tuple[Path, ...]

    @property
    def n(self) -> int:
        """How many runs."""
        return len(self.seeds)


@dataclass
class Runs:
    """What lies below a folder."""

    finished: list[Summary] = field(default_factory=list)
    failed: list[Path] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """One sentence for each thing that is not in the numbers."""
        notes = []
        if self.unfinished:
            notes.append(f"{_count(self.unfinished, 'unfinished run')} left out (stopped or still running); continue "
                         f"with: clf resume run={self.unfinished[0]}")
        if self.failed:
            notes.append(f"{_count(self.failed, 'failed run')} left out, for example {self.failed[0]}")
        seen: dict[tuple[Key, int], Summary] = {}
        for run in self.finished:
            earlier = seen.get((run.key, run.seed))
            if earlier is not None:
                notes.append(f"{earlier.folder} left out: {run.folder} holds the same configuration and seed")
            seen[run.key, run.seed] = run
        return notes + [f"left out: {fault}" for fault in self.damaged]


def _count(items: Sequence[object], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def parse_summary(content: object, folder: Path) -> Summary:
    """Check the content of a `summary.json`.

    Args:
        content: what the file holds.
        folder: the run folder.

    Raises:
        DataError: names the folder and every fault.
    """
    if not isinstance(content, dict):
        raise DataError(f"{folder / 'summary.json'}: expected an object, got {type(content).__name__}")
    faults = [f"'{name}' is missing" if name not in content else f"'{name}' is {content[name]!r}"
              for name, kinds in _KINDS.items() if name not in content or not isinstance(content[name], kinds)]
    if not faults:
        faults = [f"metric '{name}' is {value!r}" for name, value in content["metrics"].items()
                  if value is not None and (not _is_number(value) or not math.isfinite(value))]
        matrix: list[list[float | None]] = content["accuracy_matrix"] or []
        if not all(isinstance(row, list) and len(row) == len(matrix) and
                   all(value is None or _is_number(value) for value in row) for row in matrix):
            faults.append("'accuracy_matrix' is no square matrix of numbers and nulls")
    if faults:
        raise DataError(f"{folder / 'summary.json'} is damaged: {', '.join(faults)}; remove it and give the command of "
                        "that run again")
    return Summary(
        key=(content["scenario"], content["strategy"], content["model"], content["order_seed"], content["phase"],
             content["protocol"], content["config_hash"]),
        seed=content["seed"], git_commit=content["git_commit"] or "unknown",
        metrics={name: float(value) for name, value in content["metrics"].items() if _finite(value) is not None},
        accuracy_matrix=tuple(tuple(_finite(value) for value in row) for row in matrix),
        seconds=content["seconds"], status=content["status"], folder=folder)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def read_runs(path: Path) -> Runs:
    """Every run below a folder, those of a search (`tune/`) only where the folder lies inside it.

    Raises:
        ConfigError: there is no such folder, or no run below it.
    """
    if not path.is_dir():
        raise ConfigError(f"there is no folder {path}; expected run folders below it: start a run with clf train, or "
                          "name their folder with runs=PATH")
    runs = Runs()
    for name, folders, files in os.walk(path):
        folders[:] = sorted(set(folders) - {"wandb", "checkpoints", "tensorboard", "tune"})
        if "summary.json" in files:
            _read(Path(name), runs)
        elif "config.yaml" in files:
            runs.unfinished.append(Path(name))
    if not (runs.finished or runs.unfinished or runs.failed or runs.damaged):
        raise ConfigError(f"there are no runs below {path}; start one with clf train out={path}, or name another "
                          "folder with runs=PATH")
    return runs


def _read(folder: Path, runs: Runs) -> None:
    file = folder / "summary.json"
    try:
        summary = parse_summary(json.loads(file.read_bytes()), folder)
    except DataError as error:
        runs.damaged.append(str(error))
    except (OSError, ValueError) as error:
        runs.damaged.append(f"{file} cannot be read ({error}); remove it and give the command of that run again")
    else:
        if summary.status == "finished":
            runs.finished.append(summary)
        else:
            runs.failed.append(folder)


def group(summaries: Iterable[Summary]) -> list[Group]:
    """Group runs that differ in the seed alone, ordered by scenario, then strategy.

    A seed that is there twice (a copied folder) counts once: the last one is taken, and `Runs.notes` says so.
    """
    by_key: dict[Key, dict[int, Summary]] = {}
    for summary in summaries:
        by_key.setdefault(summary.key, {})[summary.seed] = summary
    return [_group(key, [by_key[key][seed] for seed in sorted(by_key[key])]) for key in sorted(by_key, key=_in_order)]


def _in_order(key: Key) -> tuple[str, ...]:
    return tuple("" if part is None else f"{part:>9}" if isinstance(part, int) else part for part in key)


def _group(key: Key, runs: Sequence[Summary]) -> Group:
    names = sorted({name for run in runs for name in run.metrics})
    seconds = [run.seconds for run in runs if run.seconds is not None]
    return Group(
        *key, git_commits=tuple(sorted({run.git_commit for run in runs})), seeds=tuple(run.seed for run in runs),
        metrics={name: Stat.of([run.metrics[name] for run in runs if name in run.metrics]) for name in names},
        seconds=Stat.of(seconds) if seconds else None, accuracy_matrix=_mean([run.accuracy_matrix for run in runs]),
        folders=tuple(run.folder for run in runs))


def _mean(matrices: Sequence[Matrix]) -> Matrix:
    """The mean of each entry; None unless every run measured it."""
    if len({len(matrix) for matrix in matrices}) != 1:
        return ()
    mean = []
    for rows in zip(*matrices, strict=True):
        entries = [[value for value in column if value is not None] for column in zip(*rows, strict=True)]
        mean.append(tuple(statistics.fmean(each) if len(each) == len(matrices) else None for each in entries))
    return tuple(mean)
