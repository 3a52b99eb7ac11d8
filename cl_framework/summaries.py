"""Reads the `summary.json` of finished runs. Imports no torch.

A run has two seeds: the order seed shuffles classes or domains, the training seed is all other chance. The pair of both
is its *block*.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cl_framework.configuration import UNKNOWN, Configuration, read_configuration
from cl_framework.errors import ConfigError, DataError
from cl_framework.experience_figures import Figures, read_figures
from cl_framework.plain_files import read_json
from cl_framework.summary_faults import faults_of, faults_of_figures

Matrix = tuple[tuple[float | None, ...], ...]
"""R[i][j]; None where not measured."""

Block = tuple[int | None, int]
"""Order seed (None is the natural order) and training seed: what runs of two strategies share."""

Key = tuple[str, str, str, bool, str, str, str]
"""Scenario, strategy, model, whether orders are drawn, phase, protocol, configuration: what runs of a group share."""


@dataclass(frozen=True)
class Summary:
    """What one run says of itself; see `docs/run-folder.md`. Metrics that are no finite number are left out."""

    scenario: str
    strategy: str
    model: str
    order_seed: int | None
    phase: str
    protocol: str
    config_hash: str
    seed: int
    git_commit: str
    metrics: Mapping[str, float]
    accuracy_matrix: Matrix
    seconds: float | None
    status: str
    folder: Path
    configuration: Configuration = UNKNOWN
    experiences: tuple[Figures, ...] = ()
    strategy_fields: Mapping[str, object] = field(default_factory=dict)

    @property
    def block(self) -> Block:
        """What it shares with a run of another strategy on the same order with the same seed."""
        return self.order_seed, self.seed

    @property
    def key(self) -> Key:
        """What it shares with the runs of its group; orders are told apart where its configuration is not known."""
        is_drawn = self.order_seed is not None
        known = self.configuration.digest if is_drawn else None
        return (self.scenario, self.strategy, self.model, is_drawn, self.phase, self.protocol,
                self.config_hash if known is None else known)


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
        seen: dict[tuple[Key, Block], Summary] = {}
        for run in self.finished:
            earlier = seen.get((run.key, run.block))
            if earlier is not None:
                notes.append(f"{earlier.folder} left out: {run.folder} holds the same configuration and seed")
            seen[run.key, run.block] = run
        return [*notes, *self._apart(), *self._silent(), *(f"left out: {fault}" for fault in self.damaged)]

    def _silent(self) -> list[str]:
        """Runs on unlabelled streams that do not tell the error of each experience."""
        silent = [run for run in self.finished if "calibration_error" in run.metrics and not run.experiences]
        if not silent:
            return []
        return [f"{_count(silent, 'run')} not in the error of each experience, as the summary does not hold it, for "
                f"example {silent[0].folder}; remove its summary.json and give the command of that run again"]

    def _apart(self) -> list[str]:
        """Runs over several orders that are no group, as nothing says that they are of one configuration."""
        orders: dict[tuple[str, ...], dict[str, Summary]] = {}
        for run in self.finished:
            if run.order_seed is not None and run.configuration.digest is None:
                names = (run.scenario, run.strategy, run.model, run.phase, run.protocol)
                orders.setdefault(names, {})[run.config_hash] = run
        return [f"{len(runs)} configurations of {names[1]} on {names[0]} are not pooled over order seeds: their "
                f"config.yaml does not give their hash (the source of a plugin has changed since, or the file), for "
                f"example {next(iter(runs.values())).folder}" for names, runs in orders.items() if len(runs) > 1]


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
        raise DataError(f"{folder / 'summary.json'}: expected an object, got {type(content).__name__}; remove it and "
                        "give the command of that run again")
    faults, experiences = faults_of(content), tuple[Figures, ...]()
    try:
        experiences = read_figures(content.get("experiences", []))
        faults += [] if faults else faults_of_figures(experiences, content["accuracy_matrix"] or [])
    except ValueError as error:
        faults.append(f"'experiences' {error}")
    if faults:
        raise DataError(f"{folder / 'summary.json'} is damaged: {', '.join(faults)}; remove it and give the command of "
                        "that run again")
    return Summary(
        **{name: content[name] for name in ("scenario", "strategy", "model", "order_seed", "phase", "protocol",
                                            "config_hash", "seed", "seconds", "status")},
        git_commit=content["git_commit"] or "unknown",
        metrics={name: float(value) for name, value in content["metrics"].items() if _finite(value) is not None},
        accuracy_matrix=tuple(tuple(_finite(value) for value in row) for row in content["accuracy_matrix"] or []),
        folder=folder, experiences=experiences, strategy_fields=content.get("strategy_fields", {}))


def with_configuration(run: Summary, known: dict[str, Configuration]) -> Summary:
    """The run with what its folder says of its configuration; `known` keeps one a hash."""
    if run.config_hash not in known:
        known[run.config_hash] = read_configuration(run.folder, run.config_hash)
    return replace(run, configuration=known[run.config_hash])


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
    runs, known = Runs(), dict[str, Configuration]()
    for name, folders, files in os.walk(path):
        folders[:] = sorted(set(folders) - {"wandb", "checkpoints", "tensorboard", "tune"})
        if "summary.json" in files:
            _read(Path(name), runs, known)
        elif "config.yaml" in files:
            runs.unfinished.append(Path(name))
    _keep_one_data(runs)
    if not (runs.finished or runs.unfinished or runs.failed or runs.damaged):
        raise ConfigError(f"there are no runs below {path}; start one with clf train out={path}, or name another "
                          "folder with runs=PATH")
    return runs


def _read(folder: Path, runs: Runs, known: dict[str, Configuration]) -> None:
    file = folder / "summary.json"
    try:
        summary = parse_summary(read_json(file), folder)
    except DataError as error:
        runs.damaged.append(str(error))
    except (OSError, ValueError) as error:
        runs.damaged.append(f"{file} cannot be read ({error}); remove it and give the command of that run again")
    else:
        if summary.status == "finished":
            runs.finished.append(with_configuration(summary, known))
        else:
            runs.failed.append(folder)


def _keep_one_data(runs: Runs) -> None:
    """Of the seeds of one configuration, leave out those that were begun on other data than the first."""
    first: dict[tuple[str, str], tuple[Path, object]] = {}
    for run in sorted(runs.finished, key=lambda each: each.seed):
        data = _data_of(run.folder)
        if data is None:
            continue
        folder, known = first.setdefault((run.scenario, run.config_hash), (run.folder, data))
        if data != known:
            runs.finished.remove(run)
            runs.damaged.append(f"{run.folder} was begun on other data than {folder}, and has the same configuration; "
                                "keep the runs on the one or the other, and report them apart")


def _data_of(folder: Path) -> object:
    """Name and digest of each data set behind a run; None where its folder does not tell."""
    try:
        environment = read_json(folder / "environment.json")
    except (OSError, ValueError):
        return None
    return environment.get("data") if isinstance(environment, dict) else None
