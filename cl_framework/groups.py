"""Runs that differ in the seeds alone, as one group with means over them. Imports no torch.

Runs over order seeds and training seeds are one group; the natural order, which no seed has drawn, is a group of its
own.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cl_framework.summaries import Block, Key, Matrix, Summary


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
    """Finished runs that differ in the seeds alone, ordered by order seed, then training seed.

    Attributes:
        order_seed: the one that all runs have, None for the natural order, else each that there is.
        config_hash: that of the runs; where they have several orders, that of their configuration without it.
        seeds: the training seed of each run.
        runs: each of them, in the same order; empty where they are not at hand.
    """

    scenario: str
    strategy: str
    model: str
    order_seed: int | tuple[int, ...] | None
    phase: str
    protocol: str
    config_hash: str
    git_commits: tuple[str, ...]
    seeds: tuple[int, ...]
    metrics: Mapping[str, Stat]
    seconds: Stat | None
    accuracy_matrix: Matrix
    folders: tuple[Path, ...]
    runs: tuple[Summary, ...] = ()

    @property
    def n(self) -> int:
        """How many runs."""
        return len(self.seeds)

    @property
    def is_labelled(self) -> bool:
        """Its stream came with labels: calibration is measured on unlabelled streams alone."""
        return "calibration_error" not in self.metrics

    @property
    def scenario_fields(self) -> str:
        """The fields of its scenario as JSON; empty where they are not known."""
        return self.runs[0].configuration.scenario if self.runs else ""

    @property
    def conditions(self) -> tuple[str, str, str, bool, str, str]:
        """What two groups share that may be compared."""
        return (self.scenario, self.model, self.scenario_fields, self.order_seed is not None, self.phase,
                self.protocol)

    @property
    def strategy_fields(self) -> Mapping[str, object]:
        """The fields of its strategy that are not at their defaults, by part and name; empty where not known."""
        return self.runs[0].strategy_fields if self.runs else {}

    @property
    def fields(self) -> Mapping[str, object]:
        """Every field of its configuration but those of the scenario, by dotted keys; empty where not known."""
        known: dict[str, object] = json.loads(self.runs[0].configuration.fields or "{}") if self.runs else {}
        return known

    def values(self, metric: str) -> dict[Block, float]:
        """The metric of each run that has it, by block."""
        return {run.block: run.metrics[metric] for run in self.runs if metric in run.metrics}

    def by_hash(self) -> dict[str, Group]:
        """The runs of each hash as a group of their own: one a configuration and order."""
        if not isinstance(self.order_seed, tuple):
            return {self.config_hash: self}
        hashes = dict.fromkeys(run.config_hash for run in self.runs)
        return {each: _group([run for run in self.runs if run.config_hash == each]) for each in hashes}


def group(summaries: Iterable[Summary]) -> list[Group]:
    """Group runs that differ in the seeds alone, ordered by scenario, then strategy.

    A block that is there twice (a copied folder) counts once: the last one is taken, and `Runs.notes` says so.
    """
    by_key: dict[Key, dict[Block, Summary]] = {}
    for summary in summaries:
        by_key.setdefault(summary.key, {})[summary.block] = summary
    groups = [_group([runs[block] for block in sorted(runs, key=_in_order)]) for runs in by_key.values()]
    return sorted(groups, key=lambda each: (*each.runs[0].key[:4], each.runs[0].block[0] or 0, *each.runs[0].key[4:]))


def _in_order(block: Block) -> tuple[int, int]:
    return -1 if block[0] is None else block[0], block[1]


def _group(runs: Sequence[Summary]) -> Group:
    first, orders = runs[0], tuple(dict.fromkeys(run.order_seed for run in runs if run.order_seed is not None))
    names = sorted({name for run in runs for name in run.metrics})
    seconds = [run.seconds for run in runs if run.seconds is not None]
    return Group(
        first.scenario, first.strategy, first.model, orders if len(orders) > 1 else first.order_seed, first.phase,
        first.protocol, first.key[-1] if len(orders) > 1 else first.config_hash,
        git_commits=tuple(sorted({run.git_commit for run in runs})), seeds=tuple(run.seed for run in runs),
        metrics={name: Stat.of([run.metrics[name] for run in runs if name in run.metrics]) for name in names},
        seconds=Stat.of(seconds) if seconds else None, accuracy_matrix=_mean([run.accuracy_matrix for run in runs]),
        folders=tuple(run.folder for run in runs), runs=tuple(runs))


def _mean(matrices: Sequence[Matrix]) -> Matrix:
    """The mean of each entry; None unless every run measured it."""
    if len({len(matrix) for matrix in matrices}) != 1:
        return ()
    mean = []
    for rows in zip(*matrices, strict=True):
        entries = [[value for value in column if value is not None] for column in zip(*rows, strict=True)]
        mean.append(tuple(statistics.fmean(each) if len(each) == len(matrices) else None for each in entries))
    return tuple(mean)
