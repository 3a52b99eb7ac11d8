"""Command lines that are nearly right: valid ones, spoiled in words, keys, values and signs, given to `clf` in process.

    python benchmarks/faults/fuzz_commands.py              # the next thousand seeds
    python benchmarks/faults/fuzz_commands.py 0..99999

Nothing is trained and nothing is fetched: what would cost more than a moment ends where it would begin. All before that
is real: grammar, presets, configuration, checks of plugins, reports of finished runs. The counts are kept in
runs/reference/fuzz_commands.json.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from fuzzing import Watch, run

from cl_framework import cli
from cl_framework.errors import ClfError

VALID = ("train scenario=split_digits strategy=er seed=0..2", "train scenario=split_digits strategy=er,lwf out=runs",
    "train scenario=split_digits strategy=er+lwf strategy.er.memory_size=100 strategy.lwf.temperature=2",
    "train scenario=split_digits strategy=naive model=cnn train.lr=0.1 train.epochs=2 train.batch_size=32",
    "train scenario=split_digits strategy=ewc strategy.importance=10 order_seed=0,1 phase=tuning",
    "train scenario=split_digits strategy=psmt train.optimizer=sgd train.clip=1.0 train.scheduler=cosine",
    "train scenario=split_digits strategy=naive trainer.threads=1 trainer.device=cpu track.wandb=disabled",
    "train scenario=permuted scenario.dataset=digits scenario.n_experiences=3 strategy=si",
    "train scenario=custom scenario.path=data.npz scenario.n_experiences=3 strategy=er",
    "train experiment=hsu2018/class/ewc seed=0", "train scenario=split_digits strategy=naive model.hidden=[32,32]",
    "train scenario=split_digits strategy=naive launcher=local workers=2", "resume run=runs/a/b/c/seed0",
    "tune scenario=split_digits strategy=er protocol=gtep_lite", "evaluate tuned=best.yaml",
    "tune scenario=split_digits strategy=er,lwf search.trials=4 search.seeds=2 search.storage=sqlite:///x.db",
    "protocol scenario=split_digits strategy=er,lwf protocol=gtep_lite defaults=false",
    "merge base=a.safetensors experts=b.safetensors,c.safetensors method=opcm out=e.safetensors alpha=0.6",
    "report runs=runs format=text", "report runs=runs format=json", "report runs=runs format=csv metric=stability",
    "report runs=runs format=markdown against=er", "report runs=runs experiment=hsu2018/class/ewc",
    "report protocol=c.json", "diagnose run=runs format=text", "list", "list kind=strategy", "list kind=experiment",
    "show strategy=er", "show strategy=er+lwf", "show train=recipe", "show search=search", "check strategy=er",
    "check protocol=p.json", "data", "data get=digits", "new strategy name=my_method", "--help", "--version",
    "train --debug seed=1")
_SIGNS = ("=", ",", "..", "[", "]", "{", "}", "'", '"', ":", "-", "--", ".", "+", " ", "\t", "\n", "\\", "|", "#",
    "&a ", "*a", "!!int ", "!!python/object:os.system ", "%", "\0", "\udcff", "é", "\u202e", "\x1b[31m", "[red]",
    "[/x]", "$HOME", "`id`", ";", "~", "@", "٣")
_VALUES = ("", "null", "true", "false", "0", "1", "-1", "1e-3", "1e999", "nan", "inf", "-inf", "0..9", "9..0",
    "0..99999", "1" * 30, "1" * 5000, "9223372036854775807", "[]", "{}", "[[1,2],[3]]", "{a: 1}", "[1", "{a", "'",
    "[" * 200, "{a: " * 200, "[2024-13-45]", "[2024-11-21]", "[&a [1], *a]", "&a [*a]", "[!!int x]", "er", "er+er",
    "+er", "er+", "psnt", "json:loads", "no_module:Class", "a:b:c", "../..", "/dev/null", "/proc/self/mem", "x" * 300,
    "x/" * 200, "~", "file:///etc/passwd", "sqlite://", "postgresql://user:secret@nowhere/db", "ray", "local",
    "split_digits", "split_mnist", "custom", "text", "json", "csv", "markdown", "latex", "html", "mlp", "0.5")


def spoiled(draws: Random, keys: list[str]) -> list[str]:
    """A command line, from a valid one by one to five changes."""
    words = draws.choice(VALID).split(" ")
    for _ in range(draws.choice((1, 1, 1, 2, 2, 3, 5))):
        at = draws.randrange(len(words)) if words else 0
        kind = draws.randrange(9)
        if not words or kind == 0:
            words.insert(at, f"{draws.choice(keys)}={draws.choice(_VALUES)}")
        elif kind == 1:
            del words[at]
        elif kind == 2:
            words.insert(at, words[draws.randrange(len(words))])
        elif kind == 3:
            words[at] = f"{words[at].partition('=')[0]}={draws.choice(_VALUES)}"
        elif kind == 4:
            words[at] = f"{draws.choice(keys)}={words[at].partition('=')[2]}"
        elif kind == 5:
            words[at] = words[at] + draws.choice((",", "..", "+", "=")) + draws.choice(_VALUES)
        elif kind == 6:
            words[0] = draws.choice(VALID).split(" ")[0]
        else:
            cut = draws.randrange(len(words[at]) + 1)
            end = min(len(words[at]), cut + draws.randint(0, 3))
            words[at] = words[at][:cut] + draws.choice(_SIGNS) + words[at][end:]
    return words


def fuzzer(folder: Path) -> Callable[[Watch, int], None]:
    """Prepare `clf` in a folder; what tries one seed."""
    _finished_runs(folder / "runs")
    _stop_before_the_work()
    for line in VALID:  # whatever is imported or cached at the first time
        _status(line.split(" "))
    keys = sorted({word.partition("=")[0] for line in VALID for word in line.split(" ")[1:]})

    def attempt(watch: Watch, seed: int) -> None:
        words = spoiled(Random(seed), keys)
        watch.attempt(seed, " ".join(words), lambda: _status(words))

    return attempt


def _status(words: list[str]) -> str:
    """How a command ended; what nobody explains is raised."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(words)
        except ClfError as error:
            if "--debug" in words:
                return f"exit {error.exit_status}"
            raise
    for sentence in ("unexpected", "something called sys.exit", "the memory of this machine is full"):
        if f"clf: {sentence}" in err.getvalue():
            raise AssertionError(err.getvalue()[-800:])
    return f"exit {status}"


def _finished_runs(out: Path) -> None:
    """Two runs to report on."""
    for seed in (0, 1):
        folder = out / "split_digits" / "er" / "0123456789" / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({
            "scenario": "split_digits", "strategy": "er", "model": "mlp", "seed": seed, "order_seed": None,
            "phase": "single", "protocol": "single-phase", "config_hash": "0123456789", "git_commit": None,
            "metrics": {"average_accuracy": 0.5 + 0.1 * seed, "stability": 0.4}, "status": "finished", "seconds": 1.5,
            "accuracy_matrix": [[0.9, None], [0.5, 0.5 + 0.2 * seed]], "strategy_fields": {"er.memory_size": 100}}))


def _stop_before_the_work() -> None:
    """End each verb where it would train, search, fetch, check or write."""
    from cl_framework import (
        checks,
        contest,
        evaluation,
        keys,
        launch,
        merge_files,
        new,
        plan,
        report_page,
        sources,
        tuning,
        working,
    )

    class Reached(ClfError):
        """All that stands before the work has been passed."""

    def stop(*_: Any, **__: Any) -> Any:
        raise Reached("the work would begin here")

    @contextlib.contextmanager
    def launched(values: dict[str, list[Any]]) -> Iterator[Any]:
        yield keys.launcher_of(values)

    cli.atexit.register = lambda *_: None  # type: ignore[assignment]
    logging.raiseExceptions = False
    working._launched = launched  # type: ignore[assignment]
    for module, name in ((launch, "check_job"), (launch, "execute_all"), (tuning, "tune"), (evaluation, "evaluate"),
                         (contest, "contest"), (checks, "run_checks"), (merge_files, "merge_files"),
                         (plan, "check_job"), (new, "write_package"), (report_page, "write_page"),
                         (report_page, "write_pictures")):
        vars(module)[name]  # it is still called so
        setattr(module, name, stop)
    sources.Source.load = stop  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(run("fuzz_commands", fuzzer, sys.argv[1:]))
