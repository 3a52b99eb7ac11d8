"""Progress of a run: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cl_framework.experience import Experience
from cl_framework.experience_figures import short_name
from cl_framework.observer import Cursor, Observer
from cl_framework.record import StreamRecord
from cl_framework.types import StreamInfo

_MANY = 50
"""Accuracies that one line shows."""


def progress_for(console: Console, label: str) -> Observer:
    """The observer that suits where the output goes."""
    return Bars(console, label) if console.is_terminal else Lines(console, label)


def progress_before(console: Console, label: str, model: str) -> Observer:
    """The same for a model that is trained before a stream.

    Args:
        console: where the output goes.
        label: the run in a word.
        model: the name of the model.
    """
    return Bars(console, label, model) if console.is_terminal else Lines(console, label, model)


def accuracy_line(index: int, record: StreamRecord) -> str:
    """One line on an experience: the mean over the experiences so far, and each of them if they are not too many."""
    row = record.accuracy[index, : index + 1]
    head = f"experience {index + 1}/{record.n_experiences}  accuracy"
    if bool(row.isnan().any()):
        return f"{head} on it {100 * float(row[-1]):.1f} %"
    each = " ".join(f"{100 * value:.1f}" for value in row.tolist()) if len(row) <= _MANY else f"{len(row)} experiences"
    return f"{head} {100 * float(row.mean()):.1f} %  ({each})"


def error_line(index: int, record: StreamRecord, name: str) -> str:
    """One line on an experience of an unlabelled stream: its online error, the mean so far, and clean rows after it."""
    what = f"{short_name(name)}: " if name else ""
    return f"experience {index + 1}/{record.n_experiences}  {what}{_errors(index, record)}"


def _errors(index: int, record: StreamRecord) -> str:
    errors = 1 - record.online[: index + 1]
    return (f"error {100 * float(errors[-1]):.1f} %, mean so far {100 * float(errors.mean()):.1f} %, "
            f"clean rows {100 * float(record.accuracy[index, index]):.1f} % right")


class Lines(Observer):
    """One line an experience, with the time left."""

    def __init__(self, console: Console, label: str, before: str = "") -> None:
        self._console, self._label, self._before = console, label, before
        self._begun, self._first = time.monotonic(), 0
        self._is_labelled, self._name = True, ""

    def started(self, info: StreamInfo, record: StreamRecord, cursor: Cursor) -> None:
        """Say what begins or goes on."""
        self._begun, self._first, self._is_labelled = time.monotonic(), record.n_done, info.is_labelled
        verb = f"goes on at experience {record.n_done + 1} of" if record.n_done else (
            "learns" if info.is_labelled else "adapts to")
        what = f"trains {self._before} before the stream" if self._before else (
            f"{verb} {info.n_experiences} experiences, "
            f"{'of language' if info.is_language else f'{info.n_classes} classes'}")
        self._say(what)

    def experience_started(self, experience: Experience, n_steps: int) -> None:
        """Keep its name."""
        self._name = experience.name

    def evaluated(self, index: int, record: StreamRecord, own: Mapping[str, float]) -> None:
        """Say how well the experiences so far are known, or how well a corruption was met."""
        spent = time.monotonic() - self._begun
        left = spent / (index + 1 - self._first) * (record.n_experiences - index - 1)
        tail = f"  {spent:.0f} s, about {left:.0f} s left" if left else f"  {spent:.0f} s"
        if self._before:
            line = f"trained {self._before}, {100 * float(record.accuracy[0, 0]):.1f} % of training rows right"
        else:
            line = accuracy_line(index, record) if self._is_labelled else error_line(index, record, self._name)
        self._say(line + tail)

    def _say(self, what: str) -> None:
        self._console.print(f"{self._label}: {what}", highlight=False, soft_wrap=True)


class Bars(Observer):
    """A bar over the stream and one over the current experience."""

    def __init__(self, console: Console, label: str, before: str = "") -> None:
        self._label = f"{label}: trains {before} before the stream" if before else label
        self._bars = Progress(TextColumn("{task.description}", markup=False), BarColumn(),
                              TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(), TimeRemainingColumn(),
                              TextColumn("{task.fields[note]}", markup=False),
                              console=console, transient=True)
        self._stream = TaskID(0)
        self._experience = TaskID(0)
        self._n, self._epoch_steps = 1, 1
        self._is_labelled = True

    def started(self, info: StreamInfo, record: StreamRecord, cursor: Cursor) -> None:
        """Show both bars."""
        self._n, self._is_labelled = info.n_experiences, info.is_labelled
        self._stream = self._bars.add_task(self._label, total=self._n, completed=record.n_done, note="")
        self._experience = self._bars.add_task("experience", total=1, note="")
        self._bars.start()

    def experience_started(self, experience: Experience, n_steps: int) -> None:
        """A new experience's bar."""
        self._epoch_steps = n_steps
        name = f"  {short_name(experience.name)}" if experience.name else ""
        self._bars.reset(self._experience, total=max(n_steps, 1), note="",
                         description=f"experience {experience.index + 1}/{self._n}{name}")

    def stepped(self, cursor: Cursor, losses: Sequence[float]) -> None:
        """Advance by the batches learned."""
        task = next(task for task in self._bars.tasks if task.id == self._experience)
        done = min(task.completed + len(losses), task.total or 0)
        if not losses:
            return
        note = f"epoch {cursor.epoch + 1}  loss {losses[-1]:.3f}" if self._is_labelled else (
            f"error {100 * losses[-1]:.1f} %")
        self._bars.update(self._experience, completed=done, note=note)
        self._bars.update(self._stream, completed=cursor.experience + done / max(self._epoch_steps, 1))

    def evaluated(self, index: int, record: StreamRecord, own: Mapping[str, float]) -> None:
        """Show the mean accuracy so far; of an unlabelled stream the errors, and the accuracy on clean rows."""
        mean = float(record.accuracy[index, : index + 1].nanmean())
        note = f"accuracy {100 * mean:.1f} %" if self._is_labelled else _errors(index, record)
        self._bars.update(self._stream, completed=index + 1, note=note)

    def close(self) -> None:
        """Take the bars away, also when the run ends early."""
        self._bars.stop()
