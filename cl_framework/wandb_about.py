"""What W&B is told of a run besides its configuration: hashes, code, protocol, where its hyperparameters come from.

A run knows the search that it belongs to by its place: `clf tune` puts its runs into `<study>/runs/`, `clf evaluate`
puts its own into `<study>/evaluation/` and `<study>/default/`, and the study's `best.yaml` states space and winner.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cl_framework.job import Job
from cl_framework.plain_files import read_json, read_yaml
from cl_framework.types import Phase

SWEEP = "WANDB_SWEEP_ID"
"""The environment variable that W&B's agent sets for the runs of a sweep."""
_SEARCHED = "runs"
_KINDS = (_SEARCHED, "evaluation", "default")
_DEPTH = 4
_LONGEST_TAG = 64


def about(job: Job, folder: Path) -> dict[str, Any]:
    """Plain data that stands in the run's W&B configuration, under `about`, and in its summary.

    Args:
        job: whose run it is.
        folder: its run folder, where `environment.json` is written already.
    """
    return {"config_hash": job.hash, "phase": phase_of(job, folder).value, "protocol": job.protocol or "single-phase",
            "git_commit": _noted(folder).get("git_commit"), "version": version("cl-framework"),
            "chosen_by": chosen_by(job, folder), **study_of(folder)}


def phase_of(job: Job, folder: Path) -> Phase:
    """The phase of the two-phase protocol; of a run of its own the stream that it opened."""
    if job.protocol is not None:
        return Phase.EVALUATION
    study = _study(folder)
    return Phase.TUNING if study is not None and study[0] == _SEARCHED else job.phase


def chosen_by(job: Job, folder: Path) -> str:
    """Who chose the hyperparameters."""
    if sweep := os.environ.get(SWEEP):
        return f"tuned elsewhere: W&B sweep {sweep}"
    if job.protocol is not None:
        return f"phase 1 of {job.protocol}"
    study = _study(folder)
    return "clf tune" if study is not None and study[0] == _SEARCHED else "the command"


def tags(job: Job) -> list[str]:
    """Scenario, strategy and the parts of a chain, as W&B takes them: each once, at most 64 signs."""
    strategy = job.name("strategy")
    found = [job.name("scenario"), strategy, *strategy.split("+")]
    found += ["tuned elsewhere"] if os.environ.get(SWEEP) else []
    return list(dict.fromkeys(name[:_LONGEST_TAG] for name in found))


def study_of(folder: Path) -> dict[str, str]:
    """The hashes of the search that a run belongs to; space and winner once its `best.yaml` is written."""
    study = _study(folder)
    if study is None:
        return {}
    try:
        made = read_yaml(study[1] / "best.yaml")
    except (OSError, ValueError):
        made = None
    if not isinstance(made, dict):
        return {"study_hash": study[1].name} if study[1].parent.parent.parent.name == "tune" else {}
    winner = made.get("winner")
    stated = {**made, "winner_hash": winner.get("hash") if isinstance(winner, dict) else None}
    names = ("study_hash", "space_hash", "scenario_hash", "winner_hash")
    return {name: str(stated[name]) for name in names if stated.get(name) is not None}


def record_files(folder: Path) -> list[Path]:
    """What is kept of a run as an artifact: its small files that are there, and the search that it came from."""
    names = ("config.yaml", "command.txt", "environment.json", "accuracy.csv", "experiences.csv", "metrics.jsonl")
    study = _study(folder)
    found = [folder / name for name in names] + ([] if study is None else [study[1] / "best.yaml"])
    return [file for file in found if file.is_file()]


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that was written last; None where there is none."""
    return max((folder / "checkpoints").glob("*.pt"), key=lambda file: file.stat().st_mtime_ns, default=None)


def _study(folder: Path) -> tuple[str, Path] | None:
    """The kind of runs and the folder of the search, from `<study>/<kind>/<scenario>/<strategy>/<hash>/seed<k>`."""
    parents = folder.resolve().parents
    if len(parents) <= _DEPTH or parents[_DEPTH - 1].name not in _KINDS:
        return None
    kind, study = parents[_DEPTH - 1].name, parents[_DEPTH]
    is_one = (study / "best.yaml").is_file() or study.parent.parent.parent.name == "tune"
    return (kind, study) if is_one else None


def _noted(folder: Path) -> Mapping[str, Any]:
    try:
        noted = read_json(folder / "environment.json")
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}
