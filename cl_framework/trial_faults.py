"""Whether the trials of a `best.yaml` are all there, whole, and ended as the search ends them.

Source: Cha and Cho, Hyperparameters in Continual Learning: A Reality Check, TMLR 2025 (GTEP, arXiv 2403.09066): every
trial has every seed, and none is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from cl_framework.trials import Trial
from cl_framework.winner import Made


def trial_faults(made: Made, trials: Sequence[Trial]) -> list[str]:
    """Trials that are missing, lack seeds, say another end than their seeds give, or hold what no accuracy is.

    Args:
        made: the file.
        trials: its trials.
    """
    n, numbers = made["search"]["trials"], [trial.number for trial in trials]
    faults = [] if numbers == list(range(n)) else [
        f"its trials are {_shown(numbers)}, but search.trials is {n}: trials 0 to {n - 1} belong there"]
    for trial in trials:
        own = (*_end(made, trial, trials), *_numbers(trial, made["chance"]))
        faults += [f"trial {trial.number} {fault}" for fault in own]
    return faults


def _end(made: Made, trial: Trial, trials: Sequence[Trial]) -> Iterator[str]:
    """Where the state of a trial is not the one that its seeds give."""
    seeds = sorted(trial.scores)
    if trial.state != "pruned":
        if seeds != made["seeds"]:
            yield f"is {trial.state} with the seeds {seeds}, but every trial has the seeds {made['seeds']}"
        elif trial.state != trial.end():
            yield f"is {trial.state}, but its seeds make it {trial.end()}"
        return
    stop = made["search"].get("stop", "none")
    if stop != "median":
        yield f"is pruned, but search.stop is {stop}: nothing was stopped early"
    elif 0 not in seeds or not set(seeds) < set(made["seeds"]):
        yield f"is pruned with the seeds {seeds}: a trial is stopped after its first seed and before its last"
    elif not any(_is_above(other, trial) for other in trials):
        yield "is pruned, but no complete trial was above it with as many seeds"


def _is_above(other: Trial, trial: Trial) -> bool:
    """Whether a complete trial had more: one that is above all complete trials is not below their median."""
    n_seeds = next(k for k in range(len(trial.scores) + 1) if k not in trial.scores)
    theirs, own = other.first_mean(n_seeds), trial.first_mean(n_seeds)
    return other.state == "complete" and theirs is not None and own is not None and theirs > own


def _numbers(trial: Trial, chance: float) -> Iterator[str]:
    for seed, score in trial.scores.items():
        if score.failure is not None and not math.isclose(score.value, chance):
            yield f"seed {seed} failed and counts {score.value}, not chance ({chance})"
        for name, value in (("value", score.value), ("average_accuracy", score.average_accuracy)):
            if not (math.isfinite(value) and 0 <= value <= 1):
                yield f"seed {seed} has {name} {value}, which is no accuracy between 0 and 1"


def _shown(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:12])) + (", ..." if len(numbers) > 12 else "") or "none"
