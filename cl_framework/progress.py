"""Progress of a run: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cl_framework.experience import Experience
from cl_framework.metrics import StreamRecord
from cl_framework.observer import Cursor, Observer
from cl_framework.types import StreamInfo


def progress_for(console: Console, label: str) -> Observer:
    """The observer that suits where the output goes."""
    return Bars(console, label) if console.is_terminal else Lines(console, label)


def accuracy_line(index: int, record: StreamRecord) -> str:
    """One line on an experience: the mean over the experiences so far, and each of them."""
    row = record.accuracy[index, : index + 1]
    each = " ".join(f"{100 * value:.1f}" for value in row.tolist())
    return f"experience {index + 1}/{record.n_experiences}  accuracy {100 * float(row.mean()):.1f} %  ({each})"


class Lines(Observer):
    """One line an experience, with the time left."""

    def __init__(self, console: Console, label: str) -> None:
        self._console, self._label = console, label
        self._begun, self._first = time.monotonic(), 0

    def started(self, info: StreamInfo, record: StreamRecord, cursor: Cursor) -> None:
        """Say what begins or goes on."""
        self._begun, self._first = time.monotonic(), record.n_done
        verb = f"goes on at experience {record.n_done + 1} of" if record.n_done else "learns"
        self._console.print(f"{self._label}: {verb} {info.n_experiences} experiences, {info.n_classes} classes",
                            highlight=False)

    def evaluated(self, index: int, record: StreamRecord, own: Mapping[str, float]) -> None:
        """Say how well the experiences so far are known."""
        spent = time.monotonic() - self._begun
        left = spent / (index + 1 - self._first) * (record.n_experiences - index - 1)
        tail = f"  {spent:.0f} s, about {left:.0f} s left" if left else f"  {spent:.0f} s"
        self._console.print(f"{self._label}: {accuracy_line(index, record)}{tail}", highlight=False, soft_wrap=True)


class Bars(Observer):
    """A bar over the stream and one over the current experience."""

    def __init__(self, console: Console, label: str) -> None:
        self._console, self._label = console, label
        self._bars = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
                              TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
                              console=console, transient=True)
        self._stream = TaskID(0)
        self._experience = TaskID(0)
        self._n, self._epoch_steps = 1, 1

    def started(self, info: StreamInfo, record: StreamRecord, cursor: Cursor) -> None:
        """Show both bars."""
        self._n = info.n_experiences
        self._stream = self._bars.add_task(self._label, total=self._n, completed=record.n_done, note="")
        self._experience = self._bars.add_task("experience", total=1, note="")
        self._bars.start()

    def experience_started(self, experience: Experience, n_steps: int) -> None:
        """A new experience's bar."""
        self._epoch_steps = n_steps
        self._bars.reset(self._experience, total=max(n_steps, 1), description=f"experience {experience.index + 1}/"
                         f"{self._n}", note="")

    def stepped(self, cursor: Cursor, losses: Sequence[float]) -> None:
        """Advance by the batches learned."""
        task = next(task for task in self._bars.tasks if task.id == self._experience)
        done = min(task.completed + len(losses), task.total or 0)
        self._bars.update(self._experience, completed=done, note=f"epoch {cursor.epoch + 1}  loss {losses[-1]:.3f}")
        self._bars.update(self._stream, completed=cursor.experience + done / max(self._epoch_steps, 1))

    def evaluated(self, index: int, record: StreamRecord, own: Mapping[str, float]) -> None:
        """Show the mean accuracy so far."""
        mean = float(record.accuracy[index, : index + 1].mean())
        self._bars.update(self._stream, completed=index + 1, note=f"accuracy {100 * mean:.1f} %")

    def close(self) -> None:
        """Take the bars away, also when the run ends early."""
        self._bars.stop()
