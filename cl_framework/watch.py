"""`clf watch`: runs that are under way, as a table that is kept up to date; elsewhere than in a terminal once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cl_framework.errors import ConfigError
from cl_framework.grammar import Command
from cl_framework.keys import take
from cl_framework.watched import Look, State, Watched

_EVERY = 1.0
"""Seconds between two looks; more where a look takes long, so that it never keeps a core busy."""
_QUIET = 3.0
"""Seconds without a run under way after which a view ends: between two runs of a product there is a moment of none."""
_WIDE = 110
"""Columns of a terminal in which there is room for bars."""
_ORDER: Mapping[State, int] = {"running": 0, "changed": 1, "damaged": 2, "stopped": 3, "finished": 4}
_STYLES = {"running": "bold", "changed": "bold", "damaged": "red", "stopped": "yellow", "finished": "green"}


def watch_verb(command: Command) -> int:
    """See how far runs are, live."""
    given = take(command, ["run"])
    if "run" not in given:
        raise ConfigError("say what to watch: clf watch run=PATH of a run folder, or of a folder of runs")
    path = Path(str(given["run"]))
    if not path.is_dir():
        raise ConfigError(f"there is no folder {path}; give run=PATH of a run folder, or of a folder of runs such as "
                          "runs")
    console, looks = Console(markup=False), Look(path)
    if not console.is_terminal:
        console.width = max(console.width, _WIDE)  # names stay in one piece
    runs = looks()
    if not runs:
        raise ConfigError(f"there are no runs below {path}; start one with clf train, or name another folder with "
                          "run=PATH")
    if console.is_terminal and not all(run.is_over for run in runs):
        runs = _live(console, path, looks)
    n_rows = _rows(console) if console.is_terminal else len(runs)
    console.print(view(runs, path, n_rows, has_bars=_has_bars(console)))
    stopped = [run.folder for run in runs if run.state == "stopped"]
    if stopped:
        console.print(f"go on with: clf resume run={stopped[0]}", highlight=False, soft_wrap=True)
    return 0


def _live(console: Console, path: Path, looks: Callable[[], list[Watched]]) -> list[Watched]:
    """Show runs until none is under way, or the user has seen enough; the runs as they were last seen."""
    runs, last_active = looks(), time.monotonic()
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                begun = time.monotonic()
                runs = looks()
                live.update(view(runs, path, _rows(console), has_bars=_has_bars(console)), refresh=True)
                last_active = last_active if all(run.is_over for run in runs) else begun
                if begun - last_active > _QUIET:
                    return runs
                time.sleep(max(_EVERY, 9 * (time.monotonic() - begun)))
    except KeyboardInterrupt:  # the view ends, the runs go on
        return runs


def _rows(console: Console) -> int:
    """How many runs fit."""
    return max(console.height - 5, 3)


def _has_bars(console: Console) -> bool:
    """Whether there is room for bars beside the names."""
    return console.is_terminal and console.width >= _WIDE


def view(runs: Sequence[Watched], path: Path, n_rows: int, *, has_bars: bool) -> RenderableType:
    """A table of runs, those under way first, and a line that counts them all.

    Args:
        runs: what was seen.
        path: where it was looked; folders are named from there.
        n_rows: how many runs are shown at most.
        has_bars: show a bar over each stream.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("run", overflow="fold")
    for heading in ("state", "experience", *[""] * has_bars):
        table.add_column(heading, no_wrap=True)
    for heading in ("accuracy", "time", "left"):
        table.add_column(heading, justify="right", no_wrap=True)
    ordered = sorted(runs, key=lambda run: (_ORDER[run.state], run.folder))
    for run in ordered[:n_rows]:
        bar = [ProgressBar(total=max(run.n_experiences, 1), completed=run.n_done, width=12)] * has_bars
        table.add_row(*_place(run, path), *bar, *_figures(run))
    counts = Counter(run.state for run in runs)
    said = ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])
    hidden = f"; {len(ordered) - n_rows} are not shown" if len(ordered) > n_rows else ""
    times = [run.left for run in runs if run.left is not None and not run.is_over]
    longest = f"; the longest needs about {duration(max(times))} more" if len(times) > 1 else ""
    return Group(table, Text(f"{said}{hidden}{longest}"))


def _place(run: Watched, path: Path) -> list[RenderableType]:
    """Which run, what is known of it, and where in its stream it is."""
    name = run.folder.relative_to(path).as_posix()
    label = "/".join(run.folder.resolve().parts[-4:]) if name == "." else name
    state = f"changed {duration(run.age)} ago" if run.state == "changed" else run.state
    n, current = run.n_experiences, run.n_done + (not run.is_over and run.n_done < run.n_experiences)
    place = f"{current}/{n}{f'  {run.current}' if run.current else ''}" if n else ""
    return [escape(label), Text(state, style=_STYLES[run.state]), escape(place)]


def _figures(run: Watched) -> list[RenderableType]:
    """How well it does, how long it took, and how long it will."""
    score = "" if run.accuracy is None else f"{100 * run.accuracy:.1f} %"
    if run.error is not None:
        score = f"error {100 * run.error:.1f} %"
    return [score, duration(run.seconds), "" if run.left is None or run.is_over else f"about {duration(run.left)}"]


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(7.4), duration(75), duration(7260), duration(200000)
    ('7 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"
