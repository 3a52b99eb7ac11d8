"""Where the runs of a search are done: in this process, or in a pool of processes that keep their streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from cl_framework.config import from_tree
from cl_framework.errors import Busy, ClfError, Diverged
from cl_framework.launch import execute

Key = tuple[str, int]
"""Hash of the configuration and seed: what a run is known by."""


@dataclass(frozen=True)
class Task:
    """One run that a process may take."""

    key: Key
    tree: dict[str, Any]
    experiences: int


@dataclass(frozen=True)
class Outcome:
    """What became of a task: a summary, or why there is none."""

    key: Key
    summary: dict[str, Any] | None = None
    failure: str | None = None


Pool = Callable[[Iterable[Task]], Iterable[Outcome]]
"""Runs tasks, and takes the next one when it has room for it."""


def attempt(task: Task, out: Path, command: str) -> Outcome:
    """Run a task in this process; a run that fails by itself is an outcome, too.

    Raises:
        ClfError: the data, the disk or a plugin is at fault, not the hyperparameters.
    """
    job = replace(from_tree(task.tree), experiences=task.experiences)
    while True:
        try:
            return Outcome(task.key, summary=execute(job, out, command, Console(quiet=True)))
        except Busy:  # a process that a killed search left behind is about to finish it
            time.sleep(0.2)
        except Diverged as error:
            return Outcome(task.key, failure=str(error))
        except ClfError:
            raise
        except Exception as error:
            return Outcome(task.key, failure=f"{type(error).__name__}: {error}")


def processes(out: Path, command: str, workers: int) -> Pool:
    """A joblib pool of this machine; its processes keep their streams between runs."""
    def one_by_one(tasks: Iterable[Task]) -> Iterator[Outcome]:
        return (attempt(task, out, command) for task in tasks)

    def side_by_side(tasks: Iterable[Task]) -> Iterator[Outcome]:
        from joblib import Parallel, delayed

        pool = Parallel(n_jobs=workers, batch_size=1, pre_dispatch=workers, return_as="generator_unordered")
        outcomes: Generator[Outcome, None, None] = pool(delayed(attempt)(task, out, command) for task in tasks)
        try:
            yield from outcomes
        finally:
            outcomes.close()

    return side_by_side if workers > 1 else one_by_one
