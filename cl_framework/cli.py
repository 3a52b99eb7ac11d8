"""`clf`: the verbs, and what a user sees when something is wrong."""

from __future__ import annotations

import io
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from cl_framework import __version__
from cl_framework.errors import ClfError, ConfigError, Stopped
from cl_framework.grammar import Command, parse
from cl_framework.registry import GROUPS, find, plugins, see_current_folder, unknown

USAGE = """\
clf VERB {KEY=VALUES}        continual-learning experiments

  clf train scenario=split_digits strategy=er seed=0..4     learn a stream; several values make a product of runs
  clf train scenario=split_cifar strategy=er+lwf            a chain of strategies
  clf resume run=PATH                                       go on with a stopped run
  clf report runs=PATH format=text|json|csv|markdown        mean, deviation and n over seeds
  clf report runs=PATH experiment=hsu2018                   the same beside published numbers
  clf list [kind=strategy|scenario|model|metric|dataset|experiment]    what there is
  clf show strategy=er                                      what one is, and its fields
  clf check strategy=er                                     hold a plugin against its contract
  clf data [get=mnist]                                      data sets: where they are, fetch one

Keys of train: scenario strategy model experiment seed order_seed phase, scenario.* strategy.* model.* train.* trainer.*
track.*, out=DIR (default runs), launcher=local workers=2. `clf show train=recipe` lists train.*.
Options: --help --version --debug
"""

_MOST_JOBS = 10_000
_RECIPES = {"train": "cl_framework.recipe:Recipe", "trainer": "cl_framework.hardware:Hardware",
            "track": "cl_framework.config:Tracking"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status is 0, 2 for a user's mistake, 1 for a failure."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    is_debug = "--debug" in words
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once by CUDA; the same bits in each run
    logging.basicConfig(level=logging.DEBUG if is_debug else logging.WARNING, format="%(message)s")
    for noisy in ("matplotlib", "asyncio", "urllib3", "git"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return _run(parse(words))
    except ClfError as error:
        if is_debug:
            raise
        print("\n".join(f"clf: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("clf: interrupted; give the same command again, the run goes on from its last checkpoint",
              file=sys.stderr)
        return 130
    except Stopped as stopped:
        print("clf: stopped by SIGTERM; give the same command again, the run goes on from its last checkpoint",
              file=sys.stderr)
        return stopped.exit_status
    except SystemExit as error:
        print(f"clf: something called sys.exit({error.code}); finished work is kept", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if is_debug:
            raise
        print(f"clf: unexpected {type(error).__name__}: {error}\nclf: this is a fault of clf or of a plugin; add "
              "--debug for the traceback. Finished work is kept", file=sys.stderr)
        return 1


def _run(command: Command) -> int:
    if "--version" in command.options:
        print(f"clf {__version__}")
        return 0
    if "--help" in command.options or not command.verb:
        print(USAGE, end="")
        return 0 if "--help" in command.options else 2
    if command.verb not in VERBS:
        raise ConfigError(unknown("verb", command.verb, VERBS))
    see_current_folder()
    return VERBS[command.verb](command)


def _take(command: Command, allowed: Sequence[str]) -> dict[str, Any]:
    """The one value of each key of a verb that takes no products."""
    faults = [unknown("key", key, allowed) for key in command.values if key not in allowed]
    faults += [f"{key} takes one value here, got {len(values)}" for key, values in command.values.items()
               if len(values) > 1]
    if faults:
        raise ConfigError(faults)
    return {key: values[0] for key, values in command.values.items()}


def _train(command: Command) -> int:
    from cl_framework.config import resolve
    from cl_framework.launch import check_job

    values = dict(command.values)
    out = Path(str(_single(values, "out", "runs")))
    workers = _workers(values)
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
    return _execute_all(list(jobs.values()), out, command, workers)


def _single(values: dict[str, list[Any]], key: str, default: Any) -> Any:
    found = values.pop(key, [default])
    if len(found) > 1:
        raise ConfigError(f"{key} takes one value, got {len(found)}")
    return found[0]


def _workers(values: dict[str, list[Any]]) -> int:
    launcher = _single(values, "launcher", "sequential")
    workers = _single(values, "workers", os.cpu_count() or 1)
    if launcher not in ("sequential", "local"):
        raise ConfigError(unknown("launcher", str(launcher), ["sequential", "local"]))
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ConfigError(f"workers must be a whole number of 1 or more, got {workers}")
    return workers if launcher == "local" else 1


def _execute_all(jobs: Sequence[Any], out: Path, command: Command, workers: int) -> int:
    from cl_framework.launch import execute_all
    from cl_framework.report import product_table, run_table
    from cl_framework.tracking import HINT, wandb_mode

    console, progress = Console(), Console(stderr=True)
    if any(job.tracking.wandb == "auto" and wandb_mode("auto") == "disabled" for job in jobs):
        progress.print(HINT, highlight=False, soft_wrap=True)
    line = " ".join(["clf", command.verb, *(f"{key}={_text(values)}" for key, values in command.values.items())])
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        summaries, failures = execute_all(jobs, out, line, progress, workers)
    finally:
        signal.signal(signal.SIGTERM, before)
    if len(summaries) == 1:
        console.print(run_table(summaries[0]))
    elif summaries:
        console.print(product_table(summaries))
    for failure in failures:
        print("\n".join(f"clf: {failure.label}: {text}" for text in str(failure.error).splitlines()), file=sys.stderr)
    return max((failure.error.exit_status for failure in failures), default=0)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Stopped


def _text(values: Sequence[Any]) -> str:
    return ",".join("null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
                    for value in values)


def _resume(command: Command) -> int:
    from cl_framework.launch import check_job
    from cl_framework.runs import RunFolder

    path = _take(command, ["run"]).get("run")
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
    return _execute_all([job], out, command, 1)


def _report(command: Command) -> int:
    from cl_framework.report import FORMATS, groups, report

    experiments = [str(name) for name in command.values.get("experiment", [])]
    plain = {key: values for key, values in command.values.items() if key != "experiment"}
    given = _take(replace(command, values=plain), ["runs", "format", "experiment"])
    path, style = Path(str(given.get("runs", "runs"))), str(given.get("format", "text"))
    if style not in FORMATS:
        raise ConfigError(unknown("format", style, FORMATS))
    if experiments:
        from cl_framework.comparison import COMPARISON_FORMATS
        from cl_framework.published import compare, published
        print(COMPARISON_FORMATS[style](compare(published(experiments), groups(path))))
    else:
        report(path, style)
    return 0


def _list(command: Command) -> int:
    from cl_framework.listing import describe
    from cl_framework.presets import headline, preset_names

    kind = _take(command, ["kind"]).get("kind")
    if kind == "experiment":
        for name in preset_names(kind):
            print(f"  {name:36} {headline(kind, name)}")
        return 0
    if kind is not None and kind not in GROUPS:
        raise ConfigError(unknown("kind", str(kind), [*GROUPS, "experiment"]))
    for group in GROUPS if kind is None else [str(kind)]:
        print(f"{group}=")
        for name, point in plugins(group).items():
            try:
                summary = describe(point).summary
            except (ClfError, SyntaxError, OSError) as error:
                summary = f"BROKEN: {error}"
            print(f"  {name:30} {summary}")
        print()
    if kind is None:
        print(f"experiment=\n  {len(preset_names('experiment'))} presets: clf list kind=experiment")
    return 0


def _show(command: Command) -> int:
    from importlib.metadata import EntryPoint

    from cl_framework.listing import describe

    given = _take(command, [*GROUPS, *_RECIPES])
    if len(given) != 1:
        raise ConfigError("say what to show: clf show strategy=er, or train=recipe, trainer=hardware, track=tracking")
    (kind, name), = given.items()
    for part in str(name).split("+"):
        point = EntryPoint(kind, _RECIPES[kind], "") if kind in _RECIPES else find(kind, part)
        card = describe(point)
        prefix = f"{kind}.{part}." if "+" in str(name) else f"{kind}."
        print(f"{kind}={part}  ({card.path})\n\n{card.text}\n")
        if card.module_text and kind == "strategy":
            print(f"{card.module_text}\n")
        for field in card.fields:
            print(f"  {prefix}{field.name}: {field.kind} = {field.default}")
            print("".join(f"      {line}\n" for line in field.text.splitlines()), end="")
    return 0


def _check(command: Command) -> int:
    from cl_framework.checks import run_checks

    given = _take(command, ["strategy", "scenario", "metric"])
    if len(given) != 1:
        raise ConfigError("say what to check: clf check strategy=er (or scenario=..., metric=...)")
    (kind, name), = given.items()
    outcomes = run_checks(kind, str(name))
    for outcome in outcomes:
        print(f"  {outcome.status:8} {outcome.name:36} {outcome.reason}".rstrip())
    failed = sum(not outcome.is_fine for outcome in outcomes)
    print(f"{kind}={name}: {len(outcomes) - failed} of {len(outcomes)} checks hold")
    return 1 if failed else 0


def _data(command: Command) -> int:
    from cl_framework.registry import load
    from cl_framework.sources import Source

    name = _take(command, ["get"]).get("get")
    if name is not None:
        source: Source = load("dataset", str(name))
        images = source.load()
        print(f"{name}: {len(images.train_y)} training and {len(images.test_y)} test rows, {source.cache_file}")
        return 0
    names = plugins("dataset")
    width = max(map(len, names))
    for known in names:
        source = load("dataset", known)
        print(f"  {known:{width}} {source.status()}")
    return 0


VERBS: dict[str, Callable[[Command], int]] = {
    "train": _train, "resume": _resume, "report": _report, "list": _list, "show": _show, "check": _check,
    "data": _data,
}

if __name__ == "__main__":
    sys.exit(main())
