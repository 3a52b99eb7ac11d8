"""Phase 1 of the two-phase protocol: search hyperparameters on the tuning stream, and write down the winner.

Source: Cha and Cho, Hyperparameters in Continual Learning: A Reality Check, TMLR 2025 (GTEP). R trials of S seeds are
R x S ordinary runs in the study's folder. Nothing here opens an evaluation stream.
"""

from __future__ import annotations

import platform
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from cl_framework.apart import refuse_overlap
from cl_framework.errors import ClfError, ConfigError, Stopped
from cl_framework.frozen import read_tuned
from cl_framework.isolation import only
from cl_framework.launch import open_stream
from cl_framework.plan import Plan
from cl_framework.runs import RunFolder
from cl_framework.study import STALE, Ledger
from cl_framework.trials import Score, Trial, is_hopeless
from cl_framework.tuned import FILE, content, write_tuned
from cl_framework.tuning_pool import Key, Outcome, Pool, Task, processes
from cl_framework.tuning_table import Board


@dataclass(frozen=True)
class Tuned:
    """A search that is over."""

    plan: Plan
    trials: tuple[Trial, ...]
    path: Path


def tune(plan: Plan, workers: int, command: str, console: Console, pool: Pool | None = None) -> Tuned:
    """Run a search, or go on with it, and write its `best.yaml`.

    Args:
        plan: what is declared.
        workers: how many processes; 1 runs in this one.
        command: the command line, for the record of each run.
        console: where progress is shown.
        pool: how tasks are run; processes of this machine when None.

    Raises:
        ClfError: the search cannot begin or cannot go on, or no run of it finished.
    """
    refuse_overlap(plan, console)
    folder, job = plan.folder, plan.job(plan.first, 0)
    with RunFolder(folder).locked(), only(job.scenario, job.name("scenario"), job.phase):
        storage = plan.search.storage
        holder = "this folder" if storage is None else f"{platform.node()}:{folder.resolve()}"
        name = " ".join(folder.parts[-3:])
        ledger = Ledger(name, plan.space, folder, storage, holder)
        ledger.begin_on(open_stream(job).provenance)
        ledger.put_down(plan.draws())
        search = _Search(plan, ledger, _board(plan, console))
        search.run(pool or processes(folder / "runs", command, workers), console)
        trials = tuple(ledger.trials()[number] for number in range(plan.n_trials))
        if search.n_scored or not _stands(folder / FILE, console):
            write_tuned(folder / FILE, content(plan, trials, ledger.spend(0.0)))
    return Tuned(plan, trials, folder / FILE)


def _stands(file: Path, console: Console) -> bool:
    """Whether a finished search has its `best.yaml`, as phase 2 would read it."""
    if not file.exists():
        return False
    try:
        read_tuned(file)
    except ClfError as error:
        reason = str(error).partition(";")[0]
        console.print(f"note: {reason}; it is written anew from the scores of the search", highlight=False,
                      soft_wrap=True)
        return False
    return True


def _board(plan: Plan, console: Console) -> Board:
    job = plan.job(plan.first, 0)
    title = f"{job.name('scenario')} {plan.strategy} {plan.protocol or 'tune'}"
    return Board(console, title, plan.search.metric, plan.n_trials * plan.search.seeds, plan.search.seeds)


class _Search:
    """Which run is next, and what its score means. Tasks may be asked for in another thread than scores come in."""

    def __init__(self, plan: Plan, ledger: Ledger, board: Board) -> None:
        self._plan, self._ledger, self._board = plan, ledger, board
        self._chance = plan.chance
        self._pending: deque[tuple[int, int]] = deque()
        self._flying: dict[Key, tuple[Task, list[tuple[int, int]]]] = {}
        self._again: deque[Task] = deque()
        self._scores: dict[Key, Score] = {}
        self._mine: set[int] = set()
        self._lock = threading.RLock()
        self._fault: Exception | None = None
        self._since = time.monotonic()
        self.n_scored = 0
        """Runs that were scored in this start."""

    def run(self, pool: Pool, console: Console) -> None:
        """Until every trial is over."""
        self._board.start(self._trials())
        deaths = 0
        try:
            with self._alive():
                while not self._is_over():
                    before = self.n_scored
                    try:
                        for outcome in pool(self._tasks()):
                            self._take(outcome)
                        if self._fault is not None:
                            raise self._fault
                    except BrokenProcessPool as error:
                        deaths = deaths + 1 if self.n_scored == before else 1
                        if deaths > 3:
                            raise ClfError("worker processes die one after the other (out of memory?); take fewer with "
                                           "workers=, and give the same command again: finished runs are kept"
                                           ) from error
                        self._give_back()
                    else:
                        if not self._is_over():
                            time.sleep(1.0)  # other machines hold the rest
        except (KeyboardInterrupt, Stopped):
            trials = self._trials()
            n_scores = sum(len(trial.scores) for trial in trials)
            console.print(f"stopped with {n_scores} runs scored and {sum(trial.is_over for trial in trials)} of "
                          f"{self._plan.n_trials} trials over; give the same command again to go on, no trial is drawn "
                          "again", highlight=False, soft_wrap=True)
            raise
        finally:
            with suppress(Exception):
                self._clock()
            self._board.close()

    def _trials(self) -> list[Trial]:
        with self._lock:
            return [trial for number, trial in self._ledger.trials().items() if number < self._plan.n_trials]

    def _is_over(self) -> bool:
        trials = self._trials()
        return len(trials) == self._plan.n_trials and all(trial.is_over for trial in trials)

    def _tasks(self) -> Iterator[Task]:
        """Runs to do. A pool may ask in a thread of its own, where an error would be lost; it is kept for `run`."""
        try:
            while (task := self._next()) is not None:
                yield task
        except Exception as error:
            self._fault = error

    def _next(self) -> Task | None:
        """A run that nobody does yet; None while there is none."""
        with self._lock:
            if self._again:
                return self._again.popleft()
            while True:
                if not self._pending and not self._fill():
                    return None
                number, seed = self._pending.popleft()
                trial = self._ledger.trials()[number]
                if trial.is_over:
                    continue
                job = self._plan.job(trial.values, seed)
                key = (job.hash, seed)
                if key in self._scores:
                    self._score(number, seed, self._scores[key])
                elif key in self._flying:
                    self._flying[key][1].append((number, seed))
                else:
                    task = Task(key, job.tree, job.experiences)
                    self._flying[key] = (task, [(number, seed)])
                    return task

    def _fill(self) -> bool:
        """Take one more trial; whether there was one."""
        trials = self._ledger.trials()
        for number, trial in trials.items():
            if number < self._plan.n_trials and number not in self._mine and not trial.is_over \
                    and self._ledger.claim(number):
                return self._begin(number)
        if self._plan.search.sampler == "tpe" and len(trials) < self._plan.n_trials:
            return self._begin(self._ledger.ask(self._plan.strategy))
        return False

    def _begin(self, number: int) -> bool:
        self._mine.add(number)
        trial = self._ledger.trials()[number]
        left = [seed for seed in range(self._plan.search.seeds) if seed not in trial.scores]
        self._pending.extend((number, seed) for seed in left)
        if not left:  # it died between its last score and its end
            self._judge(trial)
        return True

    def _take(self, outcome: Outcome) -> None:
        with self._lock:
            _, waiting = self._flying.pop(outcome.key)
            summary = outcome.summary or {}
            k = self._plan.search.experiences
            if summary and k and len(summary["accuracy_matrix"]) != k:
                raise ConfigError(f"{summary['path']} learned {len(summary['accuracy_matrix'])} experiences, but "
                                  f"search.experiences={k}; remove that folder and give the same command again")
            score = Score.of(summary.get("metrics", {}), self._plan.search.metric, self._chance,
                             summary.get("seconds") or 0.0, outcome.failure)
            self._scores[outcome.key] = score
            for number, seed in waiting:
                self._score(number, seed, score)
            self._clock()

    def _score(self, number: int, seed: int, score: Score) -> None:
        self.n_scored += 1
        trial = self._ledger.trials()[number]
        if trial.is_over:  # pruned while this run was under way
            return
        self._ledger.record(number, seed, score)
        self._judge(replace(trial, scores={**trial.scores, seed: score}))
        self._board.scored(self._trials(), number, seed)

    def _judge(self, trial: Trial) -> None:
        """End a trial that is whole, or hopeless."""
        assert trial.mean is not None
        n_seeds = self._plan.search.seeds
        if len(trial.scores) == n_seeds:
            self._ledger.end(trial.number, trial.end(), trial.mean)
        elif self._plan.search.stop == "median" and is_hopeless(trial, self._trials(), n_seeds):
            self._ledger.end(trial.number, "pruned", trial.mean)

    def _give_back(self) -> None:
        """What a dead process had is done again."""
        with self._lock:
            self._again.extend(task for task, _ in self._flying.values() if task not in self._again)

    def _clock(self) -> None:
        now = time.monotonic()
        self._ledger.spend(now - self._since)
        self._since = now

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Tell those who share the storage, now and then, that our trials are being run."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(STALE / 4):
                with self._lock, suppress(Exception):  # a storage that is away for a moment; scores will tell
                    self._ledger.beat(trial.number for trial in self._trials()
                                      if trial.number in self._mine and not trial.is_over)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
