"""The verbs of `clf` that train: train, tune, evaluate, protocol, resume."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from cl_framework.errors import ConfigError
from cl_framework.garbage import uncollected
from cl_framework.grammar import Command
from cl_framework.keys import LAUNCHING, launcher_of, single, take
from cl_framework.launchers import Launcher, using
from cl_framework.stopping import heeding

_MOST_JOBS = 10_000


@contextmanager
def _launched(values: dict[str, list[Any]]) -> Iterator[Launcher]:
    """The launcher that was asked for; its processes import what runs need while this one does."""
    launcher = launcher_of(values)
    with heeding():
        try:
            launcher.prepare("cl_framework.tuning_pool")
            with uncollected():
                import_module("cl_framework.launch")
            with using(launcher):
                yield launcher
        except BaseException:
            launcher.stop()
            raise


def train_verb(command: Command) -> int:
    """Learn streams: a product of runs."""
    values = dict(command.values)
    with _launched(values) as launcher:
        return _train(command, values, launcher)


def _train(command: Command, values: dict[str, list[Any]], launcher: Launcher) -> int:
    from cl_framework.config import resolve
    from cl_framework.launch import check_job

    out = Path(str(single(values, "out", "runs")))
    parts = {part for name in values.get("strategy", []) for part in str(name).split("+")}
    n_jobs = math.prod(len(choices) for choices in values.values())
    if n_jobs > _MOST_JOBS:
        raise ConfigError(f"the command makes {n_jobs} runs; at most {_MOST_JOBS} fit one command")
    jobs: dict[tuple[str, int], Any] = {}
    faults: list[str] = []
    for choice in Command("train", values).product():
        try:
            job = resolve(choice, parts)
            check_job(job)
            jobs.setdefault((job.hash, job.seed), job)
        except ConfigError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    if faults:
        raise ConfigError(faults)
    return _execute_all(list(jobs.values()), out, command, launcher)


def _execute_all(jobs: Sequence[Any], out: Path, command: Command, launcher: Launcher) -> int:
    from cl_framework.launch import execute_all
    from cl_framework.report import product_table, run_table
    from cl_framework.tracking import HINT, wandb_mode

    console, progress = Console(markup=False), Console(stderr=True, markup=False)
    if any(job.tracking.wandb == "auto" and wandb_mode("auto") == "disabled" for job in jobs):
        progress.print(HINT, highlight=False, soft_wrap=True)
    line = _line(command)
    summaries, failures = execute_all(jobs, out, line, progress, launcher.n_workers)
    if len(summaries) == 1:
        console.print(run_table(summaries[0]))
    elif summaries:
        console.print(product_table(summaries))
    for failure in failures:
        print("\n".join(f"clf: {failure.label}: {text}" for text in str(failure.error).splitlines()), file=sys.stderr)
    return max((failure.error.exit_status for failure in failures), default=0)


def tune_verb(command: Command) -> int:
    """Search hyperparameters on tuning streams."""
    values = dict(command.values)
    with _launched(values) as launcher:
        return _tune(command, values, launcher)


def _tune(command: Command, values: dict[str, list[Any]], launcher: Launcher) -> int:
    from cl_framework.plan import plans
    from cl_framework.tuning import tune
    from cl_framework.tuning_table import time_text, trials_table

    out = Path(str(single(values, "out", "runs")))
    console, progress = Console(markup=False), Console(stderr=True, markup=False)
    made = plans(values, out)
    line = _line(command)
    for note in (note for plan in made for note in plan.notes):
        progress.print(note, highlight=False, soft_wrap=True)
    for plan in made:
        tuned = tune(plan, launcher.n_workers, line, progress)
        budget = f"{plan.n_trials} trials x {plan.search.seeds} seeds, {plan.search.sampler}"
        cost = time_text(sum(score.seconds for trial in tuned.trials for score in trial.scores.values()))
        title = f"{plan.strategy} · {plan.protocol or 'no protocol'} · {budget} · {plan.job(plan.first, 0).phase.value}"
        console.print(trials_table(tuned.trials, plan.search.seeds, title, plan.search.metric, f"{cost} of training"))
        console.print(f"{tuned.path}\nnext: clf evaluate tuned={tuned.path}", highlight=False, soft_wrap=True)
    return 0


def evaluate_verb(command: Command) -> int:
    """Report what a search found, on the evaluation stream."""
    values = dict(command.values)
    with _launched(values) as launcher:
        return _evaluate(command, values, launcher)


def _evaluate(command: Command, values: dict[str, list[Any]], launcher: Launcher) -> int:
    from cl_framework.evaluation import evaluate, refuse_overrides
    from cl_framework.protocol_record import record_table

    refuse_overrides([key for key in command.values if key not in LAUNCHING])
    given = take(replace(command, values=values), ["tuned", "out", "defaults"])
    if "tuned" not in given:
        raise ConfigError("say which search: clf evaluate tuned=PATH of a best.yaml; `clf tune` prints its path")
    out = Path(str(given["out"])) if "out" in given else None
    done = evaluate(Path(str(given["tuned"])), out, launcher.n_workers, _line(command),
                    Console(stderr=True, markup=False), has_defaults=_is(given, "defaults"))
    Console(markup=False).print(record_table(done.record))
    print(f"{done.path}: {done.record['status']}\nnext: clf check protocol={done.path}")
    return 0


def _is(given: dict[str, Any], key: str) -> bool:
    value = given.get(key, True)
    if not isinstance(value, bool):
        raise ConfigError(f"{key} is true or false, got {value}")
    return value


def protocol_verb(command: Command) -> int:
    """Tune and evaluate several strategies alike."""
    values = dict(command.values)
    with _launched(values) as launcher:
        return _protocol(command, values, launcher)


def _protocol(command: Command, values: dict[str, list[Any]], launcher: Launcher) -> int:
    from cl_framework.contest import comparison_table, contest, with_baselines
    from cl_framework.plan import plans

    out = Path(str(single(values, "out", "runs")))
    flags = {key: single(values, key, True) for key in ("defaults", "baselines")}
    has_defaults = _is(flags, "defaults")
    made = plans(values, out)
    if _is(flags, "baselines"):
        values["strategy"] = with_baselines(values["strategy"], is_labelled=made[0].is_labelled)
        made = plans(values, out)
    console, progress = Console(markup=False), Console(stderr=True, markup=False)
    for note in (note for plan in made for note in plan.notes):
        progress.print(note, highlight=False, soft_wrap=True)
    path, compared = contest(made, launcher.n_workers, _line(command), progress, has_defaults=has_defaults)
    for scenario in compared["ranks"]:
        console.print(comparison_table(compared, scenario))
    for verdict in compared["verdicts"]:
        if verdict["kept"] is False:
            console.print(f"broken: {verdict['rule']}: {verdict['reason']}", highlight=False, soft_wrap=True)
    print(f"{path}: {compared['status']}")
    return 0


def _line(command: Command) -> str:
    """A command as it was given, without the address of a database, which may hold a password."""
    given = {key: values for key, values in command.values.items() if key != "search.storage"}
    return " ".join(["clf", command.verb, *(f"{key}={_text(values)}" for key, values in given.items())])


def _text(values: Sequence[Any]) -> str:
    return ",".join("null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
                    for value in values)


def resume_verb(command: Command) -> int:
    """Go on with a stopped run."""
    from cl_framework.launch import check_job
    from cl_framework.runs import RunFolder

    path = take(command, ["run"]).get("run")
    if path is None:
        raise ConfigError("say which run: clf resume run=PATH of a folder that ends in seed<k>")
    folder = RunFolder(Path(str(path)))
    job = folder.job()
    check_job(job)
    out = folder.path.resolve().parents[3] if len(folder.path.resolve().parents) > 3 else Path()
    if folder.was_renumbered(job):
        raise ConfigError(f"{path} was written by another version of clf, whose configuration has other fields; "
                          f"start it anew: {folder.command()}")
    if RunFolder.of(job, out).path != folder.path.resolve():
        raise ConfigError(f"{path} does not fit its config.yaml, which belongs to {RunFolder.of(job, Path()).path}: "
                          "the file, the folder's place, or the code of a plugin named by its path has changed; undo "
                          "that, or start anew")
    with _launched({}) as launcher:
        return _execute_all([job], out, command, launcher)
