"""The runs of a search as tasks of a launcher: in this process, or in others that keep their streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from cl_framework.config import from_tree
from cl_framework.errors import Busy, ClfError, Diverged
from cl_framework.launch import dead, execute, open_stream
from cl_framework.launchers import chosen
from cl_framework.memory_of_runs import load_of
from cl_framework.pool import Lost

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


_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""How torch says, in a plain RuntimeError, that a CPU has no memory left."""

Pool = Callable[[Iterable[Task]], Iterable[Outcome]]
"""Runs tasks, and takes the next one when it has room for it."""


def attempt(task: Task, out: Path, command: str) -> Outcome:
    """Run a task in this process; a run that fails by itself is an outcome, too.

    Raises:
        ClfError: the data, the machine or a plugin is at fault, not the hyperparameters.
    """
    job = replace(from_tree(task.tree), experiences=task.experiences)
    while True:
        try:
            return Outcome(task.key, summary=execute(job, out, command, Console(quiet=True, markup=False)))
        except Busy:  # a process that a killed search left behind is about to finish it
            time.sleep(0.2)
        except Diverged as error:
            return Outcome(task.key, failure=str(error))
        except ClfError:
            raise
        except Exception as error:
            if is_of_the_machine(error):
                raise ClfError(f"seed {task.key[1]} of {task.key[0]}: {type(error).__name__}: {error}; memory or disk "
                               "is short, which says nothing about hyperparameters. Take fewer at a time with "
                               "workers=, or what needs so much out of its grid, and give the same command again: "
                               "finished runs are kept") from error
            return Outcome(task.key, failure=f"{type(error).__name__}: {error}")


def is_of_the_machine(error: Exception) -> bool:
    """Whether memory, disk or files are at fault, so that the same run may well finish another time.

    >>> is_of_the_machine(MemoryError()), is_of_the_machine(ZeroDivisionError())
    (True, False)
    """
    return isinstance(error, MemoryError | OSError | torch.OutOfMemoryError) or _NO_MEMORY in str(error)


def processes(out: Path, command: str, workers: int) -> Pool:
    """The pool of this command's launcher.

    Args:
        out: root of the run folders.
        command: the command line, for the record of each run.
        workers: how many at once, where the command has chosen no launcher; 1 runs in this process.
    """
    def pool(tasks: Iterable[Task]) -> Iterator[Outcome]:
        waiting = iter(tasks)
        first = next(waiting, None)
        if first is None:
            return
        job = replace(from_tree(first.tree), experiences=first.experiences)
        launcher = chosen(workers)
        load = load_of([job], open_stream)
        with closing(launcher.run(partial(attempt, out=out, command=command), chain([first], waiting), load)) as done:
            for task, outcome in done:
                if isinstance(outcome, Lost):
                    raise ClfError(f"seed {task.key[1]} of {task.key[0]}: {dead(outcome)}")
                yield outcome

    return pool
