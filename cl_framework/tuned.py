"""`best.yaml`: what a search declares, what it measured, its winner. The format is described in docs/protocol.md."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from cl_framework.files import write_atomic
from cl_framework.fingerprint import class_labels
from cl_framework.isolation import openings
from cl_framework.launch import open_stream
from cl_framework.plan import Plan
from cl_framework.plugin_code import code_of
from cl_framework.runs import git_commit
from cl_framework.scenario import Stream
from cl_framework.seal import sealed
from cl_framework.search import Space
from cl_framework.trials import Trial, winner

FORMAT = 2
"""Fields may be added; none changes its meaning without a new number."""
FILE = "best.yaml"
"""Its name in the study's folder."""
_PACKAGES = ("torch", "lightning", "numpy", "optuna", "cl-framework")
_PER_RUN = ("seed", "order_seed", "phase", "track")


def digest(value: object) -> str:
    """Ten digits that stand for plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def base_tree(tree: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """A configuration without what is searched and without what the protocol sets for each run."""
    base = {name: value for name, value in copy.deepcopy(dict(tree)).items() if name not in _PER_RUN}
    for key in space.grids:
        *path, last = _path(key)
        branch = base
        for step in path:
            branch = branch[step]
        branch.pop(last, None)
    return base


def configuration(tree: Mapping[str, Any], stream: Stream) -> dict[str, Any]:
    """What both phases must share, whatever the data: the scenario's fields, the network, and the stream's shape.

    Of a stream without labels, whose boundaries nobody is told, the number of experiences does not count.
    """
    info = stream.info
    shape: dict[str, Any] = {"n_classes": info.n_classes}
    if info.is_labelled:
        shape = {"n_experiences": len(stream), "n_classes": [len(experience.classes) for experience in stream]}
    return {"scenario": {name: value for name, value in tree["scenario"].items() if name != "name"},
            "model": tree["model"], "setting": info.setting.value, "is_online": info.is_online,
            "is_labelled": info.is_labelled, **shape, "input_shape": list(info.input_shape), "augment": info.augment}


def content(plan: Plan, trials: Sequence[Trial], seconds: float) -> dict[str, Any]:
    """Everything that phase 2 and a reader need.

    Args:
        plan: what was declared.
        trials: what was measured; all of them are over.
        seconds: wall-clock time of the search, over all its starts.

    Raises:
        ClfError: no run finished, so that there is no winner.
    """
    best = winner(trials)
    jobs = [plan.job(plan.first, seed) for seed in range(plan.search.seeds)]
    streams = [open_stream(replace(job, experiences=0)) for job in jobs]
    shape = configuration(jobs[0].tree, streams[0])
    orders = {seed: [list(experience.class_names) for experience in stream] for seed, stream in enumerate(streams)}
    space = {key: list(grid) for key, grid in plan.space.grids.items()}
    distinct = {digest(dict(trial.values)): trial for trial in reversed(trials)}  # trials of equal values share runs
    runs = [score for trial in distinct.values() for score in trial.scores.values()]
    return {
        "format": FORMAT, "protocol": plan.protocol,
        "scenario": jobs[0].name("scenario"), "strategy": plan.strategy, "model": jobs[0].name("model"),
        "phase": jobs[0].tree["phase"], "evaluate": list(plan.search.evaluate),
        "winner": {"trial": best.number, "values": dict(best.values), "mean": best.mean, "std": _std(best),
                   "hash": digest(dict(best.values))},
        "base": base_tree(jobs[0].tree, plan.space), "tracking": jobs[0].tree["track"],
        "search": {**dataclasses.asdict(plan.search), "storage": None, "trials": plan.n_trials},
        "seeds": list(range(plan.search.seeds)),
        "evaluation_seeds": list(range(plan.search.evaluation_seeds or plan.search.seeds)),
        "space": space, "space_hash": plan.space.hash,
        "study_hash": plan.hash, "configuration": shape, "scenario_hash": digest(shape),
        "classes": sorted({label for stream in streams for part in stream for label in class_labels(stream, part)}),
        "orders": orders, "data": dict(streams[0].provenance), "chance": plan.chance[plan.search.metric],
        "costs": {"runs": len(runs), "failed_runs": sum(score.failure is not None for score in runs),
                  "train_seconds": sum(score.seconds for score in runs), "wall_seconds": seconds},
        "environment": {"git_commit": git_commit(), "python": platform.python_version(),
                        "platform": f"{platform.system()} {platform.machine()}", "device": jobs[0].hardware.describe(),
                        "packages": {name: version(name) for name in _PACKAGES}},
        "code": code_of(jobs[0]), "opened": openings(),
        "trials": [_entry(trial) for trial in trials],
    }


def write_tuned(path: Path, made: Mapping[str, Any]) -> None:
    """Write the file in one step, with a digest of its content."""
    write_atomic(path, yaml.safe_dump(sealed(made), sort_keys=False, default_flow_style=None, width=120))


def _entry(trial: Trial) -> dict[str, Any]:
    scores = {}
    for seed, score in trial.scores.items():
        kept = {name: value for name, value in dataclasses.asdict(score).items() if value is not None}
        scores[seed] = {name: value for name, value in kept.items()
                        if not (isinstance(value, float) and math.isinf(value))}
    return {"trial": trial.number, "values": dict(trial.values), "state": trial.state, "mean": trial.mean,
            "std": _std(trial), "hash": digest(dict(trial.values)), "seeds": scores}


def _std(trial: Trial) -> float | None:
    values = [score.value for score in trial.scores.values()]
    return statistics.stdev(values) if len(values) > 1 else None


def _path(key: str) -> list[str]:
    """The place of a dotted key in a configuration; a part `module:Class` has dots of its own."""
    head, _, rest = key.partition(".")
    if head != "strategy":
        return [head, rest]
    part, _, name = rest.rpartition(".")
    return [head, part, name]
