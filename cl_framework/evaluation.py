"""Phase 2 of the two-phase protocol: the winner of `best.yaml`, unchanged, on a stream that nobody has seen.

Source: Cha and Cho, Hyperparameters in Continual Learning: A Reality Check, TMLR 2025 (GTEP, arXiv 2403.09066). The
evaluation stream is opened after the file has passed every check, and its numbers go into a protocol record.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cl_framework.chance import chance_of
from cl_framework.errors import ClfError, ConfigError, Diverged
from cl_framework.fingerprint import Fingerprint, fingerprint, overlap_faults
from cl_framework.frozen import Frozen, read_tuned
from cl_framework.job import Job
from cl_framework.launch import check_job, execute_all, label_of, open_stream
from cl_framework.plain_files import read_yaml
from cl_framework.plugin_code import code_of
from cl_framework.protocol_record import FILE, Phase2, build, write_record
from cl_framework.runs import RunFolder
from cl_framework.trials import Score
from cl_framework.tuned import configuration, digest
from cl_framework.winner import (
    Made,
    Target,
    changes,
    differences,
    job_of,
    protocol_of,
    statistic,
    targets,
    tree_of,
    values_in,
)

_ALLOWED = ("tuned", "out", "launcher", "workers", "defaults")
_KEPT = ("average_accuracy", "forgetting/max", "online_accuracy", "source_forgetting", "n_parameters", "train_seconds",
         "memory_bytes")


@dataclass(frozen=True)
class Evaluated:
    """A record that was written."""

    path: Path
    record: Mapping[str, Any]


def refuse_overrides(keys: Sequence[str]) -> None:
    """Phase 2 takes everything from the tuned file.

    Raises:
        ConfigError: names every key that would change what was tuned, and why it may not.
    """
    faults = []
    for key in keys:
        if key in ("seed", "order_seed"):
            faults.append(f"{key} cannot be given to clf evaluate: the seeds are those of the tuned file (rule R9)")
        elif key not in _ALLOWED:
            faults.append(f"{key} cannot be given to clf evaluate: the winner and its scenario are frozen (rules R2 "
                          f"and R7); to change {key}, tune again with it")
    if faults:
        raise ConfigError(faults)


def evaluate(path: Path, out: Path | None, workers: int, command: str, console: Console, *,
             has_defaults: bool = True) -> Evaluated:
    """Run phase 2, or go on with it, and write its record.

    Args:
        path: a `best.yaml` or its folder.
        out: where the runs and the record go; the folder of the file when None.
        workers: how many processes.
        command: the command line, for the record of each run.
        console: where progress is shown.
        has_defaults: also run the strategy with the defaults of its plugin (rule R12).

    Raises:
        ClfError: the file was changed, the phases overlap or differ, or a run could not be finished.
    """
    frozen = read_tuned(path)
    folder = frozen.path.parent if out is None else out
    changed = changes(frozen.made)
    for change in changed:
        console.print(f"note: {change}", highlight=False, soft_wrap=True)
    with RunFolder(folder).locked():
        began = time.monotonic()
        tuning = _tuning(frozen)
        parts = [_target(frozen.made, target, tuning, folder, workers, command, console, has_defaults)
                 for target in targets(frozen.made)]
        code = code_of(job_of(frozen.made, frozen.made["winner"]["values"], 0, frozen.made["phase"]))
        phase2 = Phase2(tuning=tuning.plain(), parts=parts, changed=changed, seconds=time.monotonic() - began,
                        code=code)
        record = build(frozen.made, phase2)
        write_record(folder / FILE, record)
    return Evaluated(folder / FILE, record)


def _tuning(frozen: Frozen) -> Fingerprint:
    """What was tuned on; its shape must be that of the file."""
    job = job_of(frozen.made, frozen.made["winner"]["values"], frozen.made["seeds"][0], frozen.made["phase"])
    stream = open_stream(job)
    faults = configuration_faults(frozen.made, job, "the tuning stream")
    if faults:
        raise ConfigError([f"{frozen.path}: {fault}" for fault in faults])
    if dict(stream.provenance) != frozen.made["data"]:
        raise ConfigError(f"{frozen.path} was tuned on {frozen.made['data']}, the data is now "
                          f"{dict(stream.provenance)}; put the old files back, or tune again")
    return fingerprint_of(frozen.made, frozen.made["seeds"], frozen.made["phase"])


def fingerprint_of(made: Made, seeds: Sequence[int], phase: str, scenario: str | None = None) -> Fingerprint:
    """What the streams of all seeds are made of: their orders may differ in more than the order."""
    return fingerprint(*(open_stream(job_of(made, made["winner"]["values"], seed, phase, scenario)) for seed in seeds))


def configuration_faults(made: Made, job: Job, what: str) -> list[str]:
    """Where a stream's configuration is not the one of the file (rule R2)."""
    return [f"{what} has {key}={here}, tuned with {there}: both phases have one scenario configuration (rule R2)"
            for key, here, there in differences(configuration_of(made, job), made["configuration"])]


def configuration_of(made: Made, job: Job) -> dict[str, Any]:
    """What a stream and its configuration are, as both phases must share it."""
    plain: dict[str, Any] = json.loads(json.dumps(
        configuration(tree_of(made, {}, 0, job.phase.value, job.name("scenario")), open_stream(job))))
    return plain


def _target(made: Made, target: Target, tuning: Fingerprint, folder: Path, workers: int, command: str,
            console: Console, has_defaults: bool) -> dict[str, Any]:
    """Phase 2 on one stream, which is opened here for the first time."""
    frozen = made["winner"]["values"]
    jobs = [job_of(made, frozen, seed, target.phase, target.scenario) for seed in made["evaluation_seeds"]]
    stream = open_stream(jobs[0])
    print_of = fingerprint_of(made, made["evaluation_seeds"], target.phase, target.scenario)
    faults = configuration_faults(made, jobs[0], target.scenario) + overlap_faults(tuning, print_of, target.scenario)
    if faults:
        raise ConfigError(faults)
    chance = chance_of(stream)
    console.print(f"{protocol_of(made)}: {target.scenario} ({target.flavour}), {len(jobs)} seeds of "
                  f"{made['strategy']} with the winner of trial {made['winner']['trial']}", highlight=False,
                  soft_wrap=True)
    runs = _runs(made, jobs, folder, "evaluation", workers, command, console, chance)
    default = None
    if has_defaults:
        label = f"{protocol_of(made)} defaults"
        plain = [dataclasses.replace(job_of(made, {}, seed, target.phase, target.scenario), protocol=label)
                 for seed in made["evaluation_seeds"]]
        console.print(f"{label}: {target.scenario}, the same seeds with the plugin's values", highlight=False,
                      soft_wrap=True)
        default = _with_result(_runs(made, plain, folder, "default", workers, command, console, chance))
    return {**dataclasses.asdict(target), **print_of.plain(), "shared_images": len(tuning.images & print_of.images),
            "configuration": configuration_of(made, jobs[0]), "data": dict(stream.provenance),
            "chance": chance[made["search"]["metric"]],
            "orders": {seed: [list(experience.class_names) for experience in open_stream(job)]
                       for seed, job in zip(made["evaluation_seeds"], jobs, strict=True)},
            **_with_result(runs), "default": default}


def _with_result(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"runs": list(runs), "result": statistic([run["value"] for run in runs])}


def _runs(made: Made, jobs: Sequence[Job], folder: Path, kind: str, workers: int, command: str, console: Console,
          chance: Mapping[str, float]) -> list[dict[str, Any]]:
    """The runs of one choice of hyperparameters; one that diverges counts as chance and says so."""
    check_job(jobs[0])
    out, metric = folder / kind, made["search"]["metric"]
    _, failures = execute_all(jobs, out, command, console, workers)
    reasons = {failure.label: failure.error for failure in failures}
    broken = [f"{label}: {error}" for label, error in reasons.items() if not isinstance(error, Diverged)]
    if broken:
        raise ClfError("\n".join([*broken, f"{len(broken)} of {len(jobs)} runs of phase 2 are not finished, so there "
                                  "is no record; give the same command again, finished runs are kept"]))
    entries = []
    for job in jobs:
        place = RunFolder.of(job, out)
        summary = place.summary() or {}
        measured = summary.get("metrics", {})
        failure = reasons.get(label_of(job))
        score = Score.of(measured, metric, chance, summary.get("seconds") or 0.0,
                         None if failure is None else str(failure))
        names = dict.fromkeys((metric, *_KEPT))
        entries.append({"seed": job.seed, "order_seed": job.order_seed, "config_hash": job.hash,
                        "winner_hash": winner_hash(place, made) if kind == "evaluation" else None,
                        "value": score.value, "failure": score.failure, "seconds": score.seconds,
                        "metrics": {name: measured[name] for name in names if measured.get(name) is not None},
                        "folder": str(place.path.relative_to(folder))})
    return entries


def winner_hash(place: RunFolder, made: Made) -> str | None:
    """The hash of the winner's values as the run's own `config.yaml` has them (rule R7); None where it has no file."""
    try:
        tree = read_yaml(place.path / "config.yaml")
        return digest(values_in(tree, made["winner"]["values"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{place.path / 'config.yaml'} holds no whole configuration ({error!r}); put the file back, "
                          "or remove that run folder and evaluate again") from error
