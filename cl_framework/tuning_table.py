"""What a search shows: a live table in a terminal, a line a run elsewhere, and the table of its trials at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cl_framework.trials import Trial, leader


def shown(values: Mapping[str, Any]) -> str:
    """Hyperparameters in a line, each by the shortest name that tells it apart.

    >>> shown({"train.lr": 0.1, "strategy.psmt.kappa": 1.0})
    'lr=0.1 kappa=1.0'
    """
    last = [key.rpartition(".")[2] for key in values]
    return " ".join(f"{name if last.count(name) == 1 else key}={'null' if value is None else value}"
                    for name, (key, value) in zip(last, values.items(), strict=True))


def percent(mean: float | None) -> str:
    """A fraction as the reader sees it."""
    return "" if mean is None else f"{100 * mean:.2f}"


def time_text(seconds: float) -> str:
    """A duration in a word.

    >>> time_text(42.4), time_text(600), time_text(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def trials_table(trials: Sequence[Trial], n_seeds: int, title: str, metric: str, caption: str = "") -> Table:
    """The trials, each with its hyperparameters, its mean over the seeds so far, and its state."""
    best = leader(trials)
    table = Table(title=f"{title}\nmean over seeds of {metric}", title_justify="left", caption=caption or None,
                  caption_justify="left", box=None, min_width=len(title))
    for heading in ("trial", "hyperparameters", "mean %", "seeds", "state"):
        is_text = heading in ("hyperparameters", "state")
        table.add_column(heading, justify="left" if is_text else "right", overflow="fold",
                         no_wrap=heading != "hyperparameters")
    for trial in trials:
        failed = f", {len(trial.failures)} failed" if trial.failures else ""
        state = "best" if trial is best else trial.state
        table.add_row(str(trial.number), shown(trial.values), percent(trial.mean), f"{len(trial.scores)}/{n_seeds}",
                      state + failed, style="bold" if trial is best else None)
    return table


class Board:
    """Follows a search.

    Args:
        console: where it is shown.
        title: what is searched.
        metric: the number that decides.
        n_runs: how many runs the search has in all.
        n_seeds: how many runs a trial has.
    """

    def __init__(self, console: Console, title: str, metric: str, n_runs: int, n_seeds: int) -> None:
        self._console, self._title, self._metric = console, title, metric
        self._n_runs, self._n_seeds = n_runs, n_seeds
        self._begun, self._at_first = time.monotonic(), -1
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None

    def start(self, trials: Sequence[Trial]) -> None:
        """Show where the search stands when it begins or goes on."""
        self._at_first = _runs_over(trials, self._n_seeds)
        self._begun = time.monotonic()
        if self._live is not None:
            self._live.start()
            self._draw(trials)
        elif self._at_first:
            self._console.print(f"{self._title}: goes on, {self._at_first} of {self._n_runs} runs are done",
                                highlight=False, soft_wrap=True)

    def scored(self, trials: Sequence[Trial], number: int, seed: int) -> None:
        """A run is over."""
        if self._live is not None:
            self._draw(trials)
            return
        trial = next(trial for trial in trials if trial.number == number)
        score = trial.scores[seed]
        ended = f"failed, counts as chance ({score.failure})" if score.failure else f"{percent(score.value)} %"
        self._console.print(f"{self._title}: trial {number} seed {seed} ({shown(trial.values)}): {ended}, mean "
                            f"{percent(trial.mean)} %{', pruned' if trial.state == 'pruned' else ''}; "
                            f"{self._standing(trials)}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the live table away."""
        if self._live is not None:
            self._live.stop()

    def _standing(self, trials: Sequence[Trial]) -> str:
        over = _runs_over(trials, self._n_seeds)
        fresh = over - self._at_first
        spent = time.monotonic() - self._begun
        to_do = self._n_runs - over
        left = f", about {time_text(spent / fresh * to_do)} left" if fresh and to_do else ""
        first = leader(trials)
        best = "" if first is None else f"best {percent(first.mean)} % (trial {first.number}), "
        return f"{best}{over} of {self._n_runs} runs{left}"

    def _draw(self, trials: Sequence[Trial]) -> None:
        assert self._live is not None
        begun = [trial for trial in trials if trial.state != "waiting"]
        room = max(self._console.height - 6, 4)
        active = begun[-room:]
        hidden = f"{len(begun) - len(active)} earlier trials not shown; " if len(begun) > len(active) else ""
        table = trials_table(active, self._n_seeds, self._title, self._metric)
        table.caption = Text(hidden + self._standing(trials))
        self._live.update(table, refresh=True)


def _runs_over(trials: Sequence[Trial], n_seeds: int) -> int:
    """Runs that need no more work; a pruned trial's are all over."""
    return sum(n_seeds if trial.is_over else len(trial.scores) for trial in trials)
