"""What a run folder says of its run while that is under way. Files are read, and nothing is locked. Imports no torch.

The time left is pace * (T - k) - t, k of T experiences being learned and t seconds gone since the last of them:

    pace = max(w, s) / k

w is the time since the process began, s the training seconds of all k. In a run that was never stopped w >= s, as w has
evaluation in it; in a resumed one w may cover a few experiences only, and s is the better bound.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cl_framework.experience_figures import short_name
from cl_framework.plain_files import read_bytes

State = Literal["running", "changed", "stopped", "finished", "damaged"]
"""`running`: a process of this machine holds its lock. `changed`: none does, as far as can be seen from here, and its
files changed within five minutes. `damaged`: its summary cannot be read."""

_PATIENCE = 300.0
_NOT_HERE = {"wandb", "checkpoints", "tensorboard"}


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A run as its folder shows it.

    Attributes:
        folder: the run folder.
        state: what is known of its process.
        n_experiences: T, 0 while it is not known.
        n_done: experiences learned and evaluated.
        current: the name of the one being learned, empty where it has none.
        accuracy: mean over the experiences so far, as a fraction.
        error: online error, the mean over the experiences so far, as a fraction; of streams without labels.
        seconds: spent on training.
        left: seconds until its end, roughly; None while the first experience is learned.
        age: seconds since one of its files changed.
    """

    folder: Path
    state: State
    n_experiences: int = 0
    n_done: int = 0
    current: str = ""
    accuracy: float | None = None
    error: float | None = None
    seconds: float = 0.0
    left: float | None = None
    age: float = 0.0

    @property
    def is_over(self) -> bool:
        """Nothing more is to be expected."""
        return self.state in ("stopped", "finished", "damaged")


def run_folders(path: Path) -> Iterator[Path]:
    """The run folders at or below a path, those of a search (`tune/`) only where the path lies inside it."""
    for name, folders, names in os.walk(path):
        folders[:] = sorted(set(folders) - _NOT_HERE - {"tune"})
        if "config.yaml" in names or ".lock" in names:
            folders.clear()
            yield Path(name)


def look(folder: Path, held: Iterable[int], now: float) -> Watched:
    """A run as it is now.

    Args:
        folder: its folder.
        held: what `held_locks` says.
        now: seconds since the epoch.
    """
    summary = _text(folder / "summary.json")
    if summary:
        return _finished(folder, summary)
    changes = {file.name: _changed(file) for file in (folder / name for name in (
        ".lock", "environment.json", "metrics.jsonl", "experiences.csv", "steps.csv"))}
    age = max(now - max(changes.values()), 0.0)
    lock = _inode(folder / ".lock")
    state: State = "running" if lock in held else "changed" if age < _PATIENCE else "stopped"
    lines = _objects(_text(folder / "metrics.jsonl"))
    begun = list(csv.DictReader(_text(folder / "experiences.csv").splitlines()))
    n_done, n_experiences = len(lines), max(_text(folder / "accuracy.csv").partition("\n")[0].count(","), 0)
    seconds = sum(_number(line.get("seconds")) or 0.0 for line in lines)
    left = None
    if n_done and n_experiences and state != "stopped":
        spent = changes["metrics.jsonl"] - changes["environment.json"]
        pace = max(spent, seconds) / n_done
        left = max(pace * (n_experiences - n_done) - (now - changes["metrics.jsonl"]), 0.0)
    errors = [_number(row.get("online_error")) for row in begun[:n_done]]
    accuracy = _number(lines[-1].get("average_accuracy")) if lines else None
    return Watched(
        folder=folder, state=state, n_experiences=n_experiences, n_done=n_done, accuracy=accuracy,
        current=short_name(str(begun[n_done].get("name") or "")) if len(begun) > n_done else "",
        error=_mean(errors) if accuracy is None else None, seconds=seconds, left=left, age=age)


def held_locks() -> frozenset[int]:
    """The inodes of files that a process of this machine has locked as runs do; none where there is no Linux."""
    lines = (line.split() for line in _text(Path("/proc/locks")).splitlines())
    return frozenset(int(words[5].rpartition(":")[2]) for words in lines if len(words) > 5 and words[1] == "FLOCK")


def _finished(folder: Path, text: str) -> Watched:
    try:
        summary = json.loads(text)
        metrics, matrix = summary["metrics"], summary["accuracy_matrix"]
        error = _number(metrics.get("online_error")) if "calibration_error" in metrics else None
        return Watched(
            folder=folder, state="finished", n_experiences=len(matrix), n_done=len(matrix), error=error,
            accuracy=_number(metrics.get("average_accuracy")) if error is None else None,
            seconds=_number(summary.get("seconds")) or 0.0, left=0.0)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Watched(folder=folder, state="damaged")


def _objects(text: str) -> list[Mapping[str, Any]]:
    """The objects of a file with one a line, up to the first that is none."""
    found: list[Mapping[str, Any]] = []
    for line in text.splitlines():
        try:
            each = json.loads(line)
        except ValueError:
            break
        if not isinstance(each, dict):
            break
        found.append(each)
    return found


def _text(file: Path) -> str:
    """What a file holds; nothing where there is none."""
    try:
        return read_bytes(file).decode(errors="replace").replace("\0", "")
    except (OSError, ValueError):
        return ""


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _inode(file: Path) -> int:
    try:
        return file.stat().st_ino
    except OSError:
        return -1


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


class Look:
    """Looks at the runs below a path again and again; a finished one is read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[Path, tuple[float, Watched]] = {}

    def __call__(self) -> list[Watched]:
        """The runs that there are now, in the order of their folders."""
        held, now = held_locks(), time.time()
        return [self._at(folder, held, now) for folder in run_folders(self._path)]

    def _at(self, folder: Path, held: Iterable[int], now: float) -> Watched:
        written = _changed(folder / "summary.json")
        when, known = self._known.get(folder, (-1.0, None))
        if known is None or when != written or not known.is_over or known.state == "stopped":
            known = look(folder, held, now)
            self._known[folder] = written, known
        return known
