"""What a search has measured, and who wins: pure functions of trials, without torch and without Optuna.

Source: Cha and Cho, Hyperparameters in Continual Learning: A Reality Check, TMLR 2025 (GTEP): a trial's number is the
mean over its seeds, and the winner is the trial with the largest mean.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cl_framework.errors import ClfError

State = Literal["waiting", "running", "complete", "failed", "pruned"]
"""Failed: no seed of it finished. Pruned: stopped early, as `search.stop` says."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one seed of a trial gave.

    Attributes:
        value: the declared metric; its chance level where the run failed.
        average_accuracy: the first tie-break; its own chance level where the run failed.
        n_parameters: the second tie-break; infinite where the run failed.
        seconds: training time; 0 where the run failed.
        failure: why there is no number of its own; None where there is one.
    """

    value: float
    average_accuracy: float
    n_parameters: float
    seconds: float
    failure: str | None = None

    @staticmethod
    def of(metrics: Mapping[str, float], metric: str, chance: Mapping[str, float], seconds: float = 0.0,
           failure: str | None = None) -> Score:
        """The score of a run; one without a finite number counts as chance and says so.

        Args:
            metrics: what the run measured, by name.
            metric: the one that decides.
            chance: the chance level of metrics, by name; that of `metric` is among them.
            seconds: training time.
            failure: why the run ended without numbers; None where it did not.

        >>> Score.of({"average_accuracy": 0.5}, "average_accuracy", {"average_accuracy": 0.1}).value
        0.5
        >>> Score.of({"average_accuracy": float("nan")}, "average_accuracy", {"average_accuracy": 0.1}).value
        0.1
        """
        value = metrics.get(metric, math.nan)
        if failure is None and not math.isfinite(value):
            failure = f"{metric} was not measured or is not finite"
        if failure is not None:
            return Score(value=chance[metric], average_accuracy=chance.get("average_accuracy", chance[metric]),
                         n_parameters=math.inf, seconds=seconds, failure=failure)
        return Score(value=value, average_accuracy=metrics.get("average_accuracy", value),
                     n_parameters=metrics.get("n_parameters", math.inf), seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One choice of hyperparameters and what its seeds gave."""

    number: int
    values: Mapping[str, Any]
    scores: Mapping[int, Score] = field(default_factory=dict)
    state: State = "waiting"

    @property
    def mean(self) -> float | None:
        """The mean over the seeds that are in; None while none is."""
        return statistics.fmean(score.value for score in self.scores.values()) if self.scores else None

    @property
    def is_over(self) -> bool:
        """Nothing of it is left to run."""
        return self.state in ("complete", "failed", "pruned")

    @property
    def failures(self) -> dict[int, str]:
        """Why seeds count as chance, by seed."""
        return {seed: score.failure for seed, score in sorted(self.scores.items()) if score.failure is not None}

    def first_mean(self, n_seeds: int) -> float | None:
        """The mean over the seeds 0 to `n_seeds` - 1; None where one of them is not in."""
        if n_seeds < 1 or any(seed not in self.scores for seed in range(n_seeds)):
            return None
        return statistics.fmean(self.scores[seed].value for seed in range(n_seeds))

    def end(self) -> State:
        """The state of a trial whose seeds are all in."""
        return "failed" if len(self.failures) == len(self.scores) else "complete"


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Trials whose seeds are all in, the best first.

    The largest mean over seeds wins; ties go to the larger mean average accuracy, then to fewer parameters, then to
    the smaller number. A trial without a finished seed comes after all others, whatever chance is. A pruned trial is
    not ranked: it was below the median when it was stopped.
    """
    def place(trial: Trial) -> tuple[bool, float, float, float, int]:
        scores = trial.scores.values()
        return (trial.state == "failed", -statistics.fmean(score.value for score in scores),
                -statistics.fmean(score.average_accuracy for score in scores),
                statistics.fmean(score.n_parameters for score in scores), trial.number)

    return sorted((trial for trial in trials if trial.state in ("complete", "failed")), key=place)


def leader(trials: Iterable[Trial]) -> Trial | None:
    """The best trial that is over and has a finished seed; None while there is none."""
    return next((trial for trial in ranked(trials) if trial.state == "complete"), None)


def winner(trials: Sequence[Trial]) -> Trial:
    """The trial with the largest mean over seeds; see `ranked` for ties.

    Raises:
        ClfError: no seed of any trial finished.
    """
    best = leader(trials)
    if best is None:
        reasons = dict.fromkeys(reason for trial in trials for reason in trial.failures.values())
        raise ClfError("no run of the search finished, so there is no winner: " + "; ".join(list(reasons)[:3]))
    return best


def is_hopeless(trial: Trial, others: Iterable[Trial], n_seeds: int) -> bool:
    """Whether `search.stop=median` ends a trial: the mean over its first k seeds is below the median of what complete
    trials had at k seeds (Golovin et al., Google Vizier, KDD 2017, section 3.2.2, with seeds in place of steps).

    Args:
        trial: the one that is running.
        others: the trials of the study.
        n_seeds: how many seeds a whole trial has; a whole trial is not stopped.
    """
    done = next((k for k in range(n_seeds) if k not in trial.scores), n_seeds)
    own = trial.first_mean(done)
    if own is None or done == n_seeds:
        return False
    means = [mean for other in others if other.state == "complete" and other.number != trial.number
             if (mean := other.first_mean(done)) is not None]
    return bool(means) and own < statistics.median(means)
